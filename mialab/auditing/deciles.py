"""Risk by a quantity of the records: in deciles, with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mialab._validation import check_integer, choose
from mialab.auditing.taxonomy import Attacking
from mialab.games.base import Game
from mialab.metrics import intervals
from mialab.metrics.intervals import Interval
from mialab.metrics.rates import rate_name


def deciles(distance: ArrayLike, *, n: int = 10) -> np.ndarray:
    """Return the decile of each record's distance, int64 (record,): 1 for the nearest tenth, 10 for the farthest.

    Parameters
    ----------
    distance : array_like of float, shape (record,)
        One per record; ties are broken by position.
    n : int
        Number of parts, 10 by default.
    """
    distance = np.asarray(distance, np.float64)
    check_integer("n", n, low=2)
    if distance.ndim != 1 or not np.isfinite(distance).all():
        raise ValueError(f"distance must be finite numbers, one per record; it has shape {distance.shape}.")
    if len(distance) < n:
        raise ValueError(f"n={n} parts need at least as many records; there are {len(distance)}.")
    return 1 + np.argsort(np.argsort(distance, kind="stable"), kind="stable") * n // len(distance)


def risk_by_decile(
    game: Game,
    attack: Attacking,
    distance: ArrayLike,
    *,
    metric: str = "auc",
    n: int = 10,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Measure an attack on the records of each decile of a distance apart.

    Each decile has a ROC curve of its own, over its (target, record) pairs; the attack itself sees the whole game.

    Parameters
    ----------
    game : Game
        The game.
    attack : str, Attack, callable or Outcome
        The attack, see `mialab.audit`.
    distance : array_like of float, shape (record,)
        E.g. from `neighbor_distance`.
    metric : str
        ``"auc"``, or ``"tpr@0.01"`` at any rate; NaN where it allows fewer than ten false alarms.
    n : int
        Number of parts.
    confidence : float
        Coverage of the intervals over targets and records, see `mialab.metrics.Estimate`.

    Returns
    -------
    DataFrame
        A row per decile; columns ``decile``, ``distance`` (the median), ``records``, ``value``, ``low``, ``high``.
    """
    _check(metric)
    part, distance = _parts(distance, game.n_records, n)
    outcome = game.outcome(attack)
    table = _table(
        part,
        distance,
        [outcome.among(part == i).interval(metric, confidence=confidence) for i in range(1, n + 1)],
    )
    table.attrs = {"attack": outcome.attack, "metric": metric}
    return table


def risk_difference(
    game: Game,
    attack: Attacking,
    distance: ArrayLike,
    *,
    metric: str = "auc",
    n: int = 10,
    confidence: float = 0.95,
) -> Interval:
    """Return the risk in the nearest decile minus the risk in the farthest one, with an interval.

    Parameters
    ----------
    game, attack, distance, metric, n, confidence
        As in `risk_by_decile`.
    """
    _check(metric)
    part, _ = _parts(distance, game.n_records, n)
    nearest, farthest = (game.outcome(attack).among(part == decile) for decile in (1, n))
    return nearest.minus(farthest, metric, confidence=confidence)


def decisions(game: Game, attack: Attacking, side: str) -> np.ndarray:
    """Return what an attacker says at its own threshold, 1 for "member", of members or of non-members.

    Parameters
    ----------
    game : Game
        The game.
    attack : str, Attack, callable or Outcome
        The attack, see `mialab.audit`.
    side : {"members", "non-members"}
        Of whom.

    Returns
    -------
    numpy.ndarray of float64, shape (target, record)
        NaN for the other side, and where the attack is not evaluated.
    """
    choose("side", side, ("members", "non-members"))
    outcome = game.outcome(attack)
    counted = outcome.evaluated & (game.member if side == "members" else ~game.member)
    return np.where(counted, outcome.predicted_member, np.nan)


def mean_by_decile(values: ArrayLike, distance: ArrayLike, *, n: int = 10, **options: Any) -> pd.DataFrame:
    """Average a number that each model has for each record over the records of each decile of a distance.

    Parameters
    ----------
    values : array_like of float, shape (model, record)
        E.g. confidences; NaN where a record does not count.
    distance : array_like of float, shape (record,)
        E.g. from `neighbor_distance`.
    n : int
        Number of parts.
    **options
        ``partner`` and ``confidence`` of the intervals over models, see `mialab.metrics.over_targets`.

    Returns
    -------
    DataFrame
        Columns as in `risk_by_decile`.
    """
    means, part, distance = _means(values, distance, n)
    return _table(part, distance, [intervals.over_targets(mean, **options) for mean in means.T])


def mean_difference(values: ArrayLike, distance: ArrayLike, *, n: int = 10, **options: Any) -> Interval:
    """Return the mean in the nearest decile minus the mean in the farthest one, with an interval over models.

    Parameters
    ----------
    values, distance, n, **options
        As in `mean_by_decile`.
    """
    means, *_ = _means(values, distance, n)
    return intervals.over_targets(means[:, 0] - means[:, -1], **options)


def _parts(distance: ArrayLike, n_records: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    distance = np.asarray(distance, np.float64)
    if distance.shape != (n_records,):
        raise ValueError(f"distance has shape {distance.shape}; it must be ({n_records},), one per record.")
    return deciles(distance, n=n), distance


def _table(part: np.ndarray, distance: np.ndarray, values: list[Interval]) -> pd.DataFrame:
    """Put the value of each decile beside the median of its distances and the number of its records."""
    about = pd.Series(distance).groupby(part).agg(["median", "size"]).itertuples()
    rows = [(*decile, *value) for decile, value in zip(about, values, strict=True)]
    return pd.DataFrame(rows, columns=["decile", "distance", "records", "value", "low", "high"])


def _means(values: ArrayLike, distance: ArrayLike, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of each model over each decile, (model, decile), the decile of each record, and the distances."""
    values = np.asarray(values, np.float64)
    if values.ndim != 2:
        raise ValueError(f"values has shape {values.shape}; it must be (model, record).")
    part, distance = _parts(distance, values.shape[1], n)
    return pd.DataFrame(values.T).groupby(part).mean().to_numpy().T, part, distance


def _check(metric: str) -> None:
    rate = metric.partition("@")[2]
    try:
        known = metric == "auc" or (0 <= float(rate) <= 1 and metric == rate_name("tpr", float(rate)))
    except ValueError:
        known = False
    if not known:
        raise ValueError(
            f"metric={metric!r} must be 'auc', or the true-positive rate at a false-positive rate, e.g. 'tpr@0.01'."
        )
