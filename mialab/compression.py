"""Games of quantised models beside games of others: sizes, both answers at once, equal accuracy, every width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from mialab import attacks, metrics, models
from mialab.audit import audit, pooled_rows
from mialab.defenses.base import Defense
from mialab.defenses.quantization import Quantization, steps
from mialab.engine import initialise
from mialab.game import Game
from mialab.options import choose
from mialab.store import ANSWERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mialab.attacks.base import Attack
    from mialab.data import Pool
    from mialab.models import Model


def model_bits(pool: Pool, model: str | Model, defense: Defense | None = None) -> int:
    """Return the size of a model in bits, 32 for each parameter that is not quantised.

    Parameters
    ----------
    pool : Pool
        Gives the shape of the records and the number of classes.
    model : str or Model
        The network.
    defense : Defense, optional
        A `mialab.defenses.Quantization`, see its ``model_bits``; others change no size.
    """
    network = initialise(models.make(model), pool, 0, 0)
    quantization = defense if isinstance(defense, Quantization) else Quantization(bits=32)
    return quantization.model_bits(network)


def join_answers(quantised: Game, full: Game) -> Game:
    """Return the game of an attacker who gets the answers of quantised models and of the same ones in full precision.

    Whoever publishes both gives this attacker a second query: play the second game with ``Quantization(bits=32)`` and,
    where the quantised models were trained further, with ``Training(..., stop=...)`` after as many epochs as those were
    trained in full precision (``Quantization.full_precision_epochs``). Attacks that use every query, such as
    ``"lira_augmented"``, then use both.

    Parameters
    ----------
    quantised, full : Game
        Of the same pool, number of models and seed, so that they have the same members.

    Returns
    -------
    Game
        The first game with the queries of both; those of the second are of the kind ``"full_precision"``. What probes
        measured is left out, as it belongs to one of them.

    Raises
    ------
    ValueError
        If the games do not fit together.
    """
    for name in ("fingerprint", "model", "n_models", "seed", "canaries", "keep"):
        mine, other = quantised.attrs.get(name), full.attrs.get(name)
        if mine != other:
            raise ValueError(
                f"The full-precision models were played with {name}={other!r}; it must be that of the quantised "
                f"models, {mine!r}."
            )
    if quantised.member.shape != full.member.shape or (quantised.member != full.member).any():
        raise ValueError("The full-precision models have other members than the quantised ones.")
    answers = [name for name in ANSWERS if name in quantised.dataset and name in full.dataset]
    joined = xr.concat([game.dataset[answers] for game in (quantised, full)], "query")
    measured = [v for v in quantised.dataset.variables if {"query", "layer"} & {*quantised.dataset[v].dims}]
    rest = quantised.dataset.drop_vars([*measured, "boundary_distance"], errors="ignore")
    kinds = [*quantised.query_kinds, *full.n_queries * ("full_precision",)]
    about = {"query_kinds": kinds, "probes": [], "layers": [], "queries": "quantised and full precision"}
    return Game(rest.assign(joined.data_vars).assign_attrs(about))


def nearest_accuracy(games: Mapping[Any, Game], target: Game) -> Any:
    """Return the label of the game whose mean test accuracy is nearest to that of another one; of equal ones the first.

    It finds the control for what lower accuracy alone does, such as training that stopped early.

    Parameters
    ----------
    games : dict of Game
        The games to choose from, by label.
    target : Game
        The game whose accuracy is to be met.
    """
    if not games:
        raise ValueError("games={} must hold at least one game to choose from.")
    aim = target.test_accuracy.mean()
    return min(games, key=lambda label: abs(games[label].test_accuracy.mean() - aim))


def changes(
    games: Mapping[Any, Game],
    reference: Game,
    attack: str | Attack,
    figures: Sequence[str] = ("balanced_accuracy", "recall", "precision", "f1"),
    *,
    n_resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Return how an attack's figures change against a reference, in points and relative to it, with intervals.

    The same as `mialab.difference` for each figure, but that each game is attacked once.

    Parameters
    ----------
    games : dict of Game
        Label to game.
    reference : Game
        The game that each is compared with, of the same members.
    attack : str or Attack
        The attack.
    figures : sequence of str
        ``"auc"`` and figures of decisions, see `mialab.difference`.
    n_resamples, seed
        Of the intervals.

    Returns
    -------
    pandas.DataFrame of Interval
        A row for each game; columns (figure, "points") and (figure, "relative"), as fractions.

    Raises
    ------
    ValueError
        If members differ, or a figure is unknown.
    """
    attack = attacks.make(attack)
    known = ("auc", "balanced_accuracy", "precision", "recall", "f1")
    for figure in figures:
        choose("figures", figure, known)
    before = vars(attack.run(reference))
    rows = {}
    for label, game in games.items():
        if game.member.shape != reference.member.shape or (game.member != reference.member).any():
            raise ValueError(
                f"games[{label!r}] has other members than the reference: play both with the same seed."
            )
        after = vars(attack.run(game))
        found = {
            reading: metrics.pooled_difference(
                after,
                before,
                relative=reading == "relative",
                member=game.member,
                partner=game.partner,
                fprs=(),
                n_resamples=n_resamples,
                seed=seed,
            )
            for reading in ("points", "relative")
        }
        rows[label] = [found[reading][figure] for figure in figures for reading in found]
    columns = pd.MultiIndex.from_product([figures, ["points", "relative"]])
    table = pd.DataFrame(index=pd.Index(list(rows), dtype=object), columns=columns, dtype=object)
    for label, cells in rows.items():
        for column, cell in zip(columns, cells, strict=True):
            table.at[label, column] = cell
    return table


def widths(
    games: Mapping[str, Mapping[Any, Game]],
    attacks: Sequence[str | Attack],
    *,
    pool: Pool,
    model: str | Model,
    **options: Any,
) -> pd.DataFrame:
    """Measure games of several widths, and their controls: sizes, accuracies, and the figures of attacks.

    Parameters
    ----------
    games : dict of str to dict
        Arm, a kind of quantisation or a control, to what was varied (the width, or the epochs of a control) to game.
    attacks : sequence of str or Attack
        The attacks.
    pool, model
        What was played with.
    **options
        Those of `mialab.audit`.

    Returns
    -------
    pandas.DataFrame
        Columns ``arm``, ``setting`` (what was varied), ``size`` (of the model in bits), ``attack``, ``metric``,
        ``value``, ``low``, ``high``; with the metric ``"test_accuracy"``, without an attack, means over models.
    """
    parts = []
    for arm, varied in games.items():
        for setting, game in varied.items():
            table = audit(game, attacks, **options)
            rows = pd.concat([pooled_rows(table, metric) for metric in dict.fromkeys(table["metric"])])
            accuracy = metrics.over_targets(game.test_accuracy, partner=game.partner)
            own = pd.DataFrame([{"attack": "", "metric": "test_accuracy", **accuracy._asdict()}])
            rows = pd.concat([pd.DataFrame(rows)[["attack", "metric", "value", "low", "high"]], own])
            size = model_bits(pool, model, _defense_of(game))
            parts.append(
                rows.assign(
                    arm=arm, size=size, setting=pd.Series(len(rows) * [setting], rows.index, dtype=object)
                )
            )
    columns = ["arm", "setting", "size", "attack", "metric", "value", "low", "high"]
    return pd.concat(parts, ignore_index=True)[columns]


def _defense_of(game: Game) -> Defense | None:
    """Return the defense of a game if it is a quantisation."""
    if game.attrs.get("defense") != Quantization.name:
        return None
    return Quantization(**game.attrs["defense_parameters"])


def overview(table: pd.DataFrame, attack: str, figures: Sequence[str] = ("auc",)) -> pd.DataFrame:
    """Lay the widths out for a page: a row for each arm and setting, with its size, accuracy and an attack's figures.

    Parameters
    ----------
    table : DataFrame
        From `widths`.
    attack : str
        The attack.
    figures : sequence of str
        Its figures, such as ``"auc"``.

    Returns
    -------
    pandas.DataFrame of str
        Columns ``kbit`` (size of the model in thousands of bits), ``test accuracy``, and the figures.
    """
    sought = {"test_accuracy": "", **dict.fromkeys(figures, attack)}
    parts = {
        metric: _figure(table, of, metric).set_index(["arm", "setting"]) for metric, of in sought.items()
    }
    cells = {"kbit": [f"{size / 1000:,.1f}" for size in parts["test_accuracy"]["size"]]}
    for metric, rows in parts.items():
        cells[metric.replace("_", " ")] = [f"{interval:.3f}" for interval in _intervals(rows)]
    return pd.DataFrame(cells, index=parts["test_accuracy"].index)


def plot_widths(
    table: pd.DataFrame, attack: str, metric: str = "auc", *, controls: Mapping[str, Any] | None = None
) -> Figure:
    """Draw a figure of an attack, and beside it the test accuracy, against the width of weights.

    Parameters
    ----------
    table : DataFrame
        From `widths`. Arms that are no quantisation are drawn as horizontal lines with their intervals.
    attack : str
        The attack.
    metric : str
        The metric.
    controls : dict, optional
        Which setting of those arms is drawn; the first one by default.

    Returns
    -------
    matplotlib Figure
    """
    import matplotlib.pyplot as plt  # when a figure is wanted, never by worker processes

    panels = {metric: _figure(table, attack, metric), "test_accuracy": _figure(table, "", "test_accuracy")}
    arms = list(dict.fromkeys(table["arm"]))
    lines = [arm for arm in arms if arm.startswith(Quantization.name)]
    order = sorted(set(table.loc[table["arm"].isin(lines), "setting"]), key=steps, reverse=True)
    place, shifts = {bits: i for i, bits in enumerate(order)}, np.linspace(-0.12, 0.12, max(2, len(lines)))
    figure, axes = plt.subplots(1, 2, figsize=(10.4, 4.6), layout="constrained")
    for ax, (name, rows) in zip(axes, panels.items(), strict=True):
        for arm, looks in _looks(arms).items():
            own = rows[rows["arm"] == arm]
            if arm not in lines:
                chosen = (controls or {}).get(arm, own["setting"].iloc[0])
                value, low, high = _intervals(own[own["setting"] == chosen])[0]
                ax.axhline(value, color=looks["color"], linewidth=1.4, linestyle=(0, (5, 2)), label=arm)
                ax.axhspan(low, high, color=looks["color"], alpha=0.1, linewidth=0)
                continue
            own = own.sort_values("setting", key=lambda column: column.map(place))
            x = own["setting"].map(place).to_numpy() + shifts[lines.index(arm)]
            ax.errorbar(x, own["value"], yerr=_bars(own), **looks)
        ax.set_xticks(range(len(order)), [_text(bits) for bits in order])
        ax.set(xlabel="Weights of the inner layers", ylabel=_label(name, attack))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def plot_tradeoff(table: pd.DataFrame, attack: str, metric: str = "auc") -> Axes:
    """Draw a figure of an attack against the test accuracy, a line through the settings of each arm.

    The setting of each line with the lowest accuracy is named.

    Parameters
    ----------
    table : DataFrame
        From `widths`.
    attack : str
        The attack.
    metric : str
        The metric.

    Returns
    -------
    matplotlib Axes
    """
    import matplotlib.pyplot as plt  # when a figure is wanted, never by worker processes

    strength, accuracy = _figure(table, attack, metric), _figure(table, "", "test_accuracy")
    figure, ax = plt.subplots(figsize=(7.2, 5.6), layout="constrained")
    for arm, looks in _looks(list(dict.fromkeys(table["arm"]))).items():
        y, x = (rows[rows["arm"] == arm] for rows in (strength, accuracy))
        ax.errorbar(x["value"], y["value"], xerr=_bars(x), yerr=_bars(y), **looks)
        if len(x) > 1:
            lowest = int(x["value"].argmin())
            at, setting = (x["value"].iloc[lowest], y["value"].iloc[lowest]), x["setting"].iloc[lowest]
            ax.annotate(_text(setting), at, xytext=(5, 5), textcoords="offset points", fontsize="small")
    ax.set(xlabel="Test accuracy", ylabel=_label(metric, attack))
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return ax


def _figure(table: pd.DataFrame, attack: str, metric: str) -> pd.DataFrame:
    """Return the rows of one figure."""
    if attack:
        choose("attack", attack, set(table["attack"]) - {""})
    choose("metric", metric, set(table["metric"]))
    return table[(table["attack"] == attack) & (table["metric"] == metric)]


def _intervals(rows: pd.DataFrame) -> list[metrics.Interval]:
    return [metrics.Interval(*row) for row in rows[["value", "low", "high"]].to_numpy(np.float64).tolist()]


def _bars(rows: pd.DataFrame) -> np.ndarray:
    return np.maximum(0, [rows["value"] - rows["low"], rows["high"] - rows["value"]])


def _looks(arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and lines of each arm; the kinds of quantisation share a colour and differ in shade and marker."""
    from mialab import plots

    colours, own = plots._colours(dict.fromkeys(arms)), iter("PosDX^v")
    markers = {arm: next(own) if arm.startswith(Quantization.name) else plots.marker(arm) for arm in arms}
    lines = {"markersize": 6, "elinewidth": 1.2, "linewidth": 1.4}
    return {arm: {"color": colours[arm], "marker": markers[arm], "label": arm, **lines} for arm in arms}


def _label(metric: str, attack: str) -> str:
    from mialab import plots

    if metric == "test_accuracy":
        return "Test accuracy"
    return f"{plots._title(metric)} ({attack.replace('_', ' ')})"


def _text(setting: Any) -> str:
    return f"{setting} bits" if isinstance(setting, int) else str(setting)
