"""The engine against plain PyTorch loops, in one run on this machine, wall clock.

    python benchmarks/engine.py [--only digits location30 cnn cifar10 modes curves] [--device cuda] [--json FILE]

The same job for all: train K models on their members, then let each answer every record of the pool.

loader           as most published code has it: a DataLoader over a TensorDataset, default threads, float32
plain            the same without DataLoader: tensors in memory, indexed by a permutation
plain, 1 thread  the same with one thread
engine           `mialab.play` with its defaults into an empty cache folder, storing included, in a session that has
                 played before; groups are trained in threads, or in worker processes if joblib's backend says so
engine, first call  the same in a new session, with what is set up only once

Each measurement has a process of its own; variants take turns; the smallest of the repeats counts. Starting Python
and importing libraries are not measured, except in worker processes of a first call, if there are any.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest import mock

import common
import numpy as np
import torch
import torch._dynamo  # which optimizers load in their first step: that is no part of any of these jobs
from common import Fresh, Row
from joblib.externals.loky import get_reusable_executor
from loops import step, train
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

import mialab as mia
from mialab.classifiers import run as classifier_run
from mialab.models import CNN, MLP, Model
from mialab.training import stack
from mialab.training.membership import membership

ANSWER_BATCH = 256  # of the plain loops; the engine has its own
SAME_ACCURACY = 0.05  # variants whose train accuracies differ by more do not do the same job


@dataclass(frozen=True)
class Workload:
    """K models to train on halves of a pool."""

    name: str
    pool: mia.Pool
    model: Model
    training: mia.Training
    n_models: int
    most_repeats: int = 99

    @property
    def member(self) -> np.ndarray:
        return membership(self.n_models, len(self.pool), seed=0)


def loaded(
    name: str, size: int, shape: tuple[int, ...], n_classes: int, *, made_up: bool = False
) -> mia.Pool:
    """Records of a data set, or made-up ones of the same shape where it is not here."""
    if not made_up:
        try:
            return mia.load(name, size=size, validation=0, test=0)
        except FileNotFoundError as error:
            print(f"{name} is replaced by made-up records of its shape: {str(error).splitlines()[0]}")
    rng = np.random.default_rng(0)
    y = rng.integers(n_classes, size=size)
    x = rng.normal(size=(n_classes, *shape))[y] + rng.normal(size=(size, *shape))
    if len(shape) == 1:
        return mia.Pool(
            f"{name} (made up)", x=(x > 0).astype(np.float32), y=y, n_classes=n_classes, kind="binary"
        )
    pixels = np.clip(128 + 40 * x, 0, 255).astype(np.uint8)
    return mia.Pool(f"{name} (made up)", x=pixels, y=y, n_classes=n_classes, kind="image")


def workloads(quick: bool) -> dict[str, Callable[[], Workload]]:
    """The workloads by name; each is loaded when it is called for."""

    def make(
        title: str, data: tuple, model: Model, n_models: int, epochs: int, most_repeats: int = 99
    ) -> Workload:
        name, size, shape, n_classes = data
        if quick:
            size, n_models, epochs = 128, 2, 1
        pool = loaded(name, size, shape, n_classes, made_up=quick and name != "digits")
        training = mia.Training(epochs=epochs, batch_size=64)
        note = " (made up)" if "made up" in pool.name else ""
        return Workload(f"{title}{note}, K={n_models}", pool, model, training, n_models, most_repeats)

    tanh, relu = partial(MLP, activation="tanh"), partial(MLP, activation="relu")
    return {
        "digits": partial(make, "digits MLP", ("digits", 1000, (1, 8, 8), 10), relu((128,)), 64, 20),
        "location30": partial(
            make, "Location30 MLP", ("location30", 2700, (446,), 30), tanh((1024, 512, 256, 128)), 16, 3
        ),
        "cnn": partial(make, "28x28 CNN", ("fashion_mnist", 3000, (1, 28, 28), 10), CNN(), 8, 2),
        "cifar10": partial(make, "CIFAR-10 CNN", ("cifar10", 10_000, (3, 32, 32), 10), CNN(), 8, 2, 2),
    }


# ---- the variants -----------------------------------------------------------------------------------------------


def tensors(pool: mia.Pool) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.as_tensor(pool.x)
    return x.float() / 255 if x.dtype == torch.uint8 else x, torch.as_tensor(pool.y)


def initialized(work: Workload, model: int, device: str = "cpu") -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(model)
    network = work.model(work.pool.x.shape[1:], work.pool.n_classes).to(device)
    return network, torch.optim.Adam(network.parameters(), lr=work.training.lr)


def by_loop(work: Workload, *, loader: bool, device: str) -> list[np.ndarray]:
    """Train all models, and let them answer, with a DataLoader or without."""
    records = TensorDataset(*tensors(work.pool))

    def queries() -> Iterable[torch.Tensor]:
        if loader:
            return (x for x, _ in DataLoader(records, batch_size=ANSWER_BATCH))
        return records.tensors[0].split(ANSWER_BATCH)

    options = {"epochs": work.training.epochs, "batch_size": work.training.batch_size}
    make = partial(initialized, work, device=device)
    return train(make, records, work.member, loader=loader, queries=queries, device=device, **options)


def train_accuracy(work: Workload, logits: list[np.ndarray]) -> float:
    right = np.stack(logits).argmax(-1) == work.pool.y
    return float(right[work.member].mean())


def time_loop(work: Workload, loader: bool, threads: int | None, device: str) -> dict:
    """Seconds and accuracy of a plain loop; runs in a process of its own."""
    if threads:
        torch.set_num_threads(threads)
    # What torch sets up only once.
    step(*initialized(work, 0, device), *(part[:2].to(device) for part in tensors(work.pool)))
    began = time.perf_counter()
    logits = by_loop(work, loader=loader, device=device)
    return {"seconds": time.perf_counter() - began, "accuracy": train_accuracy(work, logits)}


def time_engine(work: Workload, *, first: bool, games: int = 1, device: str = "cpu") -> dict:
    """Seconds of a game in a session that has played before, and facts about it; runs in a process of its own.

    Parameters
    ----------
    work : Workload
        The game.
    first : bool
        Whether the game that is played before is the whole one and timed as well, or a small one.
    games : int
        Games to time; the fastest counts.
    device : str
        Where networks are trained.
    """

    def play(work: Workload, workers: int | None = None) -> tuple[float, mia.Game]:
        began = time.perf_counter()
        game = mia.play(
            work.pool,
            model=work.model,
            training=work.training,
            n_models=work.n_models,
            workers=workers,
            device=device,
        )
        return time.perf_counter() - began, game

    with tempfile.TemporaryDirectory() as folder:
        os.environ["MIALAB_CACHE"] = f"{folder}/first"
        if first:
            seconds_first, _ = play(work)
        else:
            cores = os.cpu_count() or 1
            # As many models as to give every worker a group.
            small = replace(work, training=replace(work.training, epochs=1))
            seconds_first, _ = None, play(small, workers=cores if device == "cpu" else None)
        seconds = []
        for number in range(games):
            os.environ["MIALAB_CACHE"] = f"{folder}/{number}"
            taken, game = play(work)
            seconds.append(taken)
        # Or this process would wait until they have been idle for long.
        get_reusable_executor().shutdown(kill_workers=True)
        return {
            "first": seconds_first,
            "seconds": min(seconds),
            "accuracy": float(game.train_accuracy.mean()),
            "stored": sum(game.dataset[name].nbytes for name in game.dataset),
            "precision": game.attrs["training"].get("precision"),
            **{key: game.attrs.get(key) for key in ("mode", "workers")},
        }


LOOPS = {
    "loader": (True, None),
    "plain": (False, None),
    "plain, 1 thread": (False, 1),  # of MLPs; of the others it takes too long
}


def compare(
    work: Workload, repeats: int, fresh: Fresh, device: str
) -> tuple[list[Row], dict[str, Any], dict[str, Any]]:
    """Rows of all variants of a workload, what the engine did, and how accurate the models are."""
    seconds: dict[str, list[float]] = {}
    peak: dict[str, float] = {}
    accuracy: dict[str, float] = {}
    for repeat in range(min(repeats, work.most_repeats)):
        for variant, (loader, threads) in LOOPS.items():
            if threads and (device != "cpu" or not isinstance(work.model, MLP)):
                continue
            result, mb = fresh(time_loop, work, loader, threads, device, memory=not repeat)
            seconds.setdefault(variant, []).append(result["seconds"])
            peak[variant], accuracy[variant] = max(mb, peak.get(variant, 0)), result["accuracy"]
        result, mb = fresh(partial(time_engine, work, first=not repeat, device=device), memory=not repeat)
        for variant, value in (("engine", result["seconds"]), ("engine, first call", result["first"])):
            if value:
                seconds.setdefault(variant, []).append(value)
                peak[variant] = max(mb, peak.get(variant, 0))
        accuracy["engine"] = result["accuracy"]
        say = ", ".join(f"{variant} {values[-1]:.2f} s" for variant, values in seconds.items())
        print(f"{work.name}, repeat {repeat + 1}: {say}", flush=True)
    least = {variant: min(values) for variant, values in seconds.items()}
    rows = common.rows_of_loops(work.name, seconds, peak)
    did = {
        "workload": work.name,
        "mode": result["mode"],
        "precision": result["precision"],
        "workers": result["workers"],
        "models/min": 60 * work.n_models / least["engine"],
        "loader's": 60 * work.n_models / least["loader"],
        "TFLOP": work_flops(work) / 1e12,
        "GFLOP/s": work_flops(work) / 1e9 / least["engine"],
        "stored MB": result["stored"] / 1e6,
    }
    spread = max(accuracy.values()) - min(accuracy.values())
    return rows, did, {"workload": work.name, **accuracy, "spread": spread}


# ---- what the machine could do ----------------------------------------------------------------------------------


def batch_flops(work: Workload) -> tuple[int, int]:
    """Floating-point operations of one batch: a training step without its optimizer, and answers."""
    network, _ = initialized(work, 0)
    x, y = (part[: work.training.batch_size] for part in tensors(work.pool))
    with FlopCounterMode(display=False) as train:
        F.cross_entropy(network(x), y).backward()
    with FlopCounterMode(display=False) as answer, torch.no_grad():
        network(x)
    return train.get_total_flops(), answer.get_total_flops()


def work_flops(work: Workload) -> float:
    """Floating-point operations of the whole workload, optimizer left out."""
    train, answer = batch_flops(work)
    records, batch = len(work.pool), min(work.training.batch_size, len(work.pool))
    return work.n_models * (work.training.epochs * records / 2 * train + records * answer) / batch


def rate(operation: Callable[[], object], amount: float, seconds: float) -> float:
    """Most of ``amount`` per second over short stretches of repeating an operation."""
    operation()
    highest, until = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        began, calls = time.perf_counter(), 0
        while time.perf_counter() - began < 0.02:
            operation()
            calls += 1
        highest = max(highest, calls * amount / (time.perf_counter() - began))
    return highest


def matmul_rate(m: int, k: int, n: int, dtype: torch.dtype, threads: int, seconds: float) -> float:
    """GFLOP/s of (m x k) @ (k x n)."""
    torch.set_num_threads(threads)
    a, b, out = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype), torch.empty(m, n, dtype=dtype)
    return rate(lambda: torch.mm(a, b, out=out), 2 * m * k * n / 1e9, seconds)


def machine_rates(seconds: float) -> list[dict[str, Any]]:
    """Matrix products of a size that stays in the cache, and copying what does not."""
    lines = []
    for threads in dict.fromkeys((1, os.cpu_count() or 1)):
        rates = {
            str(dtype).removeprefix("torch."): matmul_rate(512, 512, 512, dtype, threads, seconds)
            for dtype in (torch.float32, torch.bfloat16)
        }
        source, target = torch.randn(32_000_000), torch.empty(32_000_000)  # 128 MB each
        copied = rate(lambda s=source, t=target: t.copy_(s), 2 * source.nbytes / 1e9, seconds)
        lines.append(
            {
                "threads": threads,
                **{f"{dtype} GFLOP/s": value for dtype, value in rates.items()},
                "copying GB/s": copied,
            }
        )
    return lines


def step_costs(work: Workload, machine: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Where the time of one training step goes, one thread: arithmetic against weights that must be moved.

    Networks take turns, as in training no network stays in the cache for long beside its gradients and the
    optimizer's state.
    """
    torch.set_num_threads(1)
    x, y = (part[: work.training.batch_size] for part in tensors(work.pool))
    network, _ = initialized(work, 0)
    n_bytes = 4 * sum(p.numel() for p in network.parameters())
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    def both(dtype: torch.dtype) -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(network(x).float(), y)
        loss.backward()

    single = machine[0]
    flops = batch_flops(work)[0]
    # Weights are read in both directions and their gradients written; Adam reads weights, gradients and its two
    # moments, and writes all but the gradients.
    moved = 3 * n_bytes + 7 * n_bytes
    both(torch.float32)
    return {
        "workload": work.name,
        "weights MB": n_bytes / 1e6,
        "GFLOP": flops / 1e9,
        "ms at float32 rate": 1e3 * flops / 1e9 / single["float32 GFLOP/s"],
        "ms at bfloat16 rate": 1e3 * flops / 1e9 / single["bfloat16 GFLOP/s"],
        "ms to move weights": 1e3 * moved / 1e9 / single["copying GB/s"],
        "ms, forward + backward": 1e3 / rate(lambda: both(torch.float32), 1, seconds),
        "the same, bfloat16": 1e3 / rate(lambda: both(torch.bfloat16), 1, seconds),
        "ms, Adam": 1e3 / rate(optimizer.step, 1, seconds),
    }


def layer_rates(work: Workload, seconds: float) -> list[dict[str, Any]]:
    """Matrix products of a network's own shapes, one thread."""
    network, _ = initialized(work, 0)
    batch = work.training.batch_size
    return [
        {
            "workload": work.name,
            "batch x in x out": f"{batch} x {layer.in_features} x {layer.out_features}",
            "weights MB": layer.weight.nbytes / 1e6,
            **{
                f"{str(dtype).removeprefix('torch.')} GFLOP/s": matmul_rate(
                    batch, layer.in_features, layer.out_features, dtype, 1, seconds
                )
                for dtype in (torch.float32, torch.bfloat16)
            },
        }
        for layer in network.modules()
        if isinstance(layer, nn.Linear)
    ]


# ---- does the engine's rule pick the faster mode? ---------------------------------------------------------------


def form_networks(quick: bool) -> dict[str, tuple[mia.Pool, Model, int, int]]:
    """Networks by name: pool, model, models, epochs."""
    rng = np.random.default_rng(0)

    def records(n: int, shape: tuple[int, ...], n_classes: int) -> mia.Pool:
        kind = "image" if len(shape) == 3 else "tabular"
        x = rng.random((n, *shape), dtype=np.float32)
        return mia.Pool("mode", x=x, y=rng.integers(n_classes, size=n), n_classes=n_classes, kind=kind)

    if quick:
        return {"tabular 30-64-2": (records(128, (30,), 2), MLP((64,)), 2, 1)}
    return {
        "tabular 30-64-2": (records(2000, (30,), 2), MLP((64,)), 16, 4),
        "digits MLP 64-128-10": (records(1000, (1, 8, 8), 10), MLP((128,)), 16, 6),
        "MLP 600-64-100": (records(2000, (600,), 100), MLP((64,)), 16, 4),
        "MLP 446-1024-512-256-128-30": (records(1000, (446,), 30), MLP(), 4, 2),
        "CNN 8-16, 28x28": (records(500, (1, 28, 28), 10), CNN((8, 16), hidden=32), 4, 2),
    }


def time_form(how: str, pool: mia.Pool, model: Model, n_models: int, epochs: int) -> float:
    """CPU seconds a model, with the mode forced."""
    member = membership(n_models, len(pool), seed=0)
    network = stack.initialize(model, pool, 0, 0)
    options = {
        "pool": pool,
        "y": pool.y,
        "build": model,
        "defense": mia.defenses.make(None),
        "training": stack.resolve(mia.Training(epochs=epochs), network),
        "queries": mia.queries.make(None, pool),
        "seed": 0,
    }
    size = n_models if how == "stacked" else 1
    groups = [list(range(first, first + size)) for first in range(0, n_models, size)]

    def train() -> None:
        for models in groups:
            classifier_run.train_group(models, member=member[models], **options)

    with mock.patch.object(stack, "mode", return_value=how):
        return common.cpu_seconds(train, repeats=1) / n_models


def compare_forms(quick: bool, repeats: int) -> list[dict[str, Any]]:
    """Both modes of a few networks, one thread, and whether the engine's rule picks the faster one."""
    lines = []
    for name, (pool, model, n_models, epochs) in form_networks(quick).items():
        runs = [
            {how: time_form(how, pool, model, n_models, epochs) for how in ("stacked", "sequential")}
            for _ in range(repeats)
        ]
        seconds = {how: min(run[how] for run in runs) for how in runs[0]}
        network = stack.initialize(model, pool, 0, 0)
        rule = stack.mode(network, stack.prepare(torch.as_tensor(pool.x[:2])), "cpu")
        faster = min(seconds, key=seconds.__getitem__)
        lines.append(
            {
                "network": name,
                "parameters": sum(p.numel() for p in network.parameters()),
                "precision": stack.resolve(mia.Training(), network).precision,
                **{f"{how}, CPU s/model": value for how, value in seconds.items()},
                "faster": faster,
                "by": max(seconds.values()) / min(seconds.values()),
                "the rule says": rule,
                "agrees": "yes" if rule == faster else "no",
            }
        )
    return lines


# ---- how cost grows ---------------------------------------------------------------------------------------------


def cost_curves(quick: bool, repeats: int, fresh: Fresh) -> tuple[list[Row], list[dict[str, Any]]]:
    """Time and memory of a small workload against the number of models and of records, doubling each."""
    sizes = (100, 200) if quick else (500, 1000, 2000, 4000, 8000)
    counts = (2, 4) if quick else (4, 8, 16, 32, 64)
    epochs = 1 if quick else 10
    base = Workload(
        "",
        mia.load("clusters", size=2000, validation=0, test=0),
        MLP((128,)),
        mia.Training(epochs=epochs),
        16,
    )
    curves = {
        "models": {f"K={k}": (k, replace(base, n_models=k)) for k in counts},
        "records": {
            f"n={n:,}": (n, replace(base, pool=mia.load("clusters", size=n, validation=0, test=0)))
            for n in sizes
        },
    }
    rows, fits = [], []
    for what, points in curves.items():
        runs = {
            variant: fresh(partial(time_engine, work, first=True, games=repeats), memory=True)
            for variant, (_, work) in points.items()
        }
        seconds = {variant: result["seconds"] for variant, (result, _) in runs.items()}
        peaks = {variant: mb for variant, (_, mb) in runs.items()}
        stored = [result["stored"] / 1e6 for result, _ in runs.values()]
        amount = [n for n, _ in points.values()]
        rows += [
            Row(f"cost curve: {what}", variant, round(seconds[variant], 4), peak_mb=round(peaks[variant], 1))
            for variant in points
        ]
        growth = np.polyfit(stored, list(peaks.values()), 1)[0]
        fits.append(
            {
                "doubling": what,
                "exponent of time": np.polyfit(np.log(amount), np.log(list(seconds.values())), 1)[0],
                "exponent of memory": np.polyfit(np.log(amount), np.log(list(peaks.values())), 1)[0],
                "stored MB, least": stored[0],
                "stored MB, most": stored[-1],
                "memory MB per stored MB": growth,
            }
        )
        print(f"cost curve: {what}: " + ", ".join(f"{v} {s:.2f} s" for v, s in seconds.items()), flush=True)
    return rows, fits


def main() -> int:
    parser = common.parser(__doc__)
    jobs = workloads(quick="--quick" in sys.argv)
    parser.add_argument("--only", nargs="+", choices=[*jobs, "modes", "curves"], metavar="WORKLOAD")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where networks are trained")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each variant (default: 3)")
    options = parser.parse_args()
    on_cpu = ["modes", "curves"] if options.device == "cpu" else []
    wanted = options.only or [*jobs, *on_cpu]
    repeats, seconds = (1, 0.02) if options.quick else (options.repeats, 0.5)
    common.default_threads()
    print(f"{common.processor()}; load {os.getloadavg()[0]:.2f} at the start", flush=True)

    machine = machine_rates(seconds) if options.device == "cpu" else []
    details: dict[str, list] = {"machine": machine or [{"GPU": torch.cuda.get_device_name()}]}
    rows, did, accuracy, steps, layers = [], [], [], [], []
    with common.fresh_processes(options.quick) as fresh:
        for name in [job for job in jobs if job in wanted]:
            work = jobs[name]()
            found, facts, right = compare(work, repeats, fresh, options.device)
            rows += found
            did.append(facts)
            accuracy.append(right)
            if machine:
                for dtype in ("float32", "bfloat16"):
                    most = (os.cpu_count() or 1) * machine[0][f"{dtype} GFLOP/s"]
                    facts[f"fraction of {dtype} rate"] = facts["GFLOP/s"] / most
                steps.append(step_costs(work, machine, seconds))
                layers += layer_rates(work, seconds)
        if did:
            details |= {"engine": did, "train_accuracy": accuracy}
        if steps:
            details |= {"one_step_one_thread": steps, "matrix_products_one_thread": layers}
        if "curves" in wanted:
            found, details["growth"] = cost_curves(options.quick, repeats, fresh)
            rows += found
    if "modes" in wanted:
        details["stacked_or_single"] = compare_forms(options.quick, repeats)
    common.report(rows, options.json, **details)
    for line in accuracy:
        if line["spread"] > SAME_ACCURACY and not options.quick:
            print(
                f"{line['workload']}: accuracies differ by {line['spread']:.3f}: the variants do different jobs"
            )
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
