"""Hooks of defenses of GANs: what each may change, and mistakes that are errors."""

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
import torch
import toys
from torch import nn

from mialab import gan
from mialab.gan.defenses import Defense, Mixup
from mialab.gan.networks import MLP

POOL = toys.pool("image", n=40, test=0)
SHORT = gan.Training(steps=6, batch_size=8, n_critic=2)


def play(defense, store, **options):
    return gan.play(
        POOL,
        MLP((8,), latent=4),
        defense,
        **{"training": SHORT, "n_models": 2, "samples": 6, "fakes": 2, "store": store, "workers": 1}
        | options,
    )


def alike(one, other):
    return all(np.array_equal(one.dataset[k], other.dataset[k]) for k in ("critic", "critic_loss", "samples"))


def defined(**members):
    """Define a defense with some methods."""
    return type("Own", (Defense,), {"name": "own", "__module__": __name__, **members})


@dataclass(frozen=True)
class Spelled(Defense):
    """No defense, but every hook is overridden and does what it does by default."""

    name: ClassVar[str] = "spelled"
    log: list = field(default_factory=list, compare=False)

    def adapt(self, training):
        return training

    def check(self, plan):
        assert (plan.n_members, plan.training, plan.n_models) == (20, SHORT, 2)

    def report(self, plan):
        return {"members": plan.n_members}

    def network(self, network):
        return network

    def fit(self, run):
        self.log.append("fit")
        run.fit()

    def batches(self, run):
        yield from run.shuffled()

    def mix(self, x, y, *, progress, rng):
        self.log.append(progress)
        return x, y

    def step(self, run, batch):
        return super().step(run, batch)

    def generator_step(self, run, y):
        fake = super().generator_step(run, y)
        assert not fake.requires_grad
        self.log.append("generator")
        return fake

    def finish(self, run):
        assert run.progress is None
        self.log.append("finish")


@pytest.mark.slow
def test_hooks_are_called_in_their_turn(tmp_path):
    defense = Spelled()
    game = play(defense, tmp_path)
    assert defense.log == [
        "fit",
        0.0,
        0.2,
        "generator",
        0.4,
        0.6,
        "generator",
        0.8,
        1.0,
        "generator",
        "finish",
    ]
    assert game.attrs["report"] == {"members": 20}
    assert alike(game, play(None, tmp_path))


@pytest.mark.slow
def test_training_is_adapted(tmp_path):
    own = defined(adapt=lambda self, training: dataclasses.replace(training, stop=2))
    assert alike(play(own(), tmp_path), play(None, tmp_path, training=dataclasses.replace(SHORT, stop=2)))
    with pytest.raises(TypeError, match="adapt returns None; it must be a Training"):
        play(defined(adapt=lambda self, training: None)(), tmp_path)


def test_networks_are_changed(tmp_path):
    class Silent(nn.Module):
        """Generators and critics whose answers are 0, and their parameters unused."""

        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, *inputs):
            return 0 * self.network(*inputs)

    game = play(defined(network=lambda self, network: Silent(network))(), tmp_path)
    assert not game.critic.any()
    assert not game.samples.any()


def test_a_defense_brings_its_own_batches(tmp_path):
    def always_the_same(self, run):
        while True:
            yield run.members[..., :3]

    seen = []

    def mix(self, x, y, *, progress, rng):
        seen.append(x)
        return x, y

    play(defined(batches=always_the_same, mix=mix)(), tmp_path)
    assert len(seen) == 6
    assert all(torch.equal(x, seen[0]) for x in seen)
    assert seen[0].shape[:3] == (2, 1, 3)


@pytest.mark.slow
def test_a_student_learns_from_the_samples_of_a_teacher(tmp_path):
    """Two stages: teachers on the members, then the game's own networks on samples of the teachers."""

    def fit(self, run):
        teacher = run.fork(purpose="teacher ")
        teacher.fit()
        labels = torch.arange(20) % run.n_classes
        x = teacher.sample(labels)
        n = len(run.models)
        run.x, run.y = x.flatten(0, 1), labels.repeat(n)
        run.members = torch.arange(20 * n).view(n, 1, 20)
        run.fit()

    game, plain = play(defined(fit=fit)(), tmp_path), play(None, tmp_path)
    assert np.isfinite(game.critic).all()
    assert not alike(game, plain)


@pytest.mark.slow
def test_a_defense_stacks_on_another(tmp_path):
    """A hook that calls the one of its base changes nothing but what it changes."""

    @dataclass(frozen=True)
    class Twice(Mixup):
        name: ClassVar[str] = "twice"

        def critic_loss(self, real, fake, *, run):
            return super().critic_loss(real, fake, run=run)

    assert alike(play(Twice(), tmp_path), play(Mixup(), tmp_path))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"critic_los": lambda self, real, fake, *, run: real}, "Did you mean 'critic_loss'"),
        ({"mix": lambda self, x, y, *, rng: (x, y)}, r"mix.*must take what the hook is given: .*progress="),
    ],
)
def test_mistakes_when_a_defense_is_defined(members, message):
    with pytest.raises(TypeError, match=message):
        defined(**members)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"critic_loss": lambda self, real, fake, *, run: real},
            r"critic_loss returns shape \(2, 1, 8\).*\(2, 1\)",
        ),
        ({"generator_loss": lambda self, answers, fake, *, run: answers}, "generator_loss returns shape"),
        ({"batches": lambda self, run: iter([run.members[:, 0]])}, r"a batch of shape \(2, 20\)"),
    ],
)
def test_wrong_shapes(members, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        play(defined(**members)(), tmp_path)


def test_a_name_is_a_defenses_own():
    with pytest.raises(ValueError, match="needs a name of its own: 'mixup'"):
        gan.defenses.register(defined(name="mixup"))
    with pytest.raises(ValueError, match="needs a name of its own: 'none'"):
        gan.defenses.make(type("Nameless", (Defense,), {})())
