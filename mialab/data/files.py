"""A user's own file as a data set."""

import difflib
from pathlib import Path
from typing import Any

import numpy as np

from mialab.data.pool import _ARRAYS, Pool
from mialab.data.reading import MAX_CLASSES, npz, read
from mialab.data.registry import Entry, Raw


def _own_file(path: Path) -> Entry:
    """Registry entry for an .npz file of the user's own, read and checked at once."""
    if not path.is_file():
        here = [file.name for file in path.parent.glob("*.npz")] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, here, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise FileNotFoundError(f"there is no file {path}{hint}")
    known = (*_ARRAYS, "label_names")
    try:
        arrays: dict[str, Any] = read(path, npz)
    except ValueError as error:
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
    names = _names(arrays.pop("label_names", np.array([], "U1")))
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


def _names(array: np.ndarray) -> tuple[str, ...]:
    names = array.tolist() if array.ndim == 1 and array.dtype.kind in "iuU" else None
    if names is None or not all(str(name).isprintable() for name in names):
        raise ValueError(
            f"label_names must hold a printable text for each class, got shape {array.shape} {array.dtype}"
        )
    return tuple(map(str, names))


def _plain_features(x: np.ndarray, name: str, notes: list[str]) -> np.ndarray:
    if x.dtype == np.float32 or (x.dtype == np.uint8 and x.ndim in (3, 4)):  # pixels stay bytes
        return x
    if x.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold numbers, got {x.dtype}")
    with np.errstate(over="ignore"):  # found out just below
        plain = x.astype(np.float32)
    exact = np.array_equal(np.isinf(plain), np.isinf(x))
    if x.dtype.kind in "iu":  # they are compared as float64, which is exact up to 2**53
        exact = np.array_equal(plain, x) and bool(((x <= 2**53) & (x >= -(2**53))).all())
    if not exact:
        raise ValueError(f"{name} holds {x.dtype} values that do not fit float32: scale them first")
    notes.append(f"{name} converted from {x.dtype} to float32")
    return plain


def _plain_labels(y: np.ndarray, name: str, _: list[str]) -> np.ndarray:
    if y.dtype.kind not in "iu":
        raise ValueError(f"{name} must hold integer labels 0..C-1, got {y.dtype}")
    if y.size and y.max() >= MAX_CLASSES:
        raise ValueError(f"{name} holds the label {y.max()}; there can be at most {MAX_CLASSES:,} classes")
    return y.astype(np.int64)


def _count_classes(labels: list[np.ndarray], file: str) -> int:
    """Count classes as the largest label + 1, if every label up to it occurs."""
    found = np.unique(np.concatenate([y.reshape(-1) for y in labels]))
    if not len(found) or found[0] < 0:
        raise ValueError(f"{file}: labels must be 0..C-1, found {found[0] if len(found) else 'none'}")
    missing = np.setdiff1d(np.arange(found[-1] + 1), found)
    if missing.tolist() == [0]:
        raise ValueError(f"{file}: labels run 1..{found[-1]}, they must run 0..{found[-1] - 1}: subtract 1")
    if len(missing):
        raise ValueError(
            f"{file}: no record has label {missing[0]}, though labels reach {found[-1]}. "
            "Renumber them 0..C-1, or save label_names if there are such classes"
        )
    return len(found)
