"""Mixup training (Ji et al., 2023): critics see mixtures of two members only, never a member itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from mialab._validation import check_number, choose
from mialab.gan.defenses.base import Defense, register
from mialab.training.streams import Streams


@register
@dataclass(frozen=True)
class Mixup(Defense):
    """Train on ``lambda x_i + (1 - lambda) x_j``, with the labels mixed in the same fractions.

    The generator is given the mixed labels as well (algorithm 1 of Ji et al.); released records have hard labels.
    Partners come from a random permutation of each critic's batch, so a record is now and then its own partner. In the
    published code they come from a second pass over the members in another order: the same in distribution, but for
    the fact that here every record of a batch enters two mixtures of it.

    Parameters
    ----------
    alpha : float
        Parameter of the Beta(alpha, alpha) distribution of the fraction lambda, greater than 0; 1, the uniform
        distribution, is that of the published code, and the paper names no other.
    per : {"batch", "record"}
        One lambda for each batch of a model, as published, or one for each mixture.
    label : {"mixed", "dominant", "own"}
        The label of a mixture: both in their fractions, as published; that of the record with the greater fraction (of
        equal ones the first); or that of the first record whatever its fraction, so that images alone are mixed.

    References
    ----------
    Z. Ji, Q. Hu, L. Xiang and C. Zhou, "Mixup training for generative models to defend membership inference attacks",
    INFOCOM 2023, algorithm 1, and the code published with it.

    H. Zhang, M. Cisse, Y. Dauphin and D. Lopez-Paz, "mixup: Beyond empirical risk minimization", ICLR 2018.
    """

    name: ClassVar[str] = "mixup"
    alpha: float = 1.0
    per: str = "batch"
    label: str = "mixed"

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, above=0)
        choose("per", self.per, ("batch", "record"))
        choose("label", self.label, ("mixed", "dominant", "own"))

    def fractions(self, critics: int, batch: int, rng: Streams) -> torch.Tensor:
        """Draw the fraction of the first record of each mixture, in [0, 1], (model, 1, 1) or (model, critic, batch)."""
        size = (1, 1) if self.per == "batch" else (critics, batch)
        return rng.beta(self.alpha, self.alpha, *size)

    def mix(
        self, x: torch.Tensor, y: torch.Tensor, *, progress: float, rng: Streams
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mixtures and their labels, of the shapes of ``x`` and ``y``."""
        critics, batch = y.shape[1:3]
        partner = torch.stack([rng.permutation(batch) for _ in range(critics)], dim=1)
        fraction = self.fractions(critics, batch, rng)

        def mixed(values: torch.Tensor, fraction: torch.Tensor) -> torch.Tensor:
            flat = values.flatten(3)
            other = flat.gather(2, partner[..., None].expand(flat.shape))
            return torch.lerp(other, flat, fraction[..., None].to(flat.dtype)).view(values.shape)

        if self.label == "own":
            return mixed(x, fraction), y
        return mixed(x, fraction), mixed(
            y, (fraction >= 0.5).float() if self.label == "dominant" else fraction
        )
