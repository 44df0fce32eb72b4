"""MIST: what a round is without agreement, what agreement does, and what is refused."""

import numpy as np
import pytest
import torch
import toys

import mialab as mia
from mialab.defenses import MIST, Defense
from mialab.models import MLP

SEED = 3


def run_of(defense, models=(0, 1, 2, 3), hidden=(32,), **options):
    training = {"epochs": 5, "batch_size": 10} | options
    return toys.group(defense, models, MLP(hidden=hidden), pool=toys.pool(), seed=SEED, **training)


@pytest.mark.parametrize("sub_models", [2, 4, 5])
def test_the_average_of_single_steps_is_a_step_with_all_members(sub_models):
    """Sub-models that take one step of gradient descent each, on parts of one size, average to one step on them all."""
    plain = {
        "optimizer": "sgd",
        "momentum": 0.0,
        "weight_decay": 0.0,
        "lr": 0.5,
        "batch_size": 20,
        "epochs": 3,
    }
    rounds = run_of(MIST(sub_models, local_epochs=1, agree_epochs=0), **plain)
    whole = run_of(Defense(), **plain)
    for run in (rounds, whole):
        run.train()
    torch.testing.assert_close(rounds.predict(rounds.x), whole.predict(whole.x), rtol=1e-4, atol=1e-5)


def apart(run, parts, states):
    """Mean L1 distance between what each sub-model says of its part and what the others say of it."""
    defense = run.defense
    told = defense._told(run, parts, states)
    found = []
    for part, own, others in zip(parts, states, told, strict=True):
        for name, value in run.state().items():
            value.data.copy_(own[name])
        p = run.predict(run.x[part]).softmax(-1)
        found.append((p - others).abs().sum(-1).mean().item())
    return np.mean(found)


@pytest.mark.parametrize("models", [(0, 1, 2), (5,)])
def test_agreement_brings_sub_models_nearer_to_the_others(models):
    run = run_of(MIST(3, local_epochs=20, agree_epochs=10), models, lr=0.01)
    run.progress = 0.0
    parts = next(run.defense.batches(run)).tensor_split(3, dim=1)
    start = {name: value.detach().clone() for name, value in run.state().items()}
    learned = [run.defense._learn(run, part, start) for part in parts]
    before = apart(run, parts, learned)
    told = run.defense._told(run, parts, learned)
    agreed = [run.defense._agree(run, *each) for each in zip(parts, learned, told, strict=True)]
    assert before > 0.3  # who does not know a record says something else of it
    assert apart(run, parts, agreed) < 0.7 * before


def test_what_the_others_say_is_about_the_right_records():
    run = run_of(MIST(3), (0, 1))
    parts = next(run.defense.batches(run)).tensor_split(3, dim=1)
    assert sorted(torch.cat(parts, 1)[1].tolist()) == sorted(run.members[1].tolist())
    state = {name: value.detach().clone() for name, value in run.state().items()}
    told = run.defense._told(run, parts, [state] * 3)
    for part, others in zip(parts, told, strict=True):
        assert others.shape == (2, 2, part.shape[1], 3)
        for model in range(2):
            alone = run.predict(run.x)[model].softmax(-1)[part[model]]
            torch.testing.assert_close(others[1, model], alone)


def test_models_do_not_depend_on_their_group():
    together, alone = (run_of(MIST(), models) for models in ((0, 1, 3), (3,)))
    for run in (together, alone):
        run.train()
    torch.testing.assert_close(
        together.predict(together.x)[2], alone.predict(alone.x)[0], rtol=1e-3, atol=1e-4
    )


def test_it_hides_members_at_a_cost():
    """Of 16 models that learn all by heart without it: the loss tells members less well, and fewer are learned."""
    pool = mia.load("clusters", size=200, test=200)
    options = {"training": mia.Training(epochs=40, lr=0.003, batch_size=25), "n_models": 16}
    games = [mia.play(pool, MLP(hidden=(64,)), defense=d, **options) for d in (None, MIST(agree_epochs=8))]
    plain, hidden = (game.outcome("lira_pooled").interval("auc") for game in games)
    assert plain.low > 0.95
    assert hidden.high < plain.low
    assert games[1].train_accuracy.mean() < games[0].train_accuracy.mean()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"sub_models": 1}, "sub_models=1 must be an integer of at least 2"),
        ({"local_epochs": 0}, "local_epochs=0 must be an integer of at least 1"),
        ({"agree_epochs": -1}, "agree_epochs=-1 must be an integer of at least 0"),
        ({"strength": 0}, "strength=0 must be greater than 0"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        MIST(**parameters)


def test_more_sub_models_than_members_are_refused():
    with pytest.raises(ValueError, match="sub_models=30 must be at most 20, the members"):
        mia.play(toys.pool(), defense=MIST(30), n_models=2)
