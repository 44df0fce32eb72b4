"""Figures of values with intervals: defenses, attacks, data sets beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from mialab._validation import select
from mialab.auditing.tradeoff import REFERENCES
from mialab.defenses.quantization import Quantization, steps
from mialab.metrics import intervals
from mialab.metrics.intervals import Interval
from mialab.plots.theme import (
    _axes,
    _by_defense,
    _chance,
    _draw_chance,
    _draw_intervals,
    _legend_below,
    _looks,
    _of,
    _panels,
    _shared_legend,
    _title,
    color,
    marker,
)

if TYPE_CHECKING:
    from mialab.auditing.tradeoff import TradeOffTable


def strength(
    tables: pd.DataFrame | Mapping[str, pd.DataFrame], *, metric: str = "auc", ax: Axes | None = None
) -> Axes:
    """Draw one figure of every attack against every defense: a dot and an interval each, an attack a row.

    Parameters
    ----------
    tables : DataFrame or dict of str to DataFrame
        From `mialab.compare`, or for each defense its table from `mialab.audit`.
    metric : str
        Such as ``"auc"`` or ``"tpr@0.01"``, pooled over targets; what is not resolvable is not drawn.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    tables = _by_defense(tables)
    names = list(dict.fromkeys(name for table in tables.values() for name in table["attack"]))
    ax = _axes(ax, figsize=(6.4, 1.3 + len(names) * (0.16 + 0.13 * len(tables))))
    rows = {label: table.pooled(metric).dropna(subset=["value"]) for label, table in tables.items()}
    _draw_rows(ax, rows, "attack", names, metric, depth=0.7)
    for line in np.arange(len(names) - 1) + 0.5:
        ax.axhline(line, color="0.92", linewidth=1, zorder=0)
    _shared_legend(ax, 2, "outside upper center")
    return ax


def privacy_utility(
    tables: pd.DataFrame | Mapping[str, pd.DataFrame | Mapping[float, pd.DataFrame]],
    accuracy: Mapping[str, ArrayLike] | None = None,
    *,
    attack: str = "strongest",
    metric: str = "auc",
    confidence: float = 0.95,
    reference: TradeOffTable | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the strength of an attack against the test accuracy: a marker, or a curve, for each defense.

    Parameters
    ----------
    tables : DataFrame or dict of str to (DataFrame or dict of float to DataFrame)
        From `mialab.compare`, or for each defense its table from `mialab.audit`, or one for each value of a parameter.
        A curve joins these in the order of the values, which are written beside the points of the first curve.
    accuracy : dict of str to (n_models,) float, optional
        Test accuracy of each model; by default as noted in the tables' ``attrs``.
    attack : str
        Name of an attack, or ``"strongest"``: for each defense the one with the highest value. (Its interval does
        not know that it was chosen.)
    metric : str
        Such as ``"auc"`` or ``"tpr@0.001"``, pooled over targets. Defenses for which it is not resolvable are
        left out and named above the figure.
    confidence : float
        Of the interval of the mean accuracy over targets, see `metrics.over_targets`.
    reference : TradeOffTable, optional
        From `mialab.auditing.trade_off` with the same data, network and attacks: its curves of early stopping and
        DP-SGD, what any defense should beat, are drawn dashed.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax, absent, labeled, of_defense = _axes(ax), [], False, _by_defense(tables)
    looks = _looks(of_defense, markersize=8, elinewidth=1.4, linewidth=1.2)
    for name, given in of_defense.items():
        several = not isinstance(given, pd.DataFrame)
        varied: dict[Any, Any] = dict(sorted(given.items())) if several else {None: given}
        found = {value: _best(table, attack, metric) for value, table in varied.items()}
        found = {value: row for value, row in found.items() if len(row)}
        if not found:
            absent.append(name)
            continue
        noted = None if accuracy is None else accuracy.get(name, ())
        x = pd.DataFrame([_reached(name, varied[value], noted, confidence) for value in found])
        y = pd.DataFrame([row.iloc[0] for row in found.values()])
        _draw_intervals(ax, x, y, linestyle="-" if len(x) > 1 else "none", **looks[name])
        if several and not labeled:
            labeled = True
            for value, across, up in zip(found, x["value"], y["value"], strict=True):
                _write(ax, f"{value:g}", across, up)
    if reference is not None:
        for name in REFERENCES:
            if name in set(reference["defense"]):
                rows = reference.curve(name, metric=metric)
                look: dict[str, Any] = {
                    "color": color(name),
                    "marker": marker(name),
                    "markersize": 4,
                    "linewidth": 1.2,
                }
                ax.plot(rows["accuracy"], rows["value"], "--", label=f"{name} (curve)", zorder=1, **look)
    _draw_chance(ax, _chance(metric))
    who = "strongest attack" if attack == "strongest" else _of(attack)
    ax.set(xlabel="Test accuracy", ylabel=f"{_title(metric)} ({who})")
    ax.margins(0.1)
    if absent:
        ax.set_title(f"Not resolvable: {', '.join(absent)}", fontsize="small", loc="left")
    _legend_below(ax)
    return ax


def equal_terms(
    table: TradeOffTable,
    *,
    metric: str = "auc",
    sees: str = "scores",
    most: float = 10,
    front: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draw the curve of each defense: the strongest attack against test accuracy, with intervals.

    Parameters
    ----------
    table : TradeOffTable
        From `mialab.auditing.trade_off`. Its reference curves, early stopping and DP-SGD, are dashed. Defenses without
        a setting that counts, or that was resolvable, are named above the figure.
    metric, sees : str
        Measure, and what the attacker sees; ValueError if the table lacks them.
    most : float
        Settings that cost more points of test accuracy are left out: they would squeeze the others.
    front : bool
        Whether to draw the Pareto front: the settings than which no other is both more accurate and safer, by their
        values alone.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax, absent = _axes(ax, figsize=(6.4, 4.6)), []
    looks = _looks(dict.fromkeys(table["defense"]), markersize=7, elinewidth=1, linewidth=1.4)
    for name, look in looks.items():
        rows = table.curve(name, metric=metric, sees=sees)
        rows = rows[rows["cost"] <= most / 100]
        if rows.empty:
            absent.append(name)
            continue
        x = rows[["accuracy", "accuracy_low", "accuracy_high"]].set_axis(["value", "low", "high"], axis=1)
        _draw_intervals(ax, x, rows, linestyle="--" if name in REFERENCES else "-", **look)
    if front:
        rows = pd.concat([table.curve(name, metric=metric, sees=sees) for name in looks])
        rows = pareto(rows[rows["cost"] <= most / 100])
        line: dict[str, Any] = {"color": "0.75", "linewidth": 5, "zorder": 0, "solid_capstyle": "round"}
        ax.plot(rows["accuracy"], rows["value"], drawstyle="steps-pre", label="Pareto front", **line)
    _draw_chance(ax, _chance(metric))
    ax.set(
        xlabel=f"Test accuracy (settings that cost at most {most:g} points)",
        ylabel=f"{_title(metric)} (strongest attack, {sees})",
    )
    ax.margins(0.1)
    if absent:
        ax.set_title(f"Not shown: {', '.join(map(_of, absent))}", fontsize="small", loc="left", wrap=True)
    _legend_below(ax)
    return ax


def pareto(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the settings than which no other is more accurate and safer, by accuracy: its ``value`` only rises.

    Parameters
    ----------
    rows : DataFrame
        With ``accuracy`` and ``value``, the strength of an attack.
    """
    rows = rows.sort_values(["accuracy", "value"], ascending=[False, True])
    best = rows["value"].cummin()
    return rows[(rows["value"] == best) & ~best.duplicated()].iloc[::-1]


def ranking(ranks: pd.DataFrame, *, xlabel: str = "AUC (strongest attack)") -> Figure:
    """Draw ranks with their intervals beside the values that they rank.

    Parameters
    ----------
    ranks : DataFrame
        From `mialab.auditing.ranking.ranks`.
    xlabel : str
        What the values are.

    Returns
    -------
    matplotlib Figure
    """
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(7, 0.8 + 0.27 * len(ranks)), sharey=True, width_ratios=[1.4, 1], layout="constrained"
    )
    for y, (name, row) in enumerate(ranks.iterrows()):
        look: dict[str, Any] = {"color": color(str(name))}
        left.plot([row["low"], row["high"]], [y, y], linewidth=1.4, **look)
        left.plot(row["value"], y, marker=marker(str(name)), markersize=7, **look)
        ends = [row["rank low"] - 0.3, row["rank high"] + 0.3]
        right.plot(ends, [y, y], linewidth=5, solid_capstyle="butt", **look)
    left.set_yticks(range(len(ranks)), list(ranks.index))
    left.invert_yaxis()
    left.set_xlabel(xlabel)
    right.set_xlabel("Rank (1: protects most)")
    right.set_xlim(0.4, len(ranks) + 0.6)
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    return fig


def by_decile(
    tables: Mapping[str, pd.DataFrame],
    *,
    ylabel: str,
    chance: float | None = None,
    xlabel: str = "Decile of the distance: nearest to a cluster first",
    label: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw what differs between the deciles of a distance: a line with intervals for each defense.

    Parameters
    ----------
    tables : dict of str to DataFrame
        From `mialab.auditing.deciles.risk_by_decile` or `mialab.auditing.deciles.mean_by_decile`.
    ylabel : str
        What the values are.
    chance : float, optional
        Where to draw the line of chance.
    xlabel : str
        What the deciles are of.
    label : str
        A title.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax, looks = _axes(ax), _looks(tables, markersize=5, elinewidth=1.1, linewidth=1.3)
    for i, (name, table) in enumerate(tables.items()):
        beside = 0.5 * (i + 0.5 - len(tables) / 2) / len(tables)  # lest bars overlap
        _draw_intervals(ax, table["decile"] + beside, table, **looks[name])
    _draw_chance(ax, chance)
    ax.set_xticks(range(1, 1 + max(int(table["decile"].max()) for table in tables.values())))
    ax.set(xlabel=xlabel, ylabel=ylabel, title=label)
    _legend_below(ax)
    return ax


def spread(tables: Mapping[str, pd.DataFrame], *, ylabel: str) -> Figure:
    """Draw quantiles over epochs: a panel for each table, with bands between opposite quantiles.

    Parameters
    ----------
    tables : dict of str to DataFrame
        Defense to a table from `mialab.chapters.weighted_smoothing.weight_spread`.
    ylabel : str
        What the values are.

    Returns
    -------
    matplotlib Figure
    """
    figure, axes = _panels(1, len(tables), 6.4, 3.6, sharey=True)
    for ax, (name, table) in zip(axes, tables.items(), strict=True):
        wide = table.pivot(index="epoch", columns="quantile", values="value")
        for i, q in enumerate(sorted(q for q in wide if q < 0.5)):
            above = wide.columns[np.abs(wide.columns - (1 - q)).argmin()]
            looks: dict[str, Any] = {"color": color(name), "alpha": 0.15 + 0.15 * i, "linewidth": 0}
            ax.fill_between(wide.index, wide[q], wide[above], **looks, label=f"{q:.0%} to {above:.0%}")
        if 0.5 in wide:
            ax.plot(wide.index, wide[0.5], color=color(name), label="median")
        ax.set(title=name, xlabel="Epoch")
    axes[0].set_ylabel(ylabel)
    _shared_legend(axes[0], 4)
    return figure


def by_dataset(frame: pd.DataFrame, measures: Sequence[tuple[str, str]], *, title: str = "") -> Figure:
    """Draw several data sets after the last epoch: a panel for each measure, a row for each data set.

    Parameters
    ----------
    frame : DataFrame
        From `mialab.chapters.adamixup.across`.
    measures : sequence of (attack, metric)
        What to draw, such as ``("loss", "balanced_accuracy")`` or ``("", "test_accuracy")``.
    title : str
        Of the whole figure.

    Returns
    -------
    matplotlib Figure
    """
    frame = frame[frame["epoch"] == frame.groupby("dataset")["epoch"].transform("max")]
    datasets, labels = (list(dict.fromkeys(frame[column])) for column in ("dataset", "defense"))
    height = 1.6 + len(datasets) * (0.3 + 0.16 * len(labels))
    figure, axes = _panels(1, len(measures), 1.2 + 3.6 * len(measures), height, sharey=True)
    for ax, (attack, metric) in zip(axes, measures, strict=True):
        part = select(frame, attack=attack, metric=metric)
        rows = {label: part[part["defense"] == label] for label in labels}
        _draw_rows(ax, rows, "dataset", datasets, metric, depth=0.6)
        ax.set_title(_of(attack))
    figure.suptitle(title)
    _shared_legend(axes[0], 4)
    return figure


def widths(
    table: pd.DataFrame, attack: str, metric: str = "auc", *, controls: Mapping[str, Any] | None = None
) -> Figure:
    """Draw a measure of an attack, and beside it the test accuracy, against the width of weights.

    Parameters
    ----------
    table : DataFrame
        From `mialab.chapters.quantization.widths`. Arms that are no quantization are drawn as horizontal lines with
        their intervals.
    attack, metric : str
        What to draw.
    controls : dict, optional
        Which setting of those arms is drawn; the first one by default.

    Returns
    -------
    matplotlib Figure
    """
    lines = [arm for arm in dict.fromkeys(table["arm"]) if arm.startswith(Quantization.name)]
    order = sorted(set(table.loc[table["arm"].isin(lines), "setting"]), key=steps, reverse=True)
    place, beside = {bits: i for i, bits in enumerate(order)}, np.linspace(-0.12, 0.12, max(2, len(lines)))
    figure, axes = _panels(1, 2, 10.4, 4.6)
    for ax, of, shown in zip(axes, (attack, ""), (metric, "test_accuracy"), strict=True):
        rows = select(table, attack=of, metric=shown)
        for arm, looks in _arms(table).items():
            own = rows[rows["arm"] == arm]
            if arm in lines:
                own = own.sort_values("setting", key=lambda column: column.map(place))
                _draw_intervals(ax, own["setting"].map(place) + beside[lines.index(arm)], own, **looks)
                continue
            chosen = (controls or {}).get(arm, own["setting"].iloc[0])
            value, low, high = own.loc[own["setting"] == chosen, ["value", "low", "high"]].to_numpy(float)[0]
            ax.axhline(value, color=looks["color"], linewidth=1.4, linestyle=(0, (5, 2)), label=arm)
            ax.axhspan(low, high, color=looks["color"], alpha=0.1, linewidth=0)
        ax.set_xticks(range(len(order)), map(_setting, order))
        ax.set(xlabel="Weights of the inner layers", ylabel=_title(shown) + f" ({_of(of)})" * bool(of))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def trade_off(table: pd.DataFrame, attack: str, metric: str = "auc") -> Axes:
    """Draw a measure of an attack against the test accuracy, a line through the settings of each arm.

    The setting of each line with the lowest accuracy is named.

    Parameters
    ----------
    table : DataFrame
        From `mialab.chapters.quantization.widths`.
    attack, metric : str
        What to draw.

    Returns
    -------
    matplotlib Axes
    """
    both = select(table, attack="", metric="test_accuracy"), select(table, attack=attack, metric=metric)
    ax = _axes(None, figsize=(7.2, 5.6))
    for arm, looks in _arms(table).items():
        x, y = (rows[rows["arm"] == arm] for rows in both)
        _draw_intervals(ax, x, y, **looks)
        if len(x) > 1:
            lowest = int(x["value"].argmin())
            _write(ax, _setting(x["setting"].iloc[lowest]), x["value"].iloc[lowest], y["value"].iloc[lowest])
    ax.set(xlabel="Test accuracy", ylabel=f"{_title(metric)} ({_of(attack)})")
    _shared_legend(ax, 2)
    return ax


def _draw_rows(
    ax: Axes, tables: Mapping[str, pd.DataFrame], column: str, names: list[str], metric: str, *, depth: float
) -> None:
    """Draw a row for each of the names in a column, and in it a dot with its interval for each table."""
    looks = _looks(tables, markersize=6, elinewidth=1.4, linestyle="none")
    for i, (label, rows) in enumerate(tables.items()):
        beside = (i - (len(tables) - 1) / 2) * depth / len(tables)
        y = [names.index(name) + beside for name in rows[column]]
        _draw_intervals(ax, rows, y, **looks[label])
    _draw_chance(ax, _chance(metric), upright=True)
    ax.set(xlabel=_title(metric), yticks=range(len(names)), yticklabels=map(_of, names))
    ax.set_ylim(len(names) - 0.5, -0.5)  # the first one on top
    ax.grid(axis="y", visible=False)


def _best(table: pd.DataFrame, attack: str, metric: str) -> pd.DataFrame:
    """Return the row of an attack, or of the strongest one; none if the metric is not resolvable."""
    rows = table.pooled(metric)
    if attack != "strongest":
        rows = select(rows, attack=attack)
    return rows.dropna(subset=["value"]).nlargest(1, "value")


def _reached(name: str, table: pd.DataFrame, given: ArrayLike | None, confidence: float) -> Interval:
    """Return the mean test accuracy of the models of a table."""
    noted = table.attrs.get("test_accuracy") if given is None else given
    accuracy = np.array([] if noted is None else noted, np.float64)
    partner = table.attrs.get("partner")
    if accuracy.size and partner is not None and accuracy.shape != (len(partner),):
        raise ValueError(
            f"accuracy[{name!r}] has shape {accuracy.shape}; it must be ({len(partner)},), one per model."
        )
    mean = intervals.over_targets(accuracy, partner=partner if accuracy.size else None, confidence=confidence)
    if np.isnan(mean.value):
        raise ValueError(f"The test accuracy of {name!r} is not known; pass accuracy={{{name!r}: ...}}.")
    return mean


def _write(ax: Axes, text: str, x: float, y: float) -> None:
    ax.annotate(text, (x, y), xytext=(5, 5), textcoords="offset points", fontsize="small")


def _arms(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return how each arm is drawn; kinds of quantization share a color and differ in shade and marker."""
    looks = _looks(dict.fromkeys(table["arm"]), markersize=6, elinewidth=1.2, linewidth=1.4)
    own = iter("PosDX^v")
    return {
        arm: look | {"marker": next(own) if arm.startswith(Quantization.name) else marker(arm)}
        for arm, look in looks.items()
    }


def _setting(value: Any) -> str:
    return f"{value} bits" if isinstance(value, int) else str(value)
