"""What the attacker asks: the record itself, and changed copies of it.

Query 0 is always the unchanged record. The changed copies are the same for every model, so that the answers of
shadow models and target can be compared query by query.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Protocol

import numpy as np

from mialab._validation import check_integer, check_number, choose
from mialab.data.pool import Pool
from mialab.training.streams import generator

#: What there is to change a record by, for each kind of changed copies.
MAKERS = {"flip": "Flips()", "noise": "Noise()", "shift": "Shifts()", "mixed": "Mixed()"}


class Queries(Protocol):
    """A fixed list of queries per record.

    A class of your own may also say ``kinds``, as those here do: ``"original"``, then for each copy how it was changed.
    """

    def __len__(self) -> int:
        """Return the number of queries per record, the record itself included."""

    def __call__(self, query: int, x: np.ndarray) -> np.ndarray:
        """Return copy number ``query`` of every record ``x`` of a pool (record, ...), of the same shape and type."""

    def check(self, pool: Pool) -> None:  # a hook
        """Refuse a pool whose records cannot be changed in this way (ValueError)."""


class _Copies(ABC):
    """The record and ``n`` copies, all changed in one way by `copy`."""

    kind: ClassVar[str]

    @property
    def n(self) -> int:
        """Number of changed copies."""
        return 0

    def __len__(self) -> int:
        return 1 + self.n

    @property
    def kinds(self) -> tuple[str, ...]:
        """How each query was made."""
        return ("original", *self.n * (self.kind,))

    def __call__(self, query: int, x: np.ndarray) -> np.ndarray:
        """Return the records, or their copies number ``query``."""
        return self.copy(query, x) if query else x

    @abstractmethod
    def copy(self, query: int, x: np.ndarray) -> np.ndarray:
        """Return the records with change number ``query``, from 1."""

    def check(self, pool: Pool) -> None:  # noqa: B027  # a hook
        """Accept every pool."""


@dataclass(frozen=True)
class Original(_Copies):
    """One query per record: the record itself."""

    kind: ClassVar[str] = "original"

    def copy(self, query: int, x: np.ndarray) -> np.ndarray:
        """Return the records: nothing is changed."""
        return x


@dataclass(frozen=True)
class Flips(_Copies):
    """The record, then copies in which a few binary features are flipped (Choquette-Choo et al., 2021, section 4.3).

    Parameters
    ----------
    n : int
        Number of changed copies.
    fraction : float
        Probability that a feature is flipped, in (0, 1].
    seed : int
        Seed of the flips.
    """

    kind: ClassVar[str] = "flip"

    n: int = 16
    fraction: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("n", self.n, low=1)
        check_number("fraction", self.fraction, above=0, high=1)
        check_integer("seed", self.seed)

    def copy(self, query: int, x: np.ndarray) -> np.ndarray:
        """Return the records with the flips of copy ``query``."""
        flip = generator(self.seed, "flips", query).random(x.shape) < self.fraction
        return np.where(flip, 1 - x, x).astype(x.dtype)

    def check(self, pool: Pool) -> None:  # a hook
        """Refuse records that are not binary."""
        _check_kind(self, pool, "binary", "Noise")


@dataclass(frozen=True)
class Noise(_Copies):
    """The record, then copies with Gaussian noise on every feature (Choquette-Choo et al., 2021).

    The copies of images stay images: pixels end at 0 and 1, or at the darkest and the brightest pixel of the pool where
    these lie beyond, and pixels stored as bytes are rounded and end at 0 and 255.

    Parameters
    ----------
    n : int
        Number of changed copies.
    scale : float
        Standard deviation of the noise as a fraction of each feature's own standard deviation over the pool.
    seed : int
        Seed of the noise.
    """

    kind: ClassVar[str] = "noise"

    n: int = 16
    scale: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("n", self.n, low=1)
        check_number("scale", self.scale, above=0)
        check_integer("seed", self.seed)

    def copy(self, query: int, x: np.ndarray) -> np.ndarray:
        """Return the records with the noise of copy ``query``."""
        noisy = generator(self.seed, "noise", query).standard_normal(x.shape, dtype=np.float32)
        noisy *= np.float32(self.scale) * x.std(axis=0, dtype=np.float32)
        noisy += x
        if x.dtype == np.uint8:
            return np.rint(noisy, out=noisy).clip(0, 255).astype(np.uint8)
        if x.ndim == 4:  # images
            np.clip(noisy, min(0, x.min()), max(1, x.max()), out=noisy)
        return noisy.astype(x.dtype, copy=False)

    def check(self, pool: Pool) -> None:  # a hook
        """Refuse records with binary features."""
        if pool.kind == "binary":
            raise ValueError(
                f"queries={self!r} would make numbers of the binary features of {pool.name!r}: use Flips."
            )


@dataclass(frozen=True)
class Shifts(_Copies):
    """The image, then shifted and mirrored copies (Choquette-Choo et al., 2021, section 4.2).

    All shifts by ``-pixels``, 0 or ``pixels`` in both directions, each with and without a mirror image: 18 queries,
    those of Aerni et al. (2024) for ``pixels=4``. What moves in is black.

    Parameters
    ----------
    pixels : int
        Size of a shift.
    mirror : bool
        Whether mirror images are queried as well.
    """

    kind: ClassVar[str] = "shift"

    pixels: int = 4
    mirror: bool = True

    def __post_init__(self) -> None:
        check_integer("pixels", self.pixels, low=1)

    def _moves(self) -> list[tuple[int, int, bool]]:
        steps = (0, -self.pixels, self.pixels)
        mirrored = (False, True) if self.mirror else (False,)
        return [(dy, dx, mirror) for mirror, dy, dx in product(mirrored, steps, steps)]

    @property
    def n(self) -> int:
        """Number of changed copies."""
        return len(self._moves()) - 1

    def copy(self, query: int, x: np.ndarray) -> np.ndarray:
        """Return the images with the move of copy ``query``."""
        dy, dx, mirror = self._moves()[query]
        height, width = x.shape[-2:]
        moved = np.zeros_like(x)
        to_y, to_x = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
        from_y, from_x = slice(max(-dy, 0), height + min(-dy, 0)), slice(max(-dx, 0), width + min(-dx, 0))
        moved[..., to_y, to_x] = x[..., from_y, from_x]
        return moved[..., ::-1].copy() if mirror else moved

    def check(self, pool: Pool) -> None:  # a hook
        """Refuse records that are no images, or are smaller than a shift."""
        _check_kind(self, pool, "image", "Flips (binary features) or Noise")
        if self.pixels >= min(pool.x.shape[-2:]):
            raise ValueError(f"pixels={self.pixels} moves images of {pool.x.shape[-2:]} pixels out of sight.")


@dataclass(frozen=True)
class Mixed(_Copies):
    """The record, then mixtures of it with another record, as mixup trains on them (Zhang et al., 2018).

    Query q is ``fraction * x_i + (1 - fraction) * x_pi(i)``, where pi pairs every record of the pool with another one,
    see `pairing`. Where fractions are symmetric about 1/2, both records of a pair query the same mixtures.
    Mixtures of pixels stored as bytes are rounded to bytes. For attacks on pairs of records
    (`mialab.attacks.MixedPairs`); others leave these queries out.

    Parameters
    ----------
    fractions : sequence of float
        Fractions of the record in its mixtures, each between 0 and 1; those of Ji et al. by default.
    seed : int
        Seed of the pairs.
    """

    kind: ClassVar[str] = "mixed"

    fractions: tuple[float, ...] = (0.2, 0.5, 0.8)
    seed: int = 0

    def __post_init__(self) -> None:
        fractions = self.fractions
        if isinstance(fractions, str) or not isinstance(fractions, Sequence) or not fractions:
            raise ValueError(f"fractions={fractions!r} must be a sequence of numbers, e.g. (0.2, 0.5, 0.8).")
        for fraction in fractions:
            check_number("fractions", fraction, above=0)
            if fraction >= 1:
                raise ValueError(
                    f"fractions={fraction!r} must be less than 1: the record itself is queried anyway."
                )
        if len(set(fractions)) < len(fractions):
            raise ValueError(f"fractions={fractions!r} must differ from each other.")
        object.__setattr__(self, "fractions", tuple(map(float, fractions)))
        check_integer("seed", self.seed)

    @property
    def n(self) -> int:
        """Number of mixtures."""
        return len(self.fractions)

    def copy(self, query: int, x: np.ndarray) -> np.ndarray:
        """Return the mixtures of all records of a pool with fraction number ``query - 1``."""
        fraction = self.fractions[query - 1]
        mixture = np.float32(fraction) * x
        mixture += np.float32(1 - fraction) * x[pairing(len(x), self.seed)]
        return (mixture if np.issubdtype(x.dtype, np.floating) else np.rint(mixture)).astype(x.dtype)

    def check(self, pool: Pool) -> None:  # a hook
        """Refuse an odd number of records."""
        if len(pool) % 2:
            raise ValueError(
                f"queries={self!r} pair the records of {pool.name!r}, but {len(pool)} is odd: load "
                f"size={len(pool) - 1}."
            )


def pairing(n_records: int, seed: int = 0) -> np.ndarray:
    """Pair every record with another one, as `Mixed` does.

    Parameters
    ----------
    n_records : int
        Number of records of the pool, even.
    seed : int
        Seed of the pairs; nothing else decides.

    Returns
    -------
    numpy.ndarray of int64, shape (record,)
        The other record of each one's pair.
    """
    if n_records % 2:
        raise ValueError(f"n_records={n_records} must be even: records come in pairs.")
    first, second = generator(seed, "pairs").permutation(n_records).reshape(2, -1)
    other = np.empty(n_records, np.int64)
    other[first], other[second] = second, first
    return other


@dataclass(frozen=True, init=False, repr=False)
class Compose:
    """The record, then the changed copies of several kinds of queries in turn.

    Parameters
    ----------
    *parts : Queries
        E.g. ``Compose(Noise(n=4), Shifts(), Mixed())``; no two alike, and one `Mixed` at most.
    """

    parts: tuple[Queries, ...]

    def __init__(self, *parts: Queries) -> None:
        if not parts:
            raise ValueError("Compose needs at least one kind of queries, e.g. Compose(Noise(n=4), Mixed()).")
        for part in parts:
            _check_instance("Compose: part", part, "an instance")
        flat = [own for part in parts for own in (part.parts if isinstance(part, Compose) else (part,))]
        for i, part in enumerate(flat):
            if part in flat[:i]:
                raise ValueError(f"Compose has {part!r} twice: give one of them another seed.")
        if sum(isinstance(part, Mixed) for part in flat) > 1:
            raise ValueError("Compose has more than one Mixed: give one of them all the fractions.")
        object.__setattr__(self, "parts", tuple(flat))

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(repr, self.parts))})"

    def __len__(self) -> int:
        return 1 + sum(len(part) - 1 for part in self.parts)

    @property
    def kinds(self) -> tuple[str, ...]:
        """How each query was made."""
        return ("original", *(kind for part in self.parts for kind in kinds(part)[1:]))

    def __call__(self, query: int, x: np.ndarray) -> np.ndarray:
        """Return the records as changed by copy ``query`` of all parts' copies."""
        if query == 0:
            return x
        for part in self.parts:
            if query < len(part):
                return part(query, x)
            query -= len(part) - 1
        raise IndexError(f"query={query + len(self) - 1} must be at most {len(self) - 1}.")

    def check(self, pool: Pool) -> None:  # a hook
        """Refuse what one of the parts refuses."""
        for part in self.parts:
            part.check(pool)


def kinds(queries: Queries) -> tuple[str, ...]:
    """Return how each query is made, ``"changed"`` where a class of your own does not say."""
    return tuple(getattr(queries, "kinds", ("original", *(len(queries) - 1) * ("changed",))))


def mixtures(queries: Queries) -> Mixed | None:
    """Return the mixed queries among others, or None."""
    parts = queries.parts if isinstance(queries, Compose) else (queries,)
    return next((part for part in parts if isinstance(part, Mixed)), None)


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
    _check_instance("queries", queries, "'original', 'augmented' or an instance")
    found = kinds(queries)
    if len(found) != len(queries) or found[0] != "original":
        raise ValueError(
            f"queries={queries!r} says kinds={found}; there must be one for each of its {len(queries)} queries, "
            "'original' first."
        )
    queries.check(pool)
    return queries


def _check_instance(name: str, queries: object, right: str) -> None:
    if isinstance(queries, type) or not hasattr(queries, "check"):
        raise ValueError(f"{name}={queries!r} must be {right} such as mialab.queries.Flips().")
