"""LiRA worked by hand; games that do not fit into memory, and games that keep scores only."""

import tracemalloc

import numpy as np
import pytest
import xarray as xr
from toys import pool, random_game

import mialab as mia
from mialab import attacks
from mialab.attacks.lira import lira
from mialab.classifiers.signals import SIGNALS
from mialab.games import store

# Even models are members, odd ones are not; models 2j and 2j + 1 are partners. For target 0, the answers of the
# shadow models to record 0 are 3, 4, 5 (IN) and 0, 1, 2 (OUT), to record 1 they are 6, 10, 8 and 0, 4, 2.
PHI = np.array([[6.0, 4], [9, 9], [3, 6], [0, 0], [4, 10], [1, 4], [5, 8], [2, 2]])
MEMBER = np.arange(8)[:, None] % 2 == [0, 0]
PARTNER = np.broadcast_to(np.arange(8)[:, None] ^ 1, (8, 2))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Means 4 and 1 with variance 1; means 8 and 2 with variance 4.
        ({}, [(5**2 - 2**2) / 2, (2**2 / 4 - 4**2 / 4) / 2]),
        ({"online": False}, [5, 1]),
        (
            {"online": False, "offline": "density"},
            [(5**2 + np.log(2 * np.pi)) / 2, (1 + np.log(8 * np.pi)) / 2],
        ),
        # The pooled variance is (2 x 1 + 2 x 4) / (2 + 2).
        ({"variance": "pooled"}, [(5**2 - 2**2) / 5, (2**2 - 4**2) / 5]),
        ({"variance": "pooled", "online": False}, [5 / 2.5**0.5, 2 / 2.5**0.5]),
        (
            {"variance": "pooled", "online": False, "offline": "density"},
            [(5**2 / 2.5 + np.log(5 * np.pi)) / 2, (2**2 / 2.5 + np.log(5 * np.pi)) / 2],
        ),
    ],
)
def test_lira_worked_by_hand(options, expected):
    np.testing.assert_allclose(lira(PHI, MEMBER, PARTNER, **options)[0], expected, rtol=1e-12)


def test_the_partner_is_no_shadow_model_and_others_are():
    changed = PHI.copy()
    changed[1] += 100
    np.testing.assert_array_equal(
        lira(changed, MEMBER, PARTNER, online=False)[0], lira(PHI, MEMBER, PARTNER, online=False)[0]
    )
    nobody = np.full_like(PARTNER, -1)
    # Without partners, model 1 is one of four OUT models, which answer 9, 0, 1, 2: mean 3, variance 50 / 3.
    plain = lira(PHI, MEMBER, nobody, online=False)[0, 0]
    assert plain == pytest.approx((6 - 3) / (50 / 3) ** 0.5, rel=1e-12)


@pytest.fixture
def no_logits(monkeypatch):
    """Let any attack fail that asks for all logits at once."""

    def logits(game):
        raise AssertionError("all logits were asked for at once")

    monkeypatch.setattr(mia.Game, "logits", property(logits))


def stored(game, path, **chunks):
    """Write a game to disk in chunks and open it again."""
    sizes = tuple(chunks.get(d, n) for d, n in game.dataset["logits"].sizes.items())
    dataset = game.dataset.assign_attrs(dict.fromkeys(game.attrs, ""))
    dataset.to_zarr(path, encoding={"logits": {"chunks": sizes}}, consolidated=False)
    return mia.Game(xr.open_zarr(path, consolidated=False, chunks=None))


@pytest.mark.slow
def test_a_game_larger_than_the_memory_limit_is_audited(no_logits, tmp_path):
    game = random_game(n_models=8, n_records=2000, n_classes=250)
    on_disk = stored(game, tmp_path / "game.zarr", model=1, record=100)
    size = on_disk.dataset["logits"].nbytes
    stored(random_game(), tmp_path / "small.zarr").signal("loss")  # imports what is not to be measured
    audited = ["loss", "lira", "rmia"]
    options = {"fprs": (0.1,), "fnrs": ()}
    expected = mia.audit(game, audited, **options)
    tracemalloc.start()
    found = mia.audit(on_disk, audited, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size / 4
    assert found.equals(expected)


def test_chunks_of_a_played_game_are_read_one_by_one(no_logits, monkeypatch, fresh_cache):
    monkeypatch.setattr(store, "CHUNK_BYTES", 100)
    game = mia.play(
        pool(n=40, n_classes=3), n_models=2, queries="original", training=mia.Training(epochs=1), seed=0
    )
    logits = game.dataset["logits"]
    assert logits.encoding["preferred_chunks"]["record"] < 40
    for name, function in SIGNALS.items():
        expected = function(logits.to_numpy().astype(np.float64), game.y)
        np.testing.assert_array_equal(game.signal(name), expected)
    some = np.arange(40) % 3 == 0
    part = game.of_records(some).signal("loss")
    np.testing.assert_array_equal(part, game.signal("loss")[:, :, some])


def scores_of(game, names=SIGNALS):
    """Return the game with signals instead of logits."""
    kept = {n: (("model", "query", "record"), SIGNALS[n].sign * game.signal(n)) for n in names}
    dataset = game.dataset.assign(kept).drop_vars("logits").assign_attrs(n_classes=game.n_classes)
    return mia.Game(dataset)


@pytest.mark.parametrize(
    "name",
    [n for n in attacks.available().query("features == 'none'").index if not attacks.make(n).needs.logits],
)
def test_scores_serve_every_attack_as_well_as_logits(no_logits, name):
    game = random_game(n_queries=3, signal=1.0)
    attack = attacks.make(name)
    np.testing.assert_array_equal(attack.run(scores_of(game)).score, attack.run(game).score)


def test_a_signal_that_was_not_kept_is_refused():
    game = scores_of(random_game(), ["loss"])
    attacks.make("loss").run(game)
    with pytest.raises(
        attacks.RequirementsNotMet, match="neither logits nor the signal 'scaled_logit': play it with"
    ):
        attacks.make("lira").run(game)
