"""What generated records are good for: a classifier is trained on them and tested on real ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mialab._validation import check_integer
from mialab.classifiers import run as classifier_run
from mialab.data.pool import Pool
from mialab.defenses.base import Defense
from mialab.models import CNN, MLP, Model
from mialab.training.options import Training
from mialab.training.stack import initialize, mode

#: Training steps and batch size of the classifiers that evaluate samples, whatever the number of samples.
STEPS, BATCH = 400, 64
#: Images of at least so many pixels a side are classified by a convolutional network, all else by an MLP.
CONVOLUTIONS_FROM = 16


def train_on_synthetic(
    samples: np.ndarray, sample_y: np.ndarray, pool: Pool, *, seed: int, models: Sequence[int]
) -> np.ndarray:
    """Which real test records are labeled correctly by classifiers, each trained on the records of one generator alone.

    A small network (`classifier`) is trained for about 400 steps, or for one epoch if that is more, on batches of 64
    records with their hard labels. Ji et al. measure the utility of samples in this way, with a ResNet-18 for images.

    Parameters
    ----------
    samples : numpy.ndarray of float32, shape (model, sample, ...)
        Records in [0, 1].
    sample_y : numpy.ndarray of int, shape (sample,) or (model, sample)
        Their labels.
    pool : Pool
        Gives number of classes, kind, and the test part.
    seed, models : int, sequence of int
        The result for a model depends on its number and the seed alone, besides its samples.

    Returns
    -------
    numpy.ndarray of bool, shape (model, test record)
        The mean of a row is the accuracy. Without test records if all samples have one label, as those of unconditional
        networks.

    Raises
    ------
    ValueError
        If shapes or values of the samples do not fit the pool.
    """
    for k in models:
        check_integer("models", k)
    samples, sample_y = np.ascontiguousarray(samples, np.float32), np.asarray(sample_y, np.int64)
    if samples.shape[2:] != pool.x.shape[1:]:
        raise ValueError(
            f"samples has records of shape {samples.shape[2:]}; with this pool it must be {pool.x.shape[1:]}."
        )
    sample_y = np.broadcast_to(sample_y, samples.shape[:2])
    if not len(pool.x_test) or len(np.unique(sample_y)) < 2:
        return np.empty((len(models), 0), bool)
    network = initialize(classifier(pool), pool, seed, 0)
    together = mode(network, torch.from_numpy(samples[0, :2]), "cpu") == "stacked"
    groups = [range(len(models))] if together else [[i] for i in range(len(models))]
    correct = []
    for group in groups:
        x = np.concatenate([samples[i] for i in group])
        y = sample_y[list(group)].ravel()
        own = np.repeat(np.eye(len(group), dtype=bool), sample_y.shape[1], axis=1)  # each learns from its own
        data = Pool("samples", x, y, pool.n_classes, pool.kind)
        run = trained(data, seed, own, [models[i] for i in group], "train on synthetic ")
        correct.append(run.correct(pool.x_test, pool.y_test).cpu().numpy())
    return np.concatenate(correct)


def classifier(pool: Pool) -> Model:
    """Return the small network that evaluates samples of this pool, with 64 features before its answer."""
    large = pool.kind == "image" and min(pool.x.shape[-2:]) >= CONVOLUTIONS_FROM
    return CNN(channels=(16, 32), hidden=64) if large else MLP(hidden=(128, 64), activation="relu")


def trained(
    data: Pool,
    seed: int,
    member: np.ndarray | None = None,
    models: Sequence[int] = (0,),
    purpose: str = "",
) -> classifier_run.Run:
    """Train the small network on records of a pool, for about 400 steps; its other parts are not used.

    ``member`` says which, bool (model, record), as many for each of several models; all by default. Random numbers
    follow from seed, model and purpose.
    """
    member = np.ones((1, len(data)), bool) if member is None else member
    n = int(member[0].sum())
    batches = -(-n // BATCH)
    training = Training(
        epochs=max(1, round(STEPS / batches)), batch_size=min(BATCH, n), lr=2e-3, precision="float32"
    )
    plan: dict[str, Any] = {"build": classifier(data), "defense": Defense(), "training": training}
    plan |= {"pool": data, "seed": seed, "device": "cpu", "purpose": purpose}
    run = classifier_run.Run(data.x, data.y, member, models, **plan)
    run.train()
    return run
