"""What a defender of a generative model may change: hooks of the training, each doing nothing by default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn.functional import softplus

from mialab._validation import choose

if TYPE_CHECKING:
    from mialab.data.pool import Pool
    from mialab.gan.run import Run
    from mialab.gan.training import Training
    from mialab.training.streams import Streams


@dataclass(frozen=True)
class Defense:
    """No defense: a plain conditional GAN. Base class of every defense, which overrides what it changes.

    A model may have several critics, each of which sees a part of the members of its own, and one generator for all of
    them or one for each. Tensors have the dimensions (model, critic) in front: records ``(model, critic, batch, ...)``,
    labels, which may be mixed, as rows of weights ``(model, critic, batch, classes)``, and what critics say
    ``(model, critic, batch)``. Hyper-parameters are the fields of the dataclass; they are part of a game's hash.
    """

    name: ClassVar[str] = "none"
    #: Objective that the defense needs whatever the training says, see `mialab.gan.Training`; None for any.
    objective: ClassVar[str | None] = None

    @property
    def n_critics(self) -> int:
        """Critics of a model, each with an equal, disjoint part of the members."""
        return 1

    @property
    def n_generators(self) -> int:
        """Generators of a model: 1, or one for each critic."""
        return 1

    def check(self, pool: Pool, training: Training, members: int) -> None:
        """Refuse, before any training, what this defense cannot protect (ValueError).

        Parameters
        ----------
        pool : Pool
            The records.
        training : Training
            How models are trained.
        members : int
            Members of each model.
        """

    def about(self, training: Training, members: int) -> dict[str, float]:
        """Return values that follow from the parameters, such as epsilon, for the game's attributes."""
        return {}

    def start(self, run: Run) -> None:
        """Look at or change the training before its first step; ``run.memory`` keeps what a defense remembers."""

    def mix(self, x: torch.Tensor, y: torch.Tensor, *, rng: Streams) -> tuple[torch.Tensor, torch.Tensor]:
        """Change a batch of members before the critics see it, given as (model, critic, batch, ...).

        Parameters
        ----------
        x, y : torch.Tensor
            The batch: records, and labels as rows of weights.
        rng : Streams
            Random numbers, a stream a model.
        """
        return x, y

    def critic_loss(self, real: torch.Tensor, fake: torch.Tensor, *, run: Run) -> torch.Tensor:
        """Return the loss of each critic, shape (model, critic), without the gradient penalty.

        Parameters
        ----------
        real, fake : torch.Tensor, shape (model, critic, batch)
            What critics say of members and of generated records.
        run : Run
            The running training.
        """
        return critic_loss(run.objective, real, fake)

    def critic_step(self, run: Run) -> torch.Tensor:
        """Update the critics once; return the labels of the batch, (model, critic, batch, classes)."""
        return run.critic_step()

    def generator_loss(self, said: torch.Tensor, fake: torch.Tensor, *, run: Run) -> torch.Tensor:
        """Return the loss of the generators, one number for each critic, shape (model, critic).

        Parameters
        ----------
        said : torch.Tensor, shape (model, critic, batch)
            What critics say of generated records.
        fake : torch.Tensor, shape (model, critic, batch, ...)
            Those records, in [0, 1].
        run : Run
            The running training.
        """
        return generator_loss(run.objective, said)

    def after_generator_step(self, run: Run, fake: torch.Tensor) -> None:
        """Look at the generated records (without gradient) after the generators were updated with them."""


def critic_loss(objective: str, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Loss of critics: of Wasserstein GANs (Arjovsky et al., 2017), or binary cross-entropy (Goodfellow et al., 2014).

    Parameters
    ----------
    objective : {"wgan-gp", "bce"}
        Which; the gradient penalty is not part of it.
    real, fake : torch.Tensor, shape (..., batch)
        What critics say of members and of generated records, as logits for ``"bce"``.

    Returns
    -------
    torch.Tensor, shape (...)
    """
    if objective == "wgan-gp":
        return fake.mean(-1) - real.mean(-1)
    return softplus(-real).mean(-1) + softplus(fake).mean(-1)


def generator_loss(objective: str, said: torch.Tensor) -> torch.Tensor:
    """Loss of generators: minus what critics say, or the non-saturating form of the binary cross-entropy.

    Parameters
    ----------
    objective : {"wgan-gp", "bce"}
        Which.
    said : torch.Tensor, shape (..., batch)
        What critics say of generated records.

    Returns
    -------
    torch.Tensor, shape (...)
    """
    return -said.mean(-1) if objective == "wgan-gp" else softplus(-said).mean(-1)


DEFENSES: dict[str, type[Defense]] = {}


def register(defense: type[Defense]) -> type[Defense]:
    """Make a defense known by its name (class decorator)."""
    DEFENSES[defense.name] = defense
    return defense


register(Defense)


def make(defense: str | Defense | None) -> Defense:
    """Return the defense that is named, with its default parameters; an instance is returned as it is.

    Parameters
    ----------
    defense : str, Defense or None
        A name of ``mialab.gan.defenses.available()``, an instance such as ``Mixup(alpha=0.2)``, or None for none.
    """
    if isinstance(defense, Defense):
        return defense
    if isinstance(defense, type) and issubclass(defense, Defense):
        return defense()
    return DEFENSES[choose("defense", "none" if defense is None else defense, DEFENSES)]()


def available() -> list[str]:
    """Return the names of all defenses of generative models."""
    return sorted(DEFENSES)
