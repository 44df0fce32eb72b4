"""Probes: what must be measured on trained models themselves, as answers to fixed queries do not show it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from mialab._validation import choose
from mialab.probes.base import Probe
from mialab.probes.boundary import Boundary
from mialab.probes.gradient import Gradient

__all__ = ["PROBES", "Boundary", "Gradient", "Probe", "available", "chosen", "make"]

Own = TypeVar("Own")

PROBES: dict[str, type[Probe]] = {probe.name: probe for probe in (Boundary, Gradient)}


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
    return chosen(probes, PROBES, Probe)


def chosen(probes: object, known: Mapping[str, type[Own]], kind: type[Own]) -> tuple[Own, ...]:
    """Do what `make` does, for probes of classifiers or of generators.

    Parameters
    ----------
    probes : str, kind, or iterable of these
        As in `make`.
    known : mapping of str to type
        Probes by name.
    kind : type
        What all of them are.
    """
    given = [probes] if isinstance(probes, str | kind) or not isinstance(probes, Iterable) else list(probes)
    made = [p if isinstance(p, kind) else known[choose("probes", p, known)]() for p in given]
    names = [probe.name for probe in made]
    if len(set(names)) < len(names):
        raise ValueError(f"probes={names} holds a probe twice.")
    return tuple(sorted(made, key=lambda probe: probe.name))


def available() -> list[str]:
    """Return the names of all probes."""
    return sorted(PROBES)
