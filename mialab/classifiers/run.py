"""The training of classifiers: a group of models on data that already lies in memory.

There is one loop. It trains a group either *stacked* (all models in one tensor program through `torch.func.vmap`)
or *sequential* (one model). Which mode is used follows from the network and the device, see
`mialab.training.stack.mode`; results differ by float rounding only. So do the arithmetic of the training steps
(`resolve`) and the layout of images in memory (`channels_last`): rules, not timings, so that a game is the same in a
busy and in an idle hour.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from copy import copy
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from mialab.classifiers.augmentation import flip_and_shift
from mialab.classifiers.signals import SIGNALS
from mialab.data.pool import Pool
from mialab.defenses.base import Defense
from mialab.models import Model
from mialab.queries import Queries
from mialab.training.options import OPTIMIZERS, Training
from mialab.training.stack import (
    Forward,
    _tensor,
    channels_last,
    initialize,
    is_plain_mlp,
    mode,
    one_thread,
    prepare,
    resolve,
    torch_rng,
)
from mialab.training.streams import Streams

if TYPE_CHECKING:
    from mialab.probes.base import Probe


#: Records that a group answers at a time, all its models together.
ANSWER_BATCH = 1024


CACHED_BATCH = 128


class Run:
    """A group of models in training, as the hooks of a defense see it.

    Attributes
    ----------
    models : list of int
        Indices of the models in the game.
    epoch : int
        The epoch that goes on, counted from 0.
    progress : float or None
        Fraction of the epochs that is over, from 0 in the first one to 1 in the last one; None when training is over.
    network : torch.nn.Module
        The network, of which stacked models share one.
    training : Training
        How the models are trained.
    pool : Pool
        The records.
    y : torch.Tensor, shape (record,)
        Labels as trained on (canaries may have wrong ones).
    members : torch.Tensor, shape (model, member)
        Positions of each model's members in the pool.
    parameters : dict of str to torch.Tensor
        What is trained; with a leading model dimension in the stacked mode.
    memory : dict
        A place for what a defense remembers between batches and epochs.
    """

    def __init__(
        self,
        pool: Pool,
        y: np.ndarray,
        member: np.ndarray,
        models: Sequence[int],
        *,
        build: Model,
        defense: Defense,
        training: Training,
        seed: int,
        device: str,
    ) -> None:
        self.pool, self.defense, self.seed, self.device = pool, defense, seed, device
        self.models = list(models)
        self.x = _tensor(pool.x, device)
        self.y = _tensor(y, device)
        self.members = torch.as_tensor(np.stack([np.flatnonzero(m) for m in member]), device=device)
        self.memory: dict = {}
        self.epoch = 0
        self.progress: float | None = 0.0
        networks = [initialize(build, pool, seed, k, defense).to(device) for k in self.models]
        self.training = resolve(training, networks[0], device)
        self.mode = mode(networks[0], prepare(self.x[:2]), device)
        self.network = networks[0]
        self._layout = torch.contiguous_format
        if self.mode == "stacked":
            self.parameters, _ = stack_module_state(networks)
            self.network = networks[0].to("meta")
            self._forward = vmap(self._call, randomness="different")
            if is_plain_mlp(self.network) and type(defense).weights is Defense.weights:
                self._forward = self._batched  # the same, without the time that vmap takes
        elif len(networks) == 1:
            if channels_last(self.network):
                self._layout = torch.channels_last
                self.network.to(memory_format=self._layout)
            self.parameters = dict(self.network.named_parameters())
            self._forward = lambda parameters, x: self._call(parameters, x[0])[None]
            if (
                type(defense).weights is Defense.weights
            ):  # the same, without the time that functional_call takes
                self._forward = lambda _, x: self.network(self._inputs(x[0]))[None]
        else:
            raise ValueError("Networks that cannot be stacked are trained one at a time.")
        self.reset_optimizer()

    def _call(self, parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return functional_call(
            self.network, self.defense.weights(parameters, progress=self.progress), (self._inputs(x),)
        )

    def _batched(self, parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        x = prepare(x)
        for name, layer in self.network.named_children():
            if isinstance(layer, nn.Linear):
                weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
                x = torch.baddbmm(bias[:, None], x, weight.mT)
            else:
                x = x.flatten(2) if isinstance(layer, nn.Flatten) else layer(x)
        return x

    def _inputs(self, x: torch.Tensor) -> torch.Tensor:
        return prepare(x).contiguous(memory_format=self._layout)

    def reset_optimizer(self) -> None:
        """Build the optimizer anew, which clears its momentum."""
        options = {"momentum": self.training.momentum} if self.training.optimizer == "sgd" else {}
        self.optimizer = OPTIMIZERS[self.training.optimizer](
            self.parameters.values(),
            lr=self.training.lr_at(self.epoch),
            weight_decay=self.training.weight_decay,
            fused=True,
            **options,
        )

    def train(self) -> None:
        """Train the group for all epochs and keep the selected weights."""
        training, defense = self.training, self.defense
        order = Streams(self.seed, self.models, "batches", self.device)
        rng = Streams(self.seed, self.models, "mix", self.device)
        moves = Streams(self.seed, self.models, "augmentation", self.device)
        best, kept = None, None
        n = self.members.shape[1]
        for self.epoch in range(training.stop or training.epochs):
            for group in self.optimizer.param_groups:
                group["lr"] = training.lr_at(self.epoch)
            defense.before_epoch(self)
            self.network.train()
            self.progress = progress = self.epoch / max(1, training.epochs - 1)
            index = self.members.gather(1, order.permutation(n)) if training.shuffle else self.members
            for batch in index.split(training.batch_size, dim=1):
                x = flip_and_shift(self.x[batch], flip=training.flip, shift=training.shift, rng=moves)
                x, target = defense.mix(x, self.y[batch], progress=progress, rng=rng)
                with torch.autocast(self.device, torch.bfloat16, enabled=training.precision == "bfloat16"):
                    logits = self._forward(self.parameters, x)
                loss = defense.loss(logits.float(), target, run=self, index=batch)
                self.optimizer.zero_grad()
                loss.sum().backward()
                self.optimizer.step()
            if training.select == "best_validation":
                best, kept = self._keep_best(best, kept)
        if kept is not None:
            self._restore(kept)
        self.progress = None

    def _keep_best(
        self, best: torch.Tensor | None, kept: dict[str, torch.Tensor] | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        accuracy = self.accuracy(self.pool.x_val, self.pool.y_val)
        state = {**self.parameters, **dict(self.network.named_buffers())}
        if best is None or kept is None:
            return accuracy, {name: value.detach().clone() for name, value in state.items()}
        better = accuracy > best
        for name, value in state.items():
            if self.mode == "stacked":
                kept[name][better] = value.detach()[better]
            elif better:
                kept[name].copy_(value.detach())
        return torch.maximum(accuracy, best), kept

    @torch.no_grad()
    def _restore(self, kept: dict[str, torch.Tensor]) -> None:
        buffers = {} if self.mode == "stacked" else dict(self.network.named_buffers())
        for name, value in {**self.parameters, **buffers}.items():
            value.copy_(kept[name])

    @torch.inference_mode()
    def predict(self, x: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Own answers of the models, in evaluation mode and float32.

        Parameters
        ----------
        x : shape (record, ...) or (model, record, ...)
            Inputs, the same for every model or one set a model.

        Returns
        -------
        torch.Tensor, shape (model, record, classes)
        """
        self.network.eval()
        x = _tensor(x, self.device)
        if x.dim() == self.x.dim():
            x = x.expand(len(self.models), *x.shape)
        # All models together see ANSWER_BATCH records, so that answers need no more memory than training did; on a CPU
        # a single model sees fewer, which stay in its cache.
        size = max(1, ANSWER_BATCH // len(self.models))
        if self.device == "cpu":
            size = min(size, CACHED_BATCH)
        return torch.cat([self._forward(self.parameters, part) for part in x.split(size, dim=1)], dim=1)

    def inputs(self, records: slice | torch.Tensor) -> torch.Tensor:
        """Return some records (a slice or indices) of the pool as inputs, float32 (record, ...)."""
        return prepare(self.x[records])

    def alone(self, index: int) -> Self:
        """View one model of the group, once trained, as a group of its own."""
        view = copy(self)
        view.models, view.members = [self.models[index]], self.members[index : index + 1]
        if self.mode == "stacked":
            view.parameters = {
                name: value.detach()[index : index + 1] for name, value in self.parameters.items()
            }
        return view

    def function(self, index: int) -> tuple[Forward, dict[str, torch.Tensor]]:
        """Return one model, for evaluation, as a function of parameters and inputs, and its parameters.

        The function can be transformed by `torch.func`.
        """
        view = self.alone(index)
        view.network.eval()
        view._layout = torch.contiguous_format  # vmap knows no other
        of_one = {name: value.detach() for name, value in view.parameters.items()}
        if self.mode == "stacked":
            of_one = {name: value[0] for name, value in of_one.items()}
        return view._call, of_one

    def accuracy(self, x: np.ndarray, y: np.ndarray) -> torch.Tensor:
        """Accuracy of each model on records ``x`` with labels ``y``, shape (model,); NaN without records."""
        if not len(x):
            return torch.full((len(self.models),), torch.nan)
        labels = _tensor(y, self.device)
        return (self.predict(x).argmax(-1) == labels).double().mean(-1)


def train_group(
    models: Sequence[int],
    *,
    pool: Pool,
    y: np.ndarray,
    member: np.ndarray,
    build: Model,
    defense: Defense,
    training: Training,
    queries: Queries,
    seed: int,
    device: str = "cpu",
    keep: Literal["logits", "scores"] = "logits",
    answers: Literal["float32", "float16"] = "float32",
    probes: Sequence[Probe] = (),
) -> dict[str, np.ndarray]:
    """Train a group of models and collect their answers on every record of the pool.

    Parameters
    ----------
    models : sequence of int
        Indices of the models in the game; model k's result depends on ``(seed, k)`` alone.
    pool : Pool
        The records.
    y : numpy.ndarray, shape (record,)
        Labels to train on.
    member : numpy.ndarray of bool, shape (model, record)
        Members of each model of the group, the same number for each.
    build, defense, training, queries, seed
        What determines the game, see `mialab.play`.
    device : str
        ``"cpu"`` or ``"cuda"``.
    keep : {"logits", "scores"}
        Whether to return the answers or, for each of `mialab.classifiers.signals.SIGNALS`, one number of each answer.
    answers : {"float32", "float16"}
        Type of the returned logits.
    probes : sequence of Probe
        What else is measured, see `mialab.probes`.

    Returns
    -------
    dict of str to numpy.ndarray
        With a leading model dimension: ``logits`` (model, query, record, label) as released; ``raw_logits``, the same
        before the defense's output step, if it has one; with ``keep="scores"`` instead of each of them its signals
        (model, query, record) float32, e.g. ``loss`` and ``raw_loss``; ``train_accuracy``, ``validation_accuracy``,
        ``test_accuracy`` and ``seconds`` (each model's fraction of the group's time); and the arrays of the probes.

    Raises
    ------
    FloatingPointError
        If a model's answers are not finite numbers, or do not fit the type of the answers.
    """
    began = time.perf_counter()
    with one_thread(), ExitStack() as stack:
        run = Run(
            pool, y, member, models, build=build, defense=defense, training=training, seed=seed, device=device
        )
        if (
            run.mode == "sequential"
        ):  # stacked ones draw no numbers of torch's, so other threads may train meanwhile
            stack.enter_context(torch_rng(seed, models[0]))
        run.train()
        arrays, correct = _answers(run, queries, keep, np.dtype(answers))
        for probe in probes:
            arrays |= probe(run)
        accuracies = {
            "train_accuracy": correct.gather(1, run.members).double().mean(1),
            "validation_accuracy": run.accuracy(pool.x_val, pool.y_val),
            "test_accuracy": run.accuracy(pool.x_test, pool.y_test),
        }
    arrays |= {name: value.cpu().numpy() for name, value in accuracies.items()}
    arrays["seconds"] = np.full(len(models), (time.perf_counter() - began) / len(models))
    return arrays


def _answers(
    run: Run, queries: Queries, keep: str, dtype: np.dtype
) -> tuple[dict[str, np.ndarray], torch.Tensor]:
    """Ask all queries, a block of records at a time; also return whether query 0 is answered correctly."""
    n, defense = len(run.pool), run.defense
    rng = Streams(run.seed, run.models, "answers", run.device)
    shape = (len(run.models), len(queries), n)
    arrays: dict[str, np.ndarray] = {}
    correct = torch.empty(len(run.models), n, dtype=torch.bool, device=run.device)
    for query in range(len(queries)):
        x = _tensor(queries(query, run.pool.x), run.device)
        for start in range(0, n, ANSWER_BATCH):
            block = slice(start, start + ANSWER_BATCH)
            raw = run.predict(x[block])
            given = {"": raw}
            if defense.changes_answers:
                released = defense.answer(raw, x[block], predict=run.predict, rng=rng, pool=run.pool)
                given = {"": released, "raw_": raw}
            for prefix, logits in given.items():
                for name, values in _kept(logits, run, block, keep, dtype).items():
                    if prefix + name not in arrays:
                        arrays[prefix + name] = np.empty(shape + values.shape[2:], values.dtype)
                    arrays[prefix + name][:, query, block] = values
            if query == 0:
                correct[:, block] = raw.argmax(-1) == run.y[block]
    return arrays, correct


def _kept(logits: torch.Tensor, run: Run, block: slice, keep: str, dtype: np.dtype) -> dict[str, np.ndarray]:
    """Return what is stored of some answers: arrays of shape (model, record, ...)."""
    exact = logits.cpu().numpy()
    for k, own in zip(run.models, exact, strict=True):
        if not np.isfinite(own).all():
            raise FloatingPointError(
                f"Training diverged: model {k} answers with numbers that are not finite. "
                f"Lower lr={run.training.lr!r} or change the optimizer."
            )
    if keep == "scores":
        labels = run.y[block].cpu().numpy()
        return {
            name: np.stack([signal(own, labels) for own in exact.astype(np.float64)]).astype(np.float32)
            for name, signal in SIGNALS.items()
        }
    most = np.finfo(dtype).max
    if np.abs(exact).max() > most:
        raise FloatingPointError(
            f"A logit of {np.abs(exact).max():.3g} does not fit answers={dtype.name!r} (at most {most:.3g}): "
            "give answers='float32'."
        )
    return {"logits": exact.astype(dtype, copy=False)}
