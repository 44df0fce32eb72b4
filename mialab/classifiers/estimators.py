"""Games of estimators in scikit-learn's manner, such as random forests: fitted one by one, and asked."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar, Literal, Self

import numpy as np

from mialab._validation import choose
from mialab.classifiers.answers import FLOOR, answers_of
from mialab.classifiers.plan import SIGNAL_SOURCES, ClassifierPlan
from mialab.classifiers.signals import SIGNALS
from mialab.data.pool import Pool
from mialab.games import identity
from mialab.games.backends import Team
from mialab.games.plan import Form
from mialab.queries import Queries
from mialab.training.streams import generator

#: Modules that decide what a fitted estimator is, see `mialab.classifiers.plan.SOURCES`.
SOURCES = {
    "streams": "training.streams",
    "membership": "training.membership",
    "queries": "queries",
    "estimators": "classifiers.estimators",
    "answers": "classifiers.answers",
}


@dataclasses.dataclass(frozen=True)
class Fit:
    """How an estimator is trained: by its own ``fit``; its parameters say the rest."""

    checkpoints: ClassVar[tuple[int, ...]] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class EstimatorPlan(ClassifierPlan):
    """Everything that determines a game of estimators, checked; ``model`` is the estimator."""

    example: ClassVar[str] = "None, as an estimator's own parameters say how it is trained"
    options_class: ClassVar[type] = Fit
    engine: ClassVar[ModuleType] = sys.modules[__name__]
    needs: ClassVar[tuple[str, ...]] = ("queries", "seed", "keep", "answers")

    def _prepare(self) -> None:
        from sklearn.base import clone  # which takes its time: only where estimators are played

        name = type(self.model).__name__
        if not hasattr(self.model, "get_params"):
            raise TypeError(f"model={name} must have get_params: derive it from sklearn.base.BaseEstimator.")
        if self.defense.name != "none":
            raise ValueError(
                f"defense={self.defense.name!r} changes how networks are trained, and model={name} is an estimator: "
                "make the defense a part of the estimator, and play it without one."
            )
        if self.probes:
            raise ValueError(
                f"probes={[p.name for p in self.probes]} measure networks; model={name} is none."
            )
        self._set(model=clone(self.model))

    def resolve(self, team: Team, device: str) -> tuple[str, Self]:
        """Choose the processor: estimators know no other device."""
        choose("device", device, ("auto", "cpu"))
        return "cpu", self

    def options(self, device: str) -> dict[str, Any]:
        """Return what `train_group` needs besides."""
        return {name: getattr(self, name) for name in self.needs} | {"estimator": self.model}

    def form(self, team: Team, device: str) -> Form:
        """Fit one at a time, several in threads."""
        return Form("sequential", 1, alone=False)

    def seconds_of_work(self) -> float:
        """Return a guess: nobody knows what an estimator takes before it was fitted."""
        return 1.0

    def code(self) -> str:
        """Return a hash of the modules that decide what is stored, and the version of the estimator's own."""
        root = type(self.model).__module__.partition(".")[0]
        version = getattr(sys.modules.get(root), "__version__", "")
        signals = SIGNAL_SOURCES if self.keep == "scores" else {}
        return identity.code_hash(**SOURCES | signals) + root + version

    def layers(self) -> list[str]:
        """Return none: estimators have no layers that could be measured."""
        return []


def train_group(
    models: Sequence[int],
    *,
    pool: Pool,
    y: np.ndarray,
    member: np.ndarray,
    estimator: Any,
    queries: Queries,
    seed: int,
    keep: Literal["logits", "scores"] = "logits",
    answers: Literal["float32", "float16"] = "float32",
) -> dict[str, np.ndarray]:
    """Fit some estimators and collect their answers on every record of the pool.

    Records are given as rows of float32. A parameter ``random_state`` of the estimator, or of one inside it, is set
    anew for every model if it is None. Classes that a model saw no member of have the probability `FLOOR`.

    Parameters
    ----------
    models, pool, y, member, queries, keep, answers
        As of `mialab.classifiers.run.train_group`.
    estimator : estimator
        Of which each model is a clone.
    seed : int
        Model k's randomness depends on ``(seed, k)`` alone.

    Returns
    -------
    dict of str to numpy.ndarray
        As of `mialab.classifiers.run.train_group`.
    """
    parts = [
        _fitted(k, pool, y, own, estimator, queries, seed) for k, own in zip(models, member, strict=True)
    ]
    found = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    logits = found.pop("logits")
    if keep == "scores":
        stored = {name: [signal.stored(own, y) for own in logits] for name, signal in SIGNALS.items()}
        return found | {name: np.stack(values).astype(np.float32) for name, values in stored.items()}
    return found | {"logits": logits.astype(answers)}


def _fitted(
    k: int, pool: Pool, y: np.ndarray, own: np.ndarray, estimator: Any, queries: Queries, seed: int
) -> dict[str, Any]:
    from sklearn.base import clone

    began = time.perf_counter()
    model = clone(estimator)
    rng = generator(seed, "estimator", k)
    for name, value in sorted(model.get_params().items()):
        if name.rpartition("__")[2] == "random_state" and value is None:
            model.set_params(**{name: int(rng.integers(2**31))})
    model.fit(_rows(pool.x[own]), y[own])
    classes = np.asarray(model.classes_) if hasattr(model, "classes_") else np.arange(pool.n_classes)

    def ask(x: np.ndarray) -> np.ndarray:
        answered = answers_of(model, _rows(x))
        every = np.full((len(x), pool.n_classes), min(np.log(FLOOR), answered.min()))
        every[:, classes] = answered
        return every

    def right(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return ask(x).argmax(-1) == labels if len(x) else np.zeros(0, bool)

    logits = np.stack([ask(queries(query, pool.x)) for query in range(len(queries))])
    validated, tested = right(pool.x_val, pool.y_val), right(pool.x_test, pool.y_test)
    found = {
        "logits": logits,
        "train_accuracy": (logits[0].argmax(-1) == y)[own].mean(),
        "validation_accuracy": validated.mean() if len(validated) else np.nan,
        "test_accuracy": tested.mean() if len(tested) else np.nan,
    }
    return (
        found | ({"test_correct": tested} if len(tested) else {}) | {"seconds": time.perf_counter() - began}
    )


def _rows(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1).astype(np.float32) / (255 if x.dtype == np.uint8 else 1)
