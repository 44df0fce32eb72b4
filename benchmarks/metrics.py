"""Cost of the measures and their intervals: `python benchmarks/metrics.py [--json FILE]`, one thread, CPU seconds."""

import os
import sys

# One thread has to be set before NumPy is loaded: hence the late imports (E402).
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import common
import numpy as np
from common import Row
from sklearn.metrics import roc_auc_score, roc_curve

from mialab.metrics import Cells
from mialab.metrics.rates import Curve

METRICS = ("auc", "balanced_accuracy", "tpr@0.001", "tpr@0.01", "tnr@0.001", "precision", "recall", "f1")
CALIBRATED = ("calibrated_tpr@0.001", "calibrated_tpr@0.01")
#: So many attacks on so many targets and records are audited in the largest chapters.
ATTACKS = 45


def simulated_game(n_models, n_records, seed=0):
    """Scores of a weak attack on complementary pairs of models: (score, member, partner)."""
    rng = np.random.default_rng(seed)
    first = rng.permuted(np.tile(np.arange(n_records) < n_records // 2, (n_models // 2, 1)), axis=1)
    member = np.stack([first, ~first], axis=1).reshape(n_models, n_records)
    return rng.normal(size=member.shape) + 0.4 * member, member, np.arange(n_models) ^ 1


def as_cells(game):
    """Return a fresh sample of all pairs, with decisions."""
    score, member, partner = game
    return Cells(score, member, partner=partner, predicted_member=score > 0.2)


def values(game):
    """Measure alone: sort the scores, and read the curve."""
    score, member, _ = game
    for s, m in ((score.ravel(), member.ravel()), *zip(score, member, strict=True)):
        curve = Curve(s, m)
        curve.auc, curve.at(0.001), curve.at(0.01)
        Curve(-s, ~m).at(0.001)


def pooled(game, names=METRICS):
    """Measure all pairs, with intervals."""
    cells = as_cells(game)
    return [cells.estimate(name).interval() for name in names]


def targets(game):
    """Measure each target, with intervals."""
    cells = as_cells(game)
    return [
        part.estimate(name).interval()
        for part in map(cells.of_target, range(len(game[0])))
        for name in METRICS
        if part.resolvable(name)
    ]


def sklearn_bootstrap(score, member, n_resamples=2):
    """The plain loop: draw records, sort again, read the curve."""
    rng, inside, outside = np.random.default_rng(0), np.flatnonzero(member), np.flatnonzero(~member)
    for _ in range(n_resamples):
        drawn = np.concatenate([rng.choice(inside, len(inside)), rng.choice(outside, len(outside))])
        fpr, tpr, _ = roc_curve(member[drawn], score[drawn])
        [tpr[np.searchsorted(fpr, f, side="right") - 1] for f in (0.001, 0.01)]
        roc_auc_score(member[drawn], score[drawn])


def main() -> int:
    options = common.parser(__doc__).parse_args()
    models, records, repeats = (8, 200, 1) if options.quick else (64, 10_000, 3)
    game = simulated_game(models, records)
    name = f"{models} targets x {records:,} records, one attack"
    jobs = {
        (name, "values alone"): lambda: values(game),
        (name, f"pooled: {len(METRICS)} measures with intervals"): lambda: pooled(game),
        (name, "pooled: calibrated rates with intervals"): lambda: pooled(game, CALIBRATED),
        (name, "every target: measures with intervals"): lambda: targets(game),
        (name, "scikit-learn, one target, 2 of 1,000 resamples"): lambda: sklearn_bootstrap(
            game[0][0], game[1][0]
        ),
    }
    rows = [Row(*names, round(common.cpu_seconds(job, repeats), 4)) for names, job in jobs.items()]
    alone, *parts = (row.seconds for row in rows[:4])
    whole = [
        {
            "workload": f"{ATTACKS} attacks",
            "CPU s, values": ATTACKS * alone,
            "CPU s, all": ATTACKS * sum(parts),
        }
        | {"CPU s, intervals": ATTACKS * (sum(parts) - alone)}
    ]
    common.report(rows, options.json, whole_audit=whole)
    return 0


if __name__ == "__main__":
    sys.exit(main())
