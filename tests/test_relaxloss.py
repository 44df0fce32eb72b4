"""RelaxLoss: its gradients in both kinds of epochs, where losses settle, what it hides, what it refuses."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toys
from reference.defenses import slow_relaxloss
from scipy import stats

from mialab.defenses import Defense, RelaxLoss
from mialab.defenses.base import cross_entropy
from mialab.models import MLP
from mialab.training.membership import membership

SEED = 3


def logits_and_labels(models=2, n=7, n_classes=4, seed=0, confidence=2.0):
    """Draw answers that are right more often than not."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.randint(n_classes, (models, n), generator=rng)
    logits = torch.randn(models, n, n_classes, dtype=torch.float64, generator=rng)
    logits += confidence * torch.nn.functional.one_hot(y, n_classes)
    return logits.requires_grad_(), y


def gradient(defense, logits, y, epoch):
    losses = defense.loss(logits, y, run=SimpleNamespace(epoch=epoch))
    assert losses.shape == y.shape
    return torch.autograd.grad(losses.mean(-1).sum(), logits)[0]


def run_of(defense, models, hidden=(8,), **options):
    training = {"epochs": 3, "batch_size": 8} | options
    return toys.group(defense, models, MLP(hidden=hidden), pool=toys.pool(), seed=SEED, **training)


# ----------------------------------------------------------------------------------------------------
# Gradients


@pytest.mark.parametrize("version", ["paper", "code"])
@pytest.mark.parametrize("upper", [1.0, 0.3])
@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
def test_gradients_against_a_plain_loop(version, upper, epoch):
    # Of two models one is above the level and one below.
    logits, y = logits_and_labels()
    means = cross_entropy(logits, y).mean(-1).tolist()
    defense = RelaxLoss(alpha=sum(means) / 2, upper=upper, version=version)
    expected = [
        torch.autograd.grad(slow_relaxloss(own, label, defense, epoch), own)[0]
        for own, label in zip((part.detach().requires_grad_() for part in logits), y, strict=True)
    ]
    torch.testing.assert_close(gradient(defense, logits, y, epoch), torch.stack(expected))


@pytest.mark.parametrize("epoch", [0, 1])
def test_above_the_level_it_is_plain_descent(epoch):
    logits, y = logits_and_labels()
    plain = gradient(Defense(), logits, y, epoch)
    for version in ("paper", "code"):
        torch.testing.assert_close(gradient(RelaxLoss(alpha=1e-6, version=version), logits, y, epoch), plain)


def test_below_the_level_even_epochs_ascend():
    logits, y = logits_and_labels()
    plain = gradient(Defense(), logits, y, 0)
    torch.testing.assert_close(gradient(RelaxLoss(alpha=50.0), logits, y, 0), -plain)
    torch.testing.assert_close(gradient(RelaxLoss(alpha=50.0), logits, y, 2), -plain)


def test_below_the_level_odd_epochs_even_out_wrong_classes():
    # By hand: the gradient is p - t over the batch size, which is zero at the true class.
    logits, y = logits_and_labels()
    p, true = logits.detach().softmax(-1), torch.nn.functional.one_hot(y, 4).bool()
    own = p[true].view(2, 7, 1)
    expected = torch.where(true, 0.0, p - (1 - own) / 3) / 7
    torch.testing.assert_close(gradient(RelaxLoss(alpha=50.0), logits, y, 1), expected)
    # A bound on confidence lowers the true class where the model is surer than that.
    bounded = gradient(RelaxLoss(alpha=50.0, upper=0.3), logits, y, 1)[true].view(2, 7)
    torch.testing.assert_close(bounded, (own[..., 0] - 0.3).clamp(min=0) / 7)


def test_the_code_for_images_ascends_in_odd_epochs_too():
    # Of right answers; what wrong ones do is compared with the loop above.
    logits, y = logits_and_labels(confidence=6.0)
    assert (logits.argmax(-1) == y).all()
    defense = RelaxLoss(alpha=50.0, version="code")
    torch.testing.assert_close(gradient(defense, logits, y, 1), -gradient(Defense(), logits, y, 1))


# ----------------------------------------------------------------------------------------------------
# Trainings


def test_models_do_not_depend_on_their_group():
    together, alone = (
        run_of(RelaxLoss(alpha=0.9), models, epochs=8, lr=0.02) for models in ((0, 1, 3), (3,))
    )
    for run in (together, alone):
        run.train()
    torch.testing.assert_close(
        together.predict(together.x)[2], alone.predict(alone.x)[0], rtol=1e-3, atol=1e-4
    )


def trained(defense):
    """Return losses (model, record) and members of models that learn their 20 members by heart if they may."""
    run = run_of(defense, range(8), hidden=(32,), epochs=60, batch_size=10, lr=0.02)
    run.train()
    losses = cross_entropy(run.predict(run.x), run.y.expand(8, -1)).numpy()
    return losses, membership(8, 40, SEED)


def separation(losses, member):
    """Mean over models of the AUC of the loss, member against not."""
    return np.mean(
        [stats.mannwhitneyu(-s[m], -s[~m]).statistic / 400 for s, m in zip(losses, member, strict=True)]
    )


def test_losses_of_members_settle_at_the_level_and_hide_them():
    # Of a model that knows nothing the AUC has standard deviation 0.0925; the mean of four independent pairs of models
    # has at most half of that: it is more than four of those above 0.5 once in 30,000 seeds.
    plain, relaxed = trained(Defense()), trained(RelaxLoss(alpha=0.8))
    assert plain[0][plain[1]].mean() < 0.1
    assert relaxed[0][relaxed[1]].mean() == pytest.approx(0.8, abs=0.25)
    assert separation(*plain) > 0.5 + 4 * 0.0925 / 2
    assert separation(*relaxed) < separation(*plain) - 0.1


def test_a_level_that_forbids_learning_hides_everything():
    # Three classes: a guess has a loss of 1.1. Above 0.5 + 4 standard errors (see above) once in 30,000 seeds.
    losses, member = trained(RelaxLoss(alpha=1.2))
    assert separation(losses, member) < 0.5 + 4 * 0.0925 / 2


# ----------------------------------------------------------------------------------------------------
# Refusals


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alpha": 0}, "alpha=0 must be greater than 0"),
        ({"alpha": float("nan")}, "alpha=nan must be greater than 0"),
        ({"upper": 0.0}, "upper=0.0 must be greater than 0 and at most 1"),
        ({"upper": 1.5}, "upper=1.5 must be greater than 0 and at most 1"),
        ({"version": "papers"}, r"version='papers' is unknown. Did you mean 'paper'\? Known: code, paper."),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match="^" + message):
        RelaxLoss(**parameters)
