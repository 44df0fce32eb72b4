"""Generators and critics: small, and built anew for every model of a game.

Records are numbers in [0, 1] and labels rows of weights, which may be mixed. Networks other than those with batch norm
keep no state besides their parameters, so that `torch.func.vmap` can run many of them as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import nn

from mialab._validation import as_integers, check_integer, choose
from mialab.models import NORMS
from mialab.training.stack import is_plain_mlp

if TYPE_CHECKING:
    from mialab.data.pool import Pool

SLOPE = 0.2
#: Images are halved down to this many pixels a side, or to the first odd number.
SMALLEST_MAP = 4


class GAN(Protocol):
    """Anything that builds generators and critics for records of a shape and a number of classes."""

    @property
    def latent(self) -> int:
        """Dimension of the generator's Gaussian input z."""

    @property
    def conditional(self) -> bool:
        """Whether labels matter; if not, networks are given labels all the same and ignore them."""

    def check(self, pool: Pool) -> None:
        """Refuse a pool whose records do not fit (ValueError)."""

    def generator(self, shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Return a new generator: z ``(batch, latent)``, y ``(batch, n_classes)`` to ``(batch, *shape)`` in [0, 1]."""

    def critic(self, shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Return a new critic: x ``(batch, *shape)`` in [0, 1], y ``(batch, n_classes)`` to ``(batch,)``."""


class Generator(nn.Module):
    """Layers of z, followed by the label's weights where it is conditional.

    Parameters
    ----------
    layers : torch.nn.Sequential
        From (batch, latent), or (batch, latent + classes), to records in [0, 1].
    conditional : bool
        Whether labels matter.
    """

    def __init__(self, layers: nn.Sequential, *, conditional: bool) -> None:
        super().__init__()
        self.layers, self.conditional = layers, conditional

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Generate records, (batch, ...), from (batch, latent) and labels as rows of weights."""
        return self.layers(torch.cat([z, y], 1) if self.conditional else z)


class Critic(nn.Module):
    """A first layer, to whose outputs a linear map of the label is added, and the layers behind it.

    Parameters
    ----------
    first : torch.nn.Module
        The first layer, a function of records.
    width : int
        Units, or channels, of what it returns.
    n_classes : int
        Number of classes; 0 if labels are ignored.
    rest : torch.nn.Module
        The other layers, from ``width`` units to one number.
    """

    def __init__(self, first: nn.Module, width: int, n_classes: int, rest: nn.Module) -> None:
        super().__init__()
        self.first, self.rest = first, rest
        self.label = nn.Linear(n_classes, width, bias=False) if n_classes else None

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Evaluate records, (batch, ...), with labels as rows of weights: (batch,)."""
        out = self.first(x)
        if self.label is not None:
            shift = self.label(y)
            out = out + shift.reshape(*shift.shape, *(1,) * (out.dim() - shift.dim()))
        return self.rest(out).flatten()


def is_linear(network: nn.Module) -> bool:
    """Whether this is a critic or generator of `MLP`, or made alike: linear layers, once each, on rows of numbers."""
    if type(network) is Generator:
        return is_plain_mlp(network.layers)
    if type(network) is not Critic or not is_plain_mlp(network.first, network.rest):
        return False
    first: Any = network.first
    return type(first[0]) is nn.Flatten


class _Pixels(nn.Module):
    """Numbers of any size to [0, 1]: tanh, shifted and scaled from [-1, 1]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (torch.tanh(x) + 1) / 2


class _Centered(nn.Module):
    """[0, 1] to [-1, 1]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x - 1


@dataclass(frozen=True)
class MLP:
    """Fully connected generator and critic, for any records.

    The generator takes z and the label side by side and ends in a sigmoid; between layers are ReLUs. The critic is its
    mirror image with leaky ReLUs and no normalization.

    Parameters
    ----------
    hidden : tuple of int
        Widths of the generator's hidden layers; the critic has the same ones in reverse. Empty for linear networks.
    latent : int
        Dimension of the Gaussian input z.
    conditional : bool
        Whether both networks know the label.
    """

    hidden: tuple[int, ...] = (128, 128)
    latent: int = 32
    conditional: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", as_integers("hidden", self.hidden, low=1))
        check_integer("latent", self.latent, low=1)
        _check_flag("conditional", self.conditional)

    def check(self, pool: Pool) -> None:
        """Refuse a pool with numbers outside [0, 1] (ValueError)."""
        _check_range(pool)

    def generator(self, shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Build a generator of records of ``shape``."""
        widths = [self.latent + n_classes * self.conditional, *self.hidden]
        layers: list[nn.Module] = [
            part for pair in pairwise(widths) for part in (nn.Linear(*pair), nn.ReLU())
        ]
        layers += [nn.Linear(widths[-1], prod(shape)), nn.Sigmoid(), nn.Unflatten(1, tuple(shape))]
        return Generator(nn.Sequential(*layers), conditional=self.conditional)

    def critic(self, shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Build a critic of records of ``shape``."""
        widths = [prod(shape), *reversed(self.hidden), 1]
        layers = [part for pair in pairwise(widths) for part in (nn.LeakyReLU(SLOPE), nn.Linear(*pair))]
        first = nn.Sequential(nn.Flatten(), layers[1])
        return Critic(first, widths[1], n_classes * self.conditional, nn.Sequential(*layers[2:]))


@dataclass(frozen=True)
class Conv:
    """Convolutional generator and critic of images.

    The critic halves an image with strided convolutions of ``width``, ``2 width``, ... channels while its sides are
    even and larger than 4 pixels, then maps what is left to one number; the generator is its mirror image: 8 and 32
    pixels start from 4, 28 pixels from 7. With ``width=64, latent=256, kernel=5`` and images of 64 pixels that is the
    network of Ji et al. (2023), except that

    - the generator ends in tanh, shifted from [-1, 1] to [0, 1], and the critic sees [-1, 1] (the paper: sigmoid and
      [0, 1], which is the same up to the scale of initial weights);
    - the label enters the critic as a learned bias of each channel of the first convolution. Away from the border that
      is what the paper's constant label maps beside the image amount to, without their cost.

    Parameters
    ----------
    width : int
        Channels of the critic's first convolution; they double with each halving.
    latent : int
        Dimension of the Gaussian input z.
    norm : {"batch", "group", "none"}
        Normalization in the generator: the paper's is batch norm, whose models are trained one by one. The critic
        normalizes each channel of each image by itself (instance norm with weights, as in the paper), since with batch
        statistics neither the gradient penalty nor the gradient of a single record is defined; with ``"none"`` it
        doesn't either. Its first layer is never normalized.
    conditional : bool
        Whether both networks know the label.
    kernel : {4, 3, 5}
        Size of the convolutions; the paper's is 5, and 4 needs two thirds of its multiplications.
    """

    width: int = 16
    latent: int = 64
    norm: Literal["batch", "group", "none"] = "batch"
    conditional: bool = True
    kernel: Literal[3, 4, 5] = 4

    def __post_init__(self) -> None:
        check_integer("width", self.width, low=1)
        check_integer("latent", self.latent, low=1)
        choose("norm", self.norm, NORMS)
        _check_flag("conditional", self.conditional)
        check_integer("kernel", self.kernel, low=3)
        if self.kernel > 5:
            raise ValueError(f"kernel={self.kernel} must be 3, 4 or 5.")

    def check(self, pool: Pool) -> None:
        """Refuse a pool of other records than images of even height and width, or with numbers outside [0, 1]."""
        _halvings(pool.x.shape[1:])
        _check_range(pool)

    def generator(self, shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Build a generator of images of ``shape`` (channels, height, width)."""
        sides = _halvings(shape)
        channels = [self.width * 2**k for k in reversed(range(len(sides)))]
        norm, bias = NORMS[self.norm], self.norm == "none"
        # The bias in front of a normalization does nothing.
        layers: list[nn.Module] = [
            nn.Linear(self.latent + n_classes * self.conditional, channels[0] * prod(sides[-1]), bias=bias),
            nn.Unflatten(1, (channels[0], *sides[-1])),
            norm(channels[0]),
            nn.ReLU(),
        ]
        for depth, thinner in pairwise(channels):
            layers += [self._larger(depth, thinner, bias=bias), norm(thinner), nn.ReLU()]
        layers += [self._larger(channels[-1], shape[0], bias=True), _Pixels()]
        return Generator(nn.Sequential(*layers), conditional=self.conditional)

    def critic(self, shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Build a critic of images of ``shape`` (channels, height, width)."""
        sides = _halvings(shape)
        channels = [self.width * 2**k for k in range(len(sides))]
        bare = self.norm == "none"
        first = nn.Sequential(_Centered(), self._smaller(shape[0], channels[0], bias=True))
        rest: list[nn.Module] = [nn.LeakyReLU(SLOPE)]
        for depth, deeper in pairwise(channels):
            rest += [self._smaller(depth, deeper, bias=bare)]
            # Group norm with a group for each channel is instance norm.
            rest += [nn.Identity() if bare else nn.GroupNorm(deeper, deeper), nn.LeakyReLU(SLOPE)]
        rest += [nn.Flatten(), nn.Linear(channels[-1] * prod(sides[-1]), 1)]
        return Critic(first, channels[0], n_classes * self.conditional, nn.Sequential(*rest))

    def _smaller(self, depth: int, channels: int, *, bias: bool) -> nn.Module:
        return nn.Conv2d(depth, channels, self.kernel, 2, padding=(self.kernel - 1) // 2, bias=bias)

    def _larger(self, depth: int, channels: int, *, bias: bool) -> nn.Module:
        padding, rest = (self.kernel - 1) // 2, self.kernel % 2
        return nn.ConvTranspose2d(
            depth, channels, self.kernel, 2, padding=padding, output_padding=rest, bias=bias
        )


def _halvings(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Heights and widths behind each halving of an image."""
    sides = []
    if len(shape) == 3:
        height, width = shape[1:]
        while min(height, width) > SMALLEST_MAP and height % 2 == width % 2 == 0:
            height, width = height // 2, width // 2
            sides.append((height, width))
    if not sides:
        raise ValueError(
            f"Records of shape {tuple(shape)} do not fit networks='conv': it needs images (channels, height, width) "
            f"of even height and width above {SMALLEST_MAP}; use networks='mlp' for other records."
        )
    return sides


def _check_range(pool: Pool) -> None:
    for part in ("x", "x_val", "x_test"):
        x = getattr(pool, part)
        if not len(x) or x.dtype == "uint8":
            continue
        low, high = float(x.min()), float(x.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"{part} of pool {pool.name!r} has numbers from {low:.3g} to {high:.3g}, but generators make numbers "
                "in [0, 1]: scale the records, e.g. with sklearn.preprocessing.MinMaxScaler."
            )


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be True or False.")


NETWORKS: dict[str, type[MLP] | type[Conv]] = {"conv": Conv, "mlp": MLP}


def make(networks: str | GAN) -> GAN:
    """Return the architecture that ``networks`` names, or ``networks`` itself if it is one already.

    Parameters
    ----------
    networks : {"mlp", "conv"} or GAN
        A name, an instance such as ``Conv(width=32)``, or an object of your own with the methods of `GAN`.
    """
    if isinstance(networks, type) and networks in NETWORKS.values():
        return networks()
    if not isinstance(networks, str) and all(
        hasattr(networks, name) for name in ("latent", "conditional", "check", "generator", "critic")
    ):
        return networks
    return NETWORKS[choose("networks", networks, NETWORKS)]()
