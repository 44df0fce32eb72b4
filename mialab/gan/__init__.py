"""Generative models: K GANs trained on halves of a pool, the attacks on them, and the defenses of GANs.

>>> import mialab as mia
>>> from mialab import gan
>>> pool = mia.load("digits", size=400, validation=300)
>>> game = gan.play(pool, defense=gan.defenses.Mixup(), training=gan.Training(steps=1000, lr=1e-3))
>>> table = mia.audit(game, ["logan", "critic_lira", "monte_carlo"], pool=pool)
"""

import lazy_loader

import mialab.gan.attacks  # noqa: F401  # makes their names known

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
