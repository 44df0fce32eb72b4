"""Bounds on epsilon by counting, summing and trying one value after the other."""

import math

from scipy import stats


def slow_one_run_p_value(n, guesses, right, epsilon, delta):
    """Appendix D of Steinke, Nasr and Jagielski (2023), term by term."""
    accuracy = 1 / (1 + math.exp(-epsilon))
    chance = [
        math.comb(guesses, k) * accuracy**k * (1 - accuracy) ** (guesses - k) for k in range(guesses + 1)
    ]
    tail = sum(chance[right:])
    steepest = 0.0
    for i in range(1, right + 1):
        steepest = max(steepest, sum(chance[right - i : right]) / i)
    return tail + 2 * n * delta * steepest


def slow_one_run(n, guesses, right, delta, alpha, step):
    """Return the last of the epsilons 0, step, 2 step, ... before one that is not refuted."""
    k = 0
    while slow_one_run_p_value(n, guesses, right, k * step, delta) <= alpha:
        k += 1
    return max(0, k - 1) * step


def slow_gaussian_is_refuted(n, guesses, right, mu, alpha):
    """Algorithm 3 of Mahloujifar, Melis and Chaudhuri (2025) with all values of its recursion kept."""
    r, h = [0.0] * (right + 1), [0.0] * (right + 1)
    r[right] = alpha * guesses / n * right / guesses
    h[right] = alpha * guesses / n * (guesses - right) / guesses
    for i in range(right - 1, -1, -1):
        inverse = stats.norm.cdf(stats.norm.ppf(min(r[i + 1], 1.0)) - mu)
        h[i] = max(h[i + 1], inverse)
        r[i] = r[i + 1] + i / (guesses - i) * (h[i] - h[i + 1])
    return r[0] + h[0] > guesses / n


def slow_gaussian_mu(n, guesses, right, alpha, step):
    """Return the last of the mus 0, step, 2 step, ... before one that is not refuted."""
    k = 0
    while slow_gaussian_is_refuted(n, guesses, right, k * step, alpha):
        k += 1
    return max(0, k - 1) * step


def slow_by_rates(missed, n_in, false_alarms, n_out, delta, alpha):
    """Bound each rate by the binomial test and take the better direction."""
    fnr, fpr = (
        stats.binomtest(k, n, alternative="less").proportion_ci(1 - alpha / 2).high
        for k, n in ((missed, n_in), (false_alarms, n_out))
    )
    best = 0.0
    for caught, alarms in ((1 - fnr - delta, fpr), (1 - fpr - delta, fnr)):
        if caught > alarms:
            best = max(best, math.log(caught / alarms))
    return best


def slow_delta(mu, epsilon):
    """Delta of Gaussian privacy (Dong, Roth and Su, 2022, corollary 1)."""
    return stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu)


def slow_guesses(differences, made):
    """Count right guesses on the pairs with the greatest differences; equal ones must not be at the edge."""
    surest = sorted(differences, key=lambda d: -abs(d))[:made]
    return sum(d > 0 for d in surest)
