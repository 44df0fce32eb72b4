"""Attacks that are classifiers themselves, trained on answers to records whose membership is known."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from mialab._validation import check_integer, choose
from mialab.attacks.base import Attack
from mialab.attacks.registry import register
from mialab.attacks.requirements import Requirements
from mialab.attacks.thresholds import known_half
from mialab.games.base import Game
from mialab.training.streams import Streams, generator

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

#: Log-probabilities that are kept where they are sorted (Salem et al., 2019).
TOP = 3
#: Log odds beyond these say no more: a probability in float64 cannot come closer to 1.
CLIP = 36.0


def _log_posteriors(game: Game, model: int, posteriors: str) -> torch.Tensor:
    """Log-probabilities in one model's answers to the unchanged records, see `Shokri`, float64 (record, feature)."""
    logits = game.dataset["logits"][model, 0].to_numpy()
    log_p = torch.log_softmax(torch.as_tensor(logits, dtype=torch.float64), dim=-1)
    return log_p.topk(min(TOP, log_p.shape[-1])).values if posteriors == "sorted" else log_p


# ----------------------------------------------------------------------------------------------------
# Trained on shadow models


def folds(partner: np.ndarray, n: int) -> np.ndarray:
    """Deal models out to at most n folds, each and its partner (-1 for none) to the same one, int64 (model,)."""
    model = np.arange(len(partner))
    first = np.where(partner >= 0, np.minimum(model, partner), model)
    return np.unique(first, return_inverse=True)[1] % n


def training_rows(member: np.ndarray, shadow: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Choose answers of shadow models to train on: of every record as many members' as non-members'.

    Where every record is a member of exactly half of all models, the fraction of members among the shadow models gives
    the other models' memberships away (see `Game.excluded_models`), so what is too much on one side is left out at
    random. Pairs of models are balanced as they are.

    Parameters
    ----------
    member : numpy.ndarray of bool, shape (model, record)
        Which model was trained on which record.
    shadow : numpy.ndarray of bool, shape (model,)
        Which models are shadow models.
    most : int
        Answers to choose at most, at random.
    rng : numpy.random.Generator
        Decides what is left out.

    Returns
    -------
    numpy.ndarray of bool, shape (model, record)
    """
    sides = [side & shadow[:, None] for side in (member, ~member)]
    fewest = np.minimum(*(side.sum(0) for side in sides))
    use = np.zeros_like(member)
    for side in sides:
        surplus = (side.sum(0) > fewest).nonzero()[0]
        use |= side
        rank = np.where(side[:, surplus], rng.random((len(side), surplus.size)), 2).argsort(0).argsort(0)
        use[:, surplus] &= ~side[:, surplus] | (rank < fewest[surplus])
    chosen = np.flatnonzero(use)
    use.ravel()[rng.permutation(chosen)[most:]] = False
    return use


#: scikit-learn's classifiers: module, class and parameters.
CLASSIFIERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "logistic": ("linear_model", "LogisticRegression", {"solver": "newton-cholesky", "tol": 1e-8}),
    "boosting": ("ensemble", "HistGradientBoostingClassifier", {"max_leaf_nodes": 15, "random_state": 0}),
    "network": (
        "neural_network",
        "MLPClassifier",
        {"hidden_layer_sizes": (64,), "max_iter": 30, "random_state": 0},
    ),
}


def fit(classifier: str, x: np.ndarray, member: np.ndarray, **parameters: Any) -> Pipeline:
    """Train one of `CLASSIFIERS` to tell members by numbers (answer, feature), which are scaled."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    module, name, its_own = CLASSIFIERS[classifier]
    made = getattr(import_module(f"sklearn.{module}"), name)(**its_own, **parameters)
    with warnings.catch_warnings():  # the network's epochs are few on purpose
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(StandardScaler(), made).fit(x.astype(np.float64), member)


def _log_odds(fitted: Pipeline, x: np.ndarray) -> np.ndarray:
    """Return the log odds of membership (answer,), cut off where probabilities end."""
    x = x.astype(np.float64)
    if hasattr(fitted, "decision_function"):
        return np.clip(fitted.decision_function(x), -CLIP, CLIP)
    other, member = np.maximum(fitted.predict_proba(x), np.exp(-CLIP)).T
    return np.log(member) - np.log(other)


@dataclass(frozen=True, kw_only=True)
class Shokri(Attack):
    """Attack models that learn from shadow models what answers to members look like.

    Of Shokri et al. (2017, section V) are the shadow models, the attack model for each class, and its input, the
    probabilities of all classes in their order. One attack model for all classes, on the three greatest probabilities
    in descending order, is that of Salem et al. (2019, section III). Ours are the logarithms of the probabilities,
    and two more inputs: the label's log odds ``log(p_y / (1 - p_y))``, and whether the label is predicted
    (``label=False`` leaves both out). Sorted probabilities alone do not say which one is the label's, and with HAMP's
    output step they say nothing at all.

    So that each of the models can be the target, the models are dealt out to a few folds, a model and its partner to
    the same one, and the targets in a fold are attacked with attack models trained on the answers of the models
    outside it. Of each record as many members' as non-members' answers are learned from: even odds are the threshold,
    and no count of shadow models gives a target's membership away (see `Game.excluded_models`; this is so for
    `Game.plain_leave_one_out`, too).

    The score is the log odds of membership, and 0 for a class of which there is nothing to learn from. An attack model
    that sees the probabilities of all classes can tell records apart, and gains by it as LiRA does. A learned attack
    can miss what a threshold on the loss finds: tables should show it beside ``loss``.

    Parameters
    ----------
    attack_models : {"per_class", "one"}
        One attack model for each class, or one for all.
    posteriors : {"by_class", "sorted"}
        The log-probabilities of all classes in their order, or the greatest three in descending order.
    label : bool
        Whether the label's log odds, and whether it is predicted, are added.
    classifier : {"logistic", "boosting", "network"}
        scikit-learn's logistic regression; gradient-boosted trees, which with the probabilities of all classes are
        often stronger, and take many times longer; or, as in both papers, a network with one hidden layer of 64
        units, here for 30 epochs.
    n_folds : int
        Number of folds, at least 2.
    max_rows : int
        Answers that a fold's attack models are trained on, all classes together, at most; drawn at random.
    per_class, calibrate
        See `Attack`; the threshold of the log odds is 0.
    """

    needs: ClassVar[Requirements] = Requirements(logits=True, shadows="any")
    calibrations: ClassVar[tuple[str, ...]] = ("ratio", "known_half")
    source: ClassVar[str] = "Shokri et al. (2017), section V; Salem et al. (2019), section III"

    attack_models: str = "per_class"
    posteriors: str = "by_class"
    label: bool = True
    classifier: str = "logistic"
    n_folds: int = 4
    max_rows: int = 200_000

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("attack_models", self.attack_models, ("per_class", "one"))
        choose("posteriors", self.posteriors, ("by_class", "sorted"))
        choose("classifier", self.classifier, CLASSIFIERS)
        check_integer("n_folds", self.n_folds, low=2)
        check_integer("max_rows", self.max_rows, low=2)

    @property
    def base_name(self) -> str:
        """Name of the variant, e.g. ``"shokri_sorted_one_model"``."""
        name = (
            "shokri"
            + "_sorted" * (self.posteriors == "sorted")
            + "_one_model" * (self.attack_models == "one")
        )
        return (
            name
            + "_without_label" * (not self.label)
            + f"_{self.classifier}" * (self.classifier != "logistic")
        )

    def scores(self, game: Game) -> np.ndarray:
        """Return the log odds of membership, (model, record); in two passes over the models' answers."""
        fold, n_targets = folds(game.partner, self.n_folds), game.n_models
        if game.attrs.get("leave_one_out") == "first":  # the others are separate shadow models
            fold, n_targets = np.minimum(np.arange(game.n_models), 1), 1
        groups = game.y if self.attack_models == "per_class" else np.zeros_like(game.y)
        use = [
            training_rows(game.member, fold != f, self.max_rows, generator(0, "shokri", f))
            for f in range(fold[:n_targets].max() + 1)
        ]
        parts: list[list[np.ndarray]] = [[] for _ in use]
        for k in range(game.n_models):
            x = self._features(game, k)
            for part, rows in zip(parts, use, strict=True):
                part.append(x[rows[k]])
        attack_models = [
            self._train(np.concatenate(part), game.member[rows], np.nonzero(rows)[1], groups)
            for part, rows in zip(parts, use, strict=True)
        ]
        score = np.zeros(game.member.shape)
        for k in range(n_targets):
            x = self._features(game, k)
            for group, attack_model in attack_models[fold[k]].items():
                records = groups == group
                score[k, records] = _log_odds(attack_model, x[records])
        return score

    def _features(self, game: Game, k: int) -> np.ndarray:
        """Return what an attack model sees of one model's answers, float32 (record, feature)."""
        columns = [_log_posteriors(game, k, self.posteriors).numpy()]
        if self.label:
            columns += [game.signal(name)[k, 0][:, None] for name in ("scaled_logit", "correctness")]
        return np.concatenate(columns, axis=1, dtype=np.float32)

    def _train(
        self, x: np.ndarray, member: np.ndarray, record: np.ndarray, groups: np.ndarray
    ) -> dict[int, Pipeline]:
        """Train an attack model for each group that has members and non-members to learn from."""
        models = {}
        for group in np.unique(groups[record]):
            rows = groups[record] == group
            if member[rows].any() and not member[rows].all():
                models[group] = fit(self.classifier, x[rows], member[rows])
        return models


register(Shokri(), Shokri(posteriors="sorted"), Shokri(posteriors="sorted", attack_models="one"))


# ----------------------------------------------------------------------------------------------------
# Trained on a known half of the target's own records

#: Inputs in memory at once, 256 MB in float32: the networks of as many targets are trained together.
INPUTS = 2**26
#: Answers in a batch, half of them to members; and answers to either side that choose the step to keep, at most.
BATCH, VALIDATION = 128, 256
#: Steps from one look at the validation answers to the next.
LOOK = 10
#: Standard deviations beyond which an input is cut off.
FAR = 10.0


class _Networks:
    """One network for each target, with three branches that are joined; widths are an eighth of the artifact's."""

    def __init__(self, n_posteriors: int, n_classes: int, streams: Streams) -> None:
        widths = ((n_posteriors, 128, 64, 8), (n_classes, 16, 8), (1, n_classes, 8), (24, 32, 16, 8, 1))
        self.layers = [list(pairwise(branch)) for branch in widths]
        sizes = [(i, i * o + o) for branch in self.layers for i, o in branch]
        bound = torch.cat([torch.full((size,), i**-0.5) for i, size in sizes])
        #: Weights and biases (target, parameter), drawn as `torch.nn.Linear` does.
        self.parameters = (bound * (2 * streams.uniform(len(bound)) - 1)).requires_grad_()
        self.sizes = [size for _, size in sizes]

    def __call__(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return log odds (target, answer) from inputs (target, answer, feature) to the branches."""
        parts = iter(self.parameters.split(self.sizes, dim=1))
        *branches, joint = self.layers
        outputs = [torch.relu(_layers(x, branch, parts)) for x, branch in zip(inputs, branches, strict=True)]
        return _layers(torch.cat(outputs, dim=-1), joint, parts)[..., 0]


def _layers(x: torch.Tensor, shapes: list[tuple[int, int]], parts: Iterator[torch.Tensor]) -> torch.Tensor:
    """Linear layers with ReLU between them."""
    for i, shape in enumerate(shapes):
        bias, weight = next(parts).split((shape[1], shape[0] * shape[1]), dim=1)
        x = torch.baddbmm(bias[:, None], torch.relu(x) if i else x, weight.unflatten(1, shape))
    return x


def _balanced_loss(log_odds: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each target (target,), where the first half of the answers is to members."""
    truth = torch.zeros_like(log_odds)
    truth[:, : truth.shape[1] // 2] = 1
    return binary_cross_entropy_with_logits(log_odds, truth, reduction="none").mean(1)


def _draw_batches(
    member: np.ndarray, known: np.ndarray, steps: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a target's batches (step, record) and validation records; members are the first half of both."""
    batches, validation = [], []
    for side in (member, ~member):
        records = rng.permutation(np.flatnonzero(known & side))
        held_out = -(-records.size // 5)
        # About a quarter of all records is known on each side; the exact numbers differ between targets.
        looked_at = min(VALIDATION, -(-member.size // 20))
        validation.append(np.resize(records[:held_out], looked_at))
        batches.append(rng.choice(records[held_out:], (steps, min(BATCH // 2, member.size // 4))))
    return np.concatenate(batches, axis=1), np.concatenate(validation)


def _scaled(x: torch.Tensor, known: np.ndarray) -> torch.Tensor:
    """Center each column of x (record, feature) and divide by one deviation, as seen on the known records."""
    seen = x[known]
    x = x - seen.mean(0)
    deviation = x[known].square().mean().sqrt().clamp(min=torch.finfo(x.dtype).tiny ** 0.5)
    return (x / deviation).clamp(-FAR, FAR).float()


@dataclass(frozen=True, kw_only=True)
class Nasr(Attack):
    """A network for each target, trained on a half of its members and non-members that the attacker knows.

    The network of Nasr et al. (2018) for adversarial regularization has a branch for the answer and one for the
    label as a one-hot vector; that of Chen and Pattabiraman (2024, the "NN-based attack" of HAMP's artifact) a third
    one for the loss. As in the artifact, each batch holds as many known members as non-members, and the state with
    the least loss on held-out known records is kept, here a fifth of them.

    Unlike there, the answer enters as log-probabilities, which do not depend on a shift of all logits; inputs are
    scaled; the networks have an eighth of the units in all layers but those as wide as there are classes, and a hundred
    steps of Adam on the cross-entropy, so that the networks for all targets are trained together in seconds;
    members are labeled 1 (0 in the artifact); and the records are queried once, where a defense's are random.

    The score is the log odds of membership; only records that were not known are evaluated. A learned attack can
    miss what a threshold on the loss finds: tables should show it beside ``loss``.

    Parameters
    ----------
    posteriors : {"by_class", "sorted"}
        The log-probabilities of all classes in their order, as in the artifact, or the greatest three in descending
        order, from which there is less to learn by heart.
    steps : int
        Batches, of 128 answers or half of the records.
    per_class, calibrate
        See `Attack`; the threshold of the log odds is 0, for all classes.
    """

    needs: ClassVar[Requirements] = Requirements(logits=True, known_half=4)
    calibrations: ClassVar[tuple[str, ...]] = ("ratio",)
    source: ClassVar[str] = "Nasr et al. (2018); Chen and Pattabiraman (2024)"
    no_per_class: ClassVar[str] = "the label is one of the network's inputs"

    posteriors: str = "by_class"
    steps: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("posteriors", self.posteriors, ("by_class", "sorted"))
        check_integer("steps", self.steps, low=LOOK)

    @property
    def base_name(self) -> str:
        """Name of the variant, ``"nasr"`` or ``"nasr_sorted"``."""
        return "nasr" + "_sorted" * (self.posteriors == "sorted")

    def scores(self, game: Game) -> np.ndarray:
        """Return the log odds of membership, (model, record)."""
        together = max(1, INPUTS // (game.n_records * game.n_classes))
        groups = np.split(np.arange(game.n_models), range(together, game.n_models, together))
        known = known_half(game.member)
        return np.concatenate([self._attack(game, known, targets) for targets in groups])

    def _attack(self, game: Game, known: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Train the networks for some targets, and return their scores (target, record)."""
        log_p = torch.stack([_scaled(_log_posteriors(game, k, self.posteriors), known[k]) for k in targets])
        loss = torch.as_tensor(-game.signal("loss")[:, 0, :, None])
        loss = torch.stack([_scaled(loss[k], known[k]) for k in targets])
        label = one_hot(torch.as_tensor(game.y), game.n_classes).float()
        row = torch.arange(len(targets))[:, None]

        def inputs(records: torch.Tensor) -> list[torch.Tensor]:
            return [log_p[row, records], label[records], loss[row, records]]

        drawn = [
            _draw_batches(game.member[k], known[k], self.steps, generator(0, "nasr batches", k))
            for k in targets
        ]
        batches, validation = (torch.as_tensor(np.stack(a, axis=-2)) for a in zip(*drawn, strict=True))
        networks = _Networks(log_p.shape[-1], game.n_classes, Streams(0, targets.tolist(), "nasr weights"))
        held_out = inputs(validation)
        optimizer = torch.optim.Adam([networks.parameters], lr=3e-3, fused=True)
        least = torch.full((len(targets),), torch.inf)
        kept = networks.parameters.detach().clone()
        for step, records in enumerate(batches, start=1):
            optimizer.zero_grad()
            _balanced_loss(networks(inputs(records))).sum().backward()
            optimizer.step()
            if step % LOOK == 0:
                with torch.no_grad():
                    now = _balanced_loss(networks(held_out))
                better = now < least
                least[better], kept[better] = now[better], networks.parameters.detach()[better]
        with torch.no_grad():
            networks.parameters.copy_(kept)
            pieces = torch.arange(game.n_records).split(1024)
            score = torch.cat([networks(inputs(piece.expand(len(targets), -1))) for piece in pieces], dim=1)
        return score.double().clamp(-CLIP, CLIP).numpy()


register(Nasr(), Nasr(posteriors="sorted"))
