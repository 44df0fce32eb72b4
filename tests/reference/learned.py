"""Attack models, one target after the other."""

from itertools import pairwise

import numpy as np
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from mialab.attacks import Nasr, Shokri, learned
from mialab.training.streams import Streams, generator


def shokri_by_loops(game, attack: Shokri) -> np.ndarray:
    """Train an attack model for each target and group of records, from answers taken one by one."""
    fold = [0] * game.n_models
    pairs = sorted({tuple(sorted({k, int(p)} if p >= 0 else {k})) for k, p in enumerate(game.partner)})
    for position, pair in enumerate(pairs):
        for k in pair:
            fold[k] = position % attack.n_folds
    groups = game.y if attack.attack_models == "per_class" else np.zeros_like(game.y)

    def features(k: int, i: int) -> list[float]:
        p = softmax(game.logits[k, 0, i].astype(np.float64))
        y = game.y[i]
        found = list(np.log(p)) if attack.posteriors == "by_class" else sorted(np.log(p), reverse=True)[:3]
        if attack.label:
            found += [np.log(p[y] / (1 - p[y])), float(p.argmax() == y)]
        return np.float32(found).astype(float).tolist()

    score = np.zeros(game.member.shape)
    for t in range(game.n_models):
        shadow = np.array([f != fold[t] for f in fold])
        use = learned.training_rows(
            game.member, shadow, attack.max_rows, generator(0, "shokri", fold[t])
        )  # tested above
        for group in np.unique(groups):
            rows = [(k, i) for i in np.flatnonzero(groups == group) for k in np.flatnonzero(use[:, i])]
            if not rows:
                continue
            x = np.array([features(k, i) for k, i in rows])
            mean, std = x.mean(0), x.std(0)
            std[std == 0] = 1
            fit = LogisticRegression(tol=1e-12, max_iter=10_000)  # another solver than ours
            fit.fit((x - mean) / std, [game.member[k, i] for k, i in rows])
            for i in np.flatnonzero(groups == group):
                score[t, i] = np.clip(fit.decision_function([(features(t, i) - mean) / std])[0], -36, 36)
    return score


def nasr_alone(game, known: np.ndarray, k: int, attack: Nasr) -> np.ndarray:
    """Train one target's network from torch's own layers, and return its scores (record,)."""
    z = torch.as_tensor(game.logits[k, 0].astype(np.float64))
    log_p = torch.log(torch.softmax(z, -1))
    loss = -log_p[torch.arange(len(z)), torch.as_tensor(game.y)][:, None]
    if attack.posteriors == "sorted":
        log_p = torch.sort(log_p, -1, descending=True).values[:, :3]
    label = torch.eye(game.n_classes)[torch.as_tensor(game.y)]
    scaled = []
    for x in (log_p, loss):
        centered = x - x[known].mean(0)
        scaled.append((centered / centered[known].square().mean().sqrt()).clamp(-10, 10).float())
    inputs = [scaled[0], label, scaled[1]]

    c = game.n_classes
    widths = [(log_p.shape[1], 128, 64, 8), (c, 16, 8), (1, c, 8), (24, 32, 16, 8, 1)]
    layers = [[torch.nn.Linear(i, o) for i, o in pairwise(w)] for w in widths]
    size = sum(p.numel() for branch in layers for layer in branch for p in layer.parameters())
    numbers = iter((2 * Streams(0, [k], "nasr weights").uniform(size)[0] - 1).tolist())
    for branch in layers:
        for layer in branch:
            with torch.no_grad():
                for p in (layer.bias, layer.weight.T):
                    drawn = [next(numbers) for _ in range(p.numel())]
                    p.copy_(torch.tensor(drawn).reshape(p.shape) / layer.in_features**0.5)
    parameters = [p for branch in layers for layer in branch for p in layer.parameters()]

    def network(rows: torch.Tensor) -> torch.Tensor:
        outputs = []
        for x, branch in zip(inputs, layers[:3], strict=True):
            x = x[rows]
            for layer in branch:
                x = torch.relu(layer(x))
            outputs.append(x)
        x = torch.cat(outputs, -1)
        for layer in layers[3][:-1]:
            x = torch.relu(layer(x))
        return layers[3][-1](x)[:, 0]

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        p = torch.sigmoid(network(rows))
        truth = torch.as_tensor(game.member[k])[rows]
        return -torch.where(truth, torch.log(p), torch.log(1 - p)).mean()

    batches, validation = learned._draw_batches(
        game.member[k], known, attack.steps, generator(0, "nasr batches", k)
    )
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    least, best = np.inf, None
    everything = torch.arange(game.n_records)
    for step, rows in enumerate(torch.as_tensor(batches), start=1):
        optimizer.zero_grad()
        loss_of(rows).backward()
        optimizer.step()
        if step % 10 == 0:
            with torch.no_grad():
                now = float(loss_of(torch.as_tensor(validation)))
                if now < least:
                    least, best = now, network(everything).double().numpy()
    return best
