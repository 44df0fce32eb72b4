"""Intervals of metrics: within a target, pooled over targets, and of differences."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from mialab._validation import check_integer
from mialab.metrics.rates import (
    _DECISIONS,
    FPRS,
    _checked,
    _counts,
    _draw,
    _Ranks,
    _same_shape,
    as_flags,
    check_fraction,
    check_rates,
)


class Interval(NamedTuple):
    """An estimate and the two ends of its confidence interval."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """Return e.g. ``0.612 [0.601, 0.624]`` for the format ``.3f``; without ends that are unknown."""
        ends = "" if np.isnan(self.low) else f" [{self.low:{spec}}, {self.high:{spec}}]"
        return f"{self.value:{spec}}{ends}"


def clopper_pearson(
    successes: ArrayLike, trials: ArrayLike, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Exact confidence interval of a proportion (Clopper and Pearson, Biometrika 1934).

    Parameters
    ----------
    successes, trials : int or array of int
        Broadcast against each other; no trial at all gives [0, 1].
    confidence : float
        Coverage, which the interval has at least.

    Returns
    -------
    low, high : float64, shape of the inputs
    """
    k, n = np.broadcast_arrays(np.asarray(successes, float), np.asarray(trials, float))
    if not ((k >= 0) & (k <= n) & (k == np.floor(k)) & (n == np.floor(n))).all():
        raise ValueError("successes and trials must be whole numbers with 0 <= successes <= trials.")
    tail = (1 - check_fraction("confidence", confidence)) / 2
    low = np.where(k > 0, special.betaincinv(np.maximum(k, 1), n - k + 1, tail), 0.0)
    high = np.where(k < n, special.betainccinv(k + 1, np.maximum(n - k, 1), tail), 1.0)
    return low[()], high[()]


def proportion(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Return a proportion with its Clopper-Pearson interval; NaN without any trial."""
    if trials == 0:
        return Interval(np.nan, np.nan, np.nan)
    return Interval(successes / trials, *map(float, clopper_pearson(successes, trials, confidence)))


def bootstrap(
    score: ArrayLike,
    member: ArrayLike,
    *,
    predicted_member: ArrayLike | None = None,
    fprs: Sequence[float] = FPRS,
    fnrs: Sequence[float] = (),
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile bootstrap intervals of the AUC and of the rates, for one target model.

    Members and non-members are resampled separately. Scores are sorted once; a resample only changes how
    often each record counts. With about ten allowed false alarms the TPR intervals cover 93 to 97% in
    simulations; below that (see `resolvable`) they cover too little.

    Parameters
    ----------
    score, member : (n,) float, (n,) bool
    predicted_member : (n,) bool, optional
        Decisions; adds ``balanced_accuracy``, ``precision``, ``recall`` and ``f1``.
    fprs, fnrs : sequence of float
        Rates at which to report the TPR and the TNR.
    n_resamples : int
    confidence : float
    seed : int

    Returns
    -------
    dict of str to Interval
        Keys ``auc``, ``tpr@0.001``, ..., ``tnr@0.001``, ... in this order, then those of the decisions.
    """
    score, member = _checked(score, member)
    ranks = _Ranks(score, member, check_rates("fprs", fprs), check_rates("fnrs", fnrs))
    check_fraction("confidence", confidence)
    check_integer("n_resamples", n_resamples, low=1)
    rng = np.random.default_rng(seed)
    m, n = ranks.n_in, ranks.n_out
    if len(ranks.names) == 1 and n_resamples * (m + n) <= 4_000_000:
        draws = ranks.resampled_auc(n_resamples, seed)[:, None]
    else:
        draws = np.empty((n_resamples, len(ranks.names)))
        for row in draws:
            ranks.statistics(_draw(rng, m), _draw(rng, n), out=row)
    found = dict(zip(ranks.names, zip(ranks.point(), draws.T, strict=True), strict=True))
    if predicted_member is not None:
        tp, fp, *_ = _counts(predicted_member, member)
        # Resampled counts of the right and wrong decisions are binomial: no need to draw the records.
        resampled = rng.binomial(m, tp / m, n_resamples), rng.binomial(n, fp / n, n_resamples)
        points = [formula(tp, fp, m, n) for formula in _DECISIONS.values()]
        decided = [formula(*resampled, m, n) for formula in _DECISIONS.values()]
        found |= dict(zip(_DECISIONS, zip(points, decided, strict=True), strict=True))
    return {name: percentile_interval(*both, confidence) for name, both in found.items()}


def pooled_bootstrap(
    score: ArrayLike, member: ArrayLike, *, confidence: float = 0.95, **options: Any
) -> dict[str, Interval]:
    """Bootstrap intervals of one ROC over all evaluated (target, record) pairs.

    Targets *and* records are resampled: a pair counts (times its target was drawn) x (times its record was
    drawn), the pigeonhole bootstrap of Owen (Annals of Applied Statistics 1, 2007). So the interval speaks
    about new models trained on new records. With a single target, or pair of targets, only records are
    resampled.

    The interval is conservative where pairs vary mostly by themselves: the bootstrap variance holds the
    effects of targets and of records about once, but the rest of a pair's variation three times (McCullagh,
    Bernoulli 6, 2000), so that a game without any signal gets an interval up to sqrt(3) too wide. In
    simulations with 4 to 16 pairs of targets the nominal 95% covered 94 to 99.5%.

    Parameters
    ----------
    score, member : (K, N) float, (K, N) bool
        Targets by records.
    evaluated : (K, N) bool, optional
        Pairs that count; all by default. Scores elsewhere are ignored.
    partner : (K,) int, optional
        Index of the target with the complementary membership, or -1; such pairs are resampled together.
    predicted_member : (K, N) bool, optional
        Decisions; adds ``balanced_accuracy``, ``precision``, ``recall`` and ``f1``.
    fprs, fnrs, n_resamples, confidence, seed
        As in `bootstrap`.

    Returns
    -------
    dict of str to Interval
        Keys as in `bootstrap`.
    """
    check_fraction("confidence", confidence)
    draws = pooled_draws(score, member, **options)
    return {name: percentile_interval(*both, confidence) for name, both in draws.items()}


def pooled_difference(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    *,
    relative: bool = False,
    confidence: float = 0.95,
    **options: Any,
) -> dict[str, Interval]:
    """Bootstrap intervals of the difference, first minus second, between two attacks on the same targets and records.

    Both are resampled jointly, target by target and record by record, so what they have in common cancels.

    Parameters
    ----------
    first, second : mapping
        ``score``, ``predicted_member`` and ``evaluated`` of each, (K, N) as in `pooled_bootstrap`.
    relative : bool
        Whether to divide the difference by the second.
    confidence : float
        Coverage of the intervals.
    **options
        ``member``, ``partner``, ``fprs``, ``fnrs``, ``n_resamples``, ``seed``, shared by both; see `pooled_bootstrap`.

    Returns
    -------
    dict of str to Interval
        Keys as in `pooled_bootstrap`.
    """
    check_fraction("confidence", confidence)
    # The same seed draws the same targets and records for both, if both draw from the same ones.
    everything = np.ones(np.shape(first["score"]), bool)
    masks = (side.get("evaluated") for side in (first, second))
    drawn = np.logical_or.reduce([everything if mask is None else mask for mask in masks])
    a, b = pooled_draws(**first, **options, drawn=drawn), pooled_draws(**second, **options, drawn=drawn)

    def change(to: np.ndarray | float, of: np.ndarray | float) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.subtract(to, of) / (of if relative else 1.0)

    return {
        name: percentile_interval(
            float(change(a[name][0], b[name][0])), change(a[name][1], b[name][1]), confidence
        )
        for name in a
    }


def pooled_draws(
    score: ArrayLike,
    member: ArrayLike,
    *,
    evaluated: ArrayLike | None = None,
    partner: ArrayLike | None = None,
    predicted_member: ArrayLike | None = None,
    fprs: Sequence[float] = FPRS,
    fnrs: Sequence[float] = (),
    n_resamples: int = 1000,
    seed: int = 0,
    drawn: np.ndarray | None = None,
) -> dict[str, tuple[float, np.ndarray]]:
    """Return the value and its resamples, (n_resamples,), of each statistic of `pooled_bootstrap`.

    Targets and records without any pair in `drawn`, by default the evaluated ones, are not resampled.
    """
    score, member = np.asarray(score, np.float64), as_flags("member", member)
    if score.ndim != 2:
        raise ValueError(f"score has shape {score.shape}; it must be (target, record).")
    _same_shape("score", score, member)
    evaluated = np.ones_like(member) if evaluated is None else as_flags("evaluated", evaluated)
    _same_shape("evaluated", evaluated, member)
    cluster = clusters(len(score), partner)
    if predicted_member is not None:
        said = as_flags("predicted_member", predicted_member)
        _same_shape("predicted_member", said, member)

    drawn = evaluated if drawn is None else drawn
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    within = np.ix_(rows, columns)
    evaluated, score, member = evaluated[within], score[within], member[within]
    cluster = np.unique(cluster[rows], return_inverse=True)[1]
    target, record = np.nonzero(evaluated)
    ranks = _Ranks(
        *_checked(score[evaluated], member[evaluated]), check_rates("fprs", fprs), check_rates("fnrs", fnrs)
    )
    t_in, r_in = target[ranks.order_in], record[ranks.order_in]
    t_out, r_out = target[ranks.order_out], record[ranks.order_out]

    check_integer("n_resamples", n_resamples, low=1)
    rng = np.random.default_rng(seed)
    n_clusters = int(cluster.max()) + 1
    u = np.ones((n_resamples, len(rows)), np.int64)
    v = np.empty((n_resamples, len(columns)), np.int64)
    draws = np.empty((n_resamples, len(ranks.names)))
    for b, row in enumerate(draws):
        if n_clusters > 1:
            u[b] = _draw(rng, n_clusters)[cluster]
        v[b] = _draw(rng, len(columns))
        ranks.statistics(u[b].take(t_in) * v[b].take(r_in), u[b].take(t_out) * v[b].take(r_out), out=row)
    found = dict(zip(ranks.names, zip(ranks.point(), draws.T, strict=True), strict=True))
    if predicted_member is not None:
        said = said[within]
        sides = (said & member, said & ~member, member, ~member)
        cells = [(cell & evaluated).astype(np.float64) for cell in sides]
        points = [formula(*(cell.sum() for cell in cells)) for formula in _DECISIONS.values()]
        # Weighted counts are u' cell v, a block of resamples at a time to keep memory small.
        blocks = np.array_split(np.arange(n_resamples), -(-n_resamples // 64))
        counts = [np.concatenate([((u[b] @ cell) * v[b]).sum(axis=1) for b in blocks]) for cell in cells]
        with np.errstate(invalid="ignore", divide="ignore"):
            decided = [formula(*counts) for formula in _DECISIONS.values()]
        found |= dict(zip(_DECISIONS, zip(points, decided, strict=True), strict=True))
    return found


def over_targets(value: ArrayLike, *, partner: ArrayLike | None = None, confidence: float = 0.95) -> Interval:
    """Mean of one value per target model, with a Student t interval over pairs of complementary targets.

    A t interval because at four pairs it covers 95% (90% if values are skewed), the percentile bootstrap 80%
    (75%); at sixteen both are above 90%. It speaks about new models trained on the *same* records.

    Parameters
    ----------
    value : (K,) float
        One value per target; NaN entries are left out.
    partner : (K,) int, optional
        Index of the target with the complementary membership, or -1. Such a pair counts as one observation.
    confidence : float

    Returns
    -------
    Interval
        Ends are NaN with fewer than two pairs, everything is NaN if every value is.
    """
    value = np.asarray(value, np.float64)
    if value.ndim != 1:
        raise ValueError(f"value has shape {value.shape}; it must be (target,).")
    quantile = special.stdtrit(np.arange(len(value) + 1), (1 + check_fraction("confidence", confidence)) / 2)
    known = np.isfinite(value)
    if not known.any():
        return Interval(np.nan, np.nan, np.nan)
    cluster = np.unique(clusters(len(value), partner)[known], return_inverse=True)[1]
    means = np.bincount(cluster, value[known]) / np.bincount(cluster)
    mean, n = float(means.mean()), len(means)
    half = float(quantile[n - 1] * means.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan
    return Interval(mean, mean - half, mean + half)


def clusters(n: int, partner: ArrayLike | None = None) -> np.ndarray:
    """Label of the pair of complementary targets each of `n` targets belongs to, (n,) int64, from 0."""
    index = np.arange(n)
    if partner is None:
        return index
    partner = np.asarray(partner)
    if partner.shape != (n,) or not np.issubdtype(partner.dtype, np.integer):
        raise ValueError(f"partner must hold {n} integers, one per target; it is {partner!r}.")
    paired = partner >= 0
    if (partner >= n).any() or (partner[partner[paired]] != index[paired]).any():
        raise ValueError("partner must be mutual: partner[partner[k]] == k, or -1 for a target without one.")
    return np.unique(np.where(paired, np.minimum(index, partner), index), return_inverse=True)[1]


def percentile_interval(value: float, draws: np.ndarray, confidence: float) -> Interval:
    """Percentile interval; NaN where no resample gave a number."""
    if not np.isfinite(draws).any():
        return Interval(float(value), np.nan, np.nan)
    return Interval(
        float(value), *np.nanquantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    )
