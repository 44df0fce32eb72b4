"""The same game to the digit, from any number of workers, in threads and in processes, again and again."""

import time
from dataclasses import dataclass

import numpy as np
import pytest
import toys
from torch import nn

import mialab as mia
from mialab import gan
from mialab.classifiers.plan import ClassifierPlan
from mialab.games import backends
from mialab.gan.game import GeneratorPlan
from mialab.models import CNN, MLP

GAMES = 20  # of each of 5 kinds; without a lock, about half of them would differ
POOL, IMAGES = toys.pool(n=12, test=0), toys.pool("image", n=12, test=0)


@dataclass(frozen=True)
class Slow:
    """Builds what another builder does, but takes its time in the middle, in which others may draw numbers."""

    of: MLP | CNN
    dropout: float = 0

    def __call__(self, shape, n_classes):
        first = self.of(shape, n_classes)
        time.sleep(0.002)
        return nn.Sequential(first, nn.Dropout(self.dropout), nn.Linear(n_classes, n_classes))


@dataclass(frozen=True)
class SlowGAN:
    """The same of critics and generators."""

    of: gan.networks.MLP | gan.networks.Conv
    latent: int = 4
    conditional: bool = True

    def check(self, pool):
        """Accept every pool."""

    def generator(self, shape, n_classes):
        """Build a generator."""
        return self._last(lambda: self.of.generator(shape, n_classes))

    def critic(self, shape, n_classes):
        """Build a critic."""
        return self._last(lambda: self.of.critic(shape, n_classes))

    def _last(self, build):
        first = build()
        time.sleep(0.002)
        again = build()
        again.load_state_dict({k: (v + first.state_dict()[k]) / 2 for k, v in again.state_dict().items()})
        return again


def classifiers(model, pool, seed):
    training = mia.Training(epochs=1, batch_size=6)
    return ClassifierPlan(
        pool=pool, model=model, training=training, queries="original", n_models=4, seed=seed
    )


def generators(networks, pool, seed):
    training = gan.Training(steps=1, n_critic=1, batch_size=6)
    return GeneratorPlan(
        pool=pool,
        networks=networks,
        training=training,
        queries="original",
        n_models=4,
        samples=6,
        fakes=2,
        seed=seed,
    )


KINDS = {
    "stacked": (classifiers, Slow(MLP((4,))), POOL),
    "sequential": (classifiers, Slow(CNN(channels=(2,), hidden=2)), IMAGES),
    "dropout": (classifiers, Slow(MLP((4,)), dropout=0.5), POOL),
    "GANs, stacked": (generators, SlowGAN(gan.networks.MLP(hidden=(4,), latent=4)), IMAGES),
    "GANs, sequential": (generators, SlowGAN(gan.networks.Conv(width=2, latent=4)), IMAGES),
}


def arrays(plan, workers):
    """Train models one by one, some at a time in threads, and return all that is stored of them."""

    def train(models, *, pool):
        own = {"y": pool.y, "member": member[models], **plan.options("cpu")}
        return models, plan.train_group(models, pool=pool, **own)

    member, team = plan.fixed()["member"], backends.find(plan.pool, workers, shared=True)
    assert team.size(0, threads=True) == workers
    done = {models[0]: of_one for models, of_one in team.run(train, [[k] for k in range(4)], workers)}
    names = sorted(done[0].keys() - {"seconds"})
    return {name: np.concatenate([done[k][name] for k in range(4)]) for name in names}


def differ(one, other):
    assert one.keys() == other.keys()
    return not all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_game_differs_when_builders_take_their_time(kind):
    make, network, pool = KINDS[kind]
    plans = [make(network, pool, seed) for seed in range(GAMES)]
    assert [plan.seed for plan in plans if differ(arrays(plan, 1), arrays(plan, 2))] == []
