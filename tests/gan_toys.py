"""Toy games of generators: of some that release their members, of others that know nothing about them."""

import dataclasses

import numpy as np
import toys

from mialab.data.pool import Pool
from mialab.gan import GeneratorGame


def pools(kind: str = "image", n: int = 40, *, validation: int = 60, fresh: int = 0, **options):
    """Make a pool with reference records, and fresh records of the same distribution that are not in it."""
    both = toys.pool(kind, n + fresh, validation=validation, **options)
    return dataclasses.replace(both, x=both.x[:n], y=both.y[:n]), both.x[n:], both.y[n:]


def game_of(
    pool: Pool, member: np.ndarray, samples: np.ndarray, *, design: str = "paired", seed: int = 0, **arrays
) -> GeneratorGame:
    """Make a game of samples, in turn of each class; by default, critics say nothing but noise."""
    noise = np.random.default_rng([seed, 9]).normal(size=(3, *member.shape))
    given = {"critic": noise[0], "critic_max": noise[1], "shadow_critic": noise[2]} | arrays
    return GeneratorGame.from_arrays(
        member=member,
        samples=samples.astype(np.float32),
        sample_y=np.arange(samples.shape[1]) % pool.n_classes,
        y=pool.y,
        partner=np.arange(len(member)) ^ 1 if design == "paired" else None,
        n_classes=pool.n_classes,
        **given,
    )


def in_turn(y: np.ndarray, n_classes: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw n records whose labels are 0, 1, ... in turn, each class in random order without a gap, indices."""
    drawn = np.empty(n, np.int64)
    for c in range(n_classes):
        of_class = rng.permutation(np.flatnonzero(y == c))
        drawn[c::n_classes] = np.resize(of_class, drawn[c::n_classes].shape)
    return drawn


def memorizing(
    pool: Pool,
    *,
    n_models: int = 8,
    n_samples: int = 150,
    noise: float = 0.01,
    design="paired",
    seed: int = 0,
) -> GeneratorGame:
    """Make generators whose samples are their members with a little noise, and critics that tell members.

    What each critic says is shifted by a number of its own, as it may be with Wasserstein critics.
    """
    rng = np.random.default_rng([seed, 1])
    member = toys.memberships(design, n_models, len(pool), seed)
    samples = np.empty((n_models, n_samples, *pool.x.shape[1:]))
    for k, row in enumerate(member):
        inside = np.flatnonzero(row)
        samples[k] = pool.x[inside[in_turn(pool.y[inside], pool.n_classes, n_samples, rng)]]
    samples = np.clip(samples + noise * rng.normal(size=samples.shape), 0, 1)
    answers = 20 * member + rng.normal(size=member.shape) + 100 * rng.normal(size=(n_models, 1))
    critics = {"critic": answers, "critic_max": answers + 1, "shadow_critic": answers / 2}
    return game_of(pool, member, samples, design=design, seed=seed, **critics)


def ignorant(
    pool: Pool,
    x: np.ndarray,
    y: np.ndarray,
    *,
    n_models: int = 8,
    n_samples: int = 45,
    design="paired",
    seed: int = 0,
) -> GeneratorGame:
    """Make generators whose samples are drawn from fresh records ``x, y``, independently of the memberships."""
    rng = np.random.default_rng([seed, 2])
    member = toys.memberships(design, n_models, len(pool), seed)
    samples = np.array([x[in_turn(y, pool.n_classes, n_samples, rng)] for _ in member])
    return game_of(pool, member, samples, design=design, seed=seed)
