"""Figures of values with intervals: defenses, attacks, data sets beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from mialab._validation import choose
from mialab.metrics import intervals
from mialab.plots.theme import (
    _CHANCE,
    _axes,
    _bars,
    _by_defense,
    _chance,
    _legend_below,
    _looks,
    _title,
    color,
)


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
    looks = _looks(tables, markersize=6, elinewidth=1.4, linestyle="none")
    names = list(dict.fromkeys(name for table in tables.values() for name in table["attack"]))
    if ax is None:
        height = 1.3 + len(names) * (0.16 + 0.13 * len(tables))
        ax = plt.subplots(layout="constrained", figsize=(6.4, height))[1]
    step = 0.7 / len(tables)
    for i, (label, table) in enumerate(tables.items()):
        rows = table.pooled(metric).dropna(subset=["value"])
        ax.errorbar(
            rows["value"],
            [names.index(name) + (i - (len(tables) - 1) / 2) * step for name in rows["attack"]],
            xerr=_bars(rows),
            **looks[label],
        )
    chance = _chance(metric)
    if chance is not None:
        ax.axvline(chance, **_CHANCE, linestyle="--", label="chance")
    ax.set(xlabel=_title(metric), yticks=range(len(names)), yticklabels=[n.replace("_", " ") for n in names])
    ax.set_ylim(len(names) - 0.5, -0.5)  # the first attack on top
    ax.grid(axis="y", visible=False)
    for line in np.arange(len(names) - 1) + 0.5:
        ax.axhline(line, color="0.92", linewidth=1, zorder=0)
    labels = [*tables, *(["chance"] if chance is not None else [])]
    known = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    ax.figure.legend([known[label] for label in labels], labels, loc="outside upper center", ncols=2)
    return ax


def privacy_utility(
    tables: pd.DataFrame | Mapping[str, pd.DataFrame],
    accuracy: Mapping[str, ArrayLike] | None = None,
    *,
    attack: str = "strongest",
    metric: str = "auc",
    confidence: float = 0.95,
    ax: Axes | None = None,
) -> Axes:
    """Draw the strength of an attack against the test accuracy, one marker per defense, intervals both ways.

    Parameters
    ----------
    tables : DataFrame or dict of str to DataFrame
        From `mialab.compare`, or for each defense its table from `mialab.audit`.
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
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax, absent, tables = _axes(ax), [], _by_defense(tables)
    looks = _looks(tables, markersize=8, elinewidth=1.4, linestyle="none")
    for name, table in tables.items():
        rows = table.pooled(metric)
        if attack != "strongest":
            rows = rows[rows["attack"] == choose("attack", attack, set(rows["attack"]))]
        rows = rows.dropna(subset=["value"])
        if rows.empty:
            absent.append(name)
            continue
        row = rows.loc[rows["value"].idxmax()]
        given = table.attrs.get("test_accuracy") if accuracy is None else accuracy.get(name)
        given = np.array([] if given is None else given, dtype=np.float64)
        partner = table.attrs.get("partner")
        if given.size and partner is not None and given.shape != (len(partner),):
            raise ValueError(
                f"accuracy[{name!r}] has shape {given.shape}; it must be ({len(partner)},), one per model."
            )
        x = intervals.over_targets(given, partner=partner if given.size else None, confidence=confidence)
        if np.isnan(x.value):
            raise ValueError(f"The test accuracy of {name!r} is not known; pass accuracy={{{name!r}: ...}}.")
        ax.errorbar(
            x.value,
            row["value"],
            xerr=np.nan_to_num([[x.value - x.low], [x.high - x.value]]),
            yerr=np.maximum(0, [[row["value"] - row["low"]], [row["high"] - row["value"]]]),
            **looks[name],
        )
    chance = _chance(metric)
    if chance is not None:
        ax.axhline(chance, **_CHANCE)
        place: dict[str, Any] = {
            "xy": (0, chance),
            "xycoords": ("axes fraction", "data"),
            "textcoords": "offset points",
        }
        ax.annotate("chance", **place, xytext=(4, 3), color="0.45", fontsize="small")
    who = "strongest attack" if attack == "strongest" else f"attack: {attack}"
    ax.set(xlabel="Test accuracy", ylabel=f"{_title(metric)} ({who})")
    ax.margins(0.1)
    if absent:
        ax.set_title(f"Not resolvable: {', '.join(absent)}", fontsize="small", loc="left")
    _legend_below(ax, 3)
    return ax


def trade_off(
    curves: Mapping[str, pd.DataFrame | Mapping[float, pd.DataFrame]],
    *,
    attack: str,
    metric: str = "auc",
    confidence: float = 0.95,
    ax: Axes | None = None,
) -> Axes:
    """Draw an attack's strength against the test accuracy: a curve for each defense, over one of its parameters.

    Parameters
    ----------
    curves : dict of str to (DataFrame or dict of float to DataFrame)
        For each defense its table from `mialab.audit`, or one for each value of a parameter; these are joined in the
        order of the values, which are written beside the points of the first curve.
    attack, metric : str
        Such as ``"lira"`` and ``"auc"``, pooled over targets; what is not resolvable is not drawn.
    confidence : float
        Of the interval of the mean accuracy over targets, see `metrics.over_targets`.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax, looks = _axes(ax), _looks(curves, markersize=7, elinewidth=1.2, linewidth=1.2)
    several = {name: tables for name, tables in curves.items() if not isinstance(tables, pd.DataFrame)}
    for name, tables in curves.items():
        ordered: dict[Any, Any] = dict(sorted(several[name].items())) if name in several else {None: tables}
        points = []
        for table in ordered.values():
            rows = table.pooled(metric)
            row = rows[rows["attack"] == choose("attack", attack, set(rows["attack"]))].iloc[0]
            x = intervals.over_targets(
                table.attrs["test_accuracy"], partner=table.attrs["partner"], confidence=confidence
            )
            points.append((*x, row["value"], row["low"], row["high"]))
        x, x_low, x_high, y, y_low, y_high = np.array(points).T
        ax.errorbar(
            x,
            y,
            xerr=np.nan_to_num([x - x_low, x_high - x]),
            yerr=np.maximum(0, [y - y_low, y_high - y]),
            linestyle="-" if len(points) > 1 else "none",
            **looks[name],
        )
        if several and name == next(iter(several)):
            for value, *(across, up) in zip(ordered, x, y, strict=True):
                ax.annotate(
                    f"{value:g}", (across, up), xytext=(5, 5), textcoords="offset points", fontsize="small"
                )
    chance = _chance(metric)
    if chance is not None:
        ax.axhline(chance, **_CHANCE, linestyle="--", label="chance")
    ax.set(xlabel="Test accuracy", ylabel=f"{_title(metric)} ({attack.replace('_', ' ')})")
    ax.margins(0.1)
    _legend_below(ax, 2)
    return ax


def by_decile(
    tables: Mapping[str, pd.DataFrame],
    *,
    ylabel: str,
    chance: float | None = None,
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
    label : str
        A title.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax, looks = _axes(ax), _looks(tables, markersize=5, elinewidth=1.1, linewidth=1.3)
    for i, (name, table) in enumerate(tables.items()):
        ax.errorbar(
            table["decile"] + 0.5 * (i + 0.5 - len(tables) / 2) / len(tables),
            table["value"],
            yerr=_bars(table),
            **looks[name],
        )
    if chance is not None:
        ax.axhline(chance, **_CHANCE, linestyle="--", label="chance")
    last = max(int(table["decile"].max()) for table in tables.values())
    ax.set_xticks(range(1, last + 1))
    ax.set(xlabel="Decile of the distance: nearest to a cluster first", ylabel=ylabel, title=label)
    _legend_below(ax, 2)
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
    colors = {name: color(name) for name in tables}
    figure, axes = plt.subplots(
        1, len(tables), sharey=True, squeeze=False, layout="constrained", figsize=(6.4, 3.6)
    )
    for ax, (name, table) in zip(axes[0], tables.items(), strict=True):
        wide = table.pivot(index="epoch", columns="quantile", values="value")
        below = sorted(q for q in wide if q < 0.5)
        for i, q in enumerate(below):
            above = wide.columns[np.abs(wide.columns - (1 - q)).argmin()]
            looks = {"color": colors[name], "alpha": 0.15 + 0.15 * i, "linewidth": 0}
            ax.fill_between(wide.index, wide[q], wide[above], **looks, label=f"{q:.0%} to {above:.0%}")
        if 0.5 in wide:
            ax.plot(wide.index, wide[0.5], color=colors[name], label="median")
        ax.set(title=name, xlabel="Epoch")
    axes[0, 0].set_ylabel(ylabel)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def by_dataset(
    frame: pd.DataFrame,
    measures: Mapping[str, tuple[str, str]] | Sequence[tuple[str, str]],
    *,
    title: str = "",
) -> Figure:
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
    looks = _looks(labels, markersize=6, elinewidth=1.4, linestyle="none")
    step = 0.6 / len(labels)
    figure, axes = plt.subplots(
        1,
        len(measures),
        sharey=True,
        squeeze=False,
        layout="constrained",
        figsize=(1.2 + 3.6 * len(measures), 1.6 + len(datasets) * (0.3 + 0.16 * len(labels))),
    )
    for ax, (attack, metric) in zip(axes[0], measures, strict=True):
        part = frame[(frame["attack"] == attack) & (frame["metric"] == metric)]
        for i, name in enumerate(labels):
            own = part[part["defense"] == name]
            ax.errorbar(
                own["value"],
                [datasets.index(d) + (i - (len(labels) - 1) / 2) * step for d in own["dataset"]],
                xerr=_bars(own),
                **looks[name] | {"label": name.replace("_", " ")},
            )
        chance = _chance(metric)
        if chance is not None:
            ax.axvline(chance, **_CHANCE, linestyle="--")
        ax.set(xlabel=_title(metric), title=attack.replace("_", " "))
        ax.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(range(len(datasets)), datasets)
    axes[0, 0].set_ylim(len(datasets) - 0.5, -0.5)
    figure.suptitle(title)
    handles = dict(zip(*reversed(axes[0, 0].get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
    return figure


def _draw_path(
    ax: Axes, accuracy: pd.DataFrame, privacy: pd.DataFrame, look: dict, dash: object, shape: object
) -> None:
    """Draw values (a row for each epoch) against the accuracy at the same epochs; the last one stands out."""
    across, up = (table[["value", "low", "high"]].to_numpy().T for table in (accuracy, privacy))
    ax.plot(across[0], up[0], linestyle=dash, marker=".", markersize=5, linewidth=1.2, color=look["color"])
    ends = [[[value[-1] - low[-1]], [high[-1] - value[-1]]] for value, low, high in (across, up)]
    xerr, yerr = np.nan_to_num(np.maximum(0, ends))
    end: dict[str, Any] = {"marker": shape, "markersize": 7, "linestyle": dash, "elinewidth": 1.4}
    ax.errorbar(across[0, -1:], up[0, -1:], xerr=xerr, yerr=yerr, **end, **look)
