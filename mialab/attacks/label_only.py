"""Label-only attacks: several queries per record, and of each answer only whether it was right."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from mialab._validation import check_number, choose
from mialab.attacks.base import Attack
from mialab.attacks.registry import register
from mialab.attacks.requirements import Requirements
from mialab.games.base import Game
from mialab.queries import MAKERS


def logistic_log_odds(
    bits: np.ndarray,
    member: np.ndarray,
    excluded_models: np.ndarray,
    *,
    penalty: float = 1.0,
    block: int = 64,
) -> np.ndarray:
    """Log odds of membership from logistic regressions, one per record and target.

    For record i and target t, a logistic regression with an L2 penalty on the weights (not on the intercept) is
    fitted to the shadow models' bits and memberships, and applied to the target's bits. All are fitted at once by
    Newton's method in float64.

    Parameters
    ----------
    bits : numpy.ndarray, shape (model, query, record)
        Features of every model's answers, e.g. 1 where the answer was right.
    member, excluded_models
        See `mialab.attacks.shadows.blocks`.
    penalty : float
        Weight of half the squared norm (1 / C in scikit-learn's terms).
    block : int
        Records fitted at once; bounds the memory.

    Returns
    -------
    numpy.ndarray of float64, shape (target, record)
    """
    n_models, n_queries, n_records = bits.shape
    features = np.concatenate([np.ones((n_models, 1, n_records)), bits], axis=1)
    x_all = torch.as_tensor(features).permute(2, 0, 1).contiguous()  # (record, model, feature)
    m_all = torch.as_tensor(member, dtype=torch.float64).T  # (record, model)
    out_all = torch.tensor(excluded_models).T  # (record, target)
    models = torch.arange(n_models)
    ridge = torch.full((n_queries + 1,), penalty, dtype=torch.float64)
    ridge[0] = 1e-8  # the intercept is free, but stays finite where one side has no shadow model
    result = torch.empty(n_records, n_models, dtype=torch.float64)
    for start in range(0, n_records, block):
        x, m = x_all[start : start + block], m_all[start : start + block]
        target, shadow = models, models[:, None]
        use = ((shadow != target) & (shadow != out_all[start : start + block, None])).to(x.dtype)
        squares = (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(2)  # (record, model, feature * feature)
        beta = x.new_zeros(len(x), n_models, x.shape[-1])  # (record, target, feature)
        for _ in range(30):
            p = torch.sigmoid(x @ beta.mT)  # (record, model, target)
            gradient = ((p - m.unsqueeze(-1)) * use).mT @ x + ridge * beta
            curvature = (p * (1 - p) * use).mT @ squares
            hessian = curvature.unflatten(-1, (x.shape[-1],) * 2) + torch.diag(ridge)
            step = torch.linalg.solve(hessian, gradient)
            beta = beta - step
            if step.abs().max() < 1e-8:
                break
        result[start : start + block] = torch.einsum("rtf,rtf->rt", x, beta)
    return result.T.numpy()


@dataclass(frozen=True, kw_only=True)
class LabelOnly(Attack):
    """Per-record logistic regression on which of several queries are answered rightly.

    The attacker queries the record and changed copies of it (see `mialab.queries`), sees predicted labels only, and
    learns from its shadow models how the pattern of right answers goes with membership of that record (Aerni et
    al., 2024, their adaptive attack on HAMP, after Choquette-Choo et al., 2021).

    Parameters
    ----------
    penalty : float
        L2 penalty of the regressions; 1 is scikit-learn's default.
    calibrate
        See `Attack`; the score's own threshold is even odds.
    """

    base_name: ClassVar[str] = "label_only"
    needs: ClassVar[Requirements] = Requirements(sees="label", shadows="IN and OUT", queries=2)
    calibrations: ClassVar[tuple[str, ...]] = ("ratio", "known_half")
    source: ClassVar[str] = "Aerni et al. (2024); Choquette-Choo et al. (2021), section 4"

    penalty: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("penalty", self.penalty, above=0)

    def scores(self, game: Game) -> np.ndarray:
        """Return the log odds of membership, (model, record)."""
        bits = game.signal("correctness")[:, game.unmixed]
        return logistic_log_odds(bits, game.member, game.excluded_models, penalty=self.penalty)


@dataclass(frozen=True, kw_only=True)
class Robustness(Attack):
    """Fraction of the changed copies of a record that get the right label.

    Models are surer around what they were trained on, so that its label withstands more noise. The fraction stands in
    for the distance to the decision boundary (Choquette-Choo et al., 2021), with answers that are known beforehand and
    no shadow models. Fractions of few copies are often equal: such records cannot be told apart.

    Parameters
    ----------
    kinds : tuple of str
        Kinds of copies that count, see `Game.query_kinds`: ``("noise",)`` by default; ``("shift", "flip")`` for
        shifted and mirrored images or flipped binary features; ``("changed",)`` for copies of unknown kind.
    """

    source: ClassVar[str] = "Choquette-Choo et al. (2021): random noise"

    kinds: tuple[str, ...] = ("noise",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.kinds, str) or not isinstance(self.kinds, Sequence) or not self.kinds:
            raise ValueError(f"kinds={self.kinds!r} must be a tuple of kinds of copies, e.g. ('noise',).")
        for kind in self.kinds:
            choose("kinds", kind, (*(kind for kind in MAKERS if kind != "mixed"), "changed"))
        object.__setattr__(self, "kinds", tuple(self.kinds))

    @property
    def base_name(self) -> str:
        """Name of the kinds of copies, e.g. ``"noise_robustness"``."""
        augmentation = set(self.kinds) == {"shift", "flip"}
        return ("augmentation" if augmentation else "_".join(self.kinds)) + "_robustness"

    @property
    def needs(self) -> Requirements:
        """Copies of any of the kinds."""
        return Requirements(sees="label", kinds=self.kinds)

    def scores(self, game: Game) -> np.ndarray:
        """Return the fraction of copies that are answered rightly, (model, record)."""
        counted = [kind in self.kinds for kind in game.query_kinds]
        return game.signal("correctness")[:, counted].mean(1)


register(LabelOnly(), Robustness(), Robustness(kinds=("shift", "flip")))
