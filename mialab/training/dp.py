"""Differentially private gradients for any victim: Poisson batches, noise, and the accountant.

The mechanism is DP-SGD (Abadi et al., 2016, algorithm 1); sums of clipped gradients are in
`mialab.training.per_record`. Tensors have a leading dimension over networks, where a model may have several; parameters
are those of `torch.func.stack_module_state`.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from mialab._validation import choose, extra
from mialab.training.stack import seeded
from mialab.training.streams import Streams

#: Modules that decide what models of private defenses are, by names that stay.
SOURCES = {"private gradients": "training.dp", "gradients of records": "training.per_record"}
#: Orders of the Rényi divergence that the accountant tries besides its own, which begin at 1.1 and end at 63.
MORE_ORDERS = (1.001, 1.003, 1.01, 1.02, 1.05, 80, 96, 128, 192, 256, 512)
#: Relative accuracy of the accountant of privacy losses, and of what is found for a target.
TOLERANCE = 0.01
#: The accountant of privacy losses computes exp(epsilon), which must be a number.
LARGEST_EXPONENT = 700
#: Noise multipliers among which one for a target is looked for.
LEAST_NOISE, MOST_NOISE = 1e-4, 1e6


def poisson_batch(members: torch.Tensor, rate: float, rng: Streams) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw batches in which every member takes part independently, with probability ``rate``.

    Given positions of members in the pool, int64 (model, ..., member), return positions, (model, ..., width), of those
    in the batch, then of any others, up to the size of the largest batch; and weights, float32 of that shape: 1 for the
    members in the batch, 0 for the others. Random numbers are a stream a model.
    """
    return padded(members, rng.uniform(*members.shape[1:]) < rate)


def padded(members: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return positions and weights of `poisson_batch`, given which members are in the batch, as a mask."""
    sizes = chosen.sum(-1)
    filled = torch.arange(max(1, int(sizes.max())), device=members.device) < sizes[..., None]
    positions = members[..., :1].expand(filled.shape).clone()
    positions[filled] = members[chosen]  # both in order of batches
    return positions, filled.float()


def noise(
    like: dict[str, torch.Tensor], scale: float, rng: Streams, *, per_model: int = 1
) -> dict[str, torch.Tensor]:
    """Draw Gaussian noise of standard deviation ``scale`` for each parameter (network, ...), like sums of gradients.

    The scale is the noise multiplier times the norm that gradients are clipped to. There are ``per_model`` networks of
    each model, and a stream of random numbers a model, which seeds a generator for each step: that of torch takes a
    third of the time that NumPy's takes.
    """
    sizes = [value[0].numel() for value in like.values()]
    device = next(iter(like.values())).device
    seeds = rng.integers(2**63 - 1).tolist()
    drawn = torch.cat(
        [
            torch.randn(
                per_model, sum(sizes), generator=torch.Generator(device).manual_seed(seed), device=device
            )
            for seed in seeds
        ]
    )
    return {
        name: scale * own.view(value.shape)
        for (name, value), own in zip(like.items(), drawn.split(sizes, 1), strict=True)
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


@lru_cache(maxsize=1024)
def epsilon(
    noise_multiplier: float, sample_rate: float, steps: int, delta: float, *, accountant: str = "rdp"
) -> float:
    """Return epsilon of subsampled Gaussian mechanisms, by Opacus; never below 0, infinite without noise.

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
        privacy loss (Gopi et al., 2021), which is tighter: an upper bound at most 1 % too large, or .01. It is infinite
        where the computation overflows, for an epsilon of several hundreds.

    Raises
    ------
    ModuleNotFoundError
        If Opacus is not installed.
    """
    choose("accountant", accountant, ("rdp", "prv"))
    with extra("dp"):
        from opacus.accountants import PRVAccountant, RDPAccountant
    if not noise_multiplier:
        return math.inf
    bounding = PRVAccountant() if accountant == "prv" else RDPAccountant()
    bounding.history = [(noise_multiplier, sample_rate, steps)]
    options: dict[str, Any] = {"alphas": sorted({*RDPAccountant.DEFAULT_ALPHAS, *MORE_ORDERS})}
    if accountant == "prv":
        about = epsilon(noise_multiplier, sample_rate, steps, delta)
        if about > LARGEST_EXPONENT:
            return math.inf
        # A finer mesh would take seconds, and then all memory, as epsilon grows.
        options = {"eps_error": TOLERANCE * max(1.0, about)}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # The bound holds at every order; a best one at the end of the list means a looser bound.
        warnings.filterwarnings("ignore", "Optimal order is the")
        return max(0.0, float(bounding.get_epsilon(delta, **options)))


def spent(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> dict[str, float]:
    """Return what a game reports of `epsilon`: the smaller one of both accountants, each of them, and of what.

    The other one of these is not there where it is infinite.
    """
    each = {
        f"epsilon_{accountant}": epsilon(noise_multiplier, sample_rate, steps, delta, accountant=accountant)
        for accountant in ("rdp", "prv")
    }
    return {
        "epsilon": min(each.values()),
        **{name: value for name, value in each.items() if math.isfinite(value)},
        "delta": delta,
        "noise": noise_multiplier,
        "sample_rate": sample_rate,
        "steps": steps,
    }


@lru_cache(maxsize=256)
def noise_for(target: float, sample_rate: float, steps: int, delta: float) -> float:
    """Return a noise multiplier with an epsilon of at most ``target``, and not more than 1 % below it.

    Epsilon is that of the better accountant. See `epsilon` for the parameters.

    Raises
    ------
    ValueError
        If there is none from 1e-4 to 1e6.
    """

    def at(noise: float) -> float:
        return float(spent(noise, sample_rate, steps, delta)["epsilon"])

    low = high = 1.0
    while at(high) > target and high < MOST_NOISE:
        low, high = high, 2 * high
    while at(low) <= target and low > LEAST_NOISE:
        low, high = low / 2, low
    if not at(high) <= target < at(low):
        raise ValueError(
            f"epsilon={target!r} cannot be reached: with a sample rate of {sample_rate:.3g}, {steps} steps and "
            f"delta={delta:g}, accountants give {at(high):.3g} to {at(low):.3g}."
        )
    while at(high) < (1 - TOLERANCE) * target:
        # On logarithmic scales epsilon is almost a line; a bit of bisection, so that both ends move.
        goal, ends = (
            math.log(target * (1 - TOLERANCE / 2)),
            (math.log(min(at(low), 1e300)), math.log(max(at(high), 1e-9))),
        )
        part = 0.9 * (ends[0] - goal) / (ends[0] - ends[1]) + 0.05
        middle = low * (high / low) ** part
        low, high = (middle, high) if at(middle) > target else (low, middle)
    return high
