"""What the tests run in processes of their own, so that these can be killed, raced, or robbed of rights."""

import faulthandler
import os
import signal
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import fsspec
import joblib
import torch
import toys
from fsspec.implementations.local import LocalFileSystem

import mialab as mia
from mialab.classifiers.plan import ClassifierPlan
from mialab.defenses import Defense
from mialab.games.backends import Local
from mialab.models import MLP


class Bucket(LocalFileSystem):
    """A shared file system behind the URL ``bucket://``; as in object stores, files appear whole or not at all."""

    protocol = ("bucket",)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("bucket://").rstrip("/")

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: object) -> None:
        """Write a file aside and put it in its place."""
        target = Path(self._strip_protocol(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.{uuid.uuid4().hex}")
        part.write_bytes(value)
        part.replace(target)


fsspec.register_implementation("bucket", Bucket)

TRAINING = mia.Training(epochs=8, batch_size=4)
#: Too large to be stacked: every model is a group of its own.
MODEL = MLP(hidden=(256, 256))


@dataclass(frozen=True)
class Logged(Defense):
    """Write down every model whose training begins, in the file that the environment variable LOG names."""

    name: ClassVar[str] = "logged"

    def before_epoch(self, run: object) -> None:
        """Note the models of the group."""
        if run.epoch == 0 and "LOG" in os.environ:
            with Path(os.environ["LOG"]).open("a") as file:
                file.write("".join(f"{k}\n" for k in run.models))


def log_to(file: str) -> None:
    """Name the file for `Logged`."""
    os.environ["LOG"] = file


def play(**options: object) -> mia.Game:
    """Play the game that the tests interrupt."""
    return mia.play(
        toys.pool(), MODEL, Logged(), **{"training": TRAINING, "n_models": 8, "workers": 1} | options
    )


def play_in_processes(**options: object) -> mia.Game:
    """Play the same game with two worker processes."""
    with joblib.parallel_config(backend="loky"):
        return play(workers=2, **options)


def play_in(cache: str, log: str, *, processes: bool = False, **options: object) -> None:
    """Play in a given cache folder and write down the trained models."""
    torch.set_num_threads(1)
    os.environ |= {"MIALAB_CACHE": cache, "LOG": log}
    (play_in_processes if processes else play)(**options)


@dataclass(frozen=True)
class Diverging(Defense):
    """Let a certain model diverge."""

    model: int = 0
    name: ClassVar[str] = "diverging"

    def loss(
        self, logits: torch.Tensor, target: torch.Tensor, *, run: object = None, index: object = None
    ) -> torch.Tensor:
        """Give an infinite loss, unless this is another model."""
        return super().loss(logits, target) * (float("inf") if self.model in run.models else 1)


@dataclass(frozen=True)
class Deadly(Defense):
    """Kill the process that trains a certain model."""

    model: int = 0
    name: ClassVar[str] = "deadly"

    def before_epoch(self, run: object) -> None:
        """Die, unless this is another model."""
        if self.model in run.models:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Inspected(Defense):
    """Write down, for every model, how its process sees the pool."""

    log: str = ""
    name: ClassVar[str] = "inspected"

    def before_epoch(self, run: object) -> None:
        """Note the process and the types of the largest array, and of one that is small."""
        seen = (os.getpid(), type(run.pool.x).__name__, getattr(run.pool.x, "filename", None))
        with Path(self.log).open("a") as file:
            file.write(f"{seen}\n")


def play_for_ever(cache: str, log: str) -> None:
    """Play a game that takes long in two processes that share arrays of several MB, and write down who they are."""
    torch.set_num_threads(1)
    os.environ["MIALAB_CACHE"] = cache
    pool = toys.pool(test=100_000)
    training = mia.Training(epochs=100_000, batch_size=4)
    with joblib.parallel_config(backend="loky"):
        mia.play(pool, MODEL, Inspected(log), training=training, n_models=4, workers=2)


def lose_a_worker(cache: str, told: str, stacks: str) -> None:
    """Play a game of which one worker dies, and write down what is said; and where all threads are after 90 seconds."""
    torch.set_num_threads(1)
    os.environ["MIALAB_CACHE"] = cache
    file = Path(stacks).open("w")  # noqa: SIM115  # until the process ends
    faulthandler.dump_traceback_later(90, file=file)
    try:
        with joblib.parallel_config(backend="loky"):
            mia.play(toys.pool(), MODEL, Deadly(4), training=TRAINING, n_models=6, workers=2)
    except RuntimeError as error:
        Path(told).write_text(str(error))


def wait_for_ever(models: list[int], *, pool: mia.Pool, log: str) -> None:
    """Train nothing, without an end, and say that it has begun."""
    Path(log).write_text("begun")
    while True:
        time.sleep(60)


def wait_with_an_idle_worker(log: str) -> None:
    """Give two worker processes one group: one of them never gets any."""
    with joblib.parallel_config(backend="loky"):
        team = Local(toys.pool(), 2)
        team.size(0)
        list(team.run(wait_for_ever, [[0]], 2, log=log))


def play_without_cluster(cache: str) -> None:
    """Fail if a game that is played here loads what only clusters need."""
    play_in(cache, os.devnull)
    assert "distributed" not in sys.modules


def play_without_rights(cache: str, answer: str) -> None:
    """Play as a user who may not write to the cache; "played" or the error's text goes to the file ``answer``."""
    os.environ["MIALAB_CACHE"] = cache
    with Path(answer).open("w") as file:
        if os.geteuid() == 0:
            os.setuid(65534)
        try:
            play()
            file.write("played")
        except OSError as error:
            file.write(str(error))


WIDTH = 8


def helper(width: int) -> MLP:
    """Build what `own_model` builds."""
    return MLP(hidden=(width,))


def own_model(shape: tuple[int, ...], n_classes: int) -> torch.nn.Module:
    """Build a network from a global number and another function."""
    return helper(WIDTH)(shape, n_classes)


def own_plan(**changes: object) -> ClassifierPlan:
    """Return the plan of a game with the user's own code."""
    options = {
        "pool": toys.pool("binary", validation=10),
        "model": own_model,
        "defense": Logged(),
        "training": mia.Training(epochs=1),
        "queries": mia.queries.Original(),
        "n_models": 4,
        "canaries": 0,
        "seed": 0,
        "keep": "logits",
        "answers": "float32",
    }
    return ClassifierPlan(**options | changes)


def write_key(answer: str) -> None:
    """Write the key of a game with the user's own code to a file."""
    Path(answer).write_text(own_plan().key())
