"""Signals of one answer: from their formulas, a number at a time."""

from decimal import Decimal, getcontext
from math import exp, fsum, log

import numpy as np


def posteriors(logits) -> list[float]:
    top = max(logits)
    e = [exp(z - top) for z in logits]
    return [v / fsum(e) for v in e]


def of_answers(function, game, query: int = 0) -> np.ndarray:
    """Apply a function of one answer's logits and its label to all of them, (model, record)."""
    return np.array(
        [
            [function([float(z) for z in answer], int(y)) for answer, y in zip(model, game.y, strict=True)]
            for model in game.logits[:, query]
        ]
    )


def modified_entropy(logits, y) -> float:
    p = posteriors(logits)
    return (1 - p[y]) * log(p[y]) + fsum(v * log(1 - v) for i, v in enumerate(p) if i != y)


def log_odds(logits, y) -> float:
    p = posteriors(logits)
    return log(p[y] / fsum(v for i, v in enumerate(p) if i != y))


def is_right(logits, y) -> float:
    return float(logits.index(max(logits)) == y)


STATISTICS = {
    "loss": lambda logits, y: log(posteriors(logits)[y]),
    "confidence": lambda logits, y: posteriors(logits)[y],
    "entropy": lambda logits, y: fsum(v * log(v) for v in posteriors(logits)),
    "modified_entropy": modified_entropy,
    "correctness": is_right,
}


def exact(name: str, logits: np.ndarray, label: int) -> Decimal:
    """Return a signal of one answer from its textbook formula, with 500 digits."""
    getcontext().prec = 500
    z = [Decimal(float(v)) for v in logits]
    e = [v.exp() for v in z]
    p = [v / sum(e) for v in e]
    others = [i for i in range(len(z)) if i != label]
    return {
        "loss": lambda: p[label].ln(),
        "confidence": lambda: p[label],
        "entropy": lambda: sum(q * q.ln() for q in p),
        # Song and Mittal (2021), equation 8, with the sign turned
        "modified_entropy": lambda: (
            (1 - p[label]) * p[label].ln() + sum(p[i] * (1 - p[i]).ln() for i in others)
        ),
        "scaled_logit": lambda: (p[label] / (1 - p[label])).ln(),
        "hinge": lambda: (p[label] / max(p[i] for i in others)).ln(),
    }[name]()
