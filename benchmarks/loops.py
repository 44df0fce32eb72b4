"""Training as most published code has it: the plain loops that the benchmarks compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset

#: A network and its optimizer, given the number of the model.
Make = Callable[[int], tuple[nn.Module, torch.optim.Optimizer]]


def step(network: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(network(x), y).backward()
    optimizer.step()


def train(
    make: Make,
    records: TensorDataset,
    member: np.ndarray,
    *,
    epochs: int,
    batch_size: int,
    loader: bool,
    queries: Callable[[], Iterable[torch.Tensor]],
    device: str = "cpu",
) -> list[np.ndarray]:
    """Train a model on the members of each row, batches by a DataLoader or by indexing; return what each answers.

    Networks are made on the device; a DataLoader brings each batch there, without one all records lie there.
    """
    x, y = (part if loader else part.to(device) for part in records.tensors)
    logits = []
    for k, row in enumerate(member):
        network, optimizer = make(k)
        own = torch.as_tensor(np.flatnonzero(row))
        loaded = DataLoader(Subset(records, own.tolist()), batch_size=batch_size, shuffle=True)
        for _ in range(epochs):
            if loader:
                for batch in loaded:
                    step(network, optimizer, *(part.to(device) for part in batch))
            else:
                for index in own[torch.randperm(len(own))].to(device).split(batch_size):
                    step(network, optimizer, x[index], y[index])
        network.eval()
        with torch.no_grad():
            logits.append(torch.cat([network(part.to(device)) for part in queries()]).cpu().numpy())
    return logits
