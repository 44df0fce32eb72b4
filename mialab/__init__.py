"""Membership inference: train once, attack many.

>>> import mialab as mia
>>> pool = mia.load("digits")
>>> game = mia.play(pool, model="mlp", defense=mia.defenses.HAMP(gamma=0.5), n_models=16, seed=0)
>>> table = mia.audit(game, attacks=["loss", "lira"])
"""

from importlib import import_module
from typing import TYPE_CHECKING

from mialab import attacks, claims, defenses, metrics, models, queries, results, scale
from mialab.audit import audit, compare, over_targets, show, summary
from mialab.data import Pool, datasets, load
from mialab.differences import accuracy, changed_predictions, difference, pooled
from mialab.engine import Training
from mialab.game import Game, play

if TYPE_CHECKING:
    from mialab import plots

__version__ = "0.1.0"
__all__ = [
    "Game",
    "Pool",
    "Training",
    "accuracy",
    "attacks",
    "audit",
    "changed_predictions",
    "claims",
    "compare",
    "datasets",
    "defenses",
    "difference",
    "load",
    "metrics",
    "models",
    "over_targets",
    "play",
    "plots",
    "pooled",
    "queries",
    "results",
    "scale",
    "show",
    "summary",
]


def __getattr__(name: str) -> object:
    # Matplotlib and seaborn are loaded when a figure is wanted, never by worker processes.
    if name == "plots":
        return import_module("mialab.plots")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
