"""Attacks that compare with a population: fractions by loops, regressions by scikit-learn."""

from statistics import fmean

import numpy as np
from sklearn.linear_model import RidgeCV

from mialab.attacks.quantile import PENALTIES


def fraction_by_loops(value: float, references: list[float]) -> float:
    points = [-1000.0, *sorted(references), 0.0]
    equal = [j for j, point in enumerate(points) if point == value]
    if equal:
        return fmean(equal) / (len(points) - 1)
    j = max(j for j, point in enumerate(points) if point < value)
    return (j + (value - points[j]) / (points[j + 1] - points[j])) / (len(points) - 1)


def gaussian_by_scikit_learn(x, phi, known):
    mean = RidgeCV(PENALTIES, store_cv_results=True).fit(x[known], phi[known])
    squares = mean.cv_results_[:, np.flatnonzero(mean.alpha_ == PENALTIES)[0]]
    log_variance = RidgeCV(PENALTIES).fit(x[known], np.log(squares + 1e-3 * squares.mean()))
    variance = np.exp(log_variance.predict(x))
    variance *= np.mean(squares / variance[known])
    return (phi - mean.predict(x)) / np.sqrt(variance)
