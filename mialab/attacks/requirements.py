"""What an attack needs of a game, and which (target, record) pairs have it."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Self

import numpy as np

from mialab._validation import choose
from mialab.attacks.shadows import lost
from mialab.exceptions import RequirementsNotMet
from mialab.games.base import Game
from mialab.queries import MAKERS

#: Modules of the kinds of models whose signals are known by name, imported when they are looked for.
VICTIMS = {"mialab.classifiers.game": "Game", "mialab.gan.game": "GeneratorGame"}


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """What an attack needs for its scores.

    Models are counted for each pair of a target and a record among those that the attacker may use: neither the target
    itself nor the model that is excluded with it (`Game.excluded_models`). A count over all models would tell of the
    target's membership.

    Parameters
    ----------
    victim : str
        What is attacked: ``"classifier"``, ``"generator"`` (see `mialab.gan`), or ``""`` for whatever it is.
    sees : str
        What the attacker sees of an answer: e.g. only the predicted ``"label"``, the ``"ranking"`` of the classes, or
        the ``"logits"``.
    logits : bool
        Whether the logits themselves are needed: signals, as games with ``keep="scores"`` have them, will not do.
    signal : str
        Name of the signal of the victim that is looked at, see `Game.signal`.
    shadows : {"none", "OUT", "IN and OUT", "any"}
        Shadow models for each record: trained without it; with it, and without it; or any, if it is enough that members
        and non-members of the shadow models are known.
    models : int
        Least number of other models of each of these kinds, for each pair.
    pooled : bool
        Whether a variance is shared by all records: of some record of a target there must be two models of each kind.
    known_half : int
        Least number of members and of non-members of each target where the attacker knows a random half of them; 0 if
        the score needs no known half.
    pool : bool
        Whether the features of the records are needed; the attack then has a parameter ``pool``.
    probe : str
        Name of the probe, see `mialab.probes`, whose measurements are needed.
    queries : int
        Least number of queries per record; mixed queries do not count.
    kinds : tuple of str
        Kinds of queries, see `mialab.queries`, of which any is needed; empty if their kind does not matter.
    budget : str
        Queries per record in words, where they are not those of the game, e.g. ``"about 200"``.
    """

    victim: str = "classifier"
    sees: str = "logits"
    logits: bool = False
    signal: str = ""
    shadows: str = "none"
    models: int = 1
    pooled: bool = False
    known_half: int = 0
    pool: bool = False
    probe: str = ""
    queries: int = 1
    kinds: tuple[str, ...] = ()
    budget: str = ""

    @classmethod
    def of_signal(cls, signal: str, **needs: Any) -> Self:
        """Return what an attack needs that looks at a signal of this name, as its victim has it."""
        for module, name in VICTIMS.items():
            game = getattr(import_module(module), name)
            if signal in game.signals:
                return cls(victim=game.victim, sees=game.signals[signal].sees, signal=signal, **needs)
        return cls(victim="", signal=signal, **needs)

    def check(self, game: Game, attack: str) -> None:
        """Refuse a game that lacks, for all of its records, what the attack of this name needs.

        Raises
        ------
        RequirementsNotMet
            Saying what is missing and how to get it.
        """
        if self.victim not in ("", game.victim) and self.signal not in game.signals:
            raise RequirementsNotMet(
                f"Attack {attack!r} is on {self.victim}s, but the models of this game are {game.victim}s: take one "
                f"of mialab.attacks.available({game.victim!r})."
            )
        if self.kinds and not set(self.kinds) & set(game.query_kinds):
            made = " or ".join(f"mialab.queries.{MAKERS[k]}" for k in self.kinds if k in MAKERS)
            raise RequirementsNotMet(
                f"Attack {attack!r} needs queries of the kind {' or '.join(map(repr, self.kinds))}; this game "
                f"has {', '.join(map(repr, dict.fromkeys(game.query_kinds)))}: play it with queries={made or '...'}; "
                "mialab.queries.Compose(...) combines several kinds."
            )
        if game.unmixed.size < self.queries:
            raise RequirementsNotMet(
                f"Attack {attack!r} needs at least {self.queries} queries per record; this game has "
                f"{game.unmixed.size}: play it with queries='augmented'."
            )
        if self.logits and "logits" not in game.dataset:
            raise RequirementsNotMet(
                f"Attack {attack!r} needs logits, and this game keeps scores alone: play it with keep='logits'."
            )
        if self.probe and self.probe not in game.probes:
            raise RequirementsNotMet(
                f"Attack {attack!r} needs what is measured while the models are at hand: play the game with "
                f"probes=[{self.probe!r}]."
            )
        if self.signal:
            choose("signal", self.signal, game.signals)
            if missing := game.signals[self.signal].missing(game.dataset):
                raise RequirementsNotMet(f"Attack {attack!r} needs the signal {self.signal!r}. {missing}")
        if self.known_half:
            members = game.member[~game.shadow].sum(1)
            fewest = np.minimum(members, game.n_records - members).min()
            if fewest < self.known_half:
                raise RequirementsNotMet(
                    f"Attack {attack!r} learns from a half of each target's members and non-members, and needs at "
                    f"least {self.known_half} of each; here some target has only {fewest}: play the game with more "
                    "records."
                )

    def scorable(self, game: Game, attack: str) -> np.ndarray:
        """Tell which pairs have enough shadow models, bool (target, record); none of a target that is none.

        Where half of the models were trained on each record on which any were, the others are left out: records that
        all models have in common, or none has, tell nothing of a target's membership.

        Raises
        ------
        RequirementsNotMet
            If no pair has.
        """
        mask = self.enough(game) & ~game.shadow[:, None]
        if self.shadows != "none":
            if game.shadow.any():
                mask &= game.candidate
            elif (2 * game.member.sum(0) == game.n_models)[game.varied].all():
                mask &= game.varied
        if not mask.any():
            raise RequirementsNotMet(self._too_few(game, attack))
        return mask

    def enough(self, game: Game) -> np.ndarray:
        """Tell for which pairs there are enough shadow models, bool (model, record)."""
        if self.shadows == "none":
            return np.ones_like(game.member)
        kinds = (False,) if self.shadows == "OUT" else (True, False)
        counts = [_other_models(game, kind) for kind in kinds]
        enough = np.logical_and.reduce([count >= self.models for count in counts])
        if self.pooled:
            enough &= np.logical_and.reduce([(n >= 2).any(1, keepdims=True) for n in counts])
        if self.shadows == "any":
            enough = np.repeat(enough.any(1, keepdims=True), game.n_records, axis=1)
        return enough

    def _too_few(self, game: Game, attack: str) -> str:
        least = max(self.models, 1 + self.pooled)
        models = f"at least {least} shadow model{'s' * (least > 1)} trained"
        needed = f"{models} without a record"
        if self.shadows != "OUT":
            needed = f"{models} with a record and {least} without it"
        message = (
            f"Attack {attack!r} needs {needed}, besides the target and the model that is excluded with it, and no "
            "record that a target may have been trained on has so many here"
        )
        if not game.shadow.any():
            if not game.varied.any():
                message += ": every record is a member of all models or of none"
            return f"{message}. Play the game with n_models of at least {2 * least + 2}."
        if self.shadows != "OUT" and (_other_models(game, False)[~game.shadow] >= 2).any():
            offline = {"classifier": "lira_offline", "generator": "critic_lira_offline"}.get(game.victim)
            message += (
                f". Take attacks that need OUT models alone, such as {offline!r}, or other shadow models"
            )
        return f"{message}: give more shadow models that were trained on these records."


def _other_models(game: Game, inside: bool) -> np.ndarray:
    """Count for each pair the shadow models that were, or were not, trained on the record, (target, record)."""
    side = (game.member == inside).astype(np.float64)
    if game.shadow.any():
        return np.broadcast_to(side[game.shadow].sum(0), side.shape)
    return side.sum(0) - lost(side, game.excluded_models)
