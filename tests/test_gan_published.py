"""Published values beside ours, and several arms and data sets of generators at once."""

import numpy as np
import pandas as pd
import pytest
import toys

import mialab as mia
from mialab import gan
from mialab.auditing.claims import Claim, judge
from mialab.auditing.tables import AuditTable
from mialab.chapters import mixup_gan
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
    assert set(table["game"]) == {"toy: none", "toy: mixup"}
    game = mixup_gan.play_each(setting, {"none": None}, **options)["none"]
    expected = mia.audit(game, ["logan"])
    auc = table.set_index(["game", "measure"])["value"].loc[("toy: none", "AUC of logan")]
    assert auc == expected.interval("logan", "auc").value
    assert mixup_gan.across({}, arms, attacks=["logan"]).empty


def quality(**arms):
    """Make a table of accuracies and FIDs of arms."""
    rows = [(label, m, v) for label, (a, fid) in arms.items() for m, v in (("accuracy", a), ("fid", fid))]
    return pd.DataFrame(rows, columns=["defense", "metric", "value"])


def test_generators_at_chance_and_trainings_that_go_on_are_named():
    table = quality(
        none=(0.6, 2.0), mixup=(0.5, 5.0), half=(0.4, 2.1), other_half=(0.4, 6.0), dead=(0.14, 90.0)
    )
    found = mixup_gan.what_is_wrong(table, 0.1, {"none": "half", "mixup": "other_half", "dead": "not played"})
    assert found["none"] == ""
    assert found["mixup"] == "FID of 'mixup' still falls: 6.00 at 'other_half', 5.00 at the end"
    assert (
        found["dead"] == "no usable generator (accuracy of classifiers on its samples 0.140, by chance 0.100)"
    )
    assert mixup_gan.unusable(0.16, 0.1) == ""
    assert mixup_gan.unusable(np.nan, 0.1).startswith("no usable generator")


def test_claims_about_such_generators_are_not_comparable():
    reasons = {"none": "", "mixup": "", "relaxloss": "no usable generator"}
    claims = {name: Claim(text=name, source="s", below=0) for name in ("main", "other", "untested")}
    found = {"main": Interval(-1, -2, -0.5), "other": Interval(-1, -2, -0.5), "untested": "no data"}
    verdicts = judge(claims, mixup_gan.provided(found, reasons, {"other": "relaxloss"}))["verdict"]
    assert list(verdicts) == ["holds", "not comparable: no usable generator", "could not be tested: no data"]
    verdicts = judge(claims, mixup_gan.provided(found, reasons | {"none": "it is dead"}, {}))["verdict"]
    assert list(verdicts)[:2] == ["not comparable: it is dead"] * 2


def test_what_went_wrong_before_stays_noted():
    before = Interval(-1, -2, -0.5, conditions={"trained": "it has not converged"})
    after = mixup_gan.provided({"a": before}, {"mixup": "no usable generator"}, {})["a"]
    assert after.conditions["trained"] == "it has not converged; no usable generator"


def test_other_data_sets_with_generators_at_chance_are_listed():
    rows = [
        ("mnist: none", "accuracy", 0.8),
        ("mnist: mixup", "accuracy", 0.12),
        ("mnist: mixup", "AUC", 0.5),
    ]
    said = mixup_gan.without_use(pd.DataFrame(rows, columns=["game", "measure", "value"]))
    assert said.startswith("Not comparable. mnist: mixup: no usable generator (accuracy")
    assert "mnist: none" not in said
    assert mixup_gan.without_use(pd.DataFrame(rows[:1], columns=["game", "measure", "value"])) == ""
