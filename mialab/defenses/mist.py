"""MIST: sub-models that agree about each other's members are averaged, again and again (Li et al., 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from mialab._validation import check_integer, check_number
from mialab.defenses.base import Defense, register


@register
@dataclass(frozen=True)
class MIST(Defense):
    """Membership-invariant subspace training: what only the sub-model that knows a record says of it, is trained away.

    Every epoch is a round. The members are split at random into as many parts as there are sub-models, all of which
    begin with the model's weights. Each is trained on its own part; then, on the same part, toward what the others say,
    who do not know these records in this round: a record's loss is ``strength`` times the mean over the others of the
    L1 distance between the probabilities. The averages of the weights are the model's.

    Parameters
    ----------
    sub_models : int
        Number of sub-models, at least 2.
    local_epochs : int
        Passes over its part by which each sub-model learns in a round, at least 1.
    agree_epochs : int
        Passes over its part by which each moves toward what the others say, at least 0; without, this is federated
        averaging over parts that are drawn anew.
    strength : float
        Weight of the distance from the others, greater than 0: a factor of SGD's learning rate; with Adam it makes
        hardly any difference.

    Notes
    -----
    A round has ``sub_models`` times fewer steps than an epoch has, so that training ends later: look whether it has.
    It costs as much as ``local_epochs + agree_epochs`` epochs, and ``sub_models - 1`` passes of answers.

    Assumed here: the default values; that the others' answers are those after the first phase, and stay as they are
    meanwhile; an optimizer that begins anew in every phase. The paper combines the method with mixup as well, which is
    left out.

    References
    ----------
    J. Li, N. Li and B. Ribeiro, "MIST: Defending against membership inference attacks through membership-invariant
    subspace training", USENIX Security 2024.
    """

    name: ClassVar[str] = "mist"
    needs: ClassVar[tuple[str, ...]] = ("several trainings",)
    sub_models: int = 4
    local_epochs: int = 2
    agree_epochs: int = 2
    strength: float = 1.0

    def __post_init__(self) -> None:
        check_integer("sub_models", self.sub_models, low=2)
        check_integer("local_epochs", self.local_epochs, low=1)
        check_integer("agree_epochs", self.agree_epochs)
        check_number("strength", self.strength, above=0)

    def check(self, plan: Any) -> None:
        """Refuse more sub-models than members (ValueError)."""
        if self.sub_models > plan.n_members:
            raise ValueError(
                f"sub_models={self.sub_models} must be at most {plan.n_members}, the members of each model."
            )

    def batches(self, run: Any) -> Iterator[torch.Tensor]:
        """Yield all members once, in random order: the round."""
        order = run.streams("parts").permutation(run.members.shape[1])
        yield run.members.gather(1, order)

    def step(self, run: Any, batch: torch.Tensor) -> None:
        """Train the sub-models of a round and average them."""
        parts = batch.tensor_split(self.sub_models, dim=1)
        start = _copy(run)
        learned = [self._learn(run, part, start) for part in parts]
        if self.agree_epochs:
            told = self._told(run, parts, learned)
            learned = [
                self._agree(run, part, own, others)
                for part, own, others in zip(parts, learned, told, strict=True)
            ]
        _load(run, {name: torch.stack([own[name] for own in learned]).mean(0) for name in start})
        run.reset_optimizer()

    def _learn(self, run: Any, part: torch.Tensor, start: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Train one sub-model on its part, from the model's weights; return its own."""
        _load(run, start)
        run.reset_optimizer()
        for _ in range(self.local_epochs):
            order = run.streams("local").permutation(part.shape[1])
            for batch in part.gather(1, order).split(run.training.batch_size, dim=1):
                run.step(batch)
        return _copy(run)

    def _told(
        self, run: Any, parts: tuple[torch.Tensor, ...], learned: list[dict[str, torch.Tensor]]
    ) -> list[torch.Tensor]:
        """Return what the others say of each part, probabilities (other, model, record, classes)."""
        said: list[list[torch.Tensor]] = [[] for _ in parts]
        for i, own in enumerate(learned):
            _load(run, own)
            for j, part in enumerate(parts):
                if j != i:
                    said[j].append(run.predict(run.x[part]).softmax(-1))
        return [torch.stack(of_part) for of_part in said]

    def _agree(
        self, run: Any, part: torch.Tensor, own: dict[str, torch.Tensor], others: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Train one sub-model, on its part, toward what the others say of it; return its weights."""
        _load(run, own)
        run.reset_optimizer()
        for _ in range(self.agree_epochs):
            order = run.streams("agree").permutation(part.shape[1])
            for place in order.split(run.training.batch_size, dim=1):
                p = run.forward(run.x[part.gather(1, place)]).softmax(-1)
                said = others.take_along_dim(place[None, ..., None], 2)
                run.descend(self.strength * (p - said).abs().sum(-1).mean((0, 2)))
        return _copy(run)


def _copy(run: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in run.state().items() if value.is_floating_point()}


@torch.no_grad()
def _load(run: Any, values: dict[str, torch.Tensor]) -> None:
    state = run.state()
    for name, value in values.items():
        state[name].copy_(value)
