"""Quantization: levels, gradients, when it acts, sizes in bits; the choice of widths where the answer is known."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
import toys
from torch import nn
from torch.func import functional_call, vmap

import mialab as mia
from mialab.chapters.quantization import (
    PrivacyObjective,
    changes,
    join_answers,
    model_bits,
    nearest_accuracy,
    overview,
    select_bits,
    widths,
)
from mialab.classifiers.run import Run
from mialab.defenses import Quantization
from mialab.defenses.quantization import (
    best_clip,
    cluster_thresholds,
    quantized_activations,
    quantized_weights,
    sigmoid_sum,
    steps,
    straight_through,
    uniform,
)
from mialab.models import CNN, MLP, ResNet
from mialab.training.membership import membership
from mialab.training.stack import initialize

DEEP = MLP(hidden=(8, 8, 8), activation="relu")
WIDTHS = (8, 4, 3, 2, "ternary", "binary")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def training(epochs=8, **options):
    return mia.Training(epochs=epochs, batch_size=16, lr=0.01, **options)


def run_of(defense, model=DEEP, pool=None, models=(0, 1), **options):
    """Return a group of models that is ready to be trained."""
    pool = toys.pool() if pool is None else pool
    member = membership(2, len(pool), 0)[list(models)]
    run = Run(
        pool.x,
        pool.y,
        member,
        models,
        pool=pool,
        build=model,
        defense=defense,
        training=training(**options),
        seed=0,
        device="cpu",
    )
    return run


# ----------------------------------------------------------------------------------------------------
# Levels


@pytest.mark.parametrize("bits", WIDTHS)
def test_weights_have_as_many_levels_as_their_width_allows(bits):
    q = quantized_weights(torch.linspace(-3, 3, 1001), bits)  # enough weights to fill all levels
    values = q.unique()
    assert len(values) == (2**bits if isinstance(bits, int) else {"binary": 2, "ternary": 3}[bits])
    torch.testing.assert_close(values, -values.flip(0))
    if len(values) > 2:
        torch.testing.assert_close(values.diff(), values.diff().mean().expand(len(values) - 1))
    assert torch.equal(quantized_weights(q, bits).sign(), q.sign())


def test_levels_by_hand():
    w = torch.tensor([-1.0, -0.4, 0.1, 0.3, 0.9])
    torch.testing.assert_close(quantized_weights(w, "binary"), 0.54 * torch.tensor([-1.0, -1, 1, 1, 1]))
    # The threshold is 0.7 * 0.54 = 0.378, and the scale the mean of 1, 0.4 and 0.9.
    torch.testing.assert_close(quantized_weights(w, "ternary"), torch.tensor([-1.0, -1, 0, 0, 1]) * 2.3 / 3)
    clip = torch.tensor(0.9)
    expected = torch.tensor([-0.9, -0.3, 0.3, 0.3, 0.9])
    torch.testing.assert_close(uniform(w, clip, 3, signed=True), expected)
    x = torch.tensor([-1.0, 0.0, 0.2, 0.4, 0.9, 7.0])
    torch.testing.assert_close(uniform(x, clip, 3, signed=False), torch.tensor([0.0, 0, 0.3, 0.3, 0.9, 0.9]))


@pytest.mark.slow
def test_binary_and_ternary_weights_are_near_the_best_ones_of_their_kind():
    w = normal(5000)
    grid = np.linspace(0.1, 2, 100)
    least = min(((w.sign() * s - w) ** 2).sum() for s in grid)
    assert ((quantized_weights(w, "binary") - w) ** 2).sum() <= least
    least = min((((w.abs() > t) * w.sign() * s - w) ** 2).sum() for s, t in product(grid, grid))
    assert ((quantized_weights(w, "ternary") - w) ** 2).sum() <= 1.01 * least


@pytest.mark.parametrize("n", [1, 3, 7, 15])
@pytest.mark.parametrize("signed", [True, False])
def test_the_range_is_near_the_best_one(n, signed):
    x = normal(3000) if signed else torch.relu(normal(3000)) ** 2

    def error(clip):
        return ((uniform(x, clip, n, signed=signed) - x) ** 2).sum().item()

    least = min(error(x.abs().max() * fraction) for fraction in np.linspace(0.05, 1, 200))
    assert error(best_clip(x, n, signed=signed)) <= 1.1 * least


def test_wide_weights_are_all_but_unchanged():
    w = normal(64, 64)
    assert (quantized_weights(w, 8) - w).abs().max() <= w.abs().max() / 255 * 1.001
    assert quantized_weights(torch.zeros(3, 3), 4).abs().max() < 1e-9


@pytest.mark.parametrize("bits", WIDTHS)
def test_stacked_weights_are_quantized_model_by_model(bits):
    w = normal(3, 20, 30) * torch.tensor([1.0, 5, 0.1])[:, None, None]
    together = vmap(lambda one: quantized_weights(one, bits))(w)
    torch.testing.assert_close(together, torch.stack([quantized_weights(one, bits) for one in w]))


# ----------------------------------------------------------------------------------------------------
# Gradients


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_gradient_goes_straight_through_to_the_weights(bits):
    w, upstream = normal(6, 7).requires_grad_(), normal(6, 7, seed=1)
    q = quantized_weights(w.detach(), bits)
    used = straight_through(w, q)
    assert torch.equal(used, q)
    used.backward(upstream)
    assert torch.equal(w.grad, upstream)


def test_gradients_of_activations_and_of_their_clip():
    x = torch.tensor([[0.1, 0.5, 1.2, 3.0], [0.0, 0.9, 1.1, 0.2]], requires_grad=True)
    clip = torch.tensor(1.0, requires_grad=True)
    upstream = normal(2, 4)
    out = quantized_activations(x, clip, 3, signed=False)
    torch.testing.assert_close(out, torch.tensor([[0.0, 2 / 3, 1, 1], [0, 1, 1, 1 / 3]]), rtol=0, atol=1e-6)
    out.backward(upstream)
    beyond = x.detach() > 1
    assert torch.equal(x.grad, upstream * ~beyond)
    assert clip.grad.item() == pytest.approx(
        (upstream * beyond).sum().item() / 2, rel=1e-5
    )  # 4 numbers a record

    x, clip = torch.tensor([[-3.0, -0.2, 3.0]], requires_grad=True), torch.tensor(1.0, requires_grad=True)
    out = quantized_activations(x, clip, 3, signed=True)
    torch.testing.assert_close(out, torch.tensor([[-1.0, -1 / 3, 1.0]]))
    out.backward(torch.tensor([[2.0, 5, 3]]))
    assert torch.equal(x.grad, torch.tensor([[0.0, 5, 0]]))
    assert clip.grad.item() == pytest.approx((3 - 2) / 3**0.5, rel=1e-5)


def test_the_loss_moves_weights_and_clips():
    run = run_of(Quantization(2, start="scratch"))
    before = {name: p.detach().clone() for name, p in run.parameters.items()}
    run.train()
    assert all((run.parameters[name] != value).any() for name, value in before.items())


# ----------------------------------------------------------------------------------------------------
# The sum of sigmoids


def test_the_sum_of_sigmoids_becomes_the_sum_of_steps():
    w = torch.linspace(-2, 2, 41)
    thresholds, alpha, beta = torch.tensor([-1.0, 0.1, 0.8]), torch.tensor(0.5), torch.tensor(1.3)
    hard = sigmoid_sum(w, alpha, beta, thresholds, None)
    expected = [0.5 * (sum(1.3 * v > b for b in (-1.0, 0.1, 0.8)) - 1.5) for v in w.tolist()]
    torch.testing.assert_close(hard, torch.tensor(expected))
    far = (beta * w[:, None] - thresholds).abs().min(1).values > 0.02
    errors = [
        (sigmoid_sum(w, alpha, beta, thresholds, t) - hard)[far].abs().max().item() for t in (5, 50, 700)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-6
    soft = [p.double().requires_grad_() for p in (w, alpha, beta)]
    assert torch.autograd.gradcheck(lambda *p: sigmoid_sum(*p, thresholds.double(), 5.0), soft)


def test_the_temperature_grows_with_the_epochs():
    late, early = Quantization(2, quantizer="sigmoid"), Quantization(2, quantizer="sigmoid", start="scratch")
    assert (late.temperature(0.5), late.temperature(1), late.temperature(None)) == (20, 700, None)
    assert (early.temperature(0), early.temperature(0.5), early.temperature(1)) == (20, 360, 700)


def test_thresholds_lie_between_clusters():
    centers = torch.tensor([-3.0, -1.0, 0.5, 4.0])
    x = (centers.repeat_interleave(50) + 0.1 * normal(200)).roll(7)
    found = cluster_thresholds(x, 3)
    torch.testing.assert_close(found, (centers[1:] + centers[:-1]) / 2, atol=0.05, rtol=0)
    assert torch.equal(cluster_thresholds(torch.zeros(5), 3), torch.zeros(3))


@pytest.mark.slow
@pytest.mark.parametrize("bits", [2, "ternary", "binary"])
def test_sums_of_sigmoids_are_steps_when_training_is_over(bits):
    run = run_of(Quantization(bits, quantizer="sigmoid"))
    run.train()
    for k in (0, 1):
        _, own = run.function(k)
        used = run.defense.weights(own)
        for name in ("2.weight", "4.weight"):
            levels = used[name].unique()
            assert len(levels) <= steps(bits) + 1
            alpha = own[name.replace("weight", "log_alpha")].exp()
            torch.testing.assert_close(levels, alpha * (levels / alpha * 2).round() / 2)


# ----------------------------------------------------------------------------------------------------
# Which layers, and when


def test_first_and_last_layers_keep_eight_bits():
    network = DEEP((6,), 3)
    assert list(Quantization(2).layer_bits(network).values()) == [8, 2, 2, 8]
    assert list(Quantization(16).layer_bits(network).values()) == [16] * 4
    assert list(Quantization(2, ends="binary").layer_bits(network).values()) == [2] * 4
    assert list(Quantization(per_layer=(3, "binary")).layer_bits(network).values()) == [8, 3, "binary", 8]
    assert list(Quantization(2).layer_bits(MLP(hidden=(8,))((6,), 3)).values()) == [2, 2]
    # Activations have the width of the layer that they go into.
    assert list(Quantization(2).activation_bits(network).values()) == [2, 2, 8]
    assert list(Quantization(2, activations=4).activation_bits(network).values()) == [4, 4, 8]
    assert Quantization(2, activations=32).activation_bits(network) == {}
    assert Quantization(32).activation_bits(network) == {}


@pytest.mark.parametrize(
    ("model", "activations"), [(CNN((4, 4, 4), 8), 4), (ResNet(1, (4, 8)), 5), (MLP((8, 8)), 2)]
)
def test_all_activations_of_all_networks_are_found(model, activations):
    pool = toys.pool("tabular" if isinstance(model, MLP) else "image")
    network, x = initialize(model, pool, 0, 0, Quantization(3)), torch.as_tensor(pool.x)
    clips = [name for name, _ in network.named_parameters() if name.endswith("log_clip")]
    assert len(clips) == len(Quantization(3).activation_bits(network)) == activations
    for name in clips:  # each of them has a say
        out = network(x)
        network.get_parameter(name).data -= 1
        assert not torch.equal(network(x), out)


def answers(run, k=0):
    """Answers and the activations of the modules inside, of one model as it would be released now."""
    forward, own = run.function(k)
    inside = []
    hooks = [
        m.register_forward_hook(lambda _, __, out: inside.append(out))
        for m in run.network.modules()
        if isinstance(m, nn.ReLU)
    ]
    out = forward(own, run.inputs(slice(None)))
    for hook in hooks:
        hook.remove()
    return out, inside, run.defense.weights(own, progress=run.progress)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["full_precision", "scratch", "after_training"])
def test_what_is_released_is_quantized(start):
    run = run_of(Quantization(2, start=start))
    run.train()
    _, inside, used = answers(run)
    assert max(len(used[f"{i}.weight"].unique()) for i in (2, 4)) <= 4
    assert len(used["0.weight"].unique()) > 4
    assert len(inside[0].unique()) <= 4
    assert len(inside[1].unique()) <= 4
    assert len(inside[2].unique()) > 4
    assert all(x.min() >= 0 for x in inside)


def test_quantization_begins_when_it_should():
    for start, first in (("full_precision", 4), ("scratch", 0), ("after_training", 8)):
        defense = Quantization(2, start=start)
        assert defense.full_precision_epochs(8) == first
        parameters = dict(defense.network(DEEP((6,), 3)).named_parameters())
        for epoch in range(8):
            used = defense.weights(parameters, progress=epoch / 7)
            same = used["2.weight"] is parameters["2.weight"]
            assert same == (epoch < first)
            assert bool(used["1.log_clip"].numel()) == (epoch >= first)
        assert defense.weights(parameters)["2.weight"] is not parameters["2.weight"]


def test_full_precision_epochs_are_those_of_an_unquantized_model():
    """So that the attacker can have the very model that was quantized later."""
    pool, full = toys.pool(), Quantization(32)
    first = Quantization(2).full_precision_epochs(8)
    runs = [run_of(Quantization(2, quantizer=q), pool=pool) for q in ("uniform", "sigmoid")]
    runs += [run_of(full, pool=pool, stop=first)]
    seen = {}
    for run in runs[:2]:
        original = type(run.defense).before_epoch

        def spy(defense, run, original=original):
            if run.epoch == first:
                seen[defense.quantizer] = {n: p.detach().clone() for n, p in run.parameters.items()}
            original(defense, run)

        type(run.defense).before_epoch = spy
        try:
            run.train()
        finally:
            type(run.defense).before_epoch = original
    runs[2].train()
    for name, value in runs[2].parameters.items():
        assert torch.equal(seen["uniform"][name], value)
        assert torch.equal(seen["sigmoid"][name], value)


@pytest.mark.slow
def test_full_precision_is_no_defense():
    pool, options = toys.pool(), {"training": training(), "n_models": 4}
    plain, full = (mia.play(pool, DEEP, defense, **options) for defense in (None, Quantization(32)))
    np.testing.assert_allclose(full.logits, plain.logits, atol=1e-4)
    wide = mia.play(pool, DEEP, Quantization(16, 32, "after_training"), **options)
    np.testing.assert_allclose(wide.logits, plain.logits, atol=1e-2)
    narrow = mia.play(pool, DEEP, Quantization("binary", start="after_training"), **options)
    assert np.abs(narrow.logits - plain.logits).max() > 0.1


@pytest.mark.parametrize("quantizer", ["uniform", "sigmoid"])
def test_stacked_and_single_models_are_the_same(quantizer, monkeypatch):
    defense = Quantization(3, quantizer=quantizer)
    stacked = run_of(defense, epochs=2)
    stacked.train()
    monkeypatch.setattr("mialab.training.stack.STACKED_PARAMETERS", 0)
    for k in (0, 1):
        single = run_of(defense, models=(k,), epochs=2)
        assert (stacked.mode, single.mode) == ("stacked", "sequential")
        single.train()
        for name, value in single.parameters.items():
            torch.testing.assert_close(stacked.parameters[name][k], value, atol=1e-4, rtol=1e-3)


def test_answers_do_not_depend_on_the_batch():
    run = run_of(Quantization(2))
    run.train()
    x = run.inputs(slice(None))
    torch.testing.assert_close(run.predict(x)[:, :5], run.predict(x[:5]))


def test_convolutions_are_quantized():
    pool = toys.pool("image", n=24)
    for model in (CNN((4, 4), 8), ResNet(1, (4, 4))):
        run = run_of(Quantization("ternary"), model, pool, models=(0,), epochs=3)
        run.train()
        used = run.defense.weights(run.parameters)
        levels = [len(w.unique()) for w in used.values() if w.dim() > 1]
        assert max(levels[1:-1]) <= 3 < min(levels[0], levels[-1])
        assert torch.isfinite(run.predict(run.x)).all()


def test_clips_come_from_what_members_give():
    run = run_of(Quantization(4, start="after_training"), epochs=1)
    run.defense.before_epoch(run)
    for k in (0, 1):
        _, own = run.function(k)
        network = initialize(DEEP, run.pool, 0, k)
        plain = {name: p for name, p in own.items() if "log_clip" not in name}
        first = torch.relu(
            functional_call(
                network[:1], {n: plain[f"0.{n}"] for n in ("weight", "bias")}, run.inputs(run.members[k])
            )
        )
        expected = best_clip(first, 15, signed=False)
        torch.testing.assert_close(own["1.log_clip"].exp(), expected)


# ----------------------------------------------------------------------------------------------------
# Sizes and what is refused


def test_the_size_of_a_model():
    pool = toys.pool()
    weights, biases = (6 * 8, 8 * 8, 8 * 8, 8 * 3), 8 + 8 + 8 + 3
    assert model_bits(pool, DEEP) == 32 * (sum(weights) + biases)
    assert model_bits(pool, DEEP, Quantization(32)) == model_bits(pool, DEEP)
    inner, outer = weights[1] + weights[2], weights[0] + weights[3]
    for bits, width in ((4, 4), ("ternary", 2), ("binary", 1)):
        expected = width * inner + 8 * outer + 32 * biases + 32 * 4
        assert model_bits(pool, DEEP, Quantization(bits, activations=32)) == expected
        assert model_bits(pool, DEEP, Quantization(bits)) == expected + 3 * 32  # clips
    mixed = model_bits(pool, DEEP, Quantization(per_layer=(2, 8), activations=32))
    assert mixed == 2 * 64 + 8 * 64 + 8 * outer + 32 * (biases + 4)
    assert model_bits(pool, DEEP, Quantization(2, quantizer="sigmoid")) == model_bits(
        pool, DEEP, Quantization(2)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 1}, "bits=1 must be 'binary'"),
        ({"bits": 2.5}, "bits=2.5"),
        ({"bits": True}, "bits=True"),
        ({"activations": "all"}, "activations='all'"),
        ({"ends": 0}, "ends=0"),
        ({"start": "late"}, "start='late'"),
        ({"fraction": 1.0}, "fraction=1.0 must be less than 1"),
        ({"fraction": -0.1}, "fraction=-0.1"),
        ({"quantizer": "log"}, "quantizer='log'"),
        ({"per_layer": (4, "two")}, "per_layer='two'"),
        ({"bits": 2, "quantizer": "sigmoid", "start": "after_training"}, "way to train"),
        ({"bits": 8, "quantizer": "sigmoid"}, "at most 4 bits, not 8"),
    ],
)
def test_impossible_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        Quantization(**options)


def test_impossible_trainings():
    with pytest.raises(ValueError, match=r"per_layer=\(2,\) has 1 widths; the network has 2 layers"):
        mia.play(toys.pool(), DEEP, Quantization(per_layer=(2,)), training=training())
    with pytest.raises(ValueError, match="select='best_validation'"):
        mia.play(toys.pool(validation=6), DEEP, Quantization(2), training=training(select="best_validation"))
    run_of(Quantization(32), pool=toys.pool(validation=6), select="best_validation").train()


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", ["uniform", "sigmoid"])
def test_training_that_is_over_before_is_rounded_then(quantizer):
    for options in ({"epochs": 1}, {"stop": 3}):
        run = run_of(Quantization(2, quantizer=quantizer), **options)
        run.train()
        used = run.defense.weights(run.function(0)[1])
        assert len(used["2.weight"].unique()) == len(used["4.weight"].unique()) == 4
        other = run_of(Quantization(2, start="after_training"), **options)
        other.train()
        if quantizer == "uniform":
            assert torch.equal(run.predict(run.x), other.predict(other.x))


# ----------------------------------------------------------------------------------------------------
# Both answers, matched early stopping, changes


@pytest.fixture(scope="module")
def games():
    pool = toys.pool(n=40)
    options = {"n_models": 8, "seed": 3}
    defense = Quantization("ternary")
    full = mia.play(pool, DEEP, Quantization(32), training=training(stop=4), **options)
    return pool, full, mia.play(pool, DEEP, defense, training=training(), **options)


@pytest.mark.slow
def test_an_attacker_with_both_answers(games):
    _, full, quantized = games
    both = join_answers(quantized, full)
    assert both.query_kinds == ("original", "full_precision")
    np.testing.assert_array_equal(both.logits[:, :1], quantized.logits)
    np.testing.assert_array_equal(both.logits[:, 1:], full.logits)
    np.testing.assert_array_equal(both.test_accuracy, quantized.test_accuracy)
    whole = mia.attacks.LiRA(queries="all").scores(both)
    parts = [mia.attacks.LiRA().scores(game) for game in (quantized, full)]
    np.testing.assert_allclose(whole, np.mean(parts, axis=0))
    assert mia.attacks.make("loss").run(both).score.shape == both.member.shape


def test_answers_of_other_games_are_not_joined(games):
    pool, full, quantized = games
    other = mia.play(pool, DEEP, training=training(2), n_models=8, seed=4)
    with pytest.raises(ValueError, match="seed=4; it must be that of the quantized models, 3"):
        join_answers(quantized, other)
    with pytest.raises(ValueError, match="n_models"):
        join_answers(quantized, full.subset(4))


def test_the_nearest_accuracy():
    def game(accuracy):
        return toys.remade(toys.random_game(), test_accuracy=np.full(8, accuracy))

    games = {1: game(0.3), 2: game(0.52), 3: game(0.48), 4: game(0.9)}
    assert nearest_accuracy(games, game(0.55)) == 2
    assert nearest_accuracy(games, game(0.45)) == 3
    assert nearest_accuracy(games, game(0.1)) == 1
    with pytest.raises(ValueError, match="at least one game"):
        nearest_accuracy({}, game(0.5))


def test_changes_are_differences(games):
    _, full, quantized = games
    table = changes({"ternary": quantized}, full, "loss", measures=("recall", "auc"))
    for measure in ("recall", "auc"):
        plain = mia.difference((quantized, "loss"), (full, "loss"), metric=measure)
        fraction = mia.difference((quantized, "loss"), (full, "loss"), metric=measure, relative=True)
        before = mia.audit(full, ["loss"]).interval("loss", measure).value
        assert fraction.value == pytest.approx(plain.value / before)
        assert fraction.low < fraction.value < fraction.high
        assert table.loc["ternary", (measure, "points")] == pytest.approx(plain)
        assert table.loc["ternary", (measure, "relative")] == pytest.approx(fraction)
    with pytest.raises(ValueError, match="relative=True goes with measures of attacks"):
        mia.difference((quantized, None), (full, None), metric="test_accuracy", relative=True)
    with pytest.raises(ValueError, match="measures='tpr' is unknown"):
        changes({"ternary": quantized}, full, "loss", measures=("tpr",))
    with pytest.raises(ValueError, match="The games have different members"):
        changes({"ternary": quantized}, full.subset(4), "loss")


@pytest.mark.slow
def test_a_table_of_widths(games):
    pool, full, quantized = games
    arms = {"quantization": {"ternary": quantized, 32: full}, "none": {"8 epochs": full, "others": quantized}}
    table = widths(arms, ["loss"], pool=pool, model=DEEP)
    assert list(dict.fromkeys(table["setting"])) == ["ternary", 32, "8 epochs", "others"]
    assert set(table.loc[table["setting"] == 32, "size"]) == {model_bits(pool, DEEP)}
    rows = table[(table["metric"] == "test_accuracy") & (table["setting"] == 32)]
    assert rows["value"].item() == pytest.approx(full.test_accuracy.mean())
    page = overview(table, "loss")
    assert page.loc[("none", "8 epochs"), "kbit"] == f"{model_bits(pool, DEEP) / 1000:,.1f}"
    aucs = [mia.audit(game, ["loss"]).interval("loss", "auc") for game in (quantized, full)]
    assert list(page["auc"]) == [f"{auc:.3f}" for auc in (*aucs, *aucs[::-1])]

    figure = mia.plots.widths(table, "loss", controls={"none": "others"})
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["32 bits", "ternary"]
    handles, labels = figure.axes[0].get_legend_handles_labels()
    assert set(labels) == {"quantization", "none"}
    assert handles[labels.index("none")].get_ydata()[0] == aucs[0].value
    drawn = handles[labels.index("quantization")].lines[0].get_ydata()
    np.testing.assert_array_equal(drawn, [aucs[1].value, aucs[0].value])

    ax = mia.plots.trade_off(table, "loss")
    handles, labels = ax.get_legend_handles_labels()
    line = handles[labels.index("quantization")].lines[0]
    np.testing.assert_array_equal(line.get_xdata(), [g.test_accuracy.mean() for g in (quantized, full)])
    np.testing.assert_array_equal(line.get_ydata(), [auc.value for auc in aucs])
    for draw in (mia.plots.widths, mia.plots.trade_off):
        with pytest.raises(ValueError, match="attack='lira' is unknown"):
            draw(table, "lira")


# ----------------------------------------------------------------------------------------------------
# Choosing widths


def test_the_choice_of_widths_finds_the_known_answer():
    """Where every layer adds its own term, one layer at a time is as good as all together."""
    costs = [{8: 3.0, 4: 1.0, 2: 2.0}, {8: 0.0, 4: 5.0, 2: 1.0}, {8: 2.0, 4: 1.9, 2: 0.1}]
    asked = []

    def objective(bits):
        asked.append(bits)
        return sum(cost[b] for cost, b in zip(costs, bits, strict=True))

    chosen = select_bits(objective, 3, choices=(8, 4, 2))
    everything = min(product((8, 4, 2), repeat=3), key=objective)
    assert chosen.bits == everything == (4, 8, 2)
    assert chosen.value == pytest.approx(1.1)
    assert list(chosen.path["value"]) == pytest.approx([5.0, 3.0, 1.1])
    assert list(chosen.path["bits"]) == [(8, 8, 8), (4, 8, 8), (4, 8, 2)]
    searched = asked[:-27]
    assert len(searched) == len(set(searched)), "nothing is measured twice"


def test_the_choice_stays_where_nothing_is_better():
    chosen = select_bits(lambda bits: 0.0, 2, choices=(8, 2))
    assert chosen.bits == (8, 8)
    assert len(chosen.path) == 1
    chosen = select_bits(lambda bits: float(bits.count(2)), 2, choices=(8, 2), start=(2, 2))
    assert chosen.bits == (8, 8)
    for options in ({"choices": ()}, {"start": (8,)}, {"start": (8, 3)}):
        with pytest.raises(ValueError, match=next(iter(options))):
            select_bits(lambda bits: 0.0, 2, **{"choices": (8, 2), **options})


@pytest.mark.slow
def test_the_objective_adds_validation_loss_and_leakage():
    pool = toys.pool(n=40)
    objective = PrivacyObjective(pool, DEEP, Quantization(), training=training(), mu=3.0, n_models=2, seed=9)
    value = objective((2, "binary"))
    defense = replace(Quantization(), per_layer=(2, "binary"))
    game = mia.play(pool, DEEP, defense, training=training(), n_models=2, seed=9)
    log_p = np.take_along_axis(
        torch.log_softmax(torch.as_tensor(game.logits[:, 0]).double(), -1).numpy(),
        np.broadcast_to(game.y, game.member.shape)[..., None],
        -1,
    )[..., 0]
    loss = -log_p[~game.member].mean()
    auc = mia.metrics.auc(*(a.ravel() for a in (game.signal("modified_entropy")[:, 0], game.member)))
    assert value == pytest.approx(loss + 3 * max(0, auc - 0.5))
    assert objective.n_layers == 2
    assert list(objective.measured.index) == ["2, binary"]
    assert objective.measured["validation loss"].item() == pytest.approx(loss)


@pytest.mark.slow
def test_layers_that_fraction_a_width():
    pool, model = toys.pool(n=40), MLP(hidden=(4,) * 6)
    options = {"training": training(1), "mu": 1.0, "n_models": 2}
    objective = PrivacyObjective(pool, model, Quantization(), groups=2, **options)
    assert objective.n_layers == 2
    assert objective.per_layer((4, 2)) == (4, 4, 4, 2, 2)
    alone = PrivacyObjective(pool, model, Quantization(), **options)
    assert alone.per_layer((8, 4, 3, 2, "binary")) == (8, 4, 3, 2, "binary")
    assert objective((4, 2)) == alone((4, 4, 4, 2, 2))
    with pytest.raises(ValueError, match="groups=6 must be at most 5"):
        PrivacyObjective(pool, model, Quantization(), groups=6, **options)
    with pytest.raises(ValueError, match="groups=0"):
        PrivacyObjective(pool, MLP(hidden=(4,)), Quantization(), **options)
