"""Tables of audits: what they hold, how they print, and how they are laid out for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mialab._validation import choose
from mialab.auditing.claims import ClaimsTable
from mialab.auditing.taxonomy import families, family
from mialab.metrics import intervals
from mialab.metrics.intervals import Interval

COLUMNS = ["attack", "target", "metric", "value", "low", "high", "n_member", "n_nonmember"]


POOLED = "pooled"


NOT_RESOLVABLE = "not resolvable"


class AuditTable(pd.DataFrame):  # type: ignore[misc]  # pandas comes without types
    """A DataFrame of values with intervals: columns ``value``, ``low`` and ``high`` beside those that say of what.

    It prints "not resolvable" where too few records stand behind a rate. The cells themselves are NaN, so arithmetic,
    ``groupby`` and ``to_csv`` work as in any DataFrame, and ``AuditTable(pd.read_csv(file))`` is such a table again.
    """

    @property
    def _constructor(self) -> type[AuditTable]:
        return AuditTable

    def __repr__(self) -> str:
        # pandas would hide the middle columns, the values, to fit 80 characters.
        with pd.option_context("display.max_columns", 20, "display.width", 140):
            return repr(self.as_text())

    def _repr_html_(self) -> str | None:
        return self.as_text()._repr_html_()

    def to_string(self, *args: Any, **kwargs: Any) -> str | None:
        """As in pandas, of what `as_text` returns."""
        return self.as_text().to_string(*args, **kwargs)

    def to_html(self, *args: Any, **kwargs: Any) -> str | None:
        """As in pandas, of what `as_text` returns."""
        return self.as_text().to_html(*args, **kwargs)

    def as_text(self) -> pd.DataFrame:
        """Return the table as it is printed: numbers as text, and words where there is no number.

        Returns
        -------
        DataFrame
            ``value``, ``low`` and ``high`` are str. Where there is no number, ``value`` is ``"not resolvable"`` (too
            few records stand behind a rate) or ``"undefined"`` (such as the precision of an attack that never says
            "member") and the ends of the interval are ``"-"``. A table without ``metric`` and ``value`` is unchanged.
        """
        plain = pd.DataFrame(self)
        if not {"metric", "value"} <= set(plain.columns):
            return plain
        texts = {"value": [_text(m, v) for m, v in zip(plain["metric"], plain["value"], strict=True)]}
        for end in plain.columns.intersection(["low", "high"]):
            texts[end] = ["-" if pd.isna(v) else _text("", v) for v in plain[end]]
        return plain.assign(
            **{column: pd.Series(t, index=plain.index, dtype=object) for column, t in texts.items()}
        )

    def pooled(self, metric: str | None = None) -> AuditTable:
        """Return the rows that pool all targets.

        Parameters
        ----------
        metric : str, optional
            Rows of this metric only, such as ``"auc"``; ValueError if the table lacks it.
        """
        rows = self[self["target"] == POOLED]
        return (
            rows if metric is None else rows[rows["metric"] == choose("metric", metric, set(self["metric"]))]
        )

    def interval(self, attack: str, metric: str, *, defense: str | None = None) -> Interval:
        """Return one value with its interval, pooled over all targets.

        Parameters
        ----------
        attack, metric : str
            Such as ``"lira"`` and ``"tpr@0.01"``; ValueError if the table lacks them.
        defense : str, optional
            Which defense, in a table of several.
        """
        rows = self
        if "defense" in rows:
            rows = rows[rows["defense"] == choose("defense", defense, set(rows["defense"]))]
        choose("attack", attack, set(rows["attack"]))
        rows = rows.pooled(metric)
        return Interval(*rows.loc[rows["attack"] == attack, ["value", "low", "high"]].iloc[0].tolist())

    def over_targets(self, *, partner: ArrayLike | None = None, confidence: float = 0.95) -> AuditTable:
        """Average each metric over the target models, with an interval over new models on the same records.

        Parameters
        ----------
        partner : (n_models,) int, optional
            Which models have complementary members, as in ``game.partner``; by default as noted in ``attrs``.
        confidence : float

        Returns
        -------
        AuditTable
            Columns ``attack, metric, value, low, high, n_targets`` (after ``defense`` if the table has it), see
            `metrics.over_targets`.
        """
        keys = [c for c in ("defense", "attack", "metric") if c in self.columns]
        rows = []
        for key, group in self[self["target"] != POOLED].groupby(keys, sort=False):
            attrs = self.attrs.get("audits", {}).get(key[0], {}) if "defense" in keys else self.attrs
            known = attrs.get("partner") if partner is None else np.asarray(partner)
            if known is None:
                raise ValueError(
                    "This table does not say which models are partners; pass partner=game.partner."
                )
            target = group["target"].astype(int).to_numpy()
            position = {k: i for i, k in enumerate(target)}
            local = [position.get(int(known[k]), -1) for k in target]
            interval = intervals.over_targets(group["value"], partner=local, confidence=confidence)
            # Every metric is a fraction, which a t interval does not know.
            rows.append((*key, *np.clip(interval, 0, 1), int(group["value"].notna().sum())))
        result = AuditTable(rows, columns=[*keys, "value", "low", "high", "n_targets"])
        result.attrs = self.attrs
        return result

    def summary(
        self,
        metrics: str | Sequence[str] | None = None,
        *,
        attacks: Sequence[str] | None = None,
        target: int | str = POOLED,
    ) -> pd.DataFrame:
        """Lay the table out for a page: a row per attack, cells such as ``0.612 [0.601, 0.624]``.

        A column is a metric; or a defense, where the table has several and ``metrics`` is a single name.

        Parameters
        ----------
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
            If a metric, an attack or the target is not in the table.
        """
        rows = self.over_targets() if target == "mean" else self[self["target"] == target]
        if rows.empty:
            raise ValueError(
                f"target={target!r} is not in the table; it must be 'pooled', 'mean' or a model's index."
            )
        present = list(dict.fromkeys(self["metric"]))
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
        if across:
            page = rows._cells("attack", "defense", rows["metric"])
            return page[list(dict.fromkeys(self["defense"]))].rename_axis(index=None, columns="attack")
        keys = [c for c in ("defense", "attack") if c in rows.columns]
        page = rows._cells(keys, "metric", rows["metric"])[list(metrics)]
        # The name of the rows stands in the corner, where it costs no line of its own.
        return (
            page.rename_axis(columns=None)
            if len(keys) > 1
            else page.rename_axis(index=None, columns="attack")
        )

    def wide(self, index: str, columns: str) -> pd.DataFrame:
        """Lay the table out for a page: cells such as ``0.612 [0.601, 0.624]``, "-" where there is no row.

        Parameters
        ----------
        index, columns : str
            Columns that name the rows and the columns of the page's table, in the order in which they come.

        Returns
        -------
        DataFrame of str
        """
        page = self._cells(index, columns, [""] * len(self))
        return page.fillna("-").rename_axis(index=None, columns=index)

    def missing(self) -> ClaimsTable:
        """Return what a table from `audit_each` or `audit_defenses` lacks, and why, with one row for each reason.

        Returns
        -------
        ClaimsTable
            Columns ``attack``, ``reason`` and ``against``; a page shows the reasons in full.
        """
        rows = pd.DataFrame(self.attrs.get("missing", []), columns=["defense", "attack", "reason"])
        rows = rows.groupby(["attack", "reason"], sort=False)["defense"].agg(", ".join).reset_index()
        return ClaimsTable(rows.rename(columns={"defense": "against"})[["attack", "reason", "against"]])

    def strongest(self, metric: str = "auc") -> pd.DataFrame:
        """Return the strongest attack of each family against each defense.

        Parameters
        ----------
        metric : str
            By which attacks are compared, pooled over targets.

        Returns
        -------
        DataFrame
            A row per family (`mialab.auditing.taxonomy.families`), a column per defense: value and name. The best of
            many, chosen by its result, looks better than it is.
        """
        rows = pd.DataFrame(self.pooled(metric)).dropna(subset=["value"])
        if "defense" not in rows:
            rows = rows.assign(defense=str(self.attrs.get("defense", "unknown")))
        rows = rows.assign(family=[family(name) for name in rows["attack"]])
        order = list(families(dict.fromkeys(rows["attack"])))
        best = rows.loc[rows.groupby(["family", "defense"], sort=False)["value"].idxmax()]
        best = best.assign(cell=[f"{r.value:.3f} {r.attack}" for r in best.itertuples()])
        page = best.pivot(index="family", columns="defense", values="cell")
        columns = [name for name in dict.fromkeys(rows["defense"]) if name in page]
        return page.loc[order, columns].fillna("-").rename_axis(index=None, columns="attacker")

    def _cells(self, index: str | list[str], columns: str, metrics: Sequence[str]) -> pd.DataFrame:
        """Return a cell of text for each row, rows and columns in the order in which they come."""
        keys = [index] if isinstance(index, str) else index
        cells = [_cell(*row) for row in zip(metrics, self["value"], self["low"], self["high"], strict=True)]
        plain = pd.DataFrame(self[[*keys, columns]])
        page = plain.assign(cell=cells).pivot(index=keys, columns=columns, values="cell")
        order = list(dict.fromkeys(plain[keys].itertuples(index=False, name=None)))
        rows = order if len(keys) > 1 else [key[0] for key in order]
        return page.loc[rows, list(dict.fromkeys(plain[columns]))]


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


def _text(metric: str, value: float) -> str:
    if pd.isna(value):
        return NOT_RESOLVABLE if "@" in str(metric) else "undefined"
    return f"{value:.4f}"


def _cell(metric: str, value: float, low: float, high: float) -> str:
    if pd.isna(value):
        return _text(metric, value)
    digits = 4 if "@" in metric else 3
    return f"{Interval(value, low, high):.{digits}f}"
