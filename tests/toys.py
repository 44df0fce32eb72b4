"""Small pools and games for the tests."""

from typing import Literal

import numpy as np

from mialab.data import Pool
from mialab.game import Game
from mialab.membership import membership

Design = Literal["paired", "balanced", "random"]


def pool(
    kind: str = "tabular",
    n: int = 40,
    *,
    n_classes: int = 3,
    features: int = 6,
    validation: int = 0,
    test: int = 20,
    seed: int = 0,
    **changes: object,
) -> Pool:
    """Make a pool of noisy classes: learnable, but not without error."""
    rng = np.random.default_rng(seed)
    total = n + validation + test
    shape = (1, 8, 8) if kind == "image" else (features,)
    y = rng.integers(n_classes, size=total)
    x = rng.normal(size=(n_classes, *shape))[y] + 1.5 * rng.normal(size=(total, *shape))
    x = {"tabular": x, "binary": x > 0, "image": np.clip(0.5 + x / 6, 0, 1)}[kind].astype(np.float32)
    cut = np.split(np.arange(total), [n, n + validation])
    parts = {
        f"{name}{part}": array[rows]
        for part, rows in zip(("", "_val", "_test"), cut, strict=True)
        for name, array in (("x", x), ("y", y))
    }
    return Pool(**({"name": "toy", "n_classes": n_classes, "kind": kind} | parts | changes))


def memberships(design: Design, n_models: int, n_records: int, seed: int) -> np.ndarray:
    """Draw memberships: paired complementary halves, half of the models for each record, or coin flips."""
    if design == "paired":
        return membership(n_models, n_records, seed)
    rng = np.random.default_rng([seed, 7])
    while True:
        keys = rng.random((n_models, n_records))
        member = keys.argsort(0).argsort(0) < n_models // 2 if design == "balanced" else keys < 0.5
        # Coins are thrown again for records with fewer than 3 models on a side: too few to fit shadow models to.
        while (few := np.minimum(member.sum(0), n_models - member.sum(0)) < min(3, n_models // 2)).any():
            member[:, few] = rng.random((n_models, few.sum())) < 0.5
        if member.any(1).all() and not member.all(1).any():
            return member


def random_game(
    design: Design = "paired",
    *,
    n_models: int = 8,
    n_records: int = 20,
    n_classes: int = 4,
    n_queries: int = 1,
    seed: int = 0,
    signal: float = 0.0,
) -> Game:
    """Make a game of random answers; ``signal`` is added to a member's logit of the label."""
    rng = np.random.default_rng(seed)
    member = memberships(design, n_models, n_records, seed)
    y = rng.integers(n_classes, size=n_records)
    logits = 2 * rng.normal(size=(n_models, n_queries, n_records, n_classes))
    logits[..., np.arange(n_records), y] += signal * member[:, None]
    partner = np.arange(n_models) ^ 1 if design == "paired" else None
    return Game.from_arrays(logits=logits, member=member, y=y, partner=partner)
