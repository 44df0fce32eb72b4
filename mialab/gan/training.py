"""How each generative model is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mialab._validation import check_integer, check_number, choose

OBJECTIVES = ("wgan-gp", "bce")


@dataclass(frozen=True, kw_only=True)
class Training:
    """How each GAN is trained: with Adam, several steps of its critics for each step of its generator.

    Parameters
    ----------
    steps : int
        Steps of the critics.
    stop : int, optional
        Steps after which training ends early; schedules of defenses still go by ``steps``.
    batch_size : int
        Records in a batch of each critic; fewer where a critic has fewer members. Passes over the members are shuffled,
        and what is left at the end of a pass and is no whole batch is dropped.
    n_critic : int
        Steps of the critics for each step of the generator.
    objective : {"wgan-gp", "bce"}
        Wasserstein distance with gradient penalty (Gulrajani et al., 2017), or binary cross-entropy with the
        non-saturating loss of the generator (Goodfellow et al., 2014), the objective of DCGANs.
    penalty : float
        Weight of the gradient penalty, of ``"wgan-gp"`` only.
    lr : float
        Learning rate of critics and generators; the default is that of the code published with Ji et al.
    betas : tuple of float
        Adam's averaging, likewise.
    """

    steps: int = 2000
    stop: int | None = None
    batch_size: int = 64
    n_critic: int = 5
    objective: Literal["wgan-gp", "bce"] = "wgan-gp"
    penalty: float = 10.0
    lr: float = 4e-4
    betas: tuple[float, float] = (0.5, 0.999)

    def __post_init__(self) -> None:
        check_integer("steps", self.steps, low=1)
        if self.stop is not None:
            check_integer("stop", self.stop, low=1)
            if self.stop > self.steps:
                raise ValueError(f"stop={self.stop} must be at most steps={self.steps}.")
        check_integer("batch_size", self.batch_size, low=2)
        check_integer("n_critic", self.n_critic, low=1)
        choose("objective", self.objective, OBJECTIVES)
        check_number("penalty", self.penalty, low=0)
        check_number("lr", self.lr, above=0)
        if not isinstance(self.betas, Sequence) or isinstance(self.betas, str) or len(self.betas) != 2:
            raise ValueError(f"betas={self.betas!r} must be two numbers, e.g. (0.5, 0.999).")
        for beta in self.betas:
            check_number("betas", beta, low=0)
            if beta >= 1:
                raise ValueError(f"betas={self.betas!r} must be less than 1.")
        object.__setattr__(self, "betas", tuple(float(beta) for beta in self.betas))

    @property
    def last(self) -> int:
        """Steps of the critics that are made."""
        return self.steps if self.stop is None else self.stop
