"""Defenses on equal terms: each sweeps its knob over the same budget, and gives a curve of privacy against utility."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mialab._validation import check_integer, check_number, choose
from mialab.auditing import conditions
from mialab.auditing.differences import difference, mean_test_accuracy
from mialab.auditing.knobs import KNOBS, Knob
from mialab.auditing.measure import audit
from mialab.auditing.ranking import ranks
from mialab.auditing.tables import AuditTable
from mialab.auditing.taxonomy import KINDS, Attacking, threat_model
from mialab.classifiers.game import Game, play
from mialab.defenses.base import DEFENSES, Defense
from mialab.metrics.intervals import Interval
from mialab.training.options import Training

if TYPE_CHECKING:
    from mialab.data.pool import Pool
    from mialab.models import Model

UNDEFENDED, EARLY = "none", "early_stopping"

#: What any defense should beat, and its title.
REFERENCES = {EARLY: "early stopping", "dp_sgd": "DP-SGD"}

#: Epochs at which early stopping may stop, the last one included; they cost no training.
STOPS = 8

#: What tables keep of where the games come from.
PROVENANCE = ("dataset", "n_models", "seed", "training", "device", "commit", "versions", "date")

#: Points of test accuracy that a defense may cost.
ALLOWED = (1.0, 5.0)

COLUMNS = [
    *("defense", "setting", "sees", "metric", "attack", "n_attacks", "value", "low", "high"),
    *("accuracy", "accuracy_low", "accuracy_high", "cost", "cost_low", "cost_high"),
    *("epsilon", "seconds", "problem", "chosen"),
]


class TradeOffTable(AuditTable):
    """The strongest attack of each kind of attacker against each setting of each defense, beside its test accuracy.

    Columns: ``defense``, ``setting`` (value of the knob), ``sees`` (kind of attacker), ``metric``, ``attack`` (the
    strongest), ``n_attacks`` (of how many), ``value``, ``low``, ``high``; ``accuracy`` and ``cost`` (test accuracy,
    undefended minus defended) with the ends of their intervals, fractions; ``epsilon`` where the defense has one;
    ``seconds`` of a model, training and answers, where models were trained for it; ``problem``, what is wrong with the
    training; ``chosen``, the points of accuracy for which validation chose it.
    Rows of a defense go from weak to strong.
    """

    @property
    def _constructor(self) -> type[TradeOffTable]:
        return TradeOffTable

    def curve(self, defense: str, *, metric: str = "auc", sees: str = "scores") -> pd.DataFrame:
        """Return the rows of one curve, from weak to strong, without settings whose training has a problem.

        Parameters
        ----------
        defense, metric, sees : str
            Of the columns of these names; ValueError if the table lacks them.
        """
        rows = pd.DataFrame(self)
        for column, value in {"defense": defense, "metric": metric, "sees": sees}.items():
            choose(column, value, set(rows[column]))
            rows = rows[rows[column] == value]
        sound = rows["problem"].fillna("").eq("")
        return rows[sound & np.isfinite(rows["value"]) & np.isfinite(rows["cost"])]

    def at_most(
        self, points: float, defense: str, *, metric: str = "auc", sees: str = "scores"
    ) -> Interval | None:
        """Return the strength of the strongest attack where a defense costs at most so many points of test accuracy.

        Parameters
        ----------
        points : float
            Points below the undefended models, 1 for 0.01.
        defense, metric, sees : str
            Which curve, see `curve`.

        Returns
        -------
        Interval or None
            See `interpolate`; None if no setting costs as little.
        """
        check_number("points", points, low=0)
        return interpolate(*self._ends(defense, metric, sees), points / 100)

    def _ends(self, defense: str, metric: str, sees: str) -> tuple[list[Interval], list[Interval]]:
        """Costs and values of a curve, from weak to strong."""
        rows = self.curve(defense, metric=metric, sees=sees)
        pairs = self.attrs.get("terms", {}).get("pairs")
        costs, values = (
            [
                Interval(*ends, df=max((pairs or 2) - 1, 1), n_pairs=pairs)
                for ends in rows[columns].itertuples(index=False, name=None)
            ]
            for columns in (["cost", "cost_low", "cost_high"], ["value", "low", "high"])
        )
        return costs, values

    def against(
        self, defense: str, rival: str, points: float, *, metric: str = "auc", sees: str = "scores"
    ) -> Interval | str:
        """Return how much stronger the strongest attack on a defense is than that on its rival, at equal accuracy.

        Both curves are read where they cost as much, see `interpolate`: at most so many points, and no more than both
        of them come to. Where they have no cost in common, the ends next to each other are read, and only what
        holds in spite of the accuracy counts: if the one that costs more also protects more, the condition "equal
        accuracy" of the interval has failed, as has "trained" if something is wrong with the undefended models, which
        all costs are measured from. Errors are taken to be independent; if they go together, as errors on the same
        members and records may, the interval is too wide.

        Parameters
        ----------
        defense, rival : str
            Names of two defenses.
        points : float
            Points of test accuracy below the undefended models.
        metric, sees : str
            Which curves, see `curve`.

        Returns
        -------
        Interval or str
            Below 0 where the defense protects better; or why the two cannot be compared.
        """
        check_number("points", points, low=0)
        curves = {}
        for name in (defense, rival):
            if name not in set(self["defense"]):
                gone = {row["defense"]: row["reason"] for row in self.attrs.get("missing", [])}
                return f"{name} was not trained: {gone.get(name, 'it is not in this table')}"
            curves[name] = self._ends(name, metric, sees)
            if not curves[name][0]:
                return f"{name} has no setting whose training has no problem"
        allowed = min(points / 100, *(costs[-1].value for costs, _ in curves.values()))
        read, paid = [], []
        for name, (costs, values) in curves.items():
            least = min(cost.value for cost in costs)
            if least > points / 100:
                return f"{name} costs {100 * least:.1f} points at the least"
            paid.append(max(allowed, least))
            read.append(interpolate(costs, values, paid[-1]))
        ours, theirs = (at for at in read if at is not None)
        value = ours.value - theirs.value
        low = value - np.hypot(ours.value - ours.low, theirs.high - theirs.value)
        high = value + np.hypot(ours.high - ours.value, theirs.value - theirs.low)
        apart = paid[0] - paid[1]
        # Who pays more and protects less is beaten all the more.
        unfair = abs(apart) > conditions.EQUAL and apart * value < 0
        wrong = f"test accuracies differ by {100 * abs(apart):.1f} points" if unfair else ""
        pairs = ours.n_pairs
        return Interval(
            value,
            float(low),
            float(high),
            df=ours.df,
            n_pairs=pairs,
            conditions={conditions.EQUAL_ACCURACY: wrong, conditions.TRAINED: self._base_problem},
        )

    @property
    def _base_problem(self) -> str:
        """What is wrong with the training of the undefended models."""
        base = self.loc[self["defense"] == UNDEFENDED, "problem"].fillna("")
        return str(base.iloc[0]) if len(base) else ""

    def chosen_for(self, points: float, *, sees: str = "scores") -> pd.DataFrame:
        """Lay out for a page the setting of each defense that validation chose for a cost.

        Parameters
        ----------
        points : float
            Of the ``allowed`` ones of `trade_off`.
        sees : str
            Kind of attacker.

        Returns
        -------
        pandas.DataFrame
            A row a defense, the undefended models first: setting, test accuracy, the strongest attack's value by each
            metric, epsilon, and seconds of a model as a multiple of those of an undefended one.
        """
        rows = pd.DataFrame(self)[self["sees"] == sees]
        rows = rows[chosen_for(rows, points) | (rows["defense"] == UNDEFENDED)]
        base = rows.loc[rows["defense"] == UNDEFENDED, "seconds"].mean()
        lines = {}
        for name, own in rows.groupby("defense", sort=False):
            first = own.iloc[0]
            accuracy = Interval(*first[["accuracy", "accuracy_low", "accuracy_high"]])
            values = {
                row["metric"]: f"{Interval(row['value'], row['low'], row['high']):.3f}"
                if np.isfinite(row["value"])
                else "-"
                for _, row in own.iterrows()
            }
            lines[name] = {
                "setting": first["setting"],
                "test accuracy": f"{accuracy:.3f}",
                **values,
                "epsilon": f"{first['epsilon']:.3g}" if np.isfinite(first["epsilon"]) else "-",
                "seconds": f"{first['seconds'] / base:.1f}x" if np.isfinite(first["seconds"]) else "-",
            }
        return pd.DataFrame.from_dict(lines, orient="index").fillna("-").rename_axis(columns="defense")

    def operating_points(
        self, allowed: Sequence[float] = ALLOWED, *, metric: str = "auc", sees: str = "scores"
    ) -> pd.DataFrame:
        """Lay out for a page how strong the strongest attack is at equal cost: a row a defense, a column a cost.

        Parameters
        ----------
        allowed : sequence of float
            Points of test accuracy.
        metric, sees : str
            As in `curve`.
        """
        cells = {}
        for defense in dict.fromkeys(self["defense"]):
            found = [self.at_most(points, defense, metric=metric, sees=sees) for points in allowed]
            cells[defense] = ["not reached" if at is None else f"{at:.3f}" for at in found]
        columns = [f"at most {points:g} point{'s' * (points != 1)} below" for points in allowed]
        return pd.DataFrame.from_dict(cells, orient="index", columns=columns).rename_axis(columns="defense")

    def ranking(self, points: float, *, metric: str = "auc", sees: str = "scores") -> pd.DataFrame:
        """Rank the defenses by the strongest attack where each costs at most so many points of test accuracy.

        Parameters
        ----------
        points : float
            Points below the undefended models, 1 for 0.01.
        metric, sees : str
            As in `curve`.

        Returns
        -------
        DataFrame
            As from `mialab.auditing.ranking.ranks`; defenses without a setting that costs as little are not in it.
        """
        found = {}
        for defense in dict.fromkeys(self["defense"]):
            at = self.at_most(points, defense, metric=metric, sees=sees)
            if at is not None:
                found[defense] = at
        return ranks(found)

    def problems(self) -> pd.DataFrame:
        """Return the settings that count for nothing, and why: columns ``defense``, ``setting``, ``problem``."""
        rows = pd.DataFrame(self)
        bad = rows["problem"].fillna("").ne("")
        return rows.loc[bad, ["defense", "setting", "problem"]].drop_duplicates().reset_index(drop=True)


def chosen_for(rows: pd.DataFrame, points: float) -> pd.Series:
    """Tell of which rows validation chose the setting for a cost, in points of accuracy; bool (row,)."""
    return rows["chosen"].map(lambda told: f"{points:g}" in str(told).split(", ")).astype(bool)


def interpolate(costs: Sequence[Interval], values: Sequence[Interval], allowed: float) -> Interval | None:
    """Return the value of a curve at its strongest setting that costs at most what is allowed.

    The curve joins neighboring settings by straight lines. It is walked from its strong end to where the cost first
    falls to what is allowed: the choice looks at costs alone, so it does not favor lucky values.

    Parameters
    ----------
    costs, values : sequence of Interval
        Of the same settings, from weak to strong; finite.
    allowed : float
        Greatest cost, in the units of ``costs``.

    Returns
    -------
    Interval or None
        Its ends are those of the neighbors, interpolated, and moved apart by what the uncertain cost does to the value;
        nothing is assumed of how errors go together, so it is too wide rather than too narrow. None if every
        setting costs more.
    """
    if len(costs) != len(values):
        raise ValueError(f"{len(costs)} costs and {len(values)} values must belong to the same settings.")
    within = [i for i, cost in enumerate(costs) if cost.value <= allowed]
    if not within:
        return None
    weak = within[-1]
    if weak == len(costs) - 1:  # even the strongest setting costs no more
        return values[weak]
    pair = slice(weak, weak + 2)
    rise = costs[weak + 1].value - costs[weak].value
    part = (allowed - costs[weak].value) / rise
    weights = np.array([1 - part, part])
    value, low, high = weights @ np.array(values[pair])
    _, cost_low, cost_high = weights @ np.array(costs[pair])
    slope = abs(values[weak + 1].value - values[weak].value) / rise
    unsure = slope * max(cost_high - allowed, allowed - cost_low, 0.0)
    ends = float(value), float(max(low - unsure, 0)), float(min(high + unsure, 1))
    return Interval(*ends, df=values[weak].df, n_pairs=values[weak].n_pairs)


def search_epsilon(epsilons: Iterable[float], deltas: Iterable[float]) -> tuple[float, float]:
    """Return (epsilon, delta) of a search that trains once with each of a fixed list of settings on private records.

    It is naive composition, an upper bound: the sums. (Papernot and Steinke, "Hyperparameter tuning with Renyi
    differential privacy", 2022, have much less, but of searches that draw a random number of settings.)
    """
    return float(sum(epsilons)), float(sum(deltas))


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What all defenses have in common, see `trade_off`."""

    pool: Pool
    model: str | Model = "mlp"
    training: Training = field(default_factory=Training)
    n_models: int = 16
    budget: int = 5
    search_models: int = 2
    seed: int = 0
    search_seed: int = 1_000_003
    queries: Any = "original"
    probes: Any = ()

    def __post_init__(self) -> None:
        check_integer("budget", self.budget, low=2)
        for name in ("seed", "search_seed"):
            check_integer(name, getattr(self, name))
        if self.seed == self.search_seed:
            raise ValueError(
                f"search_seed={self.search_seed} must differ from seed={self.seed}: settings are chosen on models "
                "that are not reported."
            )
        if not len(self.pool.y_val):
            raise ValueError(
                f"{self.pool.name!r} has no validation part, on which settings are chosen: load it with validation=...."
            )

    def stops(self) -> tuple[int, ...]:
        """Return the epochs after which early stopping stops: the last one first, evenly on the log scale."""
        found = np.geomspace(1, self.training.last, STOPS).round().astype(int).tolist()
        return tuple(sorted({*found}, reverse=True))

    def play(self, defense: Defense, *, search: bool, checkpoints: Sequence[int] = ()) -> Game:
        """Play a game, with the seeds of the search or with those of the report."""
        training = conditions.watched(self.training, checkpoints)
        if defense.uses("fit"):  # a procedure of its own keeps no checkpoints
            training = replace(training, checkpoints=())
        n_models, seed = (self.search_models, self.search_seed) if search else (self.n_models, self.seed)
        seen = {} if search else {"queries": self.queries, "probes": self.probes}
        return play(self.pool, self.model, defense, training=training, n_models=n_models, seed=seed, **seen)

    def games(
        self, defense: Defense, knob: Knob, *, search: bool
    ) -> tuple[dict[Any, Game], dict[Any, Exception]]:
        """Play every setting of a defense, from weak to strong; return those that ended well, and why others did not.

        An error of the disk is no fault of a setting, and ends the sweep.
        """
        found: dict[Any, Game] = {}
        failed: dict[Any, Exception] = {}
        for value in knob.pick(self.budget):
            try:
                found[value] = self.play(knob.turn(defense, value), search=search)
            except OSError:
                raise
            except Exception as error:  # whatever else it is, the other settings go on
                failed[value] = error
        return found, failed


def trade_off(
    pool: Pool,
    defenses: Iterable[str | Defense] | None = None,
    *,
    attacks: Sequence[Attacking] = ("correctness", "loss", "lira"),
    knobs: Mapping[str, Knob] | None = None,
    allowed: Sequence[float] = ALLOWED,
    fprs: Sequence[float] = (0.001, 0.01),
    **terms: Any,
) -> TradeOffTable:
    """Sweep the knob of each defense over the same budget, and measure accuracy and privacy at each setting.

    Each defense trains ``budget * search_models`` models to choose from and ``budget * n_models`` to report. Early
    stopping, which is always there, trains nothing: it reads its settings off the undefended models at earlier epochs.
    For each allowed cost validation chooses the strongest setting with a validation accuracy that is at most so much
    lower than that of the undefended models; test records are not looked at, and no model of the search is reported.

    Parameters
    ----------
    pool : Pool
        The records, with a validation part.
    defenses : iterable of str or Defense, optional
        All that are registered by default; each at most once.
    attacks : sequence of str, Attack or callable
        As in `mialab.audit`.
    knobs : dict of str to Knob, optional
        By name of the defense, where not as in `mialab.auditing.knobs.KNOBS`.
    allowed : sequence of float
        Points of validation accuracy that a chosen setting may cost.
    fprs : sequence of float
        As in `mialab.audit`.
    **terms
        ``model``, ``training``, ``n_models``, ``seed``, ``queries``, ``probes`` as in `mialab.play`; ``budget``,
        settings of each defense; ``search_models`` and ``search_seed`` of the games to choose from.

    Returns
    -------
    TradeOffTable
        ``attrs["missing"]`` lists defenses that could not be trained or have no knob, settings that failed, and why;
        ``attrs["terms"]`` what was trained; ``attrs["search"]`` epsilon and delta of the search, by defense, where it
        has them; ``attrs["run"]`` where the numbers come from, with the seconds of all trainings.

    Raises
    ------
    ValueError
        If a parameter is wrong, or a defense unknown, before any training.
    """
    common = Terms(pool=pool, **terms)
    for points in allowed:
        check_number("allowed", points, low=0)
    chosen = DEFENSES.several(DEFENSES.available() if defenses is None else defenses)
    rivals = [d for d in chosen if d.name not in (UNDEFENDED, EARLY)]
    own = KNOBS | dict(knobs or {})
    for name in {*own} & {d.name for d in rivals}:
        own[name].pick(common.budget)

    seeing = [_name(attack) for attack in attacks if threat_model(_name(attack)) == "white box"]
    if seeing and (not common.probes or len(seeing) == len(attacks)):
        raise ValueError(
            f"attacks={seeing} see the model itself: give probes=..., and beside them an attack on answers, since "
            "early stopping has no other after earlier epochs."
        )

    stops, nothing = common.stops(), DEFENSES.make(UNDEFENDED)
    searched, reported = (common.play(nothing, search=search, checkpoints=stops) for search in (True, False))
    aim = float(searched.validation_accuracy.mean())
    options: dict[str, Any] = {"attacks": attacks, "pool": pool, "fprs": fprs}
    rows = _rows(UNDEFENDED, {"-": reported}, reported, {}, options)
    early = {stop: reported.at(stop) for stop in stops}
    # What probes measure is known after the last epoch alone: attackers who need it meet its first setting only.
    picked = choose_settings({stop: searched.at(stop) for stop in stops}, aim, allowed)
    rows += _rows(EARLY, early, reported, picked, options)

    missing, search = [], {}
    seconds = sum(game.attrs["seconds"] for game in (searched, reported))
    for defense in rivals:
        try:
            knob = own.get(defense.name)
            if knob is None:
                raise ValueError(
                    f"No knob is known of {defense.name!r}: give knobs={{{defense.name!r}: Knob(...)}}."
                )
            tried, _ = common.games(defense, knob, search=True)
            picked = choose_settings(tried, aim, allowed)
            games, failed = common.games(defense, knob, search=False)
            if not games:
                raise next(iter(failed.values()))
            missing += [
                {"defense": defense.name, "setting": str(value), "attack": "all", "reason": _reason(error)}
                for value, error in failed.items()
            ]
            rows += _rows(defense.name, games, reported, picked, options)
            seconds += sum(game.attrs["seconds"] for game in (*tried.values(), *games.values()))
        except OSError:
            raise
        except Exception as error:  # it becomes part of the table, and the other defenses go on
            missing.append({"defense": defense.name, "attack": "all", "reason": _reason(error)})
            continue
        reports = [game.attrs.get("report") or {} for game in tried.values()]
        if all("epsilon" in report for report in reports):
            budgets = ([report.get(key, 0.0) for report in reports] for key in ("epsilon", "delta"))
            search[defense.name] = search_epsilon(*budgets)
    result = TradeOffTable(rows, columns=COLUMNS)
    about = {
        "budget": common.budget,
        "pairs": common.n_models // 2,
        "models searched": common.budget * common.search_models,
        "models reported": common.budget * common.n_models,
        "seed": common.seed,
        "search_seed": common.search_seed,
    }
    run = {key: reported.attrs.get(key) for key in PROVENANCE} | {"seconds": seconds}
    result.attrs = {"missing": missing, "terms": about, "search": search, "run": run}
    return result


def choose_settings(games: Mapping[Any, Game], aim: float, allowed: Sequence[float]) -> dict[float, Any]:
    """Choose the strongest setting for each allowed cost, by validation accuracy alone.

    Parameters
    ----------
    games : dict of Game
        Setting to a game of the search, from weak to strong. Those whose training has a problem are not chosen.
    aim : float
        Validation accuracy of the undefended models.
    allowed : sequence of float
        Points that a setting may cost.

    Returns
    -------
    dict of float to setting
        Without those for which none is good enough.
    """
    found = {}
    for points in allowed:
        for setting, game in games.items():
            # A hair more, so that equality survives the rounding of means.
            enough = game.validation_accuracy.mean() >= aim - points / 100 - 1e-9
            if enough and not conditions.trained(game):
                found[points] = setting
    return found


def _rows(
    name: str,
    games: Mapping[Any, Game],
    undefended: Game,
    picked: Mapping[float, Any],
    options: Mapping[str, Any],
) -> list[tuple]:
    """Return the rows of one defense: each setting, each measure, each kind of attacker."""
    rows: list[tuple] = []
    probed = {name for name in map(_name, options["attacks"]) if threat_model(name) == "white box"}
    for setting, game in games.items():
        able = [a for a in options["attacks"] if game.attrs.get("probes") or _name(a) not in probed]
        strongest = audit(game, **{**options, "attacks": able}).attrs["strongest"]
        accuracy = mean_test_accuracy(game)
        cost = difference((undefended, None), (game, None), metric="test_accuracy")
        epsilon = (game.attrs.get("report") or {}).get("epsilon", np.nan)
        told = ", ".join(f"{points:g}" for points, value in picked.items() if value == setting)
        seconds = np.nan if name == EARLY else float(game.dataset["seconds"].mean())
        about = (*accuracy, *cost, epsilon, seconds, conditions.trained(game), told)
        for metric, of_kind in strongest.items():
            if metric == "auc" or metric.partition("@")[0] in ("tpr", "calibrated_tpr"):
                for kind in sorted(of_kind, key=KINDS.index):
                    attack, *ends, n = of_kind[kind]
                    rows.append((name, str(setting), kind, metric, attack, n, *ends, *about))
    return rows


def _reason(error: Exception) -> str:
    expected = isinstance(error, ValueError | FloatingPointError)
    return str(error) if expected else f"{type(error).__name__}: {error}"


def _name(attack: Attacking) -> str:
    return attack if isinstance(attack, str) else str(getattr(attack, "name", attack))
