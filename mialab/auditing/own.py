"""Audit a model of one's own: a torch module, a scikit-learn estimator, or any function that predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from mialab._validation import check_integer, check_number, choose
from mialab.attacks.base import Attack
from mialab.auditing.measure import audit
from mialab.auditing.tables import AuditTable
from mialab.auditing.taxonomy import _all, _check_pool
from mialab.classifiers.game import Game
from mialab.exceptions import RequirementsNotMet
from mialab.metrics.rates import check_fraction, rate_name

#: Least probability, where some are 0: their logarithm must be finite, and results depend on it.
FLOOR = 1e-6

#: Errors that a rate must allow to be resolvable, see `mialab.metrics`.
ERRORS = 10


def answers_of(
    model: Any, x: ArrayLike, *, outputs: str = "auto", floor: float = FLOOR, batch_size: int = 512
) -> np.ndarray:
    """Return what a model answers to records as logits, or log-probabilities, float64 (record, label).

    Parameters
    ----------
    model : torch.nn.Module, estimator or callable
        A module answers with logits. Of an estimator, ``predict_proba`` is asked, or else ``decision_function``, or
        else ``predict``: its labels stand for probabilities of 1. A callable gets the records as they are, and returns
        (record, label).
    x : array_like, shape (record, ...)
        Records, as the model takes them; tensors of float32 for a module, on its device.
    outputs : {"auto", "logits", "probabilities"}
        What a module or a callable returns; by default probabilities if none is below 0 and they add up to 1.
    floor : float
        Least probability, in (0, 1): smaller ones are raised to it.
    batch_size : int
        Records that a module is asked about at once.

    Raises
    ------
    TypeError
        If the model is nothing that predicts.
    ValueError
        If answers are no finite numbers, or not one row a record.
    """
    choose("outputs", outputs, ("auto", "logits", "probabilities"))
    check_number("floor", floor, above=0, high=0.5)
    check_integer("batch_size", batch_size, low=1)
    if isinstance(model, nn.Module):
        found = _of_module(model, x, batch_size)
    elif hasattr(model, "predict_proba"):
        found, outputs = np.asarray(model.predict_proba(x), np.float64), "probabilities"
    elif hasattr(model, "decision_function"):
        found, outputs = np.asarray(model.decision_function(x), np.float64), "logits"
        if found.ndim == 1:  # two classes
            found = np.stack([-found, found], axis=1) / 2
    elif hasattr(model, "predict"):
        labels = np.asarray(model.predict(x))
        found, outputs = (labels[:, None] == _classes(model, labels)).astype(np.float64), "probabilities"
    elif callable(model):
        answered = model(x)
        answered = answered.detach().cpu() if hasattr(answered, "detach") else answered
        found = np.asarray(answered, np.float64)
    else:
        raise TypeError(
            f"model={type(model).__name__} must be a torch module, an estimator with predict_proba, decision_function "
            "or predict, or a function of records."
        )
    if found.ndim != 2 or len(found) != len(np.asarray(x)) or found.shape[1] < 2:
        raise ValueError(
            f"the model answers with shape {found.shape}; it must be (record, label), {len(np.asarray(x))} records and "
            "two labels at least."
        )
    if not np.isfinite(found).all():
        raise ValueError(
            f"the model's answers hold {int((~np.isfinite(found)).sum())} values that are not finite."
        )
    if outputs == "auto":
        sums = np.allclose(found.sum(1), 1, atol=1e-3)
        outputs = "probabilities" if found.min() >= 0 and sums else "logits"
    return np.log(np.clip(found, floor, 1)) if outputs == "probabilities" else found


def _of_module(model: nn.Module, x: ArrayLike, batch_size: int) -> np.ndarray:
    where = next(model.parameters(), torch.zeros(0)).device
    records = x if isinstance(x, torch.Tensor) else torch.as_tensor(np.asarray(x))
    records = records.float() if records.is_floating_point() else records
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            parts = [model(part.to(where)).double().cpu() for part in records.split(batch_size)]
    finally:
        model.train(training)
    return torch.cat(parts).numpy()


def _classes(model: Any, labels: np.ndarray) -> np.ndarray:
    return np.asarray(getattr(model, "classes_", np.unique(labels)))


def game_of(
    model: Any,
    members: tuple[ArrayLike, ArrayLike],
    nonmembers: tuple[ArrayLike, ArrayLike],
    *,
    name: str = "your model",
    **options: Any,
) -> Game:
    """Make a game of one model, the records it was trained on, and others like them.

    Parameters
    ----------
    model
        As of `answers_of`.
    members, nonmembers : (x, y)
        Records and labels. Non-members must come from the same source as members; if they differ in anything else, such
        as their date, attacks find that.
    name : str
        For tables and figures.
    **options
        ``outputs``, ``floor`` and ``batch_size`` of `answers_of`.

    Raises
    ------
    ValueError
        If records and labels differ in number, a side has fewer than two records, or a label is none of the model's.
    """
    answers, labels = [], []
    for side, (x, y) in {"members": members, "nonmembers": nonmembers}.items():
        y = np.asarray(y.detach().cpu() if hasattr(y, "detach") else y)
        if len(y) != len(np.asarray(x)) or y.ndim != 1:
            raise ValueError(
                f"{side} has {len(np.asarray(x))} records and labels of shape {y.shape}: one each is needed."
            )
        if len(y) < 2:
            raise ValueError(f"{side} has {len(y)} records; there must be two at least.")
        answers.append(answers_of(model, x, **options))
        labels.append(y)
    y = np.concatenate(labels)
    if hasattr(model, "classes_"):  # estimators have labels of any kind, in the order of their answers
        place = {label: i for i, label in enumerate(np.asarray(model.classes_).tolist())}
        if odd := [label for label in np.unique(y).tolist() if label not in place]:
            raise ValueError(f"the label {odd[0]!r} is none of the model's: {list(place)}.")
        y = np.array([place[label] for label in y.tolist()])
    n_in, n_out = map(len, labels)
    member = np.arange(n_in + n_out) < n_in
    return Game.from_arrays(logits=np.concatenate(answers)[None], member=member[None], y=y, name=name)


def audit_model(
    model: Any,
    members: tuple[ArrayLike, ArrayLike],
    nonmembers: tuple[ArrayLike, ArrayLike],
    *,
    attacks: Sequence[str | Attack] | None = None,
    fprs: Sequence[float] = (0.001, 0.01),
    name: str = "your model",
    **options: Any,
) -> AuditTable:
    """Audit a trained model with every attack that needs no other model.

    A threshold is set on a random half of the records, whose membership the attacker knows; the other half is scored.

    Parameters
    ----------
    model
        A torch module, an estimator, or a function, see `answers_of`.
    members, nonmembers : (x, y)
        Records it was trained on, and others from the same source, with labels.
    attacks : sequence of str or Attack, optional
        Names or attacks; by default all that one model allows.
    fprs : sequence of float
        False-positive rates of the TPR; those that are not resolvable with so few records are left out and said.
    name : str
        For tables and figures.
    **options
        ``outputs``, ``floor`` and ``batch_size`` of `answers_of`.

    Returns
    -------
    AuditTable
        As from `mialab.audit`. ``attrs["refused"]`` says which attacks were left out and why, ``attrs["advice"]``, in
        sentences, which rates cannot be resolved and what more data would add.

    Raises
    ------
    ValueError
        If records do not fit, or no attack is possible.
    """
    game = game_of(model, members, nonmembers, name=name, **options)
    return audit_possible(game, attacks, fprs=fprs)


def possible(
    game: Game, attacks: Sequence[str | Attack] | None = None
) -> tuple[list[Attack], dict[str, str]]:
    """Run all attacks that a game allows; return them, and why the others were left out.

    Parameters
    ----------
    game, attacks
        As of `audit_possible`.

    Raises
    ------
    ValueError
        If no attack is possible.
    """
    able: list[Attack] = []
    left: dict[str, str] = {}
    for attack in _all(attacks, None, game.victim):
        for one in _readings(attack):
            try:
                _check_pool(one)
                one.check(game)
                game.outcome(one)
            except (RequirementsNotMet, ValueError) as error:
                left[attack.name] = str(error)
            else:
                able.append(one)
                left.pop(attack.name, None)
                break
    if not able:
        first, reason = next(iter(left.items()))
        raise ValueError(f"no attack is possible: {first}: {reason}")
    return able, left


def audit_possible(
    game: Game, attacks: Sequence[str | Attack] | None = None, *, fprs: Sequence[float] = (0.001, 0.01)
) -> AuditTable:
    """Audit a game with all attacks that it allows, at all rates that it resolves, and say what is left out.

    Parameters
    ----------
    game : Game
        E.g. from `game_of` or `mialab.Game.from_arrays`. Where it has no shadow models for a threshold, a random half
        of the records, whose membership the attacker knows, sets it.
    attacks : sequence of str or Attack, optional
        Names or attacks; all by default.
    fprs : sequence of float
        False-positive rates of the TPR.

    Returns
    -------
    AuditTable
        See `audit_model`.

    Raises
    ------
    ValueError
        If no attack is possible.
    """
    able, left = possible(game, attacks)
    outcomes = [game.outcome(one) for one in able]
    n_out = min(int((~outcome.member & outcome.evaluated).sum()) for outcome in outcomes)
    resolved = [rate for rate in fprs if rate * n_out >= ERRORS]
    table = audit(game, able, fprs=resolved, fnrs=())
    table.attrs["refused"] = left
    table.attrs["advice"] = _advice(game, n_out, fprs, resolved)
    return table


def _readings(attack: Attack) -> list[Attack]:
    """Return an attack as it is and, if it can be, with a threshold from records that the attacker knows."""
    if "known_half" in attack.calibrations and attack.calibrate != "known_half":
        return [attack, replace(attack, calibrate="known_half")]
    return [attack]


def _advice(game: Game, n_out: int, fprs: Sequence[float], resolved: Sequence[float]) -> list[str]:
    """Say in sentences what so few records cannot tell, and what would."""
    told = []
    for rate in fprs:
        if rate not in resolved:
            told.append(
                f"A false-positive rate of {100 * rate:g} % needs {int(np.ceil(ERRORS / rate)):,} non-members that are "
                f"scored; there are {n_out:,}, which resolve {100 * ERRORS / n_out:.2g} % at the least."
            )
    if "logits" in game.dataset:
        right = game.logits[:, 0].argmax(-1) == game.y
        learned, tested = (100 * right[game.member == side].mean() for side in (True, False))
        told.append(
            f"Models are right about {learned:.1f} % of their members and {tested:.1f} % of the others."
        )
    if game.n_models == 1:
        told.append(
            "One model allows no shadow models: attacks that compare with models like it, such as LiRA, find more. "
            "Train some in the same way (mialab.play), and give their answers to Game.from_arrays."
        )
    return told


def gate(
    game: Game, max_tpr: float, at_fpr: float, *, attacks: Sequence[str | Attack] | None = None
) -> tuple[bool, str]:
    """Say whether a game passes: whether the strongest attack's TPR is below a bound, by the upper end of its interval.

    Parameters
    ----------
    game : Game
        E.g. from `game_of`.
    max_tpr : float
        Greatest true-positive rate that passes, a fraction.
    at_fpr : float
        False-positive rate, a fraction.
    attacks : sequence of str or Attack, optional
        All that are possible by default.

    Returns
    -------
    passed : bool
    told : str
        Why, in a sentence.

    Raises
    ------
    ValueError
        If a rate is no fraction, the records are too few for that false-positive rate, or no attack is possible.
    """
    check_fraction("max_tpr", max_tpr)
    check_fraction("at_fpr", at_fpr)
    table = audit_possible(game, attacks, fprs=[at_fpr])
    metric = rate_name("tpr", at_fpr)
    if metric not in set(table["metric"]):
        raise ValueError(table.attrs["advice"][0])
    attack, value, low, high, n = max(table.attrs["strongest"][metric].values(), key=lambda found: found[3])
    passed = bool(high <= max_tpr)
    return passed, (
        f"{'PASSED' if passed else 'FAILED'}: at {100 * at_fpr:g} % false alarms the strongest of {n} attacks "
        f"({attack}) finds {100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of the members; the upper end may "
        f"be {100 * max_tpr:g} % at most."
    )
