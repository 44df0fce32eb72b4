"""PrivGAN (Mukherjee et al., 2021): generators of disjoint parts that a privacy classifier shall not tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar

import torch
from torch.nn.functional import cross_entropy, leaky_relu

from mialab._validation import check_integer, check_number
from mialab.gan.defenses.base import Defense, Run, register
from mialab.training.stack import prepare
from mialab.training.streams import Streams

#: Hidden units of the privacy classifier.
WIDTH = 128


class PrivacyClassifier:
    """Guesses which part of a model's members, or which of its generators, a record comes from.

    One perceptron with a hidden layer for each model, all in one tensor program; model k's depends on the numbers of
    its own stream alone.

    Parameters
    ----------
    features, parts : int
        Numbers in a record, and possible answers.
    rng : Streams
        Random numbers of the initial weights, a stream a model.
    lr, betas : float, tuple of float
        Of Adam.
    """

    def __init__(
        self, features: int, parts: int, rng: Streams, *, lr: float, betas: tuple[float, float]
    ) -> None:
        first = rng.normal(features, WIDTH) * sqrt(2 / features)
        second = rng.normal(WIDTH, parts) / sqrt(WIDTH)
        biases = (torch.zeros_like(weight[:, :1]) for weight in (first, second))
        self.parameters = [tensor.requires_grad_() for tensor in (first, next(biases), second, next(biases))]
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr, betas=betas)

    def loss(self, x: torch.Tensor, part: torch.Tensor, *, learn: bool = False) -> torch.Tensor:
        """Return the cross-entropy of the guesses, in nats (model, critic, batch), with the parts that are the answers.

        Records are (model, critic, batch, ...), in [0, 1], and parts int64 (model, critic, batch). The loss has a
        gradient with respect to the classifier if that shall ``learn``, else to the records alone.
        """
        w1, b1, w2, b2 = self.parameters if learn else [tensor.detach() for tensor in self.parameters]
        hidden = leaky_relu(torch.baddbmm(b1, 2 * x.flatten(3).flatten(1, 2) - 1, w1), 0.2)
        logits = torch.baddbmm(b2, hidden, w2)
        return cross_entropy(logits.flatten(0, 1), part.flatten(), reduction="none").view(part.shape)

    def learn(self, x: torch.Tensor) -> None:
        """Make one step on records (model, critic, batch, ...) whose parts are their critics' numbers."""
        self.optimizer.zero_grad()
        self.loss(x, own(x), learn=True).mean((1, 2)).sum().backward()
        self.optimizer.step()


def own(x: torch.Tensor) -> torch.Tensor:
    """Return the number of each record's critic, (model, critic, batch)."""
    models, critics, batch = x.shape[:3]
    return torch.arange(critics, device=x.device)[:, None].expand(models, critics, batch)


@register
@dataclass(frozen=True)
class PrivGAN(Defense):
    """Train a pair of generator and critic on each part of the members, and reward generators that are mistaken.

    A privacy classifier of each model guesses which generator made a record. Before the first step it learns to tell
    the parts of the members apart. Each generator's loss is that against its critic plus ``weight`` times the
    cross-entropy of the classifier's answer with another generator, drawn at random for each record. From some step on
    the classifier learns from the generated records, once for each step of the generators.

    Differences to the paper and our assumptions: the original is unconditional and trained with the binary
    cross-entropy and smoothed labels, here the networks and the objective are those of the game (a weight means
    something else for Wasserstein GANs, whose loss has another scale); the classifier sees no labels, has one hidden
    layer of 128 units, where the original is as large as a critic, and learns with the training's batch size, learning
    rate and Adam's averages.

    Parameters
    ----------
    generators : int
        Pairs of a generator and a critic in each model, at least 2.
    weight : float
        Weight of the privacy loss, at least 0 (lambda in the paper, which compares 0.1, 1 and 10).
    pretraining : int
        Passes of the classifier over the members before the first step; 50 in the published code.
    delay : float
        Fraction of the steps, in [0, 1], after which the classifier learns from generated records; the published code
        waits for 100 epochs, of 200 by default. 1 is never.

    References
    ----------
    S. Mukherjee, Y. Xu, A. Trivedi, N. Patowary and J. L. Ferres, "privGAN: Protecting GANs from membership inference
    attacks at low cost to utility", PoPETs 2021.
    """

    name: ClassVar[str] = "privgan"
    generators: int = 2
    weight: float = 1.0
    pretraining: int = 50
    delay: float = 0.5

    def __post_init__(self) -> None:
        check_integer("generators", self.generators, low=2)
        check_number("weight", self.weight, low=0)
        check_integer("pretraining", self.pretraining)
        check_number("delay", self.delay, low=0, high=1)

    @property
    def n_critics(self) -> int:
        """Critics of a model, one for each generator."""
        return self.generators

    @property
    def n_generators(self) -> int:
        """Generators of a model."""
        return self.generators

    def fit(self, run: Any) -> None:
        """Train the privacy classifier on the parts of the members, ``run.memory["privacy"]``; then all networks."""
        rng, training = run.streams("defense"), run.training
        features = run.x[0].numel()
        classifier = PrivacyClassifier(features, self.generators, rng, lr=training.lr, betas=training.betas)
        run.memory["privacy"] = classifier
        for _ in range(self.pretraining):
            order = torch.stack(
                [rng.permutation(run.members.shape[2]) for _ in range(self.generators)], dim=1
            )
            for index in run.members.gather(2, order).split(training.batch_size, dim=2):
                classifier.learn(prepare(run.x[index]))
        run.fit()

    def generator_loss(self, answers: torch.Tensor, fake: torch.Tensor, *, run: Run) -> torch.Tensor:
        """Return the loss against the critics plus the weighted privacy loss; shape (model, generator)."""
        loss = super().generator_loss(answers, fake, run=run)
        shift = 1 + run.streams("defense").integers(self.generators - 1, *answers.shape[1:])
        other = (own(fake) + shift) % self.generators
        return loss + self.weight * run.memory["privacy"].loss(fake, other).mean(-1)

    def generator_step(self, run: Run, y: torch.Tensor) -> torch.Tensor:
        """Update the generators, and let the classifier learn from their records once the delay is over."""
        fake = super().generator_step(run, y)
        if self.delay < 1 and run.iteration >= self.delay * run.training.steps:
            run.memory["privacy"].learn(fake)
        return fake
