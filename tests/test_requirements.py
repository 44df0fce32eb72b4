"""Which pairs of a target and a record an attack can score: counted among the other models, pair by pair."""

from functools import cache

import numpy as np
import pytest
import toys
from scipy.stats import t as student

import mialab as mia
from mialab import attacks
from mialab.attacks import LiRA, Requirements, RequirementsNotMet


@cache
def coins(n_models, n_records, seed, fraction=0.5, n_queries=1, **options):
    """Make a game of noise whose memberships are independent coin flips, none thrown again."""
    rng = np.random.default_rng([seed, 3])
    return mia.Game.from_arrays(
        logits=rng.normal(size=(n_models, n_queries, n_records, 3)),
        member=rng.random((n_models, n_records)) < fraction,
        y=rng.integers(3, size=n_records),
        **options,
    )


@pytest.mark.slow
def test_counts_are_those_of_the_other_models():
    game = coins(7, 200, seed=0, fraction=0.3)
    for name, least_in, least_out in (
        *(("lira", 2, 2), ("lira_offline", 0, 2), ("rmia", 1, 1), ("rmia_offline", 0, 1)),
        *(("calibrated_loss", 0, 1), ("attack_r", 0, 1), ("loss", 0, 0)),
    ):
        scorable = attacks.make(name).scorable(game)
        for k in range(7):
            others = np.delete(game.member, k, axis=0)
            expected = (others.sum(0) >= least_in) & ((~others).sum(0) >= least_out)
            np.testing.assert_array_equal(scorable[k], expected, err_msg=name)


@pytest.mark.slow
def test_an_excluded_partner_is_no_other_model():
    for design in ("paired", "balanced"):
        game = toys.random_game(design, n_models=6)
        assert attacks.make("lira").scorable(game).all(), "2 of each kind are left"
        with pytest.raises(RequirementsNotMet, match=r"at least 2 shadow models.*n_models of at least 6"):
            attacks.make("lira").check(toys.random_game(design, n_models=4))
        assert attacks.make("rmia").scorable(toys.random_game(design, n_models=4)).all()
        with pytest.raises(RequirementsNotMet, match=r"at least 1 shadow model .*n_models of at least 4"):
            attacks.make("rmia").check(toys.random_game(design, n_models=2))


def test_a_shared_variance_takes_two_models_for_some_record():
    assert attacks.make("lira_pooled").scorable(toys.random_game(n_models=6)).all()
    with pytest.raises(RequirementsNotMet, match="n_models of at least 6"):
        attacks.make("lira_pooled").check(toys.random_game(n_models=4))
    game = coins(4, 100, seed=1)
    assert attacks.make("lira_pooled").scorable(game).any()
    with pytest.raises(
        RequirementsNotMet, match="n_models of at least 6"
    ):  # of 3 other models, no two of each kind
        attacks.make("lira").check(game)


def test_short_pairs_are_left_out_and_counted():
    game = coins(8, 500, seed=2)
    table = mia.audit(game, ["loss", "lira", "rmia_offline"], fprs=(), fnrs=())
    excluded = table.attrs["audit"]["n_excluded"]
    outcome = game.outcome("lira")
    assert excluded["loss"] == 0 < excluded["rmia_offline"] < excluded["lira"]
    assert excluded["lira"] == (~attacks.make("lira").scorable(game)).sum() == outcome.n_excluded
    np.testing.assert_array_equal(outcome.evaluated, attacks.make("lira").scorable(game))
    assert (outcome.score[~outcome.evaluated] == 0).all()
    pooled = table[(table["target"] == "pooled") & (table["metric"] == "auc")].set_index("attack")
    assert pooled.loc["lira", ["n_member", "n_nonmember"]].sum() == outcome.evaluated.sum()


def test_scores_are_those_of_plain_formulas_where_memberships_are_uneven():
    game = coins(7, 60, seed=4, fraction=0.4)
    phi, log_p = (game.signal(name)[:, 0] for name in ("scaled_logit", "loss"))
    lira, rmia = game.outcome("lira"), game.outcome("rmia_offline")
    ratio = np.full(game.member.shape, np.nan)
    for t, i in np.argwhere(rmia.evaluated):
        out = [k for k in range(7) if k != t and not game.member[k, i]]
        p_x = ((1 + 0.3) * np.exp(log_p[out, i]).mean() + 1 - 0.3) / 2
        ratio[t, i] = log_p[t, i] - np.log(p_x)
    for t, i in np.argwhere(rmia.evaluated):
        population = ratio[t, rmia.evaluated[t] & (np.arange(60) != i)]
        assert rmia.score[t, i] == pytest.approx((ratio[t, i] >= population).mean())
    for t, i in np.argwhere(lira.evaluated):
        sides = [[k for k in range(7) if k != t and game.member[k, i] == side] for side in (True, False)]
        densities = []
        for models in sides:
            mean, var = phi[models, i].mean(), phi[models, i].var(ddof=1)
            densities.append(-0.5 * ((phi[t, i] - mean) ** 2 / var + np.log(2 * np.pi * var)))
        if min(phi[models, i].var(ddof=1) for models in sides) > 0.01:  # above the floor of variances
            assert lira.score[t, i] == pytest.approx(densities[0] - densities[1], rel=1e-6, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("n_references", [1, 2, 4, 8])
def test_few_reference_models(n_references):
    rng = np.random.default_rng(7)
    references = rng.random((n_references, 600)).argsort(0).argsort(0) < n_references // 2
    member = np.concatenate([rng.random((1, 600)) < 0.5, references])
    logits = rng.normal(size=(1 + n_references, 600, 4))
    y = rng.integers(4, size=600)
    logits[:, np.arange(600), y] += 3 * member
    game = mia.Game.from_arrays(logits=logits, member=member, y=y, shadow=np.arange(1 + n_references) > 0)
    for name in ("rmia_offline", "calibrated_loss", "attack_r"):
        outcome = game.outcome(name)
        assert outcome.evaluated[0].all()
        assert outcome.interval().value > 0.7
    n_out = n_references - n_references // 2
    for name in ("lira_offline", "lira_offline_pooled"):
        if n_out >= 2:
            assert game.outcome(name).interval().value > 0.7
        else:
            with pytest.raises(RequirementsNotMet, match="at least 2 shadow models trained without a record"):
                game.outcome(name)


def test_offline_attacks_need_no_models_trained_on_the_record():
    game = coins(16, 400, seed=4, fraction=0.1)
    assert (game.member.sum(0) == 0).any()
    for name in ("lira_offline", "rmia_offline", "calibrated_loss"):
        assert game.outcome(name).evaluated.all()


def test_one_model_with_a_known_half():
    rng = np.random.default_rng(0)
    member = np.arange(800) < 600
    logits = rng.normal(size=(1, 800, 4))
    y = rng.integers(4, size=800)
    logits[:, np.arange(800), y] += 2 * member
    game = mia.Game.from_arrays(logits=logits, member=member[None], y=y)
    with pytest.raises(RequirementsNotMet, match="calibrate='known_half'"):
        mia.audit(game)
    table = mia.audit(game, ["loss_known_half", "modified_entropy_per_class_known_half"])
    value = table[(table["metric"] == "auc") & (table["target"] == "pooled")].set_index("attack")["value"]
    assert (value > 0.6).all()


def test_requirements_are_what_the_table_of_attacks_says():
    assert attacks.make("critic_lira").needs == Requirements(
        victim="generator",
        sees="critic",
        signal="critic_loss",
        shadows="IN and OUT",
        models=2,
    )
    assert attacks.CoMembership(of="rmia").needs is not None
    assert attacks.CoMembership(of="rmia").needs == attacks.RMIA().needs


NULL = [
    "label_only",
    "lira",
    "lira_pooled",
    "lira_offline",
    "rmia",
    "rmia_offline",
    "shokri",
    "calibrated_loss",
]
#: Probability that any of the comparisons in the next test fails where there is nothing to find.
ALARM = 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", NULL)
@pytest.mark.parametrize("n_models", [5, 12])
def test_coin_flips_of_few_models_give_nothing_away(name, n_models):
    """AUC and TPR at 0.1 % are those of noise (Student's t over games; Bonferroni over all comparisons)."""
    # Scores of RMIA are ranks within a target, so that the greatest of all targets are tied.
    fpr = 0.01 if name.startswith("rmia") or n_models < 12 else 0.001
    found = []
    for seed in range(40):
        game = coins(n_models, 100 if name == "label_only" else 400, seed, n_queries=3)
        outcome = game.outcome(name)
        score, member = outcome.score[outcome.evaluated], game.member[outcome.evaluated]
        # Continuous scores: of n non-members, j may reach the threshold, which a member reaches with (j + 1) / (n + 1).
        n = (~member).sum()
        rate = (int(fpr * n) + 1) / (n + 1)
        tpr = mia.metrics.tpr_at_fpr(score, member, fpr)
        found.append([mia.metrics.auc(score, member), tpr - rate if name != "label_only" else 0.0])
    mean, error = np.mean(found, 0) - [0.5, 0], np.std(found, 0, ddof=1) / np.sqrt(len(found))
    limit = student.isf(ALARM / (4 * len(NULL)) / 2, len(found) - 1)
    assert (abs(mean) <= limit * error + 1e-12).all(), (mean, error)


def test_the_variance_of_few_models_is_said_to_mean_little():
    assert "sqrt(2 / (n - 1))" in LiRA.__doc__
