"""The attacks, one file a family; every one is run on a game and returns one score per target and record."""

from mialab.attacks.base import Attack
from mialab.attacks.groups import CoMembership, MixedPairs
from mialab.attacks.label_only import LabelOnly, Robustness
from mialab.attacks.learned import Nasr, Shokri
from mialab.attacks.lira import LiRA, Ranking
from mialab.attacks.probed import BoundaryDistance, GradientNorm, WhiteBox
from mialab.attacks.quantile import QuantileRegression
from mialab.attacks.reference import AttackP, AttackR
from mialab.attacks.registry import Function, available, make, register
from mialab.attacks.requirements import Requirements
from mialab.attacks.rmia import RMIA
from mialab.attacks.threshold import Threshold
from mialab.exceptions import RequirementsNotMet

__all__ = [
    "RMIA",
    "Attack",
    "AttackP",
    "AttackR",
    "BoundaryDistance",
    "CoMembership",
    "Function",
    "GradientNorm",
    "LabelOnly",
    "LiRA",
    "MixedPairs",
    "Nasr",
    "QuantileRegression",
    "Ranking",
    "Requirements",
    "RequirementsNotMet",
    "Robustness",
    "Shokri",
    "Threshold",
    "WhiteBox",
    "available",
    "make",
    "register",
]
