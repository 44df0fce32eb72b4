"""Weight decay: small weights learn less by heart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from mialab._validation import check_number
from mialab.defenses.base import Defense, register


@register
@dataclass(frozen=True)
class WeightDecay(Defense):
    """Let weights decay in each step, by the learning rate times ``weight_decay`` of themselves.

    With SGD that is the gradient of an L2 penalty, ``weight_decay / 2`` times the sum of squares. With Adam it is not:
    Adam divides a penalty's gradient by the size of gradients, so it would act least on weights that are learned most.
    Therefore a training with Adam is done with AdamW (Loshchilov and Hutter, 2019), which is the same but for a decay
    beside the gradient.

    Parameters
    ----------
    weight_decay : float
        The decay, at least 0, in place of the training's. Weights shrink by ``lr * weight_decay`` in a step, so what is
        strong depends on the learning rate and the number of steps: 5e-4 is usual for SGD with a rate of 0.1.

    Notes
    -----
    All parameters decay, biases and scales of normalizations as well, as torch does it. Shokri et al. (2017, section
    VIII) try L2 regularization as a defense.

    References
    ----------
    R. Shokri, M. Stronati, C. Song and V. Shmatikov, "Membership inference attacks against machine learning models",
    S&P 2017.

    I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """

    name: ClassVar[str] = "weight_decay"
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        check_number("weight_decay", self.weight_decay, low=0)

    def adapt(self, training: Any) -> Any:
        """Set the decay, and take AdamW for Adam."""
        optimizer = "adamw" if training.optimizer == "adam" else training.optimizer
        return replace(training, weight_decay=self.weight_decay, optimizer=optimizer)
