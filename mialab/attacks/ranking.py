"""An attack that uses the ranking of the classes only: the most that HAMP's output step leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mialab.attacks.base import Attack, register
from mialab.attacks.lira import lira
from mialab.attacks.requirements import Requirements

if TYPE_CHECKING:
    from mialab.games.base import Game


@dataclass(frozen=True, kw_only=True)
class Ranking(Attack):
    """Likelihood ratio of the label's rank among the classes, with shadow models as in LiRA.

    The statistic is ``-log(1 + rank)``, rank 0 being the predicted class. For each record, Gaussians with a variance
    pooled over records are fitted to it over the shadow models with and without the record; the score is the log
    likelihood ratio of the target's rank. This attack is ours: HAMP's output step leaves exactly the ranking, so it is
    what an attacker who knows the defense would turn to.

    Parameters
    ----------
    calibrate
        See `Attack`; the threshold of a likelihood ratio is 1.
    """

    base_name: ClassVar[str] = "ranking"
    needs: ClassVar[Requirements] = Requirements(sees="ranking", shadows="IN and OUT", pooled=True)
    calibrations: ClassVar[tuple[str, ...]] = ("ratio", "known_half")
    source: ClassVar[str] = "this study, after Carlini et al. (2022)"

    def scores(self, game: Game) -> np.ndarray:
        """Return the log likelihood ratio of the label's rank, (model, record)."""
        phi = -np.log1p(-game.signal("true_rank")[:, 0])
        return lira(phi, game.member, game.excluded_models, variance="pooled")


register(Ranking)
