"""GAN-Leaks with the generator at hand: how well it can be made to generate a record."""

from dataclasses import dataclass

import numpy as np

from mialab._validation import choose
from mialab.attacks.calibrated import Calibratable
from mialab.attacks.registry import register
from mialab.attacks.requirements import Requirements
from mialab.games.base import Game
from mialab.gan.probes import PartialBlackBox, WhiteBox

PROBES: dict[str, type[WhiteBox | PartialBlackBox]] = {"white_box": WhiteBox, "partial": PartialBlackBox}


@dataclass(frozen=True, kw_only=True)
class Reconstruction(Calibratable):
    """Call a record a member if the generator can be made to generate something close to it.

    The score is minus the error that `mialab.gan.probes.WhiteBox` or `PartialBlackBox` measured (Chen et al., 2020,
    sections 5.4 and 5.3); the paper calibrates it with a single reference generator (section 5.6). Only records that
    were queried are evaluated.

    Parameters
    ----------
    access : {"white_box", "partial"}
        What the attacker has: the generator itself, or an interface that generates a record from a given z.
    """

    access: str = "white_box"

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("access", self.access, PROBES)

    @property
    def needs(self) -> Requirements:
        """The probe that measures the errors, and models to compare with."""
        white_box = self.access == "white_box"
        return Requirements.of_signal(
            PROBES[self.access].array.name,
            probe=PROBES[self.access].name,
            shadows=self.shadows,
            budget=str(WhiteBox().steps if white_box else PartialBlackBox().evaluations),
        )

    @property
    def source(self) -> str:
        """Paper."""
        section = {"white_box": "5.4", "partial": "5.3"}[self.access]
        return f"Chen et al. (2020), section{'s' * self.calibrated} {section}" + " and 5.6" * self.calibrated

    @property
    def base_name(self) -> str:
        """Name of the variant, e.g. ``"gan_leaks_white_box"`` or ``"gan_leaks_partial_calibrated"``."""
        return f"gan_leaks_{self.access}" + "_calibrated" * self.calibrated

    def plain(self, game: Game) -> np.ndarray:
        """Return minus the errors, (model, record)."""
        return game.signal(self.needs.signal)[:, 0]


for _access in PROBES:
    register(Reconstruction(access=_access), Reconstruction(access=_access, calibrated=True))
