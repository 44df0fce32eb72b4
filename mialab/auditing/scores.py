"""Evaluate losses that were computed elsewhere, such as published ones, as all games are here."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from mialab._validation import choose
from mialab.arrays import ArraySpec
from mialab.attacks.base import Attack, Scored
from mialab.attacks.lira import LiRA
from mialab.attacks.threshold import Threshold
from mialab.auditing.measure import audit
from mialab.auditing.tables import AuditTable
from mialab.games.base import Game
from mialab.games.signals import Signal
from mialab.metrics import rates


class _Losses(Game):
    """Models, of whatever kind, of which the losses are all that is known."""

    signals: ClassVar[Mapping[str, Signal]] = {
        "any_loss": Signal(ArraySpec("any_loss", ("model", "query", "record"), optional="query"), -1)
    }


#: The attacks of `audit_scores`, by name.
ATTACKS: dict[str, Attack] = {
    "loss": Threshold(signal="any_loss"),
    "lira": LiRA(signal="any_loss"),
    "lira_pooled": LiRA(signal="any_loss", variance="pooled"),
    "lira_offline": LiRA(signal="any_loss", online=False),
    "lira_offline_pooled": LiRA(signal="any_loss", online=False, variance="pooled"),
}


def audit_scores(
    *,
    target_loss: ArrayLike,
    target_member: ArrayLike,
    reference_loss: ArrayLike,
    reference_member: ArrayLike,
    own_reference: ArrayLike | None = None,
    attacks: Sequence[str] = tuple(ATTACKS),
    fprs: Sequence[float] = (0.001, 0.01),
    fnrs: Sequence[float] = (0.001,),
    confidence: float = 0.95,
    name: str = "scores",
) -> AuditTable:
    """Judge losses of target models by those of reference models, with LiRA and with a threshold.

    Whatever the loss is (of a critic, of a reconstruction), targets and references should have it measured alike,
    such as over the same number of generated records. Gaussians are fitted to the references alone.

    Parameters
    ----------
    target_loss : array_like of float, shape (target, record)
        Losses of the target models, lower for members; (record,) stands for a single target.
    target_member : array_like of bool, shape (target, record)
        Which target was trained on which record; (record,) serves for all targets.
    reference_loss : array_like of float, shape (reference, record)
        Losses of the reference models on the same records.
    reference_member : array_like of bool, shape (reference, record)
        Which reference was trained on which record. Records with fewer than 2 references that were, or 2 that were
        not, are not evaluated by attacks that fit Gaussians to them.
    own_reference : array_like of int, shape (target,), optional
        For each target the reference that is the same model, and is left out against this target; -1 for none, the
        default. In the scores that Ji et al. released, undefended target k is reference k.
    attacks : sequence of str
        Of ``"loss"``, a threshold on the target's loss; ``"lira"``, the online attack with variances per record;
        ``"lira_pooled"``, with one variance for all records; ``"lira_offline"`` and ``"lira_offline_pooled"``, which
        use references without the record alone. See `mialab.attacks.LiRA`.
    fprs, fnrs, confidence
        See `mialab.audit`.
    name : str
        A name for tables and figures.

    Returns
    -------
    AuditTable
        As from `mialab.audit`.

    Raises
    ------
    ValueError
        If shapes or values do not fit, or a target's losses are exactly those of a reference that is not left out.

    Warns
    -----
    UserWarning
        If a target has exactly the members of a reference that is not left out: they may be the same model.
    """
    loss = np.atleast_2d(rates.as_numbers("target_loss", target_loss))
    reference = rates.as_numbers("reference_loss", reference_loss)
    if loss.ndim != 2 or reference.ndim != 2 or loss.shape[1] != reference.shape[1]:
        raise ValueError(
            f"target_loss has shape {np.shape(target_loss)} and reference_loss {reference.shape}; they must be "
            "(target, record) and (reference, record), of the same records."
        )
    for key, value in (("target_loss", loss), ("reference_loss", reference)):
        if not np.isfinite(value).all():
            raise ValueError(f"{key} has {np.sum(~np.isfinite(value))} values that are not finite numbers.")
    member = rates.as_flags("target_member", target_member)
    inside = rates.as_flags("reference_member", reference_member)
    if member.shape not in (loss.shape, loss.shape[1:]):
        raise ValueError(f"target_member has shape {member.shape}; with target_loss it must be {loss.shape}.")
    if inside.shape != reference.shape:
        raise ValueError(
            f"reference_member has shape {inside.shape}; it must be {reference.shape}, as reference_loss."
        )
    member = np.broadcast_to(member, loss.shape).copy()
    own = _own(own_reference, len(loss), len(reference))
    _check_apart(loss, member, reference, inside, own)
    if isinstance(attacks, str) or not attacks:
        raise ValueError(f"attacks={attacks!r} must be a list of attacks, of {', '.join(ATTACKS)}.")
    chosen = dict.fromkeys(choose("attacks", attack, ATTACKS) for attack in attacks)

    games = []
    for k in range(len(loss)):
        others = np.arange(len(reference)) != own[k]
        games.append(
            _Losses.from_arrays(
                any_loss=np.concatenate([loss[k : k + 1], reference[others]]),
                member=np.concatenate([member[k : k + 1], inside[others]]),
                shadow=np.arange(1 + others.sum()) > 0,
            )
        )
    targets = _Losses.from_arrays(any_loss=loss, member=member, name=name)
    done = []
    for attack in chosen:
        each = [game.outcome(ATTACKS[attack]) for game in games]
        found: dict[str, Any] = {
            field: np.stack([getattr(o, field)[0] for o in each]) for field in Scored._fields
        }
        found |= {field: sum(getattr(o, field) for o in each) for field in ("n_excluded", "seconds")}
        found |= {"member": member, "partner": targets.partner, "attack": attack}
        done.append(dataclasses.replace(each[0], **found))
    options: dict[str, Any] = {"fprs": fprs, "fnrs": fnrs, "confidence": confidence}
    return audit(targets, done, **options)


def _own(own_reference: ArrayLike | None, n_targets: int, n_references: int) -> np.ndarray:
    """Check which reference each target is, (target,)."""
    if own_reference is None:
        return np.full(n_targets, -1)
    own = np.atleast_1d(rates.as_array("own_reference", own_reference))
    fits = own.shape == (n_targets,) and np.issubdtype(own.dtype, np.integer)
    if not fits or own.min() < -1 or own.max() >= n_references:
        raise ValueError(
            f"own_reference={own_reference!r} must hold for each of {n_targets} targets the index of a reference, 0 to "
            f"{n_references - 1}, or -1 for none."
        )
    return own


def _check_apart(
    loss: np.ndarray, member: np.ndarray, reference: np.ndarray, inside: np.ndarray, own: np.ndarray
) -> None:
    """Refuse targets that are among their references by their losses; warn if only members are the same."""
    for k in range(len(loss)):
        others = np.arange(len(reference)) != own[k]
        for what, rows, row in (("losses", reference, loss[k]), ("members", inside, member[k])):
            same = np.flatnonzero((rows == row).all(1) & others)
            if not same.size:
                continue
            message = f"Target {k} has exactly the {what} of reference {same[0]}"
            remedy = f"leave it out with own_reference, whose entry {k} is {own[k]}."
            if what == "losses":
                raise ValueError(f"{message}: it must not be among its own references; {remedy}")
            warnings.warn(f"{message}: if they are the same model, {remedy}", stacklevel=3)
