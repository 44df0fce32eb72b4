"""Bounds of an attack's success by distances between the answers to members and to non-members."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mialab import metrics
from mialab._validation import check_integer
from mialab.metrics import intervals
from mialab.training.streams import generator

if TYPE_CHECKING:
    from mialab.auditing.taxonomy import Attacking
    from mialab.games.base import Game


#: Separations of so many parts of equal size are looked at one by one; the last one are the paper's outliers.
PARTS = 10


def auc_bound(distance: ArrayLike) -> np.ndarray | float:
    """Greatest AUC of scores whose distributions on members and non-members are at this distance: 1/2 + D - D^2/2.

    Since no threshold's TPR is above FPR + D (Kairouz, Oh, Viswanath, 2015), the ROC curve lies below
    ``min(1, FPR + D)``, and this is the area (Ji et al., theorem 1). It is reached by scores that are the same on both
    sides but for a fraction D of the members above all others and a fraction D of the non-members below all others.

    Parameters
    ----------
    distance : array_like of float
        Total variation distance D, from 0 to 1.

    Raises
    ------
    ValueError
        If a distance is not from 0 to 1.
    """
    distance = np.asarray(distance, np.float64)
    if not ((distance >= 0) & (distance <= 1)).all():
        raise ValueError(f"distance={distance} must be from 0 to 1.")
    return (0.5 + distance - distance**2 / 2)[()]


def hellinger(
    mean_in: ArrayLike, std_in: ArrayLike, mean_out: ArrayLike, std_out: ArrayLike
) -> np.ndarray | float:
    """Hellinger distance H of two Gaussians, from 0 to 1 (Ji et al., lemma 2).

    ``H^2 = 1 - sqrt(2 s t / (s^2 + t^2)) exp(-(m - n)^2 / (4 (s^2 + t^2)))`` for means m, n and standard deviations s,
    t: half the integral of the squared difference of the roots of the densities.

    Parameters
    ----------
    mean_in, std_in, mean_out, std_out : array_like of float
        Means and standard deviations, these above 0.

    Raises
    ------
    ValueError
        If a standard deviation is not above 0.
    """
    m, s, n, t = (np.asarray(value, np.float64) for value in (mean_in, std_in, mean_out, std_out))
    if not ((s > 0) & (t > 0)).all():
        raise ValueError(f"std_in={s} and std_out={t} must be greater than 0.")
    total = s**2 + t**2
    affinity = np.sqrt(2 * s * t / total) * np.exp(-((m - n) ** 2) / (4 * total))
    return np.sqrt(np.maximum(0, 1 - affinity))[()]


def gaussian_bound(
    mean_in: ArrayLike, std_in: ArrayLike, mean_out: ArrayLike, std_out: ArrayLike
) -> np.ndarray | float:
    """Bound of the AUC of Gaussian scores, `auc_bound` of min(1, sqrt(2) H) (Ji et al., lemma 2 and theorem 1).

    A total variation distance is at most sqrt(2) H, see `hellinger`. It is at most ``H sqrt(2 - H^2)`` too, which is
    less; the paper's form is kept.

    Parameters
    ----------
    mean_in, std_in, mean_out, std_out : array_like of float
        Mean and standard deviation of the scores of members and of non-members.
    """
    return auc_bound(np.minimum(1, np.sqrt(2) * hellinger(mean_in, std_in, mean_out, std_out)))


class Distances(NamedTuple):
    """Three estimates of a total variation distance, see `total_variation`."""

    histogram: float
    threshold: float
    cross_fitted: float


def total_variation(score: ArrayLike, member: ArrayLike, *, bins: int = 10, seed: int = 0) -> Distances:
    """Estimate the total variation distance of the scores of members and of non-members.

    ``histogram`` cuts the scores at their quantiles. It is half the sum of the differences between the fractions in
    each bin. Without any true distance it is about ``sqrt(bins / (pi n))`` for n members and n non-members: it errs
    upward, but for what happens within bins. ``cross_fitted`` takes from one half of the scores the bins where members
    are more frequent, from the other half the difference of their fractions, and the other way round. Since no set of
    scores has a difference above D, it errs downward, and may be below 0. ``threshold`` is the greatest ``TPR - FPR``
    of any threshold. Of scores that are likelihood ratios it estimates the same distance, and errs upward, by about
    ``1.2 / sqrt(n)`` at most.

    Parameters
    ----------
    score : array_like of float, shape (n,)
        Scores.
    member : array_like of bool, shape (n,)
        Which are of members: at least 4 members and 4 non-members.
    bins : int
        Number of bins.
    seed : int
        Of the halves.
    """
    check_integer("bins", bins, low=2)
    score, member = np.asarray(score, np.float64), np.asarray(member, bool)
    n_in, n_out = int(member.sum()), int((~member).sum())
    if min(n_in, n_out) < 4:
        raise ValueError(f"There are {n_in} members and {n_out} non-members; a distance needs 4 of each.")
    cuts = np.quantile(score, np.arange(1, bins) / bins)
    place = np.searchsorted(cuts, score, side="right")
    first = np.zeros(score.size, bool)
    rng = generator(seed, "halves")
    for side in (member, ~member):
        rows = rng.permutation(np.flatnonzero(side))
        first[rows[: rows.size // 2]] = True

    def difference(rows: np.ndarray) -> np.ndarray:
        counts = [np.bincount(place[rows & side], minlength=bins) for side in (member, ~member)]
        return counts[0] / counts[0].sum() - counts[1] / counts[1].sum()

    a, b = difference(first), difference(~first)
    crossed = (b[a > 0].sum() + a[b > 0].sum()) / 2
    fpr, tpr, _ = metrics.roc(score, member)
    whole = difference(np.ones_like(first))
    return Distances(float(abs(whole).sum() / 2), float((tpr - fpr).max()), float(crossed))


def bounds(
    game: Game,
    attack: Attacking = "critic_lira",
    *,
    bins: int = 10,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the AUC of an attack beside its bounds, as means over targets with intervals.

    Parameters
    ----------
    game : Game
        The game.
    attack : str or Attack
        Whose scores, by default LiRA's log likelihood ratio; a distance is the same for the ratio and for its log.
    bins, seed
        See `total_variation`.
    confidence : float
        Of the t intervals over targets, see `mialab.metrics.over_targets`.

    Returns
    -------
    pandas.DataFrame
        Columns ``quantity, value, low, high, targets``. Quantities are ``auc``; ``distance_histogram``,
        ``distance_threshold`` and ``distance_cross_fitted``, estimates of the total variation distance of which the
        first errs upward and the last downward (`total_variation`); ``bound_histogram``, ``bound_threshold`` and
        ``bound_cross_fitted``, the bounds of the AUC from them: the AUC is never above the second, and may be above
        the last; and ``bound_gaussian``, which takes the scores for Gaussian with the means and variances that they
        have. That holds if a record's losses have the same variance with and without it (Ji et al., lemma 1); where
        it doesn't, this is no bound.

    Raises
    ------
    ValueError
        If the attack is unknown, or the game lacks what it needs.
    """
    outcome = game.outcome(attack)
    targets = np.flatnonzero(outcome.evaluated.any(1))
    found: dict[str, list[float]] = {}
    for k in targets:
        rows = outcome.evaluated[k]
        score, member = outcome.score[k, rows], game.member[k, rows]
        distance = total_variation(score, member, bins=bins, seed=seed)
        crossed = max(0.0, distance.cross_fitted)
        moments = [f(score[side]) for side in (member, ~member) for f in (np.mean, lambda s: s.std(ddof=1))]
        tiny = np.finfo(np.float64).tiny
        estimates = {
            "auc": metrics.auc(score, member),
            "distance_histogram": distance.histogram,
            "distance_threshold": distance.threshold,
            "distance_cross_fitted": distance.cross_fitted,
            "bound_histogram": auc_bound(distance.histogram),
            "bound_threshold": auc_bound(distance.threshold),
            "bound_cross_fitted": auc_bound(crossed),
            "bound_gaussian": gaussian_bound(*np.maximum(moments, [-np.inf, tiny] * 2)),
        }
        for name, value in estimates.items():
            found.setdefault(name, []).append(float(value))
    place = {int(k): i for i, k in enumerate(targets)}
    partner = [place.get(int(game.partner[k]), -1) for k in targets]
    rows = []
    for name, values in found.items():
        interval = intervals.over_targets(values, partner=partner, confidence=confidence)
        rows.append((name, *np.clip(interval, -1 if "cross" in name else 0, 1).tolist(), len(targets)))
    return pd.DataFrame(rows, columns=["quantity", "value", "low", "high", "targets"])
