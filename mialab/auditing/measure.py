"""The audit: every attack against every target model of a game, as one tidy table with intervals."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from mialab import _progress, metrics, provenance
from mialab._validation import check_integer
from mialab.attacks.base import Attack
from mialab.auditing.tables import COLUMNS, POOLED, AuditTable
from mialab.auditing.taxonomy import Attacking, _chosen
from mialab.games.base import Game
from mialab.metrics import intervals, rates
from mialab.metrics.intervals import Interval
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
    n_resamples: int = 1000,
    seed: int = 0,
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
        ..., ``precision``, ``recall``, ``f1``; the last three and the balanced accuracy are of the decisions at the
        attacker's own threshold. A rate that allows fewer than ten errors is not resolvable: its cells are NaN and
        print so. ``attrs`` says how the table was made.

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
    check_integer("n_resamples", n_resamples, low=1)
    columns = _columns(records, game.n_records)
    chosen = _chosen(attacks, pool)
    options: dict[str, Any] = {"fprs": fprs, "fnrs": fnrs, "confidence": confidence}
    options |= {"n_resamples": n_resamples, "seed": seed}

    for attack in chosen.values():
        if isinstance(attack, Attack):
            attack.check(game)
    outcomes = {name: game.outcome(attack) for name, attack in chosen.items()}

    rows: list[tuple] = []
    what = f"auditing {game.attrs.get('defense')} on {game.attrs.get('dataset')}"
    with _progress.bar(len(outcomes) * (game.n_models + 1), what) as advance:
        for name, outcome in outcomes.items():
            outcome = outcome.among(columns)
            if not outcome.evaluated.any():
                raise ValueError(
                    f"The attack {name!r} evaluates none of the {columns.sum()} records asked for."
                )
            member = game.member[outcome.evaluated]
            rows += _rows(name, POOLED, outcome.intervals(**options), member, options)
            advance(1)
            for k in range(game.n_models):
                if outcome.evaluated[k].any():  # a model that only serves as a shadow is no target
                    rows += _target_rows(k, outcome, options)
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
                "attacks": {name: outcome.description for name, outcome in outcomes.items()},
                "records": _describe(columns),
                "n_excluded": {name: outcome.n_excluded for name, outcome in outcomes.items()},
                "attack_seconds": {name: round(outcome.seconds, 3) for name, outcome in outcomes.items()},
                "seconds": round(time.perf_counter() - began, 3),
            },
        }
    )
    return table


def _target_rows(k: int, outcome: Outcome, options: dict[str, Any]) -> Iterator[tuple]:
    of_target = (
        a[k, outcome.evaluated[k]] for a in (outcome.score, outcome.member, outcome.predicted_member)
    )
    score, member, said = of_target
    confidence = options["confidence"]
    resampling = {key: options[key] for key in ("n_resamples", "confidence", "seed")}
    try:
        found = intervals.bootstrap(score, member, predicted_member=said, fprs=(), fnrs=(), **resampling)
    except ValueError as error:
        raise ValueError(f"Attack {outcome.attack!r} on target {k}: {error}") from error
    for rate in options["fprs"]:
        hits = round(metrics.tpr_at_fpr(score, member, rate) * member.sum())
        found[rate_name("tpr", rate)] = intervals.proportion(hits, member.sum(), confidence)
    for rate in options["fnrs"]:
        hits = round(metrics.tnr_at_fnr(score, member, rate) * (~member).sum())
        found[rate_name("tnr", rate)] = intervals.proportion(hits, (~member).sum(), confidence)
    hits = (said & member).sum()
    found["precision"] = intervals.proportion(hits, said.sum(), confidence)
    found["recall"] = intervals.proportion(hits, member.sum(), confidence)
    return _rows(outcome.attack, k, found, member, options)


def _rows(
    name: str, target: int | str, found: dict[str, Interval], member: np.ndarray, options: dict[str, Any]
) -> Iterator[tuple]:
    n_in, n_out = int(member.sum()), int((~member).sum())
    tprs = {rate_name("tpr", f): metrics.resolvable(n_out, f) for f in options["fprs"]}
    tnrs = {rate_name("tnr", f): metrics.resolvable(n_in, f) for f in options["fnrs"]}
    for metric in ("auc", "balanced_accuracy", *tprs, *tnrs, "precision", "recall", "f1"):
        resolvable = (tprs | tnrs).get(metric, True)
        yield name, target, metric, *(found[metric] if resolvable else (np.nan,) * 3), n_in, n_out


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
