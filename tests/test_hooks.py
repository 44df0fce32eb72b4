"""Hooks: what a defense may override, what is refused, and three defenses that override whole procedures."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
import toys
from reference.hooks import SEED, plain, plain_adversarial, plain_clipped, plain_distilled
from torch import nn
from torch.func import grad, vmap

import mialab as mia
from mialab.classifiers import run as classifier_run
from mialab.defenses import HAMP, Defense, LabelSmoothing
from mialab.defenses.base import DEFENSES, cross_entropy
from mialab.models import CNN, MLP
from mialab.training import hooks
from mialab.training.membership import membership

SMALL, LARGE = MLP(hidden=(8,)), MLP(hidden=(300, 200))  # stacked, and one at a time


def run_of(defense=None, models=(0, 1), pool=None, build=SMALL, **options):
    """Return a group of models before its training."""
    pool = toys.pool() if pool is None else pool
    training = {"epochs": 3, "batch_size": 8} | options
    return toys.group(defense or Defense(), models, build, pool=pool, seed=SEED, **training)


def played(defense, pool=None, **options):
    pool = toys.pool() if pool is None else pool
    return mia.play(
        pool, SMALL, defense, training=mia.Training(epochs=3, batch_size=8), n_models=4, **options
    )


# ----------------------------------------------------------------------------------------------------
# What is refused


def test_the_hooks():
    common = {"adapt", "check", "report", "network", "fit", "batches", "mix", "step", "finish"}
    assert set(hooks.hooks(hooks.Hooks)) == common
    own = {"before_epoch", "loss", "weights", "answer"}
    assert set(hooks.hooks(HAMP)) == common | own
    assert [name for name in sorted(common | own) if HAMP().uses(name)] == ["answer", "before_epoch", "loss"]
    assert not any(Defense().uses(name) for name in common | own)


@pytest.mark.parametrize(
    ("name", "near"),
    [("before_epochs", "before_epoch"), ("losses", "loss"), ("anwser", "answer"), ("finished", "finish")],
)
def test_a_name_that_is_nearly_a_hook_is_refused(name, near):
    with pytest.raises(TypeError, match=rf"Typo.{name} is no hook\. Did you mean '{near}'\?"):
        type("Typo", (LabelSmoothing,), {name: lambda self, run: None})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("needs", ("luck",), r"Odd.needs has \['luck'\]. Known: reference records, several trainings, "),
        ("guarantee", "all", r"Odd.guarantee has \['all'\]. Known: nothing, epsilon."),
    ],
)
def test_unknown_needs_and_guarantees_are_refused(name, value, message):
    with pytest.raises(TypeError, match=message):
        type("Odd", (Defense,), {name: value})


def test_other_methods_are_welcome():
    type("Fine", (Defense,), {"strength": lambda self: 1, "_losses": lambda self: 2, "losses": property(int)})


@pytest.mark.parametrize(
    ("name", "own", "message"),
    [
        (
            "answer",
            lambda self, logits, x, *, predict, rng, pool: logits,
            r"\(run, logits, x, record, query\)",
        ),
        ("loss", lambda self, logits, target: logits, r"\(logits, target, run=..., index=...\)"),
        ("before_epoch", lambda self: None, r"\(run\)"),
        ("step", lambda self, run: None, r"\(run, batch\)"),
    ],
)
def test_a_hook_that_does_not_take_what_it_is_given_is_refused(name, own, message):
    with pytest.raises(
        TypeError, match=rf"Odd.{name}.* must take what the hook is given: \(self, " + message[2:]
    ):
        type("Odd", (Defense,), {name: own})


def test_a_name_is_needed_and_must_be_free():
    nameless = type("Nameless", (Defense,), {})
    heir = type("Heir", (HAMP,), {})
    empty = type("Empty", (Defense,), {"name": ""})
    for cls, message in (
        (nameless, "Nameless needs a name of its own: 'none' is that of Defense"),
        (heir, "Heir needs a name of its own: 'hamp' is that of HAMP"),
        (empty, "Empty.name='' must be a name for files"),
    ):
        for use in (lambda cls=cls: played(cls()), lambda cls=cls: mia.defenses.register(cls)):
            with pytest.raises(ValueError, match=message):
                use()


def test_a_class_that_is_defined_again_replaces_the_first():
    first, second = (type("Cell", (Defense,), {"name": "cell"}) for _ in range(2))
    try:
        mia.defenses.register(first)
        mia.defenses.register(second)
        assert type(mia.defenses.make("cell")) is second
        assert "cell" in mia.defenses.available()
    finally:
        DEFENSES.pop("cell")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss": lambda self, logits, target, **_: cross_entropy(logits, target).mean(-1)},
            r"loss returns shape \(\d,\); it must be one number for each record, \(\d, 8\)",
        ),
        (
            {"batches": lambda self, run: iter([run.members[0]])},
            r"a batch of shape \(20,\) and torch.int64; it must hold positions of records, int64 \(model, batch\)",
        ),
        (
            {"batches": lambda self, run: iter([run.members.float()])},
            r"a batch of shape .* and torch.float32",
        ),
        (
            {"answer": lambda self, run, logits, x, record, query: logits[..., :1]},
            r"answer returns shape \(\d, 40, 1\); it must be that of the logits, \(\d, 40, 3\)",
        ),
        ({"adapt": lambda self, training: None}, "adapt returns None; it must be a Training"),
    ],
)
def test_wrong_shapes(changes, message):
    defense = type("Wrong", (Defense,), {"name": "wrong", **changes})()
    with pytest.raises((ValueError, TypeError), match=message):
        played(defense, workers=1)


# ----------------------------------------------------------------------------------------------------
# What hooks see and do


@dataclass(frozen=True)
class Stopping(Defense):
    """Stop early, refuse large models, and report."""

    name: ClassVar[str] = "stopping"

    def adapt(self, training):
        return mia.Training(epochs=training.epochs, batch_size=training.batch_size, stop=2)

    def check(self, plan):
        if plan.n_members > 20 or plan.training.stop != 2:
            raise ValueError(f"{plan.n_members} members of {plan.n_models} models are too many.")

    def report(self, plan):
        return {"members": plan.n_members}


@pytest.mark.slow
def test_a_defense_adapts_the_training_and_reports():
    game = played(Stopping())
    assert game.attrs["training"]["stop"] == 2
    assert game.attrs["report"] == {"members": 20}
    plain = mia.play(toys.pool(), SMALL, training=mia.Training(epochs=3, batch_size=8, stop=2), n_models=4)
    np.testing.assert_array_equal(game.logits, plain.logits)
    assert plain.attrs["report"] == {}
    with pytest.raises(ValueError, match="21 members of 4 models are too many"):
        played(Stopping(), pool=toys.pool(n=42))


def test_finish_sees_the_trained_networks_and_what_is_answered():
    @dataclass(frozen=True)
    class Rounded(Defense):
        name: ClassVar[str] = "rounded"

        @torch.no_grad()
        def finish(self, run):
            assert run.progress is None
            assert not run.network.training
            for value in run.parameters.values():
                value.copy_((8 * value).round() / 8)

        def answer(self, run, logits, x, record, query):
            if record is None:  # records of the test part
                assert query is None
                return logits
            assert torch.equal(run.x[record], x)
            assert query == 0
            return logits + record[:, None]

    game = played(Rounded(), workers=1)
    run = run_of(models=(0, 1, 2, 3))
    run = classifier_run.Run(
        run.pool.x,
        run.pool.y,
        game.member,
        range(4),
        pool=run.pool,
        build=SMALL,
        defense=Defense(),
        training=run.training,
        seed=0,
        device="cpu",
    )
    run.train()
    Rounded().finish(run)
    own = run.predict(run.x)
    np.testing.assert_array_equal(game.before_output_step().logits[:, 0], own)
    np.testing.assert_allclose(game.logits[:, 0], own + torch.arange(40.0)[:, None])


def test_an_observer_looks_before_every_epoch_and_at_the_end():
    seen, pool = [], toys.pool()
    options = {
        "pool": pool,
        "y": pool.y,
        "member": membership(2, len(pool), SEED),
        "build": SMALL,
        "defense": Defense(),
        "training": mia.Training(epochs=3),
        "queries": mia.queries.make("original", pool),
        "seed": SEED,
    }
    watched = classifier_run.train_group(
        [0, 1],
        **options,
        observe=lambda run: seen.append((run.progress, run.predict(run.x).numpy())),
    )
    plain = classifier_run.train_group([0, 1], **options)
    assert [progress for progress, _ in seen] == [0, 0.5, 1, None]
    np.testing.assert_array_equal(watched["logits"], plain["logits"])
    np.testing.assert_array_equal(seen[-1][1], plain["logits"][:, 0])


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_predictions_leave_the_network_in_the_mode_in_which_they_found_it(norm):
    run = run_of(pool=toys.pool("image"), build=CNN(channels=(4,), hidden=4, norm=norm), models=(0,))
    modules = list(run.network.modules())
    run.network.train()
    modules[1].eval()
    modes = [module.training for module in modules]
    before = copy.deepcopy(run.state())
    first = run.predict(run.x)
    forward, parameters = run.function(0)
    torch.testing.assert_close(forward(parameters, run.inputs(slice(None)))[None], first)
    assert [module.training for module in modules] == modes
    for name, value in run.state().items():
        assert torch.equal(value, before[name]), "running statistics are those of training alone"


# ----------------------------------------------------------------------------------------------------
# Forks


@pytest.mark.parametrize("build", [SMALL, LARGE])
def test_a_fork_is_a_plain_training_with_numbers_of_its_own(build):
    models = (1, 2) if build is SMALL else (1,)
    run = run_of(models=models, build=build)
    first, second = run.fork(), run.fork(members=run.members[:, ::2])
    for fork, purpose in ((first, "fork 1 "), (second, "fork 2 ")):
        fork.fit()
        for place, k in enumerate(models):
            network = plain(k, run.pool, fork.members[place], build=build, purpose=purpose)
            torch.testing.assert_close(fork.predict(run.x)[place], network(run.x), rtol=1e-4, atol=1e-4)
    assert not torch.equal(first.predict(run.x), second.predict(run.x))
    run.adopt(second)
    assert torch.equal(run.predict(run.x), second.predict(run.x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": torch.ones(2, 3)}, r"members has shape \(2, 3\) and torch.float32"),
        ({"members": torch.zeros(3, 2, dtype=torch.int64)}, r"members has shape \(3, 2\)"),
        ({"members": torch.full((2, 2), 40)}, "members holds positions beyond the data's 40 records"),
        ({"members": np.arange(80).reshape(2, 40) < 10}, "members has shape .* a mask"),
        ({"data": (np.zeros((4, 5), np.float32), np.zeros(4, int))}, r"data has shapes \(4, 5\) and \(4,\)"),
        ({"data": (np.zeros((0, 6), np.float32), np.zeros(0, int))}, "at least one"),
        ({"targets": torch.zeros(40, 2)}, r"targets has shape \(40, 2\); it must be \(40, 3\)"),
    ],
)
def test_impossible_forks(changes, message):
    with pytest.raises(ValueError, match=message):
        run_of().fork(**changes)


def test_members_of_a_fork_may_be_a_mask():
    mask = np.zeros((2, 40), bool)
    mask[0, [3, 39]] = mask[1, [0, 7]] = True
    assert run_of().fork(members=mask).members.tolist() == [[3, 39], [0, 7]]


# ----------------------------------------------------------------------------------------------------
# Three defenses that need whole procedures, each against plain torch


@dataclass(frozen=True)
class Clipped(Defense):
    """Every member is in a batch by a coin of its own; the sum of clipped gradients is what the optimizer gets."""

    name: ClassVar[str] = "clipped"
    rate: float = 0.3
    norm: float = 0.5

    def batches(self, run):
        for _ in range(round(1 / self.rate)):
            yield run.streams("poisson").uniform(run.members.shape[1]) < self.rate

    def step(self, run, batch):
        run.set_gradients([self.clipped(run, k, run.members[k][chosen]) for k, chosen in enumerate(batch)])
        run.optimizer.step()

    def clipped(self, run, k, members):
        forward, parameters = run.function(k)

        def loss(parameters, x, y):
            return cross_entropy(forward(parameters, x[None]), y[None])[0]

        each = vmap(grad(loss), (None, 0, 0))(parameters, run.inputs(members), run.y[members])
        size = torch.stack([g.flatten(1).square().sum(1) for g in each.values()]).sum(0).sqrt()
        factor = (self.norm / size).clamp(max=1) / (self.rate * run.members.shape[1])
        return {name: torch.einsum("b,b...->...", factor, g) for name, g in each.items()}


@dataclass(frozen=True)
class Distilled(Defense):
    """A teacher learns from members; the model that is released learns what the teacher says of other records."""

    name: ClassVar[str] = "distilled"

    def check(self, plan):
        if not len(plan.pool.x_reference):
            raise ValueError(f"{plan.pool.name!r} has no reference part to distill on.")

    def fit(self, run):
        teacher = run.fork()
        teacher.fit()
        other = run.pool.x_reference
        student = run.fork(data=(other, run.pool.y_reference), targets=teacher.predict(other).softmax(-1))
        student.fit()
        run.adopt(student)


@dataclass(frozen=True)
class Adversarial(Defense):
    """A linear attacker learns to tell answers about members from others; the model learns to fool it."""

    name: ClassVar[str] = "adversarial"
    strength: float = 2.0

    def before_epoch(self, run):
        if run.epoch == 0:
            attacker = torch.zeros(len(run.models), run.pool.n_classes, requires_grad=True)
            run.memory["attacker"] = attacker, torch.optim.SGD([attacker], lr=1.0)

    def step(self, run, batch):
        attacker, optimizer = run.memory["attacker"]
        others = torch.as_tensor(run.pool.x_reference)
        others = others[run.streams("others").integers(len(others), batch.shape[1])]
        inside, outside = (torch.log_softmax(run.forward(x), -1) for x in (run.inputs(batch), others))

        def says(log_p):
            return (log_p * attacker[:, None]).sum(-1)

        wrong = nn.functional.softplus(-says(inside.detach())) + nn.functional.softplus(
            says(outside.detach())
        )
        optimizer.zero_grad()
        wrong.mean(-1).sum().backward()
        optimizer.step()
        losses = cross_entropy(inside, run.y[batch]) + self.strength * nn.functional.logsigmoid(says(inside))
        run.descend(losses.mean(-1))


@pytest.mark.slow
@pytest.mark.parametrize(("build", "models"), [(SMALL, (1, 2)), (LARGE, (1,))])
@pytest.mark.parametrize(
    ("defense", "reference"),
    [(Clipped(), plain_clipped), (Distilled(), plain_distilled), (Adversarial(), plain_adversarial)],
)
def test_whole_procedures_against_plain_torch(defense, reference, build, models):
    pool = toys.pool(reference=24)
    run = run_of(defense, models, pool, build)
    run.train()
    for place, k in enumerate(models):
        network = reference(k, pool, run.members[place], build=build)
        theirs = network(torch.as_tensor(pool.x))
        torch.testing.assert_close(run.predict(pool.x)[place], theirs, rtol=1e-3, atol=1e-4)
        undefended = plain(k, pool, run.members[place], build=build)(torch.as_tensor(pool.x))
        assert (undefended - theirs).abs().max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("defense", [Clipped(), Distilled(), Adversarial()])
def test_a_game_of_four_models_is_part_of_a_game_of_eight(defense, tmp_path):
    options = {"pool": toys.pool(reference=24), "training": mia.Training(epochs=1), "store": tmp_path}
    four, eight = (mia.play(model=SMALL, defense=defense, n_models=k, **options) for k in (4, 8))
    np.testing.assert_allclose(four.logits, eight.logits[:4], rtol=1e-4, atol=1e-4)


def test_a_defense_that_needs_other_records_says_so():
    with pytest.raises(ValueError, match="'toy' has no reference part"):
        played(Distilled())
