"""A stored game grows: more models are added to those that are there, and fewer are read."""

import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
import toys
import zarr
from test_store import PROCESSES, assert_same, chunk, fork_server, stored  # noqa: F401
from workers import own_plan, play, play_in

import mialab as mia
from mialab import gan
from mialab.games import store
from mialab.gan import run as gan_run
from mialab.gan.networks import MLP as GANs
from mialab.models import MLP


def stacked(n_models, **changes):
    """Play a game of models that are trained in groups."""
    options = {"training": mia.Training(epochs=3), "workers": 1} | changes
    return mia.play(toys.pool(), MLP(hidden=(8,)), n_models=n_models, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The game of 8 models that are trained one by one, played in one go."""
    return play(store=tmp_path_factory.mktemp("whole")).dataset.load()


@pytest.fixture
def grown(fresh_cache, trained):
    """A game of 4 models that has grown to 8: arrays and attributes of before, and the game."""
    four = play(n_models=4)
    first, before = four.dataset.load(), four.attrs
    assert trained == [0, 1, 2, 3]
    return first, before, play()


@pytest.mark.slow
def test_a_game_grows_by_the_new_models(grown, trained, whole):
    _, before, eight = grown
    assert trained == list(range(8))
    assert eight.attrs["mode"] == "sequential"
    assert_same(eight, whole)
    assert eight.attrs["n_models"] == eight.n_models == 8
    assert eight.attrs["seconds"] > before["seconds"]
    assert eight.attrs["peak_mb"] >= before["peak_mb"]


@pytest.mark.slow
def test_a_grown_game_shrinks_to_the_first_models(grown, trained, fresh_cache):
    first, before, eight = grown
    again = play(n_models=4)
    assert again.dataset.equals(first)
    assert again.attrs == before
    assert play(n_models=2).dataset.equals(eight.subset(2).dataset)
    assert trained == list(range(8))
    assert len(list(fresh_cache.glob("games/*.zarr"))) == 1


@pytest.mark.slow
def test_models_trained_in_groups_differ_in_the_last_bits_at_most(fresh_cache, trained, tmp_path):
    stacked(4)
    grown, whole = stacked(8), stacked(8, store=tmp_path / "whole")
    assert grown.attrs["mode"] == whole.attrs["mode"] == "stacked"
    assert trained == [*range(8), *range(8)]
    for name in ("member", "partner", "y", "canary"):
        np.testing.assert_array_equal(grown.dataset[name], whole.dataset[name])
    np.testing.assert_allclose(grown.logits, whole.logits, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"canaries": 10},
        {"members": 7},
        {"candidates": np.arange(40) % 4 != 1, "members": 9},
        {"keep": "scores", "probes": ["gradient", "boundary"], "queries": "augmented"},
    ],
)
def test_what_is_known_beforehand_grows_too(options, fresh_cache, tmp_path):
    first = stacked(2, **options).dataset.load()
    stacked(6, **options)
    grown, whole = stacked(8, **options), stacked(8, **options, store=tmp_path / "whole")
    for name in ("member", "partner", "y", "canary"):
        np.testing.assert_array_equal(grown.dataset[name], whole.dataset[name])
    assert stacked(2, **options).dataset.equals(first)
    for name, values in whole.dataset.items():
        if name != "seconds":
            np.testing.assert_allclose(grown.dataset[name], values, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_run_that_stops_at_any_write_of_growth_resumes(fresh_cache, monkeypatch):
    first, real = stacked(2).dataset.load(), zarr.Array.__setitem__
    two = fresh_cache.rename(fresh_cache.with_name("two"))
    shutil.copytree(two, fresh_cache)
    expected = stacked(4).dataset.load()
    left = writes = 0

    def stop(array, where, value):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        real(array, where, value)

    while True:
        shutil.rmtree(fresh_cache)
        shutil.copytree(two, fresh_cache)
        left = writes
        with monkeypatch.context() as patch:
            patch.setattr(zarr.Array, "__setitem__", stop)
            try:
                stacked(4)
            except KeyboardInterrupt:
                patch.undo()
                assert stacked(2).dataset.equals(first)
        assert_same(stacked(4), expected)
        if left >= 0:
            break
        writes += 1
    assert writes >= 8  # members, partners, 5 arrays and the provenance


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_grows_resumes(fresh_cache, tmp_path, whole):
    play(n_models=4)
    log = tmp_path / "log"
    log.touch()
    process = PROCESSES.Process(target=play_in, args=(str(fresh_cache), str(log)))
    process.start()
    while len(log.read_text().split()) < 2 and process.is_alive():
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode < 0
    assert set(log.read_text().split()) <= {"4", "5", "6", "7"}
    assert_same(play(), whole)


@pytest.mark.slow
@pytest.mark.parametrize("locked", [True, False])
def test_processes_that_ask_for_fewer_and_more_models_at_once(locked, fresh_cache, tmp_path, whole):
    """At a URL there is no lock: the same may be done twice, but nothing is lost."""
    place, log = (None if locked else f"bucket://{tmp_path}/shared"), tmp_path / "log"
    sizes = (4, 8, 6)
    processes = [
        PROCESSES.Process(
            target=play_in, args=(str(fresh_cache), str(log)), kwargs={"store": place, "n_models": n}
        )
        for n in sizes
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    models = sorted(log.read_text().split())
    assert set(models) == set("01234567")
    assert len(models) == 8 or not locked
    for n in sizes:
        assert_same(play(store=place, n_models=n), whole.isel(model=slice(n)))
    assert sorted(log.read_text().split()) == models


@pytest.mark.slow
def test_who_has_a_game_open_goes_on_reading_it_while_it_grows(fresh_cache, whole):
    reader = play(n_models=4)  # arrays are read when they are used
    one = reader.dataset["logits"][1].to_numpy()
    play()
    np.testing.assert_array_equal(one, whole["logits"][1])
    assert_same(reader, whole.isel(model=slice(4)))
    assert reader.signal("loss").shape == (4, 1, 40)


@pytest.mark.slow
def test_damaged_models_of_a_grown_game_are_trained_again(fresh_cache, trained, whole):
    play(n_models=4)
    play()
    for k in (1, 6):
        file = chunk(stored(fresh_cache), "logits", k)
        file.write_bytes(file.read_bytes()[:50])
    trained.clear()
    with pytest.warns(UserWarning, match=r"^Stored answers of models \[1\] are damaged"):
        assert_same(play(n_models=4), whole.isel(model=slice(4)))
    with pytest.warns(UserWarning, match=r"^Stored answers of models \[6\] are damaged"):
        assert_same(play(), whole)
    assert trained == [1, 6]
    assert_same(play(), whole)
    assert trained == [1, 6]


@pytest.mark.slow
def test_gans_grow(fresh_cache, tmp_path, monkeypatch):
    models, train = [], gan_run.train_group

    def counted(group, **options):
        models.extend(group)
        return train(group, **options)

    monkeypatch.setattr(gan_run, "train_group", counted)
    monkeypatch.setattr("mialab.gan.utility.STEPS", 4)

    def play_gans(n_models, **options):
        return gan.play(
            toys.pool("image"),
            GANs((8,), latent=4),
            training=gan.Training(steps=4, batch_size=8),
            n_models=n_models,
            samples=6,
            fakes=8,
            probes="shadow_critic",
            workers=1,
            **options,
        )

    first = play_gans(2).dataset.load()
    grown, whole = play_gans(6), play_gans(6, store=tmp_path / "whole")
    assert models == [*range(6), *range(6)]
    assert play_gans(2).dataset.equals(first)
    assert play_gans(2).attrs["n_models"] == 2
    assert len(models) == 12
    for name, values in whole.dataset.items():
        if name != "seconds":
            np.testing.assert_allclose(grown.dataset[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


def test_types_of_arrays_are_in_the_key(monkeypatch):
    plan = own_plan()
    before, arrays = plan.key(), plan.arrays()
    changed = tuple(replace(a, dtype="float32") if a.name == "test_accuracy" else a for a in arrays)
    monkeypatch.setattr(type(plan), "arrays", lambda self: changed)
    assert plan.key() != before


def test_there_is_no_room_for_some_numbers_of_models():
    with pytest.raises(ValueError, match=f"^n_models={store.ROOM + 2} must be at most {store.ROOM}"):
        stacked(store.ROOM + 2)
