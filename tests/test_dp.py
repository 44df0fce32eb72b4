"""Differentially private gradients against plain loops over records, of classifiers and of critics."""

import copy
import math
import sys

import numpy as np
import pytest
import torch
from reference.dp import exact_epsilon
from scipy import optimize, stats
from torch import nn
from torch.func import stack_module_state
from torch.nn.functional import cross_entropy, softplus

from mialab import models
from mialab.gan import networks
from mialab.training import dp, per_record
from mialab.training.dp import epsilon
from mialab.training.per_record import clipped_sum
from mialab.training.stack import is_plain_mlp
from mialab.training.streams import Streams

SHAPE, CLASSES = (1, 12, 12), 3


def of_labels(network, x, y):
    """Loss of a classifier."""
    return cross_entropy(network(x), y, reduction="none")


def of_members(network, x, y):
    """Loss of a critic at members."""
    return softplus(-network(x, y))


def of_generated(network, x, y):
    """Loss of a critic at generated records."""
    return softplus(network(x, y))


#: A builder of networks, and a loss.
CLASSIFIERS = [
    pytest.param(build, of_labels, id=str(build))
    for build in (
        models.MLP((9, 5)),
        models.CNN((4,), 6),
        models.CNN((8, 8), 6, norm="group"),
        models.ResNet(1, (4, 8)),
    )
]
CRITICS = [
    pytest.param(made.critic, loss, id=f"{made}-{loss.__name__}")
    for made in (
        networks.MLP((12,)),
        networks.MLP((9, 5), conditional=False),
        networks.MLP(()),
        networks.Conv(2, norm="group"),
        networks.Conv(2, norm="none"),
        networks.Conv(2),
    )
    for loss in (of_members, of_generated)
]


def networks_and_records(build, loss, n=3, size=7, shape=SHAPE):
    torch.manual_seed(0)
    made = [build(shape, CLASSES) for _ in range(n)]
    y = torch.randint(CLASSES, (n, size)) if loss is of_labels else torch.rand(n, size, CLASSES)
    return made, torch.rand(n, size, *shape), y


def assert_like_a_plain_loop(made, x, y, loss, *, meta=True):
    """Compare clipped sums of several networks with those of differentiation, a record at a time."""
    weight = (torch.rand(y.shape[:2]) < 0.7).float()
    each = []
    for network, own_x, own_y in zip(made, x, y, strict=True):
        losses = [loss(network, a[None], b[None])[0] for a, b in zip(own_x, own_y, strict=True)]
        each.append([torch.autograd.grad(value, [*network.parameters()]) for value in losses])
    norms = [[torch.cat([g.flatten() for g in record]).norm().item() for record in own] for own in each]
    bound = float(np.median(norms))
    assert np.min(norms) < bound < np.max(norms)

    names = [name for name, _ in made[0].named_parameters()]
    parameters = {name: p.detach() for name, p in stack_module_state(made)[0].items()}
    network = made[0].to("meta") if meta else made[0]
    total = clipped_sum(network, loss, parameters, (x, y), weight, bound)
    assert [*total] == names
    for i in range(len(made)):
        for place, name in enumerate(names):
            expected = sum(
                w * min(1.0, bound / norm) * record[place]
                for w, norm, record in zip(weight[i].tolist(), norms[i], each[i], strict=True)
            )
            torch.testing.assert_close(total[name][i], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("way", ["layers", "records"])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(("build", "loss"), CLASSIFIERS + CRITICS)
def test_clipped_sum_is_that_of_a_plain_loop(build, loss, n, way):
    made, x, y = networks_and_records(build, loss, n)
    if way == "records":
        per_record._known[made[0]] = None
    assert_like_a_plain_loop(made, x, y, loss)
    assert (per_record._known[made[0]] is None) == (way == "records")


class Positions(nn.Module):
    """An image as a sequence: rows are places, columns are units."""

    def forward(self, x):
        return x[:, 0]


class Words(nn.Module):
    """An image as a sequence of words."""

    def __init__(self, **options):
        super().__init__()
        self.words = nn.Embedding(5, 3, **options)

    def forward(self, x):
        return self.words((4.99 * x.flatten(1)[:, :9]).long()).tanh()


def ending_in(*layers, units):
    """A builder of networks that end in labels."""
    return lambda shape, classes: nn.Sequential(
        *copy.deepcopy(layers), nn.Tanh(), nn.Flatten(), nn.Linear(units, classes)
    )


LAYERS = {
    "few channels": (ending_in(nn.Conv2d(2, 6, 3, 2, 1), units=96), (2, 8, 8)),
    "groups": (ending_in(nn.Conv2d(16, 8, 3, 1, 1, groups=4), units=512), (16, 8, 8)),
    "dilated": (ending_in(nn.Conv2d(8, 6, 3, 1, 2, dilation=2), units=384), (8, 8, 8)),
    "patches": (ending_in(nn.Conv2d(9, 2, (3, 2), (2, 1), (1, 0)), units=24), (9, 4, 7)),
    "no bias": (ending_in(nn.Conv2d(8, 6, 1, bias=False), units=384), (8, 8, 8)),
    "products of patches": (ending_in(nn.Conv2d(40, 50, 3), units=200), (40, 4, 4)),
    "group norm": (ending_in(nn.GroupNorm(2, 6), nn.Conv2d(6, 2, 3), units=72), (6, 8, 8)),
    "instance norm": (ending_in(nn.InstanceNorm2d(6, affine=True), units=384), (6, 8, 8)),
    "layer norm": (ending_in(nn.LayerNorm([6, 4]), units=120), (5, 6, 4)),
    "layer norm without bias": (ending_in(nn.LayerNorm(4, bias=False), units=120), (5, 6, 4)),
    "units at places": (ending_in(Positions(), nn.Linear(4, 3), units=36), (1, 12, 4)),
    "products of places": (ending_in(Positions(), nn.Linear(40, 30, bias=False), units=90), (1, 3, 40)),
    "words": (ending_in(Words(), units=27), (1, 3, 4)),
    "padded words": (ending_in(Words(padding_idx=2), units=27), (1, 3, 4)),
}


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("layer", LAYERS)
def test_rules_of_layers(layer, n):
    build, shape = LAYERS[layer]
    made, x, y = networks_and_records(build, of_labels, n, size=5, shape=shape)
    assert_like_a_plain_loop(made, x, y, of_labels)
    assert per_record._known[made[0]] is not None


def test_several_rows_a_record():
    def of_copies(network, x, y):
        return (
            cross_entropy(
                network(torch.cat([x, 1 - x], 1).view(-1, *SHAPE)), y.repeat_interleave(2), reduction="none"
            )
            .view(-1, 2)
            .mean(1)
        )

    made, x, y = networks_and_records(models.CNN((8, 8), 6, norm="group"), of_labels)
    assert_like_a_plain_loop(made, x, y, of_copies)
    assert per_record._known[made[0]] is not None


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        return self.layer(self.layer(x).tanh())


class Aside(nn.Module):
    """A layer whose weights are used apart from it as well."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        return self.layer(x) + x @ self.layer.weight


class Tied(nn.Module):
    """Two layers with the same weights."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x).tanh())


class Strange(nn.Module):
    """A parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x):
        return self.scale * x


OTHERS = {
    "twice": nn.Sequential(nn.Flatten(), Twice()),
    "aside": nn.Sequential(nn.Flatten(), Aside()),
    "tied": nn.Sequential(nn.Flatten(), Tied()),
    "strange": nn.Sequential(nn.Flatten(), Strange()),
    "in place": nn.Sequential(nn.Flatten(), nn.Linear(6, 6), nn.ReLU(inplace=True)),
    "other convolutions": nn.Sequential(nn.Flatten(2), nn.Conv1d(1, 1, 3, padding=1)),
    "reflected": nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"),
    "same": nn.Conv2d(1, 1, 3, padding="same"),
}


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("network", OTHERS)
def test_other_networks_come_out_right_all_the_same(network, n):
    build = ending_in(OTHERS[network], units=6)
    made, x, y = networks_and_records(build, of_labels, n, size=5, shape=(1, 2, 3))
    assert_like_a_plain_loop(made, x, y, of_labels, meta=network != "tied")
    assert per_record._known[made[0]] is None


def test_networks_of_linear_layers_are_known():
    assert is_plain_mlp(models.MLP((9, 5))(SHAPE, CLASSES))
    critics = [param.values[0](SHAPE, CLASSES) for param in CRITICS[::2]]
    assert [networks.is_linear(critic) for critic in critics] == [True, True, True, False, False, False]
    shared = nn.LeakyReLU()
    chain = nn.Sequential(shared, nn.Linear(4, 4), shared, nn.Linear(4, 1))
    first = nn.Sequential(nn.Flatten(), nn.Linear(144, 4))
    assert not networks.is_linear(networks.Critic(first, 4, CLASSES, chain))
    assert not networks.is_linear(networks.Critic(first[1:], 4, CLASSES, nn.Sequential(nn.Linear(4, 1))))
    assert networks.is_linear(networks.Critic(first, 4, CLASSES, nn.Sequential(nn.Linear(4, 1))))


@pytest.mark.parametrize(("build", "loss"), [*CLASSIFIERS, CRITICS[0], CRITICS[6]])
def test_one_record_moves_the_sum_by_no_more_than_its_bound(build, loss):
    made, x, y = networks_and_records(build, loss, n=1, size=9)
    parameters = {name: 3 * p.detach() for name, p in stack_module_state(made)[0].items()}
    without = torch.ones(1, 9)
    without[0, 4] = 0
    sums = [clipped_sum(made[0], loss, parameters, (x, y), w, 0.01) for w in (torch.ones(1, 9), without)]
    change = torch.cat([(a - b).flatten() for a, b in zip(sums[0].values(), sums[1].values(), strict=True)])
    assert change.norm().item() == pytest.approx(0.01, rel=1e-3)  # a record beyond the bound uses it up


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("build", [models.MLP((9, 5)), models.CNN((4, 8), 6)], ids=str)
@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_clipped_sum_is_that_of_opacus(build, mode):
    from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    made, x, y = networks_and_records(build, of_labels, n=1)
    parameters = {name: p.detach() for name, p in stack_module_state(made)[0].items()}
    ours = clipped_sum(copy.deepcopy(made[0]), of_labels, parameters, (x, y), torch.ones(1, 7), 0.4)
    options = {"noise_multiplier": 0.0, "max_grad_norm": 0.4, "expected_batch_size": 1}
    plain, criterion = torch.optim.SGD(made[0].parameters(), lr=1.0), nn.CrossEntropyLoss()
    if mode == "ghost":
        network = GradSampleModuleFastGradientClipping(made[0], max_grad_norm=0.4, use_ghost_clipping=True)
        optimizer = DPOptimizerFastGradientClipping(plain, **options)
        criterion = DPLossFastGradientClipping(network, optimizer, criterion)
    else:
        network = GradSampleModule(made[0])
        optimizer = DPOptimizer(plain, **options)
    criterion(network(x[0]), y[0]).backward()
    optimizer.pre_step()
    for name, p in made[0].named_parameters():
        torch.testing.assert_close(ours[name][0], p.grad, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------------------- batches and noise


def test_batches_are_padded_to_the_largest():
    members = torch.tensor([[[10, 11, 12, 13]], [[20, 21, 22, 23]]])
    chosen = torch.tensor([[[True, False, True, True]], [[False, False, False, True]]])
    index, weight = dp.padded(members, chosen)
    assert index.shape == weight.shape == (2, 1, 3)
    assert index[0].tolist() == [[10, 12, 13]]
    assert index[1, 0, 0] == 23
    assert all(20 <= place < 24 for place in index[1, 0])
    assert weight.tolist() == [[[1, 1, 1]], [[1, 0, 0]]]
    index, weight = dp.padded(members, torch.zeros_like(chosen))
    assert index.shape == (2, 1, 1)
    assert not weight.any()


@pytest.mark.parametrize("shape", [(2, 30), (2, 3, 30)])
def test_each_member_takes_part_with_the_same_probability(shape):
    # Chi-squared over members at 1e-4, twice.
    members, rng = torch.arange(np.prod(shape)).view(shape), Streams(0, [0, 1], "defense")
    times = torch.zeros(members.numel())
    for _ in range(300):
        index, weight = dp.poisson_batch(members, 0.2, rng)
        for row, own in zip(index.flatten(0, -2), weight.flatten(0, -2), strict=True):
            assert len({*row[own > 0].tolist()}) == own.sum()
        times.index_add_(0, index.flatten(), weight.flatten())
    deviation = (times.numpy() - 60) / np.sqrt(300 * 0.2 * 0.8)
    assert 1e-4 < stats.chi2(len(deviation)).sf((deviation**2).sum()) < 1 - 1e-4


def test_noise_is_of_its_models_stream_alone():
    like = {"a": torch.zeros(6, 4, 3), "b": torch.zeros(6, 5)}
    drawn = dp.noise(like, 2.0, Streams(0, [0, 4], "defense"), per_model=3)
    alone = dp.noise({k: v[:3] for k, v in like.items()}, 2.0, Streams(0, [4], "defense"), per_model=3)
    for name, value in drawn.items():
        assert value.shape == like[name].shape
        assert torch.equal(value[3:], alone[name])
    again = dp.noise(like, 2.0, Streams(0, [0, 4], "defense"), per_model=3)
    assert all(torch.equal(value, again[name]) for name, value in drawn.items())
    assert not torch.equal(drawn["a"][0], drawn["a"][1])


def test_noise_is_gaussian():
    # Five tests at 1e-4: the test fails by chance once in 2,000 seeds.
    rng, like = Streams(0, [0, 4], "defense"), {"a": torch.zeros(2, 40, 30), "b": torch.zeros(2, 7)}
    draws = torch.stack(
        [torch.cat([v.flatten(1) for v in dp.noise(like, 3.0, rng).values()], 1) for _ in range(20)]
    )
    flat = draws.numpy().ravel() / 3
    assert stats.kstest(flat, "norm").pvalue > 1e-4
    assert 1e-4 < stats.chi2(len(flat)).cdf((flat**2).sum()) < 1 - 1e-4
    # Of two models, of steps in a row, of neighboring parameters.
    for a, b in ((draws[:, 0], draws[:, 1]), (draws[:-1], draws[1:]), (draws[..., :-1], draws[..., 1:])):
        assert stats.pearsonr(a.numpy().ravel(), b.numpy().ravel()).pvalue > 1e-4


# ------------------------------------------------------------------------------------------- networks


class Centered(nn.Module):
    """Ties the records of a batch together."""

    def forward(self, x):
        return x - x.mean(0)


def test_networks_that_tie_records_together_are_refused():
    x = torch.rand(6, 5, generator=torch.Generator().manual_seed(0))
    dp.check_network(nn.Sequential(nn.Linear(5, 4), nn.GroupNorm(2, 4)), x)
    for layer, message in ((nn.BatchNorm1d(4), r"\(BatchNorm1d\)"), (Centered(), "depends on the batch")):
        with pytest.raises(
            ValueError, match=f"answer each record by itself.*{message}.*group or instance norm"
        ):
            dp.check_network(nn.Sequential(nn.Linear(5, 4), layer), x)


# -------------------------------------------------------------------------------------------- epsilon


@pytest.mark.parametrize(("sigma", "rate", "steps"), [(1.0, 0.01, 1000), (2.0, 0.1, 500), (0.7, 0.001, 5000)])
def test_epsilon_is_opacus(sigma, rate, steps):
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    for _ in range(3):
        accountant.step(noise_multiplier=sigma, sample_rate=rate)
    assert epsilon(sigma, rate, 3, 1e-5) <= accountant.get_epsilon(1e-5) + 1e-9
    accountant.history = [(sigma, rate, steps)]
    assert epsilon(sigma, rate, steps, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=0.01)


@pytest.mark.parametrize(("sigma", "steps"), [(1.0, 1), (5.0, 1), (10.0, 200), (3.0, 100)])
def test_epsilon_without_sampling(sigma, steps):
    # Rényi divergences of Gaussians: order / (2 sigma^2); conversion of Balle et al. (2020), over all orders.
    def at(order):
        return (
            steps * order / (2 * sigma**2)
            + np.log1p(-1 / order)
            - (np.log(1e-5) + np.log(order)) / (order - 1)
        )

    best = optimize.minimize_scalar(at, bounds=(1.0001, 500), method="bounded").fun
    ours = epsilon(sigma, 1.0, steps, 1e-5)
    assert best <= ours <= 1.01 * best
    exact = exact_epsilon(sigma, steps, 1e-5)
    assert exact <= ours <= 1.25 * exact


def test_epsilon_of_abadi_et_al():
    # Their section 3.2: q = 0.01, sigma = 4, 10,000 steps, delta = 1e-5 gives 1.26; the conversion here is tighter.
    assert 0.9 < epsilon(4.0, 0.01, 10_000, 1e-5) < 1.26


@pytest.mark.parametrize(("sigma", "steps"), [(1.0, 1), (5.0, 1), (10.0, 200), (3.0, 100)])
def test_the_accountant_of_privacy_losses_is_tight(sigma, steps):
    exact = exact_epsilon(sigma, steps, 1e-5)
    assert exact <= epsilon(sigma, 1.0, steps, 1e-5, accountant="prv") <= exact + 0.025 * max(1, exact)


def test_epsilon_is_never_below_zero():
    assert epsilon(100.0, 0.01, 10, 0.3) == 0
    assert epsilon(1.0, 0.01, 1000, 1e-5) > 1.8
    assert dp.spent(100.0, 0.01, 10, 0.3)["epsilon"] == 0


def test_where_an_accountant_overflows_the_other_one_counts():
    # Noise as in Aerni et al. (2024) for utility.
    about = dp.spent(0.00625, 64 / 25_000, 6_000, 1e-5)
    assert math.isfinite(about["epsilon"])
    assert about["epsilon"] == about["epsilon_rdp"] > 1e6
    assert "epsilon_prv" not in about
    assert dp.spent(0.0, 0.1, 10, 1e-5) == {
        "epsilon": math.inf,
        "delta": 1e-5,
        "noise": 0.0,
        "sample_rate": 0.1,
        "steps": 10,
    }


def test_the_better_accountant_is_reported():
    about = dp.spent(1.0, 0.05, 100, 1e-4)
    assert about["epsilon"] == about["epsilon_prv"] < about["epsilon_rdp"]


def test_noise_for_a_target():
    rate, steps, delta = 1.0, 20, 1e-4  # of all in one batch the accountants know quickly
    found = [dp.noise_for(target, rate, steps, delta) for target in (0.5, 8.0, 4000.0)]
    for target, noise in zip((0.5, 8.0, 4000.0), found, strict=True):
        assert 0.99 * target <= dp.spent(noise, rate, steps, delta)["epsilon"] <= target
    assert found == sorted(found, reverse=True)
    assert dp.noise_for(8.0, rate, 2 * steps, delta) > found[1]
    with pytest.raises(ValueError, match=r"epsilon=0.0001 cannot be reached: with a sample rate of 1, 20"):
        dp.noise_for(0.0001, rate, steps, delta)


def test_unknown_accountants_are_refused():
    with pytest.raises(ValueError, match=r"accountant='pld' is unknown.*prv, rdp"):
        epsilon(1.0, 0.1, 10, 1e-5, accountant="pld")


def test_without_opacus_there_is_a_message(monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus.accountants", None)
    with pytest.raises(ImportError, match=r"opacus.* pip install 'mialab\[dp\]'"):
        epsilon(1.0, 0.1, 10, 1e-5)
