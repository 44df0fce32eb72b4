"""The training of GANs: a group of models, each with critics and generators, on data that already lies in memory.

As in `mialab.training.stack`, a group is trained either *stacked* (all its networks in one tensor program through
`torch.func.vmap`) or *sequential* (one model); which, follows from the networks and the device. All arithmetic is
float32: networks of this size gain nothing from bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import one_hot

from mialab.data.pool import Pool
from mialab.gan.defenses.base import Defense
from mialab.gan.networks import GAN, Generator, is_linear
from mialab.gan.probes import Probe
from mialab.gan.training import Training
from mialab.gan.utility import train_on_synthetic
from mialab.queries import Queries, kinds, mixtures, pairing
from mialab.training import stack
from mialab.training.group import Group
from mialab.training.stack import batched_mlp, prepare
from mialab.training.streams import Streams, generator

#: Records that networks are given at a time when training is over.
BATCH = 1024


class Networks:
    """Networks of one kind, of all models of a group: called as one, trained by one optimizer.

    Attributes
    ----------
    mode : {"stacked", "sequential"}
        How they are computed.
    parameters : dict of str to torch.Tensor
        What is trained; in the stacked mode with a leading dimension over networks.
    network : torch.nn.Module
        One of them, in the stacked mode without numbers.
    optimizer : torch.optim.Adam
    """

    def __init__(
        self, networks: Sequence[nn.Module], mode: Literal["stacked", "sequential"], training: Training
    ) -> None:
        self.mode = mode
        if mode == "stacked":
            self.parameters, _ = stack_module_state(list(networks))
            self.network = networks[0].to("meta")
            self._forward = (
                self._batched if is_linear(self.network) else vmap(self._call, randomness="different")
            )
        else:
            self.network, self._networks = networks[0], nn.ModuleList(networks)
            self.parameters = dict(self._networks.named_parameters())
        self.optimizer = torch.optim.Adam(
            self.parameters.values(), lr=training.lr, betas=training.betas, fused=True
        )

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Compute each network on inputs of its own, ``(network, batch, ...)``."""
        if self.mode == "stacked":
            return self._forward(self.parameters, *inputs)
        return torch.stack([net(*own) for net, *own in zip(self._networks, *inputs, strict=True)])

    def _call(self, parameters: dict[str, torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
        return functional_call(self.network, parameters, inputs)

    def _batched(self, parameters: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        network = self.network
        if isinstance(network, Generator):
            x = torch.cat([x, y], 2) if network.conditional else x
            return batched_mlp(network.layers, parameters, x, "layers.")
        out = batched_mlp(network.first, parameters, x, "first.")
        if network.label is not None:
            out = torch.baddbmm(out, y, parameters["label.weight"].mT)
        return batched_mlp(network.rest, parameters, out, "rest.").flatten(1)

    def stacked(self) -> dict[str, torch.Tensor]:
        """Return the parameters with a leading dimension over networks, without gradient."""
        if self.mode == "stacked":
            return {name: value.detach() for name, value in self.parameters.items()}
        each = [dict(net.named_parameters()) for net in self._networks]
        return {name: torch.stack([own[name].detach() for own in each]) for name in each[0]}

    def set_gradients(self, gradients: dict[str, torch.Tensor]) -> None:
        """Set the gradients of all parameters for the optimizer's next step, given as `stacked` gives these."""
        for name, parameter in self.parameters.items():
            if self.mode == "stacked":
                parameter.grad = gradients[name].contiguous()
            else:
                index, _, own_name = name.partition(".")
                parameter.grad = gradients[own_name][int(index)].contiguous()

    def train(self, mode: bool = True) -> None:
        """Switch between training and evaluation."""
        (self.network if self.mode == "stacked" else self._networks).train(mode)

    def requires_grad_(self, mode: bool) -> None:
        """Say whether gradients with respect to the parameters are wanted."""
        for parameter in self.parameters.values():
            parameter.requires_grad_(mode)


def mode(
    gan: GAN, pool: Pool, device: str, defense: Defense | None = None
) -> Literal["stacked", "sequential"]:
    """Decide how GANs of this kind are trained, by the rule of `mialab.training.stack.mode` for both their networks."""
    modes = {
        stack.mode(network, inputs, device)
        for network, inputs in zip(examples(gan, pool, defense), _inputs(gan, pool), strict=True)
    }
    return "stacked" if modes == {"stacked"} else "sequential"


def draws(gan: GAN, pool: Pool, defense: Defense | None = None) -> bool:
    """Whether a critic or a generator draws random numbers of its own, see `mialab.training.stack.draws`."""
    both = zip(examples(gan, pool, defense), _inputs(gan, pool), strict=True)
    return any(stack.draws(network, *inputs) for network, inputs in both)


def _inputs(gan: GAN, pool: Pool) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Return inputs of a critic and of a generator to try them on."""
    y = torch.zeros(2, pool.n_classes)
    return (torch.zeros(2, *pool.x.shape[1:]), y), (torch.zeros(2, gan.latent), y)


def examples(gan: GAN, pool: Pool, defense: Defense | None = None) -> tuple[nn.Module, nn.Module]:
    """Build a critic and a generator, as examples."""
    critic, maker = (stack.initialize(make, pool, 0, 0, defense) for make in (gan.critic, gan.generator))
    return critic, maker


class Run(Group):
    """A group of GANs in training, as the hooks of a defense and probes see it; see `mialab.training.group.Group`.

    Attributes
    ----------
    members : torch.Tensor, shape (model, critic, member)
        Positions of the members that each critic sees.
    iteration : int
        Number of the critics' step that goes on, counted from 1.
    critics, generators : Networks
        Networks in the order of models, and of critics within each model.
    n_critics, n_generators : int
        Of each model.
    """

    def __init__(self, *data: Any, networks: GAN, **options: Any) -> None:
        super().__init__(*data, networks=networks, **options)
        pool, defense, training, members = self.pool, self.defense, self.training, self.members
        self.networks = networks
        self.n_classes, self.latent = pool.n_classes, networks.latent
        self.n_critics, self.n_generators = defense.n_critics, defense.n_generators
        self.objective = defense.objective or training.objective
        part = members.shape[1] // self.n_critics
        self.members = members[:, : part * self.n_critics].unflatten(1, (self.n_critics, part))
        self.batch_size = min(training.batch_size, part)
        self.mode = mode(networks, pool, self.device, defense)
        if self.mode == "sequential" and len(self.models) > 1:
            raise ValueError("Networks that cannot be stacked are trained one at a time.")
        self.critics = self._build(networks.critic, "critic", self.n_critics)
        self.generators = self._build(networks.generator, "generator", self.n_generators)
        self.iteration = 0

    def _draws(self) -> bool:
        return draws(self.networks, self.pool, self.defense)

    def _build(self, make: Callable[..., nn.Module], what: str, n: int) -> Networks:
        built = []
        for k in self.models:
            for i in range(n):
                key = int(generator(self.seed, self.purpose + what, k, i).integers(2**31))
                built.append(stack.initialize(make, self.pool, key, 0, self.defense).to(self.device))
        return Networks(built, self.mode, self.training)

    # ------------------------------------------------------------------------------------------ networks

    def onehot(self, labels: torch.Tensor) -> torch.Tensor:
        """Return labels as rows of weights, float32 (..., classes)."""
        return one_hot(labels, self.n_classes).float()

    def latents(self, *size: int) -> torch.Tensor:
        """Draw Gaussian latent vectors, (model, *size, latent)."""
        return self.streams("latents").normal(*size, self.latent)

    def generate(self, y: torch.Tensor, z: torch.Tensor | None = None) -> torch.Tensor:
        """Generate records in [0, 1], (model, n, batch, ...), of labels as rows of weights (model, n, batch, classes).

        ``n`` is any number with one generator a model, else that of the generators. Latent vectors z, (model, n, batch,
        latent), are drawn by default.
        """
        z = self.latents(*y.shape[1:3]) if z is None else z
        if self.n_generators == 1:
            flat, shape = (z.flatten(1, 2), y.flatten(1, 2)), y.shape[1:3]
            return self.generators(*flat).unflatten(1, shape)
        return self.generators(z.flatten(0, 1), y.flatten(0, 1)).unflatten(0, y.shape[:2])

    def evaluate(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return what each critic says of records of its own, (model, critic, batch).

        Records are (model, critic, batch, ...), in [0, 1], and labels rows of weights, (model, critic, batch, classes).
        """
        return self.critics(x.flatten(0, 1), y.flatten(0, 1)).unflatten(0, x.shape[:2])

    # ------------------------------------------------------------------------------------------ training

    def fit(self) -> None:
        """Make all steps; what `mialab.gan.defenses.Defense.fit` does by default."""
        for networks in (self.critics, self.generators):
            networks.train()
            networks.requires_grad_(True)
        training, defense = self.training, self.defense
        batches = defense.batches(self)
        for self.iteration in range(1, training.last + 1):
            stack.check_stop()
            self.progress = (self.iteration - 1) / max(1, training.steps - 1)
            y = defense.step(self, next(batches))
            if self.iteration % training.n_critic == 0:
                defense.generator_step(self, y)
        self._end()

    def _end(self) -> None:
        super()._end()
        for networks in (self.critics, self.generators):
            networks.train(False)
            networks.requires_grad_(False)

    def shuffled(self) -> Iterator[torch.Tensor]:
        """Yield batches without end, (model, critic, batch): each critic's members in a new order for each pass."""
        part = self.members.shape[2]
        while True:
            order = self.streams("batches").permutation(part)[:, None].expand_as(self.members)
            whole = part // self.batch_size * self.batch_size
            yield from self.members.gather(2, order)[..., :whole].split(self.batch_size, dim=2)

    def step(self, batch: torch.Tensor) -> torch.Tensor:
        """Update the critics once with a batch of members; return the labels of the batch as they were mixed.

        The batch holds positions of records in the data, int64 (model, critic, batch); a ValueError says if it, or what
        the defense's `critic_loss` returns, has another shape.
        """
        self.check_batch(batch, (len(self.models), self.n_critics), "model, critic")
        x, y = prepare(self.x[batch]), self.onehot(self.y[batch])
        progress = 1.0 if self.progress is None else self.progress
        x, y = self.defense.mix(x, y, progress=progress, rng=self.streams("mix"))
        with torch.no_grad():
            fake = self.generate(y)
        loss = self.defense.critic_loss(self.evaluate(x, y), self.evaluate(fake, y), run=self)
        self.check_shape("critic_loss", loss, batch.shape[:2], "one number for each critic")
        if self.objective == "wgan-gp" and self.training.penalty:
            loss = loss + self.training.penalty * self.gradient_penalty(x, fake, y)
        self.critics.optimizer.zero_grad()
        loss.sum().backward()
        self.critics.optimizer.step()
        return y

    def gradient_penalty(self, x: torch.Tensor, fake: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Mean of ``(||grad_x D|| - 1)^2`` on straight lines between records (Gulrajani et al., 2017, section 4).

        Both ends and labels are those of `evaluate`; a random place on each line counts. Shape (model, critic).
        """
        fraction = self.streams("penalty").uniform(*x.shape[1:3]).view(*x.shape[:3], *(1,) * (x.dim() - 3))
        between = (fraction * x + (1 - fraction) * fake).requires_grad_()
        (gradient,) = torch.autograd.grad(self.evaluate(between, y).sum(), between, create_graph=True)
        return ((gradient.flatten(3).norm(dim=-1) - 1) ** 2).mean(-1)

    def generator_step(self, y: torch.Tensor) -> torch.Tensor:
        """Update the generators once, for the labels of a batch; return the generated records, without gradient."""
        self.critics.requires_grad_(False)
        fake = self.generate(y)
        loss = self.defense.generator_loss(self.evaluate(fake, y), fake, run=self)
        self.check_shape("generator_loss", loss, y.shape[:2], "one number for each critic")
        self.generators.optimizer.zero_grad()
        (loss.mean(1) if self.n_generators == 1 else loss.sum(1)).sum().backward()
        self.generators.optimizer.step()
        self.critics.requires_grad_(True)
        return fake.detach()

    # ------------------------------------------------------------------------------------- after training

    @torch.no_grad()
    def sample(self, labels: torch.Tensor, purpose: str = "samples") -> torch.Tensor:
        """Generate records after training, in [0, 1], (model, n, ...), with given labels, int (n,).

        Record i is by generator ``i // n_classes % n_generators``; samples for other purposes are other ones.
        """
        rng = Streams(self.seed, self.models, f"{self.purpose}{purpose}", self.device)
        n, q = len(labels), self.n_generators
        out = torch.empty(len(self.models), n, *self.x.shape[1:], device=self.device)
        for start in range(0, n, BATCH):
            own = labels[start : start + BATCH]
            y = self.onehot(own).expand(len(self.models), q, -1, -1)
            z = rng.normal(len(own), self.latent)[:, None].expand(-1, q, -1, -1)
            which = (start + torch.arange(len(own), device=self.device)) // self.n_classes % q
            out[:, start : start + BATCH] = self.generate(y, z)[
                :, which, torch.arange(len(own), device=self.device)
            ]
        return out

    @torch.no_grad()
    def evaluate_records(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return what all critics say after training, (model, critic, record), of the same records (record, ...)."""
        both = (len(self.models), self.n_critics)
        parts = zip(x.split(BATCH), y.split(BATCH), strict=True)
        return torch.cat(
            [self.evaluate(a.expand(*both, *a.shape), b.expand(*both, *b.shape)) for a, b in parts], dim=-1
        )

    @torch.no_grad()
    def evaluate_generated(self, y: torch.Tensor, fakes: int) -> torch.Tensor:
        """Return what all critics say of generated records, (model, critic, n), with labels (n, classes).

        For each row of labels, that is a mean over ``fakes`` records.
        """
        rng = Streams(self.seed, self.models, f"{self.purpose}fakes", self.device)
        both, parts = (len(self.models), self.n_critics), []
        for rows in y.split(max(1, BATCH // fakes)):
            labels = rows.repeat_interleave(fakes, 0).expand(*both, -1, -1)
            z = rng.normal(labels.shape[2], self.latent)[:, None].expand(-1, self.n_critics, -1, -1)
            answers = self.evaluate(self.generate(labels, z), labels)
            parts.append(answers.unflatten(2, (len(rows), fakes)).mean(-1))
        return torch.cat(parts, dim=-1)


def train_group(
    models: Sequence[int],
    *,
    pool: Pool,
    y: np.ndarray,
    member: np.ndarray,
    queries: Queries,
    samples: int,
    fakes: int,
    seed: int,
    device: str = "cpu",
    probes: Sequence[Probe] = (),
    **plan: Any,
) -> dict[str, np.ndarray]:
    """Train a group of GANs, let their critics evaluate every record of the pool, and draw samples.

    Parameters
    ----------
    models, pool, y, member, device
        See `mialab.classifiers.run.train_group`.
    queries, samples, fakes, probes
        What is measured of each model, see `mialab.gan.play`.
    seed, **plan
        ``networks``, ``defense`` and ``training``, see `mialab.gan.play`.

    Returns
    -------
    dict of str to numpy.ndarray
        With a leading model dimension: ``critic``, ``critic_max``, ``critic_loss`` and ``critic_loss_min`` (model,
        query, record); ``samples`` (model, sample, feature); ``test_accuracy`` of a classifier that is trained on the
        samples; and ``seconds``; and the arrays of the probes.

    Raises
    ------
    FloatingPointError
        If what the critics say is not finite.
    """
    members = np.stack([np.flatnonzero(m) for m in member])
    order = [generator(seed, "shards", k).permutation(members.shape[1]) for k in models]
    members = np.take_along_axis(members, np.stack(order), 1)  # critics share them without an order

    def trained(run: Run) -> dict[str, np.ndarray]:
        run.train()
        return _queried(run, queries, fakes) | _released(run, samples)

    options = {"pool": pool, "seed": seed, "device": device, **plan}
    return Run.measured(trained, probes, pool.x, y, members, models, **options)


def _queried(run: Run, queries: Queries, fakes: int) -> dict[str, np.ndarray]:
    """Return what the critics say of every query of every record, float32 (model, query, record)."""
    n, y, mixed = len(run.pool), run.onehot(run.y), mixtures(queries)
    names = ("critic", "critic_max", "critic_loss", "critic_loss_min")
    arrays = {name: np.empty((len(run.models), len(queries), n), np.float32) for name in names}
    fractions = iter(mixed.fractions if mixed else ())
    for query, kind in enumerate(kinds(queries)):
        labels, rows = y, run.y
        if kind == "mixed" and mixed:
            fraction, other = next(fractions), torch.as_tensor(pairing(n, mixed.seed))
            labels = fraction * y + (1 - fraction) * y[other]
            rows = run.y * run.n_classes + run.y[other]
        if not run.networks.conditional:
            rows = torch.zeros_like(rows)
        x = prepare(torch.as_tensor(np.array(queries(query, run.pool.x)), device=run.device))
        answers = run.evaluate_records(x, labels)
        if not torch.isfinite(answers).all():
            k = run.models[int((~torch.isfinite(answers)).flatten(1).any(1).nonzero()[0])]
            raise FloatingPointError(
                f"Training diverged: the critic of model {k} answers with numbers that are not finite. "
                f"Lower lr={run.training.lr!r}."
            )
        # Fakes depend on the label alone: one mean for all records that share it.
        _, first, place = np.unique(rows.cpu().numpy(), return_index=True, return_inverse=True)
        of_fakes = run.evaluate_generated(labels[torch.as_tensor(first)], fakes)[..., torch.as_tensor(place)]
        arrays["critic"][:, query] = answers.mean(1).cpu().numpy()
        arrays["critic_max"][:, query] = answers.amax(1).cpu().numpy()
        loss = of_fakes - answers
        arrays["critic_loss"][:, query] = loss.mean(1).cpu().numpy()
        arrays["critic_loss_min"][:, query] = loss.amin(1).cpu().numpy()
    return arrays


def sample_labels(networks: GAN, n_classes: int, samples: int) -> np.ndarray:
    """Labels of the samples, int64 (sample,): all classes in turn, or 0 if the networks know no labels."""
    return np.arange(samples) % n_classes if networks.conditional else np.zeros(samples, np.int64)


def _released(run: Run, samples: int) -> dict[str, np.ndarray]:
    """Draw the samples that a model releases, and train a classifier on them."""
    labels = sample_labels(run.networks, run.n_classes, samples)
    x = run.sample(torch.as_tensor(labels, device=run.device)).cpu().numpy()
    if run.pool.kind == "binary":
        x = np.rint(x)
    tested = {"test_accuracy": np.full(len(run.models), np.nan)}
    if run.networks.conditional and len(run.pool.x_test):
        correct = train_on_synthetic(x, labels, run.pool, seed=run.seed, models=run.models)
        tested = {"test_correct": correct, "test_accuracy": correct.mean(1)}
    bytes_wanted = run.pool.x.dtype == np.uint8
    x = np.rint(255 * x).astype(np.uint8) if bytes_wanted else x
    return {"samples": x.reshape(len(x), samples, -1), **tested}
