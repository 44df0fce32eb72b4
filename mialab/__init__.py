"""Membership inference: train once, attack many.

>>> import mialab as mia
>>> pool = mia.load("digits")
>>> game = mia.play(pool, model="mlp", defense=mia.defenses.HAMP(gamma=0.5), n_models=16, seed=0)
>>> table = mia.audit(game, attacks=["loss", "lira"])
"""

from importlib import import_module
from typing import TYPE_CHECKING

from mialab import (
    attacks,
    claims,
    compression,
    defenses,
    gan,
    metrics,
    models,
    queries,
    results,
    scale,
    selection,
)
from mialab.audit import audit, compare, over_targets, show, summary, wide
from mialab.comparison import (
    against_shadows,
    agreement,
    applicable,
    families,
    needing_shadows,
    one_of_each,
    shifted,
)
from mialab.data import Pool, datasets, load
from mialab.differences import accuracy, changed_predictions, difference, pooled
from mialab.engine import Training
from mialab.game import Game, play
from mialab.matrix import audit_each, matrix, missing, settings, strongest
from mialab.trajectory import across, mixing_strength, same_accuracy, trajectory, worst

if TYPE_CHECKING:
    from mialab import plots

__version__ = "0.1.0"
__all__ = [
    "Game",
    "Pool",
    "Training",
    "accuracy",
    "across",
    "against_shadows",
    "agreement",
    "applicable",
    "attacks",
    "audit",
    "audit_each",
    "changed_predictions",
    "claims",
    "compare",
    "compression",
    "datasets",
    "defenses",
    "difference",
    "families",
    "gan",
    "load",
    "matrix",
    "metrics",
    "missing",
    "mixing_strength",
    "models",
    "needing_shadows",
    "one_of_each",
    "over_targets",
    "play",
    "plots",
    "pooled",
    "queries",
    "results",
    "same_accuracy",
    "scale",
    "selection",
    "settings",
    "shifted",
    "show",
    "strongest",
    "summary",
    "trajectory",
    "wide",
    "worst",
]


def __getattr__(name: str) -> object:
    # Matplotlib and seaborn are loaded when a figure is wanted, never by worker processes.
    if name == "plots":
        return import_module("mialab.plots")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
