"""What the chapter on rival defenses needs besides: what its sweep will cost, and one table of several to be saved."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from mialab import _progress
from mialab.auditing.knobs import KNOBS
from mialab.auditing.tradeoff import EARLY, UNDEFENDED, TradeOffTable
from mialab.chapters.settings import Setting
from mialab.classifiers.game import play
from mialab.defenses.base import DEFENSES, Defense

#: Column of saved curves that says which data set they are of.
DATASET = "data set"

#: Models that are timed, and the two numbers of epochs.
MODELS, EPOCHS = 4, (1, 3)


def together(tables: Mapping[str, TradeOffTable]) -> pd.DataFrame:
    """Return the curves of several data sets in one table, to be saved; `apart` undoes it."""
    rows = pd.concat([pd.DataFrame(table).assign(**{DATASET: name}) for name, table in tables.items()])
    audits = {}
    for name, table in tables.items():
        about = {key: value for key, value in table.attrs.items() if key != "run"}
        audits[name] = table.attrs["run"] | {"sweep": about}
    rows.attrs = {"audits": audits}
    return rows


def apart(curves: pd.DataFrame) -> dict[str, TradeOffTable]:
    """Return the curves of each data set of a table from `together`."""
    tables = {}
    for name, about in curves.attrs["audits"].items():
        rows = pd.DataFrame(curves)[curves[DATASET] == name].drop(columns=DATASET).reset_index(drop=True)
        tables[name] = TradeOffTable(rows)
        tables[name].attrs = about["sweep"] | {"run": {k: v for k, v in about.items() if k != "sweep"}}
    return tables


def estimate(
    settings: Mapping[str, Setting],
    defenses: Iterable[str | Defense] | None = None,
    *,
    n_models: int,
    budget: int,
    search_models: int,
) -> float:
    """Return about how many seconds the sweeps take, and say so on the terminal.

    Two short trainings with the weakest setting of each defense are timed on each data set, because some cost several
    times as much as others; their difference is what epochs cost, without what a game costs once. Defenses that cannot
    be trained there cost nothing; nor does early stopping.

    Parameters
    ----------
    settings : dict of Setting
        The data sets, see `mialab.chapters.settings.settings`.
    defenses : iterable of str or Defense, optional
        As of `mialab.auditing.trade_off`.
    n_models, budget, search_models : int
        As of `mialab.auditing.trade_off`.

    Returns
    -------
    float
        Wall-clock seconds of trainings alone, if none is stored.
    """
    chosen = DEFENSES.several(DEFENSES.available() if defenses is None else defenses)
    swept = [d for d in chosen if d.name in KNOBS and d.name != EARLY]
    trainings, seconds = 0, 0.0
    for setting in settings.values():
        for defense in [DEFENSES.make(UNDEFENDED), *swept]:
            knob = KNOBS.get(defense.name)
            weakest = defense if knob is None else knob.turn(defense, knob.values[0])
            try:
                few, more = (_seconds(setting, weakest, epochs) for epochs in EPOCHS)
            except (ValueError, FloatingPointError):  # the table of the sweep will say why
                continue
            of_an_epoch = max(more - few, 0) / (EPOCHS[1] - EPOCHS[0])
            settings_of_it = 1 if knob is None else budget
            count = settings_of_it * (n_models + search_models)
            trainings += count
            seconds += count * setting.training.last * of_an_epoch / MODELS
            seconds += 2 * settings_of_it * max(few - EPOCHS[0] * of_an_epoch, 0)  # a search and a report
    minutes = f"{np.ceil(seconds / 60):.0f} min"
    _progress.note(f"{trainings:,} trainings: about {minutes}, attacks apart, unless they are stored")
    return seconds


def _seconds(setting: Setting, defense: Defense, epochs: int) -> float:
    """Time a short game."""
    short = dataclasses.replace(setting.training, epochs=epochs, stop=None, milestones=(), checkpoints=())
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        play(setting.pool, setting.model, defense, training=short, n_models=MODELS, store=folder)
        return time.perf_counter() - began
