"""Early stopping: the training is cut off before members are learned by heart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from mialab._validation import check_integer, check_number
from mialab.defenses.base import Defense, register


@register
@dataclass(frozen=True)
class EarlyStopping(Defense):
    """Stop after some of the epochs.

    The models are those of a training that is cut off, not of a shorter one: learning rates, and all else that goes by
    epochs, are what the whole training has in the same epochs. So one training gives the models of all stops, as
    checkpoints (`mialab.Game.at`), equal to the last bit; `mialab.auditing.trade_off` reads them off in this way. It is
    also how Song and Mittal (2021), and the code of RelaxLoss (2022), compare early stopping with other defenses.

    Parameters
    ----------
    fraction : float, optional
        Fraction of the training's epochs, in (0, 1], rounded to whole ones, at least one. 1/2 if neither this nor
        ``epochs`` is given.
    epochs : int, optional
        In place of ``fraction``: their number, at most that of the training.

    Notes
    -----
    The same for all models, and chosen by the defender. To stop each model where its validation accuracy is highest is
    ``Training(select="best_validation")``. Of the training's checkpoints those before the stop are kept. A training
    that is asked to stop earlier still does.

    References
    ----------
    L. Song and P. Mittal, "Systematic evaluation of privacy risks of machine learning models", USENIX Security 2021.
    """

    name: ClassVar[str] = "early_stopping"
    fraction: float | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        if self.fraction is not None and self.epochs is not None:
            raise ValueError(f"fraction={self.fraction!r} and epochs={self.epochs!r}: give one of them.")
        if self.fraction is not None:
            check_number("fraction", self.fraction, above=0, high=1)
        if self.epochs is not None:
            check_integer("epochs", self.epochs, low=1)

    def adapt(self, training: Any) -> Any:
        """Stop earlier; a ValueError if there are not as many epochs."""
        if self.epochs is None:
            fraction = 0.5 if self.fraction is None else self.fraction
            stop = max(1, round(fraction * training.epochs))
        else:
            stop = self.epochs
            if stop > training.epochs:
                raise ValueError(f"epochs={stop} must be at most {training.epochs}, those of the training.")
        stop = min(stop, training.last)
        return replace(training, stop=stop, checkpoints=tuple(e for e in training.checkpoints if e < stop))
