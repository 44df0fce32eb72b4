"""What a defender may change: the hooks of the training engine, each doing nothing by default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from mialab._validation import choose

if TYPE_CHECKING:
    from mialab.classifiers.run import Run
    from mialab.data.pool import Pool
    from mialab.training.streams import Streams

Predict = Callable[[torch.Tensor], torch.Tensor]


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


@dataclass(frozen=True)
class Defense:
    """No defense: plain training on the labels. Base class of every defense, which overrides what it changes.

    Tensors carry a leading model dimension, so that one piece of code serves one model and sixty-four: records
    ``(model, batch, ...)``, logits ``(model, batch, classes)``. Hyper-parameters are the fields of the dataclass;
    they are part of a game's hash.
    """

    name: ClassVar[str] = "none"
    #: Whether `answer` changes what a query returns; the game then keeps the answers before that step as well.
    changes_answers: ClassVar[bool] = False
    #: Whether the predicted label survives `answer`; who asks for labels alone is then spared that step.
    keeps_labels: ClassVar[bool] = False

    def check(self, pool: Pool) -> None:
        """Refuse, before any training, a pool that this defense cannot protect (ValueError)."""

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
        """Return the training loss of each model, shape (model,); the mean cross-entropy by default.

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
        return cross_entropy(logits, target).mean(-1)

    def before_epoch(self, run: Run) -> None:
        """Look at or change the running training before an epoch (see `mialab.classifiers.run.Run`)."""

    def network(self, network: nn.Module) -> nn.Module:
        """Return the network that is trained, given a freshly initialized one; it may be changed in place."""
        return network

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
        self, logits: torch.Tensor, x: torch.Tensor, *, predict: Predict, rng: Streams, pool: Pool
    ) -> torch.Tensor:
        """Return what a query is answered with, given the models' own logits.

        Parameters
        ----------
        logits : torch.Tensor, shape (model, record, classes)
            The models' own answers.
        x : torch.Tensor, shape (record, ...)
            The queried records.
        predict : callable
            Own answers of the models on other inputs: ``(record, ...)``, the same for every model, or
            ``(model, record, ...)``, to ``(model, record, classes)``.
        rng : Streams
            Random numbers, a stream a model.
        pool : Pool
            Gives the kind and the range of the records; a defender knows its own data.
        """
        return logits


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
        A name of ``mialab.defenses.available()``, an instance such as ``HAMP(gamma=0.5)``, or None for none.
    """
    if isinstance(defense, Defense):
        return defense
    if isinstance(defense, type) and issubclass(defense, Defense):
        return defense()
    return DEFENSES[choose("defense", "none" if defense is None else defense, DEFENSES)]()


def available() -> list[str]:
    """Return the names of all defenses."""
    return sorted(DEFENSES)
