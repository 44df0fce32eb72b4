"""RelaxLoss for GANs: critics that distinguish members from generated records too well step back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from mialab._validation import check_number
from mialab.games.base import Game
from mialab.gan.defenses.base import Defense, Run, register
from mialab.training.hooks import AnyPlan


@register
@dataclass(frozen=True)
class RelaxLoss(Defense):
    """Ascend a critic's loss on a batch whenever it is below a level, and descend it otherwise.

    The level is what critics reach on records that they were not trained on (`reference_level`): members shall not be
    distinguished from generated records any better. This is how we read Ji et al., who adapt the defense of
    classifiers to GANs as a baseline: one threshold, the mean over reference critics trained on other records. Their
    published code keeps a threshold for each image instead, from references trained on overlapping data; we do not
    follow it.

    What the paper leaves open, and our answers: the loss is compared for each critic and batch, without the gradient
    penalty, which is descended in either case; the level stays the same throughout, though it belongs to critics at the
    end of their training. Flattened labels, the other half of the defense of classifiers, have no counterpart here.

    Parameters
    ----------
    level : float
        The loss below which a critic ascends, in the units of the training's objective (for ``"wgan-gp"`` the mean of D
        over generated records minus that over members). It depends on the data and the network, so there is no
        default: games refuse None.

    References
    ----------
    Z. Ji, Q. Hu, L. Xiang and C. Zhou, "Mixup training for generative models to defend membership inference attacks",
    INFOCOM 2023, its baselines.

    D. Chen, N. Yu and M. Fritz, "RelaxLoss: Defending membership inference attacks without losing utility", ICLR 2022.
    """

    name: ClassVar[str] = "relaxloss"
    level: float | None = None

    def __post_init__(self) -> None:
        if self.level is not None:
            check_number("level", self.level)

    def check(self, plan: AnyPlan) -> None:
        """Refuse a missing level (ValueError)."""
        if self.level is None:
            raise ValueError(
                "level=None: relaxloss needs the loss of reference critics on other records, e.g. "
                "RelaxLoss(level=reference_level(game)) of an undefended game."
            )

    def critic_loss(self, real: torch.Tensor, fake: torch.Tensor, *, run: Run) -> torch.Tensor:
        """Return the loss of each critic, with its sign changed where it is below the level; shape (model, critic)."""
        loss = super().critic_loss(real, fake, run=run)
        assert self.level is not None  # checked before training
        return torch.where(loss < self.level, -loss, loss)


def reference_level(game: Game) -> float:
    """Return the mean loss of a game's critics on records that they were not trained on, as a level for `RelaxLoss`.

    Parameters
    ----------
    game : GeneratorGame
        Of undefended Wasserstein GANs on the same pool, networks and training; each model is a reference for the
        records that are no members of it.

    Returns
    -------
    float
        Mean over all pairs of a model and a non-member of ``game.critic_loss``, the mean of D over generated records of
        the same label minus D at the record.

    Raises
    ------
    ValueError
        If the game holds no losses of critics, or those of another objective.
    """
    loss = getattr(game, "critic_loss", None)
    if loss is None:
        raise ValueError(
            "game has no critic_loss; a level needs a game of generators, e.g. mialab.gan.play(pool)."
        )
    objective = (game.attrs.get("training") or {}).get("objective", "wgan-gp")
    if objective != "wgan-gp":
        raise ValueError(
            f"game was trained with objective={objective!r}; its critic_loss is that of 'wgan-gp' only."
        )
    return float(loss[:, 0][~game.member].mean())
