"""What all figures have in common: colors, markers, dashes, and how panels, intervals and legends are drawn."""

from __future__ import annotations

import io
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from mialab.attacks import available
from mialab.games.base import Game

# The palette of Okabe and Ito (2008) for the undefended model and the papers, that of Tol (2021, "muted") for the
# baselines. Both can be told apart with the common forms of color blindness; markers help where hues come close.
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
    "confidence_masking": ("#bbcc33", "<"),
    "dynanoise": ("#ee8866", ">"),
    "distillation": ("#6699cc", "v"),
    "convex_concave": ("#999999", "D"),
    "mist": ("#225555", "p"),
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


#: Of several attacks in one figure: the colors of Okabe and Ito, and three of Tol's.
_COLORS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"),
    *("#882255", "#999933", "#332288"),
)


_CHANCE: dict[str, Any] = {"color": "0.55", "linewidth": 1, "zorder": 1}


def style() -> None:
    """Set the theme of all figures of this study: seaborn ticks, a light grid, text that stays text in SVG.

    In a notebook, figures have two pixels for each of the page's, so that they are sharp on dense screens.
    """
    if "ipykernel" in sys.modules:
        from matplotlib_inline.backend_inline import set_matplotlib_formats  # which comes with it

        set_matplotlib_formats("retina")
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette=[color for color, _ in DEFENSES.values()],
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


def color(defense: str) -> str:
    """Color of a defense, the same in every figure and every run.

    Parameters
    ----------
    defense : str
        Name of a defense. A variant, such as ``"hamp (gamma=0.5)"``, has the color of its defense; a defense
        unknown to the package gets one that depends on its name alone.

    Returns
    -------
    str
        As ``"#rrggbb"``.
    """
    known = _known(defense)
    return DEFENSES[known][0] if known else _SPARE[zlib.crc32(defense.encode()) % len(_SPARE)]


def marker(defense: str) -> str:
    """Marker of a defense, chosen as its `color`."""
    known = _known(defense)
    return DEFENSES[known][1] if known else _MARKERS[zlib.crc32(defense.encode()) % len(_MARKERS)]


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


def _colors(labels: Iterable[str]) -> dict[str, str]:
    """Color of each label; where several share one (variants of a defense) they get shades of it."""
    same: dict[str, list[str]] = {}
    for label in labels:
        same.setdefault(color(label), []).append(label)
    return {k: s for c, ks in same.items() for k, s in zip(ks, _variants(c, len(ks)), strict=True)}


def _markers(labels: Iterable[str]) -> dict[str, object]:
    """Marker of each label; variants of a defense share it."""
    return _unlike(labels, {label: marker(label) for label in labels if _known(label)}, _MARKERS)


def _shades(base: str, n: int) -> list[str]:
    return [_mix(base, white) for white in np.linspace(0, 0.55, n)] if n > 1 else [base]


def _variants(base: str, n: int) -> list[str]:
    """Colors of variants; of many, darker and lighter ones in turn, since so many lighter ones would look alike."""
    if n < 4 or max(to_rgb(base)) < 0.5:
        return _shades(base, n)
    steps = np.linspace(0.25, 0.65, n // 2)
    return [base, *(_mix(base, step, end) for step in steps for end in (0.0, 1.0))][:n]


def _mix(base: str, fraction: float, end: float = 1.0) -> str:
    """Mix a color with white, or with black (``end`` 0)."""
    red, green, blue = np.array(to_rgb(base)) * (1 - fraction) + fraction * end
    return to_hex((red, green, blue))


def _unlike(names: Iterable[str], known: Mapping[str, object], choices: Sequence) -> dict[str, object]:
    """Give known names what is theirs, and the others the first of `choices` that is free in this figure."""
    given = {name: known[name] for name in names if name in known}
    for name in names:
        free = [c for c in choices if c not in given.values()]
        given.setdefault(name, free[0] if free else choices[0])
    return given


@cache
def attack_color(name: str) -> str:
    """Return the color of an attack, the same in every figure; variants of the threshold share it.

    Parameters
    ----------
    name : str
        Name of an attack, e.g. ``"lira"``.
    """
    if name == "loss":
        return "#7f7f7f"  # the baseline of every figure
    known = [a for a in (*_ATTACKS, *(n for n in available().index if n not in _ATTACKS)) if a != "loss"]
    plain = name.removesuffix("_known_half")
    place = known.index(plain) if plain in known else zlib.crc32(plain.encode())
    return _COLORS[place % len(_COLORS)]


def _looks(labels: Iterable[str], **options: Any) -> dict[str, dict[str, Any]]:
    """How the values of each label are drawn by ``errorbar``: its color, marker and name, and what all share."""
    labels = list(labels)
    colors, markers = _colors(labels), _markers(labels)
    return {
        name: {"color": colors[name], "marker": markers[name], "label": name, **options} for name in labels
    }


def as_svg(fig: Figure, alt: str) -> str:
    """Return a figure as SVG to stand in a page, with a text for those who cannot see it, and close it.

    Parameters
    ----------
    fig : matplotlib Figure
    alt : str
        What it shows.
    """
    out = io.StringIO()
    fig.savefig(out, format="svg", bbox_inches="tight")
    plt.close(fig)
    text = out.getvalue()
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)


def _draw_intervals(ax: Axes, x: Any, y: Any, **looks: Any) -> None:
    """Draw points, with bars wherever `x` or `y` is a table of values with intervals."""
    (x, across), (y, along) = (
        (v["value"], _bars(v)) if isinstance(v, pd.DataFrame) else (v, None) for v in (x, y)
    )
    ax.errorbar(x, y, xerr=across, yerr=along, **looks)


def _bars(rows: pd.DataFrame) -> np.ndarray:
    """Return the lengths of error bars below and above values, (2, row); 0 where an end is not known."""
    return np.maximum(0, np.nan_to_num([rows["value"] - rows["low"], rows["high"] - rows["value"]]))


def _draw_chance(ax: Axes, level: float | None, *, upright: bool = False, label: str = "chance") -> None:
    """Draw a dashed line where there is nothing to tell members by, if that is one value."""
    if level is not None:
        (ax.axvline if upright else ax.axhline)(level, **_CHANCE, linestyle="--", label=label)


def _entries(ax: Axes) -> tuple[list, list[str]]:
    """Return what a legend names, handles and labels: each once, and last what everything is compared with."""
    known = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    labels = sorted(known, key=("chance", "no difference").__contains__)
    return [known[label] for label in labels], labels


def _legend_below(ax: Axes) -> None:
    """Put the legend under the axes, where it hides nothing; a figure of its own grows to hold it."""
    handles, labels = _entries(ax)
    columns = 3 if max(map(len, labels), default=0) < 18 else 2
    looks: dict[str, Any] = {"fontsize": "small", "columnspacing": 1.2}
    ax.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=columns, **looks)
    figure = ax.get_figure(root=True)
    if figure and len(figure.axes) == 1:
        figure.set_figheight(figure.get_figheight() + 0.22 * -(-len(handles) // columns))


def _axes(ax: Axes | None, **options: Any) -> Axes:
    return plt.subplots(layout="constrained", **options)[1] if ax is None else ax


def _panels(
    rows: int, columns: int, width: float, height: float, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a grid of panels, row by row."""
    options |= {"figsize": (width, height), "layout": "constrained", "squeeze": False}
    figure, axes = plt.subplots(rows, columns, **options)
    return figure, list(axes.flat)


def _shared_legend(ax: Axes, columns: int, place: Any = "outside lower center") -> None:
    """Put the legend of one panel outside of all of them."""
    ax.figure.legend(*_entries(ax), loc=place, ncols=columns)


def _bare(ax: Axes) -> None:
    """Leave of the axes nothing but the names beside them."""
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)


def _chance(metric: str) -> float | None:
    """Value of a metric for an attack that knows nothing, where that is one number."""
    return (
        float(metric.split("@")[1]) if "@" in metric else {"auc": 0.5, "balanced_accuracy": 0.5}.get(metric)
    )


def _of(name: str) -> str:
    """Return a name as it is written in figures."""
    return name.replace("_", " ")


def _title(metric: str) -> str:
    kind, _, rate = metric.partition("@")
    if rate:
        return f"{kind.upper()} at {'FPR' if kind == 'tpr' else 'FNR'} {float(rate):g}"
    return {"auc": "AUC", "f1": "F1"}.get(kind, _of(kind).capitalize())
