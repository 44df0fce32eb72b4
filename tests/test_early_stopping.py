"""Early stopping: the models of a training that is cut off, and the same that tables of equal terms read off."""

import numpy as np
import pytest
import toys

import mialab as mia
from mialab.auditing import tradeoff
from mialab.defenses import EarlyStopping
from mialab.models import MLP

SMALL, LARGE = MLP(hidden=(8,)), MLP(hidden=(300, 200))  # stacked, and one at a time
SCHEDULE = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "milestones": (2, 4), "decay": 0.3}


def assert_same(game, expected):
    for name in set(expected.dataset.variables) - {"seconds", "checkpoint"}:
        values = (one.dataset[name].to_numpy() for one in (game, expected))
        np.testing.assert_array_equal(*values, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("model", [SMALL, LARGE], ids=["stacked", "sequential"])
def test_models_are_those_of_a_training_that_is_cut_off(model):
    training = mia.Training(epochs=6, batch_size=8, checkpoints=(3, 4), **SCHEDULE)
    plain = mia.play(toys.pool(), model, training=training, n_models=2)
    stopped = mia.play(toys.pool(), model, EarlyStopping(epochs=4), training=training, n_models=2)
    assert_same(stopped.at(3), plain.at(3))
    cut_off = plain.at(4)
    for name in ("logits", "train_accuracy", "test_accuracy"):
        np.testing.assert_array_equal(getattr(stopped, name), getattr(cut_off, name), err_msg=name)
    assert stopped.attrs["training"]["stop"] == 4
    assert stopped.attrs["training"]["epochs"] == 6


@pytest.mark.slow
def test_what_tables_of_equal_terms_call_early_stopping_is_this():
    assert EarlyStopping.name == tradeoff.EARLY
    pool = toys.pool(validation=20)
    training = mia.Training(epochs=8, batch_size=8, lr=0.02)
    table = mia.auditing.trade_off(
        pool, [], model=SMALL, training=training, n_models=4, budget=2, attacks=["loss"], fprs=[]
    )
    rows = table[(table["defense"] == tradeoff.EARLY) & (table["metric"] == "auc")]
    stops = tradeoff.Terms(pool=pool, training=training).stops()
    assert list(rows["setting"]) == [str(stop) for stop in stops]
    for stop, (_, row) in zip(stops[:3], rows.iterrows(), strict=False):
        game = mia.play(pool, SMALL, EarlyStopping(epochs=stop), training=training, n_models=4)
        pooled = mia.audit(game, ["loss"], pool=pool).query("target == 'pooled' and metric == 'auc'")
        assert pooled["value"].item() == row["value"]
        assert game.test_accuracy.mean() == pytest.approx(row["accuracy"], rel=1e-12)


@pytest.mark.parametrize(
    ("defense", "training", "stop", "checkpoints"),
    [
        (EarlyStopping(), {}, 10, (5,)),
        (EarlyStopping(fraction=0.26), {}, 5, ()),
        (EarlyStopping(fraction=0.001), {}, 1, ()),
        (EarlyStopping(fraction=1), {}, 20, (5, 15)),
        (EarlyStopping(epochs=16), {}, 16, (5, 15)),
        (EarlyStopping(epochs=16), {"stop": 16}, 16, (5, 15)),
        (EarlyStopping(fraction=0.9), {"stop": 16}, 16, (5, 15)),
    ],
)
def test_where_it_stops(defense, training, stop, checkpoints):
    given = mia.Training(epochs=20, checkpoints=(5, 15), **training)
    adapted = defense.adapt(given)
    assert (adapted.stop, adapted.epochs, adapted.checkpoints) == (stop, 20, checkpoints)
    assert defense.adapt(adapted) == adapted


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"fraction": 0}, "fraction=0 must be greater than 0 and at most 1"),
        ({"fraction": 1.5}, "fraction=1.5 must be greater than 0 and at most 1"),
        ({"epochs": 0}, "epochs=0 must be an integer of at least 1"),
        ({"epochs": 2.5}, "epochs=2.5 must be an integer of at least 1"),
        ({"fraction": 0.5, "epochs": 3}, "fraction=0.5 and epochs=3: give one of them"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match="^" + message):
        EarlyStopping(**parameters)


def test_more_epochs_than_there_are_is_an_error_before_training(trained):
    training = mia.Training(epochs=6)
    with pytest.raises(ValueError, match=r"^epochs=7 must be at most 6, those of the training\."):
        mia.play(toys.pool(), SMALL, EarlyStopping(epochs=7), training=training, n_models=2)
    assert not trained
