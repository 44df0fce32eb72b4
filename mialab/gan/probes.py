"""Probes of generative models: what must be measured while the models are at hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

if TYPE_CHECKING:
    from mialab.data import Pool
    from mialab.gan.engine import Run


@dataclass(frozen=True)
class Probe:
    """Base class of every probe of generative models."""

    name: ClassVar[str]
    array: ClassVar[str]

    def check(self, pool: Pool) -> None:
        """Refuse, before any training, a pool in which this cannot be measured (ValueError)."""

    def __call__(self, run: Run) -> dict[str, np.ndarray]:
        """Measure a trained group of models."""
        raise NotImplementedError


PROBES: dict[str, type[Probe]] = {}


def make(probes: str | Probe | Iterable[str | Probe]) -> tuple[Probe, ...]:
    """Return probes."""
    return tuple(probes)
