"""Text that stands for a value in a hash: equal in every process, and different once a value or its code changes."""

import dis
import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType

import joblib
import numpy as np
import torch

from mialab import provenance


def describe(value: object, _within: tuple[object, ...] = ()) -> str:
    """Return text that stands for a value: its parts and, for functions and classes, their code.

    The user's own code is followed through base classes, closures, default values and the global names it loads, and
    is compared as bytecode, so comments and layout do not matter; of an own module that is used as a whole, the file
    counts. Code of this package counts with the code in the file that holds it, wherever that is; that of installed
    packages with its name.

    Raises
    ------
    TypeError
        If some part has no state that can be read, such as an open file.
    """
    if any(value is outer for outer in _within):
        return "recursion"

    def parts(*inner: object) -> str:
        return f"({','.join(describe(part, (*_within, value)) for part in inner)})"

    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return str(joblib.hash(value))
    if isinstance(value, list | tuple):
        return parts(*value)
    if isinstance(value, set | frozenset):
        return parts(*sorted(map(describe, value)))
    if isinstance(value, Mapping):
        return parts(*value.items())
    if isinstance(value, ModuleType):
        own = _is_own(value.__name__) and getattr(value, "__file__", None)
        return value.__name__ + (provenance.code_of(Path(own)) if own else "")
    if isinstance(value, CodeType):
        return parts(value.co_code, value.co_names, value.co_consts)
    if isinstance(value, staticmethod | classmethod):
        return parts(value.__func__)
    if isinstance(value, property):
        return parts(value.fget)
    if isinstance(value, MethodType):
        return parts(value.__func__, value.__self__)
    if isinstance(value, partial):
        return parts(value.func, value.args, value.keywords)
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        if not _is_own(value.__module__):
            if str(value.__module__).startswith("mialab."):
                return f"mialab.{value.__qualname__}{_file_hash(value)}"
            return f"{value.__module__}.{value.__qualname__}"
        if isinstance(value, type):
            return parts(*_class_parts(value))
        return parts(*_function_parts(value))  # type: ignore[arg-type]  # the user has no built-in functions
    state = vars(value) if hasattr(value, "__dict__") else value.__reduce_ex__(4)
    return parts(type(value), state)


def _is_own(module: str | None) -> bool:
    # A notebook's __main__ has no file; whatever was started, what is made there is the user's.
    root = (module or "builtins").partition(".")[0]
    if root == "__main__":
        return True
    if root in sys.stdlib_module_names or root == "mialab":
        return False
    file = getattr(sys.modules.get(root), "__file__", None)
    return not (file and any(Path(file).is_relative_to(folder) for folder in _installed()))


@cache
def _installed() -> set[str]:
    return {sysconfig.get_path(name) for name in ("purelib", "platlib")}


#: What decides nothing that is stored, but is loaded by what does: checks, progress, where data are.
UNDECIDED = frozenset(
    (
        *("_paths", "_progress", "_registry", "_validation", "arrays", "exceptions"),
        *("data.pool", "data.reading", "data.registry"),
    )
)


@cache
def code_hash(**sources: str) -> str:
    """Return a sha256 of modules of this package, e.g. ``"training.streams"``, by names that stay when files move."""
    package = Path(provenance.__file__).parent
    files = {
        name: package.joinpath(*module.split(".")).with_suffix(".py") for name, module in sources.items()
    }
    text = "\0".join(f"{name}\0{_package_code(file)}" for name, file in sorted(files.items()))
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _package_code(file: Path) -> str:
    return provenance.code_of(file)


def _file_hash(value: type | FunctionType | BuiltinFunctionType) -> str:
    """Hash of the files of this package that hold a function, or a class and its bases."""
    classes = value.__mro__ if isinstance(value, type) else [value]
    files = {str(inspect.getsourcefile(c)) for c in classes if str(c.__module__).startswith("mialab.")}
    text = "\0".join(sorted(_package_code(Path(file)) for file in files))
    return hashlib.sha256(text.encode()).hexdigest()


#: Methods that dataclasses add, none of which decides a number.
ADDED = frozenset(
    f"__{name}__"
    for name in ("repr", "eq", "hash", "lt", "le", "gt", "ge", "setattr", "delattr", "replace", "match_args")
)


def _class_parts(cls: type) -> list[object]:
    # Without what Python and dataclasses add by themselves: the values of fields are in the instance.
    made = getattr(cls, "__dataclass_params__", None)
    # In code without a file, as in `exec`, what dataclasses write looks like what the user does.
    added = set() if made is None else ADDED | ({"__init__"} if made.init else set())

    def written(name: str, member: object) -> bool:
        if isinstance(member, FunctionType):
            return name not in added or member.__code__.co_filename != "<string>"
        return not name.startswith("__") and name != "_abc_impl"

    return [cls.__bases__, {name: member for name, member in vars(cls).items() if written(name, member)}]


def _function_parts(function: FunctionType) -> list[object]:
    loaded = sorted(_loaded(function.__code__) & function.__globals__.keys())
    return [
        _without_docstring(function),
        function.__defaults__,
        function.__kwdefaults__,
        [cell.cell_contents for cell in function.__closure__ or ()],
        {name: function.__globals__[name] for name in loaded},
    ]


def _without_docstring(function: FunctionType) -> CodeType:
    code = function.__code__
    constants = code.co_consts
    if function.__doc__ is not None and constants and constants[0] == function.__doc__:
        constants = (None, *constants[1:])
    return code.replace(co_consts=constants)


def _loaded(code: CodeType) -> set[str]:
    """Global names that a piece of code, or one nested in it, loads."""
    here = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return here.union(*(_loaded(c) for c in code.co_consts if isinstance(c, CodeType)))
