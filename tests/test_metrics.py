import numpy as np
import pytest
from hypothesis import given, settings
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


def complementary(n_pairs, n_records, rng):
    first = rng.permuted(np.tile(np.arange(n_records) < n_records // 2, (n_pairs, 1)), axis=1)
    return np.stack([first, ~first], axis=1).reshape(2 * n_pairs, n_records), np.arange(2 * n_pairs) ^ 1


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
    ],
)
def test_bad_input_is_refused(score, member, says):
    for function in (metrics.auc, metrics.roc, intervals.bootstrap):
        with pytest.raises(ValueError, match=says):
            function(score, member)


def test_bad_options_are_refused():
    score, member = [0.1, 0.2], [True, False]
    with pytest.raises(ValueError, match="fpr: 5 must be a fraction"):
        metrics.tpr_at_fpr(score, member, 5)
    with pytest.raises(ValueError, match="confidence=95 must be"):
        intervals.bootstrap(score, member, confidence=95)
    with pytest.raises(ValueError, match="n_resamples"):
        intervals.bootstrap(score, member, n_resamples=0)
    with pytest.raises(ValueError, match="0 <= successes <= trials"):
        intervals.clopper_pearson(3, 2)
    with pytest.raises(ValueError, match="mutual"):
        intervals.over_targets([0.1, 0.2, 0.3], partner=[1, 2, 0])


@settings(deadline=None)
@given(scored(), st.integers(0, 1000))
def test_weighted_statistics_are_those_of_repeated_records(data, seed):
    """The heart of the bootstrap: counting records w times is the same as repeating them w times."""
    score, member = data
    ranks = intervals._Ranks(score, member, RATES, RATES)
    rng = np.random.default_rng(seed)
    weight = np.empty(len(score), int)
    weight[ranks.order_in] = intervals._draw(rng, ranks.n_in)
    weight[ranks.order_out] = intervals._draw(rng, ranks.n_out)
    got = ranks.statistics(weight[ranks.order_in], weight[ranks.order_out], out=np.empty(len(ranks.names)))
    score, member = np.repeat(score, weight), np.repeat(member, weight)
    expected = [
        metrics.auc(score, member),
        *(metrics.tpr_at_fpr(score, member, f) for f in RATES),
        *(metrics.tnr_at_fnr(score, member, f) for f in RATES),
    ]
    assert_allclose(got, expected, atol=1e-12)


def test_bootstrap_repeats_and_names_its_rates():
    rng = np.random.default_rng(0)
    member = np.arange(400) < 200
    score = rng.normal(size=400) + member
    options = {"predicted_member": score > 0.5, "fprs": (0.1,), "fnrs": (0.05,), "n_resamples": 200}
    table = intervals.bootstrap(score, member, **options)
    assert list(table) == ["auc", "tpr@0.1", "tnr@0.05", "balanced_accuracy", "precision", "recall", "f1"]
    assert table == intervals.bootstrap(score, member, **options)
    assert table != intervals.bootstrap(score, member, **options, seed=1)
    assert all(i.low < i.value < i.high for i in table.values())
    assert table["auc"].value == metrics.auc(score, member)
    assert table["precision"].value == metrics.precision(score > 0.5, member)


@pytest.mark.slow
def test_auc_interval_covers():
    # 300 trials at nominal 95%: a true coverage of 95% leaves 91.3%..98.3% with probability below 0.4%
    # (binomial); the seed is fixed, so the test repeats exactly.
    rng, n, shift = np.random.default_rng(0), 150, 0.5
    member, truth = np.arange(2 * n) < n, stats.norm.cdf(shift / np.sqrt(2))
    hits = 0
    for seed in range(300):
        interval = intervals.bootstrap(
            rng.normal(size=2 * n) + shift * member, member, fprs=(), n_resamples=300, seed=seed
        )["auc"]
        hits += interval.low <= truth <= interval.high
    assert 0.913 <= hits / 300 <= 0.983


@pytest.mark.slow
def test_tpr_interval_covers_where_it_is_just_resolvable():
    # As above, at exactly 10 allowed false alarms.
    rng, n, shift = np.random.default_rng(1), 200, 0.5
    member, truth = np.arange(2 * n) < n, stats.norm.sf(stats.norm.isf(0.05) - shift)
    hits = 0
    for seed in range(300):
        interval = intervals.bootstrap(
            rng.normal(size=2 * n) + shift * member, member, fprs=(0.05,), n_resamples=300, seed=seed
        )["tpr@0.05"]
        hits += interval.low <= truth <= interval.high
    assert 0.913 <= hits / 300 <= 0.983


def test_pooled_is_one_roc_over_the_evaluated_pairs():
    rng = np.random.default_rng(0)
    member, partner = complementary(4, 100, rng)
    score = rng.normal(size=member.shape) + 0.5 * member
    evaluated = rng.random(member.shape) < 0.5
    evaluated[6:] = False
    predicted_member = score > 0.3
    score[~evaluated] = np.nan  # never looked at
    table = intervals.pooled_bootstrap(
        score,
        member,
        evaluated=evaluated,
        partner=partner,
        predicted_member=predicted_member,
        fprs=(0.1,),
        n_resamples=130,
    )
    s, m = score[evaluated], member[evaluated]
    assert table["auc"].value == metrics.auc(s, m)
    assert table["tpr@0.1"].value == metrics.tpr_at_fpr(s, m, 0.1)
    for name in ("balanced_accuracy", "precision", "recall", "f1"):
        assert table[name].value == pytest.approx(getattr(metrics, name)(predicted_member[evaluated], m))
    assert all(i.low < i.value < i.high for i in table.values())


def test_pooled_weights_are_target_times_record(monkeypatch):
    """Against a slow loop that repeats every pair (times its target was drawn) x (times its record was)."""
    rng = np.random.default_rng(3)
    member, partner = complementary(3, 40, rng)
    score = np.round(rng.normal(size=member.shape) + member, 1)
    predicted_member, evaluated = score > 0.5, rng.random(member.shape) < 0.7
    evaluated[0] = True  # or a record without any evaluated pair is left out of the draw
    drawn, draw = [], intervals._draw
    monkeypatch.setattr(intervals, "_draw", lambda r, n: drawn.append(draw(r, n)) or drawn[-1])
    kept = intervals.pooled_draws(
        score,
        member,
        evaluated=evaluated,
        partner=partner,
        predicted_member=predicted_member,
        fprs=(0.1,),
        fnrs=(0.1,),
        n_resamples=70,
    )
    for b, (pairs, records) in enumerate(zip(drawn[::2], drawn[1::2], strict=True)):
        weight = (np.repeat(pairs, 2)[:, None] * records)[evaluated]
        s, m, d = (np.repeat(x[evaluated], weight) for x in (score, member, predicted_member))
        expected = [metrics.auc(s, m), metrics.tpr_at_fpr(s, m, 0.1), metrics.tnr_at_fnr(s, m, 0.1)]
        expected += [metrics.balanced_accuracy(d, m), metrics.precision(d, m), metrics.recall(d, m)]
        assert_allclose([draws[b] for _, draws in kept.values()], [*expected, metrics.f1(d, m)])


@pytest.mark.slow
def test_pooled_interval_covers_with_target_and_record_effects():
    # 100 trials; at a true coverage of 95% fewer than 88 hits have probability 0.2%. It may cover more.
    rng, spread = np.random.default_rng(0), 0.3
    truth = stats.norm.cdf(0.4 / np.sqrt(2 + 4 * spread**2))
    hits = 0
    for seed in range(100):
        member, partner = complementary(8, 100, rng)
        effects = spread * (rng.normal(size=(16, 1)) + rng.normal(size=100))
        score = rng.normal(size=member.shape) + 0.4 * member + effects
        interval = intervals.pooled_bootstrap(
            score, member, partner=partner, fprs=(), n_resamples=200, seed=seed
        )
        hits += interval["auc"].low <= truth <= interval["auc"].high
    assert hits >= 88


def test_difference_is_paired():
    """Of an attack with itself it is exactly 0; of two alike ones the interval is narrower than of either."""
    rng = np.random.default_rng(4)
    member, partner = complementary(6, 120, rng)
    score = rng.normal(size=member.shape) + rng.normal(size=120) + 0.8 * member
    near = score + 0.1 * rng.normal(size=member.shape)
    options = {"member": member, "partner": partner, "fprs": (0.1,), "n_resamples": 200}
    assert set(intervals.pooled_difference({"score": score}, {"score": score}, **options).values()) == {
        (0, 0, 0)
    }
    found = intervals.pooled_difference({"score": score}, {"score": near}, **options)["auc"]
    alone = intervals.pooled_bootstrap(score, fprs=(), member=member, partner=partner, n_resamples=200)["auc"]
    assert found.value == pytest.approx(
        metrics.auc(score.ravel(), member.ravel()) - metrics.auc(near.ravel(), member.ravel())
    )
    assert found.high - found.low < (alone.high - alone.low) / 2


def test_difference_is_paired_where_one_attack_evaluates_less():
    """A record that one side never evaluates must not shift which records the other side draws."""
    rng = np.random.default_rng(5)
    member, partner = complementary(6, 120, rng)
    score = rng.normal(size=member.shape) + 2 * rng.normal(size=120) + 0.8 * member
    most = np.arange(120) > 0  # all but the first record
    options = {"member": member, "partner": partner, "fprs": (), "n_resamples": 200}
    less = {"score": score, "evaluated": np.tile(most, (12, 1))}
    found = intervals.pooled_difference({"score": score}, less, **options)["auc"]
    alone = intervals.pooled_bootstrap(score, fprs=(), member=member, partner=partner, n_resamples=200)["auc"]
    assert found.high - found.low < (alone.high - alone.low) / 4


def test_one_pair_of_targets_resamples_records_only():
    rng = np.random.default_rng(0)
    member, partner = complementary(1, 300, rng)
    score = rng.normal(size=member.shape) + member
    interval = intervals.pooled_bootstrap(score, member, partner=partner, n_resamples=200)["auc"]
    assert interval.low < interval.value < interval.high


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
