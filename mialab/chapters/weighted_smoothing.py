"""The chapter on weighted smoothing: its controls, the noise that it adds, and how close records lie together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy.integrate import quad
from scipy.special import erfcx, log_ndtr
from torch import nn

from mialab import models, queries
from mialab._validation import check_integer, check_number
from mialab.auditing import conditions
from mialab.auditing.tradeoff import choose_settings
from mialab.classifiers.game import Game as Classifiers
from mialab.classifiers.game import play
from mialab.classifiers.run import Run, train_group
from mialab.data.pool import Pool
from mialab.defenses import DPSGD, Defense, LabelSmoothing, WeightedSmoothing
from mialab.defenses.hamp import label_probability
from mialab.games.backends import device_here
from mialab.games.base import Game
from mialab.models import Model
from mialab.training.membership import membership
from mialab.training.options import Training
from mialab.training.streams import generator


def loss_floor(sigma: float, n_classes: int) -> float:
    """Return the released code's mean loss at a perfect prediction, ``p_y = 1``, for a record of average weight.

    There the gap is 1 and, with w = 0, so is the factor: the label's noisy probability is ``1 + sigma n_y`` and that
    of every other class ``sigma n_i``, with independent standard Gaussian n. The absolute values and their sum give
    the loss ``log(|1 + sigma n_y| + sigma sum |n_i|) - log |1 + sigma n_y|``. A network cannot get below its mean by
    being surer, which is what label smoothing does too, see `matched_label_smoothing`.

    Parameters
    ----------
    sigma : float
        Standard deviation of the noise.
    n_classes : int
        Number of classes C, at least 2.

    Returns
    -------
    float
        In nats, by numerical integration.

    Notes
    -----
    From ``log x = int (exp(-t) - exp(-t x)) / t dt`` over t > 0 it follows that the mean is the integral of
    ``A(t) (1 - H(sigma t)^(C-1)) / t``, with the Laplace transforms A of ``|1 + sigma n|`` and H of ``|n|``.
    """
    check_number("sigma", sigma, low=0)
    check_integer("n_classes", n_classes, low=2)
    if not sigma:
        return 0.0

    def of_label(t: float) -> float:
        return sum(_gaussian_laplace(sigma * t, sign / sigma) for sign in (1, -1))

    def integrand(log_t: float) -> float:
        t = np.exp(log_t)
        return of_label(t) * -np.expm1((n_classes - 1) * np.log(erfcx(sigma * t / np.sqrt(2))))

    ends = (-40.0, np.log(1 / (sigma * n_classes)), 0.0, np.log(1 / sigma) + 5, 40.0)
    within = sorted({float(np.clip(end, -40, 40)) for end in ends})
    return float(sum(quad(integrand, a, b, limit=200)[0] for a, b in pairwise(within)))


def _gaussian_laplace(s: float, mean: float) -> float:
    """Mean of ``exp(-s v)`` over v > 0, for a Gaussian v of this mean and variance 1."""
    z = s - mean
    if z > 0:  # erfcx neither overflows nor vanishes here
        return float(np.exp(-(mean**2) / 2) * erfcx(z / np.sqrt(2)) / 2)
    return float(np.exp(s**2 / 2 - s * mean + log_ndtr(-z)))


def matched_label_smoothing(sigma: float, n_classes: int) -> LabelSmoothing:
    """Return the label smoothing with the loss floor of weighted smoothing, see `loss_floor`.

    The least cross-entropy against a smoothed label is the label's own entropy; the smoothing is the one for which
    that is the floor.

    Parameters
    ----------
    sigma : float
        Standard deviation of the noise in weighted smoothing, as released.
    n_classes : int
        Number of classes, at least 2.

    Raises
    ------
    ValueError
        If the floor reaches ``log(n_classes)``, the entropy of labels that say nothing.
    """
    floor, most = loss_floor(sigma, n_classes), float(np.log(n_classes))
    if floor >= most:
        raise ValueError(
            f"sigma={sigma!r} gives a loss floor of {floor:.3f}; label smoothing of {n_classes} classes cannot reach "
            f"{most:.3f}, so sigma must be smaller."
        )
    return LabelSmoothing.with_probability(label_probability(floor / most, n_classes), n_classes)


def arms(sigma: float, n_classes: int, *, warm_up: int | None = None) -> dict[str, Defense | None]:
    """Return weighted smoothing with its control arms.

    Parameters
    ----------
    sigma : float
        Standard deviation of the noise.
    n_classes : int
        Number of classes.
    warm_up : int, optional
        Epochs without noise; by default those of each version.

    Returns
    -------
    dict of str to Defense or None
        ``none``; ``weighted_smoothing``, as released; the same after the paper's algorithm; with ``uniform noise``,
        ``inverted weights`` and ``clipped weights``; uniform noise of ``equal power``; and ``label_smoothing`` with the
        same loss floor.

    Notes
    -----
    In each class the factor 1 - w has mean 1 and mean square 2, and so has 1 + w. Uniform noise has mean square 1: with
    the same sigma it is weaker. Of equal power is the one with ``sqrt(2) sigma``.
    """
    common: dict[str, Any] = {"sigma": sigma, "warm_up": warm_up}
    return {
        "none": None,
        "weighted_smoothing": WeightedSmoothing(**common),
        "weighted_smoothing (paper)": WeightedSmoothing(version="paper", **common),
        "uniform noise": WeightedSmoothing(weighting="uniform", **common),
        "uniform noise (equal power)": WeightedSmoothing(
            sigma=2**0.5 * sigma, warm_up=warm_up, weighting="uniform"
        ),
        "inverted weights": WeightedSmoothing(weighting="inverted", **common),
        "clipped weights": WeightedSmoothing(weighting="clipped", **common),
        "label_smoothing": matched_label_smoothing(sigma, n_classes),
    }


def choose_sigma(
    pool: Pool,
    model: str | Model,
    *,
    training: Training,
    sigmas: Sequence[float],
    points: float = 1.0,
    n_models: int = 4,
    seed: int = 0,
) -> tuple[float, pd.DataFrame]:
    """Choose the greatest sigma of the released code's version that costs little validation accuracy.

    Parameters
    ----------
    pool, model, training
        As in `mialab.play`; the pool has a validation part.
    sigmas : sequence of float
        Values to try, greater than 0.
    points : float
        Points of validation accuracy that sigma may cost.
    n_models : int
        Models of each value, even.
    seed : int
        Of the search; take another one than that of the models that are reported.

    Returns
    -------
    sigma : float
        The greatest one within these points whose training has no problem; if there is none, the smallest.
    tried : DataFrame
        A row for each value, 0 the undefended training: train and validation accuracy, what is wrong with the training,
        and which value is chosen.

    Raises
    ------
    ValueError
        If there is no validation part, or no sigma to try.
    """
    if not len(pool.y_val):
        raise ValueError(f"{pool.name!r} has no validation part: load it with validation=....")
    if not sigmas or min(sigmas) <= 0:
        raise ValueError(f"sigmas={list(sigmas)} must be at least one value greater than 0.")
    options: dict[str, Any] = {"training": conditions.watched(training), "n_models": n_models, "seed": seed}
    games = {s: play(pool, model, WeightedSmoothing(sigma=s), **options) for s in (0.0, *sorted(sigmas))}
    aim = float(games[0.0].validation_accuracy.mean())
    picked = choose_settings({s: game for s, game in games.items() if s}, aim, [points])
    rows = {
        s: {
            "train accuracy": float(game.train_accuracy.mean()),
            "validation accuracy": float(game.validation_accuracy.mean()),
            "problem": conditions.trained(game),
        }
        for s, game in games.items()
    }
    chosen = picked.get(points, min(sigmas))
    rows[chosen]["chosen"] = "yes" if points in picked else "the smallest: none is good enough"
    tried = pd.DataFrame.from_dict(rows, orient="index").fillna("").rename_axis("sigma")
    return chosen, tried


def curves(
    pool: Pool,
    model: str | Model,
    undefended: Classifiers,
    *,
    sigmas: Sequence[float],
    noises: Sequence[float],
    stops: Sequence[int],
    **options: Any,
) -> dict[str, dict[float, Classifiers]]:
    """Play what is compared over a whole curve.

    Parameters
    ----------
    pool, model
        As in `mialab.play`.
    undefended : Game
        Models without a defense, with checkpoints at the stops.
    sigmas : sequence of float
        Of weighted smoothing as released, of uniform noise, and of label smoothing with the same loss floor.
    noises : sequence of float
        Of DP-SGD.
    stops : sequence of int
        Epochs that undefended training is stopped after.
    **options
        Those of `mialab.play`.

    Returns
    -------
    dict of str to dict of float to Game
    """
    swept = ("weighted_smoothing", "uniform noise", "label_smoothing")
    at = {s: arms(s, pool.n_classes) for s in sigmas}
    found = {name: {s: play(pool, model, at[s][name], **options) for s in sigmas} for name in swept}
    found["dp_sgd"] = {noise: play(pool, model, DPSGD(noise=noise), **options) for noise in noises}
    found["early_stopping"] = {stop: undefended.at(stop) for stop in stops}
    return found


def noise_size(game: Game, defense: WeightedSmoothing) -> np.ndarray:
    """Return the size of the noise that one more epoch would give each member of the trained models.

    It follows from the models' answers alone, so the game may be that of any arm: the defense's own, or another one
    to see what its noise would be there.

    Parameters
    ----------
    game : Game
        The game.
    defense : WeightedSmoothing
        Whose noise.

    Returns
    -------
    numpy.ndarray of float64, shape (model, record)
        In units of sigma: the factor's absolute value, in the released code times the gap between the two greatest
        probabilities. NaN for non-members.
    """
    logits, y = torch.as_tensor(game.logits[:, 0]).float(), torch.as_tensor(game.y)
    size = np.full(game.member.shape, np.nan)
    for k, row in enumerate(game.member):
        own, labels = logits[k : k + 1, row], y[None, row]
        scale = defense.scale(torch.softmax(own, dim=-1), defense.factor(own, labels))
        size[k, row] = scale[0].abs().numpy()
    return size


def weight_spread(
    pool: Pool,
    model: str | Model,
    defense: WeightedSmoothing,
    *,
    training: Training,
    n_models: int = 2,
    quantiles: Sequence[float] = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99),
    seed: int = 0,
    device: str = "auto",
) -> pd.DataFrame:
    """Train the first models of a game once more, and note how far the factor of the noise differs between members.

    Parameters
    ----------
    pool, model, defense, training, seed
        As in `mialab.play`: with the same ones, these are the same models.
    n_models : int
        How many, even.
    quantiles : sequence of float
        Over the members of all these models.
    device : {"auto", "cpu", "cuda"}
        Where to train.

    Returns
    -------
    DataFrame
        Tidy: columns ``epoch``, ``quantile``, ``value``. Epochs without noise are left out.

    Raises
    ------
    ValueError
        If there is no epoch with noise.
    """
    check_integer("n_models", n_models, low=2)
    check_integer("seed", seed)
    if n_models % 2:
        raise ValueError(f"n_models={n_models} must be even: models come in pairs.")
    for quantile in quantiles:
        check_number("quantiles", quantile, low=0, high=1)
    device = device_here(device)
    if not isinstance(defense, WeightedSmoothing):
        raise TypeError(f"defense={defense!r} must be a WeightedSmoothing.")
    if not defense.sigma or (defense.warm_up or 0) >= training.last:
        raise ValueError(f"{defense} adds no noise within {training.last} epochs.")
    member = membership(n_models, len(pool), seed)
    factors: dict[int, list[np.ndarray]] = {}

    def observe(run: Run) -> None:
        if run.progress is not None and "factor" in run.memory:
            own = run.memory["factor"].gather(1, run.members).cpu().numpy()
            factors.setdefault(run.epoch, []).append(own)

    _watch(pool, member, models.make(model), defense, training, seed, device, observe)
    rows = [
        (epoch, quantile, float(np.quantile(of_epoch, quantile)))
        for epoch, of_epoch in factors.items()
        for quantile in sorted(quantiles)
    ]
    return pd.DataFrame(rows, columns=["epoch", "quantile", "value"])


def _watch(
    pool: Pool,
    member: np.ndarray,
    build: Model,
    defense: Defense,
    training: Training,
    seed: int,
    device: str,
    observe: Callable[[Run], None],
) -> None:
    """Train models as a game has them, one after the other, and look at each training."""
    options: dict[str, Any] = {"build": build, "defense": defense, "training": training, "seed": seed}
    options |= {"queries": queries.make("original", pool), "device": device, "observe": observe}
    for k in range(len(member)):
        train_group([k], pool=pool, y=pool.y, member=member[[k]], **options)


BLOCK = 1024


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

    The reference network is of the given kind, undefended, and trained on the pool's test part. So what it says about
    a record does not depend on who is a member of which model. Its weights and batches are drawn apart from those of
    any game.

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
    seen: list[torch.Tensor] = []

    def observe(run: Run) -> None:
        if run.progress is not None:
            return
        forward, parameters = run.function(0)
        hook = _last_linear(run.network).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        with torch.inference_mode():
            for start in range(0, len(pool), BLOCK):
                forward(parameters, torch.tensor(pool.x[start : start + BLOCK], device=run.device))
        hook.remove()

    held_out = replace(pool, x=pool.x_test, y=pool.y_test, x_test=pool.x[:0], y_test=pool.y[:0])
    everyone, own_seed = (
        np.ones((1, len(held_out)), bool),
        generator(seed, "reference network").integers(2**31),
    )
    _watch(held_out, everyone, build, Defense(), training, int(own_seed), device, observe)
    return torch.cat(seen).flatten(1).cpu().numpy()


def neighbor_distance(points: ArrayLike, y: ArrayLike, *, k: int = 5) -> np.ndarray:
    """Distance of each record to the k-th nearest other record of its class: small where many similar ones are.

    The inverse of this distance is a k-nearest-neighbor estimate of the density around the record, up to a power.

    Parameters
    ----------
    points : array_like of float, shape (record, ...)
        E.g. from `embedding`, or the records themselves.
    y : array_like of int, shape (record,)
        Labels.
    k : int
        Which neighbor, 1 for the nearest.

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
        # Asked without points, it leaves each record out of its own neighbors.
        neighbors = NearestNeighbors(n_neighbors=k).fit(points[rows])
        distance[rows] = neighbors.kneighbors()[0][:, -1]
    return distance


def centroid_distance(points: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Euclidean distance of each record to the mean of its class, float64 (record,).

    Parameters
    ----------
    points, y
        As in `neighbor_distance`.
    """
    points, y = _points(points, y)
    mean = pd.DataFrame(points).groupby(y).transform("mean").to_numpy()
    return np.linalg.norm(points - mean, axis=1)


def _points(points: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    points, y = np.asarray(points, np.float64), np.asarray(y)
    if y.ndim != 1 or len(points) != len(y) or not len(y):
        raise ValueError(
            f"points has shape {points.shape} and y {y.shape}; they must have as many records, at least one."
        )
    if not np.isfinite(points).all():
        raise ValueError(f"points has {np.sum(~np.isfinite(points))} values that are not finite numbers.")
    return points.reshape(len(points), -1), y
