"""What the chapter on rival defenses needs besides: what its sweep will cost, before it starts."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Mapping

import numpy as np

from mialab import _progress
from mialab.auditing.knobs import KNOBS
from mialab.chapters.settings import Setting
from mialab.classifiers.game import play
from mialab.defenses.base import DEFENSES

#: Epochs that are timed, of an undefended game of as many models as are trained at once at the least.
EPOCHS, MODELS = 2, 4


def estimate(settings: Mapping[str, Setting], *, n_models: int, budget: int, search_models: int) -> float:
    """Return about how many seconds the sweeps take, and say so on the terminal.

    A short undefended training is timed for each data set. Every defense is taken to cost as much, though some train
    several networks a model: so it is a lower bound.

    Parameters
    ----------
    settings : dict of Setting
        The data sets, see `mialab.chapters.settings.settings`.
    n_models, budget, search_models : int
        As of `mialab.auditing.trade_off`.

    Returns
    -------
    float
        Wall-clock seconds, of trainings alone.
    """
    swept = sum(name in KNOBS for name in DEFENSES.available())
    trainings = (1 + swept * budget) * (n_models + search_models)
    seconds = 0.0
    for setting in settings.values():
        epochs = min(EPOCHS, setting.training.last)
        short = dataclasses.replace(setting.training, epochs=epochs, stop=None, checkpoints=(), milestones=())
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            play(setting.pool, setting.model, training=short, n_models=MODELS, store=folder)
            took = time.perf_counter() - began
        seconds += trainings * took / MODELS * setting.training.last / epochs
    minutes = f"{np.ceil(seconds / 60):.0f} min"
    _progress.note(
        f"{trainings * len(settings):,} trainings: at least about {minutes}, unless they are stored"
    )
    return seconds
