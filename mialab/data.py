"""Pools of labelled records, some of which a model will be trained on.

``load("digits")`` gives a :class:`Pool`: the records that may become members (``x``, ``y``) and, apart from
them, validation records for model selection and test records for accuracy. The parts are always disjoint.
Nothing is ever replaced by other data: a set that is missing is an error that says which file to put where.

Two environment variables matter: ``MIALAB_DATA`` is a folder searched for data files you already have,
``MIALAB_CACHE`` is where downloads go (default: the user's cache folder).
"""

import difflib
import hashlib
import os
import platform
import zipfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mialab.sources import REGISTRY, Entry, Raw, cache_folder, file_size, find, plain_bytes

__all__ = ["Pool", "cache_folder", "datasets", "load"]

KINDS = ("tabular", "binary", "image")


# ----------------------------------------------------------------------------------------------------
# The pool


@dataclass(frozen=True, eq=False, repr=False)
class Pool:
    """Labelled records that may or may not be trained on.

    The arrays are checked, and neither copied nor changed.

    Parameters
    ----------
    name : str
        Short name, used in tables and cache folders.
    x : numpy.ndarray
        Features, shape ``(n, ...)``, float32; images may be uint8, which means pixels 0..255 that networks see
        divided by 255. Images are ``(n, channels, height, width)``, binary features are 0 and 1.
    y : numpy.ndarray
        Labels 0..n_classes-1, shape ``(n,)``, int64.
    n_classes : int
        Number of classes, at least 2.
    kind : {"tabular", "binary", "image"}
        What the features are; models choose their input layer by it.
    x_val, y_val, x_test, y_test : numpy.ndarray, optional
        Records for model selection and for test accuracy; never in `x`. Empty when left out.
    label_names : tuple of str, optional
        One name per class.
    source : str, optional
        Where the records come from, in one line.
    license : str, optional
        The licence of the records, as far as it is stated.
    notes : str, optional
        Anything a reader of results should know, such as a conversion made on loading.

    Attributes
    ----------
    loaded : dict or None
        The parameters of `load` that give this pool on any machine that has the data; None for a user's own records.

    Raises
    ------
    ValueError
        If a shape, type, label or value is not as described above. The message names rows and labels.

    Examples
    --------
    >>> import numpy as np
    >>> Pool("toy", x=np.zeros((4, 2), np.float32), y=np.array([0, 1, 0, 1]), n_classes=2, kind="tabular")
    Pool('toy': 4 records of shape (2,) float32, 2 classes, tabular; 0 validation, 0 test)
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    n_classes: int
    kind: str
    x_val: np.ndarray = None  # type: ignore[assignment]  # left out: an empty array
    y_val: np.ndarray = None  # type: ignore[assignment]
    x_test: np.ndarray = None  # type: ignore[assignment]
    y_test: np.ndarray = None  # type: ignore[assignment]
    label_names: tuple[str, ...] = ()
    source: str = "given as arrays"
    license: str = "not stated"
    notes: str = ""
    loaded: dict[str, Any] | None = field(default=None, init=False)  # so a changed copy has none

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, got {self.kind!r}")
        if isinstance(self.n_classes, bool) or not isinstance(self.n_classes, int | np.integer):
            raise ValueError(f"n_classes must be an integer, got {self.n_classes!r}")
        if self.n_classes < 2:
            raise ValueError(f"n_classes must be at least 2, got {self.n_classes}")
        if self.label_names and len(self.label_names) != self.n_classes:
            raise ValueError(f"label_names has {len(self.label_names)} names for {self.n_classes} classes")
        _check_part(self.x, self.y, "", self.n_classes, self.kind)
        if len(self.y) < 2:
            raise ValueError(f"a pool needs at least 2 records, got {len(self.y)}")
        for part in ("val", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            if (x is None) != (y is None):
                given, missing = ("y", "x") if x is None else ("x", "y")
                raise ValueError(f"{given}_{part} is given without {missing}_{part}: give both or neither")
            if x is None:
                object.__setattr__(self, f"x_{part}", self.x[:0])
                object.__setattr__(self, f"y_{part}", self.y[:0])
                continue
            _check_part(x, y, f"_{part}", self.n_classes, self.kind)
            if x.shape[1:] != self.x.shape[1:] or x.dtype != self.x.dtype:
                raise ValueError(
                    f"x_{part} holds records of shape {x.shape[1:]} {x.dtype}, "
                    f"x of shape {self.x.shape[1:]} {self.x.dtype}: they must agree"
                )
        object.__setattr__(self, "n_classes", int(self.n_classes))
        object.__setattr__(self, "label_names", tuple(map(str, self.label_names)))

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over all arrays, their shapes and types, and the number of classes."""
        # Computed anew each time: a kept one would be wrong once somebody writes into an array.
        digest = hashlib.sha256(f"n_classes={self.n_classes}".encode())
        for name in _ARRAYS:
            array = getattr(self, name)
            digest.update(f"|{name}{array.shape}{array.dtype.name}|".encode())
            digest.update(plain_bytes(array))
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return (
            f"Pool({self.name!r}: {len(self):,} records of shape {self.x.shape[1:]} {self.x.dtype}, "
            f"{self.n_classes} classes, {self.kind}; "
            f"{len(self.y_val):,} validation, {len(self.y_test):,} test)"
        )


_ARRAYS = ("x", "y", "x_val", "y_val", "x_test", "y_test")


def _check_part(x: np.ndarray, y: np.ndarray, suffix: str, n_classes: int, kind: str) -> None:
    """Raise ValueError for the first thing that is wrong with ``x{suffix}`` and ``y{suffix}``."""
    x_name, y_name = f"x{suffix}", f"y{suffix}"
    for name, array in ((x_name, x), (y_name, y)):
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name} must be a numpy array, got {type(array).__name__}")
    if x.dtype != np.float32 and not (kind == "image" and x.dtype == np.uint8):
        types = "float32 or uint8" if kind == "image" else "float32"
        raise ValueError(
            f"{x_name} of kind {kind!r} must be {types}, got {x.dtype}: pass {x_name}.astype(np.float32)"
        )
    if y.dtype != np.int64 or y.ndim != 1:
        remedy = "astype(np.int64)" if y.ndim == 1 else "argmax(axis=1) if it is one-hot"
        raise ValueError(
            f"{y_name} must be one int64 label per record, got shape {y.shape} {y.dtype}: "
            f"pass {y_name}.{remedy}"
        )
    if len(x) != len(y):
        raise ValueError(f"{x_name} has {len(x)} records but {y_name} has {len(y)} labels: they must agree")
    if kind == "image":
        _check_image_shape(x, x_name)
    elif x.ndim != 2:
        raise ValueError(f"{x_name} of kind {kind!r} must have shape (records, features), got {x.shape}")
    if x.dtype == np.float32 and not np.isfinite(x).all():
        bad = ~np.isfinite(x).reshape(len(x), -1)
        rows = np.flatnonzero(bad.any(axis=1))
        raise ValueError(
            f"{x_name} holds {bad.sum()} NaN or infinite values in {_rows(rows)}: "
            "remove those records or fill the values in"
        )
    if kind == "binary":
        bad = ((x != 0) & (x != 1)).any(axis=1)
        if bad.any():
            raise ValueError(
                f"{x_name} of kind 'binary' must hold only 0 and 1; "
                f"other values in {_rows(np.flatnonzero(bad))}"
            )
    outside = np.flatnonzero((y < 0) | (y >= n_classes))
    if len(outside):
        labels = ", ".join(map(str, np.unique(y[outside])[:5]))
        message = f"{y_name} must hold labels 0..{n_classes - 1}, found {labels} in {_rows(outside)}"
        if y.min() == 1 and y.max() == n_classes:
            message += f". The labels seem to run 1..{n_classes}: subtract 1"
        raise ValueError(message)


def _check_image_shape(x: np.ndarray, name: str) -> None:
    if x.ndim == 4 and not (x.shape[1] > 4 and x.shape[3] <= 4):
        return
    message = f"{name} of kind 'image' must have shape (records, channels, height, width), got {x.shape}"
    if x.ndim == 4:
        message += f": channels seem to come last, pass {name}.transpose(0, 3, 1, 2)"
    elif x.ndim == 3:
        message += f": grey images have one channel, pass {name}[:, None]"
    raise ValueError(message)


def _rows(rows: np.ndarray) -> str:
    shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    return f"{len(rows)} record{'s' if len(rows) > 1 else ''} (row {shown})"


# ----------------------------------------------------------------------------------------------------
# Loading


def datasets() -> pd.DataFrame:
    """List the data sets that :func:`load` knows by name.

    Returns
    -------
    pandas.DataFrame
        One row per set, indexed by name: kind; records to cut the pool from; test records of the set's own,
        besides; classes; size to download ("" if none); whether it is here already; where it comes from.
    """
    rows = [
        {
            "name": entry.name,
            "kind": entry.kind,
            "records": entry.records,
            "own test": entry.own_test,
            "classes": entry.n_classes,
            "download": _download_size(entry),
            "here": not entry.files or find(entry.name) is not None,
            "from": entry.origin,
        }
        for entry in REGISTRY.values()
    ]
    return pd.DataFrame(rows).set_index("name")


def _download_size(entry: Entry) -> str:
    if not entry.remotes:
        return ""
    return file_size(sum(r.size or 0 for r in entry.remotes)) if entry.remotes[0].size else "not stated"


def load(
    name: str | os.PathLike[str],
    *,
    size: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    seed: int = 0,
) -> Pool:
    """Load a data set and cut it into a pool, validation records and test records.

    All parts come from one order of the records, drawn from `seed`, in which every class is spread evenly:
    each part holds every class in proportion, the parts are disjoint, and a larger pool begins with the
    smaller one of the same seed. A set that has a validation or test part of its own keeps it.

    Parameters
    ----------
    name : str or path
        A name from :func:`datasets`, or a path to an ``.npz`` file with arrays ``x`` and ``y``, and
        optionally ``x_val``, ``y_val``, ``x_test``, ``y_test``, ``label_names``. In such a file 4-D features
        are images (records, channels, height, width), 2-D features of only 0 and 1 are binary, and all other
        2-D features tabular. Numbers other than float32 (and images' uint8) are converted, as ``notes`` then
        says.
    size : int, optional
        Records in the pool; even, because models come in pairs trained on complementary halves.
        Default: see Notes; of an own file, the largest even number that the other parts leave.
    validation : int, optional
        Records for model selection. Default: see Notes, where ``10 %`` is of `size`; of an own
        file, its validation part or 5 %.
    test : int, optional
        Records for test accuracy. Default: see Notes; of an own file, its test part or 25 %.
    seed : int, optional
        Decides the order, and nothing else.

    Returns
    -------
    Pool

    Raises
    ------
    ValueError
        If the name is unknown, more records are asked for than there are, or the data are not valid.
    FileNotFoundError
        If the file is missing, or neither here nor downloadable.

    Notes
    -----
    The default parts, and where the test records come from:

    ================================================= ====== ========== ====== ==========================
    name                                              size   validation test   test records
    ================================================= ====== ========== ====== ==========================
    ``digits``                                        1,000  10 %       697    the rest
    ``clusters``                                      1,000  10 %       1,000  other records
    ``location30``                                    2,700  300        1,000  other records
    ``purchase100``                                   36,000 2,000      2,000  other records
    ``texas100``                                      27,000 1,500      1,500  other records
    ``adult``                                         10,000 1,000      2,000  of 16,281 in ``adult.test``
    ``mnist`` ``fashion_mnist`` ``cifar10``           10,000 1,000      2,000  of its own 10,000
    ``cifar100``                                      10,000 1,000      2,000  of its own 10,000
    ``stl10``                                         4,000  10 %       2,000  of its own 8,000
    ``lfw``                                           2,000  10 %       823    the rest
    ``ham10000``                                      7,000  10 %       2,315  the rest
    ================================================= ====== ========== ====== ==========================

    ``location30``, ``purchase100`` and ``texas100`` are cut as in HAMP (Chen and Pattabiraman, 2024): the size
    is twice its number of members. Pixels stay bytes, 0..255, except for ``digits``; networks see them
    divided by 255. No published checksum of ``purchase100``, ``texas100`` and ``ham10000`` was found: ``notes`` of
    the pool then gives the sha256 of what was read.

    Examples
    --------
    >>> load("digits", size=400, test=500)
    Pool('digits': 400 records of shape (1, 8, 8) float32, 10 classes, image; 40 validation, 500 test)
    """
    entry = _own_file(Path(name).expanduser()) if str(name).endswith(".npz") else _known(str(name))
    for parameter, value in (("size", size), ("validation", validation), ("test", test), ("seed", seed)):
        if value is None and parameter != "seed":
            continue
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise ValueError(f"{parameter} must be an integer of at least 0, got {value!r}")
    raw = entry.make()
    n = len(raw.y)
    if test is None:
        test = len(raw.y_test) if entry.test is None and raw.y_test is not None else entry.test
    if validation is None:
        validation = entry.validation if raw.y_val is None else len(raw.y_val)
    if size is None:
        size = entry.size
    if size is None:  # the pool is what the other parts leave
        test = n // 4 if test is None else test
        validation = n // 20 if validation is None else validation
        taken = (test if raw.y_test is None else 0) + (validation if raw.y_val is None else 0)
        size = max(n - taken, 0) // 2 * 2
    if validation is None:
        validation = size // 10
    if test is None:
        test = max(n - size - validation, 0)
    if size < 2 or size % 2:
        raise ValueError(f"size must be even (a model trains on half of it) and at least 2, got {size}")
    parts = {"size": size, "validation": validation, "test": test, "seed": seed}
    pool = _cut(entry, raw, **parts)
    if REGISTRY.get(entry.name) is entry:
        object.__setattr__(pool, "loaded", {"name": entry.name, **parts})
    return pool


@lru_cache(maxsize=1)
def load_again(fingerprint: str, **loaded: Any) -> Pool:
    """Load on this machine what was loaded on another, once per process.

    Parameters
    ----------
    fingerprint : str
        Fingerprint of the other machine's pool.
    **loaded
        How that was loaded: its attribute ``loaded``.

    Raises
    ------
    RuntimeError
        If the data are missing here, or are others.
    """
    remedy = "Set MIALAB_DATA on all workers to a folder with the same files."
    try:
        pool = load(**loaded)
    except (OSError, ValueError) as error:
        raise RuntimeError(
            f"Data set {loaded['name']!r} cannot be loaded on {platform.node()}: {error}. {remedy}"
        ) from error
    if pool.fingerprint != fingerprint:
        raise RuntimeError(
            f"Data set {loaded['name']!r} on {platform.node()} is not the one that was loaded for this game "
            f"(fingerprint {pool.fingerprint[:12]}, expected {fingerprint[:12]}). {remedy} If the pool was changed "
            "after loading, make it one of your own: dataclasses.replace(pool)."
        )
    return pool


def _known(name: str) -> Entry:
    if name in REGISTRY:
        return REGISTRY[name]
    close = difflib.get_close_matches(name.lower(), REGISTRY, n=2, cutoff=0.5)
    raise ValueError(
        f"unknown data set {name!r}; "
        + (f"did you mean {' or '.join(map(repr, close))}? " if close else "")
        + f"Known: {', '.join(REGISTRY)}, or the path of an .npz file"
    )


def _cut(entry: Entry, raw: Raw, *, size: int, validation: int, test: int, seed: int) -> Pool:
    """Take the pool from the front of one seeded order, test from its end and validation before test."""

    def take(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x[rows], dtype=x.dtype if entry.kind == "image" else np.float32)

    n = end = len(raw.y)
    order = _spread(raw.y, seed)
    parts: dict[str, np.ndarray] = {}
    for option, part, count in (("test", "test", test), ("validation", "val", validation)):
        own_x, own_y = getattr(raw, f"x_{part}"), getattr(raw, f"y_{part}")
        if own_y is None:
            rows = order[max(end - count, 0) : max(end, 0)]
            parts[f"x_{part}"], parts[f"y_{part}"] = take(raw.x, rows), raw.y[rows]
            end -= count
        elif count <= len(own_y):
            rows = np.arange(count) if count == len(own_y) else _spread(own_y, seed)[:count]
            parts[f"x_{part}"], parts[f"y_{part}"] = take(own_x, rows), own_y[rows]
        else:
            raise ValueError(f"{option}={count} is more than {entry.name} has: {len(own_y)} {option} records")
    if size > end:
        wanted = {"size": size, "validation": validation, "test": test}
        own = [k for k, y in (("validation", raw.y_val), ("test", raw.y_test)) if y is not None]
        raise ValueError(
            f"{' + '.join(f'{k}={v}' for k, v in wanted.items() if k not in own)} asks for more records than "
            f"{entry.name} has ({n}); so cut, size can be at most {max(end, 0) // 2 * 2}"
        )
    rows = order[:size]
    return Pool(
        name=entry.name,
        x=take(raw.x, rows),
        y=raw.y[rows],
        n_classes=entry.n_classes,
        kind=entry.kind,
        label_names=raw.label_names,
        source=raw.source or entry.origin,
        license=entry.license,
        notes=raw.notes,
        **parts,
    )


def _spread(y: np.ndarray, seed: int) -> np.ndarray:
    """Draw an order of the records in which any stretch holds every class in proportion.

    Record r of the c_k records of class k, in random order, is put at (r + u_k) / c_k, with u_k uniform in
    [0, 1): systematic sampling within each class. Unlike scikit-learn's stratified splits this takes classes
    of one record, and makes a smaller pool the beginning of a larger one.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(y))
    place = np.empty(len(y))
    for label in np.unique(y):
        rows = shuffled[y[shuffled] == label]
        place[rows] = (np.arange(len(rows)) + rng.random()) / len(rows)
    return np.argsort(place, kind="stable")


# ----------------------------------------------------------------------------------------------------
# The user's own file


def _own_file(path: Path) -> Entry:
    """Registry entry for an .npz file of the user's own, read and checked at once."""
    if not path.is_file():
        here = [file.name for file in path.parent.glob("*.npz")] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, here, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise FileNotFoundError(f"there is no file {path}{hint}")
    known = (*_ARRAYS, "label_names")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read as .npz: {error}. Save it with np.savez({path.name!r}, x=..., y=...)"
        ) from error
    for key in arrays:
        if key not in known:
            raise ValueError(f"{path.name} holds an unknown array {key!r}; known: {', '.join(known)}")
    for key in ("x", "y"):
        if key not in arrays:
            raise ValueError(f"{path.name} has no array {key!r}; it holds {', '.join(arrays) or 'nothing'}")
    notes: list[str] = []
    names = tuple(map(str, arrays.pop("label_names", ())))
    for key in arrays:
        arrays[key] = (_plain_labels if key.startswith("y") else _plain_features)(arrays[key], key, notes)
    x, y = arrays["x"], arrays["y"]
    binary = x.ndim == 2 and all(((a == 0) | (a == 1)).all() for k, a in arrays.items() if k.startswith("x"))
    n_classes = len(names) or _count_classes([a for k, a in arrays.items() if k.startswith("y")], path.name)
    kind = "image" if x.ndim in (3, 4) else "binary" if binary else "tabular"
    # Whole-file check, before any record is left out by the split.
    Pool(path.stem, n_classes=n_classes, kind=kind, label_names=names, **arrays)
    raw = Raw(**arrays, label_names=names, source=f"{path.name}, the user's own file", notes="; ".join(notes))
    return Entry(path.stem, lambda: raw, kind, len(y), n_classes, origin=f"{path.name}, the user's own file")


def _plain_features(x: np.ndarray, name: str, notes: list[str]) -> np.ndarray:
    if x.dtype == np.float32 or (x.dtype == np.uint8 and x.ndim in (3, 4)):  # pixels stay bytes
        return x
    if x.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold numbers, got {x.dtype}")
    with np.errstate(over="ignore"):  # found out just below
        plain = x.astype(np.float32)
    exact = np.array_equal(plain, x) if x.dtype.kind in "iu" else np.array_equal(np.isinf(plain), np.isinf(x))
    if not exact:
        raise ValueError(f"{name} holds {x.dtype} values that do not fit float32: scale them first")
    notes.append(f"{name} converted from {x.dtype} to float32")
    return plain


def _plain_labels(y: np.ndarray, name: str, _: list[str]) -> np.ndarray:
    if y.dtype.kind not in "iu":
        raise ValueError(f"{name} must hold integer labels 0..C-1, got {y.dtype}")
    return y.astype(np.int64)


def _count_classes(labels: list[np.ndarray], file: str) -> int:
    """Count classes as the largest label + 1, if every label up to it occurs."""
    found = np.unique(np.concatenate([y.reshape(-1) for y in labels])).tolist()
    if not found or found[0] < 0:
        raise ValueError(f"{file}: labels must be 0..C-1, found {found[0] if found else 'none'}")
    missing = sorted(set(range(found[-1] + 1)) - set(found))
    if missing == [0]:
        raise ValueError(f"{file}: labels run 1..{found[-1]}, they must run 0..{found[-1] - 1}: subtract 1")
    if missing:
        raise ValueError(
            f"{file}: no record has label {missing[0]}, though labels reach {found[-1]}. "
            "Renumber them 0..C-1, or save label_names if there are such classes"
        )
    return len(found)
