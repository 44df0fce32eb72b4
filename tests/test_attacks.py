"""Attacks: signals worked by hand, scores against plain loops, thresholds against trying all of them."""

import dataclasses
from functools import cache
from statistics import fmean, variance

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from reference.lira import lira_by_loops, shadows_of
from reference.signals import exact
from reference.thresholds import balanced_accuracy, best_by_trying
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from toys import random_game, remade

import mialab as mia
from mialab.attacks import thresholds
from mialab.attacks.label_only import logistic_log_odds
from mialab.attacks.lira import VARIANCE_FLOOR, LiRA, Ranking
from mialab.attacks.threshold import SOURCES, Threshold
from mialab.classifiers import signals

# Attacks on pairs of records need games of their own, see test_groups.py.
NAMES = [
    name
    for name, needs in mia.attacks.available().iterrows()
    if needs["features"] == "none" and "mixed" not in needs["queries"]
]
DESIGNS = ["paired", "balanced", "random"]

# ----------------------------------------------------------------------------------------------------
# Signals

# Softmax of these logits is (1/2, 1/4, 1/4), (1/10, 1/5, 7/10) and (1/3, 1/3, 1/3).
LOGITS = np.log([[2.0, 1, 1], [1, 2, 7], [5, 5, 5]])
Y = np.array([0, 1, 2])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("loss", np.log([1 / 2, 1 / 5, 1 / 3])),
        ("confidence", [1 / 2, 1 / 5, 1 / 3]),
        (
            "entropy",
            [
                0.5 * np.log(0.5) + 2 * 0.25 * np.log(0.25),
                0.1 * np.log(0.1) + 0.2 * np.log(0.2) + 0.7 * np.log(0.7),
                np.log(1 / 3),
            ],
        ),
        (
            "modified_entropy",
            [
                0.5 * np.log(0.5) + 2 * 0.25 * np.log(0.75),
                0.8 * np.log(0.2) + 0.1 * np.log(0.9) + 0.7 * np.log(0.3),
                2 / 3 * np.log(1 / 3) + 2 / 3 * np.log(2 / 3),
            ],
        ),
        ("correctness", [1, 0, 0]),  # of equal classes the first is predicted
        ("scaled_logit", np.log([1, 1 / 4, 1 / 2])),
        ("hinge", np.log([2, 2 / 7, 1])),
        ("true_rank", [0, -1, -2]),
    ],
)
def test_signals_worked_by_hand(name, expected):
    np.testing.assert_allclose(signals.SIGNALS[name](LOGITS, Y), expected, rtol=1e-12, atol=1e-15)


def test_true_rank_of_tied_classes_follows_the_class_index():
    logits = np.array([[3.0, 3, 3, 1], [3, 3, 3, 1], [3, 3, 3, 1], [3, 3, 3, 1], [1, 2, 2, 5]])
    assert signals.true_rank(logits, np.array([0, 1, 2, 3, 2])).tolist() == [0, -1, -2, -3, -2]


@pytest.mark.parametrize(
    "name", ["loss", "confidence", "entropy", "modified_entropy", "scaled_logit", "hinge"]
)
@pytest.mark.parametrize(
    "logits",
    [
        [0.3, -1.2, 2.5],
        [50, 3, 1],  # 1 - p is below the float64 step at 1
        [400, -300, 0],
        [60, 60, -60],
        [-20, -61, -80],
        [30, 0],
    ],
)
def test_signals_keep_their_digits_where_p_rounds_to_one(name, logits):
    logits = np.array(logits, dtype=np.float64)
    for label in range(len(logits)):
        ours = signals.SIGNALS[name](logits[None], np.array([label]))[0]
        least = 1e-12 if name in ("scaled_logit", "hinge") else 1e-300  # a log odds of 1e-50 is as good as 0
        assert ours == pytest.approx(float(exact(name, logits, label)), rel=1e-9, abs=least)


# Multiples of 1/8, so that a shift by a whole number is exact.
EIGHTHS = npst.arrays(np.int64, (3, 5, 4), elements=st.integers(-400, 400)).map(lambda a: a / 8)


@given(EIGHTHS, st.integers(-1000, 1000), st.permutations(range(5)))
def test_signals_ignore_a_shift_of_all_logits_and_the_order_of_records(logits, shift, order):
    y = np.array([0, 1, 2, 3, 1])
    for function in signals.SIGNALS.values():
        here = function(logits, y)
        assert here.dtype == np.float64
        assert here.shape == (3, 5)
        np.testing.assert_allclose(function(logits + shift, y), here, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(function(logits[:, order], y[order]), here[:, order])


def test_signals_of_float32_answers_are_computed_in_float64():
    logits = np.array([[[[10, 0, 0.1]]]], dtype=np.float32).repeat(2, 0).repeat(2, 2)
    game = mia.Game.from_arrays(logits=logits, member=np.eye(2, dtype=bool), y=np.zeros(2, int))
    ours = game.signal("loss")
    assert ours.dtype == np.float64
    assert ours[0, 0, 0] == pytest.approx(float(exact("loss", logits[0, 0, 0], 0)), rel=1e-12)
    with pytest.raises(ValueError, match=r"signal='los' is unknown. Did you mean 'loss'\?"):
        game.signal("los")


# ----------------------------------------------------------------------------------------------------
# LiRA, against the algorithm in plain loops


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize(
    "kind", [{}, {"online": False}, {"online": False, "offline": "density"}], ids=["online", "z", "density"]
)
@pytest.mark.parametrize("variance_of", ["per_record", "pooled"])
@given(seed=st.integers(0, 10_000), n_models=st.sampled_from([6, 8, 10]), signal=st.sampled_from([0, 3]))
@settings(max_examples=8)
def test_lira_against_plain_loops(design, kind, variance_of, seed, n_models, signal):
    game = random_game(design, n_models=n_models, n_records=6, seed=seed, signal=signal)
    expected = lira_by_loops(
        game,
        signals.scaled_logit(game.logits[:, 0], game.y),
        online=kind.get("online", True),
        offline=kind.get("offline", "z_score"),
        pooled=variance_of == "pooled",
        floor=VARIANCE_FLOOR,
    )
    ours = LiRA(variance=variance_of, **kind).run(game).score
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)


def test_lira_with_several_queries_is_the_mean_of_their_scores():
    game = random_game(n_queries=3, seed=5)
    by_query = [
        LiRA().run(mia.Game.from_arrays(logits=z, member=game.member, y=game.y, partner=game.partner)).score
        for z in np.moveaxis(game.logits, 1, 0)
    ]
    np.testing.assert_allclose(LiRA(queries="all").run(game).score, np.mean(by_query, 0), rtol=1e-9)
    np.testing.assert_array_equal(LiRA().run(game).score, by_query[0])


def test_lira_of_the_hinge_against_plain_loops():
    game = random_game(n_records=10, seed=8, signal=2)
    other = np.where(np.arange(game.n_classes) == game.y[:, None], -np.inf, game.logits[:, 0]).max(-1)
    margin = game.logits[:, 0, np.arange(game.n_records), game.y] - other
    expected = lira_by_loops(game, margin, online=True, pooled=False, floor=VARIANCE_FLOOR)
    ours = LiRA(signal="hinge").run(game).score
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)
    assert LiRA(signal="hinge", online=False).name == "lira_hinge_offline"


def test_ranking_against_plain_loops():
    game = random_game(n_classes=6, seed=2, signal=2)
    rank = (game.logits[:, 0] > game.logits[:, 0][..., np.arange(game.n_records), game.y][..., None]).sum(-1)
    expected = lira_by_loops(game, -np.log(1 + rank), online=True, pooled=True, floor=0)
    np.testing.assert_allclose(Ranking().run(game).score, expected, rtol=1e-6, atol=1e-6)


def test_lira_variance_floor():
    # All shadow models answer record 0 alike: without a floor its variance would be 0.
    game = random_game(n_records=12, seed=3)
    logits = game.logits.copy()
    logits[:, :, 0] = logits[0, 0, 0]
    logits[1, 0, 0, game.y[0]] += 1
    same = mia.Game.from_arrays(logits=logits, member=game.member, y=game.y, partner=game.partner)
    phi = signals.scaled_logit(logits[:, 0], game.y)
    score = LiRA(online=False).run(same).score
    assert np.isfinite(score).all()
    pooled = [
        variance([phi[k, i] for k in range(2, 8) if not game.member[k, i]]) for i in range(game.n_records)
    ]  # the shadow models of target 1: neither itself nor its partner, model 0
    expected = (phi[1, 0] - phi[2, 0]) / (VARIANCE_FLOOR * fmean(pooled)) ** 0.5
    assert score[1, 0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("constant", [0.0, 7.5])
def test_lira_of_constant_answers_is_finite_and_even(constant):
    game = random_game()
    same = mia.Game.from_arrays(
        logits=np.full_like(game.logits, constant), member=game.member, y=game.y, partner=game.partner
    )
    offline = (LiRA(online=False, offline=kind) for kind in ("z_score", "density"))
    for attack in (LiRA(), *offline, LiRA(variance="pooled"), Ranking()):
        score = attack.run(same).score
        np.testing.assert_array_equal(score, np.full_like(score, score[0, 0]))


# ----------------------------------------------------------------------------------------------------
# Label only


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("penalty", [0.01, 1.0, 30.0])
def test_label_only_against_scikit_learn(design, penalty):
    game = random_game(design, n_models=12, n_records=10, n_queries=4, n_classes=3, seed=4, signal=1.5)
    right = (game.logits.argmax(-1) == game.y).astype(float)
    ours = mia.attacks.LabelOnly(penalty=penalty).run(game).score
    for t in range(game.n_models):
        for i in range(game.n_records):
            fit = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000)
            shadows = shadows_of(game, t, i)
            fit.fit(right[shadows, :, i], game.member[shadows, i])
            expected = fit.decision_function(right[t, :, i][None])[0]
            assert ours[t, i] == pytest.approx(expected, abs=1e-4)


def test_label_only_converges_on_separable_bits():
    # The bit tells everything, and the penalty is slight: the far end of what Newton's method must reach.
    member = np.arange(16)[:, None] % 2 == np.arange(6) % 2
    bits = np.repeat(member[:, None], 3, axis=1).astype(float)
    excluded_models = np.broadcast_to(np.arange(16)[:, None] ^ 1, member.shape)
    odds = logistic_log_odds(bits, member, excluded_models, penalty=1e-4, block=4)
    fit = LogisticRegression(C=1e4, tol=1e-12, max_iter=100_000).fit(bits[2:, :, 0], member[2:, 0])
    np.testing.assert_allclose(odds[:2, 0], fit.decision_function(bits[:2, :, 0]), rtol=1e-4)
    np.testing.assert_array_equal(odds > 0, member)


# ----------------------------------------------------------------------------------------------------
# Thresholds


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("statistic", SOURCES)
@pytest.mark.parametrize("seed", range(4))
def test_shadow_thresholds_are_the_best_on_the_shadow_models(design, per_class, statistic, seed):
    game = random_game(design, n_classes=3, n_records=16, seed=seed, signal=1)
    raw = Threshold(signal=statistic).run(game).score
    outcome = Threshold(signal=statistic, per_class=per_class).run(game)
    groups = game.y if per_class else 0 * game.y
    threshold = thresholds.shadow_thresholds(raw, game.member, game.excluded_models, groups)
    assert outcome.evaluated.all()
    np.testing.assert_array_equal(outcome.predicted_member, raw >= threshold)
    np.testing.assert_array_equal(outcome.score, raw - threshold if per_class else raw)
    for t in range(game.n_models):
        for group in np.unique(groups):
            records = np.flatnonzero(groups == group)
            shadow = [(k, i) for i in records for k in shadows_of(game, t, i)]
            score, member = (np.array([a[k, i] for k, i in shadow]) for a in (raw, game.member))
            (chosen,) = np.unique(threshold[t, records])
            reached = balanced_accuracy(score >= chosen, member)
            assert reached == pytest.approx(best_by_trying(score, member), abs=1e-9)


@given(
    npst.arrays(np.int64, 12, elements=st.integers(0, 6)),
    npst.arrays(bool, 12).filter(lambda m: m.any() and not m.all()),
    npst.arrays(bool, (3, 12)),
)
def test_best_threshold_against_trying_all(score, member, use):
    chosen = thresholds.best_threshold(score / 7, member, map(np.flatnonzero, ~use))
    assert np.isfinite(chosen).all()
    for threshold, selected in zip(chosen, use, strict=True):
        s, m = score[selected] / 7, member[selected]
        if m.any() and not m.all():
            assert balanced_accuracy(s >= threshold, m) == pytest.approx(best_by_trying(s, m), abs=1e-12)
        else:  # nothing to choose by: all records are called what was seen, and "non-member" if nothing was
            assert (score / 7 >= threshold).tolist() == [bool(m.any())] * 12


def test_threshold_lies_half_way_and_equal_scores_stay_together():
    score, member = np.array([1.0, 2, 2, 4]), np.array([False, False, True, True])
    everything = [np.array([], dtype=int)]
    assert thresholds.best_threshold(score, member, everything) == [3.0]
    assert thresholds.best_threshold(score, np.array([False, True, True, True]), everything) == [1.5]
    # Neighboring floating-point numbers have no middle; the upper one must still be told from the lower one.
    step = np.nextafter(1.0, 2)
    for low, high in ((1.0, step), (step, np.nextafter(step, 2))):
        (threshold,) = thresholds.best_threshold(np.array([low, high]), np.array([False, True]), everything)
        assert low < threshold <= high


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("design", DESIGNS)
def test_known_half_thresholds_against_trying_all(design, per_class):
    game = random_game(design, n_classes=3, n_records=60, seed=1, signal=2)
    raw = Threshold().run(game).score
    outcome = Threshold(calibrate="known_half", per_class=per_class).run(game)
    known = ~outcome.evaluated
    for t in range(game.n_models):
        for side in (game.member[t], ~game.member[t]):
            assert known[t, side].sum() == side.sum() // 2
        for group in range(3) if per_class else [None]:
            here = game.y == group if group is not None else np.ones(60, bool)
            told = known[t] & here
            assert balanced_accuracy(
                outcome.predicted_member[t, told], game.member[t, told]
            ) == pytest.approx(best_by_trying(raw[t, told], game.member[t, told]), abs=1e-12)
            high = raw[t, here & outcome.predicted_member[t]].min(initial=np.inf)
            assert raw[t, here & ~outcome.predicted_member[t]].max(initial=-np.inf) < high


def test_known_half_depends_on_the_target_alone():
    game = random_game(n_models=8, n_records=40)
    np.testing.assert_array_equal(
        thresholds.known_half(game.member)[:4], thresholds.known_half(game.member[:4])
    )
    assert (thresholds.known_half(game.member, seed=1) != thresholds.known_half(game.member)).any()


def test_likelihood_ratios_are_compared_with_one():
    game = random_game(n_queries=3, seed=1, signal=2)
    for name in ("lira", "lira_pooled", "lira_hinge", "lira_augmented", "ranking", "label_only"):
        outcome = mia.attacks.make(name).run(game)
        np.testing.assert_array_equal(outcome.predicted_member, outcome.score >= 0)
        assert outcome.evaluated.all()


# ----------------------------------------------------------------------------------------------------
# All attacks


def every_variant(names=NAMES):
    """Return every attack, with each kind of threshold it offers."""
    return [
        pytest.param(
            dataclasses.replace(attack, calibrate=calibrate),
            id=f"{name}-{calibrate}",
            marks=pytest.mark.slow if name.startswith(("nasr", "shokri")) else (),
        )
        for name in names
        for attack in [mia.attacks.make(name)]
        for calibrate in attack.calibrations
    ]


@cache
def answers_of_all_sizes(design):
    """Return games of two classes, of nearly equal answers, and of very sure ones."""
    games = []
    for n_classes, scale in ((2, 1), (5, 1e-6), (5, 300)):
        game = random_game(design, n_classes=n_classes, n_queries=3, seed=3)
        games.append(remade(game, logits=(scale * game.logits).astype(np.float32)))
    return games


@pytest.mark.parametrize("attack", every_variant())
@pytest.mark.parametrize("design", DESIGNS)
def test_scores_are_finite_whatever_the_answers(attack, design):
    for game in answers_of_all_sizes(design):
        outcome = attack.run(game)
        for array, dtype in zip(
            (outcome.score, outcome.evaluated, outcome.predicted_member),
            (np.float64, bool, bool),
            strict=True,
        ):
            assert array.dtype == dtype
            assert array.shape == game.member.shape
        assert np.isfinite(outcome.score).all()


@cache
def memorized(design):
    """Return a game of models that memorize."""
    rng = np.random.default_rng(0)
    # So many records that about half of them are members of each model: RMIA's scores are fractions of the pool.
    game = random_game(design, n_models=12, n_records=800, n_classes=4, n_queries=4, seed=1)
    logits = 0.3 * rng.normal(size=game.logits.shape)
    # Members get their label with confidence; for others, another class stands out a little.
    favored = np.where(game.member, game.y, (game.y + rng.integers(1, 4, game.member.shape)) % 4)
    height = np.where(game.member, 12, 5)[:, None, :, None]
    logits += height * (np.arange(4) == favored[:, None, :, None])
    return remade(
        game,
        logits=logits,
        gradient_norm=game.gradient_norm * np.where(game.member, np.exp(-9), 1)[..., None],
        boundary_distance=(logits[:, 0].argmax(-1) == game.y) * game.gradient_norm[..., 0],
    )


@pytest.mark.parametrize("attack", every_variant())
@pytest.mark.parametrize(
    "design", [DESIGNS[0], *(pytest.param(design, marks=pytest.mark.slow) for design in DESIGNS[1:])]
)
def test_a_model_that_memorizes_is_caught(attack, design):
    game = memorized(design)
    outcome = attack.run(game)
    for k in range(game.n_models):
        seen = outcome.evaluated[k]
        assert roc_auc_score(game.member[k, seen], outcome.score[k, seen]) > 0.99
        assert balanced_accuracy(outcome.predicted_member[k, seen], game.member[k, seen]) > 0.95


def test_attacks_are_made_by_name():
    for name in NAMES:
        attack = mia.attacks.make(name)
        assert attack.name == name
        assert mia.attacks.make(attack) is attack
    table = mia.attacks.available()
    assert (table.source != "").all()
    with pytest.raises(ValueError, match=r"attack='lirra' is unknown. Did you mean 'lira'\? Known: "):
        mia.attacks.make("lirra")
    assert dataclasses.replace(LiRA(), calibrate="known_half").name == "lira_known_half"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Threshold(signal="losss").check(random_game()),
            "signal='losss' is unknown. Did you mean 'loss'?",
        ),
        (
            lambda: LiRA(signal="margin").check(random_game()),
            "signal='margin' is unknown. Known: boundary_distance, confidence, correctness, entropy, hinge, ",
        ),
        (lambda: LiRA(variance="pool"), "variance='pool' is unknown. Did you mean 'pooled'?"),
        (lambda: LiRA(queries="augmented"), "queries='augmented' is unknown."),
        (lambda: LiRA(offline="z"), "offline='z' is unknown. Known: density, z_score."),
        (lambda: LiRA(calibrate="shadows"), "calibrate='shadows' is unknown."),
        (lambda: LiRA(per_class=True), "per_class=True needs thresholds that are calibrated"),
        (lambda: mia.attacks.LabelOnly(penalty=0), "penalty=0 must be greater than 0."),
    ],
)
def test_wrong_parameters_of_attacks(make, message):
    with pytest.raises(ValueError, match="^" + message.replace("?", r"\?")):
        make()


@pytest.mark.parametrize(
    ("attack", "game", "message"),
    [
        ("label_only", {}, "needs at least 2 queries per record; this game has 1"),
        ("lira_augmented", {}, "needs at least 2 queries per record; this game has 1"),
        ("lira", {"n_models": 4}, "needs at least 2 shadow models trained with a record and 2 without it"),
        ("loss", {"n_models": 2}, "chooses its threshold on shadow models, and this game has none"),
    ],
)
def test_games_that_lack_what_an_attack_needs(attack, game, message):
    with pytest.raises(mia.attacks.RequirementsNotMet, match=f"^Attack '{attack}' {message}"):
        mia.attacks.make(attack).run(random_game(**game))


def test_a_score_that_is_no_number_is_an_error():
    class Broken(mia.attacks.Attack):
        base_name = "broken"

        def scores(self, game):
            return np.full(game.member.shape, np.nan)

    with pytest.raises(FloatingPointError, match="'broken' gave 160 non-finite scores"):
        Broken().run(random_game())


@pytest.mark.parametrize("name", ["lira", "lira_offline_pooled", "ranking", "label_only"])
def test_records_that_all_models_fraction_are_left_alone(name):
    """As with canaries among records that are always trained on: the same as for a game of the canaries."""
    canaries = random_game("balanced", n_queries=3, signal=1.0)
    keep = 1 + np.sort(np.random.default_rng(0).choice(49, 20, replace=False))
    logits = np.random.default_rng(1).normal(size=(8, 3, 50, 4))
    member, y = np.ones((8, 50), bool), np.zeros(50, int)
    member[:, 0] = False
    logits[:, :, keep], member[:, keep], y[keep] = canaries.logits, canaries.member, canaries.y
    outcome = mia.attacks.make(name).run(mia.Game.from_arrays(logits=logits, member=member, y=y))
    expected = mia.attacks.make(name).run(canaries)
    np.testing.assert_allclose(outcome.score[:, keep], expected.score, rtol=1e-9)
    np.testing.assert_array_equal(outcome.predicted_member[:, keep], expected.predicted_member)
    assert outcome.evaluated[:, keep].all()
    assert outcome.evaluated.sum() == expected.evaluated.sum()


def test_a_game_without_two_sides_has_no_shadow_models():
    member = np.zeros((4, 10), bool)
    member[:, :5] = True
    game = mia.Game.from_arrays(
        logits=np.random.default_rng(0).normal(size=(4, 10, 2)), member=member, y=np.zeros(10, int)
    )
    with pytest.raises(mia.attacks.RequirementsNotMet, match="member of all models or of none"):
        mia.attacks.make("lira").run(game)
