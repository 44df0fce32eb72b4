import json
from dataclasses import dataclass
from io import StringIO

import numpy as np
import pandas as pd
import pytest
import toys
from scipy import stats

import mialab as mia
from mialab import attacks, metrics
from mialab.attacks.base import Scored
from mialab.auditing import tables
from mialab.exceptions import RequirementsNotMet

METRICS = ["auc", "balanced_accuracy", "tpr@0.01", "tpr@0.1", "tnr@0.1", "precision", "recall", "f1"]
OPTIONS = {"fprs": (0.01, 0.1), "fnrs": (0.1,)}


@pytest.fixture
def game():
    """Three pairs of models whose logits tell their members from the rest."""
    rng = np.random.default_rng(0)
    n_records, n_classes = 400, 3
    first = rng.permuted(np.tile(np.arange(n_records) < n_records // 2, (3, 1)), axis=1)
    member = np.stack([first, ~first], axis=1).reshape(6, n_records)
    y = rng.integers(0, n_classes, n_records)
    logits = rng.normal(size=(6, n_records, n_classes))
    logits[:, np.arange(n_records), y] += 1 + 1.5 * member
    return mia.Game.from_arrays(
        logits=logits, member=member, y=y, partner=np.arange(6) ^ 1, canary=np.arange(n_records) < 40
    )


@dataclass(frozen=True, kw_only=True)
class Fixed(attacks.Attack):
    """An attack that says what it is told to and remembers that it ran."""

    label: str = "fixed"
    evaluate: tuple = ()
    refuses: bool = False
    boldness: float = 0.5

    base_name = property(lambda self: self.label)
    scores = None  # found says it all

    def scorable(self, game):
        if self.refuses:
            raise RequirementsNotMet("no")
        return np.ones_like(game.member)

    def found(self, game, scorable):
        Fixed.ran.append(self.label)
        score = np.random.default_rng(1).normal(size=game.member.shape) + game.member
        evaluated = np.zeros_like(game.member)
        evaluated[*self.evaluate] = True
        score[~evaluated] = np.nan
        return Scored(score, evaluated, score > self.boldness)


@pytest.fixture(autouse=True)
def _forget():
    Fixed.ran = []


def test_rows_and_columns(game):
    table = mia.audit(game, ["loss", "lira"], **OPTIONS)
    assert list(table.columns) == [
        "attack",
        "target",
        "metric",
        "value",
        "low",
        "high",
        "n_member",
        "n_nonmember",
        "threshold",
        "realized",
        "errors",
    ]
    calibrated = ["calibrated_tpr@0.01", "calibrated_tpr@0.1"]
    assert len(table) == 2 * (8 * len(METRICS) + len(calibrated))
    assert set(table["metric"]) == {*METRICS, *calibrated}
    assert list(table["target"].unique()) == ["pooled", *range(6), "mean"]
    assert table["value"].dtype == table["low"].dtype == np.float64
    assert (table.loc[table.target == 0, "n_member"] == 200).all()
    assert (table.loc[table.target == "pooled", "n_member"] == 1200).all()
    known = table.dropna(subset=["value", "low", "high"])
    assert ((known.low <= known.value) & (known.value <= known.high)).all()


def test_values_are_those_of_metrics(game):
    attack = attacks.make("loss")
    outcome, table = attack.run(game), mia.audit(game, ["loss"], **OPTIONS)
    value = table.set_index(["target", "metric"]).value
    score, member, said = outcome.score[3], game.member[3], outcome.predicted_member[3]
    assert value[3, "auc"] == metrics.auc(score, member)
    assert value[3, "tpr@0.1"] == metrics.tpr_at_fpr(score, member, 0.1)
    assert value[3, "tnr@0.1"] == pytest.approx(metrics.tnr_at_fnr(score, member, 0.1))
    assert value["pooled", "auc"] == metrics.auc(outcome.score.ravel(), game.member.ravel())
    for name in ("balanced_accuracy", "precision", "recall", "f1"):
        assert value[3, name] == pytest.approx(getattr(metrics, name)(said, member))
        assert value["pooled", name] == pytest.approx(
            getattr(metrics, name)(outcome.predicted_member.ravel(), game.member.ravel())
        )


def test_proportions_have_exact_intervals(game):
    table = mia.audit(game, ["loss"], **OPTIONS).set_index(["target", "metric"])
    row = table.loc[(2, "recall")]
    exact = stats.binomtest(round(row.value * 200), 200).proportion_ci(0.95, method="exact")
    assert (row.low, row.high) == pytest.approx(tuple(exact))
    # Clopper-Pearson would take the threshold of a rate as given.
    row = table.loc[(2, "tpr@0.1")]
    exact = stats.binomtest(round(row.value * 200), 200).proportion_ci(0.95, method="exact")
    assert row.high - row.low > exact.high - exact.low
    said = attacks.make("loss").run(game).predicted_member[2]
    hits = int((said & game.member[2]).sum())
    exact = stats.binomtest(hits, int(said.sum())).proportion_ci(0.95, method="exact")
    row = table.loc[(2, "precision")]
    assert (row.value, row.low, row.high) == pytest.approx((hits / said.sum(), *exact))


def test_says_not_resolvable_and_stays_numeric(game):
    table = mia.audit(game, ["loss"], **OPTIONS)
    # 200 non-members allow two false alarms at 1%; 1,200 pairs allow twelve.
    below = table[table.metric == "tpr@0.01"].set_index("target")
    assert below.loc[0, ["value", "low", "high"]].isna().all()
    assert below.loc["pooled", ["value", "low", "high"]].notna().all()
    for text in (repr(below), str(below), below._repr_html_(), below.to_string(), below.to_html()):
        assert text.count("not resolvable below 0.05") == 7  # ten of 200; the mean has none to average either
        assert "nan" not in text.lower()
    assert "not resolvable" not in repr(table[table.metric == "auc"])
    means = table.groupby("metric").value.mean()
    assert means[~means.index.str.startswith("calibrated")].notna().all()  # which 6 models are too few for
    assert (table.value + 1).dtype == np.float64


def test_survives_csv(game):
    table = mia.audit(game, ["loss"], **OPTIONS)
    back = tables.AuditTable(pd.read_csv(StringIO(table.to_csv(index=False))))
    pd.testing.assert_series_equal(back.value, table.value)
    assert repr(back) == repr(table)


def test_undefined_precision_says_so(game):
    table = mia.audit(game, [Fixed(boldness=99)], **OPTIONS)
    precision = table[table.metric == "precision"]
    assert precision.value.isna().all()
    assert "undefined" in repr(precision)


def test_other_tables_print_as_ever(game):
    table = mia.audit(game, ["loss"], **OPTIONS)
    described = table.describe()
    assert repr(described) == repr(pd.DataFrame(described))


def test_repeats(game):
    first, second = (mia.audit(game, ["loss"], **OPTIONS) for _ in range(2))
    pd.testing.assert_frame_equal(pd.DataFrame(first), pd.DataFrame(second), check_flags=False)


def test_rates_come_with_threshold_and_false_alarms(game):
    table = mia.audit(game, ["loss"], **OPTIONS).set_index(["target", "metric"])
    score = game.outcome("loss").score
    row = table.loc[("pooled", "tpr@0.01")]
    assert row.errors == (score[~game.member] >= row.threshold).sum() == 12  # of 1,200
    assert row.realized == 0.01
    row = table.loc[(3, "tnr@0.1")]
    assert row.errors == (score[3][game.member[3]] < row.threshold).sum() == 20  # of 200
    assert table.loc[("pooled", "auc"), ["threshold", "realized", "errors"]].isna().all()


def test_attributes_say_how_whole_models_and_false_alarms_vary(game):
    attrs = mia.audit(game, ["loss", "lira"], **OPTIONS).attrs
    assert 0 < attrs["variance"]["loss"]["auc"] < 20
    share, by_chance = attrs["concentration"]["loss"]["tpr@0.1"]
    assert 0.04 < by_chance < 0.12 > share > 0.04  # 4 of 400 records; the scores are alike on all
    name, value, low, high, n = attrs["strongest"]["auc"]["scores"]
    assert name in ("loss", "lira")
    assert low < value < high
    assert n == 2


def test_intervals_of_tables_know_their_degrees_of_freedom(game):
    """Claims made from a table, even one that was stored, have the p-values of the interval that it shows."""
    table, outcome = mia.audit(game, ["loss"], **OPTIONS), game.outcome("loss")
    stored = mia.compare({"none": table})
    stored.attrs = json.loads(json.dumps(stored.attrs))
    for metric in ("auc", "recall"):
        measured = outcome.interval(metric)
        for found in (table.interval("loss", metric), stored.interval("loss", metric, defense="none")):
            assert found.df == pytest.approx(measured.df, abs=1e-3)
            assert found.p_value(0.5, "above") == pytest.approx(measured.p_value(0.5, "above"), rel=1e-3)
    table.attrs.pop("df")
    assert table.interval("loss", "auc").df == np.inf


def test_consequences_for_the_accused(game):
    table = mia.audit(game, ["loss"], **OPTIONS)
    page = table.consequences("tpr@0.1", priors=(0.5,))
    row = table.pooled("tpr@0.1").iloc[0]
    assert page.loc["loss", "false-positive rate"] == "0.1000 (120 of 1200)"
    assert page.loc["loss", "advantage"] == f"{row.value - 0.1:.4f}"
    (cell,) = page.filter(like="50% are members").loc["loss"]
    assert cell.startswith(f"{round(1000 * row.value / (row.value + 0.1))} [")
    with pytest.raises(ValueError, match=r"Did you mean 'tpr@0\.1'"):
        table.consequences("tpr@0.2")


def test_all_attacks_are_checked_before_any_runs(game):
    for wrong in ("losss", "loss", Fixed(label="timid", refuses=True), Fixed()):
        with pytest.raises(ValueError, match=r"Did you mean 'loss'|twice|^no$"):
            mia.audit(game, [Fixed(), "loss", wrong])
    assert Fixed.ran == []
    with pytest.raises(RequirementsNotMet):
        mia.audit(game, [Fixed(label="timid", refuses=True)])


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"attacks": "loss"}, "must be a list"),
        ({"attacks": []}, "must be a list"),
        ({"fprs": (1.5,)}, "fprs: 1.5"),
        ({"confidence": 95}, "confidence=95"),
        ({"records": np.ones(3, bool)}, "mask must have shape"),
        ({"records": [400]}, "indices from 0 to 399"),
        ({"records": np.zeros(400, bool)}, "no record"),
    ],
)
def test_bad_options_are_refused(game, option, says):
    with pytest.raises(ValueError, match=says):
        mia.audit(game, **{"attacks": ["loss"], **option})


def test_a_target_of_one_side_alone_has_no_values(game):
    table = mia.audit(game, ["loss"], records=[0], fprs=(), fnrs=())
    single = table[~table.target.isin(["pooled", "mean"])]
    assert single.value[single.metric == "auc"].isna().all()
    assert table.pooled("auc").value.notna().all()


def test_only_evaluated_records_and_targets_count(game):
    table = mia.audit(game, [Fixed(evaluate=np.s_[:2, 100:])], **OPTIONS)
    assert list(table["target"].unique()) == ["pooled", 0, 1, "mean"]
    pooled, first = (table[table.target == t].iloc[0] for t in ("pooled", 0))
    assert pooled.n_member + pooled.n_nonmember == 600
    assert first.n_member == game.member[0, 100:].sum()


def test_records_restrict_the_measurement(game):
    mask = mia.audit(game, ["loss"], records=game.canary, **OPTIONS)
    index = mia.audit(game, ["loss"], records=np.flatnonzero(game.canary), **OPTIONS)
    assert (mask[["n_member", "n_nonmember"]].sum(axis=1) == np.where(mask.target == "pooled", 240, 40)).all()
    pd.testing.assert_series_equal(mask.low, index.low)
    assert mask.attrs["audit"]["records"].startswith("40 of 400")


def test_provenance_is_json(game):
    table = mia.audit(game, ["loss"], **OPTIONS)
    attrs = json.loads(json.dumps(table.attrs))
    assert attrs["dataset"] == "arrays"
    assert attrs["partner"] == [1, 0, 3, 2, 5, 4]
    assert attrs["audit"].keys() >= {
        "attacks",
        "commit",
        "confidence",
        "records",
        "seconds",
        "versions",
    }
    assert attrs["audit"]["records"] == "all"


def test_over_targets_pairs_models(game):
    table = mia.audit(game, ["loss", "lira"], **OPTIONS)
    means = table.over_targets()
    assert list(means.columns) == ["attack", "metric", "value", "low", "high", "n_targets"]
    aucs = table[
        (table.attack == "lira") & (table.metric == "auc") & ~table.target.isin(["pooled", "mean"])
    ].value.to_numpy()
    row = means[(means.attack == "lira") & (means.metric == "auc")].iloc[0]
    assert row.value == pytest.approx(aucs.mean())
    assert row.low < row.value < row.high
    assert row.n_targets == 6
    assert "not resolvable" in repr(means[means.metric == "tpr@0.01"])
    back = mia.auditing.AuditTable(pd.read_csv(StringIO(table.to_csv(index=False))))
    pd.testing.assert_series_equal(back.over_targets().low, means.low)
    with pytest.raises(ValueError, match="no rows of target 'mean'"):
        table[table.target == "pooled"].over_targets()


def test_summary(game):
    table = mia.audit(game, ["loss", "entropy"], **OPTIONS)
    wide = table.summary()
    assert list(wide.index) == ["loss", "entropy"]
    assert list(wide.columns) == [
        "auc",
        "balanced_accuracy",
        "tpr@0.01",
        "tpr@0.1",
        "calibrated_tpr@0.01",
        "calibrated_tpr@0.1",
        "tnr@0.1",
    ]
    row = table[(table.attack == "loss") & (table.metric == "auc") & (table.target == "pooled")].iloc[0]
    assert wide.loc["loss", "auc"] == f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"
    assert table.summary(["tpr@0.01"], target=2).loc["loss", "tpr@0.01"] == "not resolvable below 0.05"
    assert table.summary(["auc"], target="mean").shape == (2, 1)
    with pytest.raises(ValueError, match="'tpr@5' is not in the table"):
        table.summary(["tpr@5"])
    with pytest.raises(ValueError, match="target=99"):
        table.summary(target=99)


def test_compare(game):
    table = mia.audit(game, ["loss"], **OPTIONS)
    both = mia.compare({"none": table, "hamp": table})
    assert list(both.columns) == ["defense", *tables.COLUMNS]
    assert len(both) == 2 * len(table)
    assert both.attrs["audits"]["hamp"]["dataset"] == "arrays"
    assert list(both.summary(["auc"]).index) == [("none", "loss"), ("hamp", "loss")]
    means = both.over_targets()
    alone = table.over_targets()
    np.testing.assert_array_equal(means[means.defense == "hamp"].low, alone.low)
    with pytest.raises(ValueError, match="at least one"):
        mia.compare({})
    with pytest.raises(ValueError, match=r"tables\['x'\]"):
        mia.compare({"x": pd.DataFrame({"a": [1]})})


def test_only_games_are_audited():
    with pytest.raises(TypeError, match=r"game=3 must be a Game, from mialab\.play"):
        mia.audit(3, ["loss"])


def test_the_pool_reaches_attacks_that_look_at_records():
    pool, game = toys.pool(n=100, n_classes=4), toys.random_game(n_records=100)
    game = mia.Game.from_arrays(logits=game.logits, member=game.member, y=pool.y)
    with pytest.raises(mia.attacks.RequirementsNotMet, match="pool"):
        mia.audit(game, ["quantile"])
    own = mia.audit(game, [mia.attacks.QuantileRegression(pool=pool)])
    pd.testing.assert_frame_equal(mia.audit(game, ["quantile"], pool=pool), own)


def test_any_table_is_laid_out_in_its_order():
    rows = [("b", "fid", 1.5, 1, 2), ("b", "kid", 0.25, -0.5, 1), ("a", "fid", 3, 2, 4)]
    columns = ["defense", "metric", "value", "low", "high"]
    table = mia.auditing.AuditTable(rows, columns=columns).wide("defense", "metric")
    assert list(table.index) == ["b", "a"]
    assert list(table.columns) == ["fid", "kid"]
    assert table.loc["b", "fid"] == "1.500 [1.000, 2.000]"
    assert table.loc["a", "kid"] == "-"


def test_rows_and_values_of_a_table(game):
    table = mia.audit(game, ["loss", "entropy"], **OPTIONS)
    assert set(table.pooled()["target"]) == {"pooled"}
    assert list(table.pooled("auc")["attack"]) == ["loss", "entropy"]
    assert tuple(table.pooled("auc").iloc[1][["value", "low", "high"]]) == table.interval("entropy", "auc")
    with pytest.raises(ValueError, match=r"metric='acu' is unknown\. Did you mean 'auc'"):
        table.pooled("acu")
    with pytest.raises(ValueError, match=r"attack='los' is unknown\. Did you mean 'loss'"):
        table.interval("los", "auc")
    text = table.as_text()
    assert type(text) is pd.DataFrame
    assert "not resolvable below 0.05" in set(text["value"])
    pd.testing.assert_frame_equal(mia.auditing.AuditTable({"a": [1]}).as_text(), pd.DataFrame({"a": [1]}))


# ----------------------------------------------------------------------------------------------- what is proven

SPENT = {"epsilon": 0.9961, "epsilon_rdp": 1.1349, "epsilon_prv": 0.9961, "delta": 1e-5, "noise": 2.0}
SAID = "PRV 0.996, RDP 1.13, delta 1e-05"


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (SPENT, SAID),
        ({"epsilon": 7.5, "delta": 1e-4, "sample_rate": 1.0}, "7.5, delta 0.0001"),
        ({"epsilon": 800.0, "epsilon_rdp": 800.0, "delta": 1e-5}, "RDP 800, delta 1e-05"),
        ({"epsilon": 0.25}, "0.25"),
        ({"epsilon": float("inf"), "delta": 1e-5}, "none"),
        ({"epsilon": None, "delta": 1e-5}, "none"),  # infinite, read from JSON
        ({"members": 20}, "none"),
        ({}, "none"),
        (None, "none"),
    ],
)
def test_what_is_proven_is_said_in_words(report, said):
    assert tables.proven(report) == said


@pytest.fixture
def private(game):
    """Return an undefended audit, and one of the same answers as if they were those of private models."""
    plain = mia.audit(game, ["loss", "entropy"], **OPTIONS)
    game.attrs |= {"defense": "dp_sgd", "report": SPENT}
    return plain, mia.audit(game, ["loss", "entropy"], **OPTIONS)


def test_every_page_of_a_private_game_says_what_is_proven(private):
    plain, table = private
    both = mia.compare({"none": plain, "dp_sgd": table})
    for page in (both.summary("auc"), both.strongest("auc")):
        assert page.index[-1] == tables.PROVEN
        assert dict(page.loc[tables.PROVEN]) == {"none": "none", "dp_sgd": SAID}
    for page in (both.summary(["auc"]), both.summary(), both.consequences("tpr@0.1")):
        assert page.columns[-1] == tables.PROVEN
        assert set(page.loc["none", tables.PROVEN]) == {"none"}
        assert set(page.loc["dp_sgd", tables.PROVEN]) == {SAID}
    for page in (table.summary(), table.summary("auc"), table.summary("auc", target="mean"), table.as_text()):
        assert set(page[tables.PROVEN]) == {SAID}
    assert table.strongest().loc[tables.PROVEN, "dp_sgd"] == SAID
    printed = both.pooled("auc").as_text()
    assert printed.groupby("defense")[tables.PROVEN].unique().map(list).to_dict() == {
        "none": ["none"],
        "dp_sgd": [SAID],
    }
    assert SAID in repr(both)
    assert SAID in both._repr_html_()


def test_pages_and_files_without_a_guarantee_are_as_ever(private):
    plain, table = private
    assert list(table.columns) == tables.COLUMNS  # what is stored
    assert tables.PROVEN not in table.to_csv()
    pages = [plain.summary(), plain.as_text(), plain.consequences("tpr@0.1"), plain.strongest()]
    pages.append(mia.compare({"a": plain, "b": plain}).summary("auc"))
    assert not any(tables.PROVEN in {*page.columns, *page.index} for page in pages)


def test_what_each_arm_has_learned_is_said_before_any_attack():
    about = {
        "n_models": 2,
        "train_accuracy": [1.0, 0.9],
        "test_accuracy": [0.5, 0.7],
        "conditions": {"trained": "", "unsure": ""},
    }
    table = tables.AuditTable([], columns=["defense", "attack"])
    table.attrs["audits"] = {
        "none": about,
        "dead": about | {"train_accuracy": [0.1, 0.9], "conditions": {"trained": "1 of 2 models are dead"}},
        "elsewhere": {"n_models": 4},
    }
    arms = table.arms()
    assert list(arms.loc["none"]) == [2, "0.950", "0.900", "0.600", "has ended"]
    assert list(arms.loc["dead"])[1:] == ["0.500", "0.100", "0.600", "1 of 2 models are dead"]
    assert list(arms.loc["elsewhere"])[:4] == [4, "nan", "nan", "nan"]
