"""Small pools and games for the tests."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from mialab.classifiers.game import Game
from mialab.classifiers.run import Run
from mialab.data.pool import Pool
from mialab.queries import Queries, kinds, mixtures
from mialab.training.membership import membership
from mialab.training.options import Training

Design = Literal["paired", "balanced", "random"]


def pool(
    kind: str = "tabular",
    n: int = 40,
    *,
    n_classes: int = 3,
    features: int = 6,
    validation: int = 0,
    test: int = 20,
    reference: int = 0,
    seed: int = 0,
    **changes: object,
) -> Pool:
    """Make a pool of noisy classes: learnable, but not without error."""
    rng = np.random.default_rng(seed)
    total = n + validation + test + reference
    shape = (1, 8, 8) if kind == "image" else (features,)
    y = rng.integers(n_classes, size=total)
    x = rng.normal(size=(n_classes, *shape))[y] + 1.5 * rng.normal(size=(total, *shape))
    x = {"tabular": x, "binary": x > 0, "image": np.clip(0.5 + x / 6, 0, 1)}[kind].astype(np.float32)
    cut = np.split(np.arange(total), [n, n + validation, n + validation + test])
    parts = {
        f"{name}{part}": array[rows]
        for part, rows in zip(("", "_val", "_test", "_reference"), cut, strict=True)
        for name, array in (("x", x), ("y", y))
    }
    return Pool(**({"name": "toy", "n_classes": n_classes, "kind": kind} | parts | changes))


def group(
    defense: Any,
    models: Sequence[int],
    build: Any,
    *,
    pool: Pool,
    adapted: bool = False,
    seed: int = 3,
    **training: Any,
) -> Run:
    """Return some of eight models before their training, of half of the records each."""
    options = Training(**{"precision": "float32"} | training)
    return Run(
        pool.x,
        pool.y,
        membership(16, len(pool), seed)[list(models)],
        models,
        pool=pool,
        build=build,
        defense=defense,
        training=defense.adapt(options) if adapted else options,
        seed=seed,
        device="cpu",
    )


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
    n_mixed: int = 0,
    seed: int = 0,
    signal: float = 0.0,
) -> Game:
    """Make a game of random answers; ``signal`` is added to a member's logit of the label.

    Changed copies are called noisy and flipped in turn; ``n_mixed`` more queries mix records.
    Probes measured noise: in members, gradients are smaller and boundaries further by a factor of ``exp(signal)``.
    """
    rng = np.random.default_rng(seed)
    member = memberships(design, n_models, n_records, seed)
    y = rng.integers(n_classes, size=n_records)
    logits = 2 * rng.normal(size=(n_models, n_queries + n_mixed, n_records, n_classes))
    logits[..., np.arange(n_records), y] += signal * member[:, None]
    partner = np.arange(n_models) ^ 1 if design == "paired" else None
    noise = np.random.default_rng([seed, 8]).normal(size=(n_models, n_records, 4))
    game = Game.from_arrays(
        logits=logits,
        member=member,
        y=y,
        partner=partner,
        gradient_norm=np.exp(noise[..., :3] - signal * member[..., None]),
        boundary_distance=(logits[:, 0].argmax(-1) == y) * np.exp(noise[..., 3] + signal * member),
    )
    kinds = ["original", *(("noise", "flip")[q % 2] for q in range(n_queries - 1)), *n_mixed * ["mixed"]]
    if not n_mixed:
        return Game(game.dataset.assign_attrs(query_kinds=kinds))
    mixed = {
        "fractions": [(q + 1) / (n_mixed + 1) for q in range(n_mixed)],
        "seed": seed,
        "n_records": n_records,
    }
    return Game(game.dataset.assign_attrs(query_kinds=kinds, mixed=mixed))


def remade(game: Game, **changes: np.ndarray | None) -> Game:
    """Make a game again, with other arrays in place of some; those of probes and kinds of queries are kept."""
    names = ("logits", "member", "y", "partner", "gradient_norm", "boundary_distance")
    made = Game.from_arrays(**{name: getattr(game, name) for name in names} | changes)
    same = made.n_queries == game.n_queries and not game.attrs.get("mixed")
    return Game(made.dataset.assign_attrs(query_kinds=game.query_kinds)) if same else made


def queried(game: Game, queries: Queries) -> Game:
    """Return a game with queries that are known to have been made in this way."""
    mixed = mixtures(queries)
    pairs = mixed and {"fractions": mixed.fractions, "seed": mixed.seed, "n_records": game.n_records}
    return Game(game.dataset.assign_attrs(query_kinds=list(kinds(queries)), mixed=pairs))


def count_trained(monkeypatch, module):
    """Return a list that grows by the models that ``module.train_group`` trains from now on."""
    models, train = [], module.train_group

    def counted(group, **options):
        models.extend(group)
        return train(group, **options)

    monkeypatch.setattr(module, "train_group", counted)
    return models
