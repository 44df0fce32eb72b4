"""Norms of the gradients of each record's loss."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.func import grad, vmap

from mialab.arrays import ArraySpec
from mialab.defenses.base import Run, cross_entropy
from mialab.probes.base import Probe
from mialab.training.stack import Forward, is_plain_mlp

Norms = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


#: Bytes of gradients in memory at once, and of records that stand at the boundary: what is larger is no faster.
CHUNK_BYTES = 2**24
#: Gradients are multiplied by this power of 2, which changes no digit: in float32, squares below 1e-45 are 0.
SCALE = 2.0**32


#: Records whose gradients are computed at once, at most: networks of few parameters may have large activations.
CHUNK_RECORDS = 512


def layers(parameters: Iterable[str]) -> dict[str, list[str]]:
    """Return the parameters of each layer; a layer is a module that has parameters of its own.

    Parameters
    ----------
    parameters : iterable of str
        Names of a network's parameters. Those outside all modules belong to the layer ``"network"``.
    """
    names: dict[str, list[str]] = {}
    for name in parameters:
        names.setdefault(name.rpartition(".")[0] or "network", []).append(name)
    return names


@dataclass(frozen=True)
class Gradient(Probe):
    """White box: the norm of the gradient of each record's loss with respect to each layer's parameters.

    The array ``gradient_norm`` (model, record, layer) holds the L2 norm of the gradient of the cross-entropy at the
    label (as trained on, of the model's own answers) with respect to the weights and biases of one module, in
    evaluation mode and float32 (Nasr et al., 2019, section III, whose attack takes the gradients themselves; Rezaei
    and Liu, 2021, take their norms). The game's attribute ``layers`` names the modules.
    """

    name: ClassVar[str] = "gradient"
    array: ClassVar[ArraySpec] = ArraySpec(
        "gradient_norm", ("model", "record", "layer"), low=0, optional="layer", probe="gradient"
    )

    def __call__(self, run: Run) -> dict[str, np.ndarray]:
        """Return the norms of all gradients; see `AnyProbe`."""
        return {self.array.name: np.stack([_gradient_norms(run, k) for k in range(len(run.models))])}


def _gradient_norms(run: Run, index: int) -> np.ndarray:
    """Norms of one model's gradients, float32 (record, layer)."""
    forward, parameters = run.function(index)
    plain = is_plain_mlp(run.network) and not run.defense.uses("weights")
    measure = _by_factors(run.network, parameters) if plain else _by_record(forward, parameters, run)
    numbers = 0 if plain else sum(value.numel() for value in parameters.values())
    size = min(CHUNK_RECORDS, max(1, CHUNK_BYTES // (4 * max(1, numbers))))
    blocks = torch.arange(len(run.y), device=run.device).split(size)
    values = torch.cat([measure(run.inputs(block), run.y[block]) for block in blocks])
    return (values / SCALE).cpu().numpy()


def _by_record(forward: Forward, parameters: dict[str, torch.Tensor], run: Run) -> Norms:
    """Norms from the gradients themselves, those of each record on its own: for any network."""
    parts = layers(parameters).values()

    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return SCALE * cross_entropy(forward(parameters, x[None])[0], y)

    def norms(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        gradient = grad(loss)(parameters, x, y)
        sizes = {name: torch.linalg.vector_norm(value) for name, value in gradient.items()}
        return torch.stack([torch.stack([sizes[name] for name in names]).norm() for names in parts])

    def one_by_one(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.stack([norms(*one) for one in zip(x, y, strict=True)])

    together = vmap(norms)
    try:
        together(run.inputs(slice(2)), run.y[:2])
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError):  # vmap's own words for what it cannot do
        return one_by_one
    return together


def _by_factors(network: nn.Module, parameters: dict[str, torch.Tensor]) -> Norms:
    """Norms without the gradients, many times faster: for plain multilayer perceptrons.

    The gradient of a layer's weights at one record is the outer product of the error at the layer's output and its
    input, that of the biases the error (Goodfellow, 2015).
    """

    def norms(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        inputs: list[Any] = []
        outputs: list[Any] = []
        for name, layer in network.named_children():
            if isinstance(layer, nn.Linear):
                inputs.append(x)
                x = nn.functional.linear(x, parameters[f"{name}.weight"], parameters[f"{name}.bias"])
                outputs.append(x if outputs else x.requires_grad_())
            else:
                x = layer(x)
        errors = torch.autograd.grad(SCALE * cross_entropy(x, y).sum(), outputs)
        sizes = [(1 + x.square().sum(-1)).sqrt() for x in inputs]
        return torch.stack(
            [e.norm(dim=-1) * size.detach() for e, size in zip(errors, sizes, strict=True)], dim=-1
        )

    return norms
