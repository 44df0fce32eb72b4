"""Robustness to changed copies: fractions counted by hand, against plain loops, and what games must have made."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from toys import random_game

import mialab as mia
from mialab.attacks import LabelOnly, RequirementsNotMet, Robustness


def queried(kinds, logits, **given):
    game = mia.Game.from_arrays(logits=logits, **given)
    return mia.Game(game.dataset.assign_attrs(query_kinds=kinds))


def test_fractions_counted_by_hand():
    predicted = np.array([[[0, 1], [0, 1], [1, 1], [0, 0], [1, 0]], [[1, 1], [1, 1], [1, 1], [1, 0], [0, 1]]])
    logits = 3.0 * (np.arange(2) == predicted[..., None])
    game = queried(
        ["original", "noise", "noise", "noise", "shift"],
        logits,
        member=np.array([[1, 0], [0, 1]], bool),
        y=np.array([0, 1]),
    )
    np.testing.assert_allclose(Robustness().scores(game), [[2 / 3, 2 / 3], [0, 2 / 3]])
    np.testing.assert_allclose(Robustness(kinds=("shift", "flip")).scores(game), [[0, 0], [1, 1]])
    np.testing.assert_allclose(
        Robustness(kinds=("shift", "noise")).scores(game), [[2 / 4, 2 / 4], [1 / 4, 3 / 4]]
    )


@given(
    seed=st.integers(0, 10_000),
    n_queries=st.integers(3, 7),
    n_mixed=st.integers(0, 2),
    kinds=st.sampled_from([("noise",), ("flip",), ("flip", "noise"), ("shift", "flip")]),
)
@settings(max_examples=30)
def test_fractions_against_plain_loops(seed, n_queries, n_mixed, kinds):
    game = random_game(n_queries=n_queries, n_mixed=n_mixed, seed=seed, signal=1)
    ours = Robustness(kinds=kinds).run(game)
    for k in range(game.n_models):
        for i in range(game.n_records):
            right = [
                max(range(game.n_classes), key=lambda c: game.logits[k, q, i, c]) == game.y[i]
                for q in range(game.n_queries)
                if game.query_kinds[q] in kinds
            ]
            assert ours.score[k, i] == pytest.approx(sum(right) / len(right), abs=1e-6)


def test_more_copies_find_more_members():
    auc = []
    for n_queries in (3, 33):
        game = random_game(n_models=8, n_records=400, n_queries=n_queries, seed=1, signal=2)
        auc.append(roc_auc_score(game.member.ravel(), Robustness().run(game).score.ravel()))
    # One noisy copy and sixteen. 1,600 members and as many others: a standard error of at most 0.011 each.
    assert auc[0] > 0.55
    assert auc[1] > auc[0] + 0.1


def test_thresholds_of_fractions_are_chosen_on_shadow_models_or_a_known_half():
    game = random_game(n_models=8, n_records=200, n_queries=33, seed=2, signal=4)
    for attack in (Robustness(), Robustness(calibrate="known_half"), Robustness(per_class=True)):
        outcome = attack.run(game)
        seen = outcome.evaluated
        assert (outcome.predicted_member == game.member)[seen].mean() > 0.9
    assert Robustness(calibrate="known_half").name == "noise_robustness_known_half"


def test_names():
    assert Robustness().name == "noise_robustness"
    for kinds in (("shift", "flip"), ("flip", "shift")):
        assert Robustness(kinds=kinds).name == "augmentation_robustness"
    assert Robustness(kinds=["changed"]).name == "changed_robustness"
    assert mia.attacks.make("augmentation_robustness").kinds == ("shift", "flip")
    needs = mia.attacks.available().loc["noise_robustness"]
    assert needs["sees"] == "label"
    assert needs["shadow models"] == "for the threshold"
    assert needs["queries"] == "1+ noise"


def test_copies_of_unknown_kind():
    game = random_game(n_queries=3)
    unknown = mia.Game.from_arrays(logits=game.logits, member=game.member, y=game.y, partner=game.partner)
    assert unknown.query_kinds == ("original", "changed", "changed")
    both = Robustness(kinds=("noise", "flip")).run(game).score
    np.testing.assert_array_equal(Robustness(kinds=("changed",)).run(unknown).score, both)
    with pytest.raises(
        RequirementsNotMet, match="needs queries of the kind 'noise'; this game has 'original', 'changed'"
    ):
        Robustness().run(unknown)


def test_games_without_such_copies_are_refused():
    message = (
        r"Attack 'augmentation_robustness' needs queries of the kind 'shift' or 'flip'; this game has 'original': "
        r"play it with queries=mialab.queries.Shifts\(\) or mialab.queries.Flips\(\); mialab.queries.Compose"
    )
    with pytest.raises(RequirementsNotMet, match="^" + message):
        mia.attacks.make("augmentation_robustness").run(random_game())


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ("noise", r"kinds='noise' must be a tuple of kinds of copies, e.g. \('noise',\)."),
        ((), r"kinds=\(\) must be a tuple of kinds of copies"),
        (("nois",), r"kinds='nois' is unknown. Did you mean 'noise'\?"),
        (("mixed",), "kinds='mixed' is unknown."),
        (("original",), "kinds='original' is unknown."),
    ],
)
def test_wrong_kinds(kinds, message):
    with pytest.raises(ValueError, match="^" + message):
        Robustness(kinds=kinds)


def test_the_logistic_regression_counts_all_copies_of_one_record():
    game = random_game(n_queries=4, n_mixed=2, seed=3, signal=1)
    before = LabelOnly().run(game).score
    for query, counts in ((5, False), (4, False), (3, True)):
        moved = game.logits.copy()
        moved[:, query] = np.random.default_rng(query).normal(size=moved[:, query].shape)
        after = (
            LabelOnly().run(mia.Game(game.dataset.assign(logits=(game.dataset["logits"].dims, moved)))).score
        )
        assert (after != before).any() == counts
