"""Probes: what must be measured on trained models themselves, as answers to fixed queries do not show it."""

from __future__ import annotations

from collections.abc import Iterable

from mialab._registry import Registry
from mialab.probes.base import Probe
from mialab.probes.boundary import Boundary
from mialab.probes.gradient import Gradient

__all__ = ["PROBES", "Boundary", "Gradient", "Probe", "available", "make"]

#: Every probe by name.
PROBES = Registry("probes", Probe)
for _probe in (Boundary, Gradient):
    PROBES.register(_probe)
available = PROBES.available


def make(probes: str | Probe | Iterable[str | Probe]) -> tuple[Probe, ...]:
    """Return probes by name, with their default parameters, or as given, in the order of their names.

    Parameters
    ----------
    probes : str, Probe, or iterable of these
        Names of `available`, or instances such as ``Boundary(iterations=10)``.

    Raises
    ------
    ValueError
        If a name is unknown, or a probe is given twice.
    """
    return PROBES.several(probes)
