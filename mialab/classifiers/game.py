"""Games of classifiers."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
import xarray as xr

from mialab import models
from mialab._registry import Registry
from mialab._validation import check_integer, check_number, choose
from mialab.arrays import ACCURACIES, CHECKPOINT, TEST_CORRECT, ArraySpec
from mialab.classifiers import run as classifier_run
from mialab.classifiers.answers import FLOOR, is_estimator, log_probabilities
from mialab.classifiers.signals import ANSWERS, LOGITS, SIGNALS
from mialab.data.pool import Pool
from mialab.defenses.base import DEFENSES, Defense
from mialab.exceptions import RequirementsNotMet
from mialab.games import base, identity
from mialab.games.backends import Team, device_here
from mialab.games.execution import execute
from mialab.games.plan import STORED, Form, Plan
from mialab.games.signals import Signal
from mialab.models import Model
from mialab.probes import PROBES
from mialab.probes.base import Probe
from mialab.probes.gradient import layers
from mialab.queries import Queries
from mialab.training import stack
from mialab.training.membership import mislabel
from mialab.training.options import Training

#: Modules that decide what a trained model is, besides those of the options in use, by names that stay when files move;
#: a change in one of them, other than in imports, comments and docstrings, makes stored games outdated.
SOURCES = {
    "streams": "training.streams",
    "membership": "training.membership",
    "stack": "training.stack",
    "options": "training.options",
    "hooks": "training.hooks",
    "group": "training.group",
    "run": "classifiers.run",
    "augmentation": "training.augmentation",
    "defense": "defenses.base",
    "models": "models",
    "queries": "queries",
    "probe": "probes.base",
}
#: The same for signals, which count where they are stored.
SIGNAL_SOURCES = {"signal": "games.signals", "signals": "classifiers.signals"}


#: One number for each record and query, whatever it is.
SCORE = dataclasses.replace(
    LOGITS,
    name="score",
    dims=LOGITS.dims[:-1],
    remedy="give score to from_arrays: any number, higher for members",
)
#: What may be given instead of logits.
PROBABILITIES = dataclasses.replace(
    LOGITS, name="probabilities", low=0, high=1, hint="logits are given as logits=..."
)
LABELS = ArraySpec("labels", LOGITS.dims[:-1], "int64", indexes="label", optional="query")
#: The loss that an exact 0 stands for.
LEAST_LOSS = 1e-8


class Game(base.Game):
    """K classifiers and their answers on every record of a pool; made by `play` or `Game.from_arrays`.

    Models come in pairs with complementary halves of the pool as members, so every record is a member of exactly
    half of the models. Each model plays the target in turn. Its shadow models are all others but its partner, whose
    membership would give the target's away (see `excluded_models`).

    Attributes
    ----------
    dataset : xarray.Dataset
        Everything, with dimensions ``model``, ``query``, ``record``, ``label``.
    attrs : dict
        How the game was made.
    gradient_norm, boundary_distance : numpy.ndarray of float64
        What probes measured, (model, record, layer) and (model, record), see `mialab.probes`.
    """

    victim: ClassVar[str] = "classifier"
    alike: ClassVar[tuple[str, ...]] = (*base.Game.alike, "keep")
    arrays: ClassVar[tuple[ArraySpec, ...]] = (
        *ANSWERS,
        LOGITS.raw(),
        *(probe.array for probe in PROBES.values()),
    )
    signals: ClassVar[Mapping[str, Signal]] = SIGNALS | {
        "boundary_distance": Signal(PROBES["boundary"].array),
        "score": Signal(SCORE),
    }
    instead: ClassVar[tuple[ArraySpec, ...]] = (PROBABILITIES, LABELS)

    @classmethod
    def from_arrays(cls, *, floor: float = FLOOR, **arrays: Any) -> Self:  # type: ignore[override]  # passes all on
        """Make a game of answers that were computed elsewhere.

        See `mialab.games.base.Game.from_arrays` for what is the same for all kinds of models.

        Parameters
        ----------
        floor : float
            Least probability, in (0, 0.5]: where ``probabilities`` are smaller, or exactly 0, they count as this. It
            decides how sure an answer can be, so attacks on such answers depend on it.
        **arrays : array_like
            One of these at least, (model, record, ...) or (model, query, record, ...):

            - ``logits``, with the labels as the last dimension; log-probabilities are logits;
            - ``probabilities``, with the labels as the last dimension, which add up to 1;
            - ``labels`` that were predicted, 0 to C - 1, if that is all there is;
            - one number for each record: ``loss``, the cross-entropy, of which LiRA's statistic follows as well; any
              other of `mialab.classifiers.signals.SIGNALS`, as the field defines it (losses, entropies and ranks are
              lower for members); or ``score``, whatever is higher for members, such as minus a squared error.

        Raises
        ------
        ValueError
            If shapes or values do not fit, the logits are probabilities, or the probabilities are none.
        """
        check_number("floor", floor, above=0, high=0.5)
        if arrays.get("logits") is not None and arrays.get("probabilities") is not None:
            raise ValueError("logits and probabilities are both given: give one of them.")
        dataset = super().from_arrays(**arrays).dataset
        if LOGITS.name in dataset:
            some = dataset[LOGITS.name][:, :, :1000].to_numpy().astype(np.float64)
            if some.min() >= 0 and np.allclose(some.sum(-1), 1, atol=1e-3):
                raise ValueError(
                    "logits are probabilities: none is below 0, and they add up to 1. Taken for logits, they would "
                    "hide most of what LiRA finds: give them as probabilities=..., with a floor where some are 0."
                )
        if PROBABILITIES.name in dataset:
            p = dataset[PROBABILITIES.name].astype(np.float64)
            sums = p.sum("label")
            if not np.allclose(sums, 1, atol=1e-2):
                raise ValueError(
                    f"probabilities add up to {float(sums.min()):.3g} to {float(sums.max()):.3g} over the labels; it "
                    "must be 1."
                )
            dataset = dataset.drop_vars(PROBABILITIES.name).assign(
                logits=(p.dims, log_probabilities(p.to_numpy(), floor))
            )
            of_label = np.take_along_axis(p.to_numpy(), dataset["y"].to_numpy()[None, None, :, None], axis=-1)
            extreme = float(((of_label < floor) | (of_label > 1 - floor)).mean())
            dataset = dataset.assign_attrs(floor=floor, answers_at_floor=extreme)
        if LABELS.name in dataset:
            right = dataset[LABELS.name] == dataset["y"]
            dataset = dataset.drop_vars(LABELS.name).assign(
                correctness=(right.dims, right.to_numpy().astype(np.float64))
            )
        if "loss" in dataset and not {"logits", "scaled_logit"} & set(dataset.data_vars):
            # log p - log(1 - p) of p = exp(-loss); an exact 0 was rounded.
            loss = np.maximum(dataset["loss"].to_numpy().astype(np.float64), LEAST_LOSS)
            dataset = dataset.assign(scaled_logit=(dataset["loss"].dims, -loss - np.log(-np.expm1(-loss))))
        return cls(dataset)

    @property
    def lazy_logits(self) -> xr.Variable:
        """Answers as the attacker gets them, read from the store when they are used."""
        if "logits" not in self.dataset:
            raise RequirementsNotMet(
                "This game holds signals alone and has no logits: play it with keep='logits', or ask for what can be "
                "had from signals."
            )
        return self.dataset["logits"].variable

    @cached_property
    def logits(self) -> np.ndarray:
        """Answers as the attacker gets them, shape (model, query, record, label)."""
        return self.lazy_logits.to_numpy()

    def before_output_step(self) -> Self:
        """Return the same game with the answers before the defense's output step: a what-if, no real attacker.

        What was measured on labels as released (the boundary) is left out.

        Raises
        ------
        ValueError
            If the defense does not change answers.
        """
        before = {f"raw_{a.name}": a.name for a in ANSWERS if f"raw_{a.name}" in self.dataset}
        if not before:
            raise ValueError(f"The defense {self.attrs.get('defense')!r} has no output step to leave out.")
        released = [*before.values(), "boundary_distance"]
        dataset = self.dataset.drop_dims("checkpoint", errors="ignore")
        dataset = dataset.drop_vars(released, errors="ignore").rename(before)
        probes = [name for name in self.probes if name != "boundary"]
        return type(self)(dataset.assign_attrs(output_step=False, probes=probes))

    def at(self, epoch: int) -> Self:
        """Return the game of models whose training stops after an epoch: the last one, or one of the checkpoints.

        The same to the last bit as one played with ``Training(stop=epoch)``; models of earlier epochs are without what
        probes measured and how long they took.

        Parameters
        ----------
        epoch : int
            One of ``Training(checkpoints=...)``, or the last one.

        Raises
        ------
        ValueError
            If the game holds no answers of that epoch.
        """
        check_integer("epoch", epoch, low=1)
        known = self.__dict__.setdefault("_at", {})
        if epoch not in known:
            known[epoch] = type(self)(self._dataset_at(epoch))
        return known[epoch]

    def _dataset_at(self, epoch: int) -> xr.Dataset:
        training = self.attrs.get("training") or {}
        last = training.get("stop") or training.get("epochs")
        earlier = self.dataset["checkpoint"].to_numpy().tolist() if "checkpoint" in self.dataset else []
        if epoch not in (*earlier, last):
            there = f"those after epochs {[*earlier, last]}" if last else "none of a known epoch"
            raise ValueError(
                f"epoch={epoch!r}: this game holds no such answers, but {there}. Play it with training="
                "Training(..., checkpoints=...); views such as before_output_step() are taken after at(), not before."
            )
        if epoch == last:
            final = self.dataset.drop_dims("checkpoint", errors="ignore")
            return final.assign_attrs(training={**training, "checkpoints": []})
        dataset = self.dataset.sel(checkpoint=epoch, drop=True)
        variables = [str(v) for v in dataset.data_vars]
        names = {v: v.removeprefix("checkpoint_") for v in variables if v.startswith("checkpoint_")}
        measured = [spec.name for spec in self.arrays if spec.probe]
        dataset = dataset.drop_vars(["seconds", *measured, *names.values()], errors="ignore").rename(names)
        return dataset.assign_attrs(
            training={**training, "stop": int(epoch), "checkpoints": []},
            report=self.attrs["checkpoint_reports"][earlier.index(epoch)],
            probes=[],
            probe_parameters={},
            layers=[],
        )


def stored_arrays(
    keep: Literal["logits", "scores"],
    answers: Literal["float32", "float16"],
    *,
    raw: bool,
    probes: Iterable[Probe] = (),
    checkpoints: bool = False,
    tested: bool = True,
) -> tuple[ArraySpec, ...]:
    """Return the arrays of a stored game, see `play`.

    Parameters
    ----------
    keep, answers, probes
        What is stored, see `play`.
    raw, checkpoints : bool
        Whether answers before the defense's output step are stored too, and those after earlier epochs.
    tested : bool
        Whether there are test records.
    """
    kept = (dataclasses.replace(LOGITS, dtype=answers),) if keep == "logits" else ANSWERS[1:]
    kept = (*kept, *(array.raw() for array in kept if raw), *ACCURACIES, *([TEST_CORRECT] * tested))
    earlier = (CHECKPOINT, *(array.at_checkpoints() for array in kept)) if checkpoints else ()
    return (*STORED, *kept, *(p.array for p in probes), *earlier)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierPlan(Plan):
    """Everything that determines a game of classifiers, checked."""

    example: ClassVar[str] = "mialab.Training, e.g. Training(epochs=50)"
    options_class: ClassVar[type] = Training
    defenses: ClassVar[Registry[Any]] = DEFENSES
    known_probes: ClassVar[Registry[Any]] = PROBES
    engine: ClassVar[ModuleType] = classifier_run
    needs: ClassVar[tuple[str, ...]] = (*Plan.needs, "keep", "answers")

    model: Any = "mlp"
    canaries: int = 0
    keep: Literal["logits", "scores"] = "logits"
    answers: Literal["float32", "float16"] = "float32"

    def __post_init__(self) -> None:
        check_integer("canaries", self.canaries)
        super().__post_init__()
        self._set(canaries=int(self.canaries))
        if self.canaries and (self.members is not None or self.candidates is not None):
            raise ValueError(f"canaries={self.canaries} do not go with members or candidates.")
        n = len(self.pool)
        if self.canaries % 2 or self.canaries > n:
            raise ValueError(f"canaries={self.canaries} must be even and at most {n}, the number of records.")
        choose("keep", self.keep, ("logits", "scores"))
        choose("answers", self.answers, ("float32", "float16"))
        if self.keep == "scores" and self.answers != "float32":
            raise ValueError(f"answers={self.answers!r} goes with keep='logits': scores are float32 always.")
        self._prepare()

    def _prepare(self) -> None:
        """Check what is about networks: the training, the defense, and the network itself."""
        self._set(model=_builder(self.model))
        self.training.check(self.pool)
        if self.training.checkpoints and self.defense.uses("fit"):
            raise ValueError(
                f"checkpoints={self.training.checkpoints} are epochs of one plain training; defense="
                f"{self.defense.name!r} has a procedure of its own (`fit`): play it with stop=... for each of them."
            )
        self._try_model()
        self.defense.check(self)

    def _try_model(self) -> None:
        network = self.network()
        if not isinstance(network, torch.nn.Module):
            raise TypeError(f"model={_name(self.model)} must return a torch.nn.Module, not {network!r}.")
        with torch.inference_mode():
            shape = tuple(network.eval()(stack.prepare(torch.as_tensor(self.pool.x[:2]))).shape)
        if shape != (2, self.pool.n_classes):
            raise ValueError(
                f"model={_name(self.model)} answers 2 records with shape {shape}; "
                f"it must be (2, {self.pool.n_classes})."
            )

    def network(self) -> torch.nn.Module:
        """Build one of the networks, as an example."""
        return stack.initialize(self.model, self.pool, self.seed, 0, self.defense)

    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return labels with those of canaries changed, and which records are canaries."""
        return mislabel(self.pool.y, self.pool.n_classes, self.canaries, self.seed)

    def resolve(self, team: Team, device: str) -> tuple[str, Self]:
        """Let a machine that trains choose device and precision."""
        device, training = team.ask(_resolve, device, self.training, self.network().to("meta"))
        return device, dataclasses.replace(self, training=training)

    def arrays(self) -> tuple[ArraySpec, ...]:
        """Return the arrays of the game."""
        raw, checkpoints = self.defense.uses("answer"), bool(self.training.checkpoints)
        options = {"probes": self.probes, "checkpoints": checkpoints, "tested": bool(len(self.pool.x_test))}
        return stored_arrays(self.keep, self.answers, raw=raw, **options)

    def fixed(self) -> dict[str, np.ndarray]:
        """Return what is known before training besides who is a member."""
        epochs = self.training.checkpoints
        return super().fixed() | ({"checkpoint": np.array(epochs)} if epochs else {})

    def sizes(self) -> dict[str, int]:
        """Return the sizes of all dimensions."""
        sizes = {"label": self.pool.n_classes, "layer": len(self.layers()), "test": len(self.pool.x_test)}
        return super().sizes() | sizes | {"checkpoint": len(self.training.checkpoints)}

    def options(self, device: str) -> dict[str, Any]:
        """Return what `mialab.classifiers.run.train_group` needs besides."""
        return super().options(device) | {"build": self.model}

    def form(self, team: Team, device: str) -> Form:
        """Let a machine that trains say how it does so."""
        return team.ask_of_pool(_form, **self.options(device))

    def seconds_of_work(self) -> float:
        """Estimate by `mialab.training.stack.seconds_of_work`."""
        return stack.seconds_of_work(self.network(), self.pool, self.training)

    def code(self) -> str:
        """Return a hash of all modules that decide what a trained model is."""
        signals = SIGNAL_SOURCES if self.keep == "scores" else {}
        return identity.code_hash(**SOURCES | signals | self.sources())

    def attrs(self) -> dict:
        """Return what the game is, JSON-friendly."""
        return {
            **super().attrs(),
            "model": _name(self.model),
            "canaries": self.canaries,
            "keep": self.keep,
            "answers": self.answers,
            "layers": self.layers(),
            "checkpoint_reports": [
                dict(self.defense.report(dataclasses.replace(self, training=self.training.ending_at(epoch))))
                for epoch in self.training.checkpoints
            ],
        }

    def layers(self) -> list[str]:
        """Names of the network's layers, where their gradients are measured; else none."""
        if not any("layer" in probe.array.dims for probe in self.probes):
            return []
        return list(layers(name for name, _ in self.network().named_parameters()))


@dataclasses.dataclass(frozen=True)
class _Built:
    """A network from a function without parameters, which knows shape and classes by itself."""

    build: Any

    def __call__(self, shape: tuple[int, ...], n_classes: int) -> torch.nn.Module:
        """Build it."""
        return self.build()


def _builder(model: Any) -> Model:
    """Return what builds a network for an input shape and a number of classes."""
    if isinstance(model, torch.nn.Module):
        raise TypeError(
            f"model={type(model).__name__}(...) is one network, and each model of a game needs a new one: give a "
            "function that builds it, e.g. lambda shape, n_classes: Net(). To audit it as it is: mialab.audit_model."
        )
    made = models.make(model)
    try:
        inspect.signature(made).bind((1,), 2)
    except TypeError:  # it takes other parameters; perhaps none
        try:
            inspect.signature(made).bind()
        except TypeError as error:
            raise TypeError(
                f"model={_name(made)} must be a function of (shape, n_classes), or of nothing: {error}."
            ) from None
        return _Built(made)
    except ValueError:  # no signature is known, as of a function in C
        pass
    return made


def _name(model: Any) -> str:
    model = model.build if isinstance(model, _Built) else model
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

    A game that was played before is read from the store; one that was interrupted goes on where it stopped. With more
    models than are stored, the game grows: the others are trained. Of models that are trained in groups, the last bits
    may then differ (by up to 1e-7 or so, relatively) from those of a game that was played in one go.

    Parameters
    ----------
    pool : Pool
        The records, from `mialab.load`.
    model : {"mlp", "cnn", "resnet"}, callable or estimator
        The network, see `mialab.models`; a function of nothing, or of ``(shape, n_classes)``, that builds one; or an
        estimator in scikit-learn's manner, of which clones are fitted (without defense, training and probes).
    defense : str, Defense or None
        The defense, see `mialab.defenses`; None for none.
    training : Training, optional
        How each model is trained; ``Training()`` by default.
    n_models : int
        Number of models K, even.
    queries : {"original", "augmented"} or Queries
        What every model is queried about each record, see `mialab.queries`.
    canaries : int
        How many records get a wrong label, to measure the risk of the most exposed records; even.
    members : int, optional
        Records that each model is trained on; by default half of those that may be.
    candidates : array_like of bool or int, optional
        Which records, a mask or indices, models may be trained on; all by default. All records are queried. With
        disjoint candidates for targets and shadow models (`Game.with_shadows`), the attacker has other data.
    seed : int
        Decides memberships, initial weights, batches and noise; model k depends on ``(seed, k)`` alone.
    keep : {"logits", "scores"}
        What is stored of an answer: its logits, which any attack can use, or one float32 for each of
        `mialab.classifiers.signals.SIGNALS`, which is less where there are more classes than those.
    answers : {"float32", "float16"}
        Type of stored logits.
    probes : {"gradient", "boundary"}, Probe, or several of these
        What is measured besides, while the models are at hand, for attacks that need it; see `mialab.probes`.
    workers : int, optional
        How many groups of models to train at once; by default as many as joblib's active backend has workers. On a CPU
        that is in threads. Networks that draw random numbers of their own (dropout) are trained in processes, and one
        by one where a game is so small that starting them would take longer; if joblib's backend ``"loky"`` is chosen,
        all are trained in processes.
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
    RuntimeError
        If a defense or a probe draws random numbers from torch's or NumPy's own generator, not from ``run.streams``.
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
    kind: type[ClassifierPlan] = ClassifierPlan
    if is_estimator(model):
        kind = import_module("mialab.classifiers.estimators").EstimatorPlan  # which builds on this module
    plan = kind(
        pool=pool,
        model=model,
        defense=defense,
        training=training,
        queries=queries,
        n_models=n_models,
        canaries=canaries,
        members=members,
        candidates=candidates,
        seed=seed,
        keep=keep,
        answers=answers,
        probes=probes,
    )
    return Game(execute(plan, workers=workers, device=device, store=store))


def _resolve(device: str, training: Training, network: torch.nn.Module) -> tuple[str, Training]:
    """Say on which kind of device, and with which arithmetic, this machine trains."""
    device = device_here(device)
    return device, stack.resolve(training, network, device)


def _form(
    *, pool: Pool, build: Model, defense: Defense, training: Training, seed: int, device: str, **others: Any
) -> Form:
    """Say how this machine trains such networks, and how many in a group at most."""
    network = stack.initialize(build, pool, seed, 0, defense)
    x = stack.prepare(torch.as_tensor(pool.x[:2]))
    if stack.mode(network, x, device) == "sequential":
        return Form("sequential", 1, alone=device != "cpu" or stack.draws(network, x))
    return Form("stacked", stack.models_per_group(network, pool, training, device), alone=device != "cpu")
