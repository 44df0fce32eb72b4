"""Outcomes are computed once and kept, and functions are attacks too."""

from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pytest
import toys

import mialab as mia
from mialab import attacks
from mialab.metrics import Outcome


@pytest.fixture
def game():
    return toys.random_game(n_models=8, n_records=300, signal=1.5, seed=3)


@pytest.fixture
def ran(monkeypatch):
    """Count how often each attack runs on each game."""
    counted = Counter()
    run = attacks.Attack.run

    def counting(self, game):
        counted[self.name, id(game)] += 1
        return run(self, game)

    monkeypatch.setattr(attacks.Attack, "run", counting)
    return counted


def test_no_attack_runs_twice_on_a_game(game, ran):
    other = toys.random_game(n_models=8, n_records=300, signal=0.5, seed=3)
    names = ["loss", "lira", "co_membership_lira_8"]
    mia.audit(game, names, fprs=(0.1,))
    mia.audit(game, [attacks.make("loss"), attacks.LiRA()], fprs=(0.1,))
    mia.difference((game, "lira"), (other, "lira"))
    mia.plots.roc(game, names[:2])
    mia.plots.histograms({"a": game, "b": other}, "loss")
    plt.close("all")
    mia.chapters.attacks.agreement(game, ["loss", "lira"], fpr=0.05)
    mia.auditing.deciles.risk_by_decile(game, "lira", np.arange(300))
    mia.auditing.deciles.decisions(game, "loss", "members")
    assert set(ran.values()) == {1}
    assert {name for name, of in ran if of == id(game)} == set(names)


def test_an_outcome_belongs_to_one_game_and_one_attack(game):
    first = game.outcome("loss")
    assert game.outcome(attacks.Threshold(signal="loss")) is first
    assert game.outcome("loss_known_half") is not first
    assert game.outcome(first) is first
    again = mia.Game(game.dataset).outcome("loss")
    assert again is not first
    np.testing.assert_array_equal(again.score, first.score)
    assert game.subset(4).outcome("loss").score.shape == (4, 300)
    with pytest.raises(ValueError, match="other members"):
        game.subset(4).outcome(first)


def test_attacks_with_a_pool_are_kept_by_the_pool(game):
    pools = [toys.pool(n=300, n_classes=4) for _ in range(2)]
    pools = [mia.Pool(name="toy", x=pool.x, y=game.y, n_classes=4, kind="tabular") for pool in pools]
    first, second = (game.outcome("quantile", pool) for pool in pools)
    assert first is not second
    assert game.outcome(attacks.QuantileRegression(pool=pools[0])) is first


def test_statistics_of_an_outcome_are_those_of_the_audit(game):
    table = mia.audit(game, ["loss"], fprs=(0.1,), fnrs=(0.1,))
    rows = table[table["target"] == "pooled"].set_index("metric")[["value", "low", "high"]]
    outcome = game.outcome("loss")
    for metric, row in rows.iterrows():
        np.testing.assert_array_equal(outcome.interval(metric), row)
    assert np.isnan(outcome.interval("tpr@0.001")).all(), "too few non-members"
    some = np.arange(300) < 100
    among = mia.audit(game, [outcome], records=some, fprs=(), fnrs=())
    value = among[(among["target"] == "pooled") & (among["metric"] == "auc")][["value", "low", "high"]]
    np.testing.assert_array_equal(outcome.among(some).interval(), value.to_numpy()[0])
    lira = game.outcome("lira")
    direct = mia.difference((game, "lira"), (game, "loss"))
    np.testing.assert_array_equal(lira.minus(outcome), direct)
    with pytest.raises(ValueError, match="different members"):
        outcome.minus(game.subset(4).outcome("loss"))
    with pytest.raises(ValueError, match="metric='acu'"):
        outcome.interval("acu")
    with pytest.raises(ValueError, match=r"metric='fpr@0\.1'"):
        outcome.interval("fpr@0.1")


def test_scores_computed_elsewhere(game):
    score = np.random.default_rng(0).normal(size=game.member.shape) + game.member
    everywhere = np.ones_like(game.member)
    mine = Outcome(score, everywhere, score > 0.5, game.member, game.partner, "mine", "of a paper")
    table = mia.audit(game, [mine, "loss"], fprs=(0.1,))
    assert set(table["attack"]) == {"mine", "loss"}
    assert table.attrs["audit"]["attacks"]["mine"] == "of a paper"
    pooled = table[(table["target"] == "pooled") & (table["metric"] == "auc")].set_index("attack")["value"]
    assert pooled["mine"] == mia.metrics.auc(score.ravel(), game.member.ravel())


def margin(game):
    """Score an answer by how far the label is ahead."""
    right = np.take_along_axis(game.logits[:, 0], game.y[None, :, None], -1)[..., 0]
    return right - game.logits[:, 0].mean(-1)


def test_a_function_is_an_attack(game, ran):
    table = mia.audit(game, ["loss", margin], fprs=(0.1,))
    assert list(dict.fromkeys(table["attack"])) == ["loss", "margin"]
    outcome = game.outcome(margin)
    np.testing.assert_array_equal(outcome.score, margin(game))
    assert ran["margin", id(game)] == 1
    assert 0.4 < outcome.predicted_member.mean() < 0.6, "with a threshold from shadow models"
    assert mia.difference((game, margin), (game, "loss")).value > -0.5
    mia.plots.roc(game, ["loss", margin])
    mia.plots.histograms(game, margin)
    plt.close("all")
    with pytest.raises(ValueError, match="'margin' is there twice"):
        mia.audit(game, [margin, margin])
    with pytest.raises(TypeError, match="attack=3 must be a name"):
        mia.audit(game, [3])


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda game: game.y.astype(float), r"'wrong' gave scores of shape \(300,\).*\(8, 300\)"),
        (lambda game: np.full(game.member.shape, np.nan), "'wrong' gave 2400 non-finite scores"),
        (lambda game: None, r"'wrong' gave scores of shape \(\)"),
        (lambda game: [[1.0], [1.0, 2.0]], "'wrong' gave a list that is no array of numbers"),
        (lambda game: np.full(game.member.shape, "a"), "'wrong' gave a ndarray that is no array of numbers"),
    ],
)
def test_what_a_function_must_not_return(game, returned, message):
    def wrong(game):
        return returned(game)

    with pytest.raises((ValueError, TypeError, FloatingPointError), match=message):
        mia.audit(game, [wrong])


def test_names_that_tables_print_can_be_asked_for(game):
    for name in (
        "loss_known_half",
        "modified_entropy_per_class_known_half",
        "lira_known_half",
        "rmia_per_class",
    ):
        assert attacks.make(name).name == name
    with pytest.raises(ValueError, match="Did you mean 'modified_entropy"):
        attacks.make("modified_entrpy_known_half")
