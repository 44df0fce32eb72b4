"""What generated records are good for: a classifier is trained on them and tested on real ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from mialab._validation import check_integer
from mialab.classifiers import run as classifier_run
from mialab.data.pool import Pool
from mialab.defenses.base import Defense
from mialab.models import CNN, MLP, Model
from mialab.training.options import Training
from mialab.training.streams import generator

#: Training steps and batch size of the classifiers that evaluate samples, whatever the number of samples.
STEPS, BATCH = 400, 64
#: Images of at least so many pixels a side are classified by a convolutional network, all else by an MLP.
CONVOLUTIONS_FROM = 16


def train_on_synthetic(
    samples: np.ndarray, sample_y: np.ndarray, pool: Pool, *, seed: int, model: int
) -> np.ndarray:
    """Which real test records are labeled correctly by a classifier trained on generated records alone.

    A small network (`classifier`) is trained for about 400 steps, or for one epoch if that is more, on batches of 64
    records with their hard labels. Ji et al. measure the utility of samples in this way, with a ResNet-18 for images.

    Parameters
    ----------
    samples, sample_y : numpy.ndarray of float32 and of int, shapes (sample, ...) and (sample,)
        Records in [0, 1] and their labels.
    pool : Pool
        Gives number of classes, kind, and the test part.
    seed, model : int
        The result depends on them alone, besides the samples.

    Returns
    -------
    numpy.ndarray of bool, shape (test record,)
        Its mean is the accuracy. Empty if all samples have one label, as those of unconditional networks.

    Raises
    ------
    ValueError
        If shapes or values of the samples do not fit the pool.
    """
    check_integer("model", model)
    samples, sample_y = np.ascontiguousarray(samples, np.float32), np.asarray(sample_y, np.int64)
    if samples.shape[1:] != pool.x.shape[1:]:
        raise ValueError(
            f"samples has records of shape {samples.shape[1:]}; with this pool it must be {pool.x.shape[1:]}."
        )
    if not len(pool.x_test) or len(np.unique(sample_y)) < 2:
        return np.empty(0, bool)
    own = int(generator(seed, "train on synthetic", model).integers(2**31))
    run = trained(Pool("samples", samples, sample_y, pool.n_classes, pool.kind), own)
    return run.correct(pool.x_test, pool.y_test)[0].cpu().numpy()


def classifier(pool: Pool) -> Model:
    """Return the small network that evaluates samples of this pool, with 64 features before its answer."""
    large = pool.kind == "image" and min(pool.x.shape[-2:]) >= CONVOLUTIONS_FROM
    return CNN(channels=(16, 32), hidden=64) if large else MLP(hidden=(128, 64), activation="relu")


def trained(data: Pool, seed: int) -> classifier_run.Run:
    """Train the small network on all records of a pool, for about 400 steps; its other parts are not used."""
    n = len(data)
    batches = -(-n // BATCH)
    training = Training(
        epochs=max(1, round(STEPS / batches)), batch_size=min(BATCH, n), lr=2e-3, precision="float32"
    )
    plan: dict[str, Any] = {"build": classifier(data), "defense": Defense(), "training": training}
    member = np.ones((1, n), bool)
    run = classifier_run.Run(data.x, data.y, member, [0], pool=data, **plan, seed=seed, device="cpu")
    run.train()
    return run
