"""A third kind of models, least-squares regressors, takes its plan, its training and its signal alone."""

import dataclasses

import numpy as np
import pytest
import toys

from mialab.arrays import ArraySpec
from mialab.defenses.base import DEFENSES
from mialab.games.base import Game
from mialab.games.execution import execute
from mialab.games.identity import describe
from mialab.games.plan import STORED, Plan
from mialab.games.signals import Signal
from mialab.probes import PROBES

LOSS = ArraySpec("squared_error", ("model", "query", "record"), low=0, optional="query")


class RegressorGame(Game):
    """Regressors and their squared errors, lower for members."""

    victim = "regressor"
    arrays = (LOSS,)
    signals = {"squared_error": Signal(LOSS, -1)}  # noqa: RUF012


@dataclasses.dataclass(frozen=True)
class Ridge:
    """How a regressor is trained."""

    penalty: float = 1e-6


def train_group(models, *, pool, y, member, training, device):
    """Fit each model to the labels of its members."""
    x = np.c_[pool.x, np.ones(len(pool))].astype(np.float64)
    errors = np.empty((len(models), 1, len(pool)))
    for k, row in enumerate(member):
        inside = x[row]
        weights = np.linalg.solve(
            inside.T @ inside + training.penalty * np.eye(x.shape[1]), inside.T @ y[row]
        )
        errors[k] = (x @ weights - y) ** 2
    return {"squared_error": errors, "seconds": np.zeros(len(models))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegressorPlan(Plan):
    """Everything that determines a game of regressors."""

    example = "Ridge"
    options_class = Ridge
    defenses = DEFENSES
    known_probes = PROBES
    needs = ("training",)

    def arrays(self):
        return (*STORED, LOSS)

    @property
    def train_group(self):
        return train_group

    def seconds_of_work(self):
        return 1e-3

    def code(self):
        return describe(train_group)


def play(store, **changes):
    plan = RegressorPlan(**{"pool": toys.pool(n=40, features=12), "n_models": 6} | changes)
    return RegressorGame(execute(plan, workers=1, device="cpu", store=store))


def test_a_third_kind_of_models_is_played_resumed_and_attacked(tmp_path, monkeypatch):
    trained = []
    stops = iter([False, False, True, *20 * [False]])

    def stopping(models, **options):
        if next(stops):
            raise KeyboardInterrupt
        trained.extend(models)
        return train_group(models, **options)

    monkeypatch.setattr(RegressorPlan, "train_group", property(lambda self: stopping))
    with pytest.raises(KeyboardInterrupt):
        play(tmp_path)
    game = play(tmp_path)
    assert trained == [0, 1, 2, 3, 4, 5]
    assert play(tmp_path).dataset.equals(game.dataset)
    assert trained == [0, 1, 2, 3, 4, 5]
    assert play(tmp_path, training=Ridge(1.0)).n_models == 6
    assert len(trained) == 12
    signal = game.signal("squared_error")
    assert signal.shape == (6, 1, 40)
    # With 20 members for 13 weights, every model fits its members better than the others.
    for own, member in zip(signal[:, 0], game.member, strict=True):
        assert own[member].mean() > own[~member].mean()
    again = RegressorGame.from_arrays(member=game.member, squared_error=game.squared_error[:, 0], y=game.y)
    np.testing.assert_array_equal(again.signal("squared_error"), signal)
    assert game.subset(2).of_records(np.arange(5)).squared_error.shape == (2, 1, 5)
