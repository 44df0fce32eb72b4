"""Games of quantised models beside games of others: sizes, both answers at once, equal accuracy, every width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from mialab import metrics, models
from mialab.audit import audit, pooled_rows
from mialab.defenses.base import Defense
from mialab.defenses.quantization import Quantization
from mialab.differences import difference
from mialab.engine import initialise
from mialab.game import Game, play
from mialab.options import choose
from mialab.store import ANSWERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mialab.attacks.base import Attack
    from mialab.data import Pool
    from mialab.defenses.quantization import Bits
    from mialab.engine import Training
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


def matched_stop(
    pool: Pool,
    model: str | Model,
    target: Game,
    *,
    training: Training,
    stops: Sequence[int],
    defense: Defense | None = None,
    **options: Any,
) -> tuple[int, Game, pd.DataFrame]:
    """Stop training early where the accuracy is that of other models: the control for what lower accuracy alone does.

    Parameters
    ----------
    pool, model, defense, training
        What is trained, see `mialab.play`.
    target : Game
        The models whose mean test accuracy is to be met.
    stops : sequence of int
        Epochs to stop after, each of which is tried.
    **options
        The others of `mialab.play`, such as ``n_models`` and ``seed``.

    Returns
    -------
    tuple of int, Game and pandas.DataFrame
        The stop with the nearest mean test accuracy (of equal ones the first), its game, and for each stop the ``test
        accuracy`` and its ``gap`` to the target's.
    """
    if not stops:
        raise ValueError("stops=() must name at least one number of epochs.")
    games = {
        stop: play(pool, model, defense, training=replace(training, stop=stop), **options) for stop in stops
    }
    table = pd.DataFrame({"test accuracy": {stop: game.test_accuracy.mean() for stop, game in games.items()}})
    table["gap"] = table["test accuracy"] - target.test_accuracy.mean()
    best = int(table["gap"].abs().idxmin())
    return best, games[best], table.rename_axis(index="stop")


def changes(
    games: Mapping[str, Game],
    reference: Game,
    attack: str | Attack,
    figures: Sequence[str] = ("balanced_accuracy", "recall", "precision", "f1"),
    **options: Any,
) -> pd.DataFrame:
    """Return how an attack's figures change against a reference, in points and relative to it, with intervals.

    Parameters
    ----------
    games : dict of str to Game
        Label to game.
    reference : Game
        The game that each is compared with, of the same members.
    attack : str or Attack
        The attack.
    figures : sequence of str
        See the metrics of `mialab.difference`.
    **options
        The others of `mialab.difference`.

    Returns
    -------
    pandas.DataFrame of str
        A row for each game; columns (metric, "points") and (metric, "relative"), as fractions.
    """

    def change(game: Game, metric: str, relative: bool) -> str:
        both = (game, attack), (reference, attack)
        return f"{difference(*both, metric=metric, relative=relative, **options):+.3f}"

    cells = {
        (metric, reading): {label: change(game, metric, relative) for label, game in games.items()}
        for metric in figures
        for reading, relative in (("points", False), ("relative", True))
    }
    return pd.DataFrame(cells)


def widths(
    games: Mapping[str, Mapping[Bits, Game]],
    attacks: Sequence[str | Attack],
    *,
    pool: Pool,
    model: str | Model,
    **options: Any,
) -> pd.DataFrame:
    """Measure games of several widths: sizes, accuracies, and the figures of attacks.

    Parameters
    ----------
    games : dict of str to dict
        Label of the kind of quantisation, or of a control, to width to game.
    attacks : sequence of str or Attack
        The attacks.
    pool, model
        What was played with.
    **options
        Those of `mialab.audit`.

    Returns
    -------
    pandas.DataFrame
        Columns ``arm``, ``bits``, ``size`` (of the model in bits), ``attack``, ``metric``, ``value``, ``low``,
        ``high``; with the metric ``"test_accuracy"``, without an attack, means over models.
    """
    parts = []
    for arm, by_width in games.items():
        for bits, game in by_width.items():
            table = audit(game, attacks, **options)
            rows = pd.concat([pooled_rows(table, metric) for metric in dict.fromkeys(table["metric"])])
            accuracy = metrics.over_targets(game.test_accuracy, partner=game.partner)
            own = pd.DataFrame([{"attack": "", "metric": "test_accuracy", **accuracy._asdict()}])
            rows = pd.concat([pd.DataFrame(rows)[["attack", "metric", "value", "low", "high"]], own])
            size = model_bits(pool, model, _defense_of(game))
            parts.append(rows.assign(arm=arm, bits=bits, size=size))
    columns = ["arm", "bits", "size", "attack", "metric", "value", "low", "high"]
    return pd.concat(parts, ignore_index=True)[columns].astype({"bits": object})


def _defense_of(game: Game) -> Defense | None:
    """Return the defense of a game if it is a quantisation."""
    if game.attrs.get("defense") != Quantization.name:
        return None
    return Quantization(**game.attrs["defense_parameters"])


def overview(table: pd.DataFrame, attack: str, figures: Sequence[str] = ("auc",)) -> pd.DataFrame:
    """Lay the widths out for a page: a row for each arm and width, with its size, accuracy and an attack's figures.

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
    choose("attack", attack, set(table["attack"]) - {""})
    rows = {}
    for (arm, bits), own in table.groupby(["arm", "bits"], sort=False):
        cells = {"kbit": f"{own['size'].iloc[0] / 1000:,.1f}"}
        for metric in ("test_accuracy", *figures):
            right = (own["metric"] == metric) & (
                own["attack"] == ("" if metric == "test_accuracy" else attack)
            )
            value = _interval(own[right])
            cells[metric.replace("_", " ")] = f"{value:.3f}"
        rows[arm, str(bits)] = cells
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(index=["arm", "bits"])


def _interval(rows: pd.DataFrame) -> metrics.Interval:
    """Return the interval in a single row."""
    return metrics.Interval(*rows[["value", "low", "high"]].to_numpy(dtype=np.float64)[0].tolist())


def plot_widths(table: pd.DataFrame, attack: str, metric: str = "auc") -> Figure:
    """Draw a figure of an attack, and beside it the test accuracy, against the width of weights.

    Parameters
    ----------
    table : DataFrame
        From `widths`. Arms that are no quantisation are drawn as horizontal lines with their intervals.
    attack : str
        The attack.
    metric : str
        The metric.

    Returns
    -------
    matplotlib Figure
    """
    import matplotlib.pyplot as plt

    from mialab import plots

    choose("attack", attack, set(table["attack"]) - {""})
    arms = list(dict.fromkeys(table["arm"]))
    lines = [arm for arm in arms if arm.startswith(Quantization.name)]
    order = sorted(set(table.loc[table["arm"].isin(lines), "bits"]), key=_width, reverse=True)
    place, colours = {bits: i for i, bits in enumerate(order)}, plots._colours(dict.fromkeys(arms))
    shifts = dict(zip(lines, np.linspace(-0.12, 0.12, max(2, len(lines))), strict=False))
    markers = dict(zip(lines, "PosDX^v", strict=False))
    figure, panels = plt.subplots(1, 2, figsize=(10.4, 4.6), layout="constrained")
    for ax, name, of in zip(panels, (metric, "test_accuracy"), (attack, ""), strict=True):
        rows = table[(table["attack"] == of) & (table["metric"] == name)]
        for arm in arms:
            own = rows[rows["arm"] == arm]
            if arm not in lines:
                value, low, high = _interval(own)
                ax.axhline(value, color=colours[arm], linewidth=1.4, linestyle=(0, (5, 2)), label=arm)
                ax.axhspan(low, high, color=colours[arm], alpha=0.1, linewidth=0)
                continue
            own = own.sort_values("bits", key=lambda column: column.map(place))
            ax.errorbar(
                own["bits"].map(place).to_numpy() + shifts[arm],
                own["value"],
                yerr=np.maximum(0, [own["value"] - own["low"], own["high"] - own["value"]]),
                color=colours[arm],
                marker=markers[arm],
                markersize=6,
                elinewidth=1.2,
                linewidth=1.4,
                label=arm,
            )
        ax.set_xticks(
            range(len(order)), [f"{bits} bits" if isinstance(bits, int) else bits for bits in order]
        )
        title = f"{plots._title(name)} ({attack.replace('_', ' ')})" if of else "Test accuracy"
        ax.set(xlabel="Weights of the inner layers", ylabel=title)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _width(bits: Bits) -> float:
    return {"binary": 1.0, "ternary": 1.5}.get(bits) or float(bits)  # type: ignore[call-overload]
