"""Decision-boundary attacks: how far a record must be changed until the model labels it otherwise."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mialab.attacks.calibrated import Calibratable
from mialab.attacks.registry import register
from mialab.attacks.requirements import Requirements
from mialab.games.base import Game
from mialab.probes.boundary import Boundary


@dataclass(frozen=True, kw_only=True)
class BoundaryDistance(Calibratable):
    """Call a record a member if it is far from the decision boundary, which is found by predicted labels alone.

    The score is the distance that `mialab.probes.Boundary` measured, 0 where the record itself is labeled wrongly
    (Choquette-Choo et al., 2021, section 4.1; Li and Zhang, 2021). As many distances are 0, differences from other
    models' are often the same, and the threshold from shadow models, whose score holds the target's distance where it
    is no member, would give memberships away: the threshold then comes from a known half.

    Parameters
    ----------
    calibrated, per_class, calibrate
        See `Calibratable`.
    """

    paper: ClassVar[str] = "Choquette-Choo et al. (2021), section 4.1; Li and Zhang (2021)"

    @property
    def needs(self) -> Requirements:
        """The probe, and models to compare with."""
        budget = f"about {Boundary().budget}"
        return Requirements(sees="label", probe="boundary", shadows=self.shadows, budget=budget)

    @property
    def calibrations(self) -> tuple[str, ...]:
        """Kinds of thresholds, see above."""
        return ("known_half",) if self.calibrated else ("shadows", "known_half")

    @property
    def name(self) -> str:
        """Name in tables and figures."""
        return super().name.removesuffix("_known_half" * self.calibrated)

    @property
    def base_name(self) -> str:
        """Name of the variant, ``"boundary_distance"`` or ``"calibrated_boundary_distance"``."""
        return "calibrated_" * self.calibrated + "boundary_distance"

    def plain(self, game: Game) -> np.ndarray:
        """Return the distances, (model, record)."""
        return game.boundary_distance


register(BoundaryDistance(), BoundaryDistance(calibrated=True))
