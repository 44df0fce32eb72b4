"""Confidence masking: known answers, what is kept, what it hides, what it refuses."""

import numpy as np
import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

import mialab as mia
from mialab.defenses import ConfidenceMasking
from mialab.models import MLP

P = torch.tensor([[0.62, 0.27, 0.08, 0.03], [0.3, 0.31, 0.2, 0.19]], dtype=torch.float64)


def masked(**options):
    return ConfidenceMasking(**options).mask(P.log()).exp()


def test_rounding():
    expected = torch.tensor([[0.6, 0.3, 0.1, 1e-4], [0.3, 0.3, 0.2, 0.2]], dtype=torch.float64)
    torch.testing.assert_close(masked(digits=1), expected)
    torch.testing.assert_close(masked(digits=2), P)


def test_no_digits_leave_the_label_and_whether_it_has_half():
    torch.testing.assert_close(
        masked(digits=0)[0], torch.tensor([1.0, 1e-3, 1e-3, 1e-3], dtype=torch.float64)
    )
    second = masked(digits=0)[1]
    assert second.argmax() == 1
    torch.testing.assert_close(second, torch.full((4,), 1e-3, dtype=torch.float64))


def test_classes_that_are_held_back_share_the_rest():
    expected = torch.tensor([[0.62, 0.27, 0.055, 0.055], [0.3, 0.31, 0.195, 0.195]], dtype=torch.float64)
    torch.testing.assert_close(masked(digits=None, top=2), expected)
    torch.testing.assert_close(masked(digits=None, top=4), P)


def test_temperature():
    expected = P.sqrt() / P.sqrt().sum(-1, keepdim=True)
    torch.testing.assert_close(masked(digits=None, temperature=2.0), expected)


def test_without_a_mask_nothing_changes():
    torch.testing.assert_close(masked(digits=None), P)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    scale=st.floats(0, 100),
    digits=st.none() | st.integers(0, 6),
    top=st.none() | st.integers(1, 5),
    temperature=st.floats(0.1, 100),
)
def test_labels_are_kept_and_answers_are_finite(seed, scale, digits, top, temperature):
    logits = scale * torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(seed))
    answer = ConfidenceMasking(digits, top, temperature).mask(logits)
    assert answer.dtype == logits.dtype
    assert torch.isfinite(answer).all()
    assert torch.equal(answer.argmax(-1), logits.argmax(-1))


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**20), digits=st.integers(0, 3))
def test_answers_that_round_alike_are_alike(seed, digits):
    # Nothing passes beside the mask: a change of less than rounding notices changes nothing.
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(4), size=20)
    near = p.round(digits).clip(1e-9)
    same = (np.abs(p * 10**digits % 1 - 0.5) > 1e-6).all(-1) & (near.sum(-1) > 0)
    mask = ConfidenceMasking(digits=digits).mask
    nudged = p * (1 + 1e-9 * rng.standard_normal(p.shape))
    assert torch.equal(mask(torch.tensor(p[same]).log()), mask(torch.tensor(nudged[same]).log()))


def play(defense):
    training = mia.Training(epochs=40, batch_size=10, lr=0.02)
    pool = toys.pool(n=60, test=40)
    return mia.play(pool, MLP(hidden=(32,)), defense, training=training, n_models=8, store=None)


def test_only_the_label_is_left_of_one_class_without_digits():
    # What remains is whether the label is right: an attack on losses knows no more than one on labels.
    def auc(game, attack):
        table = mia.audit(game, [attack])
        return float(table[table["metric"] == "auc"]["value"].iloc[0])

    plain, masked_game = play(None), play(ConfidenceMasking(digits=None, top=1, temperature=1e9))
    assert auc(plain, "loss") > 0.5 + 4 * 0.0375  # see test_dynanoise: once in 30,000 seeds by chance
    assert auc(masked_game, "loss") == pytest.approx(auc(plain, "correctness"), abs=0.02)
    for name in ("train_accuracy", "test_accuracy"):
        np.testing.assert_array_equal(plain.dataset[name], masked_game.dataset[name])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"digits": -1}, "digits=-1 must be"),
        ({"digits": 1.5}, "digits=1.5 must be"),
        ({"top": 0}, "top=0 must be"),
        ({"temperature": 0}, "temperature=0 must be greater than 0"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match="^" + message):
        ConfidenceMasking(**parameters)


def test_more_classes_than_there_are():
    with pytest.raises(ValueError, match=r"^top=9 classes of 3: give fewer, or None for all\."):
        mia.play(toys.pool(), MLP(hidden=(4,)), ConfidenceMasking(top=9), n_models=2)
