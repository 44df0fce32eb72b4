"""Small tables of reference runs, committed with where they come from."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from mialab.audit import AuditTable
from mialab.claims import ClaimsTable
from mialab.options import choose

FOLDER = Path(__file__).parents[1] / "results"


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
        The tables by name, and under ``"provenance"`` what they come from.

    Raises
    ------
    ValueError
        If there is no such run; the message lists those there are.
    """
    known = [file.stem for file in folder.glob("*.json")]
    choose("name", name, known)
    provenance = json.loads((folder / f"{name}.json").read_text())
    tables: dict[str, Any] = {"provenance": provenance}
    for file in sorted(folder.glob(f"{name}-*.csv")):
        table = pd.read_csv(file)
        key = file.stem.removeprefix(f"{name}-")
        if "target" in table:
            table = AuditTable(table)
            table.attrs = provenance.get(key, {})
        else:
            table = ClaimsTable(table.set_index(table.columns[0]).rename_axis(None))
        tables[key] = table
    return tables
