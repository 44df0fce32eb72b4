"""Influence values: how much every (target, record) pair moves each measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mialab._validation import choose
from mialab.metrics import calibration, intervals, rates
from mialab.metrics.estimates import Estimate, mean
from mialab.metrics.rates import DECISIONS, Curve

#: What a rate may be of.
RATES = ("tpr", "calibrated_tpr", "tnr")
#: How much of the variance by choosing a threshold anew on a resample counts, 1.6 elsewhere. A resample's own noise
#: comes on top of the sample's, which matters at the best balanced accuracy, where only the square of the move counts;
#: elsewhere resamples move a little less than new samples. Both numbers are from benchmarks/coverage.py.
CHOICE = {"balanced_accuracy": 0.5}
#: Resamples of the records, in so many blocks, over which the attacker chooses the threshold anew.
RESAMPLES, BLOCKS, BINS = 200, 100, 128


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
        return Curve(*rates.checked(self.score[self.evaluated], self.member[self.evaluated]))

    @cached_property
    def calibrated(self) -> Cells:
        """The same pairs with each score replaced by its place among the OUT models of its record.

        Scores are turned into normal scores first, so that the result does not depend on their scale, and heavy tails,
        as log likelihood ratios have them, do not hide what lies in the middle. See `calibration.by_record`.
        """
        score = np.zeros_like(self.score)
        score[self.evaluated] = self.curve.normal_scores()
        score, usable = calibration.by_record(score, self.member, self.evaluated, self.partner)
        return Cells(score, self.member, evaluated=self.evaluated & usable, partner=self.partner)

    @cached_property
    def among(self) -> tuple[np.ndarray, np.ndarray]:
        """Which pairs of targets, and which records, are evaluated at all."""
        pairs = np.zeros(self.pair.max() + 1, bool)
        pairs[self.pair[self.evaluated.any(1)]] = True
        return pairs, np.asarray(self.evaluated.any(0))

    @cached_property
    def sides(self) -> tuple[int, int]:
        """Numbers of evaluated members and non-members."""
        n_in = int((self.evaluated & self.member).sum())
        return n_in, int(self.evaluated.sum()) - n_in

    def resolvable(self, metric: str) -> bool:
        """Tell whether the evaluated pairs are enough for a metric: a rate must allow ten errors."""
        kind, rate = parse(metric)
        n_in, n_out = self.sides
        if not n_in or not n_out:
            return False
        if kind == "calibrated_tpr":
            n_out = self.calibrated.sides[1] if self.calibrated.sides[0] else 0
        return rate is None or rates.resolvable(n_in if kind == "tnr" else n_out, rate)

    def estimate(self, metric: str) -> Estimate:
        """Measure all evaluated pairs, pooled."""
        kind, rate = parse(metric)
        if kind == "auc":
            return self._auc()
        if rate is None:
            return self._decisions(kind)
        if kind == "calibrated_tpr":
            return self.calibrated.estimate(rates.rate_name("tpr", rate))
        return self._rate(kind, rate)

    def of_target(self, k: int) -> Cells:
        """Return the evaluated pairs of one target."""
        own = self.evaluated[k]
        decided = None if self.predicted_member is None else self.predicted_member[k : k + 1, own]
        return Cells(self.score[k : k + 1, own], self.member[k : k + 1, own], predicted_member=decided)

    def mean(self, metric: str, parts: Sequence[tuple[int, Estimate]]) -> Estimate:
        """Return the mean of a measure of single targets, given with the targets' indices.

        All targets have nearly the same threshold, so that what its choice adds is that of all of them pooled.
        """
        cells = [(int(self.pair[k]), np.flatnonzero(self.evaluated[k])) for k, _ in parts]
        shape = (int(self.pair.max()) + 1, self.member.shape[1])
        kind, rate = parse(metric)
        moved = self.estimate(metric).moved if rate is None and kind != "auc" else np.empty(0)
        return replace(mean([part for _, part in parts], cells, shape), moved=moved)

    def _estimate(self, value: float, influence: np.ndarray, trials: int, **about: Any) -> Estimate:
        """Sum influences (target, record) over the targets of a pair; `trials` are the records of a rate."""
        summed = np.zeros((int(self.pair.max()) + 1, influence.shape[1]))
        for pair, row in zip(self.pair, influence, strict=True):
            summed[pair] += row
        edges = ((1.0, max(trials, 1)),) if value in (0.0, 1.0) else ()
        return Estimate(float(value), summed, *self.among, edges=edges, **about)

    def _auc(self) -> Estimate:
        value, (n_in, n_out) = self.curve.auc, self.sides
        influence = np.zeros_like(self.score)
        each = np.where(self.member[self.evaluated], 1 / n_in, 1 / n_out)
        influence[self.evaluated] = (self.curve.placements() - value) * each
        return self._estimate(value, influence, min(self._records(self.member), self._records(~self.member)))

    def _rate(self, kind: str, rate: float) -> Estimate:
        below = kind == "tnr"
        find, positive = (self.curve.below, ~self.member) if below else (self.curve.at, self.member)
        at, wider, narrower = (find(min(1.0, f * rate)) for f in (1.0, 1.5, 0.5))
        reached = self.score < at.threshold if below else self.score >= at.threshold
        n_positive, n_other = self.sides[::-1] if below else self.sides
        # More errors among the others raise the threshold, and cost as much as the curve is steep there.
        steep = (wider.tpr - narrower.tpr) / rate if rate else 0.0
        by_cell = self._by_cell(
            positive,
            reached,
            ((1 - at.tpr) / n_positive, -at.tpr / n_positive),
            (-steep * (1 - at.fpr) / n_other, steep * at.fpr / n_other),
        )
        return self._estimate(at.tpr, by_cell, self._records(positive), point=at)

    def _decisions(self, name: str) -> Estimate:
        if self.predicted_member is None:
            raise ValueError(f"metric={name!r} is of decisions: give predicted_member.")
        accused, (n_in, n_out) = self.predicted_member, self.sides
        tp, fp = (int((self.evaluated & accused & side).sum()) for side in (self.member, ~self.member))
        value = float(DECISIONS[name](tp, fp, n_in, n_out))
        trials = self._records(self.member)
        if name == "balanced_accuracy":
            tpr, fpr = tp / n_in, fp / n_out
            weights = (
                ((1 - tpr) / n_in / 2, -tpr / n_in / 2),
                (-(1 - fpr) / n_out / 2, fpr / n_out / 2),
            )
            trials = min(trials, self._records(~self.member))
        elif name == "recall":
            weights = ((1 - value) / n_in, -value / n_in), (0.0, 0.0)
        elif name == "precision":
            all_accused = max(tp + fp, 1)
            weights = ((1 - value) / all_accused, 0.0), (-value / all_accused, 0.0)
            trials = self._records(accused)
        else:
            total = tp + fp + n_in
            weights = ((2 - 2 * value) / total, -value / total), (-value / total, 0.0)
        influence = self._by_cell(self.member, accused, *weights)
        about = {}
        if self._chosen is not None:
            with np.errstate(invalid="ignore", divide="ignore"):  # a resample of few records may lack a side
                chosen, fixed = (np.asarray(DECISIONS[name](*counts)) for counts in self._chosen)
            about["moved"] = np.sqrt(CHOICE.get(name, 1.6)) * np.nan_to_num(chosen - fixed)
        return self._estimate(value, np.nan_to_num(influence), trials, **about)

    def _by_cell(
        self,
        positive: np.ndarray,
        reached: np.ndarray,
        inside: tuple[float, float],
        outside: tuple[float, float],
    ) -> np.ndarray:
        """Give each cell the influence of its kind: (reached, not reached) of positives and of the others."""
        kind = np.where(self.evaluated, 2 * (~positive).view(np.uint8) + (~reached).view(np.uint8), 4)
        return np.array([*inside, *outside, 0.0]).take(kind)

    def _records(self, side: np.ndarray) -> int:
        """Count the records with an evaluated pair on a side."""
        return int((self.evaluated & side).any(0).sum())

    @cached_property
    def _chosen(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Counts of decisions in resamples of records: with thresholds chosen anew, and with those of all records.

        An attacker picks the threshold of the greatest balanced accuracy on the other pairs of models, so that all
        targets have nearly the same one. How far that choice depends on the records is seen by resampling blocks of
        them and choosing anew; a derivative would not tell, since the best threshold moves by the cube root of the
        number of records (Kim and Pollard, Annals of Statistics 18, 1990).

        Returns
        -------
        tuple of numpy.ndarray, shape (4, resample)
            True and false positives, members and non-members; None for decisions that were made in another way.
        """
        n_pairs, blocks = int(self.pair.max()) + 1, min(BLOCKS, self.member.shape[1])
        if n_pairs < 2 or self.predicted_member is None:
            return None
        last = self.curve.last
        place = self.curve.spread(last * BINS // (last[-1] + 1))  # equal scores share a bin
        block = np.arange(self.member.shape[1]) % blocks * n_pairs
        cell = (block + self.pair[:, None])[self.evaluated] * BINS + place
        shape, member = blocks * n_pairs * BINS, self.member[self.evaluated]
        counts = np.bincount(cell + shape * ~member, minlength=2 * shape).reshape(2, blocks, -1)
        drawn = np.random.default_rng(0).multinomial(blocks, np.full(blocks, 1 / blocks), RESAMPLES)
        weights = np.concatenate([np.ones((1, blocks)), drawn]).astype(np.float32)
        tp, fp = (
            np.cumsum((weights @ c.astype(np.float32)).reshape(-1, n_pairs, BINS), axis=2) for c in counts
        )
        others = [each.sum(1, keepdims=True) - each for each in (tp, fp)]
        best = np.subtract(*(each / np.maximum(each[..., -1:], 1) for each in others)).argmax(2)
        again = place <= np.broadcast_to(best[0, self.pair][:, None], self.member.shape)[self.evaluated]
        if np.mean(again != self.predicted_member[self.evaluated]) > 2 / np.sqrt(BINS):
            return None
        chosen, fixed = (
            np.stack(
                [np.take_along_axis(each, at[..., None], 2)[..., 0].sum(1) for each in (tp, fp)]
                + [each[..., -1].sum(1) for each in (tp, fp)]
            )[:, 1:]
            for at in (best, np.broadcast_to(best[0], best.shape))
        )
        return chosen, fixed


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
    return cells._estimate(value, influence, cells._records(cells.evaluated))
