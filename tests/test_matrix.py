"""Every defense against every attack: what fails is kept as missing, and stops nothing."""

import importlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import toys

import mialab as mia
from mialab.attacks import registry
from mialab.attacks.base import Attack
from mialab.chapters.settings import Setting
from mialab.defenses.base import DEFENSES, Defense

MODEL, TRAINING = mia.models.MLP(hidden=(4,)), mia.Training(epochs=2)


@pytest.fixture(autouse=True)
def _games(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "matrix-games"  # the same games for all tests
    monkeypatch.setenv("MIALAB_GAMES", str(folder))


def play_matrix(pool=None, **options):
    options = {
        "model": MODEL,
        "training": TRAINING,
        "n_models": 6,
        "fprs": (0.1,),
    } | options
    return mia.auditing.audit_defenses(toys.pool() if pool is None else pool, **options)


@dataclass(frozen=True)
class Broken(Defense):
    name = "broken"

    def loss(self, logits, target, **more):
        raise RuntimeError("no\nway")


@dataclass(frozen=True, kw_only=True)
class Crash(Attack):
    statistic: str = "crash"
    base_name = "crash"

    def scores(self, game):
        raise FloatingPointError("all NaN")


@pytest.fixture
def extended(monkeypatch):
    """Registries with a defense and an attack that fail, and a new attack that works."""
    monkeypatch.setitem(DEFENSES, "broken", Broken)
    monkeypatch.setitem(registry.ATTACKS, "crash", Crash())
    renamed = type("Renamed", (mia.attacks.LiRA,), {"base_name": "brand_new"})
    monkeypatch.setitem(registry.ATTACKS, "brand_new", renamed())


@pytest.mark.slow
def test_every_defense_and_every_attack_by_itself(extended):
    # SELENA has 25 sub-models by default, distillation needs other records, adversarial regularization a batch of them.
    table = play_matrix(toys.pool(n=60, reference=40), defenses=None)
    assert table["defense"].iloc[0] == "none"
    assert set(table["defense"]) == set(mia.defenses.available()) - {"broken"}
    assert "brand_new" in set(table["attack"])
    reasons = table.missing().set_index("attack")
    assert reasons.loc["all", "against"] == "broken"
    assert reasons.loc["all", "reason"] == "RuntimeError: no way"
    assert reasons.loc["crash", "reason"] == "FloatingPointError: all NaN"
    assert reasons.loc["crash", "against"] == ", ".join(dict.fromkeys(table["defense"]))
    assert "needs at least 2 queries" in reasons.loc["label_only", "reason"]
    # Nothing is lost: every attack is in the table or among the missing.
    for defense in set(table["defense"]):
        there = set(table[table["defense"] == defense]["attack"])
        gone = {m["attack"] for m in table.attrs["missing"] if m["defense"] == defense}
        assert there | gone == set(mia.attacks.available().index)
        assert not there & gone


@pytest.mark.slow
def test_figures_are_those_of_the_audit():
    pool = toys.pool(n=100)
    table = play_matrix(
        pool, defenses=["label_smoothing"], attacks=["loss", "quantile", "lira"], queries="augmented"
    )
    game = mia.play(pool, MODEL, "label_smoothing", training=TRAINING, n_models=6, queries="augmented")
    expected = mia.audit(game, ["loss", "quantile", "lira"], pool=pool, fprs=(0.1,), fnrs=(0.001,))
    pd.testing.assert_frame_equal(pd.DataFrame(table).drop(columns="defense"), pd.DataFrame(expected))
    about = table.attrs["audits"]["label_smoothing"]
    assert about["test_accuracy"] == expected.attrs["test_accuracy"]
    assert list(about["audit"]["attacks"]) == ["loss", "quantile", "lira"]
    assert table.missing().empty
    assert list(table.summary("auc").index) == ["loss", "quantile", "lira"]


@pytest.mark.slow
def test_overrides():
    table = play_matrix(
        defenses=["none", "hamp"],
        attacks=["loss"],
        overrides={"hamp": {"gamma": 0.5, "training": {"epochs": 3}}, "none": {"training": TRAINING}},
    )
    audits = table.attrs["audits"]
    assert audits["hamp"]["defense_parameters"]["gamma"] == 0.5
    assert (audits["hamp"]["training"]["epochs"], audits["none"]["training"]["epochs"]) == (3, 2)
    assert audits["hamp"]["training"]["lr"] == audits["none"]["training"]["lr"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"defenses": ["hampp"]}, "Did you mean 'hamp'"),
        ({"overrides": {"hampp": {}}}, "Did you mean 'hamp'"),
        ({"attacks": ["los"]}, "Did you mean 'loss'"),
        (
            {"overrides": {"hamp": {"gama": 1}}},
            r"overrides\['hamp'\]='gama' is unknown. Did you mean 'gamma'",
        ),
        ({"overrides": {"hamp": {"training": {"epoch": 1}}}}, "Did you mean 'epochs'"),
    ],
)
def test_wrong_names_are_refused_before_any_training(options, message, monkeypatch):
    monkeypatch.setattr(
        importlib.import_module("mialab.auditing.matrix"), "play", lambda *a, **b: pytest.fail("trained")
    )
    with pytest.raises(ValueError, match=message):
        play_matrix(**options)


def test_nothing_works(extended):
    with pytest.raises(RuntimeError, match="all against broken: RuntimeError: no way"):
        play_matrix(defenses=["broken"])
    with pytest.raises(RuntimeError, match="crash against none: FloatingPointError: all NaN"):
        play_matrix(defenses=["none"], attacks=["crash"])


def test_audit_each_names_what_a_game_does_not_allow():
    full, one_query = (toys.random_game(n_models=6, n_records=60, n_queries=q) for q in (2, 1))
    table = mia.auditing.audit_each(
        {"two": full, "one": one_query}, ["loss", "label_only", "quantile"], fprs=()
    )
    rows = table[["defense", "attack"]].drop_duplicates().itertuples(index=False, name=None)
    assert set(rows) == {("two", "loss"), ("two", "label_only"), ("one", "loss")}
    reasons = table.missing()
    assert list(zip(reasons["attack"], reasons["against"], strict=True)) == [
        ("quantile", "two, one"),
        ("label_only", "one"),
    ]


@pytest.mark.slow
def test_strongest_of_each_kind_of_attacker():
    game = toys.random_game(n_models=8, n_records=100, signal=2.0)
    table = mia.auditing.audit_each(
        {"none": game}, ["loss", "entropy", "lira", "lira_hinge", "correctness"], fprs=()
    )
    best = table.strongest()
    assert list(best.index) == ["labels only", "scores"]
    rows = table[(table["target"] == "pooled") & (table["metric"] == "auc")].set_index("attack")
    scores = rows  # who sees scores sees labels too
    name = scores["value"].idxmax()
    cell = best.loc["scores", "none"]
    assert cell.startswith(f"{scores['value'].max():.3f} [")
    assert cell.endswith(f"] {name}, of 5")
    # It was chosen for its value, so its interval is wider than its own.
    low, high = (float(x) for x in cell.split("[")[1].split("]")[0].split(", "))
    assert low < scores.loc[name, "low"]
    assert high > scores.loc[name, "high"] - 1e-3
    assert best.loc["labels only", "none"].endswith("] correctness, of 1")
    alone = mia.audit(game, ["loss"], fprs=()).strongest()
    assert list(alone.columns) == ["unknown"]


@pytest.fixture(scope="module")
def made():
    """Settings of images and of a table."""
    digits = {"size": 100, "model": "cnn", "channels": [4, 8], "hidden": 16, "epochs": 3, "lr": 0.01}
    clusters = {"size": 60, "hidden": [8], "other_model": {"hidden": [4, 4]}}
    return mia.chapters.settings.settings({"digits": digits, "clusters": clusters}, seed=1)


@pytest.mark.slow
def test_settings_name_model_and_training(made):
    assert isinstance(made["clusters"], Setting)
    assert made["digits"].model == mia.models.CNN(channels=(4, 8), hidden=16)
    assert made["digits"].training == mia.Training(epochs=3, lr=0.01)
    assert made["clusters"].training == mia.Training()


@pytest.mark.slow
def test_settings_may_name_another_model(made):
    assert made["digits"].other_model is None
    assert made["clusters"].other_model == mia.models.MLP(hidden=(4, 4))


@pytest.mark.slow
def test_settings_load_the_pool(made):
    assert len(made["digits"].pool) == 100
    np.testing.assert_array_equal(made["clusters"].pool.y, mia.load("clusters", size=60, seed=1).y)


@pytest.mark.slow
def test_settings_choose_queries_and_probes_for_the_records(made):
    assert set(made["digits"].queries.kinds) == {"original", "shift", "noise", "mixed"}
    assert set(made["clusters"].queries.kinds) == {"original", "noise", "mixed"}
    assert made["clusters"].probes == ("boundary", "gradient")
    assert list(made["clusters"].options()) == ["model", "training", "queries", "probes"]


@pytest.mark.slow
def test_settings_that_are_unknown():
    with pytest.raises(ValueError, match=r"datasets\['clusters'\]: the parameter='hiden'.*'hidden'"):
        mia.chapters.settings.settings({"clusters": {"hiden": [8]}})
    with pytest.raises(ValueError, match="Did you mean 'cnn'"):
        mia.chapters.settings.settings({"digits": {"model": "cn"}})
