"""The game: K models, each trained on a random half of a pool, and all their answers on every record."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import joblib
import numpy as np
import torch
import xarray as xr

from mialab import defenses, engine, models, progress, provenance
from mialab.data import Pool
from mialab.defenses.base import Defense
from mialab.engine import Training
from mialab.identity import describe
from mialab.membership import membership, mislabel
from mialab.models import Model
from mialab.options import check_integer, choose
from mialab.queries import Queries
from mialab.queries import make as make_queries
from mialab.randomness import generator
from mialab.store import DIMENSIONS, PER_MODEL, Store

#: Source files that decide what a trained model is, besides those of the options in use; a change in one of them,
#: other than in comments and docstrings, makes stored games outdated.
SOURCES = ("randomness.py", "membership.py", "engine.py", "defenses/base.py")
#: Models of a stacked group on a CPU, at most: more are hardly faster, and what a kill loses is a group.
MODELS_PER_GROUP = 16


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

    def __init__(self, dataset: xr.Dataset) -> None:
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
        raw_logits: np.ndarray | None = None,
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
            For each model the one trained on exactly the other records, where models come in such pairs; -1 for
            none (the default).
        canary : array_like of bool, shape (record,), optional
            Which records are canaries.
        raw_logits : array_like of float, optional
            Answers before a defense's output step, if it has one.
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
        expected = {"member": (n_models, n_records), "y": (n_records,)}
        given: dict[str, np.ndarray] = {"member": member, "y": y}
        optional = {
            "partner": (partner, (n_models,)),
            "canary": (canary, (n_records,)),
            "raw_logits": (raw_logits, logits.shape),
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
        for key in [name for name in ("member", "canary") if name in given]:
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
        for k, row in enumerate(given["member"]):
            if row.all() or not row.any():
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

    @cached_property
    def logits(self) -> np.ndarray:
        """Answers as the attacker gets them, shape (model, query, record, label)."""
        return self.dataset["logits"].to_numpy()

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

    @property
    def n_models(self) -> int:
        """Number of models."""
        return self.dataset.sizes["model"]

    @property
    def n_queries(self) -> int:
        """Number of queries per record."""
        return self.dataset.sizes["query"]

    @property
    def n_records(self) -> int:
        """Number of records."""
        return self.dataset.sizes["record"]

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return self.dataset.sizes["label"]

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

        Raises
        ------
        ValueError
            If the defense does not change answers.
        """
        if "raw_logits" not in self.dataset:
            raise ValueError(f"The defense {self.attrs.get('defense')!r} has no output step to leave out.")
        dataset = self.dataset.drop_vars("logits").rename(raw_logits="logits")
        return type(self)(dataset.assign_attrs(output_step=False))

    @cached_property
    def varied(self) -> np.ndarray:
        """Which records are members of some models and not of others, bool (record,); all, in games from `play`."""
        return self.member.any(0) & ~self.member.all(0)

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


def _check_partners(partner: np.ndarray, member: np.ndarray) -> None:
    if not np.issubdtype(partner.dtype, np.integer) or partner.min() < -1 or partner.max() >= len(member):
        raise ValueError(
            f"partner must hold indices of models, 0 to {len(member) - 1}, or -1 for none; it holds {partner}."
        )
    for k, other in enumerate(partner):
        if other >= 0 and (partner[other] != k or (member[k] == member[other]).any()):
            raise ValueError(
                f"partner[{k}]={other}, but models {k} and {other} are no pair: each must be the other's partner, and "
                "a record a member of exactly one of them. Leave partner out if models do not come in pairs."
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


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that determines a game, checked."""

    pool: Pool
    model: Model
    defense: Defense
    training: Training
    queries: Queries
    n_models: int
    canaries: int
    seed: int

    def __post_init__(self) -> None:
        if not isinstance(self.training, Training):
            raise TypeError(
                f"training={self.training!r} must be a mialab.Training, e.g. Training(epochs=50)."
            )
        _check_models(self.n_models)
        check_integer("seed", self.seed)
        check_integer("canaries", self.canaries)
        for name in ("n_models", "seed", "canaries"):
            object.__setattr__(self, name, int(getattr(self, name)))
        n = len(self.pool)
        if n % 2:
            raise ValueError(
                f"The pool has {n} records; complementary halves need an even number: load size={n - 1}."
            )
        if self.canaries % 2 or self.canaries > n:
            raise ValueError(f"canaries={self.canaries} must be even and at most {n}, the number of records.")
        if self.training.select == "best_validation" and not len(self.pool.x_val):
            raise ValueError(
                "select='best_validation' needs a validation part: load the pool with validation=...."
            )
        self.defense.check(self.pool)
        self._try_model()

    def _try_model(self) -> None:
        network = engine.initialise(self.model, self.pool, self.seed, 0)
        if not isinstance(network, torch.nn.Module):
            raise TypeError(f"model={_name(self.model)} must return a torch.nn.Module, not {network!r}.")
        with torch.inference_mode():
            shape = tuple(network.eval()(engine.prepare(torch.as_tensor(self.pool.x[:2]))).shape)
        if shape != (2, self.pool.n_classes):
            raise ValueError(
                f"model={_name(self.model)} answers 2 records with shape {shape}; "
                f"it must be (2, {self.pool.n_classes})."
            )

    def key(self) -> str:
        """Name and hash under which the game is stored."""
        parts = [self.pool.fingerprint, self.pool.kind, torch.__version__, provenance.source_hash(*SOURCES)]
        parts += [_describe(v) for v in (self.model, self.defense, self.training, self.queries)]
        parts += [str(v) for v in (self.n_models, self.canaries, self.seed)]
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
        return f"{self.pool.name}-{self.defense.name}-{digest}"

    def attrs(self) -> dict:
        """Return what the game is, JSON-friendly."""
        return {
            "dataset": self.pool.name,
            "fingerprint": self.pool.fingerprint,
            "model": _name(self.model),
            "defense": self.defense.name,
            "defense_parameters": dataclasses.asdict(self.defense),
            "training": dataclasses.asdict(self.training),
            "queries": repr(self.queries),
            "n_models": self.n_models,
            "canaries": self.canaries,
            "seed": self.seed,
        }


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
    seed: int = 0,
    workers: int | None = None,
    device: str = "auto",
) -> Game:
    """Train K models under one defense, each on a random half of a pool, and collect their answers.

    A game that was played before is read from the cache; one that was interrupted goes on where it stopped.

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
    seed : int
        Decides memberships, initial weights, batches and noise; model k depends on ``(seed, k)`` alone.
    workers : int, optional
        Worker processes; by default as many as joblib's active backend has, and none for games so small that
        starting processes would take longer.
    device : {"auto", "cpu", "cuda"}
        Where to train.

    Returns
    -------
    Game

    Raises
    ------
    ValueError, TypeError
        If a parameter is wrong, before any training.
    FloatingPointError
        If a training diverges; finished models stay stored.
    """
    device = choose("device", device, ("auto", "cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda' is not available here; use device='auto'.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if workers is not None:
        check_integer("workers", workers, low=1)
    if not isinstance(pool, Pool):
        given = repr(pool) if isinstance(pool, str) else f"a {type(pool).__name__}"
        raise TypeError(f"pool is {given}; it must be a Pool, e.g. mialab.load('digits').")
    plan = Plan(
        pool=pool,
        model=models.make(model),
        defense=defenses.make(defense),
        training=Training() if training is None else training,
        queries=make_queries(queries, pool),
        n_models=n_models,
        canaries=canaries,
        seed=seed,
    )
    store = Store(plan.key())
    y, canary = mislabel(pool.y, pool.n_classes, canaries, seed)
    member = membership(n_models, len(pool), seed, canary)
    with store.lock():
        _lay_out(store, plan, member, y, canary)
        absent, damaged = store.missing()
        if damaged:
            warnings.warn(
                f"Stored answers of models {damaged} are damaged; they are trained again.", stacklevel=2
            )
        todo = sorted(absent + damaged)
        if todo:
            _train(store, plan, member, y, todo, workers, device)
    return Game(store.open())


def _lay_out(store: Store, plan: Plan, member: np.ndarray, y: np.ndarray, canary: np.ndarray) -> None:
    answers = (plan.n_models, len(plan.queries), len(plan.pool), plan.pool.n_classes)
    names = [n for n in PER_MODEL if n != "raw_logits" or plan.defense.changes_answers]
    shapes = {n: answers if n.endswith("logits") else (plan.n_models,) for n in names}
    partner = np.arange(plan.n_models) ^ 1
    store.create({"member": member, "partner": partner, "y": y, "canary": canary}, shapes, plan.attrs())


def _train(
    store: Store,
    plan: Plan,
    member: np.ndarray,
    y: np.ndarray,
    todo: list[int],
    workers: int | None,
    device: str,
) -> None:
    network = engine.initialise(plan.model, plan.pool, plan.seed, 0)
    how = engine.form(network, engine.prepare(torch.as_tensor(plan.pool.x[:2])), device)
    n_parameters = sum(p.numel() for p in network.parameters())
    groups, workers = _groups(todo, how, n_parameters, plan, workers, device)
    began = time.perf_counter()
    tasks = (
        joblib.delayed(_train_group)(
            group,
            pool=plan.pool,
            y=y,
            member=member[group],
            build=plan.model,
            defense=plan.defense,
            training=plan.training,
            queries=plan.queries,
            seed=plan.seed,
            device=device,
        )
        for group in groups
    )
    with progress.bar(len(todo), f"training {plan.defense.name} on {plan.pool.name}") as advance:
        # A group is written as soon as it is there; an error or a kill loses only the groups that are under way.
        for group, arrays in joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(tasks):
            store.write(group, arrays)
            advance(len(group))
    store.set_attrs(
        {
            **provenance.collect(),
            "form": how,
            "device": device,
            "workers": workers,
            "seconds": store.open().attrs.get("seconds", 0.0) + time.perf_counter() - began,
            "threads_per_worker": 1,
        }
    )


def _train_group(models: list[int], **options: Any) -> tuple[list[int], dict[str, np.ndarray]]:
    return models, engine.train_group(models, **options)


def _groups(
    todo: Sequence[int], how: str, n_parameters: int, plan: Plan, workers: int | None, device: str
) -> tuple[list[list[int]], int]:
    """Split the models to train into groups, and say how many worker processes train them."""
    if workers is None:
        steps = plan.training.epochs * len(plan.pool) / 2
        # Multiply-adds of a forward and a backward pass; below some 10 seconds' worth, processes start too slowly.
        small = 6 * n_parameters * steps * len(todo) < 2e11
        workers = 1 if device != "cpu" or small else joblib.effective_n_jobs(-1)
    size = 1
    if how == "stacked":
        most = (
            len(todo) if device != "cpu" else min(MODELS_PER_GROUP, engine.GROUP_PARAMETERS // n_parameters)
        )
        rounds = -(-len(todo) // (workers * max(1, most)))
        size = -(-len(todo) // (workers * rounds))
    groups = [list(todo[i : i + size]) for i in range(0, len(todo), size)]
    return groups, min(workers, len(groups))
