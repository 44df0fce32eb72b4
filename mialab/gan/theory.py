"""What the theory of mixup training for GANs bounds (Ji et al.), computed beside what is measured.

The paper's argument has two parts. An attack's AUC is bounded through the total variation distance D of its scores on
members and on non-members; and mixup training, where it raises the loss of a record, lowers the likelihood ratio of
LiRA, and with it the bound. A bound that falls is no proof that the AUC falls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mialab import attacks, metrics
from mialab.attacks.lira import VARIANCE_FLOOR, _log_density, _moments
from mialab.metrics import Interval
from mialab.neighbours import deciles
from mialab.options import check_integer, choose
from mialab.randomness import generator

if TYPE_CHECKING:
    from mialab.attacks.base import Attack
    from mialab.game import Game
    from mialab.gan.game import GeneratorGame

#: Separations of so many parts of equal size are looked at one by one; the last one are the paper's outliers.
PARTS = 10


# ------------------------------------------------------------------------------------------------- bounds of the AUC


def auc_bound(distance: ArrayLike) -> np.ndarray | float:
    """Greatest AUC of scores whose distributions on members and non-members are at this distance: 1/2 + D - D^2/2.

    Since no threshold's TPR is above FPR + D (Kairouz, Oh, Viswanath, 2015), the ROC curve lies below
    ``min(1, FPR + D)``, and this is the area (Ji et al., theorem 1). It is reached by scores that are the same on both
    sides but for a share D of the members above all others and a share D of the non-members below all others.

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

    ``histogram`` cuts the scores at their quantiles and is half the sum of the differences between the shares in each
    bin; without any true distance it is about ``sqrt(bins / (pi n))`` for n members and n non-members, so it errs
    upwards, but for what happens within bins. ``cross_fitted`` takes the bins where members are the more frequent ones
    from one half of the scores and the difference of their shares from the other half, and the other way round; since
    no set of scores has a difference above D, it errs downwards, and may be below 0. ``threshold`` is the greatest
    ``TPR - FPR`` of any threshold: of scores that are likelihood ratios it estimates the same distance, and errs
    upwards, by about ``1.2 / sqrt(n)`` at most.

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
    attack: str | Attack = "critic_lira",
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
        first errs upwards and the last downwards (`total_variation`); ``bound_histogram``, ``bound_threshold`` and
        ``bound_cross_fitted``, the bounds of the AUC from them: the AUC is never above the second, and may be above
        the last; and ``bound_gaussian``, which takes the scores for Gaussian with the means and variances that they
        have. That holds if a record's losses have the same variance with and without it (Ji et al., lemma 1); where
        it doesn't, this is no bound.

    Raises
    ------
    ValueError
        If the attack is unknown, or the game lacks what it needs.
    """
    attack = attacks.make(attack)
    outcome = attack.run(game)
    targets = np.flatnonzero(outcome.evaluated.any(1))
    found: dict[str, list[float]] = {}
    for k in targets:
        rows = outcome.evaluated[k]
        score, member = outcome.score[k, rows], game.member[k, rows]
        distance = total_variation(score, member, bins=bins, seed=seed)
        crossed = max(0.0, distance.cross_fitted)
        moments = [f(score[side]) for side in (member, ~member) for f in (np.mean, lambda s: s.std(ddof=1))]
        tiny = np.finfo(np.float64).tiny
        figures = {
            "auc": metrics.auc(score, member),
            "distance_histogram": distance.histogram,
            "distance_threshold": distance.threshold,
            "distance_cross_fitted": distance.cross_fitted,
            "bound_histogram": auc_bound(distance.histogram),
            "bound_threshold": auc_bound(distance.threshold),
            "bound_cross_fitted": auc_bound(crossed),
            "bound_gaussian": gaussian_bound(*np.maximum(moments, [-np.inf, tiny] * 2)),
        }
        for name, value in figures.items():
            found.setdefault(name, []).append(value)
    place = {int(k): i for i, k in enumerate(targets)}
    partner = [place.get(int(game.partner[k]), -1) for k in targets]
    rows = []
    for name, values in found.items():
        interval = metrics.over_targets(values, partner=partner, confidence=confidence)
        rows.append((name, *np.clip(interval, -1 if "cross" in name else 0, 1).tolist(), len(targets)))
    return pd.DataFrame(rows, columns=["quantity", "value", "low", "high", "targets"])


# ----------------------------------------------------------------------------- how defended training shifts the ratio


class Ratios(NamedTuple):
    """Log likelihood ratios of targets, and the separation that they were computed with, both (target, record)."""

    log_ratio: np.ndarray
    separation: np.ndarray


def log_ratios(
    loss: np.ndarray,
    natural: np.ndarray,
    member: np.ndarray,
    left_out: np.ndarray,
    *,
    variance: str = "per_record",
) -> Ratios:
    """Log likelihood ratios of targets' losses under Gaussians of the losses of other models, trained naturally.

    Parameters
    ----------
    loss : numpy.ndarray of float, shape (model, record)
        Losses of the targets, e.g. under a defense.
    natural : numpy.ndarray of float, shape (model, record)
        Losses of natural models with the same members; model k is no reference of target k.
    member : numpy.ndarray of bool, shape (model, record)
        Which model was trained on which record: at least 3 on each record, and at least 3 not.
    left_out : numpy.ndarray of int, shape (target, record)
        The other model that is no reference, see `mialab.Game.left_out`.
    variance : {"per_record", "pooled"}
        As in `mialab.attacks.LiRA`, whose online score this is for ``loss=natural``.

    Returns
    -------
    Ratios
        The separation is ``(mean_out - mean_in) / s`` of the natural losses; that s is the root of the mean of both
        variances is our choice: the paper has them equal.
    """
    choose("variance", variance, ("per_record", "pooled"))
    tiny = np.finfo(np.float64).tiny ** 0.5
    means, variances = [], []
    for side in (True, False):
        deviation, squares, degrees = _moments(natural, member == side, left_out)
        pooled = np.maximum(squares.sum(1, keepdims=True) / degrees.sum(1, keepdims=True), tiny)
        own = np.maximum(squares / degrees, VARIANCE_FLOOR * pooled)
        means.append(natural - deviation)
        variances.append(own if variance == "per_record" else np.broadcast_to(pooled, own.shape))
    log_density = [_log_density(loss - m, v) for m, v in zip(means, variances, strict=True)]
    s = np.sqrt((variances[0] + variances[1]) / 2)
    return Ratios(log_density[0] - log_density[1], (means[1] - means[0]) / s)


def ratio_shifts(
    games: Mapping[str, GeneratorGame],
    natural: GeneratorGame,
    *,
    variance: str = "per_record",
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Test proposition 1 of Ji et al. record by record: how often a defense lowers the likelihood ratio.

    Target k under the defense is compared with target k without it: same members, and the same Gaussians, fitted to
    the other natural models (`log_ratios`), as of an attacker who doesn't know of the defense. The proposition is that
    where a record's loss is higher than without the defense its ratio is lower, with a probability above 1/2 that is
    close to 1 for outliers, records of high separation. It says nothing of how often the loss is higher, or of
    non-members, whose ratio must not rise for the AUC to fall as much as the argument suggests.

    Parameters
    ----------
    games : dict of str to GeneratorGame
        Label, such as the defense, to a game with the members of ``natural``: the same pool, ``n_models`` and ``seed``.
    natural : GeneratorGame
        The undefended game.
    variance : {"per_record", "pooled"}
        Of the Gaussians, see `mialab.attacks.LiRA`.
    confidence, n_resamples, seed
        Of bootstrap intervals that resample pairs of complementary targets, and records, see
        `mialab.metrics.pooled_bootstrap`.

    Returns
    -------
    pandas.DataFrame
        Columns ``defense, of, part, quantity, value, low, high, pairs``: shares of (target, record) pairs, ties
        counting half. ``of`` is ``"members"`` or ``"non-members"``; ``part`` is 0 for all records, or 1 to 10, the part
        of equal size of each target's records by separation, 10 for the highest. Quantities are ``ratio falls``;
        ``loss rises``; and ``ratio falls if loss rises``. Without any effect of the defense, the first two are 1/2; the
        last is 1 wherever both Gaussians have the same variance and the mean with the record is the lower one. Where
        the separation is estimated below 0, as of many records with few models, a higher loss raises the ratio.

    Raises
    ------
    ValueError
        If members differ, or there are too few models.
    """
    check_integer("n_resamples", n_resamples, low=1)
    member = natural.member
    for label, game in games.items():
        if game.member.shape != member.shape or (game.member != member).any():
            raise ValueError(
                f"games[{label!r}] and natural differ in their members: play both with the same pool, n_models "
                "and seed."
            )
    fewest = int(np.minimum(member.sum(0), (~member).sum(0)).min())
    if natural.shadow.any() or fewest < 3:
        raise ValueError(
            f"natural has only {fewest} models with or without some record, or separate shadow models; it must have "
            "at least 3 of each: play it with n_models of at least 6."
        )
    natural_loss = natural.critic_loss[:, 0]
    base = log_ratios(natural_loss, natural_loss, member, natural.left_out, variance=variance)
    part = np.stack([deciles(row, n=PARTS) for row in base.separation])
    u, v = _resamples(member.shape, natural.partner, n_resamples, seed)
    rows = []
    for label, game in games.items():
        loss = game.critic_loss[:, 0]
        shifted = log_ratios(loss, natural_loss, member, natural.left_out, variance=variance).log_ratio
        falls, rises = _share(base.log_ratio, shifted), _share(loss, natural_loss)
        for of, side in (("members", member), ("non-members", ~member)):
            for number in range(PARTS + 1):
                here = side & (part == number) if number else side
                for quantity, event, among in _quantities(falls, rises, here):
                    with np.errstate(invalid="ignore"):  # no pair at all in a resample
                        draws = _weighted(u, v, event * among) / _weighted(u, v, among)
                    interval = metrics._interval(_mean(event, among), draws, confidence)
                    rows.append((label, of, number, quantity, *interval, int((among > 0).sum())))
    return pd.DataFrame(rows, columns=["defense", "of", "part", "quantity", "value", "low", "high", "pairs"])


def shift(
    table: pd.DataFrame, defense: str, of: str, *, part: int = 0, quantity: str = "ratio falls"
) -> Interval:
    """Return one share of a table of `ratio_shifts` with its interval.

    Parameters
    ----------
    table : DataFrame
        From `ratio_shifts`.
    defense, of, part, quantity
        Values of the columns of that name.
    """
    choose("defense", defense, set(table["defense"]))
    choose("of", of, ("members", "non-members"))
    choose("quantity", quantity, set(table["quantity"]))
    rows = table.query("defense == @defense and of == @of and part == @part and quantity == @quantity")
    return Interval(*rows[["value", "low", "high"]].to_numpy(dtype=np.float64)[0].tolist())


def _quantities(
    falls: np.ndarray, rises: np.ndarray, here: np.ndarray
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, event, and weight of the pairs among which its share is taken, each (target, record)."""
    yield "ratio falls", falls, here.astype(np.float64)
    yield "loss rises", rises, here.astype(np.float64)
    yield "ratio falls if loss rises", falls, (here & (rises == 1)).astype(np.float64)


def _share(higher: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """1 where the first is higher, 1/2 where both are equal."""
    return (higher > lower) + (higher == lower) / 2


def _mean(event: np.ndarray, among: np.ndarray) -> float:
    total = among.sum()
    return float((event * among).sum() / total) if total else np.nan


def _resamples(
    shape: tuple[int, int], partner: np.ndarray, n_resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """How often each target, (resample, target), and each record, (resample, record), is drawn."""
    rng = np.random.default_rng(seed)
    cluster = metrics.clusters(shape[0], partner)
    n = int(cluster.max()) + 1
    u = np.ones((n_resamples, shape[0]))
    v = np.empty((n_resamples, shape[1]))
    for b in range(n_resamples):
        if n > 1:
            u[b] = metrics._draw(rng, n)[cluster]
        v[b] = metrics._draw(rng, shape[1])
    return u, v


def _weighted(u: np.ndarray, v: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Sum of the cells, each counted as often as its target and its record were drawn, (resample,)."""
    return ((u @ cell) * v).sum(1)
