"""Scores that compare an answer with answers without membership: worked by hand, against plain loops, error rates."""

import dataclasses
from statistics import NormalDist, fmean

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference.population import fraction_by_loops, gaussian_by_scikit_learn
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score
from test_null import measure
from toys import pool, random_game

import mialab as mia
from mialab.attacks import (
    AttackP,
    AttackR,
    LiRA,
    QuantileRegression,
    RequirementsNotMet,
    Threshold,
    shadows,
)
from mialab.attacks.calibrated import calibrated
from mialab.attacks.quantile import features, gaussian_score, pinball_score
from mialab.attacks.reference import attack_p, attack_r, percentile
from mialab.attacks.thresholds import known_half
from mialab.classifiers import signals

DESIGNS = ["paired", "balanced", "random"]


def shadows_of(game, target: int, record: int, side: bool) -> list[int]:
    """Return a target's shadow models with a given membership of a record."""
    out = (target, game.excluded_models[target, record])
    return [k for k in range(game.n_models) if k not in out and game.member[k, record] == side]


def assert_mean(values, expected, *, slack=0.0):
    """Check a mean of independent values; a right one fails with probability 1 in 10,000 (Student's t)."""
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values) - expected) <= slack + student.isf(5e-5, len(values) - 1) * error


# Even models are members of records 0 and 2, odd ones of record 1; 2j and 2j + 1 are partners.
MEMBER = np.arange(8)[:, None] % 2 == [0, 1, 0]
PARTNER = np.broadcast_to(np.arange(8)[:, None] ^ 1, (8, 3))
LOSS = np.array(
    [
        # target, partner, then shadow models, IN and OUT of record 0 by turns
        [1.0, 9, 0, 2, 0, 4, 0, 8],
        [3.0, 0, 6, 7, 2, 7, 1, 7],
        [4.0, 1, 1, 4, 1, 2, 1, 4],
    ]
).T


# ----------------------------------------------------------------------------------------------------
# Difficulty calibration


def test_calibration_worked_by_hand():
    # Mean losses without the record are (2 + 4 + 8) / 3, (6 + 2 + 1) / 3 and (4 + 2 + 4) / 3.
    np.testing.assert_allclose(
        calibrated(-LOSS, MEMBER, PARTNER)[0], [14 / 3 - 1, 3 - 3, 10 / 3 - 4], atol=1e-12
    )


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("statistic", ["loss", "confidence", "entropy", "modified_entropy", "scaled_logit"])
@given(seed=st.integers(0, 10_000), n_models=st.sampled_from([6, 8, 10]), signal=st.sampled_from([0, 3]))
@settings(max_examples=5)
def test_calibration_against_plain_loops(design, statistic, seed, n_models, signal):
    game = random_game(design, n_models=n_models, n_records=6, seed=seed, signal=signal)
    values = signals.SIGNALS[statistic](game.logits[:, 0], game.y)
    expected = [
        [values[t, i] - fmean(values[shadows_of(game, t, i, False), i]) for i in range(game.n_records)]
        for t in range(game.n_models)
    ]
    np.testing.assert_allclose(
        Threshold(signal=statistic, calibrated=True).run(game).score, expected, atol=1e-6
    )


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("value", [1 / 3, -1e6])
def test_equal_answers_are_neither_easy_nor_hard(design, value):
    """Rounding must not tell members and others apart."""
    game = random_game(design)
    same = np.full(game.member.shape, value)
    np.testing.assert_array_equal(calibrated(same, game.member, game.excluded_models), 0)


def test_calibrated_scaled_logits_rank_as_offline_lira_with_a_pooled_variance():
    game = random_game(n_records=60, signal=1.0)
    ours = Threshold(signal="scaled_logit", calibrated=True).run(game).score
    theirs = LiRA(online=False, variance="pooled").run(game).score
    np.testing.assert_array_equal(ours.argsort(1), theirs.argsort(1))


# ----------------------------------------------------------------------------------------------------
# Attack-R and Attack-P


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (-1.0, 3 / 4),  # the greatest of three
        (-2.5, 1.5 / 4),  # half-way between the first and the second
        (-0.25, 3.75 / 4),
        (-501.5, 0.5 / 4),
        (0.0, 1),
        (-1000.0, 0),
        (-2000.0, 0),
    ],
)
def test_percentiles_worked_by_hand(value, expected):
    reference = np.array([[-2.0, -1.0, -3.0, np.inf]])
    assert percentile(np.array([[value]]), reference)[0, 0] == pytest.approx(expected, rel=1e-12)


def test_equal_references_fraction_their_places():
    reference = np.array([[-1.0, -2, -1, -1, -4]])  # in order, they have the places 1 to 5 of 6
    value = np.array([[-1.0, -1.5, -2]])
    np.testing.assert_allclose(percentile(value, reference)[0], [4 / 6, 2.5 / 6, 2 / 6])
    dropped = np.array([[-1.0, -1, -1]])  # then -4, -2, -1, -1 have the places 1 to 4 of 5
    np.testing.assert_allclose(percentile(value, reference, dropped)[0], [3.5 / 5, 2.5 / 5, 2 / 5])
    with_top = np.array([[0.0, 0.0, -1.0]])  # and 1 is a place as well
    np.testing.assert_allclose(percentile(np.array([[0.0]]), with_top)[0], [3 / 4])
    assert percentile(np.array([[-0.1]]), np.array([[np.inf]])) == 0.5


@given(
    values=st.lists(st.integers(0, 2000), min_size=3, max_size=12),
    value=st.integers(0, 2000),
    dropped=st.integers(-1, 1),
)
def test_percentiles_against_quantiles(values, value, dropped):
    """The quantile of the references at the percentile of a value is the value."""
    reference = -np.array(values) / 2
    value = -value / 2
    kept = reference if dropped < 0 else np.delete(reference, dropped)
    out = np.nan if dropped < 0 else reference[dropped]
    fraction = percentile(np.array([[value]]), reference[None], np.array([[out]]))[0, 0]
    assert np.quantile([-1000, *kept, 0], fraction) == pytest.approx(value, abs=1e-9)


def test_attack_r_worked_by_hand():
    # Losses of 1 against 2, 4, 8; of 3 against 6, 2, 1; and of 4 against 4, 2, 4.
    expected = [3.5 / 4, (1 + 3 / 4) / 4, 1.5 / 4]
    np.testing.assert_allclose(attack_r(-LOSS, MEMBER, PARTNER)[0], expected, rtol=1e-12)


@pytest.mark.parametrize("design", DESIGNS)
@given(
    seed=st.integers(0, 10_000),
    n_models=st.sampled_from([6, 8, 10]),
    signal=st.sampled_from([0, 3]),
    ties=st.booleans(),
)
@settings(max_examples=10)
def test_attack_r_against_plain_loops(design, seed, n_models, signal, ties):
    game = random_game(design, n_models=n_models, n_records=8, seed=seed, signal=signal)
    log_p = signals.loss(game.logits[:, 0], game.y)
    log_p = np.round(log_p) if ties else log_p
    expected = [
        [
            fraction_by_loops(log_p[t, i], list(log_p[shadows_of(game, t, i, False), i]))
            for i in range(game.n_records)
        ]
        for t in range(game.n_models)
    ]
    np.testing.assert_allclose(
        attack_r(log_p, game.member, game.excluded_models), expected, rtol=1e-6, atol=1e-9
    )
    if not ties:
        np.testing.assert_allclose(AttackR().run(game).score, expected, rtol=1e-6, atol=1e-9)


def test_attack_p_worked_by_hand():
    log_p = -np.array([[1.0, 2, 3, 4, 5, 6]])
    known = np.array([[False, True, False, True, True, False]])
    one = np.zeros(6, int)
    expected = [3.5 / 4, 3 / 4, 2.5 / 4, 2 / 4, 1 / 4, 994 / 995 / 4]
    np.testing.assert_allclose(attack_p(log_p, known, one)[0], expected, rtol=1e-12)
    # By class: losses of 1 and 3 against 2; of 5 and 6 against 4 and 5.
    by_class = attack_p(log_p, known, np.array([0, 0, 0, 1, 1, 1]))[0]
    expected = [1.5 / 2, 1 / 2, 997 / 998 / 2, 2 / 3, 1 / 3, 994 / 995 / 3]
    np.testing.assert_allclose(by_class, expected, rtol=1e-12)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("per_class", [False, True])
@given(seed=st.integers(0, 10_000), n_records=st.sampled_from([12, 40]))
@settings(max_examples=10)
def test_attack_p_against_plain_loops(design, per_class, seed, n_records):
    game = random_game(design, n_records=n_records, n_classes=3, seed=seed, signal=2.0)
    assume(
        np.minimum(game.member.sum(1), (~game.member).sum(1)).min() >= 2
    )  # as attacks with a known half need
    log_p = signals.loss(game.logits[:, 0], game.y)
    outcome = AttackP(per_class=per_class).run(game)
    known = ~outcome.evaluated & ~game.member
    assert (known.sum(1) == (~game.member).sum(1) // 2).all()
    threshold = 0.95 if per_class else 0
    for k in range(game.n_models):
        for i in np.flatnonzero(outcome.evaluated[k]):
            here = known[k] & ((game.y == game.y[i]) | (not per_class))
            fraction = fraction_by_loops(log_p[k, i], list(log_p[k, here])) if here.any() else 0.5
            assert outcome.score[k, i] + threshold == pytest.approx(fraction, rel=1e-6)
            assert outcome.predicted_member[k, i] == (outcome.score[k, i] + threshold >= 0.95)


def test_attack_p_ranks_as_the_loss_does_on_one_target():
    game = random_game(n_records=60, signal=1.0)
    outcome = AttackP().run(game)
    for k, seen in enumerate(outcome.evaluated):
        loss = signals.loss(game.logits[k, 0], game.y)
        np.testing.assert_array_equal(outcome.score[k, seen].argsort(), loss[seen].argsort())


def test_attack_p_follows_records_and_models():
    rng = np.random.default_rng(0)
    log_p, known = -rng.exponential(size=(4, 30)), rng.random((4, 30)) < 0.3
    groups = rng.integers(3, size=30)
    records, models = rng.permutation(30), rng.permutation(4)
    moved = attack_p(log_p[models][:, records], known[models][:, records], groups[records])
    np.testing.assert_array_equal(moved, attack_p(log_p, known, groups)[models][:, records])


@pytest.mark.parametrize("alpha", [1 / 8, 1 / 2])
@pytest.mark.parametrize("design", ["paired", "balanced"])
def test_attack_r_makes_the_false_positives_it_allows(design, alpha):
    """Of 16 models, 7 are references; records are independent of each other."""
    game = random_game(design, n_models=16, n_records=1000, seed=1, signal=3.0)
    predicted_member = AttackR(alpha=alpha).run(game).predicted_member
    assert_mean((predicted_member & ~game.member).sum(0) / (~game.member).sum(0), alpha)
    assert predicted_member[game.member].mean() > alpha + 0.1


@pytest.mark.parametrize("alpha", [0.02, 0.1])
@pytest.mark.parametrize("per_class", [False, True])
def test_attack_p_makes_the_false_positives_it_allows(per_class, alpha):
    """Answers of different models are independent; a fraction of alpha may fall between two known non-members."""
    game = random_game(n_models=24, n_records=2000, n_classes=2, seed=2, signal=3.0)
    outcome = AttackP(alpha=alpha, per_class=per_class).run(game)
    other = outcome.evaluated & ~game.member
    rate = [
        predicted_member[seen].mean()
        for predicted_member, seen in zip(outcome.predicted_member, other, strict=True)
    ]
    assert_mean(rate, alpha, slack=1 / 200)
    assert outcome.predicted_member[game.member].mean() > 2 * alpha


def test_blocks_of_records_change_nothing(monkeypatch):
    game = random_game("balanced", n_models=10, n_records=50, signal=1.0)
    whole = [attack.run(game).score for attack in (Threshold(calibrated=True), AttackR())]
    monkeypatch.setattr(shadows, "BLOCK", 70)  # 7 records
    for attack, expected in zip((Threshold(calibrated=True), AttackR()), whole, strict=True):
        np.testing.assert_allclose(attack.run(game).score, expected, rtol=1e-12)


# ----------------------------------------------------------------------------------------------------
# Quantile regression


@pytest.mark.parametrize("n_features", [3, 60, 200])
@given(seed=st.integers(0, 10_000), slope=st.sampled_from([0.0, 1.0, 30.0]))
@settings(max_examples=8)
def test_gaussian_scores_against_scikit_learn(n_features, seed, slope):
    """With fewer features than known records, with about as many, and with more."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(120, n_features))
    x[:, 0] = 1.0  # a feature that tells nothing
    phi = slope * x[:, 1] + rng.normal(size=120)
    known = rng.random(120) < 0.5
    expected = gaussian_by_scikit_learn(x, phi, known)
    np.testing.assert_allclose(gaussian_score(x, phi, known), expected, rtol=1e-6, atol=1e-6)


def records_with_scale(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return records, and mean and standard deviation of what non-members are answered with."""
    x = np.random.default_rng(seed).normal(size=(n, 5))
    return x, 3 * x[:, 0] - x[:, 1], np.exp(0.7 * x[:, 2])


def test_both_forms_find_what_depends_on_the_record():
    """Of 2,000 new non-members; a right rate would be this far off with probability below 1 in 10,000 each."""
    x, mean, std = records_with_scale(4000)
    noise = np.random.default_rng(1).normal(size=4000)
    phi = mean + std * noise
    known = np.arange(4000) < 2000
    z = gaussian_score(x, phi, known)
    assert np.std((z - noise)[~known]) < 0.15
    level = NormalDist().inv_cdf(0.9)
    allowed = 0.1 + 4 * np.array([-1, 1]) * (0.1 * 0.9 / 2000) ** 0.5
    assert allowed[0] <= np.mean(z[~known] >= level) <= allowed[1]
    above = pinball_score(x, phi, known, alpha=0.1)
    assert 0.07 <= np.mean(above[~known] >= 0) <= 0.15  # trees find it less exactly
    losses = [
        np.maximum(0.9 * d, -0.1 * d)[~known].mean() for d in (above, phi - np.quantile(phi[known], 0.9))
    ]
    assert losses[0] < 0.6 * losses[1]


def test_spread_is_that_of_records_the_regression_has_not_seen():
    """With almost as many features as known records, residuals of the fit are far too small."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 70))
    phi = x @ rng.normal(size=70) + rng.normal(size=2000)
    known = np.arange(2000) < 80
    assert 0.7 < np.std(gaussian_score(x, phi, known)[~known]) < 1.4


@pytest.mark.parametrize("score", [gaussian_score, lambda *a: pinball_score(*a, alpha=0.1)])
def test_regressions_see_known_non_members_only(score):
    x, mean, std = records_with_scale(200)
    phi = mean + std * np.random.default_rng(1).normal(size=200)
    known = np.arange(200) % 4 == 0
    expected = score(x, phi, known)
    changed = score(x, phi + 100 * ~known, known) - expected
    np.testing.assert_array_equal(changed[known], 0)
    np.testing.assert_allclose(score(x, phi + 200 * ~known, known) - expected, 2 * changed, rtol=1e-9)
    order = np.random.default_rng(2).permutation(200)
    np.testing.assert_allclose(score(x[order], phi[order], known[order]), expected[order], rtol=1e-6)


@pytest.mark.parametrize("score", [gaussian_score, lambda *a: pinball_score(*a, alpha=0.1)])
def test_constant_answers_are_scored(score):
    x = records_with_scale(100)[0]
    assert np.isfinite(score(x, np.full(100, 7.5), np.arange(100) < 50)).all()


def test_features_are_standardized_and_hold_the_label():
    toy = pool("image", n=50, n_classes=3)
    y = np.roll(toy.y, 1)
    x = features(toy, y)
    assert x.shape == (50, 64 + 3)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(x.std(0), 1, rtol=1e-9)
    np.testing.assert_array_equal(x[:, 64:].argmax(1), y)
    constant = dataclasses.replace(toy, x=np.zeros_like(toy.x), x_test=None, y_test=None)
    np.testing.assert_array_equal(features(constant, y)[:, :64], 0)


def game_of(toy, *, signal: float, slope: float = 0.0, n_models: int = 8, seed: int = 0):
    """Make a game of random answers, higher for members by ``signal``, and rising with the first feature."""
    game = random_game(n_models=n_models, n_records=len(toy), n_classes=toy.n_classes, seed=seed)
    logits = game.logits.copy()
    logits[:, 0, np.arange(len(toy)), toy.y] += signal * game.member + slope * toy.x[:, 0]
    return mia.Game.from_arrays(logits=logits, member=game.member, y=toy.y, partner=game.partner)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["gaussian", "pinball"])
def test_quantile_regression_finds_nothing_where_there_is_nothing(form):
    """Each of the four comparisons fails with probability 1 in 10,000; games are independent."""
    results = [
        measure(QuantileRegression(pool=toy, form=form), game_of(toy, signal=0, n_models=4, seed=seed))
        for seed in range(12)
        for toy in [pool(n=120, seed=seed)]
    ]
    for values in zip(*results, strict=True):
        assert_mean(values, 0.5)


@pytest.mark.parametrize("form", ["gaussian", "pinball"])
def test_quantile_regression_catches_a_model_that_memorizes(form):
    toy = pool(n=800)
    game = game_of(toy, signal=30, n_models=4)
    outcome = QuantileRegression(pool=toy, form=form, alpha=0.02).run(game)
    for k, seen in enumerate(outcome.evaluated):
        assert roc_auc_score(game.member[k, seen], outcome.score[k, seen]) > 0.99
    assert outcome.predicted_member[outcome.evaluated & game.member].mean() > 0.99
    assert outcome.predicted_member[outcome.evaluated & ~game.member].mean() < 0.1


@pytest.mark.parametrize("form", ["gaussian", "pinball"])
@pytest.mark.parametrize("statistic", ["scaled_logit", "hinge", "loss"])
def test_quantile_regression_allows_for_difficulty(form, statistic):
    toy = pool(n=800)
    game = game_of(toy, signal=8, slope=8, n_models=4)
    outcome = QuantileRegression(pool=toy, form=form, signal=statistic).run(game)
    loss = mia.attacks.make("loss").scores(game)
    np.testing.assert_array_equal(~outcome.evaluated, known_half(game.member))
    for k, seen in enumerate(outcome.evaluated):
        ours, plain = (roc_auc_score(game.member[k, seen], s[k, seen]) for s in (outcome.score, loss))
        assert ours > plain + 0.1


def test_quantile_regression_in_an_audit():
    toy = pool(n=100)
    attack = QuantileRegression(pool=toy)
    table = mia.audit(game_of(toy, signal=3), ["loss", attack], fprs=(0.1,), fnrs=())
    assert set(table["attack"]) == {"loss", "quantile"}
    assert "toy" in table.attrs["audit"]["attacks"]["quantile"]


def test_quantile_regression_wants_the_records_of_the_game(fresh_cache):
    toy = pool(n=100)
    game = mia.play(toy, n_models=2, canaries=10, training=mia.Training(epochs=1))
    QuantileRegression(pool=toy).check(game)
    with pytest.raises(RequirementsNotMet, match=r"'quantile' needs the features of the records.*pool=pool"):
        mia.attacks.make("quantile").check(game)
    others = {
        "other features": dataclasses.replace(toy, x=toy.x + 1),
        "other labels": dataclasses.replace(toy, y=np.roll(toy.y, 1)),
        "fewer records": dataclasses.replace(toy, x=toy.x[:90], y=toy.y[:90]),
    }
    for other in others.values():
        with pytest.raises(RequirementsNotMet, match=r"Pool\('toy'.* is not the pool of Game\(toy"):
            QuantileRegression(pool=other).check(game)
    arrays = game_of(toy, signal=0)  # says nothing of features
    QuantileRegression(pool=others["other features"]).check(arrays)
    with pytest.raises(RequirementsNotMet, match="is not the pool of"):
        QuantileRegression(pool=others["other labels"]).check(arrays)
    few = pool(n=40)
    with pytest.raises(
        RequirementsNotMet, match="at least 20 known non-members of each target; here one has only 10"
    ):
        QuantileRegression(pool=few).run(game_of(few, signal=0))


# ----------------------------------------------------------------------------------------------------
# All


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Threshold(signal="correctness", calibrated=True), "signal='correctness' has too few values"),
        (lambda: AttackR(alpha=0), "alpha=0 must be greater than 0"),
        (lambda: AttackP(alpha=1.5), "alpha=1.5 must be greater than 0 and at most 1"),
        (lambda: AttackR(per_class=True), "per_class=True needs thresholds that are calibrated"),
        (lambda: AttackP(calibrate="shadows"), "calibrate='shadows' is unknown"),
        (lambda: QuantileRegression(form="normal"), "form='normal' is unknown"),
        (lambda: QuantileRegression(signal="true_rank"), "signal='true_rank' has too few values"),
        (lambda: QuantileRegression(alpha=0.6), "alpha=0.6 must be greater than 0 and at most 0.5"),
        (lambda: QuantileRegression(per_class=True), "per_class=True has no use here"),
    ],
)
def test_wrong_parameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_pool_is_no_name():
    with pytest.raises(TypeError, match="pool='digits' must be a Pool"):
        QuantileRegression(pool="digits")


def test_what_each_needs_is_listed():
    table = mia.attacks.available()
    assert table.loc["attack_p", ["shadow models", "known half", "features"]].tolist() == [
        "none",
        "for the score",
        "none",
    ]
    assert table.loc["attack_r", "shadow models"] == "OUT"
    assert table.loc["quantile", "features"] == "for the score"
    assert table.loc["loss", "known half"] == "none"
