"""Distances of records from the decision boundary."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from mialab._validation import check_integer, check_number
from mialab.arrays import ArraySpec
from mialab.defenses.base import Run
from mialab.probes.base import Probe
from mialab.probes.gradient import CHUNK_BYTES
from mialab.training.streams import Streams, generator

Label = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Boundary(Probe):
    """Label only: how far each record is from where the model gives it another label.

    The array ``boundary_distance`` (model, record) holds the L2 distance to the nearest point found that the model
    labels otherwise than the record is labeled, and 0 where it labels the record itself otherwise: Choquette-Choo et
    al. (2021, section 4.1) and Li and Zhang (2021) take it for their membership score. The search is a small
    HopSkipJump (Chen, Jordan and Wainwright, 2020, algorithm 2), which sees labels alone, as released by the defense:
    it starts from the nearest of some other records of the pool with another label, and in each iteration goes back
    to the boundary by bisection, estimates the boundary's direction from the labels of random points around, and takes
    a step away from it, halved until the label is another one. A distance is never too small, and too large by what
    so few queries leave unfound; the papers spend thousands of queries per record.

    Points stay within the range of the features: [0, 1] for pixels, the least and greatest value in the pool for
    others. Binary features are taken as continuous numbers in [0, 1]: a model that refuses other values than 0 and 1
    cannot be queried in this way (our assumption; Choquette-Choo et al. flip features instead, which are queries of the
    kind `mialab.queries.Flips`). Where none of the other records has another label, the distance is the greatest that
    the range allows.

    Parameters
    ----------
    iterations : int
        Iterations of HopSkipJump; 0 for the bisection to the other record alone.
    directions : int
        Random points in each iteration; all records share their directions.
    bisections : int
        Halvings of the distance to the record, in each iteration and at the start.
    halvings : int
        Sizes of the step that are tried in each iteration.
    radius : float
        Distance of the random points as a fraction of that to the record.
    candidates : int
        Records of the pool, drawn at random, among which the start is looked for; that they are queried counts as
        theirs.
    """

    name: ClassVar[str] = "boundary"
    array: ClassVar[ArraySpec] = ArraySpec("boundary_distance", ("model", "record"), low=0, probe="boundary")

    iterations: int = 4
    directions: int = 16
    bisections: int = 8
    halvings: int = 4
    radius: float = 0.1
    candidates: int = 256

    def __post_init__(self) -> None:
        check_integer("iterations", self.iterations)
        for name in ("directions", "bisections", "halvings", "candidates"):
            check_integer(name, getattr(self, name), low=1)
        check_number("radius", self.radius, above=0)

    @property
    def budget(self) -> int:
        """Queries per record, the record itself included; 1 for those that are labeled wrongly."""
        return 1 + self.bisections + self.iterations * (self.directions + self.halvings + self.bisections)

    def __call__(self, run: Run) -> dict[str, np.ndarray]:
        """Return the distances of all records; see `AnyProbe`."""
        with torch.inference_mode():
            return {
                self.array.name: np.stack(
                    [self._distances(run.alone(k, "boundary ")) for k in range(len(run.models))]
                )
            }

    def _distances(self, run: Run) -> np.ndarray:
        """Distances to one model's boundary, float32 (record,)."""
        shape = run.inputs(slice(1)).shape[1:]

        def label(x: torch.Tensor) -> torch.Tensor:
            x = x.reshape(-1, *shape)
            logits = run.predict(x)
            if run.defense.uses("answer") and not run.defense.keeps_labels:
                logits = run.defense.answer(run, logits, x, None, None)
            return logits[0].argmax(-1)

        low, high = _range(run)
        directions = Streams(run.seed, run.models, "boundary", run.device).normal(
            self.iterations, self.directions, prod(shape)
        )[0]
        directions /= directions.norm(dim=-1, keepdim=True)
        size = max(1, CHUNK_BYTES // (4 * self.directions * prod(shape)))
        blocks = torch.arange(len(run.y), device=run.device).split(size)
        given = torch.cat([label(run.inputs(block)) for block in blocks])
        drawn = generator(run.seed, "boundary candidates").permutation(len(run.y))[: self.candidates]
        others = torch.as_tensor(drawn, device=run.device)
        starts, labels = run.inputs(others).flatten(1), given[others]
        distance = torch.zeros(len(run.y), device=run.device)
        for block in blocks:
            right = block[given[block] == run.y[block]]
            x, y = run.inputs(right).flatten(1), run.y[right]
            apart = torch.cdist(x, starts).masked_fill_(labels == y[:, None], torch.inf)
            nearest = apart.min(1)
            found = nearest.values.isfinite()
            distance[right] = (high - low).norm()
            x, y, start = x[found], y[found], starts[nearest.indices[found]]
            if len(x):
                distance[right[found]] = self._search(x, y, start, directions, label, low, high)
        return distance.cpu().numpy()

    def _search(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        start: torch.Tensor,
        directions: torch.Tensor,
        label: Label,
        low: torch.Tensor,
        high: torch.Tensor,
    ) -> torch.Tensor:
        """HopSkipJump from ``start`` (record, feature) toward ``x``; the least distances found, (record,)."""

        def is_other(points: torch.Tensor) -> torch.Tensor:
            labels = label(points).view(points.shape[:-1])
            return labels != (y if labels.dim() == 1 else y[:, None])

        point = self._bisect(x, start, is_other)
        least = (point - x).norm(dim=-1)
        for step, unit in enumerate(directions, start=1):
            distance = (point - x).norm(dim=-1, keepdim=True)
            radius = (self.radius * distance).clamp(min=torch.finfo(x.dtype).tiny)
            around = torch.clamp(point[:, None] + radius[..., None] * unit, low, high)
            vote = 2.0 * is_other(around) - 1
            mean = vote.mean(1, keepdim=True)
            vote = torch.where(mean.abs() == 1, vote, vote - mean)
            outwards = torch.einsum("rb,rbf->rf", vote, around - point[:, None])
            outwards = nn.functional.normalize(outwards, dim=-1)
            length, moved = distance / step**0.5, point.clone()
            waits = torch.ones(len(x), dtype=torch.bool, device=x.device)
            for _ in range(self.halvings):
                tried = torch.clamp(point + length * outwards, low, high)
                arrives = waits & is_other(tried)
                moved[arrives] = tried[arrives]
                waits &= ~arrives
                length = length / 2
            point = self._bisect(x, moved, is_other)
            least = torch.minimum(least, (point - x).norm(dim=-1))
        return least

    def _bisect(self, x: torch.Tensor, other: torch.Tensor, is_other: Label) -> torch.Tensor:
        """Points of another label close to the boundary between ``x`` and ``other``, (record, feature)."""
        inside, outside = torch.zeros(2, len(x), 1, device=x.device)
        outside = outside + 1
        best = other
        for _ in range(self.bisections):
            middle = (inside + outside) / 2
            point = x + middle * (other - x)
            beyond = is_other(point)[:, None]
            inside, outside = torch.where(beyond, inside, middle), torch.where(beyond, middle, outside)
            best = torch.where(beyond, point, best)
        return best


def _range(run: Run) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and greatest value of each feature, (feature,)."""
    if run.pool.kind in ("image", "binary"):
        low = torch.zeros(run.inputs(slice(1)).numel(), device=run.device)
        return low, low + 1
    x = run.x.flatten(1)
    return x.amin(0), x.amax(0)
