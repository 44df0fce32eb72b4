"""Attacks on generative models, one file a family; they are registered with those on classifiers."""

from mialab.gan.attacks.critic import Logan, LoganBlackBox
from mialab.gan.attacks.density import Domias, LoganAuxiliary, NeighborRatio
from mialab.gan.attacks.pairs import CriticMixedPairs
from mialab.gan.attacks.reconstruction import Reconstruction
from mialab.gan.attacks.samples import GanLeaks, MonteCarlo

__all__ = [
    "CriticMixedPairs",
    "Domias",
    "GanLeaks",
    "Logan",
    "LoganAuxiliary",
    "LoganBlackBox",
    "MonteCarlo",
    "NeighborRatio",
    "Reconstruction",
]
