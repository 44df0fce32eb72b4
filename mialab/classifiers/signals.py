"""What can be read off one answer: one number per record, higher = more like a member's answer."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from mialab.arrays import ArraySpec
from mialab.games.signals import Signal


def _label(values: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, np.broadcast_to(y, values.shape[:-1])[..., None], axis=-1)[..., 0]


def _without(values: np.ndarray, label: np.ndarray, instead: float) -> np.ndarray:
    changed = values.copy()
    np.put_along_axis(changed, np.broadcast_to(label, values.shape[:-1])[..., None], instead, axis=-1)
    return changed


def _log_sum(values: np.ndarray) -> np.ndarray:
    top = values.max(-1, keepdims=True)
    return np.log(np.exp(values - top).sum(-1)) + top[..., 0]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    # The sum leaves the top class out, so that its log probability keeps its digits where p rounds to 1.
    z = logits - logits.max(-1, keepdims=True)
    rest = _without(np.exp(z), z.argmax(-1), 0).sum(-1, keepdims=True)
    return z - np.log1p(rest)


def loss(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Minus the cross-entropy, ``log p_y`` (Yeom et al., 2018, adversary 1).

    Parameters
    ----------
    logits : numpy.ndarray of float64, shape (..., record, label)
        Answers.
    y : numpy.ndarray of int, shape (record,)
        Labels.

    Returns
    -------
    numpy.ndarray of float64, shape (..., record)
    """
    return _label(_log_softmax(logits), y)


def confidence(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Probability of the label, ``p_y`` (Song and Mittal, 2021, section 3.2); see `loss` for the parameters."""
    return np.exp(loss(logits, y))


def entropy(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Minus the entropy of the answer, ``sum p log p`` (Song and Mittal, 2021); see `loss` for the parameters."""
    log_p = _log_softmax(logits)
    return (np.exp(log_p) * log_p).sum(-1)


def modified_entropy(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Minus the modified entropy of the answer (Song and Mittal, 2021, equation 8); see `loss` for the parameters.

    ``Mentr = -(1 - p_y) log p_y - sum_{i != y} p_i log(1 - p_i)``. The terms ``log(1 - p_i)`` are computed from
    the logits of the other classes, so that nothing needs clipping.
    """
    log_p = _log_softmax(logits)
    p = np.exp(log_p)
    # Only the top class can exceed 1/2; there 1 - p comes from the other classes, which keeps its digits.
    top = logits.argmax(-1)
    log_rest = np.log1p(-np.minimum(p, 0.5))
    log_rest_top = _log_sum(_without(log_p, top, -np.inf))
    np.put_along_axis(log_rest, top[..., None], log_rest_top[..., None], axis=-1)
    log_p_y = _label(log_p, y)
    return -np.expm1(log_p_y) * log_p_y + _without(p * log_rest, y, 0).sum(-1)


def correctness(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1 if the predicted class is the label, else 0 (the gap attack of Yeom et al., 2018); see `loss`."""
    return (logits.argmax(-1) == y).astype(np.float64)


def scaled_logit(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """LiRA's statistic, ``z_y - logsumexp(other z) = log(p_y / (1 - p_y))``; see `loss` for the parameters.

    Carlini et al., 2022, section IV-C: logits of the confidence are close to Gaussian over trainings.
    """
    return _label(logits, y) - _log_sum(_without(logits, y, -np.inf))


def hinge(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Margin of the label, ``z_y - max(other z)`` (Carlini et al., 2022); see `loss` for the parameters."""
    return _label(logits, y) - _without(logits, y, -np.inf).max(-1)


def true_rank(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Minus the number of classes ranked above the label (ties by class index); see `loss` for the parameters."""
    z_y = _label(logits, y)[..., None]
    earlier = np.arange(logits.shape[-1]) < np.broadcast_to(y, logits.shape[:-1])[..., None]
    return -((logits > z_y) | ((logits == z_y) & earlier)).sum(-1).astype(np.float64)


#: Answers as the attacker gets them.
LOGITS = ArraySpec(
    "logits",
    ("model", "query", "record", "label"),
    optional="query",
    remedy="play it with keep='logits', or give logits to from_arrays",
)


def _signal(
    compute: Callable[[np.ndarray, np.ndarray], np.ndarray],
    sign: int = 1,
    sees: str = "logits",
    **values: Any,
) -> Signal:
    array = replace(
        LOGITS,
        name=compute.__name__,
        dims=LOGITS.dims[:-1],
        remedy=f"play it with keep='logits', or give logits or {compute.__name__} to from_arrays",
        **values,
    )
    return Signal(array, sign, compute, LOGITS.name, sees)


#: What an attacker reads off the answers of a classifier. Losses, entropies and ranks are stored as such, at least 0.
SIGNALS = {
    signal.array.name: signal
    for signal in (
        _signal(loss, -1, low=0, hint="the cross-entropy: minus the log-probability of the label"),
        _signal(confidence, low=0, high=1),
        _signal(entropy, -1, low=0),
        _signal(modified_entropy, -1, low=0),
        _signal(correctness, sees="label", low=0, high=1),
        _signal(scaled_logit),
        _signal(hinge),
        _signal(true_rank, -1, low=0, hint="classes ranked above the label"),
    )
}
#: What may be stored of an answer: the logits, or the signals.
ANSWERS = (LOGITS, *(signal.array for signal in SIGNALS.values()))
