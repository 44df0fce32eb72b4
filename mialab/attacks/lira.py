"""The likelihood-ratio attack, LiRA (Carlini et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from mialab.attacks.base import Attack, register
from mialab.attacks.signals import signal
from mialab.options import choose

if TYPE_CHECKING:
    from mialab.game import Game

#: Least variance, as a share of the variance pooled over records: a few equal answers are no proof of certainty.
VARIANCE_FLOOR = 1e-4


class Moments(NamedTuple):
    """Means and variances of a statistic over the shadow models with and without each record, (target, record)."""

    mean_in: np.ndarray
    var_in: np.ndarray
    mean_out: np.ndarray
    var_out: np.ndarray


def shadow_moments(phi: np.ndarray, member: np.ndarray, left_out: np.ndarray, *, pooled: bool) -> Moments:
    """Means and variances over each target's shadow models, for all targets at once.

    Parameters
    ----------
    phi : numpy.ndarray of float64, shape (model, record)
        A statistic of every model's answer to every record.
    member : numpy.ndarray of bool, shape (model, record)
        Which model was trained on which record.
    left_out : numpy.ndarray of int, shape (target, record)
        The model that is no shadow besides the target itself, -1 for none; see `Game.left_out`.
    pooled : bool
        Whether one variance is shared by all records: the mean over records of the squared deviations from each
        record's own mean, for members and non-members apart.

    Returns
    -------
    Moments
    """
    # Deviations from the record's mean over all models keep the sums of squares accurate.
    centre = phi.mean(0)
    phi = phi - centre
    also = left_out >= 0

    def over_shadows(values: np.ndarray) -> np.ndarray:
        # The sum over all models, less the target and the model left out with it.
        return values.sum(0) - values - also * np.take_along_axis(values, np.where(also, left_out, 0), axis=0)

    def side(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = np.rint(over_shadows(inside.astype(np.float64)))
        mean = over_shadows(inside * phi) / count
        squares = np.maximum(over_shadows(inside * phi**2) - count * mean**2, 0)
        common = squares.sum(1, keepdims=True) / (count - 1).sum(1, keepdims=True)
        if pooled:
            var = np.broadcast_to(common, mean.shape)
        else:
            var = np.maximum(squares / (count - 1), VARIANCE_FLOOR * common)
        return mean + centre, np.maximum(var, np.finfo(np.float64).tiny ** 0.5)

    return Moments(*side(member), *side(~member))


def log_normal(phi: np.ndarray, mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    """Log density of a Gaussian, up to the constant that cancels in a ratio."""
    return -0.5 * ((phi - mean) ** 2 / var + np.log(var))


@dataclass(frozen=True, kw_only=True)
class LiRA(Attack):
    """Ratio of the likelihoods of the target's answer if the record was, and was not, trained on.

    For each record, Gaussians are fitted to the scaled logits ``phi = z_y - logsumexp(other z)`` of the shadow
    models that were trained with it (IN) and without it (OUT). The online score is
    ``log N(phi; IN) - log N(phi; OUT)`` (Carlini et al., 2022, algorithm 1). The offline score uses OUT only:
    ``(phi - mean_out) / std_out``, which orders records as the paper's one-sided test ``Pr[Z <= phi]`` does and does
    not saturate. Means and unbiased variances in float64; with several queries, the mean of the scores.

    Parameters
    ----------
    online : bool
        Whether the attacker has shadow models that were trained on the record.
    variance : {"per_record", "pooled"}
        A variance for each record, or one shared by all records of a side, which is steadier with few shadows
        (Carlini et al., 2022, section VI-D).
    queries : {"original", "all"}
        Whether changed copies of the record are asked as well, where the game has them.
    per_class, calibrate
        See `Attack`; the threshold of the online likelihood ratio is 1.
    """

    needs_shadows: ClassVar[bool] = True
    source: ClassVar[str] = "Carlini et al. (2022), algorithm 1"

    online: bool = True
    variance: str = "per_record"
    queries: str = "original"

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("variance", self.variance, ("per_record", "pooled"))
        choose("queries", self.queries, ("original", "all"))

    @property
    def calibrations(self) -> tuple[str, ...]:
        """Online, the likelihood ratio has a threshold of its own; offline, shadow models give one."""
        return ("ratio", "known_half") if self.online else ("shadows", "known_half")

    @property
    def base_name(self) -> str:
        """Name of the variant, e.g. ``"lira_offline_pooled"``."""
        parts = ["lira", "" if self.online else "offline", "pooled" if self.variance == "pooled" else ""]
        return "_".join(filter(None, [*parts, "augmented" if self.queries == "all" else ""]))

    @property
    def min_queries(self) -> int:
        """At least one changed copy, where they are to be asked."""
        return 2 if self.queries == "all" else 1

    def scores(self, game: Game) -> np.ndarray:
        """Return the log likelihood ratio, or the offline score, (model, record)."""
        phi = signal(game, "scaled_logit")
        used = phi if self.queries == "all" else phi[:, :1]
        return np.mean([self._score(used[:, q], game) for q in range(used.shape[1])], axis=0)

    def _score(self, phi: np.ndarray, game: Game) -> np.ndarray:
        m = shadow_moments(phi, game.member, game.left_out, pooled=self.variance == "pooled")
        if self.online:
            return log_normal(phi, m.mean_in, m.var_in) - log_normal(phi, m.mean_out, m.var_out)
        return (phi - m.mean_out) / np.sqrt(m.var_out)


for _online in (True, False):
    for _variance in ("per_record", "pooled"):
        register(partial(LiRA, online=_online, variance=_variance))
register(partial(LiRA, queries="all"))
