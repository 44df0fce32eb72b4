"""Membership inference: train once, attack many.

>>> import mialab as mia
>>> pool = mia.load("digits")
>>> game = mia.play(pool, model="mlp", defense=mia.defenses.HAMP(gamma=0.5), n_models=16, seed=0)
>>> table = mia.audit(game, attacks=["loss", "lira"])
"""

from mialab import attacks, defenses, metrics, models, plots, queries
from mialab.audit import audit, compare, over_targets, summary
from mialab.data import Pool, datasets, load
from mialab.engine import Training
from mialab.game import Game, play

__version__ = "0.1.0"
__all__ = [
    "Game",
    "Pool",
    "Training",
    "attacks",
    "audit",
    "compare",
    "datasets",
    "defenses",
    "load",
    "metrics",
    "models",
    "over_targets",
    "play",
    "plots",
    "queries",
    "summary",
]
