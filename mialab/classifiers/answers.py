"""Answers of any model that predicts, as logits: a torch module, a scikit-learn estimator, or a function."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from mialab._validation import check_integer, check_number, choose
from mialab.arrays import plain

#: Least probability, where some are 0: their logarithm must be finite, and results depend on it.
FLOOR = 1e-6

#: What an estimator may be asked, in order.
METHODS = ("predict_proba", "decision_function", "predict")


def is_estimator(model: object) -> bool:
    """Tell whether a model is one in scikit-learn's manner: it learns by ``fit`` and can be asked."""
    return (
        not isinstance(model, type)
        and hasattr(model, "fit")
        and any(hasattr(model, name) for name in METHODS)
    )


def are_probabilities(answers: np.ndarray) -> bool:
    """Tell whether answers (..., label) look like probabilities: none is below 0, and they add up to 1."""
    return bool(answers.min() >= 0 and np.allclose(answers.sum(-1), 1, atol=1e-3))


def log_probabilities(p: np.ndarray, floor: float) -> np.ndarray:
    """Return the logarithms of probabilities, none of which counts as less than a floor."""
    return np.log(np.clip(p, floor, 1))


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
        found = np.asarray(plain(model(x)), np.float64)
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
        outputs = "probabilities" if are_probabilities(found) else "logits"
    return log_probabilities(found, floor) if outputs == "probabilities" else found


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
