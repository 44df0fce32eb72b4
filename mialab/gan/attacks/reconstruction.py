"""GAN-Leaks with the generator at hand: how well it can be made to generate a record."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mialab._validation import choose
from mialab.attacks.base import Attack, register
from mialab.attacks.calibrated import calibrated
from mialab.attacks.requirements import Requirements
from mialab.gan.probes import PartialBlackBox, WhiteBox

if TYPE_CHECKING:
    from mialab.gan.game import GeneratorGame

PROBES: dict[str, type[WhiteBox | PartialBlackBox]] = {"white_box": WhiteBox, "partial": PartialBlackBox}


@dataclass(frozen=True, kw_only=True)
class Reconstruction(Attack):
    """Call a record a member if the generator can be made to generate something close to it.

    The score is minus the error that `mialab.gan.probes.WhiteBox` or `PartialBlackBox` measured (Chen et al., 2020,
    sections 5.4 and 5.3). Where ``calibrated``, the mean error of the shadow generators that were not trained on the
    record (OUT) is subtracted from the error, as the paper does with a single reference generator (section 5.6). Only
    records that were queried are evaluated.

    Parameters
    ----------
    access : {"white_box", "partial"}
        What the attacker has: the generator itself, or an interface that generates a record from a given z.
    calibrated : bool
        Whether the error is compared with that of OUT shadow generators.
    per_class, calibrate
        See `Attack`.
    """

    access: str = "white_box"
    calibrated: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("access", self.access, PROBES)

    @property
    def needs(self) -> Requirements:
        """The probe that measures the errors, and models to compare with."""
        white_box = self.access == "white_box"
        return Requirements(
            victim="generator",
            sees="generator" if white_box else "latents and samples",
            probe=PROBES[self.access].name,
            shadows="OUT" if self.calibrated else "none",
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

    def usable(self, game: GeneratorGame) -> np.ndarray:
        """Tell which records all models were queried, bool (record,)."""
        return ~np.isnan(self._errors(game)).any(0)

    def _errors(self, game: GeneratorGame) -> np.ndarray:
        return -game.signal(PROBES[self.access].array.name)[:, 0]

    def scores(self, game: GeneratorGame) -> np.ndarray:
        """Return minus the errors, as they are or compared with OUT shadow generators, (model, record)."""
        score = -self._errors(game)
        return calibrated(score, game.member, game.excluded_models) if self.calibrated else score


for _access in PROBES:
    register(partial(Reconstruction, access=_access))
    register(partial(Reconstruction, access=_access, calibrated=True))
