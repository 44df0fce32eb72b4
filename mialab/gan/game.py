"""Games of generative models: K GANs, each trained on a half of a pool, what their critics say, and samples."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Self

import numpy as np
import torch
import xarray as xr

from mialab import provenance
from mialab._validation import check_integer, choose
from mialab.data.pool import Pool
from mialab.games.backends import Team
from mialab.games.base import Game, _check_partners
from mialab.games.execution import device_here, execute
from mialab.games.plan import Plan, _describe
from mialab.games.store import DIMENSIONS, GENERATED, RECONSTRUCTED, shapes
from mialab.gan import defenses
from mialab.gan.defenses.base import Defense
from mialab.gan.networks import GAN
from mialab.gan.networks import make as make_networks
from mialab.gan.probes import PROBES, Probe
from mialab.gan.probes import make as make_probes
from mialab.gan.run import mode, sample_labels, train_group
from mialab.gan.training import Training
from mialab.queries import Queries
from mialab.queries import make as make_queries
from mialab.training import stack

#: Source files that decide what a trained model is, besides those of the options in use.
SOURCES = (
    "training/streams.py",
    "training/membership.py",
    "training/stack.py",
    "training/options.py",
    "classifiers/run.py",
    "models.py",
    "gan/run.py",
    "gan/training.py",
    "gan/utility.py",
    "gan/defenses/base.py",
)


#: Models of a stacked group on a CPU, at most: games of GANs are small, and each core should have some.
GROUP_MODELS = 4


class GeneratorGame(Game):
    """K generative models, what their critics say of every record of a pool, and samples; made by `mialab.gan.play`.

    Memberships, targets and shadow models are those of `mialab.Game`, and `mialab.audit` measures both kinds of games.
    """

    victim: ClassVar[str] = "generator"
    alike: ClassVar[tuple[str, ...]] = (
        "fingerprint",
        "queries",
        "n_classes",
        "conditional",
        "fakes",
        "n_samples",
    )
    probe_of: ClassVar[dict[str, str]] = {probe.array: probe.name for probe in PROBES.values()}

    @classmethod
    def from_arrays(
        cls,
        *,
        member: np.ndarray,
        critic_loss: np.ndarray | None = None,
        critic: np.ndarray | None = None,
        critic_max: np.ndarray | None = None,
        samples: np.ndarray | None = None,
        sample_y: np.ndarray | None = None,
        y: np.ndarray | None = None,
        partner: np.ndarray | None = None,
        shadow: np.ndarray | None = None,
        test_accuracy: np.ndarray | None = None,
        n_classes: int | None = None,
        name: str = "arrays",
        **probes: np.ndarray,
    ) -> Self:
        """Make a game of arrays that were computed elsewhere.

        Parameters
        ----------
        member : array_like of bool, shape (model, record)
            Whether the model was trained on the record.
        critic_loss : array_like of float, shape (model, query, record), optional
            Mean of what the critic says of generated records minus what it says of the record; lower for members.
            (model, record) stands for a single query, here and below.
        critic, critic_max : array_like of float, shape (model, query, record), optional
            What the critics say of the record: their mean, and the largest.
        samples : array_like, shape (model, sample, ...), optional
            Generated records, of numbers in [0, 1] or of bytes.
        sample_y : array_like of int, shape (sample,), optional
            Labels of the samples, the same for all models; without, generators know no labels.
        y : array_like of int, shape (record,), optional
            Labels of the records; all 0 by default.
        partner : array_like of int, shape (model,), optional
            For each model the one trained on exactly the other records, or -1; none by default.
        shadow : array_like of bool, shape (model,), optional
            Which models are shadow models only; none by default.
        test_accuracy : array_like of float, shape (model,), optional
            Accuracy of classifiers trained on samples.
        n_classes : int, optional
            Number of classes; by default what the labels need, at least 2.
        name : str
            A name for tables and figures.
        **probes : array_like of float, shape (model, record)
            What probes measure, see `mialab.gan.probes`; NaN for records that were not queried.

        Raises
        ------
        ValueError
            If shapes or values do not fit.
        """
        member = np.asarray(member)
        if member.ndim != 2 or not np.isin(member, (0, 1)).all():
            raise ValueError(
                f"member has shape {member.shape}; it must be (model, record), of True and False."
            )
        member = member.astype(bool)
        n_models, n_records = member.shape
        given: dict[str, Any] = {"member": member}
        given["y"] = np.zeros(n_records, np.int64) if y is None else np.asarray(y)
        given["partner"] = np.full(n_models, -1) if partner is None else np.asarray(partner)
        given["shadow"] = np.zeros(n_models, bool) if shadow is None else np.asarray(shadow)
        given["canary"] = np.zeros(n_records, bool)
        said = {"critic_loss": critic_loss, "critic": critic, "critic_max": critic_max}
        for key, value in said.items():
            if value is not None:
                value = np.asarray(value)
                given[key] = value[:, None] if value.ndim == 2 else value
        queries = {given[key].shape[1] for key in said if key in given and given[key].ndim == 3}
        if len(queries) > 1:
            raise ValueError(
                f"critic_loss, critic and critic_max are of {sorted(queries)} queries; they must be of as many each."
            )
        for key, value in probes.items():
            given[choose("probes", key, RECONSTRUCTED)] = np.asarray(value)
        if test_accuracy is not None:
            given["test_accuracy"] = np.asarray(test_accuracy)
        sizes = {"model": n_models, "record": n_records, "query": next(iter(queries), 1)}
        shape: tuple[int, ...] = ()
        if samples is not None:
            samples = np.asarray(samples)
            if samples.ndim < 2 or len(samples) != n_models or not samples.size:
                raise ValueError(
                    f"samples has shape {samples.shape}; with member {member.shape} it must be ({n_models}, sample, "
                    "...)."
                )
            shape = samples.shape[2:]
            given["samples"] = samples.reshape(*samples.shape[:2], -1)
            given["sample_y"] = (
                np.zeros(samples.shape[1], np.int64) if sample_y is None else np.asarray(sample_y)
            )
            sizes |= {"sample": samples.shape[1], "feature": given["samples"].shape[2]}
        elif sample_y is not None:
            raise ValueError("sample_y is given without samples: give both or neither.")
        for key, value in given.items():
            expected = tuple(sizes[d] for d in DIMENSIONS[key])
            if value.shape != expected:
                raise ValueError(
                    f"{key} has shape {value.shape}; with member {member.shape} it must be {expected}."
                )
            _check_values(key, value)
        labels = {key: given[key] for key in ("y", "sample_y") if key in given}
        if n_classes is None:
            n_classes = max(2, *(1 + int(value.max()) for value in labels.values()))
        check_integer("n_classes", n_classes, low=2)
        for key, value in labels.items():
            if not np.issubdtype(value.dtype, np.integer) or value.min() < 0 or value.max() >= n_classes:
                raise ValueError(
                    f"{key} must hold integers from 0 to {n_classes - 1}; it is {value.dtype} from {value.min()} to "
                    f"{value.max()}."
                )
            given[key] = value.astype(np.int64)
        given["shadow"] = given["shadow"].astype(bool)
        for k in np.flatnonzero(~given["shadow"]):
            if member[k].all() or not member[k].any():
                raise ValueError(
                    f"member[{k}] is all {bool(member[k, 0])}: a target needs members and non-members."
                )
        if given["shadow"].all():
            raise ValueError("shadow is True for all models: one at least must be a target.")
        _check_partners(given["partner"], member)
        return cls(
            xr.Dataset(
                {key: (DIMENSIONS[key], value) for key, value in given.items()},
                attrs={
                    "dataset": name,
                    "defense": "unknown",
                    "n_models": n_models,
                    "n_classes": n_classes,
                    "conditional": sample_y is not None,
                    "shape": list(shape),
                    "n_samples": sizes.get("sample", 0),
                    "probes": [cls.probe_of[key] for key in probes],
                    **dict.fromkeys(("seed", "device", "seconds")),
                    **provenance.collect(),
                },
            )
        )

    def __repr__(self) -> str:
        a = self.attrs
        samples = f", {self.dataset.sizes['sample']} samples each" if "sample" in self.dataset.sizes else ""
        return (
            f"GeneratorGame({a.get('dataset')}, defense={a.get('defense')}: {self.n_models} models x "
            f"{self.n_queries} queries x {self.n_records} records{samples})"
        )

    def measured(self, name: str) -> np.ndarray:
        """Return what critics say or what probes measured.

        Parameters
        ----------
        name : {"critic", "critic_max", "critic_loss", "reconstruction", "partial_reconstruction", "shadow_critic"}
            Which.

        Returns
        -------
        numpy.ndarray of float64
            (model, query, record) of critics, (model, record) of probes; NaN for records not queried.

        Raises
        ------
        ValueError
            If the game has no such array.
        """
        choose("name", name, (*GENERATED[:-1], *RECONSTRUCTED))
        known = self.__dict__.setdefault("_arrays", {})
        if name not in known:
            if name not in self.dataset:
                how = f": play it with probes=[{self.probe_of[name]!r}]" if name in self.probe_of else ""
                raise ValueError(f"This game has no {name}{how}.")
            known[name] = self.dataset[name].to_numpy().astype(np.float64)
        return known[name]

    @property
    def critic(self) -> np.ndarray:
        """What the critics say of each record, their mean, float64 (model, query, record)."""
        return self.measured("critic")

    @property
    def critic_max(self) -> np.ndarray:
        """What the critic says that says most of each record, float64 (model, query, record)."""
        return self.measured("critic_max")

    @property
    def critic_loss(self) -> np.ndarray:
        """Mean of D over generated records of the same label, minus D of the record, float64 (model, query, record)."""
        return self.measured("critic_loss")

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
            raise ValueError("This game has no samples: give them to GeneratorGame.from_arrays(samples=...).")
        stored = self.dataset["samples"].to_numpy()
        x = stored.astype(np.float32) / np.float32(255) if stored.dtype == np.uint8 else stored
        return x.astype(np.float32, copy=False).reshape(*stored.shape[:2], *self.attrs["shape"])

    @property
    def sample_y(self) -> np.ndarray:
        """Labels of the samples, the same for all models, int64 (sample,); all 0 if generators are given none."""
        if "sample_y" in self.dataset:
            return self.dataset["sample_y"].to_numpy()
        return np.zeros(self.n_samples, np.int64)


def _check_values(key: str, value: np.ndarray) -> None:
    """Refuse values of `GeneratorGame.from_arrays` that are no numbers, or none of the right kind (ValueError)."""
    if not np.issubdtype(value.dtype, np.number) and value.dtype != bool:
        raise ValueError(f"{key} must hold numbers; it is {value.dtype}.")
    if np.isinf(value).any() or (key not in RECONSTRUCTED and np.isnan(value).any()):
        raise ValueError(f"{key} has values that are not finite numbers.")
    if key == "shadow" and not np.isin(value, (0, 1)).all():
        raise ValueError(f"shadow must be True or False (or 1 and 0); it holds {np.unique(value)[:5]}.")
    if (
        key == "samples"
        and value.dtype != np.uint8
        and value.size
        and not 0 <= value.min() <= value.max() <= 1
    ):
        raise ValueError(
            f"samples has numbers from {value.min():.3g} to {value.max():.3g}; they must lie in [0, 1], or be bytes."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorPlan(Plan):
    """Everything that determines a game of generators, checked."""

    networks: GAN
    samples: int
    fakes: int

    def __post_init__(self) -> None:
        if not isinstance(self.training, Training):
            raise TypeError(
                f"training={self.training!r} must be a mialab.gan.Training, e.g. gan.Training(steps=1000)."
            )
        check_integer("samples", self.samples, low=1)
        check_integer("fakes", self.fakes, low=1)
        super().__post_init__()
        n = self.defense.n_critics
        if self.n_members < 2 * n or self.n_members % n:
            raise ValueError(
                f"Models have {self.n_members} members, for {n} critics; that must be a multiple of {n}, at least "
                f"{2 * n}: give members=..., or load another size."
            )
        self.networks.check(self.pool)
        self._try_networks()
        self.defense.check(self.pool, self.training, self.n_members)

    def _try_networks(self) -> None:
        shape, n_classes = self.pool.x.shape[1:], self.pool.n_classes
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            y = torch.nn.functional.one_hot(torch.arange(2) % n_classes, n_classes).float()
            made = self.networks.generator(shape, n_classes)(torch.zeros(2, self.networks.latent), y)
            said = self.networks.critic(shape, n_classes)(torch.zeros(2, *shape), y)
        for what, answer, right in (("generator", made, (2, *shape)), ("critic", said, (2,))):
            if tuple(answer.shape) != right:
                raise ValueError(
                    f"networks={self.networks!r}: the {what} answers 2 inputs with shape {tuple(answer.shape)}; it "
                    f"must be {right}."
                )

    def resolve(self, team: Team, device: str) -> tuple[str, Self]:
        """Let a machine that trains choose the device."""
        return team.ask(device_here, device), self

    def fixed(self) -> dict[str, np.ndarray]:
        """Return what is known before training, the labels of samples among it."""
        return {
            **super().fixed(),
            "sample_y": sample_labels(self.networks, self.pool.n_classes, self.samples),
        }

    def layout(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Return shape and type of every array of the game."""
        sizes = {"model": self.n_models, "query": len(self.queries), "record": len(self.pool)}
        sizes |= {"sample": self.samples, "feature": int(np.prod(self.pool.x.shape[1:]))}
        dtypes: dict[str, Any] = {name: value.dtype for name, value in self.fixed().items()}
        dtypes |= dict.fromkeys((*GENERATED[:-1], *(probe.array for probe in self.probes)), "float32")
        dtypes |= {"samples": self.pool.x.dtype, "test_accuracy": "float64", "seconds": "float64"}
        return shapes(dtypes, sizes)

    @property
    def train_group(self) -> Callable[..., dict[str, np.ndarray]]:
        """That of the engine of generators."""
        return train_group

    def options(self, device: str) -> dict[str, Any]:
        """Return what `mialab.gan.run.train_group` needs besides."""
        names = ("networks", "defense", "training", "queries", "samples", "fakes", "seed", "probes")
        return {name: getattr(self, name) for name in names} | {"device": device}

    def mode(self, team: Team, device: str) -> tuple[str, int]:
        """Let a machine that trains say how it does so."""
        return team.ask_of_pool(
            _form, networks=self.networks, defense=self.defense, training=self.training, device=device
        )

    def seconds_of_work(self) -> float:
        """Estimate how long one processor core takes for one model: ten passes of the networks for each step."""
        shape, n_classes = self.pool.x.shape[1:], self.pool.n_classes
        with torch.random.fork_rng(devices=[]):
            critic = self.networks.critic(shape, n_classes)
        places = (
            int(np.prod(shape[1:])) / 4
            if len(shape) > 1 and any(isinstance(m, torch.nn.Conv2d) for m in critic.modules())
            else 1
        )
        work = (
            60 * stack.count_parameters(critic) * places * self.training.batch_size * self.defense.n_critics
        )
        return self.training.last * (5 * stack.STEP_SECONDS + work / stack.OPERATIONS_PER_SECOND)

    def _parts(self) -> list[str]:
        sources = SOURCES + ("gan/probes.py",) * bool(self.probes)
        parts = [self.pool.fingerprint, self.pool.kind, torch.__version__, provenance.source_hash(*sources)]
        parts += [_describe(v) for v in (self.networks, self.defense, self.training, self.queries)]
        parts += [str(v) for v in (self.n_models, self.seed, self.samples, self.fakes, self.members)]
        parts += ["" if self.candidates is None else np.packbits(self.candidates).tobytes().hex()]
        return ["generators", *parts, *(_describe(probe) for probe in self.probes)]

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
            "about_defense": self.defense.about(self.training, self.n_members),
        }


def _form(*, pool: Pool, networks: GAN, defense: Defense, training: Training, device: str) -> tuple[str, int]:
    """Say how this machine trains such networks, and how many models in a group at most."""
    if mode(networks, pool, device) == "sequential":
        return "sequential", 1
    shape = pool.x.shape[1:]
    with torch.random.fork_rng(devices=[]):
        sizes = [
            n * stack.count_parameters(make(shape, pool.n_classes))
            for n, make in (
                (defense.n_critics, networks.critic),
                (defense.n_generators, networks.generator),
            )
        ]
    if device == "cpu":
        return "stacked", max(1, min(GROUP_MODELS, stack.GROUP_PARAMETERS // sum(sizes)))
    free, _ = torch.cuda.mem_get_info()
    # Weight, gradient, two numbers of optimizer state; a batch's values, several times for gradients of gradients.
    values = 4 * training.batch_size * defense.n_critics * int(np.prod(shape)) * 200
    return "stacked", max(1, int(stack.GPU_FRACTION * free / (16 * sum(sizes) + values)))


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

    Membership, storage, resuming and workers are those of `mialab.play`, which see.

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
    device = choose("device", device, ("auto", "cpu", "cuda"))
    if workers is not None:
        check_integer("workers", workers, low=1)
    plan = make_plan(
        pool,
        networks,
        defense,
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


def make_plan(
    pool: Pool,
    networks: str | GAN = "mlp",
    defense: str | Defense | None = None,
    *,
    training: Training | None = None,
    queries: str | Queries = "original",
    probes: str | Probe | Iterable[str | Probe] = (),
    **options: Any,
) -> GeneratorPlan:
    """Check the parameters of `play` that determine a game, without playing it."""
    if not isinstance(pool, Pool):
        given = repr(pool) if isinstance(pool, str) else f"a {type(pool).__name__}"
        raise TypeError(f"pool is {given}; it must be a Pool, e.g. mialab.load('digits').")
    return GeneratorPlan(
        pool=pool,
        networks=make_networks(networks),
        defense=defenses.make(defense),
        training=Training() if training is None else training,
        queries=make_queries(queries, pool),
        probes=make_probes(probes),
        **options,
    )
