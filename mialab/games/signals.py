"""Signals: one number for each record that tells members from others, by name for every kind of models."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
import xarray as xr
from joblib import cpu_count

from mialab.arrays import ArraySpec
from mialab.exceptions import RequirementsNotMet

#: Logits from which a signal is computed at once, 512 kB in float64, so that what is computed stays in the cache.
PIECE = 2**16


@dataclass(frozen=True)
class Signal:
    """One number for each record that tells members from others, as a kind of models has it.

    Parameters
    ----------
    array : ArraySpec
        The array that holds it, as the field defines it: a loss is lower for members.
    sign : {1, -1}
        The factor that makes it higher for members.
    compute : callable, optional
        How it is computed, times that factor: takes float64 values (..., record, label) of ``source`` and labels
        (record,), gives (..., record).
    source : str
        The array from which it is computed.
    sees : str
        What an attacker sees who looks at it, see `mialab.attacks.Requirements`.
    """

    array: ArraySpec
    sign: int = 1
    compute: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    source: str = ""
    sees: str = "logits"

    def __call__(self, values: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Compute the signal of float64 values of ``source``."""
        assert self.compute is not None
        return self.compute(values, y)

    def stored(self, values: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return what is stored of some values of ``source``: the signal as the field defines it."""
        return self.sign * self(values.astype(np.float64), y)

    def of(self, dataset: xr.Dataset, y: np.ndarray) -> np.ndarray:
        """Return the signal of all answers of a game, float64 (model, query, record).

        Stored values of ``source`` are read and used chunk by chunk: however large they are, only a few chunks (one
        for each processor core) are in memory. There is a thread for each core.

        Raises
        ------
        RequirementsNotMet
            If the game has neither this array nor ``source``.
        """
        if missing := self.missing(dataset):
            raise RequirementsNotMet(missing)
        name = self.array.name
        if name in dataset:
            values = self.sign * dataset[name].to_numpy().astype(np.float64)
            return values if values.ndim == 3 else values[:, None]
        return by_chunks(self, dataset[self.source].variable, y)

    def missing(self, dataset: xr.Dataset) -> str:
        """Say what would help where a game has neither this array nor ``source``; nothing if it has."""
        name = self.array.name
        if name in dataset or self.source in dataset:
            return ""
        if not self.source:
            return self.array.missing
        return f"This game has neither {self.source} nor the signal {name!r}: {self.array.remedy}."


def by_chunks(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray], logits: xr.Variable, y: np.ndarray
) -> np.ndarray:
    """Compute one number per answer, (model, query, record), without having all logits in memory.

    The function takes float64 logits (query, record, label) and labels (record,), and gives (query, record). Logits
    (model, query, record, label) are read chunk by chunk where they are stored, by a thread for each processor core.
    """
    chunks = logits.encoding.get("preferred_chunks", {})
    result = np.empty(logits.shape[:3])
    models, records = (
        [slice(start, start + size) for start in range(0, n, size)]
        for n, size in ((len(logits), 1), (len(y), chunks.get("record", len(y))))
    )

    def compute(block: tuple[slice, slice]) -> None:
        model, record = block
        result[model, :, record] = _in_pieces(function, logits[model, :, record].to_numpy(), y[record])

    if logits.size <= PIECE and not chunks:
        compute((slice(None), slice(None)))
    else:
        with ThreadPoolExecutor(cpu_count()) as threads:
            list(threads.map(compute, product(models, records)))
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
