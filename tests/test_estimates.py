"""Influence values, two-way intervals and what is made of them."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from reference.metrics import slow_influence
from scipy import stats

from mialab import metrics
from mialab.metrics import Cells, Outcome
from mialab.training.membership import membership


def _load(file):
    """Load a benchmark as a module; its name, coverage, is taken by a package."""
    spec = spec_from_file_location("simulated", file)
    module = module_from_spec(spec)
    sys.path.insert(0, str(file.parent))  # for what the benchmarks share
    spec.loader.exec_module(module)
    sys.path.remove(str(file.parent))
    return module


ROOT = Path(__file__).parents[1]
simulated = _load(ROOT / "benchmarks" / "coverage.py")

METRICS = ("auc", "tpr@0.1", "tnr@0.1", "balanced_accuracy", "precision", "recall", "f1")


def drawn(n_models=16, n_records=200, effect=0.8, seed=0, difficulty=1.0):
    rng = np.random.default_rng(seed)
    member, partner = membership(n_models, n_records, seed), np.arange(n_models) ^ 1
    score = difficulty * rng.normal(size=n_records) + rng.normal(size=member.shape) + effect * member
    return Outcome(score, np.ones_like(member), score > effect / 2, member, partner, "drawn")


@st.composite
def small_games(draw):
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    member, partner = membership(4, 12, int(rng.integers(100))), np.arange(4) ^ 1
    score = np.round(rng.normal(size=member.shape) + member, draw(st.integers(0, 3)))
    evaluated = rng.random(member.shape) < 0.8
    evaluated[0] = True
    return Outcome(score, evaluated, score > 0.5, member, partner, "small")


@given(small_games())
def test_values_are_those_of_the_evaluated_pairs(outcome):
    s, m, d = (a[outcome.evaluated] for a in (outcome.score, outcome.member, outcome.predicted_member))
    cells = outcome.cells
    assert cells.estimate("auc").value == metrics.auc(s, m)
    assert cells.estimate("tpr@0.1").value == metrics.tpr_at_fpr(s, m, 0.1)
    assert cells.estimate("tnr@0.1").value == metrics.tnr_at_fnr(s, m, 0.1)
    for name in ("balanced_accuracy", "precision", "recall", "f1"):
        expected = getattr(metrics, name)(d, m)
        assert cells.estimate(name).value == pytest.approx(expected, nan_ok=True)


@given(small_games())
def test_influences_are_those_of_a_plain_loop(outcome):
    assert_allclose(outcome.cells.estimate("auc").influence, slow_influence(outcome, "auc"), atol=1e-12)
    for name in METRICS:
        estimate = outcome.cells.estimate(name)
        assert abs(estimate.influence.sum()) < 1e-12
        if np.isfinite(estimate.value) and "@" not in name:  # rates hang on a slope that a loop does not have
            assert_allclose(estimate.influence, slow_influence(outcome, name), atol=1e-12)


def test_influence_of_a_rate_predicts_what_more_records_do():
    """Counting the cells of one record twice changes the rate as its influence says, up to the steps of the curve."""
    outcome = drawn(32, 400)
    estimate = outcome.cells.estimate("tpr@0.1")
    predicted, actual = [], []
    for block in range(40):
        records = np.append(np.arange(400), np.flatnonzero(np.arange(400) % 40 == block))
        again = Cells(outcome.score[:, records], outcome.member[:, records], partner=outcome.partner)
        actual.append(again.estimate("tpr@0.1").value - estimate.value)
        predicted.append(estimate.influence[:, records[400:]].sum())
    assert np.corrcoef(predicted, actual)[0, 1] > 0.95
    assert np.std(actual) == pytest.approx(np.std(predicted), rel=0.15)


def test_threshold_realized_rate_and_false_alarms_of_a_rate():
    outcome = drawn()
    point = outcome.estimate("tpr@0.05").point
    accused = outcome.score >= point.threshold
    assert point.errors == (accused & ~outcome.member).sum() == 80  # of 1,600
    assert point.fpr == 0.05
    assert point.tpr == accused[outcome.member].mean()
    # Of a true-negative rate the errors are members that are called none.
    point = outcome.estimate("tnr@0.05").point
    assert ((outcome.score < point.threshold) & outcome.member).sum() == point.errors == 80


def test_what_is_not_resolvable_has_no_value():
    outcome = drawn(n_records=200)
    assert not outcome.resolvable("tpr@0.001")
    assert np.isnan(outcome.interval("tpr@0.001")).all()
    assert np.isnan(outcome.minus(outcome, "tpr@0.001")).all()
    with pytest.raises(ValueError, match="metric='tpr@x' must be a rate"):
        outcome.interval("tpr@x")
    with pytest.raises(ValueError, match="Did you mean 'recall'"):
        outcome.interval("recal")


def test_a_difference_of_an_outcome_with_itself_is_exactly_nothing():
    outcome = drawn()
    for name in METRICS:
        assert outcome.minus(outcome, name) == (0, 0, 0)
        assert outcome.minus(outcome, name, relative=True) == pytest.approx((0, 0, 0), abs=1e-15)


def test_a_difference_is_paired():
    outcome = drawn()
    noise = 0.1 * np.random.default_rng(1).normal(size=outcome.score.shape)
    near = Outcome(
        outcome.score + noise,
        outcome.evaluated,
        outcome.predicted_member,
        outcome.member,
        outcome.partner,
        "near",
    )
    found, alone = outcome.minus(near), outcome.interval()
    assert found.value == pytest.approx(outcome.estimate().value - near.estimate().value)
    assert found.high - found.low < (alone.high - alone.low) / 2
    # Where one side evaluates less, the other records still cancel.
    less = near.among(np.arange(200) > 0)
    assert outcome.minus(less).high - outcome.minus(less).low < (alone.high - alone.low) / 2


def test_a_relative_difference_is_a_ratio_less_one():
    first, second = drawn(effect=0.4), drawn(effect=0.8)
    found = first.minus(second, relative=True)
    assert found.value == pytest.approx(first.estimate().value / second.estimate().value - 1)


def test_a_rate_of_all_or_nothing_has_the_interval_of_its_records():
    member, partner = membership(16, 100, 0), np.arange(16) ^ 1
    perfect = Outcome(member + 0.0, np.ones_like(member), member, member, partner, "perfect")
    for name in ("auc", "tpr@0.1", "balanced_accuracy", "recall", "precision"):
        interval = perfect.interval(name)
        assert interval == (1, pytest.approx(0.025 ** (1 / 100)), 1)  # Clopper and Pearson, 100 of 100
    chance = Outcome(np.zeros(member.shape), np.ones_like(member), ~member, member, partner, "wrong")
    difference = perfect.minus(chance, "recall")
    assert difference.value == 1
    assert difference.low < 0.95  # neither is known to the last digit


def test_one_target_knows_of_records_alone():
    outcome = drawn()
    alone = Cells(outcome.score[:1], outcome.member[:1]).estimate("auc")
    n = 200
    assert alone.variance.total == pytest.approx((alone.influence**2).sum() * n / (n - 1))
    assert np.isnan(alone.variance.targets)


def test_few_pairs_are_marked_and_wide():
    outcome = drawn(n_models=6)
    interval = outcome.interval()
    assert interval.n_pairs == 3
    assert interval.n_pairs < metrics.MIN_PAIRS
    assert interval.df == 2


def test_the_mean_over_targets_is_their_mean():
    outcome = drawn()
    for name in METRICS:
        found = outcome.cells.targets(name)
        assert found.mean.value == pytest.approx(found.value.mean())
        assert abs(found.mean.influence.sum()) < 1e-12
        assert found.mean.n_pairs == 8
        # Between targets it varies as they do.
        means = found.value.reshape(8, 2).mean(1)
        assert found.mean.sums[0] == pytest.approx((means - means.mean()) / 8)
        assert len(found.mean.moved) == len(outcome.estimate(name).moved)


@pytest.mark.parametrize("seed", range(4))
def test_targets_are_measured_as_if_each_were_alone(seed):
    rng = np.random.default_rng(seed)
    outcome = drawn(8, 60, seed=seed)
    score = np.round(outcome.score, 1)  # with ties
    evaluated = rng.random(score.shape) < 0.8
    evaluated[0] = True
    evaluated[1] &= outcome.member[1]  # no non-members
    evaluated[2] = False
    decided = outcome.predicted_member & (np.arange(8) != 3)[:, None]  # one accuses nobody
    partner = np.where(np.arange(8) < 6, outcome.partner, -1)
    cells = Cells(score, outcome.member, evaluated=evaluated, partner=partner, predicted_member=decided)
    resolved = set()
    for name in ("auc", "tpr@0.45", "tnr@0.45", "balanced_accuracy", "precision", "recall", "f1"):
        found = cells.targets(name)
        low, high = found.interval()
        alone = {}
        for k in range(8):
            own = np.s_[k : k + 1, evaluated[k]]
            single = Cells(score[own], outcome.member[own], predicted_member=decided[own])
            if single.resolvable(name) and np.isfinite(single.estimate(name).value):
                alone[k] = single.estimate(name)
                assert_allclose((found.value[k], low[k], high[k]), alone[k].interval(), atol=1e-12)
            else:
                assert np.isnan([found.value[k], low[k], high[k]]).all()
            if "@" in name:
                expected = alone[k].point if k in alone else [np.nan] * 4
                assert_allclose(found.point[:, k], expected)
        mean = np.mean([one.value for one in alone.values()])
        influence = np.zeros((5, 60))
        for k, one in alone.items():
            effect = (one.value - mean) / evaluated[k].sum()
            influence[cells.pair[k], evaluated[k]] += (one.influence[0] + effect) / len(alone)
        assert found.mean.value == pytest.approx(mean)
        assert_allclose(found.mean.influence, influence, atol=1e-12)
        resolved.add(len(alone))
    assert resolved >= {5, 6}, "all sides of a rate, of decisions and of what is undefined are there"
    with pytest.raises(ValueError, match="of all targets together"):
        cells.targets("calibrated_tpr@0.1")


def test_interval_covers():
    # 200 games of 16 models; at a true coverage of 95 % fewer than 180 hits have probability below 0.3 % (binomial),
    # and 200 hits have probability below 0.01 %. The seeds are fixed, so the test repeats exactly.
    estimates = [drawn(n_records=150, seed=seed).estimate() for seed in range(200)]
    truth = stats.norm.cdf(0.8 / 2)
    ends = np.array([estimate.interval() for estimate in estimates])
    hits = ((ends[:, 1] <= truth) & (truth <= ends[:, 2])).sum()
    assert 180 <= hits < 200
    width = (ends[:, 2] - ends[:, 1]).mean() / (3.92 * ends[:, 0].std())
    assert 0.9 < width < 1.25


def test_difference_of_recalls_covers_where_thresholds_are_chosen():
    """With the threshold taken as given, 43 % of such intervals would hold the truth, which is 0."""
    # 60 differences at 95 %: fewer than 52 hits have probability below 0.5 %.
    found = np.array([simulated.games("b", 16, 300, seed) for seed in range(60)])
    recall = found[:, simulated.METRICS.index("recall")]
    assert ((recall[:, 1] <= 0) & (recall[:, 2] >= 0)).sum() >= 52


def test_the_strongest_of_many_knows_that_it_was_chosen():
    """On noise the best of 10 attacks is above 0.5; its own interval says so too often, not the max-statistic's."""
    # 60 games; at 2.5 % more than 6 have probability below 0.3 %.
    own, chosen = np.sum([simulated.best_of(10, 16, 200, seed) for seed in range(60)], axis=0)
    assert chosen <= 6
    assert chosen < own
    (single,) = [drawn().estimate()]
    assert metrics.strongest([single]) == single.interval()
    assert np.isnan(metrics.strongest([])).all()


def test_calibration_on_noise_is_the_share_of_allowed_errors():
    """On noise TPR@f is (j + 1) / (N + 1) on average, j the number of allowed false alarms."""
    # 20 games of 4,000 cells, 20 allowed: the standard error of the mean is 4 %.
    rates = [
        drawn(16, 500, effect=0.0, seed=seed, difficulty=2.0).estimate("calibrated_tpr@0.005").value
        for seed in range(20)
    ]
    assert np.mean(rates) == pytest.approx(21 / 4001, rel=0.15)


def test_calibrated_scores_are_places_among_the_out_models_by_a_plain_loop():
    outcome = drawn(12, 30)
    cells = outcome.cells.calibrated
    assert cells.evaluated.all()
    ranks = stats.rankdata(outcome.score).reshape(outcome.score.shape)
    normal = stats.norm.ppf(ranks / (ranks.size + 1))
    for k in range(12):
        others = [j for j in range(12) if j not in (k, outcome.partner[k])]
        for i in range(30):
            inside = [normal[j, i] for j in others if outcome.member[j, i]]
            outside = [normal[j, i] for j in others if not outcome.member[j, i]]
            sign = 1 if np.mean(inside) >= np.mean(outside) else -1
            expected = sign * (normal[k, i] - np.mean(outside)) / np.std(outside, ddof=1)
            assert cells.score[k, i] == pytest.approx(expected)
    few = drawn(6, 30)
    assert not few.cells.calibrated.evaluated.any()
    assert np.isnan(few.interval("calibrated_tpr@0.5")).all()


def test_no_record_is_accused_much_more_often_than_the_rate_says():
    counts = np.sum([simulated.false_alarms(16, 200, seed) for seed in range(60)], axis=0)
    raw, calibrated = (counts[:, 0] / counts[:, 1]).max(1)
    # 480 chances a record, 0.48 false alarms expected: 6 or more of a record have probability 1e-5.
    assert calibrated <= 5.5 / 480
    assert raw > 10 * simulated.FALSE_ALARM_RATE


def test_concentration_of_false_alarms():
    member = membership(16, 200, 0)
    score = np.where(np.arange(200) < 2, 10.0, 0.0) + np.random.default_rng(0).normal(size=member.shape)
    outcome = Outcome(score, np.ones_like(member), member, member, np.arange(16) ^ 1, "two records")
    found = outcome.concentration(0.01)  # 16 false alarms, on 2 of 200 records
    assert found.share == 1
    assert found.by_chance < 0.4
    calibrated = outcome.concentration(0.01, calibrated=True)
    assert calibrated.share < 0.5


def test_estimates_of_nothing():
    outcome = drawn()
    nothing = outcome.estimate("tpr@0.001")
    assert np.isnan((outcome.estimate() - nothing).interval()).all()


def test_the_table_of_coverage_says_what_the_book_says():
    table = pd.read_csv(ROOT / "results" / "coverage.csv")
    of = table.set_index("of")
    single = table[
        (table["of"] == "one game") & table["metric"].isin(["auc", "tpr@0.01", "balanced_accuracy"])
    ]
    assert single[single["case"].isin(["a", "aa", "b"])]["coverage"].between(0.93, 0.985).all()
    assert single[single["case"].isin(["c", "d"])]["coverage"].min() >= 0.9
    alike = table[table["of"] == "two games alike"]
    assert alike[alike["metric"].isin(["recall", "precision", "f1"])]["coverage"].min() >= 0.93
    weaker = of.loc["20 % weaker"].set_index("metric")["settled"]
    assert weaker["auc"] >= 0.9
    assert weaker["tpr@0.01"] >= 0.68
    assert weaker["balanced_accuracy"] >= 0.62
    assert of.loc["greatest FPR of a record, calibrated", "coverage"] <= 0.005
    chosen = of.loc["best of 25 attacks on noise, max-statistic interval above 0.5", "coverage"]
    assert chosen < 0.04 < of.loc["best of 25 attacks on noise, own interval above 0.5", "coverage"]
