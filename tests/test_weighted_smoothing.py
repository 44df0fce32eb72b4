"""Weighted smoothing: weights, noise and loss against a slow reference."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toys

import mialab as mia
from mialab.classifiers import signals
from mialab.defenses import WeightedSmoothing
from mialab.defenses.base import cross_entropy
from mialab.defenses.weighted_smoothing import FLOOR, class_z_scores, limit_norms, modified_entropy
from mialab.models import MLP
from mialab.training.streams import Streams

N, CLASSES = 12, 3


def test_modified_entropies_are_those_of_the_attack():
    logits, y = torch.randn(2, N, CLASSES, dtype=torch.float64), torch.randint(CLASSES, (N,))
    exact = -signals.modified_entropy(logits.numpy(), y.numpy())
    ours = modified_entropy(logits, y.expand(2, N))
    np.testing.assert_allclose(ours, exact, rtol=1e-10)


def test_weights_are_standardized_within_each_class():
    values, y = torch.randn(2, N), torch.arange(N).expand(2, N) % CLASSES
    z = class_z_scores(values, y, CLASSES)
    for k in range(2):
        for c in range(CLASSES):
            own = values[k, y[k] == c].double().numpy()
            np.testing.assert_allclose(z[k, y[k] == c], (own - own.mean()) / own.std(), atol=1e-5)


def test_a_class_of_equal_values_has_no_weights():
    y = torch.zeros(1, 4, dtype=torch.int64)
    assert class_z_scores(torch.full((1, 4), 0.7), y, 2).abs().max() == 0
    assert class_z_scores(torch.rand(1, 1), y[:, :1], 2).abs().max() == 0


def running(epoch=9, models=(0, 1)):
    """Return a training that goes on, with two models whose answers do not change."""
    rng = np.random.default_rng(0)
    members = torch.as_tensor(np.stack([rng.permutation(2 * N)[:N] for _ in models]))
    answers = torch.as_tensor(rng.normal(size=(len(models), 2 * N, CLASSES)), dtype=torch.float32)
    noise = Streams(0, models, "weighted smoothing")
    return SimpleNamespace(
        streams={"weighted smoothing": noise}.get,
        epoch=epoch,
        memory={},
        members=members,
        x=torch.arange(2 * N),
        y=torch.as_tensor(rng.integers(CLASSES, size=2 * N)),
        predict=lambda x: torch.stack([a[i] for a, i in zip(answers, x, strict=True)]),
        answers=answers,
    )


def prepared(defense, epoch=9):
    run = running(epoch)
    defense.before_epoch(run)
    return run


@pytest.mark.parametrize("weighting", ["modified_entropy", "uniform", "inverted", "clipped"])
@pytest.mark.parametrize("version", ["code", "paper"])
def test_the_loss_is_that_of_a_plain_loop(version, weighting):
    defense = WeightedSmoothing(sigma=0.3, version=version, weighting=weighting)
    run, again = prepared(defense), prepared(defense)
    index = run.members[:, 2:7]
    logits = torch.randn(2, 5, CLASSES)
    losses = defense.loss(logits, run.y[index], run=run, index=index)
    noise = again.streams("weighted smoothing").normal(5, CLASSES).numpy()
    for k in range(2):
        members, expected = run.members[k], []
        entropies = modified_entropy(run.answers[k, members][None], run.y[members][None])[0].double().numpy()
        for i, record in enumerate(index[k]):
            same = (run.y[members] == run.y[record]).numpy()
            own = entropies[(members == record).numpy()][0]
            w = (own - entropies[same].mean()) / (entropies[same].std() + 2.1e-9)
            factor = {
                "modified_entropy": 1 - w,
                "uniform": 1,
                "inverted": 1 + w,
                "clipped": min(max(1 - w, 0), 2),
            }
            p = torch.softmax(logits[k, i], -1).double().numpy()
            size = 0.3 * factor[weighting]
            if version == "code":
                size *= np.sort(p)[-1] - np.sort(p)[-2]
            noisy = p + size * noise[k, i]
            positive = np.abs(noisy) if version == "code" else np.maximum(noisy, FLOOR)
            q = np.clip(positive / positive.sum(), FLOOR, 1)
            expected.append(-np.log(q[run.y[record]]))
        assert losses[k].mean().item() == pytest.approx(np.mean(expected), rel=1e-4)


def test_the_warm_up_is_plain_training():
    for version, first in (("code", 4), ("paper", 5)):
        defense = WeightedSmoothing(version=version)
        assert "factor" not in prepared(defense, epoch=first - 1).memory
        assert "factor" in prepared(defense, epoch=first).memory
    logits, y = torch.randn(2, 5, CLASSES), torch.randint(CLASSES, (2, 5))
    plain = cross_entropy(logits, y)
    run = prepared(WeightedSmoothing(), epoch=3)
    assert torch.equal(WeightedSmoothing().loss(logits, y, run=run, index=run.members[:, :5]), plain)


def test_weights_go_with_their_records():
    defense = WeightedSmoothing(sigma=0.3)
    run = prepared(defense)
    factor = run.memory["factor"]
    outside = torch.ones_like(factor, dtype=torch.bool).scatter(1, run.members, False)
    assert (factor[outside] == 0).all()
    assert (factor.gather(1, run.members) != 0).all()


@pytest.mark.slow
def test_without_noise_it_is_plain_training_and_with_noise_it_is_not():
    pool, training = toys.pool(n_classes=3), mia.Training(epochs=8)
    model = mia.models.MLP(hidden=(8,))
    plain, without, noisy = (
        mia.play(pool, model, defense, training=training, n_models=4).logits
        for defense in (None, WeightedSmoothing(sigma=0), WeightedSmoothing(sigma=0.5))
    )
    np.testing.assert_allclose(without, plain, atol=1e-5)
    assert np.abs(noisy - plain).max() > 1e-3


def test_gradients_reach_the_network():
    """Through the noisy probabilities, but not through the size of the noise."""
    defense = WeightedSmoothing(sigma=0.3)
    run = prepared(defense)
    index = run.members[:, :5]
    logits = torch.randn(2, 5, CLASSES, requires_grad=True)
    defense.loss(logits, run.y[index], run=run, index=index).sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad.abs().sum((1, 2)) > 0).all()


@pytest.mark.parametrize(
    "options", [{"sigma": -1}, {"version": "v2"}, {"warm_up": -1}, {"weighting": "none"}]
)
def test_impossible_parameters(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        WeightedSmoothing(**options)


# ----------------------------------------------------------------------------------------------------
# The limit on the norm of gradients


@pytest.mark.parametrize("stacked", [True, False])
def test_gradients_are_limited_as_torch_does_it(stacked):
    rng = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (4,), (2, 5)]
    models = [[torch.nn.Parameter(torch.zeros(s)) for s in shapes] for _ in range(2)]
    for k, model in enumerate(models):
        for p in model:
            p.grad = 10.0**k * torch.randn(p.shape, generator=rng)
    together = [torch.nn.Parameter(torch.stack([m[i].data for m in models])) for i in range(3)]
    for i, p in enumerate(together):
        p.grad = torch.stack([m[i].grad for m in models])
    longer = [torch.nn.Parameter(torch.zeros(s)) for s in shapes]
    for p, own in zip(longer, models[1], strict=True):
        p.grad = own.grad.t().clone().t() if own.dim() == 2 else own.grad.clone()
    for model in models:
        torch.nn.utils.clip_grad_norm_(model, 7.0)
    assert torch.nn.utils.get_total_norm([p.grad for p in models[0]]) < 7  # this one is short enough
    if stacked:
        limit_norms(together, 7.0, stacked=True)
        for i, p in enumerate(together):
            torch.testing.assert_close(p.grad, torch.stack([m[i].grad for m in models]))
    else:
        for own in (models[1], longer):
            limit_norms(own, 7.0, stacked=False)
        # Twice is once; and the layout of convolutions in memory does not matter.
        torch.testing.assert_close([p.grad for p in longer], [p.grad for p in models[1]])


@pytest.mark.parametrize("model", [MLP(hidden=(8,)), MLP(hidden=(300, 200))], ids=["stacked", "sequential"])
def test_a_limit_that_nothing_reaches_changes_nothing(model):
    training = mia.Training(epochs=4, batch_size=8, lr=0.01)
    options = {"training": training, "n_models": 2, "store": None}
    limited, free = (
        mia.play(toys.pool(), model, WeightedSmoothing(sigma=0.0, max_norm=most), **options)
        for most in (1e6, None)
    )
    np.testing.assert_array_equal(limited.logits, free.logits)
    short = mia.play(toys.pool(), model, WeightedSmoothing(sigma=0.0, max_norm=1e-3), **options)
    assert (short.logits != free.logits).any()


def test_a_bad_limit():
    with pytest.raises(ValueError, match=r"^max_norm=0 must be greater than 0\."):
        WeightedSmoothing(max_norm=0)


# ----------------------------------------------------------------------------------------------------
# The choice of sigma


def test_sigma_is_chosen_on_validation_alone():
    pool = toys.pool(n=80, validation=100, test=10)
    options = {"training": mia.Training(epochs=12, batch_size=8, lr=0.02), "n_models": 2, "seed": 7}
    choose = mia.chapters.weighted_smoothing.choose_sigma
    sigma, tried = choose(pool, MLP(hidden=(16,)), sigmas=[5.0, 0.01], points=100, **options)
    assert list(tried.index) == [0, 0.01, 5.0]
    sound = tried[tried["problem"] == ""].index
    assert sigma == max(sound)
    # The greatest that is as accurate as undefended models; if none is, the smallest.
    accuracy = tried["validation accuracy"]
    enough = [s for s in sound if s and accuracy[s] >= accuracy[0] - 1e-9]
    strict, again = choose(pool, MLP(hidden=(16,)), sigmas=[5.0, 0.01], points=0, **options)
    assert again.drop(columns="chosen").equals(tried.drop(columns="chosen"))
    assert tried.index[tried["chosen"] != ""] == [sigma]
    assert strict == (max(enough) if enough else 0.01)


@pytest.mark.parametrize(("validation", "sigmas"), [(0, [0.1]), (20, []), (20, [0.0, 0.1])])
def test_nothing_to_choose_from(validation, sigmas):
    with pytest.raises(ValueError, match="validation" if not validation else "sigmas="):
        mia.chapters.weighted_smoothing.choose_sigma(
            toys.pool(validation=validation), "mlp", training=mia.Training(), sigmas=sigmas
        )
