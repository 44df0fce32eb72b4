"""The time that defenses cost: ratios by hand, of games that were played, and what is refused."""

import pytest
import toys

import mialab as mia
from mialab.auditing import training_cost
from mialab.classifiers.game import Game
from mialab.defenses import SELENA
from mialab.models import MLP


def timed(*seconds, device="cpu"):
    game = toys.random_game(n_models=len(seconds))
    return Game(game.dataset.assign(seconds=("model", list(seconds))).assign_attrs(device=device))


def test_ratios_by_hand():
    table = training_cost({"a": timed(1, 2, 3, 6), "plain": timed(1, 3)}, baseline="plain")
    assert table["models"].to_dict() == {"a": 4, "plain": 2}
    assert table["seconds"].to_dict() == {"a": 3, "plain": 2}
    assert table["relative_cost"].to_dict() == {"a": 1.5, "plain": 1}


@pytest.mark.slow
def test_five_sub_models_cost_more_than_one_training():
    # Of 4 whole trainings in all; a busy machine would have to be twice as slow for one game as for the other.
    training = mia.Training(epochs=40, batch_size=4)
    mia.play(
        toys.pool(), MLP((8,)), training=mia.Training(epochs=1), n_models=2
    )  # what the first game takes longer
    games = {
        name: mia.play(toys.pool(), MLP((8,)), defense, training=training, n_models=2)
        for name, defense in {"none": None, "selena": SELENA(5, 2)}.items()
    }
    assert training_cost(games).loc["selena", "relative_cost"] > 2


def test_refusals():
    with pytest.raises(ValueError, match=r"baseline='non' is unknown. Did you mean 'none'"):
        training_cost({"none": timed(1, 1)}, baseline="non")
    with pytest.raises(ValueError, match=r"games\['a'\] keeps no seconds"):
        training_cost({"none": timed(1, 1), "a": toys.random_game()})
    with pytest.raises(ValueError, match=r"games\['a'\] was trained on 'cuda', 'none' on 'cpu'"):
        training_cost({"none": timed(1, 1), "a": timed(1, 1, device="cuda")})
