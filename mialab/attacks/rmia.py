"""The robust membership inference attack, RMIA (Zarifzadeh et al., 2024)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mialab._validation import check_integer, check_number, choose
from mialab.attacks.base import Attack
from mialab.attacks.calibrated import calibrated, check_values
from mialab.attacks.registry import register
from mialab.attacks.requirements import Requirements
from mialab.attacks.shadows import blocks, lost, over_queries
from mialab.games.base import Game
from mialab.training.streams import generator


def rmia(
    phi: np.ndarray,
    member: np.ndarray,
    excluded_models: np.ndarray,
    *,
    online: bool = True,
    gamma: float = 1.0,
    a: float = 0.3,
    likelihood: bool = True,
    population: np.ndarray | None = None,
) -> np.ndarray:
    """Score all records against each model as target, with the other models as its shadow models.

    Sorts the population's ratios once per target; the matrix of records by population is never formed.

    Parameters
    ----------
    phi : numpy.ndarray of float, shape (model, record)
        Log of the probability that every model gives to every record's label, or another signal.
    member : numpy.ndarray of bool, shape (model, record)
        Which model was trained on which record. Records without a shadow model of each kind that is needed, for a
        target, are in no population of it, and their scores mean nothing.
    excluded_models : numpy.ndarray of int, shape (model, record)
        The model that is no shadow besides the target itself, -1 for none; see `Game.excluded_models`.
    online, gamma, a
        See `RMIA`.
    likelihood : bool
        Whether ``phi`` is a log-probability; else differences take the place of ratios, see `RMIA`.
    population : numpy.ndarray of int, shape (population,), optional
        Indices of the records that a record is compared with; all by default.

    Returns
    -------
    numpy.ndarray of float64, shape (target, record)
        Fractions of the population, higher = member.
    """
    if likelihood:
        ratio = _log_ratio(phi, member, excluded_models, None if online else a)
    else:  # the difference from the mean over OUT models, or the mean of the differences from both means
        apart = [calibrated(phi, side, excluded_models) for side in (member, ~member)[: 1 + online]]
        ratio = np.mean(apart, axis=0)
    population = np.arange(phi.shape[1]) if population is None else population
    sides = [(member == inside).astype(np.float64) for inside in (True, False)[not online :]]
    known = [side.sum(0) - lost(side, excluded_models) > 0 for side in sides]
    below = np.empty(phi.shape[1])
    for row, enough in zip(ratio, np.logical_and.reduce(known), strict=True):
        compared = population[enough[population]]
        # No record is compared with itself; where it is one of the population, it would always reach a ratio of 1.
        others = np.full(phi.shape[1], float(compared.size))
        others[compared] -= 1
        itself = np.zeros(phi.shape[1])
        itself[compared] = gamma <= 1
        order = np.argsort(row)  # sorted keys are found several times as fast
        below[order] = np.searchsorted(np.sort(row[compared]), row[order] - np.log(gamma), side="right")
        row[:] = (below - itself) / np.maximum(others, 1)
    return ratio


def _log_ratio(
    log_p: np.ndarray,
    member: np.ndarray,
    excluded_models: np.ndarray,
    a: float | None,
) -> np.ndarray:
    """Log of p(x | target) / p(x), (target, record); p(x) from all shadow models, or, given a, from OUT alone."""
    ratio = np.empty(log_p.shape)
    for records, x, m, out in blocks(log_p, member, excluded_models):
        top = x.max(0)  # of probabilities relative to the greatest, not all can vanish
        x = x - top
        p = np.exp(x)
        p_x = _shadow_mean(p, ~m, out)
        if a is None:
            p_x += _shadow_mean(p, m, out)
        else:
            p_x *= 1 + a
            p_x += (1 - a) * np.exp(np.minimum(-top, 700))
        ratio[:, records] = x - np.log(p_x / 2)
    return ratio


def _shadow_mean(p: np.ndarray, side: np.ndarray, excluded_models: np.ndarray) -> np.ndarray:
    """Mean over each target's shadow models on one side, (target, record); greater than 0."""
    inside = side.astype(np.float64)
    own = inside * p
    total = own.sum(0)
    rest = total - lost(own, excluded_models)
    # Beside one overwhelming probability, nothing but its rounding error may be left of the others.
    np.maximum(rest, np.finfo(np.float64).eps * total + np.finfo(np.float64).tiny, out=rest)
    rest /= np.maximum(inside.sum(0) - lost(inside, excluded_models), 1)
    return rest


@dataclass(frozen=True, kw_only=True)
class RMIA(Attack):
    """Fraction of the population against which the record looks more like a member.

    A record x is compared with every record z of a population by the ratio
    ``LR(x, z) = (p(x | target) / p(x)) / (p(z | target) / p(z))``, where ``p(x | target)`` is the probability that the
    target gives to the label; the score is the fraction of the population with ``LR(x, z) >= gamma`` (Zarifzadeh et
    al., 2024, algorithm 1). Online, ``p(x)`` is the mean of the probabilities from shadow models trained with x (IN)
    and without it (OUT), which count equally; offline it is ``((1 + a) mean_out + 1 - a) / 2``, as if the mean over IN
    models were ``a mean_out + 1 - a``. Probabilities are plain softmax; with several queries, the mean of the scores.

    Other signals ``s`` are no log-probabilities, and there is no ratio of likelihoods. In its place stands a
    difference: counted are records z with ``s(x | target) - s(x) >= s(z | target) - s(z)``, where ``s(x)`` is the mean
    over OUT models, or online the mean of the means over IN and OUT models.

    The population are the other records of the pool, members of the target and others alike: the attacker has the pool
    and may query the target with all of it, but a population of non-members, for which the score would be one minus a
    p-value, could be picked only by who knows the memberships. The choice matters little: for one target the score
    ranks records as ``p(x | target) / p(x)`` does, whatever the population, which puts targets on one scale. A
    threshold from shadow models is then about the fraction of non-members. A record z has the same shadow models as x,
    and no record is compared with itself.

    Parameters
    ----------
    online : bool
        Whether the attacker has shadow models that were trained on the record.
    signal : str
        What is compared: ``"loss"``, minus which is the log-probability, or the name of another signal of the victim,
        see `Threshold`; ``gamma`` and ``a`` are about probabilities and have no meaning then.
    gamma : float
        Greater than 0. The paper has 2, which leaves many scores equal, and often 0, where models generalize well and
        most ratios are close to 1; with 1, the default, scores are ranks.
    a : float
        From 0 to 1, for the offline attack only: 0 where members are answered with certainty, 1 for no correction.
        The paper tunes it; 0.3 is its value for CIFAR-10.
    population : int, optional
        Size of a population drawn at random from the pool; by default the whole pool.
    queries : {"original", "all"}
        Whether changed copies of the record are queried as well, where the game has them; mixed queries never.
    """

    source: ClassVar[str] = "Zarifzadeh et al. (2024), algorithm 1"

    online: bool = True
    signal: str = "loss"
    gamma: float = 1.0
    a: float = 0.3
    population: int | None = None
    queries: str = "original"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("gamma", self.gamma, above=0)
        check_number("a", self.a, low=0, high=1)
        check_values(self.signal)
        for name in ("gamma", "a"):
            if self.signal != "loss" and getattr(self, name) != getattr(RMIA, name):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is about probabilities, and signal={self.signal!r} is none: leave "
                    "it out, or take signal='loss'."
                )
        if self.population is not None:
            check_integer("population", self.population, low=2)
        choose("queries", self.queries, ("original", "all"))

    @property
    def needs(self) -> Requirements:
        """One shadow model of a kind will do; those that were trained on the record are needed online only."""
        shadows, queries = "IN and OUT" if self.online else "OUT", 2 if self.queries == "all" else 1
        return Requirements.of_signal(self.signal, shadows=shadows, queries=queries)

    @property
    def base_name(self) -> str:
        """Name of the variant, e.g. ``"rmia_offline"``."""
        name = "rmia" + f"_{self.signal}" * (self.signal != "loss")
        return name + "_offline" * (not self.online) + "_augmented" * (self.queries == "all")

    def scores(self, game: Game) -> np.ndarray:
        """Return the fractions of the population, (model, record)."""
        drawn = generator(0, "population").permutation(game.n_records)[: self.population]
        options = {
            "online": self.online,
            "gamma": self.gamma,
            "a": self.a,
            "likelihood": self.signal == "loss",
        }
        return over_queries(rmia, game, self.signal, self.queries, population=drawn, **options)


register(RMIA(), RMIA(online=False))
