"""Cost of the bootstrap intervals: `python benchmarks/metrics.py [--json FILE]`, one thread, CPU seconds."""

import os
import sys

# One thread has to be set before NumPy is loaded: hence the late imports (E402).
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import common
import numpy as np
from common import Row
from sklearn.metrics import roc_auc_score, roc_curve

from mialab.metrics import intervals
from mialab.metrics.rates import FPRS


def simulated_game(n_models, n_records, seed=0):
    """Scores of a weak attack on complementary pairs of models: (score, member, partner)."""
    rng = np.random.default_rng(seed)
    first = rng.permuted(np.tile(np.arange(n_records) < n_records // 2, (n_models // 2, 1)), axis=1)
    member = np.stack([first, ~first], axis=1).reshape(n_models, n_records)
    return rng.normal(size=member.shape) + 0.4 * member, member, np.arange(n_models) ^ 1


def sklearn_bootstrap(score, member, n_resamples):
    """The plain loop: draw records, sort again, read the curve."""
    rng, inside, outside = np.random.default_rng(0), np.flatnonzero(member), np.flatnonzero(~member)
    for _ in range(n_resamples):
        drawn = np.concatenate([rng.choice(inside, len(inside)), rng.choice(outside, len(outside))])
        fpr, tpr, _ = roc_curve(member[drawn], score[drawn])
        [tpr[np.searchsorted(fpr, f, side="right") - 1] for f in FPRS]
        roc_auc_score(member[drawn], score[drawn])


def main() -> int:
    options = common.parser(__doc__).parse_args()
    n, resamples, few = (200, 20, 2) if options.quick else (10_000, 1000, 20)
    score, member, _ = simulated_game(2, n)

    def pooled(game):
        return intervals.pooled_bootstrap(
            game[0], game[1], partner=game[2], predicted_member=game[0] > 0.2, n_resamples=resamples
        )

    one = f"AUC + 3 TPRs, {n:,} scores"
    jobs = {
        (one, f"bootstrap, {resamples:,} resamples"): (
            lambda: intervals.bootstrap(score[0], member[0], n_resamples=resamples),
            5,
        ),
        (one, f"scikit-learn, {few} resamples"): (lambda: sklearn_bootstrap(score[0], member[0], few), 3),
    }
    for models, records, repeats in ((4, 200, 1),) if options.quick else ((32, 2700, 2), (64, 10_000, 1)):
        game = simulated_game(models, records)
        name = f"{models} targets x {records:,} records"
        jobs[name, f"pooled bootstrap, {resamples:,} resamples"] = (lambda g=game: pooled(g), repeats)
    rows = [Row(*names, round(common.cpu_seconds(*job), 4)) for names, job in jobs.items()]
    each = [
        {"workload": one, "variant": row.variant, "CPU ms/resample": 1e3 * row.seconds / n}
        for row, n in zip(rows, (resamples, few), strict=False)
    ]
    common.report(rows, options.json, one_resample=each)
    return 0


if __name__ == "__main__":
    sys.exit(main())
