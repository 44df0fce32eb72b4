"""What an attack is: what it needs, what it says, and in which steps it is run."""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from mialab._validation import choose
from mialab.attacks.requirements import Requirements
from mialab.attacks.thresholds import known_half, known_half_thresholds, shadow_thresholds
from mialab.data.pool import Pool
from mialab.exceptions import RequirementsNotMet
from mialab.games.base import Game
from mialab.metrics.outcomes import Outcome


class Scored(NamedTuple):
    """What an attack says about (target, record) pairs; see `mialab.metrics.Outcome`."""

    score: np.ndarray
    evaluated: np.ndarray
    predicted_member: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Base class of every attack: subclasses say what they need and compute `scores`.

    Subclasses have these parameters too, and describe them where they are special.

    Parameters
    ----------
    per_class : bool
        Whether the threshold is chosen for each class on its own (Song and Mittal, 2021). Scores are then distances
        from the threshold of the record's class.
    calibrate : {"shadows", "known_half", "ratio", "level"}, optional
        Where the threshold comes from: the shadow models, whose members the attacker knows; a random half of the
        target's own members and non-members, which are then left out of the evaluation; for scores that are log
        likelihood ratios, the ratio 1; or, for scores that are compared with those of non-members, the false-positive
        rate that the attacker allows. By default the first of what the attack offers (`calibrations`).
    """

    #: What the score, not just its threshold, needs.
    needs: ClassVar[Requirements] = Requirements()
    #: Paper and equation.
    source: ClassVar[str] = ""

    #: Kinds of thresholds the attack offers, the default first. Scores that were learned from shadow models have no
    #: threshold from shadow models: their scores would need shadow models of their own, without the target.
    calibrations: ClassVar[tuple[str, ...]] = ("shadows", "known_half")
    #: Threshold of scores that have one of their own ("ratio" and "level").
    own_threshold: ClassVar[float] = 0.0
    #: Why there are no thresholds for each class, if so; and whether the scores' own threshold is one for each class.
    no_per_class: ClassVar[str] = ""
    own_per_class: ClassVar[bool] = False

    per_class: bool = False
    calibrate: str | None = None

    def __post_init__(self) -> None:
        if self.calibrate is None:
            object.__setattr__(self, "calibrate", self.calibrations[0])
        pool = getattr(self, "pool", None)
        if pool is not None and not isinstance(pool, Pool):
            raise TypeError(f"pool={pool!r} must be a Pool, e.g. mialab.load('digits').")
        choose("calibrate", self.calibrate, self.calibrations)
        if self.per_class and self.no_per_class:
            raise ValueError(f"per_class=True has no use here: {self.no_per_class}.")
        if self.per_class and self.calibrate in ("ratio", "level") and not self.own_per_class:
            raise ValueError(
                "per_class=True needs thresholds that are calibrated: give calibrate='known_half'."
            )

    @property
    def name(self) -> str:
        """Name in tables and figures."""
        known_half = self.calibrate == "known_half"
        return self.base_name + "_per_class" * self.per_class + "_known_half" * known_half

    @property
    @abstractmethod
    def base_name(self) -> str:
        """Name of the score, without the kind of threshold."""

    @abstractmethod
    def scores(self, game: Game) -> np.ndarray:
        """Return the scores of all records against each model as target, float64 (model, record)."""

    def check(self, game: Game) -> None:
        """Refuse a game that lacks what this attack needs (RequirementsNotMet); see `scorable`."""
        self.scorable(game)

    def scorable(self, game: Game) -> np.ndarray:
        """Tell which (target, record) pairs can be scored, bool (model, record).

        Raises
        ------
        RequirementsNotMet
            If none can, saying what is missing and how to get it.
        """
        self.needs.check(game, self.name)
        if self.needs.pool:
            self.check_pool(game)
        scorable = self.needs.scorable(game, self.name) & self.usable(game)
        if not scorable.any():
            raise RequirementsNotMet(
                f"Attack {self.name!r}: the probe {game.signals[self.needs.signal].array.probe!r} queried no record of "
                "this game that could be scored: give the probe more records."
            )
        if self.calibrate == "shadows" and game.n_models < 2 + (game.excluded_models >= 0).any():
            raise RequirementsNotMet(
                f"Attack {self.name!r} chooses its threshold on shadow models, and this game has none: "
                "give the attack calibrate='known_half', or play with more models."
            )
        return scorable

    def usable(self, game: Game) -> np.ndarray:
        """Tell of which records there is what is looked at, bool (record,): a probe may have left some out."""
        signal = self.needs.signal
        if not signal or not game.signals[signal].array.allows_nan:
            return np.ones(game.n_records, bool)
        return ~np.isnan(game.signal(signal)).any((0, 1))

    def check_pool(self, game: Game) -> None:
        """Refuse a pool that is not there or is not that of the game."""
        pool: Pool | None = getattr(self, "pool", None)
        if pool is None:
            raise RequirementsNotMet(
                f"Attack {self.name!r} needs the features of the records, which a game does not hold: "
                f"give it the game's pool, {type(self).__name__}(pool=pool)."
            )
        fingerprint, shape = game.attrs.get("fingerprint"), list(pool.x.shape[1:])
        if (
            len(pool) != game.n_records
            or (pool.y != game.y)[~game.canary].any()
            or shape != list(game.attrs.get("shape", shape))
            or (fingerprint and fingerprint != pool.fingerprint)
        ):
            raise RequirementsNotMet(
                f"Attack {self.name!r}: {pool!r} is not the pool of {game!r}. Give the one it was played with."
            )

    def run(self, game: Game) -> Outcome:
        """Attack every model of a game in turn; `Game.outcome` does so once, and keeps what was found.

        Pairs that cannot be scored are not evaluated, see `scorable`; `Outcome.n_excluded` counts them.

        Parameters
        ----------
        game : Game
            The game.

        Returns
        -------
        Outcome
        """
        began = time.perf_counter()
        scorable = self.scorable(game)
        score, evaluated, predicted_member = self.found(game, scorable)
        return Outcome(
            score,
            evaluated & scorable & game.candidate,
            predicted_member,
            member=game.member,
            partner=game.partner,
            attack=self.name,
            description=repr(self),
            n_excluded=int((~scorable & game.candidate)[~game.shadow].sum()),
            seconds=time.perf_counter() - began,
        )

    def found(self, game: Game, scorable: np.ndarray) -> Scored:
        """Attack every target; records of which no pair can be scored are left out."""
        if game.shadow.any():
            return self._with_separate_shadows(game, scorable)
        seen = np.asarray(scorable.any(0))
        if seen.all():
            return self.of_targets(game, scorable)
        return _spread(self.of_targets(game.of_records(seen), scorable[:, seen]), seen)

    def _with_separate_shadows(self, game: Game, scorable: np.ndarray) -> Scored:
        """Attack each target with the separate shadow models alone; no target helps against another one."""
        whole = Scored(*(np.zeros(game.member.shape, type_) for type_ in (np.float64, bool, bool)))
        seen = self.usable(game)
        # The other records show the attacker members and non-members of its shadow models.
        if (self.knows_half or self.needs.shadows == "IN and OUT") and not self.needs.pool:
            seen &= scorable.any(0) & game.candidate
        alone = self.needs.shadows == "none" and self.calibrate != "shadows"
        for k in np.flatnonzero(scorable.any(1)):
            part = game.against(int(k), alone=alone).of_records(seen)
            found = _spread(self.of_targets(part, self.needs.enough(part)), seen)
            for array, own in zip(whole, found, strict=True):
                array[k] = own[0]
        return whole

    @property
    def knows_half(self) -> bool:
        """Whether the attacker knows a half of each target's members and non-members."""
        return bool(self.needs.known_half) or self.calibrate == "known_half"

    def of_targets(self, game: Game, scorable: np.ndarray) -> Scored:
        """Score the records of a game against each model, and choose thresholds by the pairs that can be scored."""
        score = np.asarray(self.scores(game), dtype=np.float64)
        if score.shape != game.member.shape:
            raise ValueError(
                f"Attack {self.name!r} gave scores of shape {score.shape}; they must be (model, record), here "
                f"{game.member.shape}."
            )
        score = np.where(scorable, score, 0)
        check_finite(score, self.name)
        groups = game.y if self.per_class else np.zeros_like(game.y)
        evaluated = ~known_half(game.member) if self.knows_half else np.ones_like(game.member)
        if self.calibrate in ("ratio", "level"):
            threshold = np.full_like(score, self.own_threshold)
        elif self.calibrate == "shadows":
            threshold = shadow_thresholds(score, game.member, game.excluded_models, groups, scorable)
        else:
            threshold = known_half_thresholds(score, game.member, scorable & ~evaluated, groups)
        margin = score - threshold
        return Scored(margin if self.per_class else score, evaluated, margin >= 0)


def check_finite(score: np.ndarray, attack: str) -> None:
    """Refuse scores that are no finite numbers (FloatingPointError)."""
    if not np.isfinite(score).all():
        raise FloatingPointError(f"Attack {attack!r} gave {np.sum(~np.isfinite(score))} non-finite scores.")


def _spread(found: Scored, records: np.ndarray) -> Scored:
    """Return what was found on some records of a game for all of them; the others are not evaluated."""
    shape = (len(found.score), records.size)
    spread = Scored(np.zeros(shape), np.zeros(shape, bool), np.zeros(shape, bool))
    for whole, part in zip(spread, found, strict=True):
        whole[:, records] = part
    return spread
