"""RMIA, with a loop over targets, records and population."""

import numpy as np

from mialab.classifiers import signals


def rmia_by_loops(game, *, online, gamma, a, population) -> np.ndarray:
    """Zarifzadeh et al. (2024), algorithm 1, with a loop over targets, records and population."""
    p = signals.confidence(game.logits[:, 0], game.y)
    score = np.empty(p.shape)
    for t in range(game.n_models):
        ratio = []
        for i in range(game.n_records):
            shadow_models = [k for k in range(game.n_models) if k not in (t, game.excluded_models[t, i])]
            mean_in, mean_out = (
                np.mean([p[k, i] for k in shadow_models if game.member[k, i] == side])
                for side in (True, False)
            )
            p_x = (mean_in + mean_out) / 2 if online else ((1 + a) * mean_out + (1 - a)) / 2
            ratio.append(p[t, i] / p_x)
        for i in range(game.n_records):
            score[t, i] = np.mean([ratio[i] / ratio[j] >= gamma for j in population if j != i])
    return score


def rmia_of_signal_by_loops(game, signal, *, online, population) -> np.ndarray:
    """Fractions of the population that are less above what shadow models say, with the same loops."""
    s = game.signal(signal)[:, 0]
    score = np.empty(s.shape)
    for t in range(game.n_models):
        ahead = []
        for i in range(game.n_records):
            shadow_models = [k for k in range(game.n_models) if k not in (t, game.excluded_models[t, i])]
            sides = (True, False) if online else (False,)
            means = [np.mean([s[k, i] for k in shadow_models if game.member[k, i] == side]) for side in sides]
            ahead.append(s[t, i] - np.mean(means))
        for i in range(game.n_records):
            score[t, i] = np.mean([ahead[i] >= ahead[j] for j in population if j != i])
    return score
