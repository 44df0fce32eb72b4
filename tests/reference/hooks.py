"""Whole procedures of defenses in plain torch, a model at a time."""

import torch
from torch import nn

from mialab.training.stack import initialize
from mialab.training.streams import Streams

SEED = 5


def plain(k, pool, members, *, build, purpose="", data=None, targets=None):
    """Train model k by a plain loop, on soft or hard labels; return the network."""
    network = initialize(build, pool, SEED, k, None, purpose)
    x, y = (torch.as_tensor(part) for part in (data or (pool.x, pool.y)))
    order = Streams(SEED, [k], purpose + "batches")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(3):
        for batch in members[order.permutation(len(members))[0]].split(8):
            optimizer.zero_grad()
            target = (y if targets is None else targets)[batch]
            nn.functional.cross_entropy(network(x[batch]), target).backward()
            optimizer.step()
    return network


def plain_clipped(k, pool, members, *, build, rate=0.3, norm=0.5):
    """DP-SGD without noise, a record at a time."""
    network, coins = initialize(build, pool, SEED, k), Streams(SEED, [k], "poisson")
    x, y, n = torch.as_tensor(pool.x), torch.as_tensor(pool.y), len(members)
    optimizer, sizes = torch.optim.Adam(network.parameters(), lr=1e-3), set()
    for _ in range(3 * round(1 / rate)):
        total = [torch.zeros_like(p) for p in network.parameters()]
        chosen = members[coins.uniform(n)[0] < rate]
        sizes.add(len(chosen))
        for record in chosen:
            loss = nn.functional.cross_entropy(network(x[record][None]), y[record][None])
            own = torch.autograd.grad(loss, list(network.parameters()))
            size = torch.cat([g.flatten() for g in own]).norm()
            for g, part in zip(total, own, strict=True):
                g += part * min(1, norm / size.item())
        for p, g in zip(network.parameters(), total, strict=True):
            p.grad = g / (rate * n)
        optimizer.step()
    assert len(sizes) > 2, "batch sizes vary"
    return network


def plain_distilled(k, pool, members, *, build):
    """Teacher, then student."""
    teacher = plain(k, pool, members, build=build, purpose="fork 1 ")
    data = pool.x_reference, pool.y_reference
    soft = teacher(torch.as_tensor(pool.x_reference)).softmax(-1).detach()
    everyone = torch.arange(len(pool.y_reference))
    return plain(k, pool, everyone, build=build, purpose="fork 2 ", data=data, targets=soft)


def plain_adversarial(k, pool, members, *, build, strength=2.0):
    """Two networks by turns."""
    network, attacker = initialize(build, pool, SEED, k), nn.Linear(pool.n_classes, 1, bias=False)
    nn.init.zeros_(attacker.weight)
    x, y, other = (torch.as_tensor(part) for part in (pool.x, pool.y, pool.x_reference))
    order, picks = Streams(SEED, [k], "batches"), Streams(SEED, [k], "others")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    against = torch.optim.SGD(attacker.parameters(), lr=1.0)
    bce = nn.functional.binary_cross_entropy_with_logits
    for _ in range(3):
        for batch in members[order.permutation(len(members))[0]].split(8):
            pick = picks.integers(len(other), len(batch))[0]
            inside, outside = (network(part).log_softmax(-1) for part in (x[batch], other[pick]))
            a, b = attacker(inside.detach()), attacker(outside.detach())
            against.zero_grad()
            (bce(a, torch.ones_like(a)) + bce(b, torch.zeros_like(b))).backward()
            against.step()
            fooled = attacker(inside)
            optimizer.zero_grad()
            (
                nn.functional.nll_loss(inside, y[batch]) - strength * bce(fooled, torch.ones_like(fooled))
            ).backward()
            optimizer.step()
    return network
