"""Every defense against every attack: one table of all results, in which what is missing has its reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from mialab import _progress, defenses
from mialab._validation import choose
from mialab.attacks.base import Attack
from mialab.auditing.measure import audit
from mialab.auditing.tables import AuditTable, compare
from mialab.auditing.taxonomy import _all
from mialab.classifiers.game import play
from mialab.exceptions import RequirementsNotMet
from mialab.games.base import Game
from mialab.training.options import Training

if TYPE_CHECKING:
    from mialab.data.pool import Pool
    from mialab.defenses.base import Defense
    from mialab.models import Model
    from mialab.queries import Queries


def audit_each(
    games: Mapping[str, Game],
    attacks: Sequence[str | Attack] | None = None,
    *,
    pool: Pool | None = None,
    fprs: Sequence[float] = (0.001, 0.01),
    fnrs: Sequence[float] = (),
    n_resamples: int = 200,
    seed: int = 0,
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
    fprs, fnrs, n_resamples, seed
        As in `mialab.audit`.

    Returns
    -------
    AuditTable
        As from `mialab.compare`. ``attrs["missing"]`` lists what is not in it: dicts with ``defense``, ``attack`` and
        ``reason``.

    Raises
    ------
    ValueError
        If an attack is unknown or named twice.
    RuntimeError
        If no attack works on any game.
    """
    victim = next((game.victim for game in games.values()), "classifier")
    wanted = _all(attacks, pool, victim)
    options = {"pool": pool, "fprs": fprs, "fnrs": fnrs, "n_resamples": n_resamples, "seed": seed}
    tables, missing = {}, []
    for label, game in games.items():
        table, reasons = _audit(label, game, wanted, options)
        missing += [{"defense": label, "attack": name, "reason": r} for name, r in reasons.items()]
        if table is not None:
            tables[label] = table
    return _stack(tables, missing)


def audit_defenses(
    pool: Pool,
    *,
    model: str | Model = "mlp",
    training: Training | None = None,
    n_models: int = 16,
    queries: str | Queries = "original",
    probes: Sequence = (),
    defenses: Sequence[str] | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    attacks: Sequence[str | Attack] | None = None,
    fprs: Sequence[float] = (0.001, 0.01),
    fnrs: Sequence[float] = (0.001,),
    n_resamples: int = 200,
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
    defenses : sequence of str, optional
        All that are registered by default, the undefended models first.
    overrides : dict of str to dict, optional
        For a defense, parameters other than its default ones. Under ``"training"`` a `Training`, or a dict of what
        differs from ``training``.
    attacks : sequence of str or Attack, optional
        All that are registered by default.
    fprs, fnrs, n_resamples
        As in `mialab.audit`.

    Returns
    -------
    AuditTable
        As from `mialab.compare`. ``attrs["missing"]`` lists what is not in it: dicts with ``defense``, ``attack``
        (``"all"`` where the defense could not be trained) and ``reason``.

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
    options = {"pool": pool, "fprs": fprs, "fnrs": fnrs, "n_resamples": n_resamples, "seed": seed}
    common: dict[str, Any] = {"n_models": n_models, "queries": queries, "probes": probes, "seed": seed}
    tables, missing = {}, []
    for name, (defense, how) in plan.items():
        try:
            game = play(pool, model, defense, training=how, **common)
        except Exception as error:  # whatever it is, it becomes part of the table, and the others go on
            missing.append({"defense": name, "attack": "all", "reason": _reason(error)})
            continue
        table, reasons = _audit(name, game, wanted, options)
        missing += [{"defense": name, "attack": attack, "reason": r} for attack, r in reasons.items()]
        if table is not None:
            tables[name] = table
    return _stack(tables, missing)


def _plan(
    names: Sequence[str] | None, overrides: Mapping[str, Mapping[str, Any]], training: Training
) -> dict[str, tuple[Defense, Training]]:
    """Return each defense with its training, all parameters checked."""
    known = defenses.available()
    names = sorted(known, key=lambda name: name != "none") if names is None else list(names)
    for name in (*names, *overrides):
        choose("defense", name, known)
    plan = {}
    for name in names:
        given = dict(overrides.get(name, {}))
        how = given.pop("training", training)
        if isinstance(how, Mapping):
            how = _replace(training, how, f"overrides[{name!r}]['training']")
        plan[name] = _replace(defenses.make(name), given, f"overrides[{name!r}]"), how
    return plan


def _replace(options: Any, given: Mapping[str, Any], where: str) -> Any:
    known = {field.name for field in dataclasses.fields(options)}
    for key in given:
        choose(where, key, known)
    return dataclasses.replace(options, **given)


def _audit(
    label: str, game: Game, attacks: Sequence[Attack], options: dict[str, Any]
) -> tuple[AuditTable | None, dict[str, str]]:
    """Audit a game with one attack after the other; return the table, and reasons for those that are missing."""
    tables, reasons = [], {}
    for i, attack in enumerate(attacks, 1):
        _progress.note(f"{label}: attack {i} of {len(attacks)}, {attack.name}")
        try:
            if attack.needs.pool and getattr(attack, "pool", None) is None:
                raise RequirementsNotMet(f"Attack {attack.name!r} looks at the records: pass pool=.")
            tables.append(audit(game, [attack], **options))
        except Exception as error:  # whatever it is, it becomes part of the table, and the others go on
            reasons[attack.name] = _reason(error)
    if not tables:
        return None, reasons
    table = AuditTable(pd.concat([pd.DataFrame(t) for t in tables], ignore_index=True))
    table.attrs = tables[0].attrs | {"audit": dict(tables[0].attrs["audit"])}
    for key in ("attacks", "attack_seconds"):
        table.attrs["audit"][key] = {k: v for t in tables for k, v in t.attrs["audit"][key].items()}
    table.attrs["audit"]["seconds"] = round(sum(t.attrs["audit"]["seconds"] for t in tables), 3)
    return table, reasons


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, RequirementsNotMet) else f"{type(error).__name__}: {text}"


def _stack(tables: Mapping[str, AuditTable], missing: list[dict[str, str]]) -> AuditTable:
    if not tables:
        first = missing[0]
        raise RuntimeError(
            f"Nothing could be measured: {first['attack']} against {first['defense']}: {first['reason']}"
        )
    table = compare(tables)
    table.attrs["missing"] = missing
    return table
