"""Attacks on the distance of a record to released samples: Monte Carlo integration and GAN-Leaks."""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors

from mialab._validation import check_integer, choose
from mialab.attacks.base import Attack, Scored
from mialab.attacks.calibrated import Calibratable
from mialab.attacks.registry import register
from mialab.attacks.requirements import Requirements
from mialab.data.pool import Pool
from mialab.exceptions import RequirementsNotMet
from mialab.games.base import Game
from mialab.training.stack import prepare

#: Distances below this fraction of the records' spread are taken for zero: rounding.
ROUNDING = 1e-6
#: Variances below this fraction of the greatest are those of directions that the reference records do not have.
NO_VARIANCE = 1e-9
#: Under this name, what was computed from the samples stays with the game while the attack runs.
STATISTIC = "statistic"


def flat(x: np.ndarray) -> np.ndarray:
    """Return records as networks see them, pixels from 0 to 1, in rows, float32 (record, feature)."""
    return prepare(torch.tensor(x)).to(torch.float32).flatten(1).numpy()


def released(game: Game) -> Iterator[np.ndarray]:
    """Read the samples of one model after the other, each float32 (sample, feature)."""
    for samples in game.dataset["samples"]:
        yield flat(samples.to_numpy())


def spread(x: np.ndarray) -> float:
    """Return the root mean square distance of records, (record, feature), from their mean; at least tiny."""
    return max(float(np.sqrt(x.var(0, dtype=np.float64).sum())), float(np.finfo(np.float64).tiny ** 0.5))


def projection(pool: Pool, components: int, *, whiten: bool = False) -> Callable[[np.ndarray], np.ndarray]:
    """Fit principal components to the reference records of a pool.

    These are its validation part, which no model is trained on. There are at most so many components; if they are
    whitened, the reference records have variance 1 along each. Return a function from records in rows, see `flat`, to
    float64 (record, component); RequirementsNotMet if all reference records are equal.
    """
    reference = flat(pool.x_val).astype(np.float64)
    if not np.ptp(reference, axis=0).any():
        raise RequirementsNotMet(f"{pool!r} has reference records (x_val) that are all equal: load others.")
    n_components = min(components, len(reference) - 1, reference.shape[1])
    pca = PCA(n_components, random_state=0).fit(reference)
    kept = pca.explained_variance_ > NO_VARIANCE * pca.explained_variance_[0]
    axes = pca.components_[kept].T / (np.sqrt(pca.explained_variance_[kept]) if whiten else 1)
    return lambda x: (x - pca.mean_) @ axes


def nearest(records: np.ndarray, others: np.ndarray, k: int = 1) -> np.ndarray:
    """Return the distances of records to their k nearest others, float64 (record, k) in increasing order, exactly.

    Both are (record, feature); distances are Euclidean. The neighbors are found by products of matrices, which round;
    the distances to them are then computed anew from the differences, so that those to equal records are 0.
    """
    found = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(others)
    squares = np.empty((len(records), k))
    for j, index in enumerate(found.kneighbors(records, return_distance=False).T):
        difference = records - others[index]
        squares[:, j] = np.einsum("ij,ij->i", difference, difference, dtype=np.float64)
    return np.sqrt(np.sort(squares, axis=1))


def monte_carlo(
    records: np.ndarray,
    samples: np.ndarray,
    groups: np.ndarray | None = None,
    sample_groups: np.ndarray | None = None,
    *,
    score: str = "count",
) -> np.ndarray:
    """Estimate how much of a generator's distribution is near each record.

    A sample is near if its distance is at most epsilon, the median over all records of the distance to their nearest
    sample (Hilprecht et al., 2019, median heuristic).

    Records and samples are float64 (record, feature), in the space where Euclidean distances count. Records are
    compared with the samples of their group alone, int (record,) and (sample,), of which there must be some. See
    `MonteCarlo` for the two scores. Float64 (record,).
    """
    groups = np.zeros(len(records), int) if groups is None else groups
    sample_groups = np.zeros(len(samples), int) if sample_groups is None else sample_groups
    least = ROUNDING * spread(records)

    def over_samples(reduce: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        values = np.empty(len(records))
        for group in np.unique(groups):
            here = groups == group
            parts = pairwise_distances_chunked(
                records[here], samples[sample_groups == group], reduce_func=lambda d, _: reduce(d)
            )
            values[here] = np.concatenate(list(parts))
        return values

    epsilon = max(np.median(over_samples(lambda distance: distance.min(1))), least)
    if score == "count":
        return over_samples(lambda distance: (distance <= epsilon).mean(1))
    return over_samples(lambda distance: np.log(epsilon / distance.clip(least, epsilon)).mean(1))


@dataclass(frozen=True, kw_only=True)
class OnSamples(Attack):
    """Base class of attacks that compare the records' features with the samples that each model released.

    No query is made. Subclasses compute `statistic`, one number for each model and record from the samples of this
    model alone.

    Parameters
    ----------
    pool : Pool
        The records of the game; a game does not hold their features. Its validation part, which no model is trained
        on, are the attacker's reference records.
    """

    #: Least numbers of samples and of reference records.
    fewest: ClassVar[Mapping[str, int]] = {"samples": 1, "reference": 0}
    needs: ClassVar[Requirements] = Requirements(victim="generator", sees="samples", pool=True, budget="none")

    pool: Pool | None = None

    def check_pool(self, game: Game) -> None:
        """Refuse a game without samples or of other records, and a pool without reference records."""
        if game.n_samples < self.fewest["samples"]:
            raise RequirementsNotMet(
                f"Attack {self.name!r} needs at least {self.fewest['samples']} samples of each model, and this game "
                f"has {game.n_samples}: play it with samples=1000, or give some to GeneratorGame.from_arrays."
            )
        super().check_pool(game)
        assert self.pool is not None  # checked before
        if len(self.pool.x_val) < self.fewest["reference"]:
            raise RequirementsNotMet(
                f"Attack {self.name!r} needs at least {self.fewest['reference']} reference records, the validation "
                f"part of the pool, which has {len(self.pool.x_val)}: load it with validation=1000."
            )

    def found(self, game: Game, scorable: np.ndarray) -> Scored:
        """Compute the statistic once for all models, and for all records, as the pool has them; then attack."""
        values = ("model", "record"), self.statistic(game)
        return super().found(
            type(game)(game.dataset.drop_vars("samples").assign({STATISTIC: values})), scorable
        )

    @abstractmethod
    def statistic(self, game: Game) -> np.ndarray:
        """Compute the scores, before any comparison with shadow models, float64 (model, record)."""

    def scores(self, game: Game) -> np.ndarray:
        """Return the scores, (model, record)."""
        if STATISTIC in game.dataset:
            return game.dataset[STATISTIC].to_numpy()
        return self.statistic(game)


@dataclass(frozen=True, kw_only=True)
class MonteCarlo(OnSamples):
    """Call a record a member if many samples are near it (Hilprecht et al., 2019).

    Distances are Euclidean in the space of principal components of the reference records. A sample is near a record
    if it is no further than epsilon, the median over all records of the distance to their nearest sample, one for each
    model. So about half of the records have no sample near them and the same score, 0: the audit counts a tie of a
    member and a non-member as half.

    Parameters
    ----------
    pool : Pool
        The records of the game, with a validation part.
    components : int
        Principal components, at most; the paper takes 40 for MNIST and 120 for CIFAR-10.
    score : {"count", "log"}
        The fraction of samples that are near; or the mean over all samples of ``log(epsilon / distance)``, 0 for those
        that are not near, which tells distances within epsilon apart.
    class_conditional : bool, optional
        Whether records are compared with the samples of their own class alone; by default if the generators are
        conditional.
    """

    #: Principal components take two reference records.
    fewest: ClassVar[Mapping[str, int]] = {"samples": 1, "reference": 2}
    source: ClassVar[str] = "Hilprecht et al. (2019)"

    components: int = 40
    score: str = "count"
    class_conditional: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("components", self.components, low=1)
        choose("score", self.score, ("count", "log"))
        if self.class_conditional not in (None, True, False):
            raise ValueError(f"class_conditional={self.class_conditional!r} must be True, False or None.")

    @property
    def base_name(self) -> str:
        """Name of the variant: ``"monte_carlo"`` or ``"monte_carlo_log"``."""
        return "monte_carlo" + "_log" * (self.score == "log")

    def _by_class(self, game: Game) -> bool:
        return bool(game.conditional if self.class_conditional is None else self.class_conditional)

    def check_pool(self, game: Game) -> None:
        """Refuse games with classes of which there are no samples, too."""
        super().check_pool(game)
        if self._by_class(game):
            missing = np.setdiff1d(game.y, game.sample_y)
            if missing.size:
                raise RequirementsNotMet(
                    f"Attack {self.name!r} compares records with samples of their class, and this game has none of "
                    f"class {missing[0]}: play it with more samples, or give class_conditional=False."
                )

    def statistic(self, game: Game) -> np.ndarray:
        """Return how many samples are near each record, (model, record)."""
        assert self.pool is not None  # checked before
        project = projection(self.pool, self.components)
        x = project(flat(self.pool.x))
        groups = (game.y, game.sample_y) if self._by_class(game) else (None, None)
        return np.array([monte_carlo(x, project(s), *groups, score=self.score) for s in released(game)])


@dataclass(frozen=True, kw_only=True)
class GanLeaks(Calibratable, OnSamples):
    """Call a record a member if some sample is close to it: the full black-box attack of GAN-Leaks.

    The score is minus the Euclidean distance between the record and the nearest of all samples, of whatever class
    (Chen et al., 2020). Calibrated, the distance that a generator would have without the record is subtracted from
    the distance; the distances themselves, not their squares [assumed].

    Parameters
    ----------
    pool : Pool
        The records of the game.
    calibrated : bool
        Whether records that are close to everything are allowed for.
    reference : {"models", "records"}
        What calibrates: the mean distance to the samples of the shadow models that were not trained on the record; or
        the distance to the nearest reference record, which takes no shadow models.
    """

    source: ClassVar[str] = "Chen et al. (2020), full black box"

    reference: str = "models"

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("reference", self.reference, ("models", "records"))
        if not self.calibrated and self.reference != "models":
            raise ValueError(f"reference={self.reference!r} goes with calibrated=True.")

    @property
    def base_name(self) -> str:
        """Name of the variant, e.g. ``"gan_leaks_calibrated"``."""
        return "gan_leaks" + "_calibrated" * self.calibrated + "_records" * (self.reference == "records")

    @property
    def shadows(self) -> str:
        """Shadow models that were not trained on the record, if these calibrate."""
        return "none" if self.reference == "records" else super().shadows

    @property
    def needs(self) -> Requirements:
        """What all attacks on samples need, and shadow models."""
        return dataclasses.replace(OnSamples.needs, shadows=self.shadows)

    @property
    def fewest(self) -> dict[str, int]:
        """One reference record, if these calibrate."""
        return {"samples": 1, "reference": int(self.reference == "records")}

    def statistic(self, game: Game) -> np.ndarray:
        """Return minus the distance to the nearest sample, plus that to the nearest reference record with these."""
        assert self.pool is not None  # checked before
        x = flat(self.pool.x)
        values = -np.array([nearest(x, s)[:, 0] for s in released(game)])
        return values + nearest(x, flat(self.pool.x_val))[:, 0] if self.reference == "records" else values

    def plain(self, game: Game) -> np.ndarray:
        """Return the scores before any comparison with shadow models, (model, record)."""
        return OnSamples.scores(self, game)


for _score in ("count", "log"):
    register(MonteCarlo(score=_score))
register(GanLeaks())
for _reference in ("models", "records"):
    register(GanLeaks(calibrated=True, reference=_reference))
