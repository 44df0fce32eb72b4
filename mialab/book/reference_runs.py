"""Small tables of reference runs, committed with where they come from."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from mialab._validation import choose
from mialab.auditing.claims import ClaimsTable
from mialab.auditing.tables import AuditTable

FOLDER = Path(__file__).parents[2] / "results"


def save(name: str, *, folder: Path = FOLDER, **tables: pd.DataFrame) -> list[Path]:
    """Write tables as ``NAME-TABLE.csv``, and their provenance as ``NAME.json``.

    Of audits only the pooled rows are kept.

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
    """
    folder.mkdir(exist_ok=True)
    files, provenance = [], {}
    for key, table in tables.items():
        if table.attrs:
            provenance[key] = table.attrs
        if "target" in table:
            table = table[table["target"] == "pooled"]
        files.append(folder / f"{name}-{key}.csv")
        pd.DataFrame(table).to_csv(
            files[-1], index="target" not in table, float_format="%.6g", lineterminator="\n"
        )
    files.append(folder / f"{name}.json")
    files[-1].write_text(json.dumps(provenance, indent=1, sort_keys=True) + "\n")
    return files


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
        If there is no such run; the message lists those there are.
    """
    known = [file.stem for file in folder.glob("*.json") if not file.stem.startswith("benchmark-")]
    choose("name", name, known)
    provenance = json.loads((folder / f"{name}.json").read_text())
    tables: dict[str, Any] = {"provenance": provenance}
    for file in sorted(folder.glob(f"{name}-*.csv")):
        table = pd.read_csv(file)
        texts = table.select_dtypes(exclude="number").columns
        table[texts] = table[texts].fillna("")  # an empty text is no missing number
        key = file.stem.removeprefix(f"{name}-")
        if "target" not in table:
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
