"""What a defender of a generative model may change: hooks of the training, each doing nothing by default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch.nn.functional import softplus

from mialab._registry import Registry
from mialab.gan.networks import GAN
from mialab.training.hooks import AnyRun, Hooks


class Run(AnyRun, Protocol):
    """What hooks and probes see of a group of GANs in training, see `mialab.gan.run.Run`."""

    networks: GAN
    objective: str
    iteration: int
    batch_size: int
    n_classes: int
    latent: int
    n_critics: int
    n_generators: int
    critics: Any
    generators: Any
    step: Callable[[torch.Tensor], torch.Tensor]
    generator_step: Callable[[torch.Tensor], torch.Tensor]
    onehot: Callable[[torch.Tensor], torch.Tensor]
    generate: Callable[..., torch.Tensor]
    evaluate: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    evaluate_records: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    sample: Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Defense(Hooks):
    """No defense: a plain conditional GAN. Base class of every defense, which overrides what it changes.

    A model may have several critics, each of which sees a part of the members of its own, and one generator for all of
    them or one for each. Tensors have the dimensions (model, critic) in front: records ``(model, critic, batch, ...)``,
    labels, which may be mixed, as rows of weights ``(model, critic, batch, classes)``, and what critics say
    ``(model, critic, batch)``. Hyper-parameters are the fields of the dataclass; they are part of a game's hash.
    """

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

    def critic_loss(self, real: torch.Tensor, fake: torch.Tensor, *, run: Run) -> torch.Tensor:
        """Return the loss of each critic, shape (model, critic), without the gradient penalty.

        By default that of Wasserstein GANs (Arjovsky et al., 2017), or binary cross-entropy (Goodfellow et al., 2014).

        Parameters
        ----------
        real, fake : torch.Tensor, shape (model, critic, batch)
            What critics say of members and of generated records, as logits for ``"bce"``.
        run : Run
            The running training, with its ``objective``: ``"wgan-gp"`` or ``"bce"``.
        """
        if run.objective == "wgan-gp":
            return fake.mean(-1) - real.mean(-1)
        return softplus(-real).mean(-1) + softplus(fake).mean(-1)

    def generator_loss(self, answers: torch.Tensor, fake: torch.Tensor, *, run: Run) -> torch.Tensor:
        """Return the loss of the generators, one number for each critic, shape (model, critic).

        By default minus what critics say, or the non-saturating form of the binary cross-entropy.

        Parameters
        ----------
        answers : torch.Tensor, shape (model, critic, batch)
            What critics say of generated records.
        fake : torch.Tensor, shape (model, critic, batch, ...)
            Those records, in [0, 1].
        run : Run
            The running training.
        """
        return -answers.mean(-1) if run.objective == "wgan-gp" else softplus(-answers).mean(-1)

    def generator_step(self, run: Run, y: torch.Tensor) -> torch.Tensor:
        """Update the generators once for labels ``y``; return the generated records, without gradient."""
        return run.generator_step(y)


#: Every defense by name.
DEFENSES: Registry[Defense] = Registry("defense", Defense, Defense)
register, available, make = DEFENSES.register, DEFENSES.available, DEFENSES.make
