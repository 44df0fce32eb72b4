"""Doors for what people hold: probabilities, labels, losses, scores, lists of members, files, estimators, factories."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
import toys
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

import mialab as mia
from mialab.auditing.own import audit_possible
from mialab.games.base import complements, mask_of

X, Y = load_digits(return_X_y=True)
X = X.astype(np.float32)
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 2, 40, 3))
P = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
LABELS = RNG.integers(3, size=40)
MEMBER = mia.membership(4, 40, 0)


@pytest.fixture
def games(tmp_path, monkeypatch):
    """Keep games in a folder of this test's."""
    monkeypatch.setenv("MIALAB_GAMES", str(tmp_path / "games"))
    return tmp_path / "games"


def test_probabilities_are_the_logits_they_come_from():
    game = mia.Game.from_arrays(probabilities=P, member=MEMBER, y=LABELS)
    same = mia.Game.from_arrays(logits=LOGITS, member=MEMBER, y=LABELS)
    for name in ("loss", "scaled_logit", "modified_entropy", "true_rank"):
        np.testing.assert_allclose(game.signal(name), same.signal(name), atol=1e-9)
    assert (game.attrs["floor"], game.attrs["answers_at_floor"]) == (1e-6, 0)


def test_the_floor_decides_about_sure_answers_and_is_stated():
    sure = np.where(P.max(-1, keepdims=True) == P, 1.0, 0.0)
    low, high = (
        mia.Game.from_arrays(probabilities=sure, member=MEMBER, y=LABELS, floor=f) for f in (1e-6, 1e-3)
    )
    assert low.signal("loss").min() == pytest.approx(np.log(1e-6), rel=1e-3)
    assert high.signal("loss").min() == pytest.approx(np.log(1e-3), rel=1e-3)
    assert low.attrs["answers_at_floor"] == 1
    assert "within 1e-06 of 0 or 1" in " ".join(audit_possible(low, ["loss"]).attrs["advice"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"probabilities": LOGITS},
            r"probabilities must hold numbers from 0 to 1.*logits are given as logits=",
        ),
        ({"probabilities": P / 2}, "probabilities add up to 0.5 to 0.5 over the labels"),
        ({"logits": P}, "logits are probabilities: none.*give them as probabilities="),
        ({"logits": LOGITS, "probabilities": P}, "logits and probabilities are both given"),
        ({"probabilities": P, "floor": 0}, "floor=0"),
        ({"probabilities": P[:, :, :30]}, r"probabilities has shape \(4, 2, 30, 3\)"),
        ({"labels": LOGITS[..., 0]}, "labels must hold integers"),
        ({"labels": np.full((4, 40), 7), "n_classes": 3}, "labels must hold integers from 0 to 2"),
        ({"score": np.full((4, 40), np.nan)}, "score has 160 values that are not finite"),
    ],
)
def test_what_does_not_fit_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        mia.Game.from_arrays(**given, member=MEMBER, y=LABELS)


def test_labels_alone_serve_attackers_who_see_labels():
    game = mia.Game.from_arrays(labels=P.argmax(-1), member=MEMBER, y=LABELS)
    same = mia.Game.from_arrays(logits=LOGITS, member=MEMBER, y=LABELS)
    np.testing.assert_array_equal(game.signal("correctness"), same.signal("correctness"))
    table = audit_possible(game)
    assert {"correctness", "label_only"} <= set(table["attack"].str.removesuffix("_known_half"))
    assert "lira" in table.attrs["refused"]


def test_one_score_a_record_is_enough_for_lira():
    """A score that is 1 higher for members, 16 models: the attacks that compare records find it."""
    member = mia.membership(16, 200, 1)
    base = RNG.normal(0, 3, 200)
    score = base + member + 0.3 * RNG.normal(size=member.shape)
    table = audit_possible(mia.Game.from_arrays(score=score, member=member))
    assert table.interval("lira_score", "auc").low > 0.9
    assert table.interval("score", "auc").high < 0.8


@given(st.integers(1, 6), st.integers(2, 50), st.integers(0, 99))
def test_lists_of_members_are_masks(models, n, seed):
    mask = np.random.default_rng(seed).random((models, n)) < 0.5
    mask[:, 0] = True
    np.testing.assert_array_equal(mask_of([np.flatnonzero(row) for row in mask], n), mask)


def test_lists_of_members_make_the_same_game():
    lists = [np.flatnonzero(row).tolist() for row in MEMBER]
    for answers in ({"logits": LOGITS}, {"logits": LOGITS[:, 0]}, {"loss": np.ones((4, 40))}):
        game = mia.Game.from_arrays(members=lists, y=LABELS, **answers)
        np.testing.assert_array_equal(game.member, MEMBER)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([[0, 1], [2, 40]], r"members\[1\] holds places from 2 to 40, 0 of them twice"),
        ([[0, 0], [2, 3]], r"members\[0\] holds places from 0 to 0, 1 of them twice"),
        ([[0.5], [2]], r"members\[0\] must be a list of integers"),
        ([[], [2]], r"members\[0\] must be a list of integers"),
    ],
)
def test_odd_lists_of_members_are_refused(members, message):
    with pytest.raises(ValueError, match=message):
        mia.Game.from_arrays(members=members, loss=np.ones((2, 40)))
    with pytest.raises(ValueError, match="Both member and members are given"):
        mia.Game.from_arrays(member=MEMBER, members=members, loss=np.ones((2, 40)))


@given(st.integers(0, 99), st.integers(1, 8))
def test_partners_are_found_in_any_order(seed, pairs):
    rng = np.random.default_rng(seed)
    member = mia.membership(2 * pairs, 80, seed)
    order = rng.permutation(2 * pairs)
    member = np.concatenate([member[order], np.zeros((2 * pairs, 7), bool)], axis=1)  # and records of nobody
    partner = complements(member)
    assert (member[partner] == ~member & member.any(0)).all()
    assert (partner[partner] == np.arange(2 * pairs)).all()
    assert (complements(rng.random((9, 80)) < 0.5) == -1).all()
    assert (complements(member[:, :31]) == -1).all()  # that might be chance
    assert (complements(np.concatenate([member, member[:1]])) == -1).all()  # one is left alone
    assert (complements(np.stack([member[0], np.zeros_like(member[0])])) == -1).all()  # a model of nobody


def test_a_game_without_a_word_about_partners_has_them():
    member = mia.membership(4, 40, 3)
    game = mia.Game.from_arrays(loss=np.ones((4, 40)), member=member)
    assert game.partner.tolist() == [1, 0, 3, 2]
    game = mia.Game.from_arrays(loss=np.ones((4, 40)), member=member, partner=np.full(4, -1))
    assert game.partner.tolist() == [-1] * 4


# ------------------------------------------------------------------------------------------ files


def same_answers(game, name="logits"):
    np.testing.assert_allclose(getattr(game, name), LOGITS[:, : game.n_queries], atol=1e-6)
    np.testing.assert_array_equal(game.member, MEMBER)
    np.testing.assert_array_equal(game.y, LABELS)
    assert game.partner.tolist() == [1, 0, 3, 2]


def test_npz_and_zarr(tmp_path):
    np.savez(tmp_path / "a.npz", logits=LOGITS, member=MEMBER, y=LABELS)
    same_answers(mia.read_game(tmp_path / "a.npz"))
    held = xr.Dataset(
        {"logits": (("m", "q", "r", "c"), LOGITS), "member": (("m", "r"), MEMBER), "y": ("r", LABELS)}
    )
    held.to_zarr(tmp_path / "b.zarr", consolidated=False)
    same_answers(mia.read_game(tmp_path / "b.zarr"))
    np.savez(tmp_path / "c.npz", logits=LOGITS, member=MEMBER)
    np.save(tmp_path / "y.npy", LABELS)
    same_answers(mia.read_game(tmp_path / "c.npz", y=tmp_path / "y.npy"))


def test_a_stored_game_is_read_where_it_lies(games):
    game = mia.play(toys.pool(), mia.models.MLP(hidden=(4,)), training=mia.Training(epochs=1), n_models=4)
    (stored,) = games.glob("*.zarr")
    again = mia.read_game(stored)
    np.testing.assert_array_equal(again.logits, game.logits)
    assert again.attrs["defense"] == "none"
    assert again.n_models == 4
    assert zarr.open_group(stored, mode="r")["member"].shape[0] > 4


def table_of(**columns):
    models, records = np.meshgrid(np.arange(4), np.arange(40), indexing="ij")
    about = {"model": models, "record": records, "member": MEMBER.astype(int), "y": np.tile(LABELS, (4, 1))}
    return pd.DataFrame({name: np.asarray(value).ravel() for name, value in (about | columns).items()})


def test_csv(tmp_path):
    file = tmp_path / "a.csv"
    columns = {f"logit_{c}": LOGITS[:, 0, :, c] for c in range(3)}
    table_of(**columns).sample(frac=1, random_state=0).to_csv(file, index=False)
    same_answers(mia.read_game(file))
    table_of(**{f"probability_{c}": P[:, 0, :, c] for c in range(3)}).to_csv(file, index=False)
    np.testing.assert_allclose(mia.read_game(file).logits, np.log(P[:, :1]), atol=1e-9)
    one = table_of(loss=P[:, 0, :, 0]).query("model == 0").drop(columns=["model", "record"])
    one.to_csv(file, index=False)
    game = mia.read_game(file)
    np.testing.assert_allclose(game.loss[0, 0], P[0, 0, :, 0])
    assert game.member.shape == (1, 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="member"), "no column 'member'"),
        (lambda t: t.drop(columns="record"), "a column 'record' must say"),
        (lambda t: t.iloc[1:], "has 159 rows; 4 models and 40 records need 160"),
        (lambda t: pd.concat([t, t[:2]]), "has 2 rows for models and records that it had before"),
        (lambda t: t.assign(y=np.arange(160) % 3), "y of a record differs between models"),
        (lambda t: t.rename(columns={"loss": "lose"}), "'lose' is unknown. Did you mean 'loss'"),
        (lambda t: t.assign(loss=[np.nan] + [1.0] * 159), "empty cells in loss"),
        (lambda t: t.assign(logit_0=0.0, logit_2=0.0), "the labels \\[0, 2\\]; they must be 0, 1"),
    ],
)
def test_odd_csv_is_refused(tmp_path, change, message):
    file = tmp_path / "odd.csv"
    change(table_of(loss=P[:, 0, :, 0])).to_csv(file, index=False)
    with pytest.raises(ValueError, match=f"odd.csv.*{message}"):
        mia.read_game(file)


def test_files_of_the_published_code_of_lira(tmp_path):
    for k in range(4):
        folder = tmp_path / f"experiment-{k}_4"
        (folder / "logits").mkdir(parents=True)
        np.save(folder / "keep.npy", MEMBER[k])
        for step, scale in ((10, 0), (100, 1)):
            np.save(folder / "logits" / f"{step:010d}.npy", scale * LOGITS[k].transpose(1, 0, 2)[:, None])
    np.save(tmp_path / "y_train.npy", LABELS)
    game = mia.read_game(tmp_path)
    same_answers(game)
    assert game.n_queries == 2
    np.save(folder / "logits" / "0000000200.npy", LOGITS[0].transpose(1, 0, 2)[:30, None])
    with pytest.raises(ValueError, match=r"0000000200.npy has shape \(30, 2, 3\)"):
        mia.read_game(tmp_path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        mia.read_game(tmp_path / "gone.npz")
    (tmp_path / "a.txt").write_text("1")
    with pytest.raises(ValueError, match=r"must be .npz, .zarr or .csv"):
        mia.read_game(tmp_path / "a.txt")
    with pytest.raises(ValueError, match=r"holds no <experiment>/keep.npy"):
        mia.read_game(tmp_path)
    np.savez(tmp_path / "c.npz", logits=LOGITS)
    with pytest.raises(ValueError, match=r"c.npz: Neither member nor members"):
        mia.read_game(tmp_path / "c.npz")


# ------------------------------------------------------------------------------------------ estimators


def digits(n=200, test=50):
    order = np.random.default_rng(0).permutation(len(Y))
    part, other = order[:n], order[n : n + test]
    y = Y.astype(np.int64)
    held = {"x_test": X[other], "y_test": y[other]} if test else {}
    return mia.Pool("digits_part", x=X[part], y=y[part], n_classes=10, kind="tabular", **held)


def test_a_game_of_estimators_is_that_of_their_clones(games):
    pool = digits()
    model = RandomForestClassifier(10)
    game = mia.play(pool, model, n_models=4)
    again = mia.play(pool, copy.deepcopy(model), n_models=6, workers=1)
    np.testing.assert_array_equal(again.logits[:4], game.logits)  # it grows
    assert len(list(games.glob("*.zarr"))) == 1
    assert game.attrs["model"] == "RandomForestClassifier(n_estimators=10)"
    assert (game.train_accuracy > game.test_accuracy).all()
    assert model.random_state is None
    assert len({own.tobytes() for own in game.logits}) == 4
    other = mia.play(pool, RandomForestClassifier(11), n_models=2)
    assert not np.array_equal(other.logits, game.logits[:2])
    fixed = DecisionTreeClassifier(random_state=0)
    member = mia.play(pool, fixed, n_models=2).member[0]
    direct = copy.deepcopy(fixed).fit(pool.x[member], pool.y[member]).predict(pool.x)
    np.testing.assert_array_equal(mia.play(pool, fixed, n_models=2).logits[0, 0].argmax(-1), direct)


def test_estimators_within_others_and_other_options(games):
    pool = digits(80, 0)
    deep = make_pipeline(StandardScaler(), RandomForestClassifier(3))
    one, two = (mia.play(pool, deep, n_models=2, seed=seed) for seed in (0, 1))
    assert not np.array_equal(one.member, two.member)
    assert np.isnan(one.test_accuracy).all()
    scores = mia.play(pool, deep, n_models=2, keep="scores")
    np.testing.assert_allclose(scores.signal("loss"), one.signal("loss"), rtol=1e-5)
    noisy = mia.play(pool, deep, n_models=2, queries=mia.queries.Noise(n=2), answers="float16")
    assert noisy.logits.shape == (2, 3, 80, 10)
    assert noisy.logits.dtype == np.float16


def test_a_class_without_members_is_improbable_and_no_error(games):
    pool = digits(40, 0)
    y = pool.y.copy()
    y[:] = np.arange(40) % 5
    y[0] = 9  # of which half of the models see no member
    pool = mia.Pool("rare", x=pool.x, y=y, n_classes=10, kind="tabular")
    game = mia.play(pool, DecisionTreeClassifier(), n_models=2)
    without = int(np.flatnonzero(~game.member[:, 0])[0])
    assert game.logits[without, 0, :, 9].max() == pytest.approx(np.log(1e-6), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"defense": "label_smoothing"},
            ValueError,
            "defense='label_smoothing' changes how networks are trained",
        ),
        ({"training": mia.Training()}, TypeError, "must be a None, as an estimator's own parameters"),
        ({"probes": ["gradient"]}, ValueError, "measure networks"),
        ({"device": "cuda"}, ValueError, "device='cuda'"),
        ({"n_models": 3}, ValueError, "must be even"),
    ],
)
def test_what_estimators_have_not_is_refused(options, error, message, games):
    with pytest.raises(error, match=message):
        mia.play(digits(40, 0), DecisionTreeClassifier(), **{"n_models": 2} | options)


def test_networks_from_functions_of_nothing(games):
    pool = digits(40, 0)

    def build():
        return torch.nn.Linear(64, 10)

    game = mia.play(pool, build, n_models=2, training=mia.Training(epochs=2))
    same = mia.play(
        pool, lambda shape, n: torch.nn.Linear(64, 10), n_models=2, training=mia.Training(epochs=2)
    )
    np.testing.assert_array_equal(game.logits, same.logits)
    assert "build" in game.attrs["model"]
    with pytest.raises(TypeError, match="is one network, and each model of a game needs a new one"):
        mia.play(pool, torch.nn.Linear(64, 10), n_models=2)
    with pytest.raises(TypeError, match=r"must be a function of .shape, n_classes., or of nothing"):
        mia.play(pool, lambda a, b, c: None, n_models=2)


# ------------------------------------------------------------------------------------------ one's own target


def test_a_target_of_ones_own_against_shadow_models(games):
    """A boosted model that knows its members, 16 shadow models: LiRA finds more than the loss."""
    order = np.random.default_rng(1).permutation(len(Y))
    known, others = order[:200], order[200:400]
    model = HistGradientBoostingClassifier(max_iter=20, random_state=0).fit(X[known], Y[known])
    sides = (X[known], Y[known]), (X[others], Y[others])
    table = mia.audit_model(model, *sides, shadows=8, fprs=(0.1,), attacks=["loss", "rmia", "lira"])
    alone = mia.audit_model(model, *sides, fprs=(0.1,))
    assert table.interval("rmia", "auc").low > 0.6
    assert "no shadow models" not in " ".join(table.attrs["advice"])
    assert "no shadow models" in " ".join(alone.attrs["advice"])
    with pytest.raises(ValueError, match="build is missing"):
        mia.audit_model(model.predict_proba, *sides, shadows=8)
    with pytest.raises(ValueError, match="are 399 records"):
        mia.audit_model(model, (X[known][1:], Y[known][1:]), sides[1], shadows=8)


def test_targets_from_elsewhere_get_shadow_models_from_play(games):
    pool = digits(100, 0)
    shadows = mia.play(pool, DecisionTreeClassifier(max_depth=4), n_models=8, seed=5)
    targets = mia.Game.from_arrays(logits=shadows.logits[:3], member=~shadows.member[:3], y=pool.y)
    game = targets.with_shadows(shadows)
    assert game.shadow.tolist() == [False] * 3 + [True] * 8
    assert game.candidate.all()
    assert game.outcome("lira").evaluated[:3].any()
    with pytest.raises(ValueError, match="other records"):
        targets.of_records(np.arange(50)).with_shadows(shadows)
    two = mia.Game.from_arrays(
        logits=np.repeat(shadows.logits[:1], 2, axis=1), member=~shadows.member[:1], y=pool.y
    )
    with pytest.raises(ValueError, match="shadows have 1 queries and the targets 2"):
        two.with_shadows(shadows)


def test_a_search_looks_at_leakage_too():
    from sklearn.model_selection import GridSearchCV

    scoring = {"accuracy": "accuracy", "privacy": mia.auditing.leakage_scorer(X[:600], Y[:600])}
    search = GridSearchCV(
        DecisionTreeClassifier(random_state=0), {"max_depth": [2, 30]}, cv=2, scoring=scoring, refit="privacy"
    )
    search.fit(X[:600], Y[:600])
    shallow, deep = search.cv_results_["mean_test_privacy"]
    assert deep < shallow < -0.4
    assert search.best_params_ == {"max_depth": 2}
    with pytest.raises(ValueError, match="none of x"):
        scoring["privacy"](search.best_estimator_, X[:5] + 0.5, Y[:5])
    with pytest.raises(ValueError, match="all records are held out"):
        scoring["privacy"](search.best_estimator_, X[:600], Y[:600])
