"""Attacks that compare one number per record with a threshold, as read off a single answer."""

from dataclasses import dataclass

import numpy as np

from mialab.attacks.calibrated import Calibratable, check_values
from mialab.attacks.registry import register
from mialab.attacks.requirements import Requirements
from mialab.games.base import Game

SOURCES = {
    "loss": "Yeom et al. (2018), adversary 1",
    "confidence": "Song and Mittal (2021), section 3.2",
    "entropy": "Song and Mittal (2021), section 3.2",
    "modified_entropy": "Song and Mittal (2021), equation 8",
    "correctness": "Yeom et al. (2018), section 3.2: the gap attack",
}


@dataclass(frozen=True, kw_only=True)
class Threshold(Calibratable):
    """Call a record a member if one number of the answer to it is high.

    Parameters
    ----------
    signal : str
        The number: the name of a signal of the victim, e.g. ``"loss"`` or ``"entropy"`` of a classifier (see
        `mialab.classifiers.signals`), ``"critic_loss"`` of a generator.
    calibrated : bool
        Whether it is compared with that of other models (Watson et al., 2022), see `Calibratable`; of the loss, the
        difference is a log ratio of probabilities, close to offline RMIA's; of the scaled logit, it ranks a target's
        records as offline LiRA with a pooled variance does.
    """

    signal: str = "loss"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calibrated:
            check_values(self.signal)

    @property
    def base_name(self) -> str:
        """Name of the signal, e.g. ``"loss"`` or ``"calibrated_loss"``."""
        return "calibrated_" * self.calibrated + self.signal

    @property
    def needs(self) -> Requirements:
        """The gap attack needs the predicted label only."""
        return Requirements.of_signal(self.signal, shadows=self.shadows)

    @property
    def paper(self) -> str:
        """Paper and equation."""
        return SOURCES.get(self.signal, SOURCES["loss"])

    def plain(self, game: Game) -> np.ndarray:
        """Return the signal of the answer to the unchanged record, (model, record)."""
        return game.signal(self.signal)[:, 0]


for _signal in SOURCES:
    register(Threshold(signal=_signal), Threshold(signal=_signal, per_class=True))
    if _signal != "correctness":
        register(Threshold(signal=_signal, calibrated=True))
