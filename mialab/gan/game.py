"""Games of generative models: K GANs, each trained on a half of a pool, what their critics say, and samples."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike

from mialab._registry import Registry
from mialab._validation import check_integer
from mialab.arrays import ACCURACIES, TEST_CORRECT, ArraySpec
from mialab.classifiers import plan as classifiers
from mialab.data.pool import Pool
from mialab.exceptions import RequirementsNotMet
from mialab.games import identity
from mialab.games.backends import Team
from mialab.games.base import Game
from mialab.games.execution import execute
from mialab.games.plan import STORED, Form, Plan
from mialab.games.signals import Signal
from mialab.gan import run as gan_run
from mialab.gan.defenses.base import DEFENSES, Defense
from mialab.gan.networks import GAN
from mialab.gan.networks import make as make_networks
from mialab.gan.probes import PROBES, PartialBlackBox, Probe, ShadowCritic, WhiteBox
from mialab.gan.run import draws, examples, mode, sample_labels
from mialab.gan.training import Training
from mialab.queries import Queries
from mialab.training import stack

#: Modules that decide what a trained model is, besides those of the options in use, see `mialab.classifiers.plan`.
SOURCES = classifiers.SOURCES | {
    "GAN run": "gan.run",
    "GAN options": "gan.training",
    "GAN utility": "gan.utility",
    "GAN defense": "gan.defenses.base",
    "GAN networks": "gan.networks",
    "GAN probes": "gan.probes",
}


#: Models of a stacked group on a CPU, at most: games of GANs are small, and each core should have some.
GROUP_MODELS = 4


def _critic(name: str) -> ArraySpec:
    remedy = "play it with mialab.gan.play, or give the array to GeneratorGame.from_arrays"
    return ArraySpec(name, ("model", "query", "record"), optional="query", remedy=remedy)


CRITICS = tuple(_critic(name) for name in ("critic", "critic_max", "critic_loss", "critic_loss_min"))
SAMPLES = ArraySpec("samples", ("model", "sample", "feature"), low=0, high=1, bytes_too=True, open_end=True)
SAMPLE_Y = ArraySpec("sample_y", ("sample",), "int64", indexes="label", known=True)


class GeneratorGame(Game):
    """K generative models, what their critics say of every record of a pool, and samples; made by `mialab.gan.play`.

    Memberships, targets and shadow models are those of `mialab.Game`, and `mialab.audit` measures both kinds of games.

    Attributes
    ----------
    critic, critic_max : numpy.ndarray of float64, shape (model, query, record)
        What the critics say of the record: their mean, and the largest.
    critic_loss : numpy.ndarray of float64, shape (model, query, record)
        Mean of what the critics say of generated records of the same label minus what they say of the record.
    critic_loss_min : numpy.ndarray of float64, shape (model, query, record)
        The same of the critic for which it is least; of models with one critic the same number.
    reconstruction, partial_reconstruction, shadow_critic : numpy.ndarray of float64, shape (model, record)
        What probes measured, see `mialab.gan.probes`; NaN for records that were not queried.
    """

    victim: ClassVar[str] = "generator"
    alike: ClassVar[tuple[str, ...]] = (*Game.alike, "conditional", "fakes", "n_samples")
    arrays: ClassVar[tuple[ArraySpec, ...]] = (
        *CRITICS,
        *(probe.array for probe in PROBES.values()),
        SAMPLES,
        SAMPLE_Y,
    )
    #: Losses and errors are lower for members.
    signals: ClassVar[Mapping[str, Signal]] = {
        spec.name: Signal(spec, sign, sees=sees)
        for spec, sign, sees in (
            (CRITICS[0], 1, "critic"),
            (CRITICS[1], 1, "critic"),
            (CRITICS[2], -1, "critic"),
            (CRITICS[3], -1, "critic"),
            (WhiteBox.array, -1, "generator"),
            (PartialBlackBox.array, -1, "latents and samples"),
            (ShadowCritic.array, 1, "samples"),
        )
    }

    @classmethod
    def from_arrays(
        cls,
        *,
        samples: ArrayLike | None = None,
        sample_y: ArrayLike | None = None,
        **arrays: Any,
    ) -> Self:
        """Make a game of what was computed elsewhere, see `mialab.games.base.Game.from_arrays`.

        Parameters
        ----------
        samples : array_like, shape (model, sample, ...), optional
            Generated records, of numbers in [0, 1] or of bytes.
        sample_y : array_like of int, shape (sample,), optional
            Labels of the samples, the same for all models; without, generators know no labels.
        **arrays : array_like
            ``member``, and what the critics say or what probes measured, see the attributes of the class.

        Raises
        ------
        ValueError
            If shapes or values do not fit.
        """
        if samples is None and sample_y is not None:
            raise ValueError("sample_y is given without samples: give both or neither.")
        game = super().from_arrays(samples=samples, sample_y=sample_y, **arrays)
        shape = () if samples is None else SAMPLES.read(samples).shape[2:]
        about = {"conditional": sample_y is not None, "shape": list(shape), "n_samples": game.n_samples}
        return cls(game.dataset.assign_attrs(about))

    @property
    def conditional(self) -> bool:
        """Whether generators are given labels."""
        return bool(self.attrs["conditional"])

    @property
    def n_samples(self) -> int:
        """Number of samples of each model; 0 if there are none."""
        return self.dataset.sizes.get("sample", 0)

    @property
    def samples(self) -> np.ndarray:
        """Generated records, float32 (model, sample, ...), in [0, 1]; ValueError if there are none."""
        if not self.n_samples:
            raise RequirementsNotMet(
                "This game has no samples: give them to GeneratorGame.from_arrays(samples=...)."
            )
        stored = self.dataset["samples"].to_numpy()
        x = stored.astype(np.float32) / np.float32(255) if stored.dtype == np.uint8 else stored
        return x.astype(np.float32, copy=False).reshape(*stored.shape[:2], *self.attrs["shape"])

    @property
    def sample_y(self) -> np.ndarray:
        """Labels of the samples, the same for all models, int64 (sample,); all 0 if generators are given none."""
        if "sample_y" in self.dataset:
            return self.dataset["sample_y"].to_numpy()
        return np.zeros(self.n_samples, np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorPlan(Plan):
    """Everything that determines a game of generators, checked."""

    example: ClassVar[str] = "mialab.gan.Training, e.g. gan.Training(steps=1000)"
    options_class: ClassVar[type] = Training
    defenses: ClassVar[Registry[Any]] = DEFENSES
    known_probes: ClassVar[Registry[Any]] = PROBES
    engine: ClassVar[ModuleType] = gan_run
    needs: ClassVar[tuple[str, ...]] = (*Plan.needs, "networks", "samples", "fakes")
    threads_pay: ClassVar[bool] = False

    networks: Any = "mlp"
    samples: int = 1000
    fakes: int = 64

    def __post_init__(self) -> None:
        check_integer("samples", self.samples, low=1)
        check_integer("fakes", self.fakes, low=1)
        super().__post_init__()
        self._set(networks=make_networks(self.networks))
        n = self.defense.n_critics
        if self.n_members < 2 * n or self.n_members % n:
            raise ValueError(
                f"Models have {self.n_members} members, for {n} critics; that must be a multiple of {n}, at least "
                f"{2 * n}: give members=..., or load another size."
            )
        self.networks.check(self.pool)
        self._try_networks()
        self.defense.check(self)

    def _try_networks(self) -> None:
        shape, n_classes = self.pool.x.shape[1:], self.pool.n_classes
        critic, maker = examples(self.networks, self.pool, self.defense)
        with stack.seeded(0), torch.no_grad():
            y = torch.nn.functional.one_hot(torch.arange(2) % n_classes, n_classes).float()
            made, judged = maker(torch.zeros(2, self.networks.latent), y), critic(torch.zeros(2, *shape), y)
        for what, answer, right in (("generator", made, (2, *shape)), ("critic", judged, (2,))):
            if tuple(answer.shape) != right:
                raise ValueError(
                    f"networks={self.networks!r}: the {what} answers 2 inputs with shape {tuple(answer.shape)}; it "
                    f"must be {right}."
                )

    def fixed(self) -> dict[str, np.ndarray]:
        """Return what is known before training, the labels of samples among it."""
        return {
            **super().fixed(),
            "sample_y": sample_labels(self.networks, self.pool.n_classes, self.samples),
        }

    def arrays(self) -> tuple[ArraySpec, ...]:
        """Return the arrays of the game."""
        samples = dataclasses.replace(SAMPLES, dtype=str(self.pool.x.dtype))
        accuracies = [array for array in ACCURACIES if array.name == "test_accuracy"]
        if self.networks.conditional and len(self.pool.x_test):
            accuracies.append(TEST_CORRECT)
        return (*STORED, *CRITICS, *(p.array for p in self.probes), samples, SAMPLE_Y, *accuracies)

    def sizes(self) -> dict[str, int]:
        """Return the sizes of all dimensions."""
        sizes = {"sample": self.samples, "feature": int(np.prod(self.pool.x.shape[1:]))}
        return super().sizes() | sizes | {"test": len(self.pool.x_test)}

    def form(self, team: Team, device: str) -> Form:
        """Let a machine that trains say how it does so."""
        return team.ask_of_pool(_form, **self.options(device))

    def seconds_of_work(self) -> float:
        """Estimate how long one processor core takes for one model: ten passes of the networks for each step."""
        critic, _ = examples(self.networks, self.pool, self.defense)
        convolutions = any(isinstance(m, torch.nn.Conv2d) for m in critic.modules())
        places = int(np.prod(self.pool.x.shape[2:])) / 4 if convolutions else 1
        records = self.training.batch_size * self.defense.n_critics
        work = 60 * stack.count_parameters(critic) * places * records
        return self.training.last * (5 * stack.STEP_SECONDS + work / stack.OPERATIONS_PER_SECOND)

    def code(self) -> str:
        """Return a hash of all modules that decide what a trained model is."""
        return identity.code_hash(**SOURCES | self.sources())

    def key(self) -> str:
        """Name and hash under which the game is stored."""
        return f"gan-{super().key()}"

    def attrs(self) -> dict:
        """Return what the game is, JSON-friendly."""
        return {
            **super().attrs(),
            "model": repr(self.networks),
            "conditional": self.networks.conditional,
            "objective": self.defense.objective or self.training.objective,
            "shape": list(self.pool.x.shape[1:]),
            "n_samples": self.samples,
            "fakes": self.fakes,
            "n_critics": self.defense.n_critics,
            "n_generators": self.defense.n_generators,
        }


def _form(
    *, pool: Pool, networks: GAN, defense: Defense, training: Training, device: str, **others: Any
) -> Form:
    """Say how this machine trains such networks, and how many models in a group at most."""
    if mode(networks, pool, device, defense) == "sequential":
        return Form("sequential", 1, alone=device != "cpu" or draws(networks, pool, defense))
    numbers = (defense.n_critics, defense.n_generators)
    size = sum(
        n * stack.count_parameters(made)
        for n, made in zip(numbers, examples(networks, pool, defense), strict=True)
    )
    if device == "cpu":
        return Form("stacked", max(1, min(GROUP_MODELS, stack.GROUP_PARAMETERS // size)), alone=False)
    free, _ = torch.cuda.mem_get_info()
    # Weight, gradient, two numbers of optimizer state; a batch's values, several times for gradients of gradients.
    values = 4 * training.batch_size * defense.n_critics * int(np.prod(pool.x.shape[1:])) * 200
    return Form("stacked", max(1, int(stack.GPU_FRACTION * free / (16 * size + values))), alone=True)


def play(
    pool: Pool,
    networks: str | GAN = "mlp",
    defense: str | Defense | None = None,
    *,
    training: Training | None = None,
    n_models: int = 8,
    queries: str | Queries = "original",
    members: int | None = None,
    candidates: np.ndarray | None = None,
    samples: int = 1000,
    fakes: int = 64,
    probes: str | Probe | Iterable[str | Probe] = (),
    seed: int = 0,
    workers: int | None = None,
    device: str = "auto",
    store: str | os.PathLike[str] | None = None,
) -> GeneratorGame:
    """Train K GANs under one defense, each on a random half of a pool, evaluate their critics, and draw samples.

    Membership, storage, resuming, growth and workers are those of `mialab.play`, which see.

    Parameters
    ----------
    pool : Pool
        The records, in [0, 1] (images or binary). Its validation part serves attacks and measures of quality as other
        records of the same kind; on its test part, classifiers that were trained on samples are tested.
    networks : {"mlp", "conv"} or GAN
        Critic and generator, see `mialab.gan.networks`.
    defense : str, Defense or None
        The defense, see `mialab.gan.defenses`; None for none.
    training : Training, optional
        How each GAN is trained; ``mialab.gan.Training()`` by default.
    n_models : int
        Number of models K, even.
    queries : {"original"} or Queries
        What critics are queried each record; with `mialab.queries.Mixed`, mixtures at their mixed labels.
    members, candidates
        Fewer members, and which records may be, see `mialab.play`.
    samples : int
        Records that each model releases, of all classes in turn.
    fakes : int
        Generated records over which the loss of the critic is a mean, for each label; the same for targets and shadow
        models.
    probes : {"white_box", "partial_black_box", "shadow_critic"}, Probe, or several of these
        What is measured besides, while the models are at hand; see `mialab.gan.probes`.
    seed, workers, device, store
        See `mialab.play`.

    Returns
    -------
    GeneratorGame

    Raises
    ------
    ValueError, TypeError
        If a parameter is wrong, before any training.
    FloatingPointError
        If a training diverges; finished models stay stored.
    """
    plan = GeneratorPlan(
        pool=pool,
        networks=networks,
        defense=defense,
        training=training,
        n_models=n_models,
        queries=queries,
        members=members,
        candidates=candidates,
        samples=samples,
        fakes=fakes,
        probes=probes,
        seed=seed,
    )
    return GeneratorGame(execute(plan, workers=workers, device=device, store=store))
