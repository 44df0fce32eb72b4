"""Attacks on what probes measured while the model was at hand: distances from the boundary, norms of gradients."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mialab._validation import check_number
from mialab.attacks.base import Attack
from mialab.attacks.calibrated import Calibratable
from mialab.attacks.learned import fit
from mialab.attacks.registry import register
from mialab.attacks.requirements import Requirements
from mialab.attacks.thresholds import known_half
from mialab.games.base import Game
from mialab.probes.boundary import Boundary

#: Least number that a logarithm is taken of: float32 holds no smaller norms in full.
TINY = float(np.finfo(np.float32).tiny)


def log_norms(game: Game) -> np.ndarray:
    """Return the logarithms of the norms of each layer's gradients, float64 (model, record, layer)."""
    return np.log(np.maximum(game.gradient_norm, TINY))


@dataclass(frozen=True, kw_only=True)
class BoundaryDistance(Calibratable):
    """Call a record a member if it is far from the decision boundary, which is found by predicted labels alone.

    The score is the distance that `mialab.probes.Boundary` measured, 0 where the record itself is labeled wrongly
    (Choquette-Choo et al., 2021, section 4.1; Li and Zhang, 2021). As many distances are 0, differences from other
    models' (``calibrated``, see `mialab.attacks.calibrated.Calibratable`) are often the same, and the threshold from
    shadow models, whose score holds the target's distance where it is no member, would give memberships away: it then
    comes from a known half.
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


@dataclass(frozen=True, kw_only=True)
class GradientNorm(Calibratable):
    """Call a record a member if the gradient of its loss is small: training has ended where members' gradients do.

    The score is minus the logarithm of the L2 norm over all parameters (Nasr et al., 2019, section III; Rezaei and
    Liu, 2021, section 3).
    """

    paper: ClassVar[str] = "Nasr et al. (2019); Rezaei and Liu (2021)"

    @property
    def needs(self) -> Requirements:
        """The probe, and models to compare with."""
        return Requirements(sees="gradients", probe="gradient", shadows=self.shadows)

    @property
    def base_name(self) -> str:
        """Name of the variant, ``"gradient_norm"`` or ``"calibrated_gradient_norm"``."""
        return "calibrated_" * self.calibrated + "gradient_norm"

    def plain(self, game: Game) -> np.ndarray:
        """Return minus the log norms, (model, record)."""
        return -np.logaddexp.reduce(2 * log_norms(game), axis=-1) / 2


@dataclass(frozen=True, kw_only=True)
class WhiteBox(Attack):
    """A classifier for each target that sees gradients, trained on a half of its records that the attacker knows.

    Nasr et al. (2019, section III) train a network on the gradients of each layer, the outputs of the layers, the
    loss and the label of records whose membership is known. This is our small version: a logistic regression on the
    logarithm of the norm of each layer's gradient, the loss, and whether the label is predicted, with members and
    non-members weighted alike.

    The score is the log odds of membership; only records that were not known are evaluated.

    Parameters
    ----------
    penalty : float
        L2 penalty of the regressions; 1 is scikit-learn's default.
    per_class, calibrate
        See `Attack`; the threshold of the log odds is 0, for all classes.
    """

    base_name: ClassVar[str] = "white_box"
    needs: ClassVar[Requirements] = Requirements(sees="gradients", probe="gradient", known_half=4)
    calibrations: ClassVar[tuple[str, ...]] = ("ratio",)
    source: ClassVar[str] = "Nasr et al. (2019), section III, on norms of gradients"
    no_per_class: ClassVar[str] = "the threshold of log odds is 0 for all classes"

    penalty: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("penalty", self.penalty, above=0)

    def scores(self, game: Game) -> np.ndarray:
        """Return the log odds of membership, (model, record)."""
        answers = np.stack([game.signal(name)[:, 0] for name in ("loss", "correctness")], axis=-1)
        features = np.concatenate([log_norms(game), answers], axis=-1)
        known, score = known_half(game.member), np.empty(game.member.shape)
        for k, x in enumerate(features):
            options = {"C": 1 / self.penalty, "class_weight": "balanced"}
            score[k] = fit("logistic", x[known[k]], game.member[k, known[k]], **options).decision_function(x)
        return score


register(BoundaryDistance(), BoundaryDistance(calibrated=True))
register(GradientNorm(), GradientNorm(calibrated=True), WhiteBox())
