"""Probes against closed forms and plain autograd; the attacks on what they measure."""

import dataclasses

import numpy as np
import pytest
import torch
import toys
from reference.probes import by_autograd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

import mialab as mia
from mialab import probes
from mialab.attacks import BoundaryDistance, GradientNorm, WhiteBox
from mialab.attacks.thresholds import known_half
from mialab.classifiers.run import Run
from mialab.defenses import HAMP
from mialab.defenses.base import Defense
from mialab.models import CNN, MLP
from mialab.probes import gradient
from mialab.probes.base import Probe
from mialab.probes.boundary import Boundary
from mialab.probes.gradient import Gradient
from mialab.training.options import Training

SMALL = MLP((5,))
FAST = Training(epochs=2, batch_size=8, precision="float32")
DESIGNS = ["paired", "balanced", "random"]


def trained(pool, build, *, models=(0, 1), defense=None, training=FAST, y=None):
    """Train a group of models on every second record."""
    member = (np.arange(len(pool)) + np.array(models)[:, None]) % 2 == 0
    options = {"build": build, "defense": defense or Defense(), "training": training}
    run = Run(
        pool.x,
        pool.y if y is None else y,
        member,
        models,
        pool=pool,
        seed=0,
        device="cpu",
        **options,
    )
    run.train()
    return run


# ----------------------------------------------------------------------------------------------------
# Gradients


def test_gradients_of_a_linear_model_in_closed_form():
    pool = toys.pool()
    run = trained(pool, MLP(()))
    assert run.mode == "stacked"
    norms = Gradient()(run)["gradient_norm"]
    assert norms.shape == (2, 40, 1)
    p = run.predict(pool.x).double().softmax(-1).numpy()
    error = np.linalg.norm(p - np.eye(3)[pool.y], axis=-1)
    size = np.sqrt(1 + (pool.x.astype(np.float64) ** 2).sum(-1))
    np.testing.assert_allclose(norms[..., 0], error * size, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "build", "names"),
    [
        ("tabular", SMALL, ["0", "2"]),
        ("image", MLP((300, 200), activation="relu"), ["1", "3", "5"]),
        ("image", CNN((2, 3), hidden=4), ["0", "4", "9", "11"]),
        ("image", CNN((2, 3), hidden=4, norm="batch"), ["0", "1", "4", "5", "9", "11"]),
    ],
)
def test_gradients_against_a_loop_of_autograd(kind, build, names, monkeypatch):
    monkeypatch.setattr(gradient, "CHUNK_RECORDS", 17)  # so that the last chunk is smaller
    pool = toys.pool(kind)
    y = (pool.y + 1) % 3  # labels as trained on, not those of the pool
    models = (0, 1) if build == SMALL else (1,)
    run = trained(pool, build, models=models, y=y)
    assert run.mode == ("stacked" if build == SMALL else "sequential")
    norms = Gradient()(run)["gradient_norm"]
    assert norms.dtype == np.float32
    for k in range(len(models)):
        _, parameters = run.function(k)
        parts = gradient.layers(parameters)
        assert list(parts) == names
        network = build(pool.x.shape[1:], 3) if run.mode == "stacked" else run.network
        expected = by_autograd(
            network, parameters, torch.as_tensor(pool.x), torch.as_tensor(y), parts.values()
        )
        np.testing.assert_allclose(norms[k], expected, rtol=1e-4, atol=1e-9)


class Branching(torch.nn.Module):
    """A network that vmap cannot run, with a parameter of its own."""

    def __init__(self, features, n_classes):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.register_buffer("sign", torch.tensor(-1.0))
        self.linear = torch.nn.Linear(features, n_classes)

    def forward(self, x):
        return self.scale * self.linear(x if x.sum() > 0 else self.sign * x)


def test_gradients_of_a_network_that_vmap_cannot_run():
    pool = toys.pool(n=10)
    run = trained(pool, lambda shape, n: Branching(shape[0], n), models=(0,))
    _, parameters = run.function(0)
    parts = gradient.layers(parameters)
    assert list(parts) == ["network", "linear"]
    norms = Gradient()(run)["gradient_norm"]
    expected = by_autograd(run.network, parameters, torch.as_tensor(pool.x), run.y, parts.values())
    np.testing.assert_allclose(norms[0], expected, rtol=1e-4)


@dataclasses.dataclass(frozen=True)
class Halved(Defense):
    """A defense that computes with half of every weight."""

    name = "halved"

    def weights(self, parameters, **_):
        return {name: value / 2 for name, value in parameters.items()}


def test_gradients_by_factors_are_those_by_record(monkeypatch):
    run = trained(toys.pool("image"), MLP((300, 200)), models=(0,))
    fast = Gradient()(run)["gradient_norm"]
    monkeypatch.setattr(gradient, "is_plain_mlp", lambda network: False)
    slow = Gradient()(run)["gradient_norm"]
    assert not np.array_equal(fast, slow)
    np.testing.assert_allclose(fast, slow, rtol=1e-4)


@pytest.mark.parametrize("build", [MLP(()), MLP((300, 300))])  # stacked, and one at a time
def test_gradients_are_those_of_what_is_trained(build):
    """Through the weights a defense computes with: here the gradient of w is half that of w / 2."""
    pool = toys.pool()
    run = trained(pool, build, models=(0,), defense=Halved())
    _, parameters = run.function(0)
    used = {name: value / 2 for name, value in parameters.items()}
    parts = gradient.layers(parameters).values()
    network = build(pool.x.shape[1:], 3)
    expected = by_autograd(network, used, torch.as_tensor(pool.x), run.y, parts) / 2
    np.testing.assert_allclose(Gradient()(run)["gradient_norm"][0], expected, rtol=1e-4)


def test_small_gradients_keep_their_digits():
    pool = toys.pool()
    run = trained(pool, MLP(()), models=(0,))
    with torch.no_grad():
        for value in run.parameters.values():
            value.zero_()
        run.parameters["0.bias"][0, 0] = (
            55  # p - e of class 0 is 1e-24 for the others: its square is 0 in float32
        )
    norms = Gradient()(run)["gradient_norm"][0, :, 0]
    size = np.sqrt(1 + (pool.x**2).sum(-1))
    np.testing.assert_allclose(norms[pool.y == 0], (np.sqrt(2) * np.exp(-55) * size)[pool.y == 0], rtol=1e-3)


# ----------------------------------------------------------------------------------------------------
# Boundaries


def linear(d, n=120):
    """Make a linear model whose label of every record is right, and the true distances to its boundary."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d)).astype(np.float32)
    x[0], x[1] = -30, 30  # so wide a range that no point is cut off at it
    pool = mia.Pool("linear", x=x, y=rng.integers(3, size=n), n_classes=3, kind="tabular")
    run = trained(pool, MLP(()), training=dataclasses.replace(FAST, epochs=1))
    logits = run.predict(x).double().numpy()
    y = logits[0].argmax(-1)
    run.y = torch.as_tensor(y)
    weight = run.parameters["0.weight"].detach().double().numpy()
    apart = np.linalg.norm(weight[:, y][:, :, None] - weight[:, None], axis=-1)  # (model, record, label)
    margin = np.take_along_axis(logits, np.broadcast_to(y, logits.shape[:-1])[..., None], -1) - logits
    with np.errstate(invalid="ignore", divide="ignore"):
        distance = np.where(np.arange(3) == y[:, None], np.inf, margin / apart).min(-1)
    return run, np.maximum(distance, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("d", "probe", "bound"),
    [
        (6, Boundary(), 1.15),
        (64, Boundary(), 2.0),
        (64, Boundary(iterations=30, directions=100, bisections=12), 1.1),
    ],
)
def test_distances_to_a_linear_boundary(d, probe, bound):
    """Of 120 records and two models: never too small, and the median too large by less than the bound."""
    run, true = linear(d)
    found = probe(run)["boundary_distance"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found == 0, true == 0)
    assert (true[0] > 0).all()
    assert (true[1] == 0).any()
    inner = true[:, 2:] > 0
    ratio = found[:, 2:][inner] / true[:, 2:][inner]
    assert ratio.min() > 1 - 1e-4
    assert np.median(ratio) < bound
    assert np.corrcoef(np.log(found[:, 2:][inner]), np.log(true[:, 2:][inner]))[0, 1] > 0.95


@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_no_more_queries_than_the_budget(iterations, monkeypatch):
    run, true = linear(6)
    probe = Boundary(iterations=iterations, directions=5, bisections=3, halvings=2)
    asked = []
    predict = Run.predict
    monkeypatch.setattr(Run, "predict", lambda self, x: asked.append(len(x)) or predict(self, x))
    probe(run)
    assert sum(asked) == (true == 0).sum() + (true > 0).sum() * probe.budget
    assert Boundary().budget == 121


@pytest.mark.parametrize("kind", ["tabular", "binary", "image", "bytes"])
def test_points_stay_within_the_range_of_the_features(kind, monkeypatch):
    pool = toys.pool("image" if kind == "bytes" else kind)
    if kind == "bytes":
        parts = {name: getattr(pool, name) for name in ("x", "x_val", "x_test")}
        pool = toys.pool("image", **{name: (255 * x).astype(np.uint8) for name, x in parts.items()})
    run = trained(pool, MLP(()))
    x = run.inputs(slice(None)).numpy()
    low, high = (0, 1) if kind != "tabular" else (x.min(0), x.max(0))
    seen = []
    predict = Run.predict
    monkeypatch.setattr(Run, "predict", lambda self, x: seen.append(x.numpy()) or predict(self, x))
    Boundary(radius=2.0)(run)
    seen = np.concatenate(seen)
    assert (seen >= low - 1e-5).all()
    assert (seen <= high + 1e-5).all()
    assert seen.shape[1:] == pool.x.shape[1:]


def test_a_model_with_one_label_has_no_boundary():
    pool = toys.pool("image")
    run = trained(pool, MLP(()), models=(0,))
    with torch.no_grad():
        run.parameters["1.bias"][0, 1] = 1e6
    distance = Boundary()(run)["boundary_distance"][0]
    np.testing.assert_array_equal(distance, np.where(pool.y == 1, 8.0, 0))  # 64 pixels from 0 to 1


def test_distances_do_not_depend_on_the_group_or_the_blocks(monkeypatch):
    pool = toys.pool()
    together = Boundary()(trained(pool, SMALL, models=(0, 1, 2)))["boundary_distance"]
    alone = Boundary()(trained(pool, SMALL, models=(2,)))["boundary_distance"]
    np.testing.assert_allclose(alone[0], together[2], rtol=1e-3)
    assert (together[2] > 0).any()
    monkeypatch.setattr(gradient, "CHUNK_BYTES", 4 * 16 * 6 * 7)  # 7 records at a time
    np.testing.assert_allclose(
        Boundary()(trained(pool, SMALL, models=(2,)))["boundary_distance"], alone, rtol=1e-3
    )


@dataclasses.dataclass(frozen=True)
class Turned(Defense):
    """A defense that releases the labels of other classes."""

    name = "turned"

    def answer(self, run, logits, x, record, query):
        assert run.predict(x).shape == logits.shape == (1, len(x), run.pool.n_classes)
        assert record is query is None
        return logits.roll(1, dims=-1)


def test_boundaries_are_those_of_labels_as_released():
    pool = toys.pool()
    turned = trained(pool, SMALL, defense=Turned())
    plain = trained(pool, SMALL)
    plain.y = (plain.y - 1) % 3  # the models are the same; what they call 0 is released as 1
    found, expected = (Boundary()(run)["boundary_distance"] for run in (turned, plain))
    assert (expected > 0).any()
    np.testing.assert_array_equal(found, expected)
    hamp = trained(pool, SMALL, defense=HAMP())
    np.testing.assert_array_equal(
        Boundary()(hamp)["boundary_distance"],  # its output step changes no label
        Boundary()(trained(pool, SMALL, defense=HAMP(output_step=False)))["boundary_distance"],
    )


# ----------------------------------------------------------------------------------------------------
# Games


def play(**options):
    return mia.play(**{"pool": toys.pool(), "model": SMALL, "training": FAST, "n_models": 4} | options)


@pytest.mark.slow
def test_games_with_probes(fresh_cache):
    game = play(probes=["gradient", "boundary"])
    assert game.probes == ("boundary", "gradient")
    assert game.layers == ("0", "2")
    assert game.gradient_norm.shape == (4, 40, 2)
    assert game.boundary_distance.shape == (4, 40)
    right = game.signal("correctness")[:, 0] == 1
    np.testing.assert_array_equal(game.boundary_distance > 0, right)
    assert game.attrs["probe_parameters"]["boundary"]["directions"] == 16
    plain = play()
    assert plain.probes == plain.layers == ()
    assert set(game.dataset) - set(plain.dataset) == {"gradient_norm", "boundary_distance"}
    np.testing.assert_array_equal(plain.logits, game.logits)
    with pytest.raises(ValueError, match=r"^This game has no gradient_norm: play it with probes="):
        plain.gradient_norm  # noqa: B018
    with pytest.raises(mia.attacks.RequirementsNotMet, match=r"play the game with probes=\['gradient'\]"):
        GradientNorm().run(plain)
    half = game.subset(2).of_records(np.arange(10))
    np.testing.assert_array_equal(half.gradient_norm, game.gradient_norm[:2, :10])
    np.testing.assert_array_equal(half.boundary_distance, game.boundary_distance[:2, :10])
    assert play(probes="boundary").probes == ("boundary",)


@pytest.mark.slow
def test_probes_are_part_of_a_game(fresh_cache):
    for n, chosen in enumerate(
        ((), "gradient", "boundary", ["gradient", "boundary"], Boundary(iterations=1)), 1
    ):
        play(probes=chosen)
        assert len(list(fresh_cache.glob("games/*.zarr"))) == n
    for same in (["boundary", "gradient"], [Gradient(), Boundary()], {"gradient", "boundary"}):
        play(probes=same)
    assert len(list(fresh_cache.glob("games/*.zarr"))) == 5


@pytest.mark.slow
def test_measurements_that_were_damaged_are_made_again(fresh_cache):
    game = play(probes=["gradient", "boundary"])
    before = {name: game.dataset[name].to_numpy() for name in ("gradient_norm", "boundary_distance")}
    for name in before:
        (file,) = fresh_cache.glob(f"games/*.zarr/{name}/c/1/*" + "/0" * (name == "gradient_norm"))
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        with pytest.warns(UserWarning, match=r"^Stored answers of models \[1\] are damaged"):
            again = play(probes=["gradient", "boundary"])
        np.testing.assert_allclose(again.dataset[name].to_numpy(), before[name], rtol=1e-4)


@pytest.mark.slow
def test_before_the_output_step_nothing_is_known_of_released_labels(fresh_cache):
    game = play(probes=["gradient", "boundary"], defense="hamp")
    before = game.before_output_step()
    assert before.probes == ("gradient",)
    assert "boundary_distance" not in before.dataset
    np.testing.assert_array_equal(before.gradient_norm, game.gradient_norm)


@pytest.mark.slow
def test_separate_shadow_models_fraction_what_was_measured_alike(fresh_cache):
    both = ["gradient", "boundary"]
    game = play(probes=both)
    joined = game.with_shadows(play(probes=both, seed=1))
    assert joined.probes == ("boundary", "gradient")
    assert joined.gradient_norm.shape == (8, 40, 2)
    for name in ("gradient_norm", "boundary_distance"):
        np.testing.assert_array_equal(getattr(joined, name)[:4], getattr(game, name))
    assert game.with_shadows(play(probes="boundary", seed=1)).probes == ("boundary",)
    assert play(probes="boundary").with_shadows(play(probes=both, seed=1)).probes == ("boundary",)
    other_layers = play(probes=both, seed=1, model=MLP((5, 5)))
    assert game.with_shadows(other_layers).probes == ("boundary",)
    other_budget = play(probes=["gradient", Boundary(iterations=1)], seed=1)
    mixed = game.with_shadows(other_budget)
    assert mixed.probes == ("gradient",)
    assert "boundary_distance" not in mixed.dataset


def test_probes_of_arrays():
    game = toys.random_game()
    assert game.probes == ("boundary", "gradient")
    assert game.layers == ("layer 0", "layer 1", "layer 2")
    total = toys.remade(game, gradient_norm=game.gradient_norm[..., 0])
    np.testing.assert_array_equal(total.gradient_norm, game.gradient_norm[..., :1])
    assert toys.remade(game, gradient_norm=None).probes == ("boundary",)
    for name, value, message in (
        ("gradient_norm", game.gradient_norm[:, :5], r"gradient_norm has shape \(8, 5, 3\); with member"),
        ("gradient_norm", np.float64(1), r"gradient_norm has shape \(\); with member"),
        (
            "boundary_distance",
            game.boundary_distance - 1,
            "boundary_distance must hold numbers of at least 0; it is float64 from -1.0 to",
        ),
        (
            "boundary_distance",
            np.where(game.boundary_distance > 0, np.nan, 0),
            "boundary_distance has .* not finite numbers",
        ),
    ):
        with pytest.raises(ValueError, match="^" + message):
            toys.remade(game, **{name: value})


def test_probes_are_made_by_name():
    assert probes.available() == ["boundary", "gradient"]
    assert probes.make(()) == ()
    assert probes.make("gradient") == (Gradient(),)
    assert probes.make([Gradient(), "boundary"]) == (Boundary(), Gradient())
    for wrong, message in (
        ("gradients", "probes='gradients' is unknown. Did you mean 'gradient'?"),
        (["boundary", Boundary(iterations=2)], "probes=['boundary', 'boundary'] holds a probe twice."),
        (3, "probes=3 is unknown. Known: boundary, gradient."),
    ):
        with pytest.raises(ValueError) as error:  # noqa: PT011
            probes.make(wrong)
        assert str(error.value).startswith(message)
    for wrong in ({"iterations": -1}, {"directions": 0}, {"radius": 0}, {"candidates": 1.5}):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"^{name}="):
            Boundary(**wrong)


def test_a_probe_that_cannot_measure_refuses_before_training(fresh_cache, monkeypatch):
    def check(self, pool):
        raise ValueError("no")

    monkeypatch.setattr(Probe, "check", check)
    with pytest.raises(ValueError, match=r"^no$"):
        play(probes="gradient")
    assert not list(fresh_cache.glob("games/*"))


# ----------------------------------------------------------------------------------------------------
# Attacks


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("attack", [GradientNorm, BoundaryDistance])
def test_calibrated_scores_against_plain_loops(design, attack):
    game = toys.random_game(design, n_models=10, seed=2)
    total = np.sqrt((game.gradient_norm**2).sum(-1))
    plain = -np.log(total) if attack is GradientNorm else game.boundary_distance
    np.testing.assert_allclose(attack().run(game).score, plain, rtol=1e-9)
    expected = np.empty_like(plain)
    for t in range(game.n_models):
        for i in range(game.n_records):
            gone = (t, game.excluded_models[t, i])
            out = [plain[k, i] for k in range(game.n_models) if k not in gone and not game.member[k, i]]
            expected[t, i] = plain[t, i] - np.mean(out)
    score = attack(calibrated=True).run(game).score
    np.testing.assert_allclose(score, expected, rtol=1e-6, atol=1e-6)


def test_white_box_against_scikit_learn():
    game = toys.random_game(n_records=60, seed=3, signal=0.5)
    outcome = WhiteBox(penalty=2.0).run(game)
    known = known_half(game.member)
    np.testing.assert_array_equal(outcome.evaluated, ~known)
    loss, right = (game.signal(name)[:, 0] for name in ("loss", "correctness"))
    for k in range(game.n_models):
        x = np.column_stack([np.log(game.gradient_norm[k]), loss[k], right[k]])
        x = StandardScaler().fit(x[known[k]]).transform(x)
        fit = LogisticRegression(C=0.5, tol=1e-10, max_iter=10_000, class_weight="balanced")
        expected = fit.fit(x[known[k]], game.member[k, known[k]]).decision_function(x)
        np.testing.assert_allclose(outcome.score[k], expected, rtol=1e-4, atol=1e-4)


def test_gradients_that_vanish_are_scored():
    game = toys.random_game()
    gone = toys.remade(game, gradient_norm=np.zeros_like(game.gradient_norm))
    for attack in (GradientNorm(), GradientNorm(calibrated=True), WhiteBox()):
        assert np.isfinite(attack.run(gone).score).all()


def test_white_box_needs_records_to_learn_from():
    with pytest.raises(mia.attacks.RequirementsNotMet, match="some target has only 3"):
        WhiteBox().run(toys.random_game(n_records=6))
    with pytest.raises(ValueError, match=r"^per_class=True has no use here"):
        WhiteBox(per_class=True)
    with pytest.raises(ValueError, match=r"^penalty=0 must be greater than 0"):
        WhiteBox(penalty=0)


def test_what_attacks_on_measurements_need():
    table = mia.attacks.available()
    names = ["gradient_norm", "calibrated_gradient_norm", "white_box"]
    assert set(table.loc[names, "probe"]) == {"gradient"}
    assert set(table.loc[names, "sees"]) == {"gradients"}
    names = ["boundary_distance", "calibrated_boundary_distance"]
    assert set(table.loc[names, "probe"]) == {"boundary"}
    assert set(table.loc[names, "sees"]) == {"label"}
    assert set(table.loc[names, "queries"]) == {"about 121"}
    assert table.loc["calibrated_boundary_distance", "known half"] == "for the threshold"


@pytest.mark.slow
def test_members_of_overfitted_models_are_found(fresh_cache):
    """The training is long enough for every model to know its members by heart: no chance is left to the attacks."""
    pool = mia.load("clusters", size=400)
    game = mia.play(
        pool, MLP((64,)), training=Training(epochs=100), n_models=8, probes=["gradient", "boundary"]
    )
    assert game.train_accuracy.min() > 0.95
    for name in mia.attacks.available().query("probe != 'none'").index:
        outcome = mia.attacks.make(name).run(game)
        auc = [
            roc_auc_score(game.member[k, seen], outcome.score[k, seen])
            for k, seen in enumerate(outcome.evaluated)
        ]
        assert np.mean(auc) > 0.6, name
