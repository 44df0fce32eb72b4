"""Scores of the same definition by other packages have the same ranks: SACRO-ML's and PrivacyGuard's LiRA and RMIA.

The peers are called as the benchmark of scoring calls them, see ``benchmarks/peers.py``. They are no dependencies of
the tests: install them with ``pip install -e '.[peers]'``. Where definitions differ in a detail, ours is turned into
theirs first: LiRA's variances are theirs when divided by n instead of n - 1, and a p-value is theirs instead of its
z-score; and with RMIA a record in the population counts as one of those it is compared with.
"""

import importlib
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm, spearmanr

import mialab as mia
from mialab.attacks import LiRA

N_SHADOWS, N_RECORDS = 16, 600
PEERS = {"SACRO-ML": "sacroml", "PrivacyGuard": "privacyguard-platform"}


def as_they_are(scores, answers):
    return scores


def squares_and_spread(game):
    """Return half the squared z-score against OUT models, and the rest of minus the log density, (record,)."""
    z = LiRA(online=False).scores(game)[0]
    return z**2 / 2, LiRA(online=False, offline="density").scores(game)[0] - z**2 / 2


def density_with_n(scores, answers):
    n = N_SHADOWS / 2
    squares, spread = squares_and_spread(answers.game)
    return n / (n - 1) * squares + spread


def ratio_with_n(scores, answers):
    """Return the ratio of two such densities: IN models are OUT models where memberships are turned round."""
    dataset = answers.game.dataset
    turned = mia.Game(dataset.assign(member=~dataset["member"]))
    n = N_SHADOWS / 2
    inside, outside = (squares_and_spread(game) for game in (turned, answers.game))
    np.testing.assert_allclose(sum(outside) - sum(inside), scores, rtol=1e-9, atol=1e-9)
    return n / (n - 1) * (outside[0] - inside[0]) + outside[1] - inside[1]


def p_value_with_n(scores, answers):
    n = N_SHADOWS / 2
    return norm.cdf(scores * (n / (n - 1)) ** 0.5)


def of_the_whole_population(scores, answers):
    size = len(answers.population)
    return scores * (size - np.isin(np.arange(N_RECORDS), answers.population)) / size


#: Peer, definition, and what turns our scores into the peer's.
PARITY = [
    ("SACRO-ML", "LiRA online", ratio_with_n),
    ("SACRO-ML", "LiRA offline, one-sided", p_value_with_n),
    ("SACRO-ML", "LiRA offline, density", density_with_n),
    ("PrivacyGuard", "LiRA online", ratio_with_n),
    ("PrivacyGuard", "LiRA offline, density, one variance", as_they_are),
    ("PrivacyGuard", "RMIA online", of_the_whole_population),
    ("PrivacyGuard", "RMIA offline", of_the_whole_population),
]


@pytest.fixture(scope="module")
def peers():
    """Return the benchmark of the peers as a module."""
    folder = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    yield importlib.import_module("peers")
    sys.path.remove(folder)


@pytest.mark.parametrize(("peer", "definition", "turn"), PARITY)
def test_scores_have_the_ranks_of_a_peers_scores(peer, definition, turn, request):
    try:
        found = version(PEERS[peer])
    except PackageNotFoundError:
        pytest.skip(f"{peer} is not installed: pip install -e '.[peers]'")
    peers = request.getfixturevalue("peers")
    answers = peers.signals(N_SHADOWS, N_RECORDS)
    scorers = peers.same_definitions({peer: found}, len(answers.population))[definition]
    with peers.quiet():
        scores, theirs = scorers["mialab"](answers), scorers[peer](answers)
    assert np.unique(theirs.round(12)).size >= N_RECORDS / 4, "constants would prove nothing"
    turned = turn(scores, answers)
    # Rounding, so that what is equal but for the last bits is equal.
    assert spearmanr(turned.round(12), theirs.round(12)).statistic == pytest.approx(1, abs=1e-9)
    assert spearmanr(scores, theirs).statistic > 0.998, "as they are"
