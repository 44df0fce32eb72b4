"""How each model is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch

from mialab._validation import as_integers, check_integer, check_number, choose
from mialab.data.pool import Pool

OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass(frozen=True, kw_only=True)
class Training:
    """How each model is trained.

    Parameters
    ----------
    epochs : int
        Passes over the members.
    stop : int, optional
        Epochs after which training ends early; schedules of learning rates and defenses still go by ``epochs``.
    checkpoints : tuple of int
        Epochs after which answers and accuracies are kept besides those of the last one, each from 1 to the last one
        minus 1, increasing: `mialab.Game.at` gives the game of models whose training stops there, the same to the last
        bit as with ``stop``. What probes measure is measured after the last epoch only.
    batch_size : int
        Records in a batch; the last, smaller batch of an epoch is used as well.
    optimizer : {"adam", "adamw", "sgd"}
        Optimizer.
    lr : float
        Learning rate.
    momentum : float
        Momentum, of SGD only.
    weight_decay : float
        Weight decay (as an L2 term inside SGD and Adam, decoupled in AdamW).
    milestones : tuple of int
        Epochs (counted from 0) before which the learning rate is multiplied by ``decay``.
    decay : float
        That factor.
    shuffle : bool
        Whether each epoch visits the members in a new random order; if not, always in the same one.
    select : {"last", "best_validation"}
        The model that is released: of the last epoch, or of the first epoch with the highest accuracy on the
        pool's validation part.
    flip : bool
        Data augmentation of images: whether an image is mirrored left to right with probability 1/2 each time.
    shift : int
        Data augmentation of images: they are moved by up to so many pixels in both directions each time.
    precision : {"auto", "float32", "bfloat16"}
        Arithmetic of the training steps (weights and answers are float32 always): bfloat16 where that is fast, see
        `resolve`.
    """

    epochs: int = 50
    stop: int | None = None
    checkpoints: tuple[int, ...] = ()
    batch_size: int = 64
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.0
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    shuffle: bool = True
    select: Literal["last", "best_validation"] = "last"
    flip: bool = False
    shift: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        check_integer("epochs", self.epochs, low=1)
        if self.stop is not None:
            check_integer("stop", self.stop, low=1)
            if self.stop > self.epochs:
                raise ValueError(f"stop={self.stop} must be at most epochs={self.epochs}.")
        object.__setattr__(self, "checkpoints", as_integers("checkpoints", self.checkpoints, low=1))
        increasing = list(self.checkpoints) == sorted({*self.checkpoints})
        if not increasing or max(self.checkpoints, default=0) >= self.last:
            raise ValueError(
                f"checkpoints={self.checkpoints} must be distinct epochs in increasing order before the last one, "
                f"{self.last}, after which answers are always kept."
            )
        check_integer("batch_size", self.batch_size, low=1)
        choose("optimizer", self.optimizer, OPTIMIZERS)
        check_number("lr", self.lr, above=0)
        check_number("momentum", self.momentum, low=0, high=1)
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum={self.momentum!r} goes with optimizer='sgd', not {self.optimizer!r}.")
        check_number("weight_decay", self.weight_decay, low=0)
        object.__setattr__(self, "milestones", as_integers("milestones", self.milestones, low=1))
        check_number("decay", self.decay, above=0, high=1)
        choose("select", self.select, ("last", "best_validation"))
        check_integer("shift", self.shift)
        choose("precision", self.precision, ("auto", "float32", "bfloat16"))

    def check(self, pool: Pool) -> None:
        """Refuse a pool that cannot be trained on in this way (ValueError)."""
        if self.select == "best_validation" and not len(pool.x_val):
            raise ValueError(
                "select='best_validation' needs a validation part: load the pool with validation=...."
            )
        if (self.flip or self.shift) and pool.kind != "image":
            raise ValueError(
                f"flip={self.flip} and shift={self.shift} are for images; {pool.name!r} has {pool.kind} records."
            )
        if self.shift and self.shift >= min(pool.x.shape[-2:]):
            raise ValueError(f"shift={self.shift} moves images of {pool.x.shape[-2:]} pixels out of sight.")

    @property
    def last(self) -> int:
        """Number of epochs after which training ends."""
        return self.stop or self.epochs

    def ending_at(self, epoch: int) -> Self:
        """Return the same training, but ending after an epoch."""
        return replace(self, stop=epoch, checkpoints=())

    def lr_at(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        return self.lr * self.decay ** sum(epoch >= m for m in self.milestones)
