"""What an attack found in a game, with its statistics."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from mialab._validation import choose
from mialab.metrics import intervals, rates
from mialab.metrics.intervals import Interval

#: Measures of decisions.
DECISIONS = tuple(rates._DECISIONS)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What an attack says about every (target, record) pair of a game, and what is needed to evaluate it.

    Made by `mialab.Game.outcome`, or of scores that were computed elsewhere.

    Attributes
    ----------
    score : numpy.ndarray of float64, shape (model, record)
        Higher = member.
    evaluated : numpy.ndarray of bool, shape (model, record)
        False where the attacker knew the answer to calibrate with, and where the pair could not be scored.
    predicted_member : numpy.ndarray of bool, shape (model, record)
        The decision, at a threshold that the attacker chose without knowing the answers.
    member : numpy.ndarray of bool, shape (model, record)
        The truth.
    partner : numpy.ndarray of int, shape (model,)
        The model with the complementary members, or -1.
    attack : str
        Name in tables and figures.
    description : str
        The attack with its parameters.
    n_excluded : int
        Pairs of a target and a record that could not be scored, such as for want of shadow models.
    seconds : float
        How long it took.
    """

    score: np.ndarray
    evaluated: np.ndarray
    predicted_member: np.ndarray
    member: np.ndarray
    partner: np.ndarray
    attack: str
    description: str = ""
    n_excluded: int = 0
    seconds: float = 0.0

    def among(self, records: ArrayLike) -> Self:
        """Return the same outcome, evaluated on some pairs only: a mask (record,) or (model, record)."""
        return dataclasses.replace(self, evaluated=self.evaluated & records)

    def resolvable(self, metric: str) -> bool:
        """Tell whether the evaluated pairs are enough for a metric: a rate must allow ten errors."""
        kind, _, rate = metric.partition("@")
        wrong = self.evaluated & (self.member if kind == "tnr" else ~self.member)
        return not rate or rates.resolvable(int(wrong.sum()), float(rate))

    def draws(self, *, decisions: bool = True, **options: Any) -> dict[str, tuple[float, np.ndarray]]:
        """Return each measure with its resamples; see `mialab.metrics.pooled_bootstrap` for the options.

        Outcomes that are evaluated on the same pairs are resampled alike by the same seed, so that differences of
        resamples are those of a joint bootstrap.
        """
        return intervals.pooled_draws(
            **self._sides(decisions), member=self.member, partner=self.partner, **options
        )

    def intervals(
        self, *, decisions: bool = True, confidence: float = 0.95, **options: Any
    ) -> dict[str, Interval]:
        """Return measures pooled over all evaluated pairs, with intervals, see `mialab.metrics.pooled_bootstrap`.

        Parameters
        ----------
        decisions : bool
            Whether decisions are evaluated, too.
        confidence, **options
            ``fprs``, ``fnrs``, ``n_resamples``, ``seed``, see `mialab.metrics.pooled_bootstrap`.
        """
        return intervals.pooled_bootstrap(
            **self._sides(decisions),
            member=self.member,
            partner=self.partner,
            confidence=confidence,
            **options,
        )

    def interval(self, metric: str = "auc", **options: Any) -> Interval:
        """Return one measure with its interval; NaN where the evaluated pairs are too few for a rate.

        Parameters
        ----------
        metric : str
            ``"auc"``, ``"tpr@0.01"`` (any rate), ``"tnr@0.001"``, ``"balanced_accuracy"``, ``"precision"``,
            ``"recall"`` or ``"f1"``.
        **options
            ``confidence``, ``n_resamples``, ``seed``, see `mialab.metrics.pooled_bootstrap`.
        """
        wanted = _wanted(metric)
        if not self._measurable(metric):
            return Interval(np.nan, np.nan, np.nan)
        return self.intervals(**wanted, **options)[metric]

    def minus(
        self, other: Outcome, metric: str = "auc", *, relative: bool = False, **options: Any
    ) -> Interval:
        """Return the difference of a measure, this one minus another, with an interval.

        Targets and records are resampled for both at once, so that what both have in common cancels.

        Parameters
        ----------
        other : Outcome
            On the same members.
        metric : str
            See `interval`.
        relative : bool
            Whether to divide the difference by the other.
        **options
            ``confidence``, ``n_resamples``, ``seed``, see `mialab.metrics.pooled_bootstrap`.

        Raises
        ------
        ValueError
            If the members differ.
        """
        wanted = _wanted(metric)
        if not (self._measurable(metric) and other._measurable(metric)):
            return Interval(np.nan, np.nan, np.nan)
        return self.differences(other, relative=relative, **wanted, **options)[metric]

    def differences(
        self, other: Outcome, *, relative: bool = False, decisions: bool = True, **options: Any
    ) -> dict[str, Interval]:
        """Return the differences of all measures, see `minus` and `mialab.metrics.pooled_difference`."""
        if self.member.shape != other.member.shape or (self.member != other.member).any():
            raise ValueError(
                "The games have different members, so their difference would mix defense and chance: "
                "play both with the same pool, n_models, canaries and seed."
            )
        return intervals.pooled_difference(
            self._sides(decisions),
            other._sides(decisions),
            member=self.member,
            partner=self.partner,
            relative=relative,
            **options,
        )

    def _sides(self, decisions: bool) -> dict[str, Any]:
        both = {"score": self.score, "evaluated": self.evaluated}
        return both | {"predicted_member": self.predicted_member} if decisions else both

    def _measurable(self, metric: str) -> bool:
        inside, outside = (self.evaluated & side for side in (self.member, ~self.member))
        return bool(inside.any() and outside.any()) and self.resolvable(metric)


def _wanted(metric: str) -> dict[str, Any]:
    """Say what must be computed for one metric."""
    kind, _, rate = metric.partition("@")
    if not rate:
        choose("metric", metric, ("auc", *DECISIONS, "tpr@0.01", "tnr@0.01"))
    elif kind not in ("tpr", "tnr"):
        raise ValueError(f"metric={metric!r} must be a rate such as 'tpr@0.01' or 'tnr@0.001', or 'auc'.")
    return {
        "decisions": metric in DECISIONS,
        "fprs": [float(rate)] if kind == "tpr" else [],
        "fnrs": [float(rate)] if kind == "tnr" else [],
    }
