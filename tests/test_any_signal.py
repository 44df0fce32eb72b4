"""Attacks take any signal of any victim by its name."""

import numpy as np
import pytest
from reference.rmia import rmia_of_signal_by_loops
from test_requirements import coins
from test_third_victim import LOSS, RegressorGame
from toys import pool, random_game

import mialab as mia
from mialab.attacks import RMIA, LiRA, QuantileRegression, RequirementsNotMet, Threshold
from mialab.attacks.quantile import features, gaussian_score
from mialab.attacks.rmia import rmia
from mialab.attacks.thresholds import known_half
from mialab.games.signals import Signal
from mialab.gan import GeneratorGame


def generators():
    """Make a game of generators whose critics and reconstructions are noise."""
    rng = np.random.default_rng(0)
    member = np.stack([rng.permutation(40) < 20 for _ in range(4)])
    answers, error = rng.normal(size=(8, 40)), np.exp(rng.normal(size=(8, 40)))
    member = np.stack([member, ~member], axis=1).reshape(8, 40)
    return GeneratorGame.from_arrays(
        member=member, partner=np.arange(8) ^ 1, critic_loss=answers, critic=-answers, reconstruction=error
    )


@pytest.mark.parametrize("statistic", ["critic_loss", "critic", "reconstruction"])
def test_signals_of_generators(statistic):
    game = generators()
    signal = game.signal(statistic)[:, 0]
    np.testing.assert_array_equal(game.outcome(Threshold(signal=statistic)).score, signal)
    score = game.outcome(Threshold(signal=statistic, calibrated=True)).score
    for t, i in np.ndindex(4, 5):
        out = [k for k in range(8) if k not in (t, t ^ 1) and not game.member[k, i]]
        assert score[t, i] == pytest.approx(signal[t, i] - signal[out, i].mean())
    assert game.outcome(LiRA(signal=statistic)).evaluated.all()


def test_names_say_which_signal():
    assert LiRA(signal="critic_loss").name == "critic_lira"
    assert LiRA(signal="hinge", variance="pooled").name == "lira_hinge_pooled"
    assert LiRA(signal="reconstruction", online=False).name == "lira_reconstruction_offline"
    assert Threshold(signal="critic_loss", calibrated=True).name == "calibrated_critic_loss"


def test_signals_of_other_victims_are_refused():
    game = coins(8, 50, seed=0)
    with pytest.raises(RequirementsNotMet, match="'critic_lira' is on generators"):
        LiRA(signal="critic_loss").check(game)
    with pytest.raises(RequirementsNotMet, match="'lira_reconstruction' is on generators"):
        LiRA(signal="reconstruction").check(game)
    with pytest.raises(ValueError, match="signal='reconstructed' is unknown"):
        LiRA(signal="reconstructed").check(game)
    with pytest.raises(ValueError, match="signal='correctness' has too few values"):
        Threshold(signal="correctness", calibrated=True)
    assert mia.attacks.make("loss").needs.victim == "classifier"


def test_rmia_of_a_signal_worked_by_hand():
    # Even models are members of records 0 and 2, odd ones of record 1; 2j and 2j + 1 are partners.
    s = np.array([[5.0, 0, 1], [3, 0, 0], [4, 2, 2], [1, -1, 0], [2, 0, 4], [3, 1, 2]])
    member = np.arange(6)[:, None] % 2 == [0, 1, 0]
    excluded = np.broadcast_to(np.arange(6)[:, None] ^ 1, s.shape)
    # Means over IN and OUT models: 3 and 2, 0 and 1, 3 and 1. The first model is ahead by 2.5, -0.5 and -1,
    # and of OUT models alone by 3, -1 and 0.
    for online, expected in ((True, [1, 0.5, 0]), (False, [1, 0, 0.5])):
        np.testing.assert_array_equal(rmia(s, member, excluded, online=online, likelihood=False)[0], expected)


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("design", ["paired", "balanced", "random"])
@pytest.mark.parametrize("signal", ["scaled_logit", "entropy", "boundary_distance"])
def test_rmia_of_any_signal_against_plain_loops(signal, design, online):
    game = random_game(design, n_models=8, n_records=14, signal=1)
    attack = RMIA(signal=signal, online=online, population=9)
    drawn = mia.attacks.rmia.generator(0, "population").permutation(14)[:9]
    expected = rmia_of_signal_by_loops(game, signal, online=online, population=drawn)
    np.testing.assert_allclose(game.outcome(attack).score, expected, atol=1e-12)


@pytest.mark.parametrize("online", [True, False])
def test_rmia_of_a_signal_does_not_depend_on_its_place_and_scale(online):
    game = generators()
    critic = game.critic[:, 0]
    moved = GeneratorGame.from_arrays(
        member=game.member, partner=game.partner, critic=8 * np.round(critic, 3) + 64
    )
    still = GeneratorGame.from_arrays(member=game.member, partner=game.partner, critic=np.round(critic, 3))
    attack = RMIA(signal="critic", online=online)
    np.testing.assert_array_equal(moved.outcome(attack).score, still.outcome(attack).score)


@pytest.mark.parametrize("signal", ["critic_loss", "reconstruction"])
def test_quantile_regression_takes_signals_of_generators(signal):
    toy = pool(n=160)
    rng = np.random.default_rng(1)
    member = rng.permuted(np.tile(np.arange(160) < 80, (4, 1)), axis=1)
    arrays = {signal: np.exp(rng.normal(size=member.shape))}
    game = GeneratorGame.from_arrays(member=member, y=toy.y, n_classes=toy.n_classes, **arrays)
    game = GeneratorGame(game.dataset.assign_attrs(shape=[6]))
    attack = QuantileRegression(pool=toy, signal=signal)
    assert attack.name == f"quantile_{signal}"
    known = known_half(member) & ~member
    expected = [
        gaussian_score(features(toy, toy.y), -values, k)
        for values, k in zip(arrays[signal], known, strict=True)
    ]
    np.testing.assert_allclose(game.outcome(attack).score, expected, rtol=1e-5, atol=1e-5)  # float32 is kept


def test_records_that_a_probe_left_out_are_left_out():
    game = generators()
    error = game.reconstruction.copy()
    error[3, ::4] = np.nan
    holey = GeneratorGame.from_arrays(member=game.member, partner=game.partner, reconstruction=error)
    rest = holey.of_records(np.isfinite(error[3]))
    for attack in (
        Threshold(signal="reconstruction"),
        LiRA(signal="reconstruction"),
        RMIA(signal="reconstruction"),
    ):
        outcome = holey.outcome(attack)
        assert not outcome.evaluated[:, ::4].any()
        np.testing.assert_array_equal(outcome.score[:, np.isfinite(error[3])], rest.outcome(attack).score)
    nothing = GeneratorGame.from_arrays(member=game.member, reconstruction=np.full((8, 40), np.nan))
    with pytest.raises(RequirementsNotMet, match="the probe 'white_box' queried no record"):
        LiRA(signal="reconstruction").check(nothing)


def test_losses_of_a_third_kind_of_models():
    """A signal with the name of a classifier's is enough for attacks on it."""
    victim = type("Named", (RegressorGame,), {"signals": {"loss": Signal(LOSS, -1)}})
    game = random_game(n_models=8, n_records=30, signal=1)
    other = victim.from_arrays(member=game.member, partner=game.partner, squared_error=-game.signal("loss"))
    for attack in ("loss", "rmia", "rmia_offline", "calibrated_loss", LiRA(signal="loss")):
        np.testing.assert_allclose(
            other.outcome(attack).score, game.outcome(attack).score, rtol=1e-5, atol=1e-5
        )
    with pytest.raises(RequirementsNotMet, match="'lira' is on classifiers"):
        other.outcome("lira")


def test_names_of_other_attacks_say_which_signal():
    assert RMIA(signal="critic_loss", online=False).name == "rmia_critic_loss_offline"
    assert QuantileRegression(signal="entropy", form="pinball").name == "quantile_pinball_entropy"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RMIA(signal="true_rank"), "signal='true_rank' has too few values"),
        (lambda: RMIA(signal="hinge", gamma=2), "gamma=2 is about probabilities, and signal='hinge' is none"),
        (lambda: RMIA(signal="hinge", a=0.5), "a=0.5 is about probabilities, and signal='hinge' is none"),
        (lambda: QuantileRegression(signal="correctness"), "signal='correctness' has too few values"),
        (
            lambda: RMIA(signal="losss").check(random_game()),
            "signal='losss' is unknown. Did you mean 'loss'?",
        ),
    ],
)
def test_signals_without_a_meaning_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
