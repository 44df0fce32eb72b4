"""Trainings of one GAN in plain torch, and mixtures of records one at a time."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from mialab import queries


class Linear(nn.Module):
    """A critic that is linear in the record and in the label."""

    def __init__(self, shape, n_classes):
        super().__init__()
        self.of_x, self.of_y = nn.Linear(int(np.prod(shape)), 1), nn.Linear(n_classes, 1, bias=False)

    def forward(self, x, y):
        return (self.of_x(x.flatten(1)) + self.of_y(y)).flatten()


class OfLabels(nn.Module):
    """A generator that makes of a label always the same record, whatever the latent vector."""

    def __init__(self, shape, n_classes):
        super().__init__()
        self.shape, self.layer = tuple(shape), nn.Linear(n_classes, int(np.prod(shape)))

    def forward(self, z, y):
        return torch.sigmoid(self.layer(y)).unflatten(1, self.shape)


def plainly_trained(watched, m, *, objective, penalty, lr, betas, n_critic, prefix):
    """Train one model again with the batches that were seen: plain torch, a critic at a time."""
    p, q = watched.critics, watched.generators
    critics, makers = [], []
    for nets, make, first, n in (
        (critics, Linear, watched.first["critics"], p),
        (makers, OfLabels, watched.first["generators"], q),
    ):
        for own in first[m * n : (m + 1) * n]:
            nets.append(make((1, 8, 8), 3))
            nets[-1].load_state_dict({name.removeprefix(prefix): value for name, value in own.items()})
    steps = [
        torch.optim.Adam([w for net in nets for w in net.parameters()], lr=lr, betas=betas)
        for nets in (critics, makers)
    ]
    for number, seen in enumerate(watched.log, 1):
        total = 0
        for i, critic in enumerate(critics):
            x, y = seen.x[m, i], seen.y[m, i]
            with torch.no_grad():
                fake = makers[i % q](None, y)
            if objective == "wgan-gp":
                loss = critic(fake, y).mean() - critic(x, y).mean()
            else:
                loss = softplus(-critic(x, y)).mean() + softplus(critic(fake, y)).mean()
            assert seen.loss[m, i].item() == pytest.approx(loss.item(), rel=1e-3, abs=1e-5)
            if objective == "wgan-gp":
                loss = loss + penalty * (critic.of_x.weight.norm() - 1) ** 2
            total = total + loss
        steps[0].zero_grad()
        total.backward()
        steps[0].step()
        assert (seen.generator is not None) == (number % n_critic == 0)
        if seen.generator is None:
            continue
        losses = []
        for i, critic in enumerate(critics):
            said = critic(makers[i % q](None, seen.y[m, i]), seen.y[m, i])
            losses.append(-said.mean() if objective == "wgan-gp" else softplus(-said).mean())
            assert seen.generator[m, i].item() == pytest.approx(losses[-1].item(), rel=1e-3, abs=1e-5)
        steps[1].zero_grad()
        (sum(losses) / (p if q == 1 else 1)).backward()
        steps[1].step()
    return critics, makers


def mixed_slowly(pool, fractions, seed=0):
    """Records and labels of all queries of `Mixed`, a record at a time."""
    rows = np.eye(pool.n_classes)[pool.y]
    other = queries.pairing(len(pool), seed)
    yield pool.x, rows
    for fraction in fractions:
        x = np.stack([fraction * pool.x[i] + (1 - fraction) * pool.x[other[i]] for i in range(len(pool))])
        yield x, np.stack([fraction * rows[i] + (1 - fraction) * rows[other[i]] for i in range(len(pool))])
