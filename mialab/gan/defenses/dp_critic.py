"""A critic trained with differential privacy (Abadi et al., 2016; for GANs, Xie et al., 2018)."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import softplus

from mialab._validation import check_number
from mialab.gan.defenses.base import Defense, register
from mialab.gan.networks import Critic
from mialab.training.stack import initialize, prepare

if TYPE_CHECKING:
    from mialab.data.pool import Pool
    from mialab.gan.run import Run
    from mialab.gan.training import Training

#: Above this, a guarantee is a number only: exp(10) times any false-positive rate of interest is more than 1.
LARGE_EPSILON = 10.0
#: Orders of the Rényi divergence that the accountant tries besides its own, which begin at 1.1 and end at 63.
MORE_ORDERS = (1.001, 1.003, 1.01, 1.02, 1.05, 80, 96, 128, 192, 256, 512)


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

    def check(self, pool: Pool, training: Training, members: int) -> None:
        """Refuse a ``delta`` that allows to publish a member (ValueError); warn of an epsilon that says nothing."""
        if self.delta * members >= 1:
            raise ValueError(
                f"delta={self.delta!r} must be less than 1 / members = {1 / members:.3g}: "
                "publishing one member at random would satisfy it."
            )
        spent = self.about(training, members)["epsilon"]
        if spent > LARGE_EPSILON:
            warnings.warn(
                f"epsilon = {spent:.3g} (delta = {self.delta:g}) bounds no attack: what this defense does here is "
                "seen in the attacks' results alone. More noise, fewer steps, or more members lower it.",
                stacklevel=2,
            )

    def about(self, training: Training, members: int) -> dict[str, float]:
        """Return epsilon, delta, and the sample rate.

        Parameters
        ----------
        training : Training
            How models are trained.
        members : int
            Members of each model.
        """
        rate = min(training.batch_size, members) / members
        return {
            "epsilon": epsilon(self.noise_multiplier, rate, training.last, self.delta),
            "delta": self.delta,
            "sample_rate": rate,
        }

    def start(self, run: Run) -> None:
        """Refuse critics that know more of a record's batch than the record (ValueError)."""
        critic = initialize(run.networks.critic, run.pool, run.seed, 0).train()
        state = [type(m).__name__ for m in critic.modules() if any(True for _ in m.buffers(recurse=False))]
        if state or not _apart(critic, run.pool.x.shape[1:], run.n_classes):
            raise ValueError(
                "defense='dp_critic' needs critics that evaluate each record by itself and keep no statistics of "
                f"records; these do not ({', '.join(state) or 'what they say depends on the batch'}): "
                "use group or instance norm instead of batch norm."
            )
        run.memory["critic"] = critic.to("meta")

    def critic_step(self, run: Run) -> torch.Tensor:
        """Update the critics once; return labels drawn uniformly, (model, critic, batch, classes)."""
        members = run.members
        chosen = run.streams["defense"].uniform(*members.shape[1:]) < run.batch_size / members.shape[2]
        index, weight = poisson_batch(members, chosen)
        x, y = prepare(run.x[index]), run.onehot(run.y[index])
        labels = run.onehot(run.streams["defense"].integers(run.n_classes, members.shape[1], run.batch_size))
        with torch.no_grad():
            fake = run.generate(labels)

        _, own = run.critics.functional()
        stack = {name: torch.stack([p[name].detach() for p in own]) for name in own[0]}
        batches = ((x, y, weight, -1), (fake, labels, torch.ones_like(labels[..., 0]), 1))
        real, made = (
            clipped_sum(
                run.memory["critic"], stack, *(t.flatten(0, 1) for t in batch), sign, self.max_grad_norm
            )
            for *batch, sign in batches
        )
        sizes = [p[0].numel() for p in stack.values()]
        noise = run.streams["defense"].normal(members.shape[1], sum(sizes)).flatten(0, 1).split(sizes, 1)
        scale = self.noise_multiplier * self.max_grad_norm
        for (name, total), drawn in zip(real.items(), noise, strict=True):
            total += scale * drawn.view_as(total) + made[name]
            total /= run.batch_size
        run.critics.set_gradients([{name: p[i] for name, p in real.items()} for i in range(len(own))])
        run.critics.optimizer.step()
        return labels


def poisson_batch(members: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Collect the chosen members of every critic, padded to the largest number of them.

    Parameters
    ----------
    members : torch.Tensor of int, shape (model, critic, member)
        Positions of members in the pool.
    chosen : torch.Tensor of bool, shape (model, critic, member)
        Which of them are in the batch.

    Returns
    -------
    index : torch.Tensor of int, shape (model, critic, width)
        Positions of the chosen members, then of others.
    weight : torch.Tensor, shape (model, critic, width)
        1 for the chosen members, 0 for the others.
    """
    width = max(1, int(chosen.sum(-1).max()))
    place = chosen.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[..., :width]
    return members.gather(-1, place), chosen.gather(-1, place).float()


def clipped_sum(
    critic: nn.Module,
    parameters: dict[str, torch.Tensor],
    x: torch.Tensor,
    y: torch.Tensor,
    weight: torch.Tensor,
    sign: int,
    max_norm: float,
) -> dict[str, torch.Tensor]:
    """Sum of the gradients of softplus(sign D(x, y)), that of each record clipped.

    Parameters
    ----------
    critic : torch.nn.Module
        The network; its own parameters are not looked at.
    parameters : dict of str to torch.Tensor, shapes (critic, ...)
        Parameters of all critics.
    x, y : torch.Tensor, shapes (critic, batch, ...) and (critic, batch, classes)
        Records of each critic, and labels as rows of weights.
    weight : torch.Tensor, shape (critic, batch)
        Weight of each record in the sum, at most 1.
    sign : {-1, 1}
        -1 for the loss of members, 1 for that of generated records.
    max_norm : float
        Norm over all parameters to which a record's gradient is clipped.

    Returns
    -------
    dict of str to torch.Tensor, shapes (critic, ...)
    """
    gradients = _linear_gradients if _is_linear(critic) else _any_gradients
    return gradients(critic, parameters, x, y, weight, sign, max_norm)


def _fraction(weight: torch.Tensor, squares: list[torch.Tensor], max_norm: float) -> torch.Tensor:
    return weight / (torch.stack(squares).sum(0).sqrt() / max_norm).clamp(min=1)


def _any_gradients(
    critic: nn.Module,
    parameters: dict[str, torch.Tensor],
    x: torch.Tensor,
    y: torch.Tensor,
    weight: torch.Tensor,
    sign: int,
    max_norm: float,
) -> dict[str, torch.Tensor]:
    """`clipped_sum` by the gradient of each record."""

    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return softplus(sign * functional_call(critic, parameters, (x[None], y[None])))[0]

    each = vmap(vmap(grad(loss), (None, 0, 0)))(parameters, x, y)
    fraction = _fraction(weight, [g.flatten(2).square().sum(2) for g in each.values()], max_norm)
    return {name: torch.einsum("nb,nb...->n...", fraction, g) for name, g in each.items()}


def _linear_gradients(
    critic: nn.Module,
    parameters: dict[str, torch.Tensor],
    x: torch.Tensor,
    y: torch.Tensor,
    weight: torch.Tensor,
    sign: int,
    max_norm: float,
) -> dict[str, torch.Tensor]:
    """`clipped_sum` for linear layers: a record's gradient is the outer product of a layer's input and what comes back.

    Its norm is then known without it (Goodfellow, 2015, "Efficient per-example gradient computations").
    """
    layers = {name: m for name, m in critic.named_modules() if isinstance(m, nn.Linear)}
    shifts = {name: x.new_zeros(*x.shape[:2], m.out_features) for name, m in layers.items()}

    def loss(
        shifts: dict[str, torch.Tensor], parameters: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        inputs = {}

        def shifted(name: str, given: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
            inputs[name] = given
            return out + shifts[name]

        with ExitStack() as hooks:
            for name, m in layers.items():
                hook = m.register_forward_hook(lambda _, given, out, name=name: shifted(name, given[0], out))
                hooks.callback(hook.remove)
            return softplus(sign * functional_call(critic, parameters, (x, y))).sum(), inputs

    back, inputs = vmap(grad(loss, has_aux=True))(shifts, parameters, x, y)
    squares = [
        back[name].square().sum(2) * (inputs[name].square().sum(2) + (m.bias is not None))
        for name, m in layers.items()
    ]
    fraction = _fraction(weight, squares, max_norm)[..., None]
    total = {}
    for name, m in layers.items():
        total[f"{name}.weight"] = (fraction * back[name]).mT @ inputs[name]
        if m.bias is not None:
            total[f"{name}.bias"] = (fraction * back[name]).sum(1)
    return {name: total[name] for name in parameters}


def _is_linear(critic: nn.Module) -> bool:
    """Whether this is the critic of `MLP`: linear layers, each used once, on rows of numbers."""
    if type(critic) is not Critic or not type(critic.first) is type(critic.rest) is nn.Sequential:
        return False
    chain = [*critic.first, *critic.rest]
    known = all(type(layer) in (nn.Flatten, nn.Linear, nn.LeakyReLU) for layer in chain)
    return known and type(chain[0]) is nn.Flatten and len({*chain}) == len(chain)


def epsilon(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """Return epsilon of subsampled Gaussian mechanisms, by Opacus' accountant of Rényi divergences.

    Neighbors differ in one record, added or removed (Mironov et al., 2019; conversion by Balle et al., 2020).

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise, as a multiple of the largest norm of one record's part.
    sample_rate : float
        Probability of each record to be in a step's batch.
    steps : int
        Steps.
    delta : float
        Probability, roughly, with which the guarantee may fail.

    Raises
    ------
    ImportError
        If Opacus is not installed.
    """
    try:
        from opacus.accountants import RDPAccountant
    except ImportError as error:
        raise ImportError("defense='dp_critic' needs Opacus for epsilon: pip install opacus.") from error
    accountant = RDPAccountant()
    accountant.history = [(noise_multiplier, sample_rate, steps)]
    with warnings.catch_warnings():
        # The bound holds at every order; a best one at the end of the list means a looser bound.
        warnings.filterwarnings("ignore", "Optimal order is the")
        return accountant.get_epsilon(delta, alphas=sorted({*RDPAccountant.DEFAULT_ALPHAS, *MORE_ORDERS}))


def _apart(critic: nn.Module, shape: tuple[int, ...], n_classes: int) -> bool:
    """Whether a critic says the same of records together as in parts."""
    rng = torch.Generator().manual_seed(0)
    x, y = torch.rand(6, *shape, generator=rng), torch.rand(6, n_classes, generator=rng)
    with torch.no_grad():
        parts = [critic(a, b) for a, b in zip(x.split(3), y.split(3), strict=True)]
        return torch.allclose(critic(x, y), torch.cat(parts), rtol=1e-3, atol=1e-4)
