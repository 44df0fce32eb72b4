"""Everything that determines a game, checked before any training."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from mialab._validation import check_integer
from mialab.arrays import CANARY, CHECKSUM, MEMBER, PARTNER, SECONDS, ArraySpec, Y
from mialab.data.pool import Pool
from mialab.games.backends import Team
from mialab.games.base import _check_models
from mialab.games.identity import describe
from mialab.games.store import ROOM
from mialab.queries import Queries, kinds, mixtures
from mialab.training.membership import membership

#: Arrays of every stored game.
STORED = (MEMBER, PARTNER, Y, CANARY, SECONDS, CHECKSUM)


def _describe(value: object) -> str:
    try:
        return describe(value)
    except Exception as error:  # whatever an object raises that keeps its state to itself
        warnings.warn(f"This game is not reused: {value!r} has hidden state ({error}).", stacklevel=4)
        return os.urandom(16).hex()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(ABC):
    """Everything that determines a game, checked; the part that is the same for all kinds of models."""

    pool: Pool
    defense: Any
    training: Any
    queries: Queries
    n_models: int
    seed: int
    members: int | None = None
    candidates: np.ndarray | None = None
    probes: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        _check_models(self.n_models)
        if self.n_models > ROOM:
            raise ValueError(
                f"n_models={self.n_models} must be at most {ROOM}: stored games have no room for more."
            )
        check_integer("seed", self.seed)
        for name in ("n_models", "seed"):
            object.__setattr__(self, name, int(getattr(self, name)))
        training = self.defense.adapt(self.training)
        if type(training) is not type(self.training):
            raise TypeError(
                f"defense={self.defense.name!r}: adapt returns {training!r}; it must be a "
                f"{type(self.training).__name__}."
            )
        object.__setattr__(self, "training", training)
        n = len(self.pool)
        if self.candidates is not None:
            self._check_candidates()
            n = int(self.candidates.sum())
        if n % 2:
            raise ValueError(
                f"There are {n} records that may be members; complementary halves need an even number: load "
                f"size={len(self.pool) - 1}, or give other candidates."
            )
        if self.members is not None:
            check_integer("members", self.members, low=1)
            if self.members > n // 2:
                raise ValueError(f"members={self.members} must be at most {n // 2}, half of the candidates.")

    def _check_candidates(self) -> None:
        candidates, n = np.asarray(self.candidates), len(self.pool)
        if candidates.dtype != bool:
            if not np.issubdtype(candidates.dtype, np.integer) or candidates.ndim != 1:
                raise ValueError(
                    "candidates must be a mask of the pool's records, or a list of their indices."
                )
            if candidates.size and not -n <= candidates.min() <= candidates.max() < n:
                raise ValueError(f"candidates holds indices beyond the pool's {n} records.")
            candidates = np.isin(np.arange(n), candidates % n)
        if candidates.shape != (n,) or not candidates.any():
            raise ValueError(
                f"candidates must choose some of the pool's {n} records; it has shape {candidates.shape}."
            )
        object.__setattr__(self, "candidates", candidates)

    @property
    def n_members(self) -> int:
        """Members of each model."""
        n = len(self.pool) if self.candidates is None else int(self.candidates.sum())
        return n // 2 if self.members is None else self.members

    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the labels that are trained on, int64 (record,), and which records are canaries, bool (record,)."""
        return self.pool.y, np.zeros(len(self.pool), bool)

    def member(self, canary: np.ndarray) -> np.ndarray:
        """Draw who is a member of which model, bool (model, record)."""
        n = len(self.pool)
        return membership(
            self.n_models, n, self.seed, canary, candidate=self.candidates, members=self.members
        )

    @abstractmethod
    def resolve(self, team: Team, device: str) -> tuple[str, Self]:
        """Return on which kind of device the machines that train do so, and what of the plan follows from that."""

    def fixed(self) -> dict[str, np.ndarray]:
        """Return what is known before training besides who is a member."""
        y, canary = self.labels()
        return {
            "member": self.member(canary),
            "partner": np.arange(self.n_models) ^ 1,
            "y": y,
            "canary": canary,
        }

    @abstractmethod
    def arrays(self) -> tuple[ArraySpec, ...]:
        """Return the arrays of the game, `STORED` and others."""

    def sizes(self) -> dict[str, int]:
        """Return the sizes of all dimensions."""
        return {"model": self.n_models, "query": len(self.queries), "record": len(self.pool)}

    @property
    @abstractmethod
    def train_group(self) -> Callable[..., dict[str, np.ndarray]]:
        """The function that trains a group of models, such as `mialab.classifiers.run.train_group`."""

    @abstractmethod
    def options(self, device: str) -> dict[str, Any]:
        """Return what `train_group` needs besides the models, the pool, labels and members."""

    @abstractmethod
    def mode(self, team: Team, device: str) -> tuple[str, int]:
        """Return how the machines that train do so, and how many models in a group at most."""

    @abstractmethod
    def seconds_of_work(self) -> float:
        """Estimate how long one processor core takes for one model."""

    def key(self) -> str:
        """Name and hash under which the game is stored, the same for any number of models."""
        parts = [*self._parts(), *(f"{array.name} {array.dtype}" for array in self.arrays())]
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
        return f"{self.pool.name}-{self.defense.name}-{digest}"

    @abstractmethod
    def _parts(self) -> list[str]:
        """Return what the key is a hash of, besides names and types of arrays."""

    def attrs(self) -> dict:
        """Return what the game is, JSON-friendly."""
        mixed = mixtures(self.queries)
        pairs = (
            {"fractions": mixed.fractions, "seed": mixed.seed, "n_records": len(self.pool)} if mixed else None
        )
        return {
            "dataset": self.pool.name,
            "fingerprint": self.pool.fingerprint,
            "defense": self.defense.name,
            "defense_parameters": dataclasses.asdict(self.defense),
            "training": dataclasses.asdict(self.training),
            "queries": repr(self.queries),
            "query_kinds": list(kinds(self.queries)),
            "mixed": pairs,
            "members": self.members,
            "n_candidates": None if self.candidates is None else int(self.candidates.sum()),
            "seed": self.seed,
            "n_classes": self.pool.n_classes,
            "report": dict(self.defense.report(self)),
            "probes": [probe.name for probe in self.probes],
            "probe_parameters": {probe.name: dataclasses.asdict(probe) for probe in self.probes},
        }
