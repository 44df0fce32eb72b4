"""Epsilon from below: the differential privacy that an attack's success refutes.

Differential privacy bounds how well anybody can guess which records were trained on. So an attack that guesses better
refutes an epsilon, with the stated confidence. All bounds are for *replacing* a record by another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mialab._validation import check_integer, check_number, choose, shown
from mialab.metrics import counts
from mialab.metrics.outcomes import Outcome
from mialab.metrics.rates import as_array, as_numbers, check_fraction

METHODS = ("clopper_pearson", "one_run", "one_run_gdp")
#: Fractions of the pairs that are guessed, from which the best is taken, where none is given.
GUESSES = (0.03, 0.1, 0.3, 1.0)
#: Correlation of two targets' memberships, in standard deviations, that chance does not explain.
TOO_ALIKE = 6


@dataclass(frozen=True)
class EpsilonBound:
    """A lower bound on epsilon, and what it rests on.

    Attributes
    ----------
    epsilon : float
        The bound, at least 0.
    delta : float
        The delta that it goes with.
    mu : float
        The bound as the parameter of Gaussian differential privacy; NaN where the method has none.
    method : str
        ``"clopper_pearson"``, ``"one_run"`` or ``"one_run_gdp"``.
    n : int
        Pairs of a member and a non-member; with Clopper-Pearson the records that the bound rests on.
    guesses, right : int
        How many were guessed, and how many of these were right.
    target : int or str or None
        The target model, ``"sum"`` of several, or None where scores were given alone.
    confidence : float
        Of the bound as a whole, after all corrections.
    notion : str
        Which data sets are neighbors. Replacing a record is adding one and removing one: its epsilon is at most twice
        that of `mialab.training.dp.epsilon`, with a delta ``1 + exp(epsilon)`` times as large.
    """

    epsilon: float
    delta: float
    mu: float
    method: str
    n: int
    guesses: int
    right: int
    target: int | str | None
    confidence: float
    notion: str = "replace one record"


def epsilon_lower_bound(
    in_scores: ArrayLike,
    out_scores: ArrayLike,
    *,
    delta: float = 0.0,
    confidence: float = 0.95,
    method: str = "clopper_pearson",
    threshold: float | Sequence[float] | str | None = None,
    guesses: float | Sequence[float] | None = None,
    paired: bool = False,
    seed: int = 0,
) -> EpsilonBound:
    """Bound epsilon from below by the scores of members and of non-members of one target.

    What makes a bound valid, beyond what can be seen in two arrays: membership was drawn at random, by fair coins or as
    a random part of the records, and no score was made with knowledge of it. `epsilon_of` checks more.

    Parameters
    ----------
    in_scores, out_scores : array_like of float, shapes (member,), (non-member,)
        Higher = member.
    delta : float
        The delta of the claim that is refuted; above 0 for ``"one_run_gdp"``.
    confidence : float
        Probability, at least, that the bound does not exceed the truth.
    method : {"clopper_pearson", "one_run", "one_run_gdp"}
        ``"clopper_pearson"``: the rates of both errors at a threshold, bounded exactly (Jagielski, Ullman and Oprea,
        NeurIPS 2020); takes the scores of different records for independent, as they are where each comes from a
        training of its own. ``"one_run"``: counts right guesses, valid for records of one training (Steinke,
        Nasr and Jagielski, NeurIPS 2023, theorem 5.2). ``"one_run_gdp"``: the same for Gaussian mechanisms, and
        tighter (Mahloujifar, Melis and Chaudhuri, ICML 2025, algorithm 3). It refutes Gaussian privacy of a smaller mu,
        and nothing else; DP-SGD comes close to it in the limit of many steps (Dong, Roth and Su, 2022).
    threshold : float, sequence of float or "split", optional
        For Clopper-Pearson; members score at least that much. One that was chosen on other data; or several that were
        fixed beforehand, of which the best is taken, corrected by Bonferroni; or ``"split"``, the default: it is chosen
        on a random half of the scores, and the other half gives the bound.
    guesses : float or sequence of float, optional
        For one run: the fraction of pairs, fixed beforehand, that are guessed: those with the greatest difference
        of scores, and the guess is that the record with the higher score is the member. Ranking by absolute differences
        needs no membership, so it is allowed. Several: the best is taken, corrected by Bonferroni; by default 3, 10, 30
        and 100 %.
    paired : bool
        Whether ``in_scores[i]`` and ``out_scores[i]`` are of two records of which a fair coin chose the member.
        Otherwise they are matched at random, independently of the scores, which makes the order within each pair a fair
        coin where members are a random part of the records; what is left over is dropped.
    seed : int
        Seed of the matching, the splitting, and of coins for equal scores.

    Returns
    -------
    EpsilonBound

    Raises
    ------
    ValueError
        If a parameter does not fit, or thresholds were evidently chosen on the scores that they are used on.
    """
    sides = _scores("in_scores", in_scores), _scores("out_scores", out_scores)
    options = _options(method, delta, confidence, threshold, guesses, seed)
    rng = np.random.default_rng(seed)
    if method == "clopper_pearson":
        return _by_rates(*sides, rng=rng, target=None, n_tests=1, **options)
    return _by_guesses(_differences(*sides, paired, rng), rng=rng, target=None, n_tests=1, **options)


def epsilon_of(
    outcome: Outcome,
    *,
    target: int | str = 0,
    delta: float = 0.0,
    confidence: float = 0.95,
    method: str = "one_run",
    threshold: float | Sequence[float] | str | None = None,
    guesses: float | Sequence[float] | None = None,
    groups: ArrayLike | None = None,
    shared_shadows: bool = True,
    seed: int = 0,
) -> EpsilonBound:
    """Bound epsilon from below by what an attack found in a game.

    Parameters
    ----------
    outcome : Outcome
        The attack's scores, and who was a member. Members are matched with non-members at random.
    target : int or {"best", "sum"}
        One target, fixed beforehand; the best of all of them, corrected by Bonferroni; or the guesses about one target
        of each pair summed up, in one run only, and only where targets are no shadow models of each other.
    delta, confidence, method, threshold, guesses, seed
        See `epsilon_lower_bound`.
    groups : array_like, shape (record,), optional
        Where members were drawn within groups of records, such as canaries and others, the group of each: records are
        matched within groups.
    shared_shadows : bool
        Whether scores of a target may have been made with the answers and members of another target. False for attacks
        without shadow models, and for games with shadow models of their own (`Game.with_shadows`).

    Returns
    -------
    EpsilonBound

    Raises
    ------
    ValueError
        If the bound would not be valid: if memberships of targets depend on each other but for those of a pair; if the
        other models' members tell those of the target; if guesses are to be summed over targets that were each other's
        shadow models, or over dependent rates.
    """
    options = _options(method, delta, confidence, threshold, guesses, seed)
    playing = np.flatnonzero(outcome.evaluated.any(1))
    if isinstance(target, str):
        choose("target", target, ("best", "sum"))
        targets = playing.tolist()
    elif target in playing:
        targets = [int(target)]
    else:
        raise ValueError(
            f"target={target!r} must be 'best', 'sum' or a target with scores: one of {playing}."
        )
    if target == "sum":
        if method == "clopper_pearson":
            raise ValueError(
                "target='sum' needs method='one_run' or 'one_run_gdp': rates of several targets have records in common."
            )
        if shared_shadows:
            raise ValueError(
                "target='sum' needs targets that are not each other's shadow models: take an attack without shadow "
                "models, or a game with others (Game.with_shadows), and say shared_shadows=False."
            )
        targets = [k for k in targets if outcome.partner[k] not in targets or k < outcome.partner[k]]
    found, all_differences = [], []
    for k in targets:
        rng = np.random.default_rng([seed, k])
        parts = _independent(outcome, k, groups, shared_shadows)
        if method == "clopper_pearson":
            inside, outside = (np.concatenate(side) for side in zip(*parts, strict=True))
            found.append(_by_rates(inside, outside, rng=rng, target=k, n_tests=len(targets), **options))
            continue
        differences = np.concatenate([_differences(*part, False, rng) for part in parts])
        all_differences.append(differences)
        if target != "sum":
            found.append(_by_guesses(differences, rng=rng, target=k, n_tests=len(targets), **options))
    if target == "sum":
        rng = np.random.default_rng(seed)
        return _by_guesses(np.concatenate(all_differences), rng=rng, target="sum", n_tests=1, **options)
    return max(found, key=lambda bound: bound.epsilon)


# ------------------------------------------------------------------------------------------- what is checked


def _scores(name: str, value: ArrayLike) -> np.ndarray:
    scores = as_numbers(name, value)
    if scores.ndim != 1 or not scores.size or np.isnan(scores).any():
        raise ValueError(
            f"{name} has shape {scores.shape}; it must hold one or more numbers, (record,), no NaN."
        )
    return scores


def _options(
    method: str, delta: float, confidence: float, threshold: Any, guesses: Any, seed: int
) -> dict[str, Any]:
    """Return what both public functions pass on, checked."""
    choose("method", method, METHODS)
    check_fraction("confidence", confidence)
    check_integer("seed", seed)
    check_number("delta", delta, low=0)
    if delta >= 1 or (delta == 0 and method == "one_run_gdp"):
        right = "greater than 0" if delta == 0 else "less than 1"
        raise ValueError(f"delta={delta!r} must be {right} for method={method!r}.")
    unused, value = ("guesses", guesses) if method == "clopper_pearson" else ("threshold", threshold)
    if value is not None:
        raise ValueError(f"{unused}={shown(value)} is not for method={method!r}: leave it out.")
    common = {"delta": delta, "confidence": confidence}
    if method == "clopper_pearson":
        if threshold is None or isinstance(threshold, str):
            choose("threshold", threshold or "split", ("split",))
            return common | {"thresholds": None}
        return common | {"thresholds": _scores("threshold", np.atleast_1d(as_array("threshold", threshold)))}
    fractions = np.atleast_1d(as_numbers("guesses", GUESSES if guesses is None else guesses))
    if fractions.ndim != 1 or not fractions.size or not ((fractions > 0) & (fractions <= 1)).all():
        raise ValueError(f"guesses={shown(guesses)} must be fractions of the pairs, above 0 and at most 1.")
    return common | {"fractions": fractions, "method": method}


def _independent(
    outcome: Outcome, k: int, groups: ArrayLike | None, shared_shadows: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return scores of members and non-members of a target, by group; refuse memberships that others tell."""
    member, partner = outcome.member, outcome.partner[k]
    others = np.array([j for j in range(len(member)) if j not in (k, partner)], int)
    keep = outcome.evaluated[k].copy()
    if partner >= 0 and not (member[k] ^ member[partner])[keep].all() and others.size:
        keep &= member[others].any(0)  # whether a record could be a member is not asked of the target itself
    own = member[:, keep].astype(float)
    if np.isnan(outcome.score[k, keep]).any():
        raise ValueError(f"target={k} has scores that are NaN among those that are evaluated.")
    centered = own - own.mean(1, keepdims=True)
    norm = np.maximum(np.sqrt((centered**2).sum(1)), 1e-9)
    alike = np.abs(centered[others] @ centered[k]) / (norm[others] * norm[k]) * np.sqrt(own.shape[1] - 1)
    if alike.size and alike.max() > TOO_ALIKE:
        raise ValueError(
            f"Targets {k} and {others[alike.argmax()]} have more or fewer members in common than chance explains: "
            "membership must be drawn independently for each model, or for each pair of models that `partner` names."
        )
    if shared_shadows and partner < 0 and others.size and np.ptp(own.sum(0)) == 0:
        raise ValueError(
            f"Every record is a member of {own[:, 0].sum():.0f} of the {len(member)} models, so the others tell who is "
            f"a member of target {k}: name the pairs (`partner`), or, if the attack looks at no other model, say "
            "shared_shadows=False."
        )
    group = np.zeros(member.shape[1], int) if groups is None else np.asarray(groups)
    if group.shape != keep.shape:
        raise ValueError(f"groups has shape {group.shape}; it must be (record,), {keep.shape}.")
    parts = (keep & (group == value) for value in np.unique(group[keep]))
    sides = [(outcome.score[k, part & member[k]], outcome.score[k, part & ~member[k]]) for part in parts]
    if not any(inside.size and outside.size for inside, outside in sides):
        raise ValueError(f"target={k} has no member and non-member to match among the records evaluated.")
    return sides


# --------------------------------------------------------------------------------------------------- by rates


def _by_rates(
    inside: np.ndarray,
    outside: np.ndarray,
    *,
    thresholds: np.ndarray | None,
    delta: float,
    confidence: float,
    rng: np.random.Generator,
    target: int | None,
    n_tests: int,
) -> EpsilonBound:
    """Bound by the rates of both errors at a threshold that was chosen elsewhere, or at the best of several."""
    alpha = (1 - confidence) / n_tests
    if thresholds is None:
        if min(inside.size, outside.size) < 2:
            raise ValueError(
                "threshold='split' needs at least two members and two non-members: give a threshold."
            )
        (inside, first), (outside, second) = (
            np.array_split(rng.permutation(side), 2) for side in (inside, outside)
        )
        thresholds = np.unique([*first, *second])
        bounds, _ = _at_thresholds(first, second, thresholds, delta, alpha)
        thresholds = thresholds[[bounds.argmax()]]
    elif np.isin(thresholds, both := np.concatenate([inside, outside])).any() and (
        np.unique(both).size > both.size / 2
    ):
        raise ValueError(
            f"threshold={thresholds} holds scores that it is used on; it must be chosen on other data, or beforehand: "
            "threshold='split' does so."
        )
    bounds, right = _at_thresholds(inside, outside, thresholds, delta, alpha / thresholds.size)
    best, n = bounds.argmax(), inside.size + outside.size
    found = float(bounds[best]), delta, np.nan, "clopper_pearson"
    return EpsilonBound(*found, n, n, int(right[best]), target, confidence)


def _at_thresholds(
    inside: np.ndarray, outside: np.ndarray, thresholds: np.ndarray, delta: float, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the bound at each threshold, and how many records are on their right side of it."""
    missed = np.searchsorted(np.sort(inside), thresholds, side="left")
    kept_out = np.searchsorted(np.sort(outside), thresholds, side="left")
    bounds = counts.by_rates(missed, inside.size, outside.size - kept_out, outside.size, delta, alpha)
    return bounds, inside.size - missed + kept_out


# ------------------------------------------------------------------------------------------------- by guesses


def _differences(
    inside: np.ndarray, outside: np.ndarray, paired: bool, rng: np.random.Generator
) -> np.ndarray:
    """Return by how much the member of each pair scores higher, (pair,), in an order that tells nothing."""
    if not paired:
        inside, outside = rng.permutation(inside), rng.permutation(outside)
    elif inside.size != outside.size:
        raise ValueError(
            f"paired=True needs as many in_scores as out_scores, not {inside.size} and {outside.size}."
        )
    n = min(inside.size, outside.size)
    order = rng.permutation(n)
    inside, outside = inside[:n][order], outside[:n][order]
    return np.subtract(inside, outside, where=inside != outside, out=np.zeros(n))  # also of two infinite ones


def _by_guesses(
    differences: np.ndarray,
    *,
    fractions: np.ndarray,
    method: str,
    delta: float,
    confidence: float,
    rng: np.random.Generator,
    target: int | str | None,
    n_tests: int,
) -> EpsilonBound:
    """Bound by how many guesses are right, at the best fraction of guesses."""
    n, alpha = differences.size, (1 - confidence) / (n_tests * fractions.size)
    order = np.argsort(-np.abs(differences), kind="stable")
    right = np.cumsum(np.where(differences == 0, rng.random(n) < 0.5, differences > 0)[order])
    found = []
    for made in np.maximum(1, (fractions * n * (1 + 1e-12)).astype(int)).tolist():
        seen = n, made, int(right[made - 1])
        mu = counts.gaussian_mu(*seen, alpha) if method == "one_run_gdp" else np.nan
        epsilon = (
            counts.gaussian_epsilon(mu, delta)
            if method == "one_run_gdp"
            else counts.one_run(*seen, delta, alpha)
        )
        found.append(EpsilonBound(epsilon, delta, mu, method, *seen, target, confidence))
    return max(found, key=lambda bound: bound.epsilon)
