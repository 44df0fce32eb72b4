"""Generative models: K GANs trained on halves of a pool, the attacks on them, and the defenses of GANs.

>>> import mialab as mia
>>> from mialab import gan
>>> pool = mia.load("digits", size=400, validation=300)
>>> game = gan.play(pool, defense=gan.defenses.Mixup(), training=gan.Training(steps=1000, lr=1e-3))
>>> table = mia.audit(game, ["logan", "critic_lira", "monte_carlo"], pool=pool)
"""

from importlib import import_module
from typing import TYPE_CHECKING

from mialab.gan import attacks, defenses, networks, probes, published, theory
from mialab.gan.arms import Setting, across, play_each, settings
from mialab.gan.game import GeneratorGame, play
from mialab.gan.quality import memorisation, quality, quality_difference
from mialab.gan.scores import audit_scores
from mialab.gan.training import Training

if TYPE_CHECKING:
    from mialab.gan import plots

__all__ = [
    "GeneratorGame",
    "Setting",
    "Training",
    "across",
    "attacks",
    "audit_scores",
    "defenses",
    "memorisation",
    "networks",
    "play",
    "play_each",
    "plots",
    "probes",
    "published",
    "quality",
    "quality_difference",
    "settings",
    "theory",
]


def __getattr__(name: str) -> object:
    # Matplotlib is loaded when a figure is wanted, never by worker processes.
    if name == "plots":
        return import_module("mialab.gan.plots")
    raise AttributeError(f"module 'mialab.gan' has no attribute {name!r}")
