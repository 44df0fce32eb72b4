"""Convex-concave loss: values, gradients, the variance of losses it is made for, what it refuses."""

import math

import numpy as np
import pytest
import torch
import toys
from scipy import stats

from mialab.defenses import ConvexConcave, Defense
from mialab.defenses.base import cross_entropy
from mialab.models import MLP
from mialab.training.membership import membership

SEED = 3


def logits_and_labels():
    rng = torch.Generator().manual_seed(0)
    y = torch.randint(4, (2, 7), generator=rng)
    logits = torch.randn(2, 7, 4, dtype=torch.float64, generator=rng) + torch.nn.functional.one_hot(y, 4)
    return logits.requires_grad_(), y


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("concave", ["exponential", "quadratic"])
def test_values_record_by_record(alpha, concave):
    logits, y = logits_and_labels()
    losses = ConvexConcave(alpha, concave, scale=0.3).loss(logits, y)
    for own, label, loss in zip(logits.flatten(0, 1), y.flatten(), losses.flatten(), strict=True):
        p = own.softmax(-1)[label].item()
        g = {"exponential": math.exp(p), "quadratic": p + p**2 / 2}[concave]
        assert loss.item() == pytest.approx(0.3 * (-alpha * math.log(p) - (1 - alpha) * g))


@pytest.mark.parametrize("alpha", [0.5, 0.1])
@pytest.mark.parametrize("concave", ["exponential", "quadratic"])
def test_gradients_are_those_of_the_cross_entropy_with_weights(alpha, concave):
    logits, y = logits_and_labels()
    found, plain = (
        torch.autograd.grad(d.loss(logits, y).sum(), logits)[0]
        for d in (ConvexConcave(alpha, concave), Defense())
    )
    p = (-cross_entropy(logits, y)).exp()
    slope = p.exp() if concave == "exponential" else 1 + p
    torch.testing.assert_close(found, plain * (alpha + (1 - alpha) * p * slope)[..., None])


def test_without_the_concave_term_it_is_plain_training():
    logits, y = logits_and_labels()
    torch.testing.assert_close(ConvexConcave(alpha=1.0).loss(logits, y), Defense().loss(logits, y))
    soft = torch.nn.functional.one_hot(y, 4).double()  # labels as a distribution
    torch.testing.assert_close(ConvexConcave().loss(logits, soft), ConvexConcave().loss(logits, y))


def run_of(defense, models, hidden=(32,), **options):
    training = {"epochs": 5, "batch_size": 10} | options
    return toys.group(defense, models, MLP(hidden=hidden), pool=toys.pool(), seed=SEED, **training)


def test_models_do_not_depend_on_their_group():
    together, alone = (run_of(ConvexConcave(), models) for models in ((0, 1, 3), (3,)))
    for run in (together, alone):
        run.train()
    torch.testing.assert_close(
        together.predict(together.x)[2], alone.predict(alone.x)[0], rtol=1e-3, atol=1e-4
    )


# ----------------------------------------------------------------------------------------------------
# What it does to losses, and what it does not


def trained(defense, hidden):
    """Return losses of eight models, (model, record), and which records are members."""
    run = run_of(defense, range(8), hidden, epochs=60, lr=0.02)
    run.train()
    losses = cross_entropy(run.predict(run.x), run.y.expand(8, -1)).numpy()
    return losses, membership(8, 40, SEED)


def test_losses_of_members_vary_more_where_they_cannot_all_be_small():
    # Linear models. Were it a coin whose loss varies more, all of four independent pairs of models would come out this
    # way once in 16 seeds at most; that the variances are twice as large, too, is rarer.
    spread = {}
    for alpha in (1.0, 0.1):
        losses, member = trained(ConvexConcave(alpha), ())
        spread[alpha] = np.array([own[m].var() for own, m in zip(losses, member, strict=True)])
    assert (spread[0.1] > 2 * spread[1.0]).all()


def test_a_network_that_learns_all_by_heart_is_not_hidden():
    # Of a model that knows nothing the AUC has standard deviation 0.0925; the mean of four independent pairs of models
    # has at most half of that: it is more than four of those above 0.5 once in 30,000 seeds.
    losses, member = trained(ConvexConcave(0.1), (32,))
    assert losses[member].mean() < 0.1
    auc = [stats.mannwhitneyu(-s[m], -s[~m]).statistic / 400 for s, m in zip(losses, member, strict=True)]
    assert np.mean(auc) > 0.5 + 4 * 0.0925 / 2


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alpha": 0}, "alpha=0 must be greater than 0 and at most 1"),
        ({"alpha": 1.5}, "alpha=1.5 must be greater than 0 and at most 1"),
        ({"scale": 0.0}, "scale=0.0 must be greater than 0"),
        ({"concave": "exp"}, "concave='exp' is unknown.*Known: exponential, quadratic."),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match="^" + message):
        ConvexConcave(**parameters)
