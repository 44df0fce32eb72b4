"""What an attack is: what it needs, what it says, and how the attacker picks a threshold."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mialab._validation import choose
from mialab.attacks.requirements import Requirements
from mialab.data.pool import Pool
from mialab.exceptions import RequirementsNotMet
from mialab.metrics.outcomes import Outcome
from mialab.training.streams import generator

if TYPE_CHECKING:
    from mialab.games.base import Game


class Scored(NamedTuple):
    """What an attack says about (target, record) pairs; see `mialab.metrics.Outcome`."""

    score: np.ndarray
    evaluated: np.ndarray
    predicted_member: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Base class of every attack: subclasses say what they need and compute `scores`.

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

    per_class: bool = False
    calibrate: str | None = None

    def __post_init__(self) -> None:
        if self.calibrate is None:
            object.__setattr__(self, "calibrate", self.calibrations[0])
        pool = getattr(self, "pool", None)
        if pool is not None and not isinstance(pool, Pool):
            raise TypeError(f"pool={pool!r} must be a Pool, e.g. mialab.load('digits').")
        choose("calibrate", self.calibrate, self.calibrations)
        if self.per_class and self.calibrate == "ratio":
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
                f"Attack {self.name!r}: the probe {self.needs.probe!r} queried no record of this game that could be "
                "scored: give the probe more records."
            )
        if self.calibrate == "shadows" and game.n_models < 2 + (game.excluded_models >= 0).any():
            raise RequirementsNotMet(
                f"Attack {self.name!r} chooses its threshold on shadow models, and this game has none: "
                "give the attack calibrate='known_half', or play with more models."
            )
        return scorable

    def usable(self, game: Game) -> np.ndarray:
        """Tell of which records there is what is looked at, bool (record,), such as those that a probe queried."""
        return np.ones(game.n_records, bool)

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


def known_half(member: np.ndarray, seed: int = 0) -> np.ndarray:
    """Draw a random half of each target's members and of its non-members, bool (model, record)."""
    known = np.zeros_like(member)
    for k, row in enumerate(member):
        rng = generator(seed, "known half", k)
        for side in (np.flatnonzero(row), np.flatnonzero(~row)):
            known[k, rng.permutation(side)[: side.size // 2]] = True
    return known


def best_threshold(score: np.ndarray, member: np.ndarray, without: Iterable[np.ndarray]) -> np.ndarray:
    """Thresholds of the greatest balanced accuracy on the same scores, each without some of them.

    The scores are sorted once; then every threshold costs one pass over counts.

    Parameters
    ----------
    score : numpy.ndarray, shape (n,)
        Scores, higher = member.
    member : numpy.ndarray of bool, shape (n,)
        The truth.
    without : iterable of numpy.ndarray of int
        For each threshold the indices of the scores that do not count.

    Returns
    -------
    numpy.ndarray, shape (thresholds,)
        Half-way between two neighboring scores; a record is called a member from the threshold on. Where nothing
        separates better than calling all records the same, the least score of all, or just above the greatest one.
    """
    n = len(score)
    order = np.argsort(-score)
    score, member = score[order], member[order]
    position = np.empty(n, dtype=np.int64)
    position[order] = np.arange(n)
    members = np.cumsum(member, dtype=np.int64)
    # Cut c is below score c. Equal scores cannot be told apart, and below the last one nothing is gained.
    no_cut = np.append(score[:-1] == score[1:], True)
    least = np.iinfo(np.int64).min // 2
    counts, gain = None, members
    thresholds: list[np.ndarray] = []
    out: np.ndarray | None = None
    for indices in without:
        before, out = out, np.sort(position[indices])
        if before is not None and np.array_equal(before, out):  # the targets are partners
            thresholds.append(thresholds[-1])
            continue
        members_out = np.append(0, np.cumsum(member[out]))  # among the first j that are left out
        n_member = int(members[-1] - members_out[-1])
        n_other = n - out.size - n_member
        if counts != (n_member, n_other):
            counts = n_member, n_other
            # (TPR - FPR) n_member n_other at each cut, but for what is left out above it; in integers, ties are exact.
            gain = members * (n_member + n_other) - np.arange(1, n + 1) * n_member
            gain[no_cut] = least
        # From one score that is left out to the next, all cuts lack the same: the best of each stretch compete.
        starts, ends = np.append(0, out), np.append(out, n)
        best = np.maximum.reduceat(gain, starts)
        best -= members_out * (n_member + n_other) - np.arange(starts.size) * n_member
        best[starts == ends] = least
        j = int(best.argmax())
        if best[j] <= 0 or not n_member or not n_other:
            # Nothing is gained by a cut: the better guess is the more frequent side, and on a tie "non-member".
            thresholds.append(score[-1] if n_member > n_other else np.nextafter(score[0], np.inf))
            continue
        cut = starts[j] + int(gain[starts[j] : ends[j]].argmax())
        above, below, i = cut, cut + 1, j
        while i > 0 and out[i - 1] == above:
            above, i = above - 1, i - 1
        while j < out.size and out[j] == below:
            below, j = below + 1, j + 1
        low, high = score[below], score[above]
        thresholds.append(max(low + (high - low) / 2, np.nextafter(low, high)))
    return np.array(thresholds)


def _excluded_cells(excluded_models: np.ndarray) -> Iterator[np.ndarray]:
    """For each target the flat indices of the scores that are its own or of the model left out with it."""
    records = np.arange(excluded_models.shape[1])
    for k, models in enumerate(excluded_models):
        other = models * records.size + records
        yield np.append(k * records.size + records, other[models >= 0])


def shadow_thresholds(
    score: np.ndarray,
    member: np.ndarray,
    excluded_models: np.ndarray,
    groups: np.ndarray,
    scorable: np.ndarray | None = None,
) -> np.ndarray:
    """Thresholds for each target from its shadow models' scores, one per group of records.

    Parameters
    ----------
    score, member : numpy.ndarray, shape (model, record)
        Scores and truth of every model.
    excluded_models : numpy.ndarray of int, shape (target, record)
        The model that is no shadow besides the target itself, -1 for none; see `Game.excluded_models`.
    groups : numpy.ndarray of int, shape (record,)
        Group of each record, e.g. its class.
    scorable : numpy.ndarray of bool, shape (model, record), optional
        Which scores count; all by default.

    Returns
    -------
    numpy.ndarray, shape (target, record)
        The threshold that goes with each score.
    """
    threshold = np.zeros_like(score)
    scorable = np.ones_like(member) if scorable is None else scorable
    for group in np.unique(groups):
        records = np.flatnonzero(groups == group)
        counts = scorable[:, records].ravel()
        if not counts.any():
            continue
        place = np.cumsum(counts) - 1
        scores, members = (a[:, records].ravel()[counts] for a in (score, member))
        without = (place[cells[counts[cells]]] for cells in _excluded_cells(excluded_models[:, records]))
        threshold[:, records] = best_threshold(scores, members, without)[:, None]
    return threshold


def known_half_thresholds(
    score: np.ndarray, member: np.ndarray, known: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """Thresholds for each target from its known records, shape (target, record); see `shadow_thresholds`."""
    threshold = np.empty_like(score)
    for group in np.unique(groups):
        records = np.flatnonzero(groups == group)
        for k in range(len(score)):
            unknown = np.flatnonzero(~known[k, records])
            threshold[k, records] = best_threshold(score[k, records], member[k, records], [unknown])[0]
    return threshold


@dataclass(frozen=True, kw_only=True)
class Function(Attack):
    """A plain function as an attack.

    Parameters
    ----------
    function : callable
        From a game to scores, float (model, record), higher = member.
    per_class, calibrate
        See `Attack`.
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
ATTACKS: dict[str, Callable[[], Attack]] = {}
MODULES = ("mialab.attacks", "mialab.gan.attacks")


def register(make_one: Callable[[], Attack]) -> None:
    """Make an attack known by its name, given a function that makes one."""
    ATTACKS[make_one().name] = make_one


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
                return dataclasses.replace(ATTACKS[stem](), **changes)
    return ATTACKS[choose("attack", name, ATTACKS)]()


def _needed(for_score: bool, for_threshold: bool) -> str:
    return "for the score" if for_score else "for the threshold" if for_threshold else "none"


def _shadows_needed(attack: Attack) -> str:
    kinds = {"OUT": "OUT", "IN and OUT": "IN and OUT", "any": "any, for the score"}
    return kinds.get(attack.needs.shadows) or _needed(False, "shadows" in attack.calibrations)


def _queries_needed(attack: Attack) -> str:
    if attack.needs.kinds:
        return f"1+ {' or '.join(attack.needs.kinds)}"
    return attack.needs.budget or f"{attack.needs.queries}" + ("+" if attack.needs.queries > 1 else "")


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
    every = {name: make_one() for name, make_one in sorted(ATTACKS.items())}
    for name, attack in every.items():
        if attack.needs.victim != victim:
            continue
        rows.append(
            {
                "attack": name,
                "sees": attack.needs.sees,
                "shadow models": _shadows_needed(attack),
                "known half": _needed(bool(attack.needs.known_half), attack.calibrations == ("known_half",)),
                "features": _needed(attack.needs.pool, False),
                "logits": _needed(attack.needs.logits, False),
                "probe": attack.needs.probe or "none",
                "threshold": " or ".join(attack.calibrations).replace("_", " "),
                "queries": _queries_needed(attack),
                "source": attack.source,
            }
        )
    return pd.DataFrame(rows).set_index("attack")
