"""LOGAN: what a critic says of a record (Hayes et al., 2019)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mialab._validation import choose
from mialab.attacks.base import Attack
from mialab.attacks.registry import register
from mialab.attacks.requirements import Requirements
from mialab.games.base import Game

#: Which signal is what the critics say.
SIGNALS = {"mean": "critic", "max": "critic_max"}


def centered(answers: np.ndarray) -> np.ndarray:
    """Subtract from what each model's critic says the median over the records that it was queried about.

    A Wasserstein critic is trained on differences alone: a constant added to all that it says changes nothing. So a
    threshold can be shared by several models only after their constants are gone; within a model, the order of the
    records stays the same.

    Parameters
    ----------
    answers : numpy.ndarray of float, shape (model, record)
        What the critics say.

    Returns
    -------
    numpy.ndarray of float64, shape (model, record)
    """
    answers = np.asarray(answers, dtype=np.float64)
    return answers - np.median(answers, axis=1, keepdims=True)


@dataclass(frozen=True, kw_only=True)
class Logan(Attack):
    """Call a record a member if the model's own critic takes it for real, the white-box form of LOGAN.

    The score is what the critic says of the record with its label, before any sigmoid, less the median over all
    records. The paper ranks the records of one target and calls as many of them members as there are, which with half
    of the records as members is a threshold of 0; the median is ours [assumed], so that scores of several targets may
    be compared, see `centered`.

    Parameters
    ----------
    critics : {"mean", "max"}
        For models with several critics, what is taken of all they say. Each critic saw another part of the members, so
        the largest finds a member of any part.
    """

    source: ClassVar[str] = "Hayes et al. (2019), white box"

    critics: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("critics", self.critics, SIGNALS)

    @property
    def base_name(self) -> str:
        """Name of the variant: ``"logan"`` or ``"logan_max"``."""
        return "logan" + "_max" * (self.critics == "max")

    @property
    def needs(self) -> Requirements:
        """What the critics say."""
        return Requirements.of_signal(SIGNALS[self.critics])

    def scores(self, game: Game) -> np.ndarray:
        """Return what the critics say of the records themselves, centered, (model, record)."""
        return centered(game.signal(SIGNALS[self.critics])[:, 0])


@dataclass(frozen=True, kw_only=True)
class LoganBlackBox(Attack):
    """Call a record a member if the critic of a GAN that was trained on the model's samples takes it for real.

    The black-box form of LOGAN without auxiliary knowledge; see `mialab.gan.probes.ShadowCritic` and, for the median
    that is subtracted, `Logan`. Records that the probe did not query are not evaluated.
    """

    base_name: ClassVar[str] = "logan_black_box"
    needs: ClassVar[Requirements] = Requirements(
        victim="generator", sees="samples", probe="shadow_critic", signal="shadow_critic"
    )
    source: ClassVar[str] = "Hayes et al. (2019), black box"

    def scores(self, game: Game) -> np.ndarray:
        """Return what the critics that were trained on samples say, centered, (model, record)."""
        return centered(game.shadow_critic)


for _critics in SIGNALS:
    register(Logan(critics=_critics))
register(LoganBlackBox())
