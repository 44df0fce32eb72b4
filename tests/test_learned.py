"""Learned attacks: rows and folds by hand, scores against training for each target on its own, and no tell-tales."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.learned import nasr_alone, shokri_by_loops
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score
from toys import memberships, pool, random_game

import mialab as mia
from mialab.attacks import Nasr, RequirementsNotMet, Shokri, learned
from mialab.attacks.thresholds import known_half

DESIGNS = ["paired", "balanced", "random"]
FORMS = [
    pytest.param(
        {"attack_models": models, "posteriors": posteriors, "label": label}, id=f"{models}-{posteriors}"
    )
    for models, posteriors, label in (
        ("per_class", "by_class", True),
        ("per_class", "sorted", False),
        ("one", "by_class", False),
        ("one", "sorted", True),
    )
]


def changed(game, **arrays):
    """Return the game with some arrays replaced."""
    now = {name: game.dataset[name].to_numpy() for name in ("logits", "member", "y", "partner")}
    return mia.Game.from_arrays(**now | arrays)


# ----------------------------------------------------------------------------------------------------
# What is learned from


def test_log_posteriors_worked_by_hand():
    logits = np.log([[2.0, 1, 1], [1, 2, 7]])
    game = mia.Game.from_arrays(
        logits=np.stack([logits, logits[::-1]]), member=np.eye(2, dtype=bool), y=np.array([0, 1])
    )
    by_class = learned._log_posteriors(game, 0, "by_class")
    np.testing.assert_allclose(by_class, np.log([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]), rtol=1e-12)
    descending = learned._log_posteriors(game, 1, "sorted")
    np.testing.assert_allclose(descending, np.log([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]]), rtol=1e-12)


def test_inputs_worked_by_hand():
    logits = np.log([[2.0, 1, 1, 0.001], [1, 2, 7, 0.001]])
    game = mia.Game.from_arrays(
        logits=np.stack([logits, logits]), member=np.eye(2, dtype=bool), y=np.array([0, 1])
    )
    # The three greatest, log(p_y / (1 - p_y)), and whether the label is predicted.
    expected = [
        [*np.log([2 / 4.001, 1 / 4.001, 1 / 4.001]), np.log(2 / 2.001), 1],
        [*np.log([7 / 10.001, 2 / 10.001, 1 / 10.001]), np.log(2 / 8.001), 0],
    ]
    np.testing.assert_allclose(Shokri(posteriors="sorted")._features(game, 0), expected, rtol=1e-6, atol=1e-6)


def test_folds_by_hand():
    assert learned.folds(np.array([1, 0, 3, 2, 5, 4]), 2).tolist() == [0, 0, 1, 1, 0, 0]
    assert learned.folds(np.array([2, 3, 0, 1]), 4).tolist() == [0, 1, 0, 1]
    assert learned.folds(np.array([1, 0, -1, -1, -1]), 3).tolist() == [0, 0, 1, 2, 0]


@given(
    st.sampled_from(DESIGNS),
    st.integers(0, 1000),
    st.sampled_from([6, 8, 12]),
    st.sampled_from([9, 25, 10_000]),
)
def test_of_every_record_as_many_members_as_non_members_are_learnt_from(design, seed, n_models, most):
    member = memberships(design, n_models, 12, seed)
    shadow = np.arange(n_models) >= 2
    use = learned.training_rows(member, shadow, 10_000, np.random.default_rng(seed))
    assert not use[~shadow].any()
    inside, outside = (use & member).sum(0), (use & ~member).sum(0)
    fewest = np.minimum((member & shadow[:, None]).sum(0), (~member & shadow[:, None]).sum(0))
    np.testing.assert_array_equal(inside, fewest)
    np.testing.assert_array_equal(outside, fewest)
    fewer = learned.training_rows(member, shadow, most, np.random.default_rng(seed))
    assert fewer.sum() == min(most, use.sum())
    assert not (fewer & ~use).any()


def test_what_is_learnt_from_says_nothing_of_the_targets_memberships():
    """Of 5 patterns, none may go with a target's membership; all pass with probability 0.999 if all is well."""
    member = memberships("balanced", 6, 40_000, seed=0)
    shadow = np.arange(6) >= 2
    use = learned.training_rows(member, shadow, 10**6, np.random.default_rng(0))
    # By symmetry between models, all that can matter is how many are used.
    for target in (0, 1):
        for used in np.unique(use.sum(0)):
            told = member[target, use.sum(0) == used]
            assert binomtest(int(told.sum()), told.size).pvalue > 0.001 / 10
        # Which members are used, among the first two shadow models: the identity of models does not tell either.
        pattern = (use & member)[2:4].sum(0) - (use & ~member)[2:4].sum(0)
        for value in np.unique(pattern):
            told = member[target, pattern == value]
            assert binomtest(int(told.sum()), told.size).pvalue > 0.001 / 10
    # Had all shadow models been used, their count would tell.
    count = member[shadow].sum(0)
    assert member[0, count == 1].mean() == 1
    assert member[0, count == 3].mean() == 0


# ----------------------------------------------------------------------------------------------------
# Shadow models


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("design", DESIGNS)
@given(seed=st.integers(0, 10_000), n_models=st.sampled_from([6, 10]), most=st.sampled_from([40, 10_000]))
@settings(max_examples=4)
def test_shokri_against_an_attack_model_for_each_target(form, design, seed, n_models, most):
    game = random_game(design, n_models=n_models, n_records=8, n_classes=3, seed=seed, signal=1.5)
    attack = Shokri(max_rows=most, n_folds=3, **form)
    np.testing.assert_allclose(attack.run(game).score, shokri_by_loops(game, attack), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_memberships_in_a_targets_fold_are_not_used(form):
    game = random_game(n_models=12, n_records=30, seed=4, signal=1)
    attack = Shokri(n_folds=3, **form)
    member = game.member.copy()
    member[[0, 1]] = member[[1, 0]]  # the first pair changes roles; it fractions its fold with models 6 and 7
    here, there = (attack.run(g).score for g in (game, changed(game, member=member)))
    same = [0, 1, 6, 7]
    np.testing.assert_array_equal(here[same], there[same])
    assert (np.delete(here, same, 0) != np.delete(there, same, 0)).any(1).all()


@pytest.mark.slow
@pytest.mark.parametrize("classifier", ["logistic", "boosting"])  # a network does not quite come to rest
@pytest.mark.parametrize("attack_models", ["per_class", "one"])
@pytest.mark.parametrize("design", DESIGNS)
def test_answers_that_only_tell_records_apart_give_even_odds(design, attack_models, classifier):
    """With the members of more models on one side, a record's odds would be the target's membership turned round."""
    game = random_game(design, n_models=8, n_records=40, n_classes=3, seed=2)
    alike = changed(game, logits=np.repeat(game.logits[:1], 8, axis=0))
    score = Shokri(attack_models=attack_models, classifier=classifier).run(alike).score
    np.testing.assert_allclose(score, 0, atol=1e-6)


def test_a_class_without_both_sides_gets_even_odds():
    member = memberships("balanced", 8, 30, seed=0)
    y = np.arange(30) % 2
    y[0] = 2
    member[:, 0] = [1, 0, 1, 0, 1, 0, 1, 0]  # all the members of record 0 are in one of two folds
    game = random_game("balanced", n_models=8, n_records=30, n_classes=3, signal=2)
    score = Shokri(n_folds=2).run(changed(game, member=member, y=y)).score
    assert (score[:, 0] == 0).all()
    assert (score[:, 1:] != 0).all()


def test_scores_are_cut_off_where_probabilities_end():
    class Certain:
        def predict_proba(self, x):
            return np.repeat([[0.0, 1.0]], len(x), axis=0)

    assert learned._log_odds(Certain(), np.zeros((2, 1))).tolist() == [36, 36]


@pytest.mark.slow
@pytest.mark.parametrize("classifier", ["boosting", "network"])
def test_other_classifiers_find_what_a_line_cannot(classifier):
    """From the least to the most certain answer, members' and others' take turns."""
    game = random_game(n_models=8, n_records=300, n_classes=2, seed=0)
    rng = np.random.default_rng(0)
    shape = game.member.shape
    height = np.where(game.member, rng.choice([-8, 0, 8], shape), rng.choice([-4, 4], shape))
    height = height + 0.5 * rng.normal(size=shape)
    logits = height[:, None, :, None] * (np.arange(2) == game.y[:, None])
    turns = changed(game, logits=logits)
    auc = {}
    for name in ("logistic", classifier):
        score = Shokri(classifier=name).run(turns).score
        auc[name] = roc_auc_score(game.member.ravel(), score.ravel())
        np.testing.assert_array_equal(Shokri(classifier=name).run(turns).score, score)
    assert auc["logistic"] < 0.7
    assert auc[classifier] > 0.8


@pytest.mark.slow
def test_the_order_of_records_has_no_influence():
    game = random_game(n_models=24, n_records=60, seed=1, signal=1)
    order = np.random.default_rng(0).permutation(60)
    for form in ({}, {"posteriors": "sorted", "attack_models": "one"}):
        here, there = (Shokri(**form).run(g).score for g in (game, game.of_records(order)))
        np.testing.assert_allclose(there, here[:, order], rtol=1e-7, atol=1e-9)


# ----------------------------------------------------------------------------------------------------
# A known half


@pytest.mark.slow
@pytest.mark.parametrize("posteriors", ["by_class", "sorted"])
@pytest.mark.parametrize("design", ["paired", "random"])
def test_nasr_against_a_network_for_each_target(design, posteriors):
    game = random_game(design, n_models=6, n_records=90, n_classes=5, seed=3, signal=2)
    attack = Nasr(posteriors=posteriors, steps=40)
    known = known_half(game.member)
    expected = [nasr_alone(game, known[k], k, attack) for k in range(6)]
    np.testing.assert_allclose(attack.run(game).score, expected, rtol=1e-2, atol=1e-2)


def test_what_a_networks_batches_hold():
    game = random_game("random", n_models=6, n_records=400, seed=0)
    known = known_half(game.member)
    for k in range(6):
        batches, validation = learned._draw_batches(game.member[k], known[k], 30, np.random.default_rng(k))
        assert batches.shape == (30, 128)
        assert validation.shape == (40,)
        for rows in (*batches, validation):
            first, second = np.split(game.member[k, rows], 2)
            assert first.all()
            assert not second.any()
        assert known[k, batches].all()
        assert known[k, validation].all()
        assert not np.intersect1d(batches, validation).size
        # Four fifths of what is known, each as good as certain to be drawn: 1,920 draws for about 80 records.
        assert np.unique(batches).size + np.unique(validation).size <= known[k].sum()
        assert np.unique(batches).size == sum(
            s - -(-s // 5) for s in ((known[k] & game.member[k]).sum(), (known[k] & ~game.member[k]).sum())
        )


@pytest.mark.slow
def test_a_networks_score_depends_on_its_target_alone(monkeypatch):
    game = random_game(n_models=8, n_records=80, seed=5, signal=2)
    whole = Nasr(steps=20).run(game)
    np.testing.assert_array_equal(whole.evaluated, ~known_half(game.member))
    np.testing.assert_allclose(
        Nasr(steps=20).run(game.subset(4)).score, whole.score[:4], rtol=1e-4, atol=1e-5
    )
    monkeypatch.setattr(learned, "INPUTS", 3 * 80 * 4)  # three targets at a time
    np.testing.assert_allclose(Nasr(steps=20).run(game).score, whole.score, rtol=1e-4, atol=1e-5)


def test_memberships_that_were_not_told_are_not_used(monkeypatch):
    game = random_game(n_models=4, n_records=80, seed=5, signal=2)
    known = known_half(game.member)
    monkeypatch.setattr(learned, "known_half", lambda member: known)
    other = np.where(known, game.member, ~game.member)
    partner = np.full(4, -1)
    here, there = (
        Nasr(steps=20).scores(changed(game, member=member, partner=partner))
        for member in (game.member, other)
    )
    np.testing.assert_array_equal(here, there)


@pytest.mark.slow
def test_the_state_that_was_best_on_held_out_records_is_kept():
    """Answers are noise: the longer a network is trained, the more it learns by heart, and the surer it is."""
    game = random_game(n_models=8, n_records=200, n_classes=6, seed=0)
    known = known_half(game.member)
    score = Nasr(steps=200).scores(game)
    learned = roc_auc_score(game.member[known], score[known])
    assert learned < 0.8  # trained to the end: 0.92
    assert np.abs(score[~known]).mean() < 1  # trained to the end: 10


# ----------------------------------------------------------------------------------------------------
# Both


@pytest.mark.slow
@pytest.mark.parametrize(
    "attack",
    [
        Shokri(label=False),
        Shokri(label=False, posteriors="sorted"),
        Shokri(attack_models="one"),
        Shokri(classifier="boosting", attack_models="one", posteriors="sorted"),
        Shokri(classifier="network", attack_models="one"),
        Shokri(max_rows=400, attack_models="one"),
    ],
    ids=lambda attack: attack.name,
)
@pytest.mark.parametrize("design", DESIGNS)
def test_forms_that_are_not_registered_catch_a_model_that_memorizes(attack, design):
    game = random_game(design, n_models=8, n_records=200, n_classes=3, seed=1)
    sure = 0.5 * game.logits + 12 * (game.member[:, None, :, None] * (np.arange(3) == game.y[:, None]))
    outcome = attack.run(changed(game, logits=sure))
    assert roc_auc_score(game.member.ravel(), outcome.score.ravel()) > 0.99
    assert (outcome.predicted_member == game.member).mean() > 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["shokri", "shokri_sorted", "shokri_sorted_one_model", "nasr", "nasr_sorted"]
)
def test_games_that_keep_scores_are_refused(name, fresh_cache):
    game = mia.play(pool(), n_models=6, training=mia.Training(epochs=1), keep="scores")
    with pytest.raises(
        RequirementsNotMet, match=f"^Attack '{name}' needs logits, and this game keeps scores alone"
    ):
        mia.audit(game, [name])


@pytest.mark.slow
def test_stored_games_are_read_model_by_model(monkeypatch, fresh_cache):
    game = mia.play(pool(), n_models=6, training=mia.Training(epochs=1))
    expected = {a.name: a.run(changed(game)).score for a in (Shokri(), Nasr(steps=10))}

    def logits(game):
        raise AssertionError("all logits were asked for at once")

    monkeypatch.setattr(mia.Game, "logits", property(logits))
    for attack in (Shokri(), Nasr(steps=10)):
        np.testing.assert_allclose(attack.run(game).score, expected[attack.name], rtol=1e-6)


def test_too_few_records_are_refused():
    game = random_game(n_models=6, n_records=6)
    with pytest.raises(
        RequirementsNotMet, match=r"^Attack 'nasr' learns from a half .* at least 4 of each; .* only 3: play"
    ):
        Nasr().run(game)
    with pytest.raises(
        RequirementsNotMet, match=r"^Attack 'shokri' needs at least 1 shadow model trained with a record"
    ):
        Shokri().run(random_game(n_models=2))


def test_names_say_what_differs():
    assert Shokri(calibrate="known_half").name == "shokri_known_half"
    assert Shokri(posteriors="sorted", attack_models="one", label=False, classifier="boosting").name == (
        "shokri_sorted_one_model_without_label_boosting"
    )
    assert dataclasses.replace(Nasr(), posteriors="sorted").name == "nasr_sorted"
    table = mia.attacks.available()
    assert table.loc["nasr", ["shadow models", "known half"]].tolist() == ["none", "for the score"]
    assert table.loc["shokri", ["shadow models", "known half"]].tolist() == ["any, for the score", "none"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Shokri(attack_models="each"), "attack_models='each' is unknown. .*Known: one, per_class."),
        (lambda: Shokri(posteriors="top"), "posteriors='top' is unknown. .*Known: by_class, sorted."),
        (
            lambda: Shokri(classifier="forest"),
            "classifier='forest' is unknown. .*Known: boosting, logistic, network.",
        ),
        (lambda: Shokri(n_folds=1), "n_folds=1 must be an integer of at least 2."),
        (lambda: Shokri(max_rows=1.5), "max_rows=1.5 must be an integer of at least 2."),
        (lambda: Shokri(calibrate="shadows"), "calibrate='shadows' is unknown."),
        (lambda: Nasr(posteriors="by_clas"), "posteriors='by_clas' is unknown. Did you mean 'by_class'"),
        (lambda: Nasr(steps=5), "steps=5 must be an integer of at least 10."),
        (lambda: Nasr(per_class=True), "per_class=True has no use here"),
        (lambda: Nasr(calibrate="known_half"), "calibrate='known_half' is unknown. Known: ratio."),
    ],
)
def test_wrong_parameters(make, message):
    with pytest.raises(ValueError, match="^" + message):
        make()
