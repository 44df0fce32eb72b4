"""Which defense is better than which, and where the data cannot tell: ranks with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from mialab.auditing.claims import holm
from mialab.metrics.intervals import Interval
from mialab.metrics.rates import check_fraction


def ranks(values: Mapping[str, Interval], *, confidence: float = 0.95) -> pd.DataFrame:
    """Rank estimates from small to large, with intervals that all hold at once.

    Every two are compared by a two-sided test; the p-values are adjusted for their number (Holm). Who is beaten
    by b others and beats c of n has a rank from 1 + b to n - c. All true ranks lie in their intervals at once with at
    least the confidence (as in Mogstad, Romano, Shaikh and Wilhelm, Review of Economic Studies 2024, section 3, there
    with a bootstrap in place of Holm). Errors are taken to be independent; where they go together, as errors on the
    same records do, the intervals are too wide.

    Parameters
    ----------
    values : dict of str to Interval
        The estimates, e.g. of the strongest attack's AUC; those that are not finite are left out.
    confidence : float
        Of all intervals together.

    Returns
    -------
    DataFrame
        A row an estimate, from small to large: ``value``, ``low``, ``high``, ``rank low``, ``rank high``; ``below``,
        the names that are shown to be greater, and ``not told apart``.

    Raises
    ------
    ValueError
        If confidence is not between 0 and 1.
    """
    check_fraction("confidence", confidence)
    known = {name: at for name, at in values.items() if np.isfinite(at).all()}
    order = sorted(known, key=lambda name: known[name].value)
    pairs = list(combinations(order, 2))
    adjusted = holm([_two_sided(known[a], known[b]) for a, b in pairs])
    beats: dict[str, list[str]] = {name: [] for name in order}
    beaten: dict[str, list[str]] = {name: [] for name in order}
    for (a, b), p in zip(pairs, adjusted, strict=True):
        if p <= 1 - confidence:
            beats[a].append(b)
            beaten[b].append(a)
    rows = {
        name: {
            **dict(zip(("value", "low", "high"), known[name], strict=True)),
            "rank low": 1 + len(beaten[name]),
            "rank high": len(order) - len(beats[name]),
            "below": ", ".join(beats[name]),
            "not told apart": ", ".join(_undecided(order, name, beats[name], beaten[name])),
        }
        for name in order
    }
    columns = ["value", "low", "high", "rank low", "rank high", "below", "not told apart"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def _undecided(order: list[str], name: str, beats: list[str], beaten: list[str]) -> list[str]:
    """Return who is neither beaten by a name nor beats it, in order."""
    return [other for other in order if other not in {name, *beats, *beaten}]


def _two_sided(a: Interval, b: Interval) -> float:
    """Return the p-value of two estimates being equal, from the ends that face each other; a lies below b."""
    gap = b.value - a.value
    width = float(np.hypot(a.high - a.value, b.value - b.low))
    apart = Interval(gap, gap - width, gap + width, df=min(a.df, b.df), confidence=a.confidence)
    return min(1.0, 2 * apart.p_value(0, "above"))
