"""Cost of the bootstrap intervals: `python benchmarks/metrics.py [--json FILE]`, one thread, CPU seconds."""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

# One thread has to be set before NumPy is loaded: hence the late imports (E402).
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import numpy as np  # noqa: E402
import scipy  # noqa: E402
from sklearn.metrics import roc_auc_score, roc_curve  # noqa: E402

from mialab import metrics  # noqa: E402


def simulated_game(n_models, n_records, seed=0):
    """Scores of a weak attack on complementary pairs of models: (score, member, partner)."""
    rng = np.random.default_rng(seed)
    first = rng.permuted(np.tile(np.arange(n_records) < n_records // 2, (n_models // 2, 1)), axis=1)
    member = np.stack([first, ~first], axis=1).reshape(n_models, n_records)
    return rng.normal(size=member.shape) + 0.4 * member, member, np.arange(n_models) ^ 1


def cpu_seconds(job: Callable[[], object], repeats: int) -> float:
    """Smallest CPU time of `repeats` runs."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        job()
        seconds.append(time.process_time() - start)
    return min(seconds)


def sklearn_bootstrap(score, member, n_resamples):
    """The plain loop: draw records, sort again, read the curve."""
    rng, inside, outside = np.random.default_rng(0), np.flatnonzero(member), np.flatnonzero(~member)
    for _ in range(n_resamples):
        drawn = np.concatenate([rng.choice(inside, len(inside)), rng.choice(outside, len(outside))])
        fpr, tpr, _ = roc_curve(member[drawn], score[drawn])
        [tpr[np.searchsorted(fpr, f, side="right") - 1] for f in metrics.FPRS]
        roc_auc_score(member[drawn], score[drawn])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    score, member, _ = simulated_game(2, 10_000)
    mid, large = simulated_game(32, 2_700), simulated_game(64, 10_000)

    def pooled(game):
        return metrics.pooled_bootstrap(game[0], game[1], partner=game[2], said_member=game[0] > 0.2)

    jobs = {
        "bootstrap: AUC + 3 TPRs, 10,000 scores, 1,000 resamples": (
            lambda: metrics.bootstrap(score[0], member[0]),
            5,
        ),
        "the same with scikit-learn, 20 resamples": (lambda: sklearn_bootstrap(score[0], member[0], 20), 3),
        "pooled: 32 targets x 2,700 records, 1,000 resamples": (lambda: pooled(mid), 2),
        "pooled: 64 targets x 10,000 records, 1,000 resamples": (lambda: pooled(large), 1),
    }
    figures = {name: round(cpu_seconds(*job), 4) for name, job in jobs.items()}
    for name, seconds in figures.items():
        print(f"{seconds:8.3f} CPU s   {name}")
    if args.json:
        versions = {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__}
        report = {"cpu_seconds": figures, "versions": versions, "load": os.getloadavg()[0]}
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
