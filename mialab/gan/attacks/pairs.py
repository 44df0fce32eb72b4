"""Attacks on pairs of records through the mixtures of the two: against generative models trained on mixtures."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mialab.attacks.groups import CoMembership, MixedPairs
from mialab.attacks.registry import register
from mialab.attacks.requirements import Requirements
from mialab.gan.game import GeneratorGame


@dataclass(frozen=True, kw_only=True)
class CriticMixedPairs(MixedPairs):
    """Likelihood ratio of a pair of records, from what the critic says of mixtures of the two (Ji et al.).

    As `mialab.attacks.MixedPairs`, with the loss of the critic on mixtures at their mixed labels as the statistic, a
    mean over all fractions. The attacker knows that the records are both members or both not, as in co-membership
    attacks (Liu et al., 2019).

    Parameters
    ----------
    variance, calibrate
        See `mialab.attacks.MixedPairs`.
    """

    needs: ClassVar[Requirements] = Requirements(
        victim="generator", sees="critic", signal="critic_loss", kinds=("mixed",), shadows="IN and OUT"
    )

    @property
    def base_name(self) -> str:
        """Name of the variant."""
        return f"critic_{super().base_name}"

    def answers(self, game: GeneratorGame) -> np.ndarray:
        """Return minus the loss of the critic, a mean over each record's mixtures, float64 (model, record)."""
        mixed = [kind == "mixed" for kind in game.query_kinds]
        return game.signal("critic_loss")[:, mixed].mean(1)


for _variance in ("per_record", "pooled"):
    register(CriticMixedPairs(variance=_variance))
register(CoMembership(of="critic_lira"))
register(CoMembership(of="critic_lira_pooled"))
