"""DP-SGD as a defense: each step against Opacus, what is sampled, what is reported, what is refused, what it hides."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toys
from scipy import stats

import mialab as mia
from mialab.classifiers import run as classifier_run
from mialab.defenses import DPSGD, Defense
from mialab.models import CNN, MLP
from mialab.training import dp
from mialab.training.membership import membership
from mialab.training.stack import initialize
from mialab.training.streams import Streams

SMALL, LARGE = MLP(hidden=(8,)), MLP(hidden=(300, 200))  # stacked, and one at a time
IMAGES = CNN(channels=(4,), hidden=8)
SEED = 3


def run_of(defense, models=(0, 1), build=SMALL, pool=None, **options):
    """Return a group of models before its training, of 20 members each."""
    pool = pool or toys.pool("image" if isinstance(build, CNN) else "tabular")
    training = {"epochs": 3, "batch_size": 8} | options
    return toys.group(defense, models, build, pool=pool, seed=SEED, **training)


def a_plan(build=SMALL, pool=None, members=20, **training):
    """Make what a defense sees of a plan."""
    pool = pool or toys.pool("image" if isinstance(build, CNN) else "tabular")
    plan = SimpleNamespace(pool=pool, n_members=members, n_models=4, seed=SEED)
    plan.training = DPSGD().adapt(mia.Training(**{"epochs": 3, "batch_size": 8} | training))
    plan.network = lambda: initialize(build, pool, SEED, 0)
    return plan


# ------------------------------------------------------------------------------------------- gradients


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize(("build", "models"), [(SMALL, (0, 3)), (LARGE, (1,)), (IMAGES, (1,))], ids=str)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_step_is_that_of_opacus(build, models, optimizer, monkeypatch):
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer
    from opacus.optimizers import optimizer as optimizers

    run = run_of(DPSGD(noise=0.7, max_norm=0.3), models, build, optimizer=optimizer, lr=0.1)
    theirs = [initialize(build, run.pool, SEED, k) for k in models]
    numbers = Streams(SEED, models, "noise")
    made = [GradSampleModule(network) for network in theirs]
    plain = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
    private = [
        DPOptimizer(
            plain(network.parameters(), lr=0.1),
            noise_multiplier=0.7,
            max_grad_norm=0.3,
            expected_batch_size=8,
        )
        for network in made
    ]
    for _, (index, weight) in zip(range(4), run.defense.batches(run), strict=False):
        run.defense.step(run, (index, weight))
        drawn = dp.noise(
            run.parameters if run.mode == "stacked" else {n: p[None] for n, p in run.parameters.items()},
            1.0,
            numbers,
        )
        for place, network in enumerate(made):
            own = iter([value[place] for value in drawn.values()])
            monkeypatch.setattr(optimizers, "_generate_noise", lambda std, own=own, **_: std * next(own))
            chosen = index[place][weight[place] > 0]
            private[place].zero_grad()
            logits = network(run.inputs(chosen))
            torch.nn.functional.cross_entropy(logits, run.y[chosen]).backward()
            private[place].step()
    for place, network in enumerate(theirs):
        torch.testing.assert_close(
            run.predict(run.x)[place], network.eval()(run.inputs(slice(None))), rtol=1e-3, atol=1e-4
        )


def test_copies_of_a_record_are_one_record():
    # Without noise, of mirrored images: the gradient of a record is that of its mean loss, clipped as one.
    run = run_of(
        DPSGD(noise=0.0, augmentations=3, max_norm=0.05, batch_size=20),
        (1,),
        IMAGES,
        flip=True,
        shift=1,
        optimizer="sgd",
        lr=1.0,
    )
    network = copy.deepcopy(run.network)
    index, weight = run.members, torch.ones(1, 20)
    x = run.defense._copies(run_of(run.defense, (1,), IMAGES, flip=True, shift=1), index)[0]
    assert x.shape == (20, 3, 1, 8, 8)
    assert (x[:, 0] != x[:, 1]).flatten(1).any(1).sum() > 15
    total = [torch.zeros_like(p) for p in network.parameters()]
    for copies, label in zip(x, run.y[index[0]], strict=True):
        loss = torch.nn.functional.cross_entropy(network(copies), label.expand(3))
        own = torch.autograd.grad(loss, [*network.parameters()])
        norm = torch.cat([g.flatten() for g in own]).norm()
        for so_far, g in zip(total, own, strict=True):
            so_far += g * min(1.0, 0.05 / norm.item())
    run.defense.step(run, (index, weight))
    for p, before, change in zip(run.network.parameters(), network.parameters(), total, strict=True):
        torch.testing.assert_close(p, before - change / 20, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("build", [SMALL, IMAGES], ids=str)
def test_averaged_weights(build):
    run = run_of(DPSGD(noise=0.5, ema=0.6), (1,), build)
    seen = []
    step = run.optimizer.step
    run.optimizer.step = lambda: (step(), seen.append([p.detach().clone() for p in run.parameters.values()]))
    average = [p.detach().clone() for p in run.parameters.values()]
    run.train()
    assert len(seen) == 9
    average = seen[0]
    for t, values in enumerate(seen[1:], 2):
        decay = min(0.6, (1 + t) / (10 + t))
        average = [decay * a + (1 - decay) * p for a, p in zip(average, values, strict=True)]
    for p, expected in zip(run.parameters.values(), average, strict=True):
        torch.testing.assert_close(p.detach(), expected, rtol=1e-4, atol=1e-6)


def test_models_do_not_depend_on_their_group():
    together, alone = (run_of(DPSGD(noise=0.5), models) for models in ((0, 1, 3), (3,)))
    for run in (together, alone):
        run.train()
    torch.testing.assert_close(
        together.predict(together.x)[2], alone.predict(alone.x)[0], rtol=1e-3, atol=1e-4
    )


# -------------------------------------------------------------------------------------------- sampling


def test_poisson_sampling():
    # Three tests at 1e-4: the test fails by chance once in 3,000 seeds. Coins of 6 / 20, and 4 steps an epoch.
    run = run_of(DPSGD(batch_size=6))
    batches = [batch for _ in range(150) for batch in run.defense.batches(run)]
    assert len(batches) == 150 * 4
    sizes = torch.stack([weight.sum(1) for _, weight in batches]).numpy().astype(int).ravel()
    assert stats.binomtest(int(sizes.sum()), sizes.size * 20, 6 / 20).pvalue > 1e-4
    law = stats.binom(20, 6 / 20)
    expected = sizes.size * np.array([law.cdf(2), *law.pmf(np.arange(3, 10)), law.sf(9)])
    assert stats.chisquare(np.bincount(np.clip(sizes, 2, 10), minlength=11)[2:], expected).pvalue > 1e-4
    times = torch.zeros(2, 40)
    for index, weight in batches:
        times.scatter_add_(1, index, weight)
    assert (times > 0).sum() == 40  # members alone
    own = times.gather(1, run.members).numpy().ravel()
    deviation = (own - 600 * 0.3) / np.sqrt(600 * 0.3 * 0.7)
    assert stats.chi2(40).sf((deviation**2).sum()) > 1e-4


# --------------------------------------------------------------------------------------------- epsilon


def test_the_report_is_that_of_the_accountants():
    plan = a_plan(members=200, epochs=2)
    about = DPSGD(noise=1.3, delta=1e-3).report(plan)
    assert about == dp.spent(1.3, 8 / 200, 50, 1e-3)
    both = [dp.epsilon(1.3, 0.04, 50, 1e-3, accountant=accountant) for accountant in ("rdp", "prv")]
    assert about["epsilon"] == min(both) > 0
    plan.training = dataclasses.replace(plan.training, stop=1)
    stopped = DPSGD(noise=1.3, delta=1e-3).report(plan)
    assert stopped["steps"] == 25
    assert stopped["epsilon"] < about["epsilon"]
    for whole in (DPSGD(batch_size=20).report(a_plan()), DPSGD().report(a_plan(batch_size=64))):
        assert (whole["sample_rate"], whole["steps"]) == (1, 3)
    assert DPSGD(batch_size=20).report(a_plan())["delta"] == pytest.approx(1 / 200)


def test_epsilon_asked_for_is_what_training_spends():
    # With all members in a batch, of which the accountants know more quickly.
    defense = DPSGD(epsilon=2.0, batch_size=20)
    about = defense.report(a_plan())
    assert 1.98 <= about["epsilon"] <= 2
    assert about["noise"] == dp.noise_for(2.0, 1.0, 3, 0.005)
    early = defense.report(a_plan(stop=1))  # noise goes by the epochs, as schedules do
    assert early["noise"] == about["noise"]
    assert early["epsilon"] < about["epsilon"]


@pytest.mark.parametrize("noise", [2.0, 0.0])
def test_games_and_their_tables_report_epsilon(noise, fresh_cache):
    defense = DPSGD(noise=noise, batch_size=20)
    options = {"training": mia.Training(epochs=3, batch_size=8, checkpoints=(1,)), "n_models": 4}
    for _ in range(2):  # the second is read from the store
        game = mia.play(toys.pool(), SMALL, defense, **options)
        assert game.attrs["report"] == defense.report(a_plan())
        assert game.at(1).attrs["report"] == defense.report(a_plan(stop=1))
    epsilon = mia.audit(game, ["loss"]).attrs["report"]["epsilon"]
    assert epsilon == (game.attrs["report"]["epsilon"] if noise else None)  # JSON knows no infinity


# ------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"epsilon": 0}, "epsilon=0 must be greater than 0"),
        ({"epsilon": -1.0}, r"epsilon=-1.0 must be greater than 0"),
        ({"epsilon": float("inf")}, "epsilon=inf must be greater than 0"),
        ({"noise": -0.1}, "noise=-0.1 must be at least 0"),
        ({"noise": 1.0, "epsilon": 1.0}, "noise=1.0 and epsilon=1.0: give one of them"),
        ({"delta": 0}, "delta=0 must be greater than 0"),
        ({"max_norm": 0}, "max_norm=0 must be greater than 0"),
        ({"batch_size": 0}, "batch_size=0 must be an integer of at least 1"),
        ({"augmentations": 0}, "augmentations=0 must be an integer of at least 1"),
        ({"ema": 1}, "ema=1 must be less than 1"),
        ({"ema": -0.5}, "ema=-0.5 must be at least 0"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match="^" + message):
        DPSGD(**parameters)


@pytest.mark.parametrize(
    ("parameters", "plan", "message"),
    [
        ({"delta": 0.05}, {}, r"delta=0.05 must be less than 1 / members = 0.05: publishing one member"),
        ({"batch_size": 21}, {}, "batch_size=21 must be at most 20, the members of each model"),
        ({}, {"precision": "bfloat16"}, "precision='bfloat16': gradients are clipped in float32"),
        ({"augmentations": 4}, {"build": IMAGES}, "augmentations=4 would be equal copies"),
        ({"ema": 0.9}, {"select": "best_validation"}, "ema=0.9 averages over epochs"),
        ({"epsilon": 1e-5, "delta": 1e-6, "batch_size": 20}, {}, "epsilon=1e-05 cannot be reached"),
        (
            {},
            {"build": CNN((4,), 8, norm="batch")},
            r"answer each record by itself.*BatchNorm2d.*group or instance",
        ),
    ],
)
def test_what_protects_nothing_is_refused(parameters, plan, message):
    with pytest.raises(ValueError, match=message):
        DPSGD(**parameters).check(a_plan(**plan))


def test_refusals_come_before_training(trained):
    with pytest.raises(ValueError, match="batch_size=64 must be at most 20"):
        mia.play(toys.pool(), SMALL, DPSGD(batch_size=64), n_models=2)
    assert not trained


def test_the_strong_form():
    strong = DPSGD.strong(20, images=True)
    plan = a_plan(CNN((8,), 8, norm="group"), flip=True)
    strong.check(plan)
    assert strong.report(plan)["epsilon"] > 50
    assert (strong.augmentations, strong.batch_size, DPSGD.strong(20, images=False).augmentations) == (
        8,
        2,
        1,
    )
    assert DPSGD.strong(20, images=False, noise=0.1, ema=0.5) == DPSGD(noise=0.1, ema=0.5, batch_size=2)


# ------------------------------------------------------------------------------------ what it hides


def separations(defense):
    """AUC of the loss, member against not, of each of eight models with 20 members."""
    pool = toys.pool()
    member = membership(8, len(pool), SEED)
    run = classifier_run.Run(
        pool.x,
        pool.y,
        member,
        range(8),
        pool=pool,
        build=MLP((32,)),
        defense=defense,
        training=mia.Training(epochs=60, batch_size=10, lr=0.02, precision="float32"),
        seed=SEED,
        device="cpu",
    )
    run.train()
    loss = (
        torch.nn.functional.cross_entropy(run.predict(run.x).flatten(0, 1), run.y.repeat(8), reduction="none")
        .view(8, -1)
        .numpy()
    )
    return [stats.mannwhitneyu(-s[m], -s[~m]).statistic / 400 for s, m in zip(loss, member, strict=True)]


def test_null_and_power():
    # Of a model that knows nothing the AUC has standard deviation 0.0925; the mean of four independent pairs of models
    # has at most 0.0925 / 2: it is more than four of those from 0.5 once in 15,000 seeds.
    chance = 4 * 0.0925 / 2
    assert np.mean(separations(Defense())) > 0.5 + chance
    assert np.mean(separations(DPSGD(noise=0.0, max_norm=10.0))) > 0.5 + chance
    assert abs(np.mean(separations(DPSGD(noise=200.0))) - 0.5) < chance
