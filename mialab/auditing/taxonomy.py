"""Kinds of attackers, and which attacks a game allows."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mialab import attacks as _attacks
from mialab.attacks.base import Attack
from mialab.attacks.groups import GroupAttack
from mialab.exceptions import RequirementsNotMet
from mialab.games.base import Game
from mialab.metrics.outcomes import Outcome

if TYPE_CHECKING:
    from mialab.data.pool import Pool


#: What stands for an attack wherever one is taken, see `Game.outcome`.
Attacking = str | Attack | Outcome | Callable[[Game], np.ndarray]


#: What attackers see and have, from little to much.
FAMILIES = (
    "label or ranking only",
    "one answer, one threshold",
    "known half of the target's records",
    "learned from shadow models",
    "OUT shadow models",
    "IN and OUT shadow models",
    "more than answers",
    "samples",
    "the generator",
    "the critic",
    "critics of reference models",
    "sets of records",
    "other",
)


def families(attacks: Iterable[str | Attack | Outcome] | None = None) -> dict[str, list[str]]:
    """Group attacks by what they see of the target and what they have besides.

    Parameters
    ----------
    attacks : iterable of str, Attack or Outcome, optional
        All that are registered by default.

    Returns
    -------
    dict of str to list of str
        What the attacker has, from little to much, to names of attacks in the order given. A name unknown to the
        package is among ``"other"``.
    """
    names = _attacks.available().index if attacks is None else attacks
    found: dict[str, list[str]] = {family: [] for family in FAMILIES}
    for attack in names:
        name = attack.attack if isinstance(attack, Outcome) else getattr(attack, "name", attack)
        found[family(attack)].append(str(name))
    return {family: members for family, members in found.items() if members}


def family(attack: str | Attack | Outcome) -> str:
    """Return the group of an attack, see `families`."""
    made = _made(attack)
    if made is None:
        return "other"
    needs = made.needs
    if isinstance(made, GroupAttack):
        return "sets of records"
    if needs.victim == "generator":
        critic = "the critic" if needs.shadows == "none" else "critics of reference models"
        return {"samples": "samples", "critic": critic}.get(needs.sees, "the generator")
    if needs.sees != "logits":
        return "label or ranking only" if needs.sees in ("label", "ranking") else "more than answers"
    if needs.known_half:
        return "known half of the target's records"
    kinds = {"none": "one answer, one threshold", "any": "learned from shadow models"}
    return kinds.get(needs.shadows, f"{needs.shadows} shadow models")


#: What an attacker gets to see, by what attacks say that they see.
THREAT_MODELS = {
    "label": "labels only",
    "ranking": "labels only",
    "logits": "scores",
    "samples": "samples",
    "gradients": "white box",
    "generator": "white box",
    "critic": "white box",
}


#: What is found by attackers who ask about several records at a time, all members or none.
SETS = "sets of records"

#: Kinds of attackers by what they see, from little to much.
KINDS = ("labels only", "scores", "samples", "white box", SETS, "other")


#: Whose attacks each kind of attacker can run: who sees more sees what the others do.
INCLUDES = {
    "labels only": ("labels only",),
    "scores": ("labels only", "scores"),
    "samples": ("samples",),
    "white box": ("labels only", "scores", "samples", "white box"),
    SETS: (SETS,),  # another question: sets of several are easier to tell than records
    "other": ("other",),
}


def threat_model(attack: str | Attack | Outcome) -> str:
    """Return what an attacker gets to see: "labels only", "scores", "samples" or "white box"; "other" if unknown.

    Attackers who ask about several records at a time, all members or none, are apart: "sets of records".
    """
    made = _made(attack)
    if isinstance(made, GroupAttack) and getattr(made, "size", 2) > 1:
        return SETS
    return "other" if made is None else THREAT_MODELS.get(made.needs.sees, "other")


#: Parts of the names of attacks, as they are written for readers.
WORDS = {
    "lira": "LiRA",
    "rmia": "RMIA",
    "attack p": "Attack P",
    "attack r": "Attack R",
    "nasr": "Nasr et al.",
    "shokri": "Shokri et al.",
    "pooled": "pooled variance",
}


def in_words(name: str) -> str:
    """Return the name of an attack as it is written for readers, e.g. "LiRA offline, pooled variance"."""
    plain = name.removesuffix("_known_half")
    if of_sets := re.fullmatch(r"co_membership_(.+)_(\d+)", plain):
        return f"{in_words(of_sets[1])} on sets of {of_sets[2]} records"
    words = plain.removesuffix("_per_class").replace("_", " ")
    for part, written in WORDS.items():
        words = re.sub(rf"\b{part}\b", written, words)
    words = re.sub(r" (pooled variance|sorted|one model|augmented|offline|density|hinge)", r", \1", words)
    return words + ", per class" * plain.endswith("_per_class") + ", half known" * (plain != name)


def _made(attack: str | Attack | Outcome) -> Attack | None:
    """Return the attack that is meant, by its name in tables; None of scores that were computed elsewhere."""
    try:
        return _attacks.make(attack.attack if isinstance(attack, Outcome) else attack)
    except ValueError:
        return None


def one_of_each(attacks: Iterable[str | Attack] | None = None) -> list[str | Attack]:
    """Choose one attack of each kind, for figures that could not show all variants.

    Parameters
    ----------
    attacks : iterable of str or Attack, optional
        All that are registered by default.

    Returns
    -------
    list of str or Attack
        Of the attacks of the same class in the same group (`families`), the one with the most default parameters,
        in the order of the groups.
    """
    names = _attacks.available().index if attacks is None else attacks
    best: dict[tuple[str, type], tuple[int, str | Attack]] = {}
    for name in names:
        attack = _attacks.make(name)
        changed = sum(
            getattr(attack, field.name) != field.default
            for field in dataclasses.fields(attack)
            if field.name not in ("pool", "calibrate")
        )
        key = family(attack), type(attack)
        if key not in best or changed < best[key][0]:
            best[key] = changed, name
    return [best[key][1] for key in sorted(best, key=lambda key: FAMILIES.index(key[0]))]


def needing_shadows(game: Game, *, pool: Pool | None = None) -> list[str | Attack]:
    """Choose attacks for figures on shadow models.

    Parameters
    ----------
    game : Game
    pool : Pool, optional
        As in `applicable`.

    Returns
    -------
    list of str or Attack
        `one_of_each` of those that the game allows and that need shadow models for their score, without attacks on
        sets of records; and first ``"loss"``, which needs none, to compare with.
    """
    able = [attack for attack in applicable(game, pool=pool)[0] if attack.needs.shadows != "none"]
    return ["loss", *_on_single_records(one_of_each(able))]


def applicable(
    game: Game, attacks: Sequence[str | Attack] | None = None, *, pool: Pool | None = None
) -> tuple[list[Attack], pd.DataFrame]:
    """Tell which attacks a game allows.

    Parameters
    ----------
    game : Game
    attacks : sequence of str or Attack, optional
        All that are registered by default.
    pool : Pool, optional
        The records that were played with, for attacks that look at them.

    Returns
    -------
    attacks : list of Attack
        Those that this game allows, ready to run.
    refused : DataFrame
        The others: columns ``attack`` and ``reason``.

    Raises
    ------
    ValueError
        If an attack is unknown or named twice.
    """
    able, refused = [], []
    for attack in _all(attacks, pool, game.victim):
        try:
            _check_pool(attack)
            attack.check(game)
            able.append(attack)
        except RequirementsNotMet as error:
            refused.append((attack.name, str(error)))
    return able, pd.DataFrame(refused, columns=["attack", "reason"])


def _all(
    attacks: Sequence[str | Attack] | None, pool: Pool | None, victim: str = "classifier"
) -> list[Attack]:
    names = list(_attacks.available(victim).index) if attacks is None else attacks
    return [attack for attack in _chosen(names, pool).values() if isinstance(attack, Attack)]


def _check_pool(attack: Attack) -> None:
    if attack.needs.pool and getattr(attack, "pool", None) is None:
        raise RequirementsNotMet(f"Attack {attack.name!r} looks at the records: pass pool=.")


def _chosen(attacks: Sequence[Attacking], pool: Pool | None = None) -> dict[str, Attack | Outcome]:
    if isinstance(attacks, str) or not isinstance(attacks, Sequence) or not attacks:
        raise ValueError(f"attacks={attacks!r} must be a list of attacks, e.g. ['loss', 'lira'].")
    chosen: dict[str, Attack | Outcome] = {}
    for given in attacks:
        attack = given if isinstance(given, Outcome) else _attacks.make(given, pool)
        name = attack.attack if isinstance(attack, Outcome) else attack.name
        if name in chosen:
            raise ValueError(f"attacks: {name!r} is there twice; each must be named once.")
        chosen[name] = attack
    return chosen


def _on_single_records(attacks: list[str | Attack]) -> list[str | Attack]:
    return [attack for attack in attacks if family(attack) != "sets of records"]
