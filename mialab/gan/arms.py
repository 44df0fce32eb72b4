"""Several games of generators at once: from plain parameters, for chapters and profiles."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mialab import data, metrics
from mialab.audit import audit, pooled_rows
from mialab.data import Pool
from mialab.gan.defenses.base import Defense
from mialab.gan.game import GeneratorGame, make_plan, play
from mialab.gan.networks import GAN, NETWORKS
from mialab.gan.training import Training
from mialab.options import choose

#: Parameters of `mialab.gan.play` that say how a game is played, not which.
HOW = ("workers", "device", "store")


if TYPE_CHECKING:
    from mialab.attacks.base import Attack


@dataclasses.dataclass(frozen=True)
class Setting:
    """A pool, networks and a training; from `settings`."""

    pool: Pool
    networks: GAN
    training: Training


def settings(given: Mapping[str, Mapping[str, Any]], *, seed: int = 0) -> dict[str, Setting]:
    """Make pools, networks and trainings of plain parameters, such as those of a profile.

    Parameters
    ----------
    given : dict
        Name of a data set to what is wanted of it: ``size``, ``reference`` (records held out as the pool's validation
        part), ``test``, ``networks`` (``"mlp"``, the default, or ``"conv"``), the parameters of those networks, and of
        `mialab.gan.Training`.
    seed : int
        Of the choice of records.

    Returns
    -------
    dict of str to Setting

    Raises
    ------
    ValueError
        If a parameter is unknown.
    """
    made = {}
    for name, wanted in given.items():
        wanted = dict(wanted)
        kind = NETWORKS[choose(f"datasets[{name!r}]['networks']", wanted.pop("networks", "mlp"), NETWORKS)]
        parts = {"size": "size", "reference": "validation", "test": "test"}
        records = {to: wanted.pop(key) for key, to in parts.items() if key in wanted}
        of_training, of_networks = ({f.name for f in dataclasses.fields(c)} for c in (Training, kind))
        for key in wanted:
            choose(f"datasets[{name!r}]", key, of_training | of_networks | {*parts, "networks"})
        made[name] = Setting(
            data.load(name, seed=seed, **records),
            kind(**{key: value for key, value in wanted.items() if key in of_networks}),
            Training(**{key: value for key, value in wanted.items() if key in of_training}),
        )
    return made


def play_each(
    setting: Setting,
    arms: Mapping[str, str | Defense | Mapping[str, Any] | None],
    **common: Any,
) -> dict[str, GeneratorGame]:
    """Play a game for each arm of a comparison: same records and members, first weights and latent vectors.

    Parameters
    ----------
    setting : Setting
        From `settings`.
    arms : dict of str to (str, Defense, None or dict)
        Label to a defense; or to a dict of those parameters of `mialab.gan.play` that this arm does not share, of which
        ``training`` and ``networks`` may be dicts of what is different in the setting's.
    **common
        Parameters of `mialab.gan.play` for all arms.

    Returns
    -------
    dict of str to GeneratorGame

    Raises
    ------
    ValueError, TypeError
        If a parameter of any arm is unknown or wrong, before any training.
    """
    known = inspect.signature(play)
    options = {}
    for label, arm in arms.items():
        own = {**common, **(arm if isinstance(arm, Mapping) else {"defense": arm})}
        for name in own:
            choose(f"arms[{label!r}]", name, {*known.parameters} - {"pool"})
        for name in ("training", "networks"):
            changes, usual = own.get(name, {}), getattr(setting, name)
            if isinstance(changes, Mapping):
                for key in changes:
                    choose(f"arms[{label!r}][{name!r}]", key, {f.name for f in dataclasses.fields(usual)})
                own[name] = dataclasses.replace(usual, **changes) if changes else usual
        options[label] = own
        whole = known.bind(setting.pool, **own)
        whole.apply_defaults()
        make_plan(**{name: value for name, value in whole.arguments.items() if name not in HOW})
    return {label: play(setting.pool, **own) for label, own in options.items()}


def across(
    settings: Mapping[str, Setting],
    arms: Mapping[str, str | Defense | Mapping[str, Any] | None],
    *,
    attacks: Sequence[str | Attack],
    n_resamples: int = 200,
    **common: Any,
) -> pd.DataFrame:
    """Compare some arms on several data sets.

    Parameters
    ----------
    settings : dict of str to Setting
        From `settings`; may be empty.
    arms
        See `play_each`.
    attacks : sequence of str or Attack
        Of which the AUC is shown.
    n_resamples : int
        Of the intervals of the AUCs.
    **common
        Parameters of `mialab.gan.play` for all arms.

    Returns
    -------
    pandas.DataFrame
        Columns ``game`` (data set and arm), ``measure``, ``value``, ``low``, ``high``: the pooled AUC of each attack,
        and the mean accuracy of classifiers trained on samples.
    """
    rows = []
    for name, setting in settings.items():
        games = play_each(setting, arms, **common)
        for arm, game in games.items():
            table = audit(game, attacks, pool=setting.pool, n_resamples=n_resamples)
            aucs = pooled_rows(table, "auc")
            rows += [
                (f"{name}: {arm}", f"AUC of {r.attack}", r.value, r.low, r.high) for r in aucs.itertuples()
            ]
            accuracy = metrics.over_targets(game.test_accuracy, partner=game.partner)
            rows.append((f"{name}: {arm}", "accuracy", *np.clip(accuracy, 0, 1)))
    return pd.DataFrame(rows, columns=["game", "measure", "value", "low", "high"])
