"""DP-SGD as an attacker meets it: games that were trained with a stated epsilon, and what attacks refute of it."""

import math

import pytest

import mialab as mia
from mialab.auditing.epsilon import epsilon_bound
from mialab.defenses import DPSGD
from mialab.models import MLP

#: Times the number of pairs it adds to the chance of error, so it must be far below 1 - CONFIDENCE for any power.
DELTA = 1e-9
CONFIDENCE = 0.9999
ATTACKS = ("loss", "confidence", "entropy", "rmia")
N_MODELS = 4

pytestmark = pytest.mark.slow


def played(name, defense):
    """Return a game in which all records are canaries, half of them members of each model, and its pool."""
    pool = mia.load(name, size=400, validation=0, test=0)
    training = mia.Training(epochs=250, batch_size=200, lr=0.02)
    return mia.play(pool, MLP((128,)), defense, training=training, n_models=N_MODELS, canaries=400), pool


def bounds(game, pool, delta):
    """Return what each attack refutes on each target, as epsilons for replacing a record."""
    options = {"method": "one_run", "delta": delta, "confidence": CONFIDENCE}
    return {
        (attack, target): epsilon_bound(game, attack, pool, target=target, **options).epsilon
        for attack in ATTACKS
        for target in range(N_MODELS)
    }


@pytest.mark.parametrize("name", ["clusters", "digits"])
def test_no_attack_refutes_the_stated_epsilon(name, fresh_cache):
    # Of epsilon 1 alone: of 4, the most that 400 records could ever refute lies below the limit.
    # Adding and removing a record: 2 epsilon and (1 + exp(epsilon)) delta. Right guesses of a private training are at
    # most those of coins (Steinke et al., 2023), so each bound is too large once in 10,000 seeds, whatever the attack:
    # one of the 16 here at most once in 600.
    epsilon = 1.0
    game, pool = played(name, DPSGD(epsilon=epsilon, delta=DELTA))
    stated = game.attrs["report"]["epsilon"]
    assert 0.99 * epsilon <= stated <= epsilon
    found = bounds(game, pool, (1 + math.exp(stated)) * DELTA)
    assert max(found.values()) <= 2 * stated, found


@pytest.mark.parametrize("name", ["clusters", "digits"])
def test_the_same_attacks_refute_epsilon_1_where_there_is_no_noise(name, fresh_cache):
    # What shows that the test above can fail: clipping alone, and epsilon 1 is refuted.
    game, pool = played(name, DPSGD(noise=0.0, max_norm=10.0))
    found = bounds(game, pool, (1 + math.e) * DELTA)
    assert max(found.values()) > 2, found
