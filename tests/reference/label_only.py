"""Attacks that see labels, a target and a record at a time."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from reference.lira import shadows_of
from reference.signals import is_right, of_answers


def label_only(game) -> np.ndarray:
    """Fit scikit-learn's logistic regression for each target and record."""
    right = np.stack([of_answers(is_right, game, query) for query in range(game.n_queries)], axis=-1)
    score = np.empty(game.member.shape)
    for t, i in np.ndindex(score.shape):
        shadows = shadows_of(game, t, i)
        fit = LogisticRegression(solver="newton-cholesky", tol=1e-12, max_iter=1000)
        fit.fit(right[shadows, i], game.member[shadows, i])
        score[t, i] = fit.decision_function(right[t, i][None])[0]
    return score


def robustness(kinds):
    def fraction(game) -> np.ndarray:
        asked = [query for query, kind in enumerate(game.query_kinds) if kind in kinds]
        return sum(of_answers(is_right, game, query) for query in asked) / len(asked)

    return fraction
