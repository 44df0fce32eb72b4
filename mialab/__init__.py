"""Membership inference: train once, attack many.

>>> import mialab as mia
>>> pool = mia.load("digits")
>>> game = mia.play(pool, model="mlp", defense=mia.defenses.HAMP(gamma=0.5), n_models=16, seed=0)
>>> table = mia.audit(game, attacks=["loss", "lira"])
"""

from mialab import attacks, claims, defenses, metrics, models, plots, queries, results
from mialab.audit import audit, compare, over_targets, show, summary
from mialab.data import Pool, datasets, load
from mialab.differences import accuracy, changed_predictions, difference, pooled
from mialab.engine import Training
from mialab.game import Game, play

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
    "show",
    "summary",
]
