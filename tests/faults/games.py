"""Small games, played in processes that are killed, robbed of room, or disturbed while they read."""

import errno
import itertools
import os
import resource
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import toys
import workers  # registers the file system bucket://
from faults.harness import Child, Failure, digest, files, wait_until
from joblib.externals.loky import get_reusable_executor

import mialab as mia
from mialab import gan
from mialab.classifiers import run as classifier_run
from mialab.games.store import Store
from mialab.gan import run as gan_run
from mialab.gan.networks import MLP as MLPs
from mialab.gan.networks import Conv
from mialab.models import MLP

IMAGES = toys.pool("image", test=0, validation=30)
SHORT = gan.Training(steps=12, batch_size=8, n_critic=2)
SMALL = {"samples": 6, "fakes": 3}


def _stacked(**options: Any) -> mia.Game:
    training = mia.Training(epochs=6, batch_size=4)
    asked = {"queries": mia.queries.Mixed((0.4,)), "canaries": 10, "n_models": 36}
    return mia.play(toys.pool(), MLP(hidden=(8,)), "hamp", training=training, **asked | options)


def _flipped(**options: Any) -> mia.Game:
    return _stacked(**{"n_models": 4} | options)


def _one_by_one(**options: Any) -> mia.Game:
    return workers.play(**options)


def _in_processes(**options: Any) -> mia.Game:
    game = workers.play_in_processes(**options)
    # A process that was started by multiprocessing would wait at its end until these have been idle for long.
    get_reusable_executor().shutdown(kill_workers=True)
    return game


def _gan(**options: Any) -> gan.GeneratorGame:
    networks = MLPs((8,), latent=4)
    return gan.play(IMAGES, networks, **{"training": SHORT, "n_models": 8, **SMALL} | options)


def _gan_one_by_one(**options: Any) -> gan.GeneratorGame:
    networks = Conv(width=2, latent=4)
    return gan.play(
        IMAGES, networks, "mixup", **{"training": SHORT, "n_models": 4, "workers": 1, **SMALL} | options
    )


#: What is played, by name.
GAMES: dict[str, Callable[..., Any]] = {
    "stacked": _stacked,
    "one by one": _one_by_one,
    "gan": _gan,
    "gan one by one": _gan_one_by_one,
    "in processes": _in_processes,
    "flipped": _flipped,
}
#: What a resumed game may say otherwise than one that was not disturbed.
VARIES = {"date", "seconds", "peak_mb", "workers", "runs"}


# ----------------------------------------------------------------------------------------------------
# In the process that plays


def disturb(how: str, at: int, root: str) -> list[int]:
    """From the file operation number ``at`` under a folder on, let something go wrong; returns the count, which grows.

    Parameters
    ----------
    how : {"", "kill", "full disk", "no files left", "read error", "read errors"}
        What: nothing; the process is killed; nothing can be written; no file can be made; one file, or no file, can
        be read. For the last two, the operations are those of reading, otherwise those of writing.
    at : int
        When, from 1.
    root : str
        The folder.
    """
    numbers, seen = itertools.count(1), [0]
    reading = how.startswith("read")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.mkdir") or not str(arguments[0]).startswith(root):
            return
        writes = event != "open" or bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes == reading or str(arguments[0]).endswith(".lock"):
            return
        seen[0] = number = next(numbers)
        if not how or number < at:
            return
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "full disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        elif how == "no files left":
            raise OSError(errno.ENOSPC, "No space left on device", str(arguments[0]))
        elif how == "read errors" or number == at:
            code = (errno.EIO, errno.EMFILE)[at % 2]
            raise OSError(code, os.strerror(code), str(arguments[0]))

    sys.addaudithook(hook)
    return seen


def play(name: str, store: str, log: str, how: str = "", at: int = 0, **options: Any) -> dict[str, Any]:
    """Play a game, perhaps with a disturbance; return hashes of its arrays, and what is said of it.

    The file ``log`` gets a line for each model that is trained.
    """
    for module in (classifier_run, gan_run):
        module.train_group = _logged(module.train_group, log)
    os.environ["MIALAB_CACHE"] = f"{store}/cache"
    count, began = disturb(how, at, store.partition("://")[2] or store), time.monotonic()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        game = GAMES[name](store=store, **options)
        seconds = time.monotonic() - began
        dataset = game.dataset.load()
    return {
        "arrays": {
            v: digest(dataset[v].to_numpy()) for v in sorted(map(str, dataset.variables)) if v != "seconds"
        },
        "attrs": dict(game.attrs),
        "model_seconds": float(dataset["seconds"].sum()),
        "warnings": [str(w.message) for w in warned if not issubclass(w.category, ResourceWarning)],
        "seconds": seconds,
        "operations": count[0],
    }


def _logged(train: Callable[..., Any], log: str) -> Callable[..., Any]:
    def logged(models: Sequence[int], **options: Any) -> Any:
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, "".join(f"{k}\n" for k in models).encode())
        os.close(file)
        return train(models, **options)

    return logged


def finished(store: str) -> list[int]:
    """Return the models that are whole in the only game of a store."""
    games = [folder for folder in Path(store).glob("*.zarr") if (folder / "checksum" / "zarr.json").exists()]
    if not games:
        return []
    absent, damaged = Store(store, games[0].stem).missing(range(64))
    return sorted(set(range(64)) - {*absent, *damaged})


# ----------------------------------------------------------------------------------------------------
# In the process that disturbs

_UNDISTURBED: dict[tuple[str, str], dict[str, Any]] = {}


def undisturbed(name: str, folder: Path, how: str = "") -> dict[str, Any]:
    """Return what a game is that nothing disturbs; ``how`` says which file operations are counted."""
    if (name, how) not in _UNDISTURBED:
        place = folder / f"undisturbed {name} {how}"
        if how:  # of a finished game
            whole(play, name, str(place / "games"), str(place / "log"))
        _UNDISTURBED[name, how] = whole(play, name, str(place / "games"), str(place / "log"), how, 10**9)
        shutil.rmtree(place)
    return _UNDISTURBED[name, how]


def whole(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run something in a process of its own to its end."""
    child = Child(function, *arguments)
    answer = child.answer()
    child.end()
    if isinstance(answer, Failure):
        raise RuntimeError(f"{function.__name__}{arguments}: {answer}\n{answer.where}")
    return answer


def judge(answer: Any, expected: dict[str, Any], *, one_by_one: bool = False) -> str:
    """Compare a game with the one that nothing disturbed."""
    if isinstance(answer, Failure):
        return f"error: {answer}"
    arrays, right = answer["arrays"], expected["arrays"]
    if changed := [name for name in right if arrays.get(name) != right[name]]:
        return f"wrong: arrays {changed}"
    attrs, right = answer["attrs"], expected["attrs"]
    if gone := sorted(right.keys() - attrs.keys()):
        return f"lost: attributes {gone}"
    if changed := [name for name in right if name not in VARIES and attrs[name] != right[name]]:
        return f"wrong: attributes {changed}"
    if one_by_one and attrs["seconds"] < 0.9 * answer["model_seconds"]:
        return f"lost: seconds {attrs['seconds']:.2f}, but models took {answer['model_seconds']:.2f}"
    if answer["warnings"]:
        return f"error: warned: {answer['warnings'][0][:200]}"
    return ""


class Disturbed:
    """A game in a store of its own that is disturbed, resumed and judged."""

    def __init__(self, name: str, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.in_turn = "one by one" in name
        self.name, self.store, self.log = name, folder / "games", folder / "log"
        folder.mkdir(parents=True)
        self.done: set[int] = set()
        self.twice: set[int] = set()
        self._read = 0

    def start(self, how: str = "", at: int = 0) -> Child:
        """Start to play."""
        return Child(play, self.name, str(self.store), str(self.log), how, at)

    def note(self) -> None:
        """Keep in mind which models are finished, and find those that were trained although they were."""
        lines = self.log.read_text().split() if self.log.exists() else []
        self.twice |= self.done & set(map(int, lines[self._read :]))
        self._read = len(lines)
        found = finished(str(self.store))
        self.twice |= self.done - set(found)
        self.done |= set(found)

    def resume(self, expected: dict[str, Any]) -> str:
        """Play to the end; return a verdict."""
        self.note()
        child = self.start()
        answer = child.answer()
        child.end()
        self.note()
        if verdict := judge(answer, expected, one_by_one=self.in_turn):
            return verdict
        if self.twice:
            return f"lost: models {sorted(self.twice)} were finished"
        if left := [file.name for file in files(self.store) if "partial" in file.name]:
            return f"left: {left[:3]}"
        return ""


# ----------------------------------------------------------------------------------------------------
# Trials

IN_TURN = ("stacked", "one by one", "gan", "gan one by one")


def kills(indices: Sequence[int], folder: Path) -> Iterator[str]:
    """Kill a game up to three times, at random moments or before random file operations, and resume it."""
    for index in indices:
        rng = np.random.default_rng([1, index])
        name = IN_TURN[index % len(IN_TURN)]
        expected, n_kills = undisturbed(name, folder), 0
        while not n_kills:
            game = Disturbed(name, folder / "game")
            for _ in range(rng.integers(1, 4)):
                by_time = rng.random() < 0.5
                at = int(rng.integers(1, expected["operations"] + 1))
                child = game.start("" if by_time else "kill", at)
                if by_time:
                    time.sleep(rng.uniform(0, expected["seconds"]))
                    child.kill()
                n_kills += child.was_killed
                child.end()
                game.note()
        yield game.resume(expected)


def killed_at_the_end(indices: Sequence[int], folder: Path) -> Iterator[str]:
    """Kill a game before the last, the last but one, ... file operation: all but a little is stored."""
    for index in indices:
        name = IN_TURN[index % len(IN_TURN)]
        expected = undisturbed(name, folder)
        died, back = False, index // len(IN_TURN)
        # How many operations there are varies a little: threads that need the same folder may both try to make it.
        while not died:
            game = Disturbed(name, folder / "game")
            child = game.start("kill", expected["operations"] - back)
            died, back = child.was_killed, back + 1
            child.end()
        yield game.resume(expected)


def killed_with_processes(indices: Sequence[int], folder: Path) -> Iterator[str]:
    """Kill a game that has worker processes, or one of these, once some models are finished."""
    for index in indices:
        rng = np.random.default_rng([2, index])
        expected = undisturbed("one by one", folder)
        game = Disturbed("in processes", folder / "game")
        child = game.start()
        wait_until(lambda game=game: len(files(game.store)) > 0 and game.log.exists(), 60)
        time.sleep(rng.uniform(0, 0.5))
        verdict = ""
        if index % 2:
            wait_until(lambda child=child: child.workers(), 60)
            os.kill(int(rng.choice(child.workers())), signal.SIGKILL)
            answer = child.answer()
            if isinstance(answer, Failure) and "stored" not in answer.text:
                verdict = f"error: a worker was killed: {answer}"
        else:
            child.kill()
        if not wait_until(lambda child=child: not child.others(), 15):
            verdict = verdict or f"left: {len(child.others())} processes"
        kept = [f.name for f in Path("/dev/shm").glob(f"*{child.pid}*")]
        child.end()
        for file in kept:
            shutil.rmtree(f"/dev/shm/{file}", ignore_errors=True)
        if kept:
            verdict = verdict or f"left: {kept[:3]} in shared memory"
        game.name = "one by one"
        yield game.resume(expected) or verdict


def full_disks(indices: Sequence[int], folder: Path) -> Iterator[str]:
    """Let no more be written from a random file operation on: an error says so, and the game resumes with room."""
    for index in indices:
        rng = np.random.default_rng([3, index])
        name = IN_TURN[index % len(IN_TURN)]
        expected = undisturbed(name, folder)
        game = Disturbed(name, folder / "game")
        how = ("full disk", "no files left")[index // len(IN_TURN) % 2]
        child = game.start(how, int(rng.integers(1, expected["operations"] + 1)))
        answer = child.answer()
        child.end()
        verdict = ""
        if isinstance(answer, Failure):
            if "OSError" not in answer.classes or str(game.store) not in answer.text:
                verdict = f"error: {how}: {answer}"
        else:  # it came after all that counts
            verdict = judge(answer, expected)
        yield game.resume(expected) or verdict


def read_errors(indices: Sequence[int], folder: Path) -> Iterator[str]:
    """Let reading fail, once or for good, at a random file of a finished game: nothing is trained again."""
    for index in indices:
        rng = np.random.default_rng([4, index])
        name = IN_TURN[index % len(IN_TURN)]
        expected = undisturbed(name, folder)
        how = ("read error", "read errors")[index // len(IN_TURN) % 2]
        operations = undisturbed(name, folder, how)["operations"]
        game = Disturbed(name, folder / "game")
        child = game.start()
        child.answer()
        child.end()
        game.note()
        child = game.start(how, int(rng.integers(1, operations + 1)))
        answer = child.answer()
        child.end()
        verdict = ""
        if not isinstance(answer, Failure):
            verdict = judge(answer, expected)
        elif "OSError" not in answer.classes or str(game.store) not in answer.text:
            verdict = f"error: {how}: {answer}"
        elif "delete" in answer.text:
            verdict = f"error: {how} that passes counts as damage: {answer}"
        yield game.resume(expected) or verdict


def races(indices: Sequence[int], folder: Path) -> Iterator[str]:
    """Let four processes play one game, in a folder with its lock and at a URL without; one may be killed."""
    for index in indices:
        rng = np.random.default_rng([5, index])
        name = IN_TURN[index // 2 % len(IN_TURN)]
        expected = undisturbed(name, folder)
        game = Disturbed(name, folder / "game")
        locked = index % 2 == 0
        place = str(game.store) if locked else f"bucket://{game.store}"
        children = [Child(play, name, place, str(game.log)) for _ in range(4)]
        dies = index % 3 == 0
        if dies:
            time.sleep(rng.uniform(0, expected["seconds"]))
            children[0].kill()
        answers = [child.answer(300) for child in children[dies:]]
        for child in children:
            child.end()
        verdict = next(filter(None, (judge(answer, expected) for answer in answers)), "")
        trained = game.log.read_text().split()
        if locked and not dies and len(trained) != len(set(trained)) and not verdict:
            verdict = f"lost: {len(trained)} trainings of {len(set(trained))} models"
        game.note()
        yield verdict or game.resume(expected)
