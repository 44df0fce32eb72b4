"""Where groups of models are trained: in threads of this process, in worker processes, or on a dask cluster."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import joblib
import torch
from joblib.parallel import get_active_backend

from mialab import _progress
from mialab._validation import choose
from mialab.data.loading import load_again
from mialab.data.pool import Pool
from mialab.training import stack

if TYPE_CHECKING:
    from distributed import Future
    from joblib._dask import DaskDistributedBackend


Result = TypeVar("Result")


class WorkersLost(RuntimeError):
    """Those who trained are gone; what they finished is stored."""


#: Seconds of work above which worker processes pay: they take some 5 seconds to start, and are kept for a while.
START_PAYS, STARTED_PAYS = 10, 1


#: For how long idle processes are sure to be kept, in seconds (joblib: 300).
IDLE_SECONDS = 240


class Local:
    """Threads of this process, or its worker processes, as joblib's active backend has them.

    If nobody chose a backend, groups of networks that draw no random numbers of their own are trained in threads, which
    need no start; others in processes, where these pay.

    Parameters
    ----------
    pool : Pool
        The records; large arrays reach worker processes as memory-mapped files, written once.
    workers : int, optional
        How many groups to train at once; by default as many as the backend has workers.
    """

    _alive_until = 0.0

    def __init__(self, pool: Pool, workers: int | None) -> None:
        self.pool, self.workers = pool, workers
        self._in_threads = False

    def ask(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Call a function on a machine that trains: this one."""
        return function(*arguments)

    def ask_of_pool(self, function: Callable[..., Result], **options: object) -> Result:
        """Do the same with ``pool=`` the records."""
        return function(pool=self.pool, **options)

    def size(self, work: float, *, threads: bool = False, threads_pay: bool = True) -> int:
        """Return how many groups to train at once.

        If nobody said otherwise, that is as many as there are cores, or 1 where neither threads will do nor processes
        pay.

        Parameters
        ----------
        work : float
            Seconds that one process would take, roughly.
        threads : bool
            Whether groups can be trained in threads of one process.
        threads_pay : bool
            Whether threads are also worth it where processes pay.
        """
        pays = STARTED_PAYS if time.monotonic() < Local._alive_until else START_PAYS
        threads = threads and (threads_pay or work <= pays)
        backend, _ = get_active_backend(prefer="threads" if threads else "processes")
        _, most = get_active_backend()
        self._in_threads = getattr(backend, "uses_threads", False)
        return self.workers or (backend.effective_n_jobs(most or -1) if threads or work > pays else 1)

    def run(
        self, function: Callable[..., Result], groups: Sequence[list[int]], workers: int, **options: object
    ) -> Iterator[Result]:
        """Yield ``function(group, pool=..., **options)`` of every group as it is done."""
        if workers == 1:
            yield from (function(group, pool=self.pool, **options) for group in groups)
            return
        if self._in_threads:
            stop = threading.Event()
            with ThreadPoolExecutor(workers, initializer=stack.stop_at, initargs=(stop,)) as threads:
                tasks = [threads.submit(function, group, pool=self.pool, **options) for group in groups]
                try:
                    yield from (task.result() for task in as_completed(tasks))
                finally:  # after an error or an interruption, the others need not go on
                    stop.set()
                    threads.shutdown(cancel_futures=True)
            return
        here = os.getpid()
        # Workers of joblib's own kind are watched from their start on: some may never get a group.
        is_loky = type(get_active_backend()[0]).__name__ == "LokyBackend"
        start = {"initializer": _watch, "initargs": (here,)} if is_loky else {}
        parallel = joblib.Parallel(
            n_jobs=workers, return_as="generator_unordered", pre_dispatch="all", **start
        )
        try:
            yield from parallel(
                joblib.delayed(_watched)(here, function, group, pool=self.pool, **options) for group in groups
            )
        except BrokenExecutor as error:
            raise WorkersLost(
                "A worker process was killed, most often for want of memory: give fewer workers, or keep less "
                "(answers='float16', keep='scores')."
            ) from error
        Local._alive_until = time.monotonic() + IDLE_SECONDS


class Cluster:
    """The workers of the dask cluster that joblib's active backend names.

    Tasks go to its client directly: joblib's own would wait for ever for a task that was given up because its workers
    died, and would keep arrays on one worker only, to be lost with it.

    Parameters
    ----------
    backend : joblib's backend for dask
        With its client, and options of its tasks such as ``resources``.
    pool : Pool
        The records. Workers load a pool that was loaded by name themselves; others get a copy.
    workers : int, optional
        Among how many workers to divide the models; by default those that are there when training begins.
    """

    def __init__(self, backend: DaskDistributedBackend, pool: Pool, workers: int | None) -> None:
        self.client, self.workers = backend.client, workers
        self.options = {"pure": False, **backend.submit_kwargs}
        self.given_pool = pool
        self._pool: object = None

    @property
    def pool(self) -> object:
        """What workers get: how to load the pool, or a copy that all of them hold from now on."""
        if self._pool is None:
            pool = self.given_pool
            if pool.loaded:
                self._pool = {"fingerprint": pool.fingerprint, **pool.loaded}
            else:
                self._pool = self.client.scatter(pool, broadcast=True, hash=False)
        return self._pool

    def ask(self, function: Callable[..., Result], *arguments: object, **options: object) -> Result:
        """Call a function on the worker that is there first."""
        with self._reached():
            future = self.client.submit(function, *arguments, **options, **self.options)
            if not self.client.nthreads():
                _progress.note("waiting for the first worker of the cluster")
            return self._result(future, "A look at the game was")

    def ask_of_pool(self, function: Callable[..., Result], **options: object) -> Result:
        """Do the same with ``pool=`` the records."""
        return self.ask(_with_pool, function, pool=self.pool, **options)

    def size(self, work: float, *, threads: bool = False, threads_pay: bool = True) -> int:
        """Return how many workers there are; small work goes to the cluster too."""
        each = self.client.nthreads().values()
        if max(each) > 1:
            raise ValueError(
                f"Workers of the cluster have up to {max(each)} threads, but a worker trains one group at a time: "
                "start it with one thread per process (threads_per_worker=1, nthreads=1, or processes=cores)."
            )
        return self.workers or len(each)

    def run(
        self, function: Callable[..., Result], groups: Sequence[list[int]], workers: int, **options: object
    ) -> Iterator[Result]:
        """Yield ``function(group, pool=..., **options)`` of every group as it is done."""
        from distributed import as_completed as as_finished

        with self._reached():
            futures = {
                self.client.submit(
                    _with_pool, function, group, pool=self.pool, **options, **self.options
                ): group
                for group in groups
            }
            try:
                for future in as_finished(futures):
                    yield self._result(future, f"Models {futures[future]} were")
            finally:
                with suppress(Exception):  # the cluster may be gone
                    self.client.cancel(list(futures))

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Say so if the cluster is gone."""
        from distributed.client import ClosedClientError
        from distributed.comm.core import CommClosedError

        try:
            yield
        except (ClosedClientError, CommClosedError) as error:
            raise WorkersLost(
                f"The cluster cannot be reached any more ({error}): connect to one, or leave joblib's dask backend."
            ) from error

    @staticmethod
    def _result(future: Future, what: str) -> Any:
        from distributed import CancelledError, KilledWorker

        try:
            return future.result()
        except (KilledWorker, CancelledError) as error:
            raise WorkersLost(
                f"{what} given up by the cluster: {error}. Workers die most often for want of memory: give each one "
                "more, or keep less (answers='float16', keep='scores')."
            ) from error


#: Whether this process ends itself once the one that it works for is gone.
IS_WATCHED = threading.Event()


def _watch(parent: int) -> None:
    """Let a worker process, in which this is called, end soon after its parent does, even after a kill."""
    if not IS_WATCHED.is_set():
        IS_WATCHED.set()
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _watched(parent: int, function: Callable[..., Result], *arguments: object, **options: object) -> Result:
    """Call a function in a worker process, which is watched from then on."""
    if os.getppid() == parent:
        _watch(parent)
    return function(*arguments, **options)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _with_pool(function: Callable[..., Result], *arguments: object, pool: Any, **options: object) -> Result:
    pool = load_again(**pool) if isinstance(pool, dict) else pool
    return function(*arguments, pool=pool, **options)


def device_here(device: str) -> str:
    """Return ``"cpu"`` or ``"cuda"`` for a device that a user asks for; ValueError if it is unknown or not here."""
    choose("device", device, ("auto", "cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda' is not available here; use device='auto'.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return device


#: Who trains.
Team = Local | Cluster


def find(pool: Pool, workers: int | None, *, shared: bool) -> Local | Cluster:
    """Return who trains: this process alone, if no other process can reach the store (``shared``)."""
    if not shared:
        return Local(pool, 1)
    backend, _ = get_active_backend()
    if type(backend).__name__ == "DaskDistributedBackend":  # by name: distributed need not be installed
        return Cluster(backend, pool, workers)
    return Local(pool, workers)
