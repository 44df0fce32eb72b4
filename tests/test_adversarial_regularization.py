"""Adversarial regularization: both players against plain torch, what the second one hides, what is refused."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import toys
from scipy import stats
from torch import nn

import mialab as mia
from mialab.classifiers import run as classifier_run
from mialab.defenses import AdversarialRegularization, Defense, adversarial_regularization
from mialab.defenses.base import cross_entropy
from mialab.models import MLP
from mialab.training.membership import membership
from mialab.training.stack import initialize
from mialab.training.streams import Streams

SEED = 3
#: Initial weights with which gradients of the inference network are far from rounding, which Adam would blow up.
INITIAL = 0.5
SMALL = {"confidence": (16, 8), "label": (8,), "joint": (8,)}
NAME = "adversarial_regularization"


def run_of(defense, models, build=MLP(hidden=(8,)), reference=40, **options):  # noqa: B008  # immutable
    training = {"epochs": 3, "batch_size": 8} | options
    return toys.group(defense, models, build, pool=toys.pool(reference=reference), seed=SEED, **training)


# ----------------------------------------------------------------------------------------------------
# Both steps


class Inference(nn.Module):
    """The inference network of one model, of plain layers, with the weights that its stream gives."""

    def __init__(self, defense, n_classes, rng):
        super().__init__()

        def layers(*widths):
            return nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))

        self.confidence = layers(n_classes, *defense.confidence)
        self.label = layers(n_classes, *defense.label)
        self.joint = layers(defense.confidence[-1] + defense.label[-1], *defense.joint, 1)
        for layer in (*self.confidence, *self.label, *self.joint):
            weight = rng.normal(layer.in_features, layer.out_features)[0].T
            layer.weight.data, layer.bias.data = INITIAL * weight, torch.zeros(layer.out_features)

    def forward(self, logits, y):
        p, label = logits.softmax(-1), nn.functional.one_hot(y, logits.shape[-1]).float()
        for layer in self.confidence:
            p = layer(p).relu()
        for layer in self.label:
            label = layer(label).relu()
        both = torch.cat([p, label], dim=-1)
        for layer in self.joint[:-1]:
            both = layer(both).relu()
        return self.joint[-1](both)[:, 0].sigmoid()


def plain(k, pool, members, defense, *, build, epochs=3):
    """Algorithm 1 for one model, in plain torch; return classifier and inference network."""
    network = initialize(build, pool, SEED, k)
    rng = {name: Streams(SEED, [k], name) for name in ("batches", "inference members", "inference reference")}
    inference = Inference(defense, pool.n_classes, Streams(SEED, [k], "inference weights"))
    x, y, x_other, y_other = map(torch.as_tensor, (pool.x, pool.y, pool.x_reference, pool.y_reference))
    outer = torch.optim.Adam(network.parameters(), lr=0.01)
    inner = torch.optim.Adam(inference.parameters(), lr=defense.lr)
    for _ in range(epochs):
        for batch in members[rng["batches"].permutation(len(members))[0]].split(8):
            for _ in range(defense.inner):
                own = members[rng["inference members"].integers(len(members), len(batch))[0]]
                other = rng["inference reference"].integers(len(y_other), len(batch))[0]
                inside = inference(network(x[own]).detach(), y[own])
                outside = inference(network(x_other[other]).detach(), y_other[other])
                inner.zero_grad()
                (-(inside.log().mean() + (1 - outside).log().mean()) / 2).backward()
                inner.step()
            logits = network(x[batch])
            says = inference(logits, y[batch])
            outer.zero_grad()
            (nn.functional.cross_entropy(logits, y[batch]) + defense.strength * says.log().mean()).backward()
            outer.step()
    return network, inference


@pytest.mark.parametrize(("build", "models"), [(MLP(hidden=(8,)), (1, 2)), (MLP(hidden=(300, 200)), (1,))])
def test_both_players_against_plain_torch(build, models, monkeypatch):
    monkeypatch.setattr(adversarial_regularization, "INITIAL", INITIAL)
    defense = AdversarialRegularization(strength=4.0, inner=2, lr=0.02, **SMALL)
    run, undefended = (run_of(d, models, build, lr=0.01) for d in (defense, Defense()))
    run.train(), undefended.train()
    assert run.mode == ("stacked" if len(models) > 1 else "sequential")
    for place, k in enumerate(models):
        network, inference = plain(k, run.pool, run.members[place], defense, build=build)
        theirs = network(torch.as_tensor(run.pool.x))
        torch.testing.assert_close(run.predict(run.x)[place], theirs, rtol=1e-3, atol=1e-3)
        for layers, plain_layers in zip(
            run.memory["inference"][0], (inference.confidence, inference.label, inference.joint), strict=True
        ):
            for (weight, bias), layer in zip(layers, plain_layers, strict=True):
                torch.testing.assert_close(weight[place].T, layer.weight, rtol=1e-3, atol=1e-3)
                torch.testing.assert_close(bias[place, 0], layer.bias, rtol=1e-3, atol=1e-3)
        # The second player makes a difference, so that agreement means something.
        assert (undefended.predict(run.x)[place] - theirs).abs().max() > 0.01


def test_without_strength_it_is_plain_training():
    run, undefended = (
        run_of(defense, (0, 1)) for defense in (AdversarialRegularization(strength=0, **SMALL), Defense())
    )
    run.train(), undefended.train()
    torch.testing.assert_close(run.predict(run.x), undefended.predict(run.x))


def test_models_do_not_depend_on_their_group():
    defense = AdversarialRegularization(inner=2, lr=0.01, **SMALL)
    together, alone = (run_of(defense, models, lr=0.01) for models in ((0, 1, 3), (3,)))
    together.train(), alone.train()
    torch.testing.assert_close(
        together.predict(together.x)[2], alone.predict(alone.x)[0], rtol=1e-3, atol=1e-4
    )


def test_non_members_are_never_looked_at():
    run, changed = (run_of(AdversarialRegularization(inner=2, lr=0.01, **SMALL), (0,)) for _ in range(2))
    outside = torch.ones(len(changed.y), dtype=torch.bool)
    outside[changed.members[0]] = False
    x = changed.x.clone()
    x[outside] = torch.nan
    changed.x = x
    run.train(), changed.train()
    torch.testing.assert_close(run.predict(run.x), changed.predict(run.x), rtol=0, atol=0)


# ----------------------------------------------------------------------------------------------------
# What it hides


def separations(defense):
    """Return the AUC of the loss, member against not, of models that learned what they may: means over pairs, (8,)."""
    run = run_of(defense, range(16), MLP(hidden=(32,)), reference=200, epochs=40, batch_size=10, lr=0.02)
    run.train()
    losses = cross_entropy(run.predict(run.x), run.y.expand(16, -1)).numpy()
    pairs = zip(losses, membership(16, 40, SEED), strict=True)
    auc = [stats.mannwhitneyu(-own[m], -own[~m]).statistic / 400 for own, m in pairs]
    return np.reshape(auc, (8, 2)).mean(1)


@pytest.mark.slow
def test_a_strong_second_player_hides_members():
    # Two models of a pair have complementary members, so pairs are what is independent. Of models that know nothing a
    # pair's AUC has at most the standard deviation 0.0925 of one model's: the mean is more than four standard errors
    # above 0.5 once in 30,000 seeds. The t-test passes once in 1,000 seeds if the second player does nothing.
    plain, defended = (
        separations(AdversarialRegularization(strength=strength, inner=3, lr=0.01, **SMALL))
        for strength in (0, 30)
    )
    assert plain.mean() > 0.5 + 4 * 0.0925 / np.sqrt(8)
    assert stats.ttest_rel(defended, plain, alternative="less").pvalue < 1e-3


# ----------------------------------------------------------------------------------------------------
# Refusals


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"strength": -1}, "strength=-1 must be at least 0"),
        ({"strength": float("nan")}, "strength=nan must be"),
        ({"inner": 0}, "inner=0 must be"),
        ({"lr": 0.0}, "lr=0.0 must be greater than 0"),
        ({"joint": (8, 0)}, "joint=0 must be an integer of at least 1"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match="^" + message):
        AdversarialRegularization(**parameters)


@pytest.mark.parametrize(("reference", "batch_size"), [(0, 8), (7, 8), (19, 64)])
def test_too_few_reference_records_before_any_training(reference, batch_size, monkeypatch):
    monkeypatch.setattr(classifier_run.Run, "train", lambda *_: pytest.fail("a training began"))
    least = min(batch_size, 20)
    with pytest.raises(
        ValueError, match=f"'toy' has {reference} reference records .* at least {least}, a batch"
    ):
        mia.play(
            toys.pool(reference=reference),
            MLP(hidden=(4,)),
            NAME,
            training=mia.Training(epochs=1, batch_size=batch_size),
            n_models=2,
        )


def test_what_it_needs_is_stated():
    assert mia.defenses.summary().loc[NAME, "needs"] == "reference records, a second network"
