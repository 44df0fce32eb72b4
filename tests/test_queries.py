"""Queries: the record first, then the same changed copies for every model."""

import pickle

import numpy as np
import pytest
import toys
from hypothesis import given
from hypothesis import strategies as st

import mialab
from mialab import queries
from mialab.queries import Compose, Flips, Mixed, Noise, Original, Shifts, kinds, mixtures, pairing


def bytes_pool(**options):
    """Make a pool of images stored as bytes."""
    gray = toys.pool("image", **options)
    return toys.pool(
        "image",
        **options,
        **{name: np.rint(255 * getattr(gray, name)).astype(np.uint8) for name in ("x", "x_val", "x_test")},
    )


SUITABLE = [
    (Original(), "tabular"),
    (Flips(n=4), "binary"),
    (Noise(n=4), "tabular"),
    (Noise(n=2), "image"),
    (Shifts(pixels=2), "image"),
    (Shifts(pixels=1, mirror=False), "image"),
    (Noise(n=2), "bytes"),
    (Shifts(pixels=1), "bytes"),
    (Mixed(), "tabular"),
    (Mixed(fractions=(0.3,)), "bytes"),
    (Mixed(), "binary"),
    (Compose(Noise(n=2), Shifts(pixels=2, mirror=False), Mixed()), "image"),
    (Compose(Flips(n=2), Flips(n=2, seed=1)), "binary"),
]


def records(kind):
    return (bytes_pool() if kind == "bytes" else toys.pool(kind)).x


@pytest.mark.parametrize(("asked", "kind"), SUITABLE)
def test_the_record_comes_first_and_copies_keep_shape_and_type(asked, kind):
    x = records(kind)
    before = x.copy()
    copies = [asked(query, x) for query in range(len(asked))]
    np.testing.assert_array_equal(copies[0], x)
    np.testing.assert_array_equal(x, before)
    for query, copy in enumerate(copies):
        assert copy.shape == x.shape
        assert copy.dtype == x.dtype
        np.testing.assert_array_equal(asked(query, x), copy)
    assert all((a != b).any() for i, a in enumerate(copies) for b in copies[:i])


def test_flips_change_the_fraction_asked_for():
    x = toys.pool("binary", n=400, features=50).x
    for fraction in (0.02, 0.3):
        flipped = np.mean([Flips(n=3, fraction=fraction)(q, x) != x for q in (1, 2, 3)])
        # 60,000 independent flips: 5 standard deviations, an error rate of 6e-7
        assert flipped == pytest.approx(fraction, abs=5 * (fraction * (1 - fraction) / 60_000) ** 0.5)
    assert (Flips(fraction=1)(1, x) == 1 - x).all()
    assert set(np.unique(Flips(fraction=0.5)(1, x))) == {0, 1}


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
        (lambda: Flips(fraction=0), "fraction=0 must be greater than 0 and at most 1."),
        (lambda: Flips(fraction=1.1), "fraction=1.1 must be greater than 0 and at most 1."),
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


def test_noise_would_make_numbers_of_bits():
    with pytest.raises(
        ValueError, match=r"^queries=Noise.* make numbers of the binary features of 'toy': use Flips"
    ):
        queries.make(Noise(), toys.pool("binary"))


# ----------------------------------------------------------------------------------------------------
# Noise on images


def test_noise_on_bytes_is_that_on_numbers():
    pool = bytes_pool(n=400)
    x = pool.x
    x[:, 0, 0, :2] = 0, 255  # two pixels that never vary
    x[:, 0, 1, :] = 128 + np.arange(400)[:, None] % 8  # far from both ends
    noisy = Noise(n=1, scale=0.5)(1, x)
    assert (noisy[:, 0, 0, :2] == [0, 255]).all()
    added = noisy[:, 0, 1, :].astype(float) - x[:, 0, 1, :]
    # 3,200 numbers of variance (0.5 * 2.29)^2, and 1/12 from rounding; 5 standard deviations, an error rate of 6e-7
    assert added.var() == pytest.approx((0.5 * x[:, 0, 1, 0].std()) ** 2 + 1 / 12, rel=5 * (2 / 3200) ** 0.5)
    numbers = Noise(n=1, scale=0.5)(1, (x / 255).astype(np.float32))
    assert np.abs(noisy - 255.0 * numbers).max() <= 0.5 + 1e-3


def test_noisy_pixels_stay_pixels():
    x = toys.pool("image", n=200).x
    noisy = Noise(n=1, scale=5)(1, x)
    assert noisy.min() == 0
    assert noisy.max() == 1
    wider = 4 * x - 2  # pixels of another scale keep their range
    noisy = Noise(n=1, scale=5)(1, wider)
    assert (noisy.min(), noisy.max()) == (wider.min(), wider.max())
    tabular = toys.pool(n=200).x
    assert Noise(n=1, scale=5)(1, tabular).max() > 1.5 * tabular.max()


def test_images_all_alike_stay_alike():
    for x in (np.full((6, 1, 4, 4), 7, np.uint8), np.full((6, 1, 4, 4), 0.25, np.float32)):
        np.testing.assert_array_equal(Noise()(1, x), x)


# ----------------------------------------------------------------------------------------------------
# Several kinds, and mixtures


@given(st.integers(1, 200), st.integers(0, 5))
def test_pairs_are_mutual_and_fixed(half, seed):
    other = pairing(2 * half, seed)
    assert (other != np.arange(2 * half)).all()
    np.testing.assert_array_equal(other[other], np.arange(2 * half))
    np.testing.assert_array_equal(other, pairing(2 * half, seed))


def test_pairs_are_drawn_evenly():
    drawn = np.array([pairing(4, seed)[0] for seed in range(600)])
    # 600 draws, each partner with probability 1/3: 5 standard deviations, an error rate of 2e-6 in all
    assert np.abs(np.bincount(drawn, minlength=4)[1:] - 200).max() < 5 * (600 * 2 / 9) ** 0.5
    with pytest.raises(ValueError, match=r"^n_records=5 must be even"):
        pairing(5, 0)


def test_mixtures_worked_by_hand():
    x = np.array([[0.0, 1], [10, 3]], np.float32)  # two records are one another's partner, whatever the seed
    np.testing.assert_allclose(Mixed(fractions=(0.2, 0.5))(1, x), [[8, 2.6], [2, 1.4]], rtol=1e-6)
    np.testing.assert_allclose(Mixed(fractions=(0.2, 0.5))(2, x), [[5, 2], [5, 2]], rtol=1e-6)
    pixels = np.array([0, 200, 255, 13], np.uint8).reshape(2, 1, 1, 2)
    mixed = Mixed(fractions=(0.3,))(1, pixels)
    assert mixed.dtype == np.uint8
    assert mixed.ravel().tolist() == [
        178,
        69,
        76,
        144,
    ]  # 178.5, 69.1, 76.5 and 143.9; halves go to even numbers


@given(st.integers(1, 6), st.integers(0, 3), st.sampled_from([0.2, 0.5, 0.7]))
def test_mixtures_against_plain_loops(half, seed, fraction):
    x = np.random.default_rng(seed).normal(size=(2 * half, 3)).astype(np.float32)
    mixed = Mixed(fractions=(fraction,), seed=seed)(1, x)
    for i, j in enumerate(pairing(2 * half, seed)):
        np.testing.assert_allclose(mixed[i], fraction * x[i] + (1 - fraction) * x[j], atol=1e-6)


def test_several_asks_every_part_in_turn():
    x = toys.pool("image").x
    parts = Noise(n=2), Shifts(pixels=1, mirror=False), Mixed(seed=3)
    asked = Compose(*parts)
    expected = [x, *(part(q, x) for part in parts for q in range(1, len(part)))]
    assert len(asked) == len(expected) == 1 + 2 + 8 + 3
    for query, copy in enumerate(expected):
        np.testing.assert_array_equal(asked(query, x), copy)
    assert asked.kinds == ("original", *2 * ("noise",), *8 * ("shift",), *3 * ("mixed",))
    with pytest.raises(IndexError, match=r"^query=14 must be at most 13"):
        asked(14, x)
    assert repr(asked) == f"Compose({parts[0]!r}, {parts[1]!r}, {parts[2]!r})"
    assert Compose(Compose(parts[0], parts[1]), parts[2]) == asked
    assert mixtures(asked) == parts[2]
    assert mixtures(parts[2]) == parts[2]
    assert mixtures(parts[0]) is None
    assert pickle.loads(pickle.dumps(asked)) == asked


@pytest.mark.parametrize(("asked", "kind"), SUITABLE)
def test_every_query_has_a_kind(asked, kind):
    assert len(asked.kinds) == len(asked)
    assert asked.kinds[0] == "original"
    assert set(asked.kinds[1:]) <= {"flip", "noise", "shift", "mixed"}
    assert kinds(asked) == asked.kinds


class Doubled:
    """A user's own queries, which say nothing of kinds."""

    def __len__(self):
        return 3

    def __call__(self, query, x):
        return x * (1 + query)

    def check(self, pool):
        pass


def test_queries_of_one_s_own_need_no_kinds(tmp_path):
    assert kinds(Doubled()) == ("original", "changed", "changed")
    assert kinds(Compose(Doubled(), Mixed(fractions=(0.5,)))) == ("original", "changed", "changed", "mixed")
    asked = Compose(Doubled(), Mixed(fractions=(0.5,)))
    training = mialab.Training(epochs=1)
    game = mialab.play(toys.pool(), n_models=2, queries=asked, training=training, store=tmp_path)
    assert game.query_kinds == ("original", "changed", "changed", "mixed")
    wrong = Doubled()
    wrong.kinds = ("original", "changed")
    with pytest.raises(
        ValueError, match=r"says kinds=\('original', 'changed'\); there must be one for each of its 3"
    ):
        queries.make(wrong, toys.pool())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Compose(), "Compose needs at least one kind of queries"),
        (lambda: Compose("augmented"), "Compose: part='augmented' must be an instance such as"),
        (lambda: Compose(Noise), "Compose: part=<class .*Noise'> must be an instance such as"),
        (lambda: Compose(Noise(), Noise()), r"Compose has Noise\(.*\) twice: give one of them another seed"),
        (lambda: Compose(Mixed(), Compose(Mixed(seed=1))), "Compose has more than one Mixed"),
        (lambda: Mixed(fractions=()), r"fractions=\(\) must be a sequence of numbers"),
        (lambda: Mixed(fractions=0.5), "fractions=0.5 must be a sequence of numbers"),
        (lambda: Mixed(fractions=(0.5, 0)), "fractions=0 must be greater than 0"),
        (lambda: Mixed(fractions=(1.0,)), "fractions=1.0 must be less than 1"),
        (lambda: Mixed(fractions=(0.5, 0.5)), r"fractions=\(0.5, 0.5\) must differ"),
        (lambda: Mixed(seed=-1), "seed=-1 must be an integer of at least 0"),
    ],
)
def test_wrong_parameters_of_several_and_mixed(make, message):
    with pytest.raises(ValueError, match="^" + message):
        make()


def test_several_refuses_what_a_part_refuses():
    with pytest.raises(ValueError, match=r"^queries=Flips.* needs binary records"):
        queries.make(Compose(Mixed(), Flips()), toys.pool())
    with pytest.raises(
        ValueError, match=r"^queries=Mixed.* pair the records of 'toy', but 41 is odd: load size=40"
    ):
        queries.make(Compose(Noise(), Mixed()), toys.pool(n=41))
