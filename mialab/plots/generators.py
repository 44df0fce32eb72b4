"""Figures of generative models, in the style and the colors of `mialab.plots`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mialab._validation import check_integer, select
from mialab.auditing.distances import auc_bound
from mialab.plots.theme import (
    _CHANCE,
    _axes,
    _bare,
    _draw_intervals,
    _legend_below,
    _looks,
    _panels,
    _shared_legend,
)

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
    height = len(blocks) * (0.35 + rows * 6.2 / len(classes)) + 0.12 * longest
    figure, axes = _panels(len(blocks), 1, 6.4, height)
    # Classes are named once, below the last block whose columns they are.
    last = next((label for label in reversed(blocks) if blocks[label][1] is not None), None)
    for ax, (label, (x, labels)) in zip(axes, blocks.items(), strict=True):
        image = _tiles(x, labels, classes, rows)
        ax.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
        ax.set_title(label, loc="left", fontsize=12)
        ax.set(xticks=[], yticks=[])
        if label == last:
            ticks = (x.shape[-1] + 1) * np.arange(len(classes)) + x.shape[-1] / 2
            ax.set_xticks(ticks, shown, rotation=90 if longest > 3 else 0)
        _bare(ax)
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
    (``distance_threshold``). The horizontal bar goes from the estimate that errs downward to the one that errs
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
    for label, look in _looks(tables, markersize=8, linestyle="none").items():
        of = tables[label].set_index("quantity")
        at, ends = (
            of["value"],
            [max(0.0, of.at["distance_cross_fitted", "value"]), of.at["distance_histogram", "value"]],
        )
        distance = pd.DataFrame([[at["distance_threshold"], *ends]], columns=["value", "low", "high"])
        _draw_intervals(ax, distance, of.loc[["auc"]], **look)
        ax.plot(at["distance_threshold"], at["bound_gaussian"], "x", color=look["color"], markersize=8, mew=2)
    ax.plot([], [], "x", color="0.4", mew=2, markersize=8, label="bound for Gaussians")
    ax.set(xlim=(0, 1), ylim=(0.4, 1.01), ylabel="AUC")
    ax.set_xlabel("Total variation distance D, members to non-members")
    _legend_below(ax)
    return ax


def fid_by_steps(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the FID of several arms over the steps of their training, with intervals over models.

    Parameters
    ----------
    table : DataFrame
        From `mialab.chapters.mixup_gan.fid_by_steps`.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax = _axes(ax)
    for label, look in _looks(dict.fromkeys(table["defense"]), markersize=6, linewidth=1.5).items():
        own = select(table, defense=label).sort_values("steps")
        _draw_intervals(ax, own["steps"], own, **look)
    ax.set(xlabel="Steps of the critics", ylabel="FID (own features)")
    ax.set_ylim(bottom=0)
    _legend_below(ax)
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
    rows = select(table, quantity=quantity).query("part > 0")
    looks = _looks(dict.fromkeys(rows["defense"]), markersize=5, linewidth=1.2, elinewidth=1)
    figure, axes = _panels(1, 2, 6.4, 3.9, sharex=True, sharey=True)
    for ax, side in zip(axes, ("members", "non-members"), strict=True):
        ax.axhline(0.5, **_CHANCE)
        for i, (label, look) in enumerate(looks.items()):
            own = rows[(rows["of"] == side) & (rows["defense"] == label)]
            beside = 0.5 * ((i + 0.5) / len(looks) - 0.5)  # lest bars overlap
            _draw_intervals(ax, own["part"] + beside, own, **look)
        ax.set_title(side, loc="left")
        ax.set(xticks=[1, 4, 7, 10], ylim=(-0.02, 1.02), xlabel="Tenth by separation")
    axes[0].set_ylabel(f"Fraction: {quantity}")
    _shared_legend(axes[0], 3)
    return figure
