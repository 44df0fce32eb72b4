"""Attack success over epochs: values are those of games that stop there, differences those of pairs of games."""

import dataclasses

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import toys

import mialab as mia
from mialab.chapters.adamixup import COLUMNS
from mialab.defenses import AdaMixup, Mixup
from mialab.plots import comparisons, curves, theme

TRAINING = mia.Training(epochs=6, batch_size=16, optimizer="sgd", lr=0.5)
MODEL = mia.models.MLP(hidden=(8,))
ATTACKS = ("loss", "correctness")
OPTIONS = {"training": TRAINING, "n_models": 4, "attacks": ATTACKS}


@pytest.fixture(scope="module")
def pool():
    return toys.pool(n=60)


@pytest.fixture(scope="module")
def frame(pool):
    arms = {"none": None, "adamixup": AdaMixup()}
    return mia.chapters.adamixup.trajectory(pool, MODEL, arms, stops=(2, 4), baseline="none", **OPTIONS)


def value(frame, **where):
    rows = frame
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted]
    (row,) = rows.itertuples()
    return row


def test_what_is_measured(frame):
    assert list(frame.columns) == ["defense", "epoch", "attack", "metric", "value", "low", "high"]
    assert set(frame["epoch"]) == {2, 4, 6}, "the last epoch is always there"
    own = {"auc", "balanced_accuracy", "tpr@0.01"}
    accuracies = {"train_accuracy", "test_accuracy"}
    none = frame[frame["defense"] == "none"]
    assert set(none["metric"]) == own | accuracies
    assert set(frame["metric"]) == own | accuracies | {f"{m} minus none" for m in own | accuracies}
    assert set(frame.loc[frame["attack"] == "", "metric"].str.removesuffix(" minus none")) == accuracies
    assert not frame.duplicated(["defense", "epoch", "attack", "metric"]).any()
    shown = frame[frame["metric"] == "tpr@0.01"]
    assert shown[["value", "low", "high"]].isna().all(axis=None), "120 non-members resolve no rate of 1 %"


@pytest.mark.parametrize("stop", [4, 6])
def test_figures_are_those_of_games_that_stop_there(pool, frame, stop):
    how = dataclasses.replace(TRAINING, stop=stop)
    games = {
        label: mia.play(pool, MODEL, defense, training=how, n_models=4)
        for label, defense in (("none", None), ("adamixup", AdaMixup()))
    }
    for label, game in games.items():
        table = mia.audit(game, ATTACKS)
        for attack in ATTACKS:
            for metric in ("auc", "balanced_accuracy"):
                row = value(frame, defense=label, epoch=stop, attack=attack, metric=metric)
                assert row[-3:] == pytest.approx(tuple(table.interval(attack, metric)), abs=1e-12)
        row = value(frame, defense=label, epoch=stop, metric="test_accuracy")
        assert row.value == pytest.approx(game.test_accuracy.mean())
        assert 0 <= row.low <= row.value <= row.high <= 1
    for metric, attack in (("auc", "loss"), ("balanced_accuracy", "correctness"), ("test_accuracy", "")):
        pair = [(games[label], attack or None) for label in ("adamixup", "none")]
        expected = mia.difference(*pair, metric=metric)
        row = value(frame, defense="adamixup", epoch=stop, attack=attack, metric=f"{metric} minus none")
        assert row[-3:] == pytest.approx(tuple(expected), abs=1e-12)


def test_each_defense_is_trained_once(pool, monkeypatch):
    played = []

    def play(*arguments, **options):
        played.append(options["training"])
        return mia.play(*arguments, **options)

    monkeypatch.setattr(mia.chapters.adamixup, "play", play)
    arms = {"none": None, "adamixup": AdaMixup()}
    mia.chapters.adamixup.trajectory(pool, MODEL, arms, stops=(2, 4), **OPTIONS)
    assert played == 2 * [dataclasses.replace(TRAINING, checkpoints=(2, 4))]


def test_the_same_accuracy():
    def rows(defense, accuracies):
        return [(defense, e, "", "test_accuracy", a, a, a) for e, a in accuracies.items()]

    ours = rows("ours", {2: 0.1, 4: 0.3, 6: 0.5})
    frame = pd.DataFrame([*ours, *rows("none", {6: 0.9, 4: 0.6, 2: 0.5})], columns=COLUMNS)
    assert mia.chapters.adamixup.same_accuracy(frame, "ours") == 2
    frame.loc[frame["defense"] == "ours", "value"] = [0.1, 0.95, 0.55]
    assert mia.chapters.adamixup.same_accuracy(frame, "ours") == 4, (
        "what counts is the last epoch of the defense"
    )
    frame.loc[frame["defense"] == "ours", "value"] = 0.95
    assert mia.chapters.adamixup.same_accuracy(frame, "ours") == 6, "never reached: where the control is best"
    assert mia.chapters.adamixup.same_accuracy(frame, "none", control="ours") == 2


def test_several_data_sets_and_the_worst_of_them(pool, frame):
    other = toys.pool(n=40, seed=1, name="other")
    setting = type("Setting", (), {"model": MODEL, "training": TRAINING})
    settings = {}
    for one in (pool, other):
        settings[one.name] = setting()
        settings[one.name].pool = one
    everywhere = mia.chapters.adamixup.across(
        settings, {"none": None, "adamixup": AdaMixup()}, attacks=ATTACKS, n_models=4
    )
    assert list(dict.fromkeys(everywhere["dataset"])) == ["toy", "other"]
    here = everywhere[everywhere["dataset"] == "toy"].drop(columns="dataset").reset_index(drop=True)
    last = frame[(frame["epoch"] == 6) & ~frame["metric"].str.contains("minus")].reset_index(drop=True)
    pd.testing.assert_frame_equal(here, last)
    found = mia.chapters.adamixup.worst(everywhere, "loss", "auc", "none")
    both = everywhere[(everywhere[["attack", "metric", "defense"]] == ["loss", "auc", "none"]).all(axis=1)]
    assert found.high == both["high"].max()
    assert (
        mia.chapters.adamixup.worst(frame, "loss", "auc", "none").high
        == value(frame, defense="none", epoch=6, attack="loss", metric="auc").high
    )


def test_fractions_over_the_epochs():
    """The mean of 1,000 numbers: it is off by more than five standard errors with probability below 1e-6."""
    arms = {
        "none": None,
        "linear": AdaMixup(),
        "literal": AdaMixup(schedule="literal"),
        "constant": AdaMixup(schedule="constant", start=0.7),
        "mixup": Mixup(),
    }
    frame = mia.chapters.adamixup.mixing_strength(arms, 5)
    mean = frame.pivot(index="epoch", columns="defense", values="value")
    assert "none" not in mean
    assert mean["linear"].tolist() == pytest.approx([0.5, 0.375, 0.25, 0.125, 0])
    assert mean["literal"].tolist() == pytest.approx([0, 0.25, 0.5, 0.25, 0])
    assert mean["constant"].tolist() == pytest.approx([0.3] * 5)
    assert mean["mixup"].to_numpy() == pytest.approx(0.25, abs=5 * np.sqrt(1 / 48 / 1000))
    assert (frame["low"] <= frame["value"] + 1e-9).all()
    assert (frame["high"] >= frame["value"] - 1e-9).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stops": (7,)}, "at most epochs=6"),
        ({"stops": (0,)}, "stops"),
        ({"stops": 3}, "stops"),
        ({"defenses": {}}, "defenses is empty"),
        ({"baseline": "nobody"}, "baseline"),
        ({"training": dataclasses.replace(TRAINING, stop=3)}, "stop=3"),
        ({"training": dataclasses.replace(TRAINING, checkpoints=(3,))}, r"stops=\[3\]"),
        ({"confidence": 1.5}, "confidence"),
        ({"attacks": ["los"]}, "loss"),
        ({"fprs": (2,)}, "fprs"),
    ],
)
def test_wrong_parameters_are_refused_before_any_training(pool, monkeypatch, options, message):
    monkeypatch.setattr(mia.chapters.adamixup, "play", lambda *_, **__: pytest.fail("a training began"))
    with pytest.raises(ValueError, match=message):
        mia.chapters.adamixup.trajectory(pool, MODEL, **(OPTIONS | options))


def test_figures(frame):
    theme.style()
    figure = curves.trajectory(frame, "auc")
    assert [ax.get_title() for ax in figure.axes] == ["loss", "correctness", ""]
    none, ada = figure.axes[0].get_lines()[:2]
    wanted = frame[(frame[["defense", "attack", "metric"]] == ["adamixup", "loss", "auc"]).all(axis=1)]
    assert ada.get_ydata().tolist() == wanted["value"].tolist()
    assert (none.get_color(), ada.get_color()) == (theme.color("none"), theme.color("adamixup"))
    figure = curves.trajectory(frame, "auc minus none", attacks=["loss"])
    assert figure.axes[0].get_ylabel() == "AUC, minus none"
    assert figure.axes[-1].get_ylabel() == "Test accuracy, minus none"
    figure = curves.trajectory(frame, "auc", attacks=["loss"], x="test_accuracy")
    (ax,) = figure.axes
    reached = frame[(frame["metric"] == "test_accuracy") & (frame["defense"] == "none")]
    assert ax.get_lines()[0].get_xdata().tolist() == reached["value"].tolist()
    (ax,) = curves.trajectory(
        mia.chapters.adamixup.mixing_strength({"a": AdaMixup()}, 4), "smaller_fraction"
    ).axes
    assert len(ax.get_lines()[0].get_xdata()) == 4
    everywhere = pd.concat([frame.assign(dataset="a"), frame.assign(dataset="b")])
    figure = comparisons.by_dataset(everywhere, [("loss", "auc"), ("", "test_accuracy")])
    assert [ax.get_xlabel() for ax in figure.axes] == ["AUC", "Test accuracy"]
    with pytest.raises(ValueError, match="metric"):
        curves.trajectory(frame, "aux")
    plt.close("all")


def test_many_variants_of_a_defense_have_colors_of_their_own(frame):
    names = ["adamixup", *(f"adamixup ({i})" for i in range(5))]
    many = pd.concat([frame[frame["defense"] == "adamixup"].assign(defense=name) for name in names])
    (ax,) = curves.trajectory(many, "auc", attacks=["loss"], accuracy=False).axes
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert lines["adamixup"].get_color() == theme.color("adamixup")
    assert lines["adamixup"].get_linestyle() == "-"
    rgb = np.array([mpl.colors.to_rgb(lines[name].get_color()) for name in names])
    apart = np.abs(rgb[:, None] - rgb).max(axis=-1)
    assert apart[~np.eye(6, dtype=bool)].min() > 0.1
    plt.close("all")
