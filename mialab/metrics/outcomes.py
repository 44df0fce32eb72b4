"""What an attack found in a game, with its statistics."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from mialab.metrics.calibration import Concentration, concentration
from mialab.metrics.estimates import Estimate
from mialab.metrics.influence import Cells
from mialab.metrics.intervals import Interval


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

    @cached_property
    def cells(self) -> Cells:
        """All evaluated pairs as one sample."""
        return Cells(
            self.score,
            self.member,
            evaluated=self.evaluated,
            partner=self.partner,
            predicted_member=self.predicted_member,
        )

    def resolvable(self, metric: str) -> bool:
        """Tell whether the evaluated pairs are enough for a metric: a rate must allow ten errors."""
        return self.cells.resolvable(metric)

    def estimate(self, metric: str = "auc") -> Estimate:
        """Return one measure, pooled over all evaluated pairs, with the influence of every record and target.

        Parameters
        ----------
        metric : str
            ``"auc"``, ``"tpr@0.01"`` or ``"calibrated_tpr@0.01"`` (any rate), ``"tnr@0.001"``,
            ``"balanced_accuracy"``, ``"precision"``, ``"recall"`` or ``"f1"``.

        Returns
        -------
        Estimate
            Its value is NaN where the evaluated pairs are too few for a rate. Estimates on the same members may be
            subtracted and divided, and have an `interval`.
        """
        if self.resolvable(metric):
            return self.cells.estimate(metric)
        pairs, records = self.cells.among
        return Estimate(np.nan, np.zeros((pairs.size, records.size)), pairs, records)

    def interval(self, metric: str = "auc", *, confidence: float = 0.95) -> Interval:
        """Return one measure with its interval over targets and records; see `estimate` and `Estimate.interval`."""
        return self.estimate(metric).interval(confidence)

    def minus(
        self, other: Outcome, metric: str = "auc", *, relative: bool = False, confidence: float = 0.95
    ) -> Interval:
        """Return the difference of a measure, this one minus another, with an interval.

        What both have in common, such as records that are easy to tell, cancels.

        Parameters
        ----------
        other : Outcome
            On the same members.
        metric : str
            See `estimate`.
        relative : bool
            Whether to divide the difference by the other.
        confidence : float
            Coverage of the interval.

        Raises
        ------
        ValueError
            If the members differ.
        """
        if self.member.shape != other.member.shape or (self.member != other.member).any():
            raise ValueError(
                "The games have different members, so their difference would mix defense and chance: "
                "play both with the same pool, n_models, canaries and seed."
            )
        first, second = self.estimate(metric), other.estimate(metric)
        difference = first - second
        return (difference / second if relative else difference).interval(confidence)

    def concentration(self, fpr: float, *, fraction: float = 0.01, calibrated: bool = False) -> Concentration:
        """Tell how evenly the false alarms at a pooled false-positive rate fall on records.

        Parameters
        ----------
        fpr : float
            The false-positive rate.
        fraction : float
            Of the records: those with the most false alarms.
        calibrated : bool
            Whether scores are calibrated record by record first, see `mialab.metrics.Cells.calibrated`.
        """
        cells = self.cells.calibrated if calibrated else self.cells
        counted = cells.evaluated & ~self.member
        return concentration(cells.score >= cells.curve.at(fpr).threshold, counted, fraction=fraction)
