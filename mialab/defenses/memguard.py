"""MemGuard: noise on the answers that leaves an inference network undecided (Jia et al., CCS 2019)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn.functional import softplus

from mialab._validation import as_integers, check_integer, check_number
from mialab.defenses.base import Defense, Run, register
from mialab.defenses.inference import SOURCES, Layer, build_layers, check_reference, one_number, parameters

#: Of each part, members and reference records, in a batch of the inference network.
HALF = 128
#: Weights of the distortion that are tried one after the other (the authors' c3).
WEIGHTS = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
#: Weight of the penalty on another class that gets ahead (the authors' c2).
KEEP_LABEL = 10.0
#: Length of a step in the space of logits.
STEP = 0.1
#: How far, in logits, the predicted class has to be ahead of the others in the end.
LEAD = 1e-3
#: How near 1/2 the inference network's output has to be for an answer to be left as it is.
UNDECIDED = 1e-5


@register
@dataclass(frozen=True)
class MemGuard(Defense):
    """Answers are moved until the defender's own inference network says neither member nor non-member.

    The inference network g sees the sorted probabilities of an answer and is trained, once the classifier is, to tell
    members from reference records. Phase I looks for noise on an answer's logits with which the output of g crosses
    1/2 and the predicted class stays, as little of it as can be found: gradient descent on ``|logit g| + 10 max(0, how
    far another class is ahead) + w * (L1 distance of the probabilities)``, for w = 0.1, 1, 10, ... as long as it
    succeeds. Phase II uses that noise with the probability ``min(1, distortion / its L1 distance)``, if it brings g
    nearer to 1/2, so that the expected distance is at most ``distortion``. Which answers get it follows from the record
    that is queried: who asks again gets the same answer.

    Parameters
    ----------
    distortion : float
        Greatest expected L1 distance between released and own probabilities, in [0, 2]; with 2 the noise is always
        used.
    steps : int
        Most steps of gradient descent for each w, at least 1.
    passes : int
        Passes of g over the members, at least 1.
    lr : float
        Learning rate of g (Adam), greater than 0.
    widths : tuple of int
        Widths of the hidden layers of g, each followed by a ReLU.

    Notes
    -----
    The pool's reference part is what members are told from: at least as many records as classes, which neither members
    nor non-members of the game may be among.

    Assumed here: g is trained by Adam on batches of 128 members and 128 reference records, which it learns from faster
    than by the SGD of the paper, and it sorts what it is shown in phase I too, as any attacker would. What is released
    are logarithms of probabilities. Others differ: the artifact of HAMP (Chen and Pattabiraman, 2024) has no phase II,
    and gives all shadow models the target's g, where here each model has its own.

    References
    ----------
    J. Jia, A. Salem, M. Backes, Y. Zhang and N. Z. Gong, "MemGuard: Defending against black-box membership inference
    attacks via adversarial examples", CCS 2019, sections 4 and 5.
    """

    name: ClassVar[str] = "memguard"
    keeps_labels: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("reference records", "a second network")
    sources: ClassVar[Mapping[str, str]] = SOURCES
    distortion: float = 1.0
    steps: int = 300
    passes: int = 100
    lr: float = 1e-3
    widths: tuple[int, ...] = (256, 128, 64)

    def __post_init__(self) -> None:
        check_number("distortion", self.distortion, low=0, high=2)
        check_integer("steps", self.steps, low=1)
        check_integer("passes", self.passes, low=1)
        check_number("lr", self.lr, above=0)
        object.__setattr__(self, "widths", as_integers("widths", self.widths, low=1))

    def check(self, plan: Any) -> None:
        """Refuse a pool with fewer reference records than classes (ValueError)."""
        check_reference(self.name, plan.pool, plan.pool.n_classes, "a record for each class")

    def finish(self, run: Any) -> None:
        """Train an inference network for each model."""
        inside = sorted_probabilities(run.predict(run.x[run.members]))
        outside = sorted_probabilities(run.predict(run.pool.x_reference))
        layers = build_layers((run.pool.n_classes, *self.widths, 1), rng=run.streams("inference weights"))
        optimizer = torch.optim.Adam(parameters(layers), lr=self.lr, fused=True)
        chosen = {purpose: run.streams(f"inference {purpose}") for purpose in ("members", "reference")}
        for _ in range(self.passes * -(-inside.shape[1] // HALF)):
            says = [
                one_number(layers, answers.take_along_dim(rng.integers(answers.shape[1], HALF)[..., None], 1))
                for answers, rng in zip((inside, outside), chosen.values(), strict=True)
            ]
            optimizer.zero_grad()
            (softplus(-says[0]) + softplus(says[1])).mean(-1).sum().backward()
            optimizer.step()
        run.memory["inference"] = [(w.detach(), b.detach()) for w, b in layers]

    def answer(
        self, run: Run, logits: torch.Tensor, x: torch.Tensor, record: torch.Tensor | None, query: int | None
    ) -> torch.Tensor:
        """Return log-probabilities with or without noise, (model, record, classes)."""
        layers, own = run.memory["inference"], logits.log_softmax(-1)
        if self.distortion == 0:
            return own
        of_each = zip(own, *(zip(*layer, strict=True) for layer in layers), strict=True)
        noisy = torch.stack([self.find(model, answers) for answers, *model in of_each])
        before, after = (
            (one_number(layers, sorted_probabilities(answers)).sigmoid() - 0.5).abs()
            for answers in (own, noisy)
        )
        distance = (noisy.exp() - own.exp()).abs().sum(-1)
        probability = torch.where(after < before, (self.distortion / distance).clamp(max=1), 0.0)
        drawn = torch.as_tensor(draws(x, run.seed, run.models), device=own.device)
        return torch.where((drawn < probability)[..., None], noisy, own)

    def find(self, model: list[Layer], logits: torch.Tensor) -> torch.Tensor:
        """Return logits with the least noise that phase I finds; without any where it finds none.

        Parameters
        ----------
        model : list of (torch.Tensor, torch.Tensor)
            Layers of one inference network, (in, out) and (1, out).
        logits : torch.Tensor, shape (record, classes)
            Answers of one classifier.
        """
        layers = [(weight[None], bias[None]) for weight, bias in model]
        label, found = logits.argmax(-1, keepdim=True), logits.clone()
        says = one_number(layers, sorted_probabilities(logits)[None])[0]
        todo = ((says.sigmoid() - 0.5).abs() > UNDECIDED).nonzero().squeeze(-1)
        for weight in WEIGHTS:
            moved, crossed = self._descend(layers, logits[todo], label[todo], says[todo] > 0, weight)
            todo = todo[crossed]
            found[todo] = moved[crossed].log_softmax(-1)
        return found

    def _descend(
        self, layers: list[Layer], own: torch.Tensor, label: torch.Tensor, side: torch.Tensor, weight: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Move answers by gradient descent; return them, (record, classes), and which of them crossed 1/2."""
        moved, crossed = own.clone(), torch.zeros_like(side)
        going, p = torch.arange(len(own), device=own.device), own.softmax(-1)
        for step in range(self.steps + 1):
            if not len(going):
                break
            with torch.enable_grad():
                at = moved[going].requires_grad_()
                says = one_number(layers, sorted_probabilities(at)[None])[0]
                best = at.gather(-1, label[going])
                ahead = at.scatter(-1, label[going], -torch.inf).amax(-1) - best.squeeze(-1)
                distance = (at.softmax(-1) - p[going]).abs().sum(-1)
                loss = says.abs() + KEEP_LABEL * ahead.relu() + weight * distance
                (gradient,) = torch.autograd.grad(loss.sum(), at)
            done = ((says > 0) != side[going]) & (ahead < -LEAD)
            crossed[going[done]] = True
            going, gradient = going[~done], gradient[~done]
            if step < self.steps:
                length = gradient.norm(dim=-1, keepdim=True)
                moved[going] -= STEP * gradient / length.clamp(min=torch.finfo(length.dtype).tiny)
        return moved, crossed


def sorted_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Return the probabilities of answers (..., classes) in descending order."""
    return logits.softmax(-1).sort(dim=-1, descending=True).values


def draws(x: torch.Tensor, seed: int, models: list[int]) -> np.ndarray:
    """Return numbers in [0, 1) that follow from seed, model and record alone, float64 (model, record).

    Parameters
    ----------
    x : torch.Tensor, shape (record, ...)
        What is queried.
    seed : int
        Seed of the game.
    models : list of int
        Indices of the models.
    """
    rows = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in x.cpu().numpy()]
    numbers = np.empty((len(models), len(rows)))
    for place, model in enumerate(models):
        key = f"{seed} {model}".encode()
        words = b"".join(hashlib.blake2b(row, digest_size=8, key=key).digest() for row in rows)
        numbers[place] = (np.frombuffer(words, dtype="<u8") >> np.uint64(11)) / 2.0**53
    return numbers
