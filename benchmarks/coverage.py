"""Coverage, width and power of the intervals: `python benchmarks/coverage.py [--games 400] [--csv FILE]`.

Games are made of scores drawn here, in five cases: **a** no signal; **aa** the same effect on every member; **b** 3 %
of the records very exposed; **c** and **d** as aa and b, with an effect of each model as a whole (lognormal, sigma
0.5). Records are of unequal difficulty, the same in all models. An **e**xample for power has no such difficulties, an
effect on every member, and 5 % of the records more exposed. Models come in complementary pairs. "Width" is relative to
an interval of the true standard deviation, 3.92 of them wide. The truth is the mean over all games of a case; of
differences of two games that are alike it is 0. "Settled" is the fraction of differences whose interval leaves out 0.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import numpy as np
import pandas as pd
from tqdm import tqdm

from mialab.attacks.thresholds import shadow_thresholds
from mialab.metrics import Outcome, strongest
from mialab.training.membership import membership

CASES = ("a", "aa", "b", "c", "d")
METRICS = ("auc", "tpr@0.01", "tpr@0.001", "balanced_accuracy", "recall", "precision", "f1")
MODEL_SIGMA, EXPOSED, FALSE_ALARM_RATE = 0.5, 0.03, 0.001


def outcomes(
    case: str, n_models: int, n_records: int, seed: int, weaker: tuple[float, ...] = (0.0,)
) -> list[Outcome]:
    """Draw games of the same records and members, each with its own models, one for each weakening of the effect."""
    rng = np.random.default_rng([seed, n_models, n_records, *map(ord, case)])
    member, partner = membership(n_models, n_records, seed), np.arange(n_models) ^ 1
    difficulty, effect = rng.standard_normal(n_records) * (case != "e"), np.zeros(n_records)
    if case in ("aa", "c"):
        effect += 0.3
    elif case in ("b", "d"):
        effect = np.where(rng.random(n_records) < EXPOSED, 3.0, 0.1)
    elif case == "e":
        effect = np.where(rng.random(n_records) < 0.05, 2.75, 0.42)
    found = []
    for weak in weaker:
        of_model = np.ones(n_models)
        if case in ("c", "d"):
            of_model = rng.lognormal(-(MODEL_SIGMA**2) / 2, MODEL_SIGMA, n_models)
        score = (
            difficulty + rng.standard_normal(member.shape) + member * effect * (1 - weak) * of_model[:, None]
        )
        found.append(outcome(score, member, partner))
    return found


def outcome(score: np.ndarray, member: np.ndarray, partner: np.ndarray, name: str = "drawn") -> Outcome:
    """Return scores with the decisions of an attacker who picks thresholds on the other models."""
    excluded = np.repeat(partner[:, None], member.shape[1], axis=1)
    threshold = shadow_thresholds(score, member, excluded, np.zeros(member.shape[1], int))
    return Outcome(score, np.ones_like(member), score >= threshold, member, partner, name)


def pooled(case: str, n_models: int, n_records: int, seed: int) -> np.ndarray:
    """Return value and ends, (metric, 3), of one game."""
    (one,) = outcomes(case, n_models, n_records, seed)
    return np.array([one.interval(metric) for metric in METRICS])


def target(case: str, n_models: int, n_records: int, seed: int) -> np.ndarray:
    """Return value and ends, (metric, 3), of the first target of one game; decisions are given the threshold."""
    (one,) = outcomes(case, n_models, n_records, seed)
    found = [one.cells.targets(metric) for metric in METRICS]
    intervals = np.array([[each.value[0], *(end[0] for end in each.interval())] for each in found])
    intervals[[metric in ("recall", "precision", "f1") for metric in METRICS]] = np.nan
    return intervals


def over_targets(case: str, n_models: int, n_records: int, seed: int) -> np.ndarray:
    """Return value and ends, (metric, 3), of the mean over the targets of one game."""
    (one,) = outcomes(case, n_models, n_records, seed)
    return np.array([one.cells.targets(metric).mean.interval() for metric in METRICS])


def games(case: str, n_models: int, n_records: int, seed: int, *, weak: float = 0.0) -> np.ndarray:
    """Return difference and ends, (metric, 3), of two games with the same members."""
    first, second = outcomes(case, n_models, n_records, seed, (0.0, weak))
    return np.array([first.minus(second, metric) for metric in METRICS])


def attacks(case: str, n_models: int, n_records: int, seed: int) -> np.ndarray:
    """Return difference and ends, (metric, 3), of two attacks on one game, the second with more noise."""
    (first,) = outcomes(case, n_models, n_records, seed)
    noise = np.random.default_rng([seed, 1]).standard_normal(first.score.shape)
    second = outcome(first.score + 0.5 * noise, first.member, first.partner)
    return np.array([first.minus(second, metric) for metric in METRICS])


def best_of(n_attacks: int, n_models: int, n_records: int, seed: int) -> np.ndarray:
    """Return whether the strongest attack's interval leaves out 0.5 on noise: its own, and the max-statistic's."""
    rng = np.random.default_rng([seed, n_attacks])
    member, partner = membership(n_models, n_records, seed), np.arange(n_models) ^ 1
    common = rng.standard_normal(member.shape)
    every = [
        Outcome(
            common + rng.standard_normal(member.shape), np.ones_like(member), member, member, partner, str(i)
        )
        for i in range(n_attacks)
    ]
    found = [one.estimate("auc") for one in every]
    best = max(found, key=lambda estimate: estimate.value)
    return np.array([best.interval().low > 0.5, strongest(found).low > 0.5])


def false_alarms(n_models: int, n_records: int, seed: int) -> np.ndarray:
    """Count false alarms and chances for them, (raw and calibrated, 2, record), at a pooled FPR of 0.1 %.

    Records differ in difficulty and in spread, the same in all games.
    """
    fixed = np.random.default_rng(0)
    difficulty, spread = 2 * fixed.standard_normal(n_records), fixed.lognormal(0, 0.5, n_records)
    rng = np.random.default_rng([seed, 5])
    member, partner = membership(n_models, n_records, seed), np.arange(n_models) ^ 1
    score = difficulty + spread * (rng.standard_normal(member.shape) + 0.5 * member)
    cells = Outcome(score, np.ones_like(member), member, member, partner, "drawn").cells
    counts = []
    for one in (cells, cells.calibrated):
        counted = one.evaluated & ~member
        counts.append(((one.score >= one.curve.at(FALSE_ALARM_RATE).threshold) & counted).sum(0))
        counts.append(counted.sum(0))
    return np.array(counts).reshape(2, 2, n_records)


def describe(found: np.ndarray, truth: np.ndarray | None = None) -> Iterator[dict[str, object]]:
    """Summarize intervals (game, metric, 3), by metric."""
    for i, metric in enumerate(METRICS):
        value, low, high = found[:, i].T
        if not np.isfinite(value).any():
            continue
        aim = float(value.mean()) if truth is None else float(truth[i])
        yield {
            "metric": metric,
            "coverage": np.mean((low <= aim) & (aim <= high)),
            "width": np.mean(high - low) / (3.92 * value.std()),
            "settled": np.mean((low > 0) | (high < 0)),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--games", type=int, default=400, help="simulated games of each cell")
    parser.add_argument("--csv", type=Path, help="where to write the table")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    zeros = np.zeros(len(METRICS))
    cells = [
        *(("one game", case, k, n, partial(pooled, case, k, n), None) for case in CASES for k, n in SIZES),
        *(("one target", case, 16, 2500, partial(target, case, 16, 2500), None) for case in ("aa", "b")),
        *(("mean over targets", c, 16, 2500, partial(over_targets, c, 16, 2500), None) for c in ("b", "d")),
        *(("two games alike", case, 16, 1000, partial(games, case, 16, 1000), zeros) for case in CASES),
        *(("two attacks", case, 16, 1000, partial(attacks, case, 16, 1000), None) for case in ("aa", "b")),
        ("20 % weaker", "e", 16, 1000, partial(games, "e", 16, 1000, weak=0.2), None),
    ]
    rows = []
    with ProcessPoolExecutor(options.workers) as pool, tqdm(total=len(cells) * options.games) as bar:
        for kind, case, k, n, simulate, truth in cells:
            found = []
            for one in pool.map(simulate, range(options.games), chunksize=5):
                found.append(one)
                bar.update()
            about = {"of": kind, "case": case, "models": k, "records": n}
            rows += [about | row for row in describe(np.array(found), truth)]
        best = np.mean(list(pool.map(partial(best_of, 25, 16, 500), range(options.games))), axis=0)
        alarms = np.sum(list(pool.map(partial(false_alarms, 16, 1000), range(options.games))), axis=0)
    table = pd.DataFrame(rows)
    greatest = (alarms[:, 0] / alarms[:, 1]).max(1)
    notes = {
        "best of 25 attacks on noise, own interval above 0.5": best[0],
        "best of 25 attacks on noise, max-statistic interval above 0.5": best[1],
        "greatest FPR of a record at a pooled FPR of 0.1 %": greatest[0],
        "greatest FPR of a record, calibrated": greatest[1],
    }
    table = pd.concat([table, pd.DataFrame({"of": list(notes), "coverage": list(notes.values())})])
    print(table.to_string(index=False, float_format="%.3f", na_rep=""))
    if options.csv:
        import common  # beside this file, where a script finds it

        table.to_csv(options.csv, index=False, float_format="%.4f", lineterminator="\n")
        common.state_checksums(options.csv)
    return 0


#: Models and records of the games that are measured by themselves.
SIZES = ((16, 1000), (32, 1000), (16, 2500))

if __name__ == "__main__":
    raise SystemExit(main())
