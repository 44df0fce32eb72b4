"""What holds for every attack: equal to a plain version, and blind to what must not matter.

New attacks are included by themselves: whatever `mialab.attacks.available` lists needs a plain version in
`reference`, compared with here or with its family, and is checked for everything in the second part. Exceptions are
in tables, with reasons.
"""

import dataclasses
import importlib
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.label_only import label_only, robustness
from reference.lira import lira_augmented, lira_hinge, ranking
from reference.probes import gradient_norm
from reference.signals import STATISTICS, of_answers
from toys import pool, random_game

import mialab as mia

NAMES = list(mia.attacks.available().index)

# ----------------------------------------------------------------------------------------------------
# Plain versions: an answer at a time, a record at a time, a target at a time

#: Plain versions that are compared with here.
PLAIN = {
    **{
        name + suffix: lambda game, function=function: of_answers(function, game)
        for name, function in STATISTICS.items()
        for suffix in ("", "_per_class")
    },
    "lira_hinge": lira_hinge,
    "lira_augmented": lira_augmented,
    "ranking": ranking,
    "label_only": label_only,
    "noise_robustness": robustness(["noise"]),
    "augmentation_robustness": robustness(["shift", "flip"]),
    "gradient_norm": gradient_norm,
}
#: Tests that compare with a plain version, of attacks whose family has its own.
WITH_FAMILY = {
    **dict.fromkeys(
        [
            *("lira", "lira_pooled", "lira_offline", "lira_offline_pooled"),
            *("lira_offline_density", "lira_offline_density_pooled"),
        ],
        "test_attacks.test_lira_against_plain_loops",
    ),
    **dict.fromkeys(["rmia", "rmia_offline"], "test_rmia.test_rmia_against_plain_loops"),
    **dict.fromkeys(
        [f"calibrated_{name}" for name in STATISTICS if name != "correctness"],
        "test_reference.test_calibration_against_plain_loops",
    ),
    "attack_r": "test_reference.test_attack_r_against_plain_loops",
    **dict.fromkeys(["attack_p", "attack_p_per_class"], "test_reference.test_attack_p_against_plain_loops"),
    "quantile": "test_reference.test_gaussian_scores_against_scikit_learn",
    **dict.fromkeys(
        ["shokri", "shokri_sorted", "shokri_sorted_one_model"],
        "test_learned.test_shokri_against_an_attack_model_for_each_target",
    ),
    **dict.fromkeys(["nasr", "nasr_sorted"], "test_learned.test_nasr_against_a_network_for_each_target"),
    **dict.fromkeys(
        ["calibrated_gradient_norm", "calibrated_boundary_distance"],
        "test_probes.test_calibrated_scores_against_plain_loops",
    ),
    "white_box": "test_probes.test_white_box_against_scikit_learn",
    "mixed_pairs": "test_groups.test_mixed_pairs_against_plain_loops",
    "co_membership_lira_8": "test_groups.test_sets_worked_by_hand",
}
#: What has no plain version, and why.
WITHOUT = {
    "quantile_pinball": "scikit-learn's boosted trees fit and predict each target as it is",
    "boundary_distance": "the score is what the probe measured",
}


def test_every_attack_has_a_plain_version():
    assert sorted([*PLAIN, *WITH_FAMILY, *WITHOUT]) == NAMES
    for test in WITH_FAMILY.values():
        module, function = test.split(".")
        assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.slow
@pytest.mark.parametrize("design", ["paired", "balanced", "random"])
@pytest.mark.parametrize("name", PLAIN)
@given(seed=st.integers(0, 10_000), n_models=st.sampled_from([6, 8, 10]), signal=st.sampled_from([0, 3]))
@settings(max_examples=4)
def test_scores_against_a_plain_version(name, design, seed, n_models, signal):
    game = random_game(design, n_models=n_models, n_records=8, n_queries=4, seed=seed, signal=signal)
    ours = mia.attacks.make(name).scores(game)
    np.testing.assert_allclose(ours, PLAIN[name](game), rtol=1e-6, atol=1e-6)


# ----------------------------------------------------------------------------------------------------
# What must not matter

#: Attacks with a random choice for each target, which goes by the target's and the records' places in the game.
BY_POSITION = {
    name: "the half that the attacker knows is drawn by position"
    for name in NAMES
    if mia.attacks.make(name).needs.known_half
} | {"co_membership_lira_8": "sets are dealt by position"}


@cache
def large_game():
    return random_game(n_models=24, n_records=88, n_queries=3, n_mixed=2, seed=6, signal=1)


def an_attack(name):
    """Return an attack and a game that it accepts."""
    attack, game = mia.attacks.make(name), large_game()
    if attack.needs.pool:
        toy = pool(n=game.n_records, n_classes=game.n_classes)
        attack = dataclasses.replace(attack, pool=dataclasses.replace(toy, y=game.y))
    if hasattr(attack, "n_folds"):  # dealt by position; with a fold for each pair of models nothing is
        attack = dataclasses.replace(attack, n_folds=game.n_models // 2)
    return attack, game


def with_logits(game, logits):
    return mia.Game(game.dataset.assign(logits=(game.dataset["logits"].dims, logits)))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_shift_of_all_logits_of_an_answer(name):
    attack, game = an_attack(name)
    eighths = np.round(game.logits * 8) / 8  # so that shifts by whole numbers are exact
    shift = np.random.default_rng(0).integers(-50, 50, (*eighths.shape[:-1], 1))
    here, there = (attack.run(with_logits(game, logits)).score for logits in (eighths, eighths + shift))
    np.testing.assert_allclose(there, here, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in BY_POSITION])
def test_the_order_of_records(name):
    attack, game = an_attack(name)
    records = np.random.default_rng(0).permutation(game.n_records)
    here = attack.run(game).score
    there = attack.run(game.of_records(records)).score[:, np.argsort(records)]
    if name == "mixed_pairs":  # the first of a pair, as records are ordered, has the score of both
        here, there = (score + score[:, game.mixed_with] for score in (here, there))
    np.testing.assert_allclose(there, here, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in BY_POSITION])
def test_the_order_of_models(name):
    attack, game = an_attack(name)
    rng = np.random.default_rng(0)
    models = (2 * rng.permutation(game.n_models // 2)[:, None] + rng.permutation(2)).ravel()
    moved = game.dataset.isel(model=models).assign(partner=game.dataset["partner"])
    here, there = attack.run(game).score, attack.run(mia.Game(moved)).score
    np.testing.assert_allclose(there[np.argsort(models)], here, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if mia.attacks.make(n).needs.sees in ("label", "ranking")])
def test_the_temperature_of_labels_and_rankings(name):
    """Of answers that were made sure or unsure, attacks that see no logits see nothing."""
    attack, game = an_attack(name)
    factor = 2.0 ** np.random.default_rng(0).integers(-6, 6, (*game.logits.shape[:-1], 1))
    changed = with_logits(game, game.logits * factor)
    np.testing.assert_array_equal(attack.run(changed).score, attack.run(game).score)
    loss = mia.attacks.make("loss")
    assert (loss.run(changed).score != loss.run(game).score).mean() > 0.5, "nothing was changed"
