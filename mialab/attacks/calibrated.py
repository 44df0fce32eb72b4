"""Difficulty calibration: a record's answer against what other models answer without it (Watson et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mialab.attacks.base import Attack, register
from mialab.attacks.requirements import Requirements
from mialab.attacks.shadows import blocks, lost

if TYPE_CHECKING:
    from mialab.games.base import Game

#: Signals of few values: of so few different scores, the threshold from shadow models, whose score holds
#: the target's answer where it is no member, would give memberships away.
TOO_FEW = ("correctness", "true_rank")


def calibrated(values: np.ndarray, member: np.ndarray, excluded_models: np.ndarray) -> np.ndarray:
    """Subtract from every model's values the mean over its shadow models that were not trained on the record.

    Parameters
    ----------
    values : numpy.ndarray of float, shape (model, record)
        A statistic of every model's answer to every record.
    member : numpy.ndarray of bool, shape (model, record)
        Which model was trained on which record. Without any shadow model not trained on it, a score means nothing.
    excluded_models : numpy.ndarray of int, shape (target, record)
        The model that is no shadow besides the target itself, -1 for none; see `Game.excluded_models`.

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
class Calibrated(Attack):
    """Call a record a member if one number of the answer is higher than models that never saw the record expect.

    The score is ``s(x, y | target) - mean of s(x, y | OUT shadow models)``: the threshold on the statistic ``s`` is one
    for each record, by its difficulty (Watson et al., 2022). Shadow models trained on the record (IN) are not
    needed.

    Parameters
    ----------
    statistic : str
        The number: the name of a signal of the victim, see `Threshold`. With the loss, the score is a log ratio of
        probabilities, close to offline RMIA's; with the scaled logit, it ranks a target's records as offline LiRA with
        a pooled variance does.
    per_class, calibrate
        See `Attack`.
    """

    source: ClassVar[str] = "Watson et al. (2022)"

    statistic: str = "loss"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.statistic in TOO_FEW:
            raise ValueError(f"statistic={self.statistic!r} has too few values: take one such as 'loss'.")

    @property
    def needs(self) -> Requirements:
        """Shadow models that were not trained on the record."""
        return Requirements.of_signal(self.statistic, shadows="OUT")

    @property
    def base_name(self) -> str:
        """Name of the variant, e.g. ``"calibrated_loss"``."""
        return f"calibrated_{self.statistic}"

    def scores(self, game: Game) -> np.ndarray:
        """Return the statistic less its mean over OUT shadow models, (model, record)."""
        return calibrated(game.signal(self.statistic)[:, 0], game.member, game.excluded_models)


for _statistic in ("loss", "confidence", "entropy", "modified_entropy"):
    register(partial(Calibrated, statistic=_statistic))
