"""Games played on a cluster: two worker processes of dask.distributed on this machine."""

import contextlib
import dataclasses
import os
import signal
import threading
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
import toys
import workers
import zarr

import mialab as mia
from mialab import _progress
from mialab.games import backends
from mialab.models import MLP

distributed = pytest.importorskip("distributed", reason="needs the optional extra 'cluster'")

ALONE = {"dashboard_address": "127.0.0.1:0", "memory_limit": None}
SMALL = {"model": MLP(hidden=(8,)), "training": mia.Training(epochs=1), "n_models": 2}


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", **ALONE
        ) as cluster:
            yield cluster


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster) as client, joblib.parallel_config(backend="dask"):
        client.wait_for_workers(2)
        yield client


@pytest.mark.slow
def test_a_game_survives_the_death_of_a_worker(client, fresh_cache, tmp_path, monkeypatch):
    pool = toys.pool(n=80, validation=10)  # records of the user's own: every worker holds a copy
    options = {
        "model": workers.MODEL,
        "defense": workers.Logged(),
        "training": workers.TRAINING,
        "n_models": 8,
    }
    expected = mia.play(pool, **options, workers=1, store=tmp_path / "serial")
    log = tmp_path / "log"
    log.touch()
    client.run(workers.log_to, str(log))
    processes = client.run(os.getpid)
    advanced = []
    monkeypatch.setattr(_progress, "bar", lambda *_: contextlib.nullcontext(advanced.append))

    def kill():
        while len(log.read_text().split()) < 4:
            time.sleep(0.001)
        os.kill(min(processes.values()), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    game = mia.play(pool, **options)
    assert min(processes.values()) not in client.run(os.getpid).values()
    for name in set(expected.dataset) - {"seconds"}:
        np.testing.assert_array_equal(game.dataset[name], expected.dataset[name], err_msg=name)
    trained = [int(k) for k in log.read_text().split()]  # the new worker does not know LOG
    assert len(trained) <= 9
    assert advanced == [1] * 8
    assert game.attrs["workers"] == 2
    assert game.attrs["device"] == expected.attrs["device"]
    with pytest.MonkeyPatch.context() as patch:  # found again without the cluster's help
        patch.setattr(backends.Cluster, "run", None)
        assert mia.play(pool, **options).dataset.equals(game.dataset)


@pytest.mark.slow
def test_a_group_that_kills_its_workers_is_given_up(cluster, client, fresh_cache, monkeypatch):
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    options = SMALL | {"model": workers.MODEL}
    mia.play(toys.pool(), defense=workers.Deadly(3), **options)
    options["n_models"] = 4
    with pytest.raises(
        RuntimeError, match=r"^Models \[3\] were given up by the cluster: .* Finished models are stored"
    ):
        mia.play(toys.pool(), defense=workers.Deadly(3), **options)
    (path,) = (fresh_cache / "games").glob("*.zarr")
    stored = zarr.open_array(path, path="provenance")[:4].any(1)
    assert stored[:2].all()
    assert not stored[3]


@pytest.mark.slow
def test_a_lost_cluster_is_named_and_what_is_finished_is_stored(fresh_cache, tmp_path):
    log = tmp_path / "log"
    log.touch()
    options = SMALL | {"model": workers.MODEL, "defense": workers.Logged(), "n_models": 32}
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", **ALONE) as own,
        distributed.Client(own) as client,
        joblib.parallel_config(backend="dask"),
    ):
        client.run(workers.log_to, str(log))

        def close():
            while len(log.read_text().split()) < 4:
                time.sleep(0.001)
            client.close()

        threading.Thread(target=close, daemon=True).start()
        with pytest.raises(
            RuntimeError, match=r" cluster.* Finished models are stored \(\d+ of 32\): play again"
        ):
            mia.play(toys.pool(), **options)
        with pytest.raises(RuntimeError, match=r"^The cluster cannot be reached any more"):
            mia.play(toys.pool(), **options)
    assert mia.play(toys.pool(), **options, workers=1).n_models == 32


@pytest.mark.slow
def test_an_error_in_a_worker_arrives_as_it_is(client, fresh_cache):
    with pytest.raises(FloatingPointError, match=r"^Training diverged: model 0 answers"):
        mia.play(toys.pool(), defense=workers.Diverging(0), **SMALL)


@pytest.mark.slow
def test_workers_load_a_pool_by_its_name(client, fresh_cache, tmp_path, monkeypatch):
    pool = mia.load("digits", size=40, test=50, seed=3)
    expected = mia.play(pool, **SMALL, store=f"memory://{tmp_path}")
    monkeypatch.setattr(distributed.Client, "scatter", None)
    np.testing.assert_array_equal(mia.play(pool, **SMALL).logits, expected.logits)


@pytest.mark.slow
def test_a_worker_with_other_data_says_so(client, fresh_cache):
    pool = mia.load("digits", size=40)
    pool.x[0] += 1
    with pytest.raises(
        RuntimeError, match=r"^Data set 'digits' on .* is not the one .* Set MIALAB_DATA on all workers"
    ):
        mia.play(pool, **SMALL)
    assert mia.play(dataclasses.replace(pool), **SMALL).n_records == 40


@pytest.mark.slow
def test_what_is_asked_is_answered_by_a_worker(client):
    team = backends.find(toys.pool(), None, shared=True)
    assert team.ask(os.getpid) in client.run(os.getpid).values()
    assert team.size(0) == 2
    assert backends.find(toys.pool(), 7, shared=True).size(0) == 7


@pytest.mark.slow
def test_a_store_in_memory_is_filled_in_this_process(client, tmp_path):
    defense = workers.Inspected(str(tmp_path / "log"))
    game = mia.play(toys.pool(), defense=defense, **SMALL, store=f"memory://{tmp_path}")
    assert game.attrs["workers"] == 1
    assert {line.split(",")[0] for line in (tmp_path / "log").read_text().splitlines()} == {f"({os.getpid()}"}


@pytest.mark.slow
def test_workers_of_several_threads_are_refused(fresh_cache):
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, **ALONE) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
        pytest.raises(
            ValueError, match=r"^Workers of the cluster have up to 2 threads, .* one thread per process"
        ),
    ):
        mia.play(toys.pool(), **SMALL)
