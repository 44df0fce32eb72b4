"""Attacks on records that are known to go together: either all of them were trained on, or none."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mialab._validation import check_integer, choose
from mialab.attacks.base import Attack, Scored, check_finite
from mialab.attacks.lira import VARIANCE_FLOOR
from mialab.attacks.registry import make, register
from mialab.attacks.requirements import Requirements
from mialab.attacks.shadows import lost
from mialab.attacks.thresholds import best_threshold, known_half
from mialab.classifiers.signals import SIGNALS
from mialab.exceptions import RequirementsNotMet
from mialab.games.base import Game
from mialab.games.signals import by_chunks
from mialab.training.streams import generator

#: Least number of shadow models of each kind for a pair.
LEAST = 3


@dataclass(frozen=True, kw_only=True)
class GroupAttack(Attack):
    """Base class of attacks that score sets of records, each at one record of the set.

    Only that record is evaluated, and stands for the set. The attacker knows which records have the same membership,
    not which one.
    """

    no_per_class: ClassVar[str] = "the records of a set may be of several classes"

    @abstractmethod
    def of_sets(self, game: Game) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores of sets, and for which (model, record) there are any; both (model, record)."""

    def scores(self, game: Game) -> np.ndarray:
        """Return the score of each set at the record that stands for it and 0 elsewhere, (model, record)."""
        return self.of_sets(game)[0]

    def of_targets(self, game: Game, scorable: np.ndarray) -> Scored:
        """Score sets, and choose thresholds by them."""
        score, scored = self.of_sets(game)
        scored &= scorable
        check_finite(score, self.name)
        for side in (game.member, ~game.member):  # with sets of one kind alone there is nothing to tell apart
            scored &= (scored & side).any(1, keepdims=True)
        if self.calibrate == "ratio":
            return Scored(score, scored, scored & (score >= self.own_threshold))
        evaluated, predicted_member = scored.copy(), np.zeros_like(scored)
        for k in range(game.n_models):
            sets = np.flatnonzero(scored[k])
            if sets.size:
                member = game.member[k, sets]
                known = known_half(member[None], seed=k)[0]
                threshold = best_threshold(score[k, sets], member, [np.flatnonzero(~known)])[0]
                predicted_member[k, sets] = score[k, sets] >= threshold
                evaluated[k, sets[known]] = False
        return Scored(score, evaluated, predicted_member)


@dataclass(frozen=True, kw_only=True)
class CoMembership(GroupAttack):
    """Sum of another attack's scores over a set of records with the same membership.

    Each target's members are dealt at random into sets, and so are its non-members; what is left over is not
    evaluated, nor are targets with too few of either for a set (Liu et al., 2019). It is what an attacker can do who
    queries several records of one person. Canaries and other records are dealt apart.

    Parameters
    ----------
    of : str or Attack
        The attack on single records, by its name or as an instance; none that needs the features of records. Its own
        threshold plays no part; records of known membership are in no set.
    size : int
        Records in a set; 1 for the attack itself.
    calibrate
        The sum of log likelihood ratios has the threshold of one of them; for other attacks, half of a target's sets
        are known.
    """

    source: ClassVar[str] = "Liu et al. (2019)"

    of: str | Attack = "lira"
    size: int = 8

    def __post_init__(self) -> None:
        if self.base.needs.pool:
            raise ValueError(f"of={self.of!r} looks at the features of records: take another attack.")
        check_integer("size", self.size, low=1)
        super().__post_init__()

    @property
    def base(self) -> Attack:
        """The attack on single records."""
        return make(self.of)

    @property
    def base_name(self) -> str:
        """Name of the attack on single records, and the size of sets."""
        return f"co_membership_{self.base.name}_{self.size}"

    @property
    def calibrations(self) -> tuple[str, ...]:
        """A sum of log likelihood ratios is one; other sums have no threshold of their own."""
        return ("ratio", "known_half") if "ratio" in self.base.calibrations else ("known_half",)

    @property
    def needs(self) -> Requirements:
        """What the attack on single records needs."""
        return self.base.needs

    def scorable(self, game: Game) -> np.ndarray:
        """Refuse what the attack on single records refuses, and games too small for a set of each kind."""
        scorable = self.base.scorable(game)
        members = game.member[~game.shadow][:, game.candidate].sum(1)
        most = int(np.minimum(members, game.candidate.sum() - members).max())
        if most < self.size:
            raise RequirementsNotMet(
                f"Attack {self.name!r} needs targets with at least {self.size} members and as many non-members; this "
                f"game has {most} at most: give the attack a smaller size."
            )
        return scorable

    def found(self, game: Game, scorable: np.ndarray) -> Scored:
        """Attack the sets of every target in turn."""
        return self.of_targets(game, scorable)

    def of_sets(self, game: Game) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums of scores, and which record of which target stands for a set; both (model, record)."""
        single = game.outcome(self.base)
        score, scored = np.zeros(game.member.shape), np.zeros(game.member.shape, bool)
        for k in range(game.n_models):
            rng = generator(0, "sets", k)
            for side in (game.member[k], ~game.member[k]):
                for kind in (game.canary, ~game.canary):
                    records = rng.permutation(np.flatnonzero(single.evaluated[k] & side & kind))
                    sets = records[: records.size // self.size * self.size].reshape(-1, self.size)
                    score[k, sets[:, 0]] = single.score[k, sets].sum(1)
                    scored[k, sets[:, 0]] = True
        return score, scored


@dataclass(frozen=True, kw_only=True)
class MixedPairs(GroupAttack):
    """Likelihood ratio of a pair of records, from the answers to mixtures of the two.

    Against models that were trained on mixtures, which answer single records less surely (Ji et al.). Each record has
    its partner, see `mialab.queries.Mixed`; the two are known to be both members or both not. The statistic is the
    mean over all mixtures of ``fraction log p_a + (1 - fraction) log p_b``, minus the loss at the mixed label;
    Gaussians are fitted to it for shadow models that were trained on both records and for those trained on neither, as
    in `LiRA`.

    A target is evaluated on pairs of which it has both or neither, if at least 3 shadow models of each kind are left,
    and not on pairs of a canary with another record. About half of the pairs remain, and about a quarter of the shadow
    models on each side: take many models.

    Parameters
    ----------
    variance : {"per_record", "pooled"}
        A variance for each pair, or one shared by all pairs of a side, which is steadier with few shadow models.
    calibrate
        The likelihood ratio has the threshold 1; else half of a target's pairs are known.
    """

    needs: ClassVar[Requirements] = Requirements(logits=True, kinds=("mixed",), shadows="IN and OUT")
    calibrations: ClassVar[tuple[str, ...]] = ("ratio", "known_half")
    source: ClassVar[str] = "Ji et al., adaptive attack; Liu et al. (2019)"

    variance: str = "per_record"

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("variance", self.variance, ("per_record", "pooled"))

    @property
    def base_name(self) -> str:
        """Name of the variant."""
        return "mixed_pairs" + "_pooled" * (self.variance == "pooled")

    def scorable(self, game: Game) -> np.ndarray:
        """Refuse games without mixed queries, or with too few models for any pair."""
        scorable = super().scorable(game)
        if not game.attrs.get("mixed"):
            raise RequirementsNotMet(
                f"Attack {self.name!r} must know the pairs that queries mix: play the game with mialab.queries.Mixed()."
            )
        both, neither = _sides(game, *_pairs(game))
        models = game.shadow if game.shadow.any() else np.ones(game.n_models, bool)
        if not (
            np.minimum(both[models].sum(0), neither[models].sum(0)) >= LEAST + (not game.shadow.any())
        ).any():
            raise RequirementsNotMet(
                f"Attack {self.name!r} compares models trained on both records of a pair with models trained on "
                f"neither, at least {LEAST} of each besides the target; no pair has so many here: play the game with "
                "more models, at least 16."
            )
        return scorable

    def answers(self, game: Game) -> np.ndarray:
        """Return the statistic of every model's answers to the mixtures of each record, float64 (model, record)."""
        return mixed_label_loss(game)

    def of_sets(self, game: Game) -> tuple[np.ndarray, np.ndarray]:
        """Return the log likelihood ratios of pairs at the first record of each, and where there are any."""
        first, second = _pairs(game)
        both, neither = _sides(game, first, second)
        answers = self.answers(game)
        ratio, enough = pair_ratio(
            (answers[:, first] + answers[:, second]) / 2,
            both,
            neither,
            _left_out(game, first, both, neither),
            pooled=self.variance == "pooled",
        )
        score, scored = np.zeros(game.member.shape), np.zeros(game.member.shape, bool)
        score[:, first] = ratio
        scored[:, first] = enough & (both | neither)
        return np.where(scored, score, 0), scored


def _pairs(game: Game) -> tuple[np.ndarray, np.ndarray]:
    """First and second records of all pairs, but for those of a canary with another record."""
    first = np.flatnonzero(game.mixed_with > np.arange(game.n_records))
    first = first[game.canary[first] == game.canary[game.mixed_with[first]]]
    return first, game.mixed_with[first]


def _sides(game: Game, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which models were trained on both records of a pair, and which on neither, bool (model, pair)."""
    one, other = game.member[:, first], game.member[:, second]
    return one & other, ~(one | other)


def _left_out(game: Game, first: np.ndarray, both: np.ndarray, neither: np.ndarray) -> np.ndarray:
    """Say which model is no shadow besides the target itself, int64 (target, pair); -1 for none.

    Where half of the models have each record, but do not come in pairs, as many models have both records of a pair as
    have neither, and the count among the other models would give the target's membership away: of each kind one is
    left out, the target and one of the other kind, drawn at random for each pair. See `Game.excluded_models`.
    """
    balanced = (2 * game.member.sum(0) == game.n_models).all() and not game.attrs.get("leave_one_out")
    if not balanced or (game.partner >= 0).any():
        return game.excluded_models[:, first]
    keys = generator(0, "left out of pairs").random(both.shape)
    order, opposite = (np.argsort(np.where(side, keys, 2), axis=0) for side in (both, neither))
    rank, pair = np.nonzero(np.arange(game.n_models)[:, None] < both.sum(0))
    excluded_models = np.full(both.shape, -1)
    excluded_models[order[rank, pair], pair] = opposite[rank, pair]
    excluded_models[opposite[rank, pair], pair] = order[rank, pair]
    return excluded_models


def mixed_label_loss(game: Game) -> np.ndarray:
    """Minus the cross-entropy at the mixed label, a mean over each record's mixed queries, float64 (model, record).

    For records whose partner is not here the values mean nothing.
    """
    mixed = [kind == "mixed" for kind in game.query_kinds]
    fraction = np.array(game.attrs["mixed"]["fractions"])[:, None]
    own = game.signal("loss")[:, mixed]
    logits: Any = game.lazy_logits
    other = by_chunks(SIGNALS["loss"], logits, game.y[game.mixed_with])[:, mixed]
    return (fraction * own + (1 - fraction) * other).mean(1)


def pair_ratio(
    phi: np.ndarray,
    both: np.ndarray,
    neither: np.ndarray,
    excluded_models: np.ndarray,
    *,
    pooled: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Log likelihood ratios of Gaussians for two kinds of shadow models, some of which are of neither kind.

    Parameters
    ----------
    phi : numpy.ndarray of float, shape (model, pair)
        A statistic of every model's answers.
    both, neither : numpy.ndarray of bool, shape (model, pair)
        The two kinds: models trained on both records of a pair, and on neither.
    excluded_models : numpy.ndarray of int, shape (target, pair)
        The model that is no shadow besides the target itself, -1 for none.
    pooled : bool
        Whether all pairs of a kind share a variance.

    Returns
    -------
    score : numpy.ndarray of float64, shape (target, pair)
        Higher = both are members; 0 where shadow models are too few.
    enough : numpy.ndarray of bool, shape (target, pair)
        Where they are not.
    """
    counts = [side.sum(0) - lost(side.astype(np.float64), excluded_models) for side in (both, neither)]
    enough = np.minimum(*counts) >= LEAST
    tiny = np.finfo(np.float64).tiny ** 0.5  # so that scores are finite where all answers are equal
    score = np.zeros(phi.shape)
    for side, n, sign in zip((both, neither), counts, (1, -1), strict=True):
        n = np.where(enough, n, LEAST)
        deviation = phi - np.where(side, phi, 0).sum(0) / np.maximum(side.sum(0), 1)
        own = np.where(side, deviation, 0)
        # All deviations of a side sum to zero; without some of them, their mean is off by this.
        shift = -lost(own, excluded_models) / n
        squares = (own**2).sum(0) - lost(own**2, excluded_models) - n * shift**2
        common = np.where(enough, squares, 0).sum(1, keepdims=True)
        common = np.maximum(common / np.maximum(((n - 1) * enough).sum(1, keepdims=True), 1), tiny)
        var = common if pooled else np.maximum(squares / (n - 1), np.maximum(VARIANCE_FLOOR * common, tiny))
        score -= sign * 0.5 * ((deviation - shift) ** 2 / var + np.log(var))
    return np.where(enough, score, 0), enough


register(CoMembership(), MixedPairs())
