"""Records and their neighbours: how near each one is to a cluster of similar ones, and what that does to its risk.

Nearness is measured between embeddings, the inputs of the last layer of a *reference network*, see `embedding`. Lower
deciles of a distance are nearer to a cluster.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import nn

from mialab import attacks, metrics, models, queries
from mialab.attacks.base import Attack
from mialab.data import Pool
from mialab.defenses.base import Defense
from mialab.engine import Run, Training, train_group
from mialab.game import Game, device_here
from mialab.metrics import Interval, rate_name
from mialab.models import Model
from mialab.options import check_integer, check_number, choose
from mialab.probes import Probe
from mialab.randomness import generator

BLOCK = 1024


@dataclass(frozen=True, eq=False)
class _Embedding(Probe):
    """What the last linear layer of the first model of a group sees of some records."""

    name: ClassVar[str] = "embedding"
    array: ClassVar[str] = "embedding"
    x: np.ndarray

    def __call__(self, run: Run) -> dict[str, np.ndarray]:
        forward, parameters = run.function(0)
        seen: list[torch.Tensor] = []
        hook = _last_linear(run.network).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        with torch.inference_mode():
            for start in range(0, len(self.x), BLOCK):
                forward(parameters, torch.tensor(self.x[start : start + BLOCK], device=run.device))
        hook.remove()
        return {self.array: torch.cat(seen).flatten(1).cpu().numpy()[None]}


def _last_linear(network: nn.Module) -> nn.Module:
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(
            f"model={type(network).__name__} has no linear layer whose inputs could be an embedding."
        )
    return linear[-1]


def embedding(
    pool: Pool,
    model: str | Model = "mlp",
    *,
    training: Training | None = None,
    seed: int = 0,
    device: str = "auto",
) -> np.ndarray:
    """Embed all records of a pool by a network that was trained on none of them.

    The reference network is of the given kind, undefended, and trained on the pool's test part, so that what it says
    about a record does not depend on who is a member of which model. Its weights and batches are drawn apart from
    those of any game.

    Parameters
    ----------
    pool : Pool
        The records; its test part must not be empty.
    model : {"mlp", "cnn", "resnet"} or callable
        The network, see `mialab.models`.
    training : Training, optional
        How it is trained; ``Training()`` by default.
    seed : int
        Of its training.
    device : {"auto", "cpu", "cuda"}
        Where to train.

    Returns
    -------
    numpy.ndarray of float32, shape (record, unit)
        The inputs of the network's last linear layer.

    Raises
    ------
    ValueError
        If the pool has no test records, or the network no linear layer.
    """
    device = device_here(device)
    check_integer("seed", seed)
    if len(pool.y_test) < 2:
        raise ValueError(
            f"{pool.name!r} has {len(pool.y_test)} test records to train a reference network on: load it with test=...."
        )
    build, training = models.make(model), Training() if training is None else training
    _last_linear(build(pool.x.shape[1:], pool.n_classes))
    training.check(pool)
    held_out = replace(pool, x=pool.x_test, y=pool.y_test, x_test=None, y_test=None)
    arrays = train_group(
        [0],
        pool=held_out,
        y=held_out.y,
        member=np.ones((1, len(held_out)), bool),
        build=build,
        defense=Defense(),
        training=training,
        queries=queries.make("original", held_out),
        seed=int(generator(seed, "reference network").integers(2**31)),
        device=device,
        probes=[_Embedding(pool.x)],
    )
    return arrays["embedding"][0]


def neighbour_distance(points: ArrayLike, y: ArrayLike, *, k: int = 5) -> np.ndarray:
    """Distance of each record to the k-th nearest other record of its class: small where many similar ones are.

    The inverse of this distance is a k-nearest-neighbour estimate of the density around the record, up to a power.

    Parameters
    ----------
    points : array_like of float, shape (record, ...)
        E.g. from `embedding`, or the records themselves.
    y : array_like of int, shape (record,)
        Labels.
    k : int
        Which neighbour, 1 for the nearest.

    Returns
    -------
    numpy.ndarray of float64, shape (record,)
        Euclidean distances, in units of ``points``.

    Raises
    ------
    ValueError
        If a class has no more than k records, or shapes differ.
    """
    from sklearn.neighbors import NearestNeighbors  # takes a second to load: only where it is used

    check_integer("k", k, low=1)
    points, y = _points(points, y)
    labels, counts = np.unique(y, return_counts=True)
    if counts.min() <= k:
        few = labels[counts.argmin()]
        raise ValueError(
            f"k={k} needs at least {k + 1} records of each class; class {few} has {counts.min()}."
        )
    distance = np.empty(len(y))
    for label in labels:
        rows = np.flatnonzero(y == label)
        # Asked without points, it leaves each record out of its own neighbours.
        neighbours = NearestNeighbors(n_neighbors=k).fit(points[rows])
        distance[rows] = neighbours.kneighbors()[0][:, -1]
    return distance


def centroid_distance(points: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Euclidean distance of each record to the mean of its class, float64 (record,).

    Parameters
    ----------
    points, y
        As in `neighbour_distance`.
    """
    points, y = _points(points, y)
    place = np.unique(y, return_inverse=True)[1]
    total = np.zeros((place.max() + 1, points.shape[1]))
    np.add.at(total, place, points)
    mean = total / np.bincount(place)[:, None]
    return np.linalg.norm(points - mean[place], axis=1)


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
    rank = np.empty(len(distance), np.int64)
    rank[np.argsort(distance, kind="stable")] = np.arange(len(distance))
    return 1 + rank * n // len(distance)


def risk_by_decile(
    game: Game,
    attack: str | Attack,
    distance: ArrayLike,
    *,
    metric: str = "auc",
    n: int = 10,
    confidence: float = 0.95,
    n_resamples: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure an attack on the records of each decile of a distance apart.

    Each decile has a ROC curve of its own, over its (target, record) pairs; the attack itself sees the whole game.

    Parameters
    ----------
    game : Game
        The game.
    attack : str or Attack
        The attack.
    distance : array_like of float, shape (record,)
        E.g. from `neighbour_distance`.
    metric : str
        ``"auc"``, or ``"tpr@0.01"`` at any rate; NaN where it allows fewer than ten false alarms.
    n : int
        Number of parts.
    confidence, n_resamples, seed
        Of the intervals over targets and records, see `mialab.metrics.pooled_bootstrap`.

    Returns
    -------
    DataFrame
        A row per decile; columns ``decile``, ``distance`` (the median), ``records``, ``value``, ``low``, ``high``.
    """
    rates = _rates(metric)
    part, distance = _parts(distance, game.n_records, n)
    outcome = attacks.make(attack).run(game)
    rows = []
    for decile in range(1, n + 1):
        inside = part == decile
        evaluated = outcome.evaluated & inside
        found = Interval(np.nan, np.nan, np.nan)
        if _measurable(evaluated, game.member, rates):
            found = metrics.pooled_bootstrap(
                outcome.score,
                game.member,
                evaluated=evaluated,
                partner=game.partner,
                fprs=rates,
                n_resamples=n_resamples,
                confidence=confidence,
                seed=seed,
            )[metric]
        rows.append((decile, float(np.median(distance[inside])), int(inside.sum()), *found))
    table = pd.DataFrame(rows, columns=["decile", "distance", "records", "value", "low", "high"])
    table.attrs = {"attack": attacks.make(attack).name, "metric": metric}
    return table


def risk_difference(
    game: Game,
    attack: str | Attack,
    distance: ArrayLike,
    *,
    metric: str = "auc",
    n: int = 10,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return the risk in the nearest decile minus the risk in the farthest one, with an interval.

    Parameters
    ----------
    game, attack, distance, metric, n
        As in `risk_by_decile`.
    confidence, n_resamples, seed
        Of the interval, for which targets and the records of both deciles are resampled together; see
        `mialab.metrics.pooled_difference`.
    """
    rates = _rates(metric)
    part, _ = _parts(distance, game.n_records, n)
    outcome = attacks.make(attack).run(game)
    ends = [outcome.evaluated & (part == decile) for decile in (1, n)]
    if not all(_measurable(evaluated, game.member, rates) for evaluated in ends):
        return Interval(np.nan, np.nan, np.nan)
    return metrics.pooled_difference(
        *({"score": outcome.score, "evaluated": evaluated} for evaluated in ends),
        member=game.member,
        partner=game.partner,
        fprs=rates,
        n_resamples=n_resamples,
        confidence=confidence,
        seed=seed,
    )[metric]


def decisions(game: Game, attack: str | Attack, side: str) -> np.ndarray:
    """Return what an attacker says at its own threshold, 1 for "member", of members or of non-members.

    Parameters
    ----------
    game : Game
        The game.
    attack : str or Attack
        The attack.
    side : {"members", "non-members"}
        Of whom.

    Returns
    -------
    numpy.ndarray of float64, shape (target, record)
        NaN for the other side, and where the attack is not evaluated.
    """
    choose("side", side, ("members", "non-members"))
    outcome = attacks.make(attack).run(game)
    counted = outcome.evaluated & (game.member if side == "members" else ~game.member)
    return np.where(counted, outcome.said_member, np.nan)


def mean_by_decile(
    values: ArrayLike,
    distance: ArrayLike,
    *,
    partner: ArrayLike | None = None,
    n: int = 10,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Average a number that each model has for each record over the records of each decile of a distance.

    Parameters
    ----------
    values : array_like of float, shape (model, record)
        E.g. confidences; NaN where a record does not count.
    distance : array_like of float, shape (record,)
        E.g. from `neighbour_distance`.
    partner : array_like of int, shape (model,), optional
        Which models have complementary members.
    n : int
        Number of parts.
    confidence : float
        Of the intervals over models, see `mialab.metrics.over_targets`.

    Returns
    -------
    DataFrame
        Columns as in `risk_by_decile`.
    """
    means, part, distance = _means(values, distance, n)
    rows = [
        (
            decile,
            float(np.median(distance[part == decile])),
            int((part == decile).sum()),
            *metrics.over_targets(means[:, decile - 1], partner=partner, confidence=confidence),
        )
        for decile in range(1, n + 1)
    ]
    return pd.DataFrame(rows, columns=["decile", "distance", "records", "value", "low", "high"])


def mean_difference(
    values: ArrayLike,
    distance: ArrayLike,
    *,
    partner: ArrayLike | None = None,
    n: int = 10,
    confidence: float = 0.95,
) -> Interval:
    """Return the mean in the nearest decile minus the mean in the farthest one, with an interval over models.

    Parameters
    ----------
    values, distance, partner, n, confidence
        As in `mean_by_decile`.
    """
    means, *_ = _means(values, distance, n)
    return metrics.over_targets(means[:, 0] - means[:, -1], partner=partner, confidence=confidence)


# ------------------------------------------------------------------------------------------------------ machinery


def _points(points: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    points, y = np.asarray(points, np.float64), np.asarray(y)
    if y.ndim != 1 or len(points) != len(y) or not len(y):
        raise ValueError(
            f"points has shape {points.shape} and y {y.shape}; they must have as many records, at least one."
        )
    if not np.isfinite(points).all():
        raise ValueError(f"points has {np.sum(~np.isfinite(points))} values that are not finite numbers.")
    return points.reshape(len(points), -1), y


def _parts(distance: ArrayLike, n_records: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    distance = np.asarray(distance, np.float64)
    if distance.shape != (n_records,):
        raise ValueError(f"distance has shape {distance.shape}; it must be ({n_records},), one per record.")
    return deciles(distance, n=n), distance


def _means(values: ArrayLike, distance: ArrayLike, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of each model over each decile, (model, decile), the decile of each record, and the distances."""
    values = np.asarray(values, np.float64)
    if values.ndim != 2:
        raise ValueError(f"values has shape {values.shape}; it must be (model, record).")
    part, distance = _parts(distance, values.shape[1], n)
    inside = part[:, None] == np.arange(1, n + 1)
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):  # a decile without any known value has no mean
        return np.where(known, values, 0) @ inside / (known.astype(np.float64) @ inside), part, distance


def _rates(metric: str) -> list[float]:
    kind, _, rate = metric.partition("@")
    if metric == "auc":
        return []
    try:
        number = float(rate)
        check_number("rate", number, low=0, high=1)
    except ValueError:
        number = np.nan
    if kind != "tpr" or np.isnan(number) or rate_name(kind, number) != metric:
        raise ValueError(
            f"metric={metric!r} must be 'auc', or the true-positive rate at a false-positive rate, e.g. 'tpr@0.01'."
        )
    return [number]


def _measurable(evaluated: np.ndarray, member: np.ndarray, rates: list[float]) -> bool:
    inside, outside = (evaluated & member).sum(), (evaluated & ~member).sum()
    return bool(inside and outside and all(metrics.resolvable(int(outside), rate) for rate in rates))
