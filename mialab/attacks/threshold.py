"""Attacks that compare one number per record with a threshold, as read off a single answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mialab.attacks.base import Attack, register
from mialab.attacks.requirements import Requirements

if TYPE_CHECKING:
    from mialab.games.base import Game

SOURCES = {
    "loss": "Yeom et al. (2018), adversary 1",
    "confidence": "Song and Mittal (2021), section 3.2",
    "entropy": "Song and Mittal (2021), section 3.2",
    "modified_entropy": "Song and Mittal (2021), equation 8",
    "correctness": "Yeom et al. (2018), section 3.2: the gap attack",
}


@dataclass(frozen=True, kw_only=True)
class Threshold(Attack):
    """Call a record a member if one number of the answer to it is high.

    Parameters
    ----------
    statistic : str
        The number: the name of a signal of the victim, e.g. ``"loss"`` or ``"entropy"`` of a classifier (see
        `mialab.classifiers.signals`), ``"critic_loss"`` of a generator.
    per_class, calibrate
        See `Attack`.
    """

    statistic: str = "loss"

    def __post_init__(self) -> None:
        super().__post_init__()

    @property
    def base_name(self) -> str:
        """Name of the statistic."""
        return self.statistic

    @property
    def needs(self) -> Requirements:
        """The gap attack needs the predicted label only."""
        return Requirements.of_signal(self.statistic)

    @property
    def source(self) -> str:
        """Paper and equation."""
        return SOURCES.get(self.statistic, SOURCES["loss"])

    def scores(self, game: Game) -> np.ndarray:
        """Return the statistic of the answer to the unchanged record, (model, record)."""
        return game.signal(self.statistic)[:, 0]


for _statistic in SOURCES:
    for _per_class in (False, True):
        register(partial(Threshold, statistic=_statistic, per_class=_per_class))
