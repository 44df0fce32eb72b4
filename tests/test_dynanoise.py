"""DynaNoise: its variance, the distribution of its answers, what averages take away, what it refuses."""

import math

import numpy as np
import pytest
import torch
import toys
from scipy import stats

import mialab as mia
from mialab.defenses import DynaNoise
from mialab.models import MLP
from mialab.training.streams import Streams


class FakeRun:
    """Random numbers, and nothing else."""

    def __init__(self, models=1, seed=0):
        self._streams = Streams(seed, range(models), "answers")

    def streams(self, purpose):
        assert purpose == "answers"
        return self._streams


def test_variance_in_known_cases():
    # No class is preferred: R = 0. One class is certain: R = 1. Two of four classes share all: H = log 2, R = 1/2.
    logits = torch.tensor([[0.0, 0, 0, 0], [400, 0, 0, 0], [400, 400, 0, 0]])
    expected = torch.tensor([[0.3], [0.9], [0.6]])
    torch.testing.assert_close(DynaNoise(variance=0.3, scale=2.0).noise_variance(logits), expected)


def test_variance_against_the_formula():
    logits = torch.randn(50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = [0.1 * (1 + 5 * (1 - stats.entropy(p) / math.log(7))) for p in logits.softmax(-1).numpy()]
    np.testing.assert_allclose(DynaNoise(0.1, 5.0).noise_variance(logits)[:, 0], expected)


def test_answers_have_that_noise():
    # 20,000 answers to one query. Each logit's noise against its Gaussian by Kolmogorov-Smirnov: differences of logits
    # at temperature 1 are Gaussian with twice the variance. A p-value below 1e-5 in one seed of 100,000.
    defense = DynaNoise(variance=0.5, scale=1.0, temperature=4.0)
    logits = torch.tensor([1.0, 0.0, -2.0]).expand(1, 20_000, 3)
    released = defense.answer(FakeRun(), logits, torch.empty(20_000, 1), None, None)
    torch.testing.assert_close(released.exp().sum(-1), torch.ones(1, 20_000))
    noisy = 4.0 * (released[0, :, 0] - released[0, :, 1])
    std = float((2 * defense.noise_variance(logits)[0, 0, 0]).sqrt())
    assert stats.kstest(noisy.numpy(), stats.norm(1.0, std).cdf).pvalue > 1e-5


def test_the_next_answer_has_other_noise_and_averages_take_it_away():
    run, logits = FakeRun(), torch.tensor([2.0, 0.0]).expand(1, 4000, 2)
    defense = DynaNoise(temperature=1.0)
    first, second = (defense.answer(run, logits, torch.empty(4000, 1), None, None) for _ in range(2))
    assert not torch.equal(first, second)
    margins = first[0, :, 0] - first[0, :, 1]
    error = float((2 * defense.noise_variance(logits)[0, 0, 0] / 4000).sqrt())
    assert float(margins.mean()) == pytest.approx(2.0, abs=4 * error)


def play(defense):
    pool = toys.pool(n=60, test=40)
    training = mia.Training(epochs=40, batch_size=10, lr=0.02)
    return mia.play(pool, MLP(hidden=(32,)), defense, training=training, n_models=8, store=None)


def test_accuracy_is_that_of_the_released_labels():
    plain, noisy, drowned = (play(d) for d in (None, DynaNoise(), DynaNoise(variance=1e6)))
    assert np.asarray(plain.dataset["train_accuracy"]).mean() > 0.95
    for name in ("train_accuracy", "test_accuracy"):
        # Three classes; 8 x 30 or 8 x 40 draws of a label: 4 standard errors, one seed of 30,000.
        draws = np.asarray(drowned.dataset[name])
        assert draws.mean() == pytest.approx(1 / 3, abs=4 * (2 / 9 / 240) ** 0.5)
    released = np.asarray(noisy.dataset["logits"])[:, 0].argmax(-1)
    member = np.asarray(noisy.dataset["member"])
    right = released == np.asarray(noisy.dataset["y"])
    np.testing.assert_allclose(
        noisy.dataset["train_accuracy"], [r[m].mean() for r, m in zip(right, member, strict=True)]
    )


def test_power_and_null():
    # With noise that drowns answers nothing is left: the AUC of 8 models has a standard error of at most .075 / 2 (four
    # independent pairs), so it is further than four of those from 1/2 once in 15,000 seeds.
    def auc(game):
        table = mia.audit(game, ["loss"])
        return float(table[table["metric"] == "auc"]["value"].iloc[0])

    assert auc(play(None)) > 0.5 + 4 * 0.0375
    assert auc(play(DynaNoise(variance=1e6))) == pytest.approx(0.5, abs=4 * 0.0375)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"variance": 0}, "variance=0 must be greater than 0"),
        ({"variance": float("nan")}, "variance=nan must be greater than 0"),
        ({"scale": -1.0}, "scale=-1.0 must be at least 0"),
        ({"temperature": 0.0}, "temperature=0.0 must be greater than 0"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match="^" + message):
        DynaNoise(**parameters)
