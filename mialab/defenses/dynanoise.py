"""DynaNoise: noise on the answers, more of it where they are surer (Forough and Haddadi, PETS 2026)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from mialab._validation import check_number
from mialab.defenses.base import Defense, Run, register


@register
@dataclass(frozen=True)
class DynaNoise(Defense):
    """Gaussian noise on the logits, fresh for every query, then a softmax at a temperature.

    With H the entropy of an answer, ``R = 1 - H / log C`` says how sure it is, from 0 to 1. The noise on each of its
    logits has the variance ``variance * (1 + scale * R)``.

    Parameters
    ----------
    variance : float
        Variance of the noise on the least sure answer, greater than 0.
    scale : float
        How much more of it sure answers get, at least 0: at most ``1 + scale`` times as much.
    temperature : float
        What the noisy logits are divided by, greater than 0. The order of classes does not depend on it.

    Notes
    -----
    Defaults are those of the authors' runs on CIFAR-10. Noise may change labels, and accuracy falls with it. Training
    is plain. Who may ask again gets other noise: averages of many answers take it away.

    References
    ----------
    J. Forough and H. Haddadi, "Dynamic probabilistic noise injection for membership inference defense", Proceedings on
    Privacy Enhancing Technologies 2026, arXiv:2505.13362.
    """

    name: ClassVar[str] = "dynanoise"
    variance: float = 0.3
    scale: float = 2.0
    temperature: float = 10.0

    def __post_init__(self) -> None:
        check_number("variance", self.variance, above=0)
        check_number("scale", self.scale, low=0)
        check_number("temperature", self.temperature, above=0)

    def answer(
        self, run: Run, logits: torch.Tensor, x: torch.Tensor, record: torch.Tensor | None, query: int | None
    ) -> torch.Tensor:
        """Return log-probabilities with noise, (model, record, classes)."""
        noise = self.noise_variance(logits).sqrt() * run.streams("answers").normal(*logits.shape[1:])
        return ((logits + noise) / self.temperature).log_softmax(-1)

    def noise_variance(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the variance of the noise on the logits of each answer, shape (..., 1)."""
        entropy = torch.special.entr(logits.softmax(-1)).sum(-1, keepdim=True)
        return self.variance * (1 + self.scale * (1 - entropy / math.log(logits.shape[-1])))
