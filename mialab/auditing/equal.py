"""Games and controls that are as accurate, or fit as much: differences at an equal measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from mialab._validation import choose
from mialab.auditing import conditions
from mialab.auditing.differences import difference
from mialab.auditing.taxonomy import Attacking
from mialab.games.base import Game
from mialab.metrics.intervals import Interval


def mean_train_accuracy(game: Game) -> float:
    """Return the mean accuracy of a game's targets on their members."""
    return float(game.train_accuracy[~game.shadow].mean())


def train_test_gap(game: Game) -> float:
    """Return the mean over targets of train accuracy minus test accuracy."""
    return float((game.train_accuracy - game.test_accuracy)[~game.shadow].mean())


#: What games may be made equal in, by the condition of claims: how it is measured, and what it is called.
MEASURED: dict[str, tuple[Callable[[Game], float], str]] = {
    conditions.EQUAL_ACCURACY: (conditions.mean_test_accuracy, "test accuracies"),
    conditions.EQUAL_TRAIN: (mean_train_accuracy, "train accuracies"),
    conditions.EQUAL_GAP: (train_test_gap, "train-test gaps"),
}


def strongest_attack(game: Game, attacks: Sequence[Attacking], metric: str = "auc") -> Attacking:
    """Return which of several attacks is strongest on a game, by a measure pooled over targets.

    That it was chosen makes it look a little stronger than it is, on each game alike.
    """
    if not attacks:
        raise ValueError("attack=[] must name at least one attack.")
    if len(attacks) == 1:
        return attacks[0]
    return max(attacks, key=lambda attack: game.outcome(attack).estimate(metric).value)


def at_equal(
    game: Game,
    controls: Mapping[Any, Game],
    attack: Attacking | Sequence[Attacking],
    *,
    condition: str,
    metric: str = "auc",
    training_of: Game | None = None,
) -> Interval:
    """Return an attack's measure on a game minus that on a control that is equal in accuracy or in fit.

    The control lies on the straight line between the two settings next to each other on either side of the game; of
    several such pairs the one that is nearest counts.

    Parameters
    ----------
    game : Game
        The game that is compared.
    controls : dict of Game
        Settings of the control, of the same members, in the order of what is varied.
    attack : str, Attack or callable, or a list of these
        The attack; of several, each game is attacked by that which is strongest on it.
    condition : {"equal accuracy", "equal train accuracy", "equal gap"}
        What is made equal: the mean test accuracy, that on members, or the mean of the latter minus the former. It has
        failed, and the setting that is nearest counts, if no two settings have the game between them and the nearest is
        more than half a point away.
    metric : str
        As of `mialab.difference`.
    training_of : Game, optional
        The game whose training has to be sound in place of the controls': that of training which was not stopped.

    Returns
    -------
    Interval
        Its ends are interpolated as its value is, as if both differences erred together, so that it is rather too
        wide; that the place between the two settings is itself an estimate is left out.

    Raises
    ------
    ValueError
        If there are no controls, or games differ in their members.
    """
    if not controls:
        raise ValueError("controls={} must hold at least one game to compare with.")
    choose("condition", condition, MEASURED)
    measure, name = MEASURED[condition]
    aim, found = measure(game), {label: measure(control) for label, control in controls.items()}
    between = [
        (first, second)
        for first, second in pairwise(controls)
        if min(found[first], found[second]) <= aim <= max(found[first], found[second])
        and found[first] != found[second]
    ]
    nearest = min(controls, key=lambda label: abs(found[label] - aim))
    wrong = ""
    if between:
        picked = min(between, key=lambda pair: sum(abs(found[label] - aim) for label in pair))
        part = (aim - found[picked[0]]) / (found[picked[1]] - found[picked[0]])
        weights = dict(zip(picked, (1 - part, part), strict=True))
    else:
        weights = {nearest: 1.0}
        if abs(found[nearest] - aim) > conditions.EQUAL:
            wrong = f"{name} differ by {100 * (aim - found[nearest]):.1f} points at the least"
    attacks: list[Any] = list(attack) if isinstance(attack, list | tuple) else [attack]
    attacked = game, strongest_attack(game, attacks, metric)
    parts = {
        label: difference(
            attacked,
            (controls[label], strongest_attack(controls[label], attacks, metric)),
            metric=metric,
        )
        for label in weights
    }
    value, low, high = (
        float(sum(weights[label] * part[end] for label, part in parts.items())) for end in range(3)
    )
    of_controls = [controls[label] for label in weights] if training_of is None else [training_of]
    looked_at = [game, *of_controls]
    met = {conditions.TRAINED: conditions.over(conditions.trained, looked_at), condition: wrong}
    # Who asks for the same accuracy on members asks about trainings that are not over.
    unfinished = condition == conditions.EQUAL_TRAIN
    met[conditions.UNSURE] = "" if unfinished else conditions.over(conditions.unsure, looked_at)
    first = next(iter(parts.values()))
    return Interval(value, low, high, df=first.df, n_pairs=first.n_pairs, conditions=met)
