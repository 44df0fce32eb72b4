"""The audit: every attack against every target model of a game, as one tidy table with intervals."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from mialab import _progress, provenance
from mialab.attacks.base import Attack
from mialab.auditing import conditions
from mialab.auditing.tables import COLUMNS, MEAN, POOLED, AuditTable
from mialab.auditing.taxonomy import INCLUDES, Attacking, _chosen, threat_model
from mialab.games.base import Game
from mialab.metrics import estimates, influence, intervals, rates
from mialab.metrics.calibration import Concentration
from mialab.metrics.estimates import Estimate, Targets
from mialab.metrics.influence import Cells
from mialab.metrics.outcomes import Outcome
from mialab.metrics.rates import rate_name

if TYPE_CHECKING:
    from mialab.data.pool import Pool


def audit(
    game: Game,
    attacks: Sequence[Attacking] = ("loss", "modified_entropy", "lira"),
    *,
    pool: Pool | None = None,
    fprs: Sequence[float] = (0.001, 0.01),
    fnrs: Sequence[float] = (0.001,),
    records: ArrayLike | None = None,
    confidence: float = 0.95,
) -> AuditTable:
    """Run attacks on a game and measure them on each target model and on all of them pooled.

    Parameters
    ----------
    game : Game
    attacks : sequence of str, Attack, callable or Outcome
        Names from `mialab.attacks.available`, attacks, functions from a game to scores (model, record), or outcomes of
        this game, see `Game.outcome`. All are checked before the first one runs; one that needs what the game lacks
        stops the audit there.
    pool : Pool, optional
        The records that were played with, for attacks that look at them (``"quantile"``).
    fprs, fnrs : sequence of float
        Rates at which to report the TPR and the TNR, fractions.
    records : (n_records,) bool or array of int, optional
        Records to measure on, such as ``game.canary``; all by default. The attacks still see the whole game.
    confidence : float
        Coverage of the intervals, which are about new models *and* new records: two-way, from influence values, see
        `metrics.Estimate`. Of a single target they are about records only; precision and recall of a single target
        have Clopper-Pearson's, given the threshold.

    Returns
    -------
    AuditTable
        One row per attack, target and metric; columns ``attack, target, metric, value, low, high, n_member,
        n_nonmember, threshold, realized, errors``. ``target`` is the index of the model, ``"mean"`` for the mean over
        the targets, or ``"pooled"`` for one ROC over all evaluated (target, record) pairs. Metrics are ``auc``,
        ``balanced_accuracy``, ``tpr@0.001``, ..., ``tnr@0.001``, ..., ``precision``, ``recall``, ``f1``; the last three
        and the balanced accuracy are of the decisions at the attacker's own threshold. Pooled rows have
        ``calibrated_tpr@0.001``, ... too, of scores that are calibrated record by record (`metrics.Cells.calibrated`).
        Rates come with the threshold that reaches them, the error rate that it realizes and the number of errors (false
        alarms of a TPR). A rate that allows fewer than ten errors is not resolvable: its cells are NaN and print so.
        ``attrs`` says how the table was made; under ``"pairs"`` from how many pairs of targets, under ``"variance"``
        and ``"df"`` for each attack and metric V_t / V_p and the degrees of freedom behind the pooled interval
        (`metrics.estimates.Variance`), under ``"concentration"`` how evenly false alarms fall on records, and under
        ``"strongest"`` the strongest attack of each kind of attacker with an interval that knows that it was chosen;
        who sees scores sees labels too, and who sees the model sees both.

    Raises
    ------
    TypeError
        If ``game`` is no game.
    ValueError
        If an attack is unknown or is named twice, or another parameter is wrong.
    RequirementsNotMet
        If an attack needs what the game lacks (a ValueError too).
    """
    began = time.perf_counter()
    if not isinstance(game, Game):
        raise TypeError(f"game={game!r} must be a Game, from mialab.play or mialab.Game.from_arrays.")
    rates.check_rates("fprs", fprs), rates.check_rates("fnrs", fnrs)
    rates.check_fraction("confidence", confidence)
    columns = _columns(records, game.n_records)
    chosen = _chosen(attacks, pool)
    names = _metrics(fprs, fnrs)
    for attack in chosen.values():
        if isinstance(attack, Attack):
            attack.check(game)
    outcomes = {name: game.outcome(attack) for name, attack in chosen.items()}

    pooled: dict[str, dict[str, Estimate]] = {}
    even: dict[str, dict[str, Concentration]] = {}
    rows: list[tuple] = []
    what = f"auditing {game.attrs.get('defense')} on {game.attrs.get('dataset')}"
    with _progress.bar(len(outcomes), what) as advance:
        for name, outcome in outcomes.items():
            outcome = outcome.among(columns)
            if not outcome.evaluated.any():
                raise ValueError(
                    f"The attack {name!r} evaluates none of the {columns.sum()} records asked for."
                )
            try:
                measured = {metric: outcome.estimate(metric) for metric in names}
                even[name] = {
                    metric: outcome.concentration(rate, calibrated=kind == "calibrated_tpr")
                    for metric in names
                    for kind, rate in (influence.parse(metric),)
                    if rate is not None and kind != "tnr" and outcome.resolvable(metric)
                }
                rows += _rows(name, POOLED, measured, outcome.cells.sides, confidence)
                pooled[name] = {metric: one.without_cells() for metric, one in measured.items()}
                rows += _target_rows(outcome, names, confidence)
                advance(1)
            except ValueError as error:
                raise ValueError(f"Attack {name!r}: {error}") from error

    table = AuditTable(rows, columns=COLUMNS)
    table.attrs = _plain(
        {
            **game.attrs,
            "partner": game.partner,
            "pairs": {name: found["auc"].n_pairs for name, found in pooled.items()},
            "train_accuracy": game.train_accuracy if "train_accuracy" in game.dataset else None,
            "test_accuracy": game.test_accuracy,
            "conditions": conditions.of([game]),
            "variance": {
                name: {metric: round(one.variance.targets, 3) for metric, one in found.items()}
                for name, found in pooled.items()
            },
            "concentration": even,
            "df": {
                name: {metric: round(one.variance.df, 3) for metric, one in found.items()}
                for name, found in pooled.items()
            },
            "strongest": _strongest(pooled, names, confidence),
            "audit": {
                **provenance.collect(),
                "fprs": fprs,
                "fnrs": fnrs,
                "confidence": confidence,
                "attacks": {name: outcome.description for name, outcome in outcomes.items()},
                "records": _describe(columns),
                "n_excluded": {name: outcome.n_excluded for name, outcome in outcomes.items()},
                "attack_seconds": {name: round(outcome.seconds, 3) for name, outcome in outcomes.items()},
                "seconds": round(time.perf_counter() - began, 3),
            },
        }
    )
    return table


def _strongest(
    pooled: Mapping[str, Mapping[str, Estimate]], names: Sequence[str], confidence: float
) -> dict[str, dict[str, tuple]]:
    """Name the strongest attack of each kind of attacker by each measure, with a max-statistic interval.

    Kinds are nested, see `mialab.auditing.taxonomy.INCLUDES`; one that no attack of its own stands for is left out.
    """
    found: dict[str, dict[str, tuple]] = {}
    sees = {attack: threat_model(attack) for attack in pooled}
    for metric in names:
        of_kind: dict[str, dict[str, Estimate]] = {}
        for attack, measured in pooled.items():
            if np.isfinite(measured[metric].value):
                of_kind.setdefault(sees[attack], {})[attack] = measured[metric]
        found[metric] = {}
        for kind in of_kind:
            able: dict[str, Estimate] = {}
            for other in INCLUDES[kind]:
                able |= of_kind.get(other, {})
            found[metric][kind] = (
                max(able, key=lambda name: able[name].value),
                *estimates.strongest(list(able.values()), confidence=confidence),
                len(able),
            )
    return found


def _metrics(fprs: Sequence[float], fnrs: Sequence[float]) -> list[str]:
    """Names of all measures, in the order of the table."""
    of_rates = [rate_name(kind, rate) for kind in ("tpr", "calibrated_tpr") for rate in fprs]
    of_rates += [rate_name("tnr", rate) for rate in fnrs]
    return ["auc", "balanced_accuracy", *of_rates, "precision", "recall", "f1"]


def _rows(
    attack: str, target: str, found: Mapping[str, Estimate], sides: Sequence[int], confidence: float
) -> Iterator[tuple]:
    """Return the rows of all targets, pooled or as a mean."""
    for name, estimate in found.items():
        point = estimate.point
        at = (np.nan,) * 3 if point is None else (point.threshold, point.fpr, point.errors)
        yield attack, target, name, *estimate.interval(confidence), *sides, *at


def _target_rows(outcome: Outcome, names: Sequence[str], confidence: float) -> Iterator[tuple]:
    """Return the rows of each target that is evaluated, and of the mean over all."""
    cells = outcome.cells
    found = {name: cells.targets(name) for name in names if "calibrated" not in name}
    numbers = {name: _numbers(cells, name, each, confidence).tolist() for name, each in found.items()}
    sides = np.stack(cells.sides_of_targets, axis=1)
    evaluated = np.flatnonzero(sides.any(1))  # a model that only serves as a shadow is no target
    for k in evaluated.tolist():
        for name, of_target in numbers.items():
            value, low, high, *at = of_target[k]
            yield outcome.attack, k, name, value, low, high, *sides[k].tolist(), *at
    means = {name: each.mean for name, each in found.items()}
    of_each = sides[evaluated].sum(0) // len(evaluated)
    yield from _rows(outcome.attack, MEAN, means, of_each.tolist(), confidence)


def _numbers(cells: Cells, name: str, found: Targets, confidence: float) -> np.ndarray:
    """Return for each target value, low, high, threshold, realized rate and errors, (target, 6)."""
    value, (low, high) = found.value, found.interval(confidence)
    if name in ("precision", "recall"):  # exact ones, given the threshold
        hits, wrong = cells.accused_of_targets
        trials = hits + wrong if name == "precision" else cells.sides_of_targets[0]
        exact = np.array([hits / np.maximum(trials, 1), *intervals.clopper_pearson(hits, trials, confidence)])
        value, low, high = np.where(trials > 0, exact, np.nan)
    at = np.full((4, len(value)), np.nan) if found.point is None else found.point
    return np.stack([value, low, high, at[0], *at[2:]], axis=1)


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
