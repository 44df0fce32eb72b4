"""How well scores separate members from non-members, and how sure we can be of it.

Scores are float64 and higher means "member"; rates are fractions. Every rate follows the *step rule*: it is
reached by an actual threshold, nothing is interpolated, and tied scores stand or fall together.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

FPRS = (0.001, 0.01, 0.1)


def roc(score: ArrayLike, member: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact ROC curve: one point per distinct score, from (0, 0) to (1, 1).

    Parameters
    ----------
    score : (n,) float
        Attack scores, higher = member.
    member : (n,) bool
        Which records were trained on.

    Returns
    -------
    fpr, tpr : (t,) float64
        Rates of non-members and of members whose score reaches the threshold.
    threshold : (t,) float64
        Falling; the first is ``inf`` (nobody is called a member).

    Raises
    ------
    ValueError
        If shapes differ, a score is NaN, or one of the two classes is absent. Every function of this module
        that takes ``score`` and ``member`` checks this.
    """
    score, member = _checked(score, member)
    order = np.argsort(-score, kind="stable")
    s, m = score[order], member[order]
    last = np.append(np.flatnonzero(np.diff(s)), len(s) - 1)  # the last record of each group of equal scores
    tp, fp = np.cumsum(m)[last], np.cumsum(~m)[last]
    return np.append(0.0, fp / fp[-1]), np.append(0.0, tp / tp[-1]), np.append(np.inf, s[last])


def auc(score: ArrayLike, member: ArrayLike) -> float:
    """Chance that a random member outscores a random non-member, ties counting half (Mann-Whitney U / mn)."""
    return float(_Ranks(*_checked(score, member)).point()[0])


def tpr_at_fpr(score: ArrayLike, member: ArrayLike, fpr: float) -> float:
    """Largest true-positive rate among the thresholds whose false-positive rate is at most `fpr`."""
    return float(_Ranks(*_checked(score, member), fprs=check_rates("fpr", (fpr,))).point()[1])


def tnr_at_fnr(score: ArrayLike, member: ArrayLike, fnr: float) -> float:
    """Largest true-negative rate among the thresholds whose false-negative rate is at most `fnr`."""
    return float(_Ranks(*_checked(score, member), fnrs=check_rates("fnr", (fnr,))).point()[1])


def resolvable(n: int, rate: float, minimum: float = 10) -> bool:
    """Whether `n` records are enough to speak of an error rate: at least `minimum` errors must be allowed.

    Parameters
    ----------
    n : int
        Records on which the error can be made: non-members for an FPR, members for an FNR.
    rate : float
        The error rate, a fraction.
    minimum : float
        Expected number of errors at that rate, 10 by default.
    """
    return bool(n * rate >= minimum * (1 - 1e-12))


# Each from tp, fp = members and non-members called members, and m, n = members and non-members in all.
_DECISIONS: dict[str, Callable[..., np.ndarray]] = {
    "balanced_accuracy": lambda tp, fp, m, n: (tp / m + 1 - fp / n) / 2,
    "precision": lambda tp, fp, m, n: np.where(tp + fp > 0, tp / np.maximum(tp + fp, 1), np.nan),
    "recall": lambda tp, fp, m, n: tp / m,
    "f1": lambda tp, fp, m, n: 2 * tp / (tp + fp + m),
}


def balanced_accuracy(predicted_member: ArrayLike, member: ArrayLike) -> float:
    """Mean of the true-positive and the true-negative rate of the decisions; 0.5 is a coin."""
    return _decide("balanced_accuracy", predicted_member, member)


def precision(predicted_member: ArrayLike, member: ArrayLike) -> float:
    """Fraction of members among the records called members; NaN where no record was."""
    return _decide("precision", predicted_member, member)


def recall(predicted_member: ArrayLike, member: ArrayLike) -> float:
    """Fraction of the members that were called members."""
    return _decide("recall", predicted_member, member)


def f1(predicted_member: ArrayLike, member: ArrayLike) -> float:
    """Harmonic mean of precision and recall; 0 where no member was called one."""
    return _decide("f1", predicted_member, member)


def _decide(name: str, predicted_member: ArrayLike, member: ArrayLike) -> float:
    return float(_DECISIONS[name](*_counts(predicted_member, member)))


def _counts(predicted_member: ArrayLike, member: ArrayLike) -> tuple[int, int, int, int]:
    said, member = as_flags("predicted_member", predicted_member), as_flags("member", member)
    _same_shape("predicted_member", said, member)
    _both_classes(member)
    return int((said & member).sum()), int((said & ~member).sum()), int(member.sum()), int((~member).sum())


def rate_name(kind: str, rate: float) -> str:
    """Name of a rate in every table, such as ``tpr@0.001``."""
    return f"{kind}@{float(rate)!r}"


def _checked(score: ArrayLike, member: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    score, member = np.asarray(score, np.float64), as_flags("member", member)
    if score.ndim != 1:
        raise ValueError(f"score has shape {score.shape}; it must be (record,).")
    _same_shape("score", score, member)
    if np.isnan(score).any():
        raise ValueError(
            f"score has {np.isnan(score).sum()} NaN among {len(score)} values; there must be none."
        )
    _both_classes(member)
    return score, member


def as_flags(name: str, value: ArrayLike) -> np.ndarray:
    """Return ``value`` as an array of bool; ValueError if it holds anything but True and False, 1 and 0."""
    value = np.asarray(value)
    if value.dtype != bool and not np.isin(value, (0, 1)).all():
        raise ValueError(f"{name} must be True or False (or 1 and 0); it holds {np.unique(value)[:5]}.")
    return value.astype(bool)


def _same_shape(name: str, value: np.ndarray, member: np.ndarray) -> None:
    if value.shape != member.shape:
        raise ValueError(f"{name} has shape {value.shape} and member {member.shape}; they must be equal.")


def _both_classes(member: np.ndarray) -> None:
    if member.all() or not member.any():
        raise ValueError(
            f"member has {member.sum()} members and {(~member).sum()} non-members; both must be there."
        )


def check_rates(name: str, rates: Sequence[float]) -> Sequence[float]:
    """Refuse rates that do not lie in [0, 1] (ValueError)."""
    for rate in rates:
        if not 0 <= rate <= 1:
            raise ValueError(f"{name}: {rate!r} must be a fraction from 0 to 1.")
    return rates


def check_fraction(name: str, value: float) -> float:
    """Refuse a value that does not lie in (0, 1) (ValueError)."""
    if not 0 < value < 1:
        raise ValueError(f"{name}={value!r} must be a fraction between 0 and 1, e.g. 0.95.")
    return value


class _Ranks:
    """Members and non-members in falling order of score, and where each falls among the others.

    Sorted once; `statistics` then takes how often each record counts and costs a few passes over the data.
    """

    def __init__(
        self, score: np.ndarray, member: np.ndarray, fprs: Sequence[float] = (), fnrs: Sequence[float] = ()
    ) -> None:
        inside, outside = np.flatnonzero(member), np.flatnonzero(~member)
        self.order_in = inside[np.argsort(-score[inside], kind="stable")]
        self.order_out = outside[np.argsort(-score[outside], kind="stable")]
        self.n_in, self.n_out = len(inside), len(outside)
        a, b = -score[self.order_in], -score[self.order_out]  # rising, as searchsorted wants it
        self.above = np.searchsorted(a, b, side="left")  # members scoring above each non-member ...
        self.reach = np.searchsorted(a, b, side="right")  # ... and those reaching it
        self.tied = bool((self.above != self.reach).any())
        self.fprs, self.fnrs = np.asarray(fprs, np.float64), np.asarray(fnrs, np.float64)
        # Members admitted by the lowest threshold that keeps non-member j out; all if it keeps nobody out.
        self.admitted = np.append(self.above, self.n_in)
        # Non-members admitted by the highest threshold that lets i members in.
        self.reached = np.append(0, np.searchsorted(b, a, side="right"))
        self.cum_in, self.cum_out = np.zeros(self.n_in + 1, np.int64), np.zeros(self.n_out + 1, np.int64)
        self.names = ["auc", *(rate_name("tpr", f) for f in fprs), *(rate_name("tnr", f) for f in fnrs)]

    def point(self) -> np.ndarray:
        """Statistics of the data themselves."""
        ones = np.ones(self.n_in, np.int64), np.ones(self.n_out, np.int64)
        return self.statistics(*ones, out=np.empty(len(self.names)))

    def resampled_auc(self, n_resamples: int, seed: int) -> np.ndarray:
        """AUCs of resamples, (n_resamples,); members and non-members are drawn apart."""
        cum_in, weight_out = _draws(self.n_in, self.n_out, n_resamples, seed)
        wins = cum_in.take(self.above, axis=1)
        if self.tied:
            wins = (wins + cum_in.take(self.reach, axis=1)) / 2
        return (weight_out * wins).sum(axis=1) / (float(self.n_in) * self.n_out)

    def statistics(self, weight_in: np.ndarray, weight_out: np.ndarray, out: np.ndarray) -> np.ndarray:
        """AUC, TPRs and TNRs when records count `weight_in` and `weight_out` times (int64, sorted order)."""
        np.cumsum(weight_in, out=self.cum_in[1:])
        total_in, total_out = self.cum_in[-1], int(weight_out.sum())
        if total_in == 0 or total_out == 0:  # only in resamples of tiny games
            out[:] = np.nan
            return out
        wins: np.ndarray = self.cum_in.take(self.above)
        if self.tied:
            wins = (wins + self.cum_in.take(self.reach)) / 2
        out[0] = weight_out @ wins / (float(total_in) * total_out)
        if not len(self.fprs) + len(self.fnrs):
            return out
        np.cumsum(weight_out, out=self.cum_out[1:])
        slack = 1 + 1e-12  # so that 0.29 x 100 allows 29
        last = np.searchsorted(self.cum_out, self.fprs * total_out * slack, side="right") - 1
        out[1 : 1 + len(self.fprs)] = self.cum_in[self.admitted[last]] / total_in
        # The fewest members that must be let in to stay within the false-negative rate.
        first = np.searchsorted(self.cum_in, total_in - self.fnrs * total_in * slack, side="left")
        out[1 + len(self.fprs) :] = 1 - self.cum_out[self.reached[first]] / total_out
        return out


@lru_cache(maxsize=2)
def _draws(n_in: int, n_out: int, n_resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cumulated counts of members, (n_resamples, n_in + 1), and counts of non-members, (n_resamples, n_out).

    The same for every target and attack with so many members and non-members: drawing is what costs.
    """
    rng = np.random.default_rng(seed)
    inside = np.zeros((n_resamples, n_in + 1), np.int64)
    for row in inside:
        row[1:] = _draw(rng, n_in)
    return inside.cumsum(axis=1), np.stack([_draw(rng, n_out) for _ in range(n_resamples)])


def _draw(rng: np.random.Generator, n: int) -> np.ndarray:
    """How often each of n things is drawn when n are drawn with replacement."""
    return np.bincount(rng.integers(0, n, n), minlength=n)
