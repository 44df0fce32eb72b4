"""Attacks by name."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mialab._validation import choose
from mialab.attacks.base import Attack
from mialab.attacks.requirements import Requirements
from mialab.data.pool import Pool
from mialab.games.base import Game


@dataclass(frozen=True, kw_only=True)
class Function(Attack):
    """A plain function as an attack.

    Parameters
    ----------
    function : callable
        From a game to scores, float (model, record), higher = member.
    """

    source: ClassVar[str] = "a function"
    needs: ClassVar[Requirements] = Requirements(victim="")

    function: Callable[[Game], ArrayLike]

    @property
    def base_name(self) -> str:
        """Name of the function."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def scores(self, game: Game) -> np.ndarray:
        """Return what the function returns, (model, record)."""
        given = self.function(game)
        try:
            return np.asarray(given, np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"Attack {self.name!r} gave a {type(given).__name__} that is no array of numbers; it must be of "
                f"shape (model, record), here {game.member.shape}."
            ) from error


#: Attacks by name; those of other victims are registered when their modules are imported.
ATTACKS: dict[str, Attack] = {}
MODULES = ("mialab.attacks", "mialab.gan.attacks")


def register(*attacks: Attack) -> None:
    """Make attacks known by their names."""
    ATTACKS.update((attack.name, attack) for attack in attacks)


def make(attack: str | Attack | Callable[[Game], ArrayLike], pool: Pool | None = None) -> Attack:
    """Return an attack by its name, or of a function; an instance is returned as it is.

    Parameters
    ----------
    attack : str, Attack or callable
        A name of `available`, also followed by ``_per_class`` and ``_known_half`` for these thresholds, as tables
        print them; an attack; or a function from a game to scores, float (model, record), higher = member.
    pool : Pool, optional
        For attacks that look at the records and have no pool yet.

    Raises
    ------
    ValueError
        If the name is unknown.
    TypeError
        If it is none of these.
    """
    if isinstance(attack, str):
        attack = _by_name(attack)
    elif not isinstance(attack, Attack):
        if not callable(attack) or isinstance(attack, type):
            raise TypeError(
                f"attack={attack!r} must be a name of mialab.attacks.available(), an attack, or a function from a "
                "game to scores."
            )
        attack = Function(function=attack)
    if pool is not None and attack.needs.pool and getattr(attack, "pool", None) is None:
        changed: Any = {"pool": pool}  # a field of every attack that needs it
        attack = dataclasses.replace(attack, **changed)
    return attack


#: What names of attacks may end in, and the parameters that this stands for.
ENDINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("", {}),
    ("_known_half", {"calibrate": "known_half"}),
    ("_per_class", {"per_class": True}),
)


def _by_name(name: str) -> Attack:
    stem, changes = name, dict[str, Any]()
    for ending, change in ENDINGS:
        if stem.endswith(ending):
            stem, changes = stem.removesuffix(ending), changes | change
            for module in MODULES:
                if stem not in ATTACKS:
                    import_module(module)
            if stem in ATTACKS:
                return dataclasses.replace(ATTACKS[stem], **changes)
    return ATTACKS[choose("attack", name, ATTACKS)]


def _needed(for_score: object, for_threshold: bool = False) -> str:
    return "for the score" if for_score else "for the threshold" if for_threshold else "none"


def available(victim: str = "classifier") -> pd.DataFrame:
    """Return all attacks with what each needs: a row per attack, from the attacks' own statements.

    Parameters
    ----------
    victim : {"classifier", "generator"}
        What is attacked.

    Returns
    -------
    DataFrame
        ``sees``: what the attacker sees of the model; ``shadow models``: of which kind, for the score, or only for
        the threshold; ``known half``: of the target's own members and non-members; ``features``: whether the records'
        features are looked at; ``logits``: whether signals alone (``keep="scores"``) will not do; ``probe``: what must
        have been measured while the models were at hand; ``threshold``: how it can be chosen, the default first;
        ``queries`` per record; ``source``.
    """
    rows = []
    choose("victim", victim, ("classifier", "generator"))
    for module in MODULES:
        import_module(module)
    for name, attack in sorted(ATTACKS.items()):
        needs, how = attack.needs, attack.calibrations
        if needs.victim != victim:
            continue
        shadows = {"none": _needed(False, "shadows" in how), "any": "any, for the score"}
        copies = f"1+ {' or '.join(needs.kinds)}" * bool(needs.kinds)
        rows.append(
            {
                "attack": name,
                "sees": needs.sees,
                "shadow models": shadows.get(needs.shadows, needs.shadows),
                "known half": _needed(needs.known_half, how == ("known_half",)),
                "features": _needed(needs.pool),
                "logits": _needed(needs.logits),
                "probe": needs.probe or "none",
                "threshold": " or ".join(how).replace("_", " "),
                "queries": copies or needs.budget or f"{needs.queries}" + "+" * (needs.queries > 1),
                "source": attack.source,
            }
        )
    return pd.DataFrame(rows).set_index("attack")
