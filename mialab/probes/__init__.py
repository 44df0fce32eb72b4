"""Probes: what must be measured on trained models themselves, as answers to fixed queries do not show it."""

from mialab._registry import Registry
from mialab.probes.base import Probe
from mialab.probes.boundary import Boundary
from mialab.probes.gradient import Gradient

__all__ = ["PROBES", "Boundary", "Gradient", "Probe", "available", "make"]

#: Every probe by name.
PROBES: Registry[Probe] = Registry("probes", Probe, Boundary, Gradient)  # type: ignore[type-abstract]  # the base of all
available, make = PROBES.available, PROBES.several
