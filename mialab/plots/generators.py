"""Figures of generative models, in the style and the colors of `mialab.plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mialab._validation import check_integer, choose
from mialab.auditing.distances import auc_bound
from mialab.plots.theme import _axes, _colors, _legend_below, _markers

if TYPE_CHECKING:
    from mialab.data.pool import Pool
    from mialab.gan.game import GeneratorGame


def sample_grid(
    games: Mapping[str, GeneratorGame],
    *,
    model: int = 0,
    columns: int = 10,
    rows: int = 2,
    pool: Pool | None = None,
) -> Figure:
    """Draw samples of one model of each game: a block of rows each, with a class a column if there are labels.

    Parameters
    ----------
    games : dict of str to GeneratorGame
        Label to game; all with images as samples.
    model : int
        Which model; the same number has the same members in games with the same seed.
    columns, rows : int
        Images of a block, at most so many columns; with labels, columns are the first classes in order.
    pool : Pool, optional
        Adds a block of real members of the model of the first game, and gives classes their names.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    ValueError
        If samples are no images.
    """
    check_integer("model", model)
    check_integer("columns", columns, low=1)
    check_integer("rows", rows, low=1)
    if not games:
        raise ValueError("games is an empty dict; it must hold at least one game, e.g. {'none': game}.")
    blocks: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    if pool is not None:
        first = next(iter(games.values()))
        members = np.flatnonzero(first.member[model])
        x = pool.x[members]
        blocks["members"] = (x / 255 if x.dtype == np.uint8 else x), pool.y[members]
    for label, game in games.items():
        blocks[label] = game.samples[model], game.sample_y if game.conditional else None
    for label, (x, _) in blocks.items():
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(
                f"{label!r} has records of shape {x.shape[1:]}; only images with 1 or 3 channels are drawn."
            )
    labeled = [labels for _, labels in blocks.values() if labels is not None]
    classes = np.unique(np.concatenate(labeled))[:columns] if labeled else np.arange(columns)
    names = pool.label_names if pool is not None and pool.label_names else ()
    shown = [names[c] if names else str(c) for c in classes]
    longest = max(map(len, shown))
    figure, axes = plt.subplots(
        len(blocks),
        1,
        squeeze=False,
        layout="constrained",
        figsize=(6.4, len(blocks) * (0.35 + rows * 6.2 / len(classes)) + 0.12 * longest),
    )
    # Classes are named once, below the last block whose columns they are.
    last = next((label for label in reversed(blocks) if blocks[label][1] is not None), None)
    for ax, (label, (x, labels)) in zip(axes[:, 0], blocks.items(), strict=True):
        image = _tiles(x, labels, classes, rows)
        ax.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
        ax.set_title(label, loc="left", fontsize=12)
        ax.grid(False)
        ax.spines[:].set_visible(False)
        width = x.shape[-1] + 1
        ticks = width * np.arange(len(classes)) + (width - 1) / 2
        ax.set_xticks([])
        ax.set_yticks([])
        if label == last:
            ax.set_xticks(ticks, shown, rotation=90 if longest > 3 else 0)
        ax.tick_params(length=0)
    return figure


def _tiles(x: np.ndarray, labels: np.ndarray | None, classes: np.ndarray, rows: int) -> np.ndarray:
    """Put images beside each other, a white line apart: (height, width, channel), from 0 to 1."""
    channels, height, width = x.shape[1:]
    canvas = np.ones((rows * (height + 1) - 1, len(classes) * (width + 1) - 1, channels))
    for j, c in enumerate(classes):
        of_class = np.arange(j * rows, len(x)) if labels is None else np.flatnonzero(labels == c)
        for i, k in enumerate(of_class[:rows]):
            top, left = i * (height + 1), j * (width + 1)
            canvas[top : top + height, left : left + width] = x[k].transpose(1, 2, 0)
    return np.clip(canvas, 0, 1)


def bounds(tables: Mapping[str, pd.DataFrame], *, ax: Axes | None = None) -> Axes:
    """Draw the measured AUC of each game over the distance of its scores, below the curve that bounds it.

    A marker stands at the mean AUC over targets, with its interval, and at the distance that a threshold shows
    (``distance_threshold``); the horizontal bar goes from the estimate that errs downward to the one that errs
    upward. A cross of the same color is the bound for Gaussians, at the same place.

    Parameters
    ----------
    tables : dict of str to DataFrame
        Label to its table from `mialab.auditing.distances.bounds`.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    if not tables:
        raise ValueError("tables is an empty dict; it must hold at least one table from theory.bounds.")
    ax = _axes(ax)
    grid = np.linspace(0, 1, 101)
    ax.plot(grid, auc_bound(grid), color="0.3", label="bound 1/2 + D - D²/2")
    ax.fill_between(grid, auc_bound(grid), 1, color="0.93", linewidth=0, zorder=0)
    colors, markers = _colors(tables), _markers(tables)
    for label, table in tables.items():
        of = table.set_index("quantity")
        low, high = max(0.0, of.at["distance_cross_fitted", "value"]), of.at["distance_histogram", "value"]
        middle, auc = of.at["distance_threshold", "value"], of.loc["auc"]
        ends = np.nan_to_num([[auc["value"] - auc["low"]], [auc["high"] - auc["value"]]])
        across = np.maximum(0, [[middle - low], [high - middle]])
        ax.errorbar(
            [middle],
            [auc["value"]],
            xerr=across,
            yerr=np.maximum(0, ends),
            color=colors[label],
            marker=markers[label],
            markersize=8,
            linestyle="none",
            label=label,
        )
        ax.plot(middle, of.at["bound_gaussian", "value"], "x", color=colors[label], markersize=8, mew=2)
    ax.plot([], [], "x", color="0.4", mew=2, markersize=8, label="bound for Gaussians")
    ax.set(xlim=(0, 1), ylim=(0.4, 1.01), ylabel="AUC")
    ax.set_xlabel("Total variation distance D, members to non-members")
    _legend_below(ax, 2)
    return ax


def shifts(table: pd.DataFrame, quantity: str = "ratio falls") -> Figure:
    """Draw how often a defense lowers the likelihood ratio, by separation: a panel each for members and non-members.

    The tenth of highest separation, the outliers, is at the right.

    Parameters
    ----------
    table : DataFrame
        From `mialab.chapters.mixup_gan.ratio_shifts`.
    quantity : {"ratio falls", "loss rises", "ratio falls if loss rises"}
        Which fraction.

    Returns
    -------
    matplotlib Figure
    """
    choose("quantity", quantity, set(table["quantity"]))
    rows = table[(table["quantity"] == quantity) & (table["part"] > 0)]
    labels = list(dict.fromkeys(rows["defense"]))
    colors, markers = _colors(labels), _markers(labels)
    sides: Sequence[str] = ("members", "non-members")
    figure, axes = plt.subplots(1, 2, sharex=True, sharey=True, layout="constrained", figsize=(6.4, 3.9))
    for ax, side in zip(axes, sides, strict=True):
        ax.axhline(0.5, color="0.55", linewidth=1, zorder=1)
        for i, label in enumerate(labels):
            own = rows[(rows["of"] == side) & (rows["defense"] == label)]
            ends = np.nan_to_num([own["value"] - own["low"], own["high"] - own["value"]])
            place = own["part"] + 0.5 * (
                (i + 0.5) / len(labels) - 0.5
            )  # beside each other, lest bars overlap
            looks = {"color": colors[label], "marker": markers[label], "markersize": 5, "linewidth": 1.2}
            ax.errorbar(place, own["value"], yerr=np.maximum(0, ends), elinewidth=1, **looks, label=label)
        ax.set_title(side, loc="left")
        ax.set_xticks([1, 4, 7, 10])
        ax.set(ylim=(-0.02, 1.02), xlabel="Tenth by separation")
    axes[0].set_ylabel(f"Fraction: {quantity}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
