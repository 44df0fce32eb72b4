"""What attacks with shadow models share: sums over each target's shadow models, for all targets at once."""

from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import numpy as np

from mialab.games.base import Game

#: Values in a block, 256 kB in float64: the arrays that are computed from a block stay in the processor's cache.
BLOCK = 2**15


def blocks(
    values: np.ndarray, member: np.ndarray, excluded_models: np.ndarray
) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
    """Cut arrays along the records into blocks.

    Parameters
    ----------
    values : numpy.ndarray of float, shape (model, record)
        A statistic of every model's answer to every record.
    member : numpy.ndarray of bool, shape (model, record)
        Which model was trained on which record.
    excluded_models : numpy.ndarray of int, shape (target, record)
        The model that is no shadow besides the target itself, -1 for none; see `Game.excluded_models`.

    Yields
    ------
    tuple
        Which records, and the three arrays for these: values in float64, and of ``excluded_models`` only (target, 1)
        where it is the same for all records.
    """
    n_models, n_records = values.shape
    if all((row == row[0]).all() for row in excluded_models):
        excluded_models = excluded_models[:, :1]
    step = max(1, BLOCK // n_models)
    for start in range(0, n_records, step):
        records = slice(start, start + step)
        out = excluded_models if excluded_models.shape[1] == 1 else excluded_models[:, records]
        yield records, np.ascontiguousarray(values[:, records], np.float64), member[:, records], out


def lost(values: np.ndarray, excluded_models: np.ndarray) -> np.ndarray:
    """Return what a sum over all models must lose to be one over each target's shadow models.

    Parameters
    ----------
    values : numpy.ndarray of float64, shape (model, record)
        The summands.
    excluded_models : numpy.ndarray of int, shape (target, record) or (target, 1)
        As `blocks` gives it.

    Returns
    -------
    numpy.ndarray of float64, shape (target, record)
        The target's own value plus that of the model left out with it.
    """
    padded = np.concatenate(
        [values, np.zeros_like(values[:1])]
    )  # where no model is left out, -1 finds a zero
    # Rows are copied faster than single values.
    others = (
        padded[excluded_models[:, 0]]
        if excluded_models.shape[1] == 1
        else np.take_along_axis(padded, excluded_models, 0)
    )
    others += values
    return others


def over_queries(
    score: Callable[..., np.ndarray], game: Game, signal: str, queries: str, **options: Any
) -> np.ndarray:
    """Mean of scores of a signal, each from a function such as `lira`, over the queries that an attack has in view."""
    phi = game.signal(signal)
    chosen = game.unmixed if queries == "all" else [0]
    parts = (score(phi[:, query], game.member, game.excluded_models, **options) for query in chosen)
    return reduce(np.add, parts) / len(chosen)
