"""How well scores separate members from non-members, and how sure we can be of it.

Scores are float64 and higher means "member"; rates are fractions. Every rate follows the *step rule*: it is
reached by an actual threshold, nothing is interpolated, and tied scores stand or fall together.
"""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from numbers import Real
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from mialab._validation import shown


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
    curve = Curve(*checked(score, member))
    return curve.fp / curve.n_out, curve.tp / curve.n_in, curve.threshold


def auc(score: ArrayLike, member: ArrayLike) -> float:
    """Chance that a random member outscores a random non-member, ties counting half (Mann-Whitney U / mn)."""
    return Curve(*checked(score, member)).auc


def tpr_at_fpr(score: ArrayLike, member: ArrayLike, fpr: float) -> float:
    """Largest true-positive rate among the thresholds whose false-positive rate is at most `fpr`."""
    (fpr,) = check_rates("fpr", (fpr,))
    return Curve(*checked(score, member)).at(fpr).tpr


def tnr_at_fnr(score: ArrayLike, member: ArrayLike, fnr: float) -> float:
    """Largest true-negative rate among the thresholds whose false-negative rate is at most `fnr`."""
    (fnr,) = check_rates("fnr", (fnr,))
    return Curve(*checked(score, member)).below(fnr).tpr


def resolvable(n: ArrayLike, rate: float, minimum: float = 10) -> np.ndarray:
    """Whether `n` records are enough to speak of an error rate: at least `minimum` errors must be allowed.

    Parameters
    ----------
    n : int or array of int
        Records on which the error can be made: non-members for an FPR, members for an FNR.
    rate : float
        The error rate, a fraction.
    minimum : float
        Expected number of errors at that rate, 10 by default.
    """
    return np.asarray(n) * rate >= minimum * (1 - 1e-12)


def smallest_rate(n: float | None, minimum: float = 10) -> float:
    """Return the smallest error rate that `n` records can speak of, see `resolvable`; NaN if n is not known."""
    return minimum / n if n and n > 0 else float("nan")


def precision_at(tpr: float, fpr: float, prior: float) -> float:
    """Fraction of members among the accused (the positive predictive value) if a fraction `prior` are members.

    Parameters
    ----------
    tpr, fpr : float
        Rates of the attack.
    prior : float
        Fraction of members among those who might be asked about; it is one half in the game, and low in the world
        (Jayaraman et al., PoPETs 2021).
    """
    prior = check_fraction("prior", prior)
    check_rates("rates", [rate for rate in (tpr, fpr) if not (isinstance(rate, Real) and rate != rate)])
    accused = prior * tpr + (1 - prior) * fpr
    return prior * tpr / accused if accused > 0 else float("nan")


# Each from tp, fp = members and non-members called members, and m, n = members and non-members in all.
DECISIONS: dict[str, Callable[..., np.ndarray]] = {
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
    return float(DECISIONS[name](*counts(predicted_member, member)))


def counts(predicted_member: ArrayLike, member: ArrayLike) -> tuple[int, int, int, int]:
    """Count true and false positives, members and non-members."""
    said, member = as_flags("predicted_member", predicted_member), as_flags("member", member)
    same_shape("predicted_member", said, member)
    both_classes(member)
    return int((said & member).sum()), int((said & ~member).sum()), int(member.sum()), int((~member).sum())


def rate_name(kind: str, rate: float) -> str:
    """Name of a rate in every table, such as ``tpr@0.001``."""
    return f"{kind}@{float(rate)!r}"


def checked(score: ArrayLike, member: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and memberships as arrays (record,), see `roc` for what is refused."""
    score, member = as_numbers("score", score), as_flags("member", member)
    if score.ndim != 1:
        raise ValueError(f"score has shape {score.shape}; it must be (record,).")
    same_shape("score", score, member)
    if np.isnan(score).any():
        raise ValueError(
            f"score has {np.isnan(score).sum()} NaN among {len(score)} values; there must be none."
        )
    both_classes(member)
    return score, member


def as_numbers(name: str, value: ArrayLike) -> np.ndarray:
    """Return ``value`` as an array of float64; ValueError if it holds anything but real numbers."""
    array = as_array(name, value)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold numbers; it is {array.dtype}: {shown(value)}.")
    return array.astype(np.float64, copy=False)


def as_flags(name: str, value: ArrayLike) -> np.ndarray:
    """Return ``value`` as an array of bool; ValueError if it holds anything but True and False, 1 and 0."""
    array = as_array(name, value)
    if array.dtype != bool and (array.dtype.kind not in "iuf" or not np.isin(array, (0, 1)).all()):
        held = np.unique(array)[:5] if array.dtype.kind in "iuf" else shown(value)
        raise ValueError(f"{name} must be True or False (or 1 and 0); it holds {held}.")
    return array.astype(bool)


def as_array(name: str, value: ArrayLike) -> np.ndarray:
    """Return ``value`` as an array; ValueError if it cannot be one."""
    try:
        return np.asarray(value)
    except Exception as error:  # whatever numpy, torch or another library says
        raise ValueError(f"{name}={shown(value)} cannot be read as an array: {error}.") from error


def same_shape(name: str, value: np.ndarray, member: np.ndarray) -> None:
    """Refuse an array of another shape than that of the members (ValueError)."""
    if value.shape != member.shape:
        raise ValueError(f"{name} has shape {value.shape} and member {member.shape}; they must be equal.")


def both_classes(member: np.ndarray) -> None:
    """Refuse memberships that are all alike (ValueError)."""
    if member.all() or not member.any():
        raise ValueError(
            f"member has {member.sum()} members and {(~member).sum()} non-members; both must be there."
        )


def check_rates(name: str, rates: Sequence[float]) -> Sequence[float]:
    """Refuse rates that do not lie in [0, 1] (ValueError)."""
    for rate in rates:
        if not isinstance(rate, Real) or not 0 <= rate <= 1:
            raise ValueError(f"{name}: {shown(rate)} must be a fraction from 0 to 1.")
    return rates


def check_fraction(name: str, value: float) -> float:
    """Refuse a value that does not lie in (0, 1) (ValueError)."""
    if not isinstance(value, Real) or not 0 < value < 1:
        raise ValueError(f"{name}={shown(value)} must be a fraction between 0 and 1, e.g. 0.95.")
    return value


class Point(NamedTuple):
    """One threshold of a ROC curve, with the rate of right and of wrong answers of one kind, and the wrong ones.

    From the threshold on the answer is "member"; or, if a true-negative rate was asked for, below it "no member".
    """

    threshold: float
    tpr: float
    fpr: float
    errors: int


class Curve:
    """The exact ROC curve of scores that were checked, in whole numbers: sorted once, read off many times.

    Attributes
    ----------
    tp, fp : numpy.ndarray of int64, shape (threshold,)
        Members and non-members whose score reaches each threshold, from none to all.
    threshold : numpy.ndarray of float64, shape (threshold,)
        Falling; the first is ``inf``, the others are the distinct scores.
    """

    def __init__(self, score: np.ndarray, member: np.ndarray) -> None:
        self.order = np.argsort(-score)
        s, self.member = score[self.order], member[self.order]
        self.last = np.append(np.flatnonzero(s[1:] != s[:-1]), len(s) - 1)  # of each group of equal scores
        self.tp = np.append(0, np.cumsum(self.member)[self.last])
        self.fp = np.append(0, 1 + self.last) - self.tp
        self.threshold = np.append(np.inf, s[self.last])
        self.n_in, self.n_out = int(self.tp[-1]), int(self.fp[-1])

    @cached_property
    def auc(self) -> float:
        """Area under the curve."""
        twice = ((self.tp[1:] + self.tp[:-1]) * np.diff(self.fp)).sum()
        return float(twice / (2 * float(self.n_in) * self.n_out))

    def at(self, fpr: float) -> Point:
        """Return the lowest threshold whose false-positive rate is at most `fpr`."""
        allowed = math.floor(fpr * self.n_out * (1 + 1e-12))  # so that 0.29 x 100 allows 29
        i = int(np.searchsorted(self.fp, allowed, side="right")) - 1
        return Point(
            float(self.threshold[i]),
            float(self.tp[i] / self.n_in),
            float(self.fp[i] / self.n_out),
            int(self.fp[i]),
        )

    def below(self, fnr: float) -> Point:
        """Return the highest threshold below which at most a rate `fnr` of the members lies."""
        needed = math.ceil(self.n_in - fnr * self.n_in * (1 + 1e-12))
        i = int(np.searchsorted(self.tp, needed))
        missed = int(self.n_in - self.tp[i])
        return Point(float(self.threshold[i]), float(1 - self.fp[i] / self.n_out), missed / self.n_in, missed)

    def influence(self) -> np.ndarray:
        """Return how much each score moves the AUC, (n,) float64, in the order of the scores that were given.

        It is the fraction of the other side that a score lies above (members) or below, ties half, less the AUC, over
        the size of its own side.
        """
        outside, inside = 2 * self.n_in * self.auc, 2 * self.n_out * (1 - self.auc)
        every = self.last + np.append(-1, self.last[:-1]) + 2  # twice those above each score, ties half
        moved = self._each(outside + inside - every) * self.member
        moved += self._each(self.tp[1:] + self.tp[:-1] - outside)
        moved /= 2 * float(self.n_in) * self.n_out
        return self._in_order(moved)

    def normal_scores(self) -> np.ndarray:
        """Return quantiles of the normal distribution that have the ranks of the scores, ties in the middle, (n,)."""
        before = np.append(-1, self.last[:-1])
        return self.spread(special.ndtri(1 - (self.last + before + 3) / (2 * (len(self.order) + 1))))

    def spread(self, by_group: np.ndarray) -> np.ndarray:
        """Return for each score, in the order given, what belongs to its group of equal scores, (n,)."""
        return self._in_order(self._each(by_group))

    def _each(self, by_group: np.ndarray) -> np.ndarray:
        """Return for each sorted score what belongs to its group."""
        if len(by_group) == len(self.order):  # no two are equal
            return by_group
        return np.repeat(by_group, np.diff(self.last, prepend=-1))

    def _in_order(self, by_rank: np.ndarray) -> np.ndarray:
        """Return what belongs to sorted scores in the order of the scores that were given."""
        placed = np.empty_like(by_rank)
        placed[self.order] = by_rank
        return placed
