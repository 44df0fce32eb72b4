import numpy as np
import pandas as pd
import pytest
from scipy import stats

import mialab as mia
from mialab.training.membership import membership


def make_game(strength, seed=0, n_models=8, n_records=200, **about):
    """Logits of two classes; the label's is raised by `strength` where the record is a member."""
    rng = np.random.default_rng(1)  # the same noise in every game
    member = membership(n_models, n_records, seed)
    logits = rng.normal(size=(n_models, n_records, 2)) + rng.normal(size=(n_records, 2))
    logits[..., 0] += strength * member
    return mia.Game.from_arrays(
        logits=logits,
        member=member,
        y=np.zeros(n_records, int),
        partner=np.arange(n_models) ^ 1,
        train_accuracy=np.full(n_models, 0.9),
        test_accuracy=0.5 + strength / 10 + np.tile([0.01, -0.01], n_models // 2),
        **about,
    )


def test_difference_of_games_is_the_difference_of_their_pooled_figures():
    weak, strong = make_game(0.3), make_game(1.5)
    options = {"fprs": (0.05,), "fnrs": (0.05,)}
    a, b = (mia.audit(g, ["loss"], **options) for g in (strong, weak))
    for metric in ("auc", "tpr@0.05", "tnr@0.05", "balanced_accuracy"):
        found = mia.difference((strong, "loss"), (weak, "loss"), metric=metric)
        expected = a.interval("loss", metric).value - b.interval("loss", metric).value
        assert found.value == pytest.approx(expected)
        assert found.low <= found.value <= found.high
    assert mia.difference((strong, "loss"), (weak, "loss")).low > 0
    # Paired: the two games share their noise, so the difference is surer than either figure.
    found = mia.difference((strong, "loss"), (weak, "loss"))
    alone = b.interval("loss", "auc")
    assert found.high - found.low < alone.high - alone.low


def test_difference_between_attacks_on_some_records():
    game = make_game(1.0)
    found = mia.difference((game, "loss"), (game, "confidence"), records=np.arange(100))
    assert found == (0, 0, 0)  # the confidence is a monotone function of the loss


def test_difference_of_accuracies():
    found = mia.difference((make_game(1.0), None), (make_game(0.0), None), metric="test_accuracy")
    np.testing.assert_allclose(found, 0.1)  # paired over models: the spread between them cancels


def test_accuracies_vary_with_test_records_too():
    """Eight models that agree on every one of 100 test records know no more than one of them."""
    correct = np.tile(np.arange(100) < 80, (16, 1))
    game = make_game(1.0, n_models=16, test_correct=correct)
    interval = mia.auditing.mean_test_accuracy(game)
    assert interval.value == pytest.approx(0.8)
    exact = stats.binomtest(80, 100).proportion_ci(method="wilson")
    assert interval[1:] == pytest.approx(tuple(exact), abs=0.02)
    # What both games have in common cancels: only ten records differ.
    better = make_game(1.0, n_models=16, test_correct=np.tile(np.arange(100) < 90, (16, 1)))
    found = mia.difference((better, None), (game, None), metric="test_accuracy")
    assert found.value == pytest.approx(0.1)
    assert found.low > 0.03
    assert found.n_pairs == 8


def test_shadow_models_have_no_part_in_what_is_said_of_targets():
    """Pairs of shadow models between those of targets count neither as pairs nor in the accuracy."""
    shadow = np.repeat([True, False, True, False, False, True, False, False], 2)
    correct = np.where(shadow[:, None], False, np.arange(100) < 80)
    game = make_game(1.0, n_models=16, shadow=shadow, test_correct=correct)
    interval = mia.auditing.mean_test_accuracy(game)
    assert (interval.value, interval.n_pairs) == (pytest.approx(0.8), 5)
    table = mia.audit(game, ["loss"], fprs=(), fnrs=())
    assert table.attrs["pairs"] == {"loss": 5}
    assert table.interval("loss", "auc").n_pairs == 5


def test_what_cannot_be_compared():
    game = make_game(1.0)
    with pytest.raises(ValueError, match="different members"):
        mia.difference((game, "loss"), (make_game(1.0, seed=5), "loss"))
    assert np.isnan(mia.difference((game, "loss"), (game, "loss"), metric="tpr@0.001")).all()
    with pytest.raises(ValueError, match="Did you mean 'balanced_accuracy'"):
        mia.difference((game, "loss"), (game, "loss"), metric="balancd_accuracy")
    with pytest.raises(ValueError, match="no output step"):
        mia.auditing.changed_predictions(game)


def test_changed_predictions():
    game = make_game(1.0)
    changed = game.logits.copy()
    changed[0, 0, :3] = changed[0, 0, :3, ::-1]
    released = mia.Game.from_arrays(logits=changed, raw_logits=game.logits, member=game.member, y=game.y)
    found = mia.auditing.changed_predictions(released)
    assert found.value == 3 / (8 * 200)
    assert 0 < found.low < found.value < found.high < 0.01


def test_accuracy_table():
    table = mia.auditing.accuracy({"none": make_game(1.0), "hamp": make_game(0.0)})
    assert list(table.index) == ["none", "hamp"]
    assert table.loc["none", "test accuracy"].startswith("0.600 [0.")
    assert table.loc["hamp", "gap"].startswith("0.400 [0.")
    assert list(table.columns) == ["models", "members", "test accuracy", "gap"]


def test_the_accuracy_table_says_which_epsilon_is_proven():
    games = {"none": make_game(1.0), "dp_sgd": make_game(0.0)}
    games["dp_sgd"].attrs["report"] = {"epsilon": 1.0, "epsilon_prv": 1.0, "epsilon_rdp": 1.2, "delta": 1e-5}
    table = mia.auditing.accuracy(games)
    assert dict(table["proven epsilon"]) == {"none": "none", "dp_sgd": "PRV 1, RDP 1.2, delta 1e-05"}


def test_pooled_figure_of_one_defense():
    tables = {name: mia.audit(make_game(s), ["loss"]) for name, s in (("none", 1.0), ("hamp", 0.1))}
    both = mia.compare(tables)
    for name, table in tables.items():
        assert both.interval("loss", "auc", defense=name) == table.interval("loss", "auc")
    with pytest.raises(ValueError, match="defense=None is unknown"):
        both.interval("loss", "auc")


# ------------------------------------------------------------------- values of saved tables, which know no pairs


def worst(n_pairs):
    rows = [
        ("a", "none", epoch, "loss", "auc", value, value - 0.1, value + half)
        for epoch, value, half in ((1, 0.9, 0.1), (5, 0.7, 0.05))
    ]
    rows.append(("b", "none", 3, "loss", "auc", 0.6, 0.4, 0.8))
    columns = ["dataset", "defense", "epoch", "attack", "metric", "value", "low", "high"]
    frame = pd.DataFrame(rows, columns=columns)
    return mia.chapters.adamixup.worst(frame, "loss", "auc", "none", n_pairs=n_pairs)


def shift(n_pairs):
    columns = ["defense", "of", "part", "quantity", "value", "low", "high", "pairs"]
    rows = [
        ("mixup", "members", 0, "ratio falls", 0.7, 0.6, 0.8, 160),
        ("mixup", "members", 0, "loss rises", 0.1, 0.0, 0.2, 160),
    ]
    frame = pd.DataFrame(rows, columns=columns)
    return mia.chapters.mixup_gan.shift(frame, "mixup", "members", n_pairs=n_pairs)


@pytest.mark.parametrize(("read", "ends"), [(worst, (0.7, 0.6, 0.8)), (shift, (0.7, 0.6, 0.8))])
def test_values_of_saved_tables_have_the_degrees_of_freedom_of_their_pairs(read, ends):
    for n_pairs, df in ((None, np.inf), (8, 7), (2, 1), (1, 1)):
        found = read(n_pairs)
        assert tuple(found) == pytest.approx(ends)
        assert (found.n_pairs, found.df) == (n_pairs, df)
    # By hand: the lower half of the interval is a quantile at .975 times the standard error, 1 / 10.
    for n_pairs, law in ((8, stats.t(7)), (None, stats.norm)):
        error = 0.1 / law.ppf(0.975)
        assert read(n_pairs).p_value(0.5, "above") == pytest.approx(law.sf(0.2 / error), rel=1e-6)
