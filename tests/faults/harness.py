"""What all trials share: processes of their own, verdicts, and kinds of trials."""

import hashlib
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
import torch

#: What a trial may end in, besides "" for all is well; text after a colon says what happened.
FAULTS = ("wrong", "lost", "error", "left")

#: Processes are forked from one that has imported everything and trained nothing: quick, and safe.
CONTEXT = multiprocessing.get_context("forkserver")
TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent


@dataclass(frozen=True)
class Kind:
    """A kind of trials.

    Parameters
    ----------
    name : str
        Its name.
    trials : int
        How many `make faults` makes.
    run : callable
        Takes indices of trials and an empty folder, and yields a verdict for each; a trial follows from its index.
    batch : int
        How many are made in a row.
    alone : bool
        Whether a batch runs in a process of its own; otherwise its trials start theirs.
    """

    name: str
    trials: int
    run: Callable[[Sequence[int], Path], Iterator[str]]
    batch: int = 1
    alone: bool = False

    def verdicts(self, indices: Sequence[int]) -> list[str]:
        """Make some trials; return a verdict for each."""
        with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as name:
            if not self.alone:
                return list(self.run(indices, Path(name)))
            child = Child(_listed, self.run, indices, Path(name))
            answer = child.answer(60 + 10 * len(indices))
            child.end()
        if isinstance(answer, Failure):
            answer = [f"error: the trials ended with {answer}"] * len(indices)
        return answer


def _listed(run: Callable[[Sequence[int], Path], Iterator[str]], *arguments: Any) -> list[str]:
    return list(run(*arguments))


@dataclass(frozen=True)
class Failure:
    """How a process failed: the classes of its error, and the text."""

    classes: tuple[str, ...]
    text: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.classes[0]}: {self.text[:300]}"


class Child:
    """A function in a process and session of its own, which may be killed at any time.

    Parameters
    ----------
    function : callable
        What to run; it is given ``arguments``.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        paths = dict.fromkeys([str(TESTS), str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        CONTEXT.set_forkserver_preload(["faults.games", "torch._dynamo"])  # the second by optimizers
        self._pipe, theirs = CONTEXT.Pipe(duplex=False)
        self._process = CONTEXT.Process(target=_serve, args=(theirs, function, arguments, dict(os.environ)))
        self._process.start()
        theirs.close()
        self.pid = self._process.pid
        self._answers: list[Any] = []
        self._receive(120)  # it has begun

    def _receive(self, seconds: float) -> bool:
        """Wait for a message; tell whether one came."""
        try:
            if not self._pipe.poll(seconds):
                return False
            self._answers.append(self._pipe.recv())
        except (EOFError, OSError):
            return False
        return True

    def answer(self, seconds: float = 120) -> Any:
        """Return what the function returns, or a `Failure`."""
        if self._receive(seconds):
            return self._answers[-1]
        self._process.join(1)
        code = self._process.exitcode
        said = f"no answer in {seconds} s" if code is None else f"exit code {code}"
        return Failure(("Ended",), said)

    @property
    def was_killed(self) -> bool:
        """Whether a signal has ended it."""
        self._process.join()
        return self._process.exitcode < 0

    def kill(self, how: int = signal.SIGKILL) -> None:
        """Send it a signal; not to what it has started."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, how)

    def others(self) -> list[int]:
        """Return the processes that it has started and that still run."""
        return [pid for pid in _session(self.pid) if pid != self.pid]

    def workers(self) -> list[int]:
        """Return those of the others that train: joblib's workers, not the process that cleans up after them."""
        return [pid for pid in self.others() if b"popen_loky" in _command(pid)]

    def end(self) -> None:
        """End it, and all that it has started."""
        self._process.kill()
        self._process.join()
        # Workers first: what cleans up after them ends by itself once they are gone.
        for running in (self.workers, self.others):
            for pid in running():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not self.others(), 5)
        self._pipe.close()


def _serve(
    pipe: Any, function: Callable[..., Any], arguments: Sequence[Any], environment: dict[str, str]
) -> None:
    os.setsid()
    # What cleans up after a process that was killed waits for its end; that of the parent would wait for the parent's.
    resource_tracker._resource_tracker._fd = None
    resource_tracker._resource_tracker._pid = None
    os.environ.update(environment)
    torch.set_num_threads(1)
    pipe.send("begun")
    try:
        answer = function(*arguments)
    except BaseException as error:
        classes = tuple(c.__name__ for c in type(error).__mro__)
        answer = Failure(classes, str(error), traceback.format_exc(limit=-3))
    pipe.send(answer)


def _command(pid: int) -> bytes:
    """Return the command line of a process; nothing if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _session(leader: int) -> Iterator[int]:
    """Yield the processes of a session that have not ended."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                yield int(folder.name)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until something is so; return whether it is."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def digest(array: np.ndarray) -> str:
    """Return a hash of an array's values, type and shape."""
    plain = np.ascontiguousarray(array)
    return hashlib.sha256(f"{plain.dtype}{plain.shape}".encode() + plain.tobytes()).hexdigest()


def files(folder: Path) -> list[Path]:
    """Return all files in a folder, in order."""
    return sorted(file for file in folder.rglob("*") if file.is_file())


@contextmanager
def flipped(folder: Path, template: Path, rng: np.random.Generator) -> Iterator[str]:
    """Make a copy of a folder in which one bit of one file is another; yields which."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    there = [file for file in files(folder) if file.stat().st_size and file.suffix != ".lock"]
    file = there[rng.integers(len(there))]
    content = bytearray(file.read_bytes())
    bit = int(rng.integers(8 * len(content)))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    yield f"bit {bit} of {file.relative_to(folder)}"
