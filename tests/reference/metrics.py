"""Metrics by trying every threshold."""

import numpy as np


def slow_rate(score, member, rate):
    """Largest TPR over every threshold, by trying them all."""
    best = 0.0
    for threshold in np.unique(score):
        said = score >= threshold
        if said[~member].sum() <= rate * (~member).sum() + 1e-9:
            best = max(best, said[member].mean())
    return best


def slow_influence(outcome, metric):
    """Derivative of a measure by how often each cell counts, summed over the targets of a pair, (pair, record)."""
    cells = [(int(k), int(i)) for k, i in np.argwhere(outcome.evaluated)]
    inside = [cell for cell in cells if outcome.member[cell]]
    outside = [cell for cell in cells if not outcome.member[cell]]
    found = np.zeros((len(outcome.member) // 2, outcome.member.shape[1]))
    tp, fp = (sum(outcome.predicted_member[cell] for cell in side) for side in (inside, outside))
    wins = {
        (a, b): (outcome.score[a] > outcome.score[b]) + (outcome.score[a] == outcome.score[b]) / 2
        for a in inside
        for b in outside
    }
    auc = sum(wins.values()) / len(wins)
    for cell in cells:
        side, said = outcome.member[cell], outcome.predicted_member[cell]
        if metric == "auc":
            own = [won for pair, won in wins.items() if cell in pair]
            change = (np.mean(own) - auc) / len(inside if side else outside)
        elif metric == "recall":
            change = (said - tp / len(inside)) / len(inside) if side else 0.0
        elif metric == "balanced_accuracy":
            rate, n = (tp, len(inside)) if side else (fp, len(outside))
            change = (1 if side else -1) * (said - rate / n) / n / 2
        elif metric == "precision":
            change = (side - tp / (tp + fp)) * said / (tp + fp)
        else:  # f1 = 2 tp / (tp + fp + members)
            total = tp + fp + len(inside)
            change = (2 * (said and side) - 2 * tp / total * (int(said) + int(side))) / total
        found[cell[0] // 2, cell[1]] += change
    return found
