"""RMIA: an example worked by hand, plain loops over all pairs of records, and what must not change the scores."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.rmia import rmia_by_loops
from toys import random_game

import mialab as mia
from mialab.attacks import RMIA, shadows
from mialab.attacks.rmia import rmia

DESIGNS = ["paired", "balanced", "random"]

# Even models are members of record 0 and of record 2, odd ones of record 1; 2j and 2j + 1 are partners.
P = np.array(
    [
        # target, partner, then shadow models, IN and OUT of record 0 by turns
        [0.9, 0.5, 0.6, 0.3, 0.8, 0.1],
        [0.4, 0.9, 0.2, 0.9, 0.4, 0.5],
        [0.2, 0.2, 0.3, 0.2, 0.1, 0.2],
    ]
).T
MEMBER = np.arange(6)[:, None] % 2 == [0, 1, 0]
PARTNER = np.broadcast_to(np.arange(6)[:, None] ^ 1, (6, 3))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # p(x) = 0.45, 0.5, 0.2: the ratios of the target are 2, 0.8 and 1.
        ({}, [1, 0, 0.5]),
        ({"gamma": 1.9}, [1, 0, 0]),  # record 0 is ahead of the others by factors of 2.5 and 2
        ({"gamma": 0.7}, [1, 0.5, 0.5]),  # 0.8 reaches 0.7 of 1, and 1 does not reach 0.7 of 2
        # mean_out = 0.2, 0.3, 0.2: with a = 0, p(x) = 0.6, 0.65, 0.6 and the ratios 1.5, 0.62, 0.33.
        ({"online": False, "a": 0.0}, [1, 0.5, 0]),
        # With a = 1, p(x) is mean_out: 4.5, 1.33, 1.
        ({"online": False, "a": 1.0}, [1, 0.5, 0]),
        ({"online": False, "a": 1.0, "gamma": 3.0}, [1, 0, 0]),
        # Record 0 is compared with 1 and 2, and these two with each other.
        ({"population": np.array([1, 2])}, [1, 0, 1]),
    ],
)
def test_rmia_worked_by_hand(options, expected):
    np.testing.assert_allclose(rmia(np.log(P), MEMBER, PARTNER, **options)[0], expected, rtol=1e-12)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("online", [True, False])
@given(
    seed=st.integers(0, 10_000),
    n_models=st.sampled_from([6, 8, 10]),
    signal=st.sampled_from([0, 3]),
    gamma=st.sampled_from([0.6, 1.0, 1.7]),
    a=st.sampled_from([0.0, 0.3, 1.0]),
    drawn=st.booleans(),
)
@settings(max_examples=10)
def test_rmia_against_plain_loops(design, online, seed, n_models, signal, gamma, a, drawn):
    game = random_game(design, n_models=n_models, n_records=12, seed=seed, signal=signal)
    attack = RMIA(online=online, gamma=gamma, a=a, population=7 if drawn else None)
    population = mia.attacks.rmia.generator(0, "population").permutation(12)[: attack.population]
    expected = rmia_by_loops(game, online=online, gamma=gamma, a=a, population=population)
    np.testing.assert_allclose(attack.run(game).score, expected, rtol=1e-6, atol=1e-6)


def test_with_several_queries_it_is_the_mean_of_their_scores():
    game = random_game(n_queries=3, seed=5)
    by_query = [
        RMIA().run(mia.Game.from_arrays(logits=z, member=game.member, y=game.y, partner=game.partner)).score
        for z in np.moveaxis(game.logits, 1, 0)
    ]
    augmented = RMIA(queries="all")
    assert augmented.name == "rmia_augmented"
    np.testing.assert_allclose(augmented.run(game).score, np.mean(by_query, 0), rtol=1e-12)
    np.testing.assert_array_equal(RMIA().run(game).score, by_query[0])


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("a", [0.0, 0.3, 1.0])
def test_equal_answers_get_equal_scores(online, a):
    """Rounding must not tell members and others apart: 1/3 has no end in binary."""
    game = random_game(n_classes=3)
    same = mia.Game.from_arrays(logits=np.zeros_like(game.logits), member=game.member, y=game.y)
    np.testing.assert_array_equal(RMIA(online=online, a=a).run(same).score, 1)


@pytest.mark.parametrize("online", [True, False])
def test_probabilities_that_vanish_in_float64_are_still_compared(online):
    """Logs of probabilities from -3,000 to -1,000: scores are those of the same ratios near 1."""
    game = random_game(seed=3)
    log_p = game.signal("loss")[:, 0]
    rest = {"member": game.member, "excluded_models": game.excluded_models, "online": online, "a": 1.0}
    far = np.linspace(-3000, -1000, game.n_records)
    np.testing.assert_array_equal(rmia(log_p + far, **rest), rmia(log_p, **rest))


def test_the_greatest_of_all_probabilities_is_above_what_it_outweighs():
    log_p = np.full((8, 6), -2.0)
    log_p[:, 0] = -900.0
    log_p[0, 0] = -1.0  # e^899 times as probable as with any shadow model
    member = np.arange(8)[:, None] % 2 == np.zeros(6)
    excluded_models = np.broadcast_to(np.arange(8)[:, None] ^ 1, member.shape)
    for online in (True, False):
        score = rmia(log_p, member, excluded_models, online=online, a=1.0)
        assert np.isfinite(score).all()
        assert score[0, 0] == 1


def test_blocks_of_records_change_nothing(monkeypatch):
    game = random_game("balanced", n_models=10, n_records=50, signal=1.0)
    attacks = [
        mia.attacks.make(name) for name in ("lira", "lira_offline", "lira_pooled", "rmia", "rmia_offline")
    ]
    whole = [attack.run(game).score for attack in attacks]
    monkeypatch.setattr(shadows, "BLOCK", 70)  # 7 records
    for attack, expected in zip(attacks, whole, strict=True):
        np.testing.assert_allclose(attack.run(game).score, expected, rtol=1e-12)


def test_records_by_population_are_never_laid_out():
    rng = np.random.default_rng(0)
    member = np.arange(8)[:, None] % 2 == rng.integers(2, size=3000)
    excluded_models = np.broadcast_to(np.arange(8)[:, None] ^ 1, member.shape)
    log_p = -rng.exponential(size=member.shape)
    before = log_p.copy()
    tracemalloc.start()
    rmia(log_p, member, excluded_models)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3000 * 3000  # a byte for each pair would already be more
    np.testing.assert_array_equal(log_p, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 0}, "gamma=0 must be greater than 0"),
        ({"a": 1.5}, "a=1.5 must be at least 0 and at most 1"),
        ({"population": 1}, "population=1 must be an integer of at least 2"),
        ({"queries": "some"}, "queries='some' is unknown"),
        ({"calibrate": "ratio"}, "calibrate='ratio' is unknown"),
    ],
)
def test_wrong_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        RMIA(**options)
