"""Separate shadow models: other records, fewer, another network; and what each attack asks of them."""

from functools import cache

import numpy as np
import pytest
import toys
from scipy.stats import norm
from scipy.stats import t as student

import mialab as mia
from mialab.exceptions import RequirementsNotMet
from mialab.training.membership import membership

SMALL = mia.models.MLP(hidden=(8,), activation="relu")
QUICK = mia.Training(epochs=2)
HALF = np.arange(40) < 20


def noise(n_targets=4, n_shadows=12, n_records=40, *, trained_on=slice(None), seed=0):
    """Return a game of random answers with shadow models that were trained on some of the records only."""
    rng = np.random.default_rng(seed)
    targets = membership(n_targets, n_records, seed)
    shadows = np.zeros((n_shadows, n_records), bool)
    shadows[:, trained_on] = membership(n_shadows, n_records, seed + 1000)[:, trained_on]
    member = np.concatenate([targets, shadows])
    logits = rng.normal(size=(len(member), n_records, 3))
    shadow = np.arange(len(member)) >= n_targets
    return mia.Game.from_arrays(
        logits=logits, member=member, y=rng.integers(3, size=n_records), shadow=shadow
    )


def test_members_come_from_the_candidates():
    member = membership(6, 40, 0, candidate=HALF)
    assert (member[:, HALF].sum(1) == 10).all()
    assert not member[:, ~HALF].any()
    assert (member[0, HALF] ^ member[1, HALF]).all()


def test_pairs_with_fewer_members_are_disjoint():
    member = membership(6, 40, 0, members=5)
    assert (member.sum(1) == 5).all()
    assert not (member[::2] & member[1::2]).any()


def test_the_default_membership_is_that_of_all_candidates():
    whole = np.ones(40, bool)
    assert (membership(4, 40, 3) == membership(4, 40, 3, candidate=whole, members=20)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": 0}, "members=0"),
        ({"members": 21}, "at most 20, half of the candidates"),
        ({"candidates": HALF, "members": 11}, "at most 10"),
        ({"candidates": np.arange(19)}, "19 records that may be members"),
        ({"candidates": [40, 1]}, "beyond the pool's 40 records"),
        ({"candidates": np.zeros(40, bool)}, "must choose some"),
        ({"candidates": np.ones(39, bool)}, r"shape \(39,\)"),
        ({"candidates": ["a"]}, "a mask of the pool's records"),
        ({"members": 5, "canaries": 4}, "canaries=4 do not go with"),
    ],
)
def test_impossible_memberships_are_refused(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        mia.play(toys.pool(), SMALL, training=QUICK, n_models=4, **options)


def test_models_are_trained_on_candidates_and_asked_about_all():
    pool = toys.pool()
    game = mia.play(pool, SMALL, training=QUICK, n_models=4, candidates=np.flatnonzero(HALF), members=6)
    assert game.logits.shape[2] == 40
    assert (game.member.sum(1) == 6).all()
    assert not game.member[:, ~HALF].any()
    outcome = mia.attacks.make("loss").run(game)
    assert not outcome.evaluated[:, ~HALF].any(), "records that nobody could be trained on are no non-members"
    mask = mia.play(pool, SMALL, training=QUICK, n_models=4, candidates=HALF, members=6)
    assert (mask.logits == game.logits).all(), "a mask and indices mean the same"


def test_games_are_joined_as_targets_and_shadow_models():
    pool = toys.pool()
    targets = mia.play(pool, SMALL, training=QUICK, n_models=4, candidates=HALF)
    shadows = mia.play(
        pool, mia.models.MLP(hidden=(4,)), training=QUICK, n_models=6, candidates=~HALF, seed=1
    )
    game = targets.with_shadows(shadows)
    assert game.shadow.tolist() == [False] * 4 + [True] * 6
    assert (game.candidate == HALF).all()
    assert (game.logits == np.concatenate([targets.logits, shadows.logits])).all()
    assert game.partner.tolist() == [1, 0, 3, 2, 5, 4, 7, 6, 9, 8]
    assert game.attrs["shadow_models"]["seed"] == 1
    table = mia.audit(game, ["loss", "lira_offline", "shokri"])
    assert set(table["target"]) == {"pooled", "mean", 0, 1, 2, 3}
    assert (table.query("target == 'pooled'")["n_member"] == 4 * 10).all()


def test_games_that_do_not_fit_are_not_joined():
    pool = toys.pool()
    targets = mia.play(pool, SMALL, training=QUICK, n_models=4)
    with pytest.raises(ValueError, match="another seed than 0"):
        targets.with_shadows(mia.play(pool, SMALL, mia.defenses.HAMP(), training=QUICK, n_models=4))
    with pytest.raises(ValueError, match="fingerprint"):
        targets.with_shadows(mia.play(toys.pool(seed=1), SMALL, training=QUICK, n_models=4, seed=1))
    with pytest.raises(ValueError, match="queries"):
        targets.with_shadows(mia.play(pool, SMALL, training=QUICK, n_models=4, seed=1, queries="augmented"))


def test_offline_lira_against_models_that_never_saw_the_record():
    game = noise(trained_on=slice(0, 0))
    phi = game.signal("scaled_logit")[:, 0]
    outcome = mia.attacks.make("lira_offline").run(game)
    shadows = phi[game.shadow]
    expected = (phi[:4] - shadows.mean(0)) / shadows.std(0, ddof=1)
    assert np.allclose(outcome.score[:4], expected, atol=1e-9)
    assert outcome.evaluated[:4].all()
    assert not outcome.evaluated[4:].any()


def test_online_lira_uses_the_separate_shadow_models_alone():
    game = noise()
    phi = game.signal("scaled_logit")[:, 0]
    score = mia.attacks.make("lira").run(game).score
    shadow = np.flatnonzero(game.shadow)
    for i in range(game.n_records):
        inside, outside = (phi[shadow[game.member[shadow, i] == side], i] for side in (True, False))
        log_density = [norm.logpdf(phi[:4, i], a.mean(), a.std(ddof=1)) for a in (inside, outside)]
        assert np.allclose(score[:4, i], log_density[0] - log_density[1], atol=1e-6)


def test_records_with_too_few_shadow_models_are_not_evaluated():
    game = noise(trained_on=slice(0, 10))
    outcome = mia.attacks.make("lira").run(game)
    assert outcome.evaluated[:4, :10].all()
    assert not outcome.evaluated[:, 10:].any()


@pytest.mark.parametrize("attack", ["lira", "rmia", "shokri", "ranking"])
def test_attacks_say_which_shadow_models_they_lack(attack):
    with pytest.raises(RequirementsNotMet, match="OUT models alone"):
        mia.attacks.make(attack).run(noise(trained_on=slice(0, 0)))


def test_a_single_target_can_be_audited_with_shadow_models_from_elsewhere():
    game = noise(n_targets=2, n_shadows=8)
    one = mia.Game.from_arrays(
        logits=game.logits[1:], member=game.member[1:], y=game.y, shadow=np.arange(9) > 0
    )
    both, alone = (mia.attacks.make("lira").run(g).score for g in (game, one))
    assert np.allclose(both[1], alone[0], atol=1e-12), "one target does not help against another"


def test_a_game_needs_a_target():
    with pytest.raises(ValueError, match="one at least must be a target"):
        mia.Game.from_arrays(
            logits=np.zeros((2, 4, 2)), member=np.eye(2, 4), y=np.arange(4) % 2, shadow=[1, 1]
        )


ATTACKS = [
    name
    for name, needs in mia.attacks.available().iterrows()
    if needs["features"] == "none" and needs["probe"] == "none" and needs["queries"] == "1"
]
#: Probability that any of the comparisons below fails where there is nothing to find.
ALARM = 1e-3


@cache
def noise_of(others, seed):
    """Return a game of noise; if shadow models are trained on other records, the targets' own are the first half."""
    game = noise(n_targets=2, trained_on=slice(20, 40) if others else slice(None), seed=seed)
    return mia.Game(game.dataset.assign(candidate=("record", np.arange(40) < 20))) if others else game


@pytest.mark.slow
@pytest.mark.parametrize("others", [False, True], ids=["same records", "others"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_is_found_where_there_is_nothing(attack, others):
    """AUC and balanced accuracy are 1/2 on noise (Student's t over so many games; Bonferroni over all comparisons)."""
    values = []
    for seed in range(8 if attack.startswith(("nasr", "shokri")) else 12):  # these train networks
        try:
            table = mia.audit(noise_of(others, seed), [attack], fprs=(), fnrs=())
        except RequirementsNotMet:
            assert others, "only shadow models of other records may be of no use"
            return
        pooled = table[table["target"] == "pooled"].set_index("metric")["value"]
        values.append([pooled["auc"], pooled["balanced_accuracy"]])
    mean, error = np.mean(values, 0), np.std(values, 0, ddof=1) / np.sqrt(len(values))
    limit = student.isf(ALARM / (4 * len(ATTACKS)) / 2, len(values) - 1)
    assert (abs(mean - 0.5) <= limit * error + 1e-12).all(), mean
