"""Differences to controls that are as accurate, or fit as much."""

import numpy as np
import pytest
import toys

import mialab as mia
from mialab.auditing.conditions import mean_test_accuracy, same, watched
from mialab.auditing.equal import at_equal, train_test_gap
from mialab.models import MLP


@pytest.fixture(scope="module")
def stops():
    training = mia.Training(epochs=8, batch_size=8, lr=0.02, checkpoints=(1, 2, 3, 5, 7))
    game = mia.play(toys.pool(n=80, test=300), MLP(hidden=(32,)), training=training, n_models=16, store=None)
    return {e: game.at(e) for e in training.checkpoints} | {8: game}


def test_a_control_is_interpolated_between_its_neighbors(stops):
    game, controls = stops[3], {e: stops[e] for e in (1, 2, 5, 8)}
    found = at_equal(game, controls, "loss", condition="equal gap", training_of=stops[8])
    gaps = {e: train_test_gap(control) for e, control in controls.items()}
    aim = train_test_gap(game)
    assert gaps[2] < aim < gaps[5]
    part = (aim - gaps[2]) / (gaps[5] - gaps[2])
    ends = [
        [w * x for x in mia.difference((game, "loss"), (controls[e], "loss"))]
        for e, w in ((2, 1 - part), (5, part))
    ]
    assert tuple(found) == pytest.approx(np.sum(ends, axis=0))
    assert found.n_pairs == 8
    assert found.conditions["equal gap"] == ""


def test_a_game_against_itself_among_others_makes_no_difference(stops):
    found = at_equal(stops[3], {e: stops[e] for e in (1, 3, 8)}, "loss", condition="equal gap")
    assert tuple(found) == pytest.approx((0, 0, 0), abs=1e-12)


def test_before_training_is_over_nobody_asks_whether_it_is(stops):
    found = at_equal(stops[3], {e: stops[e] for e in (1, 8)}, "loss", condition="equal train accuracy")
    assert found.conditions["unsure"] == ""


def test_an_arm_that_equals_another_to_the_last_digit_is_not_compared(stops):
    again = type(stops[3])(stops[3].dataset.copy(deep=True))
    twin = mia.difference((again, "loss"), (stops[3], "loss")).conditions["trained"]
    assert twin.endswith("the models of 'none' and 'none' are the same to the last digit")
    assert same(stops[3], stops[3]) == ""  # two attacks on one game
    assert same(stops[3], stops[8]) == ""
    last = again.dataset.copy(deep=True)
    last["logits"][-1, 0, 0, 0] += 1e-6
    assert same(type(again)(last), stops[3]) == ""


def test_a_training_is_watched_a_tenth_before_its_end():
    training = mia.Training(epochs=40, checkpoints=(3,))
    assert watched(training).checkpoints == (36,)
    assert watched(training, [12, 0, 40, 36]).checkpoints == (12, 36)
    assert watched(mia.Training(epochs=1)).checkpoints == ()
    assert watched(mia.Training(epochs=40, stop=20)).checkpoints == (18,)


def test_shadow_models_of_another_game_do_not_count(stops):
    other = mia.play(
        toys.pool(n=80, test=300),
        MLP(hidden=(32,)),
        training=mia.Training(epochs=1, batch_size=8, lr=0.02),
        n_models=4,
        seed=9,
        store=None,
    )
    mixed = stops[8].with_shadows(other)
    assert mean_test_accuracy(mixed) == pytest.approx(stops[8].test_accuracy.mean())
    assert mixed.test_accuracy.mean() != pytest.approx(mean_test_accuracy(mixed))


def test_who_is_beyond_all_settings_is_not_compared(stops):
    found = at_equal(
        stops[8], {e: stops[e] for e in (1, 2)}, "loss", condition="equal gap", training_of=stops[8]
    )
    apart = 100 * (train_test_gap(stops[8]) - train_test_gap(stops[2]))
    assert found.conditions["equal gap"] == f"train-test gaps differ by {apart:.1f} points at the least"
    assert tuple(found) == tuple(mia.difference((stops[8], "loss"), (stops[2], "loss")))


def test_it_is_noted_that_convergence_of_controls_is_not_shown(stops):
    controls = {e: stops[e] for e in (2, 5)}
    unsure = at_equal(stops[3], controls, "loss", condition="equal gap").conditions["unsure"]
    assert unsure.endswith("no checkpoint was kept")


@pytest.mark.parametrize(
    ("controls", "condition", "message"),
    [
        ({}, "equal gap", "controls={} must hold at least one game"),
        ({1: 0}, "equal gaps", "Did you mean 'equal gap'"),
    ],
)
def test_controls_that_say_nothing_are_refused(stops, controls, condition, message):
    with pytest.raises(ValueError, match=message):
        at_equal(stops[3], controls, "loss", condition=condition)
