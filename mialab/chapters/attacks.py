"""The chapter on attacks: which records they share, and what shadow models are worth to them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mialab import _progress, metrics
from mialab._validation import as_integers
from mialab.attacks.base import Attack
from mialab.auditing.taxonomy import _chosen, _on_single_records, applicable, needing_shadows, one_of_each
from mialab.classifiers.game import play
from mialab.games.base import Game
from mialab.metrics import rates
from mialab.metrics.outcomes import Outcome
from mialab.metrics.rates import rate_name

if TYPE_CHECKING:
    from mialab.data.pool import Pool
    from mialab.models import Model
    from mialab.queries import Queries
    from mialab.training.options import Training


def agreement(
    game: Game,
    attacks: Sequence[str | Attack] | None = None,
    *,
    fpr: float = 0.01,
    pool: Pool | None = None,
) -> pd.DataFrame:
    """Compare which members attacks catch, each at its threshold for the same false-positive rate.

    Caught are the (target, member) pairs above the attack's threshold, which is one for all targets: the least whose
    false-positive rate over all evaluated pairs is at most ``fpr`` (the step rule of `mialab.metrics`).

    Parameters
    ----------
    game : Game
    attacks : sequence of str or Attack, optional
        By default `one_of_each` of those that the game allows, without attacks on sets of records.
    fpr : float
        The false-positive rate.
    pool : Pool, optional
        As in `mialab.audit`.

    Returns
    -------
    DataFrame
        A row per attack. ``caught``: fraction of the members that it catches, its TPR. ``alone``: fraction of the
        members that it catches and no other does, among those that all attacks are evaluated on (NaN if there are
        none). Then a column for each attack with the Jaccard index, caught by both over caught by either, among the
        pairs that both are evaluated on; NaN where neither catches anyone. All is NaN for an attack that is evaluated
        on so few non-members that the rate is not resolvable.

    Raises
    ------
    ValueError
        If an attack is unknown, or the rate is not resolvable for any of them.
    RequirementsNotMet
        If an attack needs what the game lacks.
    """
    rates.check_rates("fpr", (fpr,))
    if attacks is None:
        attacks = _on_single_records(one_of_each(applicable(game, pool=pool)[0]))
    chosen = _chosen(attacks, pool)
    for attack in chosen.values():
        if isinstance(attack, Attack):
            attack.check(game)
    caught, seen, most = {}, {}, 0
    for name, attack in chosen.items():
        outcome = game.outcome(attack)
        n = int((outcome.evaluated & ~game.member).sum())
        most = max(most, n)
        if metrics.resolvable(n, fpr):
            caught[name] = _caught(outcome, game.member, fpr)
            seen[name] = outcome.evaluated & game.member
    if not caught:
        raise ValueError(
            f"fpr={fpr!r} allows {most * fpr:g} false alarms among {most} non-members, and must allow 10: take at "
            f"least fpr={10 / max(most, 10):.2g}, or more records or models."
        )
    by_all = np.logical_and.reduce(list(seen.values()))
    times = np.add.reduce([c.astype(np.int64) for c in caught.values()])
    table = pd.DataFrame(np.nan, pd.Index(chosen, name="attack"), ["caught", "alone", *chosen])
    for name, c in caught.items():
        table.loc[name, "caught"] = _fraction(c, seen[name])
        table.loc[name, "alone"] = _fraction(c & (times == 1) & by_all, by_all)
        table.loc[name, name] = 1.0 if c.any() else np.nan
    for a, b in combinations(caught, 2):
        both = seen[a] & seen[b]
        either = (caught[a] | caught[b]) & both
        table.loc[a, b] = table.loc[b, a] = _fraction(caught[a] & caught[b] & both, either)
    table.attrs = {"fpr": fpr}
    return table


def against_shadows(
    game: Game,
    attacks: Sequence[str | Attack] | None = None,
    shadows: Sequence[int] = (4, 8, 16, 32, 64),
    *,
    fprs: Sequence[float] = (0.01,),
    pool: Pool | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Measure attacks with few and with many shadow models, on the same targets throughout.

    The models are dealt, pair by pair, into blocks of ``n_shadows + 2``, and each is attacked within its block: there
    a target has ``n_shadows`` shadow models, half of them trained on each record. The last block is filled up with
    models from the front, which are no targets in it. So every model is a target once for every number.

    Parameters
    ----------
    game : Game
        Of models in pairs, from `mialab.play`.
    attacks : sequence of str or Attack, optional
        By default those of `needing_shadows`.
    shadows : sequence of int
        Numbers of shadow models: even, at most the models of the game less 2.
    fprs : sequence of float
        Rates at which to report the TPR.
    pool : Pool, optional
        As in `mialab.audit`.
    confidence : float
        Of the intervals over targets and records, see `mialab.metrics.Estimate`. For few shadow
        models they do not know that the targets of a block share them.

    Returns
    -------
    DataFrame
        Columns ``attack, n_shadows, metric, value, low, high``; NaN where a rate is not resolvable.

    Raises
    ------
    ValueError
        If a number of shadow models does not fit the game, or an attack is unknown.
    RequirementsNotMet
        If an attack needs more shadow models than the smallest number.
    """
    rates.check_rates("fprs", fprs)
    shadows = as_integers("shadows", shadows, low=2)
    if game.shadow.any() or (game.partner < 0).any():
        raise ValueError("against_shadows needs a game in which all models are targets and come in pairs.")
    for n in shadows:
        if n % 2 or n > game.n_models - 2:
            raise ValueError(
                f"shadows: {n} must be even, and at most {game.n_models - 2}: the game has {game.n_models} models, "
                "and a target and its partner are no shadow models."
            )
    if attacks is None:
        attacks = needing_shadows(game, pool=pool)
    chosen = _chosen(attacks, pool)
    blocks = {n: _blocks(game.partner, n + 2) for n in shadows}
    parts = {n: [_block(game, models) for models, _ in blocks[n]] for n in shadows}
    for able in (a for a in chosen.values() if isinstance(a, Attack)):
        for block in parts.values():
            able.check(block[0])

    rows = []
    with _progress.bar(
        len(chosen) * len(shadows), "attacking with few and with many shadow models"
    ) as advance:
        for name, attack in chosen.items():
            for n in shadows:
                score, evaluated = np.zeros(game.member.shape), np.zeros(game.member.shape, bool)
                for (models, targets), part in zip(blocks[n], parts[n], strict=True):
                    outcome = part.outcome(attack)
                    score[models[targets]] = outcome.score[targets]
                    evaluated[models[targets]] = outcome.evaluated[targets]
                together = Outcome(score, evaluated, score > 0, game.member, game.partner, name)
                for metric in ("auc", *(rate_name("tpr", f) for f in fprs)):
                    rows.append((name, n, metric, *together.interval(metric, confidence=confidence)))
                advance(1)
    return pd.DataFrame(rows, columns=["attack", "n_shadows", "metric", "value", "low", "high"])


def shifted(
    pool: Pool,
    model: str | Model = "mlp",
    *,
    other_model: str | Model | None = None,
    training: Training | None = None,
    n_targets: int = 8,
    n_shadows: int = 16,
    queries: str | Queries = "original",
    probes: Sequence = (),
    seed: int = 0,
) -> dict[str, Game]:
    """Play the same targets against shadow models that are made of other data, or in another way.

    The targets are trained on halves of one half of the pool, so that the other half is left for an attacker who has
    no record in common with them. In all games the shadow models are separate ones.

    Parameters
    ----------
    pool : Pool
        The records.
    model : str or callable
        The targets' network, and that of the shadow models but for ``"another network"``.
    other_model : str or callable, optional
        The network of these; without it that game is left out.
    n_targets, n_shadows : int
        Numbers of targets and of shadow models, even.
    training, queries, probes, seed
        As in `mialab.play`.

    Returns
    -------
    dict of str to Game
        ``"same data"``: shadow models of the targets' kind; ``"fewer members"``: trained on half as many of the same
        records; ``"disjoint records"``: trained on the other half of the pool; ``"another network"``.
    """
    quarter = len(pool) // 4
    if quarter < 2:
        raise ValueError(f"pool has {len(pool)} records; there must be at least 8, a quarter for each side.")
    mine = np.arange(2 * quarter)
    theirs = mine + 2 * quarter
    common: dict[str, Any] = {"training": training, "queries": queries, "probes": probes}
    targets = play(pool, model, candidates=mine, n_models=n_targets, seed=seed, **common)
    common |= {"n_models": n_shadows, "seed": seed + 1}
    shadows: dict[str, dict[str, Any]] = {
        "same data": {"candidates": mine},
        "fewer members": {"candidates": mine, "members": quarter // 2},
        "disjoint records": {"candidates": theirs},
        "another network": {"candidates": mine, "model": other_model},
    }
    if other_model is None:
        del shadows["another network"]
    return {
        label: targets.with_shadows(play(pool, **({"model": model} | how | common)))
        for label, how in shadows.items()
    }


def _fraction(part: np.ndarray, whole: np.ndarray) -> float:
    return float(part.sum() / whole.sum()) if whole.any() else np.nan


def _caught(outcome: Outcome, member: np.ndarray, fpr: float) -> np.ndarray:
    """Return the evaluated members that score above the threshold for a pooled false-positive rate."""
    outside = np.sort(outcome.score[outcome.evaluated & ~member])[::-1]
    allowed = int(fpr * outside.size * (1 + 1e-12))
    above = outside[allowed] if allowed < outside.size else -np.inf
    return outcome.evaluated & member & (outcome.score > above)


def _blocks(partner: np.ndarray, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Deal models, pair by pair, into blocks; of each, its models and which of these (positions) are targets."""
    first = np.flatnonzero(np.arange(len(partner)) < partner)
    models = np.stack([first, partner[first]], axis=1).ravel()
    blocks = []
    for start in range(0, len(models), size):
        part = models[start : start + size]
        filled = np.append(part, models[: size - part.size])
        blocks.append((filled, np.arange(part.size)))
    return blocks


def _block(game: Game, models: np.ndarray) -> Game:
    """Return the game of some models, of which none lacks its partner."""
    position = np.full(game.n_models, -1)
    position[models] = np.arange(models.size)
    dataset = game.dataset.isel(model=models)
    return type(game)(
        dataset.assign(partner=("model", position[game.partner[models]])).assign_attrs(n_models=models.size)
    )
