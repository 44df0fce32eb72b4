"""Estimates that know how much every pair of targets and every record moved them, and so their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import special

from mialab.metrics.intervals import Interval, around
from mialab.metrics.rates import Point, check_fraction

#: Below so many pairs of targets the variance between targets is hardly known: no verdict rests on such an interval.
MIN_PAIRS = 8


class Variance(NamedTuple):
    """The variance of an estimate: in all, its degrees of freedom, and from which side it comes.

    ``targets`` is V_t / V_p, the variance between pairs of targets relative to what single (pair, record) cells
    alone would give: about 1 where models differ only by chance, 5 to 40 where whole models do; NaN for one pair.
    """

    total: float
    df: float
    targets: float


@dataclass(frozen=True, eq=False)
class Estimate:
    """A statistic of a game, with the influence that every (pair of complementary targets, record) has on it.

    Estimates of the same targets and records may be subtracted and divided; what they have in common then cancels.

    Attributes
    ----------
    value : float
        The statistic.
    influence : numpy.ndarray of float64, shape (pair, record)
        Derivative of the statistic by how often each cell counts; sums to 0.
    pairs : numpy.ndarray of bool, shape (pair,)
        Pairs of complementary targets (or single targets without a partner) that were evaluated.
    records : numpy.ndarray of bool, shape (record,)
        Records that were evaluated.
    moved : numpy.ndarray of float64, shape (resample,), or empty
        How the value moves on resampled records because the attacker chooses the threshold anew.
    edges : tuple of (float, int)
        Weight and number of records of every fraction in it that is exactly 0 or 1.
    fraction : bool
        Whether the statistic lies in [0, 1], so that its interval is made on the logit scale.
    point : Point, optional
        Threshold of a rate, and what it does.
    """

    value: float
    influence: np.ndarray
    pairs: np.ndarray
    records: np.ndarray
    moved: np.ndarray = field(default_factory=lambda: np.empty(0))
    edges: tuple[tuple[float, int], ...] = ()
    fraction: bool = True
    point: Point | None = None

    @cached_property
    def sums(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Sums of the influence over records, (pair,), and over pairs, (record,), and the sum of its squares."""
        cells = self.influence
        return cells.sum(1), cells.sum(0), float(np.vdot(cells, cells))

    def without_cells(self) -> Estimate:
        """Return the same with the sums alone, which is much smaller: it can no longer be subtracted or divided."""
        small = replace(self, influence=np.empty((0, 0)))
        small.__dict__["sums"] = self.sums
        return small

    @property
    def n_pairs(self) -> int:
        """Number of pairs of targets."""
        return int(self.pairs.sum())

    @property
    def variance(self) -> Variance:
        """Two-way variance over pairs of targets and records.

        With V_p the sum of squares of the cells, V_t and V_r those of the sums over records and over pairs (with the
        corrections C / (C - 1) and n / (n - 1)), it is V_p + max(V_t - V_p, 0) + max(V_r - V_p, 0): the pigeonhole
        bootstrap of Owen (Annals of Applied Statistics 1, 2007) counts V_p three times. The degrees of freedom are
        Satterthwaite's, for what targets add and for records. Below 8 pairs it is V_t + V_r - V_p with C - 1; a single
        pair tells of records only. What the choice of a threshold adds comes on top.
        """
        c, n = self.n_pairs, int(self.records.sum())
        by_pair, by_record, v_p = self.sums
        v_r = float(by_record @ by_record) * n / max(n - 1, 1)
        chosen = float(self.moved.var()) if self.moved.size else 0.0
        if c < 2:
            return Variance(v_r + chosen, max(n - 1, 1), np.nan)
        v_t = float(by_pair @ by_pair) * c / (c - 1)
        ratio = v_t / v_p if v_p else np.nan
        if c < MIN_PAIRS:
            return Variance(max(v_t + v_r - v_p, v_p) + chosen, c - 1, ratio)
        of_targets = max(v_t - v_p, 0)
        total = of_targets + max(v_p, v_r) + chosen
        unsure = of_targets**2 / (c - 1) + v_r**2 / max(n - 1, 1)
        return Variance(total, total**2 / unsure if unsure else np.inf, ratio)

    def interval(self, confidence: float = 0.95) -> Interval:
        """Return the value with its t interval; of fractions on the logit scale, so that it stays in (0, 1).

        A fraction that is exactly 0 or 1 in all cells gets the end of Clopper and Pearson's interval for as many
        trials as there are records behind it.
        """
        tail = (1 - check_fraction("confidence", confidence)) / 2
        if not np.isfinite(self.value):
            return Interval(np.nan, np.nan, np.nan)
        variance = self.variance
        slack = sum(abs(weight) * (1 - tail ** (1 / trials)) for weight, trials in self.edges)
        low, high = around(
            self.value,
            variance.total,
            variance.df,
            slack=slack,
            fraction=self.fraction,
            confidence=confidence,
        )
        return Interval(
            self.value,
            float(low),
            float(high),
            df=variance.df,
            n_pairs=self.n_pairs,
            confidence=confidence,
            logit=self.fraction,
        )

    def __sub__(self, other: Estimate) -> Estimate:
        return combine(self.value - other.value, (1, self), (-1, other))

    def __truediv__(self, other: Estimate) -> Estimate:
        if not other.value:
            return combine(np.nan, (1, self), (1, other))
        ratio = self.value / other.value
        return combine(ratio, (1 / other.value, self), (-ratio / other.value, other))


def combine(value: float, *parts: tuple[float, Estimate]) -> Estimate:
    """Return a function of estimates, given its value and its derivative by each (the delta method).

    Parameters
    ----------
    value : float
        The function's value.
    *parts : (float, Estimate)
        Derivatives and estimates, all of the same targets and records.
    """
    moved = [weight * part.moved for weight, part in parts if part.moved.size]
    return Estimate(
        float(value),
        np.add.reduce([weight * part.influence for weight, part in parts]),
        np.logical_or.reduce([part.pairs for _, part in parts]),
        np.logical_or.reduce([part.records for _, part in parts]),
        np.add.reduce(moved) if moved else np.empty(0),
        tuple((weight * own, trials) for weight, part in parts for own, trials in part.edges),
        fraction=False,
    )


@dataclass(frozen=True, eq=False)
class Targets:
    """A statistic of each target by itself, from its own records, and its mean over the targets.

    Attributes
    ----------
    value, variance : numpy.ndarray of float64, shape (target,)
        The statistic, and its variance over records; NaN where a target has none.
    records, trials : numpy.ndarray of int, shape (target,)
        How many records each is evaluated on, and how many of them the statistic is a fraction of.
    point : numpy.ndarray of float64, shape (4, target), optional
        Of a rate: threshold, rate of right and of wrong answers, and number of wrong ones, see `rates.Point`.
    mean : Estimate
        With an interval over pairs of targets and records.
    """

    value: np.ndarray
    variance: np.ndarray
    records: np.ndarray
    trials: np.ndarray
    mean: Estimate
    point: np.ndarray | None = None

    def interval(self, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Return both ends of each target's interval over records, (target,), see `Estimate.interval`."""
        tail = (1 - check_fraction("confidence", confidence)) / 2
        edge = (self.value == 0) | (self.value == 1)
        slack = edge * (1 - tail ** (1 / np.maximum(self.trials, 1)))
        df = np.maximum(self.records - 1, 1)
        return around(self.value, self.variance, df, slack=slack, confidence=confidence)


def strongest(estimates: Sequence[Estimate], *, confidence: float = 0.95, n_draws: int = 2000) -> Interval:
    """Return the greatest of several estimates, with an interval that knows that it was chosen for its value.

    The errors of all are drawn at once from the normal distribution, with the correlations of what records and pairs
    of targets do to them; the interval takes the greatest ends of simultaneous intervals, each on its own scale (the
    max-statistic; Westfall and Young, 1993).

    Parameters
    ----------
    estimates : sequence of Estimate
        Of the same targets and records.
    confidence : float
        Coverage.
    n_draws : int
        Draws of the errors.
    """
    known = [e for e in estimates if np.isfinite(e.value)]
    if not known:
        return Interval(np.nan, np.nan, np.nan)
    # With unit variances; those that nothing moves have no part in it.
    sums = np.stack([np.concatenate(e.sums[:2]) for e in known])
    sums = sums[(sums != 0).any(1)]
    tail = (1 - check_fraction("confidence", confidence)) / 2
    level = confidence
    if len(sums) > 1:
        sums /= np.linalg.norm(sums, axis=1, keepdims=True)
        values, vectors = np.linalg.eigh(sums @ sums.T)
        root = vectors * np.sqrt(np.maximum(values, 0))
        draws = np.random.default_rng(0).standard_normal((n_draws, len(root))) @ root.T
        critical = np.quantile(np.concatenate([draws.max(1), -draws.min(1)]), 1 - tail)
        level = max(level, float(2 * special.ndtr(critical) - 1))
    ends = [e.interval(level) for e in known]
    best = max(known, key=lambda e: e.value)
    of_best = best.interval(level)
    return Interval(
        best.value,
        max(end.low for end in ends),
        max(end.high for end in ends),
        df=of_best.df,
        n_pairs=best.n_pairs,
        confidence=confidence,
        logit=best.fraction,
    )
