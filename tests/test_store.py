"""Games on disk: what is found again and what is not, kills, damage, races and missing rights."""

import ast
import contextlib
import dataclasses
import errno
import functools
import json
import multiprocessing
import os
import re
import shutil
import sys
import time
import types
import warnings
from pathlib import Path

import fsspec
import numpy as np
import psutil
import pytest
import toys
import workers
import zarr
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from zarr.storage import FsspecStore, LocalStore

import mialab as mia
from mialab import provenance
from mialab.arrays import ArraySpec
from mialab.classifiers import plan as classifier_plan
from mialab.classifiers import run as classifier_run
from mialab.defenses import HAMP, Defense, LabelSmoothing
from mialab.games import execution, store
from mialab.games.identity import UNDECIDED, describe
from mialab.games.store import Store, games_root
from mialab.gan import game as gan_game
from mialab.models import CNN, MLP
from mialab.probes.gradient import Gradient
from mialab.queries import Flips, Original

# Processes are forked from one that has imported everything and trained nothing: quick, and safe.
PROCESSES = multiprocessing.get_context("forkserver")

SMALL, TRAINING = MLP(hidden=(8,)), mia.Training(epochs=1)
#: What a group is told of its run.
RUN = {"run": "a", "began": 0.0, "mode": "sequential"}


@pytest.fixture(scope="module", autouse=True)
def fork_server():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        # The second is imported by optimizers.
        PROCESSES.set_forkserver_preload(["pytest", "torch._dynamo", "workers", "cells"])
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The answers of the game that the tests interrupt, from a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIALAB_CACHE", str(tmp_path_factory.mktemp("undisturbed")))
        return workers.play().dataset.load()


def assert_same(game, expected):
    for name in set(expected) - {"seconds"}:
        np.testing.assert_array_equal(game.dataset[name], expected[name], err_msg=name)


def stored(cache):
    """Return the folder of the only game in a cache."""
    (path,) = cache.glob("games/*.zarr")
    return path


def chunk(path, name, model=None):
    """Return the file that holds the values of a model, or all values, of a stored array."""
    folder = path / name / "c" / ("" if model is None else str(model))
    (file,) = (f for f in [folder, *folder.rglob("*")] if f.is_file())
    return file


# ----------------------------------------------------------------------------------------------------
# Kills and errors


@pytest.mark.slow
def test_a_killed_run_resumes_and_loses_only_what_was_under_way(fresh_cache, tmp_path, undisturbed):
    log = tmp_path / "log"
    log.touch()
    rng = np.random.default_rng(0)
    kills = 0
    while True:
        process = PROCESSES.Process(target=workers.play_in, args=(str(fresh_cache), str(log)))
        process.start()
        before = len(log.read_text().split())
        if kills < 4:  # at random moments of the second training, or in the writing before or after
            while len(log.read_text().split()) < before + 2 and process.is_alive():
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.1))
            process.kill()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode < 0
        kills += 1
    assert kills >= 3
    models = [int(k) for k in log.read_text().split()]
    assert set(models) == set(range(8))
    assert len(models) <= 8 + kills
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(workers.play(), undisturbed)


@pytest.mark.slow
def test_a_run_that_stops_at_any_write_resumes(fresh_cache, monkeypatch):
    """The test above cannot hit every moment; this one stops before the first, the second, ... write."""

    def play():
        return mia.play(toys.pool(), SMALL, HAMP(), training=TRAINING, n_models=2)

    expected = play().dataset.load()
    real, writes = zarr.Array.__setitem__, 0

    def stop(array, where, value):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        real(array, where, value)

    while True:
        shutil.rmtree(fresh_cache)
        left = writes
        monkeypatch.setattr(zarr.Array, "__setitem__", stop)
        with contextlib.suppress(KeyboardInterrupt):
            play()
        monkeypatch.setattr(zarr.Array, "__setitem__", real)
        assert_same(play(), expected)
        if left >= 0:
            break
        writes += 1
    assert writes >= 8  # 7 arrays and the provenance


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_a_run_killed_while_it_is_laid_out_goes_on(after, fresh_cache, monkeypatch):
    """Stopped before or after any array is made, several times in a row."""

    def play():
        return mia.play(toys.pool(), SMALL, HAMP(), training=TRAINING, n_models=2)

    expected = play().dataset.load()
    shutil.rmtree(fresh_cache)
    real, made = Store._describe, []

    def killed(store, path, metadata):
        if path not in made:
            made.append(path)
            if after:
                real(store, path, metadata)
            raise KeyboardInterrupt
        return real(store, path, metadata)

    monkeypatch.setattr(Store, "_describe", killed)
    for _ in range(12):
        with pytest.raises(KeyboardInterrupt):
            play()
    assert len(made) == 12
    assert_same(play(), expected)


@pytest.mark.slow
def test_a_killed_run_with_worker_processes_resumes(fresh_cache, tmp_path, undisturbed):
    log = tmp_path / "log"
    log.touch()
    process = PROCESSES.Process(
        target=workers.play_in, args=(str(fresh_cache), str(log)), kwargs={"processes": True}
    )
    process.start()
    while len(log.read_text().split()) < 3 and process.is_alive():
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode < 0
    # A worker may yet finish the model it is at, while the next run trains it too.
    assert_same(workers.play(), undisturbed)
    assert len(log.read_text().split()) <= 8 + 4


@pytest.mark.slow
def test_divergence_keeps_the_finished_models(fresh_cache, trained):
    options = {"training": TRAINING, "n_models": 8, "workers": 1}
    for again in (False, True):
        with pytest.raises(FloatingPointError, match=r"^Training diverged: model 5 answers"):
            mia.play(toys.pool(), workers.MODEL, workers.Diverging(5), **options)
        assert trained == ([0, 1, 2, 3, 4, 5, 5] if again else [0, 1, 2, 3, 4, 5])
    group = zarr.open_group(stored(fresh_cache), mode="r")
    assert np.isfinite(group["logits"][:5]).all()
    assert group["provenance"][:8].any(1).tolist() == [True] * 5 + [False] * 3


@pytest.mark.slow
def test_a_full_disk_is_an_error_that_keeps_the_finished_models(fresh_cache, monkeypatch, undisturbed):
    real = zarr.Array.__setitem__
    count = []

    def full(array, where, value):
        if array.basename == "logits":
            count.append(where)
            if len(count) > 3:
                raise OSError(28, "No space left on device")
        real(array, where, value)

    monkeypatch.setattr(zarr.Array, "__setitem__", full)
    with pytest.raises(
        OSError,
        match=r"^Model 3 cannot be written to .*: No space left on device. Models stored before are kept",
    ):
        workers.play()
    monkeypatch.setattr(zarr.Array, "__setitem__", real)
    assert_same(workers.play(), undisturbed)


@pytest.mark.slow
def test_an_interruption_says_what_is_stored(fresh_cache, monkeypatch, undisturbed):
    real = classifier_run.train_group

    def interrupted(models, **options):
        if models[0] == 3:
            raise KeyboardInterrupt
        return real(models, **options)

    with monkeypatch.context() as patch:
        patch.setattr(classifier_run, "train_group", interrupted)
        with pytest.raises(
            KeyboardInterrupt,
            match=r"^Finished models are stored \(3 of 8\): play again with the same parameters",
        ) as raised:
            workers.play()
    assert raised.value.__suppress_context__
    assert_same(workers.play(), undisturbed)


@pytest.mark.slow
def test_a_killed_worker_says_what_is_stored(fresh_cache, tmp_path):
    """In a process of its own: once in some 170 times it never ended, and it is not known yet where it waits."""
    told, stacks = tmp_path / "told", tmp_path / "stacks"
    process = PROCESSES.Process(target=workers.lose_a_worker, args=(str(fresh_cache), str(told), str(stacks)))
    process.start()
    process.join(150)
    if process.is_alive():
        process.kill()
        pytest.xfail(f"the process did not end:\n{stacks.read_text()}")
    assert re.match(
        r"A worker process was killed.* Finished models are stored \([0-5] of 6\): play", told.read_text()
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_end_with_the_process_that_started_them(fresh_cache, tmp_path):
    log = tmp_path / "log"
    log.touch()
    process = PROCESSES.Process(target=workers.play_for_ever, args=(str(fresh_cache), str(log)))
    process.start()
    while len(seen := {line.split(",")[0] for line in log.read_text().splitlines()}) < 2:
        assert process.is_alive()
        time.sleep(0.05)
    process.kill()
    process.join()
    shared = list(Path("/dev/shm").glob(f"joblib_memmapping_folder_{process.pid}_*"))
    left = [*shared, *(Path(f"/proc/{pid.strip('(')}") for pid in seen)]
    assert len(left) >= 3
    end = time.monotonic() + 60
    while any(path.exists() for path in left) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [path for path in left if path.exists()]


@pytest.mark.slow
def test_workers_without_a_group_end_with_the_process_that_started_them(tmp_path):
    log = tmp_path / "log"
    process = PROCESSES.Process(target=workers.wait_with_an_idle_worker, args=(str(log),))
    process.start()
    while not log.exists():
        assert process.is_alive()
        time.sleep(0.05)
    started = psutil.Process(process.pid).children()
    process.kill()
    process.join()
    assert len(started) == 3  # with joblib's own, which clears up
    assert not psutil.wait_procs(started, timeout=60)[1]


# ----------------------------------------------------------------------------------------------------
# Damage


@pytest.mark.slow
def test_damaged_answers_are_named_and_trained_again(fresh_cache, undisturbed, trained):
    workers.play()
    path = stored(fresh_cache)
    trained.clear()
    truncated, flipped, deleted, cut = (
        chunk(path, name, k)
        for name, k in (("logits", 1), ("logits", 4), ("test_accuracy", 6), ("provenance", 7))
    )
    truncated.write_bytes(truncated.read_bytes()[:100])
    damaged = bytearray(flipped.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    flipped.write_bytes(damaged)
    deleted.unlink()
    cut.write_bytes(cut.read_bytes()[:5])
    with pytest.warns(
        UserWarning, match=r"^Stored answers of models \[1, 4, 6, 7\] are damaged; they are trained"
    ):
        game = workers.play()
    assert trained == [1, 4, 6, 7]
    assert_same(game, undisturbed)
    trained.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(workers.play(), undisturbed)
    assert not trained


@pytest.mark.slow
@pytest.mark.parametrize("name", ["member", "y", "partner", "canary"])
@pytest.mark.parametrize("damage", ["cut", "deleted", "changed"])
def test_what_is_known_beforehand_is_restored(name, damage, fresh_cache, trained):
    def play():
        return mia.play(toys.pool(), SMALL, training=TRAINING, n_models=2, canaries=10)

    expected = play().dataset.load()
    path = stored(fresh_cache)
    per_model = name in ("member", "partner")
    file = chunk(path, name, 0 if per_model else None)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:3])
    elif damage == "deleted":
        file.unlink()
    else:
        array = zarr.open_group(path, mode="r+")[name]
        rows = slice(2 if per_model else None)
        array[rows] = array[rows][::-1]
    assert_same(play(), expected)
    assert trained == [0, 1]


@pytest.mark.slow
def test_a_flag_that_is_another_byte_is_damage(fresh_cache, trained):
    """A flag of 2 is as true as 1, but it is not what was stored."""

    def play():
        return mia.play(toys.pool(), SMALL, training=TRAINING, n_models=2)

    expected = play().dataset.load()
    array = zarr.open_group(stored(fresh_cache), mode="r+")["member"]
    array[:2] = (2 * expected["member"].to_numpy().astype(np.uint8)).view(bool)
    assert_same(play(), expected)
    kept = np.asarray(zarr.open_group(stored(fresh_cache))["member"][:2])
    assert set(kept.view(np.uint8).ravel()) == {0, 1}


@pytest.mark.slow
def test_damaged_attributes_in_a_read_only_place_are_taken_from_the_plan(fresh_cache, trained, monkeypatch):
    def play():
        return mia.play(toys.pool(), SMALL, training=TRAINING, n_models=2)

    def refused(self):
        raise OSError("read-only file system")

    expected = play()
    expected.dataset.load()
    group = zarr.open_group(stored(fresh_cache), mode="r+")
    group.attrs.put(dict(group.attrs) | {"seed": 7})
    monkeypatch.setattr(store.Store, "lock", refused)
    with pytest.warns(UserWarning, match=r"^Stored attributes of .* are damaged, and nothing can be written"):
        game = play()
    assert_same(game, expected.dataset)
    assert game.attrs == expected.attrs
    chunk(stored(fresh_cache), "y", None).unlink()
    with pytest.raises(OSError, match="read-only"):
        play()
    assert trained == [0, 1]


@pytest.mark.slow
def test_lost_metadata_are_made_again(fresh_cache, trained):
    def play():
        return mia.play(toys.pool(), SMALL, training=TRAINING, n_models=2)

    expected = play().dataset.load()
    for name in ("logits", "provenance", "member"):
        (stored(fresh_cache) / name / "zarr.json").unlink()
    assert_same(play(), expected)
    assert trained == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("part", [".", "logits", "provenance", "y"])
@pytest.mark.parametrize("text", ["{", "{}", "", "[]", "\0"])
def test_damaged_metadata_are_named_and_written_anew(part, text, fresh_cache, trained):
    def play():
        return mia.play(toys.pool(), SMALL, training=TRAINING, n_models=2)

    expected = play()
    expected.dataset.load()
    file = stored(fresh_cache) / part / "zarr.json"
    before = file.read_bytes()
    file.write_text(text)
    name = "attributes" if part == "." else part
    with pytest.warns(
        UserWarning, match=rf"^Stored metadata of {name} were damaged; they are written anew.$"
    ):
        game = play()
    assert_same(game, expected.dataset)
    assert game.attrs == expected.attrs
    assert trained == [0, 1]
    assert file.read_bytes() == before


@pytest.mark.slow
def test_no_flipped_bit_of_metadata_changes_what_is_served(fresh_cache, trained):
    """One bit in every 19th byte of the attributes, and in every 29th of what describes two arrays."""

    def play():
        return mia.play(toys.pool(), SMALL, training=TRAINING, n_models=2)

    expected = play()
    expected.dataset.load()
    path, rng = stored(fresh_cache), np.random.default_rng(0)
    harmless = tried = 0
    for file in (path / "zarr.json", path / "logits" / "zarr.json", path / "provenance" / "zarr.json"):
        intact = file.read_bytes()
        for place in range(int(rng.integers(19)), len(intact), 19 if file.parent == path else 29):
            damaged = bytearray(intact)
            damaged[place] ^= 1 << int(rng.integers(8))
            file.write_bytes(damaged)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                game = play()
            harmless += not said  # white space, for one
            tried += 1
            assert_same(game, expected.dataset)
            assert game.attrs == expected.attrs, damaged
    assert trained == [0, 1]
    assert harmless < tried / 3


@pytest.mark.slow
def test_attributes_are_those_of_the_plan(fresh_cache, trained):
    """Changed together with their checksum, they are whole, but not what was asked for."""

    def play():
        return mia.play(toys.pool(), SMALL, training=TRAINING, n_models=2)

    expected = play().attrs
    group = zarr.open_group(stored(fresh_cache), mode="r+")
    attrs = {k: v for k, v in group.attrs.items() if k != "checksum"}
    assert attrs.items() <= expected.items()
    group.attrs.put(store._sealed(attrs | {"seed": 1}))
    assert play().attrs == expected
    assert trained == [0, 1]


@pytest.mark.slow
def test_answers_in_a_wrong_place_are_noticed(fresh_cache, undisturbed, trained):
    workers.play()
    path = stored(fresh_cache)
    for name in ("logits", "train_accuracy", "test_accuracy", "test_correct", "provenance"):
        shutil.copy(chunk(path, name, 3), chunk(path, name, 5))
    trained.clear()
    with pytest.warns(UserWarning, match=r"^Stored answers of models \[5\] are damaged"):
        assert_same(workers.play(), undisturbed)
    assert trained == [5]


# ----------------------------------------------------------------------------------------------------
# Errors that may pass


@pytest.fixture
def unreadable(monkeypatch):
    """Let reading fail: of files whose names end in so and so, for so many times, with an error."""
    real, left = LocalStore.get, {"times": 0, "end": "", "error": OSError()}
    monkeypatch.setattr(store, "PAUSES", (0.0, 0.0, 0.0))

    async def get(files, key, *arguments, **options):
        if left["times"] and key.endswith(left["end"]):
            left["times"] -= 1
            raise left["error"]
        return await real(files, key, *arguments, **options)

    monkeypatch.setattr(LocalStore, "get", get)
    return left.update


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ETIMEDOUT])
@pytest.mark.parametrize("end", ["", "logits/c/1/0/0/0", "provenance/c/1/0", "y/c/0", "y/zarr.json"])
def test_errors_of_reading_that_pass_are_no_damage(number, end, fresh_cache, trained, unreadable):
    def play():
        return mia.play(toys.pool(), SMALL, training=TRAINING, n_models=2)

    expected = play().dataset.load()
    unreadable(times=3, end=end, error=OSError(number, os.strerror(number)))
    assert_same(play(), expected)
    unreadable(times=10**6)
    with pytest.raises(
        OSError,
        match=rf"cannot be read by .*: {os.strerror(number)}. That is no damage, and nothing is trained",
    ):
        play()
    unreadable(times=0)
    assert_same(play(), expected)
    assert trained == [0, 1]


@pytest.mark.slow
def test_a_file_without_the_right_to_read_is_no_damage(fresh_cache, trained, unreadable):
    def play():
        return mia.play(toys.pool(), SMALL, training=TRAINING, n_models=2)

    expected = play().dataset.load()
    unreadable(times=1, end="logits/c/0/0/0/0", error=PermissionError(errno.EACCES, "Permission denied"))
    with pytest.raises(
        OSError, match=r"logits/c/0/0/0/0 cannot be read by .*: Permission denied\. That is no"
    ):
        play()
    assert_same(play(), expected)
    assert trained == [0, 1]


def test_answers_that_are_read_later_are_read_patiently(fresh_cache, unreadable):
    game = mia.play(toys.pool(), SMALL, training=TRAINING, n_models=2)
    expected = np.asarray(zarr.open_group(stored(fresh_cache), mode="r")["logits"][:2])
    unreadable(times=3, end="logits/c/1/0/0/0", error=OSError(errno.EMFILE, "Too many open files"))
    np.testing.assert_array_equal(game.dataset["logits"], expected)


# ----------------------------------------------------------------------------------------------------
# Folders and URLs


@pytest.fixture(params=["folder", "file://", "memory://", "bucket://"])
def place(request, tmp_path):
    """Give a test a place of its own for games; the last is a shared file system behind a URL."""
    if request.param == "folder":
        return tmp_path / "shared"
    return f"{request.param}{tmp_path}/shared"


@pytest.mark.slow
def test_games_are_kept_at_any_place(place, fresh_cache, undisturbed, trained):
    first = workers.play(store=place)
    assert_same(first, undisturbed)
    assert first.attrs["mode"] == "sequential"
    assert_same(workers.play(store=place), undisturbed)
    assert trained == list(range(8))
    assert not fresh_cache.exists()


@pytest.mark.slow
def test_a_run_at_any_place_resumes_and_notices_damage(place, fresh_cache, undisturbed, trained, monkeypatch):
    real, writes = zarr.Array.__setitem__, []

    def stop(array, where, value):
        writes.append(array.basename)
        if len(writes) == 30:
            raise KeyboardInterrupt
        real(array, where, value)

    monkeypatch.setattr(zarr.Array, "__setitem__", stop)
    with pytest.raises(KeyboardInterrupt):
        workers.play(store=place)
    monkeypatch.setattr(zarr.Array, "__setitem__", real)
    done = writes.count("provenance")
    trained.clear()
    game = workers.play(store=place)
    assert 0 < done < 8
    assert trained == list(range(done, 8))
    assert_same(game, undisturbed)
    trained.clear()
    files, root = fsspec.url_to_fs(str(place))
    (file,) = files.glob(f"{root}/*.zarr/logits/c/5/0/0/0")
    files.pipe_file(file, files.cat_file(file)[:50])
    with pytest.warns(UserWarning, match=r"^Stored answers of models \[5\] are damaged"):
        assert_same(workers.play(store=place), undisturbed)
    assert trained == [5]


@pytest.mark.slow
def test_worker_processes_write_to_a_shared_place_themselves(place, fresh_cache, undisturbed, monkeypatch):
    alone = str(place).startswith("memory")
    monkeypatch.setattr(Store, "write", functools.partialmethod(refuse, os.getpid(), alone, Store.write))
    game = workers.play_in_processes(store=place)
    assert_same(game, undisturbed)
    assert game.attrs["workers"] == (1 if alone else 2)  # memory is not shared


def refuse(store, process, alone, write, *arguments):
    assert (os.getpid() == process) == alone
    write(store, *arguments)


@pytest.mark.slow
def test_a_group_that_is_given_out_again_is_finished_only(fresh_cache, monkeypatch, trained):
    workers.play()
    store = Store(games_root(), stored(fresh_cache).stem)
    with monkeypatch.context() as patch:  # as it was before models 2 and 3 were written
        (stored(fresh_cache) / "provenance" / "c" / "2" / "0").unlink()
        (stored(fresh_cache) / "provenance" / "c" / "3" / "0").unlink()
        trained.clear()
        patch.setattr(classifier_run, "train_group", lambda models, **_: trained.extend(models) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            execution._train_group([0, 1, 2, 3], store=store, run=RUN, train=classifier_run.train_group)
    assert trained == [2, 3]


def test_the_environment_names_the_place(fresh_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("MIALAB_GAMES", str(tmp_path / "elsewhere"))
    mia.play(toys.pool(), SMALL, training=TRAINING, n_models=2)
    assert len(list((tmp_path / "elsewhere").glob("*.zarr"))) == 1
    monkeypatch.setenv("MIALAB_GAMES", "file:///a/b/")
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    assert games_root() == "/a/b"
    monkeypatch.delenv("MIALAB_GAMES")
    assert games_root() == str(fresh_cache / "games")
    assert games_root("memory://b/") == "memory://b"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere://bucket", "Games cannot be kept in nowhere://bucket: Protocol not known: nowhere"),
        (
            "/dev/null/games",
            "Games cannot be kept in /dev/null/games: Not a directory. Set MIALAB_GAMES, or play",
        ),
        ("/tmp/a::b", "Games cannot be kept in /tmp/a::b: '::' stands for a chain of URLs"),
    ],
)
def test_places_that_do_not_exist(place, message, trained):
    with pytest.raises(OSError, match=f"^{message}"):
        mia.play(toys.pool(), SMALL, training=TRAINING, n_models=2, store=place)
    assert not trained


def test_a_cache_is_no_url(monkeypatch):
    monkeypatch.setenv("MIALAB_CACHE", "s3://bucket")
    with pytest.raises(
        ValueError, match=r"^MIALAB_CACHE='s3://bucket' must be a folder. .* set MIALAB_GAMES"
    ):
        mia.play(toys.pool(), SMALL, training=TRAINING, n_models=2)


def test_a_worker_that_cannot_reach_the_store(tmp_path):
    for root in (str(tmp_path / "not mounted"), "memory://not there"):
        with pytest.raises(
            FileNotFoundError, match=r"^There is no game .*/key.zarr as seen from .*: set MIALAB_GAMES"
        ):
            execution._train_group([0], store=Store(root, "key"), run=RUN, train=classifier_run.train_group)


def test_a_store_that_fails_is_an_error_about_the_store(fresh_cache, monkeypatch):
    async def fails(*_, **__):
        raise RuntimeError("credentials have expired")

    monkeypatch.setattr(FsspecStore, "get", fails)
    monkeypatch.setattr(store, "PAUSES", ())
    with pytest.raises(
        OSError, match=r"^/a/toy-.*/zarr.json cannot be read by .*: credentials have expired\. "
    ):
        mia.play(toys.pool(), SMALL, training=TRAINING, n_models=2, store="memory://a")


# ----------------------------------------------------------------------------------------------------
# Chunks

SIZES = st.integers(1, 3000)


def spec(*dims, dtype="float32"):
    return ArraySpec("an array", ("model", *dims), dtype)


@pytest.mark.slow
@given(SIZES, st.integers(1, 20), SIZES, st.sampled_from(["float16", "float32"]))
def test_chunks_hold_whole_records_of_one_model(n_records, n_queries, n_classes, dtype):
    shape, dtype = (4, n_queries, n_records, n_classes), np.dtype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "CHUNK_BYTES", 100_000)
        answers = spec("query", "record", "label", dtype=str(dtype))
        chunks = store._chunks(answers, shape)
        of_checkpoints = store._chunks(answers.at_checkpoints(), (4, 7, *shape[1:]))
    assert of_checkpoints == (1, *chunks), "a chunk holds one checkpoint"
    assert chunks[:2] == (1, n_queries)
    assert chunks[3] == n_classes
    assert 1 <= chunks[2] <= n_records
    size = np.prod(chunks) * dtype.itemsize
    assert size <= 100_000 or chunks[2] == 1
    blocks = -(-n_records // chunks[2])
    assert blocks == 1 or -(-n_records // (blocks - 1)) * size / chunks[2] > 100_000  # no more than needed


def test_sizes_of_chunks():
    logits, half = (spec("query", "record", "label", dtype=dtype) for dtype in ("float32", "float16"))
    assert store._chunks(logits, (256, 1, 50_000, 100)) == (1, 1, 25_000, 100)
    assert store._chunks(half, (256, 18, 10_000, 1000)) == (1, 18, 455, 1000)
    assert store._chunks(logits, (64, 1, 2000, 30)) == (1, 1, 2000, 30)
    assert store._chunks(spec("query", "record"), (64, 2, 10_000_000)) == (1, 2, 2_000_000)
    assert store._chunks(spec(dtype="float64"), (64,)) == (1,)


@pytest.mark.slow
def test_answers_in_many_chunks(fresh_cache, monkeypatch, trained, undisturbed):
    monkeypatch.setattr(store, "CHUNK_BYTES", 10 * 3 * 4)
    assert_same(workers.play(), undisturbed)
    files = sorted((stored(fresh_cache) / "logits" / "c" / "6" / "0").glob("*/0"))
    assert len(files) == 4
    for file in (files[0], files[2]):
        damaged = bytearray(file.read_bytes())
        damaged[-5] ^= 1
        file.write_bytes(damaged)
        trained.clear()
        with pytest.warns(UserWarning, match=r"^Stored answers of models \[6\] are damaged"):
            assert_same(workers.play(), undisturbed)
        assert trained == [6]


# ----------------------------------------------------------------------------------------------------
# Found again, or not


@pytest.mark.slow
def test_a_game_is_found_again_exactly(fresh_cache, monkeypatch):
    def play():
        return mia.play(
            toys.pool(validation=10),
            SMALL,
            HAMP(gamma=0.5),
            training=mia.Training(epochs=1, select="best_validation"),
            n_models=4,
            queries="augmented",
            canaries=4,
            seed=1,
        )

    first = play()
    expected = first.dataset.load()
    monkeypatch.setattr(classifier_run, "train_group", None)
    again = play()
    for name, value in expected.items():
        np.testing.assert_array_equal(again.dataset[name], value)
        assert again.dataset[name].dtype == value.dtype
    assert again.attrs == first.attrs
    assert again.dataset.logits.dims == ("model", "query", "record", "label")


def other_pool(part, index, value):
    pool = toys.pool("binary", validation=10)
    array = getattr(pool, part).copy()
    array[index] = value
    return dataclasses.replace(pool, **{part: array})


BINARY = toys.pool("binary", validation=10)
IMAGES = toys.pool("image", validation=10)
CHANGES = {
    "pool.x": {"pool": other_pool("x", (3, 2), 1 - BINARY.x[3, 2])},
    "pool.y": {"pool": other_pool("y", 5, (BINARY.y[5] + 1) % 3)},
    "pool.x_val": {"pool": other_pool("x_val", (3, 2), 1 - BINARY.x_val[3, 2])},
    "pool.x_test": {"pool": other_pool("x_test", (3, 2), 1 - BINARY.x_test[3, 2])},
    "pool.y_test": {"pool": other_pool("y_test", 5, (BINARY.y_test[5] + 1) % 3)},
    "pool.n_classes": {"pool": dataclasses.replace(BINARY, n_classes=4)},
    "pool.kind": {"pool": dataclasses.replace(BINARY, kind="tabular")},
    "model.hidden": {"model": MLP(hidden=(9,))},
    "model.activation": {"model": MLP(hidden=(8,), activation="relu")},
    "defense": {"defense": Defense()},
    "defense.smoothing": {"defense": LabelSmoothing(0.2)},
    **{
        f"training.{name}": {"training": mia.Training(**{"epochs": 1, "optimizer": "sgd"} | {name: value})}
        for name, value in {
            "epochs": 2,
            "stop": 1,
            "batch_size": 8,
            "optimizer": "adamw",
            "lr": 0.1,
            "momentum": 0.5,
            "weight_decay": 0.1,
            "milestones": (3,),
            "decay": 0.5,
            "shuffle": False,
            "select": "best_validation",
            "precision": "bfloat16",
        }.items()
    },
    "training.checkpoints": {"training": mia.Training(epochs=2, optimizer="sgd", checkpoints=(1,))},
    "pool of images": {"pool": IMAGES},
    "training.flip": {"pool": IMAGES, "training": mia.Training(epochs=1, optimizer="sgd", flip=True)},
    "training.shift": {"pool": IMAGES, "training": mia.Training(epochs=1, optimizer="sgd", shift=1)},
    "queries": {"queries": Flips()},
    "canaries": {"canaries": 2},
    "members": {"members": 5},
    "candidates": {"candidates": np.arange(40) < 20},
    "other candidates": {"candidates": np.arange(40) < 22},
    "probes": {"probes": (Gradient(),)},
    "seed": {"seed": 1},
    "keep": {"keep": "scores"},
    "answers": {"answers": "float16"},
}


def test_every_field_of_training_is_changed_above():
    assert {f"training.{f.name}" for f in dataclasses.fields(mia.Training)} <= CHANGES.keys()


def small_plan(**changes):
    options = {
        "model": SMALL,
        "defense": LabelSmoothing(0.1),
        "training": mia.Training(epochs=1, optimizer="sgd"),
    }
    return workers.own_plan(**options | changes)


def test_whatever_changes_a_game_changes_its_key():
    keys = {name: small_plan(**change).key() for name, change in CHANGES.items()} | {"": small_plan().key()}
    assert len(set(keys.values())) == len(keys), json.dumps(keys, indent=1)
    assert small_plan(pool=toys.pool("binary", validation=10)).key() == keys[""]
    assert small_plan(n_models=6).key() == keys[""]


def test_the_code_of_signals_counts_where_they_are_stored(monkeypatch):
    for keep in ("logits", "scores"):
        keys = []
        for code in ("old", "new"):
            monkeypatch.setattr(
                "mialab.games.identity.code_hash",
                lambda code=code, **sources: code * ("classifiers.signals" in sources.values()),
            )
            keys.append(small_plan(keep=keep).key())
        assert (keys[0] == keys[1]) == (keep == "logits")


def test_every_parameter_of_a_defense_is_in_the_key():
    base = small_plan(defense=HAMP()).key()
    for changes in ({"gamma": 0.6}, {"alpha": 0.1}, {"output_step": False}, {"faithful": False}):
        assert small_plan(defense=HAMP(**changes)).key() != base
    assert small_plan(defense=HAMP(gamma=np.float64(0.5))).key() == base
    assert (
        small_plan(model=CNN(), pool=toys.pool("image", validation=10))
        .key()
        .startswith("toy-label_smoothing-")
    )


@pytest.mark.slow
def test_a_changed_game_is_not_found(fresh_cache, trained):
    base = {"model": SMALL, "training": TRAINING, "n_models": 2}
    changes = [{}, {"seed": 1}, {"canaries": 2}, {"defense": "hamp"}, {"pool": toys.pool(seed=1)}]
    for change in [*changes, *changes]:
        mia.play(**{"pool": toys.pool()} | base | change)
    assert len(trained) == 2 * len(changes)


@pytest.mark.slow
def test_keys_are_the_same_in_other_processes(tmp_path):
    keys = []
    for i in range(2):
        file = tmp_path / str(i)
        process = PROCESSES.Process(target=workers.write_key, args=(str(file),))
        process.start()
        process.join()
        assert process.exitcode == 0
        keys.append(file.read_text())
    assert keys == [workers.own_plan().key()] * 2


# ----------------------------------------------------------------------------------------------------
# The user's own code


def in_module(source: str, name: str = "own") -> object:
    """Run source code as a module of its own and return what it calls ``name``."""
    module = types.ModuleType("a_notebook")
    exec(compile(source, "<cell>", "exec"), module.__dict__)
    return module.__dict__[name]


FUNCTION = """
from torch import nn
WIDTH = 8
def layers(shape, n_classes):
    return [nn.Linear(shape[0], WIDTH), nn.ReLU(), nn.Linear(WIDTH, n_classes)]
def own(shape, n_classes, bias=True):
    return nn.Sequential(*layers(shape, n_classes))
"""
CLASS = """
from torch import nn
class Base(nn.Module):
    def forward(self, x):
        return 2 * self.inner(x)
class Net(Base):
    scale = 3
    def __init__(self, shape, n_classes):
        super().__init__()
        self.inner = nn.Linear(shape[0], n_classes)
own = lambda shape, n_classes: Net(shape, n_classes)
"""
DEFENSE = """
from dataclasses import dataclass
from mialab.defenses import LabelSmoothing
def scale(loss):
    return 2 * loss
@dataclass(frozen=True)
class Own(LabelSmoothing):
    name = "own"
    strength: float = 1.0
    @property
    def factor(self):
        return 1
    def loss(self, logits, target, *, run=None, index=None):
        return scale(super().loss(logits, target)) * self.factor
own = Own()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "old", "new"),
    [
        (FUNCTION, "WIDTH = 8", "WIDTH = 9"),
        (FUNCTION, "nn.ReLU", "nn.Tanh"),
        (FUNCTION, "bias=True", "bias=False"),
        (FUNCTION, "(*layers", "(nn.Identity(), *layers"),
        (CLASS, "2 * self", "3 * self"),
        (CLASS, "scale = 3", "scale = 4"),
        (CLASS, "nn.Linear(shape[0], n_classes)", "nn.Linear(shape[0], n_classes, bias=False)"),
        (DEFENSE, "2 * loss", "3 * loss"),
        (DEFENSE, "return 1", "return 2"),
        (DEFENSE, "strength: float = 1.0", "strength: float = 2.0"),
        (DEFENSE, "(LabelSmoothing)", "(HAMP)"),
        (DEFENSE, "own = Own()", "own = Own(0.3)"),
    ],
)
def test_a_change_in_own_code_is_noticed_and_a_comment_is_not(source, old, new):
    source = source.replace("import LabelSmoothing", "import HAMP, LabelSmoothing")
    assert source.count(old) == 1
    assert describe(in_module(source)) == describe(in_module(source))
    assert describe(in_module(source.replace(old, new))) != describe(in_module(source))
    documented = source.replace(
        "):\n        return", '):\n        "Why."\n\n        # because\n        return'
    )
    assert describe(in_module(documented)) == describe(in_module(source))


@pytest.mark.parametrize(
    ("source", "old", "new"), [(CLASS, "2 * self", "3 * self"), (DEFENSE, "2 * loss", "3 * loss")]
)
def test_code_without_a_file_counts(source, old, new):
    """As in `exec` and `python -c`, where methods come from the same "<string>" as those of dataclasses."""

    def own(text):
        names = {"__name__": "__main__"}
        exec(text, names)
        return names["own"]

    texts = [describe(own(text)) for text in (source, source + "# why", source.replace(old, new))]
    assert texts[0] == texts[1] != texts[2]
    method = "\n    def step(self, run, batch):\n        return 1\nown = Own()\n"
    if source is DEFENSE:
        first, second = (source.replace("\nown = Own()\n", method.replace("1", n)) for n in "12")
        assert describe(own(first)) != describe(own(second))


def test_moved_code_and_other_imports_change_nothing(tmp_path):
    code = "def f(x):\n    return g(x)\n"
    (tmp_path / "a.py").write_text(f"from b import g\n{code}")
    (tmp_path / "c.py").write_text(
        f'"""Moved."""\nfrom typing import TYPE_CHECKING\nfrom d import g\nif TYPE_CHECKING:\n    import e\n{code}'
    )
    (tmp_path / "f.py").write_text(code.replace("g(x)", "g(x) + 1"))
    bare = [provenance.code_of(tmp_path / f"{name}.py") for name in "acf"]
    assert bare[0] == bare[1] != bare[2]


def reached(start, without=UNDECIDED):
    """Modules of the package that one imports, directly or not, without those that decide nothing."""
    package = Path(mia.__file__).parent

    def imported(module):
        tree = ast.parse(package.joinpath(*module.split(".")).with_suffix(".py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mialab"):
                for name in [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]:
                    inner = name.partition(".")[2]
                    if inner and package.joinpath(*inner.split(".")).with_suffix(".py").exists():
                        yield inner

    found, todo = set(), [start]
    while todo:
        module = todo.pop()
        if module not in found | without:
            found.add(module)
            todo.extend(imported(module))
    return found


@pytest.mark.parametrize(
    ("start", "sources"),
    [
        ("classifiers.run", classifier_plan.SOURCES | classifier_plan.SIGNAL_SOURCES),
        ("gan.run", gan_game.SOURCES | classifier_plan.SIGNAL_SOURCES),
    ],
)
def test_all_code_that_a_training_reaches_is_in_the_key(start, sources):
    assert reached(start) <= set(sources.values())


@pytest.mark.parametrize(
    ("plan", "sources"),
    [
        (classifier_plan.ClassifierPlan, classifier_plan.SOURCES),
        (gan_game.GeneratorPlan, gan_game.SOURCES | classifier_plan.SIGNAL_SOURCES),
    ],
)
def test_all_code_that_a_defense_reaches_is_in_the_key(plan, sources):
    for name in plan.defenses.available():
        defense = plan.defenses.make(name)
        own = {cls.__module__.removeprefix("mialab.") for cls in type(defense).__mro__}
        known = {*sources.values(), *getattr(defense, "sources", {}).values(), *own}
        start = type(defense).__module__.removeprefix("mialab.")
        # Games are what a defense may be chosen by, after training.
        assert reached(start, UNDECIDED | {"games.base"}) <= known, name


def test_a_change_in_an_own_module_is_noticed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    notebook = "import own_nets\nown = lambda shape, n_classes: own_nets.build(shape, n_classes)\n"
    texts = []
    for body in ("1", "1  # because", "2"):
        (tmp_path / "own_nets.py").write_text(f"def build(shape, n_classes):\n    return {body}\n")
        texts.append(describe(in_module(notebook)))
    del sys.modules["own_nets"]
    assert texts[0] == texts[1] != texts[2]


def build(width, shape, n_classes):
    return nn.Sequential(nn.Linear(shape[0], width), nn.Linear(width, n_classes))


class Builder:
    def __init__(self, width, weights):
        self.width, self.weights = width, weights

    def __call__(self, shape, n_classes):
        return build(self.width, shape, n_classes)


def closure(width):
    return lambda shape, n_classes: build(width, shape, n_classes)


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (functools.partial(build, 8), functools.partial(build, 8), functools.partial(build, 9)),
        (closure(8), closure(8), closure(9)),
        (Builder(8, np.zeros(5000)), Builder(8, np.zeros(5000)), Builder(8, np.arange(5000) == 2500)),
        (Builder(8, {0, 8}).__call__, Builder(8, {8, 0}).__call__, Builder(8, {0, 7}).__call__),
        (Builder(8, nn.Linear(1, 1).weight.new_zeros(3)),) * 2
        + (Builder(8, nn.Linear(1, 1).weight.new_ones(3)),),
    ],
)
def test_values_inside_own_code_are_noticed(one, same, other):
    assert describe(one) == describe(same)
    assert describe(one) != describe(other)


@pytest.mark.slow
def test_a_game_of_own_code_is_found_again_until_it_changes(fresh_cache, trained):
    for source in (FUNCTION, FUNCTION, FUNCTION.replace("8", "9")):
        mia.play(toys.pool(), in_module(source), training=TRAINING, n_models=2)
    assert len(trained) == 4


@pytest.mark.slow
def test_code_with_hidden_state_is_never_found_again(fresh_cache, trained):
    def generate():
        yield 8

    hidden = generate()

    def own(shape, n_classes):
        assert hidden
        return nn.Linear(shape[0], n_classes)

    for _ in range(2):
        with pytest.warns(UserWarning, match="^This game is not reused: .*own.* has hidden state"):
            mia.play(toys.pool(), own, training=TRAINING, n_models=2)
    assert len(trained) == 4


# ----------------------------------------------------------------------------------------------------
# Other processes, and rights


@pytest.mark.slow
def test_two_processes_do_the_work_once(fresh_cache, tmp_path, undisturbed):
    log = tmp_path / "log"
    both = [PROCESSES.Process(target=workers.play_in, args=(str(fresh_cache), str(log))) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert sorted(log.read_text().split()) == [str(k) for k in range(8)]
    assert_same(workers.play(), undisturbed)


@pytest.mark.slow
def test_two_processes_without_a_lock_get_the_same_game(fresh_cache, tmp_path, undisturbed):
    place = f"bucket://{tmp_path}/shared"
    both = [
        PROCESSES.Process(
            target=workers.play_in,
            args=(str(fresh_cache), str(tmp_path / "log")),
            kwargs={"store": place},
        )
        for _ in range(2)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert_same(workers.play(store=place), undisturbed)


@pytest.mark.slow
def test_two_writers_of_the_same_models_never_make_them_look_damaged(fresh_cache, undisturbed, monkeypatch):
    """One finishes while the other is between any two of its writes; they differ in seconds and provenance."""
    expected = workers.play()
    path = stored(fresh_cache)
    fast, slow = (Store(games_root(), path.stem) for _ in range(2))
    fixed = ("member", "partner", "y", "canary", "seconds")
    results = expected.dataset.drop_vars(fixed).load().data_vars
    results = {name: value.to_numpy() for name, value in results.items()}
    about = {"began": 0.0, "elapsed": 1.0, "peak_mb": 1.0}
    about |= dict.fromkeys(("commit", "date", "device", "workers"), "")
    real = Store._write

    def race(at):
        writes = 0

        def write(files, *arguments):
            nonlocal writes
            if files is slow:
                if writes == at:
                    fast.write(range(8), results | {"seconds": np.full(8, 2.0)}, about | {"run": "fast"})
                    assert fast.missing(range(8)) == ([], [])
                writes += 1
            real(files, *arguments)

        return write

    for at in range(len(results) + 1):
        shutil.rmtree(path / "provenance" / "c")
        with monkeypatch.context() as patch:
            patch.setattr(Store, "_write", race(at))
            slow.write(range(8), results | {"seconds": np.full(8, 1.0)}, about | {"run": "slow"})
        game = workers.play()  # a warning would be an error
        assert_same(game, undisturbed)
        assert (game.dataset["seconds"] == 1).all()
        assert [run["models"] for run in game.attrs["runs"]] == [8]


@pytest.mark.slow
def test_what_somebody_else_finished_meanwhile_is_left_alone(fresh_cache, monkeypatch):
    game = workers.play()
    mine = Store(games_root(), stored(fresh_cache).stem)
    monkeypatch.setattr(Store, "_write", None)
    mine.write([2, 3], {"seconds": np.zeros(2), "logits": game.logits[2:4]}, {})
    assert workers.play().attrs == game.attrs


@pytest.mark.slow
def test_nothing_of_dask_distributed_is_loaded_without_need(fresh_cache):
    process = PROCESSES.Process(target=workers.play_without_cluster, args=(str(fresh_cache),))
    process.start()
    process.join()
    assert process.exitcode == 0


def test_who_waits_for_another_process_says_so(fresh_cache, monkeypatch):
    said = []
    store = Store(games_root(), "key")
    lock = FileLock(f"{store.url}.lock")
    monkeypatch.setattr("mialab._progress.note", lambda text: (said.append(text), lock.release()))
    lock.acquire()
    with store.lock():
        pass
    assert said == ["waiting for another process that plays key"]


def test_a_cache_that_cannot_be_written_to(tmp_path):
    cache, answer = tmp_path / "cache", tmp_path / "answer"
    (cache / "games").mkdir(parents=True)
    for folder in (cache / "games", cache):
        folder.chmod(0o555)
    tmp_path.parent.chmod(0o755)  # another user must get there at all
    tmp_path.parent.parent.chmod(0o755)
    process = PROCESSES.Process(target=workers.play_without_rights, args=(str(cache), str(answer)))
    process.start()
    process.join()
    assert process.exitcode == 0
    for folder in (cache, cache / "games"):
        folder.chmod(0o755)
    expected = f"Games cannot be kept in {cache / 'games'}: Permission denied. Set MIALAB_GAMES, or play"
    assert answer.read_text().startswith(expected)


@pytest.mark.slow
def test_a_finished_game_is_read_where_nothing_can_be_written(tmp_path, undisturbed):
    cache, answer = tmp_path / "cache", tmp_path / "answer"
    workers.play(store=cache / "games")
    lock = next((cache / "games").glob("*.lock"))
    lock.unlink()
    paths = [cache, *cache.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    for folder in (tmp_path, *tmp_path.parents[:-2]):  # all below the folder of temporary files
        folder.chmod(0o755)
    answer.touch()
    answer.chmod(0o666)
    process = PROCESSES.Process(target=workers.play_without_rights, args=(str(cache), str(answer)))
    process.start()
    process.join()
    for path in paths:
        path.chmod(0o755)
    assert process.exitcode == 0
    assert answer.read_text() == "played"
    assert not lock.exists()


@pytest.mark.slow
def test_a_finished_game_takes_no_lock(fresh_cache, monkeypatch, undisturbed):
    workers.play()
    monkeypatch.setattr(Store, "lock", None)
    assert_same(workers.play(), undisturbed)
    assert_same(workers.play(n_models=4), undisturbed.isel(model=slice(4)))


def test_a_cache_folder_that_is_a_file(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MIALAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        OSError, match=r"^Games cannot be kept in .*/file/games: Not a directory. Set MIALAB_GAMES"
    ):
        mia.play(toys.pool(), SMALL, training=TRAINING, n_models=2)


def test_attributes_survive_the_disk(fresh_cache):
    game = mia.play(toys.pool(), SMALL, HAMP(), training=TRAINING, n_models=2, queries=Original())
    assert json.loads(json.dumps(game.attrs)) == game.attrs


# ----------------------------------------------------------------------------------------------------
# Provenance


@pytest.mark.slow
def test_no_kill_loses_provenance_and_seconds_add_up(fresh_cache, monkeypatch, undisturbed):
    real = classifier_run.train_group

    def killed_at(model):
        def train(models, **options):
            if models[0] == model:
                raise KeyboardInterrupt
            time.sleep(0.02)
            return real(models, **options)

        return train

    for model in (2, 5):
        monkeypatch.setattr(classifier_run, "train_group", killed_at(model))
        with pytest.raises(KeyboardInterrupt):
            workers.play()
    monkeypatch.setattr(classifier_run, "train_group", killed_at(8))
    monkeypatch.setattr(provenance, "commit", lambda: "another")
    game = workers.play()
    assert_same(game, undisturbed)
    runs = game.attrs["runs"]
    assert [run["models"] for run in runs] == [2, 3, 3]
    assert [run["commit"] == "another" for run in runs] == [False, False, True]
    assert game.attrs["commit"] == "another"
    assert game.attrs["seconds"] == sum(run["seconds"] for run in runs)
    assert all(run["seconds"] >= run["models"] * 0.02 for run in runs)
    assert game.attrs["seconds"] >= float(game.dataset["seconds"].sum())
    assert {
        "python",
        "versions",
        "machine",
        "date",
        "device",
        "mode",
        "workers",
        "peak_mb",
    } <= game.attrs.keys()
    again = workers.play(n_models=4)
    assert [run["models"] for run in again.attrs["runs"]] == [2, 2]
    assert again.attrs["commit"] == runs[0]["commit"]


@pytest.mark.slow
def test_what_killed_writers_left_is_not_seen_and_taken_away(fresh_cache, undisturbed):
    workers.play()
    path = stored(fresh_cache)
    left = [path / f"zarr.{'a' * 32}.partial", chunk(path, "logits", 1).with_suffix(f".{'b' * 32}.partial")]
    for file in left:
        file.write_text("half")
    assert_same(workers.play(), undisturbed)
    chunk(path, "provenance", 3).unlink()
    assert_same(workers.play(), undisturbed)
    assert not any(file.exists() for file in left)
