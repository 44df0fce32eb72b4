"""Games of generators: what they hold and refuse, how they are stored, what attacks make of them, power and null."""

import dataclasses
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
import toys
import zarr
from reference.gan_attacks import pairs_slowly
from scipy import stats
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score
from torch import nn

import mialab as mia
from mialab import gan, queries
from mialab.attacks import CoMembership, LiRA, RequirementsNotMet
from mialab.attacks.lira import lira
from mialab.chapters import mixup_gan
from mialab.gan import GeneratorGame, Training
from mialab.gan import run as gan_run
from mialab.gan.attacks.pairs import CriticMixedPairs
from mialab.gan.defenses import Defense, Mixup, ParGAN, RelaxLoss
from mialab.gan.game import GeneratorPlan
from mialab.gan.networks import MLP, Conv
from mialab.gan.probes import PartialBlackBox, ShadowCritic, WhiteBox
from mialab.training import stack

#: Networks that are trained stacked, and such as are trained one by one.
SMALL, SINGLE = MLP((8,), latent=4), Conv(width=2, latent=4)
SHORT = Training(steps=4, batch_size=8, n_critic=2)
IMAGES = toys.pool("image", test=0, validation=30)
QUICK = {"networks": SMALL, "training": SHORT, "n_models": 2, "samples": 6, "fakes": 3, "workers": 1}


@pytest.fixture
def trained(monkeypatch):
    """Count the models that are trained."""
    return toys.count_trained(monkeypatch, gan_run)


def assert_same(game, expected):
    for name in set(expected) - {"seconds"}:
        np.testing.assert_array_equal(game.dataset[name], expected[name], err_msg=name)


# ----------------------------------------------------------------------------------------------------
# A played game


PLAYED = [(kind, conditional) for conditional in (True, False) for kind in ("image", "binary", "bytes")]


@pytest.fixture(
    scope="module", params=PLAYED, ids=[f"{kind}-{'un' * (not c)}conditional" for kind, c in PLAYED]
)
def played(request, tmp_path_factory):
    """A played game with its pool, the kind of its records, whether classes are known, and the trained models."""
    kind, conditional = request.param
    pool = toys.pool("image" if kind == "bytes" else kind, test=0 if conditional else 20)
    if kind == "bytes":
        x = np.rint(255 * pool.x).astype(np.uint8)
        pool = dataclasses.replace(pool, x=x, x_val=x[:0], x_test=x[: len(pool.x_test)])
    options = {"networks": dataclasses.replace(SMALL, conditional=conditional), "samples": 7}
    store = tmp_path_factory.mktemp("played")
    with pytest.MonkeyPatch.context() as patch:
        trained = toys.count_trained(patch, gan_run)
        game = gan.play(pool, **QUICK | options, queries=queries.Mixed((0.4,)), store=store)
    return SimpleNamespace(game=game, pool=pool, kind=kind, conditional=conditional, trained=trained)


@pytest.mark.slow
def test_a_game_is_as_large_as_was_asked_for(played):
    game = played.game
    assert game.victim == "generator"
    assert (game.n_models, game.n_queries, game.n_records, game.n_samples) == (2, 2, 40, 7)
    assert game.n_classes == 3
    assert played.trained == [0, 1]


@pytest.mark.slow
def test_models_are_trained_on_complementary_halves(played):
    assert played.game.member.sum(1).tolist() == [20, 20]
    assert (played.game.member.sum(0) == 1).all()
    assert played.game.partner.tolist() == [1, 0]
    np.testing.assert_array_equal(played.game.y, played.pool.y)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sign"), [("critic", 1), ("critic_max", 1), ("critic_loss", -1), ("critic_loss_min", -1)]
)
def test_critics_evaluate_every_record_and_query(played, name, sign):
    evaluated = getattr(played.game, name)
    assert (evaluated.shape, evaluated.dtype) == ((2, 2, 40), np.float64)
    assert np.isfinite(evaluated).all()
    assert evaluated is getattr(played.game, name), "read once"
    np.testing.assert_array_equal(played.game.signal(name), sign * evaluated)


@pytest.mark.slow
def test_a_game_knows_its_queries(played):
    assert played.game.query_kinds == ("original", "mixed")
    np.testing.assert_array_equal(played.game.mixed_with, queries.pairing(40))


@pytest.mark.slow
def test_samples_are_stored_like_records_and_read_as_numbers(played):
    game, shape = played.game, (2, 7, *played.pool.x.shape[1:])
    assert game.dataset["samples"].dtype == played.pool.x.dtype
    assert (game.samples.shape, game.samples.dtype) == (shape, np.float32)
    stored = game.dataset["samples"].to_numpy().reshape(shape)
    expected = stored / np.float32(255) if played.kind == "bytes" else stored
    np.testing.assert_array_equal(game.samples, expected)


@pytest.mark.slow
def test_samples_have_the_range_of_records(played):
    samples = played.game.samples
    if played.kind == "binary":
        assert set(np.unique(samples)) <= {0, 1}
    else:
        assert len(np.unique(samples)) > 10
        assert 0 <= samples.min() <= samples.max() <= 1


@pytest.mark.slow
def test_samples_are_of_all_classes_in_turn_where_these_are_known(played):
    assert played.game.conditional == played.conditional
    assert played.game.sample_y.tolist() == ([0, 1, 2, 0, 1, 2, 0] if played.conditional else 7 * [0])


@pytest.mark.slow
def test_accuracy_is_unknown_without_test_records_or_without_labels(played):
    assert np.isnan(played.game.test_accuracy).all()


@pytest.mark.slow
def test_a_game_describes_itself(played):
    about = {"n_samples": 7, "fakes": 3, "objective": "wgan-gp", "n_critics": 1, "dataset": "toy"}
    assert about.items() <= played.game.attrs.items()
    assert repr(played.game) == (
        "GeneratorGame(toy, defense=none: 2 models x 2 queries x 40 records x 3 classes, 7 samples each)"
    )


@pytest.mark.slow
def test_a_game_is_found_again(trained, tmp_path):
    def play(**options):
        return gan.play(
            IMAGES, **QUICK | options, probes=[WhiteBox(4, candidates=4, steps=2)], store=tmp_path
        )

    first = play()
    expected = first.dataset.load()
    again = play(workers=2)
    assert trained == [0, 1]
    assert_same(again, expected)
    assert again.attrs == first.attrs
    assert again.probes == ("white_box",)
    assert np.isfinite(again.reconstruction).sum(1).tolist() == [4, 4]
    with pytest.raises(
        ValueError, match=r"^This game has no shadow_critic: play it with probes=\['shadow_cr"
    ):
        again.shadow_critic  # noqa: B018
    with pytest.raises(ValueError, match=r"^signal='losses' is unknown."):
        again.signal("losses")


@pytest.mark.slow
@pytest.mark.parametrize(("networks", "n_models"), [(SMALL, 18), (SINGLE, 4)], ids=["stacked", "sequential"])
def test_results_do_not_depend_on_the_number_of_workers(networks, n_models, tmp_path):
    games = [
        gan.play(
            IMAGES,
            **QUICK | {"networks": networks, "n_models": n_models, "workers": workers},
            store=tmp_path / str(workers),
        )
        for workers in (1, 2)
    ]
    assert [game.attrs["workers"] for game in games] == [1, 2]
    assert_same(games[1], games[0].dataset)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("networks", "equal"), [(SMALL, False), (SINGLE, True)], ids=["stacked", "sequential"]
)
def test_a_larger_game_begins_with_the_smaller_one(networks, equal, tmp_path):
    small, large = (
        gan.play(IMAGES, **QUICK | {"networks": networks, "n_models": n}, store=tmp_path) for n in (2, 4)
    )
    for name in ("member", "critic", "critic_loss", "samples"):
        ours, theirs = large.dataset[name][:2], small.dataset[name]
        if equal:
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=name)


# ----------------------------------------------------------------------------------------------------
# Interruptions, errors, damage


@dataclass(frozen=True)
class Deadly(Defense):
    """Interrupt the training of model 2, or let it diverge, as long as the environment says so."""

    name: ClassVar[str] = "deadly"

    def critic_loss(self, real, fake, *, run):
        """Do so."""
        how = os.environ.get("DEADLY") if 2 in run.models else None
        if how == "interrupt":
            raise KeyboardInterrupt
        return super().critic_loss(real, fake, run=run) * (float("nan") if how == "diverge" else 1)


def play_deadly():
    """Play a game of models that are trained one by one."""
    return gan.play(IMAGES, **QUICK | {"networks": SINGLE, "n_models": 4}, defense=Deadly())


def stored(cache):
    """Return the folder of the only game in a cache."""
    (path,) = cache.glob("games/*.zarr")
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIALAB_CACHE", str(tmp_path_factory.mktemp("undisturbed")))
        return play_deadly().dataset.load()


@pytest.mark.slow
def test_an_interrupted_run_resumes_with_what_was_under_way(fresh_cache, trained, undisturbed, monkeypatch):
    monkeypatch.setenv("DEADLY", "interrupt")
    with pytest.raises(KeyboardInterrupt):
        play_deadly()
    assert trained == [0, 1, 2]
    monkeypatch.delenv("DEADLY")
    assert_same(play_deadly(), undisturbed)
    assert trained == [0, 1, 2, 2, 3]


@pytest.mark.slow
def test_divergence_keeps_the_finished_models(fresh_cache, trained, undisturbed, monkeypatch):
    monkeypatch.setenv("DEADLY", "diverge")
    for again in (False, True):
        with pytest.raises(
            FloatingPointError, match=r"^Training diverged: the critic of model 2 .* lr=0.0004"
        ):
            play_deadly()
        assert trained == ([0, 1, 2, 2] if again else [0, 1, 2])
    monkeypatch.delenv("DEADLY")
    assert_same(play_deadly(), undisturbed)
    assert trained == [0, 1, 2, 2, 2, 3]


@pytest.mark.slow
def test_damaged_models_are_trained_again(fresh_cache, trained, undisturbed):
    play_deadly()
    trained.clear()
    group = zarr.open_group(stored(fresh_cache), mode="r+")
    group["samples"][1, 3, 5] += 0.25
    group["critic_loss"][3, 0, 7] = np.nextafter(group["critic_loss"][3, 0, 7], np.float32(9))
    with pytest.warns(UserWarning, match=r"^Stored answers of models \[1, 3\] are damaged; they are trained"):
        assert_same(play_deadly(), undisturbed)
    assert trained == [1, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        play_deadly()
    assert trained == [1, 3]


@pytest.mark.slow
def test_labels_of_samples_are_restored(fresh_cache, trained, undisturbed):
    play_deadly()
    zarr.open_group(stored(fresh_cache), mode="r+")["sample_y"][:] = 1
    assert_same(play_deadly(), undisturbed)
    assert trained == [0, 1, 2, 3]


# ----------------------------------------------------------------------------------------------------
# What makes another game


def key(pool=IMAGES, **options):
    given = {name: value for name, value in QUICK.items() if name != "workers"}
    return GeneratorPlan(pool=pool, **given | options).key()


CHANGES = {
    "pool": {"pool": dataclasses.replace(IMAGES, x=IMAGES.x[:, :, ::-1].copy())},
    "reference": {"pool": toys.pool("image", test=0, validation=20)},
    "networks": {"networks": MLP((9,), latent=4)},
    "latent": {"networks": MLP((8,), latent=5)},
    "unconditional": {"networks": MLP((8,), latent=4, conditional=False)},
    "defense": {"defense": "mixup"},
    "its parameter": {"defense": Mixup(alpha=0.5)},
    **{
        name: {"training": dataclasses.replace(SHORT, **{name: value})}
        for name, value in {
            "steps": 5,
            "stop": 3,
            "batch_size": 9,
            "n_critic": 3,
            "objective": "bce",
            "penalty": 9.0,
            "lr": 1e-3,
            "betas": (0.0, 0.9),
        }.items()
    },
    "seed": {"seed": 1},
    "queries": {"queries": queries.Mixed()},
    "fractions": {"queries": queries.Mixed((0.4,))},
    "members": {"members": 12},
    "candidates": {"candidates": np.arange(30)},
    "samples": {"samples": 7},
    "fakes": {"fakes": 4},
    "probes": {"probes": "white_box"},
    "parameters of probes": {"probes": WhiteBox(records=9)},
}


def test_every_parameter_makes_another_game():
    keys = {name: key(**changes) for name, changes in CHANGES.items()} | {"": key()}
    assert len(set(keys.values())) == len(keys)
    assert key() == key(defense="none", probes=[], queries=queries.Original())
    assert key() == key(n_models=4)
    assert key(probes=["white_box", "shadow_critic"]) == key(probes=["shadow_critic", WhiteBox()])
    assert all(k.startswith("gan-toy-") for k in keys.values())
    assert keys["defense"].startswith("gan-toy-mixup-")


# ----------------------------------------------------------------------------------------------------
# Games of arrays

MEMBER = toys.memberships("paired", 4, 10, 0)


def arrays(**changes):
    rng = np.random.default_rng(0)
    return {"member": MEMBER, "critic_loss": rng.normal(size=(4, 3, 10))} | changes


def test_from_arrays_keeps_what_it_is_given():
    rng = np.random.default_rng(1)
    given = arrays(
        critic=rng.normal(size=(4, 3, 10)),
        critic_max=rng.normal(size=(4, 3, 10)),
        y=np.arange(10) % 3,
        partner=np.arange(4) ^ 1,
        samples=rng.random((4, 5, 1, 8, 8)).astype(np.float32),
        sample_y=np.array([0, 1, 2, 3, 0]),
        test_accuracy=np.full(4, 0.5),
        reconstruction=np.where(np.arange(10) < 4, rng.random((4, 10)), np.nan),
        shadow_critic=rng.normal(size=(4, 10)),
    )
    game = GeneratorGame.from_arrays(**given, name="mine")
    for name in ("member", "critic_loss", "critic", "critic_max", "y", "partner", "samples", "sample_y"):
        np.testing.assert_array_equal(getattr(game, name), given[name], err_msg=name)
    for name in ("reconstruction", "shadow_critic"):
        np.testing.assert_array_equal(getattr(game, name), given[name])
    assert game.probes == ("shadow_critic", "white_box")
    assert (game.n_classes, game.n_queries, game.n_samples, game.conditional) == (4, 3, 5, True)
    assert game.attrs["dataset"] == "mine"
    assert game.test_accuracy.tolist() == 4 * [0.5]
    assert not game.shadow.any()


def test_from_arrays_fills_in_the_rest():
    loss = arrays()["critic_loss"][:, 0]
    game = GeneratorGame.from_arrays(member=MEMBER.astype(int).tolist(), critic_loss=loss.tolist())
    np.testing.assert_array_equal(game.critic_loss, loss[:, None])
    np.testing.assert_array_equal(game.member, MEMBER)
    assert (game.member.dtype, game.y.dtype, game.shadow.dtype) == (bool, np.int64, bool)
    assert (game.partner == -1).all()
    assert (game.y == 0).all()
    assert (game.n_classes, game.n_queries, game.n_samples, game.conditional) == (2, 1, 0, False)
    assert np.isnan(game.test_accuracy).all()
    for name, message in (
        ("critic", "This game has no critic."),
        ("critic_max", "This game has no critic_max"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            getattr(game, name)
    with pytest.raises(
        ValueError, match=r"^This game has no samples: give them to GeneratorGame.from_arrays"
    ):
        _ = game.samples
    samples = np.full((4, 5, 6), 51, np.uint8)
    game = GeneratorGame.from_arrays(member=MEMBER, samples=samples, n_classes=7)
    np.testing.assert_allclose(game.samples, 0.2)
    assert game.sample_y.tolist() == 5 * [0]
    assert (game.n_classes, game.n_queries) == (7, 1)
    with pytest.raises(ValueError, match=r"^This game has no critic_loss."):
        _ = game.critic_loss


def changed(name, index, value):
    array = (MEMBER if name == "member" else arrays()[name]).copy()
    array[index] = value
    return {name: array}


SAMPLES = np.zeros((4, 5, 6))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"member": MEMBER[0]},
            r"member has shape \(10,\); it must be \(model, record\), of .*: for a single model, member\[None\].",
        ),
        ({"member": MEMBER / 2}, r"member must be True or False \(or 1 and 0\); it holds \[0.  0.5\]."),
        (changed("member", 1, True), r"member\[1\] is all True: a target needs members and non-members."),
        (changed("member", 2, False), r"member\[2\] is all False: a target needs members and non-members."),
        (
            {"critic_loss": np.zeros((4, 9))},
            r"critic_loss has shape \(4, 9\); with member \(4, 10\) it must be \(4, 10\) or \(4, query, 10\).",
        ),
        (
            {"critic_loss": np.zeros(10)},
            r"critic_loss has shape \(10,\); .* it must be \(4, 10\) or \(4, query, 10\).",
        ),
        (
            {"critic": np.zeros((4, 10))},
            r"critic_loss has shape \(4, 3, 10\); with .* it must be \(4, 10\) or \(4, 1, 10\).",
        ),
        (
            {"critic_max": np.zeros((3, 3, 10))},
            r"critic_max has shape \(3, 3, 10\); .* must be \(4, 10\) or \(4, query, 10\).",
        ),
        (changed("critic_loss", (0, 0, 0), np.nan), "critic_loss has 1 values that are not finite numbers."),
        ({"critic_loss": np.full((4, 10), "a")}, "critic_loss must hold numbers; it is <U1."),
        ({"y": np.zeros(9, int)}, r"y has shape \(9,\); with member \(4, 10\) it must be \(10,\)."),
        ({"y": np.arange(10) - 1}, "y must hold integers from 0 to 8; it is int64 from -1 to 8."),
        ({"y": np.linspace(0, 2, 10)}, "y must hold integers; it is float64 from 0.0 to 2.0."),
        ({"y": np.arange(10), "n_classes": 9}, "y must hold integers from 0 to 8; it is int64 from 0 to 9."),
        ({"n_classes": 1}, "n_classes=1 must be an integer of at least 2."),
        ({"n_classes": 2.5}, "n_classes=2.5 must be an integer of at least 2."),
        (
            {"partner": np.zeros(3, int)},
            r"partner has shape \(3,\); with member \(4, 10\) it must be \(4,\).",
        ),
        ({"partner": np.arange(4)}, r"partner\[0\]=0, but models 0 and 0 are no pair"),
        ({"partner": np.arange(4) / 2}, "partner must hold integers; it is float64 from 0.0 to 1.5."),
        ({"shadow": np.ones(4, bool)}, "shadow is True for all models: one at least must be a target."),
        ({"shadow": np.zeros(3, bool)}, r"shadow has shape \(3,\); with member \(4, 10\) it must be \(4,\)."),
        ({"shadow": np.arange(4)}, r"shadow must be True or False \(or 1 and 0\); it holds \[0 1 2 3\]."),
        (
            {"samples": np.zeros(4)},
            r"samples has shape \(4,\); with member .* must be \(4, sample, \.\.\.\).",
        ),
        (
            {"samples": np.zeros((3, 5, 6))},
            r"samples has shape \(3, 5, 6\); with member .* \(4, sample, ...\).",
        ),
        (
            {"samples": np.zeros((4, 0, 6))},
            r"samples has shape \(4, 0, 6\), without a value; it must be an array \(model, sample, feature\)",
        ),
        (
            {"samples": SAMPLES + 2},
            r"samples must hold numbers from 0 to 1, or be bytes; it is float64 from 2.0 to 2.0.",
        ),
        ({"samples": SAMPLES + np.nan}, "samples has 120 values that are not finite numbers."),
        (
            {"samples": SAMPLES, "sample_y": np.zeros(4, int)},
            r"sample_y has shape \(4,\); with member \(4, 10\) it must be \(5,\).",
        ),
        (
            {"samples": SAMPLES, "sample_y": np.arange(5), "n_classes": 4},
            "sample_y must hold integers from 0 to 3; it is int64 from 0 to 4.",
        ),
        ({"sample_y": np.arange(5)}, "sample_y is given without samples: give both or neither."),
        ({"test_accuracy": np.zeros(3)}, r"test_accuracy has shape \(3,\); .* it must be \(4,\)."),
        (
            {"reconstructions": np.zeros((4, 10))},
            "array='reconstructions' is unknown. Did you mean 'reconstr",
        ),
        ({"reconstruction": np.zeros((4, 9))}, r"reconstruction has shape \(4, 9\); .* must be \(4, 10\)."),
        (
            {"reconstruction": np.full((4, 10), np.inf)},
            "reconstruction has 40 values that are not finite numbers.",
        ),
    ],
)
def test_from_arrays_refuses_what_does_not_fit(changes, message):
    with pytest.raises(ValueError, match="^" + message) as caught:
        GeneratorGame.from_arrays(**arrays(**changes))
    assert "\n" not in str(caught.value)


def test_parts_of_a_game():
    rng = np.random.default_rng(1)
    given = arrays(
        samples=rng.random((4, 5, 1, 8, 8)).astype(np.float32),
        shadow_critic=rng.normal(size=(4, 10)),
        partner=np.arange(4) ^ 1,
        y=np.arange(10) % 3,
    )
    game = GeneratorGame.from_arrays(**given)
    few = game.subset(2)
    assert isinstance(few, GeneratorGame)
    assert few.n_models == few.attrs["n_models"] == 2
    for name in ("member", "critic_loss", "samples", "partner"):
        np.testing.assert_array_equal(getattr(few, name), given[name][:2])
    some = game.of_records(np.array([7, 2]))
    assert isinstance(some, GeneratorGame)
    np.testing.assert_array_equal(some.critic_loss, given["critic_loss"][..., [7, 2]])
    np.testing.assert_array_equal(some.shadow_critic, given["shadow_critic"][:, [7, 2]])
    np.testing.assert_array_equal(some.y, [1, 2])
    np.testing.assert_array_equal(some.samples, given["samples"])
    with pytest.raises(ValueError, match=r"^n_models=6 must be at most 4"):
        game.subset(6)


# ----------------------------------------------------------------------------------------------------
# Separate shadow models


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    store = tmp_path_factory.mktemp("targets")

    def play(pool=IMAGES, **options):
        probes = [ShadowCritic(samples=6, steps=2)]
        return gan.play(pool, **QUICK | {"store": store, "n_models": 8, "probes": probes} | options)

    return play


@pytest.mark.slow
def test_targets_with_shadow_models_of_another_game(targets):
    ours, theirs = targets(), targets(seed=1)
    both = ours.with_shadows(theirs)
    assert isinstance(both, GeneratorGame)
    assert both.shadow.tolist() == 8 * [False] + 8 * [True]
    for name in ("critic_loss", "critic", "samples", "member"):
        whole = np.concatenate([getattr(ours, name), getattr(theirs, name)])
        np.testing.assert_array_equal(getattr(both, name), whole)
    np.testing.assert_array_equal(both.sample_y, ours.sample_y)
    assert both.probes == ("shadow_critic",)
    assert both.shadow_critic.shape == (16, 40)
    attack = LiRA(signal="critic_loss", variance="pooled")
    outcome = attack.run(both)
    phi = -both.critic_loss[:, 0]
    for k in (0, 5):
        models = [k, *range(8, 16)]
        first = np.full((9, 40), 0)
        first[0] = -1
        expected = lira(phi[models], both.member[models], first, variance="pooled")[0]
        shadows = both.member[8:].sum(0)
        enough = np.minimum(shadows, 8 - shadows) >= 3
        np.testing.assert_array_equal(outcome.evaluated[k], enough)
        np.testing.assert_allclose(outcome.score[k, enough], expected[enough], rtol=1e-6)
    assert not outcome.evaluated[8:].any()
    table = mia.audit(both, ["logan", "critic_lira_pooled", "gan_leaks_calibrated"], pool=IMAGES)
    assert set(table["target"]) == {"pooled", "mean", *range(8)}


@pytest.mark.slow
def test_shadow_models_may_be_of_another_kind_but_for_what_is_queried(targets):
    ours = targets()
    other = targets(
        seed=1, networks=MLP((4,), latent=3), defense="mixup", members=12, training=Training(steps=2)
    )
    both = ours.with_shadows(other)
    assert both.attrs["shadow_models"]["defense"] == "mixup"
    others = targets(seed=1, probes=[ShadowCritic(samples=7, steps=2)])
    assert ours.with_shadows(others).probes == ()
    assert "shadow_critic" not in ours.with_shadows(others).dataset


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "shadows have the memberships of the targets: play them with another seed than 0."),
        ({"seed": 1, "fakes": 4}, "shadows were played with fakes=4; it must be that of the targets, 3."),
        (
            {"seed": 1, "samples": 7},
            "shadows were played with n_samples=7; it must be that of the targets, 6.",
        ),
        (
            {"seed": 1, "queries": queries.Mixed()},
            r"shadows were played with queries='Mixed\(.*'; it must be that of the targets, 'Original\(\)'.",
        ),
        (
            {"seed": 1, "pool": toys.pool("image", test=0, validation=30, seed=1)},
            "shadows were played with fingerprint='.*'; it must be that of the targets, '",
        ),
        (
            {"seed": 1, "networks": MLP((8,), latent=4, conditional=False)},
            "shadows were played with conditional=False; it must be that of the targets, True.",
        ),
    ],
)
def test_shadow_models_that_do_not_fit(options, message, targets):
    other = targets(**options)
    with pytest.raises(ValueError, match="^" + message):
        targets().with_shadows(other)


def test_arrays_with_other_numbers_of_samples_or_queries_do_not_fit():
    games = [
        GeneratorGame.from_arrays(member=member, samples=np.zeros((4, n, 6)))
        for member, n in ((MEMBER, 5), (MEMBER[::-1], 4))
    ]
    with pytest.raises(ValueError, match=r"^shadows were played with n_samples=4; it must be .*, 5."):
        games[0].with_shadows(games[1])


# ----------------------------------------------------------------------------------------------------
# Attacks on the other kind of models

VICTIMS = {name: set(mia.attacks.available(name).index) for name in ("classifier", "generator")}


def test_attacks_are_listed_by_what_they_attack():
    assert set(mia.attacks.available().index) == VICTIMS["classifier"]
    assert not VICTIMS["classifier"] & VICTIMS["generator"]
    assert {"loss", "lira", "co_membership_lira_8", "mixed_pairs"} <= VICTIMS["classifier"]
    assert {
        "logan",
        "critic_lira",
        "critic_lira_pooled",
        "critic_lira_offline",
        "critic_mixed_pairs",
        "co_membership_critic_lira_8",
        "gan_leaks",
        "monte_carlo",
        "domias",
    } <= VICTIMS["generator"]
    with pytest.raises(ValueError, match=r"^victim='gan' is unknown. .*Known: classifier, generator."):
        mia.attacks.available("gan")


@pytest.mark.parametrize("victim", VICTIMS)
def test_attacks_on_other_models_are_refused(victim):
    game = GeneratorGame.from_arrays(**arrays()) if victim == "classifier" else toys.random_game(n_records=10)
    pool = toys.pool("image", n=10, validation=30)
    for name in VICTIMS[victim]:
        with pytest.raises(RequirementsNotMet) as caught:
            mia.audit(game, [name], pool=pool)
        base = name.removeprefix("co_membership_").removesuffix("_8")  # of which sets of records speak
        assert str(caught.value) == (
            f"Attack {base!r} is on {victim}s, but the models of this game are {game.victim}s: take one of "
            f"mialab.attacks.available({game.victim!r})."
        )


# ----------------------------------------------------------------------------------------------------
# Likelihood ratios of what critics say


def critics(design="paired", *, n_models=8, n_records=40, n_queries=1, n_mixed=0, signal=0.0, seed=0):
    """Make a game of critics that say noise; members' losses are lower by ``signal``."""
    rng = np.random.default_rng(seed)
    member = toys.memberships(design, n_models, n_records, seed)
    loss = rng.normal(size=(n_models, n_queries + n_mixed, n_records)) + 3 * rng.normal(size=n_records)
    game = GeneratorGame.from_arrays(
        member=member,
        critic_loss=loss - signal * member[:, None],
        partner=np.arange(n_models) ^ 1 if design == "paired" else None,
        y=rng.integers(3, size=n_records),
    )
    kinds = ["original", *["noise"] * (n_queries - 1), *["mixed"] * n_mixed]
    mixed = {
        "fractions": [(q + 1) / (n_mixed + 1) for q in range(n_mixed)],
        "seed": seed,
        "n_records": n_records,
    }
    return GeneratorGame(game.dataset.assign_attrs(query_kinds=kinds, mixed=mixed if n_mixed else None))


@pytest.mark.slow
@pytest.mark.parametrize("design", ["paired", "balanced", "random"])
@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("variance", ["per_record", "pooled"])
def test_lira_takes_minus_the_loss_of_the_critic(design, online, variance):
    game = critics(design, signal=2.0)
    attack = LiRA(signal="critic_loss", online=online, variance=variance)
    suffix = "_offline" * (not online) + "_pooled" * (variance == "pooled")
    assert attack == mia.attacks.make(f"critic_lira{suffix}")
    phi, options = -game.critic_loss[:, 0], {"online": online, "variance": variance}
    outcome = attack.run(game)
    np.testing.assert_array_equal(outcome.score, lira(phi, game.member, game.excluded_models, **options))
    assert outcome.evaluated.all()
    assert roc_auc_score(game.member.ravel(), outcome.score.ravel()) > 0.65


def test_the_least_loss_of_several_critics_finds_members_that_one_of_them_saw():
    """As in the attack on PAR-GAN that was published with Ji et al.; a mean over critics dilutes what one knows."""
    rng = np.random.default_rng(0)
    n, n_critics, signal = 400, 4, 3.0
    member = toys.memberships("paired", 16, n, 0)
    saw = rng.integers(n_critics, size=(16, 1, n)) == np.arange(n_critics)[:, None]
    each = rng.normal(size=(16, n_critics, n)) - signal * (saw & member[:, None])
    arrays = {"critic_loss": each.mean(1), "critic_loss_min": each.min(1)}
    game = GeneratorGame.from_arrays(member=member, partner=np.arange(16) ^ 1, **arrays)
    found = {name: mia.attacks.make(name).run(game) for name in ("critic_lira_min", "critic_lira_min_pooled")}
    for name, variance in zip(found, ("per_record", "pooled"), strict=True):
        expected = lira(-each.min(1), member, game.excluded_models, variance=variance)
        np.testing.assert_array_equal(found[name].score, expected)
    least = roc_auc_score(member.ravel(), found["critic_lira_min_pooled"].score.ravel())
    mean = roc_auc_score(member.ravel(), mia.attacks.make("critic_lira_pooled").run(game).score.ravel())
    # Of Gaussians of known parameters: a member's mean loss is 0.75 lower, 1.5 standard deviations.
    assert mean == pytest.approx(stats.norm.cdf(1.5 / np.sqrt(2)), abs=0.02)
    best = roc_auc_score(
        member.ravel(), -each.min(1).ravel()
    )  # the density ratio of minima rises with -minimum
    assert best - 0.02 < least < best + 0.005
    assert least > mean + 0.04


def test_lira_of_several_queries_is_their_mean_without_mixtures():
    game = critics(n_queries=3, n_mixed=2)
    expected = [lira(-game.critic_loss[:, q], game.member, game.excluded_models) for q in range(3)]
    attack = LiRA(signal="critic_loss", queries="all")
    assert attack.name == "critic_lira_augmented"
    np.testing.assert_allclose(attack.run(game).score, np.mean(expected, axis=0))
    only_first = LiRA(signal="critic_loss").run(game).score
    np.testing.assert_array_equal(only_first, expected[0])


@pytest.mark.parametrize("name", ["critic_lira", "critic_lira_offline", "critic_mixed_pairs"])
def test_games_without_the_loss_of_critics_are_refused(name):
    game = critics(n_models=16, n_mixed=1)
    dataset = game.dataset.rename(critic_loss="critic")
    with pytest.raises(
        RequirementsNotMet,
        match=f"^Attack '{name}' needs the signal 'critic_loss'. This game has no critic_loss: play it with",
    ):
        mia.audit(GeneratorGame(dataset), [name])


@pytest.mark.slow
@pytest.mark.parametrize("variance", ["per_record", "pooled"])
@pytest.mark.parametrize("design", ["paired", "random"])
def test_mixed_pairs_against_a_slow_loop(variance, design):
    found = 0
    for seed in range(3):
        game = critics(design, n_models=20, n_records=12, n_queries=2, n_mixed=3, signal=1.0, seed=seed)
        outcome = CriticMixedPairs(variance=variance).run(game)
        expected = pairs_slowly(game, pooled=variance == "pooled")
        np.testing.assert_array_equal(outcome.evaluated, np.isfinite(expected))
        np.testing.assert_allclose(
            outcome.score[outcome.evaluated], expected[outcome.evaluated], rtol=1e-6, atol=1e-9
        )
        found += outcome.evaluated.sum()
    assert found > 50
    assert CriticMixedPairs(variance=variance) == mia.attacks.make(
        "critic_mixed_pairs" + "_pooled" * (variance == "pooled")
    )


def test_mixed_pairs_find_members():
    game = critics(n_models=24, n_records=60, n_mixed=3, signal=2.0)
    outcome = CriticMixedPairs(variance="pooled").run(game)
    auc = roc_auc_score(game.member[outcome.evaluated], outcome.score[outcome.evaluated])
    assert auc > 0.9
    with pytest.raises(
        RequirementsNotMet, match=r"^Attack 'critic_mixed_pairs' needs queries of the kind 'mixed'"
    ):
        CriticMixedPairs().run(critics())


def test_sets_of_records_sum_the_likelihood_ratios_of_critics():
    game = critics(n_records=200, signal=0.7)
    single = mia.attacks.make("critic_lira_pooled").run(game)
    attack = CoMembership(of="critic_lira_pooled", size=4)
    assert (attack.name, attack.needs.victim, attack.needs.sees) == (
        "co_membership_critic_lira_pooled_4",
        "generator",
        "critic",
    )
    sets = attack.run(game)
    assert (sets.evaluated.sum(1) == 50).all()
    for k in range(8):
        for side in (game.member[k], ~game.member[k]):
            total = sets.score[k, side & sets.evaluated[k]].sum()
            assert total == pytest.approx(single.score[k, side].sum(), rel=1e-6)
    one, four = (roc_auc_score(game.member[o.evaluated], o.score[o.evaluated]) for o in (single, sets))
    assert four > one + 0.05


# ----------------------------------------------------------------------------------------------------
# All attacks on several games


@pytest.mark.slow
def test_audit_each_runs_what_it_can_and_says_why_not(tmp_path):
    training = dataclasses.replace(SHORT, steps=6)
    probes = [
        WhiteBox(24, candidates=4, steps=2),
        PartialBlackBox(24, candidates=4, evaluations=20),
        ShadowCritic(6, steps=2),
    ]
    options = QUICK | {"n_models": 16, "training": training, "samples": 30, "queries": queries.Mixed((0.5,))}
    full = gan.play(IMAGES, **options, probes=probes, store=tmp_path)
    poor = critics(n_models=4)
    table = mia.auditing.audit_each({"full": full, "poor": poor}, pool=IMAGES, fprs=())
    rows = set(table[["defense", "attack"]].drop_duplicates().itertuples(index=False, name=None))
    assert {attack for label, attack in rows if label == "full"} == VICTIMS["generator"]
    assert not [attack for label, attack in rows if label == "poor"]
    missing = {(row["defense"], row["attack"]): row["reason"] for row in table.attrs["missing"]}
    assert set(missing) == {("poor", name) for name in VICTIMS["generator"]}
    wanted = {
        "logan": "has no critic",
        "logan_black_box": r"probes=\['shadow_critic'\]",
        "gan_leaks": "samples of each model",
        "gan_leaks_white_box": r"probes=\['white_box'\]",
        "gan_leaks_partial": r"probes=\['partial_black_box'\]",
        "critic_lira": "at least 2 shadow models trained with a record and 2 without it",
        "critic_mixed_pairs": "queries of the kind 'mixed'",
        "co_membership_critic_lira_8": "Attack 'critic_lira' needs at least 2 shadow models",
    }
    for (_, name), reason in missing.items():
        assert reason.startswith("Attack "), "a refusal, not a failure"
        if name in wanted:
            with pytest.raises(RequirementsNotMet, match=wanted[name]):
                raise RequirementsNotMet(reason)
    able, refused = mia.auditing.applicable(full)  # without the pool
    samples = {
        name for name, row in mia.attacks.available("generator").iterrows() if "score" in row["features"]
    }
    assert set(refused["attack"]) == samples
    assert {attack.name for attack in able} == VICTIMS["generator"] - samples


# ----------------------------------------------------------------------------------------------------
# Plain parameters


@pytest.fixture
def no_training(monkeypatch):
    def train_group(*_, **__):
        raise AssertionError("something was trained")

    monkeypatch.setattr(gan_run, "train_group", train_group)


DIGITS = {"size": 40, "reference": 10, "test": 0, "hidden": (8,), "latent": 4, "steps": 4, "n_critic": 2}


def test_settings_are_pool_networks_and_training():
    made = mixup_gan.settings({"digits": DIGITS | {"betas": [0.1, 0.9]}}, seed=3)
    setting = made["digits"]
    assert setting.pool.fingerprint == mia.load("digits", size=40, validation=10, test=0, seed=3).fingerprint
    assert setting.networks == SMALL
    assert setting.training == Training(steps=4, n_critic=2, betas=(0.1, 0.9))
    assert mixup_gan.settings({"digits": {"networks": "conv", "width": 3}})["digits"].networks == Conv(
        width=3
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepps": 3}, r"datasets\['digits'\]='stepps' is unknown. Did you mean 'steps'\? "),
        ({"refrence": 3}, r"datasets\['digits'\]='refrence' is unknown. Did you mean 'reference'\? "),
        ({"width": 3}, r"datasets\['digits'\]='width' is unknown."),
        ({"networks": "con"}, r"datasets\['digits'\]\['networks'\]='con' is unknown. Did you mean 'conv'\?"),
        ({"latent": 0}, "latent=0 must be an integer of at least 1."),
        ({"lr": -1}, "lr=-1 must be greater than 0."),
    ],
)
def test_settings_that_are_unknown_or_wrong(changes, message):
    with pytest.raises(ValueError, match="^" + message):
        mixup_gan.settings({"digits": DIGITS | changes})


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    """Games of several arms, and the folder where they are stored."""
    store = tmp_path_factory.mktemp("arms")
    given = {
        "none": None,
        "mixup": Mixup(alpha=0.5),
        "par_gan": "par_gan",
        "longer": {"training": {"steps": 6}, "networks": {"latent": 5}},
        "own": {"defense": "mixup", "training": Training(steps=3), "samples": 8, "seed": 1},
    }
    setting = mixup_gan.Setting(IMAGES, SMALL, SHORT)
    games = mixup_gan.play_each(setting, given, n_models=2, samples=6, fakes=3, workers=1, store=store)
    assert list(games) == list(given)
    return games, store


@pytest.mark.slow
def test_an_arm_has_its_defense(arms):
    games, _ = arms
    assert [g.attrs["defense"] for g in games.values()] == ["none", "mixup", "par_gan", "none", "mixup"]
    assert games["mixup"].attrs["defense_parameters"]["alpha"] == 0.5


@pytest.mark.slow
def test_an_arm_has_its_training_and_networks(arms):
    games, _ = arms
    assert [g.attrs["training"]["steps"] for g in games.values()] == [4, 4, 4, 6, 3]
    assert [g.attrs["training"]["batch_size"] for g in games.values()] == [8, 8, 8, 8, 64]
    assert "latent=5" in games["longer"].attrs["model"]
    assert games["own"].attrs["model"] == repr(SMALL)


@pytest.mark.slow
def test_an_arm_has_its_samples_and_seed(arms):
    games, _ = arms
    assert [g.n_samples for g in games.values()] == [6, 6, 6, 6, 8]
    assert [g.attrs["seed"] for g in games.values()] == [0, 0, 0, 0, 1]
    assert {g.attrs["fakes"] for g in games.values()} == {3}


@pytest.mark.slow
def test_arms_share_their_memberships(arms):
    games, _ = arms
    for label in ("mixup", "par_gan", "longer"):
        np.testing.assert_array_equal(games[label].member, games["none"].member)


@pytest.mark.slow
def test_an_arm_is_the_game_that_its_parameters_play(arms, trained):
    games, store = arms
    options = QUICK | {"training": dataclasses.replace(SHORT, steps=6), "networks": MLP((8,), latent=5)}
    again = gan.play(IMAGES, **options, store=store)
    np.testing.assert_array_equal(again.critic_loss, games["longer"].critic_loss)
    assert not trained, "the same game"


@pytest.mark.slow
def test_parameters_for_all_arms_may_replace_those_of_the_setting(tmp_path):
    setting = mixup_gan.Setting(IMAGES, SMALL, SHORT)
    arms = {"a": None, "b": {"training": {"steps": 2}}}
    games = mixup_gan.play_each(
        setting, arms, training={"lr": 1e-3}, n_models=2, samples=6, workers=1, store=tmp_path
    )
    told = [(g.attrs["training"]["steps"], g.attrs["training"]["lr"]) for g in games.values()]
    assert told == [(4, 1e-3), (2, 4e-4)]


@pytest.mark.parametrize(
    ("arm", "common", "message"),
    [
        ({"sample": 5}, {}, r"arms\['second'\]='sample' is unknown. Did you mean 'samples'\?"),
        (None, {"fake": 5}, r"arms\['first'\]='fake' is unknown. Did you mean 'fakes'\?"),
        ({"pool": IMAGES}, {}, r"arms\['second'\]='pool' is unknown."),
        (
            {"training": {"step": 5}},
            {},
            r"arms\['second'\]\['training'\]='step' is unknown. Did you mean 'steps'",
        ),
        (
            {"networks": {"latents": 5}},
            {},
            r"arms\['second'\]\['networks'\]='latents' is unknown. Did you mean",
        ),
        ({"training": {"lr": 0}}, {}, "lr=0 must be greater than 0."),
        ({"samples": 0}, {}, "samples=0 must be an integer of at least 1."),
        ("mixupp", {}, r"defense='mixupp' is unknown. Did you mean 'mixup'\?"),
        (None, {"n_models": 3}, "n_models=3 must be even"),
    ],
)
def test_wrong_arms_are_refused_before_any_training(arm, common, message, no_training, fresh_cache):
    setting = mixup_gan.Setting(IMAGES, SMALL, SHORT)
    with pytest.raises(ValueError, match="^" + message):
        mixup_gan.play_each(setting, {"first": None, "second": arm}, **common)
    assert not list(fresh_cache.rglob("*.zarr"))


# ----------------------------------------------------------------------------------------------------
# Wrong parameters


class Wrong(MLP):
    """Networks whose critic answers with two numbers."""

    def critic(self, shape, n_classes):
        """Build a critic of that kind."""
        return Two()


class Two(nn.Module):
    """Two numbers for each record."""

    def forward(self, x, y):
        return torch.zeros(len(x), 2)


class Larger(MLP):
    """Networks whose generator makes other records."""

    def generator(self, shape, n_classes):
        """Build a generator of that kind."""
        return super().generator((*shape, 2), n_classes)


PLAY = [
    ({"networks": "mpl"}, r"networks='mpl' is unknown. Did you mean 'mlp'\? Known: conv, mlp."),
    ({"networks": 5}, "networks=5 is unknown. Known: conv, mlp."),
    (
        {"networks": Wrong()},
        r"networks=.*: the critic answers 2 inputs with shape \(2, 2\); it must be \(2,\).",
    ),
    (
        {"networks": Larger()},
        r"networks=.*: the generator answers 2 inputs with shape \(2, 1, 8, 8, 2\); it must be \(2, 1, 8, 8\).",
    ),
    (
        {"pool": toys.pool("binary"), "networks": "conv"},
        r"Records of shape \(6,\) do not fit networks='conv': it needs images .* use networks='mlp'",
    ),
    ({"pool": toys.pool()}, r"x of pool 'toy' has numbers from .*, but generators make numbers in \[0, 1\]"),
    ({"defense": "mixupp"}, r"defense='mixupp' is unknown. Did you mean 'mixup'\?"),
    ({"defense": 0.5}, "defense=0.5 is unknown. Known: "),
    ({"defense": mia.defenses.HAMP()}, r"defense=HAMP\(.* is unknown. Known: "),
    ({"defense": RelaxLoss()}, ".*level"),
    (
        {"defense": ParGAN(critics=11)},
        "Models have 20 members, for 11 critics; that must be a multiple of 11, at least 22",
    ),
    ({"queries": "mixed"}, "queries='mixed' is unknown. Known: augmented, original."),
    ({"queries": queries.Flips()}, "queries=Flips.* needs binary records; 'toy' has image ones"),
    ({"n_models": 3}, "n_models=3 must be even: models come in pairs"),
    ({"n_models": 2.0}, "n_models=2.0 must be an integer of at least 2."),
    ({"samples": 0}, "samples=0 must be an integer of at least 1."),
    ({"samples": 10.5}, "samples=10.5 must be an integer of at least 1."),
    ({"fakes": 0}, "fakes=0 must be an integer of at least 1."),
    ({"fakes": True}, "fakes=True must be an integer of at least 1."),
    ({"seed": -1}, "seed=-1 must be an integer of at least 0."),
    ({"members": 21}, "members=21 must be at most 20, half of the candidates."),
    ({"members": 1}, "Models have 1 members, for 1 critics; that must be a multiple of 1, at least 2"),
    ({"candidates": np.arange(41)}, "candidates holds indices beyond the pool's 40 records."),
    ({"candidates": np.arange(31)}, "There are 31 records that may be members; complementary halves need"),
    ({"pool": toys.pool("image", n=41)}, "There are 41 records that may be members; complementary halves"),
    ({"probes": "whitebox"}, r"probes='whitebox' is unknown. Did you mean 'white_box'\?"),
    ({"probes": "gradient"}, "probes='gradient' is unknown."),
    ({"probes": [WhiteBox(), "white_box"]}, r"probes=\['white_box', 'white_box'\] holds a probe twice."),
    ({"workers": 0}, "workers=0 must be an integer of at least 1."),
    ({"device": "gpu"}, r"device='gpu' is unknown. .*Known: auto, cpu, cuda."),
]


@pytest.mark.parametrize(("wrong", "message"), PLAY, ids=[f"{[*w][-1]}-{i}" for i, (w, _) in enumerate(PLAY)])
def test_wrong_parameters_of_play(wrong, message, no_training, fresh_cache):
    with pytest.raises(ValueError, match="^" + message) as caught:
        gan.play(**{"pool": IMAGES} | wrong)
    assert "\n" not in str(caught.value)
    assert not list(fresh_cache.rglob("*.zarr"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pool": "digits"}, r"pool is 'digits'; it must be a Pool, e.g. mialab.load\('digits'\)."),
        ({"pool": np.zeros((4, 2))}, "pool is a ndarray; it must be a Pool"),
        (
            {"training": {"steps": 3}},
            r"training={'steps': 3} must be a mialab.gan.Training, e.g. gan.Training",
        ),
        ({"training": mia.Training()}, r"training=Training\(.* must be a mialab.gan.Training"),
    ],
)
def test_wrong_types_of_play(wrong, message, no_training, fresh_cache):
    with pytest.raises(TypeError, match="^" + message):
        gan.play(**{"pool": IMAGES} | wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps=0 must be an integer of at least 1."),
        ({"steps": 5.0}, "steps=5.0 must be an integer of at least 1."),
        ({"stop": 0}, "stop=0 must be an integer of at least 1."),
        ({"stop": 2001}, "stop=2001 must be at most steps=2000."),
        ({"batch_size": 1}, "batch_size=1 must be an integer of at least 2."),
        ({"n_critic": 0}, "n_critic=0 must be an integer of at least 1."),
        (
            {"objective": "wgan"},
            r"objective='wgan' is unknown. Did you mean 'wgan-gp'\? Known: bce, wgan-gp.",
        ),
        ({"penalty": -1}, "penalty=-1 must be at least 0."),
        ({"penalty": float("inf")}, "penalty=inf must be at least 0."),
        ({"lr": 0}, "lr=0 must be greater than 0."),
        ({"lr": "fast"}, "lr='fast' must be greater than 0."),
        ({"betas": 0.9}, r"betas=0.9 must be two numbers, e.g. \(0.5, 0.999\)."),
        ({"betas": (0.9,)}, r"betas=\(0.9,\) must be two numbers"),
        ({"betas": "ab"}, "betas='ab' must be two numbers"),
        ({"betas": ("a", 0.9)}, "betas='a' must be at least 0."),
        ({"betas": (-0.1, 0.9)}, "betas=-0.1 must be at least 0."),
        ({"betas": (0.5, 1.0)}, r"betas=\(0.5, 1.0\) must be less than 1."),
    ],
)
def test_wrong_parameters_of_training(wrong, message):
    with pytest.raises(ValueError, match="^" + message):
        Training(**wrong)


def test_training_keeps_what_it_is_given():
    training = Training(steps=9, stop=4, betas=[0, 0.9])
    assert training.betas == (0.0, 0.9)
    assert (training.last, Training(steps=9).last) == (4, 9)
    assert hash(training) == hash(Training(steps=9, stop=4, betas=(0, 0.9)))


# ----------------------------------------------------------------------------------------------------
# Power and null


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A game of 16 members a model, seen hundreds of times; 68 records are members of none."""
    pool = toys.pool("image", n=100, test=0, validation=20)
    return gan.play(
        pool,
        MLP((64,), latent=4),
        training=Training(steps=600, lr=2e-3, n_critic=10, batch_size=16),
        candidates=np.arange(32),
        n_models=8,
        samples=60,
        workers=1,
        store=tmp_path_factory.mktemp("learned"),
    )


@pytest.mark.slow
def test_members_are_found_after_many_steps(learned):
    """Means over targets of the AUC, with four seeds: LOGAN 0.85 to 0.87, LiRA with a pooled variance 0.96 to 0.99."""
    for name, least in (("logan", 0.7), ("critic_lira_pooled", 0.85), ("critic_lira", 0.75)):
        outcome = mia.attacks.make(name).run(learned)
        assert not outcome.evaluated[:, 32:].any()
        targets = zip(learned.member, outcome.score, outcome.evaluated, strict=True)
        auc = [roc_auc_score(member[seen], score[seen]) for member, score, seen in targets]
        assert np.mean(auc) > least, name
    members = learned.critic_loss[:, 0][learned.member].mean()
    assert members < learned.critic_loss[:, 0][~learned.member].mean(), "lower for members"


@pytest.mark.slow
def test_records_of_no_model_look_like_those_of_other_models(learned):
    """Non-members and records outside of all candidates are drawn alike, given the members of a model.

    So the p-value of each model is exact; by chance one of the two tests below fails once in 500 times at most.
    """
    outside, p = np.arange(100) >= 32, []
    for answers in (learned.critic[:, 0], -learned.critic_loss[:, 0]):
        for k in range(8):
            others = ~outside & ~learned.member[k]
            p.append(mannwhitneyu(answers[k, others], answers[k, outside]).pvalue)
            assert roc_auc_score(~learned.member[k], -answers[k]) > 0.4
    assert min(p) > 1e-3 / 8


@dataclass(frozen=True)
class Guarded(MLP):
    """Networks that write down whether another thread could seed torch's generator while they are built."""

    free: list = field(default_factory=list, compare=False)

    def _built(self, network):
        with ThreadPoolExecutor(1) as other:
            self.free.append(other.submit(stack._CHANCE.acquire, blocking=False).result())
        return network

    def critic(self, shape, n_classes):
        """Build a critic."""
        return self._built(super().critic(shape, n_classes))

    def generator(self, shape, n_classes):
        """Build a generator."""
        return self._built(super().generator(shape, n_classes))


@pytest.mark.slow
def test_networks_are_built_while_no_other_thread_draws_from_torchs_generator(tmp_path):
    nets = Guarded((4,), latent=2)
    gan.play(
        toys.pool("image", n=20),
        nets,
        gan.defenses.DPCritic(noise_multiplier=30.0),
        training=gan.Training(steps=2, batch_size=4),
        n_models=2,
        samples=6,
        fakes=2,
        store=tmp_path,
    )
    assert len(nets.free) > 8
    assert not any(nets.free)
