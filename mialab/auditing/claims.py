"""What a paper claims, what was measured here, and the verdict that follows from the interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from mialab.metrics.intervals import Interval

HOLDS, FAILS, OPEN, UNTESTED = "holds", "does not hold", "not settled", "could not be tested here"


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
    """

    text: str
    source: str
    published: str = "no value"
    test: str = ""
    below: float | None = None
    above: float | None = None

    def __post_init__(self) -> None:
        if self.below is not None and self.above is not None:
            raise ValueError(
                f"claim {self.text!r} has both below={self.below} and above={self.above}; give one."
            )

    def verdict(self, measured: Interval) -> str:
        """Judge by the whole interval: on the claim's side of the bound, on the other side, or across it.

        Parameters
        ----------
        measured : Interval
            The measurement.
        """
        if self.below is None and self.above is None:
            raise ValueError(f"claim {self.text!r} was measured, but has no bound: give below= or above=.")
        if not np.isfinite(measured).all():
            return OPEN
        if self.below is not None:
            return HOLDS if measured.high < self.below else FAILS if measured.low >= self.below else OPEN
        assert self.above is not None
        return HOLDS if measured.low > self.above else FAILS if measured.high <= self.above else OPEN


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
        cells = pd.DataFrame(self).map(lambda cell: escape(str(cell)))
        if "verdict" in cells:
            whole = [
                f'<span style="white-space: nowrap">{c}</span>' if c.endswith("]") else c
                for c in cells["measured here"]
            ]
            cells["measured here"] = whole
            cells["verdict"] = [f'<strong class="{_css(v)}">{v}</strong>' for v in cells["verdict"]]
        with pd.option_context("display.max_colwidth", None):
            return cells.to_html(classes="claims", escape=False, border=0)


def _css(verdict: str) -> str:
    return (
        "verdict-holds"
        if verdict.startswith(HOLDS)
        else "verdict-fails"
        if verdict == FAILS
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
        Columns ``claim``, ``published``, ``measured here``, ``verdict``.

    Raises
    ------
    ValueError
        If the names of claims and findings differ: no claim may go missing.
    """
    if set(claims) != set(findings):
        raise ValueError(
            f"claims and findings must have the same names; they differ in {set(claims) ^ set(findings)}."
        )
    rows = []
    for name, claim in claims.items():
        match findings[name]:
            case ByConstruction(reason):
                measured, verdict = reason, f"{HOLDS}, by construction"
            case str(reason):
                measured, verdict = reason, UNTESTED
            case value, low, high:
                measured = f"{_number(value)} [{_number(low)}, {_number(high)}]"
                verdict = claim.verdict(Interval(value, low, high))
        rows.append((claim.text, claim.published, measured, verdict))
    columns = ["claim", "published", "measured here", "verdict"]
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


def _number(x: float) -> str:
    return f"{x:.1e}" if 0 < abs(x) < 0.0005 else f"{x:.3f}"


def _numbers(claims: Mapping[str, Claim]) -> pd.Index:
    return pd.Index([f"C{i}" for i in range(1, len(claims) + 1)])
