import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mialab import metrics
from mialab.attacks import LiRA
from mialab.auditing import distances, measure
from mialab.auditing.scores import ATTACKS, audit_scores
from mialab.auditing.tables import AuditTable
from mialab.chapters import mixup_gan
from mialab.gan.game import GeneratorGame
from mialab.plots import generators
from mialab.training.membership import membership

matplotlib.use("Agg")


def published(n_targets=2, n_references=24, n_records=300, *, shift=1.0, seed=0):
    """Draw losses as a group might publish them: records differ, members' losses are lower by ``shift``."""
    rng = np.random.default_rng(seed)
    hard = 2 * rng.normal(size=n_records)
    given = {}
    for of, n in (("target", n_targets), ("reference", n_references)):
        member = rng.random((n, n_records)) < 0.5
        given[f"{of}_loss"] = hard + rng.normal(size=member.shape) - shift * member
        given[f"{of}_member"] = member
    return given


def value(table, attack, metric="auc", target="pooled"):
    rows = table[(table["attack"] == attack) & (table["metric"] == metric) & (table["target"] == target)]
    assert len(rows) == 1
    return rows.iloc[0]


# ------------------------------------------------------------------------------------------- scores made elsewhere


def test_lira_is_the_ratio_of_gaussians_of_the_references():
    given = published()
    table = audit_scores(**given)
    assert isinstance(table, AuditTable)
    assert list(dict.fromkeys(table["attack"])) == list(ATTACKS)
    loss, member = given["reference_loss"], given["reference_member"]
    for k in range(2):
        online, offline = np.empty((2, 300))
        for i, at in enumerate(given["target_loss"][k]):
            inside, outside = (loss[side, i] for side in (member[:, i], ~member[:, i]))
            density = [stats.norm.logpdf(at, x.mean(), x.std(ddof=1)) for x in (inside, outside)]
            online[i] = density[0] - density[1]
            offline[i] = (outside.mean() - at) / outside.std(ddof=1)
        truth = given["target_member"][k]
        for attack, score in (
            ("lira", online),
            ("lira_offline", offline),
            ("loss", -given["target_loss"][k]),
        ):
            assert value(table, attack, target=k)["value"] == pytest.approx(metrics.auc(score, truth))


def test_a_table_is_that_of_a_game_with_separate_shadow_models():
    given = published()
    game = GeneratorGame.from_arrays(
        critic_loss=np.concatenate([given["target_loss"], given["reference_loss"]]),
        member=np.concatenate([given["target_member"], given["reference_member"]]),
        shadow=np.arange(26) >= 2,
    )
    attack = LiRA(signal="critic_loss", variance="pooled")
    expected = measure.audit(game, [attack]).drop(columns="attack")
    found = audit_scores(**given, attacks=["lira_pooled"])
    pd.testing.assert_frame_equal(pd.DataFrame(found.drop(columns="attack")), pd.DataFrame(expected))
    assert "LiRA(" in found.attrs["audit"]["attacks"]["lira_pooled"]


def test_known_aucs_of_strong_weak_and_no_signals():
    for shift in (0.0, 1.0, 2.0):
        table = audit_scores(**published(4, 40, 400, shift=shift), attacks=["lira_pooled"], confidence=0.999)
        row = value(table, "lira_pooled")
        # Gaussians of known means would give this; those fitted to 20 losses a side cost about 0.01.
        expected = stats.norm.cdf(shift / np.sqrt(2))
        assert row["low"] < expected - 0.005 * bool(shift) < row["high"]
        assert row["value"] == pytest.approx(expected, abs=0.05)


def test_the_reference_that_is_the_target_is_left_out():
    given = published(1)
    itself = given | {
        "reference_loss": np.concatenate([given["reference_loss"], given["target_loss"]]),
        "reference_member": np.concatenate([given["reference_member"], given["target_member"]]),
    }
    with pytest.raises(ValueError, match="Target 0 has exactly the losses of reference 24"):
        audit_scores(**itself)
    kept = audit_scores(**itself, own_reference=[24])
    assert pd.DataFrame(kept).equals(pd.DataFrame(audit_scores(**given)))


def test_equal_members_are_suspicious():
    given = published()
    given["target_member"][1] = given["reference_member"][3]
    with pytest.warns(UserWarning, match="Target 1 has exactly the members of reference 3"):
        audit_scores(**given, attacks=["loss"])


def test_one_target_is_given_as_one_row():
    given = published(1)
    flat = given | {key: given[key][0] for key in ("target_loss", "target_member")}
    options = {"attacks": ["lira"]}
    assert pd.DataFrame(audit_scores(**flat, **options)).equals(
        pd.DataFrame(audit_scores(**given, **options))
    )


def test_records_with_few_references_are_not_evaluated():
    given = published()
    given["reference_member"][1:, :100] = True  # 1 reference without them at most
    table = audit_scores(**given, attacks=["lira", "loss"])
    counted = {name: value(table, name)[["n_member", "n_nonmember"]].sum() for name in ("lira", "loss")}
    assert counted == {"lira": 2 * 200, "loss": 2 * 300}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference_loss": np.zeros((24, 299))}, "must be .target, record. and .reference, record."),
        ({"reference_member": np.zeros((23, 300), bool)}, "reference_member has shape"),
        ({"target_member": np.zeros((2, 299), bool)}, "target_member has shape"),
        ({"target_member": np.full((2, 300), 2)}, "must be True or False"),
        ({"target_loss": np.full((2, 300), np.nan)}, "target_loss has 600 values that are not finite"),
        ({"own_reference": [0, 24]}, "own_reference="),
        ({"own_reference": [0]}, "own_reference="),
        ({"attacks": ["lirra"]}, "attacks='lirra' is unknown. Did you mean 'lira'"),
        ({"attacks": "lira"}, "must be a list"),
        ({"attacks": []}, "must be a list"),
        ({"fprs": [2]}, "must be a fraction"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        audit_scores(**published() | changes)


# ---------------------------------------------------------------------------------------------------------- figures


def games(shape=(1, 4, 4), labels=True):
    rng = np.random.default_rng(0)
    member = membership(8, 60, 0)
    given = {"member": member, "partner": np.arange(8) ^ 1}
    made = {}
    for label, shift in (("none", 1.0), ("mixup", 0.3)):
        loss = rng.normal(size=member.shape) - shift * member
        samples = rng.random((8, 12, *shape))
        sample_y = np.arange(12) % 3 if labels else None
        made[label] = GeneratorGame.from_arrays(critic_loss=loss, samples=samples, sample_y=sample_y, **given)
    return made


def test_samples_stand_in_the_column_of_their_class():
    made = games()
    figure = generators.sample_grid(made, model=2, rows=2)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["none", "mixup"]
    assert [tick.get_text() for tick in figure.axes[1].get_xticklabels()] == ["0", "1", "2"]
    assert not figure.axes[0].get_xticklabels()
    image = figure.axes[1].images[0].get_array()
    assert image.shape == (2 * 5 - 1, 3 * 5 - 1)
    # Sample 4 is the second of class 1.
    np.testing.assert_allclose(image[5:, 5:9], made["mixup"].samples[2, 4, 0], atol=1e-6)
    assert (image[4] == 1).all()


def test_unlabeled_and_colored_samples_are_drawn():
    figure = generators.sample_grid(games((3, 4, 4), labels=False), columns=4, rows=3)
    assert figure.axes[0].images[0].get_array().shape == (14, 19, 3)
    with pytest.raises(ValueError, match="only images"):
        generators.sample_grid(games((5,)))
    with pytest.raises(ValueError, match="at least one game"):
        generators.sample_grid({})


def test_bounds_and_shifts_are_drawn_with_labels():
    made = games()
    ax = generators.bounds({label: distances.bounds(game) for label, game in made.items()})
    assert ax.get_xlabel().startswith("Total variation distance")
    assert ax.get_ylabel() == "AUC"
    assert {"none", "mixup"} <= {text.get_text() for text in ax.get_legend().get_texts()}
    table = mixup_gan.ratio_shifts({"mixup": made["mixup"]}, made["none"])
    figure = generators.shifts(table)
    assert [a.get_title(loc="left") for a in figure.axes] == ["members", "non-members"]
    assert all(a.get_xlabel() for a in figure.axes)
    drawn = figure.axes[0].containers[0].lines[0].get_ydata()
    here = (table["of"] == "members") & (table["quantity"] == "ratio falls") & (table["part"] > 0)
    np.testing.assert_array_equal(drawn, table.loc[here, "value"])
    with pytest.raises(ValueError, match="quantity='falls' is unknown"):
        generators.shifts(table, "falls")
    with pytest.raises(ValueError, match="at least one table"):
        generators.bounds({})
