"""Training of one classifier, as a tutorial would write it, and augmentation of one image."""

import numpy as np
import torch

from mialab.training import stack
from mialab.training.membership import membership
from mialab.training.streams import generator

SEED = 3


def plain_loop(
    model, pool, build, criterion, make_optimizer, *, epochs=3, batch_size=8, shuffle=True, **changes
):
    """Train one model as a tutorial would, with the engine's initial weights and order of batches."""
    network = stack.initialize(build, pool, SEED, model)
    x, y = torch.as_tensor(pool.x), torch.as_tensor(pool.y)
    members = np.flatnonzero(membership(8, len(pool), SEED)[model])
    order = generator(SEED, "batches", model)
    optimizer = make_optimizer(network.parameters())
    milestones, decay = changes.get("milestones", []), changes.get("decay", 1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, decay)
    for _ in range(epochs):
        if changes.get("new_optimizer"):
            optimizer = make_optimizer(network.parameters())
        visited = members[order.permutation(len(members))] if shuffle else members
        for start in range(0, len(visited), batch_size):
            batch = visited[start : start + batch_size]
            optimizer.zero_grad()
            criterion(network(x[batch]), y[batch]).backward()
            optimizer.step()
        if milestones:
            scheduler.step()
    with torch.no_grad():
        return network.eval()(x).numpy()


def moved(image, mirror, dy, dx):
    """Mirror and move one image as numpy would pad and cut it."""
    most = max(abs(dy), abs(dx), 1)
    padded = np.pad(image, ((0, 0), (most, most), (most, most)), mode="reflect")
    _, height, width = image.shape
    cut = padded[:, most + dy : most + dy + height]
    # Columns are mirrored first, then moved: what was at column j is looked up at its mirror image.
    columns = np.arange(width)[::-1] if mirror else np.arange(width)
    return cut[:, :, most + columns + dx]
