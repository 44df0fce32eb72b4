"""Small tables of reference runs, committed with where they come from."""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from mialab import provenance as _provenance
from mialab._paths import cache_folder
from mialab._validation import check_name, choose
from mialab.auditing.claims import Claim, ClaimsTable
from mialab.auditing.tables import AuditTable
from mialab.book.execution import RESULTS

FOLDER = Path(__file__).parents[2] / "results"
#: Version of the files. 1: pooled rows alone, verdicts without p-values. 2: rows of every target as well.
SCHEMA = 2
#: How files of every defense against every attack begin, see `mialab.book.matrix`.
MATRIX = "matrix"
#: File that states the sha256 of every other file of the folder.
CHECKSUMS = "checksums.json"


def place() -> Path:
    """Return the folder that runs keep tables in: ``results/``, or what the environment variable RESULTS says."""
    return Path(os.environ.get(RESULTS) or FOLDER)


def save(name: str, *, folder: Path | None = None, **tables: pd.DataFrame) -> list[Path]:
    """Write tables as ``NAME-TABLE.csv``, their provenance as ``NAME.json``, and the checksums of these files.

    All rows are kept, those of single targets too, so that every figure can be checked again.

    Parameters
    ----------
    name : str
        Name of the run, e.g. ``"hamp-standard"``.
    folder : Path, optional
        Where to write; by default see `place`.
    **tables : DataFrame
        Tables by name; the ``attrs`` of audits are the provenance.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    ValueError
        If a name leads to another folder.
    RuntimeError
        If files of the package or notebooks were changed since the last commit and the tables are for ``results/``.
    """
    folder = place() if folder is None else folder
    check_name("name", name)
    for key in tables:
        check_name("table", key)
    if folder == FOLDER:
        _provenance.check_commit()
    folder.mkdir(exist_ok=True, parents=True)
    files, provenance = [], {"schema": SCHEMA}
    for key, table in tables.items():
        if table.attrs:
            provenance[key] = table.attrs
        files.append(folder / f"{name}-{key}.csv")
        pd.DataFrame(table).to_csv(
            files[-1], index="target" not in table, float_format="%.6g", lineterminator="\n"
        )
    files.append(folder / f"{name}.json")
    files[-1].write_text(json.dumps(provenance, indent=1, sort_keys=True) + "\n")
    state_checksums(files, folder=folder)
    return files


def state_checksums(files: Iterable[Path] | None = None, *, folder: Path = FOLDER) -> dict[str, str]:
    """State in ``checksums.json`` what files hold now, as after a change on purpose.

    Parameters
    ----------
    files : iterable of Path, optional
        Files of the folder; all by default, and those that are gone are forgotten.
    folder : Path
        Where the tables are.

    Returns
    -------
    dict of str
        Names of files to what became of them since they were stated last: "new", "changed" or "gone".
    """
    cache_folder().mkdir(parents=True, exist_ok=True)
    with FileLock(cache_folder() / "checksums.lock"):  # chapters run at the same time
        stated = _stated(folder) if (folder / CHECKSUMS).exists() else {}
        kept = {} if files is None else stated
        given = (f for f in folder.iterdir() if f.is_file()) if files is None else files
        now = kept | {f.name: _sha256(f.read_bytes()) for f in given if f.name != CHECKSUMS}
        part = folder / f"{CHECKSUMS}.part"
        part.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
        part.replace(folder / CHECKSUMS)
    became = {name: "changed" if name in stated else "new" for name in now if now[name] != stated.get(name)}
    return became | dict.fromkeys(stated.keys() - now.keys(), "gone")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _stated(folder: Path) -> dict[str, str]:
    """Return the checksums of the folder's files by their names."""
    try:
        return dict(json.loads((folder / CHECKSUMS).read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{folder.name}/{CHECKSUMS} cannot be read ({error}): {_RESTORE}") from error


_RESTORE = "take it from version control again; or, if this is a change on purpose, say `python -m mialab checksums`."


def _read(file: Path) -> bytes:
    """Return what a file holds, or refuse it by name if that is not what was written (ValueError)."""
    stated, where = _stated(file.parent).get(file.name), f"{file.parent.name}/{file.name}"
    if not file.exists():
        raise ValueError(f"{where} is missing: {_RESTORE}")
    content = file.read_bytes()
    if stated is None:
        raise ValueError(f"{where} is not listed in {CHECKSUMS}: {_RESTORE}")
    if _sha256(content) != stated:
        raise ValueError(
            f"{where} was changed or damaged (its sha256 is not that in {CHECKSUMS}): {_RESTORE}"
        )
    return content


def load(name: str, *, folder: Path = FOLDER) -> dict[str, Any]:
    """Read the tables that `save` wrote.

    Parameters
    ----------
    name : str
        Name of the run.
    folder : Path
        Where to look.

    Returns
    -------
    dict
        The tables by name; under ``"provenance"`` what they come from, and under ``"facts"`` the same in short, a row
        for each defense.

    Raises
    ------
    ValueError
        If there is no such run, with a list of those there are; if a file is missing, or not as it was written; or if
        it was written by a later version.
    """
    files = {folder / file for file in _stated(folder)} | set(folder.glob("*.*"))
    known = {f.stem for f in files if f.suffix == ".json" and f.name != CHECKSUMS}
    choose("name", name, (stem for stem in known if not stem.startswith(("benchmark-", MATRIX))))
    provenance = json.loads(_read(folder / f"{name}.json"))
    schema = provenance.pop("schema", 1)
    if schema > SCHEMA:
        raise ValueError(f"{name!r} has schema={schema}; this version reads up to {SCHEMA}. Update mialab.")
    tables: dict[str, Any] = {"provenance": provenance}
    for file in sorted(f for f in files if f.name.startswith(f"{name}-") and f.suffix == ".csv"):
        table = pd.read_csv(io.BytesIO(_read(file)))
        texts = table.select_dtypes(exclude="number").columns
        table[texts] = table[texts].fillna("")  # an empty text is no missing number
        key = file.stem.removeprefix(f"{name}-")
        if "target" in table:
            table["target"] = [int(t) if str(t).isdigit() else t for t in table["target"]]
        else:
            table = table.set_index(table.columns[0]).rename_axis(None)
        tables[key] = (AuditTable if {"value", "low", "high"} <= set(table) else ClaimsTable)(table)
        tables[key].attrs = provenance.get(key, {})
    tables["facts"] = _facts(provenance)
    return tables


def standing(verdicts: pd.DataFrame, claims: Mapping[str, Claim]) -> str:
    """Say how many of a page's claims a stored run judged as they stand on the page; empty if all.

    Parameters
    ----------
    verdicts : DataFrame
        Of the stored run.
    claims : dict of Claim
        Those of the page.
    """
    texts = verdicts["claim"]
    if "quantity" in verdicts:  # what could not be tested has none
        stored = set(zip(texts, verdicts["quantity"], strict=True))
        same = [bool({(claim.text, claim.test), (claim.text, "-")} & stored) for claim in claims.values()]
    else:  # tables of the first version do not say how they were measured
        same = [claim.text in set(texts) for claim in claims.values()]
    if all(same):
        return ""
    return (
        f"This run judged {sum(same)} of the {len(claims)} claims of this page as they stand here. The others came "
        "later, or are measured in another way now; until it is run again, its verdicts are those of its time."
    )


def load_benchmark(name: str, *, folder: Path = FOLDER) -> pd.DataFrame:
    """Read the rows that a benchmark wrote with ``--json results/benchmark-NAME.json``.

    Parameters
    ----------
    name : {"engine", "epsilon", "peers", "scoring"}
        Name of the benchmark.
    folder : Path
        Where to look.

    Returns
    -------
    DataFrame
        ``workload``, ``variant``, ``seconds``, ``ratio_to_loader``, ``ratio_to_plain``, ``peak_mb``; its ``attrs`` say
        on what machine, with which commit and versions, and when.

    Raises
    ------
    ValueError
        If there is no such file, with a list of those there are; or if it is not as it was written.
    """
    known = [f.stem.removeprefix("benchmark-") for f in folder.glob("benchmark-*.json")]
    choose("name", name, [n for n in known if not n.endswith("-details")])
    rows = pd.DataFrame(json.loads(_read(folder / f"benchmark-{name}.json")))
    rows.attrs = json.loads(_read(folder / f"benchmark-{name}-details.json"))["about"]
    return rows


def _facts(provenance: dict[str, Any]) -> pd.DataFrame:
    rows = {}
    for table, attrs in provenance.items():
        for label, about in attrs.get("audits", {attrs.get("defense", "unknown"): attrs}).items():
            rows[f"{table}: {label}"] = {
                "dataset": about.get("dataset"),
                "models": about.get("n_models"),
                "seed": about.get("seed"),
                "training": _minutes(about.get("seconds")),
                "device": about.get("device"),
                "commit": about.get("commit"),
                "torch": (about.get("versions") or {}).get("torch"),
                "date": (about.get("date") or "")[:10],
            }
    return pd.DataFrame.from_dict(rows, orient="index")


def _minutes(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds / 60:.1f} min"
