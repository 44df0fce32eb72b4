"""What the benchmarks share: a fresh process for each measurement, its peak memory, and one form of report."""

from __future__ import annotations

import argparse
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from mialab import provenance

#: Runs a function in a fresh process; see `fresh_processes`.
Fresh = Callable[..., tuple[Any, float]]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Row:
    """One figure. Ratios say how many times as fast as the plain loops this variant is."""

    workload: str
    variant: str
    seconds: float
    ratio_to_loader: float | None = None
    ratio_to_plain: float | None = None
    peak_mb: float | None = None


class PeakMemory:
    """The most memory, in MB, that a process and its children held together while this was open.

    A thread reads it a few times a second: the proportional set size (PSS), so that memory-mapped files and
    libraries count once, however many processes share them; where there is no PSS, what each has to itself (USS).
    """

    def __init__(self, pid: int, every: float = 0.2) -> None:
        self.mb, self._every, self._over = 0.0, every, threading.Event()
        self._root = psutil.Process(pid)
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._read()

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            self._read()

    def _read(self) -> None:
        with suppress(psutil.NoSuchProcess):
            tree = [self._root, *self._root.children(recursive=True)]
            self.mb = max(self.mb, sum(map(_megabytes, tree)))


def _megabytes(process: psutil.Process) -> float:
    try:
        memory = process.memory_full_info()
    except psutil.Error:  # it has just ended
        return 0.0
    return getattr(memory, "pss", memory.uss) / 1e6


class FreshProcess:
    """A new Python process that runs functions one after another; it ends with the ``with`` block."""

    def __enter__(self) -> FreshProcess:
        self._process = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self.pid = self._process.submit(os.getpid).result()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.shutdown()

    def run(self, job: Callable[..., Any], *arguments: object, memory: bool = False) -> tuple[Any, float]:
        """Return what a function returns there and, if asked for, the peak memory of the process and its children.

        Reading the memory, in MB, takes a few percent of a core's time; without it, it is 0.
        """
        with PeakMemory(self.pid) if memory else nullcontext() as peak:
            result = self._process.submit(job, *arguments).result()
        return result, peak.mb if peak else 0.0


@contextmanager
def fresh_processes(quick: bool) -> Iterator[Fresh]:
    """Yield a function that runs a function in a new process of its own, else like `FreshProcess.run`.

    For a quick look one process does for all: starting them takes longest then.
    """
    if quick:
        with FreshProcess() as process:
            yield process.run
        return

    def run(job: Callable[..., Any], *arguments: object, memory: bool = False) -> tuple[Any, float]:
        with FreshProcess() as process:
            return process.run(job, *arguments, memory=memory)

    yield run


def default_threads() -> None:
    """Let fresh processes use as many threads as the libraries do by default; call it before the first one."""
    for name in THREADS:
        os.environ.pop(name, None)


def cpu_seconds(job: Callable[[], object], repeats: int) -> float:
    """Return the smallest CPU time of ``repeats`` runs, in this process."""
    timings = []
    for _ in range(repeats):
        began = time.process_time()
        job()
        timings.append(time.process_time() - began)
    return min(timings)


def processor() -> str:
    """Return the processor's name and number of cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def about() -> dict[str, Any]:
    """Return what a reader of the values must know: machine, load, versions, commit and date."""
    known = provenance.collect()
    return known | {
        "processor": processor(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": round(os.getloadavg()[0], 2),
    }


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    made.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, and nothing else")
    return made


def rows_of_loops(workload: str, seconds: Mapping[str, list[float]], peak: Mapping[str, float]) -> list[Row]:
    """Return a row for each variant, of its least seconds, with their ratios to those of the plain loops."""
    least = {variant: min(values) for variant, values in seconds.items()}
    return [
        Row(
            workload,
            variant,
            round(value, 4),
            round(least["loader"] / value, 3),
            round(least["plain"] / value, 3),
            round(peak[variant], 1),
        )
        for variant, value in least.items()
    ]


def table(rows: list[Mapping[str, Any]]) -> str:
    """Return rows as aligned text; numbers to three digits, nothing for None."""
    return pd.DataFrame(rows, dtype=object).map(_text).to_string(index=False)


def _text(value: object) -> str:
    if value is None or value != value:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


HEADINGS = ("workload", "variant", "seconds", "x loader", "x plain", "peak MB")


def report(
    rows: list[Row], json_path: Path | None = None, **details: list[dict[str, Any]] | dict[str, Any]
) -> None:
    """Print the rows and further tables, and write them to files.

    Parameters
    ----------
    rows : list of Row
        The values.
    json_path : Path, optional
        Gets the rows as a JSON list; a file beside it, ``NAME-details.json``, where they come from and the rest.
    **details
        Further tables: lists of dictionaries with the same keys.
    """
    facts = about()
    print(
        f"\n{facts['processor']}, {facts['memory_gb']} GB; load {facts['load']} at the end; {facts['machine']}; "
        f"Python {facts['python']}, torch {facts['versions']['torch']}, NumPy {facts['versions']['numpy']}; "
        f"commit {facts['commit']}; {facts['date']}\n"
    )
    columns = dict(zip(HEADINGS, (field.name for field in fields(Row)), strict=True))
    used = {
        heading: name for heading, name in columns.items() if any(getattr(r, name) is not None for r in rows)
    }
    print(table([{heading: getattr(row, name) for heading, name in used.items()} for row in rows]))
    if used.keys() & {"x loader", "x plain"}:
        print("x loader, x plain: how many times as fast as that loop; higher is better.")
    for name, lines in details.items():
        print(f"\n{name.replace('_', ' ')}\n{table(lines)}")
    if json_path:
        json_path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        beside = json_path.with_name(f"{json_path.stem}-details.json")
        beside.write_text(json.dumps({"about": facts, **details}, indent=1) + "\n")
        state_checksums(json_path, beside)


def state_checksums(*files: Path) -> None:
    """State the checksums of files that are in ``results/``."""
    if files[0].resolve().parent == Path(__file__).resolve().parents[1] / "results":
        from mialab.book import reference_runs

        reference_runs.state_checksums(files)
