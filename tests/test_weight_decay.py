"""Weight decay: each step against its formula, what becomes of weights, what it refuses."""

import numpy as np
import pytest
import torch
import toys
from scipy import stats

import mialab as mia
from mialab.defenses import Defense, WeightDecay
from mialab.defenses.base import cross_entropy
from mialab.models import MLP
from mialab.training.membership import membership

SEED = 3
SMALL, LARGE = MLP(hidden=(8,)), MLP(hidden=(300, 200))  # stacked, and one at a time


def run_of(defense, models, build=SMALL, **options):
    training = {"epochs": 3, "batch_size": 10} | options
    return toys.group(defense, models, build, pool=toys.pool(), seed=SEED, adapted=True, **training)


@pytest.mark.parametrize(("build", "models"), [(SMALL, (0, 3)), (LARGE, (1,))], ids=["stacked", "sequential"])
@pytest.mark.parametrize(
    "options", [{"optimizer": "sgd", "momentum": 0.9}, {}, {"optimizer": "adamw"}], ids=str
)
def test_a_step_shrinks_weights_beside_what_training_does(build, models, options):
    plain, decayed = (run_of(d, models, build, lr=0.05, **options) for d in (Defense(), WeightDecay(0.7)))
    before = {name: value.detach().clone() for name, value in plain.parameters.items()}
    for run in (plain, decayed):
        run.step(run.members[:, :10])
    for name, value in decayed.parameters.items():
        expected = plain.parameters[name] - 0.05 * 0.7 * before[name]
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


def test_the_training_that_is_asked_for():
    adapted = WeightDecay(0.1).adapt(mia.Training(weight_decay=3.0, lr=0.01))
    assert adapted == mia.Training(weight_decay=0.1, lr=0.01, optimizer="adamw")
    assert WeightDecay(0.1).adapt(adapted) == adapted
    sgd = mia.Training(optimizer="sgd", momentum=0.9)
    assert WeightDecay(0.1).adapt(sgd) == mia.Training(optimizer="sgd", momentum=0.9, weight_decay=0.1)


def test_models_do_not_depend_on_their_group():
    together, alone = (run_of(WeightDecay(0.5), models) for models in ((0, 1, 3), (3,)))
    for run in (together, alone):
        run.train()
    torch.testing.assert_close(
        together.predict(together.x)[2], alone.predict(alone.x)[0], rtol=1e-3, atol=1e-4
    )


def separation(defense):
    """Mean over eight models of the AUC of the loss, member against not."""
    run = run_of(defense, range(8), MLP(hidden=(32,)), epochs=60, lr=0.02)
    run.train()
    member = membership(8, 40, SEED)
    losses = cross_entropy(run.predict(run.x), run.y.expand(8, -1)).numpy()
    pairs = zip(losses, member, strict=True)
    return np.mean([stats.mannwhitneyu(-s[m], -s[~m]).statistic / 400 for s, m in pairs])


def test_null_and_power():
    # Of a model that knows nothing the AUC has standard deviation 0.0925; the mean of four independent pairs of models
    # has at most 0.0925 / 2: it is more than four of those from 0.5 once in 15,000 seeds.
    chance = 4 * 0.0925 / 2
    assert separation(WeightDecay(0.0)) > 0.5 + chance
    assert abs(separation(WeightDecay(50.0)) - 0.5) < chance  # weights that are all but gone after each step


@pytest.mark.parametrize("value", [-0.1, float("nan"), "much"])
def test_bad_parameters(value):
    with pytest.raises(ValueError, match=f"^weight_decay={value!r} must be at least 0"):
        WeightDecay(value)
