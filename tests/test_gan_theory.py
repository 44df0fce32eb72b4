import numpy as np
import pytest
import toys
from scipy import integrate, optimize, stats

from mialab import metrics
from mialab.attacks import LiRA
from mialab.attacks.lira import lira
from mialab.auditing import distances
from mialab.chapters import mixup_gan
from mialab.gan.game import GeneratorGame
from mialab.metrics import intervals


def game(loss, member, **options):
    return GeneratorGame.from_arrays(critic_loss=loss, member=member, **options)


def losses(n_models=16, n_records=200, *, shift=1.0, seed=0, design="paired"):
    """Draw Gaussian losses, lower by ``shift`` for members, on records of different means."""
    rng = np.random.default_rng(seed)
    member = toys.memberships(design, n_models, n_records, seed)
    return 2 * rng.normal(size=n_records) + rng.normal(size=member.shape) - shift * member, member


# ------------------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize("distance", [0, 0.1, 0.35, 0.8, 1])
def test_the_bound_is_the_greatest_auc_at_a_distance(distance):
    # Non-members are below all others, or tied with them; members are sought by linear programming.
    non_member = np.array([distance, 1 - distance, 0])
    assert _best_auc(non_member, distance) == pytest.approx(distances.auc_bound(distance), abs=1e-9)


def test_no_distribution_of_scores_exceeds_the_bound():
    rng = np.random.default_rng(0)
    for _ in range(60):
        distance = rng.random()
        assert _best_auc(rng.dirichlet(np.full(8, 0.4)), distance) <= distances.auc_bound(distance) + 1e-9


def _best_auc(non_member, distance):
    """Greatest AUC of scores 0, 1, ... whose distributions are at most at this distance: a linear program."""
    n = len(non_member)
    wins = non_member.cumsum() - non_member / 2
    # Members' fractions p, and how far they are from the others' fractions q: |p - q| <= t, sum t <= 2 D.
    eye = np.eye(n)
    above = np.block([[eye, -eye], [-eye, -eye], [np.zeros((1, n)), np.ones((1, n))]])
    limits = np.concatenate([non_member, -non_member, [2 * distance]])
    equal = np.concatenate([np.ones(n), np.zeros(n)])[None]
    best = optimize.linprog(np.append(-wins, np.zeros(n)), above, limits, equal, [1])
    assert best.success
    return -best.fun


def test_hellinger_is_the_integral():
    for m, s, n, t in [(0, 1, 0, 1), (0, 1, 1.5, 1), (-1, 0.4, 2, 3), (5, 2, 5, 0.1)]:

        def gap(x, m=m, s=s, n=n, t=t):
            return (stats.norm.pdf(x, m, s) ** 0.5 - stats.norm.pdf(x, n, t) ** 0.5) ** 2 / 2

        square = integrate.quad(gap, -40, 40, points=[m, n, n + 5 * t, n - 5 * t], limit=500)[0]
        assert distances.hellinger(m, s, n, t) == pytest.approx(square**0.5, abs=1e-6)


def test_the_gaussian_bound_is_above_the_exact_auc_and_falls_with_the_mean_of_members():
    shift, s, t = np.meshgrid(np.linspace(0, 6, 13), [0.3, 1, 2], [0.5, 1, 3])
    bound = distances.gaussian_bound(shift, s, 0.0, t)
    assert (bound >= stats.norm.cdf(shift / np.hypot(s, t))).all()
    assert (np.diff(bound, axis=1) >= 0).all()
    assert distances.gaussian_bound(0, 1, 0, 1) == 0.5
    assert distances.gaussian_bound(100, 1, 0, 1) == 1


def test_distances_that_are_none_and_standard_deviations_that_are_none_are_refused():
    with pytest.raises(ValueError, match="from 0 to 1"):
        distances.auc_bound(1.01)
    with pytest.raises(ValueError, match="greater than 0"):
        distances.gaussian_bound(0, 0, 1, 1)
    with pytest.raises(ValueError, match="needs 4 of each"):
        distances.total_variation(np.arange(6.0), np.arange(6) < 3)


# ---------------------------------------------------------------------------------- estimates of the distance


def test_all_estimates_find_the_distance_of_two_gaussians():
    rng = np.random.default_rng(0)
    member = np.arange(40_000) % 2 == 0
    found = distances.total_variation(rng.normal(size=member.size) + member, member, bins=40)
    true = 2 * stats.norm.cdf(0.5) - 1
    # Standard errors are below 0.005.
    np.testing.assert_allclose(found, true, atol=0.02)
    assert found.cross_fitted <= found.histogram


def test_only_the_histogram_sees_what_no_threshold_sees():
    rng = np.random.default_rng(0)
    member = np.arange(8000) % 2 == 0
    found = distances.total_variation(rng.normal(size=member.size) * np.where(member, 4, 1), member)
    assert found.histogram > found.threshold + 0.1
    assert found.cross_fitted > found.threshold + 0.1


def test_without_any_distance_one_errs_upwards_and_one_downwards():
    rng = np.random.default_rng(0)
    n, bins = 100, 10
    member = np.arange(2 * n) < n
    found = np.array(
        [distances.total_variation(rng.normal(size=2 * n), member, bins=bins, seed=s) for s in range(300)]
    )
    histogram, threshold, crossed = found.T
    assert histogram.mean() == pytest.approx(np.sqrt(bins / (np.pi * n)), rel=0.1)
    assert 0 < threshold.mean() < 1.25 / np.sqrt(n)
    # Above 4 standard errors once in 30,000 draws.
    assert crossed.mean() < 4 * crossed.std(ddof=1) / np.sqrt(300)


def test_bounds_lie_above_what_is_measured():
    loss, member = losses()
    made = game(loss, member, partner=np.arange(16) ^ 1)
    table = distances.bounds(made, LiRA(signal="critic_loss", variance="pooled")).set_index("quantity")
    score = lira(-loss, member, made.excluded_models, variance="pooled")
    each = [metrics.auc(s, m) for s, m in zip(score, member, strict=True)]
    expected = intervals.over_targets(each, partner=made.partner)
    assert tuple(table.loc["auc", ["value", "low", "high"]]) == pytest.approx(expected)
    assert 0.7 < expected.value < 0.8
    assert (table["targets"] == 16).all()
    for kind in ("histogram", "threshold", "gaussian"):
        assert table.at[f"bound_{kind}", "value"] > table.at["auc", "value"]
    assert table.at["distance_cross_fitted", "value"] < table.at["distance_histogram", "value"]
    # Scores are about Gaussian here, so the Gaussian bound, of H and not of D, is not far.
    assert table.at["bound_gaussian", "value"] < 0.95


def test_bounds_work_on_separate_shadow_models():
    loss, member = losses(12)
    made = game(loss, member, shadow=np.arange(12) >= 3)
    assert (distances.bounds(made)["targets"] == 3).all()


# ------------------------------------------------------------------------------- how the likelihood ratio shifts


@pytest.mark.parametrize("variance", ["per_record", "pooled"])
@pytest.mark.parametrize("design", ["paired", "balanced"])
def test_ratios_of_natural_losses_are_liras(variance, design):
    loss, member = losses(design=design)
    partner = np.arange(16) ^ 1 if design == "paired" else None
    excluded_models = game(loss, member, partner=partner).excluded_models
    found = mixup_gan.log_ratios(loss, loss, member, excluded_models, variance=variance)
    np.testing.assert_allclose(
        found.log_ratio, lira(-loss, member, excluded_models, variance=variance), rtol=1e-7
    )


def test_gaussians_are_of_the_other_natural_models_alone():
    loss, member = losses(12, 30)
    excluded_models = game(loss, member, partner=np.arange(12) ^ 1).excluded_models
    defended = loss + 1
    before = mixup_gan.log_ratios(defended, loss, member, excluded_models)
    changed = loss.copy()
    changed[4:6] += np.random.default_rng(1).normal(size=(2, 30))
    after = mixup_gan.log_ratios(defended, changed, member, excluded_models)
    for x, y in zip(before, after, strict=True):
        np.testing.assert_allclose(x[4:6], y[4:6], rtol=1e-6)
        assert not np.allclose(x[:4], y[:4])


def test_ratio_and_separation_of_one_record_by_hand():
    loss, member = losses(12, 5)
    excluded_models = game(loss, member, partner=np.arange(12) ^ 1).excluded_models
    defended = loss + 0.7
    found = mixup_gan.log_ratios(defended, loss, member, excluded_models)
    others = ~np.isin(np.arange(12), (2, 3))
    inside, outside = (loss[others & side, 1] for side in (member[:, 1], ~member[:, 1]))
    density = [stats.norm.logpdf(defended[2, 1], x.mean(), x.std(ddof=1)) for x in (inside, outside)]
    assert found.log_ratio[2, 1] == pytest.approx(density[0] - density[1])
    s = np.sqrt((inside.var(ddof=1) + outside.var(ddof=1)) / 2)
    assert found.separation[2, 1] == pytest.approx((outside.mean() - inside.mean()) / s)


def test_a_defense_that_changes_nothing_shifts_no_ratio():
    loss, member = losses()
    natural = game(loss, member, partner=np.arange(16) ^ 1)
    again = game(losses(seed=0)[0], member)
    same = mixup_gan.ratio_shifts({"same": again}, natural)
    unconditional = same[same["quantity"] != "ratio falls if loss rises"]
    assert (unconditional[["value", "low", "high"]] == 0.5).all(axis=None)
    # Other trainings without an effect: the same means, new noise. Intervals are of 99.9 %, for two values.
    hard = 2 * np.random.default_rng(0).normal(size=200)
    fresh = hard + np.random.default_rng(9).normal(size=member.shape) - member
    table = mixup_gan.ratio_shifts({"fresh": game(fresh, member)}, natural, confidence=0.999)
    for _, row in table[(table["part"] == 0) & (table["quantity"] == "ratio falls")].iterrows():
        assert row["low"] < 0.5 < row["high"]
        assert row["high"] - row["low"] < 0.2


@pytest.fixture(scope="module")
def shifts():
    """Shifts under a defense by which members' losses rise by 2 and those of non-members fall by 1, and members."""
    loss, member = losses(shift=2.0)
    natural = game(loss, member, partner=np.arange(16) ^ 1)
    defended = game(loss + np.where(member, 2.0, -1.0), member)
    table = mixup_gan.ratio_shifts({"d": defended}, natural, variance="pooled")
    assert len(table) == 2 * 11 * 3
    return table.set_index(["of", "part", "quantity"]), member


def test_shifts_of_losses_are_told_apart(shifts):
    value = shifts[0]["value"]
    assert value["members", 0, "loss rises"] == 1
    assert value["non-members", 0, "loss rises"] == 0


def test_shifts_of_ratios_are_told_apart(shifts):
    value = shifts[0]["value"]
    # Separations are about 2 with errors of about 0.6; variances are about the same on both sides.
    assert value["members", 0, "ratio falls"] > 0.9
    assert value["members", 10, "ratio falls"] == 1
    assert value["non-members", 10, "ratio falls"] == 0
    assert value["members", 0, "ratio falls if loss rises"] == value["members", 0, "ratio falls"]
    assert np.isnan(value["non-members", 0, "ratio falls if loss rises"])


def test_pairs_of_shifts_are_counted(shifts):
    pairs, member = shifts[0]["pairs"], shifts[1]
    assert pairs["members", 0, "ratio falls"] == member.sum()
    assert sum(pairs[of, 10, "loss rises"] for of in ("members", "non-members")) == 16 * 20
    assert pairs["non-members", 0, "ratio falls if loss rises"] == 0


def test_intervals_resample_pairs_of_targets_and_records():
    # The fraction varies between pairs of targets, not within them: the interval must show that.
    loss, member = losses(16, 400, shift=2.0)
    natural = game(loss, member, partner=np.arange(16) ^ 1)
    up = np.where(np.arange(16) // 2 % 2, 1.0, -1.0)[:, None]
    table = mixup_gan.ratio_shifts({"d": game(loss + up, member)}, natural, variance="pooled")
    row = table[(table["quantity"] == "loss rises") & (table["part"] == 0)].iloc[0]
    assert row["value"] == pytest.approx(0.5, abs=0.01)
    # The standard error of a fraction over 8 pairs is sqrt(1/32) = 0.18, were targets independent 0.125.
    assert 0.5 < row["high"] - row["low"] < 0.85


def test_what_cannot_be_compared_is_refused():
    loss, member = losses()
    natural = game(loss, member)
    with pytest.raises(ValueError, match="differ in their members"):
        mixup_gan.ratio_shifts({"d": game(*losses(seed=1))}, natural)
    few = losses(4)
    with pytest.raises(ValueError, match="at least 6"):
        mixup_gan.ratio_shifts({"d": game(*few)}, game(*few))
    with pytest.raises(ValueError, match="variance='shared' is unknown"):
        mixup_gan.ratio_shifts({"d": natural}, natural, variance="shared")
    with pytest.raises(ValueError, match="confidence=0 must be"):
        mixup_gan.ratio_shifts({"d": natural}, natural, confidence=0)
