"""Data, networks and trainings from plain parameters, such as those of a profile."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mialab import models, queries
from mialab._validation import choose
from mialab.data import loading
from mialab.probes import PROBES
from mialab.training.options import Training

if TYPE_CHECKING:
    from mialab.data.pool import Pool
    from mialab.models import Model
    from mialab.queries import Queries


@dataclasses.dataclass(frozen=True)
class Setting:
    """Data, network, training and queries of a chapter's games, see `settings`."""

    pool: Pool
    model: Model
    training: Training
    queries: Queries
    probes: tuple[str, ...]
    other_model: Model | None = None

    def options(self) -> dict[str, Any]:
        """Return what `mialab.play` and `matrix` take of this."""
        return {key: getattr(self, key) for key in ("model", "training", "queries", "probes")}


def settings(given: Mapping[str, Mapping[str, Any]], *, seed: int = 0) -> dict[str, Setting]:
    """Make pools, networks and trainings of plain parameters, such as those of a profile.

    Parameters
    ----------
    given : dict
        Name of a data set to what is wanted of it: ``size``, ``validation``, ``test`` and ``reference`` as in
        `mialab.load`, ``model`` (``"mlp"``, the default, ``"cnn"`` or
        ``"resnet"``), the parameters of that network, ``other_model`` (a dict of the same kind), ``probes`` (all by
        default), and the parameters of `mialab.Training`.
    seed : int
        Of the choice of records.

    Returns
    -------
    dict of str to Setting
        ``pool``, ``model``, ``training``, ``queries`` (of every kind that suits the pool), ``probes`` and
        ``other_model`` of each.

    Raises
    ------
    ValueError
        If a parameter is unknown.
    """
    made = {}
    for name, wanted in given.items():
        wanted = dict(wanted)
        parts = {p: wanted.pop(p) for p in ("size", "validation", "test", "reference") if p in wanted}
        other = wanted.pop("other_model", None)
        probes = tuple(wanted.pop("probes", PROBES))
        training = take(Training, wanted)
        network = _network(wanted, f"datasets[{name!r}]")
        other = None if other is None else _network(other, f"datasets[{name!r}]['other_model']")
        pool = loading.load(name, **parts, seed=seed)
        made[name] = Setting(pool, network, training, _every_query(pool), probes, other)
    return made


def _every_query(pool: Pool) -> Queries:
    """Return the record, copies changed in every way that suits the pool, and mixtures."""
    noise = {"image": [queries.Noise(n=8)]}.get(pool.kind, [])  # of tabular records it is the default
    return queries.Compose(queries.default(pool), *noise, queries.Mixed())


def _network(wanted: Mapping[str, Any], where: str) -> Model:
    wanted = dict(wanted)
    kinds = {"mlp": models.MLP, "cnn": models.CNN, "resnet": models.ResNet}
    kind = kinds[choose(f"{where}['model']", wanted.pop("model", "mlp"), kinds)]
    for key in wanted:
        choose(f"{where}: the parameter", key, (field.name for field in dataclasses.fields(kind)))
    return take(kind, wanted)


def take(kind: Any, wanted: dict[str, Any]) -> Any:
    """Make a dataclass of those of the parameters that are its own, which are taken out of ``wanted``."""
    own = {field.name for field in dataclasses.fields(kind)} & wanted.keys()
    values = {key: wanted.pop(key) for key in sorted(own)}
    return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
