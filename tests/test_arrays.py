"""What is said about arrays that do not fit, and games of signals alone."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch

import mialab as mia
from mialab.attacks import RequirementsNotMet
from mialab.classifiers.signals import SIGNALS
from mialab.gan import GeneratorGame
from mialab.training.membership import membership

RNG = np.random.default_rng(0)
MEMBER = membership(6, 10, 0)
LOGITS = RNG.normal(size=(6, 10, 3))
Y = RNG.integers(3, size=10)
LOSS = np.abs(LOGITS[..., 0])


def made(**changes):
    return mia.Game.from_arrays(**{"member": MEMBER, "y": Y, "logits": LOGITS} | changes)


def small(value=0.0):
    array = LOGITS.copy()
    array[0, 0, 0] = value
    return array


READ = "cannot be read: its rows differ in length; it must be an array"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": [[1, 2], [3]]}, f"logits {READ} (model, query, record, label) of numbers."),
        ({"member": [[1, 2], [3]]}, f"member {READ} (model, record) of True or False (or 1 and 0)."),
        ({"member": None}, "Neither member nor members is given: give member, of True and False (model"),
        ({"y": 10 * [None]}, "y holds None; it must be an array (record) of integers."),
        ({"raw_logits": np.full((6, 10, 3), None)}, "raw_logits holds None; it must be an array (model,"),
        ({"logits": {"a": 1}}, "logits holds {'a': 1}; it must be an array"),
        ({"logits": "answers"}, "logits must hold numbers; it is <U7."),
        ({"logits": LOGITS + 0j}, "logits must hold numbers; it is complex128."),
        ({"logits": torch.tensor(LOGITS).to_sparse()}, "logits cannot be read: can't convert Sparse"),
        ({"member": MEMBER.astype(str)}, "member must be True or False (or 1 and 0); it holds ['False' "),
        ({"logits": []}, "logits has shape (0,), without a value; it must be an array (model, query,"),
        ({"logits": LOGITS[:, :0]}, "logits has shape (6, 0, 3), without a value; it must"),
        ({"logits": LOGITS[:, None][:, :0]}, "logits has shape (6, 0, 10, 3), without a value"),
        (
            {"test_accuracy": np.full(6, 789)},
            "test_accuracy must hold numbers from 0 to 1; it is int64 from 789",
        ),
        ({"loss": np.full((6, 10), 2**53 + 1)}, "loss holds int64 values beyond 2**53, which floating point"),
        ({"y": Y.astype(float)}, "y must hold integers; it is float64 from 0.0 to 2.0."),
        (
            {"logits": small(-np.inf)},
            "logits has 1 values that are not finite numbers. Minus infinity is the log",
        ),
        ({"logits": small(np.nan)}, "logits has 1 values that are not finite numbers."),
        (
            {"logits": np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)},
            "logits are probabilities: none",
        ),
        (
            {"n_classes": 4},
            "logits has shape (6, 10, 3); with member (6, 10) it must be (6, 10, 4) or (6, query",
        ),
        ({"y": None}, "y is missing: give the label of each record."),
        (
            {"logits": None},
            "There is nothing that the models say: give logits, or loss, confidence, entropy,",
        ),
        ({"logit": LOGITS}, "array='logit' is unknown. Did you mean 'logits'? Known: boundary_distance,"),
        ({"loss": LOGITS[..., 0]}, "loss must hold numbers of at least 0; it is float64 from -2.3"),
        ({"member": MEMBER[0]}, "member has shape (10,); it must be (model, record), of True and False: for"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        made(**changes)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("changes", "given", "wanted", "order"),
    [
        ({"logits": LOGITS.transpose(1, 0, 2)}, "record, model, label", "model, record, label", "1, 0, 2"),
        (
            {"logits": np.stack([LOGITS, LOGITS], 2)},
            "model, record, query, label",
            "model, query, record, label",
            "0, 2, 1, 3",
        ),
        ({"logits": LOGITS.transpose(2, 0, 1)}, "label, model, record", "model, record, label", "1, 2, 0"),
        ({"member": MEMBER.T}, "record, model", "model, record", "1, 0"),
        ({"loss": LOSS.T}, "record, model", "model, record", "1, 0"),
        ({"loss": LOSS.T, "logits": None, "y": None}, "record, model", "model, record", "1, 0"),
        (
            {"gradient_norm": LOGITS.transpose(2, 1, 0) ** 2},
            "layer, record, model",
            "model, record, layer",
            "2, 1, 0",
        ),
    ],
)
def test_axes_in_another_order_are_recognized(changes, given, wanted, order):
    ((name, value), *_) = changes.items()
    with pytest.raises(ValueError, match="that is") as caught:
        made(**changes)
    said = str(caught.value)
    assert said.startswith(f"{name} has shape {value.shape}; with ")
    assert said.endswith(
        f" that is ({given}), and it must be ({wanted}): give np.transpose({name}, ({order}))."
    )
    right = np.transpose(value, [int(i) for i in order.split(",")])
    assert made(**changes | {name: right}).n_records == 10


def test_what_other_libraries_hold_is_read():
    expected = made()
    for logits in (
        torch.tensor(LOGITS, requires_grad=True),
        [torch.tensor(own, requires_grad=True) for own in LOGITS],
        LOGITS.astype(object),
        LOGITS.tolist(),
    ):
        np.testing.assert_array_equal(made(logits=logits).logits, expected.logits)
    half = torch.tensor(LOGITS, dtype=torch.bfloat16)
    np.testing.assert_array_equal(made(logits=half).logits[:, 0], half.float().numpy())
    frames = made(member=pd.DataFrame(MEMBER), y=pd.Series(Y))
    np.testing.assert_array_equal(frames.member, MEMBER)
    np.testing.assert_array_equal(made(y=torch.tensor(Y), member=torch.tensor(MEMBER)).y, Y)


def test_log_probabilities_are_logits():
    shifted = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    np.testing.assert_allclose(made(logits=shifted).signal("loss"), made().signal("loss"))


def test_a_game_of_signals_alone():
    full = made()
    loss = -full.signal("loss")
    game = mia.Game.from_arrays(member=MEMBER, loss=loss[:, 0])
    assert (game.n_queries, game.n_classes, game.victim) == (1, 2, "classifier")
    assert repr(game) == "Game(arrays, defense=unknown: 6 models x 1 queries x 10 records)"
    np.testing.assert_array_equal(game.signal("loss"), full.signal("loss"))
    np.testing.assert_array_equal(game.loss, loss)
    assert game.signal("loss") is game.signal("loss")
    np.testing.assert_array_equal(
        mia.attacks.make("loss").run(game).score, mia.attacks.make("loss").run(full).score
    )
    # The cross-entropy says how probable the label is, and so what LiRA looks at.
    np.testing.assert_allclose(game.signal("scaled_logit"), full.signal("scaled_logit"), atol=1e-6)
    with pytest.raises(RequirementsNotMet, match="neither logits nor the signal 'hinge': play it"):
        game.signal("hinge")
    with pytest.raises(RequirementsNotMet, match="This game holds signals alone and has no logits: play it"):
        _ = game.logits
    with pytest.raises(ValueError, match=r"^signal='los' is unknown. Did you mean 'loss'\? Known: boundary_"):
        game.signal("los")
    with pytest.raises(RequirementsNotMet, match=r"^This game has no gradient_norm: play it with probes="):
        _ = game.gradient_norm
    with pytest.raises(AttributeError, match="Game has no attribute 'gradients'"):
        _ = game.gradients
    for again in (copy.deepcopy(game), pickle.loads(pickle.dumps(game))):
        np.testing.assert_array_equal(again.loss, game.loss)


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_is_the_same_from_logits_and_as_given(name):
    full, signal = made(), SIGNALS[name]
    given = signal.stored(full.logits, Y)
    np.testing.assert_array_equal(made(logits=None, **{name: given}).signal(name), full.signal(name))
    # Of two records, the one that fits its label better is more like a member.
    better, worse = np.array([[3.0, 0, 0]]), np.array([[0.0, 0, 3]])
    if name != "entropy":
        assert signal(better, np.zeros(1, int)) > signal(worse, np.zeros(1, int))


def test_signals_of_generators_are_higher_for_members():
    arrays = {"critic": LOGITS[..., 0], "critic_loss": LOGITS[..., 1], "reconstruction": LOSS}
    game = GeneratorGame.from_arrays(member=MEMBER, **arrays)
    for name, sign in (("critic", 1), ("critic_loss", -1), ("reconstruction", -1)):
        np.testing.assert_array_equal(game.signal(name)[:, 0], sign * arrays[name])
    with pytest.raises(
        RequirementsNotMet, match=r"^This game has no critic_max: play it with mialab.gan.play"
    ):
        game.signal("critic_max")
    with pytest.raises(
        ValueError,
        match=r"^signal='loss' is unknown.* Known: critic, critic_loss, critic_loss_min, critic_max",
    ):
        game.signal("loss")
