"""Classes of one kind, known by name."""

from collections.abc import Iterable
from typing import ClassVar, Generic, Protocol, TypeVar, cast

from mialab._validation import check_name, choose


class Named(Protocol):
    """What has a name."""

    name: ClassVar[str]


Kind = TypeVar("Kind", bound=Named)


class Registry(dict[str, type[Kind]], Generic[Kind]):
    """Classes of one kind by their ``name``.

    Parameters
    ----------
    parameter : str
        What messages call a value that names one of them, e.g. ``"defense"``.
    base : type
        What all of them derive from.
    *classes : type
        Those that are known at once.
    """

    def __init__(self, parameter: str, base: type[Kind], *classes: type[Kind]) -> None:
        super().__init__({cls.name: cls for cls in classes})
        self.parameter, self.base = parameter, base

    def register(self, cls: type[Kind]) -> type[Kind]:
        """Make a class known by its name (class decorator).

        Raises
        ------
        ValueError
            If it has no name of its own, or one that another class has. A class that is defined anew, as in a
            notebook, replaces the old one.
        """
        self.check(cls)
        self[cls.name] = cls
        return cls

    def check(self, cls: type[Kind]) -> None:
        """Refuse a class without a name for files of its own, or with one that another class is registered by."""
        name = cls.name
        check_name(f"{cls.__qualname__}.name", name)
        other = self.get(name, cls)
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(
                f"{cls.__qualname__} needs a name of its own: {name!r} is that of {other.__qualname__}. Give the class "
                f"name: ClassVar[str] = 'another name'."
            )

    def make(self, value: object) -> Kind:
        """Return what is named, with its default parameters; an instance is returned as it is.

        Parameters
        ----------
        value : str, instance, class or None
            A name of `available`, an instance such as ``HAMP(gamma=0.5)``, or a class that can be made without
            parameters. None stands for ``"none"`` where that is a name.

        Raises
        ------
        ValueError
            If the name is unknown, or the class has none of its own.
        """
        if value is None and "none" in self:
            value = "none"
        if isinstance(value, type) and issubclass(value, self.base):
            value = value()
        if isinstance(value, self.base):
            self.check(type(value))
            return value
        return self[choose(self.parameter, value, self)]()

    def several(self, values: object) -> tuple[Kind, ...]:
        """Return what is named or given, once each, in the order of their names; one of them may be given alone.

        Parameters
        ----------
        values : str, instance, or iterable of these
            Names of `available`, instances or classes, see `make`.

        Raises
        ------
        ValueError
            If a name is unknown, or one is given twice.
        """
        alone = isinstance(values, str | self.base) or not isinstance(values, Iterable)
        made = [self.make(value) for value in ([values] if alone else cast("Iterable[object]", values))]
        names = [one.name for one in made]
        if len(set(names)) < len(names):
            raise ValueError(f"{self.parameter}={names} holds a {self.parameter.removesuffix('s')} twice.")
        return tuple(sorted(made, key=lambda one: one.name))

    def available(self) -> list[str]:
        """Return all names."""
        return sorted(self)
