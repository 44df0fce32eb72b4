"""The training of GANs against plain torch, what critics are queried with afterward, and what is stored of samples."""

import dataclasses
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import toys
from reference.gan_training import Linear, OfLabels, mixed_slowly, plainly_trained
from torch import nn
from torch.func import functional_call
from torch.nn.functional import one_hot

from mialab import gan, queries
from mialab.gan import defenses
from mialab.gan import run as gan_run
from mialab.gan.defenses import Defense, Mixup, ParGAN, PrivGAN
from mialab.gan.networks import MLP, Conv, Critic
from mialab.gan.utility import train_on_synthetic
from mialab.training.membership import membership

# ----------------------------------------------------------------------------------------------------
# Networks whose training and answers can be followed by hand


class Counted(nn.Module):
    """A network with a state besides its parameters, which cannot be stacked."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, *inputs):
        return self.network(*inputs)


@dataclass(frozen=True)
class Plain:
    """Such networks; ``stacked=False`` for ones that are trained one by one."""

    latent: int = 2
    conditional: bool = True
    stacked: bool = True

    def check(self, pool):
        """Accept every pool."""

    def generator(self, shape, n_classes):
        """Build a generator."""
        return self._of(OfLabels(shape, n_classes))

    def critic(self, shape, n_classes):
        """Build a critic."""
        return self._of(Linear(shape, n_classes))

    def _of(self, network):
        return network if self.stacked else Counted(network)


@dataclass(frozen=True)
class Single:
    """Any networks, but such that cannot be stacked."""

    of: Any
    latent: int = 4
    conditional: bool = True

    def check(self, pool):
        """Accept every pool."""

    def generator(self, shape, n_classes):
        """Build a generator."""
        return Counted(self.of.generator(shape, n_classes))

    def critic(self, shape, n_classes):
        """Build a critic."""
        return Counted(self.of.critic(shape, n_classes))


@dataclass(frozen=True)
class Watched(Defense):
    """No defense, but one that writes down the weights before training, and batches and losses of all steps."""

    name: ClassVar[str] = "watched"
    critics: int = 1
    generators: int = 1
    log: list = field(default_factory=list)
    first: dict = field(default_factory=dict)

    @property
    def n_critics(self):
        """Critics."""
        return self.critics

    @property
    def n_generators(self):
        """Generators."""
        return self.generators

    def fit(self, run):
        """Write the weights down."""
        self.first["critics"], self.first["generators"] = weights(run.critics), weights(run.generators)
        run.fit()

    def mix(self, x, y, *, progress, rng):
        """Write the batch down."""
        self.log.append(SimpleNamespace(x=x.clone(), y=y.clone(), generator=None))
        return x, y

    def critic_loss(self, real, fake, *, run):
        """Write the loss down."""
        loss = super().critic_loss(real, fake, run=run)
        self.log[-1].loss = loss.detach().clone()
        return loss

    def generator_loss(self, answers, fake, *, run):
        """Write the loss down."""
        loss = super().generator_loss(answers, fake, run=run)
        self.log[-1].generator = loss.detach().clone()
        return loss


def functional(nets):
    """Return a function of one network's parameters and inputs, and the parameters of each network."""
    stacked = nets.stacked()
    own = [{name: p[i] for name, p in stacked.items()} for i in range(len(next(iter(stacked.values()))))]
    return lambda parameters, *inputs: functional_call(nets.network, parameters, inputs), own


def weights(nets):
    """Copy the weights of each network, a list of dicts."""
    return [{name: p.detach().clone() for name, p in own.items()} for own in functional(nets)[1]]


class Keep:
    """A probe that keeps the run."""

    def __call__(self, run):
        self.run = run
        return {}


MEASURED = ("critic", "critic_max", "critic_loss", "samples")
SMALL, IMAGES = MLP((8,), latent=4), toys.pool("image", test=0)


def train(
    models=(0, 1),
    pool=None,
    nets=SMALL,
    defense=None,
    *,
    how="original",
    samples=6,
    fakes=3,
    seed=0,
    n_models=8,
    **training,
):
    """Train a group; return its arrays and the run. Without test records no classifiers are trained, which is quick."""
    pool = IMAGES if pool is None else pool
    keep = Keep()
    arrays = gan_run.train_group(
        list(models),
        pool=pool,
        y=pool.y,
        member=membership(n_models, len(pool), 0)[list(models)],
        networks=nets,
        defense=defenses.make(defense),
        training=gan.Training(**{"steps": 6, "batch_size": 8, "n_critic": 2} | training),
        queries=queries.make(how, pool),
        samples=samples,
        fakes=fakes,
        seed=seed,
        probes=[keep],
    )
    return arrays, keep.run


def alike(ours, theirs, **names):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, **names)


# ----------------------------------------------------------------------------------------------------
# The gradient penalty


def lines(run, n=5, seed=0):
    """Draw records at both ends of lines, and labels."""
    rng = torch.Generator().manual_seed(seed)
    size = (len(run.models), run.n_critics, n)
    x, fake = torch.rand(2, *size, *run.x.shape[1:], generator=rng)
    labels = torch.randint(run.n_classes, size, generator=rng)
    return x, fake, one_hot(labels, run.n_classes).float()


@pytest.mark.parametrize(("models", "nets"), [((0, 3), Plain()), ((3,), Plain(stacked=False))])
def test_the_penalty_of_a_linear_critic_is_that_of_its_weights(models, nets):
    _, run = train(models, nets=nets, defense=ParGAN(critics=3), lr=0.1, penalty=0.0)
    x, fake, y = lines(run)
    prefix = "" if nets.stacked else "network."
    norms = torch.stack([own[f"{prefix}of_x.weight"].norm() for own in functional(run.critics)[1]])
    expected = ((norms - 1) ** 2).view(len(models), 3)
    assert expected.std() > 0.01
    torch.testing.assert_close(run.gradient_penalty(x, fake, y), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("models", "nets"), [((0, 3), SMALL), ((2,), Single(SMALL)), ((2,), Conv(width=2, latent=4))], ids=str
)
def test_the_penalty_of_any_critic_is_that_of_autograd(models, nets):
    """Where both ends of a line are the same record, the place on it does not matter."""
    _, run = train(models, nets=nets)
    x, _, y = lines(run)
    call, parameters = functional(run.critics)
    expected = []
    for m in range(len(models)):
        terms = []
        for record, label in zip(x[m, 0], y[m, 0], strict=True):
            record = record.clone().requires_grad_()
            (slope,) = torch.autograd.grad(call(parameters[m], record[None], label[None]).sum(), record)
            terms.append((slope.norm() - 1) ** 2)
        expected.append(torch.stack(terms).mean())
    torch.testing.assert_close(
        run.gradient_penalty(x, x.clone(), y)[:, 0], torch.stack(expected), rtol=1e-4, atol=1e-5
    )


class Quadratic(Linear):
    """A critic whose slope at x is x."""

    def forward(self, x, y):
        return (x.flatten(1) ** 2).sum(1) / 2 + 0 * super().forward(x, y)


class Quadratics(Plain):
    """Such networks."""

    def critic(self, shape, n_classes):
        """Build a critic."""
        return Quadratic(shape, n_classes)


def test_places_on_the_lines_are_uniform_and_each_line_has_its_own():
    """At fraction u of the way from 0 to a unit vector the penalty is (1 - u)^2: 1/3 on average, variance 4/45.

    The probability that one of two means over 20,000 lines is off by 5 standard errors is 1e-6.
    """
    _, run = train(nets=Quadratics(), steps=1)
    zero, y = torch.zeros(2, 1, 20_000, 1, 8, 8), torch.zeros(2, 1, 20_000, 3)
    unit = zero.clone()
    unit[..., 0, 0, 0] = 1
    error = 5 * (4 / 45 / 20_000) ** 0.5
    for ends in ((zero, unit), (unit, zero)):
        penalty = run.gradient_penalty(*ends, y)
        assert (penalty - 1 / 3).abs().max() < error
        assert penalty[0] != penalty[1]


# ----------------------------------------------------------------------------------------------------
# Training


#: A Wasserstein loss does not depend on what a critic adds for a label, since generated records have the same ones.
NO_SLOPE = {"wgan-gp": ("of_x.bias", "of_y.weight"), "bce": ()}


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["wgan-gp", "bce"])
@pytest.mark.parametrize(("critics", "generators"), [(1, 1), (3, 1), (2, 2)])
@pytest.mark.parametrize("stacked", [True, False])
def test_training_against_plain_torch(stacked, critics, generators, objective):
    """The generator makes the same record of a label always, so nothing but the batches is random."""
    watched = Watched(critics, generators)
    nets, models = Plain(stacked=stacked), (1, 4) if stacked else (4,)
    options = {"objective": objective, "penalty": 3.0, "lr": 0.01, "betas": (0.3, 0.9), "n_critic": 3}
    _, run = train(models, nets=nets, defense=watched, steps=7, batch_size=4, **options)
    assert run.iteration == len(watched.log) == 7
    prefix = "" if stacked else "network."
    ours = weights(run.critics), weights(run.generators)
    for m in range(len(models)):
        theirs = plainly_trained(watched, m, prefix=prefix, **options)
        for mine, first, nets, n in zip(
            ours, watched.first.values(), theirs, (critics, generators), strict=True
        ):
            for i, net in enumerate(nets):
                for name, value in net.state_dict().items():
                    if name in NO_SLOPE[objective]:
                        continue
                    got, before = mine[m * n + i][prefix + name], first[m * n + i][prefix + name]
                    alike(got, value.numpy(), err_msg=name)
                    assert (got - before).abs().max() > 1e-3, f"{name} is trained"


@pytest.mark.slow
@pytest.mark.parametrize("defense", [None, Mixup(), ParGAN(critics=2), PrivGAN(generators=2)], ids=str)
def test_networks_are_trained_stacked_as_they_are_singly(defense):
    for objective in ("wgan-gp", "bce"):
        stacked, run = train((2,), defense=defense, objective=objective, lr=2e-3)
        alone, single = train((2,), nets=Single(SMALL), defense=defense, objective=objective, lr=2e-3)
        assert (run.mode, single.mode) == ("stacked", "sequential")
        for name in MEASURED:
            alike(stacked[name], alone[name], err_msg=name)
    with pytest.raises(ValueError, match="trained one at a time"):
        train((0, 1), nets=Single(SMALL))


@dataclass(frozen=True)
class Nested(MLP):
    """The networks of `MLP`, but a critic of other parts: bare layers, layers without bias, chains of chains."""

    def critic(self, shape, n_classes):
        """Build a critic."""
        chain = nn.Sequential(nn.Linear(8, 6, bias=False), nn.ReLU())
        return Critic(nn.Linear(int(np.prod(shape)), 8), 8, n_classes, nn.Sequential(chain, nn.Linear(6, 1)))


def test_networks_of_other_parts_are_trained_stacked_as_they_are_singly():
    nets = Nested((8,), latent=4)
    pool = toys.pool("binary", test=0)
    (stacked, run), (alone, single) = (train((2,), pool, kind, lr=2e-3) for kind in (nets, Single(nets)))
    assert (run.mode, single.mode) == ("stacked", "sequential")
    for name in MEASURED:
        alike(stacked[name], alone[name], err_msg=name)


def test_each_pass_shows_each_critic_its_members_once():
    pool = toys.pool("image", n=60, test=0)
    watched = Watched(critics=3)
    _, run = train((0, 5), pool, nets=Plain(), defense=watched, batch_size=4, steps=6)
    member = membership(8, 60, 0)[[0, 5]]
    place = {row.tobytes(): i for i, row in enumerate(pool.x)}
    passes = [
        watched.log[:2],
        watched.log[2:4],
        watched.log[4:],
    ]  # 10 members of a critic: 2 of them are left
    for m in range(2):
        parts = [set(part.tolist()) for part in run.members[m]]
        assert list(map(len, parts)) == [10, 10, 10]
        assert set.union(*parts) == set(np.flatnonzero(member[m]))
        for i in range(3):
            shown = [
                [place[row.numpy().tobytes()] for step in steps for row in step.x[m, i]] for steps in passes
            ]
            for steps, rows in zip(passes, shown, strict=True):
                assert len(set(rows)) == 8
                assert set(rows) <= parts[i]
                labels = torch.cat([step.y[m, i] for step in steps])
                assert torch.equal(labels, one_hot(torch.tensor(pool.y[rows]), 3).float())
            assert shown[0] != shown[1]
    assert not torch.equal(watched.log[0].x[0], watched.log[0].x[1])


def test_batches_are_no_larger_than_the_members():
    watched = Watched(critics=2)
    train((0,), nets=Plain(), defense=watched, batch_size=64, steps=2)
    assert [step.x.shape[:3] for step in watched.log] == 2 * [(1, 2, 10)]


def test_training_that_stops_early_is_the_beginning_of_a_longer_one():
    short, long = Watched(), Watched()
    stopped, run = train(nets=SMALL, defense=short, steps=9, stop=5)
    train(nets=SMALL, defense=long, steps=9)
    assert run.iteration == 5
    assert run.training.steps == 9  # by which schedules of defenses go
    assert [len(short.log), len(long.log)] == [5, 9]
    for one, other in zip(short.log, long.log[:5], strict=True):
        assert torch.equal(one.x, other.x)
        torch.testing.assert_close(one.loss, other.loss)
        assert (one.generator is None) == (other.generator is None)
        if one.generator is not None:
            torch.testing.assert_close(one.generator, other.generator)
    whole, _ = train(nets=SMALL, steps=5)
    alike(stopped["critic_loss"], whole["critic_loss"])
    alike(stopped["samples"], whole["samples"])


# ----------------------------------------------------------------------------------------------------
# A model depends on the seed and its number alone


@pytest.mark.slow
@pytest.mark.parametrize("defense", [None, Mixup(), ParGAN(critics=2)], ids=str)
def test_results_do_not_depend_on_the_group(defense):
    options = {"defense": defense, "how": queries.Mixed(), "steps": 12, "lr": 2e-3}
    together, _ = train(range(5), **options)
    for group in ((3,), (4, 1)):
        apart, _ = train(group, **options)
        for name in MEASURED:
            alike(apart[name], together[name][list(group)], err_msg=name)
    assert len(np.unique(together["critic_loss"][:, 0, 0].round(5))) == 5


def test_results_depend_on_the_seed():
    one, other = (train((1,), seed=seed)[0] for seed in (0, 1))
    assert not np.allclose(one["critic_loss"], other["critic_loss"])
    assert not np.allclose(one["samples"], other["samples"])


def test_other_models_change_nothing():
    """Not the number of models either; and torch's own random numbers, of which other code may take some, do not."""
    for nets in (Single(SMALL), Conv(width=2, latent=4)):
        results = []
        for n_models, noise in ((8, 0), (2, 5)):
            torch.rand(noise)
            results.append(train((1,), nets=nets, n_models=n_models)[0])
        for name in MEASURED:
            np.testing.assert_array_equal(results[0][name], results[1][name], err_msg=name)


# ----------------------------------------------------------------------------------------------------
# What critics are queried with


@pytest.mark.slow
@pytest.mark.parametrize("nets", [Plain(), Plain(stacked=False)], ids=["stacked", "sequential"])
@pytest.mark.parametrize("critics", [1, 3])
def test_what_critics_say_is_what_a_plain_loop_computes(nets, critics):
    """Mixtures go with their mixed labels, both of the record and of the generated ones that it is compared with."""
    pool = IMAGES
    models, fractions = (0, 3) if nets.stacked else (3,), (0.2, 0.7)
    several = queries.Compose(queries.Noise(n=1), queries.Mixed(fractions))
    arrays, run = train(models, pool, nets, Watched(critics), how=several, lr=0.05, steps=20)
    call, critic = functional(run.critics)
    make, maker = functional(run.generators)
    queried = list(mixed_slowly(pool, fractions))
    queried.insert(1, (several(1, pool.x), queried[0][1]))
    for query, (x, y) in enumerate(queried):
        x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
        for m in range(len(models)):
            fake = make(maker[m], torch.zeros(len(y), 2), y)
            answers = [call(critic[m * critics + i], x, y).detach().numpy() for i in range(critics)]
            of_fakes = [call(critic[m * critics + i], fake, y).detach().numpy() for i in range(critics)]
            alike(arrays["critic"][m, query], np.mean(answers, axis=0))
            alike(arrays["critic_max"][m, query], np.max(answers, axis=0))
            alike(arrays["critic_loss"][m, query], np.mean(of_fakes, axis=0) - np.mean(answers, axis=0))
            each = np.subtract(of_fakes, answers)
            alike(arrays["critic_loss_min"][m, query], each.min(0))
    assert (arrays["critic_max"] > arrays["critic"] + 1e-4).any() == (critics > 1)
    assert (arrays["critic_loss_min"] < arrays["critic_loss"] - 1e-4).any() == (critics > 1)


def of_pixels(x):
    """Make a pool of other images with the same labels."""
    return dataclasses.replace(IMAGES, x=x, x_val=x[:0], x_test=x[:0])


@pytest.mark.slow
def test_records_as_bytes_are_queried_as_numbers():
    x = np.rint(255 * IMAGES.x).astype(np.uint8)
    as_bytes, as_numbers = of_pixels(x), of_pixels(x.astype(np.float32) / 255)
    ours, theirs = (train(pool=pool)[0] for pool in (as_bytes, as_numbers))
    for name in ("critic", "critic_loss"):
        alike(ours[name], theirs[name])
    assert ours["samples"].dtype == np.uint8
    # Half a pixel, and what roundings of the training may add.
    assert np.abs(ours["samples"] / 255 - theirs["samples"]).max() < 0.6 / 255
    mixed = train(pool=as_bytes, how=queries.Mixed((0.3,)))[0]["critic"][:, 1]
    close = train(pool=as_numbers, how=queries.Mixed((0.3,)))[0]["critic"][:, 1]
    assert not np.array_equal(mixed, close)  # mixtures of bytes are rounded
    np.testing.assert_allclose(mixed, close, atol=0.05)


def test_the_loss_is_a_mean_over_generated_records():
    """Against 4,000 records generated here: the probability that any of 3 means is off by 5 errors is below 1e-5."""
    arrays, run = train((0,), fakes=4000, lr=0.01, steps=40)
    call, critic = functional(run.critics)
    make, maker = functional(run.generators)
    z = torch.randn(4000, 4, generator=torch.Generator().manual_seed(1))
    for label in range(3):
        y = one_hot(torch.full((4000,), label), 3).float()
        with torch.no_grad():
            answers = call(critic[0], make(maker[0], z, y), y)
        own = run.y.numpy() == label
        of_fakes = (arrays["critic_loss"] + arrays["critic"])[0, 0, own]
        assert np.ptp(of_fakes) < 1e-5, "one mean for all records of a label"
        assert answers.std() > 1e-4
        assert abs(of_fakes.mean() - answers.mean()) < 5 * (2 / 4000) ** 0.5 * answers.std()


class Zeros(Linear):
    """A critic that looks at the label alone."""

    def forward(self, x, y):
        return super().forward(0 * x, y)


@dataclass(frozen=True)
class Blind(MLP):
    """Networks whose critic does not look at the record."""

    def critic(self, shape, n_classes):
        """Build a critic."""
        return Zeros(shape, n_classes)


def test_a_critic_that_ignores_the_record_loses_nothing():
    arrays, _ = train(nets=Blind((8,), latent=4), how=queries.Mixed(), steps=1)
    assert np.abs(arrays["critic"]).max() > 0.01
    np.testing.assert_allclose(arrays["critic_loss"], 0, atol=1e-6)


def test_without_labels_all_records_are_compared_with_the_same_generated_ones():
    arrays, _ = train(nets=MLP((8,), latent=4, conditional=False), lr=0.01, steps=40)
    of_fakes = arrays["critic_loss"] + arrays["critic"]
    assert np.ptp(arrays["critic"]) > 0.01
    assert np.ptp(of_fakes, axis=2).max() < 1e-5


# ----------------------------------------------------------------------------------------------------
# Samples


def of_labels(run, labels, generator=0):
    """What generators of `Plain` make of labels."""
    make, maker = functional(run.generators)
    y = one_hot(torch.as_tensor(labels), run.n_classes).float()
    with torch.no_grad():
        return make(maker[generator], torch.zeros(len(y), 2), y).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["image", "binary", "bytes"])
def test_samples_are_those_of_each_class_in_turn_as_the_pool_stores_records(kind):
    pool = of_pixels((255 * IMAGES.x).astype(np.uint8)) if kind == "bytes" else toys.pool(kind, test=0)
    arrays, run = train(pool=pool, nets=Plain(), samples=8, lr=0.05, steps=20)
    expected = np.stack([of_labels(run, np.arange(8) % 3, m) for m in range(2)])
    if kind == "binary":
        expected = np.rint(expected)
        assert set(np.unique(expected)) == {0, 1}
    if kind == "bytes":
        assert np.abs(arrays["samples"].reshape(expected.shape) - 255 * expected).max() <= 0.5 + 1e-3
    else:
        alike(arrays["samples"].reshape(expected.shape), expected)
    assert arrays["samples"].dtype == pool.x.dtype
    assert arrays["samples"].shape == (2, 8, pool.x[0].size)


def test_samples_of_a_class_differ_and_lie_in_0_to_1():
    arrays, _ = train(nets=MLP((32,), latent=4), samples=31)
    for own in arrays["samples"]:
        assert len(np.unique(own, axis=0)) == 31
    assert (arrays["samples"] >= 0).all()
    assert (arrays["samples"] <= 1).all()


def test_more_samples_begin_with_the_fewer():
    few, many = (train(samples=n)[0]["samples"] for n in (5, 9))
    alike(many[:, :5], few)


def test_all_generators_of_a_model_release_samples_of_all_classes():
    arrays, run = train((0, 1), nets=Plain(), defense=PrivGAN(generators=2), samples=12, steps=2)
    for m in range(2):
        for i, own in enumerate(arrays["samples"][m]):
            expected = of_labels(run, [i % 3], 2 * m + i // 3 % 2)
            alike(own, expected.ravel())


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [True, False])
def test_accuracy_is_that_of_a_classifier_of_the_samples(conditional):
    pool = toys.pool("image")
    arrays, _ = train((0, 3), pool, MLP((8,), latent=4, conditional=conditional), samples=30)
    if not conditional:
        assert np.isnan(arrays["test_accuracy"]).all()
        return
    for k, own, accuracy in zip((0, 3), arrays["samples"], arrays["test_accuracy"], strict=True):
        own = own.reshape(1, 30, 1, 8, 8)
        assert accuracy == train_on_synthetic(own, np.arange(30) % 3, pool, seed=0, models=[k]).mean()


def test_labels_of_samples():
    assert gan_run.sample_labels(SMALL, 3, 7).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert gan_run.sample_labels(MLP(conditional=False), 3, 4).tolist() == [0, 0, 0, 0]


# ----------------------------------------------------------------------------------------------------
# Divergence, and critics trained on samples


@dataclass(frozen=True)
class Diverging(Defense):
    """Let one model diverge."""

    name: ClassVar[str] = "diverging"
    model: int = 0

    def critic_loss(self, real, fake, *, run):
        """Give an infinite loss to that model."""
        factor = torch.tensor([float("inf") if k == self.model else 1.0 for k in run.models])
        return super().critic_loss(real, fake, run=run) * factor[:, None]


def test_a_model_that_diverges_is_named():
    with pytest.raises(FloatingPointError, match=r"^Training diverged: the critic of model 3 .* lr=0.0004"):
        train((1, 3, 4), defense=Diverging(3))


def test_a_gan_on_samples_is_trained_on_these_alone():
    """Each model's own: with other samples of one model, only its critic changes."""
    _, run = train(defense=ParGAN(critics=2))
    labels = torch.arange(12) % 3
    x = run.sample(labels)

    def forked(x, **options):
        fork = run.fork(
            data=(x.flatten(0, 1), labels.repeat(2)),
            members=torch.arange(24).view(2, 12),
            defense=Defense(),
            purpose="shadow ",
            **options,
        )
        fork.train()
        return fork

    shadow = forked(x)
    assert (shadow.n_critics, shadow.n_generators, shadow.models) == (1, 1, [0, 1])
    assert shadow.iteration == run.training.steps
    changed = x.clone()
    changed[1] = 1 - changed[1]
    other = forked(changed, training=gan.Training(steps=6, batch_size=8, n_critic=2))
    records, y = run.x, run.onehot(run.y)
    before, after = shadow.evaluate_records(records, y), other.evaluate_records(records, y)
    torch.testing.assert_close(before[0], after[0])
    assert not torch.allclose(before[1], after[1])
    assert not torch.allclose(before, run.evaluate_records(records, y))
