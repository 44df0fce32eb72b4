"""The game: K models, each trained on a random half of a pool, and all their answers on every record."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
import xarray as xr

from mialab import backends, defenses, engine, models, progress, provenance
from mialab.data import Pool
from mialab.defenses.base import Defense
from mialab.engine import Training
from mialab.identity import describe
from mialab.membership import membership, mislabel
from mialab.models import Model
from mialab.options import check_integer, choose
from mialab.probes import PROBES, Probe, layers
from mialab.probes import make as make_probes
from mialab.queries import Queries, kinds, mixtures, pairing
from mialab.queries import make as make_queries
from mialab.randomness import generator
from mialab.store import ANSWERS, DIMENSIONS, MEASURED, Store, games_root, is_shared, layout

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

#: Source files that decide what a trained model is, besides those of the options in use; a change in one of them,
#: other than in comments and docstrings, makes stored games outdated.
SOURCES = ("randomness.py", "membership.py", "engine.py", "augmentation.py", "defenses/base.py")
#: Only one group at a time in a process, unless it is stacked: all threads share torch's random numbers.
ONE_GROUP = threading.Lock()
Team = backends.Processes | backends.Cluster


class Game:
    """K models and their answers on every record of a pool; made by `play` or `Game.from_arrays`.

    Models come in pairs with complementary halves of the pool as members, so every record is a member of exactly
    half of the models. Each model plays the target in turn. Its shadow models are all others but its partner, whose
    membership would give the target's away (see `left_out`).

    Attributes
    ----------
    dataset : xarray.Dataset
        Everything, with dimensions ``model``, ``query``, ``record``, ``label``.
    attrs : dict
        How the game was made.
    """

    #: What is attacked: classifiers here, generators in `mialab.gan.GeneratorGame`.
    victim: ClassVar[str] = "classifier"
    #: What shadow models must have in common with their targets.
    alike: ClassVar[tuple[str, ...]] = ("fingerprint", "queries", "n_classes", "keep")
    #: Which probe fills which array.
    probe_of: ClassVar[dict[str, str]] = {probe.array: probe.name for probe in PROBES.values()}

    def __init__(self, dataset: xr.Dataset) -> None:
        mixed = dataset.attrs.get("mixed")
        if mixed and "pair" not in dataset:  # known from the start, so that it stays with what is cut out
            other = pairing(mixed["n_records"], mixed["seed"])
            dataset = dataset.assign(pair=("record", np.minimum(other, np.arange(other.size))))
        self.dataset = dataset
        self.attrs = dict(dataset.attrs)

    @classmethod
    def from_arrays(
        cls,
        *,
        logits: np.ndarray,
        member: np.ndarray,
        y: np.ndarray,
        partner: np.ndarray | None = None,
        canary: np.ndarray | None = None,
        shadow: np.ndarray | None = None,
        raw_logits: np.ndarray | None = None,
        gradient_norm: np.ndarray | None = None,
        boundary_distance: np.ndarray | None = None,
        train_accuracy: np.ndarray | None = None,
        test_accuracy: np.ndarray | None = None,
        name: str = "arrays",
    ) -> Self:
        """Make a game of answers that were computed elsewhere.

        Parameters
        ----------
        logits : array_like of float, shape (model, query, record, label)
            Answers; (model, record, label) stands for a single query. Log-probabilities serve as well.
        member : array_like of bool, shape (model, record)
            Whether the model was trained on the record.
        y : array_like of int, shape (record,)
            Labels, 0 to C - 1.
        partner : array_like of int, shape (model,), optional
            For each model the one trained on exactly the other records (or on part of them), where models come in such
            pairs; -1 for none (the default).
        canary : array_like of bool, shape (record,), optional
            Which records are canaries.
        shadow : array_like of bool, shape (model,), optional
            Which models are shadow models only; then no model that is a target helps against another one. By default
            none: every model is a target, and a shadow model of the others.
        raw_logits : array_like of float, optional
            Answers before a defense's output step, if it has one.
        gradient_norm : array_like of float, shape (model, record, layer), optional
            What `mialab.probes.Gradient` measures; (model, record) stands for the norm of the whole gradient.
        boundary_distance : array_like of float, shape (model, record), optional
            What `mialab.probes.Boundary` measures.
        train_accuracy, test_accuracy : array_like of float, shape (model,), optional
            Accuracy of each model on its members and on held-out records.
        name : str
            A name for tables and figures.

        Raises
        ------
        ValueError
            If shapes or values do not fit.
        """
        logits = np.asarray(logits)
        logits = logits[:, None] if logits.ndim == 3 else logits
        member, y = np.asarray(member), np.asarray(y)
        if logits.ndim != 4:
            raise ValueError(
                f"logits has {logits.ndim} dimensions; it must be (model, query, record, label)."
            )
        if not np.issubdtype(logits.dtype, np.number):
            raise ValueError(f"logits must hold numbers; it is {logits.dtype}.")
        n_models, _, n_records, n_classes = logits.shape
        if n_classes < 2:
            raise ValueError(f"logits has {n_classes} classes; there must be at least 2.")
        if gradient_norm is not None:
            gradient_norm = np.asarray(gradient_norm)
            gradient_norm = gradient_norm[..., None] if gradient_norm.ndim == 2 else gradient_norm
        n_layers = gradient_norm.shape[-1] if np.ndim(gradient_norm) else 0
        expected = {"member": (n_models, n_records), "y": (n_records,)}
        given: dict[str, np.ndarray] = {"member": member, "y": y}
        optional = {
            "partner": (partner, (n_models,)),
            "canary": (canary, (n_records,)),
            "shadow": (shadow, (n_models,)),
            "raw_logits": (raw_logits, logits.shape),
            "gradient_norm": (gradient_norm, (n_models, n_records, n_layers)),
            "boundary_distance": (boundary_distance, (n_models, n_records)),
            "train_accuracy": (train_accuracy, (n_models,)),
            "test_accuracy": (test_accuracy, (n_models,)),
        }
        for key, (value, shape) in optional.items():
            if value is not None:
                given[key], expected[key] = np.asarray(value), shape
        if "raw_logits" in given and given["raw_logits"].ndim == 3:
            given["raw_logits"] = given["raw_logits"][:, None]
        for key, value in given.items():
            if value.shape != expected[key]:
                raise ValueError(
                    f"{key} has shape {value.shape}; with logits {logits.shape} it must be {expected[key]}."
                )
        for key, value in {"logits": logits, **given}.items():
            if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
                raise ValueError(
                    f"{key} has {np.sum(~np.isfinite(value))} values that are not finite numbers."
                )
        for key in [name for name in MEASURED if name in given]:
            if not np.issubdtype(given[key].dtype, np.number) or (given[key] < 0).any():
                raise ValueError(f"{key} must hold numbers of at least 0.")
        for key in [name for name in ("member", "canary", "shadow") if name in given]:
            if not np.isin(given[key], (0, 1)).all():
                raise ValueError(
                    f"{key} must be True or False (or 1 and 0); it holds {np.unique(given[key])[:5]}."
                )
            given[key] = given[key].astype(bool)
        if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= n_classes:
            raise ValueError(
                f"y must hold integers from 0 to {n_classes - 1}, one per class of the logits; "
                f"it is {y.dtype} from {y.min()} to {y.max()}."
            )
        given["y"] = y.astype(np.int64)
        given.setdefault("shadow", np.zeros(n_models, bool))
        if given["shadow"].all():
            raise ValueError("shadow is True for all models: one at least must be a target.")
        for k, row in enumerate(given["member"]):
            if not given["shadow"][k] and (row.all() or not row.any()):
                raise ValueError(
                    f"member[{k}] is all {bool(row[0])}: a target needs members and non-members."
                )
        given.setdefault("partner", np.full(n_models, -1))
        _check_partners(given["partner"], given["member"])
        given.setdefault("canary", np.zeros(n_records, bool))
        variables = {"logits": logits, **given}
        return cls(
            xr.Dataset(
                {key: (DIMENSIONS[key], value) for key, value in variables.items()},
                attrs={
                    "dataset": name,
                    "defense": "unknown",
                    "probes": [cls.probe_of[key] for key in MEASURED if key in given],
                    "layers": [f"layer {i}" for i in range(n_layers)],
                    **dict.fromkeys(("seed", "device", "seconds")),
                    **provenance.collect(),
                },
            )
        )

    def __repr__(self) -> str:
        a = self.attrs
        canaries = f", {self.canary.sum()} canaries" if self.canary.any() else ""
        return (
            f"Game({a.get('dataset')}, defense={a.get('defense')}: {self.n_models} models x {self.n_queries} "
            f"queries x {self.n_records} records x {self.n_classes} classes{canaries})"
        )

    @property
    def lazy_logits(self) -> xr.Variable:
        """Answers as the attacker gets them, read from the store when they are used."""
        if "logits" not in self.dataset:
            raise ValueError(
                "This game was played with keep='scores' and has no logits: "
                "play it with keep='logits', or ask for what can be had from signals."
            )
        return self.dataset["logits"].variable

    @cached_property
    def logits(self) -> np.ndarray:
        """Answers as the attacker gets them, shape (model, query, record, label)."""
        return self.lazy_logits.to_numpy()

    @cached_property
    def member(self) -> np.ndarray:
        """Whether the model was trained on the record, bool (model, record)."""
        return self.dataset["member"].to_numpy()

    @cached_property
    def y(self) -> np.ndarray:
        """Labels, as trained on and as attacked, int64 (record,)."""
        return self.dataset["y"].to_numpy()

    @cached_property
    def canary(self) -> np.ndarray:
        """Which records are canaries, bool (record,)."""
        return self.dataset["canary"].to_numpy()

    @cached_property
    def partner(self) -> np.ndarray:
        """The model with the complementary members, or -1, int64 (model,)."""
        return self.dataset["partner"].to_numpy()

    def _accuracy(self, name: str) -> np.ndarray:
        if name not in self.dataset:
            return np.full(self.n_models, np.nan)
        return self.dataset[name].to_numpy()

    @property
    def train_accuracy(self) -> np.ndarray:
        """Accuracy of each model on its members, (model,); NaN if unknown."""
        return self._accuracy("train_accuracy")

    @property
    def test_accuracy(self) -> np.ndarray:
        """Accuracy of each model on the pool's test part, (model,); NaN if unknown."""
        return self._accuracy("test_accuracy")

    @cached_property
    def shadow(self) -> np.ndarray:
        """Which models are shadow models only, bool (model,); none, unless they were added, see `with_shadows`."""
        if "shadow" not in self.dataset:
            return np.zeros(self.n_models, bool)
        return self.dataset["shadow"].to_numpy()

    @cached_property
    def candidate(self) -> np.ndarray:
        """Which records the targets may have been trained on, bool (record,)."""
        if "candidate" in self.dataset:
            return self.dataset["candidate"].to_numpy()
        return self.varied if self.attrs.get("n_candidates") else np.ones(self.n_records, bool)

    @property
    def query_kinds(self) -> tuple[str, ...]:
        """How each query was made, a str each: ``"original"``, then e.g. ``"noise"``, or ``"changed"`` if unknown."""
        known = self.attrs.get("query_kinds")
        return tuple(known) if known else ("original", *(self.n_queries - 1) * ("changed",))

    @property
    def unmixed(self) -> np.ndarray:
        """Which queries are about one record alone, indices; all but those of `mialab.queries.Mixed`."""
        return np.flatnonzero([kind != "mixed" for kind in self.query_kinds])

    @cached_property
    def mixed_with(self) -> np.ndarray:
        """The record that each one is mixed with in mixed queries, or -1 if it is not here, int64 (record,)."""
        other = np.full(self.n_records, -1)
        if "pair" in self.dataset:
            _, place, size = np.unique(self.dataset["pair"], return_inverse=True, return_counts=True)
            first, second = np.argsort(place, kind="stable")[size[np.sort(place)] == 2].reshape(-1, 2).T
            other[first], other[second] = second, first
        return other

    @property
    def probes(self) -> tuple[str, ...]:
        """Names of the probes that were made, see `mialab.probes`."""
        return tuple(self.attrs.get("probes") or ())

    def _measured(self, name: str) -> np.ndarray:
        if name not in self.dataset:
            raise ValueError(f"This game has no {name}: play it with probes=[{self.probe_of[name]!r}].")
        return self.dataset[name].to_numpy().astype(np.float64)

    @cached_property
    def gradient_norm(self) -> np.ndarray:
        """Norms of the gradients of each record's loss, float64 (model, record, layer); see `mialab.probes`."""
        return self._measured("gradient_norm")

    @cached_property
    def boundary_distance(self) -> np.ndarray:
        """Distances of the records from the decision boundary, float64 (model, record); see `mialab.probes`."""
        return self._measured("boundary_distance")

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers of which gradients were measured."""
        return tuple(self.attrs.get("layers") or ())

    @property
    def n_models(self) -> int:
        """Number of models."""
        return self.dataset.sizes["model"]

    @property
    def n_queries(self) -> int:
        """Number of queries per record."""
        return self.dataset.sizes.get("query", 1)

    @property
    def n_records(self) -> int:
        """Number of records."""
        return self.dataset.sizes["record"]

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return self.dataset.sizes.get("label") or self.attrs["n_classes"]

    @cached_property
    def left_out(self) -> np.ndarray:
        """The model that is no shadow of a target besides the target itself, int64 (target, record); -1 for none.

        Where every record is a member of exactly half of the models, the count of its members among the *other*
        models gives the target's membership away, and attacks that learn per record err systematically (their AUC
        falls below 0.5 when there is nothing to find). So one model with the opposite membership is left out too:
        the target's partner, or, where models are not paired, one drawn at random for each record.
        """
        if self.attrs.get("leave_one_out") == "plain":
            return np.full(self.member.shape, -1)
        if self.attrs.get("leave_one_out") == "first":
            # What is learnt from the shadow models must know nothing of the target, the first model.
            return np.repeat(np.minimum(np.arange(self.n_models), 1)[:, None] - 1, self.n_records, axis=1)
        if (self.partner >= 0).any():
            return np.broadcast_to(self.partner[:, None], self.member.shape)
        left_out = np.full(self.member.shape, -1)
        if (2 * self.member.sum(0) != self.n_models).any():
            return left_out  # memberships that were not balanced give nothing away
        keys = generator(0, "left out").random(self.member.shape)
        sides = (np.argsort(np.where(side, keys, 2), axis=0) for side in (self.member, ~self.member))
        inside, outside = (order[: self.n_models // 2] for order in sides)
        np.put_along_axis(left_out, inside, outside, axis=0)
        np.put_along_axis(left_out, outside, inside, axis=0)
        return left_out

    def plain_leave_one_out(self) -> Self:
        """Return the same game with all models but the target as its shadow models, as most published code has it.

        For comparison with other code: in a balanced game this errs systematically, see `left_out`.
        """
        return type(self)(self.dataset.assign_attrs(leave_one_out="plain"))

    def before_output_step(self) -> Self:
        """Return the same game with the answers before the defense's output step: a what-if, no real attacker.

        What was measured on labels as released (the boundary) is left out.

        Raises
        ------
        ValueError
            If the defense does not change answers.
        """
        before = {f"raw_{name}": name for name in ANSWERS if f"raw_{name}" in self.dataset}
        if not before:
            raise ValueError(f"The defense {self.attrs.get('defense')!r} has no output step to leave out.")
        released = [*before.values(), "boundary_distance"]
        dataset = self.dataset.drop_vars(released, errors="ignore").rename(before)
        probes = [name for name in self.probes if name != "boundary"]
        return type(self)(dataset.assign_attrs(output_step=False, probes=probes))

    @cached_property
    def varied(self) -> np.ndarray:
        """Which records are members of some models and not of others, bool (record,); all, in games from `play`."""
        return self.member.any(0) & ~self.member.all(0)

    def with_shadows(self, shadows: Game) -> Self:
        """Return the game of these models as targets against other shadow models: those of another game.

        So the attacker's shadow models may have been trained on other records, on fewer, with another network or under
        another defense than the targets, see the parameters of `play`. They must have been asked the same about the
        same records. The answers of both games are loaded. What probes measured is kept if it is there in both games,
        measured alike, and of gradients only if the networks have the same layers.

        Parameters
        ----------
        shadows : Game
            All its models serve as shadow models. Give it another seed, lest both share memberships.

        Returns
        -------
        Game
            First the targets, then the shadow models. No target helps against another one.

        Raises
        ------
        ValueError
            If records, labels or queries differ, or both games have the same memberships.
        """
        for name in self.alike:
            mine, other = self.attrs.get(name), shadows.attrs.get(name)
            if mine != other:
                raise ValueError(
                    f"shadows were played with {name}={other!r}; it must be that of the targets, {mine!r}."
                )
        if self.y.shape != shadows.y.shape or (self.y != shadows.y).any():
            raise ValueError("shadows have other records, or canaries with other labels, than the targets.")
        if self.member.shape == shadows.member.shape and (self.member == shadows.member).all():
            raise ValueError(
                f"shadows have the memberships of the targets: play them with another seed than {self.attrs['seed']}."
            )
        probes = [name for name in self.probes if _measured_alike(name, self.attrs, shadows.attrs)]
        dropped = ["shadow", *(array for array, name in self.probe_of.items() if name not in probes)]
        both = [game.dataset.drop_vars(dropped, errors="ignore") for game in (self, shadows)]
        both[1] = both[1].assign(partner=both[1]["partner"] + self.n_models * (both[1]["partner"] >= 0))
        shared = [v for v in both[0].variables if v in both[1].variables]
        varying = [v for v in shared if "model" in both[0][v].dims]
        both = [part[varying] for part in both]
        dataset = xr.concat(both, "model").assign(
            **{v: self.dataset[v] for v in shared if v not in varying},
            shadow=("model", np.repeat([False, True], [self.n_models, shadows.n_models])),
            candidate=("record", self.varied),
        )
        about = {
            key: shadows.attrs.get(key)
            for key in ("model", "defense", "defense_parameters", "training", "seed")
        }
        attrs = {**self.attrs, "n_models": dataset.sizes["model"], "shadow_models": about, "probes": probes}
        return type(self)(dataset.assign_attrs(attrs))

    def against(self, target: int, *, alone: bool = False) -> Self:
        """Return the game of one target, the first model, and the separate shadow models; or of the target alone."""
        models = np.append(target, [] if alone else np.flatnonzero(self.shadow)).astype(int)
        dataset = self.dataset.isel(model=models).drop_vars(["shadow", "candidate"], errors="ignore")
        partner = np.full(len(models), -1)
        return type(self)(
            dataset.assign(partner=("model", partner)).assign_attrs(leave_one_out="first", n_candidates=None)
        )

    def of_records(self, records: np.ndarray) -> Self:
        """Return the game of some records only (a mask or indices)."""
        return type(self)(self.dataset.isel(record=np.arange(self.n_records)[records]))

    def subset(self, n_models: int) -> Self:
        """Return the game of the first ``n_models`` models (pairs stay together), for curves over their number."""
        _check_models(n_models)
        if n_models > self.n_models:
            raise ValueError(
                f"n_models={n_models} must be at most {self.n_models}, the number of models here."
            )
        if self.partner[:n_models].max() >= n_models:
            raise ValueError(f"n_models={n_models} would tear models from their partners: {self.partner}.")
        return type(self)(self.dataset.isel(model=slice(n_models)).assign_attrs(n_models=n_models))


def _measured_alike(probe: str, *games: dict) -> bool:
    """Tell whether two games, of which these are the attributes, have the same measurements of a probe."""
    about = [
        (
            probe in (attrs.get("probes") or ()),
            (attrs.get("probe_parameters") or {}).get(probe),
            attrs.get("layers") if probe == "gradient" else None,
        )
        for attrs in games
    ]
    return about[0] == about[1]


def _check_partners(partner: np.ndarray, member: np.ndarray) -> None:
    if not np.issubdtype(partner.dtype, np.integer) or partner.min() < -1 or partner.max() >= len(member):
        raise ValueError(
            f"partner must hold indices of models, 0 to {len(member) - 1}, or -1 for none; it holds {partner}."
        )
    for k, other in enumerate(partner):
        if other >= 0 and (partner[other] != k or (member[k] & member[other]).any()):
            raise ValueError(
                f"partner[{k}]={other}, but models {k} and {other} are no pair: each must be the other's partner, and "
                "a record a member of one of them at most. Leave partner out if models do not come in pairs."
            )


def _check_models(n_models: object) -> None:
    check_integer("n_models", n_models, low=2)
    if n_models % 2:
        raise ValueError(
            f"n_models={n_models} must be even: models come in pairs, each trained on the half that the other lacks."
        )


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
        check_integer("seed", self.seed)
        for name in ("n_models", "seed"):
            object.__setattr__(self, name, int(getattr(self, name)))
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
        n, options = len(self.pool), {"candidate": self.candidates, "members": self.members}
        return membership(self.n_models, n, self.seed, canary, **options)

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
    def layout(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Return shape and type of every array of the game."""

    @property
    @abstractmethod
    def train_group(self) -> Callable[..., dict[str, np.ndarray]]:
        """The function that trains a group of models, such as `mialab.engine.train_group`."""

    @abstractmethod
    def options(self, device: str) -> dict[str, Any]:
        """Return what `train_group` needs besides the models, the pool, labels and members."""

    @abstractmethod
    def form(self, team: Team, device: str) -> tuple[str, int]:
        """Return how the machines that train do so, and how many models in a group at most."""

    @abstractmethod
    def seconds_of_work(self) -> float:
        """Estimate how long one processor core takes for one model."""

    def key(self) -> str:
        """Name and hash under which the game is stored."""
        digest = hashlib.sha256("\0".join(self._parts()).encode()).hexdigest()[:16]
        return f"{self.pool.name}-{self.defense.name}-{digest}"

    @abstractmethod
    def _parts(self) -> list[str]:
        """Return what the key is a hash of."""

    def attrs(self) -> dict:
        """Return what the game is, JSON-friendly."""
        mixed = mixtures(self.queries)
        pairs = {"shares": mixed.shares, "seed": mixed.seed, "n_records": len(self.pool)} if mixed else None
        return {
            "dataset": self.pool.name,
            "fingerprint": self.pool.fingerprint,
            "defense": self.defense.name,
            "defense_parameters": dataclasses.asdict(self.defense),
            "training": dataclasses.asdict(self.training),
            "queries": repr(self.queries),
            "query_kinds": list(kinds(self.queries)),
            "mixed": pairs,
            "n_models": self.n_models,
            "members": self.members,
            "n_candidates": None if self.candidates is None else int(self.candidates.sum()),
            "seed": self.seed,
            "n_classes": self.pool.n_classes,
            "probes": [probe.name for probe in self.probes],
            "probe_parameters": {probe.name: dataclasses.asdict(probe) for probe in self.probes},
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierPlan(Plan):
    """Everything that determines a game of classifiers, checked."""

    model: Model
    canaries: int
    keep: Literal["logits", "scores"]
    answers: Literal["float32", "float16"]

    def __post_init__(self) -> None:
        if not isinstance(self.training, Training):
            raise TypeError(
                f"training={self.training!r} must be a mialab.Training, e.g. Training(epochs=50)."
            )
        check_integer("canaries", self.canaries)
        object.__setattr__(self, "canaries", int(self.canaries))
        super().__post_init__()
        if self.canaries and (self.members is not None or self.candidates is not None):
            raise ValueError(f"canaries={self.canaries} do not go with members or candidates.")
        n = len(self.pool)
        if self.canaries % 2 or self.canaries > n:
            raise ValueError(f"canaries={self.canaries} must be even and at most {n}, the number of records.")
        choose("keep", self.keep, ("logits", "scores"))
        choose("answers", self.answers, ("float32", "float16"))
        if self.keep == "scores" and self.answers != "float32":
            raise ValueError(f"answers={self.answers!r} goes with keep='logits': scores are float32 always.")
        self.training.check(self.pool)
        self.defense.check(self.pool)
        for probe in self.probes:
            probe.check(self.pool)
        self._try_model()

    def _try_model(self) -> None:
        network = self.network()
        if not isinstance(network, torch.nn.Module):
            raise TypeError(f"model={_name(self.model)} must return a torch.nn.Module, not {network!r}.")
        with torch.inference_mode():
            shape = tuple(network.eval()(engine.prepare(torch.as_tensor(self.pool.x[:2]))).shape)
        if shape != (2, self.pool.n_classes):
            raise ValueError(
                f"model={_name(self.model)} answers 2 records with shape {shape}; "
                f"it must be (2, {self.pool.n_classes})."
            )

    def network(self) -> torch.nn.Module:
        """Build one of the networks, as an example."""
        return engine.initialise(self.model, self.pool, self.seed, 0, self.defense)

    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return labels with those of canaries changed, and which records are canaries."""
        return mislabel(self.pool.y, self.pool.n_classes, self.canaries, self.seed)

    def resolve(self, team: Team, device: str) -> tuple[str, Self]:
        """Let a machine that trains choose device and precision."""
        device, training = team.ask(_resolve, device, self.training, self.network().to("meta"))
        return device, dataclasses.replace(self, training=training)

    def layout(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Return shape and type of every array of the game."""
        sizes = {"model": self.n_models, "query": len(self.queries), "record": len(self.pool)}
        sizes |= {"label": self.pool.n_classes, "layer": len(self.layers())}
        measured = [probe.array for probe in self.probes]
        return layout(sizes, self.keep, self.answers, raw=self.defense.changes_answers, measured=measured)

    @property
    def train_group(self) -> Callable[..., dict[str, np.ndarray]]:
        """The engine's."""
        return engine.train_group

    def options(self, device: str) -> dict[str, Any]:
        """Return what `mialab.engine.train_group` needs besides."""
        names = ("defense", "training", "queries", "seed", "keep", "answers", "probes")
        return {name: getattr(self, name) for name in names} | {"build": self.model, "device": device}

    def form(self, team: Team, device: str) -> tuple[str, int]:
        """Let a machine that trains say how it does so."""
        names = ("defense", "training", "seed")
        options = {name: getattr(self, name) for name in names}
        return team.ask_of_pool(_form, build=self.model, device=device, **options)

    def seconds_of_work(self) -> float:
        """Estimate by `mialab.engine.seconds_of_work`."""
        return engine.seconds_of_work(self.network(), self.pool, self.training)

    def _parts(self) -> list[str]:
        sources = SOURCES + ("signals.py",) * (self.keep == "scores") + ("probes.py",) * bool(self.probes)
        parts = [self.pool.fingerprint, self.pool.kind, torch.__version__, provenance.source_hash(*sources)]
        parts += [_describe(v) for v in (self.model, self.defense, self.training, self.queries)]
        parts += [str(v) for v in (self.n_models, self.canaries, self.seed, self.keep, self.answers)]
        parts += [
            str(self.members),
            "" if self.candidates is None else np.packbits(self.candidates).tobytes().hex(),
        ]
        return parts + [_describe(probe) for probe in self.probes]

    def attrs(self) -> dict:
        """Return what the game is, JSON-friendly."""
        return {
            **super().attrs(),
            "model": _name(self.model),
            "canaries": self.canaries,
            "keep": self.keep,
            "answers": self.answers,
            "layers": self.layers(),
        }

    def layers(self) -> list[str]:
        """Names of the network's layers, where their gradients are measured; else none."""
        if not any("layer" in DIMENSIONS[probe.array] for probe in self.probes):
            return []
        return list(layers(name for name, _ in self.network().named_parameters()))


def _name(model: Model) -> str:
    return getattr(model, "__qualname__", None) or repr(model)


def play(
    pool: Pool,
    model: str | Model = "mlp",
    defense: str | Defense | None = None,
    *,
    training: Training | None = None,
    n_models: int = 16,
    queries: str | Queries = "original",
    canaries: int = 0,
    members: int | None = None,
    candidates: np.ndarray | None = None,
    seed: int = 0,
    keep: Literal["logits", "scores"] = "logits",
    answers: Literal["float32", "float16"] = "float32",
    probes: str | Probe | Iterable[str | Probe] = (),
    workers: int | None = None,
    device: str = "auto",
    store: str | os.PathLike[str] | None = None,
) -> Game:
    """Train K models under one defense, each on a random half of a pool, and collect their answers.

    A game that was played before is read from the store; one that was interrupted goes on where it stopped.

    Parameters
    ----------
    pool : Pool
        The records, from `mialab.load`.
    model : {"mlp", "cnn", "resnet"} or callable
        The network, see `mialab.models`.
    defense : str, Defense or None
        The defense, see `mialab.defenses`; None for none.
    training : Training, optional
        How each model is trained; ``Training()`` by default.
    n_models : int
        Number of models K, even.
    queries : {"original", "augmented"} or Queries
        What every model is asked about each record, see `mialab.queries`.
    canaries : int
        How many records get a wrong label, to measure the risk of the most exposed records; even.
    members : int, optional
        Records that each model is trained on; by default half of those that may be.
    candidates : array_like of bool or int, optional
        Which records, a mask or indices, models may be trained on; all by default. All records are asked about. With
        disjoint candidates for targets and shadow models (`Game.with_shadows`), the attacker has other data.
    seed : int
        Decides memberships, initial weights, batches and noise; model k depends on ``(seed, k)`` alone.
    keep : {"logits", "scores"}
        What is stored of an answer: its logits, which any attack can use, or one float32 for each of
        `mialab.signals.SIGNALS`, which is less where there are more classes than those.
    answers : {"float32", "float16"}
        Type of stored logits.
    probes : {"gradient", "boundary"}, Probe, or several of these
        What is measured besides, while the models are at hand, for attacks that need it; see `mialab.probes`.
    workers : int, optional
        Worker processes; by default as many as joblib's active backend has, and none for games so small that
        starting processes would take longer.
    device : {"auto", "cpu", "cuda"}
        Where to train.
    store : str or path, optional
        Folder or URL where games are kept, e.g. ``"s3://bucket/mialab"``; by default what the environment variable
        ``MIALAB_GAMES`` says, or else ``games`` in the cache folder.

    Returns
    -------
    Game

    Raises
    ------
    ValueError, TypeError
        If a parameter is wrong, before any training.
    FloatingPointError
        If a training diverges; finished models stay stored.
    OSError
        If the store cannot be read or written to, here or by a worker; finished models stay stored.
    MemoryError
        If not even a single model fits a GPU's memory.

    Notes
    -----
    Inside ``joblib.parallel_config(backend="dask")`` the workers of the active dask client train. Device, precision
    and group sizes are then those that suit the worker that answers first, so all should be alike. They load the
    pool by its name, from a ``MIALAB_DATA`` of their own, and write to the store themselves.
    """
    device = choose("device", device, ("auto", "cpu", "cuda"))
    if workers is not None:
        check_integer("workers", workers, low=1)
    if not isinstance(pool, Pool):
        given = repr(pool) if isinstance(pool, str) else f"a {type(pool).__name__}"
        raise TypeError(f"pool is {given}; it must be a Pool, e.g. mialab.load('digits').")
    plan = ClassifierPlan(
        pool=pool,
        model=models.make(model),
        defense=defenses.make(defense),
        training=Training() if training is None else training,
        queries=make_queries(queries, pool),
        n_models=n_models,
        canaries=canaries,
        members=members,
        candidates=candidates,
        seed=seed,
        keep=keep,
        answers=answers,
        probes=make_probes(probes),
    )
    return Game(carry_out(plan, workers=workers, device=device, store=store))


def carry_out(
    plan: Plan, *, workers: int | None, device: str, store: str | os.PathLike[str] | None
) -> xr.Dataset:
    """Train what is not in the store yet, and open the game.

    Parameters
    ----------
    plan : Plan
        Everything that determines the game.
    workers, device, store
        See `play`.
    """
    games = games_root(store)
    team = backends.find(plan.pool, workers, shared=is_shared(games))
    device, plan = plan.resolve(team, device)
    kept = Store(games, plan.key())
    with kept.lock():
        kept.create(plan.layout(), plan.fixed(), plan.attrs())
        absent, damaged = kept.missing()
        if damaged:
            warnings.warn(
                f"Stored answers of models {damaged} are damaged; they are trained again.", stacklevel=3
            )
        todo = sorted(absent + damaged)
        if todo:
            _train(kept, plan, todo, team, device)
    return kept.open()


def _resolve(device: str, training: Training, network: torch.nn.Module) -> tuple[str, Training]:
    """Say on which kind of device, and with which arithmetic, this machine trains."""
    device = device_here(device)
    return device, engine.resolve(training, network, device)


def device_here(device: str) -> str:
    """Return ``"cpu"`` or ``"cuda"`` for a device that a user asks for; ValueError if it is unknown or not here."""
    choose("device", device, ("auto", "cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda' is not available here; use device='auto'.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _train(store: Store, plan: Plan, todo: list[int], team: Team, device: str) -> None:
    began = time.perf_counter()
    how, most = plan.form(team, device)
    # Processes pay for large games only; a GPU is kept busy by one.
    work = len(todo) * plan.seconds_of_work()
    workers = team.size(work if device == "cpu" else 0, threads=how == "stacked" and device == "cpu")
    groups = _groups(todo, most, workers, device)
    workers = min(workers, len(groups))
    before, options = store.attrs(), plan.options(device)
    peak = before.get("peak_mb", 0.0)
    with progress.bar(len(todo), f"training {plan.defense.name} on {plan.pool.name}") as advance:
        # A group is stored where it was trained, as soon as it is; an error or a kill loses only what is under way.
        for group, peak_mb in team.run(
            _train_group, groups, workers, store=store, form=how, train=plan.train_group, **options
        ):
            peak = max(peak, peak_mb)
            advance(len(group))
    store.set_attrs(
        {
            **provenance.collect(),
            "form": how,
            "device": device,
            "workers": workers,
            "seconds": before.get("seconds", 0.0) + time.perf_counter() - began,
            "peak_mb": peak,
            "threads_per_worker": 1,
        }
    )


def _form(
    *, pool: Pool, build: Model, defense: Defense, training: Training, seed: int, device: str
) -> tuple[str, int]:
    """Say how this machine trains such networks, and how many in a group at most."""
    network = engine.initialise(build, pool, seed, 0, defense)
    how = engine.form(network, engine.prepare(torch.as_tensor(pool.x[:2])), device)
    return how, engine.models_per_group(network, pool, training, device) if how == "stacked" else 1


def _groups(todo: list[int], most: int, workers: int, device: str) -> list[list[int]]:
    """Split models into groups of at most ``most``.

    On a CPU, which models share a group follows from the models alone, so that games come out the same to the last
    bit with any number of workers. On GPUs groups are large, but there is one for every worker.
    """
    if device == "cpu":
        groups = [[k for k in todo if k // most == g] for g in range(todo[-1] // most + 1)]
        return [group for group in groups if group]
    rounds = -(-len(todo) // (workers * most))
    size = -(-len(todo) // (workers * rounds))
    return [todo[i : i + size] for i in range(0, len(todo), size)]


def _train_group(
    models: list[int],
    *,
    store: Store,
    train: Callable[..., dict[str, np.ndarray]],
    form: str = "single",
    **options: Any,
) -> tuple[list[int], float]:
    """Train and store a group; return it with the peak memory of this process.

    Models that are there already are left alone: the group may have been given to another worker before, which died
    after storing some of it.
    """
    with ONE_GROUP if form == "single" else nullcontext():
        absent, damaged = store.missing(models)
        _train_and_store(sorted(absent + damaged), store, train, y=store.read("y"), **options)
    return models, _peak_mb()


def _train_and_store(
    models: list[int], store: Store, train: Callable[..., dict[str, np.ndarray]], **options: Any
) -> None:
    if not models:
        return
    try:
        store.write(models, train(models, member=store.read("member", models), **options))
        return
    except torch.OutOfMemoryError as error:
        if len(models) == 1:
            raise MemoryError(
                f"Model {models[0]} alone does not fit the memory of the device {options['device']!r}: lower "
                f"batch_size={options['training'].batch_size}, take a smaller network, or device='cpu'. ({error})"
            ) from error
    # Out here, the error is gone, and with it what its traceback kept in memory.
    torch.cuda.empty_cache()
    half = len(models) // 2
    for part in (models[:half], models[half:]):
        _train_and_store(part, store, train, **options)


def _peak_mb() -> float:
    """Largest resident memory of this process so far, in MB; memory-mapped records that it has read count."""
    status = Path("/proc/self/status")
    if status.exists():  # the figure of getrusage includes that of the process from which this one was forked
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    if resource is None:
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
