"""Probes of generators against closed forms and scipy; the attacks on what they measure."""

import dataclasses
from functools import cache
from types import SimpleNamespace

import gan_toys
import numpy as np
import pytest
import torch
import toys
from scipy.optimize import minimize, rosen
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score
from test_null import measure

import mialab as mia
from mialab import gan
from mialab.attacks import RequirementsNotMet
from mialab.gan import GeneratorGame, probes
from mialab.gan import run as gan_run
from mialab.gan.attacks.reconstruction import Reconstruction
from mialab.gan.probes import PartialBlackBox, Probe, ShadowCritic, WhiteBox
from mialab.probes.boundary import Boundary
from mialab.queries import Original
from mialab.training.membership import membership

N, CLASSES, LATENT = 30, 3, 4
SEARCHES = [WhiteBox(), PartialBlackBox(directions=3)]
ATTACKS = [Reconstruction(access=a, calibrated=c) for a in ("white_box", "partial") for c in (False, True)]
ARRAY = {"white_box": "reconstruction", "partial": "partial_reconstruction"}


def named(value) -> str:
    return value.name


class FakeRun:
    """What probes see of trained models whose generators are a given function of z and the label."""

    def __init__(self, x, y, models=(0, 1), *, n_generators=1, latent=LATENT, conditional=True, seed=0):
        self.x, self.y, self.models = torch.as_tensor(x), torch.as_tensor(y), list(models)
        self.n_generators, self.latent, self.seed = n_generators, latent, seed
        self.networks, self.n_classes = SimpleNamespace(conditional=conditional), CLASSES
        self.device, self.purpose, self.generated = "cpu", "", 0

    def onehot(self, labels):
        return torch.nn.functional.one_hot(labels, CLASSES).float()

    def generate(self, y, z):
        assert y.shape[:3] == z.shape[:3] == (len(self.models), self.n_generators, z.shape[2])
        self.generated += z.shape[2]
        return self.made(y, z).unflatten(-1, self.x.shape[1:])


class Linear(FakeRun):
    """G(z, y) = A z + b[y], with a matrix and offsets of its own for each generator."""

    def __init__(self, x, y, models=(0, 1), **options):
        super().__init__(x, y, models, **options)
        features = self.x[0].numel()
        draw = [np.random.default_rng([5, k]) for k in self.models]
        q = self.n_generators
        self.a = torch.tensor(np.array([r.normal(size=(q, features, self.latent)) for r in draw])).float()
        self.b = torch.tensor(np.array([r.random((q, CLASSES, features)) for r in draw])).float()

    def made(self, y, z):
        return z @ self.a.mT + (y @ self.b if self.networks.conditional else 0)

    def least(self):
        """Least mean squared errors, by the solver of NumPy in float64, (model, record)."""
        errors = np.empty((len(self.models), self.n_generators, len(self.x)))
        x = self.x.flatten(1).double().numpy()
        for k, q in np.ndindex(errors.shape[:2]):
            offset = self.b[k, q].double().numpy()[self.y] if self.networks.conditional else 0
            a = self.a[k, q].double().numpy()
            z = np.linalg.lstsq(a, (x - offset).T, rcond=None)[0]
            errors[k, q] = ((x - offset - (a @ z).T) ** 2).mean(1)
        return errors.min(1)


def records(n=N, shape=(1, 3, 4), seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((n, *shape)).astype(np.float32), rng.integers(CLASSES, size=n)


# ----------------------------------------------------------------------------------------------------
# Reconstructions


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"n_generators": 3}, {"conditional": False}], ids=str)
@pytest.mark.parametrize("probe", SEARCHES, ids=named)
def test_linear_generators_reconstruct_as_least_squares_do(probe, options, monkeypatch):
    monkeypatch.setattr(probes, "CHUNK", 300)  # so that records come in several blocks
    run = Linear(*records(), **options)
    error = dataclasses.replace(probe, penalty=0.0)(run)[probe.array.name]
    assert error.shape == (2, N)
    assert error.dtype == np.float32
    np.testing.assert_allclose(error, run.least(), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("probe", SEARCHES, ids=named)
def test_labels_are_those_of_the_records(probe):
    """With other labels, least squares leave other errors: the test above sees the difference."""
    run = Linear(*records())
    error = dataclasses.replace(probe, penalty=0.0)(run)[probe.array.name]
    run.y = (run.y + 1) % CLASSES
    assert np.abs(error - run.least()).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("probe", SEARCHES, ids=named)
def test_penalized_errors_are_those_that_scipy_finds(probe):
    run = Linear(*records(8))
    probe = dataclasses.replace(probe, penalty=0.01, restarts=4)
    error = probe(run)[probe.array.name]
    rng = np.random.default_rng(0)
    for k, i in np.ndindex(error.shape):
        a, b, x = (
            value.double().numpy().reshape(12, -1).squeeze()
            for value in (run.a[k, 0], run.b[k, 0, run.y[i]], run.x[i])
        )

        def loss(z, a=a, b=b, x=x):
            return ((a @ z + b - x) ** 2).mean() + 0.01 * (z @ z - LATENT) ** 2

        least = min(minimize(loss, z, tol=1e-12).fun for z in rng.normal(size=(8, LATENT)))
        assert error[k, i] >= least * (1 - 1e-4)
        assert error[k, i] <= least * 1.01


@pytest.mark.slow
@pytest.mark.parametrize("probe", SEARCHES, ids=named)
def test_more_effort_is_never_worse(probe):
    run = Linear(*records(), latent=6)
    few = {"steps": 3} if isinstance(probe, WhiteBox) else {"evaluations": 8}
    errors = [
        dataclasses.replace(probe, **options)(run)[probe.array.name]
        for options in (few, few | {"restarts": 5}, {}, {"restarts": 5})
    ]
    for worse, better in ((0, 1), (0, 2), (2, 3)):
        assert (errors[better] <= errors[worse] * (1 + 1e-5)).all()
    assert errors[2].mean() < errors[1].mean() < errors[0].mean()


@pytest.mark.slow
@pytest.mark.parametrize("probe", SEARCHES, ids=named)
def test_the_budget_is_that_which_is_promised_and_equal(probe):
    n_evaluations = []
    for x in (np.full((N, 12), 0.5), np.linspace(0, 50, N * 12).reshape(N, 12)):  # easy and hard records
        run = Linear(x.astype(np.float32), np.zeros(N, np.int64))
        probe(run)
        n_evaluations.append((run.generated - probe.candidates) / N)
    budget = 100 if isinstance(probe, WhiteBox) else 1 + (500 - 1) // 6 * 6
    assert n_evaluations == [budget, budget]


def test_only_the_white_box_looks_at_gradients(monkeypatch):
    looked = []
    made = Linear.made
    monkeypatch.setattr(
        Linear, "made", lambda self, y, z: looked.append(torch.is_grad_enabled()) or made(self, y, z)
    )
    PartialBlackBox()(Linear(*records()))
    assert not any(looked)
    WhiteBox()(Linear(*records()))
    assert sum(looked) == 100


@pytest.mark.slow
@pytest.mark.parametrize("probe", SEARCHES, ids=named)
def test_other_records_are_nan_and_the_same_for_all(probe):
    x, y = records()
    queried = probes.queried(N, 7)
    assert len({*queried}) == 7
    for options in ({}, {"models": (4,), "seed": 3}):
        error = dataclasses.replace(probe, records=7)(Linear(x, y, **options))[probe.array.name]
        expected = np.isin(np.arange(N), queried)
        assert (np.isfinite(error) == expected).all()
    assert set(probes.queried(N, 12)) > set(queried)  # asking more asks the same and others
    assert sorted(probes.queried(N, 1000)) == list(range(N))


@pytest.mark.slow
@pytest.mark.parametrize("probe", SEARCHES, ids=named)
def test_a_model_is_measured_alike_in_any_group(probe):
    x, y = records()
    together = probe(Linear(x, y, (0, 1, 2)))[probe.array.name]
    alone = probe(Linear(x, y, (1,)))[probe.array.name]
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-4)
    assert not np.allclose(together[0], together[1], rtol=1e-2)


def test_pixels_as_bytes_are_those_in_0_to_1():
    x, y = records()
    x = np.rint(255 * x)
    stored = WhiteBox()(Linear(x.astype(np.uint8), y))["reconstruction"]
    np.testing.assert_allclose(stored, WhiteBox()(Linear(x.astype(np.float32) / 255, y))["reconstruction"])


# ----------------------------------------------------------------------------------------------------
# Searches


def rosenbrock(z):
    return (100 * (z[..., 1:] - z[..., :-1] ** 2) ** 2 + (1 - z[..., :-1]) ** 2).sum(-1)


@pytest.mark.slow
def test_lbfgs_minimizes_each_function_as_scipy_does():
    z = torch.tensor(np.random.default_rng(0).normal(size=(3, 5, 4)))
    best, value = probes.lbfgs(rosenbrock, z, 80)
    np.testing.assert_allclose(value, rosenbrock(best), rtol=1e-6)
    options = {"maxfun": 80, "maxcor": 10, "ftol": 0, "gtol": 0}
    theirs = [minimize(rosen, one, method="L-BFGS-B", options=options).fun for one in z.reshape(-1, 4)]
    assert np.median(value.log()) <= np.median(np.log(np.maximum(theirs, 1e-30))) + 2
    minima = probes.lbfgs(rosenbrock, z, 300)[1]
    assert (
        (minima < 1e-12) | (minima - 3.701 < 0.01)
    ).all()  # all ones, or the local minimum near (-1, 1, 1, 1)
    assert (minima < 1e-12).sum() > 7


def test_lbfgs_of_several_functions_is_that_of_each():
    z = torch.tensor(np.random.default_rng(1).normal(size=(6, 4)))
    together = probes.lbfgs(rosenbrock, z, 40)[1]
    alone = [probes.lbfgs(rosenbrock, one, 40)[1] for one in z]
    np.testing.assert_allclose(together, torch.stack(alone), rtol=1e-6)


def test_lbfgs_never_goes_up_or_to_what_is_no_number():
    def steep(z):
        return torch.where(z[..., 0] > -1, z.sum(-1) ** 2, torch.nan)

    z = torch.tensor([[3.0, 2.0], [-0.5, 3.0]])
    values = torch.stack([probes.lbfgs(steep, z, n)[1] for n in range(1, 12)])
    assert values.isfinite().all()
    assert (values.diff(dim=0) <= 0).all()
    assert values[-1, 0] < 1e-6
    assert values[-1, 1] < 0.8 * values[0, 1]  # what is no number bars its way


def test_a_start_without_slope_stays():
    best, value = probes.lbfgs(lambda z: 0 * z.sum(-1) + 2, torch.ones(3, 2), 5)
    assert (best == 1).all()
    assert (value == 2).all()


# ----------------------------------------------------------------------------------------------------
# Trained models


class Keep(Probe):
    """Keeps the run."""

    def __call__(self, run):
        self.__dict__["run"] = run
        return {}


def trained(pool, models=(0, 1), networks=None, defense=None, **training):
    """Train a group of small GANs."""
    keep = Keep()
    gan_run.train_group(
        list(models),
        pool=pool,
        y=pool.y,
        member=membership(4, len(pool), 0)[list(models)],
        networks=networks or gan.networks.MLP((8,), latent=4),
        defense=gan.defenses.make(defense),
        training=gan.Training(**{"steps": 10, "batch_size": 8} | training),
        queries=Original(),
        samples=6,
        fakes=2,
        seed=0,
        probes=[keep],
    )
    return keep.run


SMALL = [
    WhiteBox(records=9, steps=8, candidates=8),
    PartialBlackBox(records=9, evaluations=20, candidates=8),
    ShadowCritic(samples=12, steps=5),
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["image", "binary"])
@pytest.mark.parametrize("probe", SMALL, ids=named)
def test_real_models_are_measured_alike_in_any_group(probe, kind):
    pool = toys.pool(kind, test=0)
    together, alone = (probe(trained(pool, models))[probe.array.name] for models in ((0, 1), (1,)))
    assert together.dtype == np.float32
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-3)
    assert not np.allclose(together[0], together[1], rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("probe", SMALL, ids=named)
@pytest.mark.parametrize(
    ("networks", "defense"),
    [
        (gan.networks.Conv(width=2, latent=4), None),
        (gan.networks.MLP((8,), latent=4, conditional=False), None),
        (None, "par_gan"),
        (None, "privgan"),
    ],
    ids=str,
)
def test_real_models_of_all_kinds_are_measured(networks, defense, probe):
    run = trained(toys.pool("image", test=0), (0,), networks, defense)
    measured = probe(run)[probe.array.name]
    assert measured.shape == (1, 40)
    assert np.isfinite(measured).sum() == (40 if isinstance(probe, ShadowCritic) else 9)


@pytest.mark.slow
def test_a_critic_trained_on_samples_that_are_members_tells_members():
    pool = toys.pool("image", test=0)
    run = trained(pool, networks=gan.networks.MLP((64,), latent=4), n_critic=10, lr=2e-3, batch_size=20)
    member = membership(4, 40, 0)[:2]
    given = []

    def released(labels, purpose):
        given.append(labels)
        members = [gan_toys.in_turn(pool.y[m], 3, len(labels), np.random.default_rng(0)) for m in member]
        return torch.stack([run.x[np.flatnonzero(m)[i]] for m, i in zip(member, members, strict=True)])

    run.sample = released
    answers = ShadowCritic(samples=60, steps=200)(run)["shadow_critic"]
    assert given[0].bincount().tolist() == [20, 20, 20]
    for k in range(2):
        assert roc_auc_score(member[k], answers[k]) > 0.75


def test_steps_of_the_shadow_are_those_asked_for(monkeypatch):
    run, made = trained(toys.pool("image", test=0)), []
    fork = run.fork
    monkeypatch.setattr(run, "fork", lambda **options: made.append(fork(**options)) or made[-1])
    ShadowCritic(samples=12)(run)
    ShadowCritic(samples=12, steps=3)(run)
    assert [one.iteration for one in made] == [10, 3]


@pytest.mark.slow
def test_games_keep_what_probes_measure(tmp_path):
    pool = toys.pool("image", test=0)
    game = gan.play(
        pool,
        gan.networks.MLP((8,), latent=4),
        training=gan.Training(steps=10, batch_size=8),
        n_models=8,
        samples=6,
        fakes=2,
        probes=SMALL,
        workers=1,
        store=tmp_path,
    )
    assert game.probes == ("partial_black_box", "shadow_critic", "white_box")
    assert np.isfinite(game.reconstruction).sum(1).tolist() == 8 * [9]
    expected = SMALL[0](trained(pool))["reconstruction"]
    np.testing.assert_allclose(game.reconstruction[:2], expected, rtol=1e-3)
    table = mia.audit(game, [attack.name for attack in ATTACKS])
    assert set(table["attack"]) == {attack.name for attack in ATTACKS}


# ----------------------------------------------------------------------------------------------------
# Attacks


class Memory(FakeRun):
    """Generators that remember their members: G(z, y) is close to one of those with the label, by the sign of z."""

    def __init__(self, x, y, member):
        super().__init__(x, y, range(len(member)), latent=8)
        code = np.random.default_rng(6).normal(size=(len(x), self.latent))
        self.code = torch.tensor(code / np.linalg.norm(code, axis=1, keepdims=True)).float()
        self.mine = torch.as_tensor(member)

    def made(self, y, z):
        fits = y @ self.onehot(self.y).T * self.mine[:, None, None]
        weight = torch.where(fits > 0, 6 * z @ self.code.T, -1e9).softmax(-1)
        return weight @ self.x.flatten(1)


@cache
def remembered():
    pool = toys.pool("image", 60)
    member = membership(8, 60, 0)
    run = Memory(pool.x, pool.y, member)
    options = {"records": 40, "restarts": 4, "penalty": 1e-4}
    arrays = WhiteBox(**options)(run) | PartialBlackBox(**options)(run)
    return GeneratorGame.from_arrays(member=member, y=pool.y, partner=np.arange(8) ^ 1, **arrays)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_generators_that_memorize_are_found_out(attack):
    game = remembered()
    outcome = attack.run(game)
    queried = np.isin(np.arange(60), probes.queried(60, 40))
    assert (outcome.evaluated == queried).all()
    assert not outcome.predicted_member[:, ~queried].any()
    auc, accuracy = measure(attack, game)
    assert auc > 0.97
    assert accuracy > 0.9


# If all is well, the probability that any of the comparisons with 1/2 below fails is at most 1 in 1,000 (Student's t
# over games that are independent of each other, Bonferroni over attacks, memberships and measures).
ALARM, N_GAMES, DESIGNS = 1e-3, 16, ["paired", "balanced", "random"]


@cache
def game_of_errors(design, seed, signal=0.0):
    """Make a game of errors that depend on the record, the model and chance, a third of which are unknown."""
    rng = np.random.default_rng([seed, 4])
    member = toys.memberships(design, 8, N, seed)
    difficulty, level = rng.normal(size=N), rng.normal(size=(8, 1))
    arrays = {
        name: np.exp(difficulty + level + rng.normal(size=(8, N)) - signal * member)
        for name in ARRAY.values()
    }
    for name in arrays:
        arrays[name][:, ::3] = np.nan
    partner = np.arange(8) ^ 1 if design == "paired" else None
    return GeneratorGame.from_arrays(member=member, y=rng.integers(2, size=N), partner=partner, **arrays)


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_nothing_is_found_where_there_is_nothing(attack, design):
    measures = [measure(attack, game_of_errors(design, seed)) for seed in range(N_GAMES)]
    chance = student.isf(ALARM / (2 * len(ATTACKS) * len(DESIGNS)) / 2, N_GAMES - 1) / N_GAMES**0.5
    for values in zip(*measures, strict=True):
        assert abs(np.mean(values) - 0.5) <= chance * np.std(values, ddof=1)
    auc = [measure(attack, game_of_errors(design, seed, signal=1.0))[0] for seed in range(6)]
    assert np.mean(auc) - 0.5 > chance * np.std(auc, ddof=1)  # a little would be noticed


@pytest.mark.parametrize("access", ARRAY)
def test_scores_are_errors_less_those_without_the_record(access):
    game = game_of_errors("paired", 0, signal=1.0)
    error = -game.signal(ARRAY[access])[:, 0]
    plain, compared = (Reconstruction(access=access, calibrated=c).run(game) for c in (False, True))
    for k, i in np.argwhere(plain.evaluated):
        assert plain.score[k, i] == -error[k, i]
        out = [j for j in range(8) if j not in (k, k ^ 1) and not game.member[j, i]]
        np.testing.assert_allclose(compared.score[k, i], error[out, i].mean() - error[k, i])
    np.testing.assert_array_equal(plain.evaluated[0], np.arange(N) % 3 > 0)
    np.testing.assert_array_equal(compared.evaluated, plain.evaluated)


def test_thresholds_from_a_known_half_come_from_records_asked_about():
    game = game_of_errors("paired", 0, signal=3.0)
    outcome = Reconstruction(calibrate="known_half", per_class=True).run(game)
    assert np.isin(outcome.evaluated.sum(1), (N // 3, N // 3 + 1)).all()  # halves of 20, and of odd numbers
    assert not outcome.evaluated[:, ::3].any()


def test_records_that_some_models_were_not_asked_about_are_left_out():
    game = game_of_errors("paired", 0)
    error = game.reconstruction.copy()
    error[5, 1] = np.nan
    holey = GeneratorGame.from_arrays(member=game.member, reconstruction=error)
    assert not Reconstruction().run(holey).evaluated[:, 1].any()


def test_separate_shadow_models_serve():
    game = game_of_errors("paired", 0, signal=3.0)
    shadow = np.arange(8) >= 1
    arrays = {"reconstruction": game.reconstruction}
    apart = GeneratorGame.from_arrays(member=game.member, shadow=shadow, **arrays)
    outcome = Reconstruction(calibrated=True).run(apart)
    assert outcome.evaluated[0].any()
    assert not outcome.evaluated[1:].any()
    assert not outcome.evaluated[:, ::3].any()
    i = np.flatnonzero(outcome.evaluated[0])[0]
    out = shadow & ~game.member[:, i]
    error = arrays["reconstruction"][:, i]
    np.testing.assert_allclose(outcome.score[0, i], error[out].mean() - error[0])


# ----------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WhiteBox(records=0), "records=0 must be an integer of at least 1"),
        (lambda: WhiteBox(steps=0), "steps=0 must be an integer of at least 1"),
        (lambda: WhiteBox(penalty=-1), "penalty=-1 must be at least 0"),
        (lambda: PartialBlackBox(restarts=9, candidates=8), "restarts=9 must be at most candidates=8"),
        (lambda: PartialBlackBox(evaluations=19), "evaluations=19 must be an integer of at least 20"),
        (lambda: PartialBlackBox(directions=0), "directions=0 must be an integer of at least 1"),
        (lambda: ShadowCritic(samples=1), "samples=1 must be an integer of at least 2"),
        (lambda: ShadowCritic(steps=0), "steps=0 must be an integer of at least 1"),
        (lambda: probes.make("white"), "probes='white' is unknown. Did you mean 'white_box'"),
        (lambda: probes.make([Boundary()]), "is unknown. Known: partial_black_box, shadow_critic, white_box"),
        (lambda: probes.make(["white_box", WhiteBox(steps=3)]), "holds a probe twice"),
        (lambda: Reconstruction(access="gray"), "access='gray' is unknown"),
        (lambda: mia.probes.make([WhiteBox()]), "is unknown"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_probes_by_name():
    assert probes.make("white_box") == (WhiteBox(),)
    assert probes.make([WhiteBox(), "shadow_critic"]) == (ShadowCritic(), WhiteBox())
    assert probes.available() == ["partial_black_box", "shadow_critic", "white_box"]


def test_games_without_what_is_needed_are_refused():
    member = membership(8, N, 0)
    bare = GeneratorGame.from_arrays(member=member, critic=np.zeros((8, N)))
    with pytest.raises(RequirementsNotMet, match=r"probes=\['white_box'\]"):
        Reconstruction().run(bare)
    nothing = GeneratorGame.from_arrays(member=member, reconstruction=np.full((8, N), np.nan))
    with pytest.raises(RequirementsNotMet, match="queried no record of this game that could be scored"):
        Reconstruction().run(nothing)
    with pytest.raises(RequirementsNotMet, match="on generators"):
        Reconstruction().run(toys.random_game())
