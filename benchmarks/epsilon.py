"""Lower bounds on epsilon against mechanisms of known epsilon: how often they exceed it, and how close they come.

    python benchmarks/epsilon.py [--games 300] [--json FILE]

Pairs: of each of n pairs of records a fair coin chooses the member; the coin is told by randomized response with
epsilon 1, or with Gaussian noise (epsilon 4, delta 1e-5). Halves: a random half of 2 n records are the members of each
of 8 models, the other half those of its partner; each record's membership is told by randomized response with epsilon
1/2, or with Gaussian noise, so that replacing a record, which changes two of them, has the same epsilon. Bounds are of
one target, the best of all, or of the sum over one of each pair.

All bounds have confidence .95: at most 5 % of them exceed the truth, but for chance; `p` is the probability that so
many do where each does with a chance of 5 %. Where the number of right guesses is binomial, that chance is computed:
`exact chance`. Seconds are those of a bound; equal counts are computed once.
"""

from __future__ import annotations

import bisect
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import common
import numpy as np
from common import Row
from scipy import optimize, special, stats

from mialab import _progress
from mialab.metrics import EpsilonBound, Outcome, counts, epsilon_lower_bound, epsilon_of
from mialab.training.membership import membership

N_MODELS = 8
DELTA = 1e-5
#: Of Gaussian privacy with epsilon 4 at that delta.
MU = optimize.brentq(lambda mu: counts.gaussian_epsilon(mu, DELTA) - 4, 0.1, 3)
TRUTH = {"response": 1.0, "Gaussian": 4.0}
GRID = {"response": 0.0, "Gaussian": (-2.0, -1.0, 0.0, 1.0, 2.0)}


def told(mechanism: str, member: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Return scores of flags that were told by a mechanism, with a fraction of its epsilon or mu."""
    sign = np.where(member, 1.0, -1.0)
    if mechanism == "response":
        return np.where(rng.random(member.shape) < special.expit(scale * TRUTH[mechanism]), sign, -sign)
    return scale * MU / 2 * sign + rng.normal(size=member.shape)


def pairs(mechanism: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return scores of members and of non-members whose differences tell each pair's coin."""
    scores = told(mechanism, np.ones(n, bool), 1.0, rng)
    return scores, -scores


def halves(mechanism: str, n: int, rng: np.random.Generator) -> Outcome:
    """Return what an attack found that sees each record's membership through a mechanism."""
    member = membership(N_MODELS, 2 * n, int(rng.integers(2**31)))
    scale = 0.5 if mechanism == "response" else 1 / np.sqrt(2)
    return Outcome(
        told(mechanism, member, scale, rng),
        evaluated=np.ones(member.shape, bool),
        predicted_member=member,
        member=member,
        partner=np.arange(N_MODELS) ^ 1,
        attack=mechanism,
    )


def methods(mechanism: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the game, a name and the options of each bound."""
    one = {"guesses": 1.0 if mechanism == "response" else 0.1}
    delta = {"delta": DELTA} if mechanism == "Gaussian" else {}
    options = {
        "Clopper-Pearson, fixed thresholds": {"method": "clopper_pearson", "threshold": GRID[mechanism]},
        "Clopper-Pearson, split": {"method": "clopper_pearson"},
        "one run": {"method": "one_run", **one},
        "one run, best of 4 fractions": {"method": "one_run"},
    }
    if delta:
        options["one run, GDP"] = {"method": "one_run_gdp", **one}
        options["one run, GDP, best of 4 fractions"] = {"method": "one_run_gdp"}
    for name, given in options.items():
        yield "pairs", name, {"paired": True, **delta, **given}
    if mechanism == "response":  # half of the pairs have equal scores, and tell nothing
        options["one run"] = {"method": "one_run", "guesses": 0.5}
    for name, given in options.items():
        if "best" not in name and "split" not in name:
            yield "halves", name, {**delta, **given}
    for target, more in {"best": {}, "sum": {"shared_shadows": False}}.items():
        for name in ("one run", "one run, GDP") if delta else ("one run",):
            text = {"best": f"{name}, best of {N_MODELS} targets", "sum": f"{name}, sum over targets"}[target]
            yield "halves", text, {**delta, **options[name], **more, "target": target}


def bounds(
    mechanism: str, n: int, games: int, played: Callable[[int], None]
) -> Iterator[tuple[str, str, list[float], float]]:
    """Yield the game, the name, the bounds of all games, and the seconds they took, of each method."""
    wanted = list(methods(mechanism))
    found: list[list[float]] = [[] for _ in wanted]
    seconds = np.zeros(len(wanted))
    for i in range(games):
        rng = np.random.default_rng([i, n])
        scores, outcome = pairs(mechanism, n, rng), halves(mechanism, n, rng)
        for j, (game, _, options) in enumerate(wanted):
            began = time.perf_counter()
            bound: EpsilonBound = (
                epsilon_lower_bound(*scores, seed=i, **options)
                if game == "pairs"
                else epsilon_of(outcome, seed=i, **options)
            )
            seconds[j] += time.perf_counter() - began
            found[j].append(bound.epsilon)
        played(1)
    for (game, name, _), values, took in zip(wanted, found, seconds, strict=True):
        yield game, name, values, took


def exact_chance(n: int) -> float:
    """Return the chance that one run's bound exceeds the truth where each of n coins is told by randomized response."""
    truth = TRUTH["response"]
    least = bisect.bisect_right(range(n + 1), truth, key=lambda right: counts.one_run(n, n, right, 0.0, 0.05))
    return float(stats.binom.sf(least - 1, n, special.expit(truth)))


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--games", type=int, default=300, help="games of each kind")
    options = parser.parse_args()
    games, sizes = (10, (60,)) if options.quick else (options.games, (200, 1000, 5000))
    rows, table = [], []
    with _progress.bar(len(TRUTH) * len(sizes) * games, "games of known epsilon") as played:
        for mechanism, truth in TRUTH.items():
            for n in sizes:
                for game, name, values, seconds in bounds(mechanism, n, games, played):
                    above = sum(value > truth for value in values)
                    exact = (mechanism, game, name) == ("response", "pairs", "one run")
                    rows.append(Row(f"{mechanism}, {game}, n = {n:,}", name, round(seconds / games, 6)))
                    table.append(
                        {
                            "mechanism": mechanism,
                            "epsilon": truth,
                            "game": game,
                            "n": n,
                            "bound": name,
                            "mean": round(float(np.mean(values)), 3),
                            "mean / epsilon": round(float(np.mean(values)) / truth, 3),
                            "above epsilon": round(above / games, 4),
                            "p": round(float(stats.binom.sf(above - 1, games, 0.05)), 4),
                            "exact chance": round(exact_chance(n), 4) if exact else None,
                            "games": games,
                        }
                    )
    common.report(rows, options.json, bounds=table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
