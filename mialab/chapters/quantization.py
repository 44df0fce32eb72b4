"""The chapter on quantization: sizes, both answers at once, equal accuracy, every width, and the choice of widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from mialab import attacks, metrics, models
from mialab._validation import check_integer, check_number, choose, select
from mialab.auditing.conditions import watched
from mialab.auditing.differences import difference, mean_test_accuracy
from mialab.auditing.measure import audit
from mialab.chapters.settings import settings
from mialab.classifiers.game import play
from mialab.classifiers.signals import ANSWERS
from mialab.defenses.base import Defense
from mialab.defenses.quantization import Quantization
from mialab.games.base import Game
from mialab.metrics.intervals import Interval
from mialab.training.stack import initialize

if TYPE_CHECKING:
    from mialab.attacks.base import Attack
    from mialab.data.pool import Pool
    from mialab.defenses.quantization import Bits
    from mialab.models import Model
    from mialab.training.options import Training


def model_bits(pool: Pool, model: str | Model, defense: Defense | None = None) -> int:
    """Return the size of a model in bits, 32 for each parameter that is not quantized.

    Parameters
    ----------
    pool : Pool
        Gives the shape of the records and the number of classes.
    model : str or Model
        The network.
    defense : Defense, optional
        A `mialab.defenses.Quantization`, see its ``model_bits``; others change no size.
    """
    network = initialize(models.make(model), pool, 0, 0)
    quantization = defense if isinstance(defense, Quantization) else Quantization(bits=32)
    return quantization.model_bits(network)


def join_answers(quantized: Game, full: Game) -> Game:
    """Return the game of an attacker who gets the answers of quantized models and of the same ones in full precision.

    Whoever publishes both gives this attacker a second query. Play the second game with ``Quantization(bits=32)``.
    Where the quantized models were trained further, let it stop, by ``Training(..., stop=...)``, after as many epochs
    as those were trained in full precision (``Quantization.full_precision_epochs``). Attacks that use every query, such
    as ``"lira_augmented"``, then use both.

    Parameters
    ----------
    quantized, full : Game
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
        mine, other = quantized.attrs.get(name), full.attrs.get(name)
        if mine != other:
            raise ValueError(
                f"The full-precision models were played with {name}={other!r}; it must be that of the quantized "
                f"models, {mine!r}."
            )
    if quantized.member.shape != full.member.shape or (quantized.member != full.member).any():
        raise ValueError("The full-precision models have other members than the quantized ones.")
    answers = [a.name for a in ANSWERS if a.name in quantized.dataset and a.name in full.dataset]
    joined = xr.concat([game.dataset[answers] for game in (quantized, full)], "query")
    own = {"query", "layer", "checkpoint"}
    measured = [v for v in quantized.dataset.variables if own & {*quantized.dataset[v].dims}]
    rest = quantized.dataset.drop_vars([*measured, "boundary_distance"], errors="ignore")
    kinds = [*quantized.query_kinds, *full.n_queries * ("full_precision",)]
    about = {"query_kinds": kinds, "probes": [], "layers": [], "queries": "quantized and full precision"}
    return type(quantized)(rest.assign(joined.data_vars).assign_attrs(about))


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
    measures: Sequence[str] = ("balanced_accuracy", "recall", "precision", "f1"),
) -> pd.DataFrame:
    """Return how an attack's measures change against a reference, in points and relative to it, with intervals.

    Parameters
    ----------
    games : dict of Game
        Label to game.
    reference : Game
        The game that each is compared with, of the same members.
    attack : str or Attack
        The attack.
    measures : sequence of str
        ``"auc"`` and measures of decisions, see `mialab.difference`.

    Returns
    -------
    pandas.DataFrame of Interval
        A row for each game; columns (figure, "points") and (figure, "relative"), as fractions.

    Raises
    ------
    ValueError
        If members differ, or a measure is unknown.
    """
    known = ("auc", "balanced_accuracy", "precision", "recall", "f1")
    for measure in measures:
        choose("measures", measure, known)
    columns = pd.MultiIndex.from_product([measures, ["points", "relative"]])
    table = pd.DataFrame(index=pd.Index(list(games), dtype=object), columns=columns, dtype=object)
    for label, game in games.items():
        for measure, reading in columns:
            options = {"metric": measure, "relative": reading == "relative"}
            table.at[label, (measure, reading)] = difference((game, attack), (reference, attack), **options)
    return table


def another_network(
    given: Mapping[str, Mapping[str, Any]],
    defense: Quantization,
    attack: str | Attack,
    *,
    n_models: int,
    seed: int,
) -> tuple[dict[str, Game], pd.DataFrame]:
    """Play full precision and a quantized arm with another network or on other data, and measure what changes.

    Parameters
    ----------
    given : dict
        Name of a data set to its size, network and training, as of `mialab.chapters.settings.settings`; at most one.
    defense : Quantization
        The quantized arm.
    attack : str or Attack
        The attack.
    n_models : int
        Models of each arm, and shadow models of the attacker who does not know the width.
    seed : int
        As of `mialab.play`; that attacker's shadow models have another one.

    Returns
    -------
    games : dict of Game
        ``"none"`` and ``"quantization"``; empty if nothing was given.
    changes : DataFrame of Interval
        As of `changes`, with rows (shadow models "quantized" or "full precision", width).

    Raises
    ------
    ValueError
        If more than one data set is given, or a parameter of one is wrong.
    """
    if len(given) > 1:
        raise ValueError(f"given names {len(given)} data sets, {', '.join(given)}; give one.")
    games: dict[str, Game] = {}
    tables = {"quantized": pd.DataFrame(), "full precision": pd.DataFrame()}
    for there in settings(given, seed=seed).values():
        full = Quantization(bits=32)
        training = watched(there.training)
        games = {
            arm: play(there.pool, there.model, of_arm, training=training, n_models=n_models, seed=seed)
            for arm, of_arm in (("none", full), ("quantization", defense))
        }
        others = play(
            there.pool, there.model, full, training=there.training, n_models=n_models, seed=seed + 2
        )
        ours, before = {defense.bits: games["quantization"]}, games["none"]
        tables["quantized"] = changes(ours, before, attack)
        tables["full precision"] = changes(
            {bits: game.with_shadows(others) for bits, game in ours.items()},
            before.with_shadows(others),
            attack,
        )
    return games, pd.concat(tables, names=["shadow models", "width"])


def widths(
    games: Mapping[str, Mapping[Any, Game]],
    attacks: Sequence[str | Attack],
    *,
    pool: Pool,
    model: str | Model,
    **options: Any,
) -> pd.DataFrame:
    """Measure games of several widths, and their controls: sizes, accuracies, and the measures of attacks.

    Parameters
    ----------
    games : dict of str to dict
        Arm, a kind of quantization or a control, to what was varied (the width, or the epochs of a control) to game.
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
            rows = pd.concat([table.pooled(metric) for metric in dict.fromkeys(table["metric"])])
            accuracy = mean_test_accuracy(game)
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
    """Return the defense of a game if it is a quantization."""
    if game.attrs.get("defense") != Quantization.name:
        return None
    return Quantization(**game.attrs["defense_parameters"])


def overview(table: pd.DataFrame, attack: str, measures: Sequence[str] = ("auc",)) -> pd.DataFrame:
    """Lay the widths out for a page: a row for each arm and setting, with its size, accuracy and an attack's measures.

    Parameters
    ----------
    table : DataFrame
        From `widths`.
    attack : str
        The attack.
    measures : sequence of str
        Its measures, such as ``"auc"``.

    Returns
    -------
    pandas.DataFrame of str
        Columns ``kbit`` (size of the model in thousands of bits), ``test accuracy``, and the measures.
    """
    sought = {"test_accuracy": "", **dict.fromkeys(measures, attack)}
    parts = {
        metric: select(table, attack=of, metric=metric).set_index(["arm", "setting"])
        for metric, of in sought.items()
    }
    cells = {"kbit": [f"{size / 1000:,.1f}" for size in parts["test_accuracy"]["size"]]}
    for metric, rows in parts.items():
        values = rows[["value", "low", "high"]].itertuples(index=False)
        cells[metric.replace("_", " ")] = [f"{Interval(*value):.3f}" for value in values]
    return pd.DataFrame(cells, index=parts["test_accuracy"].index)


@dataclass(frozen=True)
class Selection:
    """Widths that were chosen.

    Attributes
    ----------
    bits : tuple
        The width of each layer.
    value : float
        The objective there.
    path : pandas.DataFrame
        A row for the start and for each change: ``bits``, ``value``.
    """

    bits: tuple[Bits, ...]
    value: float
    path: pd.DataFrame


def select_bits(
    objective: Callable[[tuple[Bits, ...]], float],
    n_layers: int,
    *,
    choices: Sequence[Bits] = (8, 4, 2),
    start: Sequence[Bits] | None = None,
) -> Selection:
    """Choose the width of each layer greedily: again and again the one change of one layer that helps most.

    It stops where no change of a single layer lowers the objective, which is its least value wherever each layer adds
    a term of its own. Nothing is measured twice.

    Parameters
    ----------
    objective : callable
        Takes the widths of all layers, a tuple, and returns what should be low.
    n_layers : int
        Number of layers.
    choices : sequence
        Widths to choose from.
    start : sequence, optional
        Widths to start from; by default the first choice for every layer.
    """
    check_integer("n_layers", n_layers, low=1)
    choices = tuple(choices)
    if not choices:
        raise ValueError("choices=() must name at least one width.")
    best = (choices[0],) * n_layers if start is None else tuple(start)
    if len(best) != n_layers or not set(best) <= set(choices):
        raise ValueError(f"start={best} must be {n_layers} of the choices {choices}.")
    known = {best: float(objective(best))}
    path = [best]
    while True:
        changed = [(*best[:i], b, *best[i + 1 :]) for i in range(n_layers) for b in choices if b != best[i]]
        for bits in changed:
            if bits not in known:
                known[bits] = float(objective(bits))
        nearest = min(changed, key=known.__getitem__, default=best)
        if not known[nearest] < known[best]:
            break
        best = nearest
        path.append(best)
    steps = pd.DataFrame({"bits": path, "value": [known[bits] for bits in path]})
    return Selection(best, known[best], steps)


@dataclass(eq=False)
class PrivacyObjective:
    """``validation loss + mu max(0, AUC - 1/2)`` of models whose inner layers have given widths.

    Both are measured on what is held out. The loss is the mean cross-entropy of the records that a model was not
    trained on. The AUC is that of an attack without shadow models, of those against the members. This objective is
    ours: what Famili and Lao (2023) minimize could not be found.

    Parameters
    ----------
    pool : Pool
        The records.
    model : Model
        The network.
    defense : Quantization
        All but the widths.
    training : Training
        How models are trained.
    mu : float
        Weight of the leakage, at least 0.
    n_models : int
        Models that each choice is measured on.
    seed : int
        Of the games; take another one than that of the models to be evaluated.
    groups : int, optional
        Number of groups of neighboring layers that share a width; by default each layer has its own.
    attack : str
        Name of the attack.

    Attributes
    ----------
    measured : pandas.DataFrame
        A row for each choice so far: ``validation loss``, ``AUC``, ``objective``, ``test accuracy``, ``kbit``.
    """

    pool: Pool
    model: Model
    defense: Quantization
    _: KW_ONLY
    training: Training
    mu: float
    n_models: int = 4
    seed: int = 1
    groups: int | None = None
    attack: str = "modified_entropy"
    measured: pd.DataFrame = field(init=False, default_factory=pd.DataFrame)

    def __post_init__(self) -> None:
        check_number("mu", self.mu, low=0)
        network = initialize(self.model, self.pool, 0, 0)
        layers = max(0, len(replace(self.defense, per_layer=None).layer_bits(network)) - 2)
        groups = layers if self.groups is None else self.groups
        check_integer("groups", groups, low=1)
        if groups > layers:
            raise ValueError(
                f"groups={groups} must be at most {layers}, the layers between the first and the last one."
            )
        self._sizes = [len(part) for part in np.array_split(np.arange(layers), groups)]

    @property
    def n_layers(self) -> int:
        """Number of layers, or groups of layers, that have a width of their own."""
        return len(self._sizes)

    def per_layer(self, bits: Sequence[Bits]) -> tuple[Bits, ...]:
        """Return the width of each layer between the first and the last one, given those of the groups."""
        return tuple(b for b, size in zip(bits, self._sizes, strict=True) for _ in range(size))

    def __call__(self, bits: Sequence[Bits]) -> float:
        """Return the objective where the inner layers, or groups of them, have these widths."""
        defense = replace(self.defense, per_layer=self.per_layer(bits))
        options: dict[str, Any] = {"training": self.training, "n_models": self.n_models, "seed": self.seed}
        game = play(self.pool, self.model, defense, **options)
        loss = -float(game.signal("loss")[:, 0][~game.member].mean())
        score = attacks.make(self.attack).scores(game)
        auc = metrics.auc(score.ravel(), game.member.ravel())
        value = loss + self.mu * max(0.0, auc - 0.5)
        row = {
            "validation loss": loss,
            "AUC": auc,
            "objective": value,
            "test accuracy": float(np.mean(game.test_accuracy)),
            "kbit": model_bits(self.pool, self.model, defense) / 1000,
        }
        new = pd.DataFrame(row, index=[", ".join(map(str, bits))])
        self.measured = pd.concat([self.measured, new])
        return value
