import dataclasses

import numpy as np
import pytest
import torch
import toys
from scipy import linalg
from torch import nn

from mialab.gan import quality as q
from mialab.gan import utility
from mialab.gan.game import GeneratorGame
from mialab.gan.utility import train_on_synthetic
from mialab.metrics.intervals import over_targets
from mialab.training.membership import membership

POOL = toys.pool("image", n=120, validation=60, test=60)


class Identity(nn.Module):
    """Records are their own features."""

    num_features = 6

    def forward(self, x):
        return x.double()


def game(noise=0.0, *, source="members", pool=POOL, n_models=4, samples=100, seed=0, **options):
    """Make a game whose samples are noisy copies of a model's members, or of held-out records it never saw."""
    rng = np.random.default_rng(seed)
    member = options.pop("member", membership(n_models, len(pool), 0))
    drawn, labels = [], np.arange(samples) % pool.n_classes
    for row in member:
        x, y = (pool.x[row], pool.y[row]) if source == "members" else (pool.x_test, pool.y_test)
        rows = [rng.choice(np.flatnonzero(y == label)) for label in labels]
        drawn.append(np.clip(x[rows] + noise * rng.normal(size=(samples, *pool.x.shape[1:])), 0, 1))
    given = {"samples": np.array(drawn, np.float32), "sample_y": labels, "y": pool.y, "member": member}
    given["partner"] = np.arange(n_models) ^ 1
    return GeneratorGame.from_arrays(**given | options)


# ------------------------------------------------------------------------------------ distances of distributions


@pytest.mark.slow
def test_fid_is_the_closed_form():
    rng = np.random.default_rng(0)
    real, made = rng.normal(size=(300, 6)), rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)) + 0.3
    cov = [np.cov(x.astype(np.float32), rowvar=False) for x in (real, made)]
    apart = real.astype(np.float32).mean(0) - made.astype(np.float32).mean(0)
    expected = apart @ apart + np.trace(cov[0] + cov[1] - 2 * linalg.sqrtm(cov[0] @ cov[1]).real)
    fid, _ = q.distances(real.astype(np.float32), made.astype(np.float32), Identity())
    assert fid == pytest.approx(expected, rel=1e-4)


def test_kid_is_the_unbiased_cubic_kernel():
    rng = np.random.default_rng(1)
    x, y = (rng.normal(size=(40, 6)).astype(np.float32) for _ in range(2))

    def kernel(a, b):
        return (a.astype(np.float64) @ b.T / 6 + 1) ** 3

    within = sum((k.sum() - np.trace(k)) / (40 * 39) for k in (kernel(x, x), kernel(y, y)))
    _, kid = q.distances(x, y, Identity())
    assert kid == pytest.approx(within - 2 * kernel(x, y).mean(), rel=1e-5)


@pytest.mark.slow
def test_kid_is_right_at_small_numbers_and_fid_is_not():
    rng = np.random.default_rng(2)
    found = {n: [q.distances(*rng.normal(size=(2, n, 6)), Identity()) for _ in range(60)] for n in (15, 60)}
    for pairs in found.values():
        kid = np.array(pairs)[:, 1]
        # Beyond 4 standard errors once in 15,000 draws.
        assert abs(kid.mean()) < 4 * kid.std(ddof=1) / np.sqrt(kid.size)
    assert np.mean(found[15], 0)[0] > 2 * np.mean(found[60], 0)[0] > 0


def test_subsets_of_many_records_are_drawn_from_the_seed_alone(monkeypatch):
    monkeypatch.setattr(q, "KERNEL_RECORDS", 20)
    x, y = np.random.default_rng(3).normal(size=(2, 90, 6))
    before = torch.get_rng_state()
    first, again, other = (q.distances(x, y, Identity(), seed=s) for s in (0, 0, 1))
    assert first == again
    assert first[0] == other[0]
    assert first[1] != other[1]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_features_are_learnt_from_held_out_records_alone():
    first = q.extractor(POOL, seed=1)
    features = first(torch.as_tensor(POOL.x_val))
    assert features.shape == (60, first.num_features)
    assert features.dtype == torch.float64
    assert features.var(0).mean() == pytest.approx(1)
    changed = dataclasses.replace(POOL, x=POOL.x[::-1].copy(), x_test=POOL.x_test[::-1].copy())
    assert torch.equal(q.extractor(changed, seed=1)(torch.as_tensor(POOL.x_val)), features)
    assert not torch.equal(q.extractor(POOL, seed=2)(torch.as_tensor(POOL.x_val)), features)


def test_bytes_are_the_same_pixels():
    pixels = np.random.default_rng(4).integers(256, size=(2, 30, 6), dtype=np.uint8)
    floats = pixels.astype(np.float32) / np.float32(255)
    assert q.distances(*pixels, Identity()) == pytest.approx(q.distances(*floats, Identity()))


# ------------------------------------------------------------------------------------------------------ the table


@pytest.mark.slow
def test_a_table_ranks_generators_and_shows_what_real_records_reach():
    accuracy = np.array([0.7, 0.8, 0.6, 0.9])
    games = {"good": game(0.02, test_accuracy=accuracy), "bad": game(0.5, test_accuracy=accuracy)}
    table = q.assess(games, POOL)
    assert list(table.columns) == ["defense", "metric", "value", "low", "high", "models", "records"]
    value = table.pivot(index="defense", columns="metric", values="value")
    for metric in ("fid", "kid"):
        assert value.at["real records", metric] < value.at["bad", metric]
        assert value.at["good", metric] < value.at["bad", metric]
    expected = over_targets(accuracy, partner=[1, 0, 3, 2])
    good = table[(table["defense"] == "good") & (table["metric"] == "accuracy")].iloc[0]
    assert good["value"] == pytest.approx(expected.value)
    assert (good["low"], good["high"]) == (max(0, expected.low), min(1, expected.high))
    # 100 samples, 60 members, 60 test records.
    assert set(table.loc[table["metric"] != "accuracy", "records"]) == {60}
    assert set(table.loc[table["metric"] == "accuracy", "records"]) == {100, 60}
    assert value.at["real records", "accuracy"] > 0.6  # chance is 1/3
    assert q.assess(games, POOL).equals(table)


@pytest.mark.slow
def test_models_that_are_shadows_only_do_not_count():
    g = game(test_accuracy=np.array([0.7, 0.8, 0.1, 0.1]), shadow=np.array([False, False, True, True]))
    table = q.assess({"none": g}, POOL).set_index(["defense", "metric"])
    assert table.at[("none", "accuracy"), "value"] == pytest.approx(0.75)
    assert set(table["models"]) == {2}
    assert set(q.memorization({"none": g}, POOL)["models"]) == {2}


# ------------------------------------------------------------------------------------------- train on synthetic


@pytest.mark.slow
def test_classifiers_learn_from_good_samples_only():
    rng = np.random.default_rng(0)
    real = train_on_synthetic(POOL.x[None], POOL.y, POOL, seed=0, models=[0]).mean()
    wrong = train_on_synthetic(POOL.x[None], rng.permutation(POOL.y), POOL, seed=0, models=[0]).mean()
    assert real > 0.7
    assert wrong < 0.6
    assert train_on_synthetic(POOL.x[None], POOL.y, POOL, seed=0, models=[0]).mean() == real


@pytest.mark.slow
def test_test_records_may_be_bytes():
    pool = dataclasses.replace(
        POOL, **{part: (getattr(POOL, part) * 255).astype(np.uint8) for part in ("x", "x_val", "x_test")}
    )
    as_bytes, as_numbers = (
        train_on_synthetic(POOL.x[None], POOL.y, p, seed=0, models=[0]).mean() for p in (pool, POOL)
    )
    assert as_bytes == pytest.approx(as_numbers, abs=0.05)


def test_there_is_no_accuracy_without_labels_or_test_records():
    assert not train_on_synthetic(POOL.x[None], np.zeros_like(POOL.y), POOL, seed=0, models=[0]).size
    untested = dataclasses.replace(POOL, x_test=POOL.x[:0], y_test=POOL.y[:0])
    assert not train_on_synthetic(POOL.x[None], POOL.y, untested, seed=0, models=[0]).size


@pytest.mark.parametrize("kind", ["binary", "image"])
def test_tables_and_larger_images_are_classified_too(kind, monkeypatch):
    monkeypatch.setattr(utility, "STEPS", 20)
    pool = toys.pool(kind, n=60, validation=30, test=30)
    if kind == "image":
        parts = ("x", "x_val", "x_test")
        pool = dataclasses.replace(
            pool, **{part: getattr(pool, part).repeat(2, 2).repeat(2, 3) for part in parts}
        )
    assert 0 <= train_on_synthetic(pool.x[None], pool.y, pool, seed=0, models=[3]).mean() <= 1


# ------------------------------------------------------------------------------------------------- memorization


def test_copies_are_found():
    table = q.memorization({"none": game()}, POOL).set_index("metric")["value"]
    assert table["closer to a member"] == 1
    assert table["to nearest member"] == 0
    assert table["to nearest non-member"] > 0.1


def test_records_that_no_model_has_seen_are_as_close_to_either_side():
    # Three members to a non-member would give about 3/4 if numbers were not made equal.
    member = np.random.default_rng(0).random((12, 120)) < 0.75
    g = game(source="test", n_models=12, samples=200, member=member, partner=np.full(12, -1))
    row = q.memorization({"none": g}, POOL, confidence=0.999).set_index("metric").loc["closer to a member"]
    assert row["low"] < 0.5 < row["high"]  # false once in 1,000 draws
    assert abs(row["value"] - 0.5) < 0.1


def test_a_distance_is_to_the_nearest():
    rng = np.random.default_rng(5)
    x, others = (torch.as_tensor(rng.normal(size=(n, 5))) for n in (300, 40))
    expected = np.linalg.norm(x.numpy()[:, None] - others.numpy(), axis=2).min(1)
    np.testing.assert_allclose(q.nearest(x, others), expected)
    assert q.nearest(others, others).max() == 0


# ------------------------------------------------------------------------------------------------------ refusals


def test_what_does_not_fit_is_refused():
    g = game()
    with pytest.raises(ValueError, match="load the pool with validation"):
        q.extractor(dataclasses.replace(POOL, x_val=POOL.x[:0], y_val=POOL.y[:0]))
    with pytest.raises(ValueError, match="test records"):
        q.assess({"none": g}, dataclasses.replace(POOL, x_test=POOL.x[:0], y_test=POOL.y[:0]))
    with pytest.raises(ValueError, match="must hold at least one game"):
        q.assess({}, POOL)
    with pytest.raises(ValueError, match="'none' has samples of shape"):
        q.assess({"none": g}, toys.pool("image", n=100, validation=60))
    empty = GeneratorGame.from_arrays(member=g.member, critic_loss=np.zeros(g.member.shape))
    with pytest.raises(ValueError, match="has no samples"):
        q.memorization({"none": empty}, POOL)
    with pytest.raises(ValueError, match="2 are needed"):
        q.distances(POOL.x[:1], POOL.x[:5], Identity())
    with pytest.raises(ValueError, match="samples has records of shape"):
        train_on_synthetic(POOL.x[None, ..., 0], POOL.y, POOL, seed=0, models=[0])
    with pytest.raises(ValueError, match="models=-1"):
        train_on_synthetic(POOL.x[None], POOL.y, POOL, seed=0, models=[-1])


@pytest.mark.slow
def test_differences_in_quality_are_those_of_the_tables():
    one, other = game(), game(seed=1)
    table = (
        q.assess({"one": one, "other": other}, POOL).query("metric == 'fid'").set_index("defense")["value"]
    )
    found = q.difference(one, other, POOL, "fid")
    assert found.value == pytest.approx(table["one"] - table["other"])
    assert q.difference(one, one, POOL, "kid") == (0, 0, 0)
