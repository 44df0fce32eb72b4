"""What a defender of a classifier may change: the hooks of its training, each doing nothing by default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import numpy as np
import pandas as pd
import torch
from torch import nn

from mialab._registry import Registry
from mialab.training.hooks import AnyRun, Hooks, hooks
from mialab.training.stack import Forward


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
    """What hooks and probes see of a group of classifiers in training, see `mialab.classifiers.run.Run`."""

    defense: Defense
    epoch: int
    network: nn.Module
    parameters: dict[str, torch.Tensor]
    optimizer: torch.optim.Optimizer
    reset_optimizer: Callable[[], None]
    step: Callable[[torch.Tensor], None]
    losses: Callable[[torch.Tensor], torch.Tensor]
    descend: Callable[[torch.Tensor], None]
    set_gradients: Callable[[Sequence[dict[str, torch.Tensor]]], None]
    forward: Callable[[torch.Tensor], torch.Tensor]
    predict: Callable[[torch.Tensor | np.ndarray], torch.Tensor]
    inputs: Callable[[slice | torch.Tensor], torch.Tensor]
    evaluating: Callable[[], AbstractContextManager[None]]
    alone: Callable[..., Self]
    function: Callable[[int], tuple[Forward, dict[str, torch.Tensor]]]
    adopt: Callable[[Self], None]


@dataclass(frozen=True)
class Defense(Hooks):
    """No defense: plain training on the labels. Base class of every defense, which overrides what it changes.

    Tensors carry a leading model dimension, so that one piece of code serves one model and sixty-four: records
    ``(model, batch, ...)``, logits ``(model, batch, classes)``. Hyper-parameters are the fields of the dataclass;
    they are part of a game's hash.
    """

    #: Whether the predicted label survives `answer`; who asks for labels alone is then spared that step.
    keeps_labels: ClassVar[bool] = False

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
            Positions in the pool of the records that are queried; None for other points: records that accuracy is
            measured on, unless the defense keeps labels, and points of an attacker's own making.
        query : int or None
            Number of the query, see `mialab.queries`; None likewise.
        """
        return logits


#: Every defense by name.
DEFENSES: Registry[Defense] = Registry("defense", Defense, Defense)
register, available, make = DEFENSES.register, DEFENSES.available, DEFENSES.make


def summary() -> pd.DataFrame:
    """Return what every defense changes, needs and guarantees.

    Returns
    -------
    pandas.DataFrame
        A row a defense, by ``name``: ``hooks`` that it overrides, what it ``needs`` beside members and one training of
        each model (see `mialab.training.hooks.NEEDS`), what it ``guarantees`` (nothing, or an epsilon, which stands in
        the report of each game). What it costs depends on network and data and is measured, see
        `mialab.auditing.trade_off`.
    """
    rows = {}
    for name in available():
        cls = DEFENSES[name]
        base = hooks(cls)
        used = [hook for hook in base if getattr(cls, hook) is not base[hook]]
        answers = ("other answers",) if "answer" in used and "other answers" not in cls.needs else ()
        rows[name] = (", ".join(used), ", ".join([*cls.needs, *answers]), cls.guarantee)
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["hooks", "needs", "guarantees"])
    return table.rename_axis("name")
