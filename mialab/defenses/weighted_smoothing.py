"""Weighted smoothing: noise on predictions, more of it for records near clusters (Tan et al., ACSAC 2023)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch

from mialab._validation import check_integer, check_number, choose
from mialab.defenses.base import Defense, Run, cross_entropy, register

#: What the released code adds to a standard deviation, and the least probability whose logarithm it takes.
TINY, FLOOR = 2.061153622438558e-09, 2.3195228302435696e-16  # e^-20, e^-36


def modified_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Compute modified entropies (Song and Mittal, 2021, equation 8) as the released code does.

    Logits are clipped at 20 and probabilities at 1e-30. `mialab.classifiers.signals.modified_entropy` is the exact
    one, with the opposite sign.

    Parameters
    ----------
    logits : torch.Tensor, shape (..., record, classes)
        Answers.
    y : torch.Tensor of int64, shape (..., record)
        Labels.

    Returns
    -------
    torch.Tensor, shape (..., record)
    """
    p = torch.softmax(logits.clamp(max=20), dim=-1)
    log_p, log_rest = p.clamp(min=1e-30).log(), (1 - p).clamp(min=1e-30).log()
    at = y.unsqueeze(-1)
    p_y, log_p_y = p.gather(-1, at), log_p.gather(-1, at)
    others = (p * log_rest).sum(-1, keepdim=True) - p_y * log_rest.gather(-1, at)
    return -((1 - p_y) * log_p_y + others).squeeze(-1)


def class_z_scores(values: torch.Tensor, y: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Standardize values within each class: less their mean, over their (population) standard deviation.

    Parameters
    ----------
    values : torch.Tensor, shape (model, record)
        E.g. modified entropies.
    y : torch.Tensor of int64, shape (model, record)
        Labels.
    n_classes : int
        Number of classes.

    Returns
    -------
    torch.Tensor, shape (model, record)
    """

    def mean(v: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(len(v), n_classes, dtype=v.dtype, device=v.device)
        count = total.scatter_add(1, y, torch.ones_like(v)).clamp(min=1)
        return (total.scatter_add(1, y, v) / count).gather(1, y)

    values = values.double()
    deviation = values - mean(values)
    return (deviation / (mean(deviation**2).sqrt() + TINY)).float()


@torch.no_grad()
def limit_norms(parameters: Iterable[torch.Tensor], most: float, *, stacked: bool) -> None:
    """Scale gradients down so that their norm, over all parameters of a model, is at most so much.

    Parameters
    ----------
    parameters : iterable of torch.Tensor
        Of one model, or of several with a leading model dimension.
    most : float
        The greatest norm.
    stacked : bool
        Whether there is a model dimension.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    squares = [(g.flatten(1) if stacked else g.reshape(1, -1)).square().sum(1) for g in gradients]
    norm = torch.stack(squares).sum(0).sqrt()
    scale = most / norm.clamp(min=most)
    for g in gradients:
        g.mul_(scale.view(-1, *[1] * (g.dim() - 1)) if stacked else scale)


@register
@dataclass(frozen=True)
class WeightedSmoothing(Defense):
    """Train on predictions with Gaussian noise whose size depends on the record.

    Before each epoch after a warm-up, every member's modified entropy under the current model is standardized within
    its class to a weight w: low where the model is sure, which the paper takes for the neighborhood of a cluster of
    similar records. The loss is the negative logarithm of the label's probability after noise of standard deviation
    ``sigma (1 - w)`` on the softmax.

    Parameters
    ----------
    sigma : float
        Standard deviation of the noise for w = 0; 0 for none.
    version : {"code", "paper"}
        ``"code"``, as released: the noise is also multiplied by the gap between the two greatest probabilities, and
        the result is made a distribution by absolute values, divided by their sum. ``"paper"``, after the paper's
        algorithm 1 as others report it: no gap; as the loss of probabilities below 0 is not specified there, they are
        clipped at e^-36 and divided by their sum (our assumption).
    warm_up : int, optional
        Epochs without noise; by default 4 for the code and 5 for the paper.
    max_norm : float, optional
        Greatest norm of a batch's gradient, greater than 0; a longer one is scaled down to it. None for no limit: then
        a few records with a noisy probability near 0 can ruin a model.
    weighting : {"modified_entropy", "uniform", "inverted", "clipped"}
        The factor of the noise, for comparison: 1 - w; 1; 1 + w; or 1 - w clipped to [0, 2], since its absolute value,
        which is what counts, grows again for w > 1, the most isolated records.

    Notes
    -----
    The released code keeps the records in order and drops the last, smaller batch; here batches are shuffled, and
    weights go with their records. It counts epochs from 0, recomputes weights after every epoch with a number above 2,
    and so adds noise from number 4 on.

    References
    ----------
    M. Tan, X. Xie, J. Sun and T. Wang, "Mitigating membership inference attacks via weighted smoothing", ACSAC 2023.
    """

    name: ClassVar[str] = "weighted_smoothing"
    sigma: float = 0.1
    version: str = "code"
    warm_up: int | None = None
    max_norm: float | None = 10.0
    weighting: str = "modified_entropy"

    def __post_init__(self) -> None:
        check_number("sigma", self.sigma, low=0)
        choose("version", self.version, ("code", "paper"))
        if self.warm_up is None:
            object.__setattr__(self, "warm_up", 4 if self.version == "code" else 5)
        check_integer("warm_up", self.warm_up)
        if self.max_norm is not None:
            check_number("max_norm", self.max_norm, above=0)
        choose("weighting", self.weighting, ("modified_entropy", "uniform", "inverted", "clipped"))

    def before_epoch(self, run: Run) -> None:
        """Compute every member's factor of the noise, ``run.memory["factor"]`` (model, record)."""
        if run.epoch < (self.warm_up or 0) or not self.sigma:
            return
        y = run.y[run.members]
        factor = self.factor(run.predict(run.x[run.members]), y)
        run.memory["factor"] = torch.zeros(len(y), len(run.y), device=y.device).scatter(
            1, run.members, factor
        )

    def step(self, run: Run, batch: torch.Tensor) -> None:
        """Update the networks once with the gradient of the mean loss, cut to the greatest norm, each model's own."""
        if self.max_norm is None or not batch.numel():
            run.step(batch)
            return
        run.optimizer.zero_grad()
        run.losses(batch).mean(-1).sum().backward()
        limit_norms(run.parameters.values(), self.max_norm, stacked=run.mode == "stacked")
        run.optimizer.step()

    def factor(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the factor of the noise of each member, given the model's answers to all of them.

        Parameters
        ----------
        logits : torch.Tensor, shape (model, member, classes)
            Answers.
        y : torch.Tensor of int64, shape (model, member)
            Labels.

        Returns
        -------
        torch.Tensor, shape (model, member)
        """
        w = class_z_scores(modified_entropy(logits, y), y, logits.shape[-1])
        factors = {
            "modified_entropy": 1 - w,
            "uniform": torch.ones_like(w),
            "inverted": 1 + w,
            "clipped": (1 - w).clamp(0, 2),
        }
        return factors[self.weighting]

    def scale(self, p: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """Return what a standard Gaussian is multiplied with besides sigma, for probabilities ``p`` (..., classes)."""
        if self.version == "paper":
            return factor
        top = p.detach().topk(2, dim=-1).values
        return factor * (top[..., 0] - top[..., 1])

    def loss(
        self,
        logits: torch.Tensor,
        target: torch.Tensor,
        *,
        run: Run | None = None,
        index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Negative log probability of the label after noise, shape (model, batch); cross-entropy in the warm-up."""
        if run is None or "factor" not in run.memory:
            return cross_entropy(logits, target)
        p = torch.softmax(logits, dim=-1)
        size = self.sigma * self.scale(p, run.memory["factor"].gather(1, index))
        noisy = p + size.unsqueeze(-1) * run.streams("weighted smoothing").normal(*p.shape[1:])
        positive = noisy.abs() if self.version == "code" else noisy.clamp(min=FLOOR)
        q = (positive / positive.sum(-1, keepdim=True)).clamp(FLOOR, 1)
        return -q.gather(-1, target.unsqueeze(-1)).squeeze(-1).log()
