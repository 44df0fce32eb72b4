"""Generative models: K GANs trained on halves of a pool, the attacks on them, and the defenses of GANs.

>>> import mialab as mia
>>> from mialab import gan
>>> pool = mia.load("digits", validation=200)
>>> game = gan.play(pool, defense=gan.defenses.Mixup(), training=gan.Training(steps=1000))
>>> table = mia.audit(game, ["logan", "critic_lira", "monte_carlo"], pool=pool)
"""

from mialab.gan import attacks, defenses, networks, probes
from mialab.gan.game import GeneratorGame, play
from mialab.gan.training import Training

__all__ = ["GeneratorGame", "Training", "attacks", "defenses", "networks", "play", "probes"]
