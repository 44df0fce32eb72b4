"""Defenses: labels, losses and the output step against slow references and published numbers."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toys
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from reference.defenses import slow_hamp
from scipy.optimize import minimize_scalar
from scipy.stats import entropy

import mialab as mia
from mialab.defenses import HAMP, Defense, LabelSmoothing
from mialab.defenses.base import cross_entropy
from mialab.defenses.hamp import keep_ranking_only, label_entropy, label_probability, random_inputs
from mialab.training.streams import Streams

# ----------------------------------------------------------------------------------------------------
# HAMP: soft labels

# gamma, classes, alpha of the five settings of HAMP's artifact; there, p is a multiple of 0.01
SETTINGS = {
    "purchase100": (0.80, 100, 0.01),
    "texas100": (0.60, 100, 0.01),
    "location30": (0.50, 30, 0.001),
    "cifar10": (0.95, 10, 0.001),
    "cifar100": (0.50, 100, 0.005),
}
ARTIFACT = {"purchase100": 0.33, "texas100": 0.54, "location30": 0.68, "cifar10": 0.26, "cifar100": 0.64}
EXACT = {
    "purchase100": 0.3374,
    "texas100": 0.5485,
    "location30": 0.6809,
    "cifar10": 0.2698,
    "cifar100": 0.6410,
}
#: Probability of the true class that minimizes the artifact's loss
OPTIMUM = {"purchase100": 0.104, "texas100": 0.156, "location30": 0.653, "cifar10": 0.258, "cifar100": 0.277}


@given(st.floats(0, 1), st.integers(2, 1000))
def test_soft_labels_have_the_entropy_asked_for(gamma, n_classes):
    p = label_probability(gamma, n_classes)
    label = np.full(n_classes, (1 - p) / (n_classes - 1))
    label[0] = p
    assert 1 / n_classes <= p <= 1
    assert entropy(label) == pytest.approx(gamma * np.log(n_classes), abs=1e-6)
    assert label_entropy(p, n_classes) == pytest.approx(entropy(label), abs=1e-9)


@pytest.mark.slow
@given(st.floats(0, 1), st.integers(2, 200))
def test_soft_labels_on_the_grid_are_the_first_that_reach_the_bound(gamma, n_classes):
    p = label_probability(gamma, n_classes, step=0.01)
    goal = gamma * np.log(n_classes)
    for percent in range(100, 0, -1):  # the artifact's loop: from 1 downward
        q = (1 - percent / 100) / (n_classes - 1)
        if (
            percent / 100 >= 1 / n_classes
            and entropy([percent / 100] + [q] * (n_classes - 1)) >= goal - 1e-12
        ):
            assert p == pytest.approx(percent / 100, abs=1e-12)
            return
    assert p == 1 / n_classes


@pytest.mark.parametrize("name", SETTINGS)
def test_soft_labels_of_the_published_settings(name):
    gamma, n_classes, _ = SETTINGS[name]
    assert HAMP(gamma=gamma).soft_label(n_classes) == pytest.approx(ARTIFACT[name], abs=1e-12)
    exact = HAMP(gamma=gamma, faithful=False).soft_label(n_classes)
    assert exact == pytest.approx(EXACT[name], abs=5e-5)


def test_soft_labels_at_the_ends():
    for step in (None, 0.01):
        assert label_probability(0, 7, step=step) == 1
        assert label_probability(1, 7, step=step) == 1 / 7
        assert label_probability(1 - 2**-53, 1926, step=step) == pytest.approx(1 / 1926, abs=1e-6)
        assert label_probability(5e-324, 7, step=step) == pytest.approx(1, abs=0.01)


# ----------------------------------------------------------------------------------------------------
# HAMP: loss


@pytest.mark.parametrize("faithful", [True, False])
@pytest.mark.parametrize(("gamma", "alpha"), [(0, 0), (0.5, 0), (0.8, 0.01), (0.95, 1), (1, 0.1)])
def test_hamp_loss_against_kl_div(gamma, alpha, faithful):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, 16, 7, generator=generator, dtype=torch.float64)
    y = torch.randint(7, (4, 16), generator=generator)
    defense = HAMP(gamma=gamma, alpha=alpha, faithful=faithful)
    expected = [slow_hamp(logits[k], y[k], gamma, alpha, faithful) for k in range(4)]
    torch.testing.assert_close(
        defense.loss(logits, y).mean(-1), torch.stack(expected), rtol=1e-10, atol=1e-10
    )
    torch.testing.assert_close(
        defense.loss(logits.float(), y).mean(-1).double(), torch.stack(expected), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("defense", [HAMP(gamma=0.7, alpha=0.1), LabelSmoothing(0.3), Defense()])
def test_losses_have_the_right_gradient(defense):
    y = torch.tensor([[0, 2, 1]])
    logits = torch.randn(1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: defense.loss(z, y), logits)
    loss = defense.loss(logits, y)
    assert loss.shape == (1, 3)
    (slope,) = torch.autograd.grad(loss.sum(), logits)
    assert (slope != 0).all()


@pytest.mark.parametrize("name", SETTINGS)
def test_hamp_loss_is_least_where_it_was_calculated(name):
    gamma, n_classes, alpha = SETTINGS[name]
    defense = HAMP(gamma=gamma, alpha=alpha)

    def at(p: float) -> float:
        rest = (1 - p) / (n_classes - 1)
        logits = torch.full((1, 1, n_classes), rest, dtype=torch.float64).log()
        logits[..., 0] = np.log(p)
        return defense.loss(logits, torch.zeros(1, 1, dtype=torch.int64)).item()

    found = minimize_scalar(at, bounds=(1 / n_classes, 1 - 1e-9), method="bounded", options={"xatol": 1e-9})
    assert found.x == pytest.approx(OPTIMUM[name], abs=1e-3)


def test_faithful_hamp_clears_the_momentum_before_each_epoch():
    cleared = []
    run = SimpleNamespace(reset_optimizer=lambda: cleared.append(True))
    HAMP(faithful=False).before_epoch(run)
    assert not cleared
    HAMP().before_epoch(run)
    assert cleared


# ----------------------------------------------------------------------------------------------------
# HAMP: output step

VALUES = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 1e-30, 300.0]) | st.floats(-50, 50, width=32)
ANSWERS = npst.arrays(np.float32, (3, 5), elements=VALUES)


def ranking(values: torch.Tensor) -> torch.Tensor:
    """Classes from the highest to the lowest, equal ones by index."""
    return torch.argsort(values, dim=-1, descending=True, stable=True)


@pytest.mark.slow
@given(ANSWERS, ANSWERS)
def test_output_step_keeps_the_ranking_and_nothing_else(logits, noise):
    logits, noise = torch.from_numpy(logits), torch.from_numpy(noise)
    before = logits.clone(), noise.clone()
    answer = keep_ranking_only(logits, noise)
    torch.testing.assert_close((logits, noise), before, rtol=0, atol=0)
    assert torch.equal(ranking(answer), ranking(logits))
    assert torch.equal(answer.argmax(-1), logits.argmax(-1))
    # The values are the noise's; equal ones have been moved apart by the least step there is.
    ours, theirs = answer.sort(-1).values, noise.sort(-1).values
    assert (ours.diff(dim=-1) > 0).all()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-40)
    distinct = (theirs.diff(dim=-1) > 1e-4).all(-1)
    assert torch.equal(ours[distinct], theirs[distinct])
    # Nothing else of the logits: any others with the same ranking give the same answer.
    scores = torch.empty_like(logits).scatter(-1, ranking(logits), -torch.arange(5.0).expand(3, 5))
    assert torch.equal(keep_ranking_only(scores, noise), answer)


def test_output_step_worked_by_hand():
    logits = torch.tensor([[0.1, 5.0, -3.0], [2.0, 2.0, 7.0]])
    noise = torch.tensor([[10.0, 30.0, 20.0], [1.0, 3.0, 2.0]])
    expected = torch.tensor([[20.0, 30.0, 10.0], [2.0, 1.0, 3.0]])
    assert torch.equal(keep_ranking_only(logits, noise), expected)
    # So many equal logits are ranked by class index only by a sort that promises it.
    same, noise = torch.zeros(3, 1000), torch.randn(3, 1000)
    assert torch.equal(keep_ranking_only(same, noise), noise.sort(-1, descending=True).values)


@pytest.mark.parametrize("kind", ["binary", "tabular", "image"])
def test_random_inputs_suit_the_records(kind):
    pool = toys.pool(kind, n=300)
    x = torch.as_tensor(pool.x)
    inputs = random_inputs(x, rng=Streams(0, [4, 7], "answers"), pool=pool)
    assert inputs.shape == (2, *x.shape)
    assert inputs.dtype == x.dtype
    if kind == "binary":
        assert set(inputs.unique().tolist()) == {0, 1}
        # 3,600 fair coins: 5 standard deviations, an error rate of 6e-7
        assert inputs.mean().item() == pytest.approx(0.5, abs=5 * 0.5 / inputs.numel() ** 0.5)
    elif kind == "image":
        assert torch.equal(
            (inputs * 255).round().unique(), torch.arange(255.0)
        )  # never 255: the artifact's bound
        torch.testing.assert_close((inputs * 255).round() / 255, inputs)
    else:
        low, high = torch.as_tensor(pool.x.min(0)), torch.as_tensor(pool.x.max(0))
        assert ((low <= inputs) & (inputs <= high)).all()
        # Each feature fills its range: of 600 uniform numbers none in a fifth of it has probability 1e-58.
        where = ((inputs - low) / (high - low)).flatten(0, 1)
        assert torch.stack([torch.histc(w, 5, 0, 1) for w in where.T]).all()
    assert not torch.equal(inputs[0], inputs[1])


def test_random_pixels_are_bytes_where_the_images_are():
    pool = toys.pool("image", n=300)
    parts = {name: (255 * getattr(pool, name)).astype(np.uint8) for name in ("x", "x_val", "x_test")}
    pool = toys.pool("image", n=300, **parts)
    inputs = random_inputs(torch.as_tensor(pool.x), rng=Streams(0, [0], "answers"), pool=pool)
    assert inputs.dtype == torch.uint8
    assert torch.equal(inputs.unique(), torch.arange(255, dtype=torch.uint8))


@pytest.mark.slow
def test_output_step_is_seeded(fresh_cache):
    pool, training = toys.pool("binary"), mia.Training(epochs=1)
    model = mia.models.MLP(hidden=(8,))

    def answers(**options):
        return mia.play(pool, model, HAMP(), n_models=2, training=training, **options).logits

    first = answers()
    shutil.rmtree(fresh_cache)
    np.testing.assert_array_equal(answers(), first)
    assert (answers(seed=1) != first).any()


def test_every_query_is_answered_with_other_noise():
    pool = toys.pool("binary")
    rng = Streams(0, [0], "answers")
    x, logits = torch.as_tensor(pool.x), torch.randn(1, len(pool), 3)

    run = SimpleNamespace(predict=lambda inputs: inputs[..., :3] * 1.5, streams=lambda _: rng, pool=pool)
    assert not torch.equal(*(HAMP().answer(run, logits, x, None, None) for _ in range(2)))
    assert HAMP().uses("answer")
    assert not HAMP(output_step=False).uses("answer")


@pytest.mark.slow
def test_accuracy_is_that_of_the_unchanged_answers():
    pool, training = toys.pool("binary"), mia.Training(epochs=5)
    options = {"n_models": 2, "training": training}
    changed = mia.play(pool, mia.models.MLP(hidden=(8,)), HAMP(), **options)
    plain = mia.play(pool, mia.models.MLP(hidden=(8,)), HAMP(output_step=False), **options)
    assert not np.array_equal(changed.logits, plain.logits)
    np.testing.assert_array_equal(changed.before_output_step().logits, plain.logits)
    np.testing.assert_array_equal(changed.logits.argmax(-1), plain.logits.argmax(-1))
    np.testing.assert_array_equal(changed.train_accuracy, plain.train_accuracy)
    np.testing.assert_array_equal(changed.test_accuracy, plain.test_accuracy)
    with pytest.raises(ValueError, match="'hamp' has no output step to leave out"):
        plain.before_output_step()


# ----------------------------------------------------------------------------------------------------
# Label smoothing, and no defense


@pytest.mark.parametrize("smoothing", [0, 0.1, 0.5, 1])
def test_label_smoothing_against_torch(smoothing):
    logits = torch.randn(3, 8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.randint(5, (3, 8), generator=torch.Generator().manual_seed(1))
    expected = [
        torch.nn.functional.cross_entropy(z, t, label_smoothing=smoothing)
        for z, t in zip(logits, y, strict=True)
    ]
    torch.testing.assert_close(LabelSmoothing(smoothing).loss(logits, y).mean(-1), torch.stack(expected))


def test_cross_entropy_against_torch():
    logits = torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.randint(5, (2, 6), generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")
    torch.testing.assert_close(cross_entropy(logits, y).flatten(), expected)
    soft = torch.rand(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).softmax(-1)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), soft.flatten(0, 1), reduction="none")
    torch.testing.assert_close(cross_entropy(logits, soft).flatten(), expected)
    torch.testing.assert_close(Defense().loss(logits, soft), cross_entropy(logits, soft))


def test_the_summary_says_what_each_changes_needs_and_guarantees():
    table = mia.defenses.summary()
    assert list(table.index) == mia.defenses.available()
    assert tuple(table.loc["none"]) == ("", "", "nothing")
    assert tuple(table.loc["label_smoothing"]) == ("loss", "", "nothing")
    assert table.loc["hamp", "needs"] == "other answers"
    assert table.loc["dp_sgd", "guarantees"] == "epsilon"
    plan_reports = {name for name in table.index if "report" in table.loc[name, "hooks"].split(", ")}
    assert set(table.index[table["guarantees"] == "epsilon"]) <= plan_reports


def test_defenses_are_made_by_name():
    assert {"none", "hamp", "label_smoothing"} <= set(mia.defenses.available())
    assert mia.defenses.make(None) == Defense()
    assert mia.defenses.make("hamp") == mia.defenses.make(HAMP) == HAMP()
    assert mia.defenses.make(HAMP(gamma=0.1)) == HAMP(gamma=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HAMP(gamma=1.5), "gamma=1.5 must be at least 0 and at most 1."),
        (lambda: HAMP(gamma=-0.1), "gamma=-0.1 must be at least 0 and at most 1."),
        (lambda: HAMP(gamma=float("nan")), "gamma=nan must be at least 0 and at most 1."),
        (lambda: HAMP(gamma="0.5"), "gamma='0.5' must be at least 0 and at most 1."),
        (lambda: HAMP(alpha=-1), "alpha=-1 must be at least 0."),
        (lambda: LabelSmoothing(2), "smoothing=2 must be at least 0 and at most 1."),
        (lambda: label_probability(0.5, 1), "n_classes=1 must be an integer of at least 2."),
        (lambda: mia.defenses.make("hampp"), r"defense='hampp' is unknown. Did you mean 'hamp'\? Known: "),
        (lambda: mia.defenses.make(3), "defense=3 is unknown. Known: "),
    ],
)
def test_wrong_parameters_of_defenses(make, message):
    with pytest.raises(ValueError, match="^" + message):
        make()
