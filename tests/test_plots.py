import subprocess
import sys

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import mialab as mia
from mialab import attacks, metrics
from mialab.auditing.tradeoff import TradeOffTable
from mialab.plots import comparisons, curves, heatmaps, theme


def make_game(seed=0, n_records=400, strength=1.5, defense="none"):
    """Three pairs of models whose logits tell their members from the rest."""
    rng = np.random.default_rng(seed)
    first = rng.permuted(np.tile(np.arange(n_records) < n_records // 2, (3, 1)), axis=1)
    member = np.stack([first, ~first], axis=1).reshape(6, n_records)
    y = rng.integers(0, 3, n_records)
    logits = rng.normal(size=(6, n_records, 3))
    logits[:, np.arange(n_records), y] += 1 + strength * member
    game = mia.Game.from_arrays(
        logits=logits,
        member=member,
        y=y,
        partner=np.arange(6) ^ 1,
        test_accuracy=0.8 + 0.01 * rng.normal(size=6),
    )
    game.attrs["defense"] = defense
    return game


@pytest.fixture(scope="module")
def game():
    return make_game()


@pytest.fixture(autouse=True)
def _close():
    theme.style()
    yield
    plt.close("all")


def lines(ax):
    return {line.get_label().split(" (")[0]: line for line in ax.get_lines()}


def texts(ax):
    return [t.get_text() for t in ax.get_legend().get_texts()]


def test_every_defense_has_its_own_look():
    assert set(mia.defenses.available()) <= set(theme.DEFENSES)
    assert len({c for c, _ in theme.DEFENSES.values()}) == len(theme.DEFENSES)
    assert len(set(theme.DEFENSES.values())) == len(theme.DEFENSES)


@pytest.mark.slow
def test_colors_are_stable():
    assert theme.color("HAMP (gamma=0.5)") == theme.color("hamp") != theme.color("none")
    assert theme.color("mixup, alpha 1") == theme.color("mixup") != theme.color("mixupper")
    assert theme.color("dp-sgd eps=8") == theme.color("dp_sgd")
    # In a process of its own, where importing must draw nothing either.
    code = (
        "import matplotlib.pyplot as plt; from mialab import plots as p; "
        "print(p.color('mine'), p.marker('mine'), plt.get_fignums())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.split() == [theme.color("mine"), theme.marker("mine"), "[]"]


def test_labels_of_one_figure_differ():
    labels = ["none", "hamp (a)", "hamp (b)", "hamp (c)", *(f"own {i}" for i in range(9))]
    colors = theme._colors(dict.fromkeys(labels))
    assert colors["none"] == theme.color("none")
    assert colors["hamp (a)"] == theme.color("hamp")
    assert len(set(colors.values())) == len(labels)
    dashes = theme._unlike(["mine", "loss", "other"], {"loss": 1}, [1, 2, 3])
    assert dashes == {"mine": 2, "loss": 1, "other": 3}


def test_roc_is_the_pooled_curve_and_stops_where_it_is_resolvable(game):
    ax = curves.roc(game, ["loss", "lira"])
    x, y = lines(ax)["loss"].get_data()
    outcome = attacks.make("loss").run(game)
    score, member = outcome.score.ravel(), game.member.ravel()
    assert x[0] == pytest.approx(10 / 1200)
    assert x[-1] == 1
    expected = [metrics.tpr_at_fpr(score, member, f) for f in x]
    np.testing.assert_allclose(y, expected)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_xlabel() == "False-positive rate"
    assert texts(ax) == [
        f"loss (AUC {metrics.auc(score, member):.3f})",
        *texts(ax)[1:2],
        "fewer than 10 false alarms",
    ]
    assert len(ax.collections) == 2  # the bands


def test_roc_of_several_games_uses_their_colors(game):
    games = {"none": game, "hamp": make_game(1, strength=0.2)}
    ax = curves.roc(games, "loss")
    for name in games:
        assert lines(ax)[name].get_color() == theme.color(name)
    ax = curves.roc(games, ["loss", "lira"])
    assert lines(ax).keys() >= {"none, loss", "none, lira", "hamp, loss", "hamp, lira"}


def test_roc_of_few_records(game):
    ax = curves.roc(game, "loss", records=np.arange(40))
    assert lines(ax)["loss"].get_xdata()[0] == pytest.approx(10 / 120)


@pytest.mark.parametrize("target", [None, 2])
def test_histogram_holds_every_score(game, target):
    (ax,) = curves.histograms(game, "lira", target=target, bins=20).axes
    areas = [sum(p.get_height() for p in c) for c in ax.containers if len(c) > 1]
    assert areas == pytest.approx([1])  # members; non-members are one outline
    assert texts(ax) == ["members", "non-members"]
    panels = curves.histograms({"none": game, "hamp": game}, "loss", target=target).axes
    areas = [sum(p.get_height() for p in ax.containers[0]) for ax in panels]
    assert areas == pytest.approx([1, 1])
    assert texts(panels[-1]) == ["members", "non-members"]


def test_histogram_stretches_scores_that_span_orders_of_magnitude():
    game = make_game()
    game.logits[:] = game.logits * 30
    (ax,) = curves.histograms(game, "loss").axes
    assert ax.get_xscale() == "asinh"
    labels = [t.get_text() for t in ax.get_xticklabels()]
    assert len(labels) == len(set(labels)) > 1


def test_histograms_fraction_their_bins(game):
    figure = curves.histograms({"none": game, "hamp": make_game(1, strength=0.2)}, "lira", bins=20)
    edges = [[p.get_x() for p in ax.containers[0]] for ax in figure.axes]
    np.testing.assert_array_equal(*edges)
    assert [ax.get_title() for ax in figure.axes] == ["none", "hamp"]


def test_strength_shows_each_attack_on_each_defense(game):
    games = {"none": game, "hamp": make_game(1, strength=0.2)}
    tables = {k: mia.audit(g, ["loss", "lira"], fprs=(0.1,)) for k, g in games.items()}
    ax = comparisons.strength(mia.compare(tables))
    for name, container in zip(games, ax.containers, strict=True):
        table = tables[name]
        expected = table[(table.target == "pooled") & (table.metric == "auc")].value
        np.testing.assert_array_equal(container.lines[0].get_xdata(), expected)
        assert container.lines[0].get_color() == theme.color(name)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["loss", "lira"]


def test_privacy_utility(game):
    games = {"none": game, "hamp": make_game(1, strength=0.2), "mine": make_game(2)}
    tables = {k: mia.audit(g, ["loss", "lira"], fprs=(0.1,)) for k, g in games.items()}
    ax = comparisons.privacy_utility(tables)
    assert texts(ax) == [*games, "chance"]
    point = ax.containers[1].lines[0]
    table = tables["hamp"]
    best = table[(table.target == "pooled") & (table.metric == "auc")].value.max()
    assert point.get_xydata()[0] == pytest.approx((games["hamp"].test_accuracy.mean(), best))
    assert point.get_color() == theme.color("hamp")
    again = comparisons.privacy_utility(mia.compare(tables))
    np.testing.assert_array_equal(again.containers[1].lines[0].get_xydata(), point.get_xydata())
    given = comparisons.privacy_utility(
        tables, dict.fromkeys(tables, [0.5, 0.7] * 3), attack="loss", metric="tpr@0.1"
    )
    assert given.containers[0].lines[0].get_xdata()[0] == 0.6
    assert given.get_ylabel() == "TPR at FPR 0.1 (loss)"
    with pytest.raises(ValueError, match=r"accuracy\['none'\] has shape \(1,\)"):
        comparisons.privacy_utility(tables, {key: [0.5] for key in tables})


def test_privacy_utility_beside_the_curves_that_any_defense_should_beat(game):
    column = {"metric": "auc", "sees": "scores", "problem": "", "cost": 0.0}
    rows = [
        {"defense": name, "accuracy": accuracy, "value": value} | column
        for name, accuracy, value in (
            ("none", 0.6, 0.9),
            ("early_stopping", 0.6, 0.9),
            ("early_stopping", 0.5, 0.7),
            ("dp_sgd", 0.55, 0.8),
            ("hamp", 0.5, 0.6),
        )
    ]
    rows.append(rows[1] | {"accuracy": 0.1, "problem": "dead"})
    ax = comparisons.privacy_utility({"none": mia.audit(game, ["loss"])}, reference=TradeOffTable(rows))
    assert texts(ax) == ["early_stopping (curve)", "dp_sgd (curve)", "none", "chance"]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert drawn["early_stopping (curve)"] == [[0.6, 0.9], [0.5, 0.7]]
    assert drawn["dp_sgd (curve)"] == [[0.55, 0.8]]


def test_privacy_utility_names_what_it_cannot_show(game):
    tables = {
        "none": mia.audit(game, ["loss"], fprs=(0.01,)),
        "hamp": mia.audit(game, ["loss"], records=np.arange(100), fprs=(0.01,)),
    }
    ax = comparisons.privacy_utility(tables, metric="tpr@0.01")
    assert texts(ax) == ["none", "chance"]
    assert ax.get_title(loc="left") == "Not resolvable: hamp"
    with pytest.raises(ValueError, match=r"Did you mean 'tpr@0\.01'"):
        comparisons.privacy_utility(tables, metric="tpr@0.001")
    for table in tables.values():
        table.attrs.pop("test_accuracy")
    with pytest.raises(ValueError, match="test accuracy of 'none' is not known"):
        comparisons.privacy_utility(tables)


def test_draws_on_the_axes_it_is_given(game):
    figure, axes = plt.subplots(1, 2)
    assert curves.roc(game, "loss", ax=axes[0]) is axes[0]
    table = mia.audit(game, ["loss"])
    assert comparisons.strength(table, ax=axes[1]) is axes[1]
    assert plt.get_fignums() == [figure.number]


def test_bad_input_is_refused(game):
    with pytest.raises(ValueError, match="empty dict"):
        curves.roc({})
    with pytest.raises(ValueError, match="target=6 must be"):
        curves.histograms(game, target=6)
    with pytest.raises(ValueError, match="Did you mean 'loss'"):
        curves.roc(game, "los")


def test_roc_by_family_has_a_panel_for_each(game):
    names = ["correctness", "loss", "entropy", "lira", "rmia", "lira_offline"]
    figure = curves.roc_by_family(game, names)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "label or ranking only",
        "one answer, one threshold",
        "OUT shadow models",
        "IN and OUT shadow models",
    ]
    drawn = [lines(ax) for ax in figure.axes]
    assert all("loss" in panel for panel in drawn)
    # In its own family the loss is one attack among others; elsewhere it is the gray line to compare with.
    assert [panel["loss"].get_color() == "0.55" for panel in drawn] == [True, False, True, True]
    assert drawn[3].keys() >= {"lira", "rmia"}
    assert drawn[3]["lira"].get_color() != drawn[3]["rmia"].get_color()
    outcome = attacks.make("lira").run(game)
    x, y = drawn[3]["lira"].get_data()
    expected = [metrics.tpr_at_fpr(outcome.score.ravel(), game.member.ravel(), f) for f in x]
    np.testing.assert_allclose(y, expected)
    auc = metrics.auc(outcome.score.ravel(), game.member.ravel())
    assert f"lira ({auc:.3f})" in texts(figure.axes[3])


def test_roc_by_family_takes_what_the_game_allows(game):
    figure = curves.roc_by_family(game)
    named = {label.split(" (")[0] for ax in figure.axes for label in texts(ax)}
    able = {a.name for a in mia.auditing.applicable(game)[0]}
    assert named == set(mia.auditing.one_of_each(sorted(able)))


def cells(ax):
    """Texts in the middle of cells by (column, row of the axes)."""
    return {
        (round(x), round(y)): t.get_text()
        for t in ax.texts
        for x, y in [t.get_position()]
        if t.get_ha() == "center"
    }


def test_matrix_writes_every_value_in_its_cell(game):
    games = {"none": game, "hamp": make_game(1, strength=0.2)}
    table = mia.auditing.audit_each(games, ["loss", "lira", "correctness"], fprs=(0.1, 0.001))
    table.attrs["missing"] = [
        {"defense": "hamp", "attack": "rmia", "reason": "r"},
        {"defense": "late", "attack": "all", "reason": "r"},
    ]
    ax = heatmaps.matrix(table, "auc")
    columns = [t.get_text() for t in ax.get_xticklabels()]
    row = {t.get_text(): round(y) for t, y in zip(ax.get_yticklabels(), ax.get_yticks(), strict=True)}
    assert columns == ["none", "hamp", "late"]
    assert list(row) == ["correctness", "loss", "lira", "rmia"]
    written = cells(ax)
    for _, r in table[(table.target == "pooled") & (table.metric == "auc")].iterrows():
        assert written[columns.index(r.defense), row[r.attack]] == f"{r.value:.2f}"
    assert {written[2, y] for y in row.values()} == {written[1, row["rmia"]]} == {"-"}
    hatched = sum(patch.get_hatch() is not None for patch in ax.patches)
    assert hatched == 4 + 2  # all of "late", and rmia against the others
    titles = [t.get_text() for t in ax.texts if t.get_ha() == "left"]
    assert titles == ["label or ranking only:", "one answer, one threshold:", "IN and OUT shadow models:"]
    ax = heatmaps.matrix(table, "tpr@0.1", label="toy")
    assert ax.get_title(loc="left") == "toy: TPR at FPR 0.1, in %"
    value = table[
        (table.target == "pooled") & (table.metric == "tpr@0.1") & (table.attack == "lira")
    ].value.iloc[0]
    assert cells(ax)[0, row["lira"]] == f"{100 * value:.1f}"
    assert set(cells(heatmaps.matrix(table, "tpr@0.001")).values()) == {"n/a", "-"}
    with pytest.raises(ValueError, match=r"Did you mean 'auc'"):
        heatmaps.matrix(table, "acu")


def test_matrix_centres_colors_at_chance():
    palette, norm, _ = heatmaps._scale("auc")
    gray = palette(norm(0.5))[:3]
    assert max(gray) - min(gray) < 0.02  # no hue at chance, and opposite ones on either side
    assert palette(norm(0.9))[2] > palette(norm(0.9))[1]
    assert palette(norm(0.1))[0] > palette(norm(0.1))[2]
    assert heatmaps._scale("tpr@0.01")[1].vmin == 0.01
    assert heatmaps._scale("balanced_accuracy")[1].vmax == 1


def test_matrix_of_one_audit_and_of_many_defenses(game):
    assert [t.get_text() for t in heatmaps.matrix(mia.audit(game, ["loss"])).get_xticklabels()] == ["none"]
    many = {f"defense_{i}": game for i in range(6)}
    ax = heatmaps.matrix(mia.auditing.audit_each(many, ["loss"], fprs=()))
    assert [t.get_text() for t in ax.get_xticklabels()] == [f"defense {i}" for i in range(6)]
    assert ax.get_xticklabels()[0].get_rotation() == 90


def test_agreement_figure_is_the_lower_triangle(game):
    table = mia.chapters.attacks.agreement(game, ["loss", "lira", "rmia"], fpr=0.1)
    ax = heatmaps.agreement(table, label="toy")
    assert cells(ax) == {
        (0, 1): f"{100 * table.at['lira', 'loss']:.0f}",
        (0, 2): f"{100 * table.at['rmia', 'loss']:.0f}",
        (1, 2): f"{100 * table.at['rmia', 'lira']:.0f}",
    }
    assert any("toy" in t.get_text() and "FPR 0.1" in t.get_text() for t in ax.texts)


def test_against_shadows_figure_has_a_line_for_each_attack(game):
    table = mia.chapters.attacks.against_shadows(game, ["loss", "lira"], (4,), fprs=(0.1, 0.001))
    more = table.assign(n_shadows=8, value=table["value"] * 0.9)
    figure = curves.against_shadows(pd.concat([more, table]), label="toy")
    assert [ax.get_ylabel() for ax in figure.axes] == ["AUC", "TPR at FPR 0.1", "TPR at FPR 0.001"]
    line = lines(figure.axes[0])["lira"]
    value = table[(table.attack == "lira") & (table.metric == "auc")].value.item()
    np.testing.assert_allclose(line.get_xydata(), [[4, value], [8, 0.9 * value]])
    assert figure.axes[0].get_xscale() == "log"
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["lira", "loss", "chance"]


def test_an_attack_has_one_color_in_all_figures(game):
    one, two = (
        mia.plots.roc(game, attacks) for attacks in (["loss", "lira_pooled"], ["lira_pooled", "rmia", "loss"])
    )

    def shade(axes, name):
        (line,) = [line for line in axes.get_lines() if line.get_label().startswith(f"{name} (")]
        return line.get_color()

    for name in ("loss", "lira_pooled"):
        assert shade(one, name) == shade(two, name) == mia.plots.attack_color(name)
    assert mia.plots.attack_color("lira_known_half") == mia.plots.attack_color("lira")
    many = [
        mia.plots.attack_color(name) for name in ("loss", "lira", "rmia", "modified_entropy", "label_only")
    ]
    assert len(set(many)) == len(many)
