"""Defenses of GANs: every hook against numbers worked by hand or plain loops."""

from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
import toys

from mialab import gan
from mialab.gan import GeneratorGame, defenses
from mialab.gan.defenses import MEGAN, Defense, Mixup, ParGAN, PrivGAN, RelaxLoss, reference_level
from mialab.gan.defenses.megan import binary_entropy
from mialab.gan.defenses.privgan import PrivacyClassifier, own
from mialab.gan.training import Training
from mialab.training.streams import Streams


def streams(models=(0, 1, 2), purpose="mix"):
    return Streams(0, models, purpose)


def batch(models=3, critics=2, size=5, shape=(1, 4, 4), n_classes=3):
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(models, critics, size, *shape, generator=rng)
    labels = torch.randint(n_classes, (models, critics, size), generator=rng)
    return x, torch.nn.functional.one_hot(labels, n_classes).float()


def fake_run(models=(0, 1, 2), objective="wgan-gp", *, parts=2, n=8, features=6, steps=100, **training):
    """Make what the hooks of a defense see of a run."""
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.random((40, features)), dtype=torch.float32)
    members = [np.random.default_rng([1, k]).permutation(40)[: parts * n].reshape(parts, n) for k in models]
    return SimpleNamespace(
        objective=objective,
        training=Training(steps=steps, **training),
        streams=cache(lambda name: Streams(0, models, name)),
        fit=lambda: None,
        members=torch.tensor(np.stack(members)),
        x=x,
        memory={},
        iteration=0,
        generator_step=lambda fake: fake,
    )


# ----------------------------------------------------------------------------------------------------
# The registry


def test_names():
    names = {"none", "mixup", "relaxloss", "par_gan", "privgan", "megan"}
    assert names <= {*defenses.available()}
    for name in names:
        assert defenses.make(name).name == name
    with pytest.raises(ValueError, match="Did you mean 'par_gan'"):
        defenses.make("pargan")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mixup(alpha=0), "alpha=0"),
        (lambda: Mixup(per="image"), "per='image'"),
        (lambda: Mixup(label="soft"), "label='soft'"),
        (lambda: RelaxLoss(level=float("nan")), "level=nan"),
        (lambda: ParGAN(critics=1), "critics=1"),
        (lambda: PrivGAN(generators=1), "generators=1"),
        (lambda: PrivGAN(weight=-1), "weight=-1"),
        (lambda: PrivGAN(pretraining=0.5), "pretraining=0.5"),
        (lambda: PrivGAN(delay=2), "delay=2"),
        (lambda: MEGAN(entropy=1.5), "entropy=1.5"),
    ],
)
def test_impossible_parameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_relaxloss_needs_a_level():
    with pytest.raises(ValueError, match=r"level=None.*reference_level"):
        RelaxLoss().check(SimpleNamespace())
    RelaxLoss(level=-0.3).check(SimpleNamespace())


def test_critics_and_generators():
    assert (Mixup().n_critics, Mixup().n_generators) == (1, 1)
    assert (ParGAN().n_critics, ParGAN().n_generators) == (4, 1)
    assert (PrivGAN(generators=3).n_critics, PrivGAN(generators=3).n_generators) == (3, 3)
    assert MEGAN().objective == "bce"


# ----------------------------------------------------------------------------------------------------
# Mixup


@pytest.mark.parametrize("per", ["batch", "record"])
@pytest.mark.parametrize("label", ["mixed", "dominant", "own"])
def test_mixtures_are_those_of_a_plain_loop(per, label):
    x, y = batch()
    mixed, target = Mixup(per=per, label=label).mix(x, y, progress=0.0, rng=streams())
    rng = streams()
    partner = [rng.permutation(5) for _ in range(2)]
    drawn = rng.beta(1, 1, *((1, 1) if per == "batch" else (2, 5))).expand(3, 2, 5)
    for k, critic, i in np.ndindex(3, 2, 5):
        j, r = partner[critic][k, i], drawn[k, critic, i]
        expected = r * x[k, critic, i] + (1 - r) * x[k, critic, j]
        torch.testing.assert_close(mixed[k, critic, i], expected, rtol=0, atol=1e-6)
        one, other = y[k, critic, i], y[k, critic, j]
        right = {"mixed": r * one + (1 - r) * other, "dominant": one if r >= 0.5 else other, "own": one}[
            label
        ]
        torch.testing.assert_close(target[k, critic, i], right, rtol=0, atol=1e-6)


@pytest.mark.parametrize("per", ["batch", "record"])
def test_mixing_conserves_what_there_is(per):
    """Labels add up to 1, and records stay in [0, 1]; with half of each, partners share the batch's mean."""
    x, y = batch(size=32)
    mixed, target = Mixup(per=per).mix(x, y, progress=0.0, rng=streams())
    torch.testing.assert_close(target.sum(-1), torch.ones(3, 2, 32))
    assert mixed.min() >= 0
    assert mixed.max() <= 1
    assert ((target > 0).sum(-1) == 2).any(), "some mixtures are of two classes"
    if per == "batch":  # any single fraction of a batch and a permutation of it has the same mean
        torch.testing.assert_close(mixed.mean(2), x.mean(2))
        torch.testing.assert_close(target.mean(2), y.mean(2))


class Fixed(Mixup):
    """Mixup with a given fraction."""

    def fractions(self, critics, batch, rng):
        return torch.full((3, 1, 1), self.alpha)


def test_the_label_of_the_dominant_record():
    x, y = batch()
    rng = streams()
    partner = torch.stack([rng.permutation(5) for _ in range(2)], 1)
    other = y.gather(2, partner[..., None].expand(y.shape))
    assert not torch.equal(other, y)
    for fraction, expected in ((0.49, other), (0.5, y), (0.51, y)):
        assert torch.equal(
            Fixed(alpha=fraction, label="dominant").mix(x, y, progress=0.0, rng=streams())[1], expected
        )
    torch.testing.assert_close(
        Fixed(alpha=0.25).mix(x, y, progress=0.0, rng=streams())[1], 0.25 * y + 0.75 * other
    )


def test_fractions():
    """One fraction for a batch of all critics, or one for each mixture; means and variances are those of the Beta law.

    Each of the six comparisons fails by chance with probability below 1e-6: five standard errors, the variance's with
    the kurtosis of the uniform distribution, the greatest of the three.
    """
    assert Mixup().fractions(4, 7, streams()).shape == (3, 1, 1)
    assert Mixup(per="record").fractions(4, 7, streams()).shape == (3, 4, 7)
    for alpha in (0.2, 1.0, 5.0):
        drawn = Mixup(alpha=alpha, per="record").fractions(4, 500, streams()).double()
        n, variance = drawn.numel(), 1 / (4 * (2 * alpha + 1))
        assert drawn.mean().item() == pytest.approx(0.5, abs=5 * np.sqrt(variance / n))
        assert drawn.var().item() == pytest.approx(variance, abs=5 * variance * np.sqrt(0.8 / n))


@pytest.mark.parametrize("defense", [Mixup(), Mixup(per="record", label="dominant")])
def test_mixtures_do_not_depend_on_the_group(defense):
    x, y = batch()
    together = defense.mix(x, y, progress=0.0, rng=streams())
    for k in range(3):
        alone = defense.mix(x[k : k + 1], y[k : k + 1], progress=0.0, rng=streams([k]))
        for a, b in zip(alone, together, strict=True):
            assert torch.equal(a[0], b[k])


# ----------------------------------------------------------------------------------------------------
# RelaxLoss


def test_each_critic_ascends_below_the_level():
    real = torch.tensor([[[1.0, 3.0], [0.0, 1.0]], [[2.0, 2.0], [0.5, 0.5]]], requires_grad=True)
    fake = torch.zeros(2, 2, 2)
    run = SimpleNamespace(objective="wgan-gp")
    loss = RelaxLoss(level=-1.0).critic_loss(real, fake, run=run)
    # Losses are -2, -0.5, -2, -0.5: two lie below the level.
    torch.testing.assert_close(loss, torch.tensor([[2.0, -0.5], [2.0, -0.5]]))
    (gradient,) = torch.autograd.grad(loss.sum(), real)
    torch.testing.assert_close(gradient[:, 0], torch.full((2, 2), 0.5))
    torch.testing.assert_close(gradient[:, 1], torch.full((2, 2), -0.5))


def test_a_critic_at_the_level_descends():
    real, fake = torch.tensor([[[1.0, 1.0]]]), torch.zeros(1, 1, 2)
    run = SimpleNamespace(objective="wgan-gp")
    assert RelaxLoss(level=-1.0).critic_loss(real, fake, run=run).item() == -1
    assert RelaxLoss(level=-0.99).critic_loss(real, fake, run=run).item() == 1
    plain = Defense().critic_loss(real, fake, run=run)
    assert torch.equal(RelaxLoss(level=-5).critic_loss(real, fake, run=run), plain)
    bce = SimpleNamespace(objective="bce")
    sure = RelaxLoss(level=1.1).critic_loss(real, fake, run=bce)
    assert sure.item() == pytest.approx(-np.log1p(np.exp(-1)) - np.log(2)), "in the units of the objective"


def test_the_level_is_the_loss_of_those_who_did_not_see_the_record():
    member = np.array([[True, True, False, False], [False, False, True, True]])
    loss = np.array([[[-9, -9, 1, 2]], [[3, 6, -9, -9]]], dtype=float)
    mixed = np.full((2, 1, 4), 50.0)
    game = GeneratorGame.from_arrays(critic_loss=np.concatenate([loss, mixed], 1), member=member)
    assert reference_level(game) == 3
    bce = GeneratorGame(game.dataset.assign_attrs(training={"objective": "bce"}))
    with pytest.raises(ValueError, match="objective='bce'"):
        reference_level(bce)
    for other in (GeneratorGame.from_arrays(critic=loss, member=member), toys.random_game()):
        with pytest.raises(ValueError, match="critic_loss"):
            reference_level(other)


# ----------------------------------------------------------------------------------------------------
# PrivGAN


def started(defense, **options):
    run = fake_run(**options)
    defense.fit(run)
    return run


def test_the_privacy_classifier_computes_a_perceptron():
    classifier = PrivacyClassifier(6, 3, streams(), lr=1e-3, betas=(0.5, 0.999))
    x = torch.rand(3, 3, 4, 6)
    loss = classifier.loss(x, own(x))
    w1, b1, w2, b2 = (p.detach() for p in classifier.parameters)
    for k, part, i in np.ndindex(3, 3, 4):
        hidden = (2 * x[k, part, i] - 1) @ w1[k] + b1[k, 0]
        answers = torch.where(hidden > 0, hidden, 0.2 * hidden) @ w2[k] + b2[k, 0]
        assert loss[k, part, i].item() == pytest.approx(-torch.log_softmax(answers, 0)[part].item(), abs=1e-5)


@pytest.mark.slow
def test_the_privacy_classifier_learns_the_parts():
    run = started(PrivGAN(generators=2, pretraining=300), lr=5e-3)
    x = run.x[run.members]
    assert run.memory["privacy"].loss(x, own(x)).mean() < 0.1, "random parts can only be learned by heart"
    fresh = started(PrivGAN(pretraining=0)).memory["privacy"].loss(x, own(x)).mean()
    assert fresh > 0.4


def test_each_step_of_the_privacy_classifier_is_of_its_batch_alone():
    classifier = PrivacyClassifier(6, 2, streams(), lr=1e-3, betas=(0.5, 0.999))
    first, second = torch.rand(2, 3, 2, 4, 6)
    classifier.learn(first)
    loss = classifier.loss(second, own(second), learn=True).mean((1, 2)).sum()
    expected = torch.autograd.grad(loss, classifier.parameters)
    classifier.learn(second)
    for parameter, gradient in zip(classifier.parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_the_privacy_loss_of_two_generators():
    """With two generators, the other one is no matter of chance."""
    defense = PrivGAN(weight=3.0, pretraining=5)
    run = started(defense)
    fake = torch.rand(3, 2, 4, 6, requires_grad=True)
    answers = fake.sum(-1)
    loss = defense.generator_loss(answers, fake, run=run)
    cross_entropy = run.memory["privacy"].loss(fake, 1 - own(fake)).mean(-1)
    torch.testing.assert_close(loss, -answers.mean(-1) + 3 * cross_entropy)
    bce = SimpleNamespace(**vars(run) | {"objective": "bce"})
    expected = torch.log1p(torch.exp(-answers)).mean(-1) + 3 * cross_entropy
    torch.testing.assert_close(defense.generator_loss(answers, fake, run=bce), expected)


def test_the_privacy_loss_moves_generators_and_not_the_classifier():
    defense = PrivGAN(weight=1.0, pretraining=5)
    run = started(defense)
    fake = torch.rand(3, 2, 4, 6, requires_grad=True)
    classifier = run.memory["privacy"]
    classifier.optimizer.zero_grad()
    defense.generator_loss(torch.zeros(3, 2, 4), fake, run=run).sum().backward()
    assert (fake.grad.abs().sum(-1) > 0).all(), "every generated record is told which way to go"
    assert all(p.grad is None for p in classifier.parameters)
    other = 1 - own(fake)
    better = classifier.loss(fake.detach() - 0.1 * fake.grad, other).mean()
    assert better < classifier.loss(fake, other).mean()
    assert torch.equal(
        PrivGAN(weight=0.0).generator_loss(torch.ones(3, 2, 4), fake, run=run), torch.full((3, 2), -1.0)
    )


def test_the_other_generator_is_drawn_from_all_others():
    """Of 2,400 draws each of two others is expected 1,200 times; 123 off is five standard deviations (p < 1e-6)."""
    queried = []

    class Spy:
        def loss(self, x, part):
            queried.append(part)
            return torch.zeros(part.shape)

    run = fake_run(parts=3)
    run.memory["privacy"] = Spy()
    PrivGAN(generators=3).generator_loss(torch.zeros(3, 3, 800), torch.rand(3, 3, 800, 6), run=run)
    (part,) = queried
    for generator in range(3):
        counts = torch.bincount(part[:, generator].flatten(), minlength=3)
        assert counts[generator] == 0
        assert (np.delete(counts.numpy(), generator) - 1200 < 123).all()


def test_the_classifier_waits_for_its_delay():
    defense = PrivGAN(pretraining=0, delay=0.25)
    run = started(defense, steps=100)
    classifier = run.memory["privacy"]
    fake = torch.rand(3, 2, 4, 6)
    before = [p.detach().clone() for p in classifier.parameters]

    def changed():
        return not all(torch.equal(a, b) for a, b in zip(before, classifier.parameters, strict=True))

    for run.iteration in (5, 20):
        defense.generator_step(run, fake)
        assert not changed()
    loss = classifier.loss(fake, own(fake)).mean()
    run.iteration = 25
    defense.generator_step(run, fake)
    assert changed()
    assert classifier.loss(fake, own(fake)).mean() < loss, "it learns which generator made a record"
    never = PrivGAN(pretraining=0, delay=1)
    run = started(never, steps=100)
    classifier, run.iteration = run.memory["privacy"], 100
    before = [p.detach().clone() for p in classifier.parameters]
    never.generator_step(run, fake)
    assert not changed()


def test_privgan_does_not_depend_on_the_group():
    """Sums of other groups are rounded elsewhere: equal up to float32's precision."""
    defense = PrivGAN(generators=3, pretraining=3, delay=0)
    rng = torch.Generator().manual_seed(0)
    fake = torch.rand(3, 3, 4, 6, generator=rng)

    def losses(models):
        run, own_fake = started(defense, models=models, parts=3, batch_size=3), fake[list(models)]
        defense.generator_step(run, own_fake)
        return defense.generator_loss(own_fake.sum(-1), own_fake, run=run)

    together = losses((0, 1, 2))
    assert together[0, 0] != together[1, 0]
    for k in range(3):
        torch.testing.assert_close(losses((k,))[0], together[k], rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------------------------------------
# MEGAN


def test_entropy():
    logits = torch.tensor([0.0, np.log(3), -np.log(3), 40, -40], dtype=torch.float64)
    quarter = -0.75 * np.log(0.75) - 0.25 * np.log(0.25)
    expected = torch.tensor([np.log(2), quarter, quarter, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(binary_entropy(logits), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_the_loss_of_megan(weight):
    answers = torch.tensor([[[0.0, np.log(3)]]])
    p = np.array([0.5, 0.75])
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)).mean()
    expected = (1 - weight) * -np.log(p).mean() - weight * entropy
    loss = MEGAN(entropy=weight).generator_loss(answers, answers, run=SimpleNamespace(objective="bce"))
    assert loss.shape == (1, 1)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_an_undecided_critic_leaves_megan_at_rest():
    """The slope of the entropy is 0 where the critic is undecided, and leads there from both sides."""
    answers = torch.tensor([[[0.0, 2.0, -2.0]]], requires_grad=True)

    def slope(weight):
        run = SimpleNamespace(objective="bce")
        loss = MEGAN(entropy=weight).generator_loss(answers, answers, run=run)
        return torch.autograd.grad(loss.sum(), answers)[0].flatten()

    at_rest, above, below = slope(1.0)
    assert at_rest == 0
    assert above > 0, "descent lowers an answer that is too sure of a real record"
    assert below.item() == pytest.approx(-above.item())
    torch.testing.assert_close(slope(0.0)[0].item(), -0.5 / 3)
    torch.testing.assert_close(slope(0.5), (slope(0.0) + slope(1.0)) / 2)


# ----------------------------------------------------------------------------------------------------
# Games


def played(defense, kind="image", objective="wgan-gp", **options):
    pool = toys.pool(kind, n=48, n_classes=3, test=0)
    training = gan.Training(steps=20, batch_size=8, n_critic=2, objective=objective)
    networks = gan.networks.MLP(hidden=(16,), latent=4)
    return gan.play(
        pool, networks, defense, training=training, n_models=2, samples=12, fakes=4, workers=1, **options
    )


@pytest.fixture(scope="module")
def plain():
    return played(None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["image", "binary"])
@pytest.mark.parametrize(
    "defense",
    [
        Mixup(),
        Mixup(per="record", label="dominant"),
        RelaxLoss(level=-0.01),
        ParGAN(critics=3),
        PrivGAN(generators=3, pretraining=2),
        MEGAN(),
    ],
    ids=lambda defense: defense.name,
)
def test_games_under_every_defense(defense, kind, plain):
    game = played(defense, kind)
    assert game.attrs["defense"] == defense.name
    assert np.isfinite(game.critic_loss).all()
    assert game.samples.shape == (2, 12, *((1, 8, 8) if kind == "image" else (6,)))
    several = defense.n_critics > 1
    assert (game.critic_max > game.critic).any() == several, "as many critics as it says"
    assert (game.critic_loss_min < game.critic_loss).any() == several
    if kind == "image":
        assert not np.allclose(game.critic_loss, plain.critic_loss), "it changes the training"


@pytest.mark.slow
@pytest.mark.parametrize(
    "defense", [RelaxLoss(level=-1e6), MEGAN(entropy=0)], ids=lambda defense: defense.name
)
def test_defenses_that_do_nothing_leave_plain_training(defense, plain):
    game = played(defense)
    expected = played(None, objective="bce") if defense.objective else plain
    np.testing.assert_allclose(game.critic_loss, expected.critic_loss, rtol=1e-4, atol=1e-6)


SEEN: list[torch.Tensor] = []


@dataclass(frozen=True)
class Watched(ParGAN):
    """PAR-GAN that shows which members its critics get."""

    name: ClassVar[str] = "watched"

    def fit(self, run):
        SEEN.append(run.members)
        run.fit()


@pytest.mark.slow
def test_critics_fraction_the_members_without_overlap(tmp_path):
    SEEN.clear()
    game = played(Watched(critics=3), store=tmp_path)
    parts = torch.cat(SEEN).numpy()
    assert parts.shape == (2, 3, 8)
    for own_parts, member in zip(parts, game.member, strict=True):
        assert np.array_equal(np.sort(own_parts.ravel()), np.flatnonzero(member))
        assert (np.diff(own_parts.ravel()) < 0).any(), "at random, not in the order of the pool"
