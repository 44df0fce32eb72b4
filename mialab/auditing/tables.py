"""Tables of audits: what they hold, how they print, and how they are laid out for a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mialab._validation import choose
from mialab.auditing.claims import ClaimsTable
from mialab.auditing.taxonomy import KINDS
from mialab.metrics import rates
from mialab.metrics.intervals import Interval

COLUMNS = [
    *("attack", "target", "metric", "value", "low", "high", "n_member", "n_nonmember"),
    *("threshold", "realized", "errors"),
]

#: What stands for the index of a model in rows of all targets: one ROC over all, or the mean over targets.
POOLED, MEAN = "pooled", "mean"

NOT_RESOLVABLE = "not resolvable"

#: What the row or column is called that says which epsilon is proven, and what it says where none is.
PROVEN, NOTHING_PROVEN = "proven epsilon", "none"
#: Accountants of epsilon, by their names in a game's report and on a page.
ACCOUNTANTS = {"epsilon_prv": "PRV", "epsilon_rdp": "RDP"}

#: Fractions of members among those who might be asked about, at which precision is stated.
PRIORS = (0.01, 0.1)


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
            "member") and the ends of the interval are ``"-"``. A last column ``proven epsilon`` is there if any of the
            games has one, see `proven`. A table without ``metric`` and ``value`` is unchanged.
        """
        plain = pd.DataFrame(self)
        if not {"metric", "value"} <= set(plain.columns):
            return plain
        texts = {"value": [_text(*row) for row in self._numbers("value")]}
        for end in plain.columns.intersection(["low", "high"]):
            texts[end] = ["-" if pd.isna(v) else f"{v:.4f}" for v in plain[end]]
        for column in plain.columns.intersection(["threshold", "realized", "errors"]):
            spec = ".0f" if column == "errors" else ".4g"
            texts[column] = ["-" if pd.isna(v) else f"{v:{spec}}" for v in plain[column]]
        if self._proven and "epsilon" not in plain.columns:
            texts[PROVEN] = self._proven_of(plain.get("defense", [None] * len(plain)))
        return plain.assign(
            **{column: pd.Series(t, index=plain.index, dtype=object) for column, t in texts.items()}
        )

    @property
    def _audits(self) -> dict[str, Mapping[str, Any]]:
        """Attributes of each audit by the label of its defense."""
        return self.attrs.get("audits") or {str(self.attrs.get("defense", "unknown")): self.attrs}

    @property
    def _proven(self) -> dict[str, str]:
        """What each defense proves; empty if none proves anything."""
        found = {label: proven(about.get("report")) for label, about in self._audits.items()}
        return found if {*found.values()} - {NOTHING_PROVEN} else {}

    def _proven_of(self, defenses: Iterable[str | None]) -> list[str]:
        """Return what each of these defenses proves, None for the only one."""
        found = self._proven
        (alone,) = found.values() if len(found) == 1 else (NOTHING_PROVEN,)
        return [alone if name is None else found.get(name, NOTHING_PROVEN) for name in defenses]

    def _numbers(self, *columns: str) -> Iterator[tuple]:
        """Return for each row the metric, the smallest rate that could be resolved, and some columns."""
        unknown = [None] * len(self)
        names = [str(name) for name in self.get("metric", unknown)]
        sides = [self.get(column, unknown) for column in ("n_member", "n_nonmember")]
        least = [
            rates.smallest_rate(n_in if "tnr" in name else n_out)
            for name, n_in, n_out in zip(names, *sides, strict=True)
        ]
        return zip(names, least, *(self[column] for column in columns), strict=True)

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
        about = self.attrs.get("audits", {}).get(defense, {}) if "defense" in self else self.attrs
        return Interval(
            *rows.loc[rows["attack"] == attack, ["value", "low", "high"]].iloc[0].tolist(),
            df=about.get("df", {}).get(attack, {}).get(metric) or np.inf,  # older tables do not know it
            n_pairs=about.get("pairs", {}).get(attack),
            confidence=about.get("audit", {}).get("confidence", 0.95),
            logit=True,
            conditions=about.get("conditions"),
        )

    def over_targets(self) -> AuditTable:
        """Return the mean of each metric over the target models, with intervals over targets and records.

        Returns
        -------
        AuditTable
            Columns ``attack, metric, value, low, high, n_targets`` (after ``defense`` if the table has it).

        Raises
        ------
        ValueError
            If the table has no such rows, such as one of a reference run of 2026 or before.
        """
        keys = [c for c in ("defense", "attack", "metric") if c in self.columns]
        plain = pd.DataFrame(self)
        if MEAN not in set(plain["target"]):
            raise ValueError(f"The table has no rows of target {MEAN!r}, which `mialab.audit` makes.")
        single = plain[~plain["target"].isin([POOLED, MEAN])]
        counts = single.groupby(keys, sort=False)["value"].count().rename("n_targets").reset_index()
        rows = plain.loc[plain["target"] == MEAN, [*keys, "value", "low", "high"]]
        result = AuditTable(rows.merge(counts, on=keys))
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
            What is proven, see `proven`, comes last if any of the games has an epsilon: a row where columns are
            defenses, otherwise a column.

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
            page = page[list(dict.fromkeys(self["defense"]))].rename_axis(index=None, columns="attack")
            return self._with_proven(page)
        keys = [c for c in ("defense", "attack") if c in rows.columns]
        page = rows._cells(keys, "metric", rows["metric"])[list(metrics)]
        if self._proven:
            page[PROVEN] = self._proven_of(_labels(page.index))
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
        """Return the strongest attack of each kind of attacker against each defense.

        Parameters
        ----------
        metric : str
            By which attacks are compared, pooled over targets; ValueError if the table lacks it.

        Returns
        -------
        DataFrame
            A row per kind of attacker (`mialab.auditing.taxonomy.threat_model`; one who sees more can do what others
            can, so values grow from row to row), a column per defense: the value with
            an interval that knows that it is the best of so many (`metrics.strongest`), the attack's name, and of how
            many it was chosen. A last row ``proven epsilon`` is there if any of the games has one, see `proven`.
        """
        choose("metric", metric, set(self["metric"]))
        cells = {
            label: {
                kind: f"{Interval(*ends):.3f} {attack}, of {n}"
                for kind, (attack, *ends, n) in attrs.get("strongest", {}).get(metric, {}).items()
            }
            for label, attrs in self._audits.items()
        }
        order = [kind for kind in KINDS if any(kind in column for column in cells.values())]
        page = pd.DataFrame(cells).reindex(order).fillna("-").rename_axis(index=None, columns="attacker sees")
        return self._with_proven(page)

    def arms(self) -> ClaimsTable:
        """Say of the models of each defense what they had learned: to be read before any attack.

        Returns
        -------
        ClaimsTable
            A row per defense: number of models, mean accuracy on members and the least, mean test accuracy, and what is
            wrong with the training (`mialab.auditing.conditions`), or not known of it.
        """
        rows = {}
        for label, about in self._audits.items():
            learned, tested = (
                np.asarray(about.get(name) or [np.nan], dtype=np.float64)
                for name in ("train_accuracy", "test_accuracy")
            )
            rows[label] = {
                "models": about.get("n_models", len(tested)),
                "members": f"{learned.mean():.3f}",
                "the least": f"{learned.min():.3f}",
                "test": f"{tested.mean():.3f}",
                "training": "; ".join(filter(None, (about.get("conditions") or {}).values())) or "has ended",
            }
        return ClaimsTable(pd.DataFrame.from_dict(rows, orient="index").rename_axis(columns="accuracy on"))

    def consequences(self, metric: str = "tpr@0.001", *, priors: Sequence[float] = PRIORS) -> pd.DataFrame:
        """Say what a rate means for those who are accused.

        Parameters
        ----------
        metric : str
            A true-positive rate, pooled over targets; ValueError if the table lacks it.
        priors : sequence of float
            Fractions of members among those who might be asked about.

        Returns
        -------
        DataFrame
            A row per attack (and defense): the true-positive rate with its interval, the false-positive rate that it
            really comes with, the advantage TPR - FPR, and for each prior how many of 1,000 accused records were
            members, with what the ends of the interval make of it. What is proven, see `proven`, comes last if any of
            the games has an epsilon.
        """
        rows = pd.DataFrame(self.pooled(metric))
        keys = [c for c in ("defense", "attack") if c in rows.columns]
        page = rows[keys].copy()
        page["true-positive rate"] = [
            _cell(*row) for row in self.pooled(metric)._numbers("value", "low", "high")
        ]
        page["false-positive rate"] = [
            "-" if pd.isna(r.value) else f"{r.realized:.4f} ({r.errors:.0f} of {r.n_nonmember})"
            for r in rows.itertuples()
        ]
        page["advantage"] = [
            "-" if pd.isna(r.value) else f"{r.value - r.realized:.4f}" for r in rows.itertuples()
        ]
        for prior in priors:
            rates.check_fraction("priors", prior)
            page[f"members of 1,000 accused, {prior:.0%} are members"] = [
                _accused(Interval(r.value, r.low, r.high), r.realized, prior) for r in rows.itertuples()
            ]
        page = page.set_index(keys)
        if self._proven:
            page[PROVEN] = self._proven_of(_labels(page.index))
        return page

    def _with_proven(self, page: pd.DataFrame) -> pd.DataFrame:
        """Add a last row to a page whose columns are defenses, if any of them proves an epsilon."""
        if self._proven:
            page.loc[PROVEN] = self._proven_of(page.columns)
        return page

    def _cells(self, index: str | list[str], columns: str, metrics: Sequence[str]) -> pd.DataFrame:
        """Return a cell of text for each row, rows and columns in the order in which they come."""
        keys = [index] if isinstance(index, str) else index
        numbers = self._numbers("value", "low", "high")
        cells = [_cell(name, *row[1:]) for name, row in zip(metrics, numbers, strict=True)]
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


def proven(report: Mapping[str, Any] | None) -> str:
    """Say what a game's defense proves about adding or removing a record.

    Parameters
    ----------
    report : dict, optional
        The game's ``attrs["report"]``, or that of an audit.

    Returns
    -------
    str
        Epsilon by each accountant that the report names, and delta, such as ``"PRV 0.996, RDP 1.13, delta 1e-05"``;
        ``"none"`` without a guarantee, which an infinite epsilon is none of. In a game members are replaced, for which
        it is 2 epsilon and (1 + exp(epsilon)) delta.
    """
    report = report or {}
    epsilon = report.get("epsilon")
    if epsilon is None or not np.isfinite(epsilon):
        return NOTHING_PROVEN
    each = [f"{name} {report[key]:.3g}" for key, name in ACCOUNTANTS.items() if report.get(key) is not None]
    parts = each or [f"{epsilon:.3g}"]
    if report.get("delta") is not None:
        parts.append(f"delta {report['delta']:.2g}")
    return ", ".join(parts)


def _labels(index: pd.Index) -> Iterable[str | None]:
    """Return the label of the defense in each row of a page; None where there is only one."""
    return index.get_level_values("defense") if "defense" in index.names else [None] * len(index)


def _text(metric: str, least: float, value: float) -> str:
    if not pd.isna(value):
        return f"{value:.4f}"
    if "@" not in str(metric):
        return "undefined"
    return NOT_RESOLVABLE if pd.isna(least) else f"{NOT_RESOLVABLE} below {least:.2g}"


def _cell(metric: str, least: float, value: float, low: float, high: float) -> str:
    if pd.isna(value):
        return _text(metric, least, value)
    digits = 4 if "@" in metric else 3
    return f"{Interval(value, low, high):.{digits}f}"


def _accused(tpr: Interval, fpr: float, prior: float) -> str:
    """Say in whole numbers how many of 1,000 accused records are members, with the ends of the interval."""
    if pd.isna(tpr.value) or not tpr.value + fpr:
        return "-"
    value, low, high = (round(1000 * rates.precision_at(each, fpr, prior)) for each in tpr)
    return f"{value} [{low}, {high}]"
