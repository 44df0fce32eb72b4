"""What can be read off one answer: one number per record, higher = more like a member's answer."""

import numpy as np

from mialab.options import choose


def _label(values: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, np.broadcast_to(y, values.shape[:-1])[..., None], axis=-1)[..., 0]


def _log_sum(values: np.ndarray) -> np.ndarray:
    top = values.max(-1, keepdims=True)
    return np.log(np.exp(values - top).sum(-1)) + top[..., 0]


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
    return _label(logits, y) - _log_sum(logits)


def confidence(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Probability of the label, ``p_y`` (Song and Mittal, 2021, section 3.2); see `loss` for the parameters."""
    return np.exp(loss(logits, y))


def entropy(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Minus the entropy of the answer, ``sum p log p`` (Song and Mittal, 2021); see `loss` for the parameters."""
    log_p = logits - _log_sum(logits)[..., None]
    return (np.exp(log_p) * log_p).sum(-1)


def modified_entropy(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Minus the modified entropy of the answer (Song and Mittal, 2021, equation 8); see `loss` for the parameters.

    ``Mentr = -(1 - p_y) log p_y - sum_{i != y} p_i log(1 - p_i)``. The terms ``log(1 - p_i)`` are computed from
    the logits of the other classes, so that nothing needs clipping.
    """
    log_sum = _log_sum(logits)
    log_p = logits - log_sum[..., None]
    p = np.exp(log_p)
    # Only the top class can exceed 1/2; there 1 - p comes from the other classes, which keeps its digits.
    top = logits.argmax(-1)[..., None]
    others = logits.copy()
    np.put_along_axis(others, top, -np.inf, axis=-1)
    log_rest = np.log1p(-np.minimum(p, 0.5))
    np.put_along_axis(log_rest, top, (_log_sum(others) - log_sum)[..., None], axis=-1)
    term = p * log_rest
    log_p_y = _label(log_p, y)
    one_minus_p_y = -np.expm1(log_p_y)
    return one_minus_p_y * log_p_y + term.sum(-1) - _label(term, y)


def correctness(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1 if the predicted class is the label, else 0 (the gap attack of Yeom et al., 2018); see `loss`."""
    return (logits.argmax(-1) == y).astype(np.float64)


def scaled_logit(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """LiRA's statistic, ``z_y - logsumexp(other z) = log(p_y / (1 - p_y))``; see `loss` for the parameters.

    Carlini et al., 2022, section IV-C: logits of the confidence are close to Gaussian over trainings.
    """
    others = logits.copy()
    np.put_along_axis(others, np.broadcast_to(y, logits.shape[:-1])[..., None], -np.inf, axis=-1)
    return _label(logits, y) - _log_sum(others)


def true_rank(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Minus the number of classes ranked above the label (ties by class index); see `loss` for the parameters."""
    z_y = _label(logits, y)[..., None]
    earlier = np.arange(logits.shape[-1]) < np.broadcast_to(y, logits.shape[:-1])[..., None]
    return -((logits > z_y) | ((logits == z_y) & earlier)).sum(-1).astype(np.float64)


SIGNALS = {
    f.__name__: f for f in (loss, confidence, entropy, modified_entropy, correctness, scaled_logit, true_rank)
}


def signal(game: object, name: str) -> np.ndarray:
    """Return a signal of every answer of a game, float64 (model, query, record); computed once per game.

    Parameters
    ----------
    game : Game
        The game.
    name : str
        A name of ``SIGNALS``.
    """
    choose("signal", name, SIGNALS)
    known = game.__dict__.setdefault("_signals", {})
    if name not in known:
        function = SIGNALS[name]
        # Model by model: in float64 all answers at once would not fit for large games.
        known[name] = np.stack([function(np.asarray(z, dtype=np.float64), game.y) for z in game.logits])
    return known[name]
