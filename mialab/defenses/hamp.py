"""HAMP: high-entropy labels, an entropy regularizer and modified outputs (Chen and Pattabiraman, NDSS 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import entr

from mialab._validation import check_integer, check_number
from mialab.data.pool import Pool
from mialab.defenses.base import Defense, Run, cross_entropy, register
from mialab.training.streams import Streams


def label_entropy(p: float | np.ndarray, n_classes: int) -> float | np.ndarray:
    """Entropy in nats of a label with probability ``p`` on one class and the rest spread evenly over the others."""
    return entr(p) + (n_classes - 1) * entr((1 - p) / (n_classes - 1))


@cache
def label_probability(gamma: float, n_classes: int, *, step: float | None = None) -> float:
    """Probability of the true class in a soft label whose entropy is ``gamma`` times the greatest possible one.

    Solves ``H(p) = gamma log C`` on [1/C, 1], where H falls monotonically, so the root is unique.

    Parameters
    ----------
    gamma : float
        Entropy as a fraction of log C, in [0, 1].
    n_classes : int
        Number of classes C, at least 2.
    step : float, optional
        If given, the largest multiple of ``step`` whose entropy reaches the bound (the artifact uses 0.01),
        in place of the exact root.

    Raises
    ------
    ValueError
        If ``gamma`` lies outside [0, 1] or there are fewer than two classes.
    """
    check_number("gamma", gamma, low=0, high=1)
    check_integer("n_classes", n_classes, low=2)
    goal = gamma * np.log(n_classes)
    if step is not None:
        grid = np.arange(round(1 / step), -1, -1) * step
        grid = grid[grid >= 1 / n_classes]
        reached = grid[label_entropy(grid, n_classes) >= goal - 1e-12]
        return float(reached[0]) if reached.size else 1 / n_classes
    if gamma == 0:
        return 1.0
    if gamma == 1 or label_entropy(1 / n_classes, n_classes) <= goal:  # 1, up to rounding
        return 1 / n_classes
    return float(brentq(lambda p: label_entropy(p, n_classes) - goal, 1 / n_classes, 1, xtol=1e-15))


def keep_ranking_only(logits: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Put the sorted values of ``noise`` at the ranks of ``logits``.

    The result carries the class ranking of ``logits`` and nothing else of it. Equal logits are ranked by class
    index, lowest first, so the predicted class never changes; equal noise values are moved apart by the smallest
    floating-point step for the same reason.

    Parameters
    ----------
    logits, noise : torch.Tensor, shape (..., classes)
        Answers to the query, and answers to an unrelated random input.
    """
    order = torch.argsort(logits, dim=-1, descending=True, stable=True)
    values = torch.sort(noise, dim=-1, descending=True).values
    if (values[..., 1:] == values[..., :-1]).any():
        below = torch.tensor(-torch.inf, dtype=values.dtype, device=values.device)
        for j in range(1, values.shape[-1]):
            values[..., j] = torch.minimum(values[..., j], torch.nextafter(values[..., j - 1], below))
    return torch.empty_like(values).scatter(-1, order, values)


@register
@dataclass(frozen=True)
class HAMP(Defense):
    """High-entropy labels, an entropy regularizer, and answers that keep the class ranking only.

    The loss of a record is ``KL(t || p) - alpha H(p)``, where the soft label t has entropy ``gamma log C`` and H(p)
    is the entropy of the prediction, in nats. At query time the sorted logits of a random input are put at the
    ranks of the true answer, with a fresh random input for every query.

    Parameters
    ----------
    gamma : float
        Entropy of the soft labels as a fraction of log C, in [0, 1]; 0 keeps hard labels.
    alpha : float
        Weight of the entropy regularizer, at least 0.
    output_step : bool
        Whether answers are modified at query time.
    faithful : bool
        Follow the released artifact rather than the formula: the KL term is divided by the number of classes
        (so ``alpha`` weighs C times more, and the learning rate C times less), the label probability is a
        multiple of 0.01, and the optimizer's momentum is cleared before each epoch.

    Notes
    -----
    Random inputs follow the artifact: a fair coin for each binary feature, an integer from 0 to 254 for each pixel.
    For other tabular features neither paper nor artifact says anything; here they are uniform over the feature's
    range in the pool (our assumption).

    References
    ----------
    Z. Chen and K. Pattabiraman, "Overconfidence is a dangerous thing: Mitigating membership inference attacks by
    enforcing less confident prediction", NDSS 2024.
    """

    name: ClassVar[str] = "hamp"
    keeps_labels: ClassVar[bool] = True
    gamma: float = 0.5
    alpha: float = 0.001
    output_step: bool = True
    faithful: bool = True

    def __post_init__(self) -> None:
        check_number("gamma", self.gamma, low=0, high=1)
        check_number("alpha", self.alpha, low=0)

    def uses(self, hook: str) -> bool:
        """Whether a hook is in use: `answer` with ``output_step`` only; see `Defense.uses`."""
        return super().uses(hook) and (self.output_step or hook != "answer")

    def soft_label(self, n_classes: int) -> float:
        """Probability of the true class in the soft labels."""
        return label_probability(self.gamma, n_classes, step=0.01 if self.faithful else None)

    def loss(self, logits: torch.Tensor, target: torch.Tensor, **_: Any) -> torch.Tensor:
        """KL divergence from the soft labels minus ``alpha`` times the predictions' entropy, shape (model, batch)."""
        n_classes = logits.shape[-1]
        p = self.soft_label(n_classes)
        q = (1 - p) / (n_classes - 1)
        log_q = torch.log_softmax(logits, dim=-1)
        # The label puts q on every class and p - q more on the true one; its own entropy is a constant.
        cross = (p - q) * cross_entropy(logits, target) - q * log_q.sum(-1)
        divergence = cross - float(label_entropy(p, n_classes))
        entropy = -(log_q.exp() * log_q).sum(-1)
        scale = n_classes if self.faithful else 1
        return divergence / scale - self.alpha * entropy

    def before_epoch(self, run: Run) -> None:
        """Clear the momentum, as the artifact does by building its optimizer anew."""
        if self.faithful:
            run.reset_optimizer()

    def answer(
        self,
        run: Run,
        logits: torch.Tensor,
        x: torch.Tensor,
        record: torch.Tensor | None,
        query: int | None,
    ) -> torch.Tensor:
        """Replace the logits by those of random inputs, in the order of the true ones."""
        inputs = random_inputs(x, rng=run.streams("answers"), pool=run.pool)
        return keep_ranking_only(logits, run.predict(inputs))


def random_inputs(x: torch.Tensor, *, rng: Streams, pool: Pool) -> torch.Tensor:
    """Random inputs of the form of ``x``, one per record and model: shape (model, record, ...)."""
    if pool.kind == "binary":
        return (rng.uniform(*x.shape) < 0.5).to(x.dtype)
    if pool.kind == "image":
        pixels = rng.integers(255, *x.shape)
        return pixels.to(x.dtype) if x.dtype == torch.uint8 else pixels.to(x.dtype) / 255
    low, high = (torch.as_tensor(f(pool.x, axis=0), device=x.device) for f in (np.min, np.max))
    return low + (high - low) * rng.uniform(*x.shape)
