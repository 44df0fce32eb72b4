"""The answer of the whole study in one table, from the reference runs: which defense works, at what cost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mialab import attacks
from mialab.auditing.claims import (
    DIFFERENT,
    FAILS,
    HOLDS,
    NEGLIGIBLE,
    OPEN,
    UNTESTED,
    colored,
    judge,
    state,
)
from mialab.auditing.tradeoff import REFERENCES, UNDEFENDED, TradeOffTable, chosen_for
from mialab.book import matrix, reference_runs
from mialab.book.answers import Page, cards, number
from mialab.book.execution import NOTEBOOKS, chapters
from mialab.chapters import rivals
from mialab.defenses.base import DEFENSES
from mialab.defenses.base import summary as needs
from mialab.metrics.intervals import Interval

#: Points of test accuracy that the comparisons allow, and those of the setting that is shown.
COMPARED, SHOWN = 10, 5

#: Runs of a chapter and of the rivals end so.
SUFFIX = "-standard"


@dataclass(frozen=True)
class Row:
    """What the reference runs say of one defense.

    Parameters
    ----------
    name : str
        Of the defense.
    chapter : str
        The paper's chapter; empty for a rival.
    beside : dict of (str, str) to (str, float, float, float)
        For data set and rival the verdict on "protects better at the same accuracy", and the difference of AUC.
    decided : list of (str, str, float, float, float)
        The chapter's own claims that decide: claim, verdict, value and its interval.
    measured : dict of str to dict
        For each data set of the comparison: ``auc``, ``tpr`` and ``accuracy``, each before and after.
    repeated : dict of str to (str, float)
        For data sets on which an attacker who asks several times is the strongest, at the default setting: the attack
        and its AUC.
    """

    name: str
    chapter: str = ""
    beside: Mapping[tuple[str, str], tuple[str, float, float, float]] = field(default_factory=dict)
    decided: list[tuple[str, str, float, float, float]] = field(default_factory=list)
    measured: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    repeated: Mapping[str, tuple[str, float]] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Return "yes", "no", "not settled", or "the measure" for what others are compared with."""
        if self.name in REFERENCES:
            return "the measure"
        states = [state(v) for v, *_ in self.beside.values()] + [state(v) for _, v, *_ in self.decided]
        if {FAILS, NEGLIGIBLE} & set(states):
            return "no"
        return "yes" if states and all(s == HOLDS for s in states) else "not settled"

    @property
    def class_name(self) -> str:
        """Return the class by which a page colors the verdict."""
        return {"yes": colored(HOLDS), "no": colored(FAILS)}.get(self.verdict, colored(""))


def rows(folder: Path = reference_runs.FOLDER) -> list[Row]:
    """Return what the reference runs say of every defense: those of the papers first, then the best rivals.

    Parameters
    ----------
    folder : Path
        Of the reference runs.

    Returns
    -------
    list of Row
        Papers in the order of the book. A rival stands before another if it works, then by the strongest attack's AUC.
    """
    made = {
        chapter: Row(chapter, chapter, decided=_decided(told)) for chapter, told in _papers(folder).items()
    }
    documents = [matrix.read(file) for file in sorted(folder.glob(f"{reference_runs.MATRIX}*.json"))]
    for dataset, table in curves(folder).items():
        judged = _judged(dataset, table)
        for name in dict.fromkeys(table["defense"]):
            if name == UNDEFENDED:
                continue
            row = made.setdefault(name, Row(name))
            made[name] = Row(
                name,
                row.chapter,
                {**row.beside, **{(dataset, rival): v for (who, rival), v in judged.items() if who == name}},
                row.decided,
                {**row.measured, dataset: _measured(table, name)},
                _repeated(name, documents),
            )
    return sorted(made.values(), key=lambda row: (not row.chapter, *(() if row.chapter else _order(row))))


def _repeated(name: str, documents: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, float]]:
    """Return the AUC of attackers who ask several times, where they are the strongest of all that were run."""
    found: dict[str, tuple[str, float]] = {}
    for document in documents:
        for dataset, about in document["datasets"].items():
            one = matrix.strongest(about, name, "auc", "scores")
            if one and attacks.make(one["attack"]).needs.queries > 1:
                found[dataset] = one["attack"], one["value"][0]
    return found


def _papers(folder: Path) -> dict[str, pd.DataFrame]:
    """Return the verdicts of each paper's reference run, by chapter in the order of the book."""
    runs = {file.stem for file in folder.glob(f"*{SUFFIX}.json")}
    names = {chapter: f"{chapter.replace('_', '-')}{SUFFIX}" for chapter in chapters() if chapter != "rivals"}
    return {
        chapter: reference_runs.load(name, folder=folder)["verdicts"]
        for chapter, name in names.items()
        if name in runs and (folder / f"{name}-verdicts.csv").exists()
    }


def curves(folder: Path = reference_runs.FOLDER) -> dict[str, TradeOffTable]:
    """Return the curves of privacy against utility that reference runs have, by data set."""
    names = sorted(file.name.removesuffix("-curves.csv") for file in folder.glob("*-curves.csv"))
    found: dict[str, TradeOffTable] = {}
    for name in names:
        found |= rivals.apart(reference_runs.load(name, folder=folder)["curves"])
    return found


def _decided(verdicts: pd.DataFrame) -> list[tuple[str, str, float, float, float]]:
    """Return the claims of a chapter that decide; none where the run is of an older form."""
    if "decides" not in verdicts:
        return []
    some = pd.DataFrame(verdicts)[verdicts["decides"].astype(bool)]
    return list(some[["claim", "verdict", "value", "low", "high"]].itertuples(index=False, name=None))


def _judged(dataset: str, table: TradeOffTable) -> dict[tuple[str, str], tuple[str, float, float, float]]:
    """Return the verdicts of the comparison at equal accuracy on one data set, by defense and rival."""
    claims, found = rivals.claims({dataset: table}, COMPARED)
    told = judge(claims, found)[["verdict", "value", "low", "high"]].itertuples(index=False, name=None)
    by_key = dict(zip(claims, told, strict=True))
    pairs = [(name, rival) for name in dict.fromkeys(table["defense"]) for rival in REFERENCES]
    keys = {pair: f"{dataset}: {', '.join(pair)}" for pair in pairs}
    return {pair: by_key[key] for pair, key in keys.items() if key in by_key}


def _measured(table: TradeOffTable, name: str) -> dict[str, Any]:
    """Return the strongest attack's AUC and TPR, and the accuracy, before and after: at one setting of a defense."""
    frame = pd.DataFrame(table)
    frame = frame[frame["sees"] == "scores"]
    rates = sorted(
        (m for m in set(frame["metric"]) if m.startswith("tpr@")), key=lambda m: float(m.split("@")[1])
    )
    arms = [frame[frame["defense"] == UNDEFENDED], _setting(frame[frame["defense"] == name])]
    found: dict[str, Any] = {}
    for key, metric in [("auc", "auc"), *(("tpr", rate) for rate in rates[:1])]:
        values = [arm.loc[arm["metric"] == metric, ["value", "low", "high"]] for arm in arms]
        if all(len(v) for v in values):
            found[key] = (metric, *(Interval(*v.iloc[0]) for v in values))
    found["accuracy"] = tuple(
        Interval(*arm[["accuracy", "accuracy_low", "accuracy_high"]].iloc[0]) for arm in arms if len(arm)
    )
    return found


def _setting(own: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the setting that validation chose, or else of the one that costs least."""
    own = own[own["problem"].fillna("").eq("") & np.isfinite(own["cost"])]
    chosen = own[chosen_for(own, SHOWN)]
    if len(chosen) or own.empty:
        return chosen
    return own[own["setting"] == own.loc[own["cost"].idxmin(), "setting"]]


def _order(row: Row) -> tuple[int, float]:
    rank = ["yes", "the measure", "not settled", "no"].index(row.verdict)
    values = [m["auc"][2].value for m in row.measured.values() if "auc" in m]
    return rank, float(np.mean(values)) if values else np.inf


def scoreboard(
    folder: Path = reference_runs.FOLDER, *, link: str = "chapters/{}.html", rest: bool = True
) -> Page:
    """Lay out for a page whether each defense works, what the strongest attack finds before and after, and the cost.

    Parameters
    ----------
    folder : Path
        Of the reference runs.
    link : str
        Address of a chapter, with its name for ``{}``.
    rest : bool
        Whether to list the rivals that do not work, too, folded.

    Returns
    -------
    Page
        A row a defense.
    """
    found = rows(folder)
    best = [row for row in found if row.chapter or row.verdict in ("yes", "the measure")]
    others = [row for row in found if row not in best]
    tables = curves(folder)
    facts = " ".join(_facts(name, table) for name, table in tables.items())
    note = (
        f"From the reference runs, not from this build. “Beside” is the strongest attack's AUC less that on the other "
        "defense at the same test accuracy: below 0, the defense protects better. AUC, TPR and accuracy are those "
        f"before → after, for the setting that validation chose at a cost of at most {SHOWN} points, or else the "
        f"mildest one, for attackers who ask once about each record. {facts}"
    )
    folded = (
        f"<details><summary>{len(others)} more rivals: none of them is shown to protect better than both</summary>"
        f"{_html(others, link)}</details>"
        if rest and others
        else ""
    )
    html = f'{_html(best, link)}{folded}<p class="answer-facts">{escape(note)}</p>'
    text = pd.DataFrame([_texts(row) for row in found], columns=_columns(found)).to_string(index=False)
    return Page(f'<div class="scoreboard">{html}</div>', f"{text}\n{note}")


def _columns(found: Iterable[Row]) -> list[str]:
    """Return the heads of the columns."""
    rates = {at["tpr"][0].split("@")[1] for row in found for at in row.measured.values() if "tpr" in at}
    rate = f" at {100 * float(rates.pop()):g} % FPR" if len(rates) == 1 else ""
    beside = [f"beside {name}" for name in REFERENCES.values()]
    return ["defense", "does it work?", *beside, "AUC", f"TPR{rate}, %", "test accuracy, points"]


def _html(found: Sequence[Row], link: str) -> str:
    columns = _columns(found)
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(_html_row(row, columns, link) for row in found)
    return f'<table class="cards board"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _html_row(row: Row, columns: Sequence[str], link: str) -> str:
    name, told, *rest = _texts(row)
    href = link.format(row.chapter or "rivals")
    kind = "paper" if row.chapter else "rival"
    word, _, why = told.partition(". ")
    cells = [
        f'<a href="{escape(href)}">{escape(name)}</a> <span class="kind">{kind}</span>',
        f'<strong class="{row.class_name}">{escape(word)}.</strong> {escape(why)}',
        *(escape(text).replace("\n", "<br>") for text in rest),
    ]
    labeled = (
        f'<td data-label="{escape(column)}"{" class=empty" if cell == "-" else ""}><span>{cell}</span></td>'
        for column, cell in zip(columns, cells, strict=True)
    )
    return f"<tr>{''.join(labeled)}</tr>"


def _texts(row: Row) -> list[str]:
    """Return the cells of a row as text; several data sets are lines of a cell."""
    lines: dict[str, list[str]] = {"auc": [], "tpr": [], "accuracy": []}
    beside: dict[str, list[str]] = {rival: [] for rival in REFERENCES}
    for dataset, at in row.measured.items():
        where = f"{dataset}: " if len(row.measured) > 1 else ""
        for rival, told in beside.items():
            if (dataset, rival) in row.beside:
                verdict, value, *_ = row.beside[dataset, rival]
                told.append(where + (f"{value:+.3f}" if np.isfinite(value) else state(verdict)))
        if "auc" in at:
            _, before, after = at["auc"]
            lines["auc"].append(f"{where}{before.value:.3f} → {after.value:.3f}")
        if "tpr" in at:
            _, before, after = at["tpr"]
            lines["tpr"].append(f"{where}{100 * before.value:.1f} → {100 * after.value:.1f}")
        if len(at["accuracy"]) == 2:
            before, after = at["accuracy"]
            lines["accuracy"].append(f"{where}{100 * (after.value - before.value):+.1f}")
    cells = [*beside.values(), *lines.values()]
    return [
        title(row),
        f"{row.verdict.capitalize()}{_where(row)}. {_why(row)}",
        *("\n".join(told) or "-" for told in cells),
    ]


def _where(row: Row) -> str:
    """Say where a defense works: a yes is about the data that were tried, a no needs one of them."""
    return f", on {' and '.join(name.capitalize() for name in row.measured)}" if row.verdict == "yes" else ""


def title(row: Row) -> str:
    """Return the name of a defense as the title of its chapter has it, or its name in words."""
    if row.chapter:
        heading = re.search(r"^# # (.+)$", (NOTEBOOKS / f"{row.chapter}.py").read_text("utf-8"), re.MULTILINE)
        if heading:
            return heading[1].split(":")[0]
    if row.name in REFERENCES:
        words = REFERENCES[row.name]
    elif row.name in DEFENSES and "_" not in row.name:
        words = DEFENSES[row.name].__name__
    else:
        words = row.name.replace("_", " ")
    return words[0].upper() + words[1:]


#: What a verdict on "protects better than" says of a defense beside its rival.
SAID = {
    HOLDS: "better than",
    FAILS: "less than",
    NEGLIGIBLE: "as well as",
    OPEN: "perhaps no better than",
    DIFFERENT: "not comparably with",
    UNTESTED: "untested beside",
}


def _why(row: Row) -> str:
    """Say in a sentence what the verdict rests on, and what a defense needs."""
    if row.verdict == "the measure":
        return "What the others are compared with."
    parts = []
    for dataset in dict.fromkeys(dataset for dataset, _ in row.beside):
        told: dict[str, list[str]] = {}
        for rival, name in REFERENCES.items():
            if (dataset, rival) in row.beside:
                told.setdefault(SAID[state(row.beside[dataset, rival][0])], []).append(name)
        where = f" on {dataset}" if len(row.measured) > 1 else ""
        said = ", ".join(f"{how} {' and '.join(names)}" for how, names in told.items())
        parts.append(f"Protects {said}{where}.")
    if row.repeated:
        values = [
            f"{value:.3f}" + f" on {name}" * (len(row.measured) > 1)
            for name, (_, value) in row.repeated.items()
        ]
        parts.append(f"Who asks several times has an AUC of {' and '.join(values)}.")
    if row.chapter:
        states = dict.fromkeys(state(verdict) for _, verdict, *_ in row.decided)
        parts.append(
            f"In its chapter: {', '.join(states)}." if states else "Its chapter's run did not judge it."
        )
    if row.verdict == "yes" and row.name in DEFENSES and (wanted := needs().loc[row.name, "needs"]):
        parts.append(f"Needs {wanted}.")
    return " ".join(parts)


def _facts(dataset: str, table: TradeOffTable) -> str:
    run = table.attrs.get("run", {})
    return (
        f"{dataset.capitalize()}: {run.get('n_models')} models a setting, run of {str(run.get('date'))[:10]}, "
        f"commit {run.get('commit')}."
    )


def claims(folder: Path = reference_runs.FOLDER, *, link: str = "{}.html") -> Page:
    """Lay out for a page the claims of all papers with the verdicts of the reference runs, in one table.

    Parameters
    ----------
    folder : Path
        Of the reference runs.
    link : str
        Address of a chapter, with its name for ``{}``.

    Returns
    -------
    Page
        A row a claim: paper, claim, verdict, published value, measured value with its interval; and how many claims
        have which verdict.
    """
    parts = [_claims_of(Row(chapter, chapter), told) for chapter, told in _papers(folder).items()]
    columns = ["paper", "", "claim", "verdict", "published", "measured", "chapter"]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    counted = (
        pd.crosstab(table["paper"], table["verdict"].map(state)).reindex(table["paper"].unique())
        if parts
        else table
    )
    note = "; ".join(
        f"{paper}: {', '.join(f'{n} {verdict}' for verdict, n in counts.items() if n)}"
        for paper, counts in counted.iterrows()
    )
    shown = table.drop(columns="chapter")
    html = cards(shown, "all-claims", links=[link.format(chapter) for chapter in table["chapter"]])
    return Page(
        f'{html}<p class="answer-facts">{escape(note)}.</p>', f"{shown.to_string(index=False)}\n{note}."
    )


def _claims_of(row: Row, told: pd.DataFrame) -> pd.DataFrame:
    """Return the claims of a paper; runs of an older form have their values as text."""
    if "value" in told:
        measured = [number(*ends) for ends in told[["value", "low", "high"]].itertuples(index=False)]
    else:
        measured = told["measured here"].tolist()
    return pd.DataFrame(
        {
            "paper": title(row),
            "": [str(number) for number in told.index],
            "claim": told["claim"].to_numpy(),
            "verdict": told["verdict"].to_numpy(),
            "published": told["published"].to_numpy(),
            "measured": measured,
            "chapter": row.chapter,
        }
    )


def figure(folder: Path = reference_runs.FOLDER) -> str:
    """Return privacy against utility of papers, best rivals and references as SVG, a panel for each data set."""
    import matplotlib.pyplot as plt

    from mialab import plots

    plots.style()
    shown = {row.name for row in rows(folder) if row.chapter or row.verdict in ("yes", "the measure")}
    tables = curves(folder)
    fig, axes = plt.subplots(len(tables), 1, figsize=(7, 4.6 * len(tables)), squeeze=False)
    for ax, (name, table) in zip(axes[:, 0], tables.items(), strict=True):
        some = table[table["defense"].isin(shown | {UNDEFENDED})]
        some.attrs = table.attrs
        plots.equal_terms(TradeOffTable(some), ax=ax)
        ax.set_title(name, loc="right")
    fig.tight_layout()
    alt = "The strongest attack's AUC against test accuracy, a curve for each defense; the two references are dashed."
    return plots.as_svg(fig, alt)
