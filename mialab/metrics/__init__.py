"""Measures of attacks and their intervals; knows no attack and no victim."""

from mialab.metrics.epsilon import EpsilonBound, epsilon_lower_bound, epsilon_of
from mialab.metrics.estimates import MIN_PAIRS, Estimate, combine, strongest
from mialab.metrics.influence import Cells
from mialab.metrics.intervals import Interval, clopper_pearson, over_targets, proportion
from mialab.metrics.outcomes import Outcome
from mialab.metrics.rates import (
    auc,
    balanced_accuracy,
    f1,
    precision,
    precision_at,
    rate_name,
    recall,
    resolvable,
    roc,
    tnr_at_fnr,
    tpr_at_fpr,
)

__all__ = [
    "MIN_PAIRS",
    "Cells",
    "EpsilonBound",
    "Estimate",
    "Interval",
    "Outcome",
    "auc",
    "balanced_accuracy",
    "clopper_pearson",
    "combine",
    "epsilon_lower_bound",
    "epsilon_of",
    "f1",
    "over_targets",
    "precision",
    "precision_at",
    "proportion",
    "rate_name",
    "recall",
    "resolvable",
    "roc",
    "strongest",
    "tnr_at_fnr",
    "tpr_at_fpr",
]
