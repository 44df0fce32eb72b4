"""Lower bounds on epsilon by counts: of both errors, or of guesses that were right."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from mialab.metrics.intervals import clopper_pearson


def by_rates(
    missed: ArrayLike, n_in: int, false_alarms: ArrayLike, n_out: int, delta: float, alpha: float
) -> np.ndarray:
    """Bound epsilon by the rates of both errors, bounded exactly (Jagielski, Ullman and Oprea, 2020).

    Parameters
    ----------
    missed, false_alarms : array_like of int
        Members called non-members, of ``n_in``; non-members called members, of ``n_out``.
    n_in, n_out : int
        Members and non-members.
    delta, alpha : float
        The claim's delta, and the level of the test.

    Returns
    -------
    numpy.ndarray of float64
        At least 0.
    """
    # Each rate exceeds its bound with a probability of alpha / 2; given that none does, both directions hold.
    fnr = clopper_pearson(missed, n_in, 1 - alpha)[1]
    fpr = clopper_pearson(false_alarms, n_out, 1 - alpha)[1]
    ratio = np.maximum((1 - fnr - delta) / fpr, (1 - fpr - delta) / fnr)
    return np.log(np.maximum(ratio, 1))


@lru_cache(4096)
def one_run(n: int, guesses: int, right: int, delta: float, alpha: float) -> float:
    """Largest epsilon that so many right guesses refute (Steinke, Nasr and Jagielski, 2023, theorem 5.2).

    Parameters
    ----------
    n : int
        Fair coins: pairs of a member and a non-member, or records that were drawn one by one.
    guesses, right : int
        How many of them were guessed, and how many of these were right.
    delta, alpha : float
        The claim's delta, and the level of the test.
    """

    def refuted(epsilon: float) -> bool:
        accuracy = special.expit(epsilon)
        p_value = special.bdtrc(right - 1, guesses, accuracy)
        if (
            delta and p_value <= alpha
        ):  # each record may fail with a probability of delta, all at once if they like
            failed = np.arange(1, right + 1)
            gained = special.bdtrc(right - 1 - failed, guesses, accuracy) - p_value
            p_value += 2 * n * delta * (gained / failed).max(initial=0)
        return bool(p_value <= alpha)

    return _largest(refuted)


@lru_cache(4096)
def gaussian_mu(n: int, guesses: int, right: int, alpha: float) -> float:
    """Largest mu of Gaussian privacy that so many right guesses refute (Mahloujifar et al., 2025, algorithm 3).

    Parameters
    ----------
    n, guesses, right, alpha
        See `one_run`.
    """

    def refuted(mu: float) -> bool:
        # Fractions of the coins guessed right and wrong, in all outcomes with at least i right: the least there can be.
        so_right, so_wrong = alpha * right / n, alpha * (guesses - right) / n
        for i in range(right - 1, -1, -1):
            wrong = max(so_wrong, special.ndtr(special.ndtri(so_right) - mu))
            if wrong == so_wrong:
                break
            so_right = min(so_right + i / (guesses - i) * (wrong - so_wrong), 1.0)
            so_wrong = wrong
        return bool(so_right + so_wrong > guesses / n)

    return _largest(refuted)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon of Gaussian privacy at a delta (Dong, Roth and Su, 2022, corollary 1)."""

    def excess(epsilon: float) -> float:
        low, high = special.log_ndtr(np.array([-mu, mu]) / 2 - epsilon / mu)
        return high + np.log(-np.expm1(min(epsilon + low - high, -1e-300))) - np.log(delta)

    if 2 * special.ndtr(mu / 2) - 1 <= delta:
        return 0.0
    most = mu**2 / 2 + mu * np.sqrt(2 * np.log(1 / delta))
    return float(optimize.brentq(excess, 0, most + 1, xtol=1e-9))


def _largest(refuted: Callable[[float], bool], within: float = 1e-7) -> float:
    """Return the largest value that is refuted, from below; 0 if none is."""
    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high):
        low, high = high, 2 * high
    while high - low > within:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
