"""What the attacker asks: the record itself, and changed copies of it.

Query 0 is always the unchanged record. The changed copies are the same for every model, so that the answers of
shadow models and target can be compared query by query.
"""

from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np

from mialab.data import Pool
from mialab.options import check_integer, check_number, choose
from mialab.randomness import generator


class Queries(Protocol):
    """A fixed list of queries per record."""

    def __len__(self) -> int:
        """Return the number of queries per record, the record itself included."""

    def __call__(self, query: int, x: np.ndarray) -> np.ndarray:
        """Return copy number ``query`` of every record ``x`` (record, ...), of the same shape and type."""

    def check(self, pool: Pool) -> None:
        """Refuse a pool whose records cannot be changed in this way (ValueError)."""


@dataclass(frozen=True)
class Original:
    """One query per record: the record itself."""

    def __len__(self) -> int:
        return 1

    def __call__(self, query: int, x: np.ndarray) -> np.ndarray:
        """Return the records."""
        return x

    def check(self, pool: Pool) -> None:
        """Accept every pool."""


@dataclass(frozen=True)
class Flips:
    """The record, then copies in which a few binary features are flipped (Choquette-Choo et al., 2021, section 4.3).

    Parameters
    ----------
    n : int
        Number of changed copies.
    share : float
        Probability that a feature is flipped, in (0, 1].
    seed : int
        Seed of the flips.
    """

    n: int = 16
    share: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("n", self.n, low=1)
        check_number("share", self.share, above=0, high=1)
        check_integer("seed", self.seed)

    def __len__(self) -> int:
        return 1 + self.n

    def __call__(self, query: int, x: np.ndarray) -> np.ndarray:
        """Return the records with the flips of copy ``query``."""
        if query == 0:
            return x
        flip = generator(self.seed, "flips", query).random(x.shape) < self.share
        return np.where(flip, 1 - x, x).astype(x.dtype)

    def check(self, pool: Pool) -> None:
        """Refuse records that are not binary."""
        _check_kind(self, pool, "binary", "Noise")


@dataclass(frozen=True)
class Noise:
    """The record, then copies with Gaussian noise on every feature.

    Parameters
    ----------
    n : int
        Number of changed copies.
    scale : float
        Standard deviation of the noise as a share of each feature's own standard deviation over the pool.
    seed : int
        Seed of the noise.
    """

    n: int = 16
    scale: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("n", self.n, low=1)
        check_number("scale", self.scale, above=0)
        check_integer("seed", self.seed)

    def __len__(self) -> int:
        return 1 + self.n

    def __call__(self, query: int, x: np.ndarray) -> np.ndarray:
        """Return the records with the noise of copy ``query``."""
        if query == 0:
            return x
        noise = generator(self.seed, "noise", query).standard_normal(x.shape, dtype=np.float32)
        return (x + self.scale * x.std(axis=0) * noise).astype(x.dtype)

    def check(self, pool: Pool) -> None:
        """Refuse records whose features are integers."""
        if not np.issubdtype(pool.x.dtype, np.floating):
            raise ValueError(
                f"queries={self!r} add noise to features of a floating-point type; {pool.name!r} has {pool.x.dtype}."
            )


@dataclass(frozen=True)
class Shifts:
    """The image, then shifted and mirrored copies (Choquette-Choo et al., 2021, section 4.2).

    All shifts by ``-pixels``, 0 or ``pixels`` in both directions, each with and without a mirror image: 18 queries,
    those of Aerni et al. (2024) for ``pixels=4``. What moves in is black.

    Parameters
    ----------
    pixels : int
        Size of a shift.
    mirror : bool
        Whether mirror images are asked as well.
    """

    pixels: int = 4
    mirror: bool = True

    def __post_init__(self) -> None:
        check_integer("pixels", self.pixels, low=1)

    def _moves(self) -> list[tuple[int, int, bool]]:
        steps = (0, -self.pixels, self.pixels)
        return [
            (dy, dx, m)
            for m in ((False, True) if self.mirror else (False,))
            for dy, dx in product(steps, steps)
        ]

    def __len__(self) -> int:
        return len(self._moves())

    def __call__(self, query: int, x: np.ndarray) -> np.ndarray:
        """Return the images with the move of copy ``query``."""
        dy, dx, mirror = self._moves()[query]
        height, width = x.shape[-2:]
        moved = np.zeros_like(x)
        to_y, to_x = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
        from_y, from_x = slice(max(-dy, 0), height + min(-dy, 0)), slice(max(-dx, 0), width + min(-dx, 0))
        moved[..., to_y, to_x] = x[..., from_y, from_x]
        return moved[..., ::-1].copy() if mirror else moved

    def check(self, pool: Pool) -> None:
        """Refuse records that are no images, or are smaller than a shift."""
        _check_kind(self, pool, "image", "Flips (binary features) or Noise")
        if self.pixels >= min(pool.x.shape[-2:]):
            raise ValueError(f"pixels={self.pixels} moves images of {pool.x.shape[-2:]} pixels out of sight.")


def _check_kind(queries: Queries, pool: Pool, kind: str, other: str) -> None:
    if pool.kind != kind:
        raise ValueError(
            f"queries={queries!r} needs {kind} records; {pool.name!r} has {pool.kind} ones: use {other}."
        )


def default(pool: Pool) -> Queries:
    """Return the changed copies that suit a pool: flips, shifts or noise."""
    if pool.kind == "image":
        return Shifts(pixels=max(1, min(pool.x.shape[-2:]) // 8))
    return Flips() if pool.kind == "binary" else Noise()


def make(queries: str | Queries | None, pool: Pool) -> Queries:
    """Return the queries for a pool: ``"original"`` (or None), ``"augmented"``, or an instance.

    Raises
    ------
    ValueError
        If the name is unknown or the pool's records cannot be changed in this way.
    """
    if queries is None or isinstance(queries, str):
        name = choose("queries", queries or "original", ("original", "augmented"))
        queries = Original() if name == "original" else default(pool)
    if isinstance(queries, type) or not hasattr(queries, "check"):
        raise ValueError(
            f"queries={queries!r} must be 'original', 'augmented' or an instance such as mialab.queries.Flips()."
        )
    queries.check(pool)
    return queries
