"""The game: K models, each trained on a random half of a pool, and all their answers on every record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from typing import Any, ClassVar, Self

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from mialab import provenance
from mialab._validation import check_integer, choose
from mialab.arrays import ACCURACIES, CANARY, MEMBER, PARTNER, SHADOW, TEST_CORRECT, ArraySpec, Y, read_arrays
from mialab.exceptions import RequirementsNotMet
from mialab.games.signals import Signal
from mialab.metrics.outcomes import Outcome
from mialab.queries import pairing
from mialab.training.streams import generator

#: Records whose memberships are complementary by design: of 64 halves drawn at random, with a chance below 1e-6.
SURELY = 32


class Game:
    """K models and what they say about every record of a pool, the same for all kinds of models.

    Models come in pairs with complementary halves of the pool as members, so every record is a member of exactly
    half of the models. Each model plays the target in turn. Its shadow models are all others but its partner, whose
    membership would give the target's away (see `excluded_models`).

    Attributes
    ----------
    dataset : xarray.Dataset
        Everything, with dimensions ``model``, ``query``, ``record``, ...
    attrs : dict
        How the game was made.
    member : numpy.ndarray of bool, shape (model, record)
        Whether the model was trained on the record.
    y, canary : numpy.ndarray of int64 and of bool, shape (record,)
        Labels, as trained on and as attacked; which records are canaries.
    partner : numpy.ndarray of int64, shape (model,)
        The model with the complementary members, or -1.
    train_accuracy, validation_accuracy, test_accuracy : numpy.ndarray of float64, shape (model,)
        Of each model on its members and on other parts of the pool; NaN if unknown.
    test_correct : numpy.ndarray of bool, shape (model, test record)
        Which records of the test part each model labels correctly.
    """

    #: What is attacked, e.g. "classifier".
    victim: ClassVar[str] = ""
    #: What shadow models must have in common with their targets.
    alike: ClassVar[tuple[str, ...]] = ("fingerprint", "queries", "n_classes")
    #: Arrays that such games may hold besides those of every game.
    arrays: ClassVar[tuple[ArraySpec, ...]] = ()
    #: What can be read off them of each record, by name.
    signals: ClassVar[Mapping[str, Signal]] = {}
    #: What `from_arrays` takes instead of arrays, and turns into these.
    instead: ClassVar[tuple[ArraySpec, ...]] = ()

    def __init__(self, dataset: xr.Dataset) -> None:
        mixed = dataset.attrs.get("mixed")
        if mixed and "pair" not in dataset:  # known from the start, so that it stays with what is cut out
            other = pairing(mixed["n_records"], mixed["seed"])
            dataset = dataset.assign(pair=("record", np.minimum(other, np.arange(other.size))))
        self.dataset = dataset
        self.attrs = dict(dataset.attrs)
        self._outcomes: dict[Any, Outcome] = {}

    @classmethod
    def specs(cls) -> dict[str, ArraySpec]:
        """Return all arrays that such games may hold, by name."""
        own = (*cls.arrays, *(signal.array for signal in cls.signals.values()))
        return {
            spec.name: spec for spec in (MEMBER, Y, PARTNER, CANARY, SHADOW, *own, *ACCURACIES, TEST_CORRECT)
        }

    @classmethod
    def from_arrays(
        cls,
        *,
        member: ArrayLike | None = None,
        members: Sequence[ArrayLike] | None = None,
        y: ArrayLike | None = None,
        partner: ArrayLike | None = None,
        canary: ArrayLike | None = None,
        shadow: ArrayLike | None = None,
        n_classes: int | None = None,
        name: str = "arrays",
        **arrays: ArrayLike | None,
    ) -> Self:
        """Make a game of what was computed elsewhere.

        Parameters
        ----------
        member : array_like of bool, shape (model, record)
            Whether the model was trained on the record.
        members : sequence of array_like of int
            Instead of ``member``: for each model the places, from 0, of the records it was trained on.
        y : array_like of int, shape (record,), optional
            Labels, 0 to C - 1; needed with answers for each label, otherwise all 0 by default.
        partner : array_like of int, shape (model,), optional
            For each model the one trained on exactly the other records (or on part of them), where models come in such
            pairs; -1 for none. By default they are found if all models come in pairs with exactly complementary
            members (of 32 records or more), and none is a shadow model only.
        canary : array_like of bool, shape (record,), optional
            Which records are canaries.
        shadow : array_like of bool, shape (model,), optional
            Which models are shadow models only; then no model that is a target helps against another one. By default
            none: every model is a target, and a shadow model of the others.
        n_classes : int, optional
            Number of classes; by default that of the answers, or else what the labels need, at least 2.
        name : str
            A name for tables and figures.
        **arrays : array_like
            What the models say, see `arrays` and `signals` of the class: answers, or signals alone, (model, query,
            record), where (model, record) stands for a single query; what probes measured; accuracies, (model,).
            Tensors will do as well.

        Raises
        ------
        ValueError
            If something cannot be read as an array, or shapes or values do not fit.
        """
        common = {"member": member, "y": y, "partner": partner, "canary": canary, "shadow": shadow}
        given = {key: value for key, value in (common | arrays).items() if value is not None}
        specs = cls.specs() | {spec.name: spec for spec in cls.instead}
        for key in arrays:
            choose("array", key, specs)
        if (member is None) == (members is None):
            raise ValueError(
                f"{'Neither member nor members is' if member is None else 'Both member and members are'} given: give "
                "member, of True and False (model, record), or members, the places of each model's members."
            )
        possible = list(dict.fromkeys([*(spec.name for spec in (*cls.arrays, *cls.instead)), *cls.signals]))
        if members is not None:
            given["member"] = mask_of(members, _n_records(given, specs))
        answers = [key for key in possible if key in given]
        if not answers:
            raise ValueError(
                f"There is nothing that the models say: give {possible[0]}, or {', '.join(possible[1:])}."
            )
        sizes = {}
        if n_classes is not None:
            check_integer("n_classes", n_classes, low=2)
            sizes["label"] = int(n_classes)
        values, sizes = read_arrays(specs.values(), given, sizes)
        if sizes.get("label", 2) < 2:
            raise ValueError(f"{answers[0]} has {sizes['label']} classes; there must be at least 2.")
        if any("label" in specs[key].dims for key in given) and y is None:
            raise ValueError("y is missing: give the label of each record.")
        labels = [value for key, value in values.items() if specs[key].indexes == "label"]
        sizes.setdefault("label", max([2, *(1 + int(value.max()) for value in labels)]))
        values = {key: specs[key].check(value, sizes) for key, value in values.items()}
        n_models, n_records = values["member"].shape
        defaults = {"partner": np.full(n_models, -1), "shadow": np.zeros(n_models, bool)}
        defaults |= {"y": np.zeros(n_records, np.int64), "canary": np.zeros(n_records, bool)}
        values = defaults | values
        # Who has shadow models apart knows who is a partner.
        if partner is None and not values["shadow"].any():
            values["partner"] = complements(values["member"])
        if values["shadow"].all():
            raise ValueError("shadow is True for all models: one at least must be a target.")
        for k in np.flatnonzero(~values["shadow"]):
            row = values["member"][k]
            if row.all() or not row.any():
                raise ValueError(
                    f"member[{k}] is all {bool(row[0])}: a target needs members and non-members."
                )
        _check_partners(values["partner"], values["member"])
        return cls(
            xr.Dataset(
                {key: (specs[key].dims, value) for key, value in values.items()},
                attrs={
                    "dataset": name,
                    "defense": "unknown",
                    "n_models": n_models,
                    "n_classes": sizes["label"],
                    "probes": sorted(specs[key].probe for key in values if specs[key].probe),
                    "layers": [f"layer {i}" for i in range(sizes.get("layer", 0))],
                    **dict.fromkeys(("seed", "device", "seconds")),
                    **provenance.collect(),
                },
            )
        )

    def __getattr__(self, name: str) -> np.ndarray:
        """Return an array, in double precision if it is of numbers; RequirementsNotMet if there is none."""
        spec = type(self).specs().get(name)
        if spec is None:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")
        if name not in self.dataset and spec in ACCURACIES:
            return np.full(self.n_models, np.nan)
        if name not in self.dataset:
            raise RequirementsNotMet(spec.missing)
        values = self.dataset[name].to_numpy()
        self.__dict__[name] = values.astype(np.float64) if values.dtype.kind == "f" else values
        return self.__dict__[name]

    def signal(self, name: str) -> np.ndarray:
        """Return one number for each record and query, float64 (model, query, record), higher for members; kept.

        NaN for records that a probe left out; of one query where all are measured together.

        Raises
        ------
        ValueError, RequirementsNotMet
            If the name is none of `signals`; if the game holds neither the signal nor what it is computed from.
        """
        choose("signal", name, self.signals)
        known = self.__dict__.setdefault("_signals", {})
        if name not in known:
            known[name] = self.signals[name].of(self.dataset, self.y)
        return known[name]

    def __repr__(self) -> str:
        a, n_samples = self.attrs, self.dataset.sizes.get("sample")
        said = [f"{self.n_models} models", f"{self.n_queries} queries", f"{self.n_records} records"]
        said += [f"{self.n_classes} classes"] * bool(self.y.any())
        more = f", {self.canary.sum()} canaries" * bool(self.canary.any())
        more += f", {n_samples} samples each" * bool(n_samples)
        kind = type(self).__name__
        return f"{kind}({a.get('dataset')}, defense={a.get('defense')}: {' x '.join(said)}{more})"

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
    def excluded_models(self) -> np.ndarray:
        """The model that is no shadow of a target besides the target itself, int64 (target, record); -1 for none.

        Where every record is a member of exactly half of the models, the count of its members among the *other*
        models gives the target's membership away, and attacks that learn per record err systematically (their AUC
        falls below 0.5 when there is nothing to find). So one model with the opposite membership is left out too:
        the target's partner, or, where models are not paired, one drawn at random for each record.
        """
        if self.attrs.get("leave_one_out") == "plain":
            return np.full(self.member.shape, -1)
        if self.attrs.get("leave_one_out") == "first":
            # What is learned from the shadow models must know nothing of the target, the first model.
            return np.repeat(np.minimum(np.arange(self.n_models), 1)[:, None] - 1, self.n_records, axis=1)
        if (self.partner >= 0).any():
            return np.broadcast_to(self.partner[:, None], self.member.shape)
        excluded_models = np.full(self.member.shape, -1)
        if (2 * self.member.sum(0) != self.n_models).any():
            return excluded_models  # memberships that were not balanced give nothing away
        keys = generator(0, "left out").random(self.member.shape)
        sides = (np.argsort(np.where(side, keys, 2), axis=0) for side in (self.member, ~self.member))
        inside, outside = (order[: self.n_models // 2] for order in sides)
        np.put_along_axis(excluded_models, inside, outside, axis=0)
        np.put_along_axis(excluded_models, outside, inside, axis=0)
        return excluded_models

    def plain_leave_one_out(self) -> Self:
        """Return the same game with all models but the target as its shadow models, as most published code has it.

        For comparison with other code: in a balanced game this errs systematically, see `excluded_models`.
        """
        return type(self)(self.dataset.assign_attrs(leave_one_out="plain"))

    def outcome(
        self, attack: str | Outcome | Callable[[Game], np.ndarray] | Any, pool: Any = None
    ) -> Outcome:
        """Attack every model in turn; an attack is run once and its outcome kept with this game.

        Parameters
        ----------
        attack : str, Attack, callable or Outcome
            A name of `mialab.attacks.available`, an attack, a function from a game to scores (model, record); or the
            outcome of an attack on this game, which is returned.
        pool : Pool, optional
            The records that were played with, for attacks that look at them.

        Raises
        ------
        RequirementsNotMet
            If the game lacks what the attack needs.
        ValueError
            If the name is unknown, or the outcome is not of this game's members.
        """
        if isinstance(attack, Outcome):
            if not np.array_equal(attack.member, self.member):
                raise ValueError(
                    f"The outcome of {attack.attack!r} is not of this game: it has other members. Give the attack."
                )
            return attack
        attack = import_module("mialab.attacks").make(attack, pool)  # which a game knows nothing of
        try:
            known = attack in self._outcomes
        except TypeError:  # a parameter without a hash, such as a list
            return attack.run(self)
        if not known:
            self._outcomes[attack] = attack.run(self)
        return self._outcomes[attack]

    @cached_property
    def varied(self) -> np.ndarray:
        """Which records are members of some models and not of others, bool (record,); all, in games from `play`."""
        return np.asarray(self.member.any(0) & ~self.member.all(0))

    def with_shadows(self, shadows: Game) -> Self:
        """Return the game of these models as targets against other shadow models: those of another game.

        So the attacker's shadow models may have been trained on other records, on fewer, with another network or under
        another defense than the targets, see the parameters of `play`. They must have been queried the same about the
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
            if mine != other and None not in (mine, other):  # of answers from elsewhere, little is known
                raise ValueError(
                    f"shadows were played with {name}={other!r}; it must be that of the targets, {mine!r}."
                )
        if self.y.shape != shadows.y.shape or (self.y != shadows.y).any():
            raise ValueError("shadows have other records, or canaries with other labels, than the targets.")
        if self.n_queries != shadows.n_queries:
            raise ValueError(f"shadows have {shadows.n_queries} queries and the targets {self.n_queries}.")
        if self.member.shape == shadows.member.shape and (self.member == shadows.member).all():
            raise ValueError(
                f"shadows have the memberships of the targets: play them with another seed than {self.attrs['seed']}."
            )
        probes = [name for name in self.probes if _measured_alike(name, self.attrs, shadows.attrs)]
        dropped = ["shadow", *(s.name for s in self.specs().values() if s.probe and s.probe not in probes)]
        both = [
            game.dataset.drop_dims("checkpoint", errors="ignore").drop_vars(dropped, errors="ignore")
            for game in (self, shadows)
        ]
        both[1] = both[1].assign(partner=both[1]["partner"] + self.n_models * (both[1]["partner"] >= 0))
        shared = [v for v in both[0].variables if v in both[1].variables]
        varying = [v for v in shared if "model" in both[0][v].dims]
        both = [part[varying] for part in both]
        fixed: dict[Any, Any] = {v: self.dataset[v] for v in shared if v not in varying}
        fixed["shadow"] = ("model", np.repeat([False, True], [self.n_models, shadows.n_models]))
        fixed["candidate"] = ("record", self.candidate)
        dataset = xr.concat(both, "model").assign(fixed)
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


def mask_of(members: Sequence[ArrayLike], n_records: int) -> np.ndarray:
    """Return who is a member of which model, bool (model, record), given the places of each model's members.

    Raises
    ------
    ValueError
        If places are no integers, appear twice, or lie beyond the records.
    """
    mask = np.zeros((len(members), n_records), bool)
    for k, places in enumerate(members):
        at = np.asarray(places)
        if at.ndim != 1 or at.dtype.kind not in "iu" or not at.size:
            raise ValueError(
                f"members[{k}] must be a list of integers, the places of records; it is {at.dtype} of shape {at.shape}."
            )
        if at.min() < 0 or at.max() >= n_records or len(np.unique(at)) < len(at):
            raise ValueError(
                f"members[{k}] holds places from {at.min()} to {at.max()}, {len(at) - len(np.unique(at))} of them "
                f"twice; each must be given once, and lie between 0 and {n_records - 1}."
            )
        mask[k, at] = True
    return mask


def _n_records(given: Mapping[str, Any], specs: Mapping[str, ArraySpec]) -> int:
    """Return how many records there are by the first array that has one of its last dimensions for them."""
    for name, value in given.items():
        dims = specs[name].dims
        if "record" in dims:
            return np.shape(value)[dims.index("record") - len(dims)]
    raise ValueError("There is nothing that the models say of the records that members name.")


def complements(member: np.ndarray) -> np.ndarray:
    """Find pairs of models with exactly complementary members, but for records of no model, int64 (model,).

    -1 for all where not every model is in such a pair, or where there are fewer than `SURELY` records, whose halves may
    be complementary by chance.
    """
    partner = np.full(len(member), -1)
    used = member[:, member.any(0)]
    if used.shape[1] < SURELY or not member.any(1).all():
        return partner
    waiting: dict[bytes, list[int]] = {}
    for k, row in enumerate(np.packbits(used, axis=1)):
        opposite = np.packbits(~used[k]).tobytes()
        if waiting.get(opposite):
            other = waiting[opposite].pop(0)
            partner[k], partner[other] = other, k
        else:
            waiting.setdefault(row.tobytes(), []).append(k)
    return partner if (partner >= 0).all() else np.full(len(member), -1)


def _check_partners(partner: np.ndarray, member: np.ndarray) -> None:
    for k, other in enumerate(partner):
        if other >= 0 and (partner[other] != k or (member[k] & member[other]).any()):
            raise ValueError(
                f"partner[{k}]={other}, but models {k} and {other} are no pair: each must be the other's partner, and "
                "a record a member of one of them at most. Leave partner out if models do not come in pairs."
            )


def _check_models(n_models: Any) -> None:
    check_integer("n_models", n_models, low=2)
    if n_models % 2:
        raise ValueError(
            f"n_models={n_models} must be even: models come in pairs, each trained on the half that the other lacks."
        )
