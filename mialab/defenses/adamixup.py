"""AdaMixup (Chen et al., 2025) and static mixup (Zhang et al., 2018): training on mixtures of two records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from mialab._validation import check_number, choose
from mialab.defenses.base import Defense, cross_entropy, register
from mialab.training.streams import Streams

SCHEDULES = ("linear", "literal", "beta_decay", "beta", "constant")


@register
@dataclass(frozen=True)
class AdaMixup(Defense):
    """Train on ``(1 - r) x_i + r x_j`` with a partner fraction r that follows a schedule over the epochs.

    The partner j of each record comes from a random permutation of its batch. The published description fixes that
    mixing is strong at first and falls linearly with the epoch, and that a mixture gets the label of its dominant
    record; the formula, its end points and whether chance remains could not be found. The default is our reading, the
    other schedules are alternatives to compare with.

    Parameters
    ----------
    schedule : {"linear", "literal", "beta_decay", "beta", "constant"}
        The partner fraction r at the fraction t of the epochs that is over (0 in the first, 1 in the last one):
        ``"linear"``, ``start + (end - start) t``; ``"literal"``, r = t, from the words "lambda falls from 1 to 0" with
        lambda the fraction of the record itself: the mixture is strongest half-way; ``"beta_decay"``, a Beta(a, a)
        number for each batch, of the two fractions the smaller one, times 1 - t; ``"beta"``, Beta(a, a) throughout,
        which is static mixup; ``"constant"``, ``start`` throughout.
    start, end : float
        Partner fractions of the first and the last epoch, in [0, 1], for ``"linear"``; the first one for
        ``"constant"``.
    a : float
        Parameter of the Beta distribution, greater than 0.
    label : {"dominant", "both"}
        What the loss compares with: the label of the record with the greater fraction (of equal ones the record
        itself), or both, the losses weighted by the fractions (Zhang et al., 2018).

    References
    ----------
    Y. Chen, J. Chen, Y. Weng, C. Chang, D. Yu and G. Lin, "AdaMixup: A dynamic defense framework for membership
    inference attack mitigation", arXiv 2501.02182, 2025.

    H. Zhang, M. Cisse, Y. Dauphin and D. Lopez-Paz, "mixup: Beyond empirical risk minimization", ICLR 2018.
    """

    name: ClassVar[str] = "adamixup"
    schedule: str = "linear"
    start: float = 0.5
    end: float = 0.0
    a: float = 1.0
    label: str = "dominant"

    def __post_init__(self) -> None:
        choose("schedule", self.schedule, SCHEDULES)
        check_number("start", self.start, low=0, high=1)
        check_number("end", self.end, low=0, high=1)
        check_number("a", self.a, above=0)
        choose("label", self.label, ("dominant", "both"))

    def fraction(self, progress: float, rng: Streams) -> torch.Tensor | float:
        """Return the partner fraction r of a batch: a number, or one for each model, (model,).

        Parameters
        ----------
        progress : float
            Fraction of the epochs that is over, from 0 in the first epoch to 1 in the last one.
        rng : Streams
            Random numbers, a stream a model.
        """
        if self.schedule == "linear":
            return self.start + (self.end - self.start) * progress
        if self.schedule == "constant":
            return self.start
        if self.schedule == "literal":
            return progress
        drawn = rng.beta(self.a, self.a)
        return drawn if self.schedule == "beta" else torch.minimum(drawn, 1 - drawn) * (1 - progress)

    def mix(
        self, x: torch.Tensor, y: torch.Tensor, *, progress: float, rng: Streams
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mixtures, and as targets labels (model, batch), or both labels and the fraction (model, batch, 3)."""
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        models, batch = y.shape
        partner = rng.permutation(batch)
        r = torch.as_tensor(self.fraction(progress, rng), dtype=torch.float32, device=x.device).expand(models)
        other_x = x[torch.arange(models, device=x.device)[:, None], partner]
        other_y = y.gather(1, partner)
        mixed = torch.lerp(x, other_x, r.view(-1, *(1,) * (x.dim() - 1)).to(x.dtype))
        if self.label == "dominant":
            return mixed, torch.where((r > 0.5)[:, None], other_y, y)
        return mixed, torch.stack([y.double(), other_y.double(), r.double()[:, None].expand(y.shape)], dim=-1)

    def loss(self, logits: torch.Tensor, target: torch.Tensor, **_: Any) -> torch.Tensor:
        """Cross-entropy with the dominant label, or with both, weighted by their fractions; shape (model, batch)."""
        if self.label == "dominant":
            return cross_entropy(logits, target)
        own, other, r = target.unbind(-1)
        first, second = (cross_entropy(logits, labels.long()) for labels in (own, other))
        return torch.lerp(first, second, r.to(logits.dtype))


@register
@dataclass(frozen=True)
class Mixup(AdaMixup):
    """Static mixup (Zhang et al., 2018): a Beta(a, a) fraction for each batch, and both labels; see `AdaMixup`."""

    name: ClassVar[str] = "mixup"
    schedule: str = "beta"
    label: str = "both"
