"""Attacks on generative models: against plain versions and scipy, on generators that memorize and on ignorant ones."""

import dataclasses
from functools import cache

import numpy as np
import pytest
from gan_toys import game_of, ignorant, memorizing, pools
from reference.gan_attacks import distances, monte_carlo_by_loops
from scipy.spatial import cKDTree
from scipy.stats import gaussian_kde
from scipy.stats import t as student
from test_null import measure
from toys import memberships, random_game

import mialab as mia
from mialab.attacks import RequirementsNotMet
from mialab.attacks.thresholds import known_half
from mialab.gan import GeneratorGame
from mialab.gan.attacks import (
    Domias,
    GanLeaks,
    Logan,
    LoganAuxiliary,
    LoganBlackBox,
    MonteCarlo,
    NeighborRatio,
)
from mialab.gan.attacks.density import log_density
from mialab.gan.attacks.samples import flat, monte_carlo, nearest, projection

POOL, FRESH, FRESH_Y = pools(fresh=600)
SMALL = {"hidden": (32,), "epochs": 60}  # trained on a few records, many times
ON_SAMPLES = [
    MonteCarlo(),
    MonteCarlo(score="log"),
    MonteCarlo(class_conditional=False),
    GanLeaks(),
    GanLeaks(calibrated=True),
    GanLeaks(calibrated=True, reference="records"),
    Domias(),
    NeighborRatio(k=1),
    LoganAuxiliary(**SMALL),
]
ATTACKS = [Logan(), Logan(critics="max"), LoganBlackBox(), *ON_SAMPLES]


def named(attack) -> str:
    return attack.name + "_unconditional" * (getattr(attack, "class_conditional", None) is False)


def armed(attack, pool=POOL, **changes):
    """Return the attack with the pool that it needs."""
    return dataclasses.replace(attack, **changes | ({"pool": pool} if attack.needs.pool else {}))


# ----------------------------------------------------------------------------------------------------
# Power and null


@pytest.mark.slow
@pytest.mark.parametrize("design", ["paired", "balanced"])
@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_a_generator_that_memorizes_is_found_out(attack, design):
    attack = LoganAuxiliary() if isinstance(attack, LoganAuxiliary) else attack
    for seed in range(2):
        game = memorizing(POOL, design=design, seed=seed)
        auc, accuracy = measure(armed(attack), game)
        # The median heuristic takes half of the records for members; some models here have more, or fewer.
        unsure = (isinstance(attack, MonteCarlo) and design == "balanced") or isinstance(
            attack, LoganAuxiliary
        )
        assert auc > (0.9 if unsure else 0.97)
        assert accuracy > (0.8 if unsure else 0.9)


# If all is well, the probability that any of the comparisons with 1/2 below fails is at most 1 in 1,000 (Student's t
# over games that are independent given the pool, Bonferroni over attacks, memberships and measures).
ALARM, N_GAMES, DESIGNS = 1e-3, 20, ["paired", "balanced"]
N_COMPARISONS = 2 * len(ATTACKS) * len(DESIGNS)


@cache
def null_games(design):
    return [ignorant(POOL, FRESH, FRESH_Y, design=design, seed=seed) for seed in range(N_GAMES)]


def excess(values) -> float:
    """Distance of the mean from 1/2 in units of what chance allows: above 1 is an alarm."""
    limit = student.isf(ALARM / N_COMPARISONS / 2, len(values) - 1)
    return abs(np.mean(values) - 0.5) / (limit * np.std(values, ddof=1) / np.sqrt(len(values)) + 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_nothing_is_found_where_there_is_nothing(attack, design):
    games = null_games(design)[: 8 if isinstance(attack, LoganAuxiliary) else N_GAMES]  # trains networks
    auc, accuracy = zip(*(measure(armed(attack), game) for game in games), strict=True)
    assert excess(auc) <= 1, f"AUC {np.mean(auc):.3f}"
    assert excess(accuracy) <= 1, f"balanced accuracy {np.mean(accuracy):.3f}"


@pytest.mark.slow
@pytest.mark.parametrize("attack", ON_SAMPLES, ids=named)
def test_a_little_memory_would_be_noticed(attack):
    """The test above can fail: here one sample in three is a member."""
    auc = []
    for seed, game in enumerate(null_games("paired")[:8]):
        rng = np.random.default_rng(seed)
        samples = game.samples.copy()
        for k, row in enumerate(game.member):
            for c in range(POOL.n_classes):
                members = np.flatnonzero(row & (POOL.y == c))
                samples[k, c : 15 : POOL.n_classes] = POOL.x[np.resize(rng.permutation(members), 5)]
        auc.append(measure(armed(attack), game_of(POOL, game.member, samples))[0])
    assert excess(auc) > 1
    assert np.mean(auc) > 0.55


@pytest.mark.slow
def test_audit_tells_the_two_apart():
    names = ["logan", "monte_carlo", "gan_leaks_calibrated", "domias", "neighbor_ratio"]
    games = memorizing(POOL, n_models=6), ignorant(POOL, FRESH, FRESH_Y, n_models=6)
    # A perfect attack on 40 records is above 0.9 with 95 % confidence (Clopper and Pearson), not with 99 %.
    tables = [
        mia.audit(game, names, pool=POOL, confidence=confidence)
        for game, confidence in zip(games, (0.95, 0.99), strict=True)
    ]
    pooled = [t[(t.target == "pooled") & (t.metric == "auc")].set_index("attack").loc[names] for t in tables]
    assert (pooled[0].low > 0.9).all()
    # Five intervals of 99 %: were the seed drawn, one of them would miss in one test of 20 at most.
    assert ((pooled[1].low <= 0.5) & (pooled[1].high >= 0.5)).all()


# ----------------------------------------------------------------------------------------------------
# Against plain versions and scipy


GAME = memorizing(POOL, noise=0.2)


@pytest.mark.parametrize("name", ["mean", "max"])
def test_logan_ranks_by_what_the_critics_say(name):
    critic = np.random.default_rng(0).normal(size=(2, *GAME.member.shape))
    game = game_of(POOL, GAME.member, GAME.samples, critic=critic[0], critic_max=critic[1])
    score = Logan(critics=name).run(game).score
    answers = critic[int(name == "max")]
    assert score == pytest.approx(answers - np.median(answers, axis=1, keepdims=True))


def test_logan_asks_about_the_record_itself():
    critic = np.random.default_rng(0).normal(size=(8, 3, len(POOL)))
    game = GeneratorGame.from_arrays(member=GAME.member, critic=critic, partner=np.arange(8) ^ 1)
    alone = GeneratorGame.from_arrays(member=GAME.member, critic=critic[:, 0], partner=np.arange(8) ^ 1)
    assert (Logan().run(game).score == Logan().run(alone).score).all()


def test_a_critics_constant_does_not_matter():
    shifted = game_of(POOL, GAME.member, GAME.samples, critic=GAME.critic[:, 0] + 7 * np.arange(8)[:, None])
    a, b = (Logan().run(game) for game in (GAME, shifted))
    assert a.score == pytest.approx(b.score)
    assert (a.predicted_member == b.predicted_member).all()


def test_records_that_a_probe_left_out_are_not_evaluated():
    answers = np.random.default_rng(0).normal(size=GAME.member.shape)
    answers[:, ::2] = np.nan
    outcome = LoganBlackBox().run(game_of(POOL, GAME.member, GAME.samples, shadow_critic=answers))
    assert outcome.evaluated[:, 1::2].all()
    assert not outcome.evaluated[:, ::2].any()
    assert np.isfinite(outcome.score).all()
    answers[:] = np.nan
    with pytest.raises(RequirementsNotMet, match="queried no record"):
        LoganBlackBox().run(game_of(POOL, GAME.member, GAME.samples, shadow_critic=answers))


@pytest.mark.parametrize("k", [1, 4])
def test_nearest_distances_are_those_of_scipy(k):
    rng = np.random.default_rng(0)
    for shift in (0, 100):  # far from the origin, products of matrices lose digits
        x, others = (rng.random((n, 20), dtype=np.float32) + np.float32(shift) for n in (30, 50))
        expected = cKDTree(others.astype(np.float64)).query(x.astype(np.float64), np.arange(1, k + 1))[0]
        assert nearest(x, others, k) == pytest.approx(expected, rel=1e-5)
    assert (nearest(others, others)[:, 0] == 0).all()


def test_gan_leaks_is_the_distance_to_the_nearest_sample():
    score = GanLeaks(pool=POOL).run(GAME).score
    expected = [-distances(POOL.x, samples).min(1) for samples in GAME.samples]
    assert score == pytest.approx(np.array(expected), rel=1e-5)
    own = distances(POOL.x, POOL.x_val).min(1)
    score = GanLeaks(pool=POOL, calibrated=True, reference="records").run(GAME).score
    assert score == pytest.approx(np.array(expected) + own, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("design", ["paired", "balanced"])
def test_calibration_takes_models_without_the_record_less_the_one_left_out(design):
    game = memorizing(POOL, noise=0.2, design=design)
    plain = GanLeaks(pool=POOL).run(game).score
    score = GanLeaks(pool=POOL, calibrated=True).run(game).score
    for k in range(0, 8, 3):
        for i in range(0, len(POOL), 7):
            others = [
                j for j in range(8) if j not in (k, game.excluded_models[k, i]) and not game.member[j, i]
            ]
            assert len(others) == 3
            assert score[k, i] == pytest.approx(plain[k, i] - np.mean(plain[others, i]))


@pytest.mark.parametrize("score", ["count", "log"])
@pytest.mark.parametrize("n", [14, 15])  # the median of an odd number is one of the distances
def test_monte_carlo_counts_samples_within_the_median_of_the_least_distances(n, score):
    rng = np.random.default_rng(n)
    x, samples, y, sample_y = rng.random((n, 3)), rng.random((40, 3)), np.arange(n) % 3, np.arange(40) % 3
    expected = monte_carlo_by_loops(x, samples, y, sample_y, score == "log")
    assert monte_carlo(x, samples, y, sample_y, score=score) == pytest.approx(expected, abs=1e-8)
    one = np.zeros(n, int), np.zeros(40, int)
    expected = monte_carlo_by_loops(x, samples, *one, score == "log")
    assert monte_carlo(x, samples, score=score) == pytest.approx(expected, abs=1e-8)
    assert np.count_nonzero(expected) == (n + 1) // 2 - (score == "log") * (n % 2)


@pytest.mark.parametrize("conditional", [None, True, False])
def test_monte_carlo_is_class_conditional_if_generators_are(conditional):
    score = MonteCarlo(pool=POOL, components=5, class_conditional=conditional).run(GAME).score
    reference = POOL.x_val.reshape(60, -1).astype(np.float64)
    mean = reference.mean(0)
    axes = np.linalg.svd(reference - mean)[2][:5].T
    groups = (POOL.y, GAME.sample_y) if conditional in (None, True) else (np.zeros(40), np.zeros(150))
    for k in (0, 5):
        x, samples = ((a.reshape(len(a), -1) - mean) @ axes for a in (POOL.x, GAME.samples[k]))
        assert score[k] == pytest.approx(monte_carlo_by_loops(x, samples, *groups, False), abs=1e-9)
    unconditional = GeneratorGame.from_arrays(member=GAME.member, samples=GAME.samples, y=POOL.y)
    if conditional is None:
        plain = MonteCarlo(pool=POOL, components=5, class_conditional=False).run(GAME).score
        assert (MonteCarlo(pool=POOL, components=5).run(unconditional).score == plain).all()


@pytest.mark.parametrize(("n", "d"), [(30, 1), (200, 3), (500, 16)])
def test_log_density_is_that_of_scipy(n, d):
    rng = np.random.default_rng(d)
    data = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 5
    points = np.concatenate([data[:20], data[:20] + rng.normal(size=(20, d))])
    expected = gaussian_kde(data.T).logpdf(points.T)
    assert log_density(points, data) == pytest.approx(expected, abs=1e-6, rel=1e-9)


def test_log_density_has_no_floor():
    data = np.random.default_rng(0).normal(size=(50, 2))
    far = log_density(np.array([[1e4, 0], [2e4, 0], [4e4, 0]]), data)
    assert np.isfinite(far).all()
    assert far[2] / far[1] == pytest.approx(4, rel=0.01)
    assert far[1] / far[0] == pytest.approx(4, rel=0.01)


def test_domias_is_the_log_ratio_of_two_densities():
    score = Domias(pool=POOL, components=4).run(GAME).score
    reference = POOL.x_val.reshape(60, -1).astype(np.float64)
    mean = reference.mean(0)
    _, values, axes = np.linalg.svd(reference - mean, full_matrices=False)
    axes = axes[:4].T * np.sqrt(59) / values[:4]
    x, reference = ((a.reshape(len(a), -1) - mean) @ axes for a in (POOL.x, POOL.x_val))
    assert reference.var(0, ddof=1) == pytest.approx(np.ones(4))
    for k in (0, 3):
        samples = (GAME.samples[k].reshape(150, -1) - mean) @ axes
        expected = gaussian_kde(samples.T).logpdf(x.T) - gaussian_kde(reference.T).logpdf(x.T)
        assert score[k] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("k", [1, 5])
def test_neighbor_ratio_is_that_of_scipy(k):
    score = NeighborRatio(pool=POOL, k=k).run(GAME).score
    x, reference = (a.reshape(len(a), -1).astype(np.float64) for a in (POOL.x, POOL.x_val))
    to_reference = cKDTree(reference).query(x, [k])[0][:, 0]
    for target, samples in enumerate(GAME.samples):
        to_samples = cKDTree(samples.reshape(150, -1).astype(np.float64)).query(x, [k])[0][:, 0]
        assert score[target] == pytest.approx(np.log(to_reference / to_samples), abs=1e-5)


@pytest.mark.slow
def test_auxiliary_network_estimates_the_log_ratio_of_densities():
    """Of two Gaussians half a unit to the left and right the log ratio is x; noise is of the size of 0.2."""
    rng = np.random.default_rng(0)
    samples, reference = (rng.normal(size=(5000, 1)).astype(np.float32) + s for s in (0.5, -0.5))
    x = np.linspace(-2, 2, 21, dtype=np.float32)[:, None]
    odds = LoganAuxiliary(hidden=(16,), epochs=30)._log_odds(x, samples, reference)
    assert np.abs(odds - x[:, 0]).max() < 0.5


# ----------------------------------------------------------------------------------------------------
# What must not matter, and hard cases


def by_model(game, attack) -> np.ndarray:
    return armed(attack).run(game).score


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_first_models_and_their_order(attack):
    order = np.array([6, 7, 1, 0, 2, 3, 5, 4])
    answers = {
        name: GAME.dataset[name].to_numpy()[order] for name in ("critic", "critic_max", "shadow_critic")
    }
    mixed = game_of(POOL, GAME.member[order], GAME.samples[order], **answers)
    score = by_model(GAME, attack)
    assert by_model(mixed, attack) == pytest.approx(score[order], rel=1e-9, abs=1e-12)
    if attack.needs.shadows == "none":
        assert by_model(GAME.subset(4), attack) == pytest.approx(score[:4], rel=1e-9, abs=1e-12)
    else:
        assert armed(attack).run(GAME.subset(6)).evaluated.all() or GAME.n_models < 8


@pytest.mark.slow
@pytest.mark.parametrize("attack", ON_SAMPLES, ids=named)
def test_pixels_as_bytes_are_the_same_records(attack):
    def as_bytes(x):
        return np.round(255 * x).astype(np.uint8)

    bytes_pool = dataclasses.replace(
        POOL, **{n: as_bytes(getattr(POOL, n)) for n in ("x", "x_val", "x_test")}
    )
    float_pool = dataclasses.replace(
        POOL, **{n: getattr(bytes_pool, n) / np.float32(255) for n in ("x", "x_val", "x_test")}
    )
    stored = as_bytes(GAME.samples)
    games = [game_of(POOL, GAME.member, stored / np.float32(255)) for _ in range(2)]
    dataset = games[1].dataset
    games[1] = GeneratorGame(dataset.assign(samples=(dataset["samples"].dims, stored.reshape(8, 150, -1))))
    scores = [
        armed(attack, pool).run(game).score
        for pool, game in zip((float_pool, bytes_pool), games, strict=True)
    ]
    assert scores[1] == pytest.approx(scores[0], rel=1e-6, abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ON_SAMPLES, ids=named)
@pytest.mark.parametrize("copies", [True, False])
def test_exact_copies_and_collapsed_generators_give_finite_scores(attack, copies):
    """Binary samples repeat records; a generator may have a single sample for each class, or for all."""
    pool, _, _ = pools("binary", features=12)
    game = memorizing(pool, noise=0)
    if not copies:
        samples = np.repeat(game.samples[:, :1], 150, axis=1)
        game = game_of(pool, game.member, samples)
    outcome = armed(attack, pool).run(game)
    assert np.isfinite(outcome.score).all()
    if copies and isinstance(attack, GanLeaks) and not attack.calibrated:
        assert (outcome.score[game.member] == 0).all()
    if copies and isinstance(
        attack, MonteCarlo
    ):  # epsilon is 0, or nearly so: a copy is near, and a rounded one too
        assert (outcome.score[game.member] >= outcome.score[~game.member].min()).all()
        assert measure(armed(attack, pool), game)[0] > 0.8 or attack.score == "log"


@pytest.mark.slow
@pytest.mark.parametrize("attack", ON_SAMPLES, ids=named)
def test_separate_shadow_models(attack):
    shadows = memorizing(POOL, noise=0.2, seed=1)
    both = GAME.with_shadows(shadows)
    outcome = armed(attack).run(both)
    assert outcome.evaluated[:8].all()
    assert not outcome.evaluated[8:].any()
    if attack.needs.shadows == "none":
        assert outcome.score[:8] == pytest.approx(by_model(GAME, attack))
    else:
        plain = [by_model(game, GanLeaks()) for game in (GAME, shadows)]
        expected = np.where(shadows.member, np.nan, plain[1])
        assert outcome.score[:8] == pytest.approx(plain[0] - np.nanmean(expected, axis=0))


@pytest.mark.slow
@pytest.mark.parametrize("attack", ON_SAMPLES, ids=named)
def test_records_that_are_never_members(attack):
    candidate = np.arange(len(POOL)) < 30
    member = np.zeros((8, len(POOL)), bool)
    member[:, candidate] = memberships("paired", 8, 30, 0)
    game = game_of(POOL, member, GAME.samples)
    outcome = armed(attack).run(game)
    assert outcome.evaluated[:, candidate].all()
    assert outcome.evaluated[:, ~candidate].any() == (attack.needs.shadows == "none")
    if attack.needs.shadows == "OUT":
        part = dataclasses.replace(POOL, x=POOL.x[:30], y=POOL.y[:30])
        alone = game_of(part, member[:, :30], GAME.samples)
        assert outcome.score[:, :30] == pytest.approx(armed(attack, part).run(alone).score)


@pytest.mark.slow
def test_scores_do_not_need_run():
    for attack in ON_SAMPLES:
        assert armed(attack).scores(GAME) == pytest.approx(armed(attack).run(GAME).score)


def test_known_half_is_not_evaluated():
    outcome = GanLeaks(pool=POOL, calibrate="known_half").run(GAME)
    assert (outcome.evaluated == ~known_half(GAME.member)).all()


def test_components_are_those_of_reference_records_alone():
    other = dataclasses.replace(POOL, x=POOL.x[::-1].copy(), y=POOL.y[::-1].copy())
    x = flat(POOL.x)
    assert (projection(POOL, 6)(x) == projection(other, 6)(x)).all()
    assert projection(POOL, 1000)(x).shape == (40, 59)  # one less than reference records
    flat_pool = dataclasses.replace(POOL, x_val=POOL.x_val * (np.arange(8) == 3))
    assert projection(flat_pool, 40, whiten=True)(x).shape == (40, 8)


# ----------------------------------------------------------------------------------------------------
# Refusals


def without(**changes):
    return dataclasses.replace(POOL, **changes)


@pytest.mark.parametrize("attack", ON_SAMPLES, ids=named)
def test_attacks_on_samples_say_what_is_missing(attack):
    bare = GeneratorGame.from_arrays(member=GAME.member, critic=GAME.critic, y=POOL.y)
    with pytest.raises(
        RequirementsNotMet, match=f"{attack.name}.*needs at least . samples.*play it with samples="
    ):
        mia.audit(bare, [attack], pool=POOL)
    with pytest.raises(
        RequirementsNotMet, match=rf"features of the records.*{type(attack).__name__}\(pool=pool\)"
    ):
        mia.audit(GAME, [attack])
    other = pools(seed=1)[0]
    with pytest.raises(RequirementsNotMet, match="is not the pool of GeneratorGame"):
        mia.audit(GAME, [attack], pool=other)
    with pytest.raises(TypeError, match="must be a Pool"):
        dataclasses.replace(attack, pool="digits")
    empty = without(x_val=POOL.x_val[:0], y_val=POOL.y_val[:0])
    if not attack.fewest["reference"]:
        armed(attack, empty).run(GAME)
        return
    with pytest.raises(
        RequirementsNotMet, match=r"reference records, the validation part.*has 0: load it with validation="
    ):
        mia.audit(GAME, [attack], pool=empty)


def test_other_refusals():
    bare = GeneratorGame.from_arrays(member=GAME.member, samples=GAME.samples[:, :3], y=POOL.y)
    for attack in (Logan(), Logan(critics="max")):
        with pytest.raises(RequirementsNotMet, match=f"'{attack.name}' needs the signal 'critic"):
            mia.audit(bare, [attack])
    with pytest.raises(RequirementsNotMet, match=r"probes=\['shadow_critic'\]"):
        mia.audit(bare, ["logan_black_box"])
    with pytest.raises(RequirementsNotMet, match="at least 5 samples of each model, and this game has 3"):
        mia.audit(bare, ["neighbor_ratio"], pool=POOL)
    few = without(x_val=POOL.x_val[:4], y_val=POOL.y_val[:4])
    with pytest.raises(RequirementsNotMet, match=r"at least 5 reference records.*has 4"):
        mia.audit(GAME, ["neighbor_ratio"], pool=few)
    two = game_of(POOL, GAME.member, GAME.samples[:, :2])
    with pytest.raises(RequirementsNotMet, match=r"none of class 2.*class_conditional=False"):
        mia.audit(two, ["monte_carlo"], pool=POOL)
    equal = without(x_val=np.repeat(POOL.x_val[:1], 60, axis=0))
    with pytest.raises(RequirementsNotMet, match="all equal"):
        mia.audit(GAME, ["domias"], pool=equal)
    with pytest.raises(RequirementsNotMet, match="generator"):
        mia.audit(random_game(n_models=4), ["logan"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Logan(critics="median"), "critics='median' is unknown"),
        (lambda: MonteCarlo(components=0), "components=0 must be"),
        (lambda: MonteCarlo(score="fraction"), "score='fraction' is unknown"),
        (lambda: MonteCarlo(class_conditional="yes"), "class_conditional='yes' must be"),
        (lambda: GanLeaks(reference="pool"), "reference='pool' is unknown"),
        (lambda: GanLeaks(reference="records"), "goes with calibrated=True"),
        (lambda: Domias(components=2.5), "components=2.5 must be"),
        (lambda: NeighborRatio(k=0), "k=0 must be"),
        (lambda: LoganAuxiliary(hidden=256), "hidden=256 must be a sequence"),
        (lambda: LoganAuxiliary(epochs=0), "epochs=0 must be"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_attacks_are_listed_with_what_they_need():
    table = mia.attacks.available("generator")
    mine = [a.name for a in ATTACKS] + ["logan_auxiliary"]
    assert set(mine) <= set(table.index)
    assert not set(mine) & set(mia.attacks.available().index)
    assert set(table.loc[[a.name for a in ON_SAMPLES], "features"]) == {"for the score"}
    assert table.loc["gan_leaks_calibrated", "shadow models"] == "OUT"
    assert table.loc["logan_black_box", "probe"] == "shadow_critic"
