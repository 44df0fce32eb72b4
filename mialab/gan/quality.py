"""How good generated records are: by their distribution, for training classifiers, and whether they are copies."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from mialab._validation import check_integer, choose, extra
from mialab.auditing.tables import AuditTable
from mialab.data.pool import Pool
from mialab.gan.utility import classifier, train_on_synthetic, trained
from mialab.metrics import intervals
from mialab.metrics.intervals import Interval
from mialab.training import stack
from mialab.training.streams import generator

if TYPE_CHECKING:
    from mialab.gan.game import GeneratorGame

#: Most records in a kernel matrix of the KID; of more, subsets of so many are averaged.
KERNEL_RECORDS = 1000
#: Models whose members are evaluated as if they had been generated, at most: each costs the training of a classifier.
REAL_MODELS = 8
#: Name of the row of real records in a table of quality.
REAL = "real records"
#: The fraction of samples that are closer to a member than to any of as many non-members.
CLOSER = "closer to a member"
COLUMNS = ["defense", "metric", "value", "low", "high", "models"]


# ----------------------------------------------------------------------------------------- distances of distributions


class Extractor(nn.Module):
    """What a small classifier sees of records before it answers: 64 features of mean variance 1, float64.

    The network is the classifier without its last layer; the mean variance is that of the features of records ``x``,
    (record, ...), by the root of which, ``scale``, all features are divided.
    """

    def __init__(self, network: nn.Sequential, x: torch.Tensor) -> None:
        super().__init__()
        self.network = network.eval()
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        features = self(x)
        self.num_features = features.shape[1]
        self.scale = features.var(0).mean().sqrt().clamp_min(1e-12)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of records in [0, 1], float64 (record, feature)."""
        return torch.cat([self.network(part) for part in x.split(1024)]).double() / self.scale


def extractor(pool: Pool, seed: int = 0) -> Extractor:
    """Train the network whose features FID and KID compare: on the pool's validation part, which no model has seen.

    It isn't the Inception network of published values, which is of no use for 8x8 images or tables: values can be
    compared with each other on this pool, with this seed, and with nothing else.

    Parameters
    ----------
    pool : Pool
        With a validation part.
    seed : int
        Of weights and batches.

    Raises
    ------
    ValueError
        If the pool has no validation part, or one with records of a single class.
    """
    check_integer("seed", seed)
    if len(np.unique(pool.y_val)) < 2:
        raise ValueError(
            f"pool has {len(pool.y_val)} validation records of {len(np.unique(pool.y_val))} classes; features are "
            "learned from held-out records of at least 2 classes: load the pool with validation=...."
        )
    held_out = Pool("held out", pool.x_val, pool.y_val, pool.n_classes, pool.kind)
    run = trained(held_out, int(generator(seed, "extractor").integers(2**31)))
    network = classifier(pool)(pool.x.shape[1:], pool.n_classes)
    assert isinstance(network, nn.Sequential)
    network.load_state_dict(run.function(0)[1])
    return Extractor(nn.Sequential(*list(network)[:-1]), _records(pool.x_val))


def distances(
    real: np.ndarray | torch.Tensor,
    generated: np.ndarray | torch.Tensor,
    features: nn.Module,
    *,
    seed: int = 0,
) -> tuple[float, float]:
    """Return FID (Heusel et al., 2017) and KID (Binkowski et al., 2018), by torchmetrics.

    The FID is the squared Frechet distance of two Gaussians fitted to the features; fitted to few records it is too
    large, so values can be compared only at equal numbers. The KID, an unbiased estimate of a squared distance of
    means of a cubic kernel, is right on average at any number, and below 0 at times.

    Parameters
    ----------
    real, generated : shape (record, ...)
        Records, with numbers in [0, 1] or pixels as bytes: at least 2 of each.
    features : torch.nn.Module
        Gives the features, with an attribute ``num_features``; see `extractor`.
    seed : int
        Of the subsets that the KID averages over, where there are more than 1,000 records.
    """
    from mialab._torchvision import torchvision  # noqa: F401  # torchmetrics needs it to be there

    with extra("gan"):
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.kid import KernelInceptionDistance

    real, generated = _records(real), _records(generated)
    n = min(len(real), len(generated))
    if n < 2:
        raise ValueError(f"There are {len(real)} real and {len(generated)} generated records; 2 are needed.")
    size = min(n, KERNEL_RECORDS)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*will save all extracted features.*")
        kid = KernelInceptionDistance(
            feature=features, subsets=-(-n // size), subset_size=size, normalize=True
        )
    fid = FrechetInceptionDistance(feature=features, normalize=True)
    with stack.seeded(seed):
        for metric in (fid, kid):
            metric.update(real, real=True)
            metric.update(generated, real=False)
        return float(fid.compute()), float(kid.compute()[0])


def assess(
    games: Mapping[str, GeneratorGame], pool: Pool, *, confidence: float = 0.95, seed: int = 0
) -> AuditTable:
    """Measure what generated records are worth: FID and KID to test records, and accuracy of classifiers.

    All distances are between equal numbers of records, the least of: samples of a model, members of a model, test
    records. The last rows, ``"real records"``, are what a generator would reach that gives its members away as
    samples: distances of members to test records, and the accuracy of classifiers trained on all members, for the
    first 8 models of the first game. Intervals are about new models, with the same test records for all: what these
    happen to be shifts all rows alike, so the KID of real records may differ from 0 by more than its interval says.

    Parameters
    ----------
    games : dict of str to GeneratorGame
        Label, such as the defense, to its game on this pool.
    pool : Pool
        The records, with a validation part, from which features are learned (`extractor`), and a test part.
    confidence : float
        Of the t intervals over models, see `mialab.metrics.over_targets`.
    seed : int
        Of the extractor, of which records are compared, and of the classifiers trained on members.

    Returns
    -------
    AuditTable
        Columns ``defense, metric, value, low, high, models, records``: metrics ``fid``, ``kid`` and ``accuracy``; of
        so many models, and so many records on either side of a distance, or to train on.

    Raises
    ------
    ValueError
        If a game has no samples or was not played with this pool, or the pool lacks a part.
    """
    if not games:
        raise ValueError("games is an empty dict; it must hold at least one game, e.g. {'none': game}.")
    compare, n = _ruler(games, pool, seed)
    rows: list[tuple] = []
    for label, game in games.items():
        targets = np.flatnonzero(~game.shadow)
        fid, kid = zip(*map(compare, game.samples[targets]), strict=True)
        found = {"fid": fid, "kid": kid, "accuracy": game.test_accuracy[targets]}
        records = {"fid": n, "kid": n, "accuracy": game.n_samples}
        rows += _rows(label, found, game, targets, confidence, records)
    first = next(iter(games.values()))
    targets = np.flatnonzero(~first.shadow)[:REAL_MODELS]
    members = [
        generator(seed, "members", int(k)).permutation(np.flatnonzero(first.member[k])) for k in targets
    ]
    fid, kid = zip(*(compare(pool.x[own[:n]]) for own in members), strict=True)
    right = [
        train_on_synthetic(
            _records(pool.x[own])[None].numpy(), pool.y[own], pool, seed=seed, models=[int(k)]
        )[0]
        for k, own in zip(targets, members, strict=True)
    ]
    accuracy = [float(own.mean()) if own.size else np.nan for own in right]
    found = {"fid": fid, "kid": kid, "accuracy": accuracy}
    records = {"fid": n, "kid": n, "accuracy": len(members[-1])}
    rows += _rows(REAL, found, first, targets, confidence, records)
    return AuditTable(rows, columns=[*COLUMNS, "records"])


def _ruler(
    games: Mapping[str, GeneratorGame], pool: Pool, seed: int
) -> tuple[Callable[[np.ndarray], tuple[float, float]], int]:
    """Return the distances of records from test records as a function, and how many are compared."""
    for label, game in games.items():
        _check(game, pool, label)
    if len(pool.x_test) < 2:
        raise ValueError(f"pool has {len(pool.x_test)} test records; samples are compared with at least 2.")
    features = extractor(pool, seed)
    first = next(iter(games.values()))
    members = int(first.member[~first.shadow].sum(1).min())
    n = min(members, len(pool.x_test), *(game.n_samples for game in games.values()))
    test = pool.x_test[generator(seed, "test records").permutation(len(pool.x_test))[:n]]
    return lambda x: distances(test, x[:n], features, seed=seed), n


def _rows(
    label: str,
    found: Mapping[str, Any],
    game: GeneratorGame,
    targets: np.ndarray,
    confidence: float,
    records: Mapping[str, int] | None = None,
) -> Iterator[tuple]:
    """Yield rows of one label: means over models, with intervals within the range of the metric."""
    place = {int(k): i for i, k in enumerate(targets)}
    partner = np.array([place.get(int(game.partner[k]), -1) for k in targets])
    for name, values in found.items():
        interval = intervals.over_targets(values, partner=partner, confidence=confidence)
        low, high = -np.inf if name == "kid" else 0, 1 if name in ("accuracy", CLOSER) else np.inf
        ends = np.clip(interval, low, high).tolist()
        yield (label, name, *ends, len(values), *([records[name]] if records else []))


# --------------------------------------------------------------------------------------------------------- memorization


def memorization(
    games: Mapping[str, GeneratorGame], pool: Pool, *, confidence: float = 0.95, seed: int = 0
) -> AuditTable:
    """Compare how close samples come to members with how close they come to as many non-members.

    If a generator knows nothing of its members but what they have in common with other records of their kind, about
    half of the samples are closer to a member. Copies show as a larger fraction. A fraction of 0.5 is no proof of
    privacy: it sees only what is close in Euclidean distance.

    Parameters
    ----------
    games, pool, confidence
        As in `assess`.
    seed : int
        Of which members or non-members are left out where there are more of them than of the others.

    Returns
    -------
    AuditTable
        Columns ``defense, metric, value, low, high, models``; metrics are ``closer to a member``, the fraction of
        samples, of which ties count half, and the mean Euclidean distances ``to nearest member`` and ``to nearest
        non-member``.

    Raises
    ------
    ValueError
        If a game has no samples or was not played with this pool.
    """
    x = _records(pool.x).flatten(1)
    rows: list[tuple] = []
    for label, game in games.items():
        _check(game, pool, label)
        released, targets = game.samples, np.flatnonzero(~game.shadow)
        closer, inside, outside = np.empty((3, len(targets)))
        for i, k in enumerate(targets):
            rng = generator(seed, "memorisation", int(k))
            sides = [
                rng.permutation(np.flatnonzero(side))
                for side in (game.member[k], ~game.member[k] & game.candidate)
            ]
            n = min(map(len, sides))
            samples = _records(released[k]).flatten(1)
            to_member, to_other = (nearest(samples, x[side[:n]]).double().numpy() for side in sides)
            closer[i] = np.mean((to_member < to_other) + (to_member == to_other) / 2)
            inside[i], outside[i] = to_member.mean(), to_other.mean()
        found = {CLOSER: closer, "to nearest member": inside, "to nearest non-member": outside}
        rows += _rows(label, found, game, targets, confidence)
    return AuditTable(rows, columns=COLUMNS)


def difference(
    one: GeneratorGame,
    other: GeneratorGame,
    pool: Pool,
    metric: str = "fid",
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean difference of two games in FID or KID, model by model, with an interval over models.

    Parameters
    ----------
    one, other : GeneratorGame
        With the same members; the difference is ``one - other``.
    metric : {"fid", "kid"}
        Which distance to the test records.
    pool, confidence, seed
        As in `assess`.
    """
    choose("metric", metric, ("fid", "kid"))
    if one.member.shape != other.member.shape or (one.member != other.member).any():
        raise ValueError("one and other differ in their members: play both with the same n_models and seed.")
    compare, _ = _ruler({"one": one, "other": other}, pool, seed)
    first, second = (np.array([compare(x)[metric == "kid"] for x in game.samples]) for game in (one, other))
    return intervals.over_targets(first - second, partner=one.partner, confidence=confidence)


def nearest(x: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Euclidean distance of each row of ``x`` to the nearest row of ``others``, shape (row,)."""
    found = torch.cat([torch.cdist(part, others).argmin(1) for part in x.split(256)])
    return torch.linalg.vector_norm(x - others[found], dim=1)  # exactly 0 of a copy, which cdist doesn't give


# --------------------------------------------------------------------------------------------------------------- checks


def _check(game: GeneratorGame, pool: Pool, label: str) -> None:
    """Refuse a game without samples, or of other records."""
    if "samples" not in game.dataset:
        raise ValueError(
            f"{label!r} has no samples to evaluate: play it with samples=1000, or give samples=...."
        )
    shape = game.samples.shape
    same = game.attrs.get("fingerprint", pool.fingerprint) == pool.fingerprint
    if not same or shape[2:] != pool.x.shape[1:] or game.n_records != len(pool):
        raise ValueError(
            f"{label!r} has samples of shape {shape[2:]} and {game.n_records} records; pool has {len(pool)} records of "
            f"shape {pool.x.shape[1:]}: give the pool that the game was played with."
        )


def _records(x: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Return records as float32 in [0, 1]."""
    return stack.prepare(torch.as_tensor(np.ascontiguousarray(x))).float()
