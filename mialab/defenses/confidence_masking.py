"""Confidence masking: answers say less than the model knows (Shokri et al., 2017, section VIII)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from mialab._validation import check_integer, check_number
from mialab.defenses.base import Defense, Run, register


@register
@dataclass(frozen=True)
class ConfidenceMasking(Defense):
    """Probabilities at a temperature, rounded, of the most likely classes only; the predicted class is kept.

    Parameters
    ----------
    digits : int, optional
        Decimal digits of the released probabilities, at least 0; None for all. With 0, an answer says the label and
        whether it has one half or more.
    top : int, optional
        Number of classes whose probabilities are released, at least 1; None for all.
    temperature : float
        What logits are divided by before, greater than 0.

    Notes
    -----
    Answers are finite logits. What an answer does not say stands in them in a form that tells no more: the classes that
    are held back have equal parts of what the others leave, and a probability that is rounded to 0 is a thousandth
    of a unit of the last digit. Who is given them loses nothing beside one who has the masked answer itself. Training
    is plain.

    References
    ----------
    R. Shokri, M. Stronati, C. Song and V. Shmatikov, "Membership inference attacks against machine learning models",
    IEEE S&P 2017, section VIII; there ``top`` is k, ``digits`` is d and ``temperature`` is t.
    """

    name: ClassVar[str] = "confidence_masking"
    keeps_labels: ClassVar[bool] = True
    digits: int | None = 1
    top: int | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.digits is not None:
            check_integer("digits", self.digits, low=0)
        if self.top is not None:
            check_integer("top", self.top, low=1)
        check_number("temperature", self.temperature, above=0)

    def check(self, plan: Any) -> None:
        """Refuse to release more classes than there are (ValueError)."""
        if self.top is not None and self.top > plan.pool.n_classes:
            raise ValueError(
                f"top={self.top!r} classes of {plan.pool.n_classes}: give fewer, or None for all."
            )

    def answer(
        self, run: Run, logits: torch.Tensor, x: torch.Tensor, record: torch.Tensor | None, query: int | None
    ) -> torch.Tensor:
        """Return logarithms of the masked probabilities, (model, record, classes)."""
        return self.mask(logits)

    def mask(self, logits: torch.Tensor) -> torch.Tensor:
        """Return logarithms of the masked probabilities of some answers, both of shape (..., classes)."""
        p, least = (logits.double() / self.temperature).softmax(-1), 1e-30
        if self.digits is not None:
            p, least = p.round(decimals=self.digits), 1e-3 * 10.0**-self.digits
        if self.top is not None and self.top < p.shape[-1]:
            best = logits.topk(self.top, dim=-1).indices
            rest = (1 - p.gather(-1, best).sum(-1, keepdim=True)) / (p.shape[-1] - self.top)
            p = rest.expand_as(p).scatter(-1, best, p.gather(-1, best))
        return _first(p.clamp(min=least).log().to(logits.dtype), logits.argmax(-1, keepdim=True))


def _first(answer: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Lift the entry of the label, shape (..., 1), above all others by the least step where it is not."""
    others = answer.scatter(-1, label, -torch.inf).amax(-1, keepdim=True)
    above = torch.nextafter(others, torch.full_like(others, torch.inf))
    return answer.scatter(-1, label, torch.maximum(answer.gather(-1, label), above))
