"""Difficulty calibration: a score against what other models give without the record (Watson et al., 2022)."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mialab.attacks.base import Attack
from mialab.attacks.shadows import blocks, lost
from mialab.games.base import Game

#: Signals of few values: of so few different scores, the threshold from shadow models, whose score holds
#: the target's answer where it is no member, would give memberships away.
TOO_FEW = ("correctness", "true_rank")


def check_values(signal: str) -> None:
    """Refuse a signal whose differences from other models' are often equal (ValueError)."""
    if signal in TOO_FEW:
        raise ValueError(f"signal={signal!r} has too few values: take one such as 'loss'.")


def calibrated(values: np.ndarray, member: np.ndarray, excluded_models: np.ndarray) -> np.ndarray:
    """Subtract from every model's values the mean over its shadow models that were not trained on the record.

    Parameters
    ----------
    values, member, excluded_models
        See `mialab.attacks.shadows.blocks`. Without any shadow model not trained on a record, its score means nothing.

    Returns
    -------
    numpy.ndarray of float64, shape (target, record)
    """
    score = np.empty(values.shape)
    for records, x, m, out in blocks(values, member, excluded_models):
        x = x - x[0]  # the difference asked for stays the same, and is exactly 0 where all answers are equal
        outside = (~m).astype(np.float64)
        own = outside * x
        n = np.maximum(outside.sum(0) - lost(outside, out), 1)
        score[:, records] = x - (own.sum(0) - lost(own, out)) / n
    return score


@dataclass(frozen=True, kw_only=True)
class Calibratable(Attack):
    """Base class of attacks whose score may be compared with that of other models: subclasses compute `plain`.

    Subclasses have this parameter too.

    Parameters
    ----------
    calibrated : bool
        Whether the mean score of the shadow models that were not trained on the record (OUT) is subtracted: records
        differ in difficulty, and the threshold is then one for each (Watson et al., 2022). Shadow models that were
        trained on the record (IN) are not needed.
    """

    #: Paper and equation of the score itself.
    paper: ClassVar[str]

    calibrated: bool = False

    @property
    def source(self) -> str:
        """Papers."""
        return self.paper + "; Watson et al. (2022)" * self.calibrated

    @property
    def shadows(self) -> str:
        """Shadow models that the score needs."""
        return "OUT" if self.calibrated else "none"

    @abstractmethod
    def plain(self, game: Game) -> np.ndarray:
        """Return the scores before any comparison, float64 (model, record)."""

    def scores(self, game: Game) -> np.ndarray:
        """Return the scores, as they are or less their mean over OUT shadow models, (model, record)."""
        score = self.plain(game)
        return calibrated(score, game.member, game.excluded_models) if self.shadows == "OUT" else score
