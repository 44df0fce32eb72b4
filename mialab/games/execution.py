"""From a plan to a game: what is not in the store is trained, group by group."""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from mialab import _progress, provenance
from mialab._validation import check_integer
from mialab.games import backends
from mialab.games.backends import Team, WorkersLost
from mialab.games.plan import Plan
from mialab.games.store import Store, games_root, is_shared

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]


#: Groups that draw from torch's own generator, which all threads share, are trained one at a time in a process.
ONE_GROUP = threading.Lock()


def execute(
    plan: Plan, *, workers: int | None, device: str, store: str | os.PathLike[str] | None
) -> xr.Dataset:
    """Train what is not in the store yet, and open the game.

    Parameters
    ----------
    plan : Plan
        Everything that determines the game.
    workers, device, store
        See `mialab.play`.
    """
    if workers is not None:
        check_integer("workers", workers, low=1)
    games = games_root(store)
    team = backends.find(plan.pool, workers, shared=is_shared(games))
    device, plan = plan.resolve(team, device)
    kept, todo = Store(games, plan.key()), list(range(plan.n_models))
    layout = plan.arrays(), plan.sizes(), plan.fixed(), plan.attrs()
    # Whoever finds a game finished needs neither a lock nor the right to write.
    unfit = kept.unfit(*layout)
    if unfit or (todo := [k for part in kept.missing(todo) for k in part]):
        with ExitStack() as held:
            try:
                held.enter_context(kept.lock())
            except OSError:
                if unfit != ["attributes"] or any(kept.missing(todo)):
                    raise
                _warn(
                    f"Stored attributes of {kept.url} are damaged, and nothing can be written there: they are taken "
                    "from the plan."
                )
                return kept.open(plan.n_models, layout[-1])
            if mended := kept.lay_out(*layout):
                _warn(f"Stored metadata of {', '.join(mended)} were damaged; they are written anew.")
            absent, damaged = kept.missing(todo)
            if damaged:
                _warn(f"Stored answers of models {damaged} are damaged; they are trained again.")
            if todo := sorted(absent + damaged):
                _train(kept, plan, todo, team, device)
    return kept.open(plan.n_models, layout[-1])


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)


def _train(store: Store, plan: Plan, todo: list[int], team: Team, device: str) -> None:
    began = time.time()
    form = plan.form(team, device)
    # Processes pay for large games only; a GPU is kept busy by one.
    work = len(todo) * plan.seconds_of_work()
    how = {"threads": not form.alone, "threads_pay": plan.threads_pay}
    workers = team.size(work if device == "cpu" else 0, **how)
    groups = _groups(todo, form.most, workers, device)
    workers = min(workers, len(groups))
    run = {
        "run": uuid.uuid4().hex,
        "began": began,
        "mode": form.mode,
        "device": device,
        "workers": workers,
        "threads_per_worker": 1,
    }
    options = plan.options(device)
    what = f"training {plan.defense.name} on {plan.pool.name}"
    with _resumable(store, plan.n_models), _progress.bar(len(todo), what) as advance:
        # A group is stored where it was trained, as soon as it is; an error or a kill loses only what is under way.
        for group in team.run(
            _train_group,
            groups,
            workers,
            store=store,
            run=run,
            alone=form.alone,
            train=plan.train_group,
            **options,
        ):
            advance(len(group))


@contextmanager
def _resumable(store: Store, n_models: int) -> Iterator[None]:
    """Say what is stored, and how to go on, if training is interrupted or its workers are lost."""

    def stored() -> str:
        return (
            f"Finished models are stored ({store.count(n_models)} of {n_models}): play again with the same parameters, "
            "or run the chapter again, to go on from there."
        )

    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(stored()) from None  # where it was interrupted helps nobody
    except WorkersLost as error:
        raise RuntimeError(f"{error} {stored()}") from error


def _groups(todo: list[int], most: int, workers: int, device: str) -> list[list[int]]:
    """Split models into groups of at most ``most``.

    On a CPU, which models share a group follows from the models alone, so that games come out the same to the last
    bit with any number of workers. On GPUs groups are large, but there is one for every worker.
    """
    if device == "cpu":
        groups = [[k for k in todo if k // most == g] for g in range(todo[-1] // most + 1)]
        return [group for group in groups if group]
    rounds = -(-len(todo) // (workers * most))
    size = -(-len(todo) // (workers * rounds))
    return [todo[i : i + size] for i in range(0, len(todo), size)]


def _train_group(
    models: list[int],
    *,
    store: Store,
    run: dict[str, Any],
    train: Callable[..., dict[str, np.ndarray]],
    alone: bool = True,
    **options: Any,
) -> list[int]:
    """Train and store a group, with the provenance of each model: that of the run, and that of this process.

    Models that are there already are left alone: the group may have been given to another worker before, which died
    after storing some of it.
    """
    with ONE_GROUP if alone else nullcontext():
        absent, damaged = store.missing(models)
        _train_and_store(sorted(absent + damaged), store, run, train, y=store.read("y"), **options)
    return models


def _train_and_store(
    models: list[int],
    store: Store,
    run: dict[str, Any],
    train: Callable[..., dict[str, np.ndarray]],
    **options: Any,
) -> None:
    if not models:
        return
    try:
        results = train(models, member=store.read("member", models), **options)
        elapsed = max(0.0, time.time() - run["began"])  # clocks of machines may differ
        about = {**provenance.collect(), **run, "elapsed": elapsed, "peak_mb": _peak_mb()}
        store.write(models, results, about)
        return
    except torch.OutOfMemoryError as error:
        if len(models) == 1:
            raise MemoryError(
                f"Model {models[0]} alone does not fit the memory of the device {options['device']!r}: lower "
                f"batch_size={options['training'].batch_size}, take a smaller network, or device='cpu'. ({error})"
            ) from error
    # Out here, the error is gone, and with it what its traceback kept in memory.
    torch.cuda.empty_cache()
    half = len(models) // 2
    for part in (models[:half], models[half:]):
        _train_and_store(part, store, run, train, **options)


def _peak_mb() -> float:
    """Largest resident memory of this process so far, in MB; memory-mapped records that it has read count."""
    status = Path("/proc/self/status")
    if status.exists():  # the value of getrusage includes that of the process from which this one was forked
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    if resource is None:
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
