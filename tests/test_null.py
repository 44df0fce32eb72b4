"""Where there is nothing to find, every attack must find nothing.

Answers, labels and memberships are drawn independently of each other, and every attack is run on many such games,
with few models, so that any tell-tale in the choice of shadow models would show. If all is well, the probability
that any of the comparisons with 1/2 in this file fails is at most 1 in 1,000 (Student's t over independent games,
Bonferroni over attacks, memberships and measures).
"""

import dataclasses
from functools import cache

import numpy as np
import pytest
from scipy.stats import rankdata
from scipy.stats import t as student
from toys import random_game

import mialab as mia

ALARM = 1e-3
N_GAMES = 20
N_LEARNED = 8  # games for attacks that train networks; Student's limits allow for it
DESIGNS = ["paired", "balanced", "random"]
ATTACKS = {
    f"{attack.name}-{calibrate}": dataclasses.replace(attack, calibrate=calibrate)
    for attack in map(mia.attacks.make, mia.attacks.available().index)
    if not attack.needs.pool
    for calibrate in attack.calibrations
}
N_COMPARISONS = 2 * len(ATTACKS) * len(DESIGNS)


@cache
def random_games(design, n_models, n_mixed=0):
    options = {"n_models": n_models, "n_records": 80, "n_queries": 3, "n_mixed": n_mixed}
    return [random_game(design, **options, seed=seed) for seed in range(N_GAMES)]


def null_games(attack, design):
    """Return games that an attack accepts, of no more models than it takes."""
    if "mixed" in attack.needs.kinds:  # only a quarter of the models were trained on both records of a pair
        return random_games(design, 24, n_mixed=2)
    # Coin flips need more models: of 8, some records would have fewer than 3 on a side. Thrown again for these, coins
    # tell of each other, which does not matter to attacks on each model alone.
    alone = attack.needs.shadows == "none" and attack.calibrate != "shadows"
    return random_games(design, 24 if design == "random" and not alone else 8)


def measure(attack, game) -> tuple[float, float]:
    """Return AUC and balanced accuracy of an attack on a game, each the mean over targets."""
    outcome = attack.run(game)
    auc, accuracy = [], []
    for k in range(game.n_models):
        seen = outcome.evaluated[k]
        member, score, predicted_member = (
            a[k, seen] for a in (game.member, outcome.score, outcome.predicted_member)
        )
        rank = rankdata(score)[member]
        auc.append((rank.mean() - (rank.size + 1) / 2) / (~member).sum())
        accuracy.append((predicted_member[member].mean() + 1 - predicted_member[~member].mean()) / 2)
    return float(np.mean(auc)), float(np.mean(accuracy))


def excess(values) -> float:
    """Distance of the mean from 1/2 in units of what chance allows: above 1 is an alarm."""
    limit = student.isf(ALARM / N_COMPARISONS / 2, len(values) - 1)
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return abs(np.mean(values) - 0.5) / (limit * error + 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_is_found_where_there_is_nothing(attack, design):
    attack = ATTACKS[attack]
    games = null_games(attack, design)[: N_LEARNED if attack.name.startswith(("nasr", "shokri")) else None]
    auc, accuracy = zip(*(measure(attack, game) for game in games), strict=True)
    assert excess(auc) <= 1, f"AUC {np.mean(auc):.3f}"
    assert excess(accuracy) <= 1, f"balanced accuracy {np.mean(accuracy):.3f}"


@pytest.mark.slow
@pytest.mark.parametrize("design", ["paired", "balanced"])
@pytest.mark.parametrize(("attack", "below"), [("lira-ratio", 0.47), ("label_only-ratio", 0.2)])
def test_plain_leave_one_out_would_be_noticed(attack, below, design):
    """The test above can fail: with all other models as shadows, the count of members gives the target away."""
    attack = ATTACKS[attack]
    auc = [measure(attack, game.plain_leave_one_out())[0] for game in null_games(attack, design)]
    assert excess(auc) > 1
    assert np.mean(auc) < below
