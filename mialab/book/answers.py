"""The answer of a chapter, and its one table of verdicts: the published value, the reference run, and this build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from mialab.auditing.claims import (
    DIFFERENT,
    FAILS,
    HOLDS,
    NEGLIGIBLE,
    OPEN,
    ClaimsTable,
    colored,
    state,
)
from mialab.auditing.tables import AuditTable
from mialab.auditing.taxonomy import KINDS
from mialab.metrics.intervals import Interval

#: Verdicts that say which side of its bound a value lies on.
DECISIVE = (HOLDS, FAILS, NEGLIGIBLE)


@dataclass(frozen=True)
class Page:
    """Something that a page shows as HTML, and a terminal as text."""

    html: str
    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


def answer(
    run: Mapping[str, Any],
    defended: str,
    *,
    undefended: str = "none",
    audits: Sequence[str] = ("audit",),
    use: str = "Test accuracy",
) -> Page:
    """Say in a box whether a defense works, from the tables of a reference run.

    It works if every claim that decides (`mialab.auditing.claims.Claim`) holds: that it protects better than what costs
    nothing, at the same accuracy.

    Parameters
    ----------
    run : dict
        As from `mialab.book.reference_runs.load`, with a table ``verdicts``.
    defended, undefended : str
        Labels of the two arms.
    audits : sequence of str
        Names of the run's audits that have both arms, one for each data set.
    use : str
        What the accuracy of a game measures.

    Returns
    -------
    Page
        The verdict in one sentence; for each data set and each kind of attacker the strongest attack's AUC and TPR
        before and after; what that costs in accuracy; and which run it is.

    Raises
    ------
    ValueError
        If an audit lacks an arm.
    """
    word, sentence = _verdict(run["verdicts"])
    arms = [[_arm(run[name], label, name) for label in (undefended, defended)] for name in audits]
    data = [str(before.get("dataset")) for before, _ in arms]
    rows, facts = [], []
    for name, (before, after), dataset in zip(audits, arms, data, strict=True):
        if data.count(dataset) > 1:  # two networks on the same data
            dataset += f", {str(before.get('model')).partition('(')[0]}"
        rows += [(dataset, *row) for row in _strongest_rows(before, after)]
        facts.append(_facts(f"{use} on {dataset}", run[name], before, after))
    table = pd.DataFrame(rows, columns=["data", "attacker sees", "measure", "before", "after"])
    if table.empty:
        facts.insert(
            0,
            "The run is of an older form, which did not keep the strongest attack of each kind of attacker.",
        )
    lines = [
        f"Does it work? {word}. {sentence}",
        "",
        *([table.to_string(index=False), ""] * bool(rows)),
        *facts,
    ]
    html = (
        f'<p class="answer-verdict">Does it work? <strong class="{colored(_as_state(word))}">{word}.</strong> '
        f"{escape(sentence)}</p>{cards(table, 'answer-table') if rows else ''}"
        + "".join(f'<p class="answer-facts">{escape(fact)}</p>' for fact in facts)
    )
    return Page(f'<div class="answer">{html}</div>', "\n".join(lines))


def _verdict(verdicts: pd.DataFrame) -> tuple[str, str]:
    """Return the answer in a word, and the sentence that says what it rests on."""
    if "decides" not in verdicts or not verdicts["decides"].any():
        return "Not settled", "The reference run did not judge what would decide it."
    rows = pd.DataFrame(verdicts[verdicts["decides"].astype(bool)])
    states = [state(verdict) for verdict in rows["verdict"]]
    parts = [
        f"“{claim}”: {verdict}" + (f" ({number(value, low, high)})" if np.isfinite(value) else "")
        for claim, verdict, value, low, high in zip(
            rows["claim"], states, rows["value"], rows["low"], rows["high"], strict=True
        )
    ]
    if all(s == HOLDS for s in states):
        word = "Yes"
    elif {FAILS, NEGLIGIBLE} & set(states):
        word = "No"
    else:
        word = "Not comparable" if DIFFERENT in states else "Not settled"
    return word, "; ".join(parts) + "."


def _as_state(word: str) -> str:
    return {"Yes": HOLDS, "No": FAILS}.get(word, OPEN)


def _arm(table: AuditTable, label: str, name: str) -> dict[str, Any]:
    """Return what is known of one arm of an audit."""
    known = table.attrs.get("audits", {})
    if label not in known:
        raise ValueError(
            f"the run's table {name!r} has no arm {label!r}; it has {', '.join(map(repr, known))}."
        )
    return dict(known[label])


def _strongest_rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row for each kind of attacker and measure: the AUC, and the TPR at the lowest rate that both resolve."""
    found = before.get("strongest", {}), after.get("strongest", {})
    rates = [m for m in found[0] if m.startswith("tpr@") and found[0][m] and found[1].get(m)]
    measures = ["auc", *sorted(rates, key=lambda m: float(m.partition("@")[2]))[:1]]
    return [
        (kind, _measure(metric), *(_best(of[metric][kind]) for of in found))
        for kind in KINDS
        for metric in measures
        if all(kind in of.get(metric, {}) for of in found)
    ]


def _best(found: Sequence[Any]) -> str:
    attack, *ends, _ = found
    return f"{number(*ends)} {attack}"


def _measure(metric: str) -> str:
    kind, _, rate = metric.partition("@")
    return f"{kind.upper()} at {100 * float(rate):g} % FPR" if rate else kind.upper()


def _facts(accuracy: str, table: AuditTable, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Say what the defense costs, and which run says so."""
    first, second = (float(np.mean(arm["test_accuracy"])) for arm in (before, after))
    made = before.get("audit", {})
    date, commit = str(made.get("date") or "unknown")[:10], made.get("commit") or "unknown"
    return (
        f"{accuracy}: {first:.3f} before, {second:.3f} after "
        f"({100 * (second - first):+.1f} points). {members(table):,} members, {after.get('n_models')} models an arm, "
        f"{after.get('model')}. Run of {date}, commit {commit}."
    )


def members(table: pd.DataFrame) -> int:
    """Return the number of members of each model in an audit."""
    rows = pd.DataFrame(table)
    single = rows[~rows["target"].isin(["pooled", "mean"])]
    if len(single):  # attacks on sets of records count sets, which are fewer
        return int(single["n_member"].max())
    # Older tables have nothing but rows that count the members of all models.
    return int(rows["n_member"].max()) // int(next(iter(table.attrs["audits"].values()))["n_models"])


def beside(
    verdicts: pd.DataFrame,
    reference: pd.DataFrame | None = None,
    *,
    audit: AuditTable | None = None,
    reference_audit: AuditTable | None = None,
) -> Page:
    """Lay out verdicts in one table: the published value, the reference run, and this build; or one run alone.

    Parameters
    ----------
    verdicts : DataFrame
        This build's, from `mialab.auditing.claims.judge`.
    reference : DataFrame, optional
        Those of the reference run; without, the table is that of one run.
    audit, reference_audit : AuditTable, optional
        What they rest on, to say where the two runs contradict each other what differs between them.

    Returns
    -------
    Page
        A row for each claim of this build: the claim (with quantity, bound and test behind it), the verdict of the
        reference run, the published value, and value, interval and verdict in both runs; below it, in a sentence,
        which verdicts contradict each other and what differs.
    """
    stored = _by_claim(reference)
    rows, apart = [], []
    for place, now in verdicts.iterrows():
        then = stored.get((now["claim"], now["quantity"]), stored.get((now["claim"], "-")))
        said = now["verdict"] if then is None else then["verdict"]
        both = [state(row["verdict"]) for row in (now, then) if row is not None]
        if then is not None and both[0] != both[1] and set(both) <= set(DECISIVE):
            apart.append(str(place))
        rows.append(
            (
                str(place),
                now["claim"],
                said if then is not None or reference is None else "not in the reference run",
                now["published"],
                "-" if then is None else _measured(then),
                _measured(now),
                _behind(now),
            )
        )
    columns = ["", "claim", "verdict", "published", "reference run", "this build", "how"]
    table = pd.DataFrame(rows, columns=columns)
    if reference is None:
        empty = ["reference run"] + ["published"] * bool(table["published"].eq("-").all())
        table = table.drop(columns=empty).rename(columns={"this build": "measured"})
    note = _contradictions(apart, audit, reference_audit)
    html = cards(table, "beside") + (f'<p class="answer-facts">{escape(note)}</p>' if note else "")
    text = table.drop(columns="how").to_string(index=False)
    return Page(html, f"{text}\n{note}".strip())


def _by_claim(reference: pd.DataFrame | None) -> dict[tuple[str, str], Any]:
    """Return the rows of stored verdicts by claim and quantity; those without a quantity are of an older form."""
    if reference is None or not {"quantity", "value", "low", "high"} <= set(reference):
        return {}
    return {(row["claim"], row["quantity"]): row for _, row in reference.iterrows()}


def _measured(row: Any) -> str:
    """Return value, interval and state of one run."""
    text = number(row["value"], row["low"], row["high"])
    return state(row["verdict"]) if text == "-" else f"{text}: {state(row['verdict'])}"


def _behind(row: Any) -> str:
    """Say how a verdict came about: quantity, bound, margin, p-value and pairs of models."""
    parts = [str(row["quantity"])]
    if np.isfinite(row["value"]):
        margin = f", margin {row['margin']:g}" if np.isfinite(row["margin"]) else ""
        pairs = f", {row['pairs']:.0f} pairs of models" if np.isfinite(row["pairs"]) else ""
        parts.append(f"Bound: {row['bound']}{margin}. This build: adjusted p {row['adjusted p']:.2g}{pairs}.")
    return " ".join(parts)


def _contradictions(
    apart: Sequence[str], audit: AuditTable | None, reference_audit: AuditTable | None
) -> str:
    """Say which verdicts of two runs contradict each other, and what differs between the runs."""
    if not apart:
        return ""
    said = f"{', '.join(apart)}: the reference run and this build contradict each other."
    if audit is None or reference_audit is None:
        return said
    now, then = (next(iter(table.attrs["audits"].values())) for table in (audit, reference_audit))
    differ = [
        f"{what} ({there}, here {here})"
        for what, there, here in (
            ("other data", then.get("dataset"), now.get("dataset")),
            ("members", f"{members(reference_audit):,}", f"{members(audit):,}"),
            ("models an arm", then.get("n_models"), now.get("n_models")),
            ("networks", then.get("model"), now.get("model")),
        )
        if there != here
    ]
    return f"{said} They differ in {'; '.join(differ)}." if differ else f"{said} They differ in chance alone."


def number(value: float, low: float, high: float) -> str:
    """Return a value with its interval as text, or "-" where there is none."""
    return f"{Interval(value, low, high):.3f}" if np.isfinite(value) else "-"


def cards(table: pd.DataFrame, kind: str, *, links: Sequence[str] = ()) -> str:
    """Return a table as HTML whose rows become cards on a narrow screen: each cell carries the name of its column.

    Parameters
    ----------
    table : DataFrame
        Texts. A column ``how`` unfolds from the ``claim``; a ``verdict`` is colored.
    kind : str
        Class of the table.
    links : sequence of str
        For each row, the address that its first cell links to.

    Returns
    -------
    str
    """
    how = "how" if "how" in table else None
    shown = [column for column in table if column != how]
    head = "".join(f"<th>{escape(column)}</th>" for column in shown)
    body = []
    for i, (_, row) in enumerate(table.iterrows()):
        cells = []
        for column in shown:
            text = escape(str(row[column]))
            if links and column == shown[0]:
                text = f'<a href="{escape(links[i])}">{text}</a>'
            if column == "claim" and how:
                text = f"<details><summary>{text}</summary>{escape(str(row[how]))}</details>"
            if column == "verdict":
                text = ClaimsTable.mark(str(row[column]))
            cells.append(f'<td data-label="{escape(column)}">{text}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table class="cards {kind}"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
