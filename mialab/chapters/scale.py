"""What a game costs: time, bytes in the store, and bytes in memory when it is scored."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mialab._validation import check_integer, choose
from mialab.classifiers.plan import stored_arrays
from mialab.games.base import Game
from mialab.games.store import ABOUT

Result = TypeVar("Result")


def stored_bytes(
    n_records: int,
    n_models: int,
    n_classes: int,
    *,
    queries: int = 1,
    keep: Literal["logits", "scores"] = "logits",
    answers: Literal["float32", "float16"] = "float32",
    output_step: bool = False,
) -> int:
    """Return how many bytes a game takes in the store, before they are compressed.

    Parameters
    ----------
    n_records, n_models, n_classes : int
        Size of the pool, number of models, number of classes.
    queries : int
        Queries per record.
    keep, answers
        What is stored of an answer, see `mialab.play`.
    output_step : bool
        Whether the defense has an output step: answers before it are stored too.

    Returns
    -------
    int

    Examples
    --------
    >>> stored_bytes(1_000_000, 256, 1000, answers="float16") // 10**9, "GB"
    (512, 'GB')
    >>> stored_bytes(1_000_000, 256, 1000, keep="scores") // 10**9, "GB"
    (8, 'GB')
    """
    choose("keep", keep, ("logits", "scores"))
    choose("answers", answers, ("float32", "float16"))
    given = {"n_models": n_models, "queries": queries, "n_records": n_records, "n_classes": n_classes}
    for name, size in given.items():
        check_integer(name, size, low=1)
    sizes = {"model": n_models, "query": queries, "record": n_records, "label": n_classes, "byte": ABOUT}
    return sum(array.nbytes(sizes) for array in stored_arrays(keep, answers, raw=output_step, tested=False))


def signal_bytes(n_records: int, n_models: int, *, queries: int = 1) -> int:
    """Return how many bytes of memory a signal of all answers takes: what an attack on one signal holds.

    Logits are read chunk by chunk, so their size does not matter.

    Parameters
    ----------
    n_records, n_models, queries : int
        Size of the pool, number of models, queries per record.

    Returns
    -------
    int

    Examples
    --------
    >>> signal_bytes(1_000_000, 256) / 10**9, "GB"
    (2.048, 'GB')
    """
    return 8 * n_records * n_models * queries


def costs(games: Iterable[Game]) -> pd.DataFrame:
    """Tabulate what games cost, a row for each.

    Parameters
    ----------
    games : iterable of Game
        Games from `mialab.play`.

    Returns
    -------
    DataFrame
        ``models``, ``records``, and ``mode``, ``precision`` and ``workers`` of the training. ``core seconds``: the time
        that all trainings and answers took, added up over worker processes. ``stored MB``: of all arrays, before they
        are compressed. ``peak MB``: the largest resident memory of a process that trained, its libraries included.
    """
    return pd.DataFrame(
        {
            "models": game.n_models,
            "records": game.n_records,
            "core seconds": float(game.dataset["seconds"].sum()),
            "stored MB": game.dataset.nbytes / 1e6,
            "peak MB": game.attrs["peak_mb"],
            "mode": game.attrs["mode"],
            "precision": game.attrs["training"]["precision"],
            "workers": game.attrs["workers"],
        }
        for game in games
    )


def exponent(size: ArrayLike, cost: ArrayLike) -> float:
    """Fit ``cost = c * size ** e`` by least squares of the logarithms and return e: 1 is linear growth.

    Parameters
    ----------
    size, cost : array_like of float, shape (n,)
        Positive numbers; at least two different sizes.

    Returns
    -------
    float
    """
    return float(np.polyfit(np.log(size), np.log(cost), 1)[0])


def allocated(job: Callable[[], Result]) -> tuple[Result, float]:
    """Run a job; return what it returns, and the most memory that it made Python and NumPy hold at a time, in MB.

    Memory that libraries take without telling Python does not count.
    """
    tracemalloc.start()
    try:
        return job(), tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()
