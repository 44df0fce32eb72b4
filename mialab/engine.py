"""The training engine: a group of models on data that already lies in memory.

There is one loop. It trains a group either *stacked* (all models in one tensor program through `torch.func.vmap`)
or *single* (one model). Which form is used follows from the network and the device, see `form`; results differ by
float rounding only. So do the arithmetic of the training steps (`resolve`) and the layout of images in memory
(`channels_last`): rules, not timings, so that a game is the same in a busy and in an idle hour.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from mialab.augmentation import flip_and_shift
from mialab.data import Pool
from mialab.defenses.base import Defense
from mialab.models import Model
from mialab.options import as_integers, check_integer, check_number, choose
from mialab.queries import Queries
from mialab.randomness import Streams, generator
from mialab.signals import SIGNALS

if TYPE_CHECKING:
    from mialab.probes import Probe

Forward = Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor]
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
#: On a CPU, larger networks are faster one at a time: stacked, their weights fall out of the cache.
STACKED_PARAMETERS = 50_000
#: Larger ones are trained in bfloat16 where the processor has it.
BFLOAT_PARAMETERS = 30_000
#: Models and parameters of a stacked group on a CPU, at most: more are no faster, and a kill loses a group.
GROUP_MODELS = 16
GROUP_PARAMETERS = 400_000
#: Share of a GPU's free memory that a group may be expected to fill.
GPU_SHARE = 0.6
#: A core's overhead per training step, and its speed with matrices, roughly.
STEP_SECONDS, OPERATIONS_PER_SECOND = 2e-4, 1e11
#: Records that a group answers at a time, all its models together.
ANSWER_BATCH = 1024
CACHED_BATCH = 128
#: Threads share torch's random numbers and its default number of threads.
_CHANCE, _COUNT = threading.Lock(), threading.Lock()
_running: list[None] = []
_threads = 1


@dataclass(frozen=True, kw_only=True)
class Training:
    """How each model is trained.

    Parameters
    ----------
    epochs : int
        Passes over the members.
    stop : int, optional
        Epochs after which training ends early; schedules of learning rates and defenses still go by ``epochs``.
    batch_size : int
        Records in a batch; the last, smaller batch of an epoch is used as well.
    optimizer : {"adam", "adamw", "sgd"}
        Optimizer.
    lr : float
        Learning rate.
    momentum : float
        Momentum, of SGD only.
    weight_decay : float
        Weight decay (as an L2 term inside SGD and Adam, decoupled in AdamW).
    milestones : tuple of int
        Epochs (counted from 0) before which the learning rate is multiplied by ``decay``.
    decay : float
        That factor.
    shuffle : bool
        Whether each epoch visits the members in a new random order; if not, always in the same one.
    select : {"last", "best_validation"}
        The model that is released: of the last epoch, or of the first epoch with the highest accuracy on the
        pool's validation part.
    flip : bool
        Data augmentation of images: whether an image is mirrored left to right with probability 1/2 each time.
    shift : int
        Data augmentation of images: they are moved by up to so many pixels in both directions each time.
    precision : {"auto", "float32", "bfloat16"}
        Arithmetic of the training steps (weights and answers are float32 always): bfloat16 where that is fast, see
        `resolve`.
    """

    epochs: int = 50
    stop: int | None = None
    batch_size: int = 64
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.0
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    shuffle: bool = True
    select: Literal["last", "best_validation"] = "last"
    flip: bool = False
    shift: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        check_integer("epochs", self.epochs, low=1)
        if self.stop is not None:
            check_integer("stop", self.stop, low=1)
            if self.stop > self.epochs:
                raise ValueError(f"stop={self.stop} must be at most epochs={self.epochs}.")
        check_integer("batch_size", self.batch_size, low=1)
        choose("optimizer", self.optimizer, OPTIMIZERS)
        check_number("lr", self.lr, above=0)
        check_number("momentum", self.momentum, low=0, high=1)
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum={self.momentum!r} goes with optimizer='sgd', not {self.optimizer!r}.")
        check_number("weight_decay", self.weight_decay, low=0)
        object.__setattr__(self, "milestones", as_integers("milestones", self.milestones, low=1))
        check_number("decay", self.decay, above=0, high=1)
        choose("select", self.select, ("last", "best_validation"))
        check_integer("shift", self.shift)
        choose("precision", self.precision, ("auto", "float32", "bfloat16"))

    def check(self, pool: Pool) -> None:
        """Refuse a pool that cannot be trained on in this way (ValueError)."""
        if self.select == "best_validation" and not len(pool.x_val):
            raise ValueError(
                "select='best_validation' needs a validation part: load the pool with validation=...."
            )
        if (self.flip or self.shift) and pool.kind != "image":
            raise ValueError(
                f"flip={self.flip} and shift={self.shift} are for images; {pool.name!r} has {pool.kind} records."
            )
        if self.shift and self.shift >= min(pool.x.shape[-2:]):
            raise ValueError(f"shift={self.shift} moves images of {pool.x.shape[-2:]} pixels out of sight.")

    def lr_at(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        return self.lr * self.decay ** sum(epoch >= m for m in self.milestones)


def form(
    network: nn.Module, x: torch.Tensor | tuple[torch.Tensor, ...], device: str = "cpu"
) -> Literal["stacked", "single"]:
    """Decide how networks of this kind are trained.

    Stacked training needs networks that `torch.func.vmap` can run, that have no state besides their parameters (no
    batch norm), and that draw no random numbers of their own (no dropout, whose numbers would depend on the group).
    On a GPU it is always the faster form then; on a CPU only for networks of at most 50,000 parameters without
    convolutions.

    Parameters
    ----------
    network : torch.nn.Module
        One of the networks.
    x : torch.Tensor, shape (record, ...)
        A few inputs to try it on; a tuple of tensors for networks with several inputs.
    device : str
        ``"cpu"`` or ``"cuda"``.
    """
    if device == "cpu" and (count_parameters(network) > STACKED_PARAMETERS or _has(network, nn.Conv2d)):
        return "single"
    return "stacked" if _stackable(network, x) else "single"


def count_parameters(network: nn.Module) -> int:
    """Return how many numbers a network learns."""
    return sum(p.numel() for p in network.parameters())


def _has(network: nn.Module, *kinds: type[nn.Module]) -> bool:
    return any(isinstance(module, kinds) for module in network.modules())


def is_plain_mlp(network: nn.Module) -> bool:
    """Whether a network is a chain of linear layers, each with weights of its own, tanh, and ReLU."""
    plain = {nn.Flatten, nn.Linear, nn.Tanh, nn.ReLU}
    if type(network) is not nn.Sequential or len({*network}) < len(network):
        return False
    alike = all(type(layer) in plain and getattr(layer, "bias", 0) is not None for layer in network)
    return alike and len([*network.parameters()]) == 2 * sum(type(layer) is nn.Linear for layer in network)


def channels_last(network: nn.Module) -> bool:
    """Whether images and weights are laid out channels last: with convolutions, unless group norm stands between."""
    return _has(network, nn.Conv2d) and not _has(network, nn.GroupNorm, nn.InstanceNorm2d)


def resolve(training: Training, network: nn.Module, device: str = "cpu") -> Training:
    """Replace ``precision="auto"`` by a precision.

    That is bfloat16 on GPUs that have it, and on processors with AVX512-BF16 or AMX for networks with convolutions or
    more than 30,000 parameters: for smaller ones, conversions cost more than they save.

    Parameters
    ----------
    training : Training
        How models are trained.
    network : torch.nn.Module
        One of the networks.
    device : str
        ``"cpu"`` or ``"cuda"``.
    """
    if training.precision != "auto":
        return training
    if device == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = torch.cpu.get_capabilities()
        large = count_parameters(network) > BFLOAT_PARAMETERS or _has(network, nn.Conv2d)
        fast = large and bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return replace(training, precision="bfloat16" if fast else "float32")


def seconds_of_work(network: nn.Module, pool: Pool, training: Training) -> float:
    """Estimate how long one processor core takes to train one model, to tell small games from large ones.

    Each step costs some overhead and six operations for each multiplication of a forward pass: a rule from a typical
    processor, good to a factor of about three.

    Parameters
    ----------
    network : torch.nn.Module
        One of the networks.
    pool : Pool
        The records; half of them are members.
    training : Training
        How models are trained.
    """
    multiplications = 0

    def count(module: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal multiplications
        weight = getattr(module, "weight", None)
        if (
            weight is not None and weight.dim() > 1
        ):  # linear layers and convolutions: once per place of the output
            places = out.numel() / weight.shape[0]
            multiplications += int(weight.numel() * places)

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    with torch.inference_mode():
        network.eval()(prepare(_tensor(pool.x[:1], "cpu")))
    for hook in hooks:
        hook.remove()
    members = len(pool) // 2
    steps = -(-members // training.batch_size)
    return (training.stop or training.epochs) * (
        steps * STEP_SECONDS + 6 * multiplications * members / OPERATIONS_PER_SECOND
    )


def models_per_group(network: nn.Module, pool: Pool, training: Training, device: str = "cpu") -> int:
    """Return how many models a stacked group holds at most.

    On a CPU that is 16, and fewer where they have more than 400,000 parameters together. On a GPU it is what fits
    into 60 % of its free memory, by the size of parameters, gradients, optimizer state and of what one model keeps
    of a batch for its gradient; a group that does not fit after all is split (see `mialab.play`).

    Parameters
    ----------
    network : torch.nn.Module
        One of the networks, on the CPU.
    pool : Pool
        The records.
    training : Training
        How models are trained.
    device : str
        ``"cpu"`` or ``"cuda"``.
    """
    n_parameters = count_parameters(network)
    if device == "cpu":
        return max(1, min(GROUP_MODELS, GROUP_PARAMETERS // max(1, n_parameters)))
    free, _ = torch.cuda.mem_get_info()
    free -= sum(array.nbytes for array in (pool.x, pool.y))
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    x = prepare(_tensor(pool.x[: training.batch_size], "cpu"))
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        network(x)
    # Weight, gradient, and two numbers of optimizer state for each parameter; a batch's gradients beside its values.
    one = 4 * 4 * n_parameters + 2 * kept + x.numel() * x.element_size()
    return max(1, int(GPU_SHARE * free / one))


def _stackable(network: nn.Module, x: torch.Tensor | tuple[torch.Tensor, ...]) -> bool:
    if any(True for _ in network.buffers()):
        return False
    stack = {name: p.detach()[None] for name, p in network.train().named_parameters()}
    inputs = x if isinstance(x, tuple) else (x,)
    try:
        vmap(lambda parameters, *x: functional_call(network, parameters, x))(
            stack, *(i[None] for i in inputs)
        )
    except (RuntimeError, ValueError):  # vmap's own words for what it cannot do, random numbers among it
        return False
    return True


def initialise(build: Model, pool: Pool, seed: int, model: int, defense: Defense | None = None) -> nn.Module:
    """Build network number ``model``: its initial weights depend on ``(seed, model)`` alone.

    The defense may change the network, see `mialab.defenses.Defense.network`.
    """
    with _CHANCE, torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(seed, "weights", model).integers(2**63)))
        network = build(pool.x.shape[1:], pool.n_classes)
    return network if defense is None else defense.network(network)


def prepare(x: torch.Tensor) -> torch.Tensor:
    """Turn stored records into a network's inputs: pixels stored as bytes become numbers in [0, 1]."""
    return x.to(torch.float32) / 255 if x.dtype == torch.uint8 else x


def _tensor(array: np.ndarray | torch.Tensor, device: str) -> torch.Tensor:
    # Worker processes see the pool through read-only memory; nothing here writes to it.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.as_tensor(array, device=device)


@contextmanager
def one_thread() -> Iterator[None]:
    """Train on one processor core for a while."""
    # A group is one thread's work: other cores train other groups, and small operations gain nothing from two. Torch
    # keeps the number for each thread and, for new ones, for the process: the last group to end restores it.
    global _threads
    with _COUNT:
        if not _running:
            _threads = torch.get_num_threads()
        _running.append(None)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        with _COUNT:
            _running.pop()
            if not _running:
                torch.set_num_threads(_threads)


@contextmanager
def own_chance(seed: int, model: int) -> Iterator[None]:
    """Give networks numbers from torch's own generator that depend on ``(seed, model)`` alone."""
    # For networks that draw from torch's own generator, such as those with dropout.
    with torch.random.fork_rng():
        torch.manual_seed(int(generator(seed, "torch", model).integers(2**63)))
        yield


class Run:
    """A group of models in training, as the hooks of a defense see it.

    Attributes
    ----------
    models : list of int
        Indices of the models in the game.
    epoch : int
        The epoch that goes on, counted from 0.
    progress : float or None
        Share of the epochs that is over, from 0 in the first one to 1 in the last one; None when training is over.
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
        What is trained; with a leading model dimension in the stacked form.
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
        networks = [initialise(build, pool, seed, k, defense).to(device) for k in self.models]
        self.training = resolve(training, networks[0], device)
        self.form = form(networks[0], prepare(self.x[:2]), device)
        self.network = networks[0]
        self._layout = torch.contiguous_format
        if self.form == "stacked":
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
            if self.form == "stacked":
                kept[name][better] = value.detach()[better]
            elif better:
                kept[name].copy_(value.detach())
        return torch.maximum(accuracy, best), kept

    @torch.no_grad()
    def _restore(self, kept: dict[str, torch.Tensor]) -> None:
        buffers = {} if self.form == "stacked" else dict(self.network.named_buffers())
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
        if self.form == "stacked":
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
        if self.form == "stacked":
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
        Whether to return the answers or, for each of `mialab.signals.SIGNALS`, one number of each answer.
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
        ``test_accuracy`` and ``seconds`` (each model's share of the group's time); and the arrays of the probes.

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
            run.form == "single"
        ):  # stacked ones draw no numbers of torch's, so other threads may train meanwhile
            stack.enter_context(own_chance(seed, models[0]))
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
