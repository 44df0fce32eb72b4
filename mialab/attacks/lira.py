"""The likelihood-ratio attack, LiRA (Carlini et al., 2022)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mialab._validation import choose
from mialab.attacks.base import Attack
from mialab.attacks.registry import register
from mialab.attacks.requirements import Requirements
from mialab.attacks.shadows import blocks, lost, over_queries
from mialab.games.base import Game

#: Least variance, as a fraction of the variance pooled over records: a few equal answers are no proof of certainty.
VARIANCE_FLOOR = 1e-4
#: What the attack is called with these signals, else "lira" and the signal's name.
NAMES = {"scaled_logit": "lira", "critic_loss": "critic_lira", "critic_loss_min": "critic_lira_min"}


def lira(
    phi: np.ndarray,
    member: np.ndarray,
    excluded_models: np.ndarray,
    *,
    online: bool = True,
    variance: str = "per_record",
    offline: str = "z_score",
) -> np.ndarray:
    """Score all records against each model as target, with the other models as its shadow models.

    Goes through blocks of records, twice, since variances are pooled over records first. The time is linear in models
    and in records, and beyond the scores little memory is needed.

    Parameters
    ----------
    phi : numpy.ndarray of float, shape (model, record)
        A statistic of every model's answer to every record, about Gaussian over trainings.
    member : numpy.ndarray of bool, shape (model, record)
        Which model was trained on which record. Where there are fewer than 2 shadow models on a side (1 with a pooled
        variance), a score means nothing.
    excluded_models : numpy.ndarray of int, shape (target, record)
        The model that is no shadow besides the target itself, of the opposite membership, -1 for none; see
        `Game.excluded_models`.
    online, variance, offline
        See `LiRA`.

    Returns
    -------
    numpy.ndarray of float64, shape (target, record)
        Higher = member.
    """
    sides = (True, False) if online else (False,)
    squares, degrees = np.zeros((2, len(sides), len(phi), 1))
    for _, x, m, out in blocks(phi, member, excluded_models):
        for s, side in enumerate(sides):
            _, block_squares, block_degrees = _moments(x, m == side, out)
            squares[s, :, 0] += block_squares.sum(1)
            degrees[s, :, 0] += block_degrees.sum(1)
    tiny = np.finfo(np.float64).tiny ** 0.5  # so that scores are finite where all answers are equal
    pooled = np.maximum(squares / np.maximum(degrees, 1), tiny)
    floor = np.maximum(VARIANCE_FLOOR * pooled, tiny)

    score = np.empty(phi.shape)
    for records, x, m, out in blocks(phi, member, excluded_models):
        gaussians = []
        for s, side in enumerate(sides):
            deviation, var, block_degrees = _moments(x, m == side, out)
            if variance == "pooled":
                var = pooled[s]
            else:
                var /= np.maximum(block_degrees, 1)
                np.maximum(var, floor[s], out=var)
            gaussians.append((deviation, var))
        if online:
            score[:, records] = _log_density(*gaussians[0]) - _log_density(*gaussians[1])
        elif offline == "density":
            score[:, records] = -_log_density(*gaussians[0])
        else:
            score[:, records] = deviation / np.sqrt(var)
    return score


def _moments(
    phi: np.ndarray, side: np.ndarray, excluded_models: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deviations from the mean over a target's shadow models on one side, sums of squares, degrees of freedom.

    Each of shape (target, record). They follow from the deviations d from the mean over all models of the side:
    without some of them, whose deviations have the sum L, the mean of the n' others is lower by ``L / n'``, and the
    sum of squares is that of their d^2 less ``L^2 / n'``.
    """
    inside = side.astype(np.float64)
    deviation = phi - np.einsum("ki,ki->i", inside, phi) / np.maximum(inside.sum(0), 1)
    own = inside * deviation
    n = np.maximum(inside.sum(0) - lost(inside, excluded_models), 1)
    total = lost(own, excluded_models)
    own *= own
    squares = own.sum(0) - lost(own, excluded_models)
    total /= n
    deviation += total
    total *= total
    total *= n
    squares -= total
    return deviation, np.maximum(squares, 0, out=squares), n - 1


def _log_density(deviation: np.ndarray, var: np.ndarray) -> np.ndarray:
    """Log density of a Gaussian."""
    return -0.5 * (deviation**2 / var + np.log(2 * np.pi * var))


@dataclass(frozen=True, kw_only=True)
class LiRA(Attack):
    """Ratio of the likelihoods of the target's answer if the record was, and was not, trained on.

    For each record, Gaussians are fitted to a statistic ``phi`` of the answers of the shadow models that were trained
    with it (IN) and without it (OUT). The online score is
    ``log N(phi; IN) - log N(phi; OUT)`` (Carlini et al., 2022, algorithm 1); offline, there are no IN models. Means
    and unbiased variances in float64; with several queries, the mean of the scores.

    Parameters
    ----------
    online : bool
        Whether the attacker has shadow models that were trained on the record.
    signal : str
        What phi is: the name of a signal of the victim. ``"scaled_logit"`` is ``z_y - logsumexp(other z)``, the log
        odds of the label; ``"hinge"`` is ``z_y - max(other z)``, by how much the label is ahead of, or behind, the next
        class; see `mialab.classifiers.signals`. ``"critic_loss"`` is for generative models, what their critic says of
        the record minus what it says of generated ones (Ji et al.), see `mialab.gan`; ``"critic_loss_min"`` is the
        least over the critics of a model that has several, as in the code published with Ji et al.
    variance : {"per_record", "pooled"}
        A variance for each record, which takes 2 shadow models on each side that is needed, has a relative error of
        ``sqrt(2 / (n - 1))`` with n of them, and means little below about 10; or one shared by all records of a side,
        which takes 1 (and 2 for some record), and is the better one with few (Carlini et al., 2022, section VI-D).
    offline : {"z_score", "density"}
        What the offline score is; the online attack does without. In the field it has several definitions:
        ``"z_score"`` is ``(phi - mean_out) / std_out``, which ranks all pairs of targets and records as the paper's
        one-sided test ``Pr[Z <= phi]`` does, and does not saturate: the default, because a member's confidence is
        expected to be high, not just unusual. ``"density"`` is ``-log N(phi; OUT)``, as in the code published with
        the paper, and high for an unusually low confidence too; other code has it with a pooled variance.
    queries : {"original", "all"}
        Whether changed copies of the record are queried as well, where the game has them; mixed queries never.
    per_class, calibrate
        See `Attack`; the threshold of the online likelihood ratio is 1.
    """

    source: ClassVar[str] = "Carlini et al. (2022), algorithm 1"

    online: bool = True
    signal: str = "scaled_logit"
    variance: str = "per_record"
    offline: str = "z_score"
    queries: str = "original"

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("variance", self.variance, ("per_record", "pooled"))
        choose("offline", self.offline, ("z_score", "density"))
        choose("queries", self.queries, ("original", "all"))

    @property
    def calibrations(self) -> tuple[str, ...]:
        """Online, the likelihood ratio has a threshold of its own; offline, shadow models give one."""
        return ("ratio", "known_half") if self.online else ("shadows", "known_half")

    @property
    def needs(self) -> Requirements:
        """Shadow models that were trained on the record are needed online only."""
        return Requirements.of_signal(
            self.signal,
            shadows="IN and OUT" if self.online else "OUT",
            models=1 if self.variance == "pooled" else 2,
            pooled=self.variance == "pooled",
            queries=2 if self.queries == "all" else 1,
        )

    @property
    def base_name(self) -> str:
        """Name of the variant, e.g. ``"lira_offline_pooled"``."""
        density = not self.online and self.offline == "density"
        variant = (
            "_offline" * (not self.online) + "_density" * density + "_pooled" * (self.variance == "pooled")
        )
        return (
            NAMES.get(self.signal, f"lira_{self.signal}") + variant + "_augmented" * (self.queries == "all")
        )

    def scores(self, game: Game) -> np.ndarray:
        """Return the log likelihood ratio, or the offline score, (model, record)."""
        options = {"online": self.online, "variance": self.variance, "offline": self.offline}
        return over_queries(lira, game, self.signal, self.queries, **options)


@dataclass(frozen=True, kw_only=True)
class Ranking(Attack):
    """Likelihood ratio of the label's rank among the classes, with shadow models as in LiRA.

    The statistic is ``-log(1 + rank)``, rank 0 being the predicted class. For each record, Gaussians with a variance
    pooled over records are fitted to it over the shadow models with and without the record; the score is the log
    likelihood ratio of the target's rank. This attack is ours: HAMP's output step leaves exactly the ranking, so it is
    what an attacker who knows the defense would turn to.

    Parameters
    ----------
    calibrate
        See `Attack`; the threshold of a likelihood ratio is 1.
    """

    base_name: ClassVar[str] = "ranking"
    needs: ClassVar[Requirements] = Requirements(sees="ranking", shadows="IN and OUT", pooled=True)
    calibrations: ClassVar[tuple[str, ...]] = ("ratio", "known_half")
    source: ClassVar[str] = "this study, after Carlini et al. (2022)"

    def scores(self, game: Game) -> np.ndarray:
        """Return the log likelihood ratio of the label's rank, (model, record)."""
        phi = -np.log1p(-game.signal("true_rank")[:, 0])
        return lira(phi, game.member, game.excluded_models, variance="pooled")


for _variance in ("per_record", "pooled"):
    for _signal in NAMES:
        register(*(LiRA(signal=_signal, online=online, variance=_variance) for online in (True, False)))
    register(LiRA(online=False, offline="density", variance=_variance))
register(LiRA(signal="hinge"), LiRA(queries="all"), Ranking())
