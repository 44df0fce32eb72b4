"""Metrics by trying every threshold."""

import numpy as np


def slow_rate(score, member, rate):
    """Largest TPR over every threshold, by trying them all."""
    best = 0.0
    for threshold in np.unique(score):
        said = score >= threshold
        if said[~member].sum() <= rate * (~member).sum() + 1e-9:
            best = max(best, said[member].mean())
    return best
