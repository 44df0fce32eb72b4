"""The figures that Ji et al. (2023) publish for GANs, to stand beside ours."""

from __future__ import annotations

import pandas as pd

from mialab.options import choose

#: Attack AUCs of table II, and accuracy and FID of the utility tables, by data set and defense; None: not published.
#: MIMIC-III has other measures of utility.
PUBLISHED = pd.DataFrame(
    [
        ("CIFAR-10", "none", 0.6435, 0.6866, 0.5083, 0.490, 150.9),
        ("CIFAR-10", "mixup", 0.5202, 0.5303, 0.5312, 0.421, 159.1),
        ("CIFAR-10", "relaxloss", 0.5478, 0.5326, 0.4197, 0.385, 103.0),
        ("CIFAR-10", "par_gan", 0.6668, 0.7398, 0.5291, 0.404, 199.1),
        ("CelebA", "none", 0.8346, 0.8637, 0.5317, 0.912, 112.0),
        ("CelebA", "mixup", 0.5788, 0.6615, None, 0.915, 104.4),
        ("CelebA", "relaxloss", 0.7703, 0.5857, None, 0.836, 97.7),
        ("CelebA", "par_gan", 0.6571, 0.7781, None, 0.876, 157.7),
        ("MIMIC-III", "none", 0.5264, 0.5913, 0.5028, None, None),
        ("MIMIC-III", "mixup", 0.5269, 0.5283, None, None, None),
        ("MIMIC-III", "relaxloss", 0.5296, 0.5175, None, None, None),
        ("MIMIC-III", "par_gan", 0.5350, 0.5015, None, None, None),
    ],
    columns=["data set", "defense", "LOGAN", "LiRA", "GAN-Leaks", "accuracy", "FID"],
)
#: The attacks of ours that measure the same.
ATTACKS = {"LOGAN": "logan", "LiRA": "critic_lira_pooled", "GAN-Leaks": "gan_leaks_white_box"}


def beside(results: pd.DataFrame, quality: pd.DataFrame, *, dataset: str = "") -> pd.DataFrame:
    """Put published figures and ours for the same defenses into one table.

    Parameters
    ----------
    results : DataFrame
        From `mialab.audit_each`: pooled AUCs are taken.
    quality : DataFrame
        From `mialab.gan.quality`. Its FID is on features of its own, not Inception's.
    dataset : str
        Name of the data set of ours, by default as the audit notes it.

    Returns
    -------
    DataFrame of str
        A row per defense and data set, ours last; "-" where there is no figure. Attacks are AUCs.

    Raises
    ------
    ValueError
        If the audit has none of the defenses that figures are published for.
    """
    pooled = results[(results["target"] == "pooled") & (results["metric"] == "auc")]
    auc = pooled.set_index(["defense", "attack"])["value"]
    worth = quality.set_index(["defense", "metric"])["value"]
    if not dataset:
        audits = results.attrs.get("audits", {})
        dataset = next((a["dataset"] for a in audits.values()), "ours")
    defenses = [d for d in dict.fromkeys(PUBLISHED["defense"]) if d in set(pooled["defense"])]
    if not defenses:
        choose("results: defense", next(iter(pooled["defense"]), None), set(PUBLISHED["defense"]))
    rows = []
    for defense in defenses:
        figures = {name: auc.get((defense, attack)) for name, attack in ATTACKS.items()}
        figures |= {"accuracy": worth.get((defense, "accuracy")), "FID": worth.get((defense, "fid"))}
        rows += PUBLISHED[PUBLISHED["defense"] == defense].to_dict("records")
        rows.append({"data set": f"ours: {dataset}", "defense": defense, **figures})
    table = pd.DataFrame(rows).set_index(["defense", "data set"])
    decimals = {"accuracy": 3, "FID": 1}
    return table.apply(
        lambda column: column.map(
            lambda x: "-" if pd.isna(x) else f"{x:.{decimals.get(str(column.name), 3)}f}"
        )
    )
