"""Differentially private gradients for any victim: Poisson batches, clipped sums, noise, and the accountant.

The mechanism is DP-SGD (Abadi et al., 2016, algorithm 1). Tensors have a leading dimension over networks, where a
model may have several; parameters are those of `torch.func.stack_module_state`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from mialab._validation import choose, extra
from mialab.training.stack import seeded
from mialab.training.streams import Streams

#: The losses of records, (batch,), as a function of a network, given as a callable, and of its inputs (batch, ...).
Loss = Callable[..., torch.Tensor]
#: The weighted sum of records' gradients, given the weights (network, batch).
Total = Callable[[torch.Tensor], dict[str, torch.Tensor]]
#: Orders of the Rényi divergence that the accountant tries besides its own, which begin at 1.1 and end at 63.
MORE_ORDERS = (1.001, 1.003, 1.01, 1.02, 1.05, 80, 96, 128, 192, 256, 512)


def poisson_batch(members: torch.Tensor, rate: float, rng: Streams) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw batches in which every member takes part independently, with probability ``rate``.

    Given positions of members in the pool, int64 (model, ..., member), return positions, (model, ..., width), of those
    in the batch, then of others, up to the size of the largest batch; and weights, float32 of that shape: 1 for the
    members in the batch, 0 for the others. Random numbers are a stream a model.
    """
    return padded(members, rng.uniform(*members.shape[1:]) < rate)


def padded(members: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return positions and weights of `poisson_batch`, given which members are in the batch, as a mask."""
    width = max(1, int(chosen.sum(-1).max()))
    place = chosen.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[..., :width]
    return members.gather(-1, place), chosen.gather(-1, place).float()


def clipped_sum(
    network: nn.Module,
    loss: Loss,
    parameters: dict[str, torch.Tensor],
    inputs: tuple[torch.Tensor, ...],
    weight: torch.Tensor,
    max_norm: float,
    *,
    linear: bool = False,
) -> dict[str, torch.Tensor]:
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
    linear : bool
        Whether all parameters are of linear layers that are each called once, on rows of numbers: a record's gradient
        is then the outer product of a layer's input and of what comes back, and its norm known without it (Goodfellow,
        2015, "Efficient per-example gradient computations").
    """
    squares, total = (_by_outer_products if linear else _by_record)(network, loss, parameters, inputs)
    return total(weight / (torch.stack(squares).sum(0).sqrt() / max_norm).clamp(min=1))


def _by_record(
    network: nn.Module, loss: Loss, parameters: dict[str, torch.Tensor], inputs: tuple[torch.Tensor, ...]
) -> tuple[list[torch.Tensor], Total]:
    """Return squared norms of each record's gradient, and its weighted sum, by the gradients themselves."""

    def of_one(parameters: dict[str, torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
        return loss(lambda *x: functional_call(network, parameters, x), *(i[None] for i in inputs))[0]

    each = vmap(vmap(grad(of_one), (None, *(0 for _ in inputs))))(parameters, *inputs)

    def total(fraction: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: torch.einsum("nb,nb...->n...", fraction, g) for name, g in each.items()}

    return [g.flatten(2).square().sum(2) for g in each.values()], total


def _by_outer_products(
    network: nn.Module, loss: Loss, parameters: dict[str, torch.Tensor], inputs: tuple[torch.Tensor, ...]
) -> tuple[list[torch.Tensor], Total]:
    """Do the same from the inputs of linear layers and the gradients with respect to their outputs."""
    layers = {name: m for name, m in network.named_modules() if isinstance(m, nn.Linear)}
    like, size = next(iter(parameters.values())), inputs[0].shape[:2]
    shifts = {name: like.new_zeros(*size, m.out_features) for name, m in layers.items()}

    def summed(
        shifts: dict[str, torch.Tensor], parameters: dict[str, torch.Tensor], *inputs: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        seen = {}

        def shifted(name: str, given: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
            seen[name] = given
            return out + shifts[name]

        with ExitStack() as hooks:
            for name, m in layers.items():
                hook = m.register_forward_hook(lambda _, given, out, name=name: shifted(name, given[0], out))
                hooks.callback(hook.remove)
            return loss(lambda *x: functional_call(network, parameters, x), *inputs).sum(), seen

    back, seen = vmap(grad(summed, has_aux=True))(shifts, parameters, *inputs)

    def total(fraction: torch.Tensor) -> dict[str, torch.Tensor]:
        sums = {}
        for name, m in layers.items():
            scaled = fraction[..., None] * back[name]
            sums[f"{name}.weight"] = scaled.mT @ seen[name]
            if m.bias is not None:
                sums[f"{name}.bias"] = scaled.sum(1)
        return {name: sums[name] for name in parameters}

    squares = [
        back[name].square().sum(2) * (seen[name].square().sum(2) + (m.bias is not None))
        for name, m in layers.items()
    ]
    return squares, total


def noise(
    like: dict[str, torch.Tensor], scale: float, rng: Streams, *, per_model: int = 1
) -> dict[str, torch.Tensor]:
    """Draw Gaussian noise of standard deviation ``scale`` for each parameter (network, ...), like sums of gradients.

    The scale is the noise multiplier times the norm that gradients are clipped to. There are ``per_model`` networks of
    each model, and a stream of random numbers a model.
    """
    sizes = [value[0].numel() for value in like.values()]
    drawn = rng.normal(per_model, sum(sizes)).flatten(0, 1).split(sizes, 1)
    return {
        name: scale * own.view(value.shape) for (name, value), own in zip(like.items(), drawn, strict=True)
    }


def check_network(network: nn.Module, *inputs: torch.Tensor) -> None:
    """Refuse a network, in training mode, that knows more of a record's batch than the record (ValueError).

    Inputs, (batch, ...), are what it is called with for an even number of records.
    """
    state = [type(m).__name__ for m in network.modules() if any(True for _ in m.buffers(recurse=False))]
    if not state:
        with seeded(0), torch.no_grad():
            halves = zip(*(i.chunk(2) for i in inputs), strict=True)
            parts = torch.cat([network(*half) for half in halves])
            if torch.allclose(network(*inputs), parts, rtol=1e-3, atol=1e-4):
                return
    raise ValueError(
        "Differential privacy needs networks that answer each record by itself and keep no statistics of records; "
        f"these do not ({', '.join(state) or 'what they answer depends on the batch'}): "
        "use group or instance norm instead of batch norm."
    )


def epsilon(
    noise_multiplier: float, sample_rate: float, steps: int, delta: float, *, accountant: str = "rdp"
) -> float:
    """Return epsilon of subsampled Gaussian mechanisms, by Opacus; never below 0.

    Neighbors differ in one record, added or removed.

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise, as a multiple of the largest norm of one record's part.
    sample_rate : float
        Probability of each record to be in a step's batch.
    steps : int
        Steps.
    delta : float
        Probability, roughly, with which the guarantee may fail.
    accountant : {"rdp", "prv"}
        By Rényi divergences (Mironov et al., 2019; conversion by Balle et al., 2020), or by the distribution of the
        privacy loss (Gopi et al., 2021), which is tighter, to within .01, and slow where epsilon is in the hundreds.

    Raises
    ------
    ModuleNotFoundError
        If Opacus is not installed.
    """
    choose("accountant", accountant, ("rdp", "prv"))
    with extra("dp"):
        from opacus.accountants import PRVAccountant, RDPAccountant
    by_divergence, by_loss = RDPAccountant(), PRVAccountant()
    by_divergence.history = by_loss.history = [(noise_multiplier, sample_rate, steps)]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # The bound holds at every order; a best one at the end of the list means a looser bound.
        warnings.filterwarnings("ignore", "Optimal order is the")
        spent = by_divergence.get_epsilon(delta, alphas=sorted({*RDPAccountant.DEFAULT_ALPHAS, *MORE_ORDERS}))
        if accountant == "prv":
            spent = min(spent, by_loss.get_epsilon(delta))  # which overflows where epsilon is very large
    return max(0.0, float(spent))
