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


def slow_relaxloss(logits, y, defense, epoch):
    """Objective of one model's batch, by algorithm 1 of the paper or the branches of the code for images."""
    n_classes = logits.shape[-1]
    hard = [-z.log_softmax(-1)[label] for z, label in zip(logits, y, strict=True)]
    mean = sum(hard) / len(hard)
    if mean > defense.alpha:
        return mean
    if epoch % 2 == 0:
        return -mean
    total = 0.0
    for z, label, loss in zip(logits, y, hard, strict=True):
        p = z.softmax(-1)[label].clamp(max=defense.upper)
        if defense.version == "paper":
            p = p.detach()
        others = [-z.log_softmax(-1)[c] for c in range(n_classes) if c != label]
        soft = p * loss + sum((1 - p) / (n_classes - 1) * other for other in others)
        wrong = bool(z.argmax() != label)
        total = total + (soft if defense.version == "paper" else wrong * soft - loss)
    return total / len(y)


def slow_memguard(own, model, defense):
    """Noise of phase I on one answer: logits that the network ``model`` does not tell, or the own ones."""
    label = int(own.argmax())

    def says(z):
        x = z.softmax(-1).sort(descending=True).values
        for weight, bias in model[:-1]:
            x = torch.relu(x @ weight + bias[0])
        return (x @ model[-1][0] + model[-1][1][0])[0]

    found, side = own, bool(says(own) > 0)
    for weight in (10.0**k for k in range(-1, 6)):
        z, success = own.clone(), False
        for step in range(defense.steps + 1):
            z = z.detach().requires_grad_()
            ahead = max(z[c] for c in range(len(z)) if c != label) - z[label]
            success = bool(says(z) > 0) != side and bool(ahead < -1e-3)
            if success or step == defense.steps:
                break
            distance = (z.softmax(-1) - own.softmax(-1)).abs().sum()
            (says(z).abs() + 10 * torch.relu(ahead) + weight * distance).backward()
            z = z.detach() - 0.1 * z.grad / z.grad.norm()
        if not success:
            break
        found = z.detach().log_softmax(-1)
    return found
