"""Pools: what they hold, how they are cut, and what is said when something is wrong."""

import dataclasses
import functools
import hashlib
import http.server
import io
import os
import pickle
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mialab._paths import cache_folder
from mialab.data import loading, registry, tables
from mialab.data.loading import datasets, load
from mialab.data.pool import Pool


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    """No test reads the user's data, nor writes to the user's cache."""
    monkeypatch.delenv("MIALAB_DATA", raising=False)
    monkeypatch.setenv("MIALAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")


def toy(n=12, n_classes=3, **changes):
    """Make a small valid pool; `changes` replace its arguments."""
    rng = np.random.default_rng(0)
    arguments = {
        "name": "toy",
        "x": rng.normal(size=(n, 4)).astype(np.float32),
        "y": np.arange(n) % n_classes,
        "n_classes": n_classes,
        "kind": "tabular",
    }
    return Pool(**(arguments | changes))


# ----------------------------------------------------------------------------------------------------
# The embedded sets


@pytest.mark.parametrize(
    ("name", "kind", "shape", "n_classes", "sizes"),
    [
        ("digits", "image", (1, 8, 8), 10, (1000, 100, 697)),
        ("clusters", "tabular", (60,), 30, (1000, 100, 1000)),
    ],
)
def test_embedded_sets_have_their_documented_shapes(name, kind, shape, n_classes, sizes):
    pool = load(name)
    assert (pool.name, pool.kind, pool.n_classes) == (name, kind, n_classes)
    assert (len(pool), len(pool.y_val), len(pool.y_test)) == sizes
    assert pool.x.shape == (sizes[0], *shape)
    assert pool.x.dtype == np.float32
    assert pool.y.dtype == np.int64
    for labels in (pool.y, pool.y_val, pool.y_test):
        assert set(labels) == set(range(n_classes))


def test_digits_are_scaled_to_the_unit_interval():
    pool = load("digits")
    assert pool.x.min() == 0
    assert pool.x.max() == 1
    assert np.array_equal(pool.x * 16, np.round(pool.x * 16))


def test_an_overfitted_network_separates_members_of_clusters_from_others():
    """The property the set is made for: members are fitted fully, others are often wrong."""
    from sklearn.neural_network import MLPClassifier

    pool = load("clusters")
    half = len(pool) // 2
    network = MLPClassifier((128,), max_iter=60, batch_size=64, random_state=0, tol=0, n_iter_no_change=60)
    with pytest.warns(match="Maximum iterations"):
        network.fit(pool.x[:half], pool.y[:half])
    assert network.score(pool.x[:half], pool.y[:half]) > 0.99
    # 1,500 other records: the standard error is 0.013, so the margins hold for any accuracy in 0.5..0.7.
    others = np.concatenate([pool.x[half:], pool.x_test]), np.concatenate([pool.y[half:], pool.y_test])
    assert 0.45 < network.score(*others) < 0.75


def test_clusters_is_one_fixed_set_whatever_the_size_and_seed():
    whole = load("clusters", size=20_000, validation=0, test=0)
    rows = {row.tobytes() for row in whole.x}
    assert len(rows) == 20_000
    for pool in (load("clusters", size=50, seed=1), load("clusters", size=3000, seed=2)):
        assert {row.tobytes() for row in pool.x} <= rows


# ----------------------------------------------------------------------------------------------------
# How a set is cut


@pytest.fixture
def numbered(tmp_path):
    """Make an npz file of `n` records whose single feature is the row number, with uneven classes."""

    def make(n=1000, **extra):
        y = np.random.default_rng(7).choice(4, size=n, p=[0.55, 0.3, 0.1, 0.05])
        y[:4] = range(4)
        np.savez(tmp_path / "mine.npz", x=np.arange(n, dtype=np.float32)[:, None], y=y, **extra)
        return tmp_path / "mine.npz"

    return make


def ids(x):
    return x[:, 0].astype(int)


@pytest.mark.parametrize("seed", [0, 1])
def test_parts_are_disjoint_and_records_keep_their_labels(numbered, seed):
    path = numbered()
    labels = np.load(path)["y"]
    pool = load(path, size=600, validation=150, test=200, seed=seed)
    parts = [ids(pool.x), ids(pool.x_val), ids(pool.x_test)]
    assert [len(part) for part in parts] == [600, 150, 200]
    assert len(np.unique(np.concatenate(parts))) == 950
    for part, y in zip(parts, (pool.y, pool.y_val, pool.y_test), strict=True):
        assert np.array_equal(labels[part], y)


def test_every_part_holds_every_class_in_proportion(numbered):
    path = numbered()
    fraction = np.bincount(np.load(path)["y"]) / 1000
    pool = load(path, size=600, validation=150, test=200)
    for y in (pool.y, pool.y_val, pool.y_test):
        assert np.abs(np.bincount(y, minlength=4) - len(y) * fraction).max() <= 2


@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=8),
    cut=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_beginning_of_the_order_is_stratified(counts, cut, seed):
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    order = loading._spread(y, seed)
    assert np.array_equal(np.sort(order), np.arange(len(y)))
    k = round(cut * len(y))
    kept = np.bincount(y[order[:k]], minlength=len(counts))
    # Each count is within 1 of (its class) x (one cut point), and the cut point within C/n of k/n.
    assert np.all(np.abs(kept - k * np.array(counts) / len(y)) <= 1 + len(counts) * np.array(counts) / len(y))


def test_the_order_within_a_class_is_uniform():
    # Over 2,000 seeds the record first in its class of 5 is uniform: chi-squared, 4 degrees of freedom; the
    # bound is exceeded by chance with probability 1e-6, and the seeds are fixed.
    y = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 1, 1])
    zero = np.flatnonzero(y == 0)
    first = []
    for seed in range(2000):
        order = loading._spread(y, seed)
        first.append(next(r for r in order if y[r] == 0))
    observed = np.array([first.count(r) for r in zero])
    assert ((observed - 400) ** 2 / 400).sum() < 33.4


def test_seed_decides_the_pool_and_nothing_else(numbered):
    path = numbered()
    assert load(path, seed=3).fingerprint == load(path, seed=3).fingerprint
    assert load(path, seed=3).fingerprint != load(path, seed=4).fingerprint
    np.random.seed(0)  # noqa: NPY002
    assert load("digits").fingerprint == load("digits").fingerprint


def test_a_smaller_pool_is_the_beginning_of_a_larger_one_with_the_same_test_records(numbered):
    small, large = (load(numbered(), size=size, validation=100, test=200) for size in (100, 600))
    assert np.array_equal(ids(small.x), ids(large.x)[:100])
    assert np.array_equal(ids(small.x_test), ids(large.x_test))
    assert np.array_equal(ids(small.x_val), ids(large.x_val))


@given(
    size=st.integers(1, 100).map(lambda half: 2 * half),
    others=st.tuples(*[st.integers(0, 100)] * 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_record_is_in_two_parts(size, others, seed):
    y = np.arange(500) % 7
    raw = registry.Raw(np.arange(500, dtype=np.float32)[:, None], y)
    entry = registry.Entry("numbers", lambda: raw, "tabular", 500, 7, origin="")
    cut = dict(zip(("validation", "test", "reference"), others, strict=True))
    pool = loading._cut(entry, raw, size=size, seed=seed, **cut)
    parts = {name: ids(getattr(pool, f"x{name}")) for name in ("", "_val", "_test", "_reference")}
    assert [len(part) for part in parts.values()] == [size, *others]
    assert len(np.unique(np.concatenate(list(parts.values())))) == size + sum(others)
    for name, rows in parts.items():
        assert np.array_equal(y[rows], getattr(pool, f"y{name}"))
    without = loading._cut(entry, raw, size=size, seed=seed, **cut | {"reference": 0})
    for name in ("x", "y", "x_val", "y_val", "x_test", "y_test"):
        assert np.array_equal(getattr(pool, name), getattr(without, name)), name


def test_a_reference_part_only_where_it_is_asked_for(numbered):
    pool = load("digits")
    assert pool.x_reference.shape == (0, 1, 8, 8)
    assert pool.fingerprint == load("digits", reference=0).fingerprint
    other = load("digits", reference=97)
    assert (len(other.y_reference), len(other.y_test)) == (97, 600)
    assert np.array_equal(other.x, pool.x)
    assert other.fingerprint != pool.fingerprint
    assert repr(other).endswith("100 validation, 600 test, 97 reference)")
    assert load(**other.loaded).fingerprint == other.fingerprint
    pool = load(numbered(1001), reference=101)
    assert (len(pool), len(pool.y_val), len(pool.y_test), len(pool.y_reference)) == (600, 50, 250, 101)


def test_default_parts_of_an_own_file(numbered):
    pool = load(numbered(1001))
    assert (len(pool), len(pool.y_val), len(pool.y_test)) == (700, 50, 250)


def test_own_test_and_validation_parts_are_kept_apart_and_whole(numbered):
    extra = {
        "x_test": np.arange(5000, 5090, dtype=np.float32)[:, None],
        "y_test": np.arange(90) % 4,
        "x_val": np.arange(6000, 6040, dtype=np.float32)[:, None],
        "y_val": np.arange(40) % 4,
        "x_reference": np.arange(7000, 7020, dtype=np.float32)[:, None],
        "y_reference": np.arange(20) % 4,
    }
    path = numbered(1001, **extra)
    pool = load(path)
    assert len(pool) == 1000
    assert np.array_equal(pool.x_test, extra["x_test"])
    assert np.array_equal(pool.x_val, extra["x_val"])
    assert np.array_equal(pool.x_reference, extra["x_reference"])
    part = load(path, test=40)
    assert np.array_equal(np.bincount(part.y_test), [10, 10, 10, 10])
    assert set(ids(part.x_test)) < set(range(5000, 5090))
    with pytest.raises(ValueError, match=r"^test=91 is more than mine has: 90 test records$"):
        load(path, test=91)
    with pytest.raises(ValueError, match=r"^reference=21 is more than mine has: 20 reference records$"):
        load(path, reference=21)


def test_only_the_parts_asked_for():
    pool = load("digits", size=200, validation=0, test=0)
    assert pool.x_val.shape == pool.x_test.shape == (0, 1, 8, 8)
    assert pool.y_test.dtype == np.int64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 1001}, r"^size must be even .* got 1001$"),
        ({"size": 0}, r"^size must be even .* got 0$"),
        ({"size": 10.0}, r"^size=10\.0 must be an integer of at least 0\.$"),
        ({"size": True}, r"^size=True must be an integer of at least 0\.$"),
        ({"reference": -1}, r"^reference=-1 must be an integer of at least 0\.$"),
        (
            {"validation": 300, "test": 500, "reference": 7},
            r" \+ reference=7 asks .* size can be at most 990$",
        ),
        ({"test": -1}, r"^test=-1 must be an integer of at least 0\.$"),
        ({"seed": None}, r"^seed=None must be an integer of at least 0\.$"),
        (
            {"size": 1798, "validation": 0, "test": 0},
            r"^size=1798 \+ validation=0 \+ test=0 asks for more records than digits has \(1797\); "
            r"so cut, size can be at most 1796$",
        ),
        ({"size": 1000, "validation": 300, "test": 500}, r"size can be at most 996$"),
        ({"size": 2, "validation": 2000}, r"validation=2000 .* size can be at most 0$"),
    ],
)
def test_impossible_cuts_say_what_is_possible(options, message):
    with pytest.raises(ValueError, match=message):
        load("digits", **options)


def test_the_largest_size_named_is_indeed_possible():
    assert len(load("digits", size=996, validation=300, test=500)) == 996


# ----------------------------------------------------------------------------------------------------
# The pool's checks


def test_a_valid_pool_is_not_changed():
    x, y = np.ones((4, 3), np.float32), np.array([0, 1, 0, 1])
    pool = Pool("p", x, y, 2, "binary")
    assert pool.x is x
    assert pool.y is y
    assert len(pool) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kind": "tabula"},
            r"^kind='tabula' is unknown\. Did you mean 'tabular'\? Known: binary, image, tabular\.$",
        ),
        ({"n_classes": 1}, r"^n_classes=1 must be an integer of at least 2\.$"),
        ({"n_classes": 2.5}, r"^n_classes=2\.5 must be an integer of at least 2\.$"),
        ({"label_names": ("a", "b")}, r"^label_names has 2 names for 3 classes$"),
        ({"x": [[1.0]]}, r"^x must be a numpy array, got list$"),
        (
            {"x": np.zeros((12, 4))},
            r"^x of kind 'tabular' must be float32, got float64: pass x\.astype\(np\.float32\)$",
        ),
        ({"y": np.zeros(12)}, r"^y must be one int64 label .* float64: pass y\.astype\(np\.int64\)$"),
        ({"y": np.zeros((12, 3), np.int64)}, r"shape \(12, 3\) int64: pass y\.argmax\(axis=1\)"),
        ({"y": np.zeros(11, np.int64)}, r"^x has 12 records but y has 11 labels: they must agree$"),
        (
            {"x": np.zeros((12, 2, 2), np.float32)},
            r"must have shape \(records, features\), got \(12, 2, 2\)$",
        ),
        ({"x_val": np.zeros((1, 4), np.float32)}, r"^x_val is given without y_val: give both or neither$"),
        ({"y_test": np.zeros(1, np.int64)}, r"^y_test is given without x_test"),
        (
            {"x_reference": np.zeros((1, 4), np.float32)},
            r"^x_reference is given without y_reference: give both",
        ),
        (
            {"x_reference": np.zeros((1, 4), np.float32), "y_reference": np.array([3])},
            r"^y_reference must hold labels 0\.\.2, found 3 in 1 record \(row 0\)$",
        ),
        (
            {"kind": "binary"},
            r"kind 'binary' must hold only 0 and 1; other values in 12 records \(row 0, 1, 2, 3, 4",
        ),
        # Bytes would be divided by 255 on their way into a network, so only pixels may be bytes.
        (
            {"kind": "binary", "x": np.zeros((12, 4), np.uint8)},
            r"^x of kind 'binary' must be float32, got uint8",
        ),
        (
            {"kind": "image", "x": np.zeros((12, 1, 2, 2))},
            r"^x of kind 'image' must be float32 or uint8, got fl",
        ),
        ({"kind": "image"}, r"must have shape \(records, channels, height, width\), got \(12, 4\)$"),
        ({"kind": "image", "x": np.zeros((12, 8, 8), np.uint8)}, r"one channel, pass x\[:, None\]$"),
        (
            {"kind": "image", "x": np.zeros((12, 8, 8, 3), np.uint8)},
            r"last, pass x\.transpose\(0, 3, 1, 2\)$",
        ),
        (
            {"x_test": np.zeros((2, 5), np.float32), "y_test": np.zeros(2, np.int64)},
            r"^x_test holds records of shape \(5,\) float32, x of shape \(4,\) float32: they must agree$",
        ),
    ],
)
def test_invalid_arrays_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        toy(**changes)


def test_non_finite_features_are_counted_and_located():
    x = np.zeros((12, 4), np.float32)
    x[3, 0] = x[3, 1] = np.nan
    x[7, 2] = -np.inf
    with pytest.raises(
        ValueError, match=r"^x holds 3 NaN or infinite values in 2 records \(row 3, 7\): remove"
    ):
        toy(x=x)
    with pytest.raises(ValueError, match=r"^x_val holds 3 NaN"):
        toy(x_val=x, y_val=np.zeros(12, np.int64))


def test_labels_out_of_range_are_located():
    y = np.arange(12) % 3
    y[5] = 7
    with pytest.raises(ValueError, match=r"^y must hold labels 0\.\.2, found 7 in 1 record \(row 5\)$"):
        toy(y=y)
    with pytest.raises(ValueError, match=r"found 3 in 4 records .* seem to run 1\.\.3: subtract 1$"):
        toy(y=np.arange(12) % 3 + 1)


def test_fingerprint_changes_with_anything_a_model_sees():
    pool = toy(x_test=np.zeros((2, 4), np.float32), y_test=np.array([0, 1]))
    same = toy(x_test=np.zeros((2, 4), np.float32), y_test=np.array([0, 1]), name="other", source="elsewhere")
    assert pool.fingerprint == same.fingerprint

    def changed(**changes):
        return dataclasses.replace(pool, **changes).fingerprint

    x, y = pool.x.copy(), pool.y.copy()
    x[0, 0] = np.nextafter(x[0, 0], np.float32(9))
    y[[0, 1]] = y[[1, 0]]
    others = [
        pool.fingerprint,
        changed(x=x),
        changed(y=y),
        changed(n_classes=4),
        changed(x=pool.x[::-1].copy(), y=pool.y[::-1].copy()),
        changed(y_test=np.array([1, 1])),
        changed(x_val=pool.x_test, y_val=pool.y_test),
        changed(x_reference=pool.x_test, y_reference=pool.y_test),
        changed(x=pool.x[:-1], y=pool.y[:-1]),
    ]
    assert len(set(others)) == len(others)


def test_fingerprint_ignores_memory_layout_and_follows_writes():
    pool = toy()
    assert toy(x=np.asfortranarray(pool.x)).fingerprint == pool.fingerprint
    before = pool.fingerprint
    pool.x[0, 0] += 1
    assert pool.fingerprint != before


def test_fingerprint_is_the_documented_one():
    # Stored results name pools by this number: a change of its recipe must be a deliberate one.
    pool = Pool("p", np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 1]), 2, "image")
    digest = hashlib.sha256(
        b"n_classes=2"
        b"|x(2, 1, 1, 1)uint8|"
        + bytes(2)
        + b"|y(2,)int64|"
        + bytes(8)
        + bytes([1])
        + bytes(7)
        + b"|x_val(0, 1, 1, 1)uint8||y_val(0,)int64||x_test(0, 1, 1, 1)uint8||y_test(0,)int64|"
    )
    assert pool.fingerprint == digest.hexdigest()


def test_repr_is_one_short_line():
    text = repr(load("digits"))
    assert text == (
        "Pool('digits': 1,000 records of shape (1, 8, 8) float32, 10 classes, image; 100 validation, 697 test)"
    )


@pytest.mark.parametrize(
    "name",
    [
        "../../../x",
        "/x",
        "a/b",
        "a\\b",
        "s3://x",
        "a::b",
        "..",
        ".x",
        "",
        " x",
        "x\n",
        "x" * 101,
        "\udcff",
        None,
        1,
    ],
)
def test_names_that_lead_elsewhere_are_refused(name):
    with pytest.raises(ValueError, match="must be a name for files"):
        Pool(name, np.zeros((2, 1), np.float32), np.array([0, 1]), 2, "tabular")


@given(st.text())
def test_names_of_pools_stay_in_the_folder_of_games(name):
    try:
        Pool(name, np.zeros((2, 1), np.float32), np.array([0, 1]), 2, "tabular")
    except ValueError:
        return
    assert Path("/games", f"{name}-none").resolve().parent == Path("/games")
    assert "::" not in name


def test_a_pool_survives_pickling():
    import pickle

    pool = toy()
    assert pickle.loads(pickle.dumps(pool)).fingerprint == pool.fingerprint


def test_a_pool_knows_how_it_was_loaded(tmp_path):
    pool = load("digits", size=100, seed=np.int64(3))
    cut = {"size": 100, "validation": 10, "test": 1687, "reference": 0}
    assert pool.loaded == {"name": "digits", **cut, "seed": 3}
    again = load(**pool.loaded)
    assert again.fingerprint == pool.fingerprint
    assert pickle.loads(pickle.dumps(pool)).loaded == pool.loaded
    assert dataclasses.replace(pool, name="mine").loaded is None  # it may hold anything
    assert toy().loaded is None
    file = tmp_path / "digits.npz"  # of this name, but the user's own
    np.savez(file, x=pool.x, y=pool.y)
    assert load(file).loaded is None


def test_what_was_loaded_elsewhere_is_loaded_again_once(monkeypatch):
    loading.load_again.cache_clear()
    pool, calls = load("digits", size=60), []
    monkeypatch.setattr(loading, "load", lambda **options: (calls.append(options), load(**options))[1])
    first, second = (loading.load_again(fingerprint=pool.fingerprint, **pool.loaded) for _ in range(2))
    assert first is second
    assert calls == [pool.loaded]
    np.testing.assert_array_equal(first.x, pool.x)
    with pytest.raises(
        RuntimeError, match=r"^Data set 'digits' on .* is not the one .* expected 0123456789ab"
    ):
        loading.load_again(fingerprint="0123456789abcdef", **pool.loaded)
    with pytest.raises(
        RuntimeError, match=r"^Data set 'nonsense' cannot be loaded on .*unknown data set.* MIALAB_DATA"
    ):
        loading.load_again(fingerprint="", **pool.loaded | {"name": "nonsense"})


# ----------------------------------------------------------------------------------------------------
# Names and own files


def test_datasets_lists_every_set(monkeypatch):
    table = datasets()
    assert {"digits", "clusters", "location30"} <= set(table.index)
    assert table.loc["digits", "here"]
    assert not table.loc["location30", "here"]
    assert table.loc["location30", "download"] == "0.3 MB"
    for name in ("digits", "clusters"):
        pool = load(name, validation=0)
        assert (pool.kind, pool.n_classes) == tuple(table.loc[name, ["kind", "classes"]])
        assert len(load(name, size=table.loc[name, "records"] // 2 * 2, validation=0, test=0))


def test_unknown_names_get_near_misses_and_the_list():
    with pytest.raises(
        ValueError, match=r"^unknown data set 'Digit'; did you mean 'digits'\? Known: digits, clus"
    ):
        load("Digit")
    with pytest.raises(
        ValueError, match=r"^unknown data set 'zzz'; Known: .*, or the path of an \.npz file$"
    ):
        load("zzz")


def test_own_file_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, size=(40, 3, 6, 6), dtype=np.uint8)
    y = np.arange(40) % 2
    np.savez(tmp_path / "pets.npz", x=x, y=y, label_names=["cat", "dog"])
    pool = load(str(tmp_path / "pets.npz"), size=40, validation=0, test=0)
    assert (pool.name, pool.kind, pool.label_names) == ("pets", "image", ("cat", "dog"))
    assert pool.x.dtype == np.uint8
    assert pool.notes == ""
    assert {row.tobytes() for row in pool.x} == {row.tobytes() for row in x}


def test_own_file_kinds_and_conversions(tmp_path):
    path = tmp_path / "t.npz"
    y = np.arange(10, dtype=np.uint8) % 2
    np.savez(path, x=np.eye(10, dtype=bool), y=y)
    assert (load(path).kind, load(path).x.dtype) == ("binary", np.float32)
    assert load(path).notes == "x converted from bool to float32"
    np.savez(path, x=np.full((10, 3), 200, np.uint8), y=y)
    assert (load(path).kind, load(path).x.max()) == ("tabular", 200)
    np.savez(path, x=np.eye(10) * 0.1, y=y)
    assert (load(path).kind, load(path).x.dtype) == ("tabular", np.float32)
    assert load(path).notes == "x converted from float64 to float32"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((4, 1))}, r"^f\.npz has no array 'y'; it holds x$"),
        (
            {"x": np.zeros((4, 1)), "Y": np.arange(4)},
            r"^f\.npz holds an unknown array 'Y'; known: x, y, x_val",
        ),
        ({"x": np.array([["a"]] * 4), "y": np.arange(4)}, r"^x must hold numbers, got <U1$"),
        ({"x": np.zeros((4, 1)), "y": np.arange(4.0)}, r"^y must hold integer labels 0\.\.C-1, got float64$"),
        (
            {"x": np.zeros((4, 1)), "y": np.arange(1, 5)},
            r"^f\.npz: labels run 1\.\.4, they must run 0\.\.3: subtract",
        ),
        (
            {"x": np.zeros((4, 1)), "y": np.array([0, 1, 3, 3])},
            r"no record has label 2, though labels reach 3",
        ),
        ({"x": np.zeros((4, 1)), "y": np.array([-1, 1, 0, 0])}, r"labels must be 0\.\.C-1, found -1$"),
        (
            {"x": np.full((4, 1), 2**24 + 1), "y": np.arange(4)},
            r"^x holds int64 values that do not fit float32",
        ),
        (
            {"x": np.full((4, 1), 1e300), "y": np.arange(4)},
            r"^x holds float64 values that do not fit float32",
        ),
        (
            {"x": np.full((4, 1), np.nan), "y": np.arange(4)},
            r"^x holds 4 NaN or infinite values in 4 records",
        ),
        ({"x": np.zeros((4, 1)), "y": np.zeros(4, int)}, r"^n_classes=1 must be an integer of at least 2\.$"),
        ({"x": np.array([[None]] * 4), "y": np.arange(4)}, r"cannot be read as \.npz: Object arrays"),
    ],
)
def test_invalid_own_files_are_explained(tmp_path, arrays, message):
    np.savez(tmp_path / "f.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "f.npz")


def test_a_missing_or_broken_own_file(tmp_path):
    (tmp_path / "records.npz").write_bytes(b"no archive")
    with pytest.raises(FileNotFoundError, match=r"record\.npz; did you mean records\.npz\?$"):
        load(tmp_path / "record.npz")
    with pytest.raises(FileNotFoundError, match=r"^there is no file .*nowhere/x\.npz$"):
        load(tmp_path / "nowhere" / "x.npz")
    with pytest.raises(ValueError, match=r"records\.npz cannot be read as \.npz"):
        load(tmp_path / "records.npz")


def test_label_names_allow_classes_without_records(tmp_path):
    np.savez(tmp_path / "f.npz", x=np.zeros((8, 1)), y=np.array([0, 2] * 4), label_names=["a", "b", "c"])
    assert load(tmp_path / "f.npz").n_classes == 3


# ----------------------------------------------------------------------------------------------------
# Location30: found, downloaded, refused


@pytest.fixture
def tiny_location(monkeypatch, tmp_path):
    """Serve a 40 x 6 set in the official format over HTTP, and have the registry expect it."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 2, size=(40, 6), dtype=np.uint8)
    y = np.arange(40) % 30
    lines = "".join(
        f'"{label + 1}",{",".join(map(str, row))}\n' for label, row in zip(y, x, strict=True)
    ).encode()
    served = tmp_path / "served"
    served.mkdir()
    with tarfile.open(served / "dataset_location.tgz", "w:gz") as archive:
        member = tarfile.TarInfo("bangkok")
        member.size = len(lines)
        archive.addfile(member, io.BytesIO(lines))
    (served / "bangkok").write_bytes(lines)
    np.savez(served / "location30.npz", features_packed=np.packbits(x, axis=1), n_features=6, labels=y)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(served))
    )
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    remote = registry.Remote(
        file="dataset_location.tgz",
        url=f"http://127.0.0.1:{server.server_port}/dataset_location.tgz",
        hash="md5:" + hashlib.md5((served / "dataset_location.tgz").read_bytes()).hexdigest(),
        size=(served / "dataset_location.tgz").stat().st_size,
    )
    expect(monkeypatch, remote)
    monkeypatch.setattr(tables, "LOCATION30_SHA256", hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest())
    yield served, remote, x
    server.shutdown()
    server.server_close()


def expect(monkeypatch, remote):
    entry = dataclasses.replace(registry.REGISTRY["location30"], remotes=(remote,))
    monkeypatch.setitem(registry.REGISTRY, "location30", entry)


PARTS = {"size": 30, "validation": 4, "test": 6}


def test_location30_is_downloaded_once(tiny_location, monkeypatch):
    _, remote, x = tiny_location
    assert not datasets().loc["location30", "here"]
    pool = load("location30", **PARTS)
    assert {row.tobytes() for row in pool.x} <= {row.tobytes() for row in x.astype(np.float32)}
    assert (pool.kind, pool.n_classes, pool.x.dtype) == ("binary", 30, np.float32)
    assert datasets().loc["location30", "here"]
    expect(monkeypatch, remote._replace(url="http://127.0.0.1:9/gone"))
    assert load("location30", **PARTS).fingerprint == pool.fingerprint


def test_location30_is_the_same_from_every_form_of_file(tiny_location, monkeypatch, tmp_path):
    served, remote, _ = tiny_location
    expect(monkeypatch, remote._replace(url="http://127.0.0.1:9/gone"))  # nothing may be downloaded
    found = set()
    for place in ("", "location30"):
        for file in ("location30.npz", "dataset_location.tgz", "bangkok"):
            folder = tmp_path / f"own-{place}-{file}"
            (folder / place).mkdir(parents=True)
            (folder / place / file).write_bytes((served / file).read_bytes())
            monkeypatch.setenv("MIALAB_DATA", str(folder))
            pool = load("location30", **PARTS)
            assert pool.notes == f"read from {file}"
            found.add(pool.fingerprint)
    assert len(found) == 1


def test_location30_with_a_wrong_checksum_is_refused_and_not_kept(tiny_location, monkeypatch):
    expect(monkeypatch, tiny_location[1]._replace(hash="md5:" + "0" * 32))
    for _ in range(2):  # not at the second try either
        with pytest.raises(
            ValueError, match=r"did not give the expected file; nothing was kept\..*" + "0" * 32
        ):
            load("location30", **PARTS)
    assert [p for p in cache_folder().rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("file", ["location30.npz", "dataset_location.tgz", "bangkok"])
def test_a_damaged_or_different_local_file_is_refused(tiny_location, monkeypatch, file):
    served, _, _ = tiny_location
    monkeypatch.setenv("MIALAB_DATA", str(served))
    for other in {"location30.npz", "dataset_location.tgz", "bangkok"} - {file}:
        (served / other).unlink()
    whole = (served / file).read_bytes()
    (served / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError, match=rf"{file} (cannot be read|holds .* but not the published ones).*Delete it"
    ):
        load("location30", **PARTS)
    (served / file).write_bytes(whole)
    monkeypatch.setattr(tables, "LOCATION30_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=rf"{file} holds 40 x 6 features, but not the published ones"):
        load("location30", **PARTS)


def test_without_network_the_error_says_which_file_to_put_where(monkeypatch):
    remote = (
        registry.REGISTRY["location30"].remotes[0]._replace(url="http://127.0.0.1:9/dataset_location.tgz")
    )
    expect(monkeypatch, remote)
    with pytest.raises(FileNotFoundError) as caught:
        load("location30")
    message = str(caught.value)
    for part in (
        remote.url,
        "dataset_location.tgz (0.3 MB, md5 66851c781a61f51b35ead292b5f303e3)",
        str(cache_folder() / "data" / "location30"),
        "MIALAB_DATA",
        "location30.npz",
        "bangkok",
        "refused",
    ):
        assert part in message


def test_a_page_that_is_not_there_is_no_data(tiny_location, monkeypatch):
    expect(monkeypatch, tiny_location[1]._replace(url=tiny_location[1].url + "x"))
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded \(404 Client Error"):
        load("location30", **PARTS)


def test_a_mistyped_data_folder_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("MIALAB_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"^MIALAB_DATA='.*nowhere' is not a folder"):
        load("location30")


REAL = os.environ.get("MIALAB_DATA")  # read here: the fixture hides it from every other test


@pytest.mark.real_data
@pytest.mark.skipif(not REAL, reason="MIALAB_DATA is not set")
def test_the_real_location30(monkeypatch):
    monkeypatch.setenv("MIALAB_DATA", REAL)
    if not datasets().loc["location30", "here"]:
        pytest.skip("MIALAB_DATA holds no location30")
    pool = load("location30")
    assert pool.x.shape == (2700, 446)
    assert (len(pool.y_val), len(pool.y_test)) == (300, 1000)
    assert all(set(y) == set(range(30)) for y in (pool.y, pool.y_val, pool.y_test))
    whole = load("location30", size=5010, validation=0, test=0)
    # Counted on the published file: 269,047 ones, 97 to 308 records in a class.
    assert whole.x.sum() == 269_047
    assert (np.bincount(whole.y).min(), np.bincount(whole.y).max()) == (97, 308)


# ----------------------------------------------------------------------------------------------------
# torchvision


def python(code):
    """Run `code` in a fresh process; the number of schemas torchvision has is printed by it."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_torchvision_imports_beside_any_build_of_torch():
    done = python(
        "from mialab._torchvision import torchvision\n"
        "import torchvision.datasets, torchvision.transforms.v2\n"
        "print(torchvision.datasets.CIFAR10.__name__)"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["CIFAR10"]


@pytest.mark.slow
def test_a_working_torchvision_is_left_alone(tmp_path):
    """With a torchvision that imports, nothing is declared."""
    (tmp_path / "torchvision.py").write_text("__version__ = 'works'\n")
    done = python(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import torch, mialab._torchvision as shim\n"
        "print(shim.torchvision.__version__, hasattr(torch.ops.torchvision, 'nms'))"
    )
    assert done.stdout.split() == ["works", "False"], done.stderr


@pytest.mark.slow
def test_other_failures_of_torchvision_are_not_hidden(tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('something else')\n")
    done = python(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport mialab._torchvision")
    assert done.returncode == 1
    assert done.stderr.strip().endswith("RuntimeError: something else")


def test_twins_are_counted_and_told():
    x = np.arange(40, dtype=np.float32).reshape(20, 2)
    y = np.arange(20) % 2
    assert Pool("own", x=x, y=y, n_classes=2, kind="tabular").twins() == 0
    twice = np.concatenate([x, x[:3]])
    pool = Pool(
        "own", x=twice, y=np.arange(23) % 2, n_classes=2, kind="tabular", x_test=x[10:12], y_test=y[:2]
    )
    assert pool.twins() == 5  # three copies, and two records that are tested on
    assert repr(pool).endswith("2 test; 5 twins)")
