"""SELENA: who leaves out whom, soft labels and released models against plain loops, what is refused, what it hides."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toys
from reference.hooks import SEED, plain
from scipy import stats
from scipy.linalg import hadamard

import mialab as mia
from mialab.classifiers import run as classifier_run
from mialab.defenses import SELENA, Defense
from mialab.defenses.selena import split
from mialab.models import MLP
from mialab.training.membership import membership
from mialab.training.streams import Streams

SMALL, LARGE = MLP(hidden=(8,)), MLP(hidden=(300, 200))  # stacked, and one at a time
CHEAP = SELENA(sub_models=5, unseen_by=2)


def run_of(defense, models=(0, 1), build=SMALL, pool=None, **options):
    """Return a group of models before its training, of half of the records each."""
    training = {"epochs": 3, "batch_size": 8} | options
    return toys.group(
        defense, models, build, pool=toys.pool() if pool is None else pool, seed=SEED, **training
    )


# ----------------------------------------------------------------------------------------------------
# Who leaves out whom


@pytest.mark.parametrize(
    ("n", "k", "out"), [(20, 5, 2), (23, 5, 2), (25, 25, 10), (67, 25, 10), (9, 2, 1), (8, 7, 6)]
)
def test_every_record_is_left_out_by_as_many(n, k, out):
    mask = split(n, k, out, Streams(SEED, range(4), "split"))
    assert mask.shape == (4, n, k)
    assert (mask.sum(-1) == out).all()
    sizes = mask.sum(1)
    assert (sizes == sizes[0]).all()
    assert sizes.max() - sizes.min() <= (out if n % k else 0)
    assert sizes.max() < n  # each sub-model sees a record
    assert not torch.equal(mask[0], mask[1])
    assert torch.equal(mask[3:], split(n, k, out, Streams(SEED, [3], "split")))


def test_every_set_of_sub_models_is_as_likely():
    # 10 sets of 2 of 5, of the first record of 4,000 models: the test fails by chance once in 10,000 seeds.
    mask = split(20, 5, 2, Streams(SEED, range(4000), "split"))[:, 0]
    _, counts = torch.unique(mask, dim=0, return_counts=True)
    assert len(counts) == 10
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_no_record_is_scored_by_a_sub_model_that_saw_it(monkeypatch):
    run, saw, scored, made = run_of(CHEAP), {}, {}, []
    forward, predict, fork = (getattr(classifier_run.Run, name) for name in ("forward", "predict", "fork"))

    def note(into, self, x):
        for model, rows in zip(self.models, x, strict=True):
            into.setdefault((self.purpose, model), []).extend(map(tuple, rows.tolist()))

    def noted_forward(self, x):
        note(saw, self, x)
        return forward(self, x)

    def noted_predict(self, x):
        note(scored, self, x)
        return predict(self, x)

    def noted_fork(self, **changes):
        made.append(changes["purpose"])
        return fork(self, **changes)

    for name, replacement in (("forward", noted_forward), ("predict", noted_predict), ("fork", noted_fork)):
        monkeypatch.setattr(classifier_run.Run, name, replacement)
    run.train()
    assert made == [*(f"sub-model {i} " for i in range(5)), "released "]
    assert set(scored) == {(f"sub-model {i} ", model) for i in range(5) for model in run.models}
    for place, model in enumerate(run.models):
        members = set(map(tuple, run.x[run.members[place]].tolist()))
        times = dict.fromkeys(members, 0)
        for i in range(5):
            seen, asked = (set(part[f"sub-model {i} ", model]) for part in (saw, scored))
            assert seen | asked == members
            assert not seen & asked
            for row in asked:
                times[row] += 1
        assert set(times.values()) == {2}
        assert set(saw["released ", model]) == members


# ----------------------------------------------------------------------------------------------------
# The procedure


@pytest.mark.parametrize(("build", "models"), [(SMALL, (1, 2)), (LARGE, (1,))])
def test_sub_models_and_released_models_against_plain_loops(build, models):
    run = run_of(CHEAP, models, build)
    run.train()
    pool, x = run.pool, torch.as_tensor(run.pool.x)
    for place, k in enumerate(models):
        members = run.members[place]
        out = split(20, 5, 2, Streams(SEED, [k], "split"))[0]
        answers = [
            plain(k, pool, members[~out[:, i]], build=build, purpose=f"sub-model {i} ")(x)
            .softmax(-1)
            .detach()
            for i in range(5)
        ]
        soft = torch.zeros(40, 3)
        for j, record in enumerate(members):
            soft[record] = sum(answers[i][record] for i in range(5) if out[j, i]) / 2
        released = plain(k, pool, members, build=build, purpose="released ", targets=soft)
        torch.testing.assert_close(run.predict(pool.x)[place], released(x), rtol=1e-3, atol=1e-4)


def test_models_do_not_depend_on_their_group():
    together, alone = (run_of(CHEAP, models) for models in ((0, 1, 3), (3,)))
    for run in (together, alone):
        run.train()
    torch.testing.assert_close(
        together.predict(together.x)[2], alone.predict(alone.x)[0], rtol=1e-3, atol=1e-4
    )


# ----------------------------------------------------------------------------------------------------
# What it hides


def separation(defense, lr=0.02):
    """Mean over eight models with 20 members of the AUC of the loss, member against not; labels are noise."""
    noise = toys.pool(y=np.random.default_rng(1).integers(3, size=40))
    run = run_of(defense, range(8), MLP(hidden=(32,)), noise, epochs=60, batch_size=10, lr=lr)
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


def test_power_and_what_released_models_hide():
    # Labels that are learned by heart; a member's own label reaches the released model by its neighbors' soft labels.
    assert separation(Defense()) > 0.5 + 2 * CHANCE
    assert separation(CHEAP) < 0.5 + CHANCE


def test_null():
    # Nothing is learned by any model.
    assert abs(separation(CHEAP, lr=1e-6) - 0.5) < CHANCE


def test_least_squares_undo_what_leaving_out_hides():
    # Columns of a Hadamard matrix: all leverages are 6 / 16.
    x = np.asarray(hadamard(16)[:, :6], float)
    y = np.random.default_rng(0).normal(size=16)
    soft = [x[i] @ np.linalg.lstsq(np.delete(x, i, 0), np.delete(y, i), rcond=None)[0] for i in range(16)]
    released, undefended = (np.linalg.lstsq(x, target, rcond=None)[0] for target in (soft, y))
    np.testing.assert_allclose(released, undefended)


# ----------------------------------------------------------------------------------------------------
# Refusals


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"sub_models": 1}, "sub_models=1 must be an integer of at least 2"),
        ({"unseen_by": 0}, "unseen_by=0 must be an integer of at least 1"),
        ({"unseen_by": 2.5}, "unseen_by=2.5 must be an integer of at least 1"),
        ({"sub_models": 4, "unseen_by": 4}, "unseen_by=4 must be less than sub_models=4"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match="^" + message):
        SELENA(**parameters)


def test_more_sub_models_than_members(trained):
    SELENA(sub_models=20).check(SimpleNamespace(n_members=20))
    with pytest.raises(ValueError, match="sub_models=25 must be at most 20, the members of each model"):
        mia.play(toys.pool(), SMALL, "selena", n_models=2)
    assert not trained
