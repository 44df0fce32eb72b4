"""Published values beside ours, and several arms and data sets of generators at once."""

import pandas as pd
import pytest
import toys

import mialab as mia
from mialab import gan
from mialab.auditing.tables import AuditTable
from mialab.chapters import mixup_gan

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
