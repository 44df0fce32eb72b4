"""Attacks on generators, a record at a time."""

import numpy as np
from scipy.stats import norm

from mialab.attacks.lira import VARIANCE_FLOOR


def distances(x, samples) -> np.ndarray:
    rows = [a.reshape(len(a), -1).astype(np.float64) for a in (x, samples)]
    return np.sqrt(((rows[0][:, None] - rows[1][None]) ** 2).sum(2))


def monte_carlo_by_loops(x, samples, y, sample_y, log) -> np.ndarray:
    found = [
        [d for d, c in zip(row, sample_y, strict=True) if c == own]
        for row, own in zip(distances(x, samples), y, strict=True)
    ]
    epsilon = np.median([min(near) for near in found])
    if log:
        return np.array([sum(np.log(epsilon / d) for d in near if d < epsilon) / len(near) for near in found])
    return np.array([sum(d <= epsilon * (1 + 1e-9) for d in near) / len(near) for near in found])


def pairs_slowly(game, *, pooled):
    """Score the first record of each pair: mixtures, shadow models and Gaussians, one after the other."""
    other, mixed = game.mixed_with, [q for q, kind in enumerate(game.query_kinds) if kind == "mixed"]
    score = np.full(game.member.shape, np.nan)
    for t in range(game.n_models):
        used = {}
        for i in np.flatnonzero(other > np.arange(game.n_records)):
            phi = [
                np.mean([-game.critic_loss[k, q, record] for q in mixed for record in (i, other[i])])
                for k in range(game.n_models)
            ]
            sides = [
                [
                    phi[k]
                    for k in range(game.n_models)
                    if k not in (t, game.partner[t]) and game.member[k, [i, other[i]]].tolist() == 2 * [side]
                ]
                for side in (True, False)
            ]
            if min(map(len, sides)) >= 3:
                used[i] = phi[t], sides
        common = [
            sum(len(sides[s]) * np.var(sides[s]) for _, sides in used.values())
            / max(1, sum(len(sides[s]) - 1 for _, sides in used.values()))
            for s in (0, 1)
        ]
        for i, (phi, sides) in used.items():
            if game.member[t, i] == game.member[t, other[i]]:
                var = [
                    common[s] if pooled else max(np.var(sides[s], ddof=1), VARIANCE_FLOOR * common[s])
                    for s in (0, 1)
                ]
                inside, outside = (norm.logpdf(phi, np.mean(sides[s]), var[s] ** 0.5) for s in (0, 1))
                score[t, i] = inside - outside
        if not all(np.isfinite(score[t, side]).any() for side in (game.member[t], ~game.member[t])):
            score[t] = np.nan  # with pairs of one kind alone there is nothing to tell apart
    return score
