"""What must be true of games before a difference between them says anything about a defense."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mialab.games.base import Game
    from mialab.training.options import Training

#: Half a point of accuracy: arms that differ by more are not compared as equally useful.
EQUAL = 0.005
#: A training has converged if its accuracy on members is so near to 1, or rose by no more after the last checkpoint.
PLATEAU = 0.01
#: What is only noted beside a verdict: that nothing shows whether training has ended.
UNSURE = "unsure"
#: Names of the conditions, as claims ask for them.
TRAINED, EQUAL_ACCURACY, OPERATING_POINT = "trained", "equal accuracy", "operating point"
#: Train accuracy minus test accuracy, for claims that a defense does more than to fit less.
EQUAL_GAP = "equal gap"
#: Accuracy on members, for claims about trainings that are not over.
EQUAL_TRAIN = "equal train accuracy"
CONDITIONS = (TRAINED, EQUAL_ACCURACY, EQUAL_TRAIN, EQUAL_GAP, OPERATING_POINT)


def trained(game: Game) -> str:
    """Say what is wrong with the training of a game's models; empty if nothing is known to be.

    No model may be dead: on its own members it must be clearly better than always naming the most frequent class, and
    at least half as much better than the median model. And training must have ended: with an accuracy of at least 0.99
    on members, or with one that hardly rose after the last checkpoint; or because an epsilon was spent, beyond which
    there is no training.

    Parameters
    ----------
    game : Game
        The game; of models without accuracies nothing is known.

    Returns
    -------
    str
        A reason for a table, such as ``"2 of 16 models of 'dp_sgd' are dead"``.
    """
    if "train_accuracy" not in game.dataset:
        return ""
    accuracy, name = game.train_accuracy[~game.shadow], game.attrs.get("defense", "unknown")
    chance = float(np.bincount(game.y).max() / game.y.size)
    gain = accuracy - chance
    dead = ~np.isfinite(accuracy) | (gain < 0.05 * (1 - chance)) | (gain < np.median(gain) / 2)
    if dead.any():
        return (
            f"{dead.sum()} of {dead.size} models of {name!r} are dead (train accuracy {accuracy.min():.3f})"
        )
    spent = "epsilon" in (game.attrs.get("report") or {})
    if unsure(game) or spent or accuracy.mean() >= 1 - PLATEAU:
        return ""
    before = game.dataset["checkpoint_train_accuracy"].isel(checkpoint=-1)
    rise = float(accuracy.mean() - before.to_numpy()[~game.shadow].mean())
    if rise > PLATEAU:
        return (
            f"{name!r} has not converged: train accuracy {accuracy.mean():.3f}, {rise:.3f} more than at epoch "
            f"{int(before['checkpoint'])}"
        )
    return ""


def unsure(game: Game) -> str:
    """Say why it is not known whether a game's training has ended; empty if it is known.

    It is known of models that label nearly all of their members correctly, and of games with checkpoints.
    """
    if "train_accuracy" not in game.dataset or "checkpoint_train_accuracy" in game.dataset:
        return ""
    accuracy = float(game.train_accuracy[~game.shadow].mean())
    if accuracy >= 1 - PLATEAU:
        return ""
    return f"train accuracy of {game.attrs.get('defense', 'unknown')!r} is {accuracy:.3f}, and no checkpoint was kept"


def watched(training: Training, stops: Iterable[int] = ()) -> Training:
    """Return a training with checkpoints at some epochs and a tenth before its end, which show whether it had ended.

    Parameters
    ----------
    training : Training
        The training; its own checkpoints give way.
    stops : iterable of int
        Epochs that are looked at besides; the first and the last state are no checkpoints.
    """
    last = training.last
    kept = {*stops, last - max(1, last // 10)} - {0, last}
    return replace(training, checkpoints=tuple(sorted(kept)))


def over(check: Callable[[Game], str], games: Iterable[Game]) -> str:
    """Return what is wrong with any of several games, each reason once; empty if nothing is."""
    return "; ".join(dict.fromkeys(filter(None, map(check, games))))


#: What victims answer, of whatever kind they are.
ANSWERS = ("logits", "scores", "critic")


def same(first: Game, second: Game) -> str:
    """Say if two games that are compared are one, to the last digit of every answer; empty if not.

    A control that equals another arm shows no effect of anything: a parameter that was not passed on, or early stopping
    that stopped at the end.
    """
    if first is second:
        return ""
    known = [name for name in ANSWERS if name in first.dataset and name in second.dataset]
    pairs = [(first.dataset[name], second.dataset[name]) for name in known]
    if not pairs or any(a.shape != b.shape for a, b in pairs):
        return ""
    # One model tells most games apart, and reading all answers takes time.
    for models in (slice(0, 1), slice(None)):
        if not all(np.array_equal(a[models], b[models], equal_nan=True) for a, b in pairs):
            return ""
    names = (game.attrs.get("defense", "unknown") for game in (first, second))
    return "the models of {!r} and {!r} are the same to the last digit".format(*names)


def of(games: Iterable[Game]) -> dict[str, str]:
    """Return what must be true of the training of several games, as an `Interval` holds it."""
    games = list(games)
    return {TRAINED: over(trained, games), UNSURE: over(unsure, games)}


def mean_test_accuracy(game: Game) -> float:
    """Return the mean test accuracy of a game's targets."""
    return float(game.test_accuracy[~game.shadow].mean())


def equal_accuracy(first: Game, second: Game) -> str:
    """Say how far two games are apart in test accuracy; empty if it is at most half a point."""
    apart = mean_test_accuracy(first) - mean_test_accuracy(second)
    if abs(apart) <= EQUAL:
        return ""
    return f"test accuracies differ by {100 * apart:.1f} points"
