"""Probes of generative models: what must be measured while generators and critics themselves are at hand."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import ClassVar

import numpy as np
import torch

from mialab._registry import Registry
from mialab._validation import check_integer, check_number
from mialab.arrays import ArraySpec
from mialab.gan.defenses.base import Defense, Run
from mialab.probes.base import AnyProbe
from mialab.training.stack import prepare
from mialab.training.streams import Streams, generator

#: Differences of arguments and of gradients, and the inverse of their product or 0.
Pairs = deque[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
#: Residuals as a function of latent vectors.
Residuals = Callable[[torch.Tensor], torch.Tensor]
#: Numbers in the records that are generated at once for one model: more would be no faster.
CHUNK = 2**21
#: Fraction of the fall that the slope promises with which a step is accepted (Nocedal and Wright, 2006, section 3.1).
SUFFICIENT = 1e-4
#: Length of finite differences, where latent variables have variance 1.
DIFFERENCE = 0.01
#: Damping at first, factors on it that are tried in each step, and the factor where none of them helped.
DAMPING, DAMPINGS, UNHELPED = 1e-3, (0.1, 1.0, 10.0), 100.0


#: How an array of measurements is laid out; NaN stands for records that were not queried.
measured = partial(ArraySpec, dims=("model", "record"), allows_nan=True)


class Probe(AnyProbe):
    """Base class of every probe of generators."""


# ----------------------------------------------------------------------------------------------------
# Critics of one's own


@dataclass(frozen=True)
class ShadowCritic(Probe):
    """Black box: what a critic says of each record that an attacker trained on the model's samples.

    For each model the attacker trains a GAN of the same networks in the same way, undefended, on samples that the model
    released; if the model's samples leak its members, that critic comes to know members too (Hayes et al., 2019,
    section 4.2, the attack without auxiliary knowledge). The array ``shadow_critic`` (model, record) holds what it
    says of every record with its label. Samples have hard labels, as many of each class. The paper draws new samples
    for each step; here their number is fixed (our assumption).

    This takes as long as training the models.

    Parameters
    ----------
    samples : int
        Samples of each model to train on, at least 2.
    steps : int, optional
        Steps of that critic; by default those of the model itself.
    """

    name: ClassVar[str] = "shadow_critic"
    array: ClassVar[ArraySpec] = measured("shadow_critic", probe=name)

    samples: int = 5000
    steps: int | None = None

    def __post_init__(self) -> None:
        check_integer("samples", self.samples, low=2)
        if self.steps is not None:
            check_integer("steps", self.steps, low=1)

    def __call__(self, run: Run) -> dict[str, np.ndarray]:
        """Return what the attacker's critics say of all records; see `AnyProbe`."""
        labels = torch.arange(self.samples, device=run.device) % run.n_classes
        labels = labels if run.networks.conditional else torch.zeros_like(labels)
        x = run.sample(labels, "samples for a shadow")
        x = x.round() if run.pool.kind == "binary" else x
        training = run.training if self.steps is None else replace(run.training, steps=self.steps, stop=None)
        n = len(run.models)
        shadow = run.fork(
            data=(x.flatten(0, 1), labels.repeat(n)),
            members=torch.arange(n * self.samples, device=run.device).view(n, -1),
            defense=Defense(),
            training=training,
            purpose="shadow ",
        )
        shadow.train()
        answers = shadow.evaluate_records(prepare(run.x), run.onehot(run.y)).mean(1)
        return {self.array.name: answers.cpu().numpy().astype(np.float32)}


# ----------------------------------------------------------------------------------------------------
# Reconstructions


@dataclass(frozen=True)
class Reconstruction(Probe):
    """Base class: how well a generator can be made to generate each record, given the record's label.

    What is minimized over the latent vector z is the mean squared error of the features, plus
    ``penalty * (||z||^2 - dim z)^2``, which keeps z where the generator was trained (Chen et al., 2020, section 5); the
    array holds the least value found. To the squared error the paper adds a perceptual distance (LPIPS), which needs
    the weights of a network that was trained on ImageNet: it is left out here. The search starts at the latent vectors
    of those generated records of the same label that are nearest to the record. Where a model has several generators,
    the best of them counts. Binary records are compared with the generator's outputs before these are rounded (our
    assumption: it is these that an attacker gets for a z of their own).

    All records have the same number of evaluations of the generator. Only some are queried, the first ones of a
    random order that is the same for all models and games with as many records; the others are NaN.

    Parameters
    ----------
    records : int
        Records to query; all, if there are no more.
    restarts : int
        Starts of the search for each record, of which the best end counts.
    candidates : int
        Generated records of each class, and of each generator, among which the starts are.
    penalty : float
        Weight of the penalty, the paper's by default. With 0 (as in Ji et al.), the search ends at latent vectors that
        training never saw, from which non-members can be reconstructed too: errors are lower, and leak less.
    """

    records: int = 200
    restarts: int = 1
    candidates: int = 256
    penalty: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("records", "restarts", "candidates"):
            check_integer(name, getattr(self, name), low=1)
        if self.restarts > self.candidates:
            raise ValueError(
                f"restarts={self.restarts} must be at most candidates={self.candidates}, among which they are."
            )
        check_number("penalty", self.penalty, low=0)

    def __call__(self, run: Run) -> dict[str, np.ndarray]:
        """Return the least errors found; see `AnyProbe`."""
        rows = queried(len(run.y), self.records)
        conditional = run.networks.conditional
        rows = rows[np.argsort(run.y.cpu().numpy()[rows], kind="stable")] if conditional else rows
        error = np.full((len(run.models), len(run.y)), np.nan, np.float32)
        rng = Streams(run.seed, run.models, f"{run.purpose}{self.name} candidates", run.device)
        candidates = rng.normal(run.n_generators, self.candidates, run.latent)
        size = max(1, CHUNK // (prod(run.x.shape[1:]) * self.generated_at_once))
        for part in np.split(rows, range(size, len(rows), size)):
            index = torch.as_tensor(part, device=run.device)
            x = prepare(run.x[index]).flatten(1)
            labels = run.y[index] if conditional else torch.zeros_like(index)
            start = self._starts(run, x, labels, candidates)
            residuals = _residuals(run, x, run.onehot(labels), self.penalty)
            error[:, part] = self.search(run, residuals, start).amin((0, 2)).cpu().numpy()
        return {self.array.name: error}

    @property
    def generated_at_once(self) -> int:
        """Generated records that a search holds in memory for each record and model."""
        return self.restarts

    @abstractmethod
    def search(self, run: Run, residuals: Residuals, start: torch.Tensor) -> torch.Tensor:
        """Return the least errors found from each start, (restart, model, generator, record).

        The error is the sum of the squares of residuals: a function of latent vectors (..., model, generator, record,
        latent) that gives (..., model, generator, record, feature + 1). Starts are (restart, model, generator, record,
        latent).
        """

    @torch.no_grad()
    def _starts(
        self, run: Run, x: torch.Tensor, labels: torch.Tensor, candidates: torch.Tensor
    ) -> torch.Tensor:
        """Latent vectors of the nearest candidates, (restart, model, generator, record, latent)."""
        both, starts = candidates.shape[:2], []
        for label in labels.unique_consecutive():
            y = run.onehot(label).expand(*both, self.candidates, -1)
            made = run.generate(y, candidates).flatten(3)
            own = x[labels == label]
            apart = torch.cdist(own.expand(*both, *own.shape), made)
            nearest = apart.topk(self.restarts, largest=False).indices
            starts.append(
                candidates[:, :, None].expand(*both, len(own), -1, -1).take_along_dim(nearest[..., None], 3)
            )
        return torch.cat(starts, 2).movedim(3, 0)


def queried(n: int, records: int) -> np.ndarray:
    """Say which records are queried, int64 (min(records, n),)."""
    return generator(0, "asked").permutation(n)[:records]


def _residuals(run: Run, x: torch.Tensor, y: torch.Tensor, penalty: float) -> Residuals:
    """Return the function of latent vectors whose squares add up to the errors of records ``x`` (record, feature)."""

    def residuals(z: torch.Tensor) -> torch.Tensor:
        several = z.reshape(-1, *z.shape[-4:])
        s, models, generators = several.shape[:3]
        together = several.permute(1, 2, 0, 3, 4).flatten(2, 3)
        made = run.generate(y.repeat(s, 1).expand(models, generators, -1, -1), together).flatten(3)
        made = made.unflatten(2, (s, len(x))).permute(2, 0, 1, 3, 4).reshape(*z.shape[:-1], -1)
        length = z.square().sum(-1, keepdim=True) - z.shape[-1]
        return torch.cat([(made - x) / made.shape[-1] ** 0.5, penalty**0.5 * length], -1)

    return residuals


@dataclass(frozen=True)
class WhiteBox(Reconstruction):
    """White box: how well each record is reconstructed when the generator's gradients are known.

    The array ``reconstruction`` (model, record) is the least error that L-BFGS finds, see `Reconstruction` (Chen et
    al., 2020, section 5.4, whose attack has about 1,000 evaluations; Ji et al. take it too).

    Parameters
    ----------
    records, restarts, candidates, penalty
        See `Reconstruction`.
    steps : int
        Evaluations of the generator and its gradient from each start.
    """

    name: ClassVar[str] = "white_box"
    array: ClassVar[ArraySpec] = measured("reconstruction", probe=name)

    steps: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("steps", self.steps, low=1)

    def search(self, run: Run, residuals: Residuals, start: torch.Tensor) -> torch.Tensor:
        """Return the least errors found by L-BFGS; see `Reconstruction.search`."""
        return lbfgs(lambda z: residuals(z).square().sum(-1), start, self.steps)[1]


@dataclass(frozen=True)
class PartialBlackBox(Reconstruction):
    """Partial black box: how well each record is reconstructed by choosing z and looking at what is generated.

    The array ``partial_reconstruction`` (model, record) is the least error found without gradients, see
    `Reconstruction`. Chen et al. (2020, section 5.3) search with Powell's method; here it is the Gauss-Newton
    method with finite differences in random subspaces (Cartis and Roberts, 2023, algorithm 1, with damping in place of
    the trust region), which also sees generated records alone. On small GANs it reaches, with half of the evaluations,
    lower errors than Powell's method, evolution strategies or estimated gradients.

    Parameters
    ----------
    records, restarts, candidates, penalty
        See `Reconstruction`.
    evaluations : int
        Records to generate from each start, at most.
    directions : int
        Dimension of the random subspaces; all latent dimensions if there are no more.
    """

    name: ClassVar[str] = "partial_black_box"
    array: ClassVar[ArraySpec] = measured("partial_reconstruction", probe=name)

    evaluations: int = 500
    directions: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("directions", self.directions, low=1)
        check_integer("evaluations", self.evaluations, low=1 + self.directions + len(DAMPINGS))

    @property
    def generated_at_once(self) -> int:
        """Generated records that a search holds in memory for each record and model."""
        return self.restarts * max(self.directions, len(DAMPINGS))

    def search(self, run: Run, residuals: Residuals, start: torch.Tensor) -> torch.Tensor:
        """Return the least errors found by Gauss-Newton steps; see `Reconstruction.search`."""
        k = min(self.directions, run.latent)
        steps = (self.evaluations - 1) // (k + len(DAMPINGS))
        rng = Streams(run.seed, run.models, f"{run.purpose}{self.name} directions", run.device)
        # Orthonormal bases of the subspaces, the same for all records of a model.
        bases = torch.linalg.qr(rng.normal(steps, run.latent, k).movedim(1, 0))[0].mT
        return gauss_newton(residuals, start, bases)[1]


def lbfgs(
    errors: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor, evaluations: int, *, history: int = 10
) -> tuple[torch.Tensor, torch.Tensor]:
    """Minimize many functions at once by L-BFGS, each with a history and a step length of its own.

    The two-loop recursion (Nocedal and Wright, 2006, algorithm 7.4) with backtracking: each evaluation either
    makes a step or shortens the next one, so that all functions have the same number. The first step has length 1.
    `torch.optim.LBFGS` on the sum of all functions gives them a history and a step length in common, and leaves higher
    errors after as many evaluations (up to a third, measured on small GANs); Adam leaves still higher ones.

    Values ``errors(z)`` (...) of arguments (..., dimension) are each of its own argument alone. They are evaluated with
    their gradients, as often as ``evaluations`` says; the differences of the last ``history`` evaluations count. Return
    the best arguments and their values.
    """

    def evaluate(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            value = errors(z)
            (slope,) = torch.autograd.grad(value.sum(), z)
        return value.detach()[..., None], slope

    value, slope = evaluate(z)
    pairs: Pairs = deque(maxlen=history)
    scale = 1 / slope.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(z.dtype).tiny)
    step, length = -scale * slope, torch.ones_like(value)
    for _ in range(evaluations - 1):
        move = length * step
        promised = (move * slope).sum(-1, keepdim=True)
        tried, its_slope = evaluate(z + move)
        arrives = tried <= value + SUFFICIENT * promised
        bend = torch.where(arrives, its_slope - slope, 0)
        curvature, size = (move * bend).sum(-1, keepdim=True), bend.square().sum(-1, keepdim=True)
        convex = curvature > torch.finfo(z.dtype).eps * size
        pairs.append((move, bend, torch.where(convex, 1 / curvature, 0)))
        scale = torch.where(convex, curvature / size, scale)
        z, slope = torch.where(arrives, z + move, z), torch.where(arrives, its_slope, slope)
        step = torch.where(arrives, -_times_inverse_hessian(slope, pairs, scale), step)
        shorter = (-promised / (2 * (tried - value - promised))).clamp(0.1, 0.5).nan_to_num(0.1)
        length = torch.where(arrives, 1, length * shorter)
        value = torch.where(arrives, tried, value)
    return z, value[..., 0]


def _times_inverse_hessian(slope: torch.Tensor, pairs: Pairs, scale: torch.Tensor) -> torch.Tensor:
    """Two-loop recursion of L-BFGS; pairs with 0 for the inverse of their curvature do not count."""
    fractions = []
    for move, bend, inverse in reversed(pairs):
        fractions.append(inverse * (move * slope).sum(-1, keepdim=True))
        slope = slope - fractions[-1] * bend
    slope = scale * slope
    for (move, bend, inverse), fraction in zip(pairs, reversed(fractions), strict=True):
        slope = slope + (fraction - inverse * (bend * slope).sum(-1, keepdim=True)) * move
    return slope


@torch.no_grad()
def gauss_newton(
    residuals: Residuals, z: torch.Tensor, directions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Minimize many sums of squares at once without gradients, in random subspaces.

    Each step takes finite differences along the directions of one subspace, and tries Gauss-Newton steps with several
    dampings (Levenberg, 1944; Marquardt, 1963).

    Residuals and where to begin are those of `Reconstruction.search`; directions are orthonormal bases of subspaces,
    (step, model, direction, latent). Return the best arguments and their sums of squares.
    """
    residual = residuals(z)
    value = residual.square().sum(-1)
    damping = torch.full_like(value, DAMPING)
    factors = torch.tensor(DAMPINGS, device=z.device).view(-1, 1, 1, 1, 1)
    unit = torch.eye(directions.shape[2], device=z.device)
    for basis in directions[:, :, None, None]:  # (model, 1, 1, direction, latent)
        around = z + DIFFERENCE * basis.movedim(3, 0)[:, None]
        jacobian = ((residuals(around) - residual) / DIFFERENCE).movedim(0, -1)
        square, uphill = jacobian.mT @ jacobian, jacobian.mT @ residual[..., None]
        dampings = factors * damping
        step, _ = torch.linalg.solve_ex(
            square + dampings[..., None, None] * unit, uphill.expand(len(factors), *uphill.shape)
        )
        tried = z - (step.mT @ basis)[..., 0, :]
        theirs = residuals(tried)
        least, which = theirs.square().sum(-1).min(0)
        better = least < value
        z = torch.where(better[..., None], _of_one(tried, which), z)
        residual = torch.where(better[..., None], _of_one(theirs, which), residual)
        damping = torch.where(better, _of_one(dampings[..., None], which)[..., 0], UNHELPED * damping)
        damping, value = damping.clamp(1e-9, 1e3), torch.where(better, least, value)
    return z, value


def _of_one(values: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Take from ``values`` (several, ..., dimension) the one of each index (...)."""
    return values.take_along_dim(which[None, ..., None], 0)[0]


#: Every probe by name.
PROBES: Registry[Probe] = Registry("probes", Probe, PartialBlackBox, ShadowCritic, WhiteBox)  # type: ignore[type-abstract]  # the base of all
available, make = PROBES.available, PROBES.several
