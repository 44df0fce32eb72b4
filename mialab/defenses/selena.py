"""SELENA: a model learns what sub-models that never saw a record say of it (Tang et al., USENIX Security 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from mialab._validation import check_integer
from mialab.defenses.base import Defense, register
from mialab.training.streams import Streams


def split(n_records: int, n_sub_models: int, n_out: int, rng: Streams) -> torch.Tensor:
    """Draw which sub-models are not trained on which records.

    Every record is left out by exactly ``n_out`` sub-models. How many records a sub-model leaves out follows from the
    sizes alone: the same number for each if ``n_sub_models`` divides ``n_records``, else they differ by ``n_out`` at
    most.

    Parameters
    ----------
    n_records, n_sub_models, n_out : int
        Members of each model, sub-models of each model, and sub-models that leave a record out.
    rng : Streams
        Random numbers, a stream a model.

    Returns
    -------
    torch.Tensor of bool, shape (model, record, sub-model)
    """
    chunks, rest = divmod(n_records, n_sub_models)
    # In each chunk of K records, record j is left out by the sub-models at places j, j + 1, ... of a random order.
    orders = rng.uniform(chunks, n_sub_models).argsort(dim=-1, stable=True)
    if rest:  # in the last one, of the same order for all models, so that sizes are the same too
        last = torch.arange(n_sub_models, device=orders.device).expand(len(orders), 1, -1)
        orders = torch.cat([orders, last], dim=1)
    steps = torch.arange(n_sub_models, device=orders.device)
    places = (steps[:, None] + steps[:n_out]) % n_sub_models
    chosen = orders[:, :, places].flatten(1, 2)[:, :n_records]
    out = torch.zeros(len(orders), n_records, n_sub_models, dtype=torch.bool, device=orders.device)
    out.scatter_(2, chosen, True)
    # Which records share a chunk is random.
    order = rng.permutation(n_records)
    return out.gather(1, order[:, :, None].expand_as(out))


@register
@dataclass(frozen=True)
class SELENA(Defense):
    """Split-AI and self-distillation: members are learned with the answers of sub-models that did not see them.

    Each member is left out by ``unseen_by`` of the sub-models, at random; these are trained plainly on what is left to
    them. The mean of their probabilities is what the members' soft label is (the paper's adaptive inference). The
    released model is trained on the members with these soft labels.

    Parameters
    ----------
    sub_models : int
        Number of sub-models K, at least 2; in the paper 25.
    unseen_by : int
        Number of sub-models L that are not trained on a record, at least 1 and less than K; in the paper 10.

    Notes
    -----
    The cost is that of K - L trainings on all members, and that of the released model: 16 trainings by default.

    The paper draws the L sub-models of each record independently. Here the draw is balanced, so that sub-models of all
    models have the same sizes and are trained together (see `split`). Sub-models and the released model have the game's
    options of training. The code of HAMP, which compares with SELENA, averages logits and gives the released model
    options of its own; here as in the paper probabilities are averaged.

    The released model may still know a record's own label: sub-models that saw it answer for other members near it. In
    least squares with equal leverages, where each sub-model leaves out one record, the released model is even the
    undefended one (our algebra), since it cannot learn the soft labels by heart.
    Soft labels of a record come from models that know other members, similar ones among them: a sub-model that leaves
    out a record may know a near duplicate of it. Aerni et al. (2024) audit SELENA with pairs of such records.

    References
    ----------
    X. Tang, S. Mahloujifar, L. Song, V. Shejwalkar, M. Nasr, A. Houmansadr and P. Mittal, "Mitigating membership
    inference attacks by self-distillation through a novel ensemble architecture", USENIX Security 2022.

    M. Aerni, J. Zhang and F. Tramer, "Evaluations of machine learning privacy defenses are misleading", CCS 2024.
    """

    name: ClassVar[str] = "selena"
    needs: ClassVar[tuple[str, ...]] = ("several trainings",)
    sub_models: int = 25
    unseen_by: int = 10

    def __post_init__(self) -> None:
        check_integer("sub_models", self.sub_models, low=2)
        check_integer("unseen_by", self.unseen_by, low=1)
        if self.unseen_by >= self.sub_models:
            raise ValueError(
                f"unseen_by={self.unseen_by} must be less than sub_models={self.sub_models}: someone must see a record."
            )

    def check(self, plan: Any) -> None:
        """Refuse more sub-models than members (ValueError)."""
        if self.sub_models > plan.n_members:
            raise ValueError(
                f"sub_models={self.sub_models} must be at most {plan.n_members}, the members of each model."
            )

    def fit(self, run: Any) -> None:
        """Train sub-models, then the models that are released."""
        released = run.fork(targets=self.soft_labels(run), defense=Defense(), purpose="released ")
        released.fit()
        run.adopt(released)

    def soft_labels(self, run: Any) -> torch.Tensor:
        """Train the sub-models and return what those that did not see them say of members.

        Parameters
        ----------
        run : Run
            The group in training.

        Returns
        -------
        torch.Tensor, shape (model, record, classes)
            Probabilities; NaN for records of the data that are no members.
        """
        n_models, n = run.members.shape
        n_classes = run.pool.n_classes
        out = split(n, self.sub_models, self.unseen_by, run.streams("split"))
        total = torch.full((n_models, len(run.y), n_classes), torch.nan, device=run.device)
        total.scatter_(1, _rows(run.members, n_classes), 0.0)
        for i in range(self.sub_models):  # each is a group, of one sub-model a model
            unseen, seen = (
                run.members.gather(1, mask.nonzero()[:, 1].view(n_models, -1))
                for mask in (out[..., i], ~out[..., i])
            )
            sub_model = run.fork(members=seen, defense=Defense(), purpose=f"sub-model {i} ")
            sub_model.fit()
            if unseen.shape[1]:
                answers = sub_model.predict(run.x[unseen]).softmax(-1)
                total.scatter_add_(1, _rows(unseen, n_classes), answers)
        return total / self.unseen_by


def _rows(index: torch.Tensor, width: int) -> torch.Tensor:
    """Repeat positions (model, record) for each column of the rows that they point to."""
    return index[..., None].expand(-1, -1, width)
