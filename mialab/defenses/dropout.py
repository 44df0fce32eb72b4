"""Dropout: in training, layers see a random part of their inputs (Srivastava et al., 2014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from mialab._validation import check_number
from mialab.defenses.base import Defense, Run, register
from mialab.training.stack import prepare


class Masked(nn.Module):
    """Multiplies what a layer is given by ``mask``, (batch, width); without a mask, as in evaluation, by 1."""

    mask: torch.Tensor | None = None

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return inputs (batch, ..., width), some of which are zero."""
        if self.mask is None:
            return x
        return x * self.mask.view(len(self.mask), *[1] * (x.dim() - 2), self.width)


@register
@dataclass(frozen=True)
class Dropout(Defense):
    """Drop the inputs of linear layers behind hidden ones, each with probability ``p`` in each step of training.

    What is left is multiplied by ``1 / (1 - p)``, so that answers, which drop nothing, need no correction.

    Parameters
    ----------
    p : float
        Probability, at least 0 and less than 1. With 0 networks stay as they are.

    Notes
    -----
    Dropped are inputs of every linear layer but one that the records themselves go to; of networks with convolutions
    that is what their linear layers see. Papers differ: RelaxLoss (2022) has dropout before the last layer only, as a
    baseline; Salem et al. (2019) drop inputs of the network as well. Where inputs of a layer have further dimensions
    between record and width, the same are dropped at every place.

    Masks come from the game's random streams, not from torch's generator as those of `torch.nn.Dropout` do: so models
    are still trained together and in threads.

    References
    ----------
    N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever and R. Salakhutdinov, "Dropout: A simple way to prevent neural
    networks from overfitting", JMLR 15, 2014.

    A. Salem, Y. Zhang, M. Humbert, P. Berrang, M. Fritz and M. Backes, "ML-Leaks: Model and data independent membership
    inference attacks and defenses on machine learning models", NDSS 2019.
    """

    name: ClassVar[str] = "dropout"
    p: float = 0.5

    def __post_init__(self) -> None:
        check_number("p", self.p, low=0)
        if self.p >= 1:
            raise ValueError(f"p={self.p!r} must be less than 1.")

    def check(self, plan: Any) -> None:
        """Refuse networks in which there is nothing to drop, or no mask would fit (ValueError)."""
        if not self.p:
            return
        network, x = plan.network().eval(), prepare(torch.as_tensor(plan.pool.x[:2]))
        layers = masked(network)
        if not layers:
            raise ValueError(
                f"p={self.p!r}: the network has no linear layer behind a hidden one, so dropout has nothing to drop."
            )
        for layer in layers.values():
            layer.mask = torch.ones(2, layer.width)
        try:
            with torch.no_grad():
                network(x)
        except RuntimeError as error:
            raise ValueError(
                "dropout needs linear layers with inputs (batch, ..., width) that keep records apart; this network's "
                f"have others: {error}"
            ) from error

    def network(self, network: nn.Module) -> nn.Module:
        """Put a mask before linear layers, except for the first layer that has weights."""
        if self.p:
            layers = [name for name, layer in network.named_modules() if _has_matrix(layer)]
            for name in layers[1:]:
                layer = network.get_submodule(name)
                if (
                    type(layer) is nn.Linear
                ):  # others, such as those of attention, are asked for their weights
                    parent, _, place = name.rpartition(".")
                    both = nn.Sequential(Masked(layer.in_features), layer)
                    setattr(network.get_submodule(parent), place, both)
        return network

    def step(self, run: Run, batch: torch.Tensor) -> None:
        """Update the networks once, with new masks for each model, record and layer."""
        layers = masked(run.network)
        if not layers or not batch.numel():
            return run.step(batch)
        widths = [layer.width for layer in layers.values()]
        keep = run.streams("dropout").uniform(batch.shape[1], sum(widths)) >= self.p
        masks = dict(zip(layers, (keep / (1 - self.p)).split(widths, dim=-1), strict=True))
        trained = run.parameters
        if run.mode == "stacked":  # a mask of its own for each model goes where its weights go
            run.parameters = {**trained, **{f"{name}.mask": mask for name, mask in masks.items()}}
        else:
            for name, layer in layers.items():
                layer.mask = masks[name][0]
        try:
            run.step(batch)
        finally:
            run.parameters = trained
            for layer in layers.values():
                layer.mask = None


def masked(network: nn.Module) -> dict[str, Masked]:
    """Return the masks of a network, by name."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, Masked)}


def _has_matrix(layer: nn.Module) -> bool:
    weight = getattr(layer, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.dim() > 1
