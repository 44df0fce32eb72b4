"""Everything that determines a game of classifiers, checked before any training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from types import ModuleType
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch

from mialab._registry import Registry
from mialab._validation import check_integer, choose
from mialab.arrays import ACCURACIES, CHECKPOINT, TEST_CORRECT, ArraySpec
from mialab.classifiers import run as classifier_run
from mialab.classifiers.builders import builder, name_of
from mialab.classifiers.signals import ANSWERS, LOGITS
from mialab.data.pool import Pool
from mialab.defenses.base import DEFENSES, Defense
from mialab.games import identity
from mialab.games.backends import Team, device_here
from mialab.games.plan import STORED, Form, Plan
from mialab.models import Model
from mialab.probes import PROBES
from mialab.probes.base import Probe
from mialab.probes.gradient import layers
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
        self._set(model=builder(self.model))
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
            raise TypeError(f"model={name_of(self.model)} must return a torch.nn.Module, not {network!r}.")
        with torch.inference_mode():
            shape = tuple(network.eval()(stack.prepare(torch.as_tensor(self.pool.x[:2]))).shape)
        if shape != (2, self.pool.n_classes):
            raise ValueError(
                f"model={name_of(self.model)} answers 2 records with shape {shape}; "
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
            "model": name_of(self.model),
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
