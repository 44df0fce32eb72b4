"""Queries: the record first, then the same changed copies for every model."""

import numpy as np
import pytest
import toys
from hypothesis import given
from hypothesis import strategies as st

from mialab import queries
from mialab.queries import Flips, Noise, Original, Shifts

SUITABLE = [
    (Original(), "tabular"),
    (Flips(n=4), "binary"),
    (Noise(n=4), "tabular"),
    (Noise(n=2), "image"),
    (Shifts(pixels=2), "image"),
    (Shifts(pixels=1, mirror=False), "image"),
]


@pytest.mark.parametrize(("asked", "kind"), SUITABLE)
def test_the_record_comes_first_and_copies_keep_shape_and_type(asked, kind):
    x = toys.pool(kind).x
    before = x.copy()
    copies = [asked(query, x) for query in range(len(asked))]
    np.testing.assert_array_equal(copies[0], x)
    np.testing.assert_array_equal(x, before)
    for query, copy in enumerate(copies):
        assert copy.shape == x.shape
        assert copy.dtype == x.dtype
        np.testing.assert_array_equal(asked(query, x), copy)
    assert all((a != b).any() for i, a in enumerate(copies) for b in copies[:i])


def test_flips_change_the_share_asked_for():
    x = toys.pool("binary", n=400, features=50).x
    for share in (0.02, 0.3):
        flipped = np.mean([Flips(n=3, share=share)(q, x) != x for q in (1, 2, 3)])
        # 60,000 independent flips: 5 standard deviations, an error rate of 6e-7
        assert flipped == pytest.approx(share, abs=5 * (share * (1 - share) / 60_000) ** 0.5)
    assert (Flips(share=1)(1, x) == 1 - x).all()
    assert set(np.unique(Flips(share=0.5)(1, x))) == {0, 1}


def test_noise_is_measured_in_each_feature_s_own_deviation():
    x = toys.pool(n=4000, features=3).x * np.array([1, 10, 100], np.float32)
    added = np.stack([Noise(n=4, scale=0.2)(q, x) - x for q in (1, 2, 3, 4)]) / x.std(0)
    # 16,000 numbers each: relative error 0.6 % of a standard deviation; 5 of them, an error rate of 2e-6
    np.testing.assert_allclose(added.std((0, 1)), 0.2, rtol=0.03)
    np.testing.assert_allclose(added.mean((0, 1)), 0, atol=0.01)
    constant = np.ones_like(x)
    np.testing.assert_array_equal(Noise()(1, constant), constant)


def test_seeds_change_the_copies():
    binary, tabular = toys.pool("binary", features=50).x, toys.pool().x
    assert (Flips(seed=1)(1, binary) != Flips(seed=0)(1, binary)).any()
    assert (Noise(seed=1)(1, tabular) != Noise(seed=0)(1, tabular)).any()


@given(st.integers(1, 3), st.booleans(), st.integers(1, 2))
def test_shifts_against_padding(pixels, mirror, channels):
    x = np.random.default_rng(0).random((2, channels, 5, 7))
    padded = np.pad(x, ((0, 0), (0, 0), (pixels, pixels), (pixels, pixels)))
    asked = Shifts(pixels=pixels, mirror=mirror)
    copies = [asked(query, x) for query in range(len(asked))]
    expected = []
    for dy in (0, pixels, 2 * pixels):
        for dx in (0, pixels, 2 * pixels):
            window = padded[..., dy : dy + 5, dx : dx + 7]
            expected += [window, window[..., ::-1]] if mirror else [window]
    assert len(copies) == len(expected) == (18 if mirror else 9)
    for window in expected:
        assert sum(np.array_equal(window, copy) for copy in copies) == 1


def test_shifts_worked_by_hand():
    x = np.array([[[[1, 2], [3, 4]]]], dtype=np.uint8)
    moves = [Shifts(pixels=1)(q, x)[0, 0].tolist() for q in range(18)]
    assert moves[0] == [[1, 2], [3, 4]]
    assert [[0, 0], [1, 2]] in moves  # down
    assert [[0, 1], [0, 3]] in moves  # right
    assert [[2, 1], [4, 3]] in moves  # mirrored
    assert [[0, 0], [0, 1]] in moves  # down and right


def test_copies_that_suit_the_records():
    assert queries.make("augmented", toys.pool("binary")) == Flips()
    assert queries.make("augmented", toys.pool("tabular")) == Noise()
    assert queries.make("augmented", toys.pool("image")) == Shifts(pixels=1)
    for original in (None, "original"):
        assert queries.make(original, toys.pool()) == Original()
    assert queries.make(Noise(n=3), toys.pool()) == Noise(n=3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Flips(n=0), "n=0 must be an integer of at least 1."),
        (lambda: Flips(share=0), "share=0 must be greater than 0 and at most 1."),
        (lambda: Flips(share=1.1), "share=1.1 must be greater than 0 and at most 1."),
        (lambda: Flips(seed=-1), "seed=-1 must be an integer of at least 0."),
        (lambda: Noise(n=1.5), "n=1.5 must be an integer of at least 1."),
        (lambda: Noise(scale=-1), "scale=-1 must be greater than 0."),
        (lambda: Noise(seed="a"), "seed='a' must be an integer of at least 0."),
        (lambda: Shifts(pixels=0), "pixels=0 must be an integer of at least 1."),
    ],
)
def test_wrong_parameters_of_queries(make, message):
    with pytest.raises(ValueError, match="^" + message):
        make()


@pytest.mark.parametrize(
    ("asked", "kind", "message"),
    [
        ("augmentd", "tabular", r"queries='augmentd' is unknown. Did you mean 'augmented'\?"),
        (16, "tabular", "queries=16 must be 'original', 'augmented' or an instance"),
        (Flips, "binary", "queries=<class 'mialab.queries.Flips'> must be .* an instance"),
        (Flips(), "tabular", "queries=Flips.* needs binary records; 'toy' has tabular ones: use Noise"),
        (Shifts(), "binary", "queries=Shifts.* needs image records; 'toy' has binary ones: use Flips"),
        (Shifts(pixels=8), "image", r"pixels=8 moves images of \(8, 8\) pixels out of sight"),
    ],
)
def test_queries_that_do_not_suit_the_records(asked, kind, message):
    with pytest.raises(ValueError, match="^" + message):
        queries.make(asked, toys.pool(kind))


def test_noise_needs_numbers_with_a_point():
    parts = {
        name: (255 * getattr(toys.pool("image"), name)).astype(np.uint8) for name in ("x", "x_val", "x_test")
    }
    with pytest.raises(ValueError, match="add noise to features of a floating-point type; 'toy' has uint8"):
        queries.make(Noise(), toys.pool("image", **parts))
