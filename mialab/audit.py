"""The audit: every attack against every target model of a game, as one tidy table with intervals."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mialab import attacks as _attacks
from mialab import metrics, progress, provenance
from mialab.game import Game
from mialab.metrics import Interval, rate_name
from mialab.options import check_integer, choose

if TYPE_CHECKING:
    from mialab.attacks.base import Attack, Outcome
    from mialab.data import Pool

COLUMNS = ["attack", "target", "metric", "value", "low", "high", "n_member", "n_nonmember"]
POOLED = "pooled"
NOT_RESOLVABLE = "not resolvable"


class AuditTable(pd.DataFrame):
    """A DataFrame that prints "not resolvable" where too few records stand behind a rate.

    The cells themselves are NaN, so arithmetic, ``groupby`` and ``to_csv`` work as in any DataFrame, and a table
    read back with ``pd.read_csv`` shows the same after ``AuditTable(table)``. See `show` for a plain DataFrame of
    what is printed.
    """

    @property
    def _constructor(self) -> type[AuditTable]:
        return AuditTable

    def __repr__(self) -> str:
        # pandas would hide the middle columns, the figures, to fit 80 characters.
        with pd.option_context("display.max_columns", 20, "display.width", 140):
            return repr(show(self))

    def _repr_html_(self) -> str | None:
        return show(self)._repr_html_()

    def to_string(self, *args: Any, **kwargs: Any) -> str | None:
        """As in pandas, of what `show` returns."""
        return show(self).to_string(*args, **kwargs)

    def to_html(self, *args: Any, **kwargs: Any) -> str | None:
        """As in pandas, of what `show` returns."""
        return show(self).to_html(*args, **kwargs)


def audit(
    game: Game,
    attacks: Sequence[str | Attack] = ("loss", "modified_entropy", "lira"),
    *,
    pool: Pool | None = None,
    fprs: Sequence[float] = (0.001, 0.01),
    fnrs: Sequence[float] = (0.001,),
    records: ArrayLike | None = None,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> AuditTable:
    """Run attacks on a game and measure them on each target model and on all of them pooled.

    Parameters
    ----------
    game : Game
    attacks : sequence of str or Attack
        Names from `mialab.attacks.available`, or attacks. All are checked before the first one runs; one that
        needs what the game lacks stops the audit there.
    pool : Pool, optional
        The records that were played with, for attacks that look at them (``"quantile"``).
    fprs, fnrs : sequence of float
        Rates at which to report the TPR and the TNR, fractions.
    records : (n_records,) bool or array of int, optional
        Records to measure on, such as ``game.canary``; all by default. The attacks still see the whole game.
    confidence : float
        Coverage of the intervals. Within a target: Clopper-Pearson for proportions (given the threshold) and
        the bootstrap for the rest; pooled: the two-way bootstrap of `metrics.pooled_bootstrap`.
    n_resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    AuditTable
        One row per attack, target and metric; columns ``attack, target, metric, value, low, high, n_member,
        n_nonmember``. ``target`` is the index of the model, or ``"pooled"`` for one ROC over all evaluated
        (target, record) pairs. Metrics are ``auc``, ``balanced_accuracy``, ``tpr@0.001``, ..., ``tnr@0.001``,
        ..., ``precision``, ``recall``, ``f1``; the last three and the balanced accuracy judge the decisions at the
        attacker's own threshold. A rate that allows fewer than ten errors is not resolvable: its cells are NaN and
        print so. ``attrs`` says how the table was made.

    Raises
    ------
    TypeError
        If ``game`` is no game.
    ValueError
        If an attack is unknown or is named twice, or another parameter is wrong.
    Refused
        If an attack needs what the game lacks (a ValueError too).
    """
    began = time.perf_counter()
    if not isinstance(game, Game):
        raise TypeError(f"game={game!r} must be a Game, from mialab.play or mialab.Game.from_arrays.")
    metrics._rates("fprs", fprs), metrics._rates("fnrs", fnrs)
    metrics._fraction("confidence", confidence)
    check_integer("n_resamples", n_resamples, low=1)
    columns = _columns(records, game.n_records)
    chosen = _chosen(attacks, pool)
    options = {"fprs": fprs, "fnrs": fnrs, "confidence": confidence, "n_resamples": n_resamples, "seed": seed}

    seconds: dict[str, float] = {}
    outcomes: dict[str, Outcome] = {}
    for attack in chosen.values():
        attack.check(game)
    for name, attack in chosen.items():
        start = time.perf_counter()
        outcomes[name] = attack.run(game)
        seconds[name] = round(time.perf_counter() - start, 3)

    rows: list[tuple] = []
    what = f"auditing {game.attrs.get('defense')} on {game.attrs.get('dataset')}"
    with progress.bar(len(outcomes) * (game.n_models + 1), what) as advance:
        for name, outcome in outcomes.items():
            evaluated = outcome.evaluated & columns
            if not evaluated.any():
                raise ValueError(
                    f"The attack {name!r} evaluates none of the {columns.sum()} records asked for."
                )
            rows += _pooled_rows(name, outcome, game, evaluated, options)
            advance(1)
            for k in range(game.n_models):
                if evaluated[k].any():  # a model that only serves as a shadow is no target
                    rows += _target_rows(name, k, outcome, game, evaluated[k], options)
                advance(1)

    table = AuditTable(rows, columns=COLUMNS)
    table.attrs = _plain(
        {
            **game.attrs,
            "partner": game.partner,
            "test_accuracy": game.test_accuracy,
            "audit": {
                **provenance.collect(),
                **options,
                "attacks": {name: repr(attack) for name, attack in chosen.items()},
                "records": _describe(columns),
                "attack_seconds": seconds,
                "seconds": round(time.perf_counter() - began, 3),
            },
        }
    )
    return table


def over_targets(
    table: pd.DataFrame, *, partner: ArrayLike | None = None, confidence: float = 0.95
) -> AuditTable:
    """Average each metric over the target models, with an interval over new models on the same records.

    Parameters
    ----------
    table : DataFrame
        From `audit` or `compare`.
    partner : (n_models,) int, optional
        Which models have complementary members, as in ``game.partner``; by default as noted in ``table.attrs``.
    confidence : float

    Returns
    -------
    AuditTable
        Columns ``attack, metric, value, low, high, n_targets`` (after ``defense`` if the table has it), see
        `metrics.over_targets`.
    """
    keys = [c for c in ("defense", "attack", "metric") if c in table.columns]
    each = table[table["target"] != POOLED]
    rows = []
    for key, group in each.groupby(keys, sort=False):
        attrs = table.attrs.get("audits", {}).get(key[0], {}) if "defense" in keys else table.attrs
        known = attrs.get("partner") if partner is None else partner
        if known is None:
            raise ValueError("This table does not say which models are partners; pass partner=game.partner.")
        target = group["target"].astype(int).to_numpy()
        position = {k: i for i, k in enumerate(target)}
        local = [position.get(int(known[k]), -1) for k in target]
        interval = metrics.over_targets(group["value"], partner=local, confidence=confidence)
        # Every metric is a share, which a t interval does not know.
        rows.append((*key, *np.clip(interval, 0, 1), int(group["value"].notna().sum())))
    result = AuditTable(rows, columns=[*keys, "value", "low", "high", "n_targets"])
    result.attrs = table.attrs
    return result


def summary(
    table: pd.DataFrame,
    metrics: str | Sequence[str] | None = None,
    *,
    attacks: Sequence[str] | None = None,
    target: int | str = POOLED,
) -> pd.DataFrame:
    """Lay a table out for a page: a row per attack, cells such as ``0.612 [0.601, 0.624]``.

    A column is a metric; or a defense, where the table has several and ``metrics`` is a single name.

    Parameters
    ----------
    table : DataFrame
        From `audit` or `compare` (then with a row per defense and attack).
    metrics : str or sequence of str, optional
        By default the AUC, the balanced accuracy and all rates.
    attacks : sequence of str, optional
        Attacks to show, in this order; all by default.
    target : int or {"pooled", "mean"}
        Which target model; ``"mean"`` averages over them, see `over_targets`.

    Returns
    -------
    DataFrame of str

    Raises
    ------
    ValueError
        If a metric or the target is not in the table.
    """
    rows = over_targets(table) if target == "mean" else table[table["target"] == target]
    if rows.empty:
        raise ValueError(
            f"target={target!r} is not in the table; it must be 'pooled', 'mean' or a model's index."
        )
    present = list(dict.fromkeys(table["metric"]))
    across = isinstance(metrics, str) and "defense" in rows.columns
    metrics = [metrics] if isinstance(metrics, str) else metrics
    if attacks is not None:
        for name in attacks:
            choose("attacks", name, set(rows["attack"]))
        rows = rows[rows["attack"].isin(list(attacks))].sort_values(
            "attack", key=lambda names: names.map(list(attacks).index), kind="stable"
        )
    if metrics is None:
        metrics = [m for m in present if m in ("auc", "balanced_accuracy") or "@" in m]
    for name in metrics:
        if name not in present:
            raise ValueError(f"metrics: {name!r} is not in the table, which has {', '.join(present)}.")
    rows = rows[rows["metric"].isin(list(metrics))]
    keys = [c for c in ("defense", "attack") if c in rows.columns]
    cells = [
        _cell(*row) for row in zip(rows["metric"], rows["value"], rows["low"], rows["high"], strict=True)
    ]
    wide = pd.DataFrame(rows[[*keys, "metric"]]).assign(cell=cells)
    if across:
        order = list(dict.fromkeys(table["defense"])), list(dict.fromkeys(rows["attack"]))
        wide = wide.pivot(index="attack", columns="defense", values="cell")
        return wide.loc[order[1], order[0]].rename_axis(index=None, columns="attack")
    wide = wide.pivot(index=keys, columns="metric", values="cell")
    order = list(dict.fromkeys(rows[keys].itertuples(index=False, name=None)))
    wide = wide.loc[order if len(keys) > 1 else [key[0] for key in order], list(metrics)]
    # The name of the rows stands in the corner, where it costs no line of its own.
    return wide.rename_axis(columns=None) if len(keys) > 1 else wide.rename_axis(index=None, columns="attack")


def wide(table: pd.DataFrame, *, index: str, columns: str) -> pd.DataFrame:
    """Lay any table of values with intervals out for a page: cells such as ``0.612 [0.601, 0.624]``.

    Parameters
    ----------
    table : DataFrame
        With the columns ``value``, ``low`` and ``high``.
    index, columns : str
        Columns that name the rows and the columns of the page's table, in the order in which they come.

    Returns
    -------
    DataFrame of str
    """
    cells = [_cell("", *row) for row in zip(table["value"], table["low"], table["high"], strict=True)]
    laid = pd.DataFrame(table[[index, columns]]).assign(cell=cells)
    laid = laid.pivot(index=index, columns=columns, values="cell").fillna("-")
    rows, names = (list(dict.fromkeys(table[name])) for name in (index, columns))
    return laid.loc[rows, names].rename_axis(index=None, columns=index)


def compare(tables: Mapping[str, pd.DataFrame]) -> AuditTable:
    """Stack the audits of several defenses.

    Parameters
    ----------
    tables : dict of str to DataFrame
        Name of the defense to its table from `audit`.

    Returns
    -------
    AuditTable
        With a first column ``defense``; ``attrs["audits"]`` holds the attributes of each table.
    """
    if not tables:
        raise ValueError("tables is empty; it must name at least one audit, e.g. {'none': table}.")
    for name, table in tables.items():
        if list(table.columns) != COLUMNS:
            raise ValueError(
                f"tables[{name!r}] must be a table from audit, with columns {', '.join(COLUMNS)}."
            )
    parts = [pd.DataFrame(table).assign(defense=name) for name, table in tables.items()]
    result = AuditTable(pd.concat(parts, ignore_index=True)[["defense", *COLUMNS]])
    result.attrs = {"audits": {name: dict(table.attrs) for name, table in tables.items()}}
    return result


def pooled_rows(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the rows of one metric that pool all targets; ValueError if the table lacks the metric."""
    choose("metric", metric, set(table["metric"]))
    return table[(table["target"] == POOLED) & (table["metric"] == metric)]


def show(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as it is printed: figures as text, and words where there is no figure.

    Parameters
    ----------
    table : DataFrame
        Any table with the columns ``metric`` and ``value``; others come back unchanged.

    Returns
    -------
    DataFrame
        ``value``, ``low`` and ``high`` are str. Where there is no number, ``value`` is ``"not resolvable"`` (too
        few records stand behind a rate) or ``"undefined"`` (such as the precision of an attack that never says
        "member") and the ends of the interval are ``"-"``.
    """
    plain = pd.DataFrame(table)
    if not {"metric", "value"} <= set(plain.columns):
        return plain
    texts = {"value": [_text(m, v) for m, v in zip(plain["metric"], plain["value"], strict=True)]}
    for end in plain.columns.intersection(["low", "high"]):
        texts[end] = ["-" if pd.isna(v) else _text("", v) for v in plain[end]]
    return plain.assign(
        **{column: pd.Series(t, index=plain.index, dtype=object) for column, t in texts.items()}
    )


# ----------------------------------------------------------------------------------------------- rows of the table


def _pooled_rows(
    name: str, outcome: Outcome, game: Game, evaluated: np.ndarray, options: dict[str, Any]
) -> Iterator[tuple]:
    intervals = metrics.pooled_bootstrap(
        outcome.score,
        game.member,
        evaluated=evaluated,
        partner=game.partner,
        said_member=outcome.said_member,
        **options,
    )
    return _rows(name, POOLED, intervals, game.member[evaluated], options)


def _target_rows(
    name: str, k: int, outcome: Outcome, game: Game, evaluated: np.ndarray, options: dict[str, Any]
) -> Iterator[tuple]:
    score, member, said = (a[k, evaluated] for a in (outcome.score, game.member, outcome.said_member))
    confidence = options["confidence"]
    resampling = {key: options[key] for key in ("n_resamples", "confidence", "seed")}
    try:
        intervals = metrics.bootstrap(score, member, said_member=said, fprs=(), fnrs=(), **resampling)
    except ValueError as error:
        raise ValueError(f"Attack {name!r} on target {k}: {error}") from error
    for rate in options["fprs"]:
        hits = round(metrics.tpr_at_fpr(score, member, rate) * member.sum())
        intervals[rate_name("tpr", rate)] = metrics.proportion(hits, member.sum(), confidence)
    for rate in options["fnrs"]:
        hits = round(metrics.tnr_at_fnr(score, member, rate) * (~member).sum())
        intervals[rate_name("tnr", rate)] = metrics.proportion(hits, (~member).sum(), confidence)
    hits = (said & member).sum()
    intervals["precision"] = metrics.proportion(hits, said.sum(), confidence)
    intervals["recall"] = metrics.proportion(hits, member.sum(), confidence)
    return _rows(name, k, intervals, member, options)


def _rows(
    name: str, target: int | str, intervals: dict[str, Interval], member: np.ndarray, options: dict[str, Any]
) -> Iterator[tuple]:
    n_in, n_out = int(member.sum()), int((~member).sum())
    tprs = {rate_name("tpr", f): metrics.resolvable(n_out, f) for f in options["fprs"]}
    tnrs = {rate_name("tnr", f): metrics.resolvable(n_in, f) for f in options["fnrs"]}
    for metric in ("auc", "balanced_accuracy", *tprs, *tnrs, "precision", "recall", "f1"):
        resolvable = (tprs | tnrs).get(metric, True)
        yield name, target, metric, *(intervals[metric] if resolvable else (np.nan,) * 3), n_in, n_out


# ---------------------------------------------------------------------------------------------- texts and checks


def _text(metric: str, value: float) -> str:
    if pd.isna(value):
        return NOT_RESOLVABLE if "@" in str(metric) else "undefined"
    return f"{value:.4f}"


def _cell(metric: str, value: float, low: float, high: float) -> str:
    if pd.isna(value):
        return _text(metric, value)
    digits = 4 if "@" in metric else 3
    return f"{Interval(value, low, high):.{digits}f}"


def _chosen(attacks: Sequence[str | Attack], pool: Pool | None = None) -> dict[str, Attack]:
    if isinstance(attacks, str) or not isinstance(attacks, Sequence) or not attacks:
        raise ValueError(f"attacks={attacks!r} must be a list of attacks, e.g. ['loss', 'lira'].")
    chosen: dict[str, Attack] = {}
    for attack in map(_attacks.make, attacks):
        if attack.needs_pool and attack.pool is None:
            attack = dataclasses.replace(attack, pool=pool)
        if attack.name in chosen:
            raise ValueError(f"attacks: {attack.name!r} is there twice; each must be named once.")
        chosen[attack.name] = attack
    return chosen


def _columns(records: ArrayLike | None, n_records: int) -> np.ndarray:
    if records is None:
        return np.ones(n_records, bool)
    records = np.asarray(records)
    mask = np.zeros(n_records, bool)
    if records.dtype == bool:
        if records.shape != (n_records,):
            raise ValueError(f"records has shape {records.shape}; a mask must have shape ({n_records},).")
        mask = records.copy()
    elif np.issubdtype(records.dtype, np.integer) and np.isin(records, np.arange(n_records)).all():
        mask[records] = True
    else:
        raise ValueError(f"records must be a mask or indices from 0 to {n_records - 1}; it is {records!r}.")
    if not mask.any():
        raise ValueError("records selects no record at all.")
    return mask


def _describe(columns: np.ndarray) -> str:
    if columns.all():
        return "all"
    digest = hashlib.sha256(np.packbits(columns).tobytes()).hexdigest()[:12]
    return f"{columns.sum()} of {len(columns)}, mask {digest}"


def _plain(value: Any) -> Any:
    """Return ``value`` in types that JSON knows."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
