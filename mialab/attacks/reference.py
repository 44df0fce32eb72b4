"""Attacks that compare a loss with its distribution without membership, Attack-R and Attack-P (Ye et al., 2022)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mialab._validation import check_number
from mialab.attacks.base import Attack
from mialab.attacks.registry import register
from mialab.attacks.requirements import Requirements
from mialab.attacks.shadows import blocks, lost
from mialab.attacks.thresholds import known_half
from mialab.games.base import Game

#: Log probabilities below this count as equal; the greatest is 0. Between these the percentile is interpolated.
LEAST = -1000.0


def percentile(value: np.ndarray, reference: np.ndarray, dropped: np.ndarray | float = np.nan) -> np.ndarray:
    """Where values lie in the distributions of others, as a fraction.

    References in order, with `LEAST` before and 0 after them, have the fractions ``0, 1 / (n + 1), ..., 1``; between
    them the fraction is interpolated linearly, and among equal ones it is their mean. A value that is drawn like its n
    references reaches a fraction of ``1 - j / (n + 1)`` with probability ``j / (n + 1)``.

    Parameters
    ----------
    value : numpy.ndarray of float, shape (row, value)
        Log probabilities.
    reference : numpy.ndarray of float, shape (row, reference)
        What each row's values are compared with, infinity where there is nothing.
    dropped : numpy.ndarray of float, shape (row, value), optional
        For each value, one of its references that does not count; NaN for none.

    Returns
    -------
    numpy.ndarray of float64, shape (row, value)
        From 0 to 1, higher = higher than more references; 1/2 where there is no reference.
    """
    ends = np.broadcast_to([LEAST, 0.0], (len(reference), 2))
    points = np.sort(np.concatenate([ends, np.maximum(reference, LEAST)], axis=1))
    value, dropped = np.maximum(value, LEAST), np.maximum(dropped, LEAST)
    below, upto = np.empty((2, *value.shape), dtype=np.int64)
    for i, row in enumerate(points):
        below[i] = row.searchsorted(value[i], side="left")
        upto[i] = row.searchsorted(value[i], side="right")

    def point(index: np.ndarray) -> np.ndarray:
        return np.take_along_axis(points, index.clip(0, points.shape[1] - 1), axis=1)

    # A neighbor that does not count hides the next one.
    low = point(below - 1 - (point(below - 1) == dropped))
    high = point(upto + (point(upto) == dropped))
    equal = upto - below - (dropped == value)
    below = below - (dropped < value)
    between = np.divide(value - low, high - low, out=np.zeros_like(value), where=equal == 0)
    position = np.where(equal == 0, below - 1 + between, below + (equal - 1) / 2)
    n = np.isfinite(reference).sum(1, keepdims=True) - ~np.isnan(dropped)
    return np.where(n > 0, position / (n + 1), 0.5)


def attack_r(log_p: np.ndarray, member: np.ndarray, excluded_models: np.ndarray) -> np.ndarray:
    """Percentile of each model's log probabilities among those of its shadow models not trained on the record.

    Parameters
    ----------
    log_p : numpy.ndarray of float, shape (model, record)
        Log of the probability that every model gives to every record's label.
    member, excluded_models
        See `mialab.attacks.shadows.blocks`.

    Returns
    -------
    numpy.ndarray of float64, shape (target, record)
        See `percentile`.
    """
    score = np.empty(log_p.shape)
    for records, x, m, out in blocks(log_p, member, excluded_models):
        # Of the target and the model left out with it, at most one was not trained on the record.
        dropped = np.where(lost(1.0 - m, out) > 0, lost(np.where(m, 0, x), out), np.nan)
        score[:, records] = percentile(x.T, np.where(m, np.inf, x).T, dropped.T).T
    return score


def attack_p(log_p: np.ndarray, known: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Percentile of each model's log probabilities among those of its known non-members.

    Parameters
    ----------
    log_p : numpy.ndarray of float, shape (model, record)
        Log of the probability that every model gives to every record's label.
    known : numpy.ndarray of bool, shape (model, record)
        Which records the attacker knows to be no members of the model.
    groups : numpy.ndarray of int, shape (record,)
        Group of each record, e.g. its class; records are compared with those of their group.

    Returns
    -------
    numpy.ndarray of float64, shape (model, record)
        See `percentile`.
    """
    score = np.empty(log_p.shape)
    for group in np.unique(groups):
        here = np.flatnonzero(groups == group)
        for k, row in enumerate(log_p):
            records = here[row[here].argsort()]  # sorted values are found several times as fast
            score[k, records] = percentile(row[None, records], row[None, here[known[k, here]]])[0]
    return score


@dataclass(frozen=True, kw_only=True)
class _Percentile(Attack):
    """What both attacks share: the threshold."""

    alpha: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("alpha", self.alpha, above=0, high=1)

    @property
    def own_threshold(self) -> float:
        """The fraction that a non-member reaches with probability alpha."""
        return 1 - self.alpha


@dataclass(frozen=True, kw_only=True)
class AttackR(_Percentile):
    """Fraction of the reference models that give the record's label a lower probability than the target does.

    Reference models are the n shadow models that were not trained on the record (OUT). Where their losses are
    distributed like the target's on a non-member, a threshold of ``1 - alpha`` makes a fraction of alpha false
    positives (Ye et al., 2022, Attack R). Fractions are interpolated linearly between the reference models' losses,
    with 0 and 1,000 as the ends, as in the code published with the paper, so there are no large ties. But a
    false-positive rate below ``1 / (n + 1)`` rests on the interpolation alone, and is no bound: it takes many models.
    With a Gaussian instead, the attack is offline LiRA.

    Parameters
    ----------
    alpha : float
        False-positive rate that the attacker allows, for the threshold "level".
    """

    base_name: ClassVar[str] = "attack_r"
    needs: ClassVar[Requirements] = Requirements(shadows="OUT")
    calibrations: ClassVar[tuple[str, ...]] = ("level", "known_half")
    source: ClassVar[str] = "Ye et al. (2022), Attack R"

    def scores(self, game: Game) -> np.ndarray:
        """Return the fractions of the reference models, (model, record)."""
        return attack_r(game.signal("loss")[:, 0], game.member, game.excluded_models)


@dataclass(frozen=True, kw_only=True)
class AttackP(_Percentile):
    """Fraction of a population to whose labels the same model gives a lower probability.

    The population are records that the attacker knows to be no members: a random half of the target's. They are not
    evaluated, and neither is the half of the members that other attacks with a known half know. A threshold of
    ``1 - alpha`` makes a fraction of alpha false positives by construction, without any shadow model (Ye et al., 2022,
    Attack P). On one target, the fraction ranks records as the loss does; what it adds is this threshold, one scale for
    all targets and, with ``per_class=True``, for all classes. Interpolation is as in `AttackR`.

    Parameters
    ----------
    alpha : float
        False-positive rate that the attacker allows, for the threshold.
    per_class : bool
        Whether a record is compared with non-members of its own class only; where none is known, the fraction is 1/2.
    calibrate
        See `Attack`.
    """

    base_name: ClassVar[str] = "attack_p"
    needs: ClassVar[Requirements] = Requirements(known_half=2)
    calibrations: ClassVar[tuple[str, ...]] = ("level",)
    own_per_class: ClassVar[bool] = True
    source: ClassVar[str] = "Ye et al. (2022), Attack P"

    def scores(self, game: Game) -> np.ndarray:
        """Return the fractions of the population, (model, record)."""
        groups = game.y if self.per_class else np.zeros_like(game.y)
        return attack_p(game.signal("loss")[:, 0], known_half(game.member) & ~game.member, groups)


register(AttackR(), AttackP(), AttackP(per_class=True))
