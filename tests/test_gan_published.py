"""Published values beside ours, several arms and data sets of generators at once, and conditions of verdicts."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import toys

import mialab as mia
from mialab import gan
from mialab.auditing.claims import ByConstruction, Claim, judge
from mialab.auditing.tables import AuditTable
from mialab.chapters import mixup_gan
from mialab.gan import GeneratorGame
from mialab.metrics.intervals import Interval

RESULTS = AuditTable(
    [
        ("none", "logan", "pooled", "auc", 0.61),
        ("none", "critic_lira_pooled", "pooled", "auc", 0.72),
        ("none", "critic_lira_pooled", "0", "auc", 0.99),
        ("megan", "logan", "pooled", "auc", 0.55),
    ],
    columns=["defense", "attack", "target", "metric", "value"],
)
QUALITY = pd.DataFrame([("none", "fid", 12.34)], columns=["defense", "metric", "value"])


def test_figures_stand_beside_those_of_the_same_defense():
    table = mixup_gan.beside(RESULTS, QUALITY, dataset="digits")
    assert list(table.index) == [
        ("none", name) for name in ("CIFAR-10", "CelebA", "MIMIC-III", "ours: digits")
    ]
    assert list(table.loc[("none", "ours: digits")]) == ["0.610", "0.720", "-", "-", "12.3"]
    assert table.loc[("none", "CelebA"), "LiRA"] == "0.864"
    assert table.loc[("none", "MIMIC-III"), "FID"] == "-"


def test_defenses_without_published_figures_are_refused():
    with pytest.raises(ValueError, match="'megan' is unknown"):
        mixup_gan.beside(RESULTS[RESULTS["defense"] == "megan"], QUALITY)


def test_across_measures_every_arm_on_every_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr("mialab.gan.utility.STEPS", 4)
    pool = toys.pool("image", n=48, validation=20, test=20)
    setting = mixup_gan.Setting(pool, gan.networks.MLP((8,), latent=4), gan.Training(steps=4, batch_size=8))
    options = {"n_models": 6, "samples": 20, "fakes": 4, "store": tmp_path}
    arms = {"none": None, "mixup": "mixup"}
    table = mixup_gan.across({"toy": setting}, arms, attacks=["logan"], **options)
    games = mixup_gan.play_each(setting, arms, **options)
    usable = mixup_gan.usability(games, pool).set_index("defense")["usable"]
    labels = [f"toy: {arm}" + " (no usable generator)" * (usable[arm] == "no") for arm in arms]
    assert list(dict.fromkeys(table["game"])) == labels
    expected = mia.audit(games["none"], ["logan"])
    values = table.set_index(["game", "measure"])["value"]
    assert values.loc[(labels[0], "AUC of logan")] == expected.interval("logan", "auc").value
    assert values.loc[(labels[0], "accuracy")] == pytest.approx(games["none"].test_accuracy.mean())
    assert values.loc[(labels[0], "needed")] > 0
    assert mixup_gan.across({}, arms, attacks=["logan"]).empty


# ------------------------------------------------------------------------------------------- conditions of verdicts


def taught(*accuracies, n_records=10, shadow=None):
    """Make a game whose samples teach classifiers these accuracies."""
    member = toys.memberships("paired", len(accuracies), n_records, 0)
    arrays = {"critic_loss": np.zeros(member.shape), "partner": np.arange(len(accuracies)) ^ 1}
    return GeneratorGame.from_arrays(
        member=member, test_accuracy=np.array(accuracies), shadow=shadow, **arrays
    )


@pytest.mark.parametrize(
    ("labels", "needed"),
    [([0, 0, 1, 1, 2, 2, 3, 3, 4, 4], 0.3), ([0] * 5 + [1] * 5, 0.75), ([0] * 8 + [1] * 2, 0.9)],
)
def test_a_usable_generator_teaches_more_than_the_most_frequent_class(labels, needed):
    pool = dataclasses.replace(
        toys.pool("image", n=20, n_classes=5),
        x_test=np.zeros((10, 1, 8, 8), np.float32),
        y_test=np.array(labels),
    )
    games = {
        "good": taught(needed + 0.1, needed - 0.05),
        "chance": taught(needed - 0.1, needed + 0.05),
        "no labels": taught(np.nan, np.nan),
    }
    table = mixup_gan.usability(games, pool).set_index("defense")
    assert table["needed"].tolist() == pytest.approx(3 * [needed])
    assert table["usable"].tolist() == ["yes", "no", "unknown"]
    assert table.at["chance", "accuracy"] == pytest.approx(needed - 0.025)


def progress(*changes, arms=("none", "mixup"), error=0.01):
    rows = []
    for arm, change in zip(arms, changes, strict=True):
        rows += [(arm, 40, *3 * [np.nan]), (arm, 80, change, change - error, change + error)]
    return pd.DataFrame(rows, columns=["defense", "steps", "change", "change_low", "change_high"])


def test_training_is_over_where_the_fid_is_flat():
    table = progress(-0.25, 0.09)
    assert mixup_gan.ended(table, "none") == ("FID of 'none' changed by -25% after step 40 of 80", "")
    assert mixup_gan.ended(table, "mixup") == ("", "")
    assert "+12%" in mixup_gan.ended(progress(0.12, 0), "none")[0], "a rise is a change, too"
    doubt = mixup_gan.ended(progress(0.3, 0, error=0.4), "none")
    assert doubt == ("", "FID of 'none' changed by +30% after step 40 of 80, which may be chance")


def test_verdicts_need_usable_generators_whose_training_was_over():
    generators = pd.DataFrame(
        [("none", 0.5, 0.1, "yes"), ("mixup", 0.11, 0.1, "no"), ("relaxloss", 0.4, 0.1, "yes")],
        columns=["defense", "accuracy", "chance", "usable"],
    )
    claim = Claim(text="text", source="here", below=0)
    clear = Interval(-0.1, -0.11, -0.09, n_pairs=8)
    arms = {"a": ["none"], "b": ["none", "mixup"], "c": ["none", "relaxloss"], "d": ["none", "stopped"]}
    generators.loc[3] = ("stopped", 0.4, 0.1, "yes")
    findings = {**dict.fromkeys(arms, clear), "e": ByConstruction("so it is"), "f": "not played"}

    def verdicts(table):
        noted = mixup_gan.under_conditions(findings, arms, generators, table, stopped=["stopped"])
        return judge(dict.fromkeys(findings, claim), noted)["verdict"].tolist()

    found = verdicts(progress(0.0, 0.0))
    assert found[0] == found[3] == "holds"
    assert found[1] == "not comparable: no usable generator: 'mixup' (accuracy 0.110, chance 0.100)"
    assert found[2] == "holds; convergence is not shown: FID of 'relaxloss' was not watched"
    assert found[4] == "holds, by construction: so it is"
    assert found[5] == "could not be tested: not played"
    reason = "FID of 'none' changed by -30% after step 40 of 80"
    found = verdicts(progress(-0.3, 0.0))
    assert found[0] == f"not comparable: {reason}"
    assert found[1].endswith(f"'mixup' (accuracy 0.110, chance 0.100); {reason}")
    # One row of an arm says nothing about its end.
    single = progress(0.0, 0.0).query("steps == 80 or defense == 'mixup'")
    assert verdicts(single)[0] == "holds; convergence is not shown: FID of 'none' was not watched"


def test_fid_is_watched_over_the_steps_of_each_arm(tmp_path, monkeypatch):
    monkeypatch.setattr("mialab.gan.utility.STEPS", 4)
    pool = toys.pool("image", n=48, validation=30, test=30)
    setting = mixup_gan.Setting(pool, gan.networks.MLP((8,), latent=4), gan.Training(steps=40, batch_size=8))
    options = {"n_models": 4, "samples": 24, "fakes": 4, "store": tmp_path}
    arms = {"none": None, "mixup": gan.defenses.Mixup()}
    ends = mixup_gan.play_each(setting, arms, **options)
    watched = mixup_gan.watch(setting, arms, ends, [0.5, 0.25, 1.0], **options)
    assert {label: list(of) for label, of in watched.items()} == {key: [10, 20, 40] for key in arms}
    assert watched["mixup"][40] is ends["mixup"]
    assert watched["mixup"][10].attrs["training"]["stop"] == 10
    table = mixup_gan.fid_by_steps(watched, pool)
    assert table["models"].tolist() == 6 * [4]
    for label in arms:
        worth = gan.quality.assess({str(n): g for n, g in watched[label].items()}, pool)
        fid = worth[worth["metric"] == "fid"].set_index("defense")["value"]
        own = table[table["defense"] == label].set_index("steps")
        np.testing.assert_allclose(own["value"], fid[["10", "20", "40"]])
        assert np.isnan(own.at[10, "change"])
        assert own.at[40, "change_low"] <= own.at[40, "change"] <= own.at[40, "change_high"]
    mia.plots.fid_by_steps(table)


def test_the_change_of_the_fid_is_a_geometric_mean_over_models(monkeypatch):
    fids = {10: [4.0, 8.0, 2.0, 6.0], 20: [2.0, 4.0, 1.0, 3.0], 30: [2.2, 4.4, 1.1, 1.5]}
    games = {
        n: GeneratorGame.from_arrays(
            member=toys.memberships("paired", 4, 10, 0),
            partner=np.arange(4) ^ 1,
            critic_loss=np.zeros((4, 10)),
            samples=np.full((4, 2, 1), np.array(of)[:, None, None] / 10, np.float32),
        )
        for n, of in fids.items()
    }
    monkeypatch.setattr(mixup_gan, "_ruler", lambda *_: (lambda x: (10 * float(x[0, 0]), 0.0), 2))
    table = mixup_gan.fid_by_steps({"none": games}, None)
    np.testing.assert_allclose(table["value"], [5.0, 2.5, 2.3], rtol=1e-6)
    assert table["change"].iloc[1] == pytest.approx(-0.5)
    assert table["change"].iloc[2] == pytest.approx((1.1**3 * 0.5) ** 0.25 - 1)
    assert table["change_low"].iloc[2] < 0 < table["change_high"].iloc[2]


def test_the_strongest_attack_on_critics_is_chosen_for_each_arm():
    names = mixup_gan.on_critics()
    assert {"logan", "logan_max", "critic_lira", "critic_lira_offline_pooled", "critic_lira_min"} <= set(
        names
    )
    assert not [name for name in names if "pairs" in name or "co_membership" in name or "gan_leaks" in name]
    rng = np.random.default_rng(0)
    member = toys.memberships("paired", 16, 100, 0)
    games = {}
    for label, (told, known) in {"plain": (3.0, 0.0), "calibrated": (0.0, 3.0)}.items():
        loss = 5 * rng.normal(size=100) + rng.normal(size=member.shape) - known * member
        games[label] = GeneratorGame.from_arrays(
            member=member,
            partner=np.arange(16) ^ 1,
            critic=rng.normal(size=member.shape) + told * member,
            critic_loss=loss,
            critic_loss_min=loss,
        )
    chosen = mixup_gan.strongest(games, names)
    assert chosen["plain"] == "logan"
    assert chosen["calibrated"] in ("critic_lira", "critic_lira_pooled"), (
        "the plain one of two that are the same"
    )


def test_stored_data_sets_with_generators_at_chance_are_listed():
    rows = [
        ("mnist: none", "accuracy", 0.8),
        ("mnist: mixup", "accuracy", 0.12),
        ("mnist: mixup", "AUC", 0.5),
    ]
    table = pd.DataFrame(rows, columns=["game", "measure", "value"])
    said = mixup_gan.without_use(table)
    assert said.endswith("nothing is to be compared: mnist: mixup (accuracy 0.120, chance 0.100).")
    assert mixup_gan.without_use(table[:1]) == ""
