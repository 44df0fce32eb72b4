"""Everything that determines a game, checked before any training."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch

from mialab._registry import Registry
from mialab._validation import check_integer
from mialab.arrays import CANARY, MEMBER, PARTNER, PROVENANCE, ArraySpec, Y
from mialab.data.pool import Pool
from mialab.games.backends import Team, device_here
from mialab.games.base import _check_models
from mialab.games.identity import describe
from mialab.games.store import ROOM
from mialab.queries import kinds, mixtures
from mialab.queries import make as make_queries
from mialab.training.membership import membership

#: Arrays of every stored game.
STORED = (MEMBER, PARTNER, Y, CANARY, PROVENANCE)


class Form(NamedTuple):
    """How groups of models are trained.

    Attributes
    ----------
    mode : {"stacked", "sequential"}
        Whether all models of a group are computed in one tensor program, or one model.
    most : int
        Models in a group, at most.
    alone : bool
        Whether a process trains only one group at a time: on a GPU, or where networks draw random numbers of their own.
    """

    mode: str
    most: int
    alone: bool


def _describe(value: object) -> str:
    try:
        return describe(value)
    except Exception as error:  # whatever an object raises that keeps its state to itself
        warnings.warn(f"This game is not reused: {value!r} has hidden state ({error}).", stacklevel=4)
        return os.urandom(16).hex()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(ABC):
    """Everything that determines a game, checked; the part that is the same for all kinds of models.

    Fields are the parameters of `mialab.play` of these names.
    """

    #: What `training` must be, in words.
    example: ClassVar[str]
    #: Its class, whose default parameters are the default, and defenses and probes by name.
    options_class: ClassVar[type]
    defenses: ClassVar[Registry[Any]]
    known_probes: ClassVar[Registry[Any]]
    #: The module of `train_group`.
    engine: ClassVar[ModuleType]
    #: Fields that `train_group` is given besides the pool.
    needs: ClassVar[tuple[str, ...]] = ("defense", "training", "queries", "seed", "probes")
    #: Whether threads train large games as fast as processes do: not where steps are many small operations.
    threads_pay: ClassVar[bool] = True

    pool: Pool
    defense: Any = None
    training: Any = None
    queries: Any = "original"
    n_models: int
    seed: int = 0
    members: int | None = None
    candidates: np.ndarray | None = None
    probes: Any = ()

    def __post_init__(self) -> None:
        if not isinstance(self.pool, Pool):
            given = repr(self.pool) if isinstance(self.pool, str) else f"a {type(self.pool).__name__}"
            raise TypeError(f"pool is {given}; it must be a Pool, e.g. mialab.load('digits').")
        training = self.options_class() if self.training is None else self.training
        if not isinstance(training, self.options_class):
            raise TypeError(f"training={training!r} must be a {self.example}.")
        _check_models(self.n_models)
        if self.n_models > ROOM:
            raise ValueError(
                f"n_models={self.n_models} must be at most {ROOM}: stored games have no room for more."
            )
        check_integer("seed", self.seed)
        defense = self.defenses.make(self.defense)
        self._set(n_models=int(self.n_models), seed=int(self.seed), defense=defense)
        self._set(
            queries=make_queries(self.queries, self.pool), probes=self.known_probes.several(self.probes)
        )
        self._set(training=defense.adapt(training))
        if type(self.training) is not type(training):
            raise TypeError(
                f"defense={defense.name!r}: adapt returns {self.training!r}; it must be a {type(training).__name__}."
            )
        for probe in self.probes:
            probe.check(self.pool)
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

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

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
        self._set(candidates=candidates)

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

    def resolve(self, team: Team, device: str) -> tuple[str, Self]:
        """Return on which kind of device the machines that train do so, and what of the plan follows from that."""
        return team.ask(device_here, device), self

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
    def train_group(self) -> Callable[..., dict[str, np.ndarray]]:
        """The function that trains a group of models, such as `mialab.classifiers.run.train_group`.

        It returns the `arrays` that are not `fixed`, and each model's fraction of the ``seconds`` that it took.
        """
        return self.engine.train_group

    def options(self, device: str) -> dict[str, Any]:
        """Return what `train_group` needs besides the models, the pool, labels and members."""
        return {name: getattr(self, name) for name in self.needs} | {"device": device}

    def form(self, team: Team, device: str) -> Form:
        """Return how the machines that train do so."""
        return Form("sequential", 1, alone=True)

    @abstractmethod
    def seconds_of_work(self) -> float:
        """Estimate how long one processor core takes for one model."""

    def key(self) -> str:
        """Name and hash under which the game is stored, the same for any number of models."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        parts = [self.code(), self.pool.fingerprint, self.pool.kind, torch.__version__]
        parts += [
            f"{name}={_describe(value)}" for name, value in values.items() if name not in ("pool", "n_models")
        ]
        parts += [f"{array.name} {array.dtype}" for array in self.arrays()]
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
        return f"{self.pool.name}-{self.defense.name}-{digest}"

    @abstractmethod
    def code(self) -> str:
        """Return text that stands for the code that decides what a trained model is."""

    def sources(self) -> dict[str, str]:
        """Return modules that decide what a model is under this defense alone, by names that stay: its ``sources``."""
        return dict(getattr(self.defense, "sources", {}))

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
