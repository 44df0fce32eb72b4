"""Attack success over the epochs: at each at which training might stop."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mialab import _progress, metrics
from mialab import defenses as _defenses
from mialab._validation import as_integers, check_integer, choose, select
from mialab.auditing.differences import difference, mean_test_accuracy
from mialab.auditing.taxonomy import _chosen
from mialab.classifiers.game import play
from mialab.defenses import AdaMixup
from mialab.games.base import Game
from mialab.metrics import intervals, rates
from mialab.metrics.intervals import Interval
from mialab.training.options import Training
from mialab.training.streams import Streams

if TYPE_CHECKING:
    from mialab.attacks.base import Attack
    from mialab.chapters.settings import Setting
    from mialab.data.pool import Pool
    from mialab.defenses.base import Defense
    from mialab.metrics.outcomes import Outcome
    from mialab.models import Model
    from mialab.queries import Queries


COLUMNS = ["defense", "epoch", "attack", "metric", "value", "low", "high"]


def trajectory(
    pool: Pool,
    model: str | Model = "mlp",
    defenses: Mapping[str, str | Defense | None] | None = None,
    *,
    training: Training | None = None,
    stops: Sequence[int] = (),
    attacks: Sequence[str | Attack] = ("loss", "correctness", "lira_pooled"),
    baseline: str | None = None,
    fprs: Sequence[float] = (0.01,),
    n_models: int = 16,
    queries: str | Queries = "original",
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure attacks on models whose training stops after so many epochs, and after the last one.

    Shadow models stop where their targets do. Models that stop early are those of the whole training at that epoch:
    schedules go by ``training.epochs``, and random numbers are the same. So there is one game for each defense, with
    checkpoints (`mialab.Game.at`), and only the first call trains it.

    Parameters
    ----------
    pool : Pool
        The records.
    model : str or callable
        The network, see `mialab.play`.
    defenses : dict of str to (str, Defense or None), optional
        Label to defense; the undefended training, as ``"none"``, by default.
    training : Training, optional
        The whole training, ``Training()`` by default; without ``stop`` and ``checkpoints`` of its own.
    stops : sequence of int
        Epochs at which to measure, besides the last one: from 1 to ``training.epochs``.
    attacks : sequence of str or Attack
        As in `mialab.audit`.
    baseline : str, optional
        Label of a defense. For each of the others there is then, for every metric, another one, such as
        ``"auc minus none"``: the difference at the same epoch, over the same targets and records.
    fprs : sequence of float
        Rates at which to report the TPR.
    n_models, queries, seed
        As in `mialab.play`.
    confidence : float
        Of the intervals over targets and records, see `mialab.metrics.Estimate`. Those of accuracies are over targets,
        see `mialab.metrics.over_targets`.

    Returns
    -------
    DataFrame
        Columns ``defense, epoch, attack, metric, value, low, high``, all targets pooled. Metrics are ``auc``,
        ``balanced_accuracy`` and the rates of every attack; and, with an empty ``attack``, ``train_accuracy`` and
        ``test_accuracy``. NaN where a rate is not resolvable.

    Raises
    ------
    ValueError
        If a parameter is wrong, before any training.
    RequirementsNotMet
        If an attack needs what such a game lacks (a ValueError too).
    """
    training = Training() if training is None else training
    arms = {"none": None} if defenses is None else dict(defenses)
    if not arms:
        raise ValueError("defenses is empty; it must name at least one, e.g. {'none': None}.")
    if training.stop is not None:
        raise ValueError(f"training has stop={training.stop} of its own: give it as stops=[{training.stop}].")
    if training.checkpoints:
        raise ValueError(
            f"training has checkpoints of its own: give them as stops={list(training.checkpoints)}."
        )
    epochs = sorted({*as_integers("stops", stops, low=1), training.epochs})
    if epochs[-1] > training.epochs:
        raise ValueError(f"stops={stops!r} must be at most epochs={training.epochs}.")
    if baseline is not None:
        choose("baseline", baseline, arms)
    rates.check_rates("fprs", fprs), rates.check_fraction("confidence", confidence)
    made = {label: _defenses.make(defense) for label, defense in arms.items()}
    chosen = _chosen(attacks, pool)
    wanted = ("auc", "balanced_accuracy", *(metrics.rate_name("tpr", f) for f in fprs))

    games: dict[tuple[str, int], Game] = {}
    how = dataclasses.replace(training, checkpoints=tuple(epochs[:-1]))
    for label, defense in made.items():
        game = play(pool, model, defense, training=how, n_models=n_models, queries=queries, seed=seed)
        games |= {(label, epoch): game.at(epoch) for epoch in epochs}
    rows: list[tuple] = []
    for (label, epoch), stopped in games.items():
        _progress.note(f"{label}, {epoch} of {training.epochs} epochs")
        rows += [(label, epoch, *row) for row in _rows(stopped, chosen, wanted, confidence)]
        if baseline not in (None, label):
            control = games[baseline, epoch]
            rows += [
                (label, epoch, attack, f"{metric} minus {baseline}", *ends)
                for attack, metric, *ends in _rows(stopped, chosen, wanted, confidence, minus=control)
            ]
    return pd.DataFrame(rows, columns=COLUMNS)


def across(
    settings: Mapping[str, Setting], defenses: Mapping[str, str | Defense | None], **options: Any
) -> pd.DataFrame:
    """Measure the same defenses on several data sets.

    Parameters
    ----------
    settings : dict of str to Setting
        From `mialab.chapters.settings.settings`: data set, network and training of each.
    defenses : dict of str to (str, Defense or None)
        Label to defense.
    **options
        As in `trajectory`.

    Returns
    -------
    DataFrame
        As from `trajectory`, with a first column ``dataset``.
    """
    frames = {
        name: trajectory(s.pool, s.model, defenses, training=s.training, **options)
        for name, s in settings.items()
    }
    return pd.concat(frames, names=["dataset"]).reset_index("dataset").reset_index(drop=True)


def same_accuracy(frame: pd.DataFrame, defense: str, control: str = "none") -> int:
    """Tell how long the control must be trained to be as accurate as the defense is in the end.

    Parameters
    ----------
    frame : DataFrame
        From `trajectory`.
    defense, control : str
        Labels in it.

    Returns
    -------
    int
        The first of the measured epochs at which the control's mean test accuracy is at least that of the defense after
        its last epoch. If there is none, the first with the control's highest.
    """
    choose("control", control, set(frame["defense"]))
    rows = select(frame, metric="test_accuracy").sort_values("epoch").set_index("epoch")
    own, other = (select(rows, defense=label)["value"] for label in (defense, control))
    enough = other.index[other >= own.iloc[-1]]
    return int(enough[0] if len(enough) else other.idxmax())


def worst(
    frame: pd.DataFrame, attack: str, metric: str, defense: str, *, n_pairs: int | None = None
) -> Interval:
    """Return the greatest value of a defense after the last epoch, over data sets.

    Its upper end is the greatest of all, so that what lies below a bound does so on every data set (an
    intersection-union test).

    Parameters
    ----------
    frame : DataFrame
        From `across`, of which the data set with the greatest value is taken; or from `trajectory`.
    attack, metric, defense : str
        Which figure.
    n_pairs : int, optional
        Pairs of complementary targets behind each value. One less are the degrees of freedom that p-values are made
        with; the frame does not say.
    """
    rows = at_the_end(frame, attack=attack, metric=metric, defense=defense)
    value, low, _ = rows.nlargest(1, "value")[["value", "low", "high"]].to_numpy(dtype=np.float64)[0]
    df = np.inf if n_pairs is None else max(n_pairs - 1, 1)
    return Interval(value, low, float(rows["high"].max()), df=df, n_pairs=n_pairs)


def at_the_end(frame: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    """Return the rows of `trajectory` or `across` after the last epoch with given values of some columns."""
    rows = select(frame, **wanted)
    last = rows.groupby("dataset")["epoch"].transform("max") if "dataset" in rows else rows["epoch"].max()
    return rows[rows["epoch"] == last]


def mixing_strength(
    defenses: Mapping[str, Defense | None], epochs: int, *, n_batches: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Return how strongly records are mixed in each epoch: the smaller one of the two fractions.

    Parameters
    ----------
    defenses : dict of str to (Defense or None)
        Label to defense; those that do not mix are left out.
    epochs : int
        Epochs of a training.
    n_batches : int
        Batches to draw where chance decides.
    seed : int
        Of the draws.

    Returns
    -------
    DataFrame
        As from `trajectory`, with the metric ``smaller_fraction``: its mean over batches in each epoch, and the range
        of the middle 90 % of them.
    """
    check_integer("epochs", epochs, low=1)
    check_integer("n_batches", n_batches, low=1)
    rows = []
    for label, defense in defenses.items():
        if isinstance(defense, AdaMixup):
            rng = Streams(seed, range(n_batches), "mixing strength")
            for epoch in range(epochs):
                fraction = np.asarray(defense.fraction(epoch / max(1, epochs - 1), rng), np.float64)
                smaller = np.minimum(fraction, 1 - fraction)
                ends = np.quantile(smaller, [0.05, 0.95])
                rows.append((label, epoch + 1, "", "smaller_fraction", smaller.mean(), *ends))
    return pd.DataFrame(rows, columns=COLUMNS)


def _rows(
    game: Game,
    attacks: Mapping[str, Attack | Outcome],
    wanted: Sequence[str],
    confidence: float,
    *,
    minus: Game | None = None,
) -> Iterator[tuple]:
    """Return attack, metric, value and ends of all figures of a game, or of their differences to another game."""
    figures = [(name, attack, metric) for name, attack in attacks.items() for metric in wanted]
    for name, attack, metric in (*figures, ("", None, "train_accuracy"), ("", None, "test_accuracy")):
        if minus is not None:
            found = difference((game, attack), (minus, attack), metric=metric, confidence=confidence)
        elif attack is not None:
            found = game.outcome(attack).interval(metric, confidence=confidence)
        elif metric == "test_accuracy":
            found = mean_test_accuracy(game, confidence)
        else:
            means = intervals.over_targets(game.train_accuracy, partner=game.partner, confidence=confidence)
            found = means.clip(0, 1)  # which a t interval does not know
        yield name, metric, *found
