"""Small networks that tell members from others by a classifier's answers, one for each model of a group."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from mialab.data.pool import Pool
from mialab.training.streams import Streams

#: What decides trainings beside the module of the defense itself, for the keys of games.
SOURCES = {"inference": "defenses.inference"}
#: Of one layer, of all models: weights (model, in, out) and biases (model, 1, out).
Layer = tuple[torch.Tensor, torch.Tensor]


def check_reference(defense: str, pool: Pool, least: int, what: str) -> None:
    """Refuse a pool with too few reference records to tell members from (ValueError).

    Parameters
    ----------
    defense : str
        Name of the defense.
    pool : Pool
        The pool.
    least : int
        How many there have to be.
    what : str
        What that is, such as "a batch".
    """
    n = len(pool.x_reference)
    if n < least:
        raise ValueError(
            f"{pool.name!r} has {n} reference records (x_reference); defense={defense!r} needs at least {least}, "
            f"{what}, to tell members from."
        )


def build_layers(widths: Sequence[int], *, rng: Streams, scale: float | None = None) -> list[Layer]:
    """Return linear layers with Gaussian weights and no biases, to be trained.

    Parameters
    ----------
    widths : sequence of int
        Of the input and of each layer.
    rng : Streams
        Random numbers, a stream a model.
    scale : float, optional
        Standard deviation of the weights; by default that of He et al. (2015), the root of 2 over the inputs.
    """
    layers = []
    for size in pairwise(widths):
        spread = (2 / size[0]) ** 0.5 if scale is None else scale
        weight = (spread * rng.normal(*size)).requires_grad_()
        layers.append((weight, torch.zeros_like(weight[:, :1]).requires_grad_()))
    return layers


def hidden(layers: Sequence[Layer], x: torch.Tensor) -> torch.Tensor:
    """Return what layers, each followed by a ReLU, make of inputs: (model, record, in) becomes (model, record, out)."""
    for weight, bias in layers:
        x = torch.baddbmm(bias, x, weight).relu()
    return x


def one_number(layers: Sequence[Layer], x: torch.Tensor) -> torch.Tensor:
    """Return what a network with one output makes of inputs: shapes (model, record, in) and (model, record)."""
    weight, bias = layers[-1]
    return torch.baddbmm(bias, hidden(layers[:-1], x), weight).squeeze(-1)


def parameters(*networks: Sequence[Layer]) -> list[torch.Tensor]:
    """Return weights and biases of some networks."""
    return [parameter for layers in networks for layer in layers for parameter in layer]
