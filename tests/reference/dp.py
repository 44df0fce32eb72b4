"""Epsilon from the theorem."""

import numpy as np
from scipy import optimize, stats


def exact_epsilon(sigma, steps, delta):
    """Epsilon of ``steps`` Gaussian mechanisms together (Balle and Wang, 2018, theorem 8)."""
    s = sigma / np.sqrt(steps)

    def excess(e):
        return stats.norm.cdf(0.5 / s - e * s) - np.exp(e + stats.norm.logcdf(-0.5 / s - e * s)) - delta

    return optimize.brentq(excess, 0, 1e4)
