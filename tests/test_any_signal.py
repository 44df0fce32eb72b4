"""Attacks take any signal of any victim by its name."""

import numpy as np
import pytest
from test_requirements import coins

import mialab as mia
from mialab.attacks import Calibrated, LiRA, RequirementsNotMet, Threshold
from mialab.gan import GeneratorGame


def generators():
    """Make a game of generators whose critics and reconstructions are noise."""
    rng = np.random.default_rng(0)
    member = np.stack([rng.permutation(40) < 20 for _ in range(4)])
    said, error = rng.normal(size=(8, 40)), np.exp(rng.normal(size=(8, 40)))
    member = np.stack([member, ~member], axis=1).reshape(8, 40)
    return GeneratorGame.from_arrays(
        member=member, partner=np.arange(8) ^ 1, critic_loss=said, critic=-said, reconstruction=error
    )


@pytest.mark.parametrize("statistic", ["critic_loss", "critic", "reconstruction"])
def test_signals_of_generators(statistic):
    game = generators()
    signal = game.signal(statistic)[:, 0]
    np.testing.assert_array_equal(game.outcome(Threshold(statistic=statistic)).score, signal)
    score = game.outcome(Calibrated(statistic=statistic)).score
    for t, i in np.ndindex(4, 5):
        out = [k for k in range(8) if k not in (t, t ^ 1) and not game.member[k, i]]
        assert score[t, i] == pytest.approx(signal[t, i] - signal[out, i].mean())
    assert game.outcome(LiRA(statistic=statistic)).evaluated.all()


def test_names_say_which_signal():
    assert LiRA(statistic="critic_loss").name == "critic_lira"
    assert LiRA(statistic="hinge", variance="pooled").name == "lira_hinge_pooled"
    assert LiRA(statistic="reconstruction", online=False).name == "lira_reconstruction_offline"
    assert Calibrated(statistic="critic_loss").name == "calibrated_critic_loss"


def test_signals_of_other_victims_are_refused():
    game = coins(8, 50, seed=0)
    with pytest.raises(RequirementsNotMet, match="'critic_lira' is on generators"):
        LiRA(statistic="critic_loss").check(game)
    with pytest.raises(ValueError, match="statistic='reconstruction' is unknown"):
        LiRA(statistic="reconstruction").check(game)
    with pytest.raises(ValueError, match="statistic='correctness' has too few values"):
        Calibrated(statistic="correctness")
    assert mia.attacks.make("loss").needs.victim == "classifier"
