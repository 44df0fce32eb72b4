"""What is turned to make a defense stronger, and the values that are tried: one line a defense.

They stand here and not with the defenses: what is tried decides nothing about a trained model, so stored games stay
valid when it changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mialab._validation import check_integer, choose
from mialab.defenses.base import Defense


@dataclass(frozen=True)
class Knob:
    """A parameter of a defense, and the values to try.

    Parameters
    ----------
    parameter : str
        Name of a field of the defense.
    values : tuple
        From the weakest protection to the strongest; two at least.
    """

    parameter: str
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if len(self.values) < 2 or len(set(self.values)) < len(self.values):
            raise ValueError(
                f"values={self.values!r} must be at least two different ones, from weak to strong."
            )

    def pick(self, n: int) -> tuple[Any, ...]:
        """Return ``n`` of the values, spread evenly from the weakest to the strongest (ValueError if fewer exist)."""
        check_integer("n", n, low=2)
        if n > len(self.values):
            raise ValueError(
                f"The knob {self.parameter!r} has {len(self.values)} values; {n} were asked for. Name more of them."
            )
        return tuple(self.values[i] for i in np.linspace(0, len(self.values) - 1, n).round().astype(int))

    def turn(self, defense: Defense, value: Any) -> Defense:
        """Return the defense with this parameter changed."""
        choose("parameter", self.parameter, vars(defense))
        return replace(defense, **{self.parameter: value})


#: Default sweeps by name of the defense.
KNOBS: dict[str, Knob] = {
    "adamixup": Knob("start", (0.1, 0.2, 0.3, 0.4, 0.5)),
    "mixup": Knob("a", (0.1, 0.25, 0.5, 1.0, 4.0)),
    "hamp": Knob("gamma", (0.1, 0.3, 0.5, 0.7, 0.9)),
    # The artifact of HAMP has 3, 6 and 10, by data set.
    "adversarial_regularization": Knob("strength", (0.5, 1.0, 3.0, 6.0, 10.0)),
    # From clipping with a touch of noise to an epsilon of some ten in a few hundred steps of a tenth of the members.
    "dp_sgd": Knob("noise", (0.05, 0.1, 0.2, 0.4, 1.0)),
    # The whole range of the weight of the cross-entropy; the authors' example has 0.5.
    "convex_concave": Knob("alpha", (0.9, 0.7, 0.5, 0.3, 0.1)),
    # In nats: from below the authors' least level to what they take for CIFAR-10; log C is a guess that knows nothing.
    "relaxloss": Knob("alpha", (0.1, 0.2, 0.4, 0.7, 1.0)),
    # Up to the usual 1/2, and beyond.
    "dropout": Knob("p", (0.1, 0.3, 0.5, 0.7, 0.9)),
    # From near the end to a few epochs of 50; `trade_off` has stops of its own, which cost no training.
    "early_stopping": Knob("fraction", (0.8, 0.4, 0.2, 0.1, 0.05)),
    # 5e-4 is usual with SGD; AdamW, at a hundredth of its learning rate, needs a hundred times as much. Too much leaves
    # dead models, and tables say so.
    "weight_decay": Knob("weight_decay", (5e-4, 5e-3, 5e-2, 0.5, 5.0)),
    "label_smoothing": Knob("smoothing", (0.05, 0.1, 0.3, 0.6, 0.9)),
    # The paper: the surer the teacher is of what the student learns from, the less a student tells. How much, is ours.
    "distillation": Knob("keep", (1.0, 0.8, 0.6, 0.4, 0.2)),
    # Of 25 sub-models; in the paper 10. The more do not see a record, the fewer records does each learn from.
    "selena": Knob("unseen_by", (2, 5, 10, 15, 20)),
    # From no agreement with the others to more of it than there is learning; ours.
    "mist": Knob("agree_epochs", (0, 1, 2, 4, 8)),
    # In L1 distance of probabilities, as in the paper's figures; 2 is the most there can be.
    "memguard": Knob("distortion", (0.1, 0.3, 0.5, 1.0, 2.0)),
    # The last leaves hardly more than the label.
    "confidence_masking": Knob("digits", (4, 3, 2, 1, 0)),
    # The authors' value for CIFAR-10, and a tenth and ten times of it.
    "dynanoise": Knob("variance", (0.03, 0.1, 0.3, 1.0, 3.0)),
    "quantization": Knob("bits", (8, 4, 3, 2, "binary")),
    # Of the values in the authors' run script, those that change anything at our sizes.
    "weighted_smoothing": Knob("sigma", (0.001, 0.01, 0.05, 0.1, 0.2)),
}
