"""MemGuard: its phases against plain loops, what it keeps, what it hides, what it refuses."""

import numpy as np
import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.defenses import slow_memguard
from scipy import stats
from scipy.special import softmax

import mialab as mia
from mialab.defenses import MemGuard
from mialab.defenses import memguard as module
from mialab.defenses.inference import build_layers
from mialab.models import MLP
from mialab.training.streams import Streams

FAST = {"passes": 5, "steps": 40, "widths": (8, 4)}
TRAINING = mia.Training(epochs=40, batch_size=10, lr=0.02)


def network(logits, seed=0):
    """Layers of an inference network that calls half of some answers members."""
    layers = build_layers((logits.shape[-1], 8, 4, 1), rng=Streams(seed, [0], "test"), scale=1.0)
    *first, (weight, bias) = [(w[0].detach().to(logits), b[0].detach().to(logits)) for w, b in layers]
    return [*first, (weight, bias - says([*first, (weight, bias)], logits).median())]


def says(model, logits):
    return module.one_number(
        [(w[None], b[None]) for w, b in model], module.sorted_probabilities(logits)[None]
    )[0]


def answers(n=20, classes=4, seed=1, scale=3.0):
    rng = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, classes, dtype=torch.float64, generator=rng)


def play(defense, **options):
    pool = toys.pool(n=60, features=12, reference=40, test=20)
    return mia.play(pool, MLP(hidden=(32,)), defense, training=TRAINING, **{"n_models": 8} | options)


@pytest.fixture(scope="module")
def game():
    return play(MemGuard(distortion=2.0, passes=60, steps=100, widths=(32,)), store=None)


# ----------------------------------------------------------------------------------------------------
# Phase I


def test_noise_against_a_loop_over_records():
    defense, logits = MemGuard(**FAST), answers().log_softmax(-1)
    for seed in range(2):
        model = network(logits, seed)
        expected = torch.stack([slow_memguard(z, model, defense) for z in logits])
        torch.testing.assert_close(defense.find(model, logits), expected)
        assert not torch.equal(expected, logits)


def test_phase_one_moves_answers_across_one_half_and_keeps_the_label():
    logits = answers(200).log_softmax(-1)
    model = network(logits)
    found = MemGuard(**FAST).find(model, logits)
    moved = (found != logits).any(-1)
    assert moved.double().mean() > 0.5
    assert ((says(model, logits) > 0) != (says(model, found) > 0))[moved].all()
    assert (found.argmax(-1) == logits.argmax(-1)).all()
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(200, dtype=torch.float64))


def test_an_undecided_answer_is_left_alone():
    # Whose network says 1/2 to everything.
    model = [(torch.zeros(4, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))]
    logits = answers().log_softmax(-1)
    assert torch.equal(MemGuard(**FAST).find(model, logits), logits)


# ----------------------------------------------------------------------------------------------------
# Phase II


def test_labels_are_kept_and_answers_are_probabilities(game):
    data = game.dataset.load()
    released = data["logits"].to_numpy()
    assert (released.argmax(-1) == data["raw_logits"].to_numpy().argmax(-1)).all()
    np.testing.assert_allclose(np.exp(released).sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("distortion", [0.0, 0.05, 0.3])
def test_the_budget_is_kept(distortion):
    # Given the noise, whether it is used is a coin of its own for every answer. The mean of 8 x 60 distances, each at
    # most 2 with an expectation of at most the budget, so with a variance of at most 2 x budget, lies above the budget
    # by 4 standard errors in one seed of 30,000.
    played = play(MemGuard(distortion=distortion, passes=60, steps=100, widths=(32,)), store=None)
    data = played.dataset.load()
    released, own = (softmax(data[name].to_numpy(), axis=-1) for name in ("logits", "raw_logits"))
    distance = np.abs(released - own).sum(-1)
    assert distance.mean() <= distortion + 4 * (2 * distortion / distance.size) ** 0.5 + 1e-6
    assert (distance > 1e-6).any() == (distortion > 0)


def test_who_asks_again_gets_the_same_answer():
    x = torch.rand(5, 3)
    first = module.draws(x, 3, [0, 4])
    assert np.array_equal(module.draws(x.flip(0), 3, [4]), first[1:, ::-1])
    assert not np.array_equal(module.draws(x, 4, [0, 4]), first)


def test_draws_are_uniform():
    # Kolmogorov-Smirnov, a p-value below 1e-4 in one seed of 10,000.
    drawn = module.draws(torch.arange(3000.0)[:, None], 0, [0, 1])
    assert (drawn >= 0).all()
    assert (drawn < 1).all()
    for own in drawn:
        assert stats.kstest(own, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(drawn)[0, 1]) < 4 / 3000**0.5


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), scale=st.floats(0.1, 60), classes=st.integers(2, 6))
def test_any_answer_keeps_its_label(seed, scale, classes):
    logits = answers(6, classes, seed, scale).float().log_softmax(-1)
    found = MemGuard(**FAST).find(network(logits, seed), logits)
    assert torch.isfinite(found).all()
    assert (found.argmax(-1) == logits.argmax(-1)).all()


# ----------------------------------------------------------------------------------------------------
# Against attacks


def test_it_hides_members_from_attacks_on_confidence_but_not_from_their_labels(game):
    # Power: 30 members against 30 others in each model. The AUC of a model that knows nothing has a standard deviation
    # of .075, the mean of four independent pairs of models half of that at most: more than four of those above 1/2 once
    # in 30,000 seeds.
    def auc(played, attack):
        table = mia.audit(played, [attack])
        return float(table[table["metric"] == "auc"]["value"].iloc[0])

    own = game.before_output_step()
    assert auc(own, "loss") > 0.5 + 4 * 0.0375
    assert auc(game, "loss") < auc(own, "loss") - 0.05
    # Labels are those of the own answers, so who sees labels alone loses nothing.
    assert auc(game, "correctness") == auc(own, "correctness")


def test_models_do_not_depend_on_the_group_but_for_rounding():
    # A last bit may decide whether a descent succeeds: in all but a few answers it does not.
    defense = MemGuard(distortion=2.0, **FAST)
    together, alone = (play(defense, store=None, n_models=k).dataset["logits"].to_numpy() for k in (8, 2))
    same = np.isclose(together[:2], alone, rtol=1e-2, atol=1e-2).all(-1)
    assert same.mean() > 0.9


# ----------------------------------------------------------------------------------------------------
# Refusals


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"distortion": -0.1}, "distortion=-0.1 must be at least 0 and at most 2"),
        ({"distortion": 2.5}, "distortion=2.5 must be at least 0 and at most 2"),
        ({"steps": 0}, "steps=0 must be"),
        ({"passes": 0}, "passes=0 must be"),
        ({"lr": 0.0}, "lr=0.0 must be greater than 0"),
        ({"widths": (8, 0)}, "widths"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match="^" + message):
        MemGuard(**parameters)


@pytest.mark.parametrize("reference", [0, 2])
def test_too_few_reference_records(reference):
    pool = toys.pool(reference=reference)
    with pytest.raises(
        ValueError, match=f"has {reference} reference records .* needs at least {pool.n_classes}"
    ):
        mia.play(pool, MLP(hidden=(4,)), "memguard", n_models=2)
