"""The arrays of games: how each is laid out, and which values it may hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from math import inf, prod
from typing import Any, Self

import numpy as np

#: Kinds of types that may stand for those that are kept, and how they are called in messages.
KINDS = {
    "b": ("biuf", "True or False (or 1 and 0)"),
    "i": ("iu", "integers"),
    "f": ("iuf", "numbers"),
    "u": ("u", "bytes"),
}


@dataclass(frozen=True)
class ArraySpec:
    """What a game calls an array, how it is laid out, and which values it may hold.

    Parameters
    ----------
    name : str
        Its name.
    dims : tuple of str
        Names of its dimensions, such as ``("model", "query", "record")``.
    dtype : str
        The type in which it is stored.
    low, high : float
        Least and greatest value.
    indexes : str
        Where values are places along a dimension, such as ``"label"``: which one. They start at ``low`` or 0.
    allows_nan : bool
        Whether NaN stands for what was not measured.
    optional : str
        A dimension that may be left out by who gives the array; its size is 1 then.
    known : bool
        Whether it is known before training.
    bytes_too : bool
        Whether bytes will do as well: they stand for 255ths.
    open_end : bool
        Whether the last dimension stands for any number of dimensions.
    probe : str
        The probe that measures it, if one does.
    remedy : str
        How to get a game that has it.
    hint : str
        What might be wrong where values are out of range.
    """

    name: str
    dims: tuple[str, ...]
    dtype: str = "float32"
    low: float = -inf
    high: float = inf
    indexes: str = ""
    allows_nan: bool = False
    optional: str = ""
    known: bool = False
    bytes_too: bool = False
    open_end: bool = False
    probe: str = ""
    remedy: str = "give it to from_arrays"
    hint: str = ""

    def raw(self) -> Self:
        """Return the same array before a defense's output step."""
        return replace(self, name=f"raw_{self.name}")

    def at_checkpoints(self) -> Self:
        """Return the same array after each of several epochs."""
        first, *others = self.dims
        return replace(self, name=f"checkpoint_{self.name}", dims=(first, "checkpoint", *others))

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape for some sizes of dimensions."""
        return tuple(sizes[d] for d in self.dims)

    def nbytes(self, sizes: Mapping[str, int]) -> int:
        """Return how many bytes it takes, before it is compressed."""
        return prod(self.shape(sizes)) * np.dtype(self.dtype).itemsize

    @property
    def missing(self) -> str:
        """What is said where a game lacks it."""
        remedy = f"play it with probes=[{self.probe!r}]" if self.probe else self.remedy
        return f"This game has no {self.name}: {remedy}."

    def read(self, value: object) -> np.ndarray:
        """Return a user's value as an array of numbers.

        Raises
        ------
        ValueError
            If it cannot be one, is empty, or holds something else.
        """
        kind = np.dtype(self.dtype).kind
        kinds, called = KINDS[kind]
        wanted = f"it must be an array ({', '.join(self.dims)}) of {called}"
        try:
            array = np.asarray(plain(value))
        except Exception as error:  # whatever numpy, torch or another library says
            why = "its rows differ in length" if "inhomogeneous" in str(error) else error
            raise ValueError(f"{self.name} cannot be read: {why}; {wanted}.") from error
        if array.dtype.kind == "O":
            odd = [v for v in array.flat if not isinstance(v, int | float | np.number)]
            if odd:
                raise ValueError(f"{self.name} holds {odd[0]!r}; {wanted}.")
            array = np.array(array.tolist())
        if array.size == 0:
            raise ValueError(f"{self.name} has shape {array.shape}, without a value; {wanted}.")
        if array.dtype.kind not in kinds + "b" * self.bytes_too:
            held = f"it holds {np.unique(array)[:5]}" if kind == "b" else f"it is {array.dtype}"
            numbers = f"{self.name} must be {called}" if kind == "b" else f"{self.name} must hold {called}"
            if kind == "i" and array.dtype.kind == "f":
                held += f" from {np.nanmin(array)} to {np.nanmax(array)}"
            raise ValueError(f"{numbers}; {held}.")
        return array

    def laid_out(self, array: np.ndarray) -> np.ndarray:
        """Add the dimension that was left out, or flatten the last ones."""
        if self.open_end and array.ndim > len(self.dims):
            return array.reshape(*array.shape[: len(self.dims) - 1], -1)
        if self.optional and array.ndim == len(self.dims) - 1:
            return np.expand_dims(array, self.dims.index(self.optional))
        return array

    def check(self, value: np.ndarray, sizes: Mapping[str, int]) -> np.ndarray:
        """Return an array of the right type, after refusing values out of range (ValueError)."""
        kind = np.dtype(self.dtype).kind
        if kind == "b":
            if not np.isin(value, (0, 1)).all():
                raise ValueError(f"{self.name} must be {KINDS['b'][1]}; it holds {np.unique(value)[:5]}.")
            return value.astype(bool)
        if kind == "f" and value.dtype.kind in "iu" and not ((value <= 2**53) & (value >= -(2**53))).all():
            raise ValueError(
                f"{self.name} holds {value.dtype} values beyond 2**53, which floating point merges."
            )
        bad = np.isinf(value) if self.allows_nan else ~np.isfinite(value)
        if bad.any():
            raise ValueError(
                f"{self.name} has {bad.sum()} values that are not finite numbers.{self._about_zeros(value)}"
            )
        low, high = self.low, self.high
        if self.indexes:
            low, high = 0 if low == -inf else low, sizes[self.indexes] - 1
        if self.bytes_too and value.dtype == np.uint8:
            high = 255
        numbers = value[~np.isnan(value)]
        least, most = (numbers.min(), numbers.max()) if numbers.size else (low, low)
        if least < low or most > high:
            right = f"at least {low}" if high == inf else f"from {low} to {high}"
            bytes_ = ", or be bytes" * self.bytes_too
            what = KINDS[kind][1] + (" of" if high == inf else "")
            hint = f" ({self.hint})" * bool(self.hint)
            raise ValueError(
                f"{self.name} must hold {what} {right}{bytes_}; it is {value.dtype} from {least} to {most}{hint}."
            )
        return value.astype(self.dtype) if kind == "i" else value

    def _about_zeros(self, value: np.ndarray) -> str:
        if "label" not in self.dims or not np.isneginf(value).any():
            return ""
        return (
            " Minus infinity is the logarithm of a probability of 0: give log(clip(p, floor, 1)) with a smallest "
            "probability, such as floor=1e-6, and say which, as results depend on it."
        )


#: Arrays of every game.
MEMBER = ArraySpec("member", ("model", "record"), "bool", known=True)
PARTNER = ArraySpec(
    "partner", ("model",), "int64", low=-1, indexes="model", known=True, hint="-1 stands for none"
)
Y = ArraySpec("y", ("record",), "int64", indexes="label", known=True)
CANARY = ArraySpec("canary", ("record",), "bool", known=True)
SHADOW = ArraySpec("shadow", ("model",), "bool", known=True)
ACCURACIES = tuple(
    ArraySpec(f"{part}_accuracy", ("model",), "float64", low=0, high=1, allows_nan=True)
    for part in ("train", "validation", "test")
)
#: Which records of the test part each model labels correctly, so that intervals of accuracies know of both.
TEST_CORRECT = ArraySpec("test_correct", ("model", "test"), "bool")
#: Epochs after which answers were kept, besides the last one.
CHECKPOINT = ArraySpec("checkpoint", ("checkpoint",), "int64", low=1, known=True)
#: How a model came about, with a checksum of all that was stored of it, written last.
PROVENANCE = ArraySpec("provenance", ("model", "byte"), "uint8")


def read_arrays(
    specs: Iterable[ArraySpec], given: Mapping[str, object], sizes: Mapping[str, int]
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Read arrays of a user's and find the sizes of their dimensions.

    Parameters
    ----------
    specs : iterable of ArraySpec
        What the arrays are.
    given : mapping of str to object
        Values by the names of the arrays, ``member`` among them.
    sizes : mapping of str to int
        Sizes that are known.

    Returns
    -------
    values : dict of str to numpy.ndarray
        The arrays, whose values are yet to be checked.
    sizes : dict of str to int
        Sizes of their dimensions.

    Raises
    ------
    ValueError
        If a value cannot be read, or a shape does not fit.
    """
    used = {spec.name: spec for spec in specs if spec.name in given}
    values = {name: spec.read(given[name]) for name, spec in used.items()}
    as_given = {name: value.shape for name, value in values.items()}
    values = {name: spec.laid_out(values[name]) for name, spec in used.items()}
    if values["member"].ndim != 2:
        raise ValueError(
            f"member has shape {values['member'].shape}; it must be (model, record), of True and False"
            f"{': for a single model, member[None]' * (values['member'].ndim == 1)}."
        )
    # Which array is the odd one out is a matter of which sizes most arrays agree on.
    shapes = {name: value.shape for name, value in values.items()}
    named = [shapes["member"], shapes["member"][::-1]]
    named += [
        tuple(shapes[name][spec.dims.index(d)] for d in ("model", "record"))
        for name, spec in used.items()
        if {"model", "record"} <= set(spec.dims) and len(shapes[name]) == len(spec.dims)
    ]
    agreed = Counter(
        {
            pair: sum(_fits(spec, shapes[name], _sized(sizes, pair)) for name, spec in used.items())
            for pair in dict.fromkeys(named)
        }
    )
    ((pair, _),) = agreed.most_common(1)
    sizes = _sized(sizes, pair)
    right = [n for n, spec in used.items() if "record" in spec.dims and _fits(spec, shapes[n], sizes)]
    reference = max(right, key=lambda name: (name == "member", len(shapes[name])), default="")
    for name, spec in used.items():
        if not _fits(spec, shapes[name], sizes):
            raise ValueError(_misfit(spec, as_given[name], sizes, reference, as_given.get(reference)))
        sizes |= dict(zip(spec.dims, shapes[name], strict=True))
    return values, sizes


def _sized(sizes: Mapping[str, int], pair: tuple[int, ...]) -> dict[str, int]:
    return {**sizes, "model": pair[0], "record": pair[1]}


def _fits(spec: ArraySpec, shape: tuple[int, ...], sizes: Mapping[str, int]) -> bool:
    return len(shape) == len(spec.dims) and all(
        sizes.get(d, n) == n for d, n in zip(spec.dims, shape, strict=True)
    )


def _misfit(
    spec: ArraySpec,
    shape: tuple[int, ...],
    sizes: Mapping[str, int],
    reference: str,
    its_shape: tuple[int, ...] | None,
) -> str:
    """Say how an array must be laid out, and how it is if its dimensions stand in another order."""
    known = {d: str(sizes.get(d, "..." if spec.open_end and d == spec.dims[-1] else d)) for d in spec.dims}
    right = f"({', '.join(known.values())}{',' * (len(known) == 1)})"
    dims = tuple(d for d in spec.dims if d != spec.optional or len(shape) == len(spec.dims))
    where = f" with {reference} {its_shape}" * bool(reference)
    for order in permutations(range(len(dims))):
        read = [dims[i] for i in order]
        if len(shape) == len(dims) and all(sizes.get(d, n) == n for d, n in zip(read, shape, strict=True)):
            back = ", ".join(str(read.index(d)) for d in dims)
            return (
                f"{spec.name} has shape {shape};{where} that is ({', '.join(read)}), and it must be "
                f"({', '.join(dims)}): give np.transpose({spec.name}, ({back}))."
            )
    shorter = ", ".join(n for d, n in known.items() if d != spec.optional)
    either = f"({shorter}) or {right}" if spec.optional else right
    return f"{spec.name} has shape {shape};{where} it must be {either}."


def plain(value: Any) -> Any:
    """Turn tensors, also those in lists, into what numpy takes; without importing torch."""
    if isinstance(value, list | tuple):
        return [plain(v) if isinstance(v, list | tuple) or hasattr(v, "detach") else v for v in value]
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    return value
