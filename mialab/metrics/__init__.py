"""Measures of attacks and their intervals; knows no attack and no victim."""

from mialab.metrics.epsilon import EpsilonBound, epsilon_lower_bound, epsilon_of
from mialab.metrics.intervals import (
    Interval,
    bootstrap,
    clopper_pearson,
    over_targets,
    pooled_bootstrap,
    pooled_difference,
    proportion,
)
from mialab.metrics.outcomes import Outcome
from mialab.metrics.rates import (
    auc,
    balanced_accuracy,
    f1,
    precision,
    rate_name,
    recall,
    resolvable,
    roc,
    tnr_at_fnr,
    tpr_at_fpr,
)

__all__ = [
    "EpsilonBound",
    "Interval",
    "Outcome",
    "auc",
    "balanced_accuracy",
    "bootstrap",
    "clopper_pearson",
    "epsilon_lower_bound",
    "epsilon_of",
    "f1",
    "over_targets",
    "pooled_bootstrap",
    "pooled_difference",
    "precision",
    "proportion",
    "rate_name",
    "recall",
    "resolvable",
    "roc",
    "tnr_at_fnr",
    "tpr_at_fpr",
]
