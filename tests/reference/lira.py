"""LiRA, a target and a record at a time."""

from math import log
from statistics import fmean, variance

import numpy as np
from scipy.stats import norm

from mialab.attacks.lira import VARIANCE_FLOOR
from reference.signals import log_odds, of_answers


def shadows_of(game, target: int, record: int) -> list[int]:
    """Return a target's shadow models, found anew from the rule in words."""
    out = {target}
    if game.partner[target] >= 0:
        out.add(int(game.partner[target]))
    elif (2 * game.member.sum(0) == game.n_models).all():
        extra = int(game.excluded_models[target, record])
        assert game.member[extra, record] != game.member[target, record]
        out.add(extra)
    return [k for k in range(game.n_models) if k not in out]


def lira_by_loops(
    game, phi: np.ndarray, *, online: bool, pooled: bool, floor: float, offline: str = "z_score"
) -> np.ndarray:
    """Carlini et al. (2022), algorithm 1: a Gaussian for each target, record and side."""
    score = np.empty(phi.shape)
    for t in range(game.n_models):
        sides = []
        for inside in (True, False):
            answers = [
                [phi[k, i] for k in shadows_of(game, t, i) if game.member[k, i] == inside]
                for i in range(game.n_records)
            ]
            squares = sum((len(a) - 1) * variance(a) for a in answers)
            sides.append((answers, squares / sum(len(a) - 1 for a in answers)))
        for i in range(game.n_records):
            density = []
            for answers, common in sides:
                mean = fmean(answers[i])
                var = common if pooled else max(variance(answers[i]), floor * common)
                density.append((mean, var**0.5))
            (mean_in, std_in), (mean_out, std_out) = density
            if online:
                score[t, i] = norm.logpdf(phi[t, i], mean_in, std_in) - norm.logpdf(
                    phi[t, i], mean_out, std_out
                )
            elif offline == "density":
                score[t, i] = -norm.logpdf(phi[t, i], mean_out, std_out)
            else:
                score[t, i] = (phi[t, i] - mean_out) / std_out
    return score


def lira_hinge(game) -> np.ndarray:
    def margin(logits, y):
        return logits[y] - max(z for i, z in enumerate(logits) if i != y)

    return lira_by_loops(game, of_answers(margin, game), online=True, pooled=False, floor=VARIANCE_FLOOR)


def lira_augmented(game) -> np.ndarray:
    scores = [
        lira_by_loops(
            game, of_answers(log_odds, game, query), online=True, pooled=False, floor=VARIANCE_FLOOR
        )
        for query in range(game.n_queries)
    ]
    return sum(scores) / len(scores)


def ranking(game) -> np.ndarray:
    def statistic(logits, y):
        return -log(1 + sum(z > logits[y] for z in logits))

    return lira_by_loops(game, of_answers(statistic, game), online=True, pooled=True, floor=0)
