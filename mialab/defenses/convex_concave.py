"""Convex-concave loss: losses of members vary more, and overlap more with those of others (Liu et al., ICML 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from mialab._validation import check_number, choose
from mialab.defenses.base import Defense, cross_entropy, register


@register
@dataclass(frozen=True)
class ConvexConcave(Defense):
    """Train on the cross-entropy, which is convex in the probability p of the true class, and a term concave in it.

    The loss of a record is ``scale (-alpha log p - (1 - alpha) g(p))`` with ``g(p) = exp(p)``, or ``p + p^2 / 2``.

    Parameters
    ----------
    alpha : float
        Weight of the cross-entropy, in (0, 1]; less means a larger variance of losses. 1 is plain training.
    concave : {"exponential", "quadratic"}
        The function g.
    scale : float
        Factor of the loss, greater than 0: a factor of SGD's learning rate; with Adam it makes hardly any difference.
        The authors' example trains with 0.05 at a learning rate of 0.1.

    Notes
    -----
    The gradient by the logits is that of the cross-entropy times ``alpha + (1 - alpha) p g'(p)``, which lies between
    ``alpha`` and ``alpha + (1 - alpha) e``: the better a record is learned, the more it counts beside others. A network
    that can learn all of its members by heart still does.

    Terms, names and the place of ``scale`` (there beta) are those of the released code. The paper allows any pair of a
    convex and a concave function; its combination with the focal loss is left out.

    References
    ----------
    Z. Liu, L. Feng, H. Zhuang, X. Cao and H. Wei, "Mitigating privacy risk in membership inference by convex-concave
    loss", ICML 2024; code: https://github.com/ml-stat-Sustech/ConvexConcaveLoss.
    """

    name: ClassVar[str] = "convex_concave"
    alpha: float = 0.5
    concave: str = "exponential"
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, above=0, high=1)
        choose("concave", self.concave, ("exponential", "quadratic"))
        check_number("scale", self.scale, above=0)

    def loss(self, logits: torch.Tensor, target: torch.Tensor, **_: Any) -> torch.Tensor:
        """Cross-entropy and concave term of each record, shape (model, batch)."""
        convex = cross_entropy(logits, target)
        p = (-convex).exp()
        concave = -p.exp() if self.concave == "exponential" else -p * (1 + p / 2)
        return self.scale * (self.alpha * convex + (1 - self.alpha) * concave)
