"""Losses of defenses, a record at a time."""

import torch

from mialab.defenses.hamp import label_probability


def slow_hamp(logits, y, gamma, alpha, faithful):
    """Loss of one model from the formula: KL divergence by torch, entropies by hand, one record at a time."""
    n_classes = logits.shape[-1]
    p = label_probability(gamma, n_classes, step=0.01 if faithful else None)
    total = 0.0
    for z, label in zip(logits.double(), y, strict=True):
        soft = torch.full((n_classes,), (1 - p) / (n_classes - 1), dtype=torch.float64)
        soft[label] = p
        terms = torch.nn.functional.kl_div(z.log_softmax(-1), soft, reduction="none")
        divergence = terms.mean() if faithful else terms.sum()  # torch's default, the artifact's, is the mean
        q = z.softmax(-1)
        total += divergence + alpha * (q * q.log()).sum()
    return total / len(y)
