"""The engine against plain PyTorch loops, and against itself in other groups."""

from dataclasses import dataclass
from typing import ClassVar

import joblib
import numpy as np
import pytest
import torch
import toys
from reference.training import SEED, moved, plain_loop
from torch import nn

import mialab as mia
from mialab.classifiers import run as classifier_run
from mialab.classifiers.run import train_group
from mialab.classifiers.signals import SIGNALS
from mialab.defenses import HAMP, Defense, LabelSmoothing
from mialab.models import CNN, MLP, ResNet
from mialab.queries import Flips, Original
from mialab.training import stack
from mialab.training.augmentation import flip_and_shift
from mialab.training.membership import membership
from mialab.training.options import Training
from mialab.training.stack import mode
from mialab.training.streams import Streams

SMALL, LARGE = MLP(hidden=(16,)), MLP(hidden=(256, 256))  # stacked and single on a CPU


NONE, ONCE = Defense(), Original()


def train(
    models, pool, build=SMALL, defense=NONE, queries=ONCE, seed=SEED, device="cpu", stored=None, **training
):
    """Train some models of a game of eight."""
    member = membership(8, len(pool), seed)[list(models)]
    options = {"epochs": 3, "batch_size": 8, "precision": "float32"} | training
    return train_group(
        list(models),
        pool=pool,
        y=pool.y,
        member=member,
        build=build,
        defense=defense,
        training=Training(**options),
        queries=queries,
        seed=seed,
        device=device,
        **(stored or {}),
    )


def assert_alike(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


# ----------------------------------------------------------------------------------------------------
# Against plain loops

OPTIMIZERS = {
    "sgd": (
        {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    ),
    "adam": (
        {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.1},
        lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    ),
    "adamw": (
        {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1},
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("build", "kind", "models"),
    [
        pytest.param(SMALL, "tabular", [0, 5], id="stacked"),
        pytest.param(LARGE, "tabular", [5], id="sequential"),
        pytest.param(CNN(channels=(4,), hidden=8, norm="group"), "image", [5], id="cnn"),
    ],
)
def test_training_against_a_plain_loop(build, kind, models, optimizer):
    pool = toys.pool(kind, n=44)  # 22 members: the last batch is smaller
    options, make_optimizer = OPTIMIZERS[optimizer]
    ours = train(models, pool, build, **options)["logits"][:, 0]
    for answers, k in zip(ours, models, strict=True):
        assert_alike(answers, plain_loop(k, pool, build, nn.functional.cross_entropy, make_optimizer))


def test_milestones_and_fixed_order_against_a_plain_loop():
    pool = toys.pool()
    options, make_optimizer = OPTIMIZERS["sgd"]
    schedule = {"epochs": 6, "milestones": (2, 4), "decay": 0.2, "shuffle": False}
    ours = train([1, 2], pool, **options, **schedule)["logits"][:, 0]
    for answers, k in zip(ours, [1, 2], strict=True):
        assert_alike(
            answers, plain_loop(k, pool, SMALL, nn.functional.cross_entropy, make_optimizer, **schedule)
        )
    training = Training(lr=0.5, milestones=(2, 4), decay=0.1)
    assert [training.lr_at(e) for e in range(6)] == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005, 0.005])


def test_label_smoothing_against_a_plain_loop():
    pool = toys.pool()
    options, make_optimizer = OPTIMIZERS["adam"]
    criterion = nn.CrossEntropyLoss(label_smoothing=0.2)
    ours = train([4], pool, defense=LabelSmoothing(0.2), **options)["logits"][0, 0]
    assert_alike(ours, plain_loop(4, pool, SMALL, criterion, make_optimizer))


@pytest.mark.parametrize("faithful", [True, False])
def test_hamp_against_a_plain_loop(faithful):
    pool = toys.pool()
    options, make_optimizer = OPTIMIZERS["sgd"]
    defense = HAMP(gamma=0.6, alpha=0.1, faithful=faithful)
    p = defense.soft_label(3)

    def criterion(logits, y):
        soft = torch.full_like(logits, (1 - p) / 2).scatter(1, y[:, None], p)
        terms = nn.functional.kl_div(logits.log_softmax(1), soft, reduction="none")
        divergence = terms.mean() if faithful else terms.sum(1).mean()
        return divergence - 0.1 * torch.distributions.Categorical(logits=logits).entropy().mean()

    ours = train([4, 7], pool, defense=defense, **options)["raw_logits"][:, 0]
    for answers, k in zip(ours, [4, 7], strict=True):
        assert_alike(answers, plain_loop(k, pool, SMALL, criterion, make_optimizer, new_optimizer=faithful))


class OwnLinear(nn.Linear):
    """A layer that the engine does not know, so that the network goes through vmap."""


def with_own_layer(shape, n_classes):
    network = SMALL(shape, n_classes)
    network[-1].__class__ = OwnLinear
    return network


@pytest.mark.parametrize("kind", ["tabular", "image"])
def test_batched_products_give_what_vmap_gives(kind):
    assert stack.is_plain_mlp(SMALL((6,), 3))
    assert not stack.is_plain_mlp(with_own_layer((6,), 3))
    layer, tied = nn.Linear(3, 3), nn.Linear(3, 3)
    tied.weight = layer.weight
    assert not stack.is_plain_mlp(nn.Sequential(layer, nn.ReLU(), layer))
    assert not stack.is_plain_mlp(nn.Sequential(layer, nn.ReLU(), tied))
    pool = toys.pool(kind)
    models = [0, 3, 4]
    ours, theirs = (train(models, pool, build)["logits"] for build in (SMALL, with_own_layer))
    assert_alike(ours, theirs)


@pytest.mark.parametrize("build", [ResNet(blocks=1, channels=(4, 8), norm="batch"), CNN(norm="batch")])
def test_batch_norm_is_trained_singly_and_answers_with_running_statistics(build):
    pool = toys.pool("image")
    assert mode(build((1, 8, 8), 3), torch.zeros(2, 1, 8, 8)) == "sequential"
    options, make_optimizer = OPTIMIZERS["sgd"]
    ours = train([2], pool, build, epochs=2, **options)["logits"][0, 0]
    theirs = plain_loop(2, pool, build, nn.functional.cross_entropy, make_optimizer, epochs=2)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="trained one at a time"):
        train([2, 3], pool, build)


def test_images_of_bytes_train_like_images_of_numbers():
    pixels = toys.pool("image")
    as_bytes = {name: (255 * getattr(pixels, name)).astype(np.uint8) for name in ("x", "x_val", "x_test")}
    as_numbers = {name: value.astype(np.float32) / 255 for name, value in as_bytes.items()}
    build = CNN(channels=(4,), hidden=8)
    ours, theirs = (train([0], toys.pool("image", **parts), build) for parts in (as_bytes, as_numbers))
    assert_alike(ours["logits"], theirs["logits"])


# ----------------------------------------------------------------------------------------------------
# Hooks


@dataclass(frozen=True)
class Everything(Defense):
    """Uses every hook with random numbers: mixes inputs and soft labels, scales weights, disturbs answers."""

    name: ClassVar[str] = "everything"

    def mix(self, x, y, *, progress, rng):
        fraction = rng.beta(0.5, 0.5, x.shape[1])
        other = rng.permutation(x.shape[1])
        soft = nn.functional.one_hot(y, 3).float()
        models = torch.arange(len(x))[:, None]
        weight = fraction[..., None] * (1 - progress / 2)
        return (
            weight * x + (1 - weight) * x[models, other],
            weight * soft + (1 - weight) * soft[models, other],
        )

    def loss(self, logits, target, *, run=None, index=None):
        seen = run.memory.setdefault("seen", torch.zeros(len(run.models)))
        seen += 1
        return super().loss(logits, target) / (1 + 0.1 * run.epoch)

    def weights(self, parameters, *, progress=None):
        return {name: 0.9 * value for name, value in parameters.items()}

    def answer(self, run, logits, x, record, query):
        rng = run.streams("answers")
        return logits + run.predict(x + 0.1 * rng.normal(*x.shape)) + rng.normal(*logits.shape[1:])


@pytest.mark.slow
def test_results_do_not_depend_on_the_group():
    pool = toys.pool(n=60, validation=20)
    for defense in (Defense(), HAMP(), Everything()):
        together = train(range(8), pool, defense=defense, epochs=1, select="best_validation")
        for size in (1, 3):
            groups = [range(i, min(i + size, 8)) for i in range(0, 8, size)]
            apart = [train(g, pool, defense=defense, epochs=1, select="best_validation") for g in groups]
            for name in set(together) - {"seconds"}:
                ours = np.concatenate([part[name] for part in apart])
                if name == "logits" and defense == HAMP():
                    # A rounding can swap two classes that are all but equal: compare the values, not the places.
                    ours, theirs = np.sort(ours), np.sort(together[name])
                else:
                    theirs = together[name]
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_workers(monkeypatch, tmp_path):
    pool = toys.pool()
    for build in (SMALL, LARGE):
        answers = []
        for workers in (1, 2):
            monkeypatch.setenv("MIALAB_CACHE", str(tmp_path / str(workers)))
            game = mia.play(pool, build, training=Training(epochs=1), n_models=20, workers=workers)
            assert game.attrs["workers"] == workers
            answers.append(game.logits)
        np.testing.assert_array_equal(*answers)


@pytest.mark.slow
def test_threads_train_what_one_thread_trains(monkeypatch, tmp_path):
    pool, answers, before = toys.pool(), [], torch.get_num_threads()
    for n_jobs in (1, 4):
        with joblib.parallel_config(n_jobs=n_jobs):
            game = mia.play(
                pool,
                SMALL,
                training=Training(epochs=3),
                n_models=64,
                device="cpu",
                store=tmp_path / str(n_jobs),
            )
        assert game.attrs["workers"] == n_jobs
        answers.append(game.logits)
    np.testing.assert_array_equal(*answers)
    assert torch.get_num_threads() == before


def test_training_that_stops_early_is_the_beginning_of_a_longer_one():
    pool, seen = toys.pool(), []

    class Note(Defense):
        def before_epoch(self, run):
            seen.append(f"epoch {run.epoch}")

        def mix(self, x, y, *, progress, rng):
            seen.append(progress)
            return x, y

    for stop in (None, 3):
        train([0], pool, defense=Note(), epochs=5, stop=stop, batch_size=20)
    fractions = [s for s in seen if isinstance(s, float)]
    assert fractions == [0, 0.25, 0.5, 0.75, 1, 0, 0.25, 0.5]
    assert seen.count("epoch 3") == seen.count("epoch 4") == 1
    with pytest.raises(ValueError, match=r"stop=6 must be at most epochs=5"):
        Training(epochs=5, stop=6)


@pytest.mark.slow
def test_what_attacks_find_does_not_depend_on_the_group(monkeypatch, tmp_path):
    pool, found = toys.pool(n=200, n_classes=10), []
    for size in (1, 3, 8):
        monkeypatch.setenv("MIALAB_CACHE", str(tmp_path / str(size)))
        monkeypatch.setattr(stack, "GROUP_MODELS", size)
        game = mia.play(
            pool, MLP(hidden=(64,)), training=Training(epochs=60, lr=0.01, batch_size=16), n_models=8
        )
        table = mia.audit(game, ["loss", "lira"])
        found.append(table[(table.metric == "auc") & (table.target == "pooled")])
    assert (found[0].value > 0.6).all()  # there is something to find
    for other in found[1:]:
        # Roundings grow over 30 epochs, but far less than the models differ from each other.
        assert (other.value.to_numpy() > found[0].low.to_numpy()).all()
        assert (other.value.to_numpy() < found[0].high.to_numpy()).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("build", "kind"),
    [(SMALL, "tabular"), (LARGE, "tabular"), (CNN(norm="group"), "image"), (ResNet(), "image")],
)
def test_a_gpu_trains_stacked_what_a_cpu_trains(build, kind):
    pool = toys.pool(kind, validation=20)
    options = {
        "defense": HAMP(alpha=0.1),
        "epochs": 1,
        "select": "best_validation",
        "lr": 0.01,
        "optimizer": "sgd",
    }
    together = train(range(4), pool, build, device="cuda", **options)
    models = (
        [[0, 1, 2, 3]]
        if mode(build(pool.x.shape[1:], 3), torch.tensor(pool.x[:2])) == "stacked"
        else [[0], [1], [2], [3]]
    )
    apart = np.concatenate([train(group, pool, build, **options)["raw_logits"] for group in models])
    # Sums in another order.
    np.testing.assert_allclose(together["raw_logits"], apart, rtol=1e-2, atol=1e-2)


def test_weights_that_a_network_computes_with():
    # A plain loop over a network whose weights are scaled on the way.
    pool = toys.pool()

    @dataclass(frozen=True)
    class Scaled(Defense):
        name: ClassVar[str] = "scaled"

        def weights(self, parameters, *, progress=None):
            return {name: 0.5 * value for name, value in parameters.items()}

    class Half(nn.Module):
        def __init__(self, shape, n_classes):
            super().__init__()
            self.inner = SMALL(shape, n_classes)

        def forward(self, x):
            halves = {name: 0.5 * value for name, value in self.inner.named_parameters()}
            return torch.func.functional_call(self.inner, halves, (x,))

    options, make_optimizer = OPTIMIZERS["adam"]
    ours = train([1, 6], pool, defense=Scaled(), **options)["logits"][:, 0]
    for answers, k in zip(ours, [1, 6], strict=True):
        assert_alike(answers, plain_loop(k, pool, Half, nn.functional.cross_entropy, make_optimizer))


def test_hooks_see_the_running_training():
    pool, seen = toys.pool(), []

    @dataclass(frozen=True)
    class Watcher(Defense):
        name: ClassVar[str] = "watcher"

        def before_epoch(self, run):
            seen.append((run.epoch, run.models, run.members.numpy(), list(run.parameters)))

        def mix(self, x, y, *, progress, rng):
            seen.append(progress)
            return x, y

        def loss(self, logits, target, *, run=None, index=None):
            np.testing.assert_array_equal(run.y[index], target)
            assert all(run.members[i, :, None].eq(row).any(0).all() for i, row in enumerate(index))
            return super().loss(logits, target)

    train([2, 5], pool, defense=Watcher(), epochs=3, batch_size=20)
    assert [s for s in seen if isinstance(s, float)] == [0, 0.5, 1]
    epochs = [s for s in seen if isinstance(s, tuple)]
    assert [e[0] for e in epochs] == [0, 1, 2]
    assert epochs[0][1] == [2, 5]
    np.testing.assert_array_equal(
        epochs[0][2], [np.flatnonzero(m) for m in membership(8, len(pool), SEED)[[2, 5]]]
    )


# ----------------------------------------------------------------------------------------------------
# Selection, precision, divergence


@pytest.mark.slow
@pytest.mark.parametrize(("build", "models"), [(SMALL, [0, 1, 2, 3]), (LARGE, [1])])
def test_best_validation_keeps_the_first_best_epoch(build, models):
    pool = toys.pool(n=40, validation=20)
    options = {"lr": 0.02, "batch_size": 16}
    # Epoch by epoch: without a schedule, a training of e epochs is the beginning of one of 8.
    path = [train(models, pool, build, epochs=e, **options) for e in range(1, 9)]
    accuracy = np.stack([result["validation_accuracy"] for result in path])
    best = accuracy.argmax(0)
    assert set(best) != {7}  # or there would be nothing to see
    chosen = train(models, pool, build, epochs=8, select="best_validation", **options)
    for i, epoch in enumerate(best):
        assert_alike(chosen["logits"][i], path[epoch]["logits"][i])
    np.testing.assert_array_equal(chosen["validation_accuracy"], accuracy.max(0))
    np.testing.assert_array_equal(
        chosen["test_accuracy"], [path[e]["test_accuracy"][i] for i, e in enumerate(best)]
    )


@pytest.mark.slow
def test_best_validation_keeps_the_running_statistics_of_its_epoch():
    pool, build = toys.pool("image", validation=20), CNN(channels=(4,), hidden=8, norm="batch")
    earlier = 0
    for model in range(4):
        path = [train([model], pool, build, epochs=e, lr=0.05) for e in range(1, 6)]
        best = int(np.argmax([result["validation_accuracy"][0] for result in path]))
        chosen = train([model], pool, build, epochs=5, lr=0.05, select="best_validation")
        assert_alike(chosen["logits"], path[best]["logits"])
        earlier += best < 4
    assert earlier  # or there would be nothing to see


@pytest.mark.parametrize(
    ("build", "kind", "models"),
    [(SMALL, "tabular", [0, 1]), (LARGE, "tabular", [0]), (ResNet(blocks=1, channels=(4, 8)), "image", [0])],
)
def test_bfloat16_trains_almost_like_float32(build, kind, models):
    pool = toys.pool(kind)
    options, _ = OPTIMIZERS["sgd"]
    rough = train(models, pool, build, precision="bfloat16", **options)["logits"]
    exact = train(models, pool, build, **options)["logits"]
    assert rough.dtype == np.float32
    assert (rough != exact).any()
    # bfloat16 has 8 bits: a relative step of 0.4 %
    assert np.abs(rough - exact).mean() < 0.1 * np.abs(exact).mean()
    # The answers themselves are float32: rounded ones would be few.
    assert len(np.unique(rough[0, 0])) > 0.9 * rough[0, 0].size


def test_divergence_is_an_error_that_names_the_model():
    with pytest.raises(
        FloatingPointError, match=r"^Training diverged: model [45] answers .* not finite. Lower lr=1e\+30"
    ):
        train([4, 5], toys.pool(), MLP(hidden=(8,), activation="relu"), optimizer="sgd", lr=1e30)


# ----------------------------------------------------------------------------------------------------
# Results


@pytest.mark.slow
@pytest.mark.parametrize("build", [SMALL, LARGE])
def test_results_of_a_group(build):
    pool = toys.pool("binary", n=60, validation=20, test=30)
    models = [3, 6] if build is SMALL else [3]
    result = train(models, pool, build, HAMP(), Flips(n=2), epochs=10)
    assert result["logits"].shape == result["raw_logits"].shape == (len(models), 3, 60, 3)
    assert result["logits"].dtype == np.float32
    member = membership(8, 60, SEED)[models]
    right = result["raw_logits"][:, 0].argmax(-1) == pool.y
    np.testing.assert_allclose(
        result["train_accuracy"], [r[m].mean() for r, m in zip(right, member, strict=True)]
    )
    assert ((result["seconds"] > 0) & (result["seconds"] < 60)).all()
    # Validation and test accuracy: trained the same, asked other records.
    for part in ("val", "test"):
        x, y = getattr(pool, f"x_{part}"), getattr(pool, f"y_{part}")
        run = classifier_run.Run(
            pool.x,
            pool.y,
            member,
            models,
            pool=pool,
            build=build,
            defense=HAMP(),
            training=Training(epochs=10, batch_size=8),
            seed=SEED,
            device="cpu",
        )
        run.train()
        expected = (run.predict(x).argmax(-1).numpy() == y).mean(1)
        name = "validation" if part == "val" else part
        np.testing.assert_allclose(result[f"{name}_accuracy"], expected)


def test_accuracies_of_parts_that_are_missing_are_unknown():
    result = train([0], toys.pool(test=0))
    assert np.isnan(result["test_accuracy"]).all()
    assert np.isnan(result["validation_accuracy"]).all()


def test_training_leaves_threads_and_random_numbers_of_the_user_alone():
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train([0], toys.pool(), defense=HAMP())
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_the_same_seed_gives_the_same_models_and_another_one_others():
    pool = toys.pool()
    first, again, other = (train([0, 1], pool, seed=seed)["logits"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first[0] != first[1]).any()


class Dropping(nn.Linear):
    """Dropout as a function, which no look at the modules can find."""

    def forward(self, x):
        return nn.functional.dropout(super().forward(x), training=self.training)


@pytest.mark.parametrize(
    "layers", [lambda a, b: [nn.Linear(a, b), nn.Dropout()], lambda a, b: [Dropping(a, b)]]
)
def test_dropout_depends_on_seed_and_model_alone(layers):
    def build(shape, n_classes):
        return nn.Sequential(*layers(shape[0], 16), nn.ReLU(), nn.Linear(16, n_classes))

    pool = toys.pool()
    assert mode(build((6,), 3), torch.zeros(2, 6)) == "sequential"
    first = train([1], pool, build)["logits"]
    torch.rand(5)
    train([0], pool, build)
    np.testing.assert_array_equal(train([1], pool, build)["logits"], first)


def test_streams_belong_to_one_model_and_one_purpose():
    draws = {
        "permutation": lambda s: s.permutation(9),
        "uniform": lambda s: s.uniform(4, 2),
        "normal": lambda s: s.normal(4, 2),
        "beta": lambda s: s.beta(0.3, 2, 5),
        "integers": lambda s: s.integers(100, 6),
    }
    for draw in draws.values():
        group = draw(Streams(0, [3, 4, 9], "this"))
        for i, k in enumerate([3, 4, 9]):
            assert torch.equal(draw(Streams(0, [k], "this"))[0], group[i])
            assert not torch.equal(draw(Streams(0, [k], "that"))[0], group[i])
            assert not torch.equal(draw(Streams(1, [k], "this"))[0], group[i])
        assert not torch.equal(group[0], group[1])
    assert sorted(draws["permutation"](Streams(0, [1], "this"))[0].tolist()) == list(range(9))
    many = Streams(0, [0], "this")
    # Means of 10,000 numbers: 5 standard deviations, error rates of 6e-7
    for values, mean, deviation in (
        (many.uniform(10_000), 1 / 2, 12**-0.5),
        (many.normal(10_000), 0, 1),
        (many.beta(2, 6, 10_000), 1 / 4, (12 / (64 * 9)) ** 0.5),
        (many.integers(7, 10_000), 3, 2),
    ):
        assert values.double().mean().item() == pytest.approx(mean, abs=5 * deviation / 100)


# ----------------------------------------------------------------------------------------------------
# What is returned of the answers


@pytest.mark.parametrize("defense", [NONE, HAMP()])
def test_scores_are_the_signals_of_the_answers(defense):
    pool = toys.pool("binary", n=60)
    options = {"models": [3, 6], "pool": pool, "defense": defense, "queries": Flips(n=2)}
    logits, scores = train(**options), train(**options, stored={"keep": "scores"})
    assert {name.removeprefix("raw_") for name in scores} >= set(SIGNALS)
    assert not {"logits", "raw_logits"} & set(scores)
    for prefix in ("", "raw_") if defense.uses("answer") else ("",):
        for name, signal in SIGNALS.items():
            found = scores[prefix + name]
            assert found.dtype == np.float32
            assert found.shape == (2, 3, 60)
            expected = signal.sign * signal(logits[f"{prefix}logits"].astype(np.float64), pool.y)
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6, err_msg=name)


def test_answers_in_half_precision(monkeypatch):
    pool = toys.pool()
    half, whole = train([0], pool, stored={"answers": "float16"}), train([0], pool)
    np.testing.assert_array_equal(half["logits"], whole["logits"].astype(np.float16))
    assert half["logits"].dtype == np.float16
    huge = MLP(hidden=(8,), activation="relu")
    with pytest.raises(FloatingPointError, match=r"does not fit answers='float16' \(at most 6.55e\+04\)"):
        train([0], toys.pool(), huge, optimizer="sgd", lr=1e5, epochs=1, stored={"answers": "float16"})


def test_answers_do_not_depend_on_how_many_are_asked_for_at_a_time(monkeypatch):
    pool = toys.pool("binary", n=60, validation=20)
    whole = train([0, 5], pool, defense=Everything())
    monkeypatch.setattr(classifier_run, "ANSWER_BATCH", 60)
    assert_alike(train([0, 5], pool, defense=Everything())["raw_logits"], whole["raw_logits"])


# ----------------------------------------------------------------------------------------------------
# Data augmentation


def test_augmentation_is_one_of_the_possible_moves_and_all_of_them_occur():
    x = torch.rand(2, 64, 2, 5, 6)
    out = flip_and_shift(x, flip=True, shift=1, rng=Streams(0, [0, 1], "augmentation")).numpy()
    options = [(m, dy, dx) for m in (False, True) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    found = {}
    for image, result in zip(x.flatten(0, 1).numpy(), out.reshape(-1, 2, 5, 6), strict=True):
        ways = [o for o in options if np.array_equal(moved(image, *o), result)]
        assert len(ways) == 1
        found[ways[0]] = found.get(ways[0], 0) + 1
    # 128 draws of 18 moves: one of them never occurs with probability 18 (17/18)^128 = 1.2 %; the seed is fixed.
    assert len(found) == 18


def test_augmentation_depends_on_seed_and_model_alone():
    pool = toys.pool("image")
    build = MLP(hidden=(16,))
    options = {"flip": True, "shift": 2}
    together, alone = train([0, 3], pool, build, **options), train([3], pool, build, **options)
    assert_alike(together["logits"][1:], alone["logits"])
    assert np.abs(train([3], pool, build)["logits"] - alone["logits"]).max() > 0.01


def test_no_augmentation_is_none():
    x = torch.rand(1, 2, 1, 4, 4)
    assert flip_and_shift(x, flip=False, shift=0, rng=None) is x


@pytest.mark.parametrize(
    ("kind", "training", "message"),
    [
        ("tabular", {"flip": True}, "flip=True and shift=0 are for images; 'toy' has tabular records"),
        ("image", {"shift": 8}, r"shift=8 moves images of \(8, 8\) pixels out of sight"),
        ("image", {"select": "best_validation"}, "select='best_validation' needs a validation part"),
    ],
)
def test_training_refuses_pools_that_it_does_not_suit(kind, training, message):
    with pytest.raises(ValueError, match=message):
        Training(**training).check(toys.pool(kind))


# ----------------------------------------------------------------------------------------------------
# Form, precision, layout, size of groups


class Branching(nn.Linear):
    """A network whose way depends on its numbers, which vmap cannot follow."""

    def forward(self, x):
        out = super().forward(x)
        return out if out.sum() > 0 else -out


@pytest.mark.parametrize(
    ("network", "shape", "cpu", "cuda"),
    [
        (SMALL((6,), 3), (6,), "stacked", "stacked"),
        (LARGE((6,), 3), (6,), "sequential", "stacked"),
        (nn.Linear(49, 1000), (49,), "stacked", "stacked"),  # 50,000 parameters
        (nn.Linear(50, 1000), (50,), "sequential", "stacked"),
        (CNN(channels=(2,), hidden=2)((1, 8, 8), 2), (1, 8, 8), "sequential", "stacked"),
        (ResNet()((3, 8, 8), 2), (3, 8, 8), "sequential", "stacked"),
        (ResNet(norm="batch")((3, 8, 8), 2), (3, 8, 8), "sequential", "sequential"),
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout()), (2,), "sequential", "sequential"),
        (Dropping(2, 2), (2,), "sequential", "sequential"),
        (Branching(2, 2), (2,), "sequential", "sequential"),
    ],
)
def test_form(network, shape, cpu, cuda):
    x = torch.zeros(2, *shape)
    assert mode(network, x) == cpu
    assert mode(network, x, "cuda") == cuda


def test_a_network_that_looks_at_its_input_is_not_stacked():
    class Looks(nn.Linear):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    assert mode(nn.Linear(6, 3), torch.zeros(2, 6)) == "stacked"
    assert mode(Looks(6, 3), torch.zeros(2, 6)) == "sequential"


@pytest.mark.parametrize(
    ("network", "has", "expected"),
    [
        (LARGE((6,), 3), {"avx512_bf16": True}, "bfloat16"),
        (LARGE((6,), 3), {"amx_bf16": True}, "bfloat16"),
        (LARGE((6,), 3), {"avx512_f": True}, "float32"),
        (SMALL((6,), 3), {"avx512_bf16": True}, "float32"),
        (CNN(channels=(2,), hidden=2)((1, 8, 8), 2), {"avx512_bf16": True}, "bfloat16"),
    ],
)
def test_precision_follows_from_processor_and_network(monkeypatch, network, has, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert stack.resolve(Training(), network).precision == expected
    for given in ("float32", "bfloat16"):
        assert stack.resolve(Training(precision=given), network).precision == given


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (CNN()((1, 8, 8), 2), True),
        (ResNet(norm="batch")((3, 8, 8), 2), True),
        (ResNet(norm="group")((3, 8, 8), 2), False),
        (LARGE((6,), 3), False),
    ],
)
def test_layout_of_images(network, expected):
    assert stack.channels_last(network) is expected


def test_images_are_laid_out_channels_last():
    pool, build = toys.pool("image"), CNN(channels=(4, 4), hidden=8)
    seen = []

    class Watching(nn.Conv2d):
        def forward(self, x):
            seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return super().forward(x)

    def watched(shape, n_classes):
        network = build(shape, n_classes)
        network[4].__class__ = Watching  # the second convolution: with one channel, layouts are the same
        return network

    train([0], pool, watched, epochs=1)
    assert seen
    assert all(seen)


@pytest.mark.parametrize(
    ("build", "kind", "multiplications"),
    [
        (MLP(hidden=(10,)), "tabular", 6 * 10 + 10 * 3),
        (CNN(channels=(4, 2), hidden=5), "image", 64 * 9 * 4 + 16 * 9 * 4 * 2 + 2 * 4 * 5 + 5 * 3),
    ],
)
def test_work_is_estimated_from_steps_and_multiplications(build, kind, multiplications):
    pool, training = toys.pool(kind, n=40), Training(epochs=7, batch_size=8)  # 20 members: 3 steps
    network = build(pool.x.shape[1:], 3)
    expected = 7 * (3 * stack.STEP_SECONDS + 6 * multiplications * 20 / stack.OPERATIONS_PER_SECOND)
    assert stack.seconds_of_work(network, pool, training) == pytest.approx(expected)
    assert not any(module._forward_hooks for module in network.modules())


def test_groups_on_a_processor_are_small():
    pool, training = toys.pool(), Training()
    assert stack.models_per_group(SMALL((6,), 3), pool, training) == 16
    assert stack.models_per_group(nn.Linear(100, 1000), pool, training) == 3  # 400,000 parameters
    assert stack.models_per_group(nn.Linear(500, 1000), pool, training) == 1


def test_groups_on_a_gpu_fill_a_fraction_of_its_free_memory(monkeypatch):
    pool, network = toys.pool(n=40), nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))
    data = pool.x.nbytes + pool.y.nbytes
    # By hand, for batches of 8: the weights are kept as well as the input, and tanh's output (twice).
    parameters = 16 * (6 * 10 + 10 + 10 * 3 + 3)
    least = parameters + 8 * 4 * (2 * (6 + 10) + 6)
    sizes = []
    for free in (10**6, 2 * 10**6):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free + data, 10**9))
        sizes.append(stack.models_per_group(network, pool, Training(batch_size=8), "cuda"))
    assert sizes[1] in (2 * sizes[0], 2 * sizes[0] + 1)
    assert 0.4 * 0.6 * 10**6 / least < sizes[0] <= 0.6 * 10**6 / least
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 10**9))
    assert stack.models_per_group(network, pool, Training(batch_size=8), "cuda") == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("build", "kind"), [(SMALL, "tabular"), (CNN(), "image")])
def test_the_host_never_waits_for_the_gpu_within_an_epoch(build, kind):
    class Watched(Defense):
        def before_epoch(self, run):
            torch.cuda.set_sync_debug_mode("error" if run.epoch else "default")

    try:
        pool = toys.pool(kind)
        run = classifier_run.Run(
            pool.x,
            pool.y,
            membership(8, len(pool), SEED),
            range(8),
            pool=pool,
            build=build,
            defense=Watched(),
            training=Training(epochs=3, batch_size=8),
            seed=SEED,
            device="cuda",
        )
        run.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_float32_is_that_on_a_gpu():
    def settings():
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = settings()
    with stack.full_float32("cpu"):
        assert settings() == before
    try:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        with stack.full_float32("cuda"):
            assert settings() == ("highest", False)
        assert settings() == ("high", True)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_a_network_that_cannot_be_stacked_is_trained_all_the_same():
    pool = toys.pool()
    assert np.isfinite(
        train([0], pool, lambda shape, n_classes: Branching(shape[0], n_classes))["logits"]
    ).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs=0 must be an integer of at least 1."),
        ({"epochs": 2.0}, "epochs=2.0 must be an integer of at least 1."),
        ({"batch_size": -1}, "batch_size=-1 must be an integer of at least 1."),
        ({"optimizer": "sdg"}, r"optimizer='sdg' is unknown. Did you mean 'sgd'\? Known: adam, adamw, sgd."),
        ({"lr": 0}, "lr=0 must be greater than 0."),
        ({"lr": float("inf")}, "lr=inf must be greater than 0."),
        ({"lr": "0.1"}, "lr='0.1' must be greater than 0."),
        ({"momentum": 0.9}, "momentum=0.9 goes with optimizer='sgd', not 'adam'."),
        ({"optimizer": "sgd", "momentum": 1.5}, "momentum=1.5 must be at least 0 and at most 1."),
        ({"weight_decay": -1}, "weight_decay=-1 must be at least 0."),
        ({"milestones": (0,)}, "milestones=0 must be an integer of at least 1."),
        ({"milestones": 3}, r"milestones=3 must be a sequence of integers, e.g. \(3,\)."),
        ({"decay": 0}, "decay=0 must be greater than 0 and at most 1."),
        ({"select": "best"}, "select='best' is unknown. .*Known: best_validation, last."),
        ({"shift": -1}, "shift=-1 must be an integer of at least 0."),
        ({"precision": "float16"}, r"precision='float16' is unknown. Did you mean 'bfloat16'\?"),
    ],
)
def test_wrong_parameters_of_training(wrong, message):
    with pytest.raises(ValueError, match="^" + message):
        Training(**wrong)
