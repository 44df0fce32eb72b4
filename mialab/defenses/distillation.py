"""Distillation: what is released learns a teacher's answers to reference records (Shejwalkar and Houmansadr, 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from mialab._validation import check_number
from mialab.defenses.base import Defense, Run, cross_entropy, register


@dataclass(frozen=True)
class _Student(Defense):
    """Learns soft labels that were made at a temperature."""

    name: ClassVar[str] = "distillation student"
    temperature: float = 1.0

    def loss(self, logits: torch.Tensor, target: torch.Tensor, **_: Any) -> torch.Tensor:
        """Cross-entropy at the temperature, (model, batch): the KL divergence but for a constant."""
        # Gradients shrink with the square of the temperature; the factor keeps the learning rate right.
        return self.temperature**2 * cross_entropy(logits / self.temperature, target)


@register
@dataclass(frozen=True)
class Distillation(Defense):
    """Distillation for membership privacy (DMP): a teacher learns the members, a student what the teacher answers.

    The teacher is trained plainly on the members. It then answers reference records, which nobody's model has as
    members, and the student is trained on these with the answers as soft labels (KL divergence). The student is
    released. Neither the members nor the labels of reference records are shown to it.

    Parameters
    ----------
    temperature : float
        What logits of teacher and student are divided by in the student's training, greater than 0.
    keep : float
        Fraction of the reference records that the student learns from, in (0, 1]: those of which the teacher is
        surest, by the entropy of its answer at temperature 1. Each model has its own.

    Notes
    -----
    The paper's criterion is that answers of low entropy carry less about members. It tunes the reference data with it;
    that a fixed fraction is kept is our form of it. The temperature is that of Hinton et al. (2015), with their factor
    of its square on the loss; at 1, the default, there is none.

    Teacher and student have the same network and the game's options of training. What a pass over the reference records
    costs goes by how many there are. The paper has unlabeled records of the same distribution, or synthetic ones from a
    generator that was itself trained on members; here they are the pool's reference part, so results say nothing about
    synthetic ones. A small reference part costs accuracy, and that cost is part of what is measured.

    References
    ----------
    V. Shejwalkar and A. Houmansadr, "Membership privacy for machine learning models through knowledge transfer",
    AAAI 2021.

    G. Hinton, O. Vinyals and J. Dean, "Distilling the knowledge in a neural network", arXiv:1503.02531, 2015.
    """

    name: ClassVar[str] = "distillation"
    needs: ClassVar[tuple[str, ...]] = ("reference records", "several trainings")
    temperature: float = 1.0
    keep: float = 1.0

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, above=0)
        check_number("keep", self.keep, above=0, high=1)

    def check(self, plan: Any) -> None:
        """Refuse pools with fewer reference records to learn from than classes (ValueError)."""
        pool = plan.pool
        n = len(pool.x_reference)
        if not n:
            raise ValueError(
                f"{pool.name!r} has no reference part for distillation: load it with reference=... records."
            )
        if self._kept(n) < pool.n_classes:
            raise ValueError(
                f"keep={self.keep!r} of {n} reference records of {pool.name!r} are {self._kept(n)}; distillation needs "
                f"at least {pool.n_classes}, the number of classes."
            )

    def fit(self, run: Any) -> None:
        """Train teachers on members, then students on reference records; the students are what is released."""
        teacher = run.fork(defense=Defense(), purpose="teacher ")
        teacher.fit()
        x, y = run.pool.x_reference, run.pool.y_reference
        logits = teacher.predict(x)
        student: Run = run.fork(
            data=(x, y),
            members=self.surest(logits),
            targets=(logits / self.temperature).softmax(-1),
            defense=_Student(self.temperature),
            purpose="student ",
        )
        student.fit()
        run.adopt(student)

    def surest(self, logits: torch.Tensor) -> torch.Tensor:
        """Return positions of the records that each student learns from, in ascending order.

        Parameters
        ----------
        logits : torch.Tensor, shape (model, record, classes)
            The teachers' answers to the reference records.

        Returns
        -------
        torch.Tensor of int64, shape (model, kept record)
        """
        entropy = torch.special.entr(logits.softmax(-1)).sum(-1)
        order = entropy.argsort(dim=-1, stable=True)
        return order[:, : self._kept(logits.shape[1])].sort(-1).values

    def _kept(self, n: int) -> int:
        return round(self.keep * n)
