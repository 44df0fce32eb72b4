"""Influence values: how much every (target, record) pair moves each measure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mialab._validation import choose
from mialab.metrics import calibration, intervals, rates
from mialab.metrics.choice import BINS, CHOICE, chosen_anew
from mialab.metrics.estimates import Estimate, Targets
from mialab.metrics.rates import DECISIONS, Curve, Point

#: What a rate may be of.
RATES = ("tpr", "calibrated_tpr", "tnr")
#: Kinds of cells: members and non-members that are accused, one more for those that are not, and all that do not count.
IN, OUT, NOWHERE, KINDS = 0, 2, 4, 6


def parse(metric: str) -> tuple[str, float | None]:
    """Split the name of a metric into what it is and its rate, such as ``("tpr", 0.01)`` (ValueError if unknown)."""
    kind, at, text = str(metric).partition("@")
    if not at:
        choose("metric", metric, ("auc", *DECISIONS, "tpr@0.01", "calibrated_tpr@0.01", "tnr@0.01"))
        return metric, None
    try:
        rate = float(text)
    except ValueError:
        rate = np.nan
    if kind not in RATES or not 0 <= rate <= 1:
        raise ValueError(
            f"metric={metric!r} must be a rate such as 'tpr@0.01', 'calibrated_tpr@0.001' or 'tnr@0.001', or 'auc'."
        )
    return kind, rate


class Cells:
    """All evaluated (target, record) pairs as one sample, with what is needed to measure them.

    Parameters
    ----------
    score, member : array_like, shape (target, record)
        Scores and the truth; scores of pairs that are not evaluated are ignored.
    evaluated : array_like of bool, shape (target, record), optional
        Pairs that count; all by default.
    partner : array_like of int, shape (target,), optional
        Index of the target with the complementary membership, or -1; such a pair of targets counts as one.
    predicted_member : array_like of bool, shape (target, record), optional
        Decisions, for the measures of decisions.
    """

    def __init__(
        self,
        score: ArrayLike,
        member: ArrayLike,
        *,
        evaluated: ArrayLike | None = None,
        partner: ArrayLike | None = None,
        predicted_member: ArrayLike | None = None,
    ) -> None:
        self.score, self.member = rates.as_numbers("score", score), rates.as_flags("member", member)
        if self.score.ndim != 2:
            raise ValueError(f"score has shape {self.score.shape}; it must be (target, record).")
        rates.same_shape("score", self.score, self.member)
        given = np.ones_like(self.member) if evaluated is None else evaluated
        self.evaluated = rates.as_flags("evaluated", given)
        rates.same_shape("evaluated", self.evaluated, self.member)
        self.predicted_member = None
        if predicted_member is not None:
            self.predicted_member = rates.as_flags("predicted_member", predicted_member)
            rates.same_shape("predicted_member", self.predicted_member, self.member)
        self.partner = (
            np.full(len(self.member), -1) if partner is None else rates.as_array("partner", partner)
        )
        self.pair = intervals.clusters(len(self.member), self.partner)

    @cached_property
    def curve(self) -> Curve:
        """ROC curve of all evaluated pairs."""
        return Curve(*rates.checked(self._listed(self.score), self._listed(self.member)))

    @cached_property
    def calibrated(self) -> Cells:
        """The same pairs with each score replaced by its place among the OUT models of its record.

        Scores are turned into normal scores first, so that the result does not depend on their scale, and heavy tails,
        as log likelihood ratios have them, do not hide what lies in the middle. See `calibration.by_record`.
        """
        score = self._laid_out(self.curve.normal_scores())
        score, usable = calibration.by_record(score, self.member, self.evaluated, self.pair)
        return Cells(score, self.member, evaluated=self.evaluated & usable, partner=self.partner)

    @cached_property
    def among(self) -> tuple[np.ndarray, np.ndarray]:
        """Which pairs of targets, and which records, are evaluated at all."""
        return self._among(self.evaluated.any(1))

    @cached_property
    def sides(self) -> tuple[int, int]:
        """Numbers of evaluated members and non-members."""
        n_in, n_out = (int(each.sum()) for each in self.sides_of_targets)
        return n_in, n_out

    @cached_property
    def sides_of_targets(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of evaluated members and non-members of each target, (target,) int64."""
        return _count(self._side)

    @cached_property
    def accused_of_targets(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of evaluated members and non-members of each target that the decisions call members."""
        return _count(self._decided)

    def resolvable(self, metric: str) -> bool:
        """Tell whether the evaluated pairs are enough for a metric: a rate must allow ten errors."""
        kind, rate = parse(metric)
        if kind == "calibrated_tpr" and all(self.sides):
            return self.calibrated.resolvable(rates.rate_name("tpr", rate))
        return _resolvable(kind, rate, *self.sides)

    def estimate(self, metric: str) -> Estimate:
        """Measure all evaluated pairs, pooled."""
        kind, rate = parse(metric)
        if kind == "calibrated_tpr":
            return self.calibrated.estimate(rates.rate_name("tpr", rate))
        point, edges = None, ()
        if kind == "auc":
            value, kinds = self.curve.auc, self._side
            influence = intervals.over_pairs(self._laid_out(self.curve.influence()), self.pair)
        else:
            (value,), weights, kinds, at = self._weighed(kind, rate, pooled=True)
            influence = self._influence(kinds, weights)
            point = None if at is None else Point(*at[:3, 0].tolist(), int(at[3, 0]))
        if value in (0.0, 1.0):
            edges = _edge(*_behind(kind, kinds < OUT, kinds // 2 == 1, (kinds == IN) | (kinds == OUT)))
        moved = self._moved(kind)
        return Estimate(float(value), influence, *self.among, edges=edges, moved=moved, point=point)

    def targets(self, metric: str) -> Targets:
        """Measure each target by itself, and their mean; not for calibrated rates."""
        kind, rate = parse(metric)
        if kind == "calibrated_tpr":
            raise ValueError(f"metric={metric!r} is of all targets together: use estimate.")
        n_in, n_out = self.sides_of_targets
        n, at = n_in + n_out, None
        if kind == "auc":
            value, kinds = np.array([np.nan if c is None else c.auc for c in self._curves]), self._side
        else:
            value, weights, kinds, at = self._weighed(kind, rate)
        known = _resolvable(kind, rate, n_in, n_out) & np.isfinite(value)
        count = max(int(known.sum()), 1)
        average = float(value[known].mean()) if known.any() else np.nan
        # What the target's own records do to the mean, and how far the target as a whole is from it.
        effect = np.where(known, value - average, 0.0) / np.maximum(n, 1)
        tp, fp = _count(kinds)
        if kind == "auc":
            squares, influence = np.zeros(len(value)), np.zeros_like(self.score)
            for k in np.flatnonzero(known):
                own = self._curves[k].influence()
                squares[k], influence[k, self.evaluated[k]] = own @ own, (own + effect[k]) / count
            influence = intervals.over_pairs(influence, self.pair)
        else:
            squares = (weights[:, :NOWHERE] ** 2 * np.stack([tp, n_in - tp, fp, n_out - fp], axis=1)).sum(1)
            weights[:, :NOWHERE] += effect[:, None]
            influence = self._influence(kinds, np.where(known[:, None], weights / count, 0.0))
        trials = np.maximum(np.minimum.reduce(_behind(kind, n_in, n_out, tp + fp)), 1)
        # If some targets vary, these say how much.
        edge = known.any() and np.isin(value[known], (0, 1)).all()
        edges = tuple((1 / count, int(m)) for m in trials[known]) if edge else ()
        # All have nearly the same threshold, so that its choice adds what it adds to all of them pooled.
        mean = Estimate(average, influence, *self._among(known), edges=edges, moved=self._moved(kind))
        variance = squares * n / np.maximum(n - 1, 1)
        found = np.where(known, (value, variance), np.nan)
        return Targets(*found, n, trials, mean, None if at is None else np.where(known, at, np.nan))

    def _weighed(
        self, kind: str, rate: float | None, *, pooled: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """Measure each target, or all as one group: value, (group,); influence of cells of a kind, (group, kind).

        And of which kind each cell is, and of rates the points of the curve, (4, group).
        """
        decided = rate is None
        counts = (*(self.accused_of_targets if decided else ()), *self.sides_of_targets)
        if pooled:
            counts = tuple(each.sum(keepdims=True) for each in counts)
        if decided:
            return *_decision(kind, *counts), self._decided, None
        at, weights = _rate(kind, rate, [self.curve] if pooled else self._curves, *counts)
        return at[1], weights, self._side + (self.score < at[0][:, None]), at

    def _influence(self, kinds: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Sum over the targets of each pair the influences of their cells, given those of each kind, (group, kind)."""
        first = np.unique(self.pair, return_index=True)[1]
        second = self.partner[first]
        other = kinds[second]
        other[second < 0] = NOWHERE
        weights = np.broadcast_to(weights, (len(kinds), KINDS))
        tables = (weights[first][:, :, None] + weights[second][:, None]).reshape(-1, KINDS**2)
        found = np.empty(other.shape)
        for row, table, both in zip(found, tables, KINDS * kinds[first] + other, strict=True):
            table.take(both, out=row, mode="clip")
        return found

    def _moved(self, kind: str) -> np.ndarray:
        """How a measure of decisions moves because the threshold is chosen anew on resamples; empty for others."""
        if kind not in DECISIONS or self._chosen is None:
            return np.empty(0)
        with np.errstate(invalid="ignore", divide="ignore"):  # a resample of few records may lack a side
            chosen, fixed = (np.asarray(DECISIONS[kind](*counts)) for counts in self._chosen)
        return np.sqrt(CHOICE.get(kind, 1.6)) * np.nan_to_num(chosen - fixed)

    @cached_property
    def _chosen(self) -> tuple[np.ndarray, np.ndarray] | None:
        if not self.pair.max():  # no other pair to choose a threshold on
            return None
        last = self.curve.last
        place = self._laid_out(self.curve.spread((last * BINS // (last[-1] + 1)).astype(np.uint8)))
        return chosen_anew(place, self.member, self.evaluated, self.predicted_member, self.pair)

    @cached_property
    def _curves(self) -> list[Curve | None]:
        """ROC curve of each target, None of those that lack members or non-members."""
        each = zip(self.score, self.member, self.evaluated, *self.sides_of_targets, strict=True)
        return [Curve(*rates.checked(s[own], m[own])) if n and k else None for s, m, own, n, k in each]

    @cached_property
    def _side(self) -> np.ndarray:
        """Kind of each cell before anybody is accused, (target, record) uint8."""
        return np.where(self.evaluated, np.where(self.member, np.uint8(IN), np.uint8(OUT)), np.uint8(NOWHERE))

    @cached_property
    def _decided(self) -> np.ndarray:
        """Kind of each cell by the decisions."""
        if self.predicted_member is None:
            raise ValueError("Measures of decisions, such as metric='recall', need predicted_member.")
        return self._side + ~self.predicted_member

    def _among(self, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs and records of some targets, as masks."""
        pairs = np.zeros(int(self.pair.max()) + 1, bool)
        pairs[self.pair[targets]] = True
        return pairs, self.evaluated[targets].any(0)

    def _listed(self, values: np.ndarray) -> np.ndarray:
        """Return the values of evaluated cells, (n,)."""
        return values.ravel() if self.evaluated.all() else values[self.evaluated]

    def _laid_out(self, listed: np.ndarray) -> np.ndarray:
        """Return values of evaluated cells in their places, (target, record), 0 elsewhere."""
        if self.evaluated.all():
            return listed.reshape(self.evaluated.shape)
        values = np.zeros(self.evaluated.shape, listed.dtype)
        values[self.evaluated] = listed
        return values


def _count(kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count members and non-members, of all or of the accused, of each target, (target,) int64."""
    inside, outside = (np.array([np.count_nonzero(row) for row in kinds == side]) for side in (IN, OUT))
    return inside, outside


def _resolvable(kind: str, rate: float | None, n_in: ArrayLike, n_out: ArrayLike) -> np.ndarray:
    """Tell whether numbers of members and non-members are enough for a metric."""
    both = (np.asarray(n_in) > 0) & (np.asarray(n_out) > 0)
    return both if rate is None else both & rates.resolvable(n_in if kind == "tnr" else n_out, rate)


def _behind(kind: str, inside: Any, outside: Any, accused: Any) -> tuple[Any, ...]:
    """Choose what a measure is a fraction of; both, if it is a mean over two sides."""
    both = inside, outside
    sides = {"auc": both, "balanced_accuracy": both, "tnr": (outside,), "precision": (accused,)}
    return sides.get(kind, (inside,))


def _edge(*behind: np.ndarray) -> tuple[tuple[float, int]]:
    """Weight and number of records of a fraction of cells that is 0 or 1; the fewer, if it is of two sides."""
    return ((1.0, max(1, min(int(cells.any(0).sum()) for cells in behind))),)


def _rate(
    kind: str, rate: float, curves: Sequence[Curve | None], n_in: np.ndarray, n_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Read a rate off curves: points, (4, curve), and the influence of a cell of each kind, (curve, kind)."""
    below = kind == "tnr"
    found = [
        [(np.nan,) * 4 if c is None else (c.below if below else c.at)(min(1.0, f * rate)) for c in curves]
        for f in (1.0, 1.5, 0.5)
    ]
    at, wider, narrower = np.array(found).transpose(0, 2, 1)
    _, value, wrong, _ = at
    n_positive, n_other = (n_out, n_in) if below else (n_in, n_out)
    # More errors among the others raise the threshold, and cost as much as the curve is steep there.
    steep = (wider[1] - narrower[1]) / rate if rate else 0.0 * value
    with np.errstate(divide="ignore", invalid="ignore"):  # a target may lack a side
        positive = [(1 - value) / n_positive, -value / n_positive]
        other = [-steep * (1 - wrong) / n_other, steep * wrong / n_other]
    return at, _of_kinds(*other[::-1], *positive[::-1]) if below else _of_kinds(*positive, *other)


def _decision(
    name: str, tp: np.ndarray, fp: np.ndarray, n_in: np.ndarray, n_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Measure decisions, given counts, (group,): values, and the influence of a cell of each kind, (group, kind)."""
    with np.errstate(divide="ignore", invalid="ignore"):  # a target may lack a side
        value = DECISIONS[name](tp, fp, n_in, n_out)
        none = np.zeros_like(value)
        if name == "balanced_accuracy":
            tpr, fpr = tp / n_in / 2, fp / n_out / 2
            weights = (0.5 - tpr) / n_in, -tpr / n_in, (fpr - 0.5) / n_out, fpr / n_out
        elif name == "recall":
            weights = (1 - value) / n_in, -value / n_in, none, none
        elif name == "precision":
            accused = np.maximum(tp + fp, 1)
            weights = (1 - value) / accused, none, -value / accused, none
        else:
            total = tp + fp + n_in
            weights = (2 - 2 * value) / total, -value / total, -value / total, none
    return value, _of_kinds(*weights)


def _of_kinds(*weights: np.ndarray) -> np.ndarray:
    """Stack the weights of the kinds of cells, (group, kind), 0 for those that do not count or have no value."""
    found = np.zeros((len(weights[0]), KINDS))
    found[:, :NOWHERE] = np.nan_to_num(np.stack(weights, axis=1), posinf=0.0, neginf=0.0)
    return found


def weighted_mean(values: ArrayLike, weights: ArrayLike, partner: ArrayLike) -> Estimate:
    """Return the mean of a number that every (target, record) pair has, such as the fraction of an event.

    Parameters
    ----------
    values : array_like of float, shape (target, record)
        From 0 to 1.
    weights : array_like of float, shape (target, record)
        How much each pair counts; 0 for those that do not.
    partner : array_like of int, shape (target,)
        As of `Cells`.

    Returns
    -------
    Estimate
        NaN without any weight.
    """
    values, weights = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    total = float(weights.sum())
    value = float((values * weights).sum() / total) if total else np.nan
    cells = Cells(values, weights > 0, evaluated=weights > 0, partner=partner)
    influence = weights * (values - value) / total if total else np.zeros_like(values)
    edges = _edge(cells.evaluated) if value in (0.0, 1.0) else ()
    return Estimate(value, intervals.over_pairs(influence, cells.pair), *cells.among, edges=edges)
