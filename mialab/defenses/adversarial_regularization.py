"""Adversarial regularization: a network that tells members from others, trained against the classifier (Nasr, 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn.functional import logsigmoid, one_hot

from mialab._validation import as_integers, check_integer, check_number
from mialab.defenses.base import Defense, Run, cross_entropy, register
from mialab.defenses.inference import (
    SOURCES,
    Layer,
    build_layers,
    check_reference,
    hidden,
    one_number,
    parameters,
)
from mialab.training.stack import as_tensor

#: Initial weights are Gaussian with this standard deviation, biases 0 (the paper's choice).
INITIAL = 0.01


@register
@dataclass(frozen=True)
class AdversarialRegularization(Defense):
    """Minimize the loss and what an inference network gains from the classifier's answers about members.

    The inference network h sees the probabilities f(x) and the label y of a record and says how likely it is a member.
    Before each step of the classifier it takes ``inner`` steps of Adam up its gain, the mean of log h over a batch of
    members and of log (1 - h) over a batch of reference records, half of each. The classifier then descends the mean of
    ``cross-entropy + strength * log h(f(x), y)`` over its batch of members (algorithm 1).

    Parameters
    ----------
    strength : float
        The weight lambda of the gain, at least 0; with 0 training is plain, though it costs as much.
    inner : int
        Steps of the inference network before each step of the classifier, at least 1.
    lr : float
        Learning rate of the inference network, greater than 0.
    confidence, label, joint : tuple of int
        Widths of its layers, each followed by a ReLU: those that see the probabilities, those that see the label as a
        vector of zeros and a one, and those that see the last layers of both. One more layer makes one number of it.

    Notes
    -----
    The pool's reference part is what members are told from: at least a batch of records, which neither members nor
    non-members of the game may be among.

    What the paper leaves open is assumed here: batches of the inference network are as large as the classifier's, drawn
    with replacement and not augmented, and answers to them are those of a network in evaluation mode, which is what an
    attacker gets; so reference records leave no trace in statistics of batch norm. There is no plain epoch before the
    first adversarial one. Others differ: the artifact of HAMP (Chen and Pattabiraman, 2024) gives h logits instead of
    probabilities, fits it to 0 and 1 by least squares, and adds h itself to the loss.

    References
    ----------
    M. Nasr, R. Shokri and A. Houmansadr, "Machine learning with membership privacy using adversarial regularization",
    CCS 2018, sections 3 and 4.
    """

    name: ClassVar[str] = "adversarial_regularization"
    needs: ClassVar[tuple[str, ...]] = ("reference records", "a second network")
    sources: ClassVar[Mapping[str, str]] = SOURCES
    strength: float = 3.0
    inner: int = 5
    lr: float = 1e-3
    confidence: tuple[int, ...] = (1024, 512, 64)
    label: tuple[int, ...] = (512, 64)
    joint: tuple[int, ...] = (256, 64)

    def __post_init__(self) -> None:
        check_number("strength", self.strength, low=0)
        check_integer("inner", self.inner, low=1)
        check_number("lr", self.lr, above=0)
        for name in ("confidence", "label", "joint"):
            object.__setattr__(self, name, as_integers(name, getattr(self, name), low=1))

    def check(self, plan: Any) -> None:
        """Refuse a pool with fewer reference records than a batch (ValueError)."""
        least = min(plan.training.batch_size, plan.n_members)
        check_reference(self.name, plan.pool, least, "a batch")

    def before_epoch(self, run: Run) -> None:
        """Build the inference networks, before the first epoch."""
        if "inference" in run.memory:
            return
        rng, c = run.streams("inference weights"), run.pool.n_classes
        confidence, label = (c, *self.confidence), (c, *self.label)
        joint = (confidence[-1] + label[-1], *self.joint, 1)
        branches = [build_layers(widths, rng=rng, scale=INITIAL) for widths in (confidence, label, joint)]
        optimizer = torch.optim.Adam(parameters(*branches), lr=self.lr, fused=True)
        reference = (as_tensor(part, run.device) for part in (run.pool.x_reference, run.pool.y_reference))
        run.memory["inference"] = branches, optimizer, *reference

    def step(self, run: Run, batch: torch.Tensor) -> None:
        """Let the inference networks learn, then take a step of the classifiers."""
        if not batch.numel():
            return
        for _ in range(self.inner):
            self._learn(run, batch.shape[1])
        run.step(batch)

    def _learn(self, run: Run, size: int) -> None:
        """Take one step of the inference networks up their gain, with ``size`` members and reference records."""
        branches, optimizer, x_reference, y_reference = run.memory["inference"]
        chosen = run.streams("inference members").integers(run.members.shape[1], size)
        inside = run.members.gather(1, chosen)
        outside = run.streams("inference reference").integers(len(y_reference), size)
        x = torch.cat([run.x[inside], x_reference[outside]], dim=1)
        y = torch.cat([run.y[inside], y_reference[outside]], dim=1)
        with torch.no_grad(), run.evaluating():
            logits = run.forward(x)
        says = member_logit(branches, logits, y)
        gain = (logsigmoid(says[:, :size]) + logsigmoid(-says[:, size:])).mean(-1) / 2
        optimizer.zero_grad()
        (-gain.sum()).backward()
        optimizer.step()

    def loss(
        self, logits: torch.Tensor, target: torch.Tensor, *, run: Run | None = None, **_: Any
    ) -> torch.Tensor:
        """Return the cross-entropy and the weighted log h of each record, (model, batch), for hard labels.

        Without a run there is no inference network, and the cross-entropy is all.
        """
        losses = cross_entropy(logits, target)
        if run is None:
            return losses
        # Constants here: this gradient is the classifier's alone.
        fixed = [[(w.detach(), b.detach()) for w, b in layers] for layers in run.memory["inference"][0]]
        return losses + self.strength * logsigmoid(member_logit(fixed, logits, target))


def member_logit(branches: list[list[Layer]], logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the logit of h, each model's own network, for each record; shape (model, batch).

    Parameters
    ----------
    branches : list of list of (torch.Tensor, torch.Tensor)
        The layers that see probabilities, those that see labels, and those that see both.
    logits : torch.Tensor, shape (model, batch, classes)
        Answers of the classifiers.
    y : torch.Tensor of int64, shape (model, batch)
        Labels.
    """
    confidence, label, joint = branches
    seen = (
        hidden(confidence, logits.softmax(-1)),
        hidden(label, one_hot(y, logits.shape[-1]).to(logits.dtype)),
    )
    return one_number(joint, torch.cat(seen, dim=-1))
