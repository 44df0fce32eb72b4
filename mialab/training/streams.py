"""Random streams that depend on what they are for, never on what ran before."""

from collections.abc import Sequence
from zlib import crc32

import numpy as np
import torch


def generator(seed: int, *key: int | str) -> np.random.Generator:
    """Return the NumPy generator that belongs to ``(seed, *key)``: those with different keys are independent.

    The key says what the numbers are for, e.g. ``generator(0, "batches", 3)``.
    """
    words = [crc32(part.encode()) if isinstance(part, str) else int(part) for part in key]
    return np.random.default_rng(np.random.SeedSequence([int(seed), *words]))


class Streams:
    """Random numbers for a group of models, drawn for each model from a stream of its own.

    Every method returns a tensor with a leading model dimension. Model ``k`` gets the same numbers whether it is
    trained alone, in a group of eight, or by another worker.

    Parameters
    ----------
    seed : int
        Seed of the game.
    models : sequence of int
        Indices of the models in the group.
    purpose : str
        What the numbers are for.
    device : torch.device, optional
        Where the tensors are needed.
    """

    def __init__(
        self, seed: int, models: Sequence[int], purpose: str, device: torch.device | str = "cpu"
    ) -> None:
        self._generators = [generator(seed, purpose, k) for k in models]
        self._device = device

    def _stack(self, draws: list[np.ndarray]) -> torch.Tensor:
        numbers = torch.from_numpy(np.stack(draws))
        if torch.device(self._device).type == "cuda":  # a copy that the host need not wait for
            numbers = numbers.pin_memory()
        return numbers.to(self._device, non_blocking=True)

    def permutation(self, n: int) -> torch.Tensor:
        """Permutations of ``0..n-1``, int64 ``(model, n)``."""
        return self._stack([g.permutation(n) for g in self._generators])

    def uniform(self, *size: int) -> torch.Tensor:
        """Uniform numbers in [0, 1), float32 ``(model, *size)``."""
        return self._stack([g.random(size, dtype=np.float32) for g in self._generators])

    def normal(self, *size: int) -> torch.Tensor:
        """Draw Gaussian numbers of mean 0 and variance 1, float32 ``(model, *size)``."""
        return self._stack([g.standard_normal(size, dtype=np.float32) for g in self._generators])

    def beta(self, a: float, b: float, *size: int) -> torch.Tensor:
        """Beta(a, b) numbers, float32 ``(model, *size)``."""
        return self._stack([np.asarray(g.beta(a, b, size), dtype=np.float32) for g in self._generators])

    def integers(self, high: int, *size: int) -> torch.Tensor:
        """Integers in ``0..high-1``, int64 ``(model, *size)``."""
        return self._stack([g.integers(high, size=size) for g in self._generators])
