import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from reference.metrics import slow_rate
from scipy import stats
from sklearn.metrics import (
    balanced_accuracy_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from mialab import metrics
from mialab.metrics import intervals

RATES = (0.0, 0.001, 0.01, 0.1, 0.29, 0.5, 1.0)


@st.composite
def scored(draw):
    """Scores with many ties, both classes present."""
    n_in, n_out = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    score = np.array(draw(st.lists(st.integers(-6, 6), min_size=n_in + n_out, max_size=n_in + n_out)), float)
    return score, np.random.default_rng(draw(st.integers(0, 99))).permutation(np.arange(n_in + n_out) < n_in)


def test_hand_worked_roc_with_ties():
    score = np.array([9, 7, 7, 5, 5, 5, 2, 1.0])
    member = np.array([1, 1, 0, 1, 1, 0, 0, 0], bool)
    fpr, tpr, threshold = metrics.roc(score, member)
    assert_array_equal(threshold, [np.inf, 9, 7, 5, 2, 1])
    assert_array_equal(fpr, [0, 0, 0.25, 0.5, 0.75, 1])
    assert_array_equal(tpr, [0, 0.25, 0.5, 1, 1, 1])
    # Non-members beaten by each member, ties counting half: 4, 3.5, 2.5 and 2.5.
    assert metrics.auc(score, member) == 12.5 / 16
    assert metrics.tpr_at_fpr(score, member, 0) == 0.25
    assert metrics.tpr_at_fpr(score, member, 0.49) == 0.5
    assert metrics.tpr_at_fpr(score, member, 0.5) == 1
    assert metrics.tnr_at_fnr(score, member, 0) == 0.5
    assert metrics.tnr_at_fnr(score, member, 0.5) == 0.75
    assert metrics.tnr_at_fnr(score, member, 0.75) == 1


@given(scored())
def test_same_as_scikit_learn(data):
    score, member = data
    assert metrics.auc(score, member) == pytest.approx(roc_auc_score(member, score), abs=1e-12)
    for ours, theirs in zip(
        metrics.roc(score, member), roc_curve(member, score, drop_intermediate=False), strict=True
    ):
        assert_allclose(ours, theirs, atol=1e-15)
    for rate in RATES:
        assert metrics.tpr_at_fpr(score, member, rate) == pytest.approx(slow_rate(score, member, rate))


@given(scored(), st.sampled_from(RATES))
def test_symmetries(data, rate):
    score, member = data
    value, tpr = metrics.auc(score, member), metrics.tpr_at_fpr(score, member, rate)
    assert metrics.auc(-score, member) == pytest.approx(1 - value, abs=1e-12)
    assert metrics.auc(score, ~member) == pytest.approx(1 - value, abs=1e-12)
    assert metrics.tnr_at_fnr(-score, ~member, rate) == pytest.approx(tpr, abs=1e-12)
    order = np.random.default_rng(0).permutation(len(score))
    assert metrics.auc(score[order], member[order]) == value
    assert metrics.tpr_at_fpr(score[order], member[order], rate) == tpr
    stretched = np.arctan(score / 3) * 1e-3 + 5
    assert metrics.auc(stretched, member) == value
    assert metrics.tpr_at_fpr(stretched, member, rate) == tpr


def test_rate_is_not_lost_to_rounding():
    score, member = np.append(np.arange(100.0), 71.5), np.arange(101) == 100
    # 0.29 * 100 is 28.999999999999996 in floating point; 29 false alarms in 100 must be allowed all the same.
    assert metrics.tpr_at_fpr(score, member, 0.28) == 1
    assert metrics.tpr_at_fpr(np.append(np.arange(100.0), 70.5), member, 0.29) == 1
    assert metrics.tpr_at_fpr(np.append(np.arange(100.0), 69.5), member, 0.29) == 0


def test_infinite_scores_have_a_place():
    assert metrics.auc([np.inf, 0, -np.inf], [True, False, False]) == 1


@given(scored(), st.sampled_from(RATES))
def test_infinite_scores_are_tied_like_any_others(data, rate):
    score, member = np.sign(data[0]), data[1]
    infinite = np.array([-np.inf, 0, np.inf])[score.astype(int) + 1]
    for function in (metrics.tpr_at_fpr, metrics.tnr_at_fnr):
        assert function(infinite, member, rate) == function(score, member, rate)
    assert metrics.auc(infinite, member) == metrics.auc(score, member)
    for ours, theirs in zip(metrics.roc(infinite, member)[:2], metrics.roc(score, member)[:2], strict=True):
        assert_array_equal(ours, theirs)
    fpr, tpr, _ = metrics.roc(infinite, member)
    assert np.trapezoid(tpr, fpr) == pytest.approx(metrics.auc(infinite, member))
    ours, theirs = (metrics.Cells(each[None], member[None]).curve for each in (infinite, score))
    assert_array_equal(ours.influence(), theirs.influence())
    assert_array_equal(ours.normal_scores(), theirs.normal_scores())


@pytest.mark.slow
@given(scored(), st.integers(0, 5))
def test_decisions_as_scikit_learn(data, threshold):
    score, member = data
    predicted_member = score >= threshold
    assert metrics.balanced_accuracy(predicted_member, member) == pytest.approx(
        balanced_accuracy_score(member, predicted_member)
    )
    assert metrics.recall(predicted_member, member) == pytest.approx(recall_score(member, predicted_member))
    assert metrics.f1(predicted_member, member) == pytest.approx(f1_score(member, predicted_member))
    if predicted_member.any():
        assert metrics.precision(predicted_member, member) == pytest.approx(
            precision_score(member, predicted_member)
        )
    else:
        assert np.isnan(metrics.precision(predicted_member, member))


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 10), (5000, 10_000), (1, 1)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_clopper_pearson_as_scipy(k, n, confidence):
    expected = stats.binomtest(k, n).proportion_ci(confidence, method="exact")
    assert_allclose(intervals.clopper_pearson(k, n, confidence), tuple(expected), rtol=1e-9)


def test_clopper_pearson_of_arrays_and_of_nothing():
    low, high = intervals.clopper_pearson([0, 3], [0, 10])
    assert (low[0], high[0]) == (0, 1)
    assert low.shape == high.shape == (2,)


def test_resolvable():
    assert metrics.resolvable(10_000, 0.001)
    assert not metrics.resolvable(9_999, 0.001)


@pytest.mark.parametrize(
    ("score", "member", "says"),
    [
        ([0.1, np.nan], [True, False], "NaN"),
        ([0.1, 0.2], [True, True], "2 members and 0 non-members"),
        ([0.1, 0.2, 0.3], [True, False], "must be equal"),
        ([[0.1, 0.2]], [[True, False]], "it must be"),
        ([0.1, 0.2], [2, 0], "True or False"),
        ([0.1, 0.2], ["a", {}], "True or False"),
        ([0.1j, 0.2], [True, False], "score must hold numbers; it is complex128"),
        (["a", "b"], [True, False], "score must hold numbers; it is <U1"),
        ([[1], [1, 2]], [True, False], "score=.* cannot be read as an array"),
    ],
)
def test_bad_input_is_refused(score, member, says):
    for function in (metrics.auc, metrics.roc):
        with pytest.raises(ValueError, match=says):
            function(score, member)


def test_bad_options_are_refused():
    score, member = [0.1, 0.2], [True, False]
    with pytest.raises(ValueError, match="fpr: 5 must be a fraction"):
        metrics.tpr_at_fpr(score, member, 5)
    with pytest.raises(ValueError, match="confidence=95 must be"):
        metrics.over_targets(score, confidence=95)
    with pytest.raises(ValueError, match="prior=10 must be"):
        metrics.precision_at(0.1, 0.01, 10)
    with pytest.raises(ValueError, match="rates: 10 must be a fraction"):
        metrics.precision_at(10, 0.01, 0.1)
    with pytest.raises(ValueError, match=r"fpr: '0\.1' must be a fraction"):
        metrics.tpr_at_fpr(score, member, "0.1")
    with pytest.raises(ValueError, match="successes='3' must be an integer"):
        metrics.proportion("3", 9)
    with pytest.raises(ValueError, match="0 <= successes <= trials"):
        intervals.clopper_pearson(3, 2)
    with pytest.raises(ValueError, match="mutual"):
        intervals.over_targets([0.1, 0.2, 0.3], partner=[1, 2, 0])


def test_over_targets_is_a_t_interval_over_pairs():
    value = np.array([0.6, 0.5, 0.7, 0.8, 0.55, 0.65])
    interval = intervals.over_targets(value, partner=np.arange(6) ^ 1)
    means = value.reshape(3, 2).mean(axis=1)
    expected = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert interval.value == pytest.approx(value.mean())
    assert_allclose(interval[1:], tuple(expected))
    assert_allclose(
        intervals.over_targets(value)[1:], tuple(stats.ttest_1samp(value, 0).confidence_interval(0.95))
    )


def test_over_targets_with_too_few():
    assert np.isnan(intervals.over_targets([0.5, 0.6], partner=[1, 0])[1:]).all()
    assert np.isnan(intervals.over_targets([np.nan, np.nan])).all()
    assert intervals.over_targets([0.5, np.nan]).value == 0.5


def test_t_interval_covers_four_pairs_where_the_bootstrap_does_not():
    # 1,000 trials: at a true coverage of 95%, leaving 93%..97% has probability below 0.5%. The percentile
    # bootstrap of four pairs covers about 80%, ten standard errors below 90%.
    rng, partner = np.random.default_rng(0), np.arange(8) ^ 1
    value = np.repeat(rng.normal(size=(1000, 4)), 2, axis=1) + 0.5 * rng.normal(size=(1000, 8))
    ours = [intervals.over_targets(v, partner=partner) for v in value]
    drawn = value.reshape(1000, 4, 2).mean(axis=2)[:, rng.integers(0, 4, (300, 4))].mean(axis=2)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=1)
    assert 0.93 <= np.mean([i.low <= 0 <= i.high for i in ours]) <= 0.97
    assert np.mean((low <= 0) & (high >= 0)) < 0.9


def test_precision_at_a_prior_by_hand():
    # Of 10,000 people 100 are members: 10 of them and 99 of the others are accused.
    assert metrics.precision_at(0.1, 0.01, 0.01) == pytest.approx(10 / 109)
    assert metrics.precision_at(0.3, 0.3, 0.1) == pytest.approx(0.1)
    assert np.isnan(metrics.precision_at(0.0, 0.0, 0.1))


def test_p_values_are_those_of_the_interval():
    interval = metrics.Interval(0.3, 0.1, 0.5, df=7)
    assert interval.p_value(0.1, "above") == pytest.approx(0.025)
    assert interval.p_value(0.5, "below") == pytest.approx(0.025)
    assert interval.p_value(0.3, "above") == pytest.approx(0.5)
    t = 0.3 / 0.2 * stats.t(7).ppf(0.975)
    assert interval.p_value(0.0, "above") == pytest.approx(stats.t(7).sf(t))
    assert interval.p_value(0.0, "below") == pytest.approx(stats.t(7).cdf(t))
    assert metrics.Interval(0.3, np.nan, np.nan).p_value(0, "above") == 1
    assert metrics.Interval(0.3, 0.3, 0.3).p_value(0, "above") == 0
    with pytest.raises(ValueError, match="side='up'"):
        interval.p_value(0, "up")


def test_an_interval_is_three_numbers_with_what_is_known_of_them():
    interval = metrics.Interval(0.3, -0.1, 0.5, n_pairs=8).under(trained="no")
    assert interval == (0.3, -0.1, 0.5)
    clipped = interval.clip(0, 1)
    assert clipped == (0.3, 0.0, 0.5)
    assert (clipped.n_pairs, clipped.conditions) == (8, {"trained": "no"})
    assert f"{interval:.1f}" == "0.3 [-0.1, 0.5]"
