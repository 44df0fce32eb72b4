"""DP-SGD (Abadi et al., 2016), plain and in the strong form in which rivals should meet it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch

from mialab._validation import check_integer, check_number
from mialab.defenses.base import Defense, Run, cross_entropy, register
from mialab.training import dp
from mialab.training.augmentation import flip_and_shift
from mialab.training.hooks import AnyPlan
from mialab.training.options import Training
from mialab.training.per_record import clipped_sum
from mialab.training.stack import prepare

Batch = tuple[torch.Tensor, torch.Tensor]
#: By default, delta times members.
DELTA_TIMES_MEMBERS = 0.1


@register
@dataclass(frozen=True)
class DPSGD(Defense):
    """Sums of clipped gradients with Gaussian noise: differential privacy for each member.

    In each step every member takes part with probability q = batch size / members, independently (Poisson sampling).
    The gradient of each of these records' loss is clipped to the norm C, noise of standard deviation ``noise`` C is
    added to their sum, and the result divided by the expected batch size goes to the optimizer (Abadi et al., 2016,
    algorithm 1). An epoch has as many steps as without this defense. All optimizers, schedules and choices among epochs
    follow from what is private already.

    *What is protected.* A member's record and label, as a whole, against anyone who sees the networks of all steps.
    Neighboring sets of members differ in one record, added or removed; the number of members that q is computed from is
    public. In the games here all models have equally many members, so a record that leaves is replaced by another: for
    that, the guarantee is 2 epsilon and (1 + exp(epsilon)) delta, which says nothing where the latter comes to 1: with
    the default delta from an epsilon of about log(10 members) on, such as 8 with fewer than 300 members. *What isn't*:
    choices of hyper-parameters after looking at results; a member that is a near copy of another; and the seed, which
    must be secret in an application, for it determines the noise. The analysis is of real numbers, training in float32,
    and randomness not cryptographic.

    Parameters
    ----------
    noise : float, optional
        Standard deviation of the noise as a multiple of ``max_norm``; 1 if neither this nor ``epsilon`` is given. With
        0 gradients are clipped only, and epsilon is infinite.
    epsilon : float, optional
        In place of ``noise``: what training may spend, greater than 0. The noise is the least that stays below, up to
        1 % of epsilon.
    delta : float, optional
        Probability, roughly, with which the guarantee may fail; less than 1 / members. 1 / (10 members) by default.
    max_norm : float
        The norm C, over all parameters of a network.
    batch_size : int, optional
        Expected size of a batch, at most the members; by default that of the training, or all members.
    augmentations : int
        Copies of each record in a batch, each with a mirroring and a move of its own as the training asks for; the
        mean of their losses is the record's, so clipping and epsilon know of one record (De et al., 2022).
    ema : float
        Answers are those of an exponential moving average of weights with this decay, at least 0 and less than 1; in
        step t of at most (1 + t) / (10 + t), since first weights are far from the last. 0 is without.

    Notes
    -----
    Networks must answer each record by itself: group norm, not batch norm. `strong` is for utility first.

    Membership inference has a true-positive rate of at most exp(epsilon) FPR + delta (Kairouz et al., 2015), which
    bounds nothing where epsilon is large. What protects then is seen by attacks alone.

    References
    ----------
    M. Abadi et al., "Deep learning with differential privacy", CCS 2016.

    S. De, L. Berrada, J. Hayes, S. L. Smith and B. Balle, "Unlocking high-accuracy differentially private image
    classification through scale", arXiv 2204.13650, 2022.
    """

    name: ClassVar[str] = "dp_sgd"
    guarantee: ClassVar[str] = "epsilon"
    sources: ClassVar[Mapping[str, str]] = dp.SOURCES
    noise: float | None = None
    epsilon: float | None = None
    delta: float | None = None
    max_norm: float = 1.0
    batch_size: int | None = None
    augmentations: int = 1
    ema: float = 0.0

    def __post_init__(self) -> None:
        if self.noise is not None and self.epsilon is not None:
            raise ValueError(
                f"noise={self.noise!r} and epsilon={self.epsilon!r}: give one of them, the other follows from it."
            )
        if self.noise is not None:
            check_number("noise", self.noise, low=0)
        if self.epsilon is not None:
            check_number("epsilon", self.epsilon, above=0)
        if self.delta is not None:
            check_number("delta", self.delta, above=0)
        check_number("max_norm", self.max_norm, above=0)
        if self.batch_size is not None:
            check_integer("batch_size", self.batch_size, low=1)
        check_integer("augmentations", self.augmentations, low=1)
        check_number("ema", self.ema, low=0)
        if self.ema >= 1:
            raise ValueError(f"ema={self.ema!r} must be less than 1.")

    @classmethod
    def strong(cls, members: int, *, images: bool, **changes: Any) -> Self:
        """Return DP-SGD as its users would tune it for utility, with an epsilon that bounds nothing.

        An eighth of the members in a batch, eight augmented copies of each image, averaged weights, and little noise:
        the rival that others must beat at equal accuracy (Aerni et al., CCS 2024, whose networks have group norm too).
        It wants a larger learning rate than plain training, images a ``Training(flip=True, shift=...)``.

        Parameters
        ----------
        members : int
            Members of each model.
        images : bool
            Whether records are images, of which there can be augmented copies.
        **changes
            Other values of parameters.
        """
        tuned: dict[str, Any] = {
            "noise": 0.2,
            "batch_size": max(1, members // 8),
            "augmentations": 8 if images else 1,
            "ema": 0.99,
        }
        return cls(**tuned | changes)

    # ------------------------------------------------------------------------------------- before training

    def adapt(self, training: Any) -> Any:
        """Train in float32, where it is left open: norms of gradients must be right."""
        return replace(training, precision="float32") if training.precision == "auto" else training

    def check(self, plan: Any) -> None:
        """Refuse what leaves nothing protected, or means nothing (ValueError)."""
        n, training = plan.n_members, plan.training
        if self.batch_size is not None and self.batch_size > n:
            raise ValueError(
                f"batch_size={self.batch_size} must be at most {n}, the members of each model, who are drawn from."
            )
        if self.delta is not None and self.delta * n >= 1:
            raise ValueError(
                f"delta={self.delta!r} must be less than 1 / members = {1 / n:.3g}: publishing one member at random "
                "would satisfy it."
            )
        if training.precision != "float32":
            raise ValueError(
                f"precision={training.precision!r}: gradients are clipped in float32; leave precision='auto'."
            )
        if self.augmentations > 1 and not (training.flip or training.shift):
            raise ValueError(
                f"augmentations={self.augmentations} would be equal copies: give Training(flip=True) or shift=..., or "
                "augmentations=1."
            )
        if self.ema and training.select != "last":
            raise ValueError(
                f"ema={self.ema!r} averages over epochs; select={training.select!r} must be 'last'."
            )
        dp.check_network(plan.network().train(), prepare(torch.as_tensor(plan.pool.x[:4])))
        self.report(plan)  # so that an epsilon that cannot be reached is refused as well

    def report(self, plan: AnyPlan) -> Mapping[str, float]:
        """Return epsilon, by each accountant and the smaller one, delta, noise, sample rate and steps."""
        n, training = plan.n_members, plan.training
        about = self._rate(training, n), training.last * self._steps(training, n), self._delta(n)
        return dp.spent(self._noise(training, n), *about)

    def _batch_size(self, training: Training, n_members: int) -> int:
        return self.batch_size or min(training.batch_size, n_members)

    def _rate(self, training: Training, n_members: int) -> float:
        return self._batch_size(training, n_members) / n_members

    def _steps(self, training: Training, n_members: int) -> int:
        """Return the steps of an epoch."""
        return -(-n_members // self._batch_size(training, n_members))

    def _delta(self, n_members: int) -> float:
        return DELTA_TIMES_MEMBERS / n_members if self.delta is None else self.delta

    def _noise(self, training: Training, n_members: int) -> float:
        if self.epsilon is None:
            return 1.0 if self.noise is None else float(self.noise)
        steps = training.epochs * self._steps(training, n_members)
        return dp.noise_for(self.epsilon, self._rate(training, n_members), steps, self._delta(n_members))

    # ------------------------------------------------------------------------------------------- training

    def batches(self, run: Run) -> Iterator[Batch]:
        """Yield positions of members, each chosen by a coin, and weights: 1, and 0 where there are fewer."""
        n = run.members.shape[1]
        for _ in range(self._steps(run.training, n)):
            yield dp.poisson_batch(run.members, self._rate(run.training, n), run.streams("batches"))

    def step(self, run: Run, batch: Batch) -> None:
        """Update the networks once."""
        index, weight = batch
        training, n = run.training, run.members.shape[1]
        parameters = run.parameters
        if run.mode == "sequential":
            parameters = {name: value[None] for name, value in parameters.items()}
        total = clipped_sum(
            run.network,
            self._loss,
            parameters,
            (self._copies(run, index), run.y[index]),
            weight,
            self.max_norm,
        )
        scale = self._noise(training, n) * self.max_norm
        noise = dp.noise(total, scale, run.streams("noise")) if scale else {}
        for name, parameter in run.parameters.items():
            noisy = total[name] + noise[name] if noise else total[name]
            parameter.grad = torch.empty_like(
                parameter
            )  # the order in memory is what fused optimizers rely on
            torch.div(noisy.view(parameter.shape), self._batch_size(training, n), out=parameter.grad)
        run.optimizer.step()
        if self.ema:
            self._average(run)

    def _copies(self, run: Run, index: torch.Tensor) -> torch.Tensor:
        """Return inputs (model, batch, copy, ...), each copy augmented by itself."""
        training, copies = run.training, self.augmentations
        x = run.inputs(index.repeat_interleave(copies, dim=1))
        x = flip_and_shift(x, flip=training.flip, shift=training.shift, rng=run.streams("augmentation"))
        return x.unflatten(1, (-1, copies))

    def _loss(self, network: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Mean loss over the copies of each record, (batch,), of one network."""
        logits = network(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return cross_entropy(logits, y[:, None].expand(x.shape[:2])).mean(1)

    @torch.no_grad()
    def _average(self, run: Run) -> None:
        if "average" not in run.memory:
            run.memory["average"] = {name: value.clone() for name, value in run.parameters.items()}
            run.memory["steps"] = 0
        run.memory["steps"] += 1
        t = run.memory["steps"]
        decay = min(self.ema, (1 + t) / (10 + t))
        for name, value in run.memory["average"].items():
            value.lerp_(run.parameters[name].detach(), 1 - decay)

    @torch.no_grad()
    def finish(self, run: Any) -> None:
        """Answer with the averaged weights."""
        if self.ema:
            for name, value in run.parameters.items():
                value.copy_(run.memory["average"][name])
