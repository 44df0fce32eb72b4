"""Records that go together: scores against plain loops, nothing found in noise, and more found in sets."""

import dataclasses

import numpy as np
import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.groups import pairs_by_loops
from scipy.stats import norm, rankdata
from sklearn.metrics import roc_auc_score
from toys import random_game

import mialab as mia
from mialab.attacks import CoMembership, LiRA, MixedPairs, RequirementsNotMet, Threshold
from mialab.attacks.groups import pair_ratio
from mialab.queries import Compose, Mixed, Noise, pairing

DESIGNS = ["paired", "balanced", "random"]


def mixed_game(logits, member, y, *, fractions, pair, **given):
    """Make a game of mixed queries, all but the first; ``pair`` names the pair of each record."""
    game = mia.Game.from_arrays(logits=logits, member=member, y=y, **given)
    attrs = {
        "query_kinds": ["original", *len(fractions) * ["mixed"]],
        "mixed": {"fractions": fractions, "seed": 0, "n_records": len(y)},
    }
    return mia.Game(game.dataset.assign(pair=("record", np.array(pair))).assign_attrs(attrs))


# ----------------------------------------------------------------------------------------------------
# Sets


def sets_of(outcome, game, target: int, size: int) -> int:
    """Return how many sets of members and of non-members were scored, having checked that no more were possible."""
    seen = outcome.evaluated[target]
    for side in (game.member[target], ~game.member[target]):
        assert (seen & side).sum() == side.sum() // size
    return seen.sum()


def test_sets_worked_by_hand():
    # Sets as large as the halves: there is one set of members and one of non-members.
    loss = np.log([[0.9, 0.8, 0.5, 0.1], [0.5, 0.5, 0.2, 0.4]])
    logits = np.stack([loss, np.log1p(-np.exp(loss))], axis=-1)
    member = np.array([[1, 1, 0, 0], [0, 1, 1, 0]], bool)
    game = mia.Game.from_arrays(logits=logits, member=member, y=np.zeros(4, int))
    base = Threshold(calibrate="known_half")
    assert not base.run(game).evaluated.all()
    plain = dataclasses.replace(base, calibrate="shadows")
    outcome = CoMembership(of=plain, size=2).run(game)
    score, scored = CoMembership(of=plain, size=2).of_sets(game)
    assert scored.sum(1).tolist() == [2, 2]
    for k, sums in enumerate([(0.72, 0.05), (0.1, 0.2)]):
        for side, product in zip((member[k], ~member[k]), sums, strict=True):
            assert np.exp(score[k, side & scored[k]]) == pytest.approx([product])
    assert (outcome.score == score).all()


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("of", ["lira", "loss", "lira_offline"])
def test_sets_of_one_record_are_the_attack_itself(design, of):
    game = random_game(design, seed=1, signal=1)
    single, sets = mia.attacks.make(of).run(game), CoMembership(of=of, size=1)
    np.testing.assert_array_equal(sets.run(game).score, single.score)
    if sets.calibrate == "ratio":
        np.testing.assert_array_equal(sets.run(game).predicted_member, single.predicted_member)
        assert sets.run(game).evaluated.all()


@pytest.mark.slow
@given(
    seed=st.integers(0, 10_000),
    design=st.sampled_from(DESIGNS),
    size=st.integers(2, 6),
    of=st.sampled_from(["lira", "lira_pooled", "ranking"]),
)
@settings(max_examples=25)
def test_sets_are_of_one_kind_and_no_record_counts_twice(seed, design, size, of):
    game = random_game(design, n_models=12, n_records=26, seed=seed, signal=1)
    single = mia.attacks.make(of).run(game).score
    outcome = CoMembership(of=of, size=size).run(game)
    for k in range(game.n_models):
        if not outcome.evaluated[k].any():
            assert min(game.member[k].sum(), (~game.member[k]).sum()) < size
            continue
        sets_of(outcome, game, k, size)
        for side in (game.member[k], ~game.member[k]):
            total = outcome.score[k, side & outcome.evaluated[k]].sum()
            left_over = side.sum() % size
            if left_over == 0:  # all records are in a set, so all sums together are known
                assert total == pytest.approx(single[k, side].sum(), rel=1e-6, abs=1e-6)
            worst, best = (
                np.sort(single[k, side])[: side.sum() - left_over],
                np.sort(single[k, side])[left_over:],
            )
            assert worst.sum() - 1e-6 <= total <= best.sum() + 1e-6


def test_canaries_are_dealt_apart():
    game = random_game(n_records=40, seed=2)
    canary = np.zeros(40, bool)
    canary[::4] = True  # a score of 1 in canaries and 0 elsewhere: sums are 0 or the size of a set

    class Canaries(mia.attacks.Attack):
        base_name = "canaries"

        def scores(self, game):
            return np.repeat(game.canary[None].astype(float), game.n_models, 0)

    marked = toys.remade(game, canary=canary)
    score, scored = CoMembership(of=Canaries(), size=2).of_sets(marked)
    assert set(np.unique(score[scored])) == {0, 2}
    assert (canary[None] & scored == (score == 2)).all()


def test_known_sets_choose_the_threshold_of_other_scores():
    game = random_game(n_models=4, n_records=96, seed=3, signal=3)
    attack = CoMembership(of="loss", size=4)
    assert attack.name == "co_membership_loss_4_known_half"
    score, scored = attack.of_sets(game)
    outcome = attack.run(game)
    assert (scored.sum(1) == 24).all()
    assert (outcome.evaluated <= scored).all()
    for k in range(4):
        known = scored[k] & ~outcome.evaluated[k]
        assert known[game.member[k]].sum() == known[~game.member[k]].sum() == 6
        predicted_member, member = outcome.predicted_member[k, known], game.member[k, known]
        by_trying = max(
            ((score[k, known] >= cut) == member).mean() for cut in [*score[k, known], np.inf]
        )  # as many members as others: accuracy is balanced accuracy
        assert (predicted_member == member).mean() == by_trying


def test_records_with_a_known_half_are_in_no_set():
    game = random_game(n_records=64, seed=4)
    base = Threshold(calibrate="known_half")
    known = ~base.run(game).evaluated
    scored = CoMembership(of=base, size=4).of_sets(game)[1]
    assert not (scored & known).any()
    assert (scored.sum(1) == 8).all()


def test_sets_find_more_than_single_records():
    """With independent scores, the distance grows with the root of the size: Phi(0.3) to Phi(0.85)."""
    game = random_game(n_models=24, n_records=400, seed=5, signal=0.8)
    auc = {}
    for size in (1, 2, 8):
        outcome = CoMembership(size=size).run(game)
        seen = outcome.evaluated
        auc[size] = roc_auc_score(game.member[seen], outcome.score[seen])
    # 24 targets with 25 sets on each side: a standard error of at most 0.012 for sets of 8
    assert auc[1] < auc[2] - 0.01
    assert auc[2] < auc[8] - 0.05


@pytest.mark.parametrize("design", DESIGNS)
def test_separate_shadow_models_and_sets(design):
    targets = random_game(design, n_models=6, n_records=40, seed=6, signal=2)
    shadows = random_game(design, n_models=10, n_records=40, seed=7, signal=2)
    logits = np.concatenate([targets.logits, shadows.logits])
    game = mia.Game.from_arrays(
        logits=logits,
        member=np.concatenate([targets.member, shadows.member]),
        y=targets.y,
        shadow=np.arange(16) >= 6,
    )
    outcome = CoMembership(size=3).run(game)
    assert not outcome.evaluated[6:].any()
    for k in range(6):
        sets_of(outcome, game, k, 3)


def test_records_in_no_model_are_in_no_set():
    inner = random_game("balanced", n_records=20, signal=1)
    logits = np.random.default_rng(1).normal(size=(8, 1, 50, 4))
    keep = np.arange(20) * 2 + 1
    member, y = np.zeros((8, 50), bool), np.zeros(50, int)
    logits[:, :, keep], member[:, keep], y[keep] = inner.logits, inner.member, inner.y
    game = mia.Game.from_arrays(logits=logits, member=member, y=y)
    outcome = CoMembership(size=2).run(game)
    assert not outcome.evaluated[:, np.setdiff1d(np.arange(50), keep)].any()
    single = LiRA().run(inner).score
    for k in range(8):
        for side in (inner.member[k], ~inner.member[k]):
            n = side.sum() // 2
            assert (outcome.evaluated[k, keep] & side).sum() == n
            if 2 * n == side.sum():
                total = outcome.score[k, keep][side].sum()
                assert total == pytest.approx(single[k, side].sum(), rel=1e-6)


# ----------------------------------------------------------------------------------------------------
# Mixed pairs


@pytest.mark.slow
@pytest.mark.parametrize("variance", ["per_record", "pooled"])
@given(
    seed=st.integers(0, 10_000),
    design=st.sampled_from(["paired", "random"]),
    n_models=st.sampled_from([16, 22]),
    signal=st.sampled_from([0, 3]),
)
@settings(max_examples=20)
def test_mixed_pairs_against_plain_loops(variance, seed, design, n_models, signal):
    game = random_game(
        design, n_models=n_models, n_records=8, n_queries=2, n_mixed=3, seed=seed, signal=signal
    )
    expected, scored = pairs_by_loops(game, pooled=variance == "pooled")
    ours, ours_scored = MixedPairs(variance=variance).of_sets(game)
    np.testing.assert_array_equal(ours_scored, scored)
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)


def test_mixed_pairs_worked_by_hand():
    """Two pairs; of twelve models, five were trained on all of the first, five on all of the second."""
    one, other = np.array([True, True, False, False]), np.array([True, False, True, False])
    member = np.array([*5 * [one], *5 * [~one], other, ~other])
    # Probability of label 0, that of record 0, in its mixture; record 1 has label 1. All else is answered evenly.
    p = np.array([0.9, 0.8, 0.85, 0.95, 0.7, 0.5, 0.4, 0.6, 0.3, 0.45, 0.01, 0.99])
    logits = np.zeros((12, 2, 4, 2))
    logits[:, 1, 0] = np.log(np.stack([p, 1 - p], axis=-1))
    game = mixed_game(logits, member, np.array([0, 1, 1, 1]), fractions=[0.75], pair=[0, 0, 2, 2])
    outcome = MixedPairs().run(game.plain_leave_one_out())
    phi = (0.75 * np.log(p) + 0.25 * np.log(1 - p) + np.log(0.5)) / 2
    densities = [norm.logpdf(phi[0], x.mean(), x.std(ddof=1)) for x in (phi[1:5], phi[5:10])]
    assert outcome.score[0, 0] == pytest.approx(densities[0] - densities[1], rel=1e-9)
    np.testing.assert_array_equal(outcome.evaluated, np.repeat([[1, 0, 1, 0], [0, 0, 0, 0]], [10, 2], axis=0))
    np.testing.assert_array_equal(outcome.predicted_member, outcome.evaluated & (outcome.score >= 0))


def test_pair_ratio_needs_shadow_models_of_both_kinds():
    rng = np.random.default_rng(0)
    phi = rng.normal(size=(9, 2))
    both, neither = np.zeros((2, 9, 2), bool)
    both[:4], neither[4:8] = True, True
    both[3, 1] = False  # three with both: too few once one of them is the target
    score, enough = pair_ratio(phi, both, neither, np.full((9, 2), -1))
    assert enough[:, 0].all()
    assert enough[:, 1].tolist() == 3 * [False] + 6 * [True]
    assert (score[~enough] == 0).all()
    assert np.isfinite(score).all()


def test_balanced_games_leave_out_a_model_of_the_other_kind():
    game = random_game("balanced", n_models=20, n_records=30, n_mixed=1, seed=1)
    from mialab.attacks.groups import _left_out, _pairs, _sides

    first, second = _pairs(game)
    both, neither = _sides(game, first, second)
    np.testing.assert_array_equal(both.sum(0), neither.sum(0))  # which is why
    excluded_models = _left_out(game, first, both, neither)
    for t in range(20):
        for p in range(first.size):
            k = excluded_models[t, p]
            if both[t, p] or neither[t, p]:
                assert (neither if both[t, p] else both)[k, p]
                assert excluded_models[k, p] == t
            else:
                assert k == -1


@pytest.mark.parametrize("design", DESIGNS)
def test_mixed_pairs_find_members_and_score_each_pair_once(design):
    game = random_game(design, n_models=24, n_records=200, n_mixed=3, seed=2, signal=5)
    outcome = MixedPairs().run(game)
    first, second = (np.flatnonzero(side(game.mixed_with, np.arange(200))) for side in (np.greater, np.less))
    assert not outcome.evaluated[:, second].any()
    same = game.member == game.member[:, game.mixed_with]
    assert (outcome.evaluated <= same).all()
    assert outcome.evaluated[:, first].mean() > 0.3
    seen = outcome.evaluated
    assert roc_auc_score(game.member[seen], outcome.score[seen]) > 0.7
    np.testing.assert_array_equal(outcome.predicted_member[seen], outcome.score[seen] >= 0)


def mean_auc(game) -> float:
    """Return the AUC of mixed pairs, the mean over targets."""
    outcome, auc = MixedPairs().run(game), []
    for member, score, seen in zip(game.member, outcome.score, outcome.evaluated, strict=True):
        if seen.any():
            rank, inside = rankdata(score[seen]), member[seen]
            auc.append((rank[inside].mean() - (inside.sum() + 1) / 2) / (~inside).sum())
    return np.mean(auc)


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS)
def test_mixed_pairs_find_nothing_in_noise_because_of_whom_they_leave_out(design):
    """Of 150 independent games: AUC 1/2 within 5 standard errors, an error rate of 5e-6 for all designs together.

    With all other models as shadow models, the numbers of those with both records and with neither would tell.
    """

    def distance(values):
        return (np.mean(values) - 0.5) / (np.std(values, ddof=1) / len(values) ** 0.5)

    games = [random_game(design, n_models=24, n_records=60, n_mixed=1, seed=seed) for seed in range(150)]
    assert abs(distance([mean_auc(game) for game in games])) < 5
    if design != "random":
        assert distance([mean_auc(game.plain_leave_one_out()) for game in games]) < -5


def test_pairs_torn_apart_are_not_scored():
    game = random_game(n_models=24, n_records=40, n_mixed=2, seed=3, signal=2)
    keep = np.flatnonzero(np.random.default_rng(0).random(40) < 0.7)[::-1]
    part = game.of_records(keep)
    whole, own = MixedPairs().of_sets(game)[1], MixedPairs().of_sets(part)[1]
    stays = np.isin(game.mixed_with[keep], keep)
    assert not own[:, ~stays].any()
    assert 0 < stays.sum() < keep.size
    np.testing.assert_array_equal(keep[part.mixed_with[stays]], game.mixed_with[keep][stays])
    # In the other order, the other record of a pair stands for it.
    for i in np.flatnonzero(stays):
        if part.mixed_with[i] > i:
            first = min(keep[i], keep[part.mixed_with[i]])
            np.testing.assert_array_equal(own[:, i], whole[:, first])


def test_mixed_pairs_with_records_that_all_models_fraction():
    inner = random_game("random", n_models=20, n_records=30, n_mixed=2, seed=4, signal=2)
    member = np.concatenate([inner.member, np.ones((20, 10), bool)], axis=1)
    logits = np.concatenate([inner.logits, np.zeros((20, 3, 10, 4))], axis=2)
    pair = np.concatenate([inner.dataset["pair"], 100 + np.arange(10) // 2])
    y = np.concatenate([inner.y, np.zeros(10, int)])
    game = mixed_game(logits, member, y, fractions=inner.attrs["mixed"]["fractions"], pair=pair)
    outcome, expected = MixedPairs().run(game), MixedPairs().run(inner)
    np.testing.assert_array_equal(outcome.evaluated[:, :30], expected.evaluated)
    np.testing.assert_allclose(outcome.score[:, :30], expected.score, rtol=1e-9)
    assert not outcome.evaluated[:, 30:].any()


def test_mixed_pairs_with_separate_shadow_models():
    both = random_game("random", n_models=30, n_records=40, n_mixed=2, seed=5, signal=2)
    shadow = np.arange(30) >= 4
    game = mia.Game(both.dataset.assign(shadow=("model", shadow)))
    outcome = MixedPairs().run(game)
    assert not outcome.evaluated[4:].any()
    for k in range(4):
        alone = mia.Game(both.dataset.isel(model=np.append(k, np.flatnonzero(shadow))))
        expected = MixedPairs().run(alone)
        np.testing.assert_allclose(outcome.score[k], expected.score[0], rtol=1e-9)
        np.testing.assert_array_equal(outcome.evaluated[k], expected.evaluated[0])


def test_canaries_are_in_no_pair_with_other_records():
    game = random_game(n_models=24, n_records=40, n_mixed=1, seed=6)
    canary = np.zeros(40, bool)
    one = 0
    two = next(i for i in range(1, 40) if i != game.mixed_with[one])
    canary[[one, two, game.mixed_with[two]]] = True
    marked = mia.Game(game.dataset.assign(canary=("record", canary)))
    lost = np.minimum(one, game.mixed_with[one])
    before, after = (MixedPairs().run(g).evaluated for g in (game, marked))
    assert not after[:, lost].any()
    np.testing.assert_array_equal(np.delete(after, lost, 1), np.delete(before, lost, 1))


# ----------------------------------------------------------------------------------------------------
# From play to the attack


@pytest.mark.slow
def test_a_played_game_of_mixtures(tmp_path):
    asked = Compose(Noise(n=2), Mixed(fractions=(0.3, 0.7), seed=5))
    options = {"n_models": 16, "queries": asked, "training": mia.Training(epochs=2), "store": tmp_path}
    pool = toys.pool(n=24)
    game = mia.play(pool, "mlp", **options)
    assert game.query_kinds == ("original", "noise", "noise", "mixed", "mixed")
    assert game.unmixed.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(game.mixed_with, pairing(24, 5))
    # By symmetric fractions, both records of a pair ask about the same mixtures.
    np.testing.assert_allclose(game.logits[:, 3], game.logits[:, 4][:, game.mixed_with], atol=1e-4)
    outcome = MixedPairs().run(game)
    assert outcome.evaluated.any()
    stored = MixedPairs().run(mia.play(pool, "mlp", **options))
    np.testing.assert_array_equal(outcome.score, stored.score)
    plain = mia.play(pool, "mlp", **options | {"queries": "augmented", "n_models": 6})
    assert plain.query_kinds == ("original", *16 * ("noise",))
    assert (plain.mixed_with == -1).all()


def test_other_attacks_leave_mixed_queries_out():
    game = random_game(n_queries=3, n_mixed=2, seed=8)
    without = mia.Game(game.dataset.isel(query=slice(3)).assign_attrs(query_kinds=game.query_kinds[:3]))
    for attack in (LiRA(queries="all"), mia.attacks.RMIA(queries="all"), mia.attacks.LabelOnly()):
        np.testing.assert_array_equal(attack.run(game).score, attack.run(without).score)
    only_mixed = random_game(n_mixed=2)
    with pytest.raises(RequirementsNotMet, match="needs at least 2 queries per record; this game has 1"):
        mia.attacks.LabelOnly().run(only_mixed)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CoMembership(size=0), "size=0 must be an integer of at least 1."),
        (lambda: CoMembership(of="lirra"), "attack='lirra' is unknown. Did you mean 'lira'?"),
        (lambda: CoMembership(of="quantile"), "of='quantile' looks at the features of records"),
        (lambda: CoMembership(per_class=True), "per_class=True has no use here: the records of a set"),
        (lambda: CoMembership(of="loss", calibrate="ratio"), "calibrate='ratio' is unknown."),
        (lambda: MixedPairs(variance="pool"), "variance='pool' is unknown. Did you mean 'pooled'?"),
        (lambda: MixedPairs(calibrate="shadows"), "calibrate='shadows' is unknown."),
    ],
)
def test_wrong_parameters(make, message):
    with pytest.raises(ValueError, match="^" + message.replace("?", r"\?")):
        make()


@pytest.mark.parametrize(
    ("attack", "game", "message"),
    [
        (
            CoMembership(size=11),
            {},
            "'co_membership_lira_11' needs targets with at least 11 members .* has 10",
        ),
        (CoMembership(), {"n_models": 4}, "'lira' needs at least 2 shadow models trained with a record"),
        (MixedPairs(), {}, "'mixed_pairs' needs queries of the kind 'mixed'; this game has 'original'"),
        (MixedPairs(), {"n_mixed": 1, "n_models": 6}, "'mixed_pairs' compares models trained on both"),
        (CoMembership(of="noise_robustness"), {}, "'noise_robustness' needs queries of the kind 'noise'"),
    ],
)
def test_games_that_lack_what_is_needed(attack, game, message):
    with pytest.raises(RequirementsNotMet, match=f"^Attack {message}"):
        attack.run(random_game(**game))


def test_scores_alone_do_not_do_for_pairs():
    game = random_game(n_models=16, n_mixed=1)
    kept = mia.Game(game.dataset.drop_vars("logits").assign_attrs(n_classes=4))
    with pytest.raises(RequirementsNotMet, match="needs logits, and this game keeps scores alone"):
        MixedPairs().run(kept)
