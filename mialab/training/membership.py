"""Who is a member of which model, and which records are canaries."""

import numpy as np

from mialab.training.streams import generator


def membership(
    n_models: int,
    n_records: int,
    seed: int,
    canary: np.ndarray | None = None,
    *,
    candidate: np.ndarray | None = None,
    members: int | None = None,
) -> np.ndarray:
    """Draw who is a member of which model: complementary halves for each pair of models.

    By default every row and every column is True for exactly half of its length; numbers of models and of records are
    even. Pair j depends on ``(seed, j)`` alone. Canaries, bool (record,), are halved among themselves, so every model
    has the same number of them. Records that are no candidates, bool (record,), are members of no model. With fewer
    members than half of the candidates (not with canaries), those of a pair of models are still disjoint.

    Returns
    -------
    numpy.ndarray of bool, shape (model, record)
    """
    member = np.zeros((n_models, n_records), bool)
    canary = np.zeros(n_records, bool) if canary is None else canary
    candidate = np.ones(n_records, bool) if candidate is None else candidate
    sides = (canary & candidate, ~canary & candidate)
    parts = [part for part in map(np.flatnonzero, sides) if part.size]
    for first in range(0, n_models, 2):
        rng = generator(seed, "membership", first // 2)
        for part in parts:
            half = part.size // 2 if members is None else members
            drawn = rng.permutation(part)
            member[first, drawn[:half]] = True
            member[first + 1, drawn[half : 2 * half]] = True
    return member


def mislabel(y: np.ndarray, n_classes: int, n_canaries: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw canaries and give each a wrong label, uniform over the other classes (Aerni et al., 2024, section 4).

    Returns
    -------
    tuple of numpy.ndarray
        Labels with the canaries' changed, int64 (record,); which records are canaries, bool (record,).
    """
    canary = np.zeros(len(y), bool)
    if n_canaries:
        rng = generator(seed, "canaries")
        chosen = rng.choice(len(y), n_canaries, replace=False)
        canary[chosen] = True
        y = y.copy()
        y[chosen] = (y[chosen] + rng.integers(1, n_classes, n_canaries)) % n_classes
    return y, canary
