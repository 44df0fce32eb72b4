"""Every defense against every attack: one table of all results, in which what is missing has its reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mialab import _progress, defenses
from mialab._validation import choose
from mialab.attacks.base import Attack
from mialab.auditing.measure import audit
from mialab.auditing.tables import AuditTable, compare
from mialab.auditing.taxonomy import _all, _check_pool
from mialab.classifiers.game import play
from mialab.exceptions import RequirementsNotMet
from mialab.games.base import Game
from mialab.metrics import rates
from mialab.metrics.outcomes import Outcome
from mialab.training.options import Training

if TYPE_CHECKING:
    from mialab.data.pool import Pool
    from mialab.defenses.base import Defense
    from mialab.models import Model
    from mialab.queries import Queries


#: False-positive rates of ROC curves: from 1 in 10,000 up, eight a decade.
CURVE_RATES = tuple(round(float(rate), 6) for rate in np.logspace(-4, 0, 33)[:-1])


def audit_each(
    games: Mapping[str, Game],
    attacks: Sequence[str | Attack] | None = None,
    *,
    pool: Pool | None = None,
    fprs: Sequence[float] = (0.001, 0.01),
    fnrs: Sequence[float] = (),
) -> AuditTable:
    """Audit several games with every attack that each of them allows.

    Parameters
    ----------
    games : dict of str to Game
        Label, which the column ``defense`` holds, to game.
    attacks : sequence of str or Attack, optional
        All that are registered by default, those on generators for games of generators.
    pool : Pool, optional
        The records that were played with, for attacks that look at them.
    fprs, fnrs
        As in `mialab.audit`.

    Returns
    -------
    AuditTable
        As from `mialab.compare`. ``attrs["missing"]`` lists what is not in it: dicts with ``defense``, ``attack`` and
        ``reason``. ``attrs["roc"]`` has pooled ROC curves: ``fpr``, and under ``tpr`` for each defense and attack
        the rates there, None where they are not resolvable.

    Raises
    ------
    ValueError
        If an attack is unknown or named twice.
    RuntimeError
        If no attack works on any game.
    """
    wanted = _all(attacks, pool, next((game.victim for game in games.values()), "classifier"))
    options = {"pool": pool, "fprs": fprs, "fnrs": fnrs}
    return _audit_all(
        {label: partial(lambda game: game, game) for label, game in games.items()}, wanted, options
    )


def audit_defenses(
    pool: Pool,
    *,
    model: str | Model = "mlp",
    training: Training | None = None,
    n_models: int = 16,
    queries: str | Queries = "original",
    probes: Sequence = (),
    defenses: Sequence[str | Defense] | Mapping[str, Defense] | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    attacks: Sequence[str | Attack] | None = None,
    fprs: Sequence[float] = (0.001, 0.01),
    fnrs: Sequence[float] = (0.001,),
    seed: int = 0,
) -> AuditTable:
    """Play one game per defense, or read those played before, and audit each with every attack that it allows.

    Memberships, first weights and batches are the same for all defenses. A defense that cannot be trained, and an
    attack that is refused or fails, stop nothing: they are listed as missing, with the reason.

    Parameters
    ----------
    pool : Pool
        The records.
    model, training, n_models, queries, probes, seed
        As in `mialab.play`.
    defenses : sequence of str or Defense, or dict of str to Defense, optional
        All that are registered by default, the undefended models first. Of a dict, the keys are the labels.
    overrides : dict of str to dict, optional
        For a defense, parameters other than its default ones. Under ``"training"`` a `Training`, or a dict of what
        differs from ``training``.
    attacks : sequence of str or Attack, optional
        All that are registered by default.
    fprs, fnrs
        As in `mialab.audit`.

    Returns
    -------
    AuditTable
        As from `mialab.compare`. ``attrs["missing"]`` lists what is not in it: dicts with ``defense``, ``attack``
        (``"all"`` where the defense could not be trained) and ``reason``. ``attrs["roc"]`` as from `audit_each`.

    Raises
    ------
    ValueError, TypeError
        If a defense, an attack or a parameter of ``overrides`` is unknown, before any training.
    RuntimeError
        If no attack works on any defense.
    """
    training = Training() if training is None else training
    plan = _plan(defenses, overrides or {}, training)
    wanted = _all(attacks, pool)
    options = {"pool": pool, "fprs": fprs, "fnrs": fnrs}
    common: dict[str, Any] = {"n_models": n_models, "queries": queries, "probes": probes, "seed": seed}
    games = {
        name: partial(play, pool, model, defense, training=how, **common)
        for name, (defense, how) in plan.items()
    }
    return _audit_all(games, wanted, options)


def _plan(
    given: Sequence[str | Defense] | Mapping[str, Defense] | None,
    overrides: Mapping[str, Mapping[str, Any]],
    training: Training,
) -> dict[str, tuple[Defense, Training]]:
    """Return each defense with its training by its label, all parameters checked."""
    known = defenses.available()
    if given is None:
        given = sorted(known, key=lambda name: name != "none")
    if isinstance(given, Mapping):
        chosen = {label: defenses.make(defense) for label, defense in given.items()}
    else:
        chosen = {}
        for one in given:
            if isinstance(one, str):
                choose("defense", one, known)
            made = defenses.make(one)
            if made.name in chosen:
                raise ValueError(
                    f"defenses: {made.name!r} is there twice; give a dict of labels to defenses."
                )
            chosen[made.name] = made
    for name in overrides:
        choose("defense", name, {*known, *chosen})
    plan = {}
    for name, defense in chosen.items():
        changed = dict(overrides.get(name, {}))
        how = changed.pop("training", training)
        if isinstance(how, Mapping):
            how = _replace(training, how, f"overrides[{name!r}]['training']")
        plan[name] = _replace(defense, changed, f"overrides[{name!r}]"), how
    return plan


def _replace(options: Any, given: Mapping[str, Any], where: str) -> Any:
    known = {field.name for field in dataclasses.fields(options)}
    for key in given:
        choose(where, key, known)
    return dataclasses.replace(options, **given)


def _audit_all(
    games: Mapping[str, Callable[[], Game]], attacks: Sequence[Attack], options: dict[str, Any]
) -> AuditTable:
    """Audit one game after the other with all attacks that work on it; list what fails as missing."""
    tables: dict[str, AuditTable] = {}
    missing: list[dict[str, str]] = []
    grid, rocs = curve_rates(options["fprs"]), {}
    for label, make in games.items():
        try:
            game = make()
        except Exception as error:  # whatever it is, it becomes part of the table, and the others go on
            missing.append(_missing(label, "all", error))
            continue
        outcomes = []
        for i, attack in enumerate(attacks, 1):
            _progress.note(f"{label}: attack {i} of {len(attacks)}, {attack.name}")
            try:
                _check_pool(attack)
                outcomes.append(game.outcome(attack))
            except Exception as error:
                missing.append(_missing(label, attack.name, error))
        if outcomes:
            tables[label] = audit(game, outcomes, **options)
            rocs[label] = {outcome.attack: _roc_at(outcome, grid) for outcome in outcomes}
    if not tables:
        first = missing[0]
        raise RuntimeError(
            f"Nothing could be measured: {first['attack']} against {first['defense']}: {first['reason']}"
        )
    table = compare(tables)
    table.attrs["missing"] = missing
    table.attrs["roc"] = {"fpr": grid, "tpr": rocs}
    return table


def curve_rates(fprs: Sequence[float]) -> list[float]:
    """Return the false-positive rates at which tables of all results keep ROC curves: those of a grid, and these."""
    return sorted({*CURVE_RATES, *map(float, fprs)})


def _roc_at(outcome: Outcome, grid: Sequence[float]) -> list[float | None]:
    """Return the TPR at some rates, of all targets pooled; None where a rate allows fewer errors than is resolvable."""
    fpr, tpr, _ = rates.roc(outcome.score[outcome.evaluated], outcome.member[outcome.evaluated])
    able = [outcome.resolvable(rates.rate_name("tpr", rate)) for rate in grid]
    return [
        round(float(tpr[np.searchsorted(fpr, rate, side="right") - 1]), 5) if ok else None
        for rate, ok in zip(grid, able, strict=True)
    ]


def _missing(defense: str, attack: str, error: Exception) -> dict[str, str]:
    reason = " ".join(str(error).split())
    if not isinstance(error, RequirementsNotMet):
        reason = f"{type(error).__name__}: {reason}"
    return {"defense": defense, "attack": attack, "reason": reason}
