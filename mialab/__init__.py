"""Membership inference: train once, attack many.

>>> import mialab as mia
>>> pool = mia.load("digits")
>>> game = mia.play(pool, model="mlp", defense=mia.defenses.HAMP(gamma=0.5), n_models=16, seed=0)
>>> table = mia.audit(game, attacks=["loss", "lira"])
"""

import lazy_loader

__version__ = "0.1.0"

# What is loaded when it is used stands in __init__.pyi: a worker process needs no figures, stored answers no training.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
