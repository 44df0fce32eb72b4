"""Epsilon from below, by an attack on a game."""

from __future__ import annotations

from typing import Any

from mialab import attacks as _attacks
from mialab.attacks.groups import GroupAttack
from mialab.attacks.registry import Function
from mialab.auditing.taxonomy import Attacking
from mialab.data.pool import Pool
from mialab.games.base import Game
from mialab.metrics import EpsilonBound, Outcome, epsilon_of


def epsilon_bound(game: Game, attack: Attacking, pool: Pool | None = None, **options: Any) -> EpsilonBound:
    """Bound epsilon from below by an attack on a game, matching records as memberships were drawn.

    Canaries are matched with canaries. Guesses may be summed over targets (``target="sum"``) if the attack looks at no
    other model, or in games with shadow models of their own.

    Parameters
    ----------
    game : Game
        The game.
    attack : str, Attack, callable or Outcome
        The attack, see `mialab.audit`. Of functions and of outcomes it is not known which models they looked at.
    pool : Pool, optional
        The records that were played with, for attacks that look at them.
    **options
        ``target``, ``delta``, ``confidence``, ``method``, ``threshold``, ``guesses``, ``seed``, see
        `mialab.metrics.epsilon_of`.

    Returns
    -------
    EpsilonBound

    Raises
    ------
    ValueError
        If the bound would not be valid, see `mialab.metrics.epsilon_of`; also for attacks on sets of records, which
        know of records with the same membership.
    """
    shared = not game.shadow.any()
    if not isinstance(attack, Outcome):
        attack = _attacks.make(attack, pool)
        if isinstance(attack, GroupAttack):
            raise ValueError(
                f"attack={attack.name!r} knows sets of records with the same membership, so it bounds no epsilon of "
                "single records: take an attack on single records."
            )
        shared &= isinstance(attack, Function) or attack.needs.shadows != "none"
    outcome = game.outcome(attack, pool)
    return epsilon_of(outcome, groups=game.canary, shared_shadows=shared, **options)
