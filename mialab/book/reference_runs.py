"""Small tables of reference runs, committed with where they come from."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from mialab import provenance as _provenance
from mialab._validation import choose
from mialab.auditing.claims import ClaimsTable
from mialab.auditing.tables import AuditTable

FOLDER = Path(__file__).parents[2] / "results"
#: Version of the files. 1: pooled rows alone, verdicts without p-values. 2: rows of every target as well.
SCHEMA = 2


def save(name: str, *, folder: Path = FOLDER, **tables: pd.DataFrame) -> list[Path]:
    """Write tables as ``NAME-TABLE.csv``, and their provenance as ``NAME.json``.

    All rows are kept, those of single targets too, so that every figure can be checked again.

    Parameters
    ----------
    name : str
        Name of the run, e.g. ``"hamp-standard"``.
    folder : Path
        Where to write.
    **tables : DataFrame
        Tables by name; the ``attrs`` of audits are the provenance.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    RuntimeError
        If files of the package or notebooks were changed since the last commit and the tables are for ``results/``.
    """
    if folder == FOLDER:
        check_commit()
    folder.mkdir(exist_ok=True)
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
    return files


def check_commit() -> None:
    """Refuse a run of which nobody could say what code made it (RuntimeError)."""
    commit = _provenance.commit()
    if commit.endswith("+") or commit == "unknown":
        raise RuntimeError(
            f"commit={commit!r}: tables for {FOLDER.name}/ need code that is committed, so that the run can be "
            "repeated. Commit the changes to mialab/ and notebooks/, and run again; games that were played are read "
            "from the store."
        )


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
        If there is no such run, with a list of those there are; or if it was written by a later version.
    """
    known = [file.stem for file in folder.glob("*.json") if not file.stem.startswith("benchmark-")]
    choose("name", name, known)
    provenance = json.loads((folder / f"{name}.json").read_text())
    schema = provenance.pop("schema", 1)
    if schema > SCHEMA:
        raise ValueError(f"{name!r} has schema={schema}; this version reads up to {SCHEMA}. Update mialab.")
    tables: dict[str, Any] = {"provenance": provenance}
    for file in sorted(folder.glob(f"{name}-*.csv")):
        table = pd.read_csv(file)
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
        If there is no such file; the message lists those there are.
    """
    known = [f.stem.removeprefix("benchmark-") for f in folder.glob("benchmark-*.json")]
    choose("name", name, [n for n in known if not n.endswith("-details")])
    rows = pd.DataFrame(json.loads((folder / f"benchmark-{name}.json").read_text()))
    rows.attrs = json.loads((folder / f"benchmark-{name}-details.json").read_text())["about"]
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
