"""Distances to clusters, risk by decile, and what weighted smoothing does to its records."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import toys

import mialab as mia
from mialab import metrics
from mialab.auditing import deciles
from mialab.chapters import weighted_smoothing
from mialab.classifiers.run import Run
from mialab.defenses import HAMP, LabelSmoothing, WeightedSmoothing
from mialab.defenses.base import cross_entropy
from mialab.metrics import intervals
from mialab.plots import comparisons
from mialab.training.streams import Streams, generator

mpl.use("agg")
TRAINING = mia.Training(epochs=3)


# ----------------------------------------------------------------------------------------------------
# Embeddings and distances


def reference(pool, model, seed=0):
    """Train the reference network by hand, and return it."""
    held_out = mia.Pool("held out", x=pool.x_test, y=pool.y_test, n_classes=pool.n_classes, kind=pool.kind)
    run = Run(
        held_out.x,
        held_out.y,
        np.ones((1, len(held_out)), bool),
        [0],
        pool=held_out,
        build=mia.models.make(model),
        defense=mia.defenses.make(None),
        training=TRAINING,
        seed=int(generator(seed, "reference network").integers(2**31)),
        device="cpu",
    )
    run.train()
    return run


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("tabular", mia.models.MLP(hidden=(8, 5))),
        ("tabular", mia.models.MLP(hidden=(512, 256))),  # trained one at a time
        ("image", mia.models.CNN(channels=(2,), hidden=5)),
    ],
)
def test_the_head_of_the_reference_network_makes_its_answers_of_the_embedding(kind, model):
    pool = toys.pool(kind)
    points = weighted_smoothing.embedding(pool, model, training=TRAINING, device="cpu")
    run = reference(pool, model)
    names = list(run.parameters)
    weight, bias = (run.parameters[name].detach().numpy() for name in names[-2:])
    weight, bias = (weight[0], bias[0]) if run.mode == "stacked" else (weight, bias)
    assert points.shape == (len(pool), weight.shape[1])
    np.testing.assert_allclose(points @ weight.T + bias, run.predict(pool.x)[0], atol=1e-5)


def test_the_embedding_depends_on_held_out_records_and_seed_alone():
    pool, model = toys.pool(), mia.models.MLP(hidden=(8,))
    made = [
        weighted_smoothing.embedding(p, model, training=TRAINING, seed=seed, device="cpu")
        for p, seed in ((pool, 0), (pool, 0), (pool, 1))
    ]
    assert np.array_equal(made[0], made[1])
    assert np.abs(made[0] - made[2]).max() > 0.01
    other = toys.pool(y=pool.y[::-1].copy())
    assert np.array_equal(
        made[0], weighted_smoothing.embedding(other, model, training=TRAINING, device="cpu")
    )


def test_an_embedding_needs_test_records_and_a_linear_layer():
    with pytest.raises(ValueError, match=r"0 test records .* load it with test="):
        weighted_smoothing.embedding(toys.pool(test=0), training=TRAINING)
    with pytest.raises(ValueError, match="no linear layer"):
        weighted_smoothing.embedding(
            toys.pool("image"), lambda shape, n: torch.nn.Flatten(), training=TRAINING
        )


def test_the_kth_neighbor_of_the_same_class():
    rng = np.random.default_rng(0)
    points, y = rng.normal(size=(30, 2, 2)), rng.permutation(np.arange(30) % 3)
    for k in (1, 4):
        found = weighted_smoothing.neighbor_distance(points, y, k=k)
        for i in range(30):
            others = [j for j in range(30) if y[j] == y[i] and j != i]
            expected = sorted(np.linalg.norm((points[others] - points[i]).reshape(len(others), -1), axis=1))
            assert found[i] == pytest.approx(expected[k - 1])
    with pytest.raises(ValueError, match=r"k=10 needs at least 11 records of each class; class \d has 10"):
        weighted_smoothing.neighbor_distance(points, y, k=10)


def test_duplicates_are_neighbors_at_distance_zero():
    points = np.array([[0.0], [0.0], [1.0], [3.0]])
    assert weighted_smoothing.neighbor_distance(points, np.zeros(4), k=1).tolist() == [0, 0, 1, 2]


def test_the_distance_to_the_mean_of_the_class():
    points, y = np.array([[0.0, 0], [2, 0], [5, 5], [5, 7]]), np.array([7, 7, 3, 3])
    assert weighted_smoothing.centroid_distance(points, y).tolist() == [1, 1, 1, 1]
    assert weighted_smoothing.centroid_distance([[0.0], [3], [0]], [0, 0, 0]).tolist() == [1, 2, 1]


def test_deciles_are_tenths_in_order():
    distance = np.random.default_rng(0).permutation(50) / 7
    part = deciles.deciles(distance)
    assert np.bincount(part).tolist() == [0] + [5] * 10
    assert all(distance[part == d].max() < distance[part == d + 1].min() for d in range(1, 10))
    assert deciles.deciles(np.zeros(4), n=2).tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("distance", "n", "message"),
    [(np.zeros((2, 20)), 10, "one per record"), ([np.nan] * 20, 10, "finite"), (np.zeros(5), 10, "n=10")],
)
def test_distances_that_cannot_be_cut_are_refused(distance, n, message):
    with pytest.raises(ValueError, match=message):
        deciles.deciles(distance, n=n)


# ----------------------------------------------------------------------------------------------------
# Risk


def uneven_game(n_records=400, signal=3.0, seed=0):
    """Make a game in which only the first half of the records gives its members away."""
    game = toys.random_game(n_models=8, n_records=n_records, seed=seed)
    logits = game.logits.copy()
    exposed = np.arange(n_records) < n_records // 2
    logits[:, 0, np.arange(n_records), game.y] += signal * (game.member & exposed)
    return toys.remade(game, logits=logits)


def test_the_risk_of_a_decile_is_that_of_its_records_alone():
    game = uneven_game()
    distance = np.random.default_rng(1).random(400)
    part = deciles.deciles(distance, n=4)
    outcome = mia.attacks.make("loss").run(game)
    for metric, of in (("auc", metrics.auc), ("tpr@0.1", lambda s, m: metrics.tpr_at_fpr(s, m, 0.1))):
        table = deciles.risk_by_decile(game, "loss", distance, metric=metric, n=4)
        assert table["records"].tolist() == [100] * 4
        for row in table.itertuples():
            inside = part == row.decile
            assert row.value == pytest.approx(
                of(outcome.score[:, inside].ravel(), game.member[:, inside].ravel())
            )
            assert row.low <= row.value <= row.high
            assert row.distance == np.median(distance[inside])
        expected = table["value"].iloc[0] - table["value"].iloc[-1]
        found = deciles.risk_difference(game, "loss", distance, metric=metric, n=4)
        assert found.value == pytest.approx(expected)
        assert found.low <= found.value <= found.high


def test_where_the_risk_lies_is_found():
    game = uneven_game()
    near = np.arange(400.0)
    for distance, sign in ((near, 1), (-near, -1)):
        found = deciles.risk_difference(game, "loss", distance)
        assert min(sign * found.low, sign * found.high) > 0


@pytest.mark.slow
def test_chance_is_no_difference():
    """Of 40 intervals of nominally 95 % on noise, more than 8 miss 0 with a chance below 1e-4."""
    missed = 0
    for seed in range(40):
        game = toys.random_game(n_models=8, n_records=200, seed=seed)
        distance = np.random.default_rng([seed, 1]).random(200)
        found = deciles.risk_difference(game, "loss", distance, n=2)
        missed += not found.low <= 0 <= found.high
    assert missed <= 8


def test_a_rate_with_few_false_alarms_is_not_resolvable():
    game, distance = toys.random_game(n_models=4, n_records=40), np.arange(40.0)
    table = deciles.risk_by_decile(game, "loss", distance, metric="tpr@0.01", n=2)
    assert table[["value", "low", "high"]].isna().all(axis=None)
    assert np.isnan(deciles.risk_difference(game, "loss", distance, metric="tpr@0.01", n=2).value)


@pytest.mark.parametrize("metric", ["tpr", "tpr@", "tpr@2", "tpr@1e-2", "precision", "auc@0.1"])
def test_other_metrics_are_refused(metric):
    game = toys.random_game()
    with pytest.raises(ValueError, match=r"^metric="):
        deciles.risk_by_decile(game, "loss", np.arange(20.0), metric=metric)


def test_one_distance_per_record():
    with pytest.raises(ValueError, match=r"distance has shape \(3,\); it must be \(20,\)"):
        deciles.risk_by_decile(toys.random_game(), "loss", [1, 2, 3])


def test_decisions_of_one_side():
    game = toys.random_game(n_models=6, n_records=30)
    predicted_member = mia.attacks.make("loss").run(game).predicted_member
    for side, counted in (("members", game.member), ("non-members", ~game.member)):
        found = deciles.decisions(game, "loss", side)
        assert np.array_equal(found, np.where(counted, predicted_member, np.nan), equal_nan=True)
    with pytest.raises(ValueError, match="side='all'"):
        deciles.decisions(game, "loss", "all")


def test_means_by_decile_leave_out_what_does_not_count():
    rng = np.random.default_rng(0)
    values, distance = rng.normal(size=(6, 40)), rng.random(40)
    values[rng.random(values.shape) < 0.5] = np.nan
    part = deciles.deciles(distance, n=4)
    table = deciles.mean_by_decile(values, distance, partner=np.arange(6) ^ 1, n=4)
    means = np.array([np.nanmean(values[:, part == d], axis=1) for d in range(1, 5)])
    np.testing.assert_allclose(table["value"], means.mean(1))
    expected = intervals.over_targets(means[0] - means[-1], partner=np.arange(6) ^ 1)
    found = deciles.mean_difference(values, distance, partner=np.arange(6) ^ 1, n=4)
    np.testing.assert_allclose(found, expected)


# ----------------------------------------------------------------------------------------------------
# The noise of weighted smoothing


@pytest.mark.parametrize("n_classes", [2, 10, 30])
@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.0])
def test_the_loss_floor_is_the_mean_loss_of_sure_predictions(sigma, n_classes):
    """By the defense's own loss; a deviation of 5 standard errors has a chance below 1e-6."""
    defense, n, rounds = WeightedSmoothing(sigma=sigma, weighting="uniform"), 500, 40
    index, y = torch.arange(n)[None], torch.zeros(1, n, dtype=torch.int64)
    noise = Streams(0, [0], "test")
    run = type("Run", (), {"memory": {"factor": torch.ones(1, n)}, "streams": lambda _: noise})
    logits = torch.zeros(1, n, n_classes)
    logits[..., 0] = 200
    losses = [defense.loss(logits, y, run=run, index=index).mean().item() for _ in range(rounds)]
    expected = weighted_smoothing.loss_floor(sigma, n_classes)
    assert abs(np.mean(losses) - expected) < 5 * np.std(losses, ddof=1) / np.sqrt(rounds)


def test_the_loss_floor_grows_from_nothing():
    assert weighted_smoothing.loss_floor(0, 10) == 0
    floors = [weighted_smoothing.loss_floor(sigma, 10) for sigma in (1e-12, 1e-6, 0.01, 0.1, 1, 10)]
    assert 0 < floors[0] < 1e-10
    assert np.all(np.diff(floors) > 0)


@pytest.mark.parametrize("n_classes", [2, 10])
def test_label_smoothing_of_the_same_floor(n_classes):
    defense = weighted_smoothing.matched_label_smoothing(0.1, n_classes)
    assert isinstance(defense, LabelSmoothing)
    label = torch.full((n_classes,), defense.smoothing / n_classes)
    label[0] += 1 - defense.smoothing
    logits = label.log()
    least = defense.loss(logits[None, None], torch.zeros(1, 1, dtype=torch.int64)).item()
    assert least == pytest.approx(weighted_smoothing.loss_floor(0.1, n_classes), abs=1e-6)
    assert least == pytest.approx(cross_entropy(logits, label).item(), abs=1e-6)


def test_a_floor_that_label_smoothing_cannot_reach():
    with pytest.raises(ValueError, match=r"sigma=1 gives a loss floor of .* must be smaller"):
        weighted_smoothing.matched_label_smoothing(1, 2)


def test_every_control_arm_differs_from_the_defense_in_one_thing_but_that_of_equal_power():
    arms = weighted_smoothing.arms(0.2, 10, warm_up=2)
    assert arms["none"] is None
    assert arms["label_smoothing"] == weighted_smoothing.matched_label_smoothing(0.2, 10)
    base = vars(arms["weighted_smoothing"])
    assert base == vars(WeightedSmoothing(sigma=0.2, warm_up=2))
    others = {name: vars(arm) for name, arm in arms.items() if isinstance(arm, WeightedSmoothing)}
    changed = {name: {k for k in base if base[k] != own[k]} for name, own in others.items()}
    assert changed == {
        "weighted_smoothing": set(),
        "weighted_smoothing (paper)": {"version"},
        "uniform noise": {"weighting"},
        "uniform noise (equal power)": {"weighting", "sigma"},
        "inverted weights": {"weighting"},
        "clipped weights": {"weighting"},
    }
    assert arms["uniform noise (equal power)"].sigma ** 2 == pytest.approx(2 * 0.2**2)
    assert weighted_smoothing.arms(0.2, 10)["weighted_smoothing (paper)"].warm_up == 5


@pytest.mark.parametrize("weighting", ["modified_entropy", "clipped"])
@pytest.mark.parametrize("version", ["code", "paper"])
def test_the_size_of_the_noise_is_that_of_one_more_epoch(version, weighting):
    """That epoch is begun by hand, with the models that the game's seed gives."""
    pool, model = toys.pool(), mia.models.MLP(hidden=(8,))
    defense = WeightedSmoothing(sigma=0.3, version=version, weighting=weighting, warm_up=2)
    game = mia.play(pool, model, defense, training=mia.Training(epochs=6, stop=5), n_models=2)
    found = weighted_smoothing.noise_size(game, defense)
    run = Run(
        pool.x,
        pool.y,
        game.member,
        [0, 1],
        pool=pool,
        build=model,
        defense=defense,
        training=mia.Training(epochs=6, stop=5),
        seed=0,
        device="cpu",
    )
    run.train()
    run.epoch = 5
    defense.before_epoch(run)
    p = torch.softmax(run.predict(run.x), -1).sort(-1).values
    size = run.memory["factor"].abs() * (p[..., -1] - p[..., -2] if version == "code" else 1)
    np.testing.assert_allclose(found, np.where(game.member, size, np.nan), atol=1e-4)


def test_the_factor_has_mean_1_and_mean_square_2_in_each_class():
    game = toys.random_game(n_models=4, n_records=200)
    size = weighted_smoothing.noise_size(game, WeightedSmoothing(version="paper"))
    for k in range(4):
        for label in range(4):
            own = game.member[k] & (game.y == label)
            assert (size[k, own] ** 2).mean() == pytest.approx(2, rel=1e-4)
    assert np.isnan(size[~game.member]).all()


def test_the_spread_is_that_of_the_game(monkeypatch):
    pool, model = toys.pool(), mia.models.MLP(hidden=(8,))
    defense, training = WeightedSmoothing(sigma=0.3), mia.Training(epochs=6)
    seen, factors = [], []
    train_group = weighted_smoothing.train_group

    def watched(models, **options):
        def observe(run):
            options["observe"](run)
            if run.progress == 1:
                factors.append(run.memory["factor"].gather(1, run.members))

        seen.append(train_group(models, **{**options, "observe": observe})["logits"])

    monkeypatch.setattr(weighted_smoothing, "train_group", watched)
    table = weighted_smoothing.weight_spread(
        pool, model, defense, training=training, quantiles=(0.5, 0.25), seed=3, device="cpu"
    )
    game = mia.play(pool, model, defense, training=training, n_models=4, seed=3)
    np.testing.assert_allclose(np.concatenate(seen), game.logits[:2], atol=1e-5)
    assert table.columns.tolist() == ["epoch", "quantile", "value"]
    assert table[["epoch", "quantile"]].to_numpy().tolist() == [[4, 0.25], [4, 0.5], [5, 0.25], [5, 0.5]]
    both = np.concatenate(factors)
    assert both.size == len(pool)
    assert table["value"][2] == pytest.approx(np.quantile(both, 0.25))
    assert both.mean() == pytest.approx(1, abs=1e-5)


def test_uniform_weights_have_no_spread():
    pool, model = toys.pool(), mia.models.MLP(hidden=(8,))
    table = weighted_smoothing.weight_spread(
        pool, model, WeightedSmoothing(weighting="uniform"), training=mia.Training(epochs=6), device="cpu"
    )
    assert (table["value"] == 1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"defense": WeightedSmoothing(sigma=0)}, "adds no noise"),
        ({"defense": WeightedSmoothing(warm_up=6)}, "adds no noise within 6 epochs"),
        ({"defense": HAMP()}, "must be a WeightedSmoothing"),
        ({"n_models": 3}, "n_models=3 must be even"),
        ({"device": "tpu"}, "device='tpu'"),
        ({"quantiles": (2,)}, "quantiles=2"),
    ],
)
def test_what_cannot_be_watched(changes, message):
    options = {"defense": WeightedSmoothing(), "training": mia.Training(epochs=6), **changes}
    with pytest.raises((ValueError, TypeError), match=message):
        weighted_smoothing.weight_spread(toys.pool(), "mlp", options.pop("defense"), **options)


# ----------------------------------------------------------------------------------------------------
# Figures


@pytest.fixture
def closed():
    yield
    plt.close("all")


def drawn(ax):
    """Return the points of each line with error bars, by its label."""
    return {c.get_label(): c.lines[0].get_xydata() for c in ax.containers}


def test_the_trade_off_joins_values_in_order(closed):
    games = {seed: toys.random_game(n_models=8, n_records=100, signal=seed, seed=seed) for seed in range(4)}
    tables = {k: mia.audit(game, ["loss"], fprs=(0.1,), fnrs=()) for k, game in games.items()}
    for k, table in tables.items():
        table.attrs["test_accuracy"] = np.linspace(0.5, 0.6, 8) + k / 10
    curves = {"none": tables[0], "weighted_smoothing": {1.0: tables[3], 0.1: tables[1], 0.3: tables[2]}}
    for metric in ("auc", "tpr@0.1"):
        ax = comparisons.privacy_utility(curves, attack="loss", metric=metric)
        value = {k: table.interval("loss", metric).value for k, table in tables.items()}
        np.testing.assert_allclose(drawn(ax)["none"], [[0.55, value[0]]])
        expected = [[0.65, value[1]], [0.75, value[2]], [0.85, value[3]]]
        np.testing.assert_allclose(drawn(ax)["weighted_smoothing"], expected)
        assert [text.get_text() for text in ax.texts] == ["0.1", "0.3", "1"]
    with pytest.raises(ValueError, match="attack='lira'"):
        comparisons.privacy_utility(curves, attack="lira")


def test_deciles_are_drawn_beside_each_other(closed):
    table = deciles.risk_by_decile(uneven_game(100), "loss", np.arange(100.0), n=5)
    ax = comparisons.by_decile({"none": table, "weighted_smoothing": table}, ylabel="AUC", chance=0.5)
    for i, points in enumerate(drawn(ax).values()):
        np.testing.assert_allclose(points[:, 0], np.arange(1, 6) + (-0.125, 0.125)[i])
        np.testing.assert_allclose(points[:, 1], table["value"])
    labels = {t.get_text() for t in ax.get_legend().get_texts()}
    assert labels == {"none", "weighted_smoothing", "chance"}


def test_the_spread_has_bands_between_opposite_quantiles(closed):
    rows = [(e, q, e + q) for e in (4, 5) for q in (0.05, 0.25, 0.5, 0.75, 0.95)]
    table = pd.DataFrame(rows, columns=["epoch", "quantile", "value"])
    figure = comparisons.spread({"weighted_smoothing": table, "uniform noise": table}, ylabel="factor")
    assert [ax.get_title() for ax in figure.axes] == ["weighted_smoothing", "uniform noise"]
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xydata(), [[4, 4.5], [5, 5.5]])
    heights = [band.get_paths()[0].get_extents().intervaly for band in figure.axes[0].collections]
    np.testing.assert_allclose(heights, [(4.05, 5.95), (4.25, 5.75)])
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["5% to 95%", "25% to 75%", "median"]
