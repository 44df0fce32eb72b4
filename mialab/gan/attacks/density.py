"""Attacks on ratios of densities: a generator that fits its members too well has too much of its density there."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neural_network import MLPClassifier

from mialab._validation import as_integers, check_integer
from mialab.attacks.registry import register
from mialab.games.base import Game
from mialab.gan.attacks.samples import ROUNDING, OnSamples, flat, nearest, projection, released, spread

#: Least variance of samples along any direction, where reference records have variance 1: samples may all be equal.
LEAST_VARIANCE = 1e-6


def log_density(points: np.ndarray, data: np.ndarray, *, least_variance: float = 0.0) -> np.ndarray:
    """Estimate a log density with Gaussian kernels, of the data's covariance and Scott's bandwidth.

    The same as ``scipy.stats.gaussian_kde(data.T).logpdf(points.T)``, for data without variance in some direction too.

    Of points (n, d), given draws (m, d) from the distribution, 2 at least; along principal axes, their variance is
    taken for at least ``least_variance``. It is summed up in log space, so that it is finite however far from the data
    a point is. Float64 (n,).
    """
    n, d = data.shape
    bandwidth = n ** (-1 / (d + 4))
    variance, axes = np.linalg.eigh(np.atleast_2d(np.cov(data.T)))
    width = bandwidth * np.sqrt(np.maximum(variance, least_variance))
    center = data.mean(0)
    parts = pairwise_distances_chunked(
        (points - center) @ axes / width,
        (data - center) @ axes / width,
        reduce_func=lambda squares, _: logsumexp(-squares / 2, axis=1),
        squared=True,
    )
    return np.concatenate(list(parts)) - np.log(n) - d / 2 * np.log(2 * np.pi) - np.log(width).sum()


@dataclass(frozen=True, kw_only=True)
class Domias(OnSamples):
    """Ratio of the density of a model's samples at a record to that of reference records (van Breugel et al., 2023).

    The score is ``log p_G(x) - log p_R(x)``, both from Gaussian kernels with Scott's bandwidth, see `log_density`, in
    the space of principal components of the reference records, each of variance 1. In log space nothing needs a floor,
    which far from all samples would drown the score. Labels play no part [assumed].

    Parameters
    ----------
    pool : Pool
        The records of the game, with a validation part.
    components : int
        Principal components, at most [assumed; the paper has an autoencoder with 128 dimensions for images].
    """

    base_name: ClassVar[str] = "domias"
    #: A covariance takes two of each.
    fewest: ClassVar[Mapping[str, int]] = {"samples": 2, "reference": 2}
    source: ClassVar[str] = "van Breugel et al. (2023)"

    components: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("components", self.components, low=1)

    def statistic(self, game: Game) -> np.ndarray:
        """Return the log ratios of densities, (model, record)."""
        assert self.pool is not None  # checked before
        project = projection(self.pool, self.components, whiten=True)
        x, reference = (project(flat(a)) for a in (self.pool.x, self.pool.x_val))
        expected = log_density(x, reference)
        options = {"least_variance": LEAST_VARIANCE}
        return np.array([log_density(x, project(s), **options) for s in released(game)]) - expected


@dataclass(frozen=True, kw_only=True)
class NeighborRatio(OnSamples):
    """Ratio of the distances to the k-th nearest reference record and to the k-th nearest sample.

    The score is ``log d_k(x, R) - log d_k(x, samples)``. With nearest neighbors as estimates of densities, it ranks
    records as the log ratio of densities of `Domias` does, for any number of dimensions; distances are Euclidean, of
    the features as they are [assumed]. Distances of 0 are taken for a millionth of the spread of reference records.

    Parameters
    ----------
    pool : Pool
        The records of the game, with a validation part.
    k : int
        Which neighbor.
    """

    base_name: ClassVar[str] = "neighbor_ratio"
    source: ClassVar[str] = "after van Breugel et al. (2023); Loftsgaarden and Quesenberry (1965)"

    k: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("k", self.k, low=1)

    @property
    def fewest(self) -> dict[str, int]:
        """The k-th neighbor must exist."""
        return {"samples": self.k, "reference": self.k}

    def statistic(self, game: Game) -> np.ndarray:
        """Return the log ratios of distances, (model, record)."""
        assert self.pool is not None  # checked before
        x, reference = flat(self.pool.x), flat(self.pool.x_val)
        least = ROUNDING * spread(reference)

        def log_distance(others: np.ndarray) -> np.ndarray:
            return np.log(np.maximum(nearest(x, others, self.k)[:, -1], least))

        return log_distance(reference) - np.array([log_distance(s) for s in released(game)])


@dataclass(frozen=True, kw_only=True)
class LoganAuxiliary(OnSamples):
    """Call a record a member if a network that distinguishes samples from reference records takes it for a sample.

    LOGAN with auxiliary knowledge of non-members alone (Hayes et al., 2019), in the form of van Breugel et al.
    (2023): a network with ReLU units and Adam at a rate of 0.001. Its log odds estimate the log ratio of
    densities of `Domias`. It sees principal components of variance 1 [assumed]. All models have the same initial
    weights and order of batches.

    Parameters
    ----------
    pool : Pool
        The records of the game, with a validation part.
    components : int
        Principal components, at most [assumed].
    hidden : tuple of int
        Units of the hidden layers.
    epochs : int
        Passes over samples and reference records, in batches of 256 [their number is assumed].
    """

    base_name: ClassVar[str] = "logan_auxiliary"
    #: A projection takes two reference records.
    fewest: ClassVar[Mapping[str, int]] = {"samples": 2, "reference": 2}
    source: ClassVar[str] = "Hayes et al. (2019), with auxiliary knowledge; van Breugel et al. (2023)"

    components: int = 40
    hidden: tuple[int, ...] = (256, 256)
    epochs: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("components", self.components, low=1)
        object.__setattr__(self, "hidden", as_integers("hidden", self.hidden, low=1))
        check_integer("epochs", self.epochs, low=1)

    def statistic(self, game: Game) -> np.ndarray:
        """Return the networks' log odds of a sample, (model, record)."""
        assert self.pool is not None  # checked before
        project = projection(self.pool, self.components, whiten=True)
        x, reference = (project(flat(a)).astype(np.float32) for a in (self.pool.x, self.pool.x_val))
        return np.array([self._log_odds(x, project(s).astype(np.float32), reference) for s in released(game)])

    def _log_odds(self, x: np.ndarray, samples: np.ndarray, reference: np.ndarray) -> np.ndarray:
        both = np.concatenate([samples, reference])
        network = MLPClassifier(
            self.hidden, batch_size=min(256, len(both)), max_iter=self.epochs, random_state=0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the epochs are few on purpose
            network.fit(both, np.arange(len(both)) < len(samples))
        # Not from its probabilities, which round to 1.
        *layers, last = zip(network.coefs_, network.intercepts_, strict=True)
        for weight, bias in layers:
            x = np.maximum(x @ weight + bias, 0)
        return (x @ last[0] + last[1])[:, 0].astype(np.float64)


register(Domias())
register(NeighborRatio())
register(LoganAuxiliary())
