"""Scoring against plain loops: one process, one thread, CPU seconds, the smallest of the repeats.

    python benchmarks/scoring.py [--only lira rmia thresholds curves audit attacks] [--json FILE]

plain    one target after the other, from its own shadow models, as careful NumPy code has it; for RMIA with the matrix
         of all records by all of the population. Where a run over all targets would take minutes, a few targets are
         timed, and the time is multiplied (the number of targets is given in the row)
mialab   `mialab.attacks.lira.lira`, `mialab.attacks.rmia.rmia` and the thresholds of `mialab.attacks.thresholds`

Both get the same arrays, and the benchmark fails where their scores differ. Memory is what is allocated beyond the
input, the scores included. The audit of a game on disk runs in a process of its own, with two limits for the memory
beyond the libraries: none, and one below the size of the game's logits.

The registered attacks on one query per record, one after the other, run in a process of their own with as many threads
as the libraries take; their seconds are wall clock, with thresholds, and with the signals that they share.
"""

from __future__ import annotations

import os

# One thread has to be set before NumPy is loaded: hence the late imports (E402).
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import common
import numpy as np
import psutil
import xarray as xr
import zarr
from common import Row

import mialab as mia
from mialab.attacks.lira import VARIANCE_FLOOR, lira
from mialab.attacks.rmia import rmia
from mialab.attacks.thresholds import shadow_thresholds
from mialab.chapters.scale import allocated
from mialab.classifiers.game import Game
from mialab.classifiers.signals import LOGITS, SIGNALS
from mialab.training.membership import membership

ATTACKS = ("loss", "lira", "rmia")


class Answers(NamedTuple):
    """A statistic of all answers, (model, record), and what attackers know; models 2j and 2j + 1 are partners."""

    phi: np.ndarray
    member: np.ndarray
    excluded_models: np.ndarray

    @classmethod
    def made_up(cls, n_models: int, n_records: int) -> Answers:
        rng = np.random.default_rng(0)
        member = membership(n_models, n_records, seed=0)
        phi = rng.normal(size=n_records) + rng.normal(size=member.shape) + member
        return cls(phi, member, np.broadcast_to(np.arange(n_models)[:, None] ^ 1, member.shape))

    @property
    def log_p(self) -> Answers:
        """The same answers by the log of the label's probability, of which phi is the log odds."""
        return self._replace(phi=-np.logaddexp(0, -self.phi))

    def shadows(self, target: int) -> tuple[np.ndarray, np.ndarray]:
        """Answers and memberships of a target's shadow models."""
        rows = np.delete(np.arange(len(self.phi)), [target, target ^ 1])
        return self.phi[rows], self.member[rows]


def plain_lira(answers: Answers, targets: range, online: bool) -> np.ndarray:
    scores = []
    for target in targets:
        x, member = answers.shadows(target)
        gaussians = []
        for side in (member, ~member) if online else (~member,):
            n = side.sum(0)
            mean = (x * side).sum(0) / n
            squares = ((x - mean) ** 2 * side).sum(0)
            var = np.maximum(squares / (n - 1), VARIANCE_FLOOR * squares.sum() / (n - 1).sum())
            gaussians.append((answers.phi[target] - mean, var))
        if online:
            densities = [-(deviation**2) / var / 2 - np.log(var) / 2 for deviation, var in gaussians]
            scores.append(densities[0] - densities[1])
        else:
            scores.append(gaussians[0][0] / np.sqrt(gaussians[0][1]))
    return np.stack(scores)


def plain_rmia(answers: Answers, targets: range, online: bool, population: np.ndarray) -> np.ndarray:
    scores = []
    is_drawn = np.isin(np.arange(answers.phi.shape[1]), population)
    for target in targets:
        x, member = answers.shadows(target)
        p = np.exp(x)
        mean_in, mean_out = ((p * side).sum(0) / side.sum(0) for side in (member, ~member))
        p_x = (mean_in + mean_out) / 2 if online else (1.3 * mean_out + 0.7) / 2
        ratio = np.exp(answers.phi[target]) / p_x
        reached = (ratio[:, None] / ratio[population] >= 1).sum(1)
        scores.append((reached - is_drawn) / (len(population) - is_drawn))
    return np.stack(scores)


def plain_thresholds(answers: Answers, targets: range) -> np.ndarray:
    thresholds = []
    for target in targets:
        score, member = (a.ravel() for a in answers.shadows(target))
        order = np.argsort(-score)
        member = member[order]
        gain = np.cumsum(member / member.sum() - ~member / (~member).sum())
        best = gain[:-1].argmax()
        thresholds.append((score[order[best]] + score[order[best + 1]]) / 2)
    return np.array(thresholds)


def compare(
    workload: str,
    plain: Callable[[range], np.ndarray],
    ours: Callable[[], np.ndarray],
    n_targets: int,
    timed: int,
    repeats: int,
    same: Callable[[np.ndarray, np.ndarray], bool] = np.allclose,
) -> list[Row]:
    """Time both, after having compared their results for the first ``timed`` targets."""
    some = range(timed)
    if not same(plain(some), ours()[:timed]):
        raise AssertionError(f"{workload}: the plain loop and mialab disagree.")
    plain_seconds = common.cpu_seconds(lambda: plain(some), repeats) * n_targets / timed
    seconds = common.cpu_seconds(ours, 2 * repeats)
    loop = "plain" if timed == n_targets else f"plain, from {timed} targets"
    rows = [
        Row(workload, loop, plain_seconds, ratio_to_plain=1.0, peak_mb=allocated(lambda: plain(range(1)))[1]),
        Row(workload, "mialab", seconds, ratio_to_plain=plain_seconds / seconds, peak_mb=allocated(ours)[1]),
    ]
    print(f"{workload}: {plain_seconds:.3g} s plain, {seconds:.3g} s here", flush=True)
    return rows


def lira_rows(quick: bool, repeats: int) -> tuple[list[Row], list[dict[str, Any]]]:
    """LiRA for all leave-one-out targets."""
    rows, memory = [], []
    for n_models, n_records in [(8, 500), (16, 500)] if quick else [(64, 10_000), (256, 50_000)]:
        answers = Answers.made_up(n_models, n_records)
        for kind in ("online", "offline"):
            online = kind == "online"
            rows += compare(
                f"LiRA {kind}, all of {n_models} targets, {n_records:,} records",
                partial(plain_lira, answers, online=online),
                partial(lira, *answers, online=online),
                n_models,
                min(8, n_models),
                repeats,
            )
            megabytes = answers.phi.nbytes / 1e6
            memory.append(
                {
                    "scoring": rows[-1].workload,
                    "input MB": megabytes,
                    "allocated MB": rows[-1].peak_mb,
                    "both / input": 1 + rows[-1].peak_mb / megabytes,
                }
            )
    return rows, memory


def rmia_rows(quick: bool, repeats: int) -> list[Row]:
    """RMIA for all targets."""
    n_models, n_records, n_drawn = (8, 300, 150) if quick else (64, 10_000, 5_000)
    answers = Answers.made_up(n_models, n_records).log_p
    population = np.random.default_rng(1).permutation(n_records)[:n_drawn]
    rows = []
    for kind in ("online", "offline"):
        online = kind == "online"
        plain = partial(plain_rmia, answers, online=online, population=population)
        ours = partial(rmia, *answers, online=online, population=population)
        size = f"{n_records:,} records, population of {n_drawn:,}"
        some = min(4, n_models)
        rows += compare(
            f"RMIA {kind}, all of {n_models} targets, {size}", plain, ours, n_models, some, repeats
        )
    return rows


def threshold_rows(quick: bool, repeats: int) -> list[Row]:
    """Thresholds of all targets from the scores of their shadow models."""
    n_models, n_records = (8, 300) if quick else (64, 10_000)
    answers = Answers.made_up(n_models, n_records)
    groups = np.zeros(n_records, int)
    score, member, excluded_models = answers

    def accuracy(threshold: np.ndarray) -> list[float]:
        found = []
        for target, cut in enumerate(threshold):
            x, m = answers.shadows(target)
            found.append((x >= cut)[m].mean() - (x >= cut)[~m].mean())
        return found

    return compare(
        f"thresholds of {n_models} targets, {n_records:,} records",
        partial(plain_thresholds, answers),
        lambda: shadow_thresholds(score, member, excluded_models, groups)[:, 0],
        n_models,
        min(8, n_models),
        repeats,
        same=lambda a, b: np.allclose(accuracy(a), accuracy(b)),  # several cuts may be equally good
    )


def cost_curves(quick: bool, repeats: int) -> tuple[list[Row], list[dict[str, Any]]]:
    """Time of LiRA and RMIA against models and records, doubling each."""
    few, small = (6, 200) if quick else (16, 5_000)
    doublings = 2 if quick else 6
    sizes = {
        "models": [(few * 2**i, 2 * small) for i in range(doublings)],
        "records": [(4 * few, small * 2**i) for i in range(doublings)],
    }
    rows, growth = [], []
    for name, job in {
        "LiRA online": lira,
        "LiRA offline": partial(lira, online=False),
        f"RMIA online, population of {small:,}": partial(rmia, population=np.arange(small)),
    }.items():
        for what, points in sizes.items():
            seconds = []
            for n_models, n_records in points:
                answers = Answers.made_up(n_models, n_records)
                answers = answers.log_p if name.startswith("RMIA") else answers
                seconds.append(common.cpu_seconds(partial(job, *answers), 2 * repeats))
                size = f"K={n_models}, n={n_records:,}"
                rows.append(Row(f"cost curve: {name}, {what}", size, round(seconds[-1], 5)))
            amount = [models * records for models, records in points]
            exponent = np.polyfit(np.log(amount), np.log(seconds), 1)[0]
            growth.append({"scoring": name, "doubling": what, "exponent of time": exponent})
            print(f"{name} grows with {what} to the power of {exponent:.2f}", flush=True)
    return rows, growth


def store_game(path: Path, n_models: int, n_records: int, n_classes: int) -> None:
    """Write a made-up game to disk, model by model, in chunks like those of `mialab.play`."""
    rng = np.random.default_rng(0)
    member = membership(n_models, n_records, seed=0)
    y = rng.integers(n_classes, size=n_records)
    known = {
        "member": member,
        "partner": np.arange(n_models) ^ 1,
        "y": y,
        "canary": np.zeros(n_records, bool),
    }
    group = zarr.open_group(path, mode="w", attributes={"dataset": "made up", "defense": "none"})
    for name, value in known.items():
        group.create_array(name, data=value, dimension_names=Game.specs()[name].dims)
    shape = (n_models, 1, n_records, n_classes)
    logits = group.create_array(
        "logits",
        shape=shape,
        chunks=(1, 1, min(n_records, 2**22 // n_classes), n_classes),
        dtype="float32",
        dimension_names=LOGITS.dims,
    )
    for k in range(n_models):
        answers = rng.normal(size=shape[1:]).astype(np.float32)
        answers[0, np.arange(n_records), y] += 2 + 2 * member[k]
        logits[k] = answers


def peak() -> float:
    """Return the most memory that this process has held, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def audit_game(path: Path, limit: float | None, load_first: bool) -> dict[str, Any]:
    """Audit a game on disk; what this process needs beyond its libraries may be limited, in MB."""
    import resource

    game = mia.Game(xr.open_zarr(path, consolidated=False, chunks=None))
    if limit is not None:
        data = int(psutil.Process().memory_info().data + limit * 1e6)
        resource.setrlimit(resource.RLIMIT_DATA, (data, data))
    before, wall, cpu = peak(), time.perf_counter(), time.process_time()
    try:
        if load_first:
            game.dataset["logits"].load()
        mia.audit(game, ATTACKS)
    except MemoryError:
        return {"audit": "does not fit"}
    return {
        "audit": "done",
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "peak": peak() - before,
    }


def audit_rows(quick: bool) -> tuple[list[Row], list[dict[str, Any]]]:
    """The audit of a game whose logits exceed a memory limit."""
    size, limit = ((6, 400, 20), 640) if quick else ((32, 20_000, 500), 640)
    rows, facts = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "game.zarr"
        store_game(path, *size)
        megabytes = 4 * np.prod(size, dtype=float) / 1e6
        variants = (
            ("plain: all logits loaded first", None, True),
            ("plain, limited", limit, True),
            ("mialab: chunk by chunk", None, False),
            ("mialab, limited", limit, False),
        )
        for variant, limits, load_first in variants[::3] if quick else variants:
            with common.FreshProcess() as process:
                found, _ = process.run(audit_game, path, limits, load_first)
            fact = {"variant": variant, "logits MB": megabytes, "limit MB": limits} | found
            print(", ".join(f"{key}: {value}" for key, value in fact.items()), flush=True)
            facts.append(
                {k: fact.get(k) for k in ("variant", "logits MB", "limit MB", "audit", "cpu", "wall", "peak")}
            )
            if found["audit"] == "done":
                workload = f"audit of a game of {megabytes:,.0f} MB by {', '.join(ATTACKS)}"
                reference = rows[0].seconds if rows else found["cpu"]
                rows.append(
                    Row(
                        workload,
                        variant,
                        found["cpu"],
                        ratio_to_plain=reference / found["cpu"],
                        peak_mb=found["peak"],
                    )
                )
    return rows, facts


#: Rows of registered attacks; those on changed copies or probes, which take more than answers, are in none.
WORKLOADS = ("all attacks but boundary, white-box and learned", "learned attacks", "quantile regression")


def workload_of(attack: mia.attacks.Attack) -> str | None:
    if attack.needs.probe or attack.needs.kinds or attack.needs.queries > 1:
        return None
    every, learned, quantile = WORKLOADS
    if attack.needs.pool:
        return quantile
    return learned if isinstance(attack, mia.attacks.Shokri | mia.attacks.Nasr) else every


def made_up_game(n_models: int, n_records: int, n_classes: int) -> tuple[mia.Game, mia.Pool]:
    """Make up answers, higher for members, and records of 50 features that tell nothing."""
    rng = np.random.default_rng(0)
    member = membership(n_models, n_records, seed=0)
    y = rng.integers(n_classes, size=n_records)
    logits = rng.standard_normal((n_models, n_records, n_classes), dtype=np.float32)
    logits[:, np.arange(n_records), y] += 2 + 2 * member
    game = mia.Game.from_arrays(logits=logits, member=member, y=y, partner=np.arange(n_models) ^ 1)
    x = rng.standard_normal((n_records, 50), dtype=np.float32)
    return game, mia.Pool("made up", x=x, y=y, n_classes=n_classes, kind="tabular")


def attack_seconds(workload: str, game: mia.Game, pool: mia.Pool) -> dict[str, tuple[float, float]]:
    """Return wall and CPU seconds of the signals, and of each attack of a workload."""
    attacks = {name: mia.attacks.make(name) for name in mia.attacks.available().index}
    attacks = {
        name: replace(attack, pool=pool) if attack.needs.pool else attack
        for name, attack in attacks.items()
        if workload_of(attack) == workload
    }
    game = mia.Game(game.dataset)  # a new one: signals are computed once per game
    seconds = {}
    jobs = {"signals": lambda: [game.signal(name) for name in SIGNALS]}
    for name, job in (jobs | {name: partial(attack.run, game) for name, attack in attacks.items()}).items():
        wall, cpu = time.perf_counter(), time.process_time()
        job()
        seconds[name] = time.perf_counter() - wall, time.process_time() - cpu
    return seconds


def fastest_attacks(
    workload: str, size: tuple[int, int, int], repeats: int
) -> dict[str, tuple[float, float]]:
    """Return the seconds of the fastest of the repeats; runs in the process of that workload."""
    attack_seconds(workload, *made_up_game(8, 200, 3))  # imports what is not to be measured
    game, pool = made_up_game(*size)
    runs = [attack_seconds(workload, game, pool) for _ in range(repeats)]
    return min(runs, key=lambda run: sum(wall for wall, _ in run.values()))


def attack_rows(quick: bool, repeats: int) -> tuple[list[Row], list[dict[str, Any]]]:
    """The registered attacks: a row for the sum over each workload, and seconds by family."""
    size = (8, 200, 3) if quick else (64, 10_000, 30)
    common.default_threads()
    rows, families = [], []
    with common.fresh_processes(quick) as fresh:
        found = {workload: fresh(fastest_attacks, workload, size, repeats)[0] for workload in WORKLOADS}
    for workload, seconds in found.items():
        total = sum(wall for wall, _ in seconds.values())
        rows.append(Row(f"{workload}, {size[0]} x {size[1]:,} x {size[2]}", "mialab, wall clock", total))
        print(f"{rows[-1].workload}: {total:.3g} s", flush=True)
        by_family: dict[str, list[tuple[str, float, float]]] = {}
        for name, (wall, cpu) in seconds.items():
            family = name if name == "signals" else type(mia.attacks.make(name)).__name__
            by_family.setdefault(family, []).append((name, wall, cpu))
        for family, members in by_family.items():
            slowest, most, _ = max(members, key=lambda member: member[1])
            families.append(
                {
                    "workload": workload,
                    "family": family,
                    "attacks": len(members),
                    "wall": sum(wall for _, wall, _ in members),
                    "CPU": sum(cpu for *_, cpu in members),
                    "slowest": slowest,
                    "its wall": most,
                }
            )
    return rows, families


def main() -> int:
    parser = common.parser(__doc__)
    parts = ("lira", "rmia", "thresholds", "curves", "audit", "attacks")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of the plain loops (default: 3)")
    options = parser.parse_args()
    repeats = 1 if options.quick else options.repeats
    rows: list[Row] = []
    details: dict[str, list[dict[str, Any]]] = {}
    if "lira" in options.only:
        found, details["memory"] = lira_rows(options.quick, repeats)
        rows += found
    if "rmia" in options.only:
        rows += rmia_rows(options.quick, repeats)
    if "thresholds" in options.only:
        rows += threshold_rows(options.quick, repeats)
    if "curves" in options.only:
        found, details["growth"] = cost_curves(options.quick, repeats)
        rows += found
    if "audit" in options.only:
        found, details["audits"] = audit_rows(options.quick)
        rows += found
    if "attacks" in options.only:  # last: it lets processes take more threads
        found, details["attacks"] = attack_rows(options.quick, repeats)
        rows += found
    common.report(rows, options.json, **details)
    return 0


if __name__ == "__main__":
    sys.exit(main())
