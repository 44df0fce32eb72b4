"""What builds the network of each model, from what a user gives."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import torch

from mialab import models
from mialab.models import Model


@dataclasses.dataclass(frozen=True)
class Built:
    """A network from a function without parameters, which knows shape and classes by itself."""

    build: Any

    def __call__(self, shape: tuple[int, ...], n_classes: int) -> torch.nn.Module:
        """Build it."""
        return self.build()


def builder(model: Any) -> Model:
    """Return what builds a network for an input shape and a number of classes."""
    if isinstance(model, torch.nn.Module):
        raise TypeError(
            f"model={type(model).__name__}(...) is one network, and each model of a game needs a new one: give a "
            "function that builds it, e.g. lambda shape, n_classes: Net(). To audit it as it is: mialab.audit_model."
        )
    made = models.make(model)
    try:
        inspect.signature(made).bind((1,), 2)
    except TypeError:  # it takes other parameters; perhaps none
        try:
            inspect.signature(made).bind()
        except TypeError as error:
            raise TypeError(
                f"model={name_of(made)} must be a function of (shape, n_classes), or of nothing: {error}."
            ) from None
        return Built(made)
    except ValueError:  # no signature is known, as of a function in C
        pass
    return made


def name_of(model: Any) -> str:
    """Return what a network, or what builds it, is called in tables."""
    model = model.build if isinstance(model, Built) else model
    return getattr(model, "__qualname__", None) or repr(model)
