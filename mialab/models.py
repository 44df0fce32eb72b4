"""The networks that are trained: small, plain, and built anew for every model of a game."""

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd, prod
from typing import Any, Literal, Protocol

import torch
from torch import nn

from mialab._validation import as_integers, check_integer, choose

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(gcd(8, channels), channels),
    "none": lambda channels: nn.Identity(),
}


class Model(Protocol):
    """Anything that builds a network for an input shape and a number of classes."""

    def __call__(self, shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Return a freshly initialized network: ``(batch, *shape)`` to logits ``(batch, n_classes)``."""


@dataclass(frozen=True)
class MLP:
    """Fully connected network.

    The default is the tabular network of HAMP's artifact (Chen and Pattabiraman, 2024): four tanh layers.

    Parameters
    ----------
    hidden : tuple of int
        Widths of the hidden layers; empty for a linear model.
    activation : {"tanh", "relu"}
        Non-linearity behind each hidden layer.
    """

    hidden: tuple[int, ...] = (1024, 512, 256, 128)
    activation: Literal["tanh", "relu"] = "tanh"

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", as_integers("hidden", self.hidden, low=1))
        choose("activation", self.activation, ACTIVATIONS)

    def __call__(self, shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Build the network for records of ``shape``."""
        layers: list[nn.Module] = [nn.Flatten()] if len(shape) > 1 else []
        width = prod(shape)
        for hidden in self.hidden:
            layers += [nn.Linear(width, hidden), ACTIVATIONS[self.activation]()]
            width = hidden
        return nn.Sequential(*layers, nn.Linear(width, n_classes))


@dataclass(frozen=True)
class CNN:
    """Small convolutional network: 3x3 convolutions, each followed by 2x2 max pooling, then one hidden layer.

    Parameters
    ----------
    channels : tuple of int
        Channels of the convolutions.
    hidden : int
        Width of the fully connected layer.
    norm : {"none", "group", "batch"}
        Normalization behind each convolution.
    """

    channels: tuple[int, ...] = (32, 64)
    hidden: int = 128
    norm: Literal["none", "group", "batch"] = "none"

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", as_integers("channels", self.channels, low=1))
        check_integer("hidden", self.hidden, low=1)
        choose("norm", self.norm, NORMS)

    def __call__(self, shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Build the network for images of ``shape`` (channels, height, width)."""
        _check_image(shape, least=2 ** len(self.channels))
        depth, height, width = shape
        layers: list[nn.Module] = []
        for channels in self.channels:
            # Pooling first gives the same numbers as ReLU first, with a quarter of the ReLUs.
            layers += [nn.Conv2d(depth, channels, 3, padding=1), NORMS[self.norm](channels)]
            layers += [nn.MaxPool2d(2), nn.ReLU()]
            depth, height, width = channels, height // 2, width // 2
        layers += [nn.Flatten(), nn.Linear(depth * height * width, self.hidden), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(self.hidden, n_classes))


class _Block(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al., 2016)."""

    def __init__(self, depth: int, channels: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(depth, channels, 3, stride, padding=1, bias=False),
            norm(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            norm(channels),
        )
        same = stride == 1 and depth == channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(depth, channels, 1, stride, bias=False)
        self.activation = nn.ReLU()  # a module, so that a defense can find it

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.residual(x) + self.shortcut(x))


@dataclass(frozen=True)
class ResNet:
    """Residual network for small images (He et al., 2016, section 4.2), with the normalization a parameter.

    Parameters
    ----------
    blocks : int
        Residual blocks in each stage; 3 gives ResNet-20.
    channels : tuple of int
        Channels of the stages; every stage but the first halves height and width.
    norm : {"group", "batch", "none"}
        Normalization. Batch norm ties the records of a batch together and keeps running statistics, so such
        models are trained one by one.
    """

    blocks: int = 3
    channels: tuple[int, ...] = (16, 32, 64)
    norm: Literal["group", "batch", "none"] = "group"

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", as_integers("channels", self.channels, low=1))
        if not self.channels:
            raise ValueError("channels=() must not be empty.")
        check_integer("blocks", self.blocks, low=1)
        choose("norm", self.norm, NORMS)

    def __call__(self, shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Build the network for images of ``shape`` (channels, height, width)."""
        _check_image(shape, least=2 ** (len(self.channels) - 1))
        norm, depth = NORMS[self.norm], self.channels[0]
        layers = [nn.Conv2d(shape[0], depth, 3, padding=1, bias=False), norm(depth), nn.ReLU()]
        for stage, channels in enumerate(self.channels):
            for block in range(self.blocks):
                layers.append(_Block(depth, channels, 2 if stage and not block else 1, norm))
                depth = channels
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(depth, n_classes))


def _check_image(shape: tuple[int, ...], least: int) -> None:
    if len(shape) != 3 or min(shape[1:]) < least:
        raise ValueError(
            f"Records of shape {shape} do not fit this model: it needs images (channels, height, width) "
            f"of at least {least} x {least} pixels; use model='mlp' for other records."
        )


MODELS: dict[str, Callable[[], Model]] = {"mlp": MLP, "cnn": CNN, "resnet": ResNet}


def make(model: str | Model) -> Model:
    """Return the model builder that ``model`` names, or ``model`` itself if it is one already.

    Parameters
    ----------
    model : {"mlp", "cnn", "resnet"} or callable
        A name, an instance such as ``MLP(hidden=(256,))``, or your own function of ``(shape, n_classes)``.
    """
    if isinstance(model, str) or not callable(model):
        return MODELS[choose("model", model, MODELS)]()
    # A class is a builder without its parameters.
    given: Any = model
    return given() if given in MODELS.values() else given
