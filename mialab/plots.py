"""Figures. A defense has one colour and one marker in all of them, an attack one dash pattern.

In figures of many attacks on one defense, colours tell the attacks apart.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LogNorm, Normalize, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike

from mialab import attacks as _attacks
from mialab import metrics
from mialab.audit import _chosen, _columns, pooled_rows
from mialab.comparison import applicable, families, family, one_of_each
from mialab.game import Game
from mialab.options import choose

if TYPE_CHECKING:
    from mialab.attacks.base import Attack
    from mialab.data import Pool

# The palette of Okabe and Ito (2008) for the undefended model and the papers, that of Tol (2021, "muted") for the
# baselines. Both can be told apart with the common forms of colour blindness; markers help where hues come close.
DEFENSES: dict[str, tuple[str, str]] = {
    "none": ("#000000", "o"),
    "adamixup": ("#e69f00", "s"),
    "mixup": ("#56b4e9", "^"),
    "hamp": ("#0072b2", "D"),
    "weighted_smoothing": ("#009e73", "v"),
    "quantization": ("#d55e00", "P"),
    "label_smoothing": ("#cc79a7", "X"),
    "dp_sgd": ("#882255", "*"),
    "early_stopping": ("#999933", "<"),
    "dropout": ("#ddcc77", ">"),
    "weight_decay": ("#aa4499", "p"),
    "confidence_penalty": ("#44aa99", "h"),
    "adversarial_regularization": ("#332288", "d"),
    "memguard": ("#88ccee", "8"),
    "relaxloss": ("#117733", "H"),
    "selena": ("#cc6677", "s"),
    "dmp": ("#661100", "^"),
    "distillation": ("#6699cc", "v"),
    # Control arms of weighted smoothing.
    "uniform_noise": ("#9467bd", "o"),
    "inverted_weights": ("#a50f15", "^"),
    "clipped_weights": ("#8c6d31", "s"),
    # Of generative models.
    "par_gan": ("#7570b3", "p"),
    "privgan": ("#a6761d", "h"),
    "megan": ("#e7298a", "d"),
    "dp_critic": ("#5e2f0d", "*"),
}
_SPARE = ("#7f7fbf", "#bf7f3f", "#3fbfbf", "#afaf2f", "#7fbf7f", "#bf3f7f", "#997766", "#5f9f3f")
_MARKERS = "osD^vP<>Xph"
_ATTACKS: dict[str, tuple] = {
    "loss": (0, ()),
    "lira": (0, (5, 1.5)),
    "modified_entropy": (0, (1, 1)),
    "rmia": (0, (4, 1, 1, 1)),
    "label_only": (0, (3, 1, 1, 1, 1, 1)),
    "entropy": (0, (1, 2.5)),
    "confidence": (0, (8, 2)),
    "correctness": (0, (2, 3)),
    "lira_offline": (0, (5, 4)),
    "ranking": (0, (8, 2, 1, 2)),
}
#: Of several attacks in one figure: the colours of Okabe and Ito, and three of Tol's.
_COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"),
    *("#882255", "#999933", "#332288"),
)
_CHANCE = {"color": "0.55", "linewidth": 1, "zorder": 1}


def style() -> None:
    """Set the theme of all figures of this study: seaborn ticks, a light grid, text that stays text in SVG."""
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette=[colour for colour, _ in DEFENSES.values()],
        rc={
            "figure.figsize": (6.4, 4.2),
            "figure.dpi": 110,
            "savefig.bbox": "tight",
            "svg.fonttype": "none",
            "svg.hashsalt": "mialab",  # the same figure gives the same file
            "axes.grid": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "grid.color": "0.92",
            "axes.axisbelow": True,
            "axes.titlesize": 13,
            "axes.labelsize": 13,
            "xtick.labelsize": 11.5,
            "ytick.labelsize": 11.5,
            "legend.fontsize": 11.5,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
        },
    )


def colour(defense: str) -> str:
    """Colour of a defense, the same in every figure and every run.

    Parameters
    ----------
    defense : str
        Name of a defense. A variant, such as ``"hamp (gamma=0.5)"``, has the colour of its defense; a defense
        unknown to the package gets one that depends on its name alone.

    Returns
    -------
    str
        As ``"#rrggbb"``.
    """
    known = _known(defense)
    return DEFENSES[known][0] if known else _SPARE[zlib.crc32(defense.encode()) % len(_SPARE)]


def marker(defense: str) -> str:
    """Marker of a defense, chosen as its `colour`."""
    known = _known(defense)
    return DEFENSES[known][1] if known else _MARKERS[zlib.crc32(defense.encode()) % len(_MARKERS)]


def roc(
    game: Game | Mapping[str, Game],
    attacks: str | Attack | Sequence[str | Attack] = ("loss", "lira"),
    *,
    records: ArrayLike | None = None,
    confidence: float = 0.95,
    n_resamples: int = 200,
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Draw ROC curves over all evaluated (target, record) pairs, on logarithmic axes, with bands.

    A curve starts where the false-positive rate allows ten false alarms; what lies below cannot be told from so
    few records. The area where no curve can be drawn is hatched.

    Parameters
    ----------
    game : Game or dict of str to Game
        With a dict, labels choose colours (see `colour`).
    attacks : str, Attack or sequence of them
    records : mask or indices, optional
        Records to measure on, as in `mialab.audit`; all by default.
    confidence, n_resamples, seed
        Of the pointwise bands, see `metrics.pooled_bootstrap`.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    games, chosen = _games(game), _chosen([attacks] if not _is_list(attacks) else attacks)
    colours, dashes = _colours(games), _unlike(chosen, _ATTACKS, list(_ATTACKS.values()))
    several = len(games) > 1 and len(chosen) > 1
    curves = []
    for label, one in games.items():
        columns = _columns(records, one.n_records)
        # Several attacks on one game differ in dashes and in the shade of the defense's colour.
        shades = _shades(colours[label], len(chosen)) if len(games) == 1 else [colours[label]] * len(chosen)
        for (name, attack), shade in zip(chosen.items(), shades, strict=True):
            grid, tpr, auc = _curve(one, attack, columns, confidence, n_resamples, seed)
            title = f"{label}, {name}" if several else label if len(games) > 1 else name
            curves.append((grid, tpr, f"{title} (AUC {auc:.3f})", shade, dashes[name]))

    ax = _axes(ax)
    _draw_curves(ax, curves)
    if len(curves) > 4:
        _legend_below(ax, 2)
    else:
        ax.legend(loc="lower right")
    return ax


def roc_by_family(
    game: Game,
    attacks: Sequence[str | Attack] | None = None,
    *,
    pool: Pool | None = None,
    baseline: str | Attack = "loss",
    confidence: float = 0.95,
    n_resamples: int = 100,
    seed: int = 0,
    label: str | None = None,
) -> Figure:
    """Draw ROC curves of many attacks, a panel for each family, on logarithmic axes.

    Parameters
    ----------
    game : Game
    attacks : sequence of str or Attack, optional
        By default one of each kind that the game allows, see `mialab.one_of_each`.
    pool : Pool, optional
        The records that were played with, for attacks that look at them.
    baseline : str or Attack
        The attack that is drawn in grey in every panel.
    confidence, n_resamples, seed
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
        name: _curve(game, attack, every, confidence, n_resamples, seed)
        for name, attack in ({base: base_attack} | chosen).items()
    }
    figure, axes = plt.subplots(
        len(groups), 1, squeeze=False, layout="constrained", figsize=(6.4, 0.5 + 2.7 * len(groups))
    )
    for ax, (title, names) in zip(axes[:, 0], groups.items(), strict=True):
        drawn = []
        if base not in names:
            drawn.append((*curves[base][:2], f"{base} ({curves[base][2]:.3f})", "0.55", (0, ())))
        looks = zip(_COLOURS * 4, (*_ATTACKS.values(),) * 4, strict=False)
        for name, (shade, dash) in zip(names, looks, strict=False):
            grid, tpr, auc = curves[name]
            drawn.append((grid, tpr, f"{name} ({auc:.3f})", shade, dash))
        _draw_curves(ax, drawn, hatch_label=None)
        ax.set_xlabel("False-positive rate" if ax is axes[-1, 0] else "")
        ax.set_ylabel("TPR")
        ax.set_title(title, loc="left", fontsize=12)
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=11, handlelength=2.2)
    figure.suptitle(str(game.attrs.get("dataset")) if label is None else label)
    return figure


def matrix(table: pd.DataFrame, metric: str = "auc", *, label: str = "") -> Axes:
    """Draw every attack against every defense: a cell each, with its value, grouped by what the attacker has.

    Parameters
    ----------
    table : DataFrame
        From `mialab.matrix`, `mialab.audit_each` or `mialab.compare`. What ``attrs["missing"]`` lists is hatched and
        marked "-"; what is not resolvable or not defined, "n/a".
    metric : str
        Such as ``"auc"`` or ``"tpr@0.01"``, pooled over targets. Rates are written in per cent, and their colours
        are logarithmic; colours of the AUC and of the balanced accuracy are centred at chance.
    label : str
        A title, such as the name of the data set.

    Returns
    -------
    matplotlib Axes
    """
    rows = pooled_rows(table, metric)
    if "defense" not in rows:
        rows = rows.assign(defense=str(table.attrs.get("defense", "unknown")))
    value = rows.pivot(index="attack", columns="defense", values="value")
    absent = [(m["attack"], m["defense"]) for m in table.attrs.get("missing", [])]
    defenses = list(dict.fromkeys([*rows["defense"], *(d for _, d in absent)]))
    groups = families(dict.fromkeys([*rows["attack"], *(a for a, _ in absent if a != "all")]))
    palette, norm, write = _scale(metric)

    lines = sum(len(names) + 1 for names in groups.values())
    wide = max(4.0, 0.5 * len(defenses))
    ax = plt.subplots(layout="constrained", figsize=(2.4 + wide, 1.6 + 0.27 * lines))[1]
    position, ticks = 0, {}
    for title, names in groups.items():
        place = {"fontsize": 11, "style": "italic", "va": "center", "color": "0.3"}
        ax.text(-0.42, position + 0.08, f"{title}:", **place)
        position += 1
        for name in names:
            ticks[name] = position
            for j, defense in enumerate(defenses):
                known = name in value.index and defense in value.columns and (name, defense) not in absent
                _draw_cell(ax, j, position, value.at[name, defense] if known else None, palette, norm, write)
            position += 1
    ax.set(xlim=(-0.5, len(defenses) - 0.5), ylim=(position - 0.5, -0.5))
    turned = {"rotation": 90} if len(defenses) > 4 else {}
    names = [
        name.replace("_", " " if turned else "\n").replace(" ", " " if turned else "\n") for name in defenses
    ]
    ax.set_xticks(range(len(defenses)), names, **turned)
    ax.set_yticks(list(ticks.values()), [name.replace("_", " ") for name in ticks])
    ax.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    unit = ", in %" if "@" in metric else ""
    ax.set_title((f"{label}: " if label else "") + f"{_title(metric)}{unit}", loc="left")
    return ax


def agreement(table: pd.DataFrame, *, label: str = "") -> Axes:
    """Draw which attacks catch the same members: the Jaccard index of each pair, in per cent.

    Parameters
    ----------
    table : DataFrame
        From `mialab.agreement`.
    label : str
        A title, such as the name of the data set.

    Returns
    -------
    matplotlib Axes
    """
    names = list(table.index)
    n = len(names)
    palette, norm = plt.get_cmap("Purples"), Normalize(0, 1.15)
    size = 0.36 * n
    ax = plt.subplots(layout="constrained", figsize=(max(5.0, 2.2 + size), max(3.0, 1.6 + size)))[1]
    for i, a in enumerate(names):
        for j, b in enumerate(names[:i]):
            share = float(table.at[a, b])
            _draw_cell(ax, j, i, share, palette, norm, lambda v: f"{100 * v:.0f}", fontsize=11)
    shown = [name.replace("_", " ") for name in names]
    ax.set_xticks(range(n - 1), shown[:-1], rotation=90)
    ax.set_yticks(range(1, n), shown[1:])
    ax.set(xlim=(-0.5, max(n - 1.5, 0.5)), ylim=(n - 0.5, 0.5))
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    rate = table.attrs.get("fpr")
    words = [label, "caught by both,", "in % of caught by either", "" if rate is None else f"(FPR {rate:g})"]
    ax.text(
        0.98, 0.97, "\n".join(filter(None, words)), transform=ax.transAxes, ha="right", va="top", fontsize=12
    )
    return ax


def against_shadows(table: pd.DataFrame, *, label: str = "") -> Figure:
    """Draw how attacks profit from shadow models: a panel for each metric, a line and a band for each attack.

    Parameters
    ----------
    table : DataFrame
        From `mialab.against_shadows`.
    label : str
        A title, such as the name of the data set.

    Returns
    -------
    matplotlib Figure
    """
    metrics_, names = list(dict.fromkeys(table["metric"])), list(dict.fromkeys(table["attack"]))
    numbers = sorted(set(table["n_shadows"]))
    figure, axes = plt.subplots(
        len(metrics_),
        1,
        sharex=True,
        squeeze=False,
        layout="constrained",
        figsize=(6.4, 3.3 * len(metrics_) + 0.16 * len(names) + 0.3),
    )
    for ax, metric in zip(axes[:, 0], metrics_, strict=True):
        for i, name in enumerate(sorted(names, key="loss".__eq__)):  # the loss comes last, and is grey
            rows = table[(table["metric"] == metric) & (table["attack"] == name)].sort_values("n_shadows")
            shade = "0.55" if name == "loss" else _COLOURS[i % len(_COLOURS)]
            ax.fill_between(rows["n_shadows"], rows["low"], rows["high"], color=shade, alpha=0.1, linewidth=0)
            looks = {"color": shade, "marker": _MARKERS[i % len(_MARKERS)], "markersize": 6}
            dash = list(_ATTACKS.values())[(i // len(_COLOURS)) % len(_ATTACKS)]
            ax.plot(rows["n_shadows"], rows["value"], **looks, linestyle=dash, label=name.replace("_", " "))
        chance = _chance(metric)
        if chance is not None:
            ax.axhline(chance, **_CHANCE, linestyle="--", label="chance")
        ax.set_xscale("log", base=2)
        ax.set_xticks(numbers, [str(n) for n in numbers])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_ylabel(_title(metric))
    axes[0, 0].set_title(label)
    axes[-1, 0].set_xlabel("Number of shadow models")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def histogram(
    game: Game | Mapping[str, Game],
    attack: str | Attack = "loss",
    *,
    target: int | None = None,
    records: ArrayLike | None = None,
    bins: int = 50,
    ax: Axes | None = None,
) -> Axes:
    """Draw the scores of members and of non-members.

    Parameters
    ----------
    game : Game or dict of str to Game
        One game is drawn as areas, several as outlines, members solid and non-members dashed.
    attack : str or Attack
    target : int, optional
        Which target model; all pooled by default.
    records : mask or indices, optional
        Records to show, as in `mialab.audit`; all by default.
    bins : int
        Bins of equal width on the axis as drawn, which is linear around zero and logarithmic further out (asinh)
        if the scores span orders of magnitude. The outermost half percent of them on either side is gathered in
        the first and the last bin.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    games = _games(game)
    scores = _scores(games, attack, target, records)
    ax, colours = _axes(ax), _colours(games)
    edges = _bins(ax, scores, bins)
    _draw_scores(ax, scores, colours, edges)
    whose = "all targets" if target is None else f"target {target}"
    name = _attacks.make(attack).name
    ax.set(xlabel=f"Score of the attack {name} ({whose}), higher = member", ylabel="Share of records")
    ax.legend()
    return ax


def histograms(
    games: Mapping[str, Game],
    attack: str | Attack = "loss",
    *,
    records: ArrayLike | None = None,
    bins: int = 50,
) -> Figure:
    """Draw the scores of members and of non-members, a panel for each game, on one scale.

    Parameters
    ----------
    games : dict of str to Game
        Label to game.
    attack, records, bins
        As in `histogram`.

    Returns
    -------
    matplotlib Figure
    """
    games = _games(games)
    scores, colours = _scores(games, attack, None, records), _colours(games)
    figure, axes = plt.subplots(
        1, len(games), sharex=True, sharey=True, squeeze=False, layout="constrained", figsize=(6.4, 3.4)
    )
    edges = _bins(axes[0, 0], scores, bins)
    for ax, label in zip(axes[0], games, strict=True):
        _draw_scores(ax, {label: scores[label]}, colours, edges)
        ax.set_title(label)
    axes[0, 0].set_ylabel("Share of records")
    axes[0, -1].legend()
    figure.supxlabel(f"Score of the attack {_attacks.make(attack).name}, higher = member", fontsize=13)
    return figure


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
    colours, markers = _colours(tables), _markers(tables)
    names = list(dict.fromkeys(name for table in tables.values() for name in table["attack"]))
    if ax is None:
        height = 1.3 + len(names) * (0.16 + 0.13 * len(tables))
        ax = plt.subplots(layout="constrained", figsize=(6.4, height))[1]
    step = 0.7 / len(tables)
    for i, (label, table) in enumerate(tables.items()):
        rows = pooled_rows(table, metric).dropna(subset=["value"])
        ax.errorbar(
            rows["value"],
            [names.index(name) + (i - (len(tables) - 1) / 2) * step for name in rows["attack"]],
            xerr=np.maximum(0, [rows["value"] - rows["low"], rows["high"] - rows["value"]]),
            color=colours[label],
            marker=markers[label],
            markersize=6,
            elinewidth=1.4,
            linestyle="none",
            label=label,
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
    colours, markers = _colours(tables), _markers(tables)
    for name, table in tables.items():
        rows = pooled_rows(table, metric)
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
        x = metrics.over_targets(given, partner=partner if given.size else None, confidence=confidence)
        if np.isnan(x.value):
            raise ValueError(f"The test accuracy of {name!r} is not known; pass accuracy={{{name!r}: ...}}.")
        ax.errorbar(
            x.value,
            row["value"],
            xerr=np.nan_to_num([[x.value - x.low], [x.high - x.value]]),
            yerr=np.maximum(0, [[row["value"] - row["low"]], [row["high"] - row["value"]]]),
            color=colours[name],
            marker=markers[name],
            markersize=8,
            elinewidth=1.4,
            linestyle="none",
            label=name,
        )
    chance = _chance(metric)
    if chance is not None:
        ax.axhline(chance, **_CHANCE)
        place = {"xy": (0, chance), "xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
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
    ax, colours, markers = _axes(ax), _colours(curves), _markers(curves)
    several = {name: tables for name, tables in curves.items() if not isinstance(tables, pd.DataFrame)}
    for name, tables in curves.items():
        ordered = dict(sorted(several[name].items())) if name in several else {None: tables}
        points = []
        for table in ordered.values():
            rows = pooled_rows(table, metric)
            row = rows[rows["attack"] == choose("attack", attack, set(rows["attack"]))].iloc[0]
            x = metrics.over_targets(
                table.attrs["test_accuracy"], partner=table.attrs["partner"], confidence=confidence
            )
            points.append((*x, row["value"], row["low"], row["high"]))
        x, x_low, x_high, y, y_low, y_high = np.array(points).T
        ax.errorbar(
            x,
            y,
            xerr=np.nan_to_num([x - x_low, x_high - x]),
            yerr=np.maximum(0, [y - y_low, y_high - y]),
            color=colours[name],
            marker=markers[name],
            markersize=7,
            elinewidth=1.2,
            linewidth=1.2,
            linestyle="-" if len(points) > 1 else "none",
            label=name,
        )
        if several and name == next(iter(several)):
            for value, *place in zip(ordered, x, y, strict=True):
                ax.annotate(f"{value:g}", place, xytext=(5, 5), textcoords="offset points", fontsize="small")
    if _chance(metric) is not None:
        ax.axhline(_chance(metric), **_CHANCE, linestyle="--", label="chance")
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
        From `mialab.neighbours.risk_by_decile` or `mialab.neighbours.mean_by_decile`.
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
    ax, colours, markers = _axes(ax), _colours(tables), _markers(tables)
    for i, (name, table) in enumerate(tables.items()):
        ax.errorbar(
            table["decile"] + 0.5 * (i + 0.5 - len(tables) / 2) / len(tables),
            table["value"],
            yerr=np.maximum(0, [table["value"] - table["low"], table["high"] - table["value"]]),
            color=colours[name],
            marker=markers[name],
            markersize=5,
            elinewidth=1.1,
            linewidth=1.3,
            label=name,
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
        Defense to a table from `mialab.smoothing.weight_spread`.
    ylabel : str
        What the values are.

    Returns
    -------
    matplotlib Figure
    """
    colours = {name: colour(name) for name in tables}
    figure, axes = plt.subplots(
        1, len(tables), sharey=True, squeeze=False, layout="constrained", figsize=(6.4, 3.6)
    )
    for ax, (name, table) in zip(axes[0], tables.items(), strict=True):
        wide = table.pivot(index="epoch", columns="quantile", values="value")
        below = sorted(q for q in wide if q < 0.5)
        for i, q in enumerate(below):
            above = min(wide.columns, key=lambda other, q=q: abs(other - (1 - q)))
            looks = {"color": colours[name], "alpha": 0.15 + 0.15 * i, "linewidth": 0}
            ax.fill_between(wide.index, wide[q], wide[above], **looks, label=f"{q:.0%} to {above:.0%}")
        if 0.5 in wide:
            ax.plot(wide.index, wide[0.5], color=colours[name], label="median")
        ax.set(title=name, xlabel="Epoch")
    axes[0, 0].set_ylabel(ylabel)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
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
    """Draw figures over the epochs at which training might stop: a panel for each attack, a line for each defense.

    Parameters
    ----------
    frame : DataFrame
        From `mialab.trajectory` or `mialab.mixing_strength`.
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
    choose("metric", metric, set(frame["metric"]))
    rows = frame[frame["metric"] == metric]
    names = list(dict.fromkeys(rows["attack"])) if attacks is None else list(attacks)
    for name in names:
        choose("attacks", name, set(rows["attack"]))
    base, _, minus = metric.partition(" minus ")
    ending = f", minus {minus}" if minus else ""
    of_accuracy = frame[frame["metric"] == metric.replace(base, "test_accuracy", 1)]
    panels = [(name.replace("_", " "), _title(base) + ending, rows[rows["attack"] == name]) for name in names]
    if accuracy and x == "epoch" and not of_accuracy.empty and base != "test_accuracy":
        panels.append(("", f"Test accuracy{ending}", of_accuracy))
    labels = list(dict.fromkeys(frame["defense"]))
    colours, markers = _colours(labels), _markers(labels)
    whole: dict[str, object] = {name: "-" for name in labels if name in DEFENSES}  # variants are dashed
    dashes = _unlike(labels, whole, list(_ATTACKS.values())[1:])
    labels = [name for name in labels if name in set(rows["defense"])]
    wide = min(2, len(panels))
    deep = -(-len(panels) // wide)
    figure, axes = plt.subplots(
        deep,
        wide,
        squeeze=False,
        layout="constrained",
        figsize=(4.4 * wide if wide > 1 else 6.4, 3.3 * deep + 0.4 + 0.26 * -(-len(labels) // 2)),
    )
    for ax, (title, ylabel, part) in zip(axes.flat, panels, strict=False):
        for name in labels:
            own = part[part["defense"] == name].sort_values("epoch")
            look = {
                "color": colours[name],
                "label": name.replace("_", " "),
                "zorder": 2 + (name in whole) / 2,
            }
            if x == "epoch":
                ax.fill_between(own["epoch"], own["low"], own["high"], color=colours[name], alpha=0.1, lw=0)
                if len(own) <= 12:
                    look |= {"marker": markers[name], "markersize": 4.5}
                ax.plot(own["epoch"], own["value"], linestyle=dashes[name], **look)
            else:
                reached = frame[(frame["metric"] == "test_accuracy") & (frame["defense"] == name)]
                _draw_path(ax, reached.sort_values("epoch"), own, look, dashes[name], markers[name])
        level = 0.0 if minus else _chance(base)
        if level is not None and x == "epoch" and ylabel.startswith(_title(base)):
            ax.axhline(level, **_CHANCE, linestyle="--", label="no difference" if minus else "chance")
        ax.set(title=title, ylabel=ylabel, xlabel="Test accuracy" if x != "epoch" else "Epochs of training")
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    figure.suptitle(label)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def by_dataset(
    frame: pd.DataFrame,
    figures: Mapping[str, tuple[str, str]] | Sequence[tuple[str, str]],
    *,
    title: str = "",
) -> Figure:
    """Draw figures of several data sets after the last epoch: a panel for each figure, a row for each data set.

    Parameters
    ----------
    frame : DataFrame
        From `mialab.across`.
    figures : sequence of (attack, metric)
        What to draw, such as ``("loss", "balanced_accuracy")`` or ``("", "test_accuracy")``.
    title : str
        Of the whole figure.

    Returns
    -------
    matplotlib Figure
    """
    frame = frame[frame["epoch"] == frame.groupby("dataset")["epoch"].transform("max")]
    datasets, labels = (list(dict.fromkeys(frame[column])) for column in ("dataset", "defense"))
    colours, markers = _colours(labels), _markers(labels)
    step = 0.6 / len(labels)
    figure, axes = plt.subplots(
        1,
        len(figures),
        sharey=True,
        squeeze=False,
        layout="constrained",
        figsize=(1.2 + 3.6 * len(figures), 1.6 + len(datasets) * (0.3 + 0.16 * len(labels))),
    )
    for ax, (attack, metric) in zip(axes[0], figures, strict=True):
        part = frame[(frame["attack"] == attack) & (frame["metric"] == metric)]
        for i, name in enumerate(labels):
            own = part[part["defense"] == name]
            ax.errorbar(
                own["value"],
                [datasets.index(d) + (i - (len(labels) - 1) / 2) * step for d in own["dataset"]],
                xerr=np.maximum(0, [own["value"] - own["low"], own["high"] - own["value"]]),
                color=colours[name],
                marker=markers[name],
                markersize=6,
                elinewidth=1.4,
                linestyle="none",
                label=name.replace("_", " "),
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


# ------------------------------------------------------------------------------------------------------ machinery


def _known(defense: str) -> str | None:
    """Name of the known defense that `defense` is, or is a variant of."""
    name = defense.lower().replace("-", "_").replace(" ", "_")
    fits = [k for k in DEFENSES if name == k or (name.startswith(k) and not name[len(k)].isalnum())]
    return max(fits, key=len, default=None)


def _games(game: Game | Mapping[str, Game]) -> dict[str, Game]:
    games = {str(game.attrs.get("defense", "unknown")): game} if isinstance(game, Game) else dict(game)
    if not games:
        raise ValueError("game is an empty dict; it must hold at least one game, e.g. {'none': game}.")
    return games


def _by_defense(tables: pd.DataFrame | Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    if not isinstance(tables, pd.DataFrame):
        return dict(tables)
    if "defense" not in tables.columns:
        return {str(tables.attrs.get("defense", "unknown")): tables}
    parts = {}
    for name, part in tables.groupby("defense", sort=False):
        part.attrs = tables.attrs.get("audits", {}).get(name, {})
        parts[name] = part
    return parts


def _curve(
    game: Game, attack: Attack, columns: np.ndarray, confidence: float, n_resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return a ROC curve from the least rate that allows ten false alarms: rates, TPR with ends (rate, 3), AUC."""
    outcome = attack.run(game)
    evaluated = outcome.evaluated & columns
    lowest = 10 / max(10, (evaluated & ~game.member).sum())
    grid = np.geomspace(lowest, 1, 61)
    rates = metrics.pooled_bootstrap(
        outcome.score,
        game.member,
        evaluated=evaluated,
        partner=game.partner,
        fprs=grid,
        n_resamples=n_resamples,
        confidence=confidence,
        seed=seed,
    )
    tpr = np.array([rates[metrics.rate_name("tpr", f)] for f in grid])
    return grid, tpr, rates["auc"].value


def _draw_curves(
    ax: Axes, curves: Sequence[tuple], hatch_label: str | None = "fewer than 10 false alarms"
) -> None:
    """Draw curves (rates, TPR with ends, label, colour, dashes) on logarithmic axes, with the line of chance."""
    resolved = min(grid[0] for grid, *_ in curves)
    floor = 10.0 ** np.floor(np.log10(resolved) + 1e-9)
    ax.plot([floor, 1], [floor, 1], **_CHANCE)
    for grid, tpr, label, shade, dash in curves:
        value, low, high = np.where(tpr > floor, tpr, floor).T  # a log axis has no zero
        ax.fill_between(grid, low, high, color=shade, alpha=0.16 if len(curves) < 4 else 0.1, linewidth=0)
        ax.plot(grid, value, color=shade, linestyle=dash, label=label)
    if floor < resolved * (1 - 1e-9):
        looks = {"facecolor": "none", "edgecolor": "0.82", "hatch": "////", "linewidth": 0}
        ax.axvspan(floor, resolved, **looks, zorder=0, label=hatch_label)
    ax.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1.05))
    ax.set(xlabel="False-positive rate", ylabel="True-positive rate")
    middle = np.sqrt(max(resolved, floor) * 0.02)
    ax.text(
        middle,
        middle / 1.25,
        "chance",
        color="0.45",
        fontsize="small",
        rotation=45,
        transform_rotates_text=True,
        rotation_mode="anchor",
        va="top",
    )


def _scale(metric: str) -> tuple[Colormap, Normalize, Callable[[float], str]]:
    """Colours of a metric, and how its values are written in a cell."""
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
    known = value is not None and np.isfinite(value)
    fill = palette(norm(max(value, norm.vmin))) if known else "white"
    frame = {"edgecolor": "white", "linewidth": 1} if known else {"edgecolor": "0.88", "linewidth": 0}
    ax.add_patch(
        Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=fill, **frame, hatch=None if known else "////")
    )
    text = write(value) if known else "-" if value is None else "n/a"
    dark = known and np.dot(to_rgb(fill), (0.299, 0.587, 0.114)) < 0.55
    box = None if known else {"facecolor": "white", "edgecolor": "none", "pad": 1}
    ax.text(
        x, y, text, ha="center", va="center", fontsize=fontsize, color="white" if dark else "0.1", bbox=box
    )


def _scores(
    games: Mapping[str, Game], attack: str | Attack, target: int | None, records: ArrayLike | None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scores of the members and of the non-members of each game."""
    attack, scores = _attacks.make(attack), {}
    for label, game in games.items():
        if target is not None and not 0 <= target < game.n_models:
            raise ValueError(f"target={target!r} must be a model's index, 0 to {game.n_models - 1}.")
        outcome = attack.run(game)
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


def _draw_scores(
    ax: Axes,
    scores: Mapping[str, tuple[np.ndarray, np.ndarray]],
    colours: Mapping[str, str],
    edges: np.ndarray,
) -> None:
    for label, (inside, outside) in scores.items():
        if len(scores) == 1:
            looks = (
                {"color": _mix(colours[label], 0.25), "alpha": 0.65, "label": "members"},
                {"color": "0.35", "histtype": "step", "linewidth": 1.6, "label": "non-members"},
            )
        else:
            line = {"color": colours[label], "histtype": "step", "linewidth": 1.6}
            looks = (
                {**line, "label": f"{label}: members"},
                {**line, "linestyle": (0, (3, 1.5)), "label": f"{label}: non-members"},
            )
        for values, look in zip((inside, outside), looks, strict=True):
            weight = np.full(len(values), 1 / max(1, len(values)))
            ax.hist(np.clip(values, edges[0], edges[-1]), edges, weights=weight, **look)


def _draw_path(
    ax: Axes, accuracy: pd.DataFrame, figures: pd.DataFrame, look: dict, dash: object, shape: object
) -> None:
    """Draw figures (a row for each epoch) against the accuracy at the same epochs; the last one stands out."""
    across, up = (table[["value", "low", "high"]].to_numpy().T for table in (accuracy, figures))
    ax.plot(across[0], up[0], linestyle=dash, marker=".", markersize=5, linewidth=1.2, color=look["color"])
    ends = [[[value[-1] - low[-1]], [high[-1] - value[-1]]] for value, low, high in (across, up)]
    error = dict(zip(("xerr", "yerr"), np.nan_to_num(np.maximum(0, ends)), strict=True))
    end = {"marker": shape, "markersize": 7, "linestyle": dash, "elinewidth": 1.4}
    ax.errorbar(across[0, -1:], up[0, -1:], **error, **end, **look)


def _colours(labels: Iterable[str]) -> dict[str, str]:
    """Colour of each label; where several share one (variants of a defense) they get shades of it."""
    same: dict[str, list[str]] = {}
    for label in labels:
        same.setdefault(colour(label), []).append(label)
    return {k: s for c, ks in same.items() for k, s in zip(ks, _variants(c, len(ks)), strict=True)}


def _markers(labels: Iterable[str]) -> dict[str, object]:
    """Marker of each label; variants of a defense share it."""
    return _unlike(labels, {label: marker(label) for label in labels if _known(label)}, _MARKERS)


def _shades(base: str, n: int) -> list[str]:
    return [_mix(base, white) for white in np.linspace(0, 0.55, n)] if n > 1 else [base]


def _variants(base: str, n: int) -> list[str]:
    """Colours of variants; of many, darker and lighter ones in turn, since so many lighter ones would look alike."""
    if n < 4 or max(to_rgb(base)) < 0.5:
        return _shades(base, n)
    steps = np.linspace(0.25, 0.65, n // 2)
    return [base, *(_mix(base, step, end) for step in steps for end in (0.0, 1.0))][:n]


def _mix(base: str, share: float, end: float = 1.0) -> str:
    """Mix a colour with white, or with black (``end`` 0)."""
    return to_hex(np.array(to_rgb(base)) * (1 - share) + share * end)


def _unlike(names: Iterable[str], known: Mapping[str, object], choices: Sequence) -> dict[str, object]:
    """Give known names what is theirs, and the others the first of `choices` that is free in this figure."""
    given = {name: known[name] for name in names if name in known}
    for name in names:
        free = [c for c in choices if c not in given.values()]
        given.setdefault(name, free[0] if free else choices[0])
    return given


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _legend_below(ax: Axes, columns: int) -> None:
    """Put the legend under the axes, where it hides nothing; a figure of its own grows to hold it."""
    handles = ax.get_legend_handles_labels()[0]
    rows = -(-len(handles) // columns)
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=columns, fontsize="small", columnspacing=1.2
    )
    figure = ax.figure
    if len(figure.axes) == 1:
        figure.set_figheight(figure.get_figheight() + 0.22 * rows)


def _axes(ax: Axes | None) -> Axes:
    return plt.subplots(layout="constrained")[1] if ax is None else ax


def _chance(metric: str) -> float | None:
    """Value of a metric for an attack that knows nothing, where that is one number."""
    return (
        float(metric.split("@")[1]) if "@" in metric else {"auc": 0.5, "balanced_accuracy": 0.5}.get(metric)
    )


def _title(metric: str) -> str:
    kind, _, rate = metric.partition("@")
    if rate:
        return f"{kind.upper()} at {'FPR' if kind == 'tpr' else 'FNR'} {float(rate):g}"
    return {"auc": "AUC", "f1": "F1"}.get(kind, kind.replace("_", " ").capitalize())
