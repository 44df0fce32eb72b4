"""The training of classifiers: a group of models on data that already lies in memory.

There is one loop. It trains a group either *stacked* (all models in one tensor program through `torch.func.vmap`)
or *sequential* (one model). Which mode is used follows from the network and the device, see
`mialab.training.stack.mode`; results differ by float rounding only. So do the arithmetic of the training steps
(`resolve`) and the layout of images in memory (`channels_last`): rules, not timings, so that a game is the same in a
busy and in an idle hour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy, deepcopy
from typing import Any, Literal, Self

import numpy as np
import torch
from torch.func import functional_call, stack_module_state, vmap

from mialab.classifiers.signals import SIGNALS
from mialab.data.pool import Pool
from mialab.models import Model
from mialab.probes.base import Probe
from mialab.queries import Queries
from mialab.training.augmentation import flip_and_shift
from mialab.training.group import Group
from mialab.training.options import OPTIMIZERS
from mialab.training.stack import (
    Forward,
    as_tensor,
    batched_mlp,
    channels_last,
    check_stop,
    draws,
    initialize,
    is_plain_mlp,
    mode,
    prepare,
    resolve,
    set_aside,
)

#: Records that a group answers at a time, all its models together.
ANSWER_BATCH = 1024


CACHED_BATCH = 128


class Run(Group):
    """A group of classifiers in training, as the hooks of a defense see it; see `mialab.training.group.Group` as well.

    Attributes
    ----------
    epoch : int
        The epoch that goes on, counted from 0.
    network : torch.nn.Module
        The network, of which stacked models share one.
    parameters : dict of str to torch.Tensor
        What is trained; with a leading model dimension in the stacked mode.
    """

    def __init__(
        self, *data: Any, build: Model, targets: np.ndarray | torch.Tensor | None = None, **options: Any
    ) -> None:
        super().__init__(*data, build=build, **options)
        self.epoch = 0
        self._observe: Callable[[Run], None] | None = None
        self._keep: Callable[[Run], None] | None = None
        defense, device = self.defense, self.device
        self.targets = None if targets is None else self._soft(targets)
        networks = [
            initialize(build, self.pool, self.seed, k, defense, self.purpose).to(device) for k in self.models
        ]
        self.training = resolve(self.training, networks[0], device)
        self.mode = mode(networks[0], prepare(self.x[:2]), device)
        self.network = networks[0]
        self._layout = torch.contiguous_format
        self._forward: Forward
        plain = not defense.uses("weights")  # then without the time that functional_call or vmap takes
        if self.mode == "stacked":
            self.parameters, _ = stack_module_state(networks)
            self.network = networks[0].to("meta")
            batched = plain and is_plain_mlp(self.network)
            self._forward = self._batched if batched else vmap(self._call, randomness="different")
        elif len(networks) == 1:
            if channels_last(self.network):
                self._layout = torch.channels_last
                self.network.to(memory_format=self._layout)  # type: ignore[call-overload]  # unknown to its types
            self.parameters = dict(self.network.named_parameters())
            self._forward = lambda parameters, x: self._call(parameters, x[0])[None]
            if plain:
                self._forward = lambda _, x: self.network(self._inputs(x[0]))[None]
        else:
            raise ValueError("Networks that cannot be stacked are trained one at a time.")
        self.reset_optimizer()

    def _draws(self) -> bool:
        return draws(self.network, prepare(self.x[:2]))

    def _call(self, parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return functional_call(
            self.network, self.defense.weights(parameters, progress=self.progress), (self._inputs(x),)
        )

    def _batched(self, parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return batched_mlp(self.network, parameters, prepare(x))

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

    # ------------------------------------------------------------------------------------------ training

    def train(
        self, observe: Callable[[Run], None] | None = None, keep: Callable[[Run], None] | None = None
    ) -> None:
        """Train the group as its defense does.

        Parameters
        ----------
        observe : callable, optional
            Called with this object before each epoch, after the defense's `before_epoch`, and when training is over
            (``progress`` is None then).
        keep : callable, optional
            Called with this object after each of ``training.checkpoints``, in the state in which it would be if
            training had ended there; what is changed then does not last.
        """
        self._observe, self._keep = observe, keep
        super().train()
        if observe:
            observe(self)

    def fit(self) -> None:
        """Train for all epochs and keep the selected weights; what `mialab.defenses.Defense.fit` does by default."""
        training, defense = self.training, self.defense
        best, kept = None, None
        for self.epoch in range(training.last):
            for group in self.optimizer.param_groups:
                group["lr"] = training.lr_at(self.epoch)
            self.progress = self.epoch / max(1, training.epochs - 1)
            self.network.train()
            defense.before_epoch(self)
            if self._observe:
                self._observe(self)
            for batch in defense.batches(self):
                check_stop()
                defense.step(self, batch)
            if training.select == "best_validation":
                best, kept = self._keep_best(best, kept)
            if self._keep and self.epoch + 1 in training.checkpoints:
                with self._set_aside():
                    self.training = training.ending_at(self.epoch + 1)
                    if kept is not None:
                        self._restore(kept)
                    self._end()
                    defense.finish(self)
                    self._keep(self)
        if kept is not None:
            self._restore(kept)
        self._end()

    @contextmanager
    def _set_aside(self) -> Iterator[None]:
        """Let everything be changed for a while: weights, memory, optimizer and random numbers."""
        before, values = dict(vars(self)), {name: v.detach().clone() for name, v in self.state().items()}
        optimizer = deepcopy(self.optimizer.state_dict())
        shared = (self, self.pool, self.x, self.y, self.members, self.targets)
        self.memory, self._streams = deepcopy(
            (self.memory, self._streams), {id(part): part for part in shared}
        )
        self.parameters = dict(self.parameters)
        with set_aside(None) if self.draws else nullcontext(), self.evaluating():
            yield
        vars(self).update(before)
        self._restore(values)
        self.optimizer.load_state_dict(optimizer)

    def _end(self) -> None:
        super()._end()
        self.network.eval()

    def shuffled(self) -> Iterator[torch.Tensor]:
        """Yield the batches of an epoch: each model's members in random order, the last batch may be smaller."""
        index = self.members
        if self.training.shuffle:
            index = index.gather(1, self.streams("batches").permutation(index.shape[1]))
        yield from index.split(self.training.batch_size, dim=1)

    def step(self, batch: torch.Tensor) -> None:
        """Update the networks once with the gradient of the mean loss of a batch; an empty one changes nothing."""
        if batch.numel():
            self.descend(self.losses(batch).mean(-1))

    def losses(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the loss of each record of a batch, augmented and mixed, with gradient; shape (model, batch).

        The batch holds positions of records in the data, int64 (model, batch); a ValueError says if it, or what the
        defense's `loss` returns, has another shape.
        """
        training, defense = self.training, self.defense
        self.check_batch(batch, (len(self.models),), "model")
        if self.targets is None:
            y = self.y[batch]
        else:
            y = self.targets[torch.arange(len(batch), device=batch.device)[:, None], batch]
        x = flip_and_shift(
            self.x[batch], flip=training.flip, shift=training.shift, rng=self.streams("augmentation")
        )
        progress = 1.0 if self.progress is None else self.progress
        x, target = defense.mix(x, y, progress=progress, rng=self.streams("mix"))
        logits = self.forward(x)
        losses = defense.loss(logits, target, run=self, index=batch)
        return self.check_shape("loss", losses, logits.shape[:2], "one number for each record")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Answers of the models to inputs (model, batch, ...), with gradient, in the arithmetic of training."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.training.precision == "bfloat16"):
            logits = self._forward(self.parameters, x)
        return logits.float()

    def descend(self, loss: torch.Tensor) -> None:
        """Take the optimizer's step along the gradient of each model's loss, shape (model,)."""
        self.optimizer.zero_grad()
        loss.sum().backward()
        self.optimizer.step()

    def set_gradients(self, gradients: Sequence[dict[str, torch.Tensor]]) -> None:
        """Set the gradients of all parameters, given those of each model, for the optimizer's next step."""
        for name, parameter in self.parameters.items():
            own = [of_one[name] for of_one in gradients]
            parameter.grad = torch.stack(own) if self.mode == "stacked" else own[0]

    def _soft(self, targets: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Return soft labels of all records for each model, after a look at them."""
        targets, k, right = (
            as_tensor(targets, self.device),
            len(self.models),
            (len(self.y), self.pool.n_classes),
        )
        if targets.shape[-2:] != right or targets.shape[:-2] not in ((), (k,)):
            raise ValueError(
                f"targets has shape {tuple(targets.shape)}; it must be {right}, or that for each of {k} models."
            )
        return targets.expand(k, -1, -1)

    def adopt(self, other: Self) -> None:
        """Copy the weights of another run of the same models, such as a `fork`."""
        self._restore(other.state())

    def state(self) -> dict[str, torch.Tensor]:
        """Return parameters and running statistics by name, as they are used: not copies."""
        return {**self.parameters, **dict(self.network.named_buffers())}

    def _keep_best(
        self, best: torch.Tensor | None, kept: dict[str, torch.Tensor] | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        accuracy = self.accuracy(self.pool.x_val, self.pool.y_val)
        if best is None or kept is None:
            return accuracy, {name: value.detach().clone() for name, value in self.state().items()}
        better = accuracy > best
        for name, value in self.state().items():
            if self.mode == "stacked":
                kept[name][better] = value.detach()[better]
            elif better:
                kept[name].copy_(value.detach())
        return torch.maximum(accuracy, best), kept

    @torch.no_grad()
    def _restore(self, kept: dict[str, torch.Tensor]) -> None:
        for name, value in self.state().items():
            value.copy_(kept[name])

    # ------------------------------------------------------------------------------------------ answers

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Switch the network to evaluation for a while, then each of its modules back to the mode it was in."""
        before = [(module, module.training) for module in self.network.modules()]
        self.network.eval()
        try:
            yield
        finally:
            for module, training in before:
                module.training = training

    @torch.inference_mode()
    def predict(self, x: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Own answers of the models, in evaluation mode and float32, (model, record, classes).

        Inputs are the same for every model, (record, ...), or one set a model, (model, record, ...).
        """
        x = as_tensor(x, self.device)
        if x.dim() == self.x.dim():
            x = x.expand(len(self.models), *x.shape)
        # All models together see ANSWER_BATCH records, so that answers need no more memory than training did; on a CPU
        # a single model sees fewer, which stay in its cache.
        size = max(1, ANSWER_BATCH // len(self.models))
        if self.device == "cpu":
            size = min(size, CACHED_BATCH)
        with self.evaluating():
            return torch.cat([self._forward(self.parameters, part) for part in x.split(size, dim=1)], dim=1)

    def inputs(self, records: slice | torch.Tensor) -> torch.Tensor:
        """Return some records (a slice or indices) of the data as inputs, float32 (record, ...)."""
        return prepare(self.x[records])

    def alone(self, index: int, purpose: str = "") -> Self:
        """View one model of the group, once trained, as a group of its own, with random numbers for a purpose."""
        view = copy(self)
        view.models, view.members = [self.models[index]], self.members[index : index + 1]
        view.purpose, view._streams = self.purpose + purpose, {}
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
        view._layout = torch.contiguous_format  # vmap knows no other
        of_one = {name: value.detach() for name, value in view.parameters.items()}
        if self.mode == "stacked":
            of_one = {name: value[0] for name, value in of_one.items()}

        def forward(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
            with self.evaluating():
                return view._call(parameters, x)

        return forward, of_one

    def accuracy(self, x: np.ndarray, y: np.ndarray) -> torch.Tensor:
        """Accuracy of each model on records ``x`` with labels ``y``, shape (model,); NaN without records."""
        return _mean(self.correct(x, y))

    def correct(self, x: np.ndarray, y: np.ndarray) -> torch.Tensor:
        """Which records ``x`` with labels ``y`` each model labels correctly, bool (model, record)."""
        if not len(x):
            return torch.empty(len(self.models), 0, dtype=torch.bool)
        return self.predict(x).argmax(-1) == as_tensor(y, self.device)


def train_group(
    models: Sequence[int],
    *,
    pool: Pool,
    y: np.ndarray,
    member: np.ndarray,
    queries: Queries,
    device: str = "cpu",
    keep: Literal["logits", "scores"] = "logits",
    answers: Literal["float32", "float16"] = "float32",
    probes: Sequence[Probe] = (),
    observe: Callable[[Run], None] | None = None,
    **plan: Any,
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
    queries, keep, answers, probes
        What is measured of each model, see `mialab.play`.
    device : str
        ``"cpu"`` or ``"cuda"``.
    observe : callable, optional
        Looks at the running training, see `Run.train`.
    **plan
        ``build`` (the network), ``defense``, ``training`` and ``seed``, see `mialab.play`.

    Returns
    -------
    dict of str to numpy.ndarray
        With a leading model dimension: ``logits`` (model, query, record, label) as released; ``raw_logits``, the same
        before the defense's output step, if it has one; with ``keep="scores"`` instead of each of them its signals
        (model, query, record) float32, e.g. ``loss`` and ``raw_loss``; ``train_accuracy``, ``validation_accuracy``,
        ``test_accuracy``, ``test_correct`` (model, test record) if there are any, and ``seconds`` (each model's
        fraction of the group's time); and the arrays of the probes.
        With checkpoints, all but the last two also (model, checkpoint, ...), e.g. ``checkpoint_logits``.

    Raises
    ------
    FloatingPointError
        If a model's answers are not finite numbers, or do not fit the type of the answers.
    """

    def outputs(run: Run) -> dict[str, np.ndarray]:
        return _outputs(run, queries=queries, keep=keep, dtype=np.dtype(answers))

    def trained(run: Run) -> dict[str, np.ndarray]:
        earlier: list[dict[str, np.ndarray]] = []
        run.train(observe, lambda run: earlier.append(outputs(run)))
        arrays = outputs(run)
        for name in list(arrays) if earlier else ():
            arrays[f"checkpoint_{name}"] = np.stack([one.pop(name) for one in earlier], axis=1)
        return arrays

    return Run.measured(trained, probes, pool.x, y, member, models, pool=pool, device=device, **plan)


def _outputs(run: Run, *, queries: Queries, keep: str, dtype: np.dtype) -> dict[str, np.ndarray]:
    """Ask all queries, a block of records at a time, and measure accuracies; see `train_group`."""
    n, defense = len(run.pool), run.defense
    # Accuracy is that of what users get. Where labels survive the defense, its answers are not needed for it.
    labels = "raw_" if defense.uses("answer") and defense.keeps_labels else ""
    shape = (len(run.models), len(queries), n)
    arrays: dict[str, np.ndarray] = {}
    correct = torch.empty(len(run.models), n, dtype=torch.bool, device=run.device)
    for query in range(len(queries)):
        x = as_tensor(queries(query, run.pool.x), run.device)
        for start in range(0, n, ANSWER_BATCH):
            block = slice(start, start + ANSWER_BATCH)
            raw = run.predict(x[block])
            given = {"": raw}
            if defense.uses("answer"):
                record = torch.arange(n, device=run.device)[block]
                released = defense.answer(run, raw, x[block], record, query)
                run.check_shape("answer", released, raw.shape, "that of the logits")
                given = {"": released, "raw_": raw}
            for prefix, logits in given.items():
                for name, values in _kept(logits, run, block, keep, dtype).items():
                    if prefix + name not in arrays:
                        arrays[prefix + name] = np.empty(shape + values.shape[2:], values.dtype)
                    arrays[prefix + name][:, query, block] = values
            if query == 0:
                correct[:, block] = given[labels].argmax(-1) == run.y[block]
    tested = _correct(run, run.pool.x_test, run.pool.y_test)
    accuracies = {
        "train_accuracy": correct.gather(1, run.members).double().mean(1),
        "validation_accuracy": _mean(_correct(run, run.pool.x_val, run.pool.y_val)),
        "test_accuracy": _mean(tested),
    } | ({"test_correct": tested} if tested.numel() else {})
    return arrays | {name: value.cpu().numpy() for name, value in accuracies.items()}


def _correct(run: Run, x: np.ndarray, y: np.ndarray) -> torch.Tensor:
    """Which records each model labels correctly in the answers that are released, bool (model, record)."""
    defense = run.defense
    if not len(x) or defense.keeps_labels or not defense.uses("answer"):
        return run.correct(x, y)
    inputs = as_tensor(x, run.device)
    released = [
        defense.answer(run, run.predict(part), part, None, None) for part in inputs.split(ANSWER_BATCH)
    ]
    return torch.cat(released, dim=1).argmax(-1) == as_tensor(y, run.device)


def _mean(correct: torch.Tensor) -> torch.Tensor:
    """Accuracies of models, (model,); torch's own NaN has a sign, which a store would not keep."""
    return correct.double().mean(-1) if correct.shape[-1] else torch.full((len(correct),), torch.nan)


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
            name: np.stack([signal.stored(own, labels) for own in exact]).astype(np.float32)
            for name, signal in SIGNALS.items()
        }
    most = np.finfo(dtype).max
    if np.abs(exact).max() > most:
        raise FloatingPointError(
            f"A logit of {np.abs(exact).max():.3g} does not fit answers={dtype.name!r} (at most {most:.3g}): "
            "give answers='float32'."
        )
    return {"logits": exact.astype(dtype, copy=False)}
