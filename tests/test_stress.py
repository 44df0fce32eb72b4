"""Canaries of several kinds, the risk of single records, and its comparison between groups and seeds."""

import re
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import toys

import mialab as mia
from mialab.chapters import stress
from mialab.metrics import Outcome
from mialab.training.membership import membership

K, N = 32, 600


def played(risky=0, strength=6.0, seed=0):
    """Draw scores of noise; members among the first records have much higher ones."""
    rng = np.random.default_rng(seed)
    member = membership(K, N, seed=seed)
    score = rng.normal(size=(K, N))
    score[:, :risky] += strength * member[:, :risky]
    return Outcome(
        score=score,
        evaluated=np.ones((K, N), bool),
        predicted_member=score > 0,
        member=member,
        partner=np.arange(K) ^ 1,
        attack="made",
        description="made",
    )


def test_records_at_risk_are_found():
    table = stress.exposure(played(risky=30))
    assert table["exposed"][:30].all()
    assert table["exposed"][30:].mean() < 0.02
    assert (table["named"][:30] > 0.9).all()
    assert (table["low"] <= table["named"]).all()
    assert (table["named"] <= table["high"]).all()


def test_on_noise_nobody_is_at_risk():
    """In 40 games: each has a false discovery with at most 5 %, so six or more of them have one in one test of 70."""
    found = [stress.exposure(played(seed=seed))["exposed"].any() for seed in range(40)]
    assert sum(found) < 6


def test_the_threshold_names_as_many_as_it_may():
    outcome = played()
    for fpr in (0.001, 0.01, 0.2):
        table = stress.exposure(outcome, fpr=fpr)
        out = (~outcome.member).sum(0)
        assert (table["named wrongly"] * out).sum() == pytest.approx(fpr * out.sum(), abs=1)


def test_a_rate_that_is_none_is_refused():
    with pytest.raises(ValueError, match="fpr=2 must be a fraction"):
        stress.exposure(played(), fpr=2)


def test_what_is_the_same_is_stable_and_noise_is_not():
    first, again, noise = (
        stress.exposure(played(risky=60, seed=s) if s < 2 else played(seed=s)) for s in range(3)
    )
    same = stress.stability(first, again)
    assert same["both"] > 50
    assert same["rank correlation"] > 0.3
    apart = stress.stability(noise, stress.exposure(played(seed=3)))
    assert apart["both"] < 20  # 6 by chance; above 15 in one of 1,000
    assert apart["both by chance"] == pytest.approx(6)
    assert apart["both"] + apart["either"] == 120
    with pytest.raises(ValueError, match="of the same ones"):
        stress.stability(first, first[:10])


def test_groups_are_told_apart_where_they_differ():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(10), 40)
    risk = rng.normal(0.3, 0.2, 400)
    risk[group == 3] += 0.3
    table = stress.by_group(risk, group)
    assert table.attrs["p"] < 1e-6
    assert table["risk"].idxmax() == table["shrunken"].idxmax() == 3
    assert table["shrunken"].max() < table["risk"].max()


def test_noise_alone_is_shrunk_away():
    """Of 200 draws without a difference, p is below 5 % in 10; above 24 in one test of 100,000."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(8), 50)
    tables = [stress.by_group(rng.normal(size=400), group) for _ in range(200)]
    assert sum(table.attrs["p"] < 0.05 for table in tables) <= 24
    assert np.median([table["shrunken"].std() / table["risk"].std() for table in tables]) < 0.5
    with pytest.raises(ValueError, match="two groups"):
        stress.by_group(np.zeros(4), np.zeros(4))


def test_canaries_are_what_they_are_called():
    pool = mia.load("digits", size=400, test=300)
    made, masks = stress.with_canaries(pool, 20)
    changed_x = (made.x != pool.x).reshape(400, -1).any(1)
    changed_y = made.y != pool.y
    assert {kind: int(mask.sum()) for kind, mask in masks.items()} == dict.fromkeys(stress.CANARIES, 20) | {
        "ordinary": 320
    }
    assert not (changed_x | changed_y)[masks["ordinary"]].any()
    assert changed_y[masks["mislabeled"]].all()
    assert not changed_x[masks["mislabeled"]].any()
    odd = masks["out of distribution"]
    assert not changed_y[odd].any()
    flat = made.x.reshape(400, -1), pool.x.reshape(400, -1)
    assert (np.sort(flat[0][odd], 1) == np.sort(flat[1][odd], 1)).all()
    copies = flat[0][masks["duplicated"]]
    assert all((copies == row).all(1).sum() >= 2 for row in copies)
    hard = masks["adversarial"]
    assert not changed_y[hard].any()
    from sklearn.linear_model import LogisticRegression

    scale = float(pool.x.max() - pool.x.min())
    linear = LogisticRegression(max_iter=300).fit(pool.x_test.reshape(300, -1) / scale, pool.y_test)
    before, after = (linear.score(x[hard] / scale, pool.y[hard]) for x in flat[::-1])
    assert before > 0.7
    assert after < 0.4
    again, _ = stress.with_canaries(pool, 20)
    assert (again.x == made.x).all()


@pytest.mark.parametrize(
    ("n", "message"), [(3, "n=3 must be even"), (1, "n"), (200, "more than half of 400 records")]
)
def test_impossible_canaries_are_refused(n, message):
    with pytest.raises(ValueError, match=message):
        stress.with_canaries(mia.load("digits", size=400, test=300), n)


def test_canaries_need_a_test_part():
    with pytest.raises(ValueError, match="no test part"):
        stress.with_canaries(replace(toys.pool(), x_test=None, y_test=None), 2)


@pytest.mark.slow
def test_who_knows_the_defense_is_stronger_where_answers_are_noise(fresh_cache):
    """DynaNoise's noise wears off in an average of queries; without a defense both attackers are the same."""
    pool = mia.load("clusters", size=300, test=300)
    options = {
        "model": mia.models.MLP(hidden=(48,)),
        "training": mia.Training(epochs=40, lr=0.003, batch_size=32),
        "n_models": 16,
        "queries": "augmented",
    }
    games = [
        {name: mia.play(pool, defense=name, seed=seed, **options) for name in ("none", "dynanoise")}
        for seed in (0, 1)
    ]
    found = stress.adaptive(*games)
    assert found["none"][3].value == pytest.approx(0, abs=0.02)
    naive, _, adaptive, apart = found["dynanoise"]
    assert apart.low > 0.05
    assert apart.value == pytest.approx(adaptive.value - naive.value)
    table = stress.epsilons(
        {**games[0], "private": mia.play(pool, defense=mia.defenses.DPSGD(epsilon=1), **options)}
    )
    assert table.loc["none", "epsilon"] > 0.5
    assert np.isnan(table.loc["none", "proven"])
    assert 0 < table.loc["private", "proven"] <= 2
    assert not table["broken"].any()


def test_a_bound_above_the_proof_is_told(fresh_cache):
    """An undefended game that says of itself that epsilon is a thousandth."""
    pool = mia.load("clusters", size=300, test=100)
    game = mia.play(
        pool, mia.models.MLP(hidden=(48,)), training=mia.Training(epochs=40, lr=0.003), n_models=8
    )
    lies = type(game)(game.dataset.assign_attrs(report={"epsilon_prv": 0.001, "delta": 1e-5}))
    assert stress.epsilons({"lies": lies}).loc["lies", "broken"]


def test_pictures_are_those_of_the_most_exposed():
    pool = mia.load("digits", size=100, test=50)
    table = pd.DataFrame({"named": np.linspace(0, 1, 100), "risk": np.linspace(0, 1, 100)})
    figure = mia.plots.records(pool, table, n=3)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == [
        f"{pool.label_names[pool.y[i]] if pool.label_names else pool.y[i]}\n{p:.0f} %"
        for i, p in ((99, 100), (98, 99), (97, 98))
    ]
    plt.close(figure)
    with pytest.raises(ValueError, match="no images"):
        mia.plots.records(toys.pool(), table)


def test_canary_rates_stand_beside_the_published_ones():
    member = mia.membership(8, 80, 0)
    score = member + np.random.default_rng(0).normal(size=member.shape)
    table = mia.audit(
        mia.Game.from_arrays(scaled_logit=score, member=member), ["lira_pooled"], fprs=(0.001, 0.1)
    )
    rows = stress.canary_rates({"hamp": {"duplicated": table}, "mine": {"duplicated": table}}, 0.1)
    assert rows.loc["hamp", "published"] == "0.021, canaries 0.285"
    assert rows.loc["mine", "published"] == "-"
    assert re.fullmatch(r"0\.\d{3} \[.*\]", rows.loc["hamp", "duplicated"])
    assert (
        stress.canary_rates({"hamp": {"duplicated": table}}, 0.001).loc["hamp", "duplicated"]
        == "not resolvable"
    )
