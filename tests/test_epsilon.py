"""Lower bounds on epsilon: plain loops, exact error rates, simulated mechanisms, and what is refused."""

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.dp import exact_epsilon
from reference.epsilon import (
    slow_by_rates,
    slow_delta,
    slow_gaussian_is_refuted,
    slow_gaussian_mu,
    slow_guesses,
    slow_one_run,
    slow_one_run_p_value,
)
from scipy import optimize, special, stats

import mialab as mia
from mialab.metrics import Outcome, counts, epsilon_lower_bound, epsilon_of
from mialab.training.membership import membership

ROOT = Path(__file__).parents[1]
COUNTS = [(60, 60, 45), (60, 20, 19), (60, 20, 20), (60, 20, 9), (200, 30, 28), (1, 1, 1)]


# ------------------------------------------------------------------------------------------ by counts alone


@pytest.mark.parametrize("seen", COUNTS)
@pytest.mark.parametrize("delta", [0, 1e-5, 1e-3, 0.02])
def test_one_run_is_that_of_plain_loops(seen, delta):
    slow = slow_one_run(*seen, delta, 0.05, step=0.01)
    assert slow - 1e-6 <= counts.one_run(*seen, delta, 0.05) <= slow + 0.01


@pytest.mark.parametrize("seen", COUNTS)
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_gaussian_mu_is_that_of_plain_loops(seen, alpha):
    slow = slow_gaussian_mu(*seen, alpha, step=0.01)
    assert slow - 1e-6 <= counts.gaussian_mu(*seen, alpha) <= slow + 0.01


@pytest.mark.parametrize("delta", [0, 1e-3, 0.1])
def test_bounds_by_rates_are_those_of_plain_loops(delta):
    missed, false_alarms = np.meshgrid([0, 3, 40, 77, 80], [0, 1, 60, 119, 120])
    slow = [
        slow_by_rates(int(m), 80, int(f), 120, delta, 0.05)
        for m, f in zip(missed.flat, false_alarms.flat, strict=True)
    ]
    found = counts.by_rates(missed, 80, false_alarms, 120, delta, 0.05)
    np.testing.assert_allclose(found.ravel(), slow, atol=1e-9)
    assert (found == 0).any()
    assert (found > 2).any()
    assert np.isfinite(found).all()


@pytest.mark.parametrize("mu", [1e-3, 0.2, 1.0, 5.0, 30.0])
@pytest.mark.parametrize("delta", [1e-10, 1e-5, 0.1])
def test_gaussian_epsilon_is_exact(mu, delta):
    found = counts.gaussian_epsilon(mu, delta)
    if 2 * stats.norm.cdf(mu / 2) - 1 <= delta:
        assert found == 0
    else:
        assert found == pytest.approx(exact_epsilon(1 / mu, 1, delta), abs=1e-6)
        if found < 50:
            assert slow_delta(mu, found) == pytest.approx(delta, rel=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 200), st.sampled_from([0.0, 1e-4, 0.01]))
def test_one_run_grows_with_right_guesses_and_confidence(guesses, right, abstained, delta):
    n, right = guesses + abstained, min(guesses, right)
    found = counts.one_run(n, guesses, right, delta, 0.05)
    assert 0 <= found < np.inf
    assert found <= counts.one_run(n, guesses, min(guesses, right + 1), delta, 0.05) + 1e-6
    assert found <= counts.one_run(n, guesses, right, 0.0, 0.05) + 1e-6
    assert counts.one_run(n, guesses, right, delta, 0.01) <= found + 1e-6
    if found > 1e-3:  # everything below is refuted as well, and nothing beyond
        assert slow_one_run_p_value(n, guesses, right, 0.7 * found, delta) <= 0.05
        assert slow_one_run_p_value(n, guesses, right, found + 1e-3, delta) > 0.05


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 200))
def test_gaussian_mu_grows_with_right_guesses_and_confidence(guesses, right, abstained):
    n, right = guesses + abstained, min(guesses, right)
    found = counts.gaussian_mu(n, guesses, right, 0.05)
    assert 0 <= found < np.inf
    assert found <= counts.gaussian_mu(n, guesses, min(guesses, right + 1), 0.05) + 1e-6
    assert counts.gaussian_mu(n, guesses, right, 0.01) <= found + 1e-6
    if found > 1e-3:
        assert slow_gaussian_is_refuted(n, guesses, right, 0.7 * found, 0.05)
        assert not slow_gaussian_is_refuted(n, guesses, right, found + 1e-3, 0.05)


@pytest.mark.parametrize("n", [5, 50, 400])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_exact_chance_of_a_bound_above_the_truth_is_at_most_alpha(n, alpha):
    # Mechanisms that treat each coin alone: right guesses are binomial, so the chance needs no simulation.
    for epsilon in (0.0, 0.5, 2.0):
        too_large = [v for v in range(n + 1) if counts.one_run(n, n, v, 0.0, alpha) > epsilon]
        chance = stats.binom.sf(min(too_large) - 1, n, special.expit(epsilon)) if too_large else 0
        assert chance <= alpha
        assert chance >= alpha / 10 or n == 5, "no wider than whole numbers make it"
    for mu in (0.1, 0.5, 2.0):
        too_large = [v for v in range(n + 1) if counts.gaussian_mu(n, n, v, alpha) > mu]
        chance = stats.binom.sf(min(too_large) - 1, n, stats.norm.cdf(mu / 2)) if too_large else 0
        assert chance <= alpha


# ---------------------------------------------------------------------------------------- on plain scores


def randomized_response(epsilon, shape, rng):
    """Scores of members and of non-members of pairs, where each pair's coin is told with this epsilon."""
    told = np.where(rng.random(shape) < special.expit(epsilon), 1.0, -1.0)
    return told, -told


def gaussian(mu, shape, rng):
    """Scores of members and of non-members, of which the differences have the trade-off function of mu."""
    noise = rng.normal(size=(2, *np.atleast_1d(shape)))
    return mu / np.sqrt(2) + noise[0], noise[1]


def test_guesses_are_counted_as_by_plain_loops():
    rng = np.random.default_rng(0)
    a, b = gaussian(1.0, 300, rng)
    for fraction in (0.01, 0.1, 1.0):
        found = epsilon_lower_bound(a, b, method="one_run", guesses=fraction, paired=True)
        assert (found.n, found.guesses) == (300, round(300 * fraction))
        assert found.right == slow_guesses(a - b, found.guesses)
        assert found.epsilon == counts.one_run(300, found.guesses, found.right, 0.0, 0.05 / 1)
        again = epsilon_lower_bound(
            a, b, method="one_run_gdp", guesses=fraction, paired=True, delta=1e-5, seed=3
        )
        assert again.right == found.right
        assert again.mu == counts.gaussian_mu(300, found.guesses, found.right, 0.05 / 1)
        assert again.epsilon == counts.gaussian_epsilon(again.mu, 1e-5)
        assert np.isnan(found.mu)


def test_of_several_shares_the_best_is_corrected():
    a, b = gaussian(2.0, 500, np.random.default_rng(0))
    fractions = (0.05, 0.2, 1.0)
    alone = [
        epsilon_lower_bound(a, b, method="one_run", guesses=s, paired=True, confidence=1 - 0.05 / 3)
        for s in fractions
    ]
    best = epsilon_lower_bound(a, b, method="one_run", guesses=fractions, paired=True)
    assert best.epsilon == pytest.approx(max(bound.epsilon for bound in alone), abs=1e-6)
    assert best.confidence == 0.95


def test_of_several_thresholds_the_best_is_corrected():
    a, b = gaussian(2.0, 500, np.random.default_rng(0))
    grid = (-1.0, 0.5, 1.0, 2.0)
    alone = [epsilon_lower_bound(a, b, threshold=t, confidence=1 - 0.05 / 4).epsilon for t in grid]
    best = epsilon_lower_bound(a, b, threshold=grid)
    assert best.epsilon == pytest.approx(max(alone), abs=1e-12)
    t = grid[int(np.argmax(alone))]
    assert best.epsilon == pytest.approx(slow_by_rates(sum(a < t), 500, sum(b >= t), 500, 0, 0.05 / 4))
    assert best.right == sum(a >= t) + sum(b < t)


def test_both_directions_of_error_count():
    # Low scores of non-members only: few members are missed where most non-members are kept out.
    a, b = np.repeat([1.0, 0.0], [100, 0]), np.repeat([1.0, 0.0], [60, 40])
    found = epsilon_lower_bound(a, b, threshold=0.5)
    forward, backward = slow_by_rates(0, 100, 60, 100, 0, 0.05), epsilon_lower_bound(-b, -a, threshold=-0.5)
    assert found.epsilon == pytest.approx(forward) == pytest.approx(backward.epsilon)
    assert found.epsilon > 1, "log(TPR / FPR) alone would give at most log(1 / .6)"


def test_infinite_and_equal_scores_are_coins():
    rng = np.random.default_rng(0)
    same = np.full(2000, np.inf)
    bound = epsilon_lower_bound(same, same, method="one_run", guesses=1.0)
    # Binomial(2000, 1/2): outside of 900..1100 with a probability of 8e-6.
    assert 900 < bound.right < 1100
    assert bound.epsilon < 0.2
    assert epsilon_lower_bound(same, -same, method="one_run", guesses=1.0).right == 2000
    values = np.sort(rng.integers(0, 2, 4000)).astype(float)  # sorted scores, without a signal
    bound = epsilon_lower_bound(values, values, method="one_run", guesses=0.1)
    assert bound.guesses == 400
    # Binomial(400, 1/2): outside of 155..245 with a probability of 6e-6.
    assert 155 < bound.right < 245


def test_the_order_of_pairs_tells_nothing():
    right = np.repeat([1.0, -1.0], 1000)  # the right guesses come first
    for paired in (False, True):
        bound = epsilon_lower_bound(right, 0 * right, method="one_run", guesses=0.2, paired=paired)
        # Binomial(400, 1/2), nearly: outside of 155..245 with a probability of 6e-6.
        assert 155 < bound.right < 245


def test_matching_drops_what_is_left_over():
    a, b = gaussian(1.0, 300, np.random.default_rng(0))
    assert epsilon_lower_bound(a, b[:200], method="one_run").n == 200
    assert epsilon_lower_bound(a[:100], b, method="one_run").n == 100
    with pytest.raises(
        ValueError, match="paired=True needs as many in_scores as out_scores, not 300 and 200"
    ):
        epsilon_lower_bound(a, b[:200], method="one_run", paired=True)


def test_nothing_is_bounded_where_there_is_nothing_to_find():
    # 160 bounds of confidence .999: one of them is above 0 with a probability of at most .16; the seed is fixed.
    rng = np.random.default_rng(1)
    for _ in range(40):
        a, b = rng.normal(size=(2, 200))
        for options in (
            {"threshold": 0.3},
            {},
            {"method": "one_run"},
            {"method": "one_run_gdp", "delta": 1e-5},
        ):
            assert epsilon_lower_bound(a, b, confidence=0.999, **options).epsilon == 0


#: Of Gaussian privacy with epsilon 4 at delta 1e-5.
MU = optimize.brentq(lambda mu: exact_epsilon(1 / mu, 1, 1e-5) - 4, 0.1, 2)
#: Scores from a random number generator, options of the bound, the true epsilon, and how much of it is found at least.
MECHANISMS = {
    "response, Clopper-Pearson": (randomized_response, 1.0, {"threshold": 0.0}, 1.0, 0.75),
    "response, one run": (randomized_response, 1.0, {"method": "one_run", "guesses": 1.0}, 1.0, 0.8),
    "Gaussian, split": (gaussian, MU, {"delta": 1e-5}, 4.0, 0.05),
    "Gaussian, one run": (gaussian, MU, {"method": "one_run", "delta": 1e-5}, 4.0, 0.2),
    "Gaussian, one run, GDP": (gaussian, MU, {"method": "one_run_gdp", "delta": 1e-5}, 4.0, 0.4),
}


@pytest.mark.parametrize("name", MECHANISMS)
def test_bounds_seldom_exceed_the_truth(name):
    # 100 games each; `benchmarks/epsilon.py` plays more. At a chance of 5 % more than 13 bounds of 100 are too large
    # with a probability of 5e-4 for each of the five.
    mechanism, parameter, options, truth, fraction = MECHANISMS[name]
    rng = np.random.default_rng(0)
    found = [
        epsilon_lower_bound(*mechanism(parameter, 500, rng), paired=True, seed=i, **options).epsilon
        for i in range(100)
    ]
    assert sum(bound > truth for bound in found) <= 13
    assert np.mean(found) > fraction * truth


def test_the_gaussian_bound_is_the_tightest():
    a, b = gaussian(MU, 5000, np.random.default_rng(0))
    tight, loose = (
        epsilon_lower_bound(a, b, paired=True, method=method, delta=1e-5).epsilon
        for method in ("one_run_gdp", "one_run")
    )
    assert tight > loose + 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "steinke"}, "method='steinke' is unknown"),
        ({"delta": -0.1}, "delta=-0.1 must be at least 0"),
        ({"delta": 1.0}, "delta=1.0 must be less than 1"),
        ({"method": "one_run_gdp"}, "delta=0.0 must be greater than 0 for method='one_run_gdp'"),
        ({"confidence": 95}, "confidence=95 must be a fraction"),
        ({"guesses": 0.1}, "guesses=0.1 is not for method='clopper_pearson'"),
        ({"method": "one_run", "threshold": 0.1}, "threshold=0.1 is not for method='one_run'"),
        ({"method": "one_run", "guesses": 50}, "guesses=50 must be fractions"),
        ({"method": "one_run", "guesses": []}, "guesses=.* must be fractions"),
        ({"threshold": "best"}, "threshold='best' is unknown"),
        ({"threshold": [np.nan]}, "threshold has shape"),
        ({"seed": -1}, "seed=-1 must be an integer"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    a, b = gaussian(1.0, 50, np.random.default_rng(0))
    with pytest.raises(ValueError, match=message):
        epsilon_lower_bound(a, b, **options)


def test_scores_that_cannot_be_used_are_refused():
    for a, b in (([1.0, np.nan], [0.0]), ([], [0.0]), ([[1.0]], [0.0])):
        with pytest.raises(ValueError, match="in_scores has shape"):
            epsilon_lower_bound(a, b)
    with pytest.raises(ValueError, match="at least two members and two non-members"):
        epsilon_lower_bound([1.0], [0.0, 0.0])


def test_thresholds_from_the_scores_themselves_are_refused():
    a, b = gaussian(1.0, 50, np.random.default_rng(0))
    for threshold in (b.max(), [0.0, a[3]]):
        with pytest.raises(ValueError, match="scores that it is used on"):
            epsilon_lower_bound(a, b, threshold=threshold)
    # Scores of few values have thresholds in common with what is fixed beforehand.
    epsilon_lower_bound([1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0], threshold=1.0)


# ------------------------------------------------------------------------------------------- on outcomes


def outcome(n_models=8, n=400, signal=2.0, seed=0, **changes):
    """Return what an attack without shadow models found, each pair of models on complementary halves."""
    rng = np.random.default_rng(seed)
    member = membership(n_models, n, seed)
    given = {
        "score": rng.normal(size=member.shape) + signal * member,
        "evaluated": np.ones(member.shape, bool),
        "predicted_member": member,
        "member": member,
        "partner": np.arange(n_models) ^ 1,
        "attack": "toy",
    }
    return Outcome(**given | changes)


def test_a_target_of_an_outcome_is_its_scores():
    made = outcome()
    made.evaluated[2, ::3] = False
    bound = epsilon_of(made, target=2)
    assert (bound.target, bound.method, bound.notion) == (2, "one_run", "replace one record")
    inside, outside = (made.evaluated[2] & side for side in (made.member[2], ~made.member[2]))
    assert bound.n == min(inside.sum(), outside.sum())
    rates, alone = (
        epsilon_of(made, target=2, method="clopper_pearson", threshold=1.0),
        epsilon_lower_bound(made.score[2, inside], made.score[2, outside], threshold=1.0),
    )
    assert rates.epsilon == alone.epsilon > 1
    assert bound.epsilon > 1


@pytest.mark.parametrize("options", [{}, {"method": "clopper_pearson", "threshold": 1.0}])
def test_the_best_target_is_corrected(options):
    made = outcome()
    best = epsilon_of(made, target="best", **options)
    each = [epsilon_of(made, target=k, confidence=1 - 0.05 / 8, **options).epsilon for k in range(8)]
    assert best.epsilon == pytest.approx(max(each), abs=1e-6)
    assert best.target == int(np.argmax(each))
    assert best.confidence == 0.95


def test_guesses_are_summed_over_one_target_of_each_pair():
    made = outcome()
    total = epsilon_of(made, target="sum", shared_shadows=False, guesses=1.0)
    assert total.n == 4 * 200
    assert total.target == "sum"
    assert total.epsilon > epsilon_of(made, guesses=1.0).epsilon
    made.evaluated[0] = False  # then the other one of the pair
    assert epsilon_of(made, target="sum", shared_shadows=False).n == 4 * 200


def test_records_are_matched_within_groups():
    canary = np.arange(400) < 40
    # Canaries score far higher, members or not, and were halved among themselves.
    rng = np.random.default_rng(0)
    member = membership(2, 400, 0, canary)
    score = rng.normal(size=member.shape) + 50 * canary
    made = outcome(member=member, score=score, n_models=2, evaluated=np.ones(member.shape, bool))
    score[0, canary & member[0]] += 20
    assert epsilon_of(made, groups=canary, guesses=0.1).right == 20
    assert epsilon_of(made, guesses=0.1, seed=1).right < 20
    with pytest.raises(ValueError, match=r"groups has shape \(3,\)"):
        epsilon_of(made, groups=[1, 2, 3])


@pytest.mark.parametrize("target", [0, "best", "sum"])
def test_summing_and_choosing_keep_the_confidence(target):
    # Randomized response of each record's membership with epsilon .5: replacing a record changes two of them, so
    # epsilon is 1. 60 games: more than 9 bounds of 60 are too large with a probability of 1.4e-3 at a chance of 5 %.
    found = []
    for seed in range(60):
        made = outcome(seed=seed, n_models=4, n=300)
        told = np.random.default_rng(1000 + seed).random(made.member.shape) < special.expit(0.5)
        made = outcome(seed=seed, n_models=4, n=300, score=np.where(told == made.member, 1.0, 0.0))
        options = {"shared_shadows": False} if target == "sum" else {}
        found.append(epsilon_of(made, target=target, guesses=0.5, **options).epsilon)
    assert sum(bound > 1 for bound in found) <= 9
    assert np.mean(found) > 0.5


def test_sums_over_shared_shadow_models_are_refused():
    with pytest.raises(ValueError, match=r"not each other's shadow models.*shared_shadows=False"):
        epsilon_of(outcome(), target="sum")
    with pytest.raises(ValueError, match=r"rates of several targets have records in common"):
        epsilon_of(outcome(), target="sum", method="clopper_pearson", shared_shadows=False)


def test_memberships_that_depend_on_each_other_are_refused():
    made = outcome()
    twice = made.member.copy()
    twice[4:6] = twice[:2]
    with pytest.raises(ValueError, match=r"Targets 0 and 4 have more or fewer members in common"):
        epsilon_of(outcome(member=twice))
    unpaired = np.full(8, -1)
    with pytest.raises(ValueError, match=r"Targets 0 and 1 have more or fewer members.*`partner` names"):
        epsilon_of(outcome(partner=unpaired))


def test_balanced_memberships_without_pairs_are_refused():
    rng = np.random.default_rng(0)
    balanced = rng.permuted(np.tile(np.arange(8) < 4, (400, 1)), axis=1).T
    made = outcome(member=balanced, partner=np.full(8, -1))
    with pytest.raises(
        ValueError, match=r"Every record is a member of 4 of the 8 models.*shared_shadows=False"
    ):
        epsilon_of(made)
    assert epsilon_of(made, shared_shadows=False).n > 100
    coins = rng.random((8, 400)) < 0.5
    assert epsilon_of(outcome(member=coins, partner=np.full(8, -1))).n > 100


def test_whether_a_record_is_evaluated_does_not_depend_on_the_target():
    # Few members: a record of which only the target is a member would give itself away.
    member = membership(4, 400, 0, members=40)
    bound = epsilon_of(outcome(member=member, n_models=4))
    assert bound.n == (member[0] & member[2:].any(0)).sum() < 40


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (9, r"target=9 must be 'best', 'sum' or a target with scores: one of \[0 1 2"),
        ("all", "target='all' is unknown"),
    ],
)
def test_unknown_targets_are_refused(target, message):
    with pytest.raises(ValueError, match=message):
        epsilon_of(outcome(), target=target)


def test_outcomes_without_both_sides_are_refused():
    made = outcome()
    made.evaluated[1] &= made.member[1]
    with pytest.raises(ValueError, match="target=1 has no member and non-member to match"):
        epsilon_of(made, target=1)
    made.score[0, 7] = np.nan
    with pytest.raises(ValueError, match="target=0 has scores that are NaN"):
        epsilon_of(made, target=0)


# ------------------------------------------------------------------------------------------------- on games


@pytest.fixture(scope="module")
def game():
    return toys.random_game(n_models=8, n_records=300, signal=4.0)


def test_a_game_is_bounded_by_an_attacks_outcome(game):
    found = mia.auditing.epsilon_bound(game, "lira", target=3, guesses=0.2)
    assert found == epsilon_of(game.outcome("lira"), target=3, guesses=0.2)
    assert (found.n, found.guesses) == (150, 30)
    assert found.epsilon > 0


def test_attacks_that_look_at_no_other_model_are_summed(game):
    total = mia.auditing.epsilon_bound(game, "loss", target="sum")
    assert total.n == 4 * 150
    assert total.epsilon > mia.auditing.epsilon_bound(game, "loss").epsilon
    shadows = toys.random_game(n_models=8, n_records=300, signal=4.0, seed=1)
    separate = game.with_shadows(toys.remade(shadows, y=game.y))
    for attack in ("lira", lambda game: -game.signal("loss")[:, 0]):
        with pytest.raises(ValueError, match="not each other's shadow models"):
            mia.auditing.epsilon_bound(game, attack, target="sum")
        assert mia.auditing.epsilon_bound(separate, attack, target="sum").n == 4 * 150


def test_canaries_are_matched_with_canaries(game):
    canary = np.arange(300) < 100
    member = membership(8, 300, 0, canary)
    made = mia.Game.from_arrays(
        logits=game.logits, member=member, y=game.y, partner=game.partner, canary=canary
    )
    found = mia.auditing.epsilon_bound(made, "loss")
    assert found == epsilon_of(made.outcome("loss"), groups=canary, shared_shadows=False)


def test_attacks_on_sets_of_records_are_refused(game):
    with pytest.raises(
        ValueError, match=r"co_membership_lira_8.* knows sets of records with the same membership"
    ):
        mia.auditing.epsilon_bound(game, "co_membership_lira_8")


def test_the_stored_simulation_held_its_confidence():
    # 60 bounds, 300 games each: a chance of 5 % gives a p-value below 1e-4 in one of them with a probability of .6 %.
    stored = json.loads((ROOT / "results" / "benchmark-epsilon-details.json").read_text())
    rows = stored["bounds"]
    assert {(row["mechanism"], row["n"]) for row in rows} == {
        (name, n) for name in ("response", "Gaussian") for n in (200, 1000, 5000)
    }
    assert all(row["games"] == 300 and row["p"] >= 1e-4 for row in rows)
    exact = [row for row in rows if row["exact chance"] is not None]
    assert len(exact) == 3
    assert all(0.04 < row["exact chance"] <= 0.05 for row in exact)
    (at_1000,) = [row for row in exact if row["n"] == 1000]
    assert at_1000["mean / epsilon"] >= 0.85
    assert not stored["about"]["commit"].endswith("+"), "of changed files"


# --------------------------------------------------------------------------------------------------- parity


@pytest.fixture(scope="module")
def auditor():
    """Return the class of JAX-Privacy that bounds epsilon, and its strategy for a threshold fixed beforehand."""
    try:
        version("jax-privacy")
    except PackageNotFoundError:
        pytest.skip("JAX-Privacy is not installed: pip install -e '.[peers]'")
    auditing = pytest.importorskip("jax_privacy.auditing", exc_type=ImportError)
    return auditing.CanaryScoreAuditor, auditing.Explicit


@pytest.mark.parametrize("delta", [1e-5, 1e-3])
@pytest.mark.parametrize("threshold", [0.3, 1.5])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_bounds_are_those_of_jax_privacy(auditor, delta, threshold, confidence):
    make, explicit = auditor
    a, b = gaussian(2.5, 400, np.random.default_rng(0))
    theirs = make(a, b)
    options = {"threshold_strategy": explicit(threshold)}
    alpha = 1 - confidence
    # Theirs take each score for one that a coin of its own decided on, and guess "member" above the threshold.
    seen = a.size + b.size, int((a >= threshold).sum() + (b >= threshold).sum()), int((a >= threshold).sum())
    assert counts.one_run(*seen, delta, alpha) == pytest.approx(
        theirs.epsilon_one_run(alpha, delta, **options), abs=1e-3
    )
    ours = counts.gaussian_epsilon(counts.gaussian_mu(*seen, alpha), delta)
    assert ours == pytest.approx(theirs.epsilon_one_run_fdp(alpha, delta, **options), abs=1e-3)
    rates = epsilon_lower_bound(a, b, delta=delta, confidence=confidence, threshold=threshold).epsilon
    assert rates == pytest.approx(
        theirs.epsilon_clopper_pearson(alpha, delta, one_sided=False, **options), abs=1e-3
    )
    assert ours > 0
