from copy import deepcopy
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toys
from scipy import stats
from torch import nn
from torch.func import functional_call
from torch.nn.functional import one_hot, softplus

from mialab import gan
from mialab.gan import Training
from mialab.gan.defenses import dp_critic
from mialab.gan.defenses.base import Defense, make
from mialab.gan.defenses.dp_critic import DPCritic
from mialab.gan.networks import MLP, Conv
from mialab.gan.run import Run
from mialab.training.dp import epsilon

SMALL = MLP((12,), latent=4)


def a_run(defense, models=(0, 1), networks=SMALL, *, pool=None, members=30, seed=0, **training):
    pool = pool or toys.pool("image", n=60)
    rows = np.stack([np.random.default_rng([7, k]).permutation(len(pool))[:members] for k in models])
    return Run(
        torch.as_tensor(pool.x),
        torch.as_tensor(pool.y),
        torch.as_tensor(rows),
        models,
        pool=pool,
        networks=networks,
        defense=defense,
        training=Training(**({"steps": 3, "batch_size": 10} | training)),
        seed=seed,
        device="cpu",
    )


def a_plan(members, networks=SMALL, **training):
    """Make what a defense sees of a plan."""
    pool = toys.pool("image", n=60)
    return SimpleNamespace(
        pool=pool, networks=networks, training=Training(**training), n_members=members, seed=0
    )


def stepped(run):
    """Labels and flat gradients, (model, parameter), of one step of the critics."""
    run.memory.setdefault("batches", run.defense.batches(run))
    labels = run.defense.step(run, next(run.memory["batches"]))
    return labels, torch.cat(
        [p.grad.reshape(len(run.models), -1) for p in run.critics.parameters.values()], 1
    )


def no_gradients(monkeypatch):
    """Take the gradients away: noise is left. Return the weights of members and of generated records in turn."""
    weights = []

    def nothing(network, loss, parameters, inputs, weight, max_norm):
        weights.append(weight.clone())
        return {name: torch.zeros_like(p) for name, p in parameters.items()}

    monkeypatch.setattr(dp_critic, "clipped_sum", nothing)
    return weights


# ------------------------------------------------------------------------------------------- gradients


def test_a_step_of_training_is_the_clipped_mean_of_members_and_of_generated_records():
    defense = DPCritic(noise_multiplier=1e-9, max_grad_norm=0.3)
    run = a_run(defense, members=10)  # all members are in each batch
    before = {name: p.detach().clone() for name, p in run.critics.parameters.items()}
    seen = {}
    run.generate = lambda y, generate=run.generate: seen.setdefault("fake", generate(y))
    labels, got = stepped(run)
    critic = SMALL.critic((1, 8, 8), 3)
    for m in range(2):
        parameters = {name: p[m].requires_grad_() for name, p in before.items()}
        members = run.members[m, 0]
        parts = [
            (run.x[members], one_hot(run.y[members], 3).float(), -1),
            (seen["fake"][m, 0], labels[m, 0], 1),
        ]
        total = 0
        for x, y, sign in parts:
            for a, b in zip(x, y, strict=True):
                loss = softplus(sign * functional_call(critic, parameters, (a[None], b[None])))[0]
                flat = torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*parameters.values()])])
                total = total + flat * min(1.0, 0.3 / flat.norm().item())
        torch.testing.assert_close(got[m], total / 10, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_a_replaced_member_moves_a_step_by_no_more_than_two_bounds(seed):
    pool = toys.pool("image", n=60)
    defense = DPCritic(noise_multiplier=0.7, max_grad_norm=0.05)
    labels, grads = stepped(a_run(defense, pool=pool, seed=seed))
    place = int(a_run(defense, pool=pool).members[0, 0, 3])
    x, y = pool.x.copy(), pool.y.copy()
    x[place], y[place] = 1 - x[place], (y[place] + 1) % 3
    other = toys.pool("image", n=60, x=x, y=y)
    other_labels, other_grads = stepped(a_run(defense, pool=other, seed=seed))
    assert torch.equal(labels, other_labels)
    assert (grads[0] - other_grads[0]).norm() <= 2 * 0.05 / 10 * 1.001


def test_only_chosen_members_matter():
    pool = toys.pool("image", n=60)
    defense = DPCritic()
    run = a_run(defense, pool=pool)
    chosen = run.streams("defense").uniform(1, 30) < 10 / 30  # the first numbers of a step
    out = run.members[0, 0][~chosen[0, 0]]
    x = pool.x.copy()
    x[out] = 1 - x[out]
    a, b = (stepped(a_run(defense, (0,), pool=p))[1] for p in (pool, toys.pool("image", n=60, x=x, y=pool.y)))
    assert torch.equal(a, b)
    x = pool.x.copy()
    x[run.members[0, 0][chosen[0, 0]]] = 0
    c = stepped(a_run(defense, (0,), pool=toys.pool("image", n=60, x=x, y=pool.y)))[1]
    assert not torch.allclose(a, c, atol=1e-4)


# -------------------------------------------------------------------------------------------- sampling


def test_poisson_sampling(monkeypatch):
    # Three tests at 1e-4 each: the test fails by chance once in 3,000 seeds.
    weights = no_gradients(monkeypatch)
    run = a_run(DPCritic(), models=[0, 1], members=30, batch_size=10)
    for _ in range(400):
        stepped(run)
    sizes = torch.cat([w.sum(1) for w in weights[::2]]).numpy()
    assert len(sizes) == 800
    total = stats.binomtest(int(sizes.sum()), 800 * 30, 1 / 3)
    assert total.pvalue > 1e-4
    # Batch sizes are binomial, not all the same.
    bins = np.bincount(np.clip(sizes.astype(int), 6, 14), minlength=15)[6:]
    law = stats.binom(30, 1 / 3)
    expected = np.array([law.cdf(6), *law.pmf(np.arange(7, 14)), law.sf(13)])
    assert stats.chisquare(bins, 800 * expected).pvalue > 1e-4
    # Batches in a row have nothing in common: no passes over the members.
    assert abs(np.corrcoef(sizes[:-2:2], sizes[2::2])[0, 1]) * np.sqrt(399) < 3.9


def test_labels_of_generated_records_do_not_come_from_members(monkeypatch):
    # Chi-squared at 1e-4. All members have label 0.
    no_gradients(monkeypatch)
    pool = toys.pool("image", n=60)
    run = a_run(DPCritic(), pool=toys.pool("image", n=60, x=pool.x, y=np.zeros(60, np.int64)))
    labels = torch.cat([stepped(run)[0] for _ in range(100)])
    assert labels.shape == (200, 1, 10, 3)
    assert labels.sum(-1).eq(1).all()
    assert stats.chisquare(labels.sum((0, 1, 2)).numpy()).pvalue > 1e-4


# ----------------------------------------------------------------------------------------------- noise


def test_noise(monkeypatch):
    # Four tests at 1e-4 each: the test fails by chance once in 2,500 seeds.
    no_gradients(monkeypatch)
    run = a_run(DPCritic(noise_multiplier=1.5, max_grad_norm=0.2), batch_size=8)
    draws = torch.stack([stepped(run)[1] for _ in range(20)]).numpy() / (1.5 * 0.2 / 8)
    assert draws.shape[:2] == (20, 2)
    flat = draws.ravel()
    assert stats.kstest(flat, "norm").pvalue > 1e-4
    squares = (flat**2).sum()
    assert 1e-4 < stats.chi2(len(flat)).cdf(squares) < 1 - 1e-4
    for a, b in ((draws[:, 0], draws[:, 1]), (draws[:-1], draws[1:])):  # of two models, of steps in a row
        assert stats.pearsonr(a.ravel(), b.ravel()).pvalue > 1e-4


# --------------------------------------------------------------------------------------------- epsilon


def test_the_report_counts_the_steps_that_are_made():
    defense = DPCritic(noise_multiplier=2.0)
    about = defense.report(a_plan(400, steps=500, stop=100, batch_size=20))
    assert about == {"epsilon": epsilon(2.0, 0.05, 100, 1e-5), "delta": 1e-5, "sample_rate": 0.05}
    few = defense.report(a_plan(40, steps=100, batch_size=64))
    assert few["sample_rate"] == 1
    assert few["epsilon"] == epsilon(2.0, 1.0, 100, 1e-5)


# -------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("networks", [SMALL, Conv(2, 4)], ids=str)
def test_models_do_not_depend_on_their_group(networks):
    groups = [(0, 1, 2), (2,)] if networks is SMALL else [(2,), (2,)]
    runs = [a_run(DPCritic(), models, networks, steps=10, n_critic=2) for models in groups]
    for run in runs:
        run.train()
    y = torch.eye(3).expand(1, 1, 3, 3)
    answers, made = [], []
    for run in runs:
        each = (len(run.models), 1, -1, -1)
        z = torch.linspace(-1, 1, 3 * run.latent).view(1, 1, 3, run.latent)
        with torch.no_grad():
            made.append(run.generate(y.expand(each), z.expand(each))[-1])
            answers.append(run.evaluate(run.x[:3].expand(len(run.models), 1, 3, 1, 8, 8), y.expand(each))[-1])
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(made[0], made[1], rtol=1e-3, atol=1e-4)


def separation(defense):
    """AUC of what critics say, member against not, of eight models with 20 members each."""
    pool, networks = toys.pool("image", n=40), MLP((64,), latent=8)
    run = a_run(defense, range(8), networks, members=20, pool=pool, steps=300, lr=5e-3, objective="bce")
    run.train()
    answers = run.evaluate_records(run.x, run.onehot(run.y))[:, 0].numpy()
    member = np.zeros((8, 40), bool)
    np.put_along_axis(member, run.members[:, 0].numpy(), True, 1)
    return np.mean(
        [stats.mannwhitneyu(s[m], s[~m]).statistic / 400 for s, m in zip(answers, member, strict=True)]
    )


@pytest.mark.slow
def test_members_are_seen_without_it_and_not_with_much_noise():
    # The AUC of a critic that knows nothing has standard deviation 0.0925, eight of them 0.0925 / sqrt(8): it is more
    # than four of those from 0.5 once in 15,000 seeds.
    chance = 4 * 0.0925 / np.sqrt(8)
    assert separation(Defense()) > 0.5 + chance
    assert abs(separation(DPCritic(noise_multiplier=400.0)) - 0.5) < chance


# --------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", None, True])
@pytest.mark.parametrize("name", ["noise_multiplier", "max_grad_norm", "delta"])
def test_bad_parameters(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r} must be greater than 0"):
        DPCritic(**{name: value})


def test_delta():
    with pytest.raises(ValueError, match=r"delta=1.0 must be less than 1\."):
        DPCritic(delta=1.0)
    with pytest.raises(ValueError, match=r"delta=0.02 must be less than 1 / members = 0.02"):
        DPCritic(delta=0.02).check(a_plan(50))


def test_a_large_epsilon_is_called_so(recwarn):
    DPCritic(noise_multiplier=30.0).check(a_plan(500, steps=100))
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"epsilon = .* \(delta = 1e-05\) bounds no attack"):
        DPCritic(noise_multiplier=0.5).check(a_plan(500, steps=100))


class Centerd(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


@dataclass(frozen=True)
class Odd(MLP):
    layer: nn.Module = field(default=None, compare=False)

    def critic(self, shape, n_classes):
        critic = super().critic(shape, n_classes)
        critic.first.append(deepcopy(self.layer))
        return critic


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.BatchNorm1d(12), r"\(BatchNorm1d\)"),
        (nn.BatchNorm1d(12, track_running_stats=False), "depends on the batch"),
        (Centerd(), "depends on the batch"),
    ],
    ids=repr,
)
def test_critics_that_tie_records_together(layer, message):
    with pytest.raises(ValueError, match=f"answer each record by itself.*{message}"):
        DPCritic().check(a_plan(500, networks=Odd((12,), latent=4, layer=layer)))


def test_critics_of_ones_own():
    # A non-linearity unknown here: gradients are those of the general way.
    _, got = stepped(a_run(DPCritic(), [0], Odd((12,), latent=4, layer=nn.Identity())))
    _, same = stepped(a_run(DPCritic(), [0], SMALL))
    torch.testing.assert_close(got, same)


@pytest.mark.slow
def test_game():
    assert make("dp_critic") == DPCritic()
    defense = DPCritic(noise_multiplier=0.3)
    with pytest.warns(UserWarning, match="bounds no attack"):
        game = gan.play(
            toys.pool("image", n=40),
            networks=SMALL,
            defense=defense,
            training=Training(steps=4, batch_size=10),
            n_models=2,
            samples=30,
            fakes=4,
        )
    assert game.attrs["report"] == defense.report(a_plan(20, steps=4, batch_size=10))
    assert np.isfinite(game.critic).all()
