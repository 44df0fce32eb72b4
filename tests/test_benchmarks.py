"""Every benchmark runs at tiny size and writes the rows that it promises; what it measures is not tested."""

import contextlib
import functools
import importlib
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from test_store import PROCESSES, fork_server  # noqa: F401

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
COLUMNS = ["workload", "variant", "seconds", "ratio_to_loader", "ratio_to_plain", "peak_mb"]
#: Arguments that leave out what would take longest.
ARGUMENTS = {
    "dp": [],
    "epsilon": [],
    "engine": ["--only", "digits", "modes", "curves"],
    "peers": ["--only", "B1", "B4", "B7"],
    "scoring": [],
    "metrics": [],
}


@pytest.fixture(scope="module")
def fast_processes():
    """Fork the benchmarks' fresh processes from one that has imported everything: nothing is measured here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        patch.setattr(importlib.import_module("common"), "get_context", lambda _: PROCESSES)
        yield


def run(name, tmp_path, *arguments):
    """Rows and details that a benchmark wrote, and what it printed."""
    file, printed = tmp_path / f"{name}.json", io.StringIO()
    command = [f"{name}.py", "--quick", "--json", str(file), *arguments]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(tmp_path)
        patch.setattr(sys, "argv", command)
        for variable in importlib.import_module("common").THREADS:  # which benchmarks change
            patch.setenv(variable, "1")
        try:
            assert importlib.import_module(name).main() == 0
        finally:
            torch.set_num_threads(1)
    return (
        json.loads(file.read_text()),
        json.loads(file.with_stem(f"{name}-details").read_text()),
        printed.getvalue(),
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory, fork_server, fast_processes):  # noqa: F811
    """Results of benchmarks by name, each run once."""
    return functools.cache(lambda name: run(name, tmp_path_factory.mktemp(name), *ARGUMENTS[name]))


@pytest.fixture(params=sorted(ARGUMENTS))
def benchmark(request, results):
    return request.param, *results(request.param)


@pytest.mark.slow
def test_rows_have_the_promised_form(benchmark):
    _, rows, _, printed = benchmark
    assert rows
    for row in rows:
        assert list(row) == COLUMNS
        assert isinstance(row["workload"], str)
        assert row["workload"] in printed
        assert isinstance(row["variant"], str)
        assert math.isfinite(row["seconds"])
        assert row["seconds"] > 0
        for name in COLUMNS[3:]:
            assert row[name] is None or (math.isfinite(row[name]) and row[name] > 0), row
    assert len({(row["workload"], row["variant"]) for row in rows}) == len(rows), "two rows of the same name"


@pytest.mark.slow
def test_details_say_where_figures_come_from(benchmark):
    _, _, details, _ = benchmark
    assert {"processor", "versions", "commit", "date", "load"} <= set(details["about"])
    assert len(details) > 1


@pytest.mark.slow
def test_ratios_are_those_of_the_seconds(results):
    rows, details, _ = results("engine")
    rows = [row for row in rows if row["ratio_to_loader"] is not None]
    seconds = {row["variant"]: row["seconds"] for row in rows}
    assert set(seconds) == {"loader", "plain", "plain, 1 thread", "engine", "engine, first call"}
    for row in rows:
        for loop in ("loader", "plain"):
            # Seconds are rounded to 0.1 ms and ratios to three digits behind the point.
            ratio = seconds[loop] / row["seconds"]
            assert row[f"ratio_to_{loop}"] == pytest.approx(ratio, rel=0.05, abs=0.002)
        assert row["peak_mb"] > 50, "a process with torch in it"
    (accuracy,) = details["train_accuracy"]
    assert 0 <= accuracy["spread"] <= 1


@pytest.mark.slow
def test_missing_peers_are_named(results):
    _, details, printed = results("peers")
    here = {line["peer"] for line in details["peers"]}
    for peer in {"ART", "SACRO-ML", "PrivacyGuard"} - here:
        assert f"SKIPPED {peer}" in printed
    assert printed.count("SKIPPED") == 3 - len(here)


@pytest.mark.slow
def test_a_benchmark_runs_as_a_script(tmp_path):
    command = [sys.executable, BENCHMARKS / "metrics.py", "--quick", "--json", "rows.json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "rows.json").read_text())


def test_a_fresh_process_is_a_new_one_and_ends(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    with importlib.import_module("common").FreshProcess() as process:
        pid, megabytes = process.run(os.getpid, memory=True)
        assert pid == process.pid != os.getpid()
        assert megabytes > 1
    assert not psutil.pid_exists(pid)


def test_unknown_workload_is_refused(monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "argv", ["engine.py", "--only", "digit"])
    with pytest.raises(SystemExit, match=r"^2$"):
        importlib.import_module("engine").main()
    assert "digits" in capsys.readouterr().err
