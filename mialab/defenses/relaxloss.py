"""RelaxLoss: losses of members are held at a level that non-members reach as well (Chen, Yu and Fritz, ICLR 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from mialab._validation import check_number, choose
from mialab.defenses.base import Defense, Run, cross_entropy, register


@register
@dataclass(frozen=True)
class RelaxLoss(Defense):
    """Descend while the mean loss of a batch is above a level; below it, ascend or flatten the posterior.

    Let L be the mean cross-entropy of a batch, each model's own. Where L > ``alpha``, the step is plain. Where it is
    not, even epochs (counted from 0) take the gradient of ``|L - alpha|``, an ascent; odd epochs descend the
    cross-entropy against soft labels, which are constants: the model's own probability p of the true class there, and
    ``(1 - p) / (C - 1)`` at each of the other classes (algorithm 1).

    Parameters
    ----------
    alpha : float
        The level, in nats, greater than 0. A guess that knows nothing has a loss of log C, so what is near that leaves
        little to be learned. The authors' settings are 0.5 to 3 for 100 classes, and 1 for CIFAR-10 with a ResNet-20.
    upper : float
        The greatest p of a soft label, in (0, 1]: with less than 1 confident records are led to less confidence. The
        released code has 1 for images, 0.3 for Purchase-100 and 0.1 for Texas-100; the paper has no such bound.
    version : {"paper", "code"}
        Soft labels as above, or as in the released code for images: there odd epochs ascend the cross-entropy of all
        records, descend that against the soft labels for misclassified records only, and differentiate the soft labels
        too.

    Notes
    -----
    With ``version="paper"`` and ``upper=1`` odd epochs have no gradient by the logit of the true class: they even out
    the others. With two classes they do nothing. The released code for tabular data is this version, but differentiates
    the soft labels.

    References
    ----------
    D. Chen, N. Yu and M. Fritz, "RelaxLoss: Defending membership inference attacks without losing utility", ICLR 2022;
    code: https://github.com/DingfanChen/RelaxLoss.
    """

    name: ClassVar[str] = "relaxloss"
    alpha: float = 1.0
    upper: float = 1.0
    version: str = "paper"

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, above=0)
        check_number("upper", self.upper, above=0, high=1)
        choose("version", self.version, ("code", "paper"))

    def loss(
        self, logits: torch.Tensor, target: torch.Tensor, *, run: Run | None = None, **_: Any
    ) -> torch.Tensor:
        """Return a loss of each record, (model, batch), the mean of which has the gradient of this defense's step.

        Labels are hard. Without a run, the epoch is even.
        """
        losses = cross_entropy(logits, target)
        mean = losses.detach().mean(-1, keepdim=True)
        if run is None or run.epoch % 2 == 0:
            return (mean - self.alpha).sign() * (losses - self.alpha)
        return torch.where(mean > self.alpha, losses, self._flattening(logits, target, losses))

    def _flattening(self, logits: torch.Tensor, target: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
        """Loss of each record below the level in odd epochs, (model, batch)."""
        confidence = (-losses).exp().clamp(max=self.upper)
        if self.version == "paper":
            confidence = confidence.detach()
        other = (1 - confidence) / (logits.shape[-1] - 1)
        # The soft label has `other` at every class, and the rest of `confidence` at the true one.
        soft = (confidence - other) * losses - other * torch.log_softmax(logits, dim=-1).sum(-1)
        if self.version == "paper":
            return soft
        return soft * (logits.argmax(-1) != target) - losses
