"""Checkpoints: games at several epochs of one training are those of trainings that stop there, to the last bit."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
import toys
from torch import nn

import mialab as mia
from mialab.classifiers import run as classifier_run
from mialab.defenses import (
    DPSGD,
    HAMP,
    AdaMixup,
    AdversarialRegularization,
    ConfidenceMasking,
    Defense,
    Dropout,
    DynaNoise,
    LabelSmoothing,
    MemGuard,
    Mixup,
    Quantization,
    RelaxLoss,
    WeightedSmoothing,
)
from mialab.exceptions import RequirementsNotMet
from mialab.games import execution
from mialab.models import MLP
from mialab.queries import make as make_queries
from mialab.training.membership import membership

SMALL, LARGE = MLP(hidden=(8,)), MLP(hidden=(300, 200))  # stacked, and one at a time
SGD = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9}
SCHEDULE = {"milestones": (2, 4), "decay": 0.3}


def training(**options):
    return mia.Training(**{"epochs": 6, "batch_size": 8, **options})


def play(defense=None, model=SMALL, pool=None, n_models=2, **options):
    """Play a small game in memory; what is no option of `play` is one of its training."""
    own = {"queries", "keep", "answers", "probes", "store", "seed", "canaries", "workers"} & options.keys()
    given = {name: options.pop(name) for name in own}
    pool = toys.pool() if pool is None else pool
    return mia.play(pool, model, defense, training=training(**options), n_models=n_models, **given)


def assert_same(game, expected, attrs=("training", "report", "probes", "probe_parameters", "layers")):
    names = {"seconds"} | ({"checkpoint"} & set(game.dataset.coords))
    assert set(game.dataset.variables) - names == set(expected.dataset.variables) - names
    for name in set(expected.dataset.variables) - names:
        left, right = (one.dataset[name].to_numpy() for one in (game, expected))
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right, err_msg=name)
    for name in attrs:
        assert game.attrs[name] == expected.attrs[name], name


def trained(defense, model, pool, queries="original", **options):
    """Train a group of models without a store: two stacked ones, or one alone."""
    models = (0, 1) if getattr(model, "hidden", (100,))[0] < 100 else (1,)
    return classifier_run.train_group(
        models,
        pool=pool,
        y=pool.y,
        member=membership(2, len(pool), 0)[list(models)],
        build=mia.models.make(model),
        defense=defense or Defense(),
        training=training(**options),
        queries=make_queries(queries, pool),
        seed=0,
    )


def assert_as_if_stopped(defense=None, model=SMALL, checkpoints=(1, 4), pool=None, **options):
    """Compare answers at checkpoints, and those after the last epoch, with those of trainings without checkpoints."""
    pool = toys.pool() if pool is None else pool
    arrays = trained(defense, model, pool, checkpoints=checkpoints, **options)
    for place, epoch in enumerate((*checkpoints, None)):
        expected = trained(defense, model, pool, stop=epoch, **options)
        for name in set(expected) - {"seconds"}:
            values = arrays[name] if epoch is None else arrays[f"checkpoint_{name}"][:, place]
            assert values.dtype == expected[name].dtype
            np.testing.assert_array_equal(values, expected[name], err_msg=f"{name}, epoch {epoch}")
    return arrays


class Noisy(nn.Module):
    """A network with batch norm and dropout: a state of its own, and numbers from torch's generator."""

    def __init__(self, shape, n_classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(shape[0], 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, n_classes)
        )

    def forward(self, x):
        return self.layers(x)


@dataclass(frozen=True)
class Restless(Defense):
    """Everything that is done once training is over leaves traces: in weights, memory, optimizer, random numbers."""

    name: ClassVar[str] = "restless"

    def before_epoch(self, run):
        run.memory.setdefault("epochs", []).append(run.epoch)

    def loss(self, logits, target, *, run=None, index=None):
        losses = super().loss(logits, target, run=run, index=index)
        return losses * (1 + run.streams("restless").uniform(*losses.shape[1:]))

    def finish(self, run):
        assert run.progress is None
        assert not run.network.training
        assert run.memory["epochs"] == list(range(run.training.last))
        run.memory["epochs"].clear()
        run.step(run.members[:, :3])
        run.reset_optimizer()
        run.network.train()
        if run.draws:
            torch.rand(3)
        with torch.no_grad():
            for parameter in run.parameters.values():
                parameter.mul_(0.9)
            noise = run.streams("restless").normal(1)
            next(iter(run.parameters.values())).add_(noise.mean())

    def answer(self, run, logits, x, record, query):
        run.memory["blocks"] = run.memory.get("blocks", 0) + 1
        return logits + run.memory["blocks"] + run.streams("answers").normal(*logits.shape[1:])

    def report(self, plan):
        return {"epsilon": 0.5 * plan.training.last}


# ----------------------------------------------------------------------------------------------------
# The same as with stop


@pytest.mark.slow
@pytest.mark.parametrize("model", [SMALL, LARGE, Noisy], ids=["stacked", "sequential", "noisy"])
@pytest.mark.parametrize(
    "options",
    [{}, SGD | SCHEDULE, {"optimizer": "adamw", "weight_decay": 0.1} | SCHEDULE, {"shuffle": False}],
    ids=["adam", "sgd", "adamw", "in order"],
)
def test_optimizers_and_schedules(model, options):
    assert_as_if_stopped(model=model, **options)


DEFENSES = [
    HAMP(),
    HAMP(output_step=False, faithful=False),
    Mixup(),
    AdaMixup(),
    AdaMixup(schedule="literal"),
    LabelSmoothing(),
    DPSGD(noise=0.5, ema=0.7),
    Dropout(0.3),
    AdversarialRegularization(inner=2, confidence=(8,), label=(4,), joint=(8,)),
    RelaxLoss(),
    MemGuard(passes=2, steps=5, widths=(8,)),
    DynaNoise(),
    ConfidenceMasking(),
    WeightedSmoothing(warm_up=2),
    WeightedSmoothing(version="paper", warm_up=1),
    Restless(),
]


@pytest.mark.slow
@pytest.mark.parametrize("model", [SMALL, LARGE], ids=["stacked", "sequential"])
@pytest.mark.parametrize("defense", DEFENSES, ids=lambda d: d.name)
def test_defenses(model, defense):
    assert_as_if_stopped(defense, model, pool=toys.pool(reference=20), **SGD)


@pytest.mark.slow
def test_whatever_a_defense_does_with_a_noisy_network():
    assert_as_if_stopped(Restless(), Noisy, checkpoints=(1, 2, 4), **SCHEDULE)


@pytest.mark.slow
@pytest.mark.parametrize("model", [MLP(hidden=(8, 8)), LARGE], ids=["stacked", "sequential"])
@pytest.mark.parametrize(
    "defense",
    [
        Quantization(2),
        Quantization(4, start="after_training"),
        Quantization(4, start="scratch"),
        Quantization(2, quantizer="sigmoid", ends=2),
        Quantization(32),
    ],
    ids=["late", "after", "scratch", "sigmoid", "full"],
)
def test_quantization_before_and_after_it_begins(model, defense):
    assert_as_if_stopped(defense, model, checkpoints=(1, 2, 3, 4, 5), weight_decay=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("model", [SMALL, LARGE, Noisy], ids=["stacked", "sequential", "noisy"])
def test_the_best_epoch_so_far(model):
    pool = toys.pool(validation=30)
    how = {"lr": 0.05, "select": "best_validation"}
    arrays = assert_as_if_stopped(model=model, pool=pool, checkpoints=(1, 3, 5), **how)
    best = arrays["checkpoint_validation_accuracy"]
    assert (np.diff(best, axis=1) >= 0).all()
    assert (arrays["validation_accuracy"] >= best[:, -1]).all()


@pytest.mark.slow
@pytest.mark.parametrize("defense", [None, HAMP()], ids=["none", "hamp"])
def test_augmented_images_and_queries(defense):
    assert_as_if_stopped(
        defense,
        "cnn",
        pool=toys.pool("image", n=20),
        flip=True,
        shift=1,
        queries="augmented",
        checkpoints=(2,),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"answers": "float16"}, {"keep": "scores"}, {"queries": mia.queries.Noise(n=2)}, {"canaries": 10}],
    ids=["float16", "scores", "queries", "canaries"],
)
@pytest.mark.parametrize("defense", [None, HAMP()], ids=["none", "hamp"])
def test_what_is_kept(defense, options):
    game = play(defense, checkpoints=(1, 4), **options)
    assert_same(game.at(1), play(defense, stop=1, **options))
    assert_same(game.at(4), play(defense, stop=4, **options))
    assert_same(game.at(6), play(defense, **options))
    kept = "loss" if "keep" in options else "logits"
    assert game.dataset[f"checkpoint_{kept}"].dims[:4] == ("model", "checkpoint", "query", "record")
    assert game.dataset[f"checkpoint_{kept}"].dtype == game.dataset[kept].dtype


@pytest.mark.slow
def test_more_epochs_after_the_last_checkpoint_with_a_stop():
    assert_same(play(stop=5, checkpoints=(2, 4)).at(4), play(stop=4))
    assert_same(play(stop=5, checkpoints=(2, 4)).at(5), play(stop=5))


@pytest.mark.slow
def test_several_groups_in_threads():
    expected = play(stop=3, n_models=18)
    assert_same(play(checkpoints=(3,), n_models=18).at(3), expected)


# ----------------------------------------------------------------------------------------------------
# An ordinary game


@pytest.fixture(scope="module")
def game():
    return play(HAMP(), checkpoints=(2, 4), n_models=8, probes=["gradient", "boundary"])


@pytest.mark.slow
def test_checkpoints_are_without_what_probes_measured(game):
    assert set(game.probes) == set(game.at(6).probes) == {"gradient", "boundary"}
    assert game.at(6).gradient_norm.shape == game.gradient_norm.shape
    assert game.at(2).probes == game.at(2).layers == ()
    with pytest.raises(RequirementsNotMet, match="no gradient_norm"):
        game.at(2).gradient_norm  # noqa: B018
    assert_same(game.at(2), play(HAMP(), stop=2, n_models=8))


@pytest.mark.slow
def test_attacks_and_views(game):
    expected = play(HAMP(), stop=4, n_models=8)
    attacks = ("loss", "lira", "lira_pooled", "rmia", "calibrated_loss")
    left, right = (mia.audit(one, attacks) for one in (game.at(4), expected))
    np.testing.assert_array_equal(left["value"], right["value"])
    assert game.at(4) is game.at(4), "so that outcomes are kept"
    assert game.at(4).outcome("lira") is game.at(4).outcome("lira")
    assert_same(game.subset(4).at(4), expected.subset(4))
    assert_same(game.at(4).subset(4), expected.subset(4))
    assert_same(game.at(4).of_records(np.arange(10)), expected.of_records(np.arange(10)))
    assert_same(game.at(4).before_output_step(), expected.before_output_step())
    assert game.at(4).train_accuracy.tolist() == expected.train_accuracy.tolist()


@pytest.mark.slow
def test_other_shadow_models(game):
    shadows = play(HAMP(), checkpoints=(3, 5), seed=1, n_models=4)
    of_both = game.at(4).with_shadows(shadows.at(3))
    expected = play(HAMP(), stop=4, n_models=8).with_shadows(play(HAMP(), stop=3, seed=1, n_models=4))
    assert_same(of_both, expected)
    assert of_both.attrs["shadow_models"]["training"]["stop"] == 3
    late = game.with_shadows(shadows)
    assert "checkpoint" not in late.dataset.dims
    np.testing.assert_array_equal(late.logits[:8], game.logits)


def test_views_come_after_at(game):
    for view in (game.before_output_step(), game.at(2), game.at(6)):
        with pytest.raises(ValueError, match=r"epoch=4: this game holds no such answers.*after at\(\)"):
            view.at(4)
    assert_same(game.at(2).at(2), game.at(2))


@pytest.mark.slow
def test_full_precision_joined_at_a_checkpoint():
    pool, how = toys.pool(), {"checkpoints": (3,)}
    quantized, full = (play(Quantization(bits), pool=pool, **how) for bits in (4, 32))
    joined = mia.chapters.quantization.join_answers(quantized, full.at(3))
    assert joined.n_queries == 2
    assert "checkpoint" not in joined.dataset.variables


# ----------------------------------------------------------------------------------------------------
# What is refused


def test_an_unknown_epoch_names_those_there_are(game):
    with pytest.raises(ValueError, match=r"epoch=3: .* those after epochs \[2, 4, 6\]\. Play .*checkpoints="):
        game.at(3)
    with pytest.raises(ValueError, match=r"those after epochs \[6\]"):
        play().at(2)
    with pytest.raises(ValueError, match="none of a known epoch"):
        toys.random_game().at(2)
    for wrong in (True, "2", 0, None, 2.0):
        with pytest.raises(ValueError, match=r"^epoch=.* must be an integer"):
            game.at(wrong)


@pytest.mark.parametrize(
    ("checkpoints", "options", "message"),
    [
        (3, {}, r"checkpoints=3 must be a sequence"),
        ((0,), {}, r"checkpoints=0 must be an integer of at least 1"),
        ((1.5,), {}, r"checkpoints=1.5 must be an integer"),
        (
            (3, 2),
            {},
            r"checkpoints=\(3, 2\) must be distinct epochs in increasing order before the last one, 6",
        ),
        ((2, 2), {}, r"checkpoints=\(2, 2\) must be distinct"),
        ((6,), {}, r"checkpoints=\(6,\) .* before the last one, 6, after which answers are always kept"),
        ((1,), {"epochs": 1}, r"before the last one, 1, after"),
        ((4,), {"stop": 4}, r"checkpoints=\(4,\) .* before the last one, 4, after"),
    ],
)
def test_wrong_checkpoints(checkpoints, options, message):
    with pytest.raises(ValueError, match=message):
        training(checkpoints=checkpoints, **options)


def test_procedures_of_ones_own_are_refused_before_any_training(monkeypatch):
    class Twice(Defense):
        name = "twice"

        def fit(self, run):
            run.fit(), run.fit()

    monkeypatch.setattr(classifier_run.Run, "train", lambda *_: pytest.fail("a training began"))
    with pytest.raises(ValueError, match=r"checkpoints=\(2,\) .* defense='twice' has a procedure of its own"):
        play(Twice(), checkpoints=(2,))


# ----------------------------------------------------------------------------------------------------
# The store


@pytest.mark.slow
def test_checkpoints_are_part_of_the_key_and_a_killed_game_resumes(fresh_cache, monkeypatch):
    expected = play(stop=2, n_models=4, model=LARGE)
    real, trained = execution._train_group, []

    def killed(models, **options):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(models)
        return real(models, **options)

    monkeypatch.setattr(execution, "_train_group", killed)
    how = {"n_models": 4, "model": LARGE, "workers": 1}
    with pytest.raises(KeyboardInterrupt):
        play(checkpoints=(2,), **how)
    monkeypatch.setattr(execution, "_train_group", lambda m, **o: (trained.append(m), real(m, **o))[1])
    game = play(checkpoints=(2,), **how)
    assert trained == [[0], [1], [2], [3]]
    assert_same(game.at(2), expected)
    assert play(checkpoints=(2,), **how).dataset.equals(game.dataset)
    assert len(trained) == 4
    play(checkpoints=(3,), **how)
    assert len(trained) == 8


@pytest.mark.slow
def test_a_damaged_checkpoint_is_trained_again(fresh_cache):
    game = play(checkpoints=(2, 3))
    (folder,) = (fresh_cache / "games").glob("*.zarr")
    before = game.dataset.load().copy(deep=True)
    chunks = sorted(p for p in (folder / "checkpoint_logits" / "c" / "1").rglob("*") if p.is_file())
    assert len(chunks) == 2, "one for each checkpoint"
    chunks[1].write_bytes(b"\0" * chunks[1].stat().st_size)
    with pytest.warns(UserWarning, match=r"models \[1\] are damaged"):
        again = play(checkpoints=(2, 3))
    assert before.drop_vars("seconds").equals(again.dataset.drop_vars("seconds"))


@pytest.mark.slow
def test_logits_of_a_checkpoint_are_read_chunk_by_chunk(fresh_cache, monkeypatch):
    play(checkpoints=(2,))
    game = play(checkpoints=(2,))
    logits = game.at(2).lazy_logits
    assert logits.encoding["preferred_chunks"]["model"] == 1
    assert logits.dims == ("model", "query", "record", "label")
    np.testing.assert_array_equal(game.at(2).signal("loss"), play(stop=2).signal("loss"))


def test_games_without_checkpoints_keep_nothing_more():
    dataset = play().dataset
    assert "checkpoint" not in dataset.variables
    assert not [name for name in dataset.variables if name.startswith("checkpoint_")]
    assert dataclasses.asdict(training())["checkpoints"] == ()
