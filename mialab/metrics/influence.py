"""Influence values: how much every (target, record) pair moves each measure."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mialab._validation import choose
from mialab.metrics import calibration, intervals, rates
from mialab.metrics.choice import BINS, CHOICE, chosen_anew
from mialab.metrics.estimates import Estimate, Targets
from mialab.metrics.rates import DECISIONS, Curve, Point
from mialab.metrics.weights import IN, KINDS, NOWHERE, OUT, behind, count, of_decision, of_rate

#: What a rate may be of.
RATES = ("tpr", "calibrated_tpr", "tnr")


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
        self.n_pairs = int(self.pair.max()) + 1

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
        return self._among(np.asarray(self.evaluated.any(1)))

    @cached_property
    def sides(self) -> tuple[int, int]:
        """Numbers of evaluated members and non-members."""
        n_in, n_out = (int(each.sum()) for each in self.sides_of_targets)
        return n_in, n_out

    @cached_property
    def sides_of_targets(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of evaluated members and non-members of each target, (target,) int64."""
        return count(self._side)

    @cached_property
    def accused_of_targets(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of evaluated members and non-members of each target that the decisions call members."""
        return count(self._decided)

    def resolvable(self, metric: str) -> bool:
        """Tell whether the evaluated pairs are enough for a metric: a rate must allow ten errors."""
        kind, rate = parse(metric)
        if kind == "calibrated_tpr" and all(self.sides):
            return self.calibrated.resolvable(metric.removeprefix("calibrated_"))
        return bool(_resolvable(kind, rate, *self.sides))

    def estimate(self, metric: str) -> Estimate:
        """Measure all evaluated pairs, pooled."""
        kind, rate = parse(metric)
        if kind == "calibrated_tpr":
            return self.calibrated.estimate(metric.removeprefix("calibrated_"))
        point: Point | None = None
        edges: tuple[tuple[float, int], ...] = ()
        if kind == "auc":
            value, kinds = self.curve.auc, self._side
            influence = intervals.over_pairs(self._laid_out(self.curve.influence()), self.pair)
        else:
            (value,), weights, kinds, at = self._weighed(kind, rate, pooled=True)
            influence = self._influence(kinds, weights)
            if at is not None:
                threshold, tpr, fpr, errors = at[:, 0].tolist()
                point = Point(threshold, tpr, fpr, int(errors))
        if value in (0.0, 1.0):
            sides = kinds < OUT, (kinds >= OUT) & (kinds < NOWHERE)
            edges = _edge(*behind(kind, *sides, accused=(kinds == IN) | (kinds == OUT)))
        moved = self._moved(kind)
        return Estimate(float(value), influence, *self.among, edges=edges, moved=moved, point=point)

    def targets(self, metric: str) -> Targets:
        """Measure each target by itself, and their mean; not for calibrated rates."""
        kind, rate = parse(metric)
        if kind == "calibrated_tpr":
            raise ValueError(f"metric={metric!r} is of all targets together: use estimate.")
        n_in, n_out = self.sides_of_targets
        n = n_in + n_out
        if kind == "auc":
            value, kinds, at = (
                np.array([np.nan if c is None else c.auc for c in self._curves]),
                self._side,
                None,
            )
        else:
            value, weights, kinds, at = self._weighed(kind, rate)
        known = _resolvable(kind, rate, n_in, n_out) & np.isfinite(value)
        n_known = max(int(known.sum()), 1)
        average = float(value[known].mean()) if known.any() else np.nan
        # What the target's own records do to the mean, and how far the target as a whole is from it.
        effect = np.where(known, value - average, 0.0) / np.maximum(n, 1)
        tp, fp = count(kinds)
        if kind == "auc":
            squares, influence = self._auc_of_targets(known, effect)
        else:
            squares = (weights[:, :NOWHERE] ** 2 * np.stack([tp, n_in - tp, fp, n_out - fp], axis=1)).sum(1)
            weights[:, :NOWHERE] += effect[:, None]
            influence = self._influence(kinds, np.where(known[:, None], weights, 0.0))
        trials = np.maximum(np.minimum.reduce(behind(kind, n_in, n_out, accused=tp + fp)), 1)
        all_at_edge = (
            known.any() and np.isin(value[known], (0, 1)).all()
        )  # otherwise those that vary say how much
        mean = Estimate(
            average,
            influence / n_known,
            *self._among(known),
            edges=tuple((1 / n_known, int(m)) for m in trials[known]) if all_at_edge else (),
            # All have nearly the same threshold, so that its choice adds what it adds to all of them pooled.
            moved=self._moved(kind),
        )
        value, variance = np.where(known, (value, squares * n / np.maximum(n - 1, 1)), np.nan)
        point = None if at is None else np.where(known, at, np.nan)
        return Targets(value, variance, n, trials, mean, point)

    def _auc_of_targets(self, known: np.ndarray, effect: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sum over records the squares of what moves each known AUC; over pairs, what moves it and the effect."""
        squares, influence = np.zeros(len(known)), np.zeros((self.n_pairs, self.score.shape[1]))
        for k, curve in enumerate(self._curves):
            if curve is not None and known[k]:
                moves = curve.influence()
                squares[k] = moves @ moves
                influence[self.pair[k], self._own(k)] += moves + effect[k]
        return squares, influence

    def _weighed(
        self, kind: str, rate: float | None, *, pooled: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """Measure each target, or all as one group.

        Returns
        -------
        value : (group,); weights : (group, kind)
            Values, and the influence of a cell of each kind.
        kinds : (target, record); points : (4, group) or None
            Which kind each cell is of, and of rates the points of the curves.
        """
        counts = (
            self.sides_of_targets if rate is not None else self.accused_of_targets + self.sides_of_targets
        )
        if pooled:
            counts = tuple(each.sum(keepdims=True) for each in counts)
        if rate is None:
            return *of_decision(kind, *counts), self._decided, None
        at, weights = of_rate(kind, rate, [self.curve] if pooled else self._curves, *counts)
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
        if self.n_pairs < 2 or self.predicted_member is None:  # no other pair to choose a threshold on
            return None
        last = self.curve.last
        place = self._laid_out(self.curve.spread((last * BINS // (last[-1] + 1)).astype(np.uint8)))
        return chosen_anew(place, self.member, self.evaluated, self.predicted_member, self.pair)

    @cached_property
    def _curves(self) -> list[Curve | None]:
        """ROC curve of each target, None of those that lack members or non-members."""
        both = np.minimum(*self.sides_of_targets) > 0
        each = ((self.score[k, self._own(k)], self.member[k, self._own(k)]) for k in range(len(both)))
        return [Curve(*rates.checked(*one)) if b else None for one, b in zip(each, both, strict=True)]

    def _own(self, k: int) -> Any:
        """Return an index of the records that a target is evaluated on."""
        return slice(None) if self.evaluated[k].all() else self.evaluated[k]

    @cached_property
    def _side(self) -> np.ndarray:
        """Kind of each cell before anybody is accused, (target, record) uint8."""
        side = ~self.member * np.uint8(OUT)
        side[~self.evaluated] = NOWHERE
        return side

    @cached_property
    def _decided(self) -> np.ndarray:
        """Kind of each cell by the decisions."""
        if self.predicted_member is None:
            raise ValueError("Measures of decisions, such as metric='recall', need predicted_member.")
        return self._side + ~self.predicted_member

    def _among(self, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs and records of some targets, as masks."""
        pairs = np.zeros(self.n_pairs, bool)
        pairs[self.pair[targets]] = True
        return pairs, np.asarray(self.evaluated[targets].any(0))

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


def _resolvable(kind: str, rate: float | None, n_in: ArrayLike, n_out: ArrayLike) -> np.ndarray:
    """Tell whether numbers of members and non-members are enough for a metric."""
    both = (np.asarray(n_in) > 0) & (np.asarray(n_out) > 0)
    return both if rate is None else both & rates.resolvable(n_in if kind == "tnr" else n_out, rate)


def _edge(*cells: np.ndarray) -> tuple[tuple[float, int], ...]:
    """Weight and number of records of a fraction of cells that is 0 or 1; the fewer, if it is of two sides."""
    return ((1.0, max(1, min(int(side.any(0).sum()) for side in cells))),)


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
