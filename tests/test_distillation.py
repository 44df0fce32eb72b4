"""Distillation: teacher and student against plain loops, what the student sees, what is refused, what it hides."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toys
from reference.hooks import SEED, plain
from scipy import stats

import mialab as mia
from mialab.classifiers import run as classifier_run
from mialab.defenses import Defense, Distillation
from mialab.defenses.distillation import _Student
from mialab.models import MLP
from mialab.training.membership import membership

SMALL, LARGE = MLP(hidden=(8,)), MLP(hidden=(300, 200))  # stacked, and one at a time


def run_of(defense, models=(0, 1), pool=None, build=SMALL, **options):
    """Return a group of models before its training, of 20 members each."""
    pool = toys.pool(reference=24) if pool is None else pool
    training = {"epochs": 3, "batch_size": 8} | options
    return toys.group(defense, models, build, pool=pool, seed=SEED, **training)


def forks_of(run, monkeypatch):
    """Train the group; return the groups that it made, in order."""
    made, fork = [], classifier_run.Run.fork

    def kept(self, **changes):
        made.append(fork(self, **changes))
        return made[-1]

    monkeypatch.setattr(classifier_run.Run, "fork", kept)
    run.train()
    return made


# ----------------------------------------------------------------------------------------------------
# The procedure


@pytest.mark.parametrize(("build", "models"), [(SMALL, (1, 2)), (LARGE, (1,))])
def test_teacher_and_student_against_plain_loops(build, models):
    run = run_of(Distillation(keep=0.5), models, build=build)
    run.train()
    pool = run.pool
    x = torch.as_tensor(pool.x_reference)
    for place, k in enumerate(models):
        teacher = plain(k, pool, run.members[place], build=build, purpose="teacher ")
        soft = teacher(x).softmax(-1).detach()
        entropy = -(soft * soft.log()).sum(-1)
        surest = torch.tensor(sorted(sorted(range(24), key=entropy.tolist().__getitem__)[:12]))
        data = pool.x_reference, pool.y_reference
        student = plain(k, pool, surest, build=build, purpose="student ", data=data, targets=soft)
        theirs = student(torch.as_tensor(pool.x))
        torch.testing.assert_close(run.predict(pool.x)[place], theirs, rtol=1e-3, atol=1e-4)


def test_the_student_sees_soft_answers_to_reference_records_and_nothing_else(monkeypatch):
    run = run_of(Distillation(temperature=3.0, keep=0.5))
    seen, forward = {}, classifier_run.Run.forward

    def noted(self, x):
        seen.setdefault(self.purpose, []).append(x.reshape(-1, x.shape[-1]))
        return forward(self, x)

    monkeypatch.setattr(classifier_run.Run, "forward", noted)
    teacher, student = forks_of(run, monkeypatch)
    torch.testing.assert_close(student.targets, (teacher.predict(run.pool.x_reference) / 3).softmax(-1))
    rows = {part: {tuple(row) for row in torch.cat(seen[part]).tolist()} for part in seen}
    pool = {name: {tuple(row) for row in getattr(run.pool, name).tolist()} for name in ("x", "x_reference")}
    assert set(rows) == {"teacher ", "student "}
    assert rows["teacher "] <= pool["x"]
    assert rows["student "] <= pool["x_reference"]
    assert not rows["student "] & pool["x"]
    assert student.members.shape == (2, 12)


def test_labels_of_reference_records_are_not_used():
    pool = toys.pool(reference=24)
    other = toys.pool(reference=24, y_reference=(pool.y_reference + 1) % 3)
    answers = []
    for one in (pool, other):
        run = run_of(Distillation(), pool=one)
        run.train()
        answers.append(run.predict(pool.x))
    assert torch.equal(*answers)


def test_the_loss_has_the_gradient_of_the_divergence_at_a_temperature():
    rng = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 2, 5, 4, dtype=torch.float64, generator=rng)
    logits.requires_grad_()
    target = (other / 2.5).softmax(-1)
    loss = _Student(2.5).loss(logits, target)
    divergence = torch.nn.functional.kl_div((logits / 2.5).log_softmax(-1), target, reduction="none").sum(-1)
    assert loss.shape == divergence.shape == (2, 5)
    own, expected = (torch.autograd.grad(part.sum(), logits)[0] for part in (loss, 2.5**2 * divergence))
    torch.testing.assert_close(own, expected)


def test_models_do_not_depend_on_their_group():
    together, alone = (run_of(Distillation(2.0, 0.5), models) for models in ((0, 1, 3), (3,)))
    for run in (together, alone):
        run.train()
    torch.testing.assert_close(
        together.predict(together.x)[2], alone.predict(alone.x)[0], rtol=1e-3, atol=1e-4
    )


# ----------------------------------------------------------------------------------------------------
# What it hides


def separation(defense, lr=0.02):
    """Mean over eight models with 20 members of the AUC of the loss, member against not."""
    pool = toys.pool(features=20, reference=40, seed=1)
    run = run_of(defense, range(8), pool, MLP(hidden=(32,)), epochs=60, batch_size=10, lr=lr)
    run.train()
    loss = torch.nn.functional.cross_entropy(
        run.predict(run.x).flatten(0, 1), run.y.repeat(8), reduction="none"
    ).view(8, -1)
    member = membership(8, 40, SEED)
    aucs = [
        stats.mannwhitneyu(-s[m], -s[~m]).statistic / 400 for s, m in zip(loss.numpy(), member, strict=True)
    ]
    return np.mean(aucs)


# Of a model that knows nothing the AUC has standard deviation 0.0925; the mean of four independent pairs of models has
# at most half of that: it is more than four of those above 0.5 once in 30,000 seeds, and as far from it once in 15,000.
CHANCE = 4 * 0.0925 / 2


def test_power_and_what_a_student_hides():
    # Over six such pools the drop was 0.17 to 0.25.
    plain_auc = separation(Defense())
    assert plain_auc > 0.5 + CHANCE
    assert separation(Distillation(keep=0.5)) < plain_auc - 0.1


def test_null():
    # Neither teacher nor student learns anything.
    assert abs(separation(Distillation(), lr=1e-6) - 0.5) < CHANCE


# ----------------------------------------------------------------------------------------------------
# Refusals


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"temperature": 0}, "temperature=0 must be greater than 0"),
        ({"temperature": float("nan")}, "temperature=nan must be greater than 0"),
        ({"keep": 0}, "keep=0 must be greater than 0"),
        ({"keep": 1.1}, "keep=1.1 must be"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match="^" + message):
        Distillation(**parameters)


@pytest.mark.parametrize(
    ("reference", "keep", "message"),
    [
        (0, 1.0, "'toy' has no reference part for distillation: load it with reference="),
        (2, 1.0, "keep=1.0 of 2 reference records of 'toy' are 2; distillation needs at least 3"),
        (20, 0.1, "keep=0.1 of 20 reference records of 'toy' are 2; distillation needs at least 3"),
    ],
)
def test_too_few_reference_records(reference, keep, message):
    plan = SimpleNamespace(pool=toys.pool(reference=reference))
    with pytest.raises(ValueError, match=message):
        Distillation(keep=keep).check(plan)


def test_refusals_come_before_training(trained):
    with pytest.raises(ValueError, match="no reference part"):
        mia.play(toys.pool(), SMALL, "distillation", n_models=2)
    assert not trained
