"""Label smoothing (Szegedy et al., 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch

from mialab._validation import check_number
from mialab.defenses.base import Defense, cross_entropy, register


@register
@dataclass(frozen=True)
class LabelSmoothing(Defense):
    """Train on labels mixed with the uniform distribution.

    The target of class y is ``(1 - smoothing) onehot(y) + smoothing / C`` (Szegedy et al., "Rethinking the
    Inception architecture", 2016, section 7).

    Parameters
    ----------
    smoothing : float
        Fraction of the uniform distribution, in [0, 1].
    """

    name: ClassVar[str] = "label_smoothing"
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        check_number("smoothing", self.smoothing, low=0, high=1)

    @classmethod
    def with_probability(cls, p: float, n_classes: int) -> Self:
        """Return the label smoothing whose labels give probability ``p`` to the true one of ``n_classes`` classes."""
        check_number("p", p, low=1 / n_classes, high=1)
        return cls(smoothing=(1 - p) * n_classes / (n_classes - 1))

    def loss(self, logits: torch.Tensor, target: torch.Tensor, **_: Any) -> torch.Tensor:
        """Cross-entropy against the smoothed labels, shape (model, batch)."""
        uniform = -torch.log_softmax(logits, dim=-1).mean(-1)
        return (1 - self.smoothing) * cross_entropy(logits, target) + self.smoothing * uniform
