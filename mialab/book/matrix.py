"""Every defense against every attack as one document: for a machine to read, and for a page to explore."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd

from mialab import attacks, provenance
from mialab._validation import check_name, choose
from mialab.auditing.claims import ClaimsTable
from mialab.auditing.tables import POOLED, AuditTable
from mialab.auditing.taxonomy import KINDS, family, threat_model
from mialab.book import reference_runs
from mialab.book.answers import Page, members, number
from mialab.metrics.intervals import over_targets
from mialab.metrics.rates import rate_name

#: Version of the document; files of a later one are refused.
SCHEMA = 1

#: Measures that a cell has besides those at the rates of the table.
ALWAYS = ("auc", "balanced_accuracy")


def document(tables: Mapping[str, AuditTable]) -> dict[str, Any]:
    """Return the results of several data sets as a document that JSON holds.

    Parameters
    ----------
    tables : dict of str to AuditTable
        By data set, from `mialab.auditing.audit_defenses` or `mialab.auditing.audit_each`.

    Returns
    -------
    dict
        As ``matrix.schema.json`` in this folder describes it; the page "How to add a row" has its fields. Rates and
        accuracies are fractions; what is not resolvable or not known is None.
    """
    made = provenance.collect()
    return {
        "schema": SCHEMA,
        "made": {"date": made["date"], "commit": made["commit"]},
        "datasets": {name: _dataset(table) for name, table in tables.items()},
    }


def _dataset(table: AuditTable) -> dict[str, Any]:
    audits = table.attrs["audits"]
    first = next(iter(audits.values()))
    pooled = pd.DataFrame(table)[table["target"] == POOLED]
    missing = [dict(row) for row in table.attrs.get("missing", [])]
    names = dict.fromkeys([*pooled["attack"], *(m["attack"] for m in missing if m["attack"] != "all")])
    curves = table.attrs.get("roc", {"fpr": [], "tpr": {}})
    cells: dict[str, dict[str, Any]] = {label: {} for label in audits}
    for (label, attack), rows in pooled.groupby(["defense", "attack"], sort=False):
        cells[label][attack] = _cell(rows) | {"roc": curves["tpr"].get(label, {}).get(attack)}
    return {
        "dataset": str(first.get("dataset")),
        "members": members(table),
        "models": int(first["n_models"]),
        "network": str(first.get("model")),
        "fprs": [float(rate) for rate in first["audit"]["fprs"]],
        "roc_fpr": [float(rate) for rate in curves["fpr"]],
        "defenses": {label: _defense(about) for label, about in audits.items()},
        "attacks": {name: _attack(name) for name in names},
        "cells": cells,
        "missing": missing,
    }


def _cell(rows: pd.DataFrame) -> dict[str, Any]:
    shown = rows[
        rows["metric"].isin(ALWAYS) | rows["metric"].str.fullmatch(r"(calibrated_)?tpr@[\d.e-]+", na=False)
    ]
    values = {
        row.metric: [_number(row.value), _number(row.low), _number(row.high)] for row in shown.itertuples()
    }
    return {
        "values": values,
        "n_member": int(rows["n_member"].iloc[0]),
        "n_nonmember": int(rows["n_nonmember"].iloc[0]),
    }


def _defense(about: Mapping[str, Any]) -> dict[str, Any]:
    tested = np.asarray(about.get("test_accuracy") or [np.nan], float)
    learned = np.asarray(about.get("train_accuracy") or [np.nan], float)
    partner = about.get("partner")
    report = about.get("report") or {}
    found = {
        metric: {
            kind: {
                "attack": attack,
                "value": [_number(x) for x in ends[:3]],
                "of": int(ends[3]),
            }
            for kind, (attack, *ends) in kinds.items()
        }
        for metric, kinds in about.get("strongest", {}).items()
    }
    return {
        "defense": str(about.get("defense")),
        "parameters": dict(about.get("defense_parameters") or {}),
        "test_accuracy": [_number(x) for x in over_targets(tested, partner=partner)],
        "train_accuracy": _number(learned.mean()),
        "problem": "; ".join(filter(None, (about.get("conditions") or {}).values())),
        "epsilon": {name: _number(report[name]) for name in sorted(report) if name.startswith("epsilon_")},
        "strongest": found,
    }


def _attack(name: str) -> dict[str, Any]:
    known = attacks.available()
    needs = known.loc[name] if name in known.index else {}
    return {
        "sees": threat_model(name),
        "family": family(name),
        "shadow_models": str(needs.get("shadow models", "unknown")),
        "queries": str(needs.get("queries", "unknown")),
    }


def _number(value: Any) -> float | None:
    return round(float(value), 6) if value is not None and np.isfinite(value) else None


def check(found: Any) -> dict[str, Any]:
    """Return a document after refusing what is none.

    Raises
    ------
    ValueError
        If it has another version, or its fields are not those of the schema; the message names the first one.
    """
    version = found.get("schema") if isinstance(found, dict) else None
    if version != SCHEMA:
        raise ValueError(f"the document has schema={version!r}; this version of mialab reads {SCHEMA}.")
    try:
        jsonschema.validate(found, json.loads(_packaged("matrix.schema.json")))
    except jsonschema.ValidationError as error:
        where = "/".join(map(str, error.absolute_path)) or "the document"
        raise ValueError(f"{where} is not as the schema has it: {error.message[:200]}.") from error
    try:
        json.dumps(found, allow_nan=False)
    except ValueError:
        raise ValueError("the document holds numbers that are not finite; null stands for them.") from None
    return dict(found)


def write(found: Mapping[str, Any], file: Path) -> None:
    """Write a document, checked, as JSON."""
    text = json.dumps(check(dict(found)), indent=None, separators=(",", ":"), allow_nan=False)
    file.write_text(text.replace('},"', '},\n"') + "\n", encoding="utf-8")


def save(found: Mapping[str, Any], name: str) -> Path:
    """Write a document among the reference runs, with its checksum; return the file.

    Parameters
    ----------
    found : dict
        From `document`.
    name : str
        Name of the file without ``.json``; ``matrix-`` is put before it if it does not begin with ``matrix``.

    Raises
    ------
    ValueError
        If the name leads to another folder.
    RuntimeError
        If files of the package or notebooks were changed since the last commit.
    """
    check_name("name", name)
    if not name.startswith(reference_runs.MATRIX):
        name = f"{reference_runs.MATRIX}-{name}"
    folder = reference_runs.place()
    if folder == reference_runs.FOLDER:
        provenance.check_commit()
    folder.mkdir(exist_ok=True, parents=True)
    file = folder / f"{name}.json"
    write(found, file)
    reference_runs.state_checksums([file], folder=folder)
    return file


def read(file: Path) -> dict[str, Any]:
    """Read a document.

    Raises
    ------
    ValueError
        If the file holds no JSON, or `check` refuses it.
    """
    try:
        found = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file.name} holds no JSON: {error}.") from error
    return check(found)


def strongest(about: Mapping[str, Any], label: str, metric: str, kind: str) -> dict[str, Any] | None:
    """Return the strongest attack of a kind of attacker against a defense on one data set of a document, or None."""
    return about["defenses"].get(label, {}).get("strongest", {}).get(metric, {}).get(kind)


def overview(found: Mapping[str, Any], dataset: str, fpr: float = 0.001) -> pd.DataFrame:
    """Return the strongest attack of each kind of attacker against each defense, least AUC of who sees scores first.

    Parameters
    ----------
    found : dict
        From `document` or `read`.
    dataset : str
        One of its data sets.
    fpr : float
        One of the false-positive rates that its values are stated at.

    Returns
    -------
    ClaimsTable
        A row a defense: accuracies on members and on test records, what is wrong with the training, AUC by what the
        attacker sees (who sees more can do what others can), and the TPR of who sees scores. What was not played has a
        row as well, with the reason.
    """
    about = found["datasets"][choose("dataset", dataset, found["datasets"])]
    kinds = ("scores", "labels only", "white box")

    def ends(label: str, metric: str, kind: str) -> list[float]:
        one = strongest(about, label, metric, kind)
        return [np.nan if x is None else x for x in (one["value"] if one else 3 * [None])]

    def shown(label: str, metric: str, kind: str) -> str:
        return number(*ends(label, metric, kind))

    def least(label: str) -> float:
        return float(np.nan_to_num(ends(label, "auc", "scores")[0], nan=np.inf))

    rows = {}
    for label in sorted(about["defenses"], key=least):
        one = about["defenses"][label]
        learned, tested = one["train_accuracy"], one["test_accuracy"][0]
        rows[label] = {
            "members": "-" if learned is None else f"{learned:.3f}",
            "test": "-" if tested is None else f"{tested:.3f}",
            **{f"AUC, {kind}": shown(label, "auc", kind) for kind in kinds},
            f"TPR at {100 * fpr:g} % FPR, scores": shown(label, rate_name("tpr", fpr), "scores"),
            "training": _shortly(one["problem"]),
        }
    for row in about["missing"]:
        if row["attack"] == "all":
            rows[row["defense"]] = {"training": f"not played: {row['reason']}"}
    return ClaimsTable(
        pd.DataFrame.from_dict(rows, orient="index").fillna("-").rename_axis(columns="accuracy on")
    )


def _shortly(problem: str) -> str:
    """Say in few words what is wrong with a training."""
    return "not known to have ended" if problem.endswith("no checkpoint was kept") else problem or "has ended"


def view(found: Mapping[str, Any]) -> Page:
    """Return a table to explore, for a page: choose, sort, and move through the ROC curves; works without a network.

    Parameters
    ----------
    found : dict
        From `document`.
    """
    held = json.dumps(check(dict(found)), separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    kinds = "".join(f'<option value="{escape(kind)}">{escape(kind)}</option>' for kind in KINDS)
    html = (
        _packaged("matrix.html")
        .replace("@KINDS@", kinds)
        .replace("@STYLE@", _packaged("matrix.css"))
        .replace("@SCRIPT@", _packaged("matrix.js"))
        .replace("@DATA@", held)
    )
    n = sum(len(row) for at in found["datasets"].values() for row in at["cells"].values())
    return Page(html, f"{n} results on {', '.join(found['datasets'])}; a browser shows them as a table.")


def _packaged(name: str) -> str:
    return (resources.files("mialab.book") / name).read_text(encoding="utf-8")
