"""What a paper claims, what was measured here, and the verdict that follows from the interval."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd

from mialab._validation import check_number, choose
from mialab.auditing.conditions import CONDITIONS, TRAINED, UNSURE
from mialab.metrics.estimates import MIN_PAIRS
from mialab.metrics.intervals import Interval

HOLDS, FAILS, OPEN = "holds", "does not hold", "not settled"
NEGLIGIBLE, DIFFERENT, UNTESTED = "negligible", "not comparable", "could not be tested"


#: Columns of a table of verdicts that hold numbers.
NUMBERS = ("margin", "value", "low", "high", "p", "adjusted p", "pairs")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim, and the measurement that would bear it out.

    Parameters
    ----------
    text : str
        The claim, in our words.
    source : str
        Where it is made.
    published : str
        The published value, or "no value" where the source has none.
    test : str
        What is measured here, and what it must be for the claim to hold.
    below, above : float, optional
        The claim holds if the measured value is smaller than ``below``, or greater than ``above``; exactly one is
        given unless the claim cannot be tested.
    margin : float, optional
        Distance from the bound within which a value makes no difference to anybody; by default none.
    requires : tuple of str
        Conditions that must be met, see `mialab.auditing.conditions`; "equal accuracy" for every "better than".
    decides : bool
        Whether the answer to "does it work?" rests on this claim.
    """

    text: str
    source: str
    published: str = "no value"
    test: str = ""
    below: float | None = None
    above: float | None = None
    margin: float | None = None
    requires: tuple[str, ...] = (TRAINED,)
    decides: bool = False

    def __post_init__(self) -> None:
        if self.below is not None and self.above is not None:
            raise ValueError(
                f"claim {self.text!r} has both below={self.below} and above={self.above}; give one."
            )
        for name in self.requires:
            choose("requires", name, CONDITIONS)
        if self.margin is not None:
            check_number("margin", self.margin, above=0)

    @property
    def bound(self) -> float:
        """What the value is compared with (ValueError if the claim has no bound)."""
        bound = self.above if self.below is None else self.below
        if bound is None:
            raise ValueError(f"claim {self.text!r} was measured, but has no bound: give below= or above=.")
        return bound

    def p_values(self, measured: Interval) -> tuple[float, float]:
        """Return the one-sided p-values of the claim and of its contrary."""
        sides = ("above", "below") if self.below is None else ("below", "above")
        return measured.p_value(self.bound, sides[0]), measured.p_value(self.bound, sides[1])

    def verdict(self, measured: Interval, adjusted: float | None = None) -> str:
        """Judge by the whole interval: on the claim's side of the bound, on the other side, or across it.

        Parameters
        ----------
        measured : Interval
            The measurement.
        adjusted : float, optional
            The smaller one of the p-values, adjusted for the number of claims; by default as it is.

        Returns
        -------
        str
            "holds", "does not hold", "negligible" if the whole interval is within the margin, "not settled", or
            "not comparable" with the condition that failed. The first three say so if nothing shows that training had
            ended.
        """
        bound = self.bound
        for name in self.requires:
            if wrong := measured.conditions.get(name):
                return f"{DIFFERENT}: {wrong}"
        if not np.isfinite(measured).all():
            return OPEN
        if measured.n_pairs is not None and measured.n_pairs < MIN_PAIRS:
            return f"{OPEN}: {measured.n_pairs} pairs of models, at least {MIN_PAIRS} are needed"
        unsure = measured.conditions.get(UNSURE)
        note = f"; convergence is not shown: {unsure}" if unsure else ""
        if self.margin is not None and max(bound - measured.low, measured.high - bound) < self.margin:
            return NEGLIGIBLE + note
        claim, contrary = self.p_values(measured)
        if (min(claim, contrary) if adjusted is None else adjusted) > (1 - measured.confidence) / 2:
            return OPEN
        return (HOLDS if claim < contrary else FAILS) + note


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p, np.float64)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(scaled)) if len(p) else scaled
    return adjusted.tolist()


@dataclass(frozen=True)
class ByConstruction:
    """A finding that needs no measurement: the claim holds by how the method is built.

    Parameters
    ----------
    reason : str
        Why.
    """

    reason: str


class ClaimsTable(pd.DataFrame):  # type: ignore[misc]  # pandas comes without types
    """A DataFrame whose page shows every cell in full, and verdicts in color."""

    @property
    def _constructor(self) -> type[ClaimsTable]:
        return ClaimsTable

    def _repr_html_(self) -> str:
        cells = pd.DataFrame(self.as_text()).map(lambda cell: escape(str(cell)))
        for column in cells.columns.intersection(["interval", "measured here"]):
            cells[column] = [
                f'<span style="white-space: nowrap">{c}</span>' if c.endswith("]") else c
                for c in cells[column]
            ]
        if "verdict" in cells:
            cells["verdict"] = [self.mark(str(verdict)) for verdict in self["verdict"]]
        cells = cells.rename(index=_escaped, columns=_escaped).rename_axis(
            index=_escaped(cells.index.name), columns=_escaped(cells.columns.name)
        )
        with pd.option_context("display.max_colwidth", None):
            classes = "claims cards" + " arms" * ("training" in cells)
            page = cells.to_html(classes=classes, escape=False, border=0)
        # On a narrow screen rows become cards, whose cells carry the names of their columns.
        first, *rest = page.split("<td>")
        labels = cycle(str(column) for column in cells.columns)
        return first + "".join(
            f'<td data-label="{label}">{cell}' for label, cell in zip(labels, rest, strict=False)
        )

    @staticmethod
    def mark(verdict: str) -> str:
        """Return a verdict for a page: the state is bold, and what follows it, such as what failed, is not."""
        known = state(verdict)
        return f'<strong class="{colored(known)}">{escape(known)}</strong>{escape(verdict[len(known) :])}'

    def as_text(self) -> pd.DataFrame:
        """Return the table as it is printed: numbers as text, both ends of an interval in one column, "-" for none."""
        plain = pd.DataFrame(self)
        if not set(NUMBERS) <= set(plain):
            return plain
        text = plain.assign(
            margin=[_text(x, "g") for x in plain["margin"]],
            value=[_text(x) for x in plain["value"]],
            interval=[
                f"[{_text(low)}, {_text(high)}]" if np.isfinite(low) else "-"
                for low, high in zip(plain["low"], plain["high"], strict=True)
            ],
            pairs=[_text(x, ".0f") for x in plain["pairs"]],
            **{
                p: ["< 0.0001" if x < 1e-4 else _text(x, ".4f") for x in plain[p]]
                for p in ("p", "adjusted p")
            },
        )
        # What the reader looks for stands first, where narrow pages show it without scrolling.
        first = ["claim", "verdict", "value", "interval", "bound", "margin", "p", "adjusted p", "pairs"]
        return text[[*first, "quantity", "published"]]


def _escaped(label: Any) -> Any:
    return escape(label) if isinstance(label, str) else label


def state(verdict: str) -> str:
    """Return what a verdict says without its reason, such as "not comparable"."""
    return re.split("[,:;]", str(verdict))[0]


def colored(verdict: str) -> str:
    """Return the class by which a page colors a verdict."""
    return (
        "verdict-holds"
        if verdict.startswith(HOLDS)
        else "verdict-fails"
        if verdict.startswith(FAILS)
        else "verdict-open"
    )


def list_claims(claims: Mapping[str, Claim]) -> ClaimsTable:
    """Return the claims as a table: claim, source, published value, and what is measured here."""
    rows = [(c.text, c.source, c.published, c.test or "not measured") for c in claims.values()]
    columns = ["claim", "source", "published", "tested here by"]
    return ClaimsTable(rows, columns=columns, index=_numbers(claims))


def judge(
    claims: Mapping[str, Claim], findings: Mapping[str, Interval | ByConstruction | str]
) -> ClaimsTable:
    """Return the claims with what was measured and the verdicts.

    Parameters
    ----------
    claims : mapping of str to Claim
        Claims by short names.
    findings : mapping of str to Interval, ByConstruction or str
        For each claim the measured value with its interval; or why it needs none; or, as text, why it was not tested.

    Returns
    -------
    ClaimsTable
        Columns ``claim``, ``published``, ``quantity``, ``bound``, ``margin``, ``value``, ``low``, ``high``, ``p``,
        ``adjusted p`` (Holm, over all claims that were measured), ``pairs`` (of models), ``verdict`` and ``decides``.
        The p-values are one-sided, of the side on which the value lies; a verdict needs an adjusted one of at most
        (1 - confidence) / 2.

    Raises
    ------
    ValueError
        If the names of claims and findings differ: no claim may go missing.
    """
    if set(claims) != set(findings):
        raise ValueError(
            f"claims and findings must have the same names; they differ in {set(claims) ^ set(findings)}."
        )
    measured = {name: found for name, found in findings.items() if isinstance(found, Interval)}
    raw = {
        name: min(claims[name].p_values(found))
        for name, found in measured.items()
        if np.isfinite(found).all()
    }
    adjusted = dict(zip(raw, holm(list(raw.values())), strict=True))
    rows = []
    for name, claim in claims.items():
        numbers, bound = [np.nan] * len(NUMBERS), "-"
        match findings[name]:
            case ByConstruction(reason):
                verdict = f"{HOLDS}, by construction: {reason}"
            case str(reason):
                verdict = f"{UNTESTED}: {reason}"
            case Interval() as found:
                bound = f"{'above' if claim.below is None else 'below'} {claim.bound:g}"
                margin, p = claim.margin or np.nan, (raw.get(name, np.nan), adjusted.get(name, np.nan))
                numbers = [margin, *found, *p, np.nan if found.n_pairs is None else found.n_pairs]
                verdict = claim.verdict(found, adjusted.get(name))
            case other:
                raise TypeError(
                    f"findings[{name!r}]={other!r} must be an Interval, ByConstruction or a reason as text."
                )
        rows.append((claim.text, claim.published, claim.test or "-", bound, *numbers, verdict, claim.decides))
    columns = ["claim", "published", "quantity", "bound", *NUMBERS, "verdict", "decides"]
    return ClaimsTable(rows, columns=columns, index=_numbers(claims))


def where_played(
    games: Mapping[str, Any], wanted: Mapping[str, tuple[str, Callable[[Any], Interval]]]
) -> dict[str, Interval | str]:
    """Return findings that need an arm of a comparison, and why there is none where it was not played.

    Parameters
    ----------
    games : mapping of str to Game
        The arms that were played.
    wanted : mapping of str to (str, callable)
        For each claim the arm's label, and a function of its game that measures.

    Returns
    -------
    dict of str to Interval or str
        For `judge`.
    """
    return {
        name: measure(games[label]) if label in games else f"this run was played without the arm {label!r}"
        for name, (label, measure) in wanted.items()
    }


def _text(x: float, spec: str = "") -> str:
    if not np.isfinite(x):
        return "-"
    return f"{x:{spec}}" if spec else f"{x:.1e}" if 0 < abs(x) < 0.0005 else f"{x:.3f}"


def _numbers(claims: Mapping[str, Claim]) -> pd.Index:
    return pd.Index([f"C{i}" for i in range(1, len(claims) + 1)])
