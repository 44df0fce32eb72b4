"""Gradients of single records, clipped and summed: from what layers see and what comes back to them, else by `vmap`.

In one pass forward and one backward, every layer tells its inputs and the gradients with respect to its outputs, record
by record. They give the norm of a record's gradient without the gradient where that is cheaper (Goodfellow, 2015,
"Efficient per-example gradient computations"; for convolutions, Bu et al., 2022, "Scalable and efficient training of
large convolutional neural networks with differential privacy"), and then the sum of clipped ones as one product.
Networks of which that is not known to be right, for layers of other kinds or weights that are used twice, have the
gradient of each record computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from mialab.training.stack import channels_last

Tensors = dict[str, torch.Tensor]
#: The losses of records, (batch,), as a function of a network, given as a callable, and of its inputs (batch, ...).
Loss = Callable[..., torch.Tensor]
#: Squared norms of records' gradients, (batch,), and their sum as a function of records' weights, (batch,).
Gradients = tuple[torch.Tensor, Callable[[torch.Tensor], Tensors]]
#: Shapes of the outputs of layers, (rows, ...) of a record.
Shapes = dict[str, tuple[int, ...]]

#: Convolutions of fewer channels have patches that are slow to copy.
FEW_CHANNELS = 8
#: Products of two places that take as long as it takes to write and read one number of a record's gradient.
PRODUCTS = 50


def clipped_sum(
    network: nn.Module,
    loss: Loss,
    parameters: Tensors,
    inputs: tuple[torch.Tensor, ...],
    weight: torch.Tensor,
    max_norm: float,
) -> Tensors:
    """Sum of the gradients of each record's loss, that of each record clipped, by names and of shapes of parameters.

    Parameters
    ----------
    network, parameters
        One of the networks, whose own parameters are not looked at, and those of all, of shapes (network, ...).
    loss : callable
        Losses of records (batch,), given a callable in place of the network and ``inputs`` of one network, e.g.
        ``lambda network, x, y: cross_entropy(network(x), y)``.
    inputs, weight : torch.Tensor, shapes (network, batch, ...) and (network, batch)
        What the loss needs of the records of each network; the weight of each record in the sum, at most 1.
    max_norm : float
        Norm over all parameters to which a record's gradient is clipped.
    """
    parameters = {name: value.detach() for name, value in parameters.items()}
    shapes, several = _shapes_of(network, loss, parameters, inputs), len(weight) > 1

    def of_one(parameters: Tensors, weight: torch.Tensor, *inputs: torch.Tensor) -> Tensors:
        if shapes is None:
            squares, total = by_records(network, loss, parameters, inputs)
        else:
            squares, total = by_layers(network, loss, parameters, inputs, shapes, in_vmap=several)
        return total(weight / (squares.sqrt() / max_norm).clamp(min=1))

    if several:
        sums = vmap(of_one, randomness="different")(parameters, weight, *inputs)
        return {name: sums[name] for name in parameters}
    layout = torch.channels_last if shapes and channels_last(network) else torch.contiguous_format
    records = (
        i[0].contiguous(memory_format=layout if i.dim() == 5 else torch.contiguous_format) for i in inputs
    )
    alone = of_one({name: value[0] for name, value in parameters.items()}, weight[0], *records)
    return {name: alone[name][None] for name in parameters}


def by_records(
    network: nn.Module, loss: Loss, parameters: Tensors, inputs: tuple[torch.Tensor, ...]
) -> Gradients:
    """Return squared norms and sums of records' gradients by computing each of these, of one network."""

    def of_record(parameters: Tensors, *inputs: torch.Tensor) -> torch.Tensor:
        return loss(_called(network, parameters), *(i[None] for i in inputs))[0]

    each = vmap(grad(of_record), (None, *(0 for _ in inputs)), randomness="different")
    return _summed(each(parameters, *inputs))


def by_layers(
    network: nn.Module,
    loss: Loss,
    parameters: Tensors,
    inputs: tuple[torch.Tensor, ...],
    shapes: Shapes,
    *,
    in_vmap: bool = False,
) -> Gradients:
    """Return the same from the inputs of layers and the gradients with respect to their outputs, of one network."""
    layers, size = {name: network.get_submodule(name) for name in shapes}, len(inputs[0])
    if in_vmap:
        seen, back = _shifted(network, loss, parameters, inputs, layers, shapes)
    else:
        seen, back = _traced(network, loss, parameters, inputs, layers)
    parts = {
        name: RULES[type(layer)](layer, *(of[name].unflatten(0, (size, -1)) for of in (seen, back)))
        for name, layer in layers.items()
    }

    def total(fraction: torch.Tensor) -> Tensors:
        return {
            _joined(name, own): value
            for name, (_, of_layer) in parts.items()
            for own, value in of_layer(fraction).items()
        }

    return torch.stack([squares for squares, _ in parts.values()]).sum(0), total


# ----------------------------------------------------------------------------------------------------
# One pass forward, one backward


def _traced(
    network: nn.Module,
    loss: Loss,
    parameters: Tensors,
    inputs: tuple[torch.Tensor, ...],
    layers: dict[str, nn.Module],
) -> tuple[Tensors, Tensors]:
    """Return the inputs of layers and the gradients with respect to their outputs, outside of transforms."""
    seen, out = {}, {}

    def see(name: str, given: torch.Tensor, got: torch.Tensor) -> None:
        seen[name], out[name] = given.detach(), got

    values = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    with torch.enable_grad(), _watched(layers, see):
        value = loss(_called(network, values), *inputs).sum()
    return seen, dict(zip(out, torch.autograd.grad(value, [*out.values()]), strict=True))


def _shifted(
    network: nn.Module,
    loss: Loss,
    parameters: Tensors,
    inputs: tuple[torch.Tensor, ...],
    layers: dict[str, nn.Module],
    shapes: Shapes,
) -> tuple[Tensors, Tensors]:
    """Return the same inside of `vmap`: gradients with respect to zeros that are added to the outputs."""
    zero = next(iter(parameters.values())).new_zeros(())
    shifts = {name: zero.expand(len(inputs[0]) * rows, *shape) for name, (rows, *shape) in shapes.items()}

    def summed(shifts: Tensors) -> tuple[torch.Tensor, Tensors]:
        seen: Tensors = {}

        def see(name: str, given: torch.Tensor, got: torch.Tensor) -> torch.Tensor:
            seen[name] = given
            return got + shifts[name]

        with _watched(layers, see):
            return loss(_called(network, parameters), *inputs).sum(), seen

    back, seen = grad(summed, has_aux=True)(shifts)
    return seen, back


@contextmanager
def _watched(layers: dict[str, nn.Module], see: Callable[[str, Any, Any], Any]) -> Iterator[None]:
    with ExitStack() as hooks:
        for name, layer in layers.items():
            hook = layer.register_forward_hook(lambda _, given, got, name=name: see(name, given[0], got))
            hooks.callback(hook.remove)
        yield


def _called(network: nn.Module, parameters: Tensors) -> Callable[..., torch.Tensor]:
    return lambda *x: functional_call(network, parameters, x)


def _joined(layer: str, parameter: str) -> str:
    return f"{layer}.{parameter}" if layer else parameter


# ----------------------------------------------------------------------------------------------------
# Which way

_known: WeakKeyDictionary[nn.Module, Shapes | None] = WeakKeyDictionary()


def _shapes_of(
    network: nn.Module, loss: Loss, parameters: Tensors, inputs: tuple[torch.Tensor, ...]
) -> Shapes | None:
    """Return shapes of layers' outputs where `by_layers` is right for a network; None where it isn't."""
    if network not in _known:
        modes = [(module, module.training) for module in network.modules()]
        network.eval()  # so that nothing is drawn at random
        try:
            one = {name: value[0] for name, value in parameters.items()}
            _known[network] = _tried(network, loss, one, tuple(i[0, :2] for i in inputs))
        finally:
            for module, training in modes:
                module.training = training
    return _known[network]


def _tried(
    network: nn.Module, loss: Loss, parameters: Tensors, inputs: tuple[torch.Tensor, ...]
) -> Shapes | None:
    """Compare with plain differentiation, of two records."""
    layers = {
        name: m for name, m in network.named_modules() if any(True for _ in m.parameters(recurse=False))
    }
    owned = {_joined(name, own) for name, m in layers.items() for own, _ in m.named_parameters(recurse=False)}
    if owned != {*parameters} or not all(_has_rule(layer) for layer in layers.values()):
        return None
    size, calls = len(inputs[0]), []

    def see(name: str, _: torch.Tensor, got: torch.Tensor) -> None:
        calls.append((name, got.shape, got, got._version))

    try:
        with torch.no_grad(), _watched(layers, see):
            loss(_called(network, parameters), *inputs)
        once = sorted(name for name, *_ in calls) == sorted(layers)
        changed = any(got._version > before for *_, got, before in calls)  # in place
        if not once or changed or any(shape[0] % size for _, shape, *_ in calls):
            return None
        shapes = {name: (shape[0] // size, *shape[1:]) for name, shape, *_ in calls}
        ours = by_layers(network, loss, parameters, inputs, shapes)
        return shapes if _alike(ours, _plain(network, loss, parameters, inputs), size) else None
    except RuntimeError:  # of networks that cannot be watched
        return None


def _plain(
    network: nn.Module, loss: Loss, parameters: Tensors, inputs: tuple[torch.Tensor, ...]
) -> Gradients:
    values, each = {name: value.clone().requires_grad_() for name, value in parameters.items()}, []
    for record in zip(*inputs, strict=True):
        value = loss(_called(network, values), *(part[None] for part in record)).sum()
        each.append(torch.autograd.grad(value, [*values.values()]))
    return _summed({name: torch.stack(of) for name, *of in zip(values, *each, strict=True)})


def _alike(ours: Gradients, plain: Gradients, size: int) -> bool:
    """Whether norms agree, and sums in which records have different weights."""
    fraction = torch.arange(1.0, size + 1, device=plain[0].device)
    sums, right = (total(fraction) for _, total in (ours, plain))
    pairs = [(ours[0], plain[0]), *((sums[name], right[name]) for name in right)]
    whole = torch.stack(
        [value.norm() for value in right.values()]
    ).norm()  # some gradients are 0 but for rounding
    return all(bool((a - b).norm() <= 1e-3 * b.norm() + 1e-5 * whole + 1e-12) for a, b in pairs)


# ----------------------------------------------------------------------------------------------------
# Rules of layers: inputs and gradients with respect to outputs are (batch, rows, ...), rows being those of one record


def _summed(each: Tensors) -> Gradients:
    """Gradients of records that are there, (batch, ...)."""
    squares = torch.stack([g.flatten(1).square().sum(1) for g in each.values()]).sum(0)
    return squares, lambda fraction: {
        name: (fraction @ g.flatten(1)).view(g.shape[1:]) for name, g in each.items()
    }


def _products(a: torch.Tensor, g: torch.Tensor, *, bias: bool) -> Gradients:
    """Gradients of a matrix and a bias that are applied to rows, (batch, place, units)."""
    places, units, outputs = *a.shape[1:], g.shape[2]
    if places == 1:
        squares = g.square().sum((1, 2)) * (a.square().sum((1, 2)) + bias)
    elif places**2 * (units + outputs) < PRODUCTS * units * outputs:
        squares = ((a @ a.mT + bias) * (g @ g.mT)).sum((1, 2))
    else:
        return _summed({"weight": g.mT @ a} | ({"bias": g.sum(1)} if bias else {}))

    def total(fraction: torch.Tensor) -> Tensors:
        scaled = (fraction[:, None, None] * g).flatten(0, 1)
        return {"weight": scaled.mT @ a.flatten(0, 1)} | ({"bias": scaled.sum(0)} if bias else {})

    return squares, total


def _linear(layer: nn.Linear, a: torch.Tensor, g: torch.Tensor) -> Gradients:
    return _products(a.flatten(1, -2), g.flatten(1, -2), bias=layer.bias is not None)


def _convolution(layer: Any, a: torch.Tensor, g: torch.Tensor) -> Gradients:
    size, bias = len(a), layer.bias is not None
    if layer.groups > 1 or layer.dilation != (1, 1) or layer.in_channels < FEW_CHANNELS:
        # One convolution, of which each record is a group.
        images, back = (part.transpose(0, 1).flatten(1, 2) for part in (a, g))
        shape = (size * layer.out_channels, *layer.weight.shape[1:])
        options = (layer.stride, layer.padding, layer.dilation, size * layer.groups)
        each = {"weight": conv2d_weight(images, shape, back, *options).unflatten(0, (size, -1))}
        return _summed(each | ({"bias": g.sum((1, 3, 4))} if bias else {}))
    # A matrix that is applied to patches. Channels come last, so that rows of a patch are copied in one piece.
    (top, left), (down, right), (height, width) = layer.padding, layer.stride, layer.kernel_size
    images = F.pad(a.flatten(0, 1).movedim(1, 3), (0, 0, left, left, top, top))
    patches = images.unfold(1, height, down).unfold(2, width, right).permute(0, 1, 2, 4, 5, 3)
    patches = patches.reshape(size, -1, height * width * layer.in_channels)
    squares, of_matrix = _products(patches, g.movedim(2, 4).flatten(1, 3), bias=bias)

    def total(fraction: torch.Tensor) -> Tensors:
        sums = of_matrix(fraction)
        return sums | {"weight": sums["weight"].unflatten(1, (height, width, -1)).movedim(3, 1)}

    return squares, total


def _normalization(layer: Any, a: torch.Tensor, g: torch.Tensor) -> Gradients:
    if isinstance(layer, nn.LayerNorm):
        normalized = F.layer_norm(a, layer.normalized_shape, eps=layer.eps)
        rest = tuple(range(1, a.dim() - len(layer.normalized_shape)))
    else:
        groups = layer.num_groups if isinstance(layer, nn.GroupNorm) else layer.num_features
        normalized = F.group_norm(a.flatten(0, 1), groups, eps=layer.eps).view(a.shape)
        rest = (1, *range(3, a.dim()))
    each = {"weight": (g * normalized).sum(rest)}
    return _summed(each | ({"bias": g.sum(rest)} if layer.bias is not None else {}))


def _embedding(layer: nn.Embedding, a: torch.Tensor, g: torch.Tensor) -> Gradients:
    a, g = a.flatten(1), g.flatten(1, -2)  # (batch, place) and (batch, place, units)
    if layer.padding_idx is not None:
        g = g * (a != layer.padding_idx)[..., None]
    squares = ((a[:, :, None] == a[:, None]) * (g @ g.mT)).sum((1, 2))

    def total(fraction: torch.Tensor) -> Tensors:
        scaled = (fraction[:, None, None] * g).flatten(0, 1)
        return {"weight": g.new_zeros(layer.weight.shape).index_add(0, a.flatten(), scaled)}

    return squares, total


RULES: dict[type[nn.Module], Callable[..., Gradients]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.GroupNorm: _normalization,
    nn.InstanceNorm2d: _normalization,
    nn.LayerNorm: _normalization,
    nn.Embedding: _embedding,
}


def _has_rule(layer: Any) -> bool:
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if type(layer) is nn.Embedding:
        return layer.max_norm is None and not layer.scale_grad_by_freq and not layer.sparse
    return type(layer) in RULES
