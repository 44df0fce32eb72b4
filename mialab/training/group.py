"""A group of models of any kind in training: its data, members and random numbers, and new groups like it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Literal, Self

import numpy as np
import torch

from mialab.data.pool import Pool
from mialab.training.stack import as_tensor, full_float32, one_thread, torch_rng, undisturbed
from mialab.training.streams import Streams


class Group(ABC):
    """A group of models in training, the part that is the same for all kinds of models.

    Attributes
    ----------
    models : list of int
        Indices of the models in the game.
    pool, defense, training, seed, device
        The records of the game, and what determines a training, see `mialab.play`.
    x, y : torch.Tensor, shapes (record, ...) and (record,)
        The data that is trained on: the pool's records and their labels (canaries may have wrong ones); in a `fork`
        others, if so asked.
    members : torch.Tensor of int64
        Positions of each model's members in the data.
    mode : {"stacked", "sequential"}
        Whether all models are computed in one tensor program, or one model.
    draws : bool
        Whether random numbers are drawn from torch's own generator, by networks with dropout and the like; then only
        one group is trained at a time in a process. All else takes its numbers from `streams`.
    progress : float or None
        Fraction of the training that is over, from 0 in the first epoch or step to 1 in the last one; None when it is
        over.
    purpose : str
        What the names of random streams begin with.
    memory : dict
        A place for what a defense remembers between batches and epochs.
    """

    mode: Literal["stacked", "sequential"]
    draws = False

    def __init__(
        self,
        x: np.ndarray | torch.Tensor,
        y: np.ndarray | torch.Tensor,
        members: np.ndarray | torch.Tensor,
        models: Sequence[int],
        *,
        pool: Pool,
        defense: Any,
        training: Any,
        seed: int,
        device: str,
        purpose: str = "",
        **own: Any,
    ) -> None:
        self.models, self.pool, self.defense, self.training = list(models), pool, defense, training
        self.seed, self.device, self.purpose = seed, device, purpose
        self.x, self.y = as_tensor(x, device), as_tensor(y, device)
        self.members = positions(as_tensor(members, device), len(self.models), len(self.y))
        self.memory: dict[str, Any] = {}
        self.progress: float | None = 0.0
        self._own, self._forks = own, 0
        self._streams: dict[str, Streams] = {}

    def streams(self, purpose: str) -> Streams:
        """Return the random numbers for a purpose, a stream a model; they go on where they were left."""
        if purpose not in self._streams:
            self._streams[purpose] = Streams(self.seed, self.models, self.purpose + purpose, self.device)
        return self._streams[purpose]

    def train(self) -> None:
        """Train the group as its defense does."""
        self.defense.fit(self)
        self._end()
        self.defense.finish(self)

    @abstractmethod
    def fit(self) -> None:
        """Train the group plainly, through its defense's other hooks; what the hook `fit` does by default."""

    def _end(self) -> None:
        """Switch to evaluation: the training is over."""
        self.progress = None

    @classmethod
    def measured(
        cls,
        outputs: Callable[[Self], dict[str, np.ndarray]],
        probes: Iterable[Callable[[Self], dict[str, np.ndarray]]],
        /,
        *data: Any,
        **options: Any,
    ) -> dict[str, np.ndarray]:
        """Train a group on one processor core, and return what its models say.

        Parameters
        ----------
        outputs : callable
            Trains the group and returns arrays with a leading model dimension.
        probes : iterable of Probe
            What else is measured.
        *data, **options
            What the group is made of, see the class.

        Returns
        -------
        dict of str to numpy.ndarray
            The arrays of both, and ``seconds``, each model's fraction of the group's time.

        Raises
        ------
        RuntimeError
            If anything but a network that draws numbers took some from torch's or NumPy's own generator.
        """
        began = time.perf_counter()
        with one_thread(), ExitStack() as contexts:
            run = cls(*data, **options)
            run.draws = run.mode == "sequential" and (run.device != "cpu" or run._draws())
            contexts.enter_context(torch_rng(run.seed, run.models[0]) if run.draws else undisturbed())
            contexts.enter_context(full_float32(run.device))
            arrays = outputs(run)
            for probe in probes:
                arrays |= probe(run)
        seconds = (time.perf_counter() - began) / len(run.models)
        return arrays | {"seconds": np.full(len(run.models), seconds)}

    def _draws(self) -> bool:
        """Whether the networks draw random numbers of their own, see `mialab.training.stack.draws`."""
        return True

    def fork(
        self,
        *,
        members: np.ndarray | torch.Tensor | None = None,
        data: tuple[np.ndarray | torch.Tensor, np.ndarray | torch.Tensor] | None = None,
        purpose: str | None = None,
        **changes: Any,
    ) -> Self:
        """Return new networks of the same kind, to be trained apart: a teacher, a student, a sub-model.

        Initial weights and all random numbers are the fork's own. ``fork.fit()`` trains it, ``fork.train()`` with what
        its defense does before and after as well.

        Parameters
        ----------
        members : array of int or bool, shape (model, member) or (model, record), optional
            Positions of the records that each model is trained on, or a mask with as many for each model; by default
            the same as here, or all of ``data``.
        data : tuple of array, optional
            Other records and their labels, such as ``(pool.x_reference, pool.y_reference)``.
        purpose : str, optional
            What its random numbers are for; by default they follow from the number of forks before it.
        **changes
            Another ``defense`` or ``training``, by default the same; of classifiers also ``targets``, float (record,
            classes) or (model, record, classes): soft labels of all records of the data, in place of hard ones.

        Raises
        ------
        ValueError
            If shapes do not fit.
        """
        x, y = (self.x, self.y) if data is None else (as_tensor(part, self.device) for part in data)
        shape, n, k = self.x.shape[1:], len(y), len(self.models)
        if x.shape != (n, *shape) or not n:
            raise ValueError(
                f"data has shapes {tuple(x.shape)} and {tuple(y.shape)}; records must have shape {tuple(shape)}, and "
                "there must be as many labels, at least one."
            )
        if members is None:
            members = self.members.view(k, -1) if data is None else torch.ones(k, n, dtype=torch.bool)
        self._forks += 1
        purpose = f"{self.purpose}{f'fork {self._forks} ' if purpose is None else purpose}"
        same = {"pool": self.pool, "defense": self.defense, "training": self.training, "seed": self.seed}
        options = {**same, **self._own, "device": self.device, "purpose": purpose, **changes}
        return type(self)(x, y, members, self.models, **options)

    def check_batch(self, batch: torch.Tensor, each: tuple[int, ...], dims: str) -> None:
        """Refuse a batch that holds no positions of records (ValueError), of shape (*each, batch)."""
        if batch.shape[:-1] != each or batch.dtype != torch.int64:
            raise ValueError(
                f"defense={self.defense.name!r}: a batch of shape {tuple(batch.shape)} and {batch.dtype}; it must hold "
                f"positions of records, int64 ({dims}, batch) with {each} in front, or `step` be overridden."
            )

    def check_shape(self, hook: str, value: torch.Tensor, shape: tuple[int, ...], what: str) -> torch.Tensor:
        """Return what a hook returned, after refusing another shape (ValueError)."""
        if value.shape != shape:
            raise ValueError(
                f"defense={self.defense.name!r}: {hook} returns shape {tuple(value.shape)}; it must be {what}, "
                f"{tuple(shape)}."
            )
        return value


def positions(members: torch.Tensor, n_models: int, n_records: int) -> torch.Tensor:
    """Return positions of each model's members, given these or a mask, after a look at them (ValueError)."""
    if members.dtype == torch.bool and members.shape == (n_models, n_records):
        sizes = members.sum(1)
        if (sizes == sizes[0]).all():
            members = members.nonzero()[:, 1].view(n_models, -1)
    if members.dim() != 2 or len(members) != n_models or members.dtype != torch.int64 or not members.numel():
        raise ValueError(
            f"members has shape {tuple(members.shape)} and {members.dtype}; it must hold positions of records, int64 "
            f"(model, member) for {n_models} models, or be a mask (model, record) with as many members of each model."
        )
    if not 0 <= members.min() <= members.max() < n_records:
        raise ValueError(f"members holds positions beyond the data's {n_records} records.")
    return members
