"""What a defender of any kind of model may change, and what its hooks see of a plan and of a running training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from inspect import Parameter, isfunction, signature
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar

import torch
from torch import nn

from mialab.data.pool import Pool
from mialab.training.streams import Streams

Options = TypeVar("Options")

#: What a defender may need beside members and one training of each model.
NEEDS = ("reference records", "several trainings", "a second network", "other answers")
#: What a defense may prove: nothing, or that attacks have no more than a stated epsilon allows.
GUARANTEES = ("nothing", "epsilon")


class AnyPlan(Protocol):
    """What a defense sees of a game before it is played."""

    @property
    def pool(self) -> Pool:
        """The records."""

    @property
    def training(self) -> Any:
        """How models are trained."""

    @property
    def n_models(self) -> int:
        """Number of models."""

    @property
    def n_members(self) -> int:
        """Members of each model."""


class AnyRun(Protocol):
    """What a defense of any kind of model sees of a group in training, see `mialab.training.group.Group`."""

    models: list[int]
    pool: Pool
    training: Any
    seed: int
    device: str
    mode: Literal["stacked", "sequential"]
    purpose: str
    progress: float | None
    x: torch.Tensor
    y: torch.Tensor
    members: torch.Tensor
    memory: dict[str, Any]
    fit: Callable[[], None]
    train: Callable[[], None]
    fork: Callable[..., Self]
    streams: Callable[[str], Streams]
    shuffled: Callable[[], Iterator[torch.Tensor]]


class Hooks:
    """Hooks that defenses of all kinds of models have; see `mialab.defenses.Defense` and `mialab.gan.defenses.Defense`.

    A hook is in use where a defense overrides it. A method whose name is nearly a hook's, or a hook that does not take
    what it will be given, is an error when the class is defined. Groups are trained in threads: hooks draw random
    numbers from the streams that they are given or from ``run.streams``, never from torch's or NumPy's own generator.
    """

    name: ClassVar[str] = "none"
    #: What the defender needs besides, of `NEEDS`; "other answers" follows from `answer` being overridden.
    needs: ClassVar[tuple[str, ...]] = ()
    #: What is proven, of `GUARANTEES`; with "epsilon", `report` returns it.
    guarantee: ClassVar[str] = "nothing"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for what, values, allowed in (
            ("needs", cls.needs, NEEDS),
            ("guarantee", (cls.guarantee,), GUARANTEES),
        ):
            if unknown := [value for value in values if value not in allowed]:
                raise TypeError(f"{cls.__qualname__}.{what} has {unknown}. Known: {', '.join(allowed)}.")
        known = hooks(cls)
        for name, member in vars(cls).items():
            if not isfunction(member) or name.startswith("_"):
                continue
            if name in known:
                _check_signature(f"{cls.__qualname__}.{name}", member, known[name])
            elif near := get_close_matches(name, known, n=1, cutoff=0.8):
                raise TypeError(
                    f"{cls.__qualname__}.{name} is no hook. Did you mean {near[0]!r}? If not, choose a name less like "
                    f"it. Hooks: {', '.join(sorted(known))}."
                )

    def uses(self, hook: str) -> bool:
        """Whether a hook is in use: whether it is overridden, unless a parameter of the defense switches it off."""
        return getattr(type(self), hook) is not hooks(type(self))[hook]

    def adapt(self, training: Options) -> Options:
        """Return how models are trained under this defense, given how the game asks for it."""
        return training

    def check(self, plan: AnyPlan) -> None:
        """Refuse, before any training, what this defense cannot protect (ValueError)."""

    def report(self, plan: AnyPlan) -> Mapping[str, float]:
        """Return numbers that follow from the plan, such as epsilon; the game keeps them as ``attrs["report"]``."""
        return {}

    def network(self, network: nn.Module) -> nn.Module:
        """Return the network that is trained, given a freshly initialized one; it may be changed in place."""
        return network

    def fit(self, run: AnyRun) -> None:
        """Train the group: the whole procedure, by default one plain training."""
        run.fit()

    def batches(self, run: Any) -> Iterator[Any]:
        """Yield the batches of an epoch (of GANs: batches without end), each of which `step` is given.

        By default passes over members in random order.

        Yields
        ------
        torch.Tensor of int64, shape (model, batch), of GANs (model, critic, batch)
            Positions of the batch's records in the data; another thing if `step` is overridden to take it.
        """
        yield from run.shuffled()

    def mix(
        self, x: torch.Tensor, y: torch.Tensor, *, progress: float, rng: Streams
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Change a batch: return inputs and hard ``(model, batch)`` or soft ``(model, batch, classes)`` targets.

        Parameters
        ----------
        x, y : torch.Tensor
            The batch: records and labels. Of GANs, what the critics see, (model, critic, batch, ...), and labels as
            rows of weights.
        progress : float
            Fraction of the epochs or steps that is over, from 0 in the first one to 1 in the last one.
        rng : Streams
            Random numbers, a stream a model.
        """
        return x, y

    def step(self, run: Any, batch: Any) -> Any:
        """Update the networks (of GANs: the critics) once with a batch, see `batches`; by default with its mean loss.

        Of GANs, return labels for the generators, (model, critic, batch, classes).
        """
        return run.step(batch)

    def finish(self, run: AnyRun) -> None:
        """Look at or change the networks once they are trained."""


def hooks(defense: type[Hooks]) -> dict[str, Callable[..., Any]]:
    """Return the hooks that a defense may override, by name, as they are where it overrides nothing."""
    bases = [base for base in defense.__mro__ if base is Hooks or Hooks in base.__bases__]
    members = {name: member for base in reversed(bases) for name, member in vars(base).items()}
    return {
        name: member
        for name, member in members.items()
        if isfunction(member) and not name.startswith("_") and name != "uses"
    }


def _check_signature(name: str, own: Callable[..., Any], hook: Callable[..., Any]) -> None:
    given = signature(hook).parameters.values()
    positional = [p.name for p in given if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    named = {p.name: p.name for p in given if p.kind is Parameter.KEYWORD_ONLY}
    try:
        signature(own).bind(*positional, **named)
    except TypeError as error:
        wanted = ", ".join([*positional, *(f"{name}=..." for name in named)])
        raise TypeError(f"{name}{signature(own)} must take what the hook is given: ({wanted}).") from error
