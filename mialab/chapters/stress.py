"""The stress chapter: canaries of several kinds, attackers who do not know the defense, and who is hurt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.linear_model import LogisticRegression

from mialab._validation import check_integer, check_number
from mialab.auditing import conditions, difference, epsilon_bound
from mialab.auditing.equal import strongest_attack
from mialab.auditing.tables import AuditTable
from mialab.auditing.taxonomy import Attacking
from mialab.classifiers import game as classifiers
from mialab.data.pool import Pool
from mialab.defenses.base import DEFENSES, Defense
from mialab.games.base import Game
from mialab.metrics.intervals import Interval, clopper_pearson
from mialab.metrics.outcomes import Outcome
from mialab.metrics.rates import check_fraction, rate_name
from mialab.training.options import Training

#: Kinds of canaries, see `with_canaries`.
CANARIES = ("mislabeled", "out of distribution", "duplicated", "adversarial")

#: What an attacker who knows the defense turns to; against all others, to `DEFAULT`. Attacks on pairs of records that
#: training mixed are not among them: they answer an easier question.
ADAPTIVE = {
    "hamp": ("ranking", "label_only", "lira_augmented"),
    "memguard": ("lira_pooled", "ranking", "label_only", "lira_augmented"),
    "dynanoise": ("lira_pooled", "ranking", "label_only", "lira_augmented"),
    "confidence_masking": ("lira_pooled", "ranking", "label_only"),
}
DEFAULT = ("lira_pooled", "ranking")


#: TPR at 0.1 % FPR on CIFAR-10 as Aerni et al. (2024) have it in the results stored with their code: with ordinary
#: records and LiRA, as defenses are usually evaluated, and with their strongest canaries and an adaptive attack.
PUBLISHED = {
    "none": (0.134, 1.0),
    "hamp": (0.021, 0.285),
    "relaxloss": (0.022, 0.741),
    "selena": (0.068, 0.527),
    "dp_sgd": (0.007, 0.027),
}


def canary_rates(tables: Mapping[str, Mapping[str, AuditTable]], fpr: float) -> pd.DataFrame:
    """Lay out what the strongest attacker who sees scores finds of each kind of canaries, beside what was published.

    Parameters
    ----------
    tables : dict of str to dict of str to AuditTable
        Audits by defense and kind of canaries.
    fpr : float
        False-positive rate, one of those of the audits.

    Returns
    -------
    DataFrame
        A row a defense: the TPR for each kind with its interval, or "not resolvable"; `PUBLISHED` as text, or "-".
    """
    rows = {}
    for name, of_kinds in tables.items():
        row = {}
        for kind, table in of_kinds.items():
            found = table.attrs["strongest"].get(rate_name("tpr", fpr), {}).get("scores")
            row[kind] = f"{Interval(*found[1:4]):.3f}" if found else "not resolvable"
        plain, exposed = PUBLISHED.get(name, (None, None))
        row["published"] = "-" if plain is None else f"{plain:.3f}, canaries {exposed:.3f}"
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def play(pool: Pool, defense: str | Defense, *, training: Training, **options: Any) -> Game:
    """Play a game as `mialab.play` does, and keep a checkpoint near its end, which shows whether training had ended.

    Defenses with a procedure of their own keep none.

    Parameters
    ----------
    pool, defense, training, **options
        As of `mialab.play`.
    """
    made = DEFENSES.make(defense)
    return classifiers.play(
        pool, defense=made, training=training if made.uses("fit") else conditions.watched(training), **options
    )


def with_canaries(pool: Pool, n: int, *, seed: int = 0) -> tuple[Pool, dict[str, np.ndarray]]:
    """Turn some records of a pool into canaries of each kind.

    They may be trained on or not, as all other records. *Mislabeled* ones have a wrong label, uniform over the other
    classes. *Out of distribution*: the features of a record, pixels for instance, are in a random order of its own.
    *Duplicated* ones are copies of another canary with the same wrong label, so that a model may know a record without
    having been given it. *Adversarial* ones are moved, by the least step along the gradient of a linear classifier of
    the test part, to where it is wrong, as far as the range of the features allows; they keep their label. The kinds
    are those of Aerni, Zhang and Tramer (CCS 2024); how each is made is ours.

    Parameters
    ----------
    pool : Pool
        The records; its test part trains the linear classifier.
    n : int
        Canaries of each kind, even.
    seed : int
        Of the choice of records and of wrong labels.

    Returns
    -------
    pool : Pool
        The same with canaries.
    masks : dict of str to (record,) bool
        Which records are canaries of each kind; ``"ordinary"`` are all others.

    Raises
    ------
    ValueError
        If n is odd or less than 2, there are too few records, or the pool has no test part.
    """
    check_integer("n", n, low=2)
    size = len(pool.y)
    if n % 2:
        raise ValueError(f"n={n} must be even: duplicates come in pairs.")
    if len(CANARIES) * n > size // 2:
        raise ValueError(
            f"n={n} canaries of each of {len(CANARIES)} kinds are more than half of {size} records."
        )
    if not len(pool.y_test):
        raise ValueError(
            "the pool has no test part, which adversarial canaries are made with: load one with test=."
        )
    rng = np.random.default_rng(seed)
    chosen = dict(
        zip(CANARIES, rng.permutation(size)[: len(CANARIES) * n].reshape(len(CANARIES), n), strict=True)
    )
    x, y = pool.x.copy(), pool.y.copy()

    def wrong(labels: np.ndarray) -> np.ndarray:
        return (labels + rng.integers(1, pool.n_classes, len(labels))) % pool.n_classes

    rows = chosen["mislabeled"]
    y[rows] = wrong(y[rows])
    flat = x.reshape(size, -1)  # a view
    rows = chosen["out of distribution"]
    flat[rows] = rng.permuted(flat[rows], axis=1)
    first, second = chosen["duplicated"].reshape(2, -1)
    y[first] = wrong(y[first])
    flat[second], y[second] = flat[first], y[first]
    rows = chosen["adversarial"]
    flat[rows] = _moved(pool, flat[rows], y[rows])
    masks = {kind: np.isin(np.arange(size), rows) for kind, rows in chosen.items()}
    masks["ordinary"] = ~np.any(list(masks.values()), axis=0)
    return replace(pool, name=f"{pool.name}-canaries", x=x, y=y), masks


def _moved(pool: Pool, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return records just beyond the nearest border of a linear classifier, within the range of the features."""
    low, high = float(pool.x.min()), float(pool.x.max())
    scale = max(high - low, 1e-9)
    linear = LogisticRegression(max_iter=300).fit(
        pool.x_test.reshape(len(pool.y_test), -1) / scale, pool.y_test
    )
    if len(linear.classes_) < 3:
        weights, bias = (
            np.stack([-linear.coef_[0], linear.coef_[0]]) / 2,
            np.array([-1, 1]) * linear.intercept_ / 2,
        )
    else:
        weights, bias = linear.coef_, linear.intercept_
    place = {int(label): i for i, label in enumerate(linear.classes_)}
    moved = np.asarray(x, np.float64) / scale
    for i, label in enumerate(y.tolist()):
        if label not in place:
            continue
        margin = weights @ moved[i] + bias
        apart = weights - weights[place[label]]
        gap = margin[place[label]] - margin
        norm = (apart**2).sum(1)
        far = np.maximum(gap, 0) / np.sqrt(np.maximum(norm, 1e-12))
        far[place[label]] = np.inf
        best = int(np.argmin(far))
        step = np.maximum(gap, 0) / np.maximum(norm, 1e-12)
        moved[i] += 1.5 * step[best] * apart[best] + 1e-6
    result = np.clip(moved * scale, low, high)
    return (
        np.rint(result).astype(x.dtype)
        if x.dtype.kind in "ui" or pool.kind == "binary"
        else result.astype(x.dtype)
    )


def adaptive(
    targets: Mapping[str, Game],
    shadows: Mapping[str, Game],
    *,
    naive: str = "lira_pooled",
    metric: str = "auc",
    undefended: str = "none",
) -> dict[str, tuple[Interval, str, Interval, Interval]]:
    """Compare, for each defense, an attacker who does not know of it with one who does.

    The first has undefended shadow models; the second trains them with the defense, and turns to the attack that is
    strongest among the shadow models themselves, so that its choice has seen no target.

    Parameters
    ----------
    targets : dict of str to Game
        By the label of the defense, with that of the undefended models.
    shadows : dict of str to Game
        The same with other memberships.
    naive : str
        Attack of the first.
    metric : str
        As of `mialab.difference`.
    undefended : str
        Label of the undefended models.

    Returns
    -------
    dict of str to tuple
        For each defense: the first one's strength, the second one's attack and its strength, and how much stronger
        the second is, all with intervals.
    """
    found = {}
    for label, game in targets.items():
        unaware = game.with_shadows(shadows[undefended])
        aware = game.with_shadows(shadows[label])
        attacks = ADAPTIVE.get(str(game.attrs.get("defense")), DEFAULT)
        attack = strongest_attack(shadows[label], attacks, metric)
        first = unaware.outcome(naive).estimate(metric).interval()
        second = aware.outcome(attack).estimate(metric).interval()
        apart = difference((aware, attack), (unaware, naive), metric=metric)
        found[label] = first, str(attack), second, apart
    return found


def exposure(outcome: Outcome, *, fpr: float = 0.01, level: float = 0.05) -> pd.DataFrame:
    """Measure the risk of every record: how often an attack names it where it is a member, and where it is not.

    The threshold is the one at which the attack names a fraction ``fpr`` of all non-members, over all targets.

    Parameters
    ----------
    outcome : Outcome
        Of an attack on a game, from `Game.outcome`.
    fpr : float
        False-positive rate of the threshold.
    level : float
        False-discovery rate of ``exposed``.

    Returns
    -------
    DataFrame
        A row a record: ``named``, the fraction of models with it as a member that it is named for, with ``low`` and
        ``high`` (Clopper-Pearson, 95 %); ``named wrongly``, the same of models without it; ``risk``, their difference;
        ``p`` of Fisher's exact test of the two; ``exposed``, whether the difference is significant after the
        correction of Benjamini and Hochberg for the number of records.

    Raises
    ------
    ValueError
        If a rate is not a fraction, or no threshold is found.
    """
    check_fraction("fpr", fpr)
    check_fraction("level", level)
    scored, member = outcome.evaluated, outcome.member
    out = np.sort(outcome.score[scored & ~member])
    if not len(out):
        raise ValueError("the outcome has no non-member that is evaluated.")
    threshold = out[max(0, len(out) - 1 - int(fpr * len(out)))]
    named = scored & (outcome.score > threshold)
    n_in, n_out = (scored & member).sum(0), (scored & ~member).sum(0)
    k_in, k_out = (named & member).sum(0), (named & ~member).sum(0)
    low, high = clopper_pearson(k_in, n_in)
    p = stats.hypergeom.sf(k_in - 1, n_in + n_out, k_in + k_out, n_in)
    rate_in, rate_out = k_in / np.maximum(n_in, 1), k_out / np.maximum(n_out, 1)
    return pd.DataFrame(
        {
            "named": rate_in,
            "low": low,
            "high": high,
            "named wrongly": rate_out,
            "risk": rate_in - rate_out,
            "p": p,
            "exposed": stats.false_discovery_control(p) <= level,
        }
    )


def stability(first: pd.DataFrame, second: pd.DataFrame, *, part: float = 0.1) -> dict[str, float]:
    """Say how well two measurements of the same records agree on who is most at risk.

    Parameters
    ----------
    first, second : DataFrame
        From `exposure`, of games with other memberships and first weights.
    part : float
        Fraction of the records that are the most exposed ones.

    Returns
    -------
    dict of str to float
        ``rank correlation`` (Spearman) of the risks; of the most exposed records of each, ``both`` and ``either``,
        their numbers in the intersection and in the union, and ``both by chance``, what the first would be for
        unrelated sets.
    """
    check_fraction("part", part)
    if len(first) != len(second):
        raise ValueError(
            f"the measurements have {len(first)} and {len(second)} records; they must be of the same ones."
        )
    n = max(1, round(part * len(first)))
    tops = [
        set(np.argsort(-table["risk"].to_numpy(), kind="stable")[:n].tolist()) for table in (first, second)
    ]
    rank = stats.spearmanr(first["risk"], second["risk"]).statistic
    return {
        "rank correlation": float(rank) if np.isfinite(rank) else 0.0,
        "both": float(len(tops[0] & tops[1])),
        "either": float(len(tops[0] | tops[1])),
        "both by chance": n * n / len(first),
    }


def by_group(risk: Sequence[float] | np.ndarray, group: np.ndarray) -> pd.DataFrame:
    """Compare the mean risk of groups of records, such as classes, with what noise does to means taken out.

    Parameters
    ----------
    risk : (record,) float
        Risk of each record.
    group : (record,) int
        Its group; those with fewer than two records are left out.

    Returns
    -------
    DataFrame
        A row a group: ``records``, ``risk`` (mean) with ``low`` and ``high`` (95 %), and ``shrunken``: the mean moved
        toward that of all groups as far as noise explains their spread (empirical Bayes, by moments: DerSimonian and
        Laird 1986). ``attrs``: ``p`` of all groups being alike (Cochran's Q), and ``tau``, the spread beyond noise.
    """
    risk, group = np.asarray(risk, np.float64), np.asarray(group)
    rows = {}
    for g in np.unique(group):
        own = risk[group == g]
        if len(own) >= 2:
            rows[g] = len(own), own.mean(), max(own.std(ddof=1) / np.sqrt(len(own)), 1e-9)
    if len(rows) < 2:
        raise ValueError("group must have at least two groups of two records.")
    n, mean, error = (np.array(column, np.float64) for column in zip(*rows.values(), strict=True))
    weight = error**-2.0
    center = (weight * mean).sum() / weight.sum()
    q = float((weight * (mean - center) ** 2).sum())
    spread = max(0.0, (q - (len(n) - 1)) / (weight.sum() - (weight**2).sum() / weight.sum()))
    both = 1 / (error**2 + spread)
    center = (both * mean).sum() / both.sum()
    half = stats.t.isf(0.025, n - 1) * error
    table = pd.DataFrame(
        {
            "records": n.astype(int),
            "risk": mean,
            "low": mean - half,
            "high": mean + half,
            "shrunken": center + (spread / (spread + error**2)) * (mean - center),
        },
        index=pd.Index(list(rows), name="group"),
    )
    table.attrs = {"p": float(stats.chi2.sf(q, len(n) - 1)), "tau": float(np.sqrt(spread))}
    return table


def epsilons(games: Mapping[str, Game], attack: Attacking = "loss", *, delta: float = 1e-5) -> pd.DataFrame:
    """Bound epsilon of each defense from below, beside what is proven.

    Guesses about all targets are summed up, so that the attack must look at no other model. The bound is for replacing
    a record: what is proven for adding or removing one counts twice, with a delta ``1 + exp(epsilon)`` times as large,
    which the bound then has as well. Bounds beside a proof hold at once with 95 % (Bonferroni), all others each.

    Parameters
    ----------
    games : dict of str to Game
        By label.
    attack : str or Attack
        Without shadow models.
    delta : float
        Of the bound, where nothing is proven.

    Returns
    -------
    DataFrame
        A row a defense: ``epsilon`` and ``mu`` from below (95 %) at ``delta``, ``proven`` (NaN where nothing is, or
        nothing with a delta below 1/2), and ``broken``, whether the bound is above it.
    """
    check_number("delta", delta, above=0, high=1)
    reports = [game.attrs.get("report") or {} for game in games.values()]
    n_proven = sum("epsilon_prv" in report or "epsilon_rdp" in report for report in reports)
    rows = {}
    for label, game in games.items():
        report = game.attrs.get("report") or {}
        found = [float(report[key]) for key in ("epsilon_prv", "epsilon_rdp") if report.get(key) is not None]
        proven, at = np.nan, delta
        if found and np.isfinite(min(found)):
            doubled = (1 + np.exp(min(*found, 100.0))) * float(report["delta"])
            if doubled < 0.5:
                proven, at = 2 * min(found), max(delta, doubled)
        confidence = 1 - 0.05 / n_proven if found else 0.95
        options: dict[str, Any] = {
            "target": "sum",
            "method": "one_run_gdp",
            "delta": at,
            "confidence": confidence,
        }
        bound = epsilon_bound(game, attack, **options)
        rows[label] = bound.epsilon, bound.mu, at, proven, bool(bound.epsilon > proven)
    return pd.DataFrame.from_dict(
        rows, orient="index", columns=["epsilon", "mu", "delta", "proven", "broken"]
    )
