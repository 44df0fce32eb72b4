"""Decision-boundary attacks: how far a record must be changed until the model labels it otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mialab.attacks.base import Attack, register
from mialab.attacks.calibrated import calibrated
from mialab.attacks.requirements import Requirements
from mialab.probes.boundary import Boundary

if TYPE_CHECKING:
    from mialab.games.base import Game


@dataclass(frozen=True, kw_only=True)
class BoundaryDistance(Attack):
    """Call a record a member if it is far from the decision boundary, which is found by predicted labels alone.

    The score is the distance that `mialab.probes.Boundary` measured, 0 where the record itself is labeled wrongly
    (Choquette-Choo et al., 2021, section 4.1; Li and Zhang, 2021). Where ``calibrated``, the mean distance in the
    shadow models that were not trained on the record (OUT) is subtracted, the difficulty calibration of Watson et al.
    (2022). Of these differences, which are often the same as many distances are 0, the threshold from shadow models,
    whose score holds the target's distance where it is no member, would give memberships away: the threshold then
    comes from a known half.

    Parameters
    ----------
    calibrated : bool
        Whether the distance is compared with that in OUT shadow models.
    per_class, calibrate
        See `Attack`.
    """

    calibrated: bool = False

    @property
    def needs(self) -> Requirements:
        """The probe, and models to compare with."""
        shadows, budget = "OUT" if self.calibrated else "none", f"about {Boundary().budget}"
        return Requirements(sees="label", probe="boundary", shadows=shadows, budget=budget)

    @property
    def calibrations(self) -> tuple[str, ...]:
        """Kinds of thresholds, see above."""
        return ("known_half",) if self.calibrated else ("shadows", "known_half")

    @property
    def source(self) -> str:
        """Papers."""
        papers = "Choquette-Choo et al. (2021), section 4.1; Li and Zhang (2021)"
        return papers + "; Watson et al. (2022)" * self.calibrated

    @property
    def name(self) -> str:
        """Name in tables and figures."""
        return super().name.removesuffix("_known_half" * self.calibrated)

    @property
    def base_name(self) -> str:
        """Name of the variant, ``"boundary_distance"`` or ``"calibrated_boundary_distance"``."""
        return "calibrated_" * self.calibrated + "boundary_distance"

    def scores(self, game: Game) -> np.ndarray:
        """Return the distances, as they are or less their mean in OUT shadow models, (model, record)."""
        score = game.boundary_distance
        return calibrated(score, game.member, game.excluded_models) if self.calibrated else score


register(BoundaryDistance)
register(partial(BoundaryDistance, calibrated=True))
