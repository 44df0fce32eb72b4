"""MEGAN (Shateri et al., 2023): a generator that leaves its critic undecided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import softplus

from mialab._validation import check_number
from mialab.gan.defenses.base import Defense, Run, register


def binary_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of a coin that falls on heads with probability sigmoid(logit), in nats, for logits of any shape."""
    return softplus(logits) - logits * torch.sigmoid(logits)


@register
@dataclass(frozen=True)
class MEGAN(Defense):
    """Let the generator maximize the entropy of the critic's answer, instead of the answer "real" alone.

    The critic is trained with the binary cross-entropy as usual. Fixed by the published abstract is that the loss is
    changed so that the critic's answer to generated records has maximum entropy. The formula could not be read, so this
    one is ours: ``(1 - entropy)`` times the non-saturating loss minus ``entropy`` times the mean binary entropy of
    sigmoid(D). The first part is there because the gradient of the second one vanishes for critics that are sure, as
    they are early in training.

    Parameters
    ----------
    entropy : float
        Weight of the entropy, in [0, 1]; 0 is plain training with the binary cross-entropy, 1 the entropy alone.

    References
    ----------
    M. Shateri, F. Messina, F. Labeau and P. Piantanida, "Preserving privacy in GANs against membership inference
    attack", arXiv 2311.03172, 2023.
    """

    name: ClassVar[str] = "megan"
    objective: ClassVar[str | None] = "bce"
    entropy: float = 0.5

    def __post_init__(self) -> None:
        check_number("entropy", self.entropy, low=0, high=1)

    def generator_loss(self, answers: torch.Tensor, fake: torch.Tensor, *, run: Run) -> torch.Tensor:
        """Return the non-saturating loss mixed with minus the entropy of what critics say; shape (model, critic)."""
        loss = super().generator_loss(answers, fake, run=run)
        return torch.lerp(loss, -binary_entropy(answers).mean(-1), self.entropy)
