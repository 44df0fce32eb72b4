"""What a defender of a classifier may change: the hooks of its training, each doing nothing by default."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, Self

import numpy as np
import torch
from torch import nn

from mialab._registry import Registry
from mialab.training.hooks import AnyRun, Hooks
from mialab.training.options import Training
from mialab.training.stack import Forward
from mialab.training.streams import Streams


def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy per record, for hard or soft targets and any leading dimensions.

    Parameters
    ----------
    logits : torch.Tensor, shape (..., batch, classes)
        Answers of the models.
    target : torch.Tensor, shape (..., batch) of int64 or (..., batch, classes) of float
        Labels, or a distribution over classes for each record.

    Returns
    -------
    torch.Tensor, shape (..., batch)
        In nats.
    """
    log_p = torch.log_softmax(logits, dim=-1)
    if target.is_floating_point():
        return -(target * log_p).sum(-1)
    return -log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1)


class Run(AnyRun, Protocol):
    """What hooks and probes see of a group of classifiers in training; see `mialab.classifiers.run.Run`."""

    defense: Defense
    training: Training
    epoch: int
    progress: float | None
    mode: Literal["stacked", "sequential"]
    network: nn.Module
    parameters: dict[str, torch.Tensor]
    optimizer: torch.optim.Optimizer
    x: torch.Tensor
    y: torch.Tensor
    members: torch.Tensor

    def shuffled(self) -> Iterator[torch.Tensor]:
        """Yield the batches of an epoch: members in random order."""

    def step(self, batch: torch.Tensor) -> None:
        """Update the networks once with the gradient of the mean loss of a batch."""

    def losses(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the loss of each record of a batch, with gradient."""

    def descend(self, loss: torch.Tensor) -> None:
        """Take the optimizer's step along the gradient of each model's loss."""

    def set_gradients(self, gradients: Sequence[dict[str, torch.Tensor]]) -> None:
        """Set the gradients of all parameters, given those of each model."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Answer inputs (model, batch, ...) as in training, with gradient."""

    def reset_optimizer(self) -> None:
        """Build the optimizer anew."""

    def predict(self, x: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Answer inputs, the same for every model or one set a model, in evaluation mode."""

    def inputs(self, records: slice | torch.Tensor) -> torch.Tensor:
        """Return records of the data as inputs."""

    def evaluating(self) -> AbstractContextManager[None]:
        """Switch the network to evaluation for a while."""

    def alone(self, index: int, purpose: str = "") -> Self:
        """View one model of the group."""

    def function(self, index: int) -> tuple[Forward, dict[str, torch.Tensor]]:
        """Return one model as a function of parameters and inputs, and its parameters."""

    def fork(
        self,
        *,
        members: np.ndarray | torch.Tensor | None = None,
        data: tuple[np.ndarray, np.ndarray] | None = None,
        targets: np.ndarray | torch.Tensor | None = None,
        defense: Defense | None = None,
    ) -> Self:
        """Return new networks of the same kind, with other members, data or targets."""

    def adopt(self, other: Self) -> None:
        """Copy the weights of another run of the same models."""


@dataclass(frozen=True)
class Defense(Hooks):
    """No defense: plain training on the labels. Base class of every defense, which overrides what it changes.

    Tensors carry a leading model dimension, so that one piece of code serves one model and sixty-four: records
    ``(model, batch, ...)``, logits ``(model, batch, classes)``. Hyper-parameters are the fields of the dataclass;
    they are part of a game's hash.
    """

    #: Whether the predicted label survives `answer`; who asks for labels alone is then spared that step.
    keeps_labels: ClassVar[bool] = False

    def mix(
        self, x: torch.Tensor, y: torch.Tensor, *, progress: float, rng: Streams
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Change a batch: return inputs and hard ``(model, batch)`` or soft ``(model, batch, classes)`` targets.

        Parameters
        ----------
        x, y : torch.Tensor
            The batch: records and labels.
        progress : float
            Fraction of the epochs that is over, from 0 in the first epoch to 1 in the last one.
        rng : Streams
            Random numbers, a stream a model.
        """
        return x, y

    def loss(
        self,
        logits: torch.Tensor,
        target: torch.Tensor,
        *,
        run: Run | None = None,
        index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the training loss of each record, shape (model, batch); the cross-entropy by default.

        A model's loss is the mean.

        Parameters
        ----------
        logits : torch.Tensor, shape (model, batch, classes)
            Answers to the batch.
        target : torch.Tensor
            What `mix` returned.
        run : Run, optional
            The running training; ``run.memory`` keeps what a defense remembers between batches.
        index : torch.Tensor, shape (model, batch), optional
            Positions of the batch's records in the pool.
        """
        return cross_entropy(logits, target)

    def before_epoch(self, run: Run) -> None:
        """Look at or change the running training before an epoch (see `mialab.classifiers.run.Run`)."""

    def batches(self, run: Run) -> Iterator[torch.Tensor]:
        """Yield the batches of an epoch, each of which `step` is given; by default members in random order.

        Parameters
        ----------
        run : Run
            The running training.

        Yields
        ------
        torch.Tensor of int64, shape (model, batch)
            Positions of the batch's records in the data; another thing if `step` is overridden to take it.
        """
        yield from run.shuffled()

    def step(self, run: Run, batch: torch.Tensor) -> None:
        """Update the networks once with a batch, see `batches`; by default with the gradient of the mean `loss`."""
        run.step(batch)

    def weights(
        self, parameters: dict[str, torch.Tensor], *, progress: float | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the parameters that one network computes with, given those that are trained.

        Parameters
        ----------
        parameters : dict of str to torch.Tensor
            Of one network.
        progress : float, optional
            Fraction of the epochs that is over, as for `mix`; None when training is over.
        """
        return parameters

    def answer(
        self,
        run: Run,
        logits: torch.Tensor,
        x: torch.Tensor,
        record: torch.Tensor | None,
        query: int | None,
    ) -> torch.Tensor:
        """Return what a query is answered with, given the models' own logits.

        Where this is overridden, the game keeps the models' own answers as well.

        Parameters
        ----------
        run : Run
            The trained models: ``run.predict`` gives their own answers to other inputs, ``run.streams("answers")``
            random numbers.
        logits : torch.Tensor, shape (model, record, classes)
            The models' own answers.
        x : torch.Tensor, shape (record, ...)
            The queried records.
        record : torch.Tensor of int64, shape (record,), or None
            Positions in the pool of the records that are queried; None for points of an attacker's own making.
        query : int or None
            Number of the query, see `mialab.queries`; None likewise.
        """
        return logits


#: Every defense by name.
DEFENSES: Registry[Defense] = Registry("defense", Defense, Defense)
register, available, make = DEFENSES.register, DEFENSES.available, DEFENSES.make
