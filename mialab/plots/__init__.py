"""Figures. A defense has one color and one marker in all of them, an attack one dash pattern.

In figures of many attacks on one defense, colors tell the attacks apart.
"""

from mialab._validation import extra

with extra("plots"):
    from mialab.plots.comparisons import by_dataset, by_decile, privacy_utility, spread, strength, trade_off
    from mialab.plots.curves import against_shadows, histogram, histograms, roc, roc_by_family, trajectory
    from mialab.plots.generators import bounds, sample_grid, shifts
    from mialab.plots.heatmaps import agreement, matrix
    from mialab.plots.theme import color, marker, style

__all__ = [
    "against_shadows",
    "agreement",
    "bounds",
    "by_dataset",
    "by_decile",
    "color",
    "histogram",
    "histograms",
    "marker",
    "matrix",
    "privacy_utility",
    "roc",
    "roc_by_family",
    "sample_grid",
    "shifts",
    "spread",
    "strength",
    "style",
    "trade_off",
    "trajectory",
]
