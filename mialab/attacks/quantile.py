"""The quantile-regression attack: an answer against what a regression on the record expects without membership."""

from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import ClassVar

import numpy as np

from mialab._validation import check_number, choose
from mialab.attacks.base import Attack
from mialab.attacks.calibrated import check_values
from mialab.attacks.registry import register
from mialab.attacks.requirements import Requirements
from mialab.attacks.thresholds import known_half
from mialab.data.pool import Pool
from mialab.exceptions import RequirementsNotMet
from mialab.games.base import Game

#: Ridge penalties to choose from, for standardized features: from hardly any to nothing but the mean.
PENALTIES = np.logspace(0, 6, 13)
#: Least number of known non-members to fit a regression to.
FEWEST = 20


def features(pool: Pool, y: np.ndarray) -> np.ndarray:
    """Return the records' features and labels, one-hot, each standardized over the pool, float64 (record, feature)."""
    one_hot = np.arange(pool.n_classes) == y[:, None]
    x = np.concatenate([pool.x.reshape(len(pool), -1), one_hot], axis=1, dtype=np.float64)
    x -= x.mean(0)
    scale = x.std(0)
    x /= np.where(scale > 0, scale, 1)
    return x


class _Ridge:
    """Ridge regressions of several values on the same records, each with the best of `PENALTIES`.

    The best for records that are left out in turn, which takes no regression more: with the leverages h, the residual
    of a record that is left out is that of the fit divided by ``1 - h``. One decomposition serves all penalties and all
    values.
    """

    def __init__(self, x: np.ndarray, known: np.ndarray) -> None:
        centered = x - x[known].mean(0)
        seen = centered[known]
        wide = seen.shape[1] > seen.shape[0]
        variance, axes = np.linalg.eigh(seen @ seen.T if wide else seen.T @ seen)
        kept = variance > max(seen.shape) * np.finfo(np.float64).eps * variance[-1]
        variance, axes = variance[kept], axes[:, kept]
        if wide:
            axes = seen.T @ axes / np.sqrt(variance)
        self.known, self.components = known, centered @ axes
        self.shrunk = 1 / (variance[:, None] + PENALTIES)

    def __call__(self, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return predictions for all records, and squared residuals of the known ones, each left out in turn."""
        seen, mean = self.components[self.known], value.mean()
        weights = (seen.T @ (value - mean))[:, None] * self.shrunk  # (component, penalty)
        leverage = seen**2 @ self.shrunk + 1 / len(seen)
        squares = ((value - mean)[:, None] - seen @ weights) ** 2 / (1 - leverage) ** 2
        best = squares.mean(0).argmin()
        return mean + self.components @ weights[:, best], squares[:, best]


def gaussian_score(x: np.ndarray, phi: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Standardize a statistic by the mean and variance that two ridge regressions predict from the record.

    Parameters
    ----------
    x : numpy.ndarray of float64, shape (record, feature)
        The records, standardized.
    phi : numpy.ndarray of float64, shape (record,)
        One model's statistic.
    known : numpy.ndarray of bool, shape (record,)
        The known non-members, to which the regressions are fitted.

    Returns
    -------
    numpy.ndarray of float64, shape (record,)
    """
    regression = _Ridge(x, known)
    # Residuals of records that were left out: those of the fit would be too small.
    mean, squares = regression(phi[known])
    tiny = np.finfo(np.float64).tiny ** 0.5  # so that scores are finite where all answers are equal
    log_variance, _ = regression(np.log(squares + 1e-3 * squares.mean() + tiny))
    variance = np.exp(log_variance)
    variance *= np.mean(squares / variance[known])  # the mean of a logarithm is no logarithm of a mean
    return (phi - mean) / np.sqrt(variance + tiny)


def pinball_score(x: np.ndarray, phi: np.ndarray, known: np.ndarray, alpha: float) -> np.ndarray:
    """Subtract from a statistic the quantile ``1 - alpha`` that boosted trees predict from the record.

    Parameters
    ----------
    x, phi, known
        See `gaussian_score`.
    alpha : float
        Fraction of non-members above the quantile.

    Returns
    -------
    numpy.ndarray of float64, shape (record,)
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    trees = HistGradientBoostingRegressor(
        loss="quantile",
        quantile=1 - alpha,
        learning_rate=0.05,
        max_leaf_nodes=8,
        early_stopping=False,
        random_state=0,
    )
    return phi - trees.fit(x[known], phi[known]).predict(x)


@dataclass(frozen=True, kw_only=True)
class QuantileRegression(Attack):
    """How far the target's answer is above what a regression on the record's features expects of a non-member.

    No shadow model: what a non-member's statistic would be is learned from the target's own answers to records that
    the attacker knows to be no members, a random half of them, which are then not evaluated (Bertran et al., 2023).
    The regression sees the features and the label, and needs many records: with some hundred of them it is often no
    better than the plain statistic. The threshold has a false-positive rate of alpha as far as the regression is
    right; trees that were grown on few records predict quantiles that are too low.

    Parameters
    ----------
    pool : Pool
        The records of the game; a game does not hold their features.
    form : {"gaussian", "pinball"}
        The paper's two: the score is ``(phi - mean) / std``, mean and log variance being predicted by ridge
        regressions whose penalty is chosen by leave-one-out; or ``phi - q``, the quantile ``q`` at level
        ``1 - alpha`` being predicted by gradient-boosted trees with the pinball loss. The paper tunes the regression;
        we do not. Growing the trees takes many times as long as the ridge regressions.
    signal : str
        What phi is: the name of a signal of the victim, see `Threshold`.
    alpha : float
        False-positive rate that the attacker allows.
    per_class, calibrate
        See `Attack`; the label is one of the features, and there is one kind of threshold.
    """

    calibrations: ClassVar[tuple[str, ...]] = ("level",)
    source: ClassVar[str] = "Bertran et al. (2023)"
    no_per_class: ClassVar[str] = "the label is one of the features"

    pool: Pool | None = None
    form: str = "gaussian"
    signal: str = "scaled_logit"
    alpha: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("form", self.form, ("gaussian", "pinball"))
        check_values(self.signal)
        check_number("alpha", self.alpha, above=0, high=0.5)

    @property
    def needs(self) -> Requirements:
        """The features of the records, and a half of the target's that is known."""
        return Requirements.of_signal(self.signal, known_half=2, pool=True)

    @property
    def base_name(self) -> str:
        """Name of the variant, e.g. ``"quantile_pinball"``."""
        signal = f"_{self.signal}" * (self.signal != "scaled_logit")
        return "quantile" + "_pinball" * (self.form == "pinball") + signal

    @property
    def own_threshold(self) -> float:
        """The score that a non-member reaches with probability alpha."""
        return NormalDist().inv_cdf(1 - self.alpha) if self.form == "gaussian" else 0.0

    def scorable(self, game: Game) -> np.ndarray:
        """Refuse a game with too few records to learn from, too; see `Attack.scorable`."""
        scorable = super().scorable(game)
        fewest = int((known_half(game.member) & ~game.member).sum(1).min())
        if fewest < FEWEST:
            raise RequirementsNotMet(
                f"Attack {self.name!r} needs at least {FEWEST} known non-members of each target; here one has "
                f"only {fewest}: play the game with more records."
            )
        return scorable

    def scores(self, game: Game) -> np.ndarray:
        """Return how far the statistic is above what is expected, (model, record)."""
        fit = gaussian_score if self.form == "gaussian" else partial(pinball_score, alpha=self.alpha)
        assert self.pool is not None  # checked before
        x = features(self.pool, game.y)
        phi = game.signal(self.signal)[:, 0]
        known = known_half(game.member) & ~game.member
        return np.array([fit(x, *target) for target in zip(phi, known, strict=True)])


register(QuantileRegression(), QuantileRegression(form="pinball"))
