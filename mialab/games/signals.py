"""The signals of a game: what can be read off each of its answers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from joblib import cpu_count

from mialab._validation import choose
from mialab.attacks.base import RequirementsNotMet
from mialab.classifiers.signals import SIGNALS

if TYPE_CHECKING:
    import xarray as xr

    from mialab.games.base import Game


#: Logits from which a signal is computed at once, 512 kB in float64, so that what is computed stays in the cache.
PIECE = 2**16


def signal(game: Game, name: str) -> np.ndarray:
    """Return a signal of every answer of a game, float64 (model, query, record); computed once per game.

    A stored game's logits are read and used chunk by chunk: however large they are, only a few chunks (one for each
    processor core) are in memory. There is a thread for each core.

    Parameters
    ----------
    game : Game
        The game. Where it keeps scores instead of logits, the stored ones are returned.
    name : str
        A name of `mialab.classifiers.signals.SIGNALS`.

    Raises
    ------
    RequirementsNotMet
        If the game has neither logits nor this signal.
    """
    choose("signal", name, SIGNALS)
    known = game.__dict__.setdefault("_signals", {})
    if name not in known:
        if name in game.dataset:
            known[name] = game.dataset[name].to_numpy().astype(np.float64)
        elif "logits" in game.dataset:
            known[name] = by_chunks(SIGNALS[name], game.lazy_logits, game.y)
        else:
            raise RequirementsNotMet(
                f"This game has neither logits nor the signal {name!r}: play it with keep='logits', or let "
                "keep='scores' store the signals of this version."
            )
    return known[name]


def by_chunks(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray], logits: xr.Variable, y: np.ndarray
) -> np.ndarray:
    """Compute one number per answer without having all logits in memory.

    Parameters
    ----------
    function : callable
        Takes float64 logits (query, record, label) and labels (record,), gives (query, record).
    logits : xarray.Variable, dimensions (model, query, record, label)
        Of a game's dataset; read chunk by chunk where it is stored.
    y : numpy.ndarray of int, shape (record,)
        Labels.

    Returns
    -------
    numpy.ndarray of float64, shape (model, query, record)
    """
    stored_chunks = logits.encoding.get("preferred_chunks")
    if stored_chunks is None:  # in memory
        models = logits.to_numpy()[:, None]
        if models.size <= PIECE:
            return _in_pieces(function, models[:, 0], y)
        with ThreadPoolExecutor(cpu_count()) as threads:
            return np.concatenate(list(threads.map(lambda model: _in_pieces(function, model, y), models)))
    import dask.array as da  # takes half a second, and is needed for stored games only

    chunks = tuple(stored_chunks[d] if d != "label" else n for d, n in logits.sizes.items())
    lazy = da.from_array(logits, chunks, name=False, asarray=True, meta=np.empty(4 * (0,), logits.dtype))
    labels = da.from_array(y, chunks=(lazy.chunks[2],), name=False)
    values = da.blockwise(
        partial(_in_pieces, function),
        "mqr",
        *(lazy, "mqrl", labels, "r"),
        meta=np.empty(3 * (0,)),
        concatenate=True,
    )
    result = np.empty(values.shape)
    for models in da.core.slices_from_chunks(values.chunks[:1]):
        result[models] = values[models].compute(scheduler="threads")
    return result


def _in_pieces(function: Callable, logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute a signal, (model, query, record), a model and some records at a time."""
    n_models, n_queries, n_records, n_classes = logits.shape
    result = np.empty((n_models, n_queries, n_records))
    step = max(1, PIECE // (n_queries * n_classes))
    for k in range(n_models):
        for start in range(0, n_records, step):
            piece = slice(start, start + step)
            result[k, :, piece] = function(logits[k, :, piece].astype(np.float64), y[piece])
    return result
