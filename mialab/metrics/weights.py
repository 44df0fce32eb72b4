"""What a cell adds to a measure, by its kind: the influence of members and non-members, accused or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mialab.metrics.rates import DECISIONS, Curve

#: Kinds of cells: members and non-members that are accused, one more for those that are not, and all that do not count.
IN, OUT, NOWHERE, KINDS = 0, 2, 4, 6


def count(kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count members and non-members, of all or of the accused, of each target, (target,) int64."""
    inside, outside = (np.array([np.count_nonzero(row) for row in kinds == side]) for side in (IN, OUT))
    return inside, outside


def behind(kind: str, inside: Any, outside: Any, *, accused: Any) -> tuple[Any, ...]:
    """Choose what a measure is a fraction of; both, if it is a mean over two sides."""
    both = inside, outside
    sides = {"auc": both, "balanced_accuracy": both, "tnr": (outside,), "precision": (accused,)}
    return sides.get(kind, (inside,))


def of_rate(
    kind: str, rate: float, curves: Sequence[Curve | None], n_in: np.ndarray, n_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Read a rate off curves: points, (4, curve), and the influence of a cell of each kind, (curve, kind)."""
    below = kind == "tnr"
    found = [
        [(np.nan,) * 4 if c is None else (c.below if below else c.at)(min(1.0, f * rate)) for c in curves]
        for f in (1.0, 1.5, 0.5)
    ]
    at, wider, narrower = np.array(found).transpose(0, 2, 1)
    _, value, wrong, _ = at
    n_positive, n_other = (n_out, n_in) if below else (n_in, n_out)
    # More errors among the others raise the threshold, and cost as much as the curve is steep there.
    steep = (wider[1] - narrower[1]) / rate if rate else 0.0 * value
    with np.errstate(divide="ignore", invalid="ignore"):  # a target may lack a side
        positive = [(1 - value) / n_positive, -value / n_positive]
        other = [-steep * (1 - wrong) / n_other, steep * wrong / n_other]
    return at, _of_kinds(*other[::-1], *positive[::-1]) if below else _of_kinds(*positive, *other)


def of_decision(
    name: str, tp: np.ndarray, fp: np.ndarray, n_in: np.ndarray, n_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Measure decisions, given counts, (group,): values, and the influence of a cell of each kind, (group, kind)."""
    with np.errstate(divide="ignore", invalid="ignore"):  # a target may lack a side
        value = DECISIONS[name](tp, fp, n_in, n_out)
        none = np.zeros_like(value)
        if name == "balanced_accuracy":
            tpr, fpr = tp / n_in / 2, fp / n_out / 2
            weights = (0.5 - tpr) / n_in, -tpr / n_in, (fpr - 0.5) / n_out, fpr / n_out
        elif name == "recall":
            weights = (1 - value) / n_in, -value / n_in, none, none
        elif name == "precision":
            accused = np.maximum(tp + fp, 1)
            weights = (1 - value) / accused, none, -value / accused, none
        else:
            total = tp + fp + n_in
            weights = (2 - 2 * value) / total, -value / total, -value / total, none
    return value, _of_kinds(*weights)


def _of_kinds(*weights: np.ndarray) -> np.ndarray:
    """Stack the weights of the kinds of cells, (group, kind), 0 for those that do not count or have no value."""
    found = np.zeros((len(weights[0]), KINDS))
    found[:, :NOWHERE] = np.nan_to_num(np.stack(weights, axis=1), posinf=0.0, neginf=0.0)
    return found
