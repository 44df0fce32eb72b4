"""PAR-GAN (Chen et al., 2021): one generator against several critics, none of which knows all members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mialab._validation import check_integer
from mialab.gan.defenses.base import Defense, register


@register
@dataclass(frozen=True)
class ParGAN(Defense):
    """Divide the members at random into equal, disjoint parts, one for each critic; one generator faces all critics.

    The generator's loss is the mean of its losses against all critics in every step, with generated records of its own
    for each, and every critic is updated in every step of the critics with a whole batch of its own members, so a step
    costs as much as the critics are many: all this as in the code published with the paper. (That of Ji et al., who
    have this defense as a baseline, trains the generator against the last critic only; it is not followed.)

    Parameters
    ----------
    critics : int
        Critics of each model, at least 2; 4 as in Ji et al. (2023), 5 or 10 in the published code.

    References
    ----------
    J. Chen, W. H. Wang, H. Gao and X. Shi, "PAR-GAN: Improving the generalization of generative adversarial networks
    against membership inference attacks", KDD 2021.
    """

    name: ClassVar[str] = "par_gan"
    critics: int = 4

    def __post_init__(self) -> None:
        check_integer("critics", self.critics, low=2)

    @property
    def n_critics(self) -> int:
        """Critics of a model."""
        return self.critics
