"""The defenses, one file each; every one overrides hooks of `Defense`."""

from mialab.defenses.base import Defense, available, make, register
from mialab.defenses.hamp import HAMP
from mialab.defenses.label_smoothing import LabelSmoothing

__all__ = ["HAMP", "Defense", "LabelSmoothing", "available", "make", "register"]
