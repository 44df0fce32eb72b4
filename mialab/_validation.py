"""Checks of what a user passes, with one clear message each."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around imports of what only an extra of this package brings: say which, if it is not there.

    Raises
    ------
    ModuleNotFoundError
        With the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if str(error.name).startswith("mialab"):
            raise
        raise ModuleNotFoundError(
            f"This needs {error.name}, which is not installed: pip install 'mialab[{name}]'.", name=error.name
        ) from error


def shown(value: object) -> str:
    """Return how a value is named in a message: in one line of at most 200 characters."""
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 200 else text[:197] + "..."


def choose(name: str, value: object, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises
    ------
    ValueError
        Naming the parameter, the value, the nearest choice and all choices.
    """
    choices = sorted(choices)
    if isinstance(value, str) and value in choices:
        return value
    near = get_close_matches(str(value)[:200], choices, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name}={shown(value)} is unknown.{hint} Known: {', '.join(choices)}.")


def check_number(
    name: str,
    value: object,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> None:
    """Refuse a ``value`` that is no finite number, below ``low``, above ``high``, or not greater than ``above``."""
    bounds = [
        f"at least {low}" if low is not None else "",
        f"greater than {above}" if above is not None else "",
        f"at most {high}" if high is not None else "",
    ]
    right = " and ".join(filter(None, bounds)) or "a finite number"
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else float("nan")
    except OverflowError:  # of an integer
        number = float("inf")
    if (
        not abs(number) < float("inf")
        or (low is not None and number < low)
        or (high is not None and number > high)
        or (above is not None and number <= above)
    ):
        if not isinstance(value, Real) or isinstance(value, bool):
            right += f", a number: {type(value).__name__} is none"
        elif not abs(number) < float("inf") and "finite" not in right:
            right += ", and finite"
        raise ValueError(f"{name}={shown(value)} must be {right}.")


def check_integer(name: str, value: object, *, low: int = 0) -> None:
    """Refuse a ``value`` that is no integer or is below ``low``."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name}={shown(value)} must be an integer of at least {low}.")


def as_integers(name: str, value: object, *, low: int = 0) -> tuple[int, ...]:
    """Return ``value`` as a tuple, after refusing what is no sequence of integers of at least ``low``."""
    if not isinstance(value, Iterable) or isinstance(value, str):
        raise ValueError(f"{name}={shown(value)} must be a sequence of integers, e.g. ({shown(value)},).")
    numbers = tuple(value)
    for number in numbers:
        check_integer(name, number, low=low)
    return numbers


def check_name(name: str, value: object) -> None:
    """Refuse a ``value`` that is no name for a file on every machine, such as one that leads to another folder."""
    good = (
        isinstance(value, str)
        and value.isprintable()
        and not set(value) & set("/\\:")
        and value == value.strip()
    )
    if not good or str(value).startswith(".") or not 1 <= len(str(value).encode()) <= 100:
        raise ValueError(
            f"{name}={shown(value)} must be a name for files: 1 to 100 bytes of text without slashes, colons and line "
            "breaks, not beginning with a dot, without spaces at its ends."
        )


def select(table: Any, **values: object) -> Any:
    """Return the rows of a table that have these values in the columns of these names, each of which must be there."""
    rows = table
    for column, value in values.items():
        if isinstance(value, str) and value:
            choose(column, value, set(table[column]) - {""})
        rows = rows[rows[column] == value]
    return rows
