"""Figures of curves and of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike

from mialab import metrics
from mialab._validation import choose, select
from mialab.auditing.measure import _columns
from mialab.auditing.taxonomy import Attacking, _chosen, applicable, families, family, one_of_each
from mialab.games.base import Game
from mialab.plots.theme import (
    _ATTACKS,
    _CHANCE,
    _MARKERS,
    DEFENSES,
    _axes,
    _chance,
    _colors,
    _draw_chance,
    _draw_intervals,
    _games,
    _legend_below,
    _looks,
    _mix,
    _of,
    _panels,
    _shared_legend,
    _title,
    _unlike,
    attack_color,
)

if TYPE_CHECKING:
    from mialab.attacks.base import Attack
    from mialab.data.pool import Pool
    from mialab.metrics.outcomes import Outcome


def roc(
    game: Game | Mapping[str, Game],
    attacks: Attacking | Sequence[Attacking] = ("loss", "lira"),
    *,
    records: ArrayLike | None = None,
    confidence: float = 0.95,
    ax: Axes | None = None,
) -> Axes:
    """Draw ROC curves over all evaluated (target, record) pairs, on logarithmic axes, with bands.

    A curve starts where the false-positive rate allows ten false alarms; what lies below cannot be told from so
    few records. The area where no curve can be drawn is hatched.

    Parameters
    ----------
    game : Game or dict of str to Game
        With a dict, labels choose colors (see `color`).
    attacks : str, Attack or sequence of them
    records : mask or indices, optional
        Records to measure on, as in `mialab.audit`; all by default.
    confidence : float
        Coverage of the pointwise bands, see `metrics.Estimate`.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    games = _games(game)
    chosen = _chosen(attacks if isinstance(attacks, Sequence) and not isinstance(attacks, str) else [attacks])
    colors, dashes = _colors(games), _unlike(chosen, _ATTACKS, list(_ATTACKS.values()))
    several = len(games) > 1 and len(chosen) > 1
    curves = []
    for label, one in games.items():
        columns = _columns(records, one.n_records)
        # Several attacks on one game have colors of their own; of several games, colors are those of the defenses.
        by_attack = len(games) == 1 and len(chosen) > 1
        shades = [attack_color(name) if by_attack else colors[label] for name in chosen]
        for (name, attack), shade in zip(chosen.items(), shades, strict=True):
            grid, tpr, auc = _curve(one, attack, columns, confidence)
            title = f"{label}, {name}" if several else label if len(games) > 1 else name
            curves.append((grid, tpr, f"{title} (AUC {auc:.3f})", shade, dashes[name]))

    ax = _axes(ax)
    _draw_curves(ax, curves)
    if len(curves) > 4:
        _legend_below(ax)
    else:
        ax.legend(loc="lower right")
    return ax


def roc_by_family(
    game: Game,
    attacks: Sequence[Attacking] | None = None,
    *,
    pool: Pool | None = None,
    baseline: Attacking = "loss",
    confidence: float = 0.95,
    label: str | None = None,
) -> Figure:
    """Draw ROC curves of many attacks, a panel for each family, on logarithmic axes.

    Parameters
    ----------
    game : Game
    attacks : sequence of str or Attack, optional
        By default one of each kind that the game allows, see `mialab.auditing.one_of_each`.
    pool : Pool, optional
        The records that were played with, for attacks that look at them.
    baseline : str or Attack
        The attack that is drawn in gray in every panel.
    confidence : float
        As in `roc`.
    label : str, optional
        A title; by default the name of the data set.

    Returns
    -------
    matplotlib Figure
    """
    if attacks is None:
        attacks = one_of_each(applicable(game, pool=pool)[0])
    chosen = _chosen(attacks, pool)
    ((base, base_attack),) = _chosen([baseline]).items()
    groups: dict[str, list[str]] = {}
    for name, attack in chosen.items():
        groups.setdefault(family(attack), []).append(name)
    groups = {f: groups[f] for f in families(chosen.values()) if groups[f] != [base]} or groups
    every = np.ones(game.n_records, bool)
    curves = {
        name: _curve(game, attack, every, confidence)
        for name, attack in ({base: base_attack} | chosen).items()
    }
    figure, axes = _panels(len(groups), 1, 6.4, 0.5 + 2.7 * len(groups))
    for ax, (title, names) in zip(axes, groups.items(), strict=True):
        looks: dict[str, Any] = {} if base in names else {base: ("0.55", (0, ()))}
        dashes = _unlike(names, _ATTACKS, list(_ATTACKS.values()))
        looks |= {name: (attack_color(name), dashes[name]) for name in names}
        drawn = []
        for name, look in looks.items():
            grid, tpr, auc = curves[name]
            drawn.append((grid, tpr, f"{name} ({auc:.3f})", *look))
        _draw_curves(ax, drawn, hatch_label=None)
        ax.set_xlabel("False-positive rate" if ax is axes[-1] else "")
        ax.set_ylabel("TPR")
        ax.set_title(title, loc="left", fontsize=12)
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=11, handlelength=2.2)
    figure.suptitle(str(game.attrs.get("dataset")) if label is None else label)
    return figure


def against_shadows(table: pd.DataFrame, *, label: str = "") -> Figure:
    """Draw how attacks profit from shadow models: a panel for each metric, a line and a band for each attack.

    Parameters
    ----------
    table : DataFrame
        From `mialab.chapters.attacks.against_shadows`.
    label : str
        A title, such as the name of the data set.

    Returns
    -------
    matplotlib Figure
    """
    metrics_, names = list(dict.fromkeys(table["metric"])), list(dict.fromkeys(table["attack"]))
    numbers = sorted(set(table["n_shadows"]))
    height = 3.3 * len(metrics_) + 0.16 * len(names) + 0.3
    dashes = _unlike(names, _ATTACKS, list(_ATTACKS.values()))
    figure, axes = _panels(len(metrics_), 1, 6.4, height, sharex=True)
    for ax, metric in zip(axes, metrics_, strict=True):
        for i, name in enumerate(sorted(names, key="loss".__eq__)):  # the loss comes last, and is gray
            rows = table[(table["metric"] == metric) & (table["attack"] == name)].sort_values("n_shadows")
            shade = attack_color(name)
            ax.fill_between(rows["n_shadows"], rows["low"], rows["high"], color=shade, alpha=0.1, linewidth=0)
            looks: dict[str, Any] = {"color": shade, "marker": _MARKERS[i % len(_MARKERS)], "markersize": 6}
            ax.plot(rows["n_shadows"], rows["value"], **looks, linestyle=dashes[name], label=_of(name))
        _draw_chance(ax, _chance(metric))
        ax.set_xscale("log", base=2)
        ax.set_xticks(numbers, [str(n) for n in numbers])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_ylabel(_title(metric))
    axes[0].set_title(label)
    axes[-1].set_xlabel("Number of shadow models")
    _shared_legend(axes[0], 2)
    return figure


def histograms(
    games: Game | Mapping[str, Game],
    attack: Attacking = "loss",
    *,
    target: int | None = None,
    records: ArrayLike | None = None,
    bins: int = 50,
) -> Figure:
    """Draw the scores of members and of non-members, a panel for each game, on one scale.

    Parameters
    ----------
    games : Game or dict of str to Game
        One game, or label to game.
    attack : str or Attack
    target : int, optional
        Which target model; all pooled by default.
    records : mask or indices, optional
        Records to show, as in `mialab.audit`; all by default.
    bins : int
        Bins of equal width on the axis as drawn, which is linear around zero and logarithmic further out (asinh)
        if the scores span orders of magnitude. The outermost half percent of them on either side is gathered in
        the first and the last bin.

    Returns
    -------
    matplotlib Figure
    """
    games = _games(games)
    scores, colors = _scores(games, attack, target, records), _colors(games)
    figure, axes = _panels(1, len(games), 6.4, 3.4, sharex=True, sharey=True)
    edges = _bins(axes[0], scores, bins)
    for ax, (label, (inside, outside)) in zip(axes, scores.items(), strict=True):
        area: dict[str, Any] = {"color": _mix(colors[label], 0.25), "alpha": 0.65, "label": "members"}
        line: dict[str, Any] = {"color": "0.35", "histtype": "step", "linewidth": 1.6, "label": "non-members"}
        for values, look in ((inside, area), (outside, line)):
            weight = np.full(len(values), 1 / max(1, len(values)))
            ax.hist(np.clip(values, edges[0], edges[-1]), edges.tolist(), weights=weight, **look)
        ax.set_title(label)
    axes[0].set_ylabel("Fraction of records")
    axes[-1].legend()
    name = next(iter(games.values())).outcome(attack).attack
    whose = "" if target is None else f" (target {target})"
    figure.supxlabel(f"Score of the attack {name}{whose}, higher = member", fontsize=13)
    return figure


def trajectory(
    frame: pd.DataFrame,
    metric: str = "auc",
    *,
    attacks: Sequence[str] | None = None,
    x: str = "epoch",
    accuracy: bool = True,
    label: str = "",
) -> Figure:
    """Draw values over the epochs at which training might stop: a panel for each attack, a line for each defense.

    Parameters
    ----------
    frame : DataFrame
        From `mialab.chapters.adamixup.trajectory` or `mialab.chapters.adamixup.mixing_strength`.
    metric : str
        Such as ``"auc"`` or ``"auc minus none"``; what is not resolvable is not drawn.
    attacks : sequence of str, optional
        All in the frame by default.
    x : {"epoch", "test_accuracy"}
        What is across. With the test accuracy, lines join the epochs, the marker of the last one is large, and it has
        intervals both ways: of two defenses at the same accuracy the lower one protects better.
    accuracy : bool
        Whether the test accuracy, or its difference, has a panel of its own over the epochs.
    label : str
        A title, such as the name of the data set.

    Returns
    -------
    matplotlib Figure
    """
    choose("x", x, ("epoch", "test_accuracy"))
    rows = select(frame, metric=metric)
    names = list(dict.fromkeys(rows["attack"])) if attacks is None else attacks
    base, _, minus = metric.partition(" minus ")
    ending = f", minus {minus}" if minus else ""
    of_accuracy = frame[frame["metric"] == metric.replace(base, "test_accuracy", 1)]
    panels = [(_of(name), _title(base) + ending, select(rows, attack=name)) for name in names]
    if accuracy and x == "epoch" and not of_accuracy.empty and base != "test_accuracy":
        panels.append(("", f"Test accuracy{ending}", of_accuracy))
    labels = list(dict.fromkeys(frame["defense"]))
    whole: dict[str, object] = {name: "-" for name in labels if name in DEFENSES}  # variants are dashed
    dashes = _unlike(labels, whole, list(_ATTACKS.values())[1:])
    looks = _looks(labels)
    labels = [name for name in labels if name in set(rows["defense"])]
    wide = min(2, len(panels))
    deep = -(-len(panels) // wide)
    height = 3.3 * deep + 0.4 + 0.26 * -(-len(labels) // 2)
    figure, axes = _panels(deep, wide, 8.8 if wide > 1 else 6.4, height)
    for ax, (title, ylabel, part) in zip(axes, panels, strict=False):
        for name in labels:
            own = part[part["defense"] == name].sort_values("epoch")
            look = looks[name] | {"label": _of(name), "linestyle": dashes[name]}
            look["zorder"] = 2 + (name in whole) / 2
            if x == "epoch":
                ax.fill_between(own["epoch"], own["low"], own["high"], color=look["color"], alpha=0.1, lw=0)
                look["marker"] = look["marker"] if len(own) <= 12 else None
                ax.plot(own["epoch"], own["value"], markersize=4.5, **look)
            else:
                reached = frame[(frame["metric"] == "test_accuracy") & (frame["defense"] == name)]
                _draw_path(ax, reached.sort_values("epoch"), own, look)
        if x == "epoch" and ylabel.startswith(_title(base)):
            level, word = (0.0, "no difference") if minus else (_chance(base), "chance")
            _draw_chance(ax, level, label=word)
        ax.set(title=title, ylabel=ylabel, xlabel="Test accuracy" if x != "epoch" else "Epochs of training")
    for ax in axes[len(panels) :]:
        ax.remove()
    figure.suptitle(label)
    _shared_legend(axes[0], 2)
    return figure


def _draw_path(ax: Axes, accuracy: pd.DataFrame, privacy: pd.DataFrame, look: dict[str, Any]) -> None:
    """Draw values (a row for each epoch) against the accuracy at the same epochs; the last one stands out."""
    way = {"marker": ".", "markersize": 5, "linewidth": 1.2, "color": look["color"]}
    ax.plot(accuracy["value"], privacy["value"], linestyle=look["linestyle"], **way)
    _draw_intervals(ax, accuracy.tail(1), privacy.tail(1), markersize=7, elinewidth=1.4, **look)


def _curve(
    game: Game, attack: Attack | Outcome, columns: np.ndarray, confidence: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return a ROC curve from the least rate that allows ten false alarms: rates, TPR with ends (rate, 3), AUC."""
    outcome = game.outcome(attack).among(columns)
    lowest = 10 / max(10, (outcome.evaluated & ~game.member).sum())
    grid = np.geomspace(lowest, 1, 61)
    tpr = np.array([outcome.interval(metrics.rate_name("tpr", f), confidence=confidence) for f in grid])
    return grid, tpr, outcome.estimate("auc").value


def _draw_curves(
    ax: Axes, curves: Sequence[tuple], hatch_label: str | None = "fewer than 10 false alarms"
) -> None:
    """Draw curves (rates, TPR with ends, label, color, dashes) on logarithmic axes, with the line of chance."""
    resolved = min(grid[0] for grid, *_ in curves)
    floor = 10.0 ** np.floor(np.log10(resolved) + 1e-9)
    ax.plot([floor, 1], [floor, 1], **_CHANCE)
    for grid, tpr, label, shade, dash in curves:
        value, low, high = np.where(tpr > floor, tpr, floor).T  # a log axis has no zero
        ax.fill_between(grid, low, high, color=shade, alpha=0.16 if len(curves) < 4 else 0.1, linewidth=0)
        ax.plot(grid, value, color=shade, linestyle=dash, label=label)
    if floor < resolved * (1 - 1e-9):
        looks: dict[str, Any] = {"facecolor": "none", "edgecolor": "0.82", "hatch": "////", "linewidth": 0}
        ax.axvspan(floor, resolved, **looks, zorder=0, label=hatch_label)
    ax.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1.05))
    ax.set(xlabel="False-positive rate", ylabel="True-positive rate")
    middle = np.sqrt(max(resolved, floor) * 0.02)
    turned: dict[str, Any] = {"rotation": 45, "transform_rotates_text": True, "rotation_mode": "anchor"}
    ax.text(middle, middle / 1.25, "chance", color="0.45", fontsize="small", va="top", **turned)


def _scores(
    games: Mapping[str, Game], attack: Attacking, target: int | None, records: ArrayLike | None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scores of the members and of the non-members of each game."""
    scores = {}
    for label, game in games.items():
        if target is not None and not 0 <= target < game.n_models:
            raise ValueError(f"target={target!r} must be a model's index, 0 to {game.n_models - 1}.")
        outcome = game.outcome(attack)
        chosen = outcome.evaluated & _columns(records, game.n_records)
        if target is not None:
            chosen = chosen & (np.arange(game.n_models) == target)[:, None]
        scores[label] = outcome.score[chosen & game.member], outcome.score[chosen & ~game.member]
    return scores


def _bins(ax: Axes, scores: Mapping[str, tuple[np.ndarray, np.ndarray]], bins: int) -> np.ndarray:
    """Edges of bins that hold all but the extremes of the scores; stretches the x axis if they need it."""
    games = [np.concatenate(pair) for pair in scores.values()]
    low, high = np.quantile(np.concatenate(games), [0.005, 0.995])
    high = high if high > low else low + 1
    width = min(float(np.quantile(np.abs(score), 0.75)) for score in games)  # fine enough for all of them
    furthest = max(abs(low), abs(high))
    if not furthest > 20 * width > 0:
        return np.linspace(low, high, bins + 1)
    ax.set_xscale("asinh", linear_width=width)
    decades = 10.0 ** np.arange(np.ceil(np.log10(width)), np.log10(furthest) + 0.2)
    ticks = [t for t in (*-decades[::-1], 0, *decades) if low <= t <= high]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    return width * np.sinh(np.linspace(np.arcsinh(low / width), np.arcsinh(high / width), bins + 1))
