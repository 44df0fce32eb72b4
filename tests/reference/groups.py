"""Scores of mixed pairs of records, a pair at a time."""

import numpy as np
from scipy.stats import norm

from mialab.attacks.lira import VARIANCE_FLOOR


def pairs_by_loops(game, *, pooled: bool) -> tuple[np.ndarray, np.ndarray]:
    """Score the first record of each pair: mixtures, shadow models and Gaussians, one after the other."""
    fractions, y = game.attrs["mixed"]["fractions"], game.y
    pair = game.dataset["pair"].to_numpy()
    log_p = game.logits - np.log(np.exp(game.logits).sum(-1, keepdims=True))
    queries = [q for q, kind in enumerate(game.query_kinds) if kind == "mixed"]
    phi, sides = {}, {}
    for i in range(game.n_records):
        others = [j for j in range(game.n_records) if pair[j] == pair[i] and j != i]
        if not others or others[0] < i:
            continue
        (j,) = others
        sides[i] = [
            [k for k in range(game.n_models) if game.member[k, i] == side and game.member[k, j] == side]
            for side in (True, False)
        ]
        for k in range(game.n_models):
            losses = [
                fraction * log_p[k, q, a, y[a]] + (1 - fraction) * log_p[k, q, a, y[b]]
                for fraction, q in zip(fractions, queries, strict=True)
                for a, b in ((i, j), (j, i))
            ]
            phi[k, i] = np.mean(losses)
    score, scored = np.zeros(game.member.shape), np.zeros(game.member.shape, bool)
    for t in range(game.n_models):
        answers = {}
        for i, both_and_neither in sides.items():
            out = {t, int(game.partner[t])}
            used = [[phi[k, i] for k in side if k not in out] for side in both_and_neither]
            if min(map(len, used)) >= 3:
                answers[i] = used
        common = [
            sum(np.var(used[s]) * len(used[s]) for used in answers.values())
            / max(1, sum(len(used[s]) - 1 for used in answers.values()))
            for s in (0, 1)
        ]
        for i, used in answers.items():
            variance = [
                common[s] if pooled else max(np.var(used[s], ddof=1), VARIANCE_FLOOR * common[s])
                for s in (0, 1)
            ]
            one, other = (
                norm.logpdf(phi[t, i], np.mean(u), v**0.5) for u, v in zip(used, variance, strict=True)
            )
            if any(t in side for side in sides[i]):
                score[t, i], scored[t, i] = one - other, True
    return score, scored
