"""Heat maps of attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LogNorm, Normalize, to_rgb
from matplotlib.patches import Rectangle

from mialab.auditing.taxonomy import families
from mialab.plots.theme import _axes, _bare, _chance, _of, _title


def matrix(table: pd.DataFrame, metric: str = "auc", *, label: str = "") -> Axes:
    """Draw every attack against every defense: a cell each, with its value, grouped by what the attacker has.

    Parameters
    ----------
    table : DataFrame
        From `mialab.auditing.audit_defenses`, `mialab.auditing.audit_each` or `mialab.compare`. What
        ``attrs["missing"]`` lists is hatched and marked "-"; what is not resolvable or not defined, "n/a".
    metric : str
        Such as ``"auc"`` or ``"tpr@0.01"``, pooled over targets. Rates are written in percent, and their colors
        are logarithmic; colors of the AUC and of the balanced accuracy are centered at chance.
    label : str
        A title, such as the name of the data set.

    Returns
    -------
    matplotlib Axes
    """
    rows = table.pooled(metric)
    if "defense" not in rows:
        rows = rows.assign(defense=str(table.attrs.get("defense", "unknown")))
    value = rows.pivot(index="attack", columns="defense", values="value")
    absent = [(m["attack"], m["defense"]) for m in table.attrs.get("missing", [])]
    defenses = list(dict.fromkeys([*rows["defense"], *(d for _, d in absent)]))
    groups = families(dict.fromkeys([*rows["attack"], *(a for a, _ in absent if a != "all")]))
    palette, norm, write = _scale(metric)

    lines = sum(len(names) + 1 for names in groups.values())
    ax = _axes(None, figsize=(2.4 + max(4.0, 0.5 * len(defenses)), 1.6 + 0.27 * lines))
    position, ticks = 0, {}
    for title, names in groups.items():
        place: dict[str, Any] = {"fontsize": 11, "style": "italic", "va": "center", "color": "0.3"}
        ax.text(-0.42, position + 0.08, f"{title}:", **place)
        for name in names:
            position += 1
            ticks[_of(name)] = position
            for j, defense in enumerate(defenses):
                known = name in value.index and defense in value.columns and (name, defense) not in absent
                _draw_cell(ax, j, position, value.at[name, defense] if known else None, palette, norm, write)
        position += 1
    ax.set(xlim=(-0.5, len(defenses) - 0.5), ylim=(position - 0.5, -0.5))
    many = len(defenses) > 4
    names = [_of(name) if many else _of(name).replace(" ", "\n") for name in defenses]
    ax.set_xticks(range(len(defenses)), names, rotation=90 if many else 0)
    ax.set_yticks(list(ticks.values()), list(ticks))
    ax.tick_params(top=False, bottom=False, labeltop=True, labelbottom=False)
    _bare(ax)
    unit = ", in %" if "@" in metric else ""
    ax.set_title((f"{label}: " if label else "") + f"{_title(metric)}{unit}", loc="left")
    return ax


def agreement(table: pd.DataFrame, *, label: str = "") -> Axes:
    """Draw which attacks catch the same members: the Jaccard index of each pair, in percent.

    Parameters
    ----------
    table : DataFrame
        From `mialab.chapters.attacks.agreement`.
    label : str
        A title, such as the name of the data set.

    Returns
    -------
    matplotlib Axes
    """
    names = [_of(name) for name in table.index]
    n, palette, norm = len(names), plt.get_cmap("Purples"), Normalize(0, 1.15)
    ax = _axes(None, figsize=(max(5.0, 2.2 + 0.36 * n), max(3.0, 1.6 + 0.36 * n)))
    for i, a in enumerate(table.index):
        for j, b in enumerate(table.index[:i]):
            _draw_cell(ax, j, i, table.at[a, b], palette, norm, lambda v: f"{100 * v:.0f}", fontsize=11)
    ax.set_xticks(range(n - 1), names[:-1], rotation=90)
    ax.set_yticks(range(1, n), names[1:])
    ax.set(xlim=(-0.5, max(n - 1.5, 0.5)), ylim=(n - 0.5, 0.5))
    _bare(ax)
    rate = table.attrs.get("fpr")
    words = [label, "caught by both,", "in % of caught by either", "" if rate is None else f"(FPR {rate:g})"]
    place: dict[str, Any] = {"transform": ax.transAxes, "ha": "right", "va": "top", "fontsize": 12}
    ax.text(0.98, 0.97, "\n".join(filter(None, words)), **place)
    return ax


def _scale(metric: str) -> tuple[Colormap, Normalize, Callable[[float], str]]:
    """Colors of a metric, and how its values are written in a cell."""
    if "@" in metric:
        low = min(float(metric.split("@")[1]), 0.5)
        return plt.get_cmap("Purples"), LogNorm(low, 2.0), lambda v: f"{100 * v:.1f}"
    if _chance(metric) is not None:
        return plt.get_cmap("PuOr"), Normalize(0, 1), lambda v: f"{v:.2f}"
    return plt.get_cmap("Purples"), Normalize(0, 1.15), lambda v: f"{v:.2f}"


def _draw_cell(
    ax: Axes,
    x: float,
    y: float,
    value: float | None,
    palette: Colormap,
    norm: Normalize,
    write: Callable[[float], str],
    fontsize: float = 11.5,
) -> None:
    """Draw a cell of a heat map; hatched where there is no value at all (None)."""
    number = np.nan if value is None else value
    known = np.isfinite(number)
    text = write(number) if known else "-" if value is None else "n/a"
    fill: Any = palette(norm(np.clip(number, norm.vmin, None))) if known else "white"
    looks: dict[str, Any] = {"facecolor": fill, "edgecolor": "white", "linewidth": 1}
    if not known:
        looks |= {"edgecolor": "0.88", "linewidth": 0, "hatch": "////"}
    ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, **looks))
    dark = known and np.dot(to_rgb(fill), (0.299, 0.587, 0.114)) < 0.55
    place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": fontsize}
    if not known:
        place["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    ax.text(x, y, text, color="white" if dark else "0.1", **place)
