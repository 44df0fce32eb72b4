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
from mialab.metrics.rates import DECISIONS, Curve

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
    """Measure alone: sort the scores, pooled, calibrated and of each target; read the curves, and count decisions."""
    score, member, _ = game
    cells = as_cells(game)
    each = [Curve(s, m) for s, m in zip(score, member, strict=True)]
    for curve in (cells.curve, cells.calibrated.curve, *each):
        curve.auc, curve.at(0.001), curve.at(0.01), curve.below(0.001)
    counts = cells.accused_of_targets + cells.sides_of_targets
    for several in (counts, [n.sum() for n in counts]):
        [DECISIONS[name](*several) for name in METRICS if name in DECISIONS]


def measured(game):
    """Measure all pairs pooled, each target and their mean, with intervals, as an audit does."""
    cells = as_cells(game)
    for name in (*METRICS, *CALIBRATED):
        if cells.resolvable(name):
            cells.estimate(name).interval()
    for name in METRICS:
        found = cells.targets(name)
        found.interval(), found.mean.interval()


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
        (name, "with intervals"): lambda: measured(game),
        (name, "scikit-learn, one target, 2 of 1,000 resamples"): lambda: sklearn_bootstrap(
            game[0][0], game[1][0]
        ),
    }
    rows = [Row(*names, round(common.cpu_seconds(job, repeats), 4)) for names, job in jobs.items()]
    alone, all_of_it = (row.seconds for row in rows[:2])
    seconds = {"values": alone, "all": all_of_it, "intervals": all_of_it - alone}
    whole = [{"workload": f"{ATTACKS} attacks"} | {f"CPU s, {k}": ATTACKS * s for k, s in seconds.items()}]
    common.report(rows, options.json, whole_audit=whole)
    return 0


if __name__ == "__main__":
    sys.exit(main())
