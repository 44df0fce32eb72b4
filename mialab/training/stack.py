"""Networks in groups: stacked in one tensor program or one at a time, in which arithmetic, and on how many cores."""

from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, vmap

from mialab.data.pool import Pool
from mialab.models import Model
from mialab.training.hooks import Hooks
from mialab.training.options import Training
from mialab.training.streams import generator

Forward = Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor]


#: On a CPU, larger networks are faster one at a time: stacked, their weights fall out of the cache.
STACKED_PARAMETERS = 50_000


#: Layers of `is_plain_mlp`.
PLAIN = {nn.Flatten, nn.LeakyReLU, nn.Linear, nn.ReLU, nn.Sigmoid, nn.Tanh, nn.Unflatten}


#: Larger ones are trained in bfloat16 where the processor has it.
BFLOAT_PARAMETERS = 30_000


#: Models and parameters of a stacked group on a CPU, at most: more are no faster, and a kill loses a group.
GROUP_MODELS = 16


GROUP_PARAMETERS = 400_000


#: Fraction of a GPU's free memory that a group may be expected to fill.
GPU_FRACTION = 0.6


#: A core's overhead per training step, and its speed with matrices, roughly.
STEP_SECONDS, OPERATIONS_PER_SECOND = 2e-4, 1e11


#: Threads share the random numbers of torch, NumPy and Python, and torch's default number of threads.
_CHANCE, _COUNT = threading.RLock(), threading.Lock()


_thread = threading.local()


_running: list[None] = []


_threads = 1


def mode(
    network: nn.Module, x: torch.Tensor | tuple[torch.Tensor, ...], device: str = "cpu"
) -> Literal["stacked", "sequential"]:
    """Decide how networks of this kind are trained.

    Stacked training needs networks that `torch.func.vmap` can run, that have no state besides their parameters (no
    batch norm), and that draw no random numbers of their own (no dropout, whose numbers would depend on the group).
    On a GPU it is always the faster mode then; on a CPU only for networks of at most 50,000 parameters without
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
        return "sequential"
    return "stacked" if _stackable(network, x) else "sequential"


def count_parameters(network: nn.Module) -> int:
    """Return how many numbers a network learns."""
    return sum(p.numel() for p in network.parameters())


def _has(network: nn.Module, *kinds: type[nn.Module]) -> bool:
    return any(isinstance(module, kinds) for module in network.modules())


def is_plain_mlp(*parts: nn.Module) -> bool:
    """Whether networks are chains of linear layers, each with weights of its own, and of functions of numbers."""
    if not all(type(part) is nn.Sequential for part in parts):
        return False
    chains: tuple[Any, ...] = parts
    layers = [layer for part in chains for layer in part]
    linear = [layer for layer in layers if type(layer) is nn.Linear]
    own = {parameter for layer in linear for parameter in layer.parameters()}
    return {*map(type, layers)} <= PLAIN and len({*layers}) == len(layers) and len(own) == 2 * len(linear)


def batched_mlp(
    network: Any, parameters: dict[str, torch.Tensor], x: torch.Tensor, prefix: str = ""
) -> torch.Tensor:
    """Compute networks of `is_plain_mlp` by batched matrix products, in two thirds of the time that `vmap` takes.

    Of one network the layers are looked at, not its parameters: those of all, (network, ...), are given by names that
    begin with ``prefix``. Inputs are (network, batch, ...).
    """
    for number, layer in network.named_children():
        if isinstance(layer, nn.Linear):
            weight, bias = (parameters[f"{prefix}{number}.{part}"] for part in ("weight", "bias"))
            x = torch.baddbmm(bias[:, None], x, weight.mT)
        elif isinstance(layer, nn.Flatten):
            x = x.flatten(2)
        else:
            x = x.unflatten(2, layer.unflattened_size) if isinstance(layer, nn.Unflatten) else layer(x)
    return x


def channels_last(network: nn.Module) -> bool:
    """Whether images and weights are laid out channels last: with convolutions, unless group norm stands between."""
    if not _has(network, nn.Conv2d) or _has(network, nn.GroupNorm, nn.InstanceNorm2d):
        return False
    # On processors without AVX512, oneDNN writes beyond its memory in the gradient of strided 1x1 convolutions of few
    # channels in this layout.
    convolutions = (m for m in network.modules() if isinstance(m, nn.Conv2d))
    return not any(m.kernel_size == (1, 1) and m.stride != (1, 1) and m.in_channels < 8 for m in convolutions)


def resolve(training: Training, network: nn.Module, device: str = "cpu") -> Training:
    """Replace ``precision="auto"`` by a precision.

    That is bfloat16 on GPUs that have it, and on processors with AVX512-BF16 or AMX for networks with convolutions or
    more than 30,000 parameters: for smaller ones, conversions cost more than they save. See `mode` for the
    parameters.
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
    """Estimate how long one processor core takes to train one model, to distinguish small games from large ones.

    Each step costs some overhead and six operations for each multiplication of a forward pass: a rule from a typical
    processor, good to a factor of about three.
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
        network.eval()(prepare(as_tensor(pool.x[:1], "cpu")))
    for hook in hooks:
        hook.remove()
    members = len(pool) // 2
    steps = -(-members // training.batch_size)
    return training.last * (steps * STEP_SECONDS + 6 * multiplications * members / OPERATIONS_PER_SECOND)


def models_per_group(network: nn.Module, pool: Pool, training: Training, device: str = "cpu") -> int:
    """Return how many models a stacked group holds at most.

    On a CPU that is 16, and fewer where they have more than 400,000 parameters together. On a GPU it is what fits
    into 60 % of its free memory, by the size of parameters, gradients, optimizer state and of what one model keeps
    of a batch for its gradient; a group that does not fit after all is split (see `mialab.play`). See `mode` for the
    parameters.
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

    x = prepare(as_tensor(pool.x[: training.batch_size], "cpu"))
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        network(x)
    # Weight, gradient, and two numbers of optimizer state for each parameter; a batch's gradients beside its values.
    one = 4 * 4 * n_parameters + 2 * kept + x.numel() * x.element_size()
    return max(1, int(GPU_FRACTION * free / one))


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


def initialize(
    build: Model, pool: Pool, seed: int, model: int, defense: Hooks | None = None, purpose: str = ""
) -> nn.Module:
    """Build network number ``model``: its initial weights depend on ``(seed, model, purpose)`` alone.

    The defense may change the network, see `mialab.defenses.Defense.network`.
    """
    with seeded(int(generator(seed, purpose + "weights", model).integers(2**63))):
        network = build(pool.x.shape[1:], pool.n_classes)
        return network if defense is None else defense.network(network)


def prepare(x: torch.Tensor) -> torch.Tensor:
    """Turn stored records into a network's inputs: pixels stored as bytes become numbers in [0, 1]."""
    return x.to(torch.float32) / 255 if x.dtype == torch.uint8 else x


def as_tensor(array: np.ndarray | torch.Tensor, device: str) -> torch.Tensor:
    """Return an array as a tensor, a copy only where it must be: nothing here writes to it."""
    if isinstance(array, torch.Tensor) or array.flags.writeable:
        return torch.as_tensor(array, device=device)
    # Worker processes see the pool through read-only memory.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.as_tensor(array, device=device)


def stop_at(event: threading.Event) -> None:
    """Let training in this thread end, with an error, once an event is set."""
    _thread.event = event


def check_stop() -> None:
    """Raise InterruptedError once this thread's training is to end, see `stop_at`."""
    event = getattr(_thread, "event", None)
    if event is not None and event.is_set():
        raise InterruptedError(
            "Training was stopped, since another group's ended in an error or was interrupted."
        )


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


def draws(network: nn.Module, *x: torch.Tensor) -> bool:
    """Whether a network, in training, takes random numbers from a generator that threads share, as dropout does.

    It is tried on a few inputs, which change nothing about it.
    """
    before = [(module, module.training) for module in network.modules()]
    state = {name: value.clone() for name, value in network.named_buffers()}
    with seeded(0), torch.no_grad():
        start = _shared_state(), random.getstate()
        functional_call(network.train(), state, x)
        drawn = (_shared_state(), random.getstate()) != start
    for module, training in before:
        module.training = training
    return drawn


# NumPy's old generator is asked for itself: it is what networks and defenses of others may draw from (NPY002).
def _shared_state() -> tuple[object, ...]:
    _, keys, *rest = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().numpy().tobytes(), np.asarray(keys).tobytes(), *rest


@contextmanager
def undisturbed() -> Iterator[None]:
    """Refuse that random numbers are drawn for a while, of generators that threads share, unless these are `seeded`.

    Raises
    ------
    RuntimeError
        At the end, if some were: those of another thread, e.g. its initial weights, may then be wrong.
    """
    with _CHANCE:
        before = _shared_state()
    yield
    with _CHANCE:
        drawn = _shared_state() != before
    if drawn:
        raise RuntimeError(
            "Random numbers were drawn from torch's or NumPy's own generator during training, which groups in threads "
            "share: in defenses and probes, draw them from run.streams(purpose) or from a generator of your own."
        )


@contextmanager
def full_float32(device: str) -> Iterator[None]:
    """Let float32 be that on a GPU: products with 10 bits behind the point, as of convolutions by default, are off."""
    if device == "cpu":
        yield
        return
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def torch_rng(seed: int, model: int) -> AbstractContextManager[None]:
    """Give networks that draw from torch's own generator, such as those with dropout, numbers of ``(seed, model)``."""
    return seeded(int(generator(seed, "torch", model).integers(2**63)), devices=None)


@contextmanager
def seeded(seed: int, devices: Sequence[int] | None = ()) -> Iterator[None]:
    """Seed the generators that threads share, torch's own, NumPy's and Python's in which no other thread does.

    They are restored after it; of torch's on GPUs, those of ``devices`` are (None: all).
    """
    with set_aside(devices):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        yield


@contextmanager
def set_aside(devices: Sequence[int] | None = ()) -> Iterator[None]:
    """Restore the generators that threads share after a while, in which only this thread may take numbers of them."""
    with _CHANCE, torch.random.fork_rng(devices=devices):
        of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(of_numpy)  # noqa: NPY002
            random.setstate(of_python)
