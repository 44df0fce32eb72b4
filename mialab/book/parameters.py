"""The parameters of notebooks: how their cell is read, and values that are given as text."""

import ast
import io
import re
import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml


class _Loader(yaml.SafeLoader):
    """YAML as of version 1.2, whose plain words are those of JSON: 1e-5 is a number, and `no` a text."""

    yaml_implicit_resolvers: ClassVar[dict] = {}  # type: ignore[misc]  # not those of version 1.1


#: Kinds of plain words: what they look like, how they begin, and what is made of them. `None` is Python's null.
WORDS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF", lambda text: text.lower() == "true"),
    "null": (r"~|null|Null|NULL|None|", "~nN", lambda text: None),
    "int": (
        r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
        "-+0123456789",
        lambda t: int(t, 0 if t[1:2] in "ox" else 10),
    ),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
        lambda text: float(text.replace(".i", "i").replace(".I", "i").replace(".n", "n").replace(".N", "n")),
    ),
}


def _register(kind: str, looks: str, first: str, made: Callable[[str], Any]) -> None:
    def construct(loader: Any, node: Any) -> Any:
        return made(loader.construct_scalar(node))

    tag = f"tag:yaml.org,2002:{kind}"
    _Loader.add_implicit_resolver(tag, re.compile(f"^(?:{looks})$"), [*first, *[""] * (kind == "null")])
    _Loader.add_constructor(tag, construct)


for _kind, _word in WORDS.items():
    _register(_kind, *_word)


def parse_yaml(text: str, where: str) -> Any:
    """Return what a YAML text says, as of YAML 1.2: true and false, null (or None), numbers as Python writes them.

    Parameters
    ----------
    text : str
        The text.
    where : str
        Where it stands, for the message.

    Raises
    ------
    ValueError
        If it is no YAML.
    """
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} cannot be read as YAML: {' '.join(str(error).split())}.") from None


@dataclass(frozen=True)
class Parameter:
    """A parameter of a notebook.

    Parameters
    ----------
    name : str
        Its name.
    default : str
        Its default, as the notebook writes it.
    kind : str
        Type of the default, such as ``"int"``; ``"unknown"`` if it is no plain value.
    meaning : str
        The comment beside it, or else above it; may be empty.
    """

    name: str
    default: str
    kind: str
    meaning: str


def read_parameters(source: str, where: str) -> list[Parameter]:
    """Return the parameters that a cell defines: what it assigns, with the comments.

    The cell is read by its syntax, so that texts and comments may hold whatever they want.

    Parameters
    ----------
    source : str
        The cell.
    where : str
        Where it stands, for the message.

    Raises
    ------
    ValueError
        If the cell is no Python.
    """
    try:
        tree = ast.parse(source)
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, tokenize.TokenError) as error:
        raise ValueError(f"{where}: the cell of parameters is no Python: {error}.") from None
    comments = {t.start[0]: t.string.lstrip("# ").rstrip() for t in tokens if t.type == tokenize.COMMENT}
    alone = {t.start[0] for t in tokens if t.type == tokenize.COMMENT and not t.line[: t.start[1]].strip()}
    found: dict[str, Parameter] = {}
    for node in tree.body:
        names = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if value is None:
            continue
        beside = [
            comments[n] for n in range(node.lineno, (node.end_lineno or node.lineno) + 1) if n in comments
        ]
        first = node.lineno
        while first - 1 in alone:
            first -= 1
        above = [comments[n] for n in range(first, node.lineno)]
        try:
            kind = type(ast.literal_eval(value)).__name__
        except ValueError:
            kind = "unknown"
        default = " ".join((ast.get_source_segment(source, value) or "").split())
        for target in names:
            if isinstance(target, ast.Name):
                found[target.id] = Parameter(target.id, default, kind, " ".join(beside or above))
    return list(found.values())
