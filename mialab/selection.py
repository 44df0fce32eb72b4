"""Choosing the width of each layer by accuracy and leakage together: our reading of a privacy-driven quantisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mialab import attacks, compression, metrics
from mialab.attacks.signals import signal
from mialab.engine import initialise
from mialab.game import play
from mialab.options import check_integer, check_number

if TYPE_CHECKING:
    from mialab.data import Pool
    from mialab.defenses.quantization import Bits, Quantization
    from mialab.engine import Training
    from mialab.models import Model


@dataclass(frozen=True)
class Selection:
    """Widths that were chosen.

    Attributes
    ----------
    bits : tuple
        The width of each layer.
    value : float
        The objective there.
    path : pandas.DataFrame
        A row for the start and for each change: ``bits``, ``value``.
    """

    bits: tuple[Bits, ...]
    value: float
    path: pd.DataFrame


def select_bits(
    objective: Callable[[tuple[Bits, ...]], float],
    n_layers: int,
    *,
    choices: Sequence[Bits] = (8, 4, 2),
    start: Sequence[Bits] | None = None,
) -> Selection:
    """Choose the width of each layer greedily: again and again the one change of one layer that helps most.

    It stops where no change of a single layer lowers the objective, which is its least value wherever each layer adds
    a term of its own. Nothing is measured twice.

    Parameters
    ----------
    objective : callable
        Takes the widths of all layers, a tuple, and returns what should be low.
    n_layers : int
        Number of layers.
    choices : sequence
        Widths to choose from.
    start : sequence, optional
        Widths to start from; by default the first choice for every layer.
    """
    check_integer("n_layers", n_layers, low=1)
    choices = tuple(choices)
    if not choices:
        raise ValueError("choices=() must name at least one width.")
    best = (choices[0],) * n_layers if start is None else tuple(start)
    if len(best) != n_layers or not set(best) <= set(choices):
        raise ValueError(f"start={best} must be {n_layers} of the choices {choices}.")
    known = {best: float(objective(best))}
    path = [best]
    while True:
        changed = [(*best[:i], b, *best[i + 1 :]) for i in range(n_layers) for b in choices if b != best[i]]
        for bits in changed:
            if bits not in known:
                known[bits] = float(objective(bits))
        nearest = min(changed, key=known.__getitem__, default=best)
        if not known[nearest] < known[best]:
            break
        best = nearest
        path.append(best)
    steps = pd.DataFrame({"bits": path, "value": [known[bits] for bits in path]})
    return Selection(best, known[best], steps)


class PrivacyObjective:
    """``validation loss + mu max(0, AUC - 1/2)`` of models whose inner layers have given widths.

    Both are measured on what is held out: the loss is the mean cross-entropy of the records that a model was not
    trained on, and the AUC that of an attack without shadow models, of those against the members. This objective is
    ours: what Famili and Lao (2023) minimise could not be found.

    Parameters
    ----------
    pool : Pool
        The records.
    model : Model
        The network.
    defense : Quantization
        All but the widths.
    training : Training
        How models are trained.
    mu : float
        Weight of the leakage, at least 0.
    n_models : int
        Models that each choice is measured on.
    seed : int
        Of the games; take another one than that of the models to be judged.
    groups : int, optional
        Number of groups of neighbouring layers that share a width; by default each layer has its own.
    attack : str
        Name of the attack.

    Attributes
    ----------
    measured : pandas.DataFrame
        A row for each choice so far: ``validation loss``, ``AUC``, ``objective``, ``test accuracy``, ``kbit``.
    """

    def __init__(
        self,
        pool: Pool,
        model: Model,
        defense: Quantization,
        *,
        training: Training,
        mu: float,
        n_models: int = 4,
        seed: int = 1,
        groups: int | None = None,
        attack: str = "modified_entropy",
    ) -> None:
        check_number("mu", mu, low=0)
        network = initialise(model, pool, 0, 0)
        layers = max(0, len(replace(defense, per_layer=None).layer_bits(network)) - 2)
        check_integer("groups", layers if groups is None else groups, low=1)
        if groups is not None and groups > layers:
            raise ValueError(
                f"groups={groups} must be at most {layers}, the layers between the first and the last one."
            )
        self._sizes = [len(part) for part in np.array_split(np.arange(layers), groups or layers)]
        self.pool, self.model, self.defense, self.training = pool, model, defense, training
        self.mu, self.n_models, self.seed, self.attack = mu, n_models, seed, attack
        self.measured = pd.DataFrame()

    @property
    def n_layers(self) -> int:
        """Number of layers, or groups of layers, that have a width of their own."""
        return len(self._sizes)

    def per_layer(self, bits: Sequence[Bits]) -> tuple[Bits, ...]:
        """Return the width of each layer between the first and the last one, given those of the groups."""
        return tuple(b for b, size in zip(bits, self._sizes, strict=True) for _ in range(size))

    def __call__(self, bits: Sequence[Bits]) -> float:
        """Return the objective where the inner layers, or groups of them, have these widths."""
        defense = replace(self.defense, per_layer=self.per_layer(bits))
        options = {"training": self.training, "n_models": self.n_models, "seed": self.seed}
        game = play(self.pool, self.model, defense, **options)
        loss = -float(signal(game, "loss")[:, 0][~game.member].mean())
        score = attacks.make(self.attack).scores(game)
        auc = metrics.auc(score.ravel(), game.member.ravel())
        value = loss + self.mu * max(0.0, auc - 0.5)
        row = {
            "validation loss": loss,
            "AUC": auc,
            "objective": value,
            "test accuracy": float(np.mean(game.test_accuracy)),
            "kbit": compression.model_bits(self.pool, self.model, defense) / 1000,
        }
        new = pd.DataFrame(row, index=[", ".join(map(str, bits))])
        self.measured = pd.concat([self.measured, new])
        return value
