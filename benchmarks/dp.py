"""DP-SGD, all shadow models together, beside Opacus: `python benchmarks/dp.py [--json FILE]`, one thread, CPU seconds.

The same networks, Poisson rate, clipping and noise; each mode of Opacus trains one model after the other. What is
measured is training alone, without the accountants. Without Opacus there is nothing to compare with, and a line says
so.
"""

import os
import sys
import time
import warnings

# One thread has to be set before torch is loaded: hence the late imports (E402).
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

from dataclasses import dataclass
from importlib.util import find_spec

import common
import numpy as np
import torch
from common import Row
from torch.utils.data import DataLoader, TensorDataset

import mialab as mia
from mialab.classifiers.run import Run
from mialab.data.pool import Pool
from mialab.defenses import DPSGD
from mialab.models import CNN, MLP, Model
from mialab.training.membership import membership

#: How Opacus gets at the gradients of single records, as it names its modes.
MODES = ("hooks", "functorch", "ew", "ghost")
NOISE, MAX_NORM, LR = 1.0, 1.0, 0.1


@dataclass(frozen=True)
class Job:
    """Models to train on halves of some records; ``together`` where networks are small enough for that on a CPU."""

    name: str
    shape: tuple[int, ...]
    n_classes: int
    model: Model
    n_models: int
    n_records: int
    batch_size: int
    epochs: int
    together: bool = False

    def pool(self) -> Pool:
        rng = np.random.default_rng(0)
        x = rng.random((self.n_records, *self.shape), dtype=np.float32)
        kind = "image" if len(self.shape) == 3 else "tabular"
        y = rng.integers(self.n_classes, size=self.n_records)
        return Pool(x=x, y=y, n_classes=self.n_classes, kind=kind, name="random")


def jobs(quick: bool) -> list[Job]:
    mlp, cnn = MLP((256, 128), activation="tanh"), CNN((16, 32), hidden=64, norm="group")
    small = MLP((64,), activation="tanh")
    if quick:
        return [Job("MLP 446-64-30, K=2", (446,), 30, small, 2, 64, 16, 1, together=True)]
    sizes = "1,000 members, batches of 64"
    return [
        Job(f"MLP 446-64-30, K=16, {sizes}", (446,), 30, small, 16, 2000, 64, 2, together=True),
        Job(f"MLP 446-256-128-30, K=16, {sizes}", (446,), 30, mlp, 16, 2000, 64, 2),
        Job(f"CNN 3x32x32, K=4, {sizes}", (3, 32, 32), 10, cnn, 4, 2000, 64, 1),
        Job("CNN 3x32x32, K=4, 1,000 members, batches of 128", (3, 32, 32), 10, cnn, 4, 2000, 128, 1),
    ]


def ours(job: Job, groups: int) -> float:
    """Train all models in some groups; return CPU seconds."""
    pool, member = job.pool(), membership(job.n_models, job.n_records, seed=0)
    training = mia.Training(
        epochs=job.epochs, batch_size=job.batch_size, optimizer="sgd", lr=LR, precision="float32"
    )
    defense, seconds = DPSGD(noise=NOISE, max_norm=MAX_NORM), 0.0
    for models in np.array_split(np.arange(job.n_models), groups):
        about = {"pool": pool, "build": job.model, "defense": defense, "training": training}
        run = Run(pool.x, pool.y, member[models], models.tolist(), seed=0, device="cpu", **about)
        began = time.process_time()
        run.train()
        seconds += time.process_time() - began
    return seconds


def opacus(job: Job, mode: str) -> float:
    """Train one model after the other with Opacus; return CPU seconds."""
    from opacus import PrivacyEngine

    warnings.simplefilter("ignore")
    pool, member, seconds = job.pool(), membership(job.n_models, job.n_records, seed=0), 0.0
    for k in range(job.n_models):
        torch.manual_seed(k)
        records = TensorDataset(torch.as_tensor(pool.x[member[k]]), torch.as_tensor(pool.y[member[k]]))
        network = job.model(job.shape, job.n_classes)
        loss = torch.nn.CrossEntropyLoss()
        made = PrivacyEngine().make_private(
            module=network,
            optimizer=torch.optim.SGD(network.parameters(), lr=LR),
            criterion=loss,
            data_loader=DataLoader(records, batch_size=job.batch_size),
            noise_multiplier=NOISE,
            max_grad_norm=MAX_NORM,
            grad_sample_mode=mode,
        )
        network, optimizer, *rest, loader = made
        loss = rest[0] if rest else loss
        began = time.process_time()
        for _ in range(job.epochs):
            for x, y in loader:
                optimizer.zero_grad()
                loss(network(x), y).backward()
                optimizer.step()
        seconds += time.process_time() - began
    return seconds


def main() -> int:
    options = common.parser(__doc__).parse_args()
    modes = MODES if find_spec("opacus") else ()
    if not modes:
        print("SKIPPED Opacus: it is not installed. Install it with: pip install -e '.[dp]'", flush=True)
    torch.set_num_threads(1)
    rows, failed = [], []
    for job in jobs(options.quick):
        variants = {"one by one": lambda job=job: ours(job, job.n_models)}
        if job.together:
            variants["all models together"] = lambda job=job: ours(job, 1)
        variants |= {f"Opacus, {mode}": lambda job=job, mode=mode: opacus(job, mode) for mode in modes}
        for variant, measure in variants.items():
            try:
                # Both return their own seconds, so that what is built before does not count.
                seconds = min(measure() for _ in range(1 if options.quick else 3))
            except Exception as error:  # a mode that does not know a layer
                reason = f"{type(error).__name__}: {error}"[:200]
                failed.append({"workload": job.name, "variant": variant, "reason": reason})
                print(f"FAILED {variant}, {job.name}: {reason}", flush=True)
                continue
            rows.append(Row(job.name, variant, round(seconds, 4)))
    given = [{"noise": NOISE, "greatest norm": MAX_NORM, "learning rate": LR}]
    common.report(rows, options.json, given=given, **({"failed": failed} if failed else {}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
