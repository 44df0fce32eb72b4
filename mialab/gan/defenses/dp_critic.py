"""A critic trained with differential privacy (Abadi et al., 2016; for GANs, Xie et al., 2018)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn.functional import softplus

from mialab._validation import check_number
from mialab.gan.defenses.base import Defense, Run, register
from mialab.training import dp
from mialab.training.hooks import AnyPlan
from mialab.training.per_record import clipped_sum
from mialab.training.stack import initialize, prepare

#: Above this, a guarantee is a number only: exp(10) times any false-positive rate of interest is more than 1.
LARGE_EPSILON = 10.0


@register
@dataclass(frozen=True)
class DPCritic(Defense):
    """Critics are trained with DP-SGD's gradients; generators learn from members through such critics only.

    In each step of the critic, every member takes part with probability q = batch size / members, independently
    (Poisson sampling). The gradient of each of these records' loss, softplus(-D(x, y)), is clipped to the norm C,
    Gaussian noise of standard deviation ``noise_multiplier`` C is added to their sum, and the result is divided by the
    expected batch size (algorithm 1 of Abadi et al., 2016), then given to Adam. Generated records, as many as are
    expected in the batch, add the mean of their gradients, each clipped to C as well: no privacy follows from that, but
    a critic with one side clipped would lean toward the other. Their labels, and those for which the generator is
    updated, are drawn uniformly from all classes, never taken from members.

    *What is protected.* A member's record and its label, as a whole, against anyone who sees everything that training
    releases: all critics on the way, hence the generator, its samples and whatever is computed from them
    (post-processing). Neighboring sets of members differ in one record, added or removed; the number of members that
    q is computed from is public. In the games here, all models have equally many members, so a record that leaves is
    replaced by another: for that, the guarantee is 2 epsilon and (1 + exp(epsilon)) delta. *What isn't*: choices of
    hyper-parameters after looking at results; a member that is a near copy of another; and the seed, which must be
    secret in an application, for it determines the noise. As usual, the analysis is of real numbers, not of floats.

    Binary cross-entropy is the objective: a gradient penalty would use members as well.

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise as a multiple of ``max_grad_norm``.
    max_grad_norm : float
        The norm C to which each record's gradient is clipped, over all of a critic's parameters. The default is about
        the median norm of unclipped gradients on digits, as Abadi et al. suggest; with C = 1, less is learned there
        even without noise.
    delta : float
        Probability, roughly, with which the guarantee may fail; less than 1 / members.

    Notes
    -----
    Membership inference that has epsilon-delta indistinguishability against it has a true-positive rate of at most
    exp(epsilon) FPR + delta (Kairouz et al., 2015), which bounds nothing where epsilon is large: `check` warns where
    it exceeds 10. What protects then is seen by attacks alone.
    """

    name: ClassVar[str] = "dp_critic"
    guarantee: ClassVar[str] = "epsilon"
    sources: ClassVar[Mapping[str, str]] = dp.SOURCES
    objective: ClassVar[str | None] = "bce"
    noise_multiplier: float = 1.0
    max_grad_norm: float = 4.0
    delta: float = 1e-5

    def __post_init__(self) -> None:
        check_number("noise_multiplier", self.noise_multiplier, above=0)
        check_number("max_grad_norm", self.max_grad_norm, above=0)
        check_number("delta", self.delta, above=0)
        if self.delta >= 1:
            raise ValueError(f"delta={self.delta!r} must be less than 1.")

    def check(self, plan: Any) -> None:
        """Refuse a delta or critics that leave nothing protected (ValueError); warn of an epsilon that says nothing."""
        if self.delta * plan.n_members >= 1:
            raise ValueError(
                f"delta={self.delta!r} must be less than 1 / members = {1 / plan.n_members:.3g}: "
                "publishing one member at random would satisfy it."
            )
        rng = torch.Generator().manual_seed(0)
        x, y = (torch.rand(6, *s, generator=rng) for s in (plan.pool.x.shape[1:], (plan.pool.n_classes,)))
        dp.check_network(initialize(plan.networks.critic, plan.pool, plan.seed, 0, self).train(), x, y)
        spent = self.report(plan)["epsilon"]
        if spent > LARGE_EPSILON:
            warnings.warn(
                f"epsilon = {spent:.3g} (delta = {self.delta:g}) bounds no attack: what this defense does here is "
                "seen in the attacks' results alone. More noise, fewer steps, or more members lower it.",
                stacklevel=2,
            )

    def report(self, plan: AnyPlan) -> dict[str, float]:
        """Return epsilon, delta, and the sample rate."""
        rate = min(plan.training.batch_size, plan.n_members) / plan.n_members
        return {
            "epsilon": dp.epsilon(self.noise_multiplier, rate, plan.training.last, self.delta),
            "delta": self.delta,
            "sample_rate": rate,
        }

    def batches(self, run: Run) -> Iterator[Any]:
        """Yield positions of members, each chosen at random, and their weights."""
        while True:
            yield dp.poisson_batch(run.members, run.batch_size / run.members.shape[2], run.streams("defense"))

    def step(self, run: Run, batch: Any) -> torch.Tensor:
        """Update the critics once; return labels drawn uniformly, (model, critic, batch, classes)."""
        rng, members, critic = run.streams("defense"), run.members, run.critics.network
        index, weight = batch
        x, y = prepare(run.x[index]), run.onehot(run.y[index])
        labels = run.onehot(rng.integers(run.n_classes, members.shape[1], run.batch_size))
        with torch.no_grad():
            fake = run.generate(labels)

        parameters = run.critics.stacked()

        def gradients(sign: int, weight: torch.Tensor, *records: torch.Tensor) -> dict[str, torch.Tensor]:
            records, weight = tuple(r.flatten(0, 1) for r in records), weight.flatten(0, 1)
            return clipped_sum(
                critic,
                lambda critic, x, y: softplus(sign * critic(x, y)),
                parameters,
                records,
                weight,
                self.max_grad_norm,
            )

        real, made = gradients(-1, weight, x, y), gradients(1, torch.ones_like(labels[..., 0]), fake, labels)
        noise = dp.noise(real, self.noise_multiplier * self.max_grad_norm, rng, per_model=members.shape[1])
        total = {name: (value + (noise[name] + made[name])) / run.batch_size for name, value in real.items()}
        run.critics.set_gradients(total)
        run.critics.optimizer.step()
        return labels
