"""Games of classifiers."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import numpy as np
import xarray as xr

from mialab._validation import check_integer, check_number
from mialab.arrays import ArraySpec
from mialab.classifiers.answers import FLOOR, are_probabilities, is_estimator, log_probabilities
from mialab.classifiers.estimators import EstimatorPlan
from mialab.classifiers.plan import ClassifierPlan
from mialab.classifiers.signals import ANSWERS, LOGITS, SIGNALS
from mialab.data.pool import Pool
from mialab.defenses.base import Defense
from mialab.exceptions import RequirementsNotMet
from mialab.games import base
from mialab.games.execution import execute
from mialab.games.signals import Signal
from mialab.models import Model
from mialab.probes import PROBES
from mialab.probes.base import Probe
from mialab.queries import Queries
from mialab.training.options import Training

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
            if are_probabilities(some):
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
    plan = (EstimatorPlan if is_estimator(model) else ClassifierPlan)(
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
