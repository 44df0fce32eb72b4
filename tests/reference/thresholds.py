"""The best threshold, by trying all."""

from itertools import pairwise

import numpy as np


def balanced_accuracy(said: np.ndarray, member: np.ndarray) -> float:
    return (np.mean(said[member]) + np.mean(~said[~member])) / 2


def best_by_trying(score: np.ndarray, member: np.ndarray) -> float:
    """Return the greatest balanced accuracy of all thresholds."""
    cuts = [-np.inf, *(low + (high - low) / 2 for low, high in pairwise(np.unique(score))), np.inf]
    return max(balanced_accuracy(score >= cut, member) for cut in cuts)
