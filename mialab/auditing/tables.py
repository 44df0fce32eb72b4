"""Tables of audits: what they hold, how they print, and how they are laid out for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mialab._validation import choose
from mialab.metrics import intervals
from mialab.metrics.intervals import Interval

if TYPE_CHECKING:
    pass


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
        interval = intervals.over_targets(group["value"], partner=local, confidence=confidence)
        # Every metric is a fraction, which a t interval does not know.
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


def _text(metric: str, value: float) -> str:
    if pd.isna(value):
        return NOT_RESOLVABLE if "@" in str(metric) else "undefined"
    return f"{value:.4f}"


def _cell(metric: str, value: float, low: float, high: float) -> str:
    if pd.isna(value):
        return _text(metric, value)
    digits = 4 if "@" in metric else 3
    return f"{Interval(value, low, high):.{digits}f}"
