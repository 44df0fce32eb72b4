"""Models that memorize are caught by every attack that can see it: nearest neighbors, on real records.

Each model weights the classes by the distance to the nearest of its members in each class. A member is its own nearest
neighbor, at distance 0; the answers to all other records are only as sure as these are close to a member of their
class. Nothing is drawn at random but memberships and queries, with fixed seeds.
"""

import dataclasses
from functools import cache

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score
from toys import queried

import mialab as mia
from mialab.queries import Compose, Mixed, Noise, Shifts
from mialab.training.membership import membership

N_MODELS = 24
#: The weight of a class is ``(distance^2 + TINY)^-SHARPNESS``: how sure an answer is.
SHARPNESS, TINY = 1.0, 1e-6

LABEL = "the nearest member is of the right class for most other records too, and the label is all it sees"
RANKS = "the label comes first in the ranking of the classes for most other records too"
COPIES = "a changed copy is as near to other members of the class, which get it right as well"
#: Attacks that cannot tell all members from others here, and why.
CANNOT = {
    "correctness": LABEL,
    "correctness_per_class": LABEL,
    "ranking": RANKS,
    "label_only": COPIES,
    "noise_robustness": COPIES,
    "augmentation_robustness": COPIES,
}
#: What these models do not have.
LACKING = {
    "gradient": "nearest neighbors have no parameters, and so no gradients",
    "boundary": "a neighbor of the right class keeps the boundary away from other records as well",
}


@cache
def nearest_neighbors():
    """Play a game of nearest-neighbor models, each of which holds a half of the records."""
    pool, queries = mia.load("digits", size=400), Compose(Noise(n=4, scale=0.05), Shifts(pixels=1), Mixed())
    x = pool.x.reshape(len(pool), -1)
    copies = np.stack([queries(query, pool.x).reshape(x.shape) for query in range(len(queries))])
    distance = cdist(copies.reshape(-1, x.shape[1]), x).reshape(*copies.shape[:2], len(pool))
    member = membership(N_MODELS, len(pool), seed=0)
    logits = np.empty((N_MODELS, *copies.shape[:2], pool.n_classes), np.float32)
    for k, own in enumerate(member):
        for label in range(pool.n_classes):
            nearest = distance[:, :, own & (pool.y == label)].min(-1)
            logits[k, ..., label] = -SHARPNESS * np.log(nearest**2 + TINY)
    game = mia.Game.from_arrays(logits=logits, member=member, y=pool.y, partner=np.arange(N_MODELS) ^ 1)
    return queried(game, queries), pool


@pytest.mark.slow
@pytest.mark.parametrize("name", mia.attacks.available().index)
def test_nearest_neighbors_are_caught(name):
    game, pool = nearest_neighbors()
    attack = mia.attacks.make(name)
    if attack.needs.probe:
        with pytest.raises(
            mia.attacks.RequirementsNotMet, match="what is measured while the models are at hand"
        ):
            attack.run(game)
        pytest.skip(LACKING[attack.needs.probe])
    attack = dataclasses.replace(attack, pool=pool) if attack.needs.pool else attack
    outcome = attack.run(game)
    auc = [
        roc_auc_score(game.member[k, seen], outcome.score[k, seen])
        for k, seen in enumerate(outcome.evaluated)
    ]
    if name in CANNOT:  # an attack that can has no place in the table
        assert 0.5 < np.mean(auc) < 0.99, CANNOT[name]
    else:
        assert min(auc) > 0.99


def test_most_other_records_are_answered_rightly_too():
    """The reasons above are true: what is right or wrong tells little."""
    game, _ = nearest_neighbors()
    right = game.signal("correctness")[:, 0]
    assert right[game.member].all()
    assert right[~game.member].mean() > 0.9
