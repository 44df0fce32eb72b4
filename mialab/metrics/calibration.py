"""Scores calibrated record by record, and how evenly false alarms fall on records."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mialab.metrics.intervals import over_pairs

#: A record's distribution needs so many OUT models besides the target.
MIN_OUT = 3


def by_record(
    score: np.ndarray, member: np.ndarray, known: np.ndarray, pair: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Replace each score by its place among the scores that OUT models have for the same record.

    A pooled rate at a low false-positive rate is an average over records most of which could never be accused:
    records whose scores are high whether or not they were trained on get most of the false alarms. So each score
    becomes ``sign(mean_in - mean_out) (score - mean_out) / std_out``, with moments over the other models than the
    target and its partner, after which every record has about the same false-positive rate.

    Parameters
    ----------
    score, member : numpy.ndarray, shape (model, record)
        Scores with light tails, such as `mialab.metrics.rates.Curve.normal_scores`, and the truth.
    known : numpy.ndarray of bool, shape (model, record)
        Which scores there are.
    pair : numpy.ndarray of int, shape (model,)
        Label of the pair of complementary models, see `mialab.metrics.intervals.clusters`.

    Returns
    -------
    calibrated : numpy.ndarray of float64, shape (model, record)
    usable : numpy.ndarray of bool, shape (model, record)
        Where at least three other models were trained without the record, and one with it.
    """
    moments = [_of_others(score, known & side, pair) for side in (member, ~member)]
    (n_in, mean_in, _), (n_out, mean_out, std_out) = moments
    usable = known & ((n_in >= 1) & (n_out >= MIN_OUT))[pair]
    # Equal scores of all OUT models have no spread: a share of the typical one keeps the ratio finite.
    floor = 1e-6 * float(np.median(std_out[pair][usable])) if usable.any() else 1.0
    direction = np.where(mean_in >= mean_out, 1.0, -1.0)
    calibrated = direction[pair] * (score - mean_out[pair]) / np.maximum(std_out, max(floor, 1e-300))[pair]
    return np.where(usable, calibrated, 0.0), usable


def _of_others(
    score: np.ndarray, counted: np.ndarray, pair: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, mean and standard deviation of the counted scores of all models but those of a pair, (pair, record)."""
    n_all = counted.sum(0)
    middle = (counted * score).sum(0) / np.maximum(n_all, 1)
    centered = counted * (score - middle)  # so that squares do not cancel
    n, total, squares = (each.sum(0) - over_pairs(each, pair) for each in (counted, centered, centered**2))
    mean = total / np.maximum(n, 1)
    variance = (squares - n * mean**2) / np.maximum(n - 1, 1)
    return n, mean + middle, np.sqrt(np.maximum(variance, 0.0))


class Concentration(NamedTuple):
    """Which fraction of the false alarms falls on the records with the most, and on as many if all were alike."""

    share: float
    by_chance: float


def concentration(
    accused: np.ndarray, counted: np.ndarray, *, fraction: float = 0.01, seed: int = 0
) -> Concentration:
    """Tell how evenly false alarms fall on records.

    Parameters
    ----------
    accused : numpy.ndarray of bool, shape (target, record)
        Non-members that are called members.
    counted : numpy.ndarray of bool, shape (target, record)
        Non-members that were evaluated.
    fraction : float
        Of the records, at least one: those with the most false alarms.
    seed : int
        Of the comparison, in which as many false alarms fall on the counted pairs at random, 20 times.

    Returns
    -------
    Concentration
        NaN without any false alarm.
    """
    alarms = (accused & counted).sum(0)
    total, top = int(alarms.sum()), max(1, round(fraction * int(counted.any(0).sum())))
    if not total:
        return Concentration(np.nan, np.nan)
    trials = counted.sum(0)
    drawn = np.random.default_rng(seed).multinomial(total, trials / trials.sum(), 20)
    shares = [np.sort(each)[-top:].sum() / total for each in (alarms, *drawn)]
    return Concentration(float(shares[0]), float(np.mean(shares[1:])))
