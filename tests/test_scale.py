"""The arithmetic of storage and memory, against real stores and by hand."""

import pytest
import toys
import zarr

import mialab as mia
from mialab.chapters import scale
from mialab.games.store import ROOM
from mialab.models import MLP


@pytest.mark.parametrize("options", [{}, {"answers": "float16"}, {"keep": "scores"}])
@pytest.mark.parametrize("defense", [None, "hamp"])
def test_stored_bytes_are_those_of_the_stored_arrays(options, defense, fresh_cache):
    pool = toys.pool("binary", test=0)
    queries = mia.queries.Flips(n=2)
    training = mia.Training(epochs=1)
    mia.play(pool, MLP(hidden=(8,)), defense, training=training, n_models=4, queries=queries, **options)
    (path,) = (fresh_cache / "games").glob("*.zarr")
    stored = sum(
        array.nbytes * 4 // ROOM if array.shape[0] == ROOM else array.nbytes
        for _, array in zarr.open_group(path, mode="r").arrays()
    )
    assert scale.stored_bytes(40, 4, 3, queries=3, output_step=defense == "hamp", **options) == stored


def test_stored_bytes_by_hand():
    per_model = 3 * 8 + 4096 + 8  # accuracies, provenance, partner
    others = 256 * per_model + 1000 * (256 + 8 + 1)  # members, labels, canaries
    assert scale.stored_bytes(1000, 256, 100) == 256 * 1000 * 100 * 4 + others
    assert scale.stored_bytes(1000, 256, 100, answers="float16") == 256 * 1000 * 100 * 2 + others
    assert scale.stored_bytes(1000, 256, 100, keep="scores") == 256 * 1000 * 8 * 4 + others


def test_signal_bytes_are_those_of_a_signal():
    game = toys.random_game(n_models=6, n_records=20, n_queries=3)
    assert scale.signal_bytes(20, 6, queries=3) == game.signal("loss").nbytes


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_models": 0}, "n_models=0 must be an integer of at least 1."),
        ({"n_records": 1.5}, "n_records=1.5 must be an integer of at least 1."),
        ({"keep": "all"}, "keep='all' is unknown. Known: logits, scores."),
        ({"answers": "float64"}, "answers='float64' is unknown."),
    ],
)
def test_wrong_sizes(wrong, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        scale.stored_bytes(**{"n_records": 10, "n_models": 2, "n_classes": 2} | wrong)
