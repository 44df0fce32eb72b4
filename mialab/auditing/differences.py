"""Single values of games, and differences between them, with intervals: what verdicts are made from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mialab.auditing import conditions
from mialab.auditing.measure import _columns
from mialab.auditing.tables import NOTHING_PROVEN, PROVEN, proven
from mialab.auditing.taxonomy import Attacking
from mialab.games.base import Game
from mialab.games.signals import by_chunks
from mialab.metrics import intervals
from mialab.metrics.estimates import Estimate
from mialab.metrics.influence import weighted_mean
from mialab.metrics.intervals import Interval
from mialab.metrics.outcomes import Outcome

Attacked = tuple[Game, Attacking | None]


def accuracy(games: Mapping[str, Game], *, confidence: float = 0.95) -> pd.DataFrame:
    """Return the accuracy of the models of each game, as means over models with intervals.

    Parameters
    ----------
    games : dict of str to Game
        Label to game.
    confidence : float
        Of the intervals: over models, and for the test part over its records as well, see `mean_test_accuracy`.

    Returns
    -------
    pandas.DataFrame
        A row per game; columns ``models``, ``members``, ``test accuracy``, ``gap`` (members minus test), and ``proven
        epsilon`` if any of the games has one, see `mialab.auditing.tables.proven`.
    """
    rows = {}
    for label, game in games.items():
        members, gap = (
            intervals.over_targets(values, partner=game.partner, confidence=confidence)
            for values in (game.train_accuracy, game.train_accuracy - game.test_accuracy)
        )
        # The t-interval does not know that no accuracy is above 1.
        means = {
            "members": members.clip(0, 1),
            "test accuracy": mean_test_accuracy(game, confidence),
            "gap": gap,
        }
        rows[label] = {"models": game.n_models} | {k: f"{v:.3f}" for k, v in means.items()}
    page = pd.DataFrame.from_dict(rows, orient="index").rename_axis(columns="defense")
    found = [proven(game.attrs.get("report")) for game in games.values()]
    return page.assign(**{PROVEN: found}) if {*found} - {NOTHING_PROVEN} else page


def mean_test_accuracy(game: Game, confidence: float = 0.95) -> Interval:
    """Return the mean test accuracy of the models of a game, with an interval over new models and new test records.

    Parameters
    ----------
    game : Game
        The game. If it does not hold which test records were labeled correctly, the interval is over models alone.
    confidence : float
        Coverage of the interval.
    """
    if "test_correct" in game.dataset:
        return _tested(game).interval(confidence)
    return intervals.over_targets(game.test_accuracy, partner=game.partner, confidence=confidence).clip(0, 1)


def _tested(game: Game) -> Estimate:
    targets = np.broadcast_to(~game.shadow[:, None], game.test_correct.shape)
    return weighted_mean(game.test_correct, targets, game.partner)


def changed_predictions(game: Game, *, confidence: float = 0.95) -> Interval:
    """Return the fraction of answers whose predicted class the defense's output step changes.

    Parameters
    ----------
    game : Game
        A game whose defense has an output step; ValueError if it has none.
    confidence : float
        Of the Clopper-Pearson interval.
    """
    after: Any = game
    released, own = (
        by_chunks(lambda z, _: z.argmax(-1), g.lazy_logits, g.y) for g in (after, after.before_output_step())
    )
    changed = released != own
    return intervals.proportion(int(changed.sum()), changed.size, confidence)


def difference(
    first: Attacked,
    second: Attacked,
    *,
    metric: str = "auc",
    relative: bool = False,
    records: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Interval:
    """Return the difference of a measure, first minus second, with an interval.

    What both have in common, such as records that are easy to tell, cancels.

    Parameters
    ----------
    first, second : (Game, attack)
        What is attacked, and by what: two games under the same attack, two attacks on the same game, or both. The
        games must have the same members: play them with the same pool, ``n_models``, ``canaries`` and ``seed``. The
        attack is None where ``metric`` is an accuracy.
    metric : str
        ``"auc"``, ``"tpr@0.01"`` or ``"calibrated_tpr@0.01"`` (any rate), ``"tnr@0.001"``, ``"balanced_accuracy"``,
        ``"precision"``, ``"recall"`` or ``"f1"``, pooled over targets; or ``"test_accuracy"``, over models and test
        records, or ``"train_accuracy"``, over models.
    relative : bool
        Whether to divide the difference by the second value, e.g. -0.1 where it is lower by a tenth of itself; not for
        accuracies of models.
    records : mask or indices, optional
        Records to measure on, as in `mialab.audit`; all by default.
    confidence : float
        Coverage of the interval, see `mialab.metrics.Estimate`.

    Raises
    ------
    ValueError
        If the games differ in their members, or a rate is not resolvable with so few records.
    """
    (a, _), (b, _) = first, second
    if a.member.shape != b.member.shape or not np.array_equal(a.member, b.member):
        raise ValueError(
            "The games have different members, so their difference would mix defense and chance: "
            "play both with the same pool, n_models, canaries and seed."
        )
    if metric in ("test_accuracy", "train_accuracy"):
        if relative:
            raise ValueError(f"relative=True goes with measures of attacks, not with metric={metric!r}.")
        if metric == "test_accuracy" and all("test_correct" in game.dataset for game in (a, b)):
            return _between(a, b, (_tested(a) - _tested(b)).interval(confidence))
        values = getattr(a, metric) - getattr(b, metric)
        return _between(a, b, intervals.over_targets(values, partner=a.partner, confidence=confidence))
    columns = _columns(records, a.n_records).tobytes()
    one, other = (_among(game.outcome(attack), columns) for game, attack in (first, second))
    return _between(a, b, one.minus(other, metric, relative=relative, confidence=confidence))


@lru_cache(maxsize=2)  # the two sides of a difference, for the next metric; more would hold too much memory
def _among(outcome: Outcome, columns: bytes) -> Outcome:
    """Return an outcome on some records, a mask in bytes; its scores are sorted once for several metrics."""
    return outcome.among(np.frombuffer(columns, bool))


def _between(first: Game, second: Game, measured: Interval) -> Interval:
    """Note with a difference of games what must be true of them."""
    apart = "" if first is second else conditions.equal_accuracy(first, second)
    met = conditions.of([first, second])
    met[conditions.TRAINED] = "; ".join(
        filter(None, (met[conditions.TRAINED], conditions.same(first, second)))
    )
    return measured.under(**met, **{conditions.EQUAL_ACCURACY: apart})
