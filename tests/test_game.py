"""The game: memberships, canaries, answers from elsewhere, and what is said about wrong parameters."""

import ast
import dataclasses
import os
from contextlib import nullcontext
from typing import ClassVar

import joblib
import numpy as np
import pytest
import torch
import toys
import workers
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import nn
from toys import random_game

import mialab as mia
from mialab.classifiers import run as classifier_run
from mialab.classifiers.signals import SIGNALS
from mialab.defenses import HAMP, Defense
from mialab.games import backends, execution
from mialab.models import MLP
from mialab.training import stack
from mialab.training.membership import membership, mislabel

TRAINING = mia.Training(epochs=2, batch_size=16)
SMALL = MLP(hidden=(8,))


@pytest.fixture
def no_training(monkeypatch):
    """Fail a test that trains."""

    def trained(*_, **__):
        raise AssertionError("a model was trained")

    monkeypatch.setattr(classifier_run, "train_group", trained)


# ----------------------------------------------------------------------------------------------------
# Memberships and canaries

EVEN = st.integers(1, 20).map(lambda n: 2 * n)


@given(EVEN, EVEN, st.integers(0, 2**32), EVEN)
def test_memberships_are_balanced(n_models, n_records, seed, n_canaries):
    canary = np.arange(n_records) < n_canaries
    for chosen in (None, canary):
        member = membership(n_models, n_records, seed, chosen)
        assert (2 * member.sum(1) == n_records).all()
        assert (2 * member.sum(0) == n_models).all()
        np.testing.assert_array_equal(member[1::2], ~member[::2])
    np.testing.assert_array_equal(2 * member[:, canary].sum(1), np.full(n_models, canary.sum()))


def test_membership_of_a_model_depends_on_seed_and_model_alone():
    sixteen = membership(16, 100, 0)
    np.testing.assert_array_equal(membership(8, 100, 0), sixteen[:8])
    assert len(np.unique(sixteen, axis=0)) == 16
    assert (membership(8, 100, 1) != sixteen[:8]).any()


def test_memberships_are_drawn_evenly():
    # 600 records, each in the first of a pair or in the second, 200 times: a fair coin for each record.
    count = np.stack([membership(2, 600, seed)[0] for seed in range(200)]).sum(0)
    # The sum of squares of 600 standardized counts, with 599 degrees of freedom; error rate 1e-4.
    assert chisquare(np.concatenate([count, 200 - count]), ddof=600).pvalue > 1e-4


def test_canaries_get_wrong_labels_evenly():
    y = np.arange(4000) % 5
    labels, canary = mislabel(y, 5, 3000, seed=0)
    assert canary.sum() == 3000
    assert (labels[canary] != y[canary]).all()
    np.testing.assert_array_equal(labels[~canary], y[~canary])
    assert labels.dtype == np.int64
    assert set(labels) == set(range(5))
    # Each of the 4 wrong labels equally often; error rate 1e-4.
    assert chisquare(np.bincount((labels - y)[canary] % 5)[1:]).pvalue > 1e-4
    np.testing.assert_array_equal(y, np.arange(4000) % 5)


def test_canaries_depend_on_the_seed():
    y = np.zeros(50, np.int64)
    assert (mislabel(y, 3, 10, 0)[1] == mislabel(y, 3, 10, 0)[1]).all()
    assert (mislabel(y, 3, 10, 0)[1] != mislabel(y, 3, 10, 1)[1]).any()
    labels, canary = mislabel(y, 3, 0, 0)
    assert not canary.any()
    np.testing.assert_array_equal(labels, y)


def test_models_left_out_are_on_the_other_side():
    for design in ("paired", "balanced"):
        game = random_game(design, n_models=8, n_records=50)
        models = np.arange(8)[:, None]
        out = game.excluded_models
        other = np.take_along_axis(game.member, out, axis=0)
        np.testing.assert_array_equal(other, ~game.member)
        np.testing.assert_array_equal(
            np.take_along_axis(out, out, axis=0), np.broadcast_to(models, out.shape)
        )
        assert (game.plain_leave_one_out().excluded_models == -1).all()
    np.testing.assert_array_equal(random_game("paired").excluded_models[:, 0], np.arange(8) ^ 1)
    # Drawn evenly: each of the 4 models on the other side; error rate 1e-4.
    game = random_game("balanced", n_models=8, n_records=2000, seed=1)
    place = np.take_along_axis((~game.member).cumsum(0) - 1, game.excluded_models, axis=0)
    assert chisquare(np.bincount(place[0][game.member[0]])).pvalue > 1e-4
    assert (random_game("random", n_models=9).excluded_models == -1).all()


# ----------------------------------------------------------------------------------------------------
# Playing


def test_a_game_has_what_it_says(fresh_cache):
    pool = toys.pool("binary", n=60, validation=10, test=30)
    game = mia.play(
        pool,
        SMALL,
        HAMP(gamma=0.4),
        training=TRAINING,
        n_models=4,
        queries=mia.queries.Flips(n=2),
        canaries=6,
        seed=5,
    )
    assert (game.n_models, game.n_queries, game.n_records, game.n_classes) == (4, 3, 60, 3)
    assert game.logits.shape == (4, 3, 60, 3)
    assert (game.logits.dtype, game.member.dtype, game.y.dtype) == (np.float32, bool, np.int64)
    labels, canary = mislabel(pool.y, 3, 6, 5)
    np.testing.assert_array_equal(game.y, labels)
    np.testing.assert_array_equal(game.canary, canary)
    np.testing.assert_array_equal(game.member, membership(4, 60, 5, canary))
    np.testing.assert_array_equal(game.partner, [1, 0, 3, 2])
    assert game.dataset.logits.dims == ("model", "query", "record", "label")
    right = game.logits[:, 0].argmax(-1) == game.y
    np.testing.assert_allclose(
        game.train_accuracy, [r[m].mean() for r, m in zip(right, game.member, strict=True)]
    )
    assert ((game.test_accuracy >= 0) & (game.test_accuracy <= 1)).all()
    assert repr(game) == "Game(toy, defense=hamp: 4 models x 3 queries x 60 records x 3 classes, 6 canaries)"
    expected = {
        "dataset": "toy",
        "fingerprint": pool.fingerprint,
        "model": "MLP(hidden=(8,), activation='tanh')",
        "defense": "hamp",
        "queries": "Flips(n=2, fraction=0.02, seed=0)",
        "n_models": 4,
        "canaries": 6,
        "seed": 5,
        "mode": "stacked",
        "device": "cpu",
    }
    assert {name: game.attrs[name] for name in expected} == expected
    assert game.attrs["defense_parameters"] == dataclasses.asdict(HAMP(gamma=0.4))
    assert game.attrs["training"]["epochs"] == 2
    assert {"commit", "versions", "python", "machine", "date", "seconds"} <= set(game.attrs)


def test_defaults_of_play(monkeypatch, fresh_cache):
    asked = {}

    def train(models, **options):
        asked.update(options, models=models)
        raise RuntimeError("enough")

    monkeypatch.setattr(classifier_run, "train_group", train)
    with pytest.raises(RuntimeError, match="enough"):
        mia.play(toys.pool())
    assert asked["build"] == MLP()
    assert asked["defense"] == Defense()
    assert asked["training"] == stack.resolve(mia.Training(), asked["build"]((6,), 3))
    assert (asked["keep"], asked["answers"]) == ("logits", "float32")
    assert len(asked["queries"]) == 1


def test_numbers_from_numpy_will_do(fresh_cache):
    pool, cast = toys.pool(), np.int64
    game = mia.play(
        pool,
        SMALL,
        HAMP(gamma=np.float32(0.5), alpha=np.float64(0.1)),
        training=mia.Training(epochs=cast(2), lr=np.float32(0.01)),
        n_models=cast(2),
        canaries=cast(4),
        seed=cast(1),
    )
    assert game.attrs["defense_parameters"]["gamma"] == 0.5
    assert game.attrs["seed"] == 1


def test_an_own_model_and_an_own_defense(fresh_cache):
    @dataclasses.dataclass(frozen=True)
    class Colder(Defense):
        """Divide the logits by a temperature when asked."""

        name: ClassVar[str] = "colder"
        temperature: float = 4.0

        def answer(self, run, logits, x, record, query):
            return logits / self.temperature

    def linear(shape, n_classes):
        return nn.Linear(shape[0], n_classes)

    game = mia.play(toys.pool(), linear, Colder(), training=TRAINING, n_models=2)
    np.testing.assert_allclose(4 * game.logits, game.before_output_step().logits, rtol=1e-6)
    assert game.attrs["model"].endswith("linear")
    assert game.attrs["defense_parameters"] == {"temperature": 4.0}


# ----------------------------------------------------------------------------------------------------
# What is kept of answers


def kept(defense=None, **options):
    return mia.play(toys.pool(), SMALL, defense, training=TRAINING, n_models=4, canaries=4, **options)


def test_answers_in_half_precision():
    full, half = kept(), kept(answers="float16")
    assert half.logits.dtype == np.float16
    assert half.attrs["answers"] == "float16"
    np.testing.assert_array_equal(half.logits, full.logits.astype(np.float16))
    np.testing.assert_array_equal(half.train_accuracy, full.train_accuracy)
    assert kept(answers="float16").dataset.equals(half.dataset)


def test_scores_alone():
    logits, scores = kept("hamp"), kept("hamp", keep="scores")
    answers = {"": logits, "raw_": logits.before_output_step()}
    assert {f"{prefix}{name}" for prefix in answers for name in SIGNALS} < set(scores.dataset)
    for prefix, game in answers.items():
        for name, signal in SIGNALS.items():
            stored = signal.sign * scores.dataset[prefix + name]
            assert stored.dims == ("model", "query", "record")
            assert stored.dtype == np.float32
            expected = signal(game.logits.astype(np.float64), game.y).astype(np.float32)
            np.testing.assert_array_equal(stored, expected, err_msg=name)
    assert (scores.n_models, scores.n_queries, scores.n_records, scores.n_classes) == (4, 1, 40, 3)
    assert repr(scores) == repr(logits)
    for name in ("member", "y", "canary", "train_accuracy", "test_accuracy"):
        np.testing.assert_array_equal(scores.dataset[name], logits.dataset[name])
    before = scores.before_output_step()
    np.testing.assert_array_equal(before.dataset["loss"], scores.dataset["raw_loss"])
    assert not any(name.startswith("raw_") for name in before.dataset)
    some = scores.of_records(np.array([3, 5])).subset(2)
    np.testing.assert_array_equal(some.dataset["loss"], scores.dataset["loss"][:2, :, [3, 5]])
    assert some.n_classes == 3
    with pytest.raises(ValueError, match=r"^This game holds signals alone and has no logits: play it with"):
        _ = scores.logits
    with pytest.raises(ValueError, match=r"^The defense 'none' has no output step to leave out."):
        kept(keep="scores").before_output_step()


def test_a_game_of_scores_can_be_attacked():
    full, scores = (kept("hamp", keep=keep) for keep in ("logits", "scores"))
    expected, found = (mia.attacks.make("loss").run(game) for game in (full, scores))
    np.testing.assert_allclose(found.score, expected.score, rtol=1e-6)


# ----------------------------------------------------------------------------------------------------
# Groups, worker processes and memory


@given(st.sets(st.integers(0, 300), min_size=1), st.integers(1, 70), st.integers(1, 20))
def test_groups_are_even(todo, most, workers):
    todo = sorted(todo)
    for device in ("cpu", "cuda"):
        groups = execution._groups(todo, most, workers, device)
        assert [k for group in groups for k in group] == todo
        sizes = [len(group) for group in groups]
        assert 0 < min(sizes) <= max(sizes) <= most
        if device == "cpu":  # whatever is still to do, a model's group is the same
            assert {k // most for k in todo} == {k // most for group in groups for k in group[:1]}
        else:
            assert sizes[:-1] == [max(sizes)] * (len(groups) - 1)
            assert len(groups) <= workers * -(
                -len(todo) // (workers * most)
            )  # no more rounds than are needed


def fits(models):
    """Stand in for `engine.train_group` on a GPU that holds so many models."""
    real, tried = classifier_run.train_group, []

    def train(group, **options):
        tried.append(list(group))
        if len(group) > models:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(group, **options)

    return tried, train


def test_a_group_that_does_not_fit_is_halved(fresh_cache, monkeypatch):
    expected = kept(store=fresh_cache / "whole")
    tried, train = fits(1)
    monkeypatch.setattr(classifier_run, "train_group", train)
    game = kept()
    assert tried == [[0, 1, 2, 3], [0, 1], [0], [1], [2, 3], [2], [3]]
    np.testing.assert_allclose(game.logits, expected.logits, rtol=1e-4, atol=1e-5)


def test_halves_are_stored_as_they_are_done(fresh_cache, monkeypatch):
    tried, train = fits(0)
    real = classifier_run.train_group
    monkeypatch.setattr(
        classifier_run, "train_group", lambda g, **o: real(g, **o) if g == [0, 1] else train(g, **o)
    )
    message = (
        r"^Model 2 alone does not fit the memory of the device 'cpu': lower batch_size=16, .* out of memory"
    )
    with pytest.raises(MemoryError, match=message):
        kept()
    assert tried == [[0, 1, 2, 3], [2, 3], [2]]
    with pytest.raises(MemoryError, match=message):
        kept()
    assert tried[3:] == [[2, 3], [2]]


def test_peak_memory_is_noted(fresh_cache):
    before = kept().attrs["peak_mb"]
    assert 50 < before < 100_000
    n_bytes = int((before + 60) * 2**20)
    assert (np.ones(n_bytes, np.uint8)[::4096] == 1).all()
    assert n_bytes / 2**20 < execution._peak_mb() < n_bytes / 2**20 + before + 60


@pytest.mark.slow
def test_worker_processes_fraction_the_pool(fresh_cache, tmp_path):
    pool, log = toys.pool(n=1000, features=400), tmp_path / "log"  # 1.6 MB; joblib copies less than 1 MB
    defense = workers.Inspected(str(log))
    with joblib.parallel_config(backend="loky"):
        mia.play(pool, workers.MODEL, defense, training=mia.Training(epochs=1), n_models=4, workers=2)
    seen = [ast.literal_eval(line) for line in log.read_text().splitlines()]
    assert os.getpid() not in {process for process, _, _ in seen}
    assert {kind for _, kind, _ in seen} == {"memmap"}
    assert len({file for _, _, file in seen}) == 1


def test_the_number_of_workers():
    large, small = 1e6, 1e-6
    assert backends.find(toys.pool(), None, shared=True).size(large) == joblib.cpu_count()
    assert backends.find(toys.pool(), None, shared=True).size(small) == 1
    assert backends.find(toys.pool(), None, shared=True).size(small, threads=True) == joblib.cpu_count()
    assert backends.find(toys.pool(), 5, shared=True).size(small) == 5
    assert backends.find(toys.pool(), 5, shared=False).size(large) == 1
    with joblib.parallel_config(n_jobs=3):
        assert backends.find(toys.pool(), None, shared=True).size(large) == 3
        assert backends.find(toys.pool(), None, shared=True).size(small, threads=True) == 3


@pytest.mark.parametrize(
    ("backend", "threads", "one_process"),
    [(None, True, True), (None, False, False), ("loky", True, False), ("threading", False, True)],
)
def test_where_groups_are_trained(backend, threads, one_process):
    team = backends.find(toys.pool(), 2, shared=True)
    with joblib.parallel_config(backend=backend) if backend else nullcontext():
        assert team.size(1e-6, threads=threads) == 2
        processes = set(team.run(process_of, [[0], [1]], 2))
    assert (processes == {os.getpid()}) is one_process


def process_of(models, *, pool):
    return os.getpid()


def test_an_error_in_one_thread_stops_the_others(fresh_cache):
    """Or the caller would wait until they have trained their models."""
    slow = mia.Training(epochs=10**6, batch_size=4)
    with pytest.raises(FloatingPointError, match=r"^Model 0 of \[0\]$"):
        mia.play(toys.pool(), workers.MODEL, Failing(), training=slow, n_models=4, workers=2)


@dataclasses.dataclass(frozen=True)
class Failing(Defense):
    name: ClassVar[str] = "failing"

    def step(self, run, batch):
        if run.models == [0]:
            raise FloatingPointError("Model 0 of [0]")
        super().step(run, batch)


def test_threads_train_one_group_at_a_time(fresh_cache):
    def dropout(shape, n_classes):
        return nn.Sequential(nn.Linear(shape[0], 8), nn.Dropout(), nn.Linear(8, n_classes))

    options = {"model": dropout, "training": TRAINING, "n_models": 8}
    expected = mia.play(toys.pool(), workers=1, store=fresh_cache / "one", **options)
    with joblib.parallel_config(backend="threading", n_jobs=4):
        game = mia.play(toys.pool(), workers=4, **options)
    np.testing.assert_array_equal(game.logits, expected.logits)


# ----------------------------------------------------------------------------------------------------
# Wrong parameters of play: one clear message each, before any training


def three_outputs(shape, n_classes):
    return nn.Linear(shape[0], n_classes + 1)


def not_a_network(shape, n_classes):
    return 7


class Refusing(Defense):
    name = "refusing"

    def check(self, plan):
        raise ValueError(f"refusing needs images; {plan.pool.name!r} has {plan.pool.kind} records.")


PLAY = [
    ({"model": "mpl"}, r"model='mpl' is unknown. Did you mean 'mlp'\? Known: cnn, mlp, resnet."),
    ({"model": 5}, "model=5 is unknown. Known: cnn, mlp, resnet."),
    (
        {"defense": "hampp"},
        r"defense='hampp' is unknown. Did you mean 'hamp'\? Known: .*hamp, label_smoothing, ",
    ),
    ({"defense": 0.5}, "defense=0.5 is unknown. Known: "),
    ({"queries": "flips"}, "queries='flips' is unknown. Known: augmented, original."),
    (
        {"queries": 16},
        "queries=16 must be 'original', 'augmented' or an instance such as mialab.queries.Flips",
    ),
    (
        {"queries": mia.queries.Flips()},
        "queries=Flips.* needs binary records; 'toy' has tabular ones: use Noise.",
    ),
    ({"keep": "losses"}, r"keep='losses' is unknown. Known: logits, scores."),
    ({"answers": "float64"}, r"answers='float64' is unknown. .*Known: float16, float32."),
    (
        {"keep": "scores", "answers": "float16"},
        "answers='float16' goes with keep='logits': scores are float32 always.",
    ),
    ({"device": "gpu"}, r"device='gpu' is unknown. .*Known: auto, cpu, cuda."),
    ({"n_models": 5}, "n_models=5 must be even: models come in pairs"),
    ({"n_models": 0}, "n_models=0 must be an integer of at least 2."),
    ({"n_models": "16"}, "n_models='16' must be an integer of at least 2."),
    ({"n_models": 4.0}, "n_models=4.0 must be an integer of at least 2."),
    ({"n_models": True}, "n_models=True must be an integer of at least 2."),
    ({"seed": -1}, "seed=-1 must be an integer of at least 0."),
    ({"seed": None}, "seed=None must be an integer of at least 0."),
    ({"canaries": 3}, "canaries=3 must be even and at most 40, the number of records."),
    ({"canaries": 42}, "canaries=42 must be even and at most 40, the number of records."),
    ({"canaries": -2}, "canaries=-2 must be an integer of at least 0."),
    ({"canaries": True}, "canaries=True must be an integer of at least 0."),
    ({"workers": 0}, "workers=0 must be an integer of at least 1."),
    (
        {"training": mia.Training(select="best_validation")},
        r"select='best_validation' needs a validation part: load the pool with validation=",
    ),
    ({"model": "cnn"}, r"Records of shape \(6,\) do not fit this model: it needs images .* use model='mlp'"),
    (
        {"model": three_outputs},
        r"model=three_outputs answers 2 records with shape \(2, 4\); it must be \(2, 3\).",
    ),
    ({"defense": Refusing()}, "refusing needs images; 'toy' has tabular records."),
]


@pytest.mark.parametrize(
    ("wrong", "message"), PLAY, ids=[f"{next(iter(w))}-{i}" for i, (w, _) in enumerate(PLAY)]
)
def test_wrong_parameters_of_play(wrong, message, no_training, fresh_cache):
    with pytest.raises(ValueError, match="^" + message) as caught:
        mia.play(toys.pool(), **wrong)
    assert "\n" not in str(caught.value)
    assert not list(fresh_cache.rglob("*.zarr"))


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ("digits", r"pool is 'digits'; it must be a Pool, e.g. mialab.load\('digits'\)."),
        (np.zeros((4, 2)), r"pool is a ndarray; it must be a Pool"),
        (None, r"pool is a NoneType; it must be a Pool"),
    ],
)
def test_a_pool_that_is_none(pool, message, no_training):
    with pytest.raises(TypeError, match="^" + message):
        mia.play(pool)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"training": {"epochs": 3}},
            r"training={'epochs': 3} must be a mialab.Training, e.g. Training\(epochs=50\).",
        ),
        ({"model": not_a_network}, "model=not_a_network must return a torch.nn.Module, not 7."),
    ],
)
def test_wrong_types_of_play(wrong, message, no_training, fresh_cache):
    with pytest.raises(TypeError, match="^" + message):
        mia.play(toys.pool(), **wrong)


def test_an_odd_number_of_records(no_training):
    with pytest.raises(ValueError, match=r"^There are 41 records .* need an even number: load size=40,"):
        mia.play(toys.pool(n=41))


def test_a_graphics_card_that_is_not_there(no_training, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=r"^device='cuda' is not available here; use device='auto'."):
        mia.play(toys.pool(), device="cuda")


# ----------------------------------------------------------------------------------------------------
# Answers from elsewhere


def arrays(**changes):
    rng = np.random.default_rng(0)
    member = membership(6, 10, 0)
    given = {
        "logits": rng.normal(size=(6, 2, 10, 3)),
        "member": member,
        "y": rng.integers(3, size=10),
        "partner": np.arange(6) ^ 1,
    }
    return given | changes


def test_from_arrays_keeps_what_it_is_given():
    given = arrays(
        canary=np.arange(10) < 4,
        raw_logits=np.ones((6, 2, 10, 3)),
        train_accuracy=np.full(6, 0.9),
        test_accuracy=np.full(6, 0.5),
    )
    game = mia.Game.from_arrays(**given, name="mine")
    for name, value in given.items():
        np.testing.assert_array_equal(game.dataset[name], value)
    assert (
        repr(game) == "Game(mine, defense=unknown: 6 models x 2 queries x 10 records x 3 classes, 4 canaries)"
    )
    assert (game.before_output_step().logits == 1).all()
    assert (game.logits != 1).all()
    assert game.attrs["dataset"] == "mine"


def test_from_arrays_fills_in_the_rest():
    given = arrays(partner=None)
    game = mia.Game.from_arrays(
        logits=given["logits"][:, 0].tolist(),
        member=given["member"].astype(int).tolist(),
        y=given["y"].astype(np.int32),
    )
    assert game.logits.shape == (6, 1, 10, 3)
    np.testing.assert_array_equal(game.member, given["member"])
    assert (game.member.dtype, game.y.dtype, game.canary.dtype) == (bool, np.int64, bool)
    assert (game.partner == -1).all()
    assert not game.canary.any()
    assert np.isnan(game.train_accuracy).all()
    assert np.isnan(game.test_accuracy).all()
    with pytest.raises(ValueError, match=r"^The defense 'unknown' has no output step to leave out."):
        game.before_output_step()
    plain = mia.Game.from_arrays(**arrays(raw_logits=given["logits"][:, 0], logits=given["logits"][:, 0]))
    assert plain.before_output_step().logits.shape == (6, 1, 10, 3)


def changed(name, index, value):
    array = arrays()[name].copy()
    array[index] = value
    return {name: array}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"logits": np.zeros((6, 10))},
            r"logits has shape \(6, 10\); with member \(6, 10\) it must be \(6, 10, label\) or \(6, query, 10, label\)",
        ),
        (
            {"member": np.ones((6, 9), bool)},
            r"member has shape \(6, 9\); with .* it must be \(6, 10\)",
        ),
        (
            {"y": np.zeros((10, 1), int)},
            r"y has shape \(10, 1\); with member \(6, 10\) it must be \(10,\).",
        ),
        ({"partner": np.zeros(5, int)}, r"partner has shape \(5,\); with member .* it must be \(6,\)."),
        ({"canary": np.zeros(9, bool)}, r"canary has shape \(9,\); with member .* it must be \(10,\)."),
        (
            {"raw_logits": np.zeros((6, 1, 10, 3))},
            r"raw_logits has shape .*; with .* it must be \(6, 10, 3\) or \(6, 2, 10, 3\).",
        ),
        (
            {"test_accuracy": np.zeros(3)},
            r"test_accuracy has shape \(3,\); with member .* it must be \(6,\).",
        ),
        (changed("logits", (0, 0, 0, 0), np.nan), "logits has 1 values that are not finite numbers."),
        (changed("logits", 0, -np.inf), "logits has 60 values that are not finite numbers."),
        (
            changed("y", 3, 3),
            "y must hold integers from 0 to 2; it is int64 from 0 to 3.",
        ),
        (
            changed("y", 3, -1),
            "y must hold integers from 0 to 2; it is int64 from -1 to 2.",
        ),
        (
            {"y": np.linspace(0, 2, 10)},
            "y must hold integers; it is float64 from 0.0 to 2.0.",
        ),
        (
            {"member": np.full((6, 10), 0.5)},
            r"member must be True or False \(or 1 and 0\); it holds \[0.5\].",
        ),
        (
            {"member": np.full((6, 10), "in")},
            r"member must be True or False \(or 1 and 0\); it holds \['in'\].",
        ),
        ({"canary": np.arange(10)}, r"canary must be True or False \(or 1 and 0\); it holds \[0 1 2 3 4\]."),
        (changed("member", 2, True), r"member\[2\] is all True: a target needs members and non-members."),
        (changed("member", 4, False), r"member\[4\] is all False: a target needs members and non-members."),
        ({"partner": np.arange(6)}, r"partner\[0\]=0, but models 0 and 0 are no pair"),
        ({"partner": np.array([2, 3, 0, 1, 5, 4])}, r"partner\[0\]=2, but models 0 and 2 are no pair"),
        ({"partner": np.array([1, -1, -1, -1, -1, -1])}, r"partner\[0\]=1, but models 0 and 1 are no pair"),
        (
            {"partner": np.arange(6) + 1},
            r"partner must hold integers from -1 to 5; it is int64 from 1 to 6 \(-1 stands for none\).",
        ),
        (
            {"partner": np.arange(6) / 2},
            "partner must hold integers; it is float64 from 0.0 to 2.5.",
        ),
        ({"logits": np.full((6, 2, 10, 3), "a")}, "logits must hold numbers; it is <U1."),
        ({"logits": np.zeros((6, 2, 10, 1))}, "logits has 1 classes; .* at least 2"),
    ],
)
def test_from_arrays_refuses_what_does_not_fit(changes, message):
    with pytest.raises(ValueError, match="^" + message):
        mia.Game.from_arrays(**arrays(**changes))


def test_subset():
    game = mia.Game.from_arrays(**arrays())
    small = game.subset(4)
    assert small.n_models == small.attrs["n_models"] == 4
    np.testing.assert_array_equal(small.logits, game.logits[:4])
    np.testing.assert_array_equal(small.member, game.member[:4])
    np.testing.assert_array_equal(small.partner, game.partner[:4])
    assert game.subset(6).n_models == 6
    for wrong, message in (
        (8, "n_models=8 must be at most 6, the number of models here."),
        (3, "n_models=3 must be even"),
        (0, "n_models=0 must be an integer of at least 2."),
    ):
        with pytest.raises(ValueError, match="^" + message):
            game.subset(wrong)
    crossed = membership(6, 10, 0)[[0, 2, 1, 3, 4, 5]]
    game = mia.Game.from_arrays(**arrays(member=crossed, partner=np.array([2, 3, 0, 1, 5, 4])))
    with pytest.raises(ValueError, match=r"^n_models=2 would tear models from their partners"):
        game.subset(2)
    assert game.subset(4).n_models == 4


def test_a_subset_is_the_game_of_fewer_models():
    pool = toys.pool()
    options = {"model": SMALL, "training": TRAINING, "seed": 2}
    eight, four = (mia.play(pool, n_models=n, **options) for n in (8, 4))
    np.testing.assert_allclose(eight.subset(4).logits, four.logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(eight.subset(4).member, four.member)
