"""From a name or a file to a pool."""

import difflib
import os
import platform
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mialab._validation import check_integer
from mialab.data import images, tables  # noqa: F401  # they register their data sets
from mialab.data.files import _own_file
from mialab.data.pool import Pool
from mialab.data.reading import file_size
from mialab.data.registry import REGISTRY, Entry, Raw, find


def datasets() -> pd.DataFrame:
    """List the data sets that :func:`load` knows by name.

    Returns
    -------
    pandas.DataFrame
        One row per set, indexed by name: kind; records to cut the pool from; test records of the set's own,
        besides; classes; by default, the size of the pool and the numbers of validation and test records, the latter
        of the set's own test part where it has one; size to download ("" if none); whether it is here already; where
        it comes from.
    """
    rows = [
        {
            "name": entry.name,
            "kind": entry.kind,
            "records": entry.records,
            "own test": entry.own_test,
            "classes": entry.n_classes,
            "size": entry.size,
            "validation": entry.validation or "10 % of size",
            "test": entry.test or "the rest",
            "download": _download_size(entry),
            "here": not entry.files or find(entry.name) is not None,
            "from": entry.origin,
        }
        for entry in _entries()
    ]
    return pd.DataFrame(rows).set_index("name")


def _entries() -> list[Entry]:
    """List the data sets, embedded ones first."""
    return sorted(REGISTRY.values(), key=lambda entry: bool(entry.files))


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
    reference: int | None = None,
    seed: int = 0,
) -> Pool:
    """Load a data set and cut it into a pool, validation, test and reference records.

    All parts come from one order of the records, drawn from `seed`, in which every class is spread evenly:
    each part holds every class in proportion, the parts are disjoint, and a larger pool begins with the
    smaller one of the same seed. A set that has a validation, test or reference part of its own keeps it.

    Parameters
    ----------
    name : str or path
        A name from :func:`datasets`, or a path to an ``.npz`` file with arrays ``x`` and ``y``, and
        optionally ``x_val``, ``y_val``, ``x_test``, ``y_test``, ``x_reference``, ``y_reference``,
        ``label_names``. In such a file 4-D features are images (records, channels, height, width), 2-D
        features of only 0 and 1 are binary, and all other 2-D features tabular. Numbers other than float32
        (and images' uint8) are converted, as ``notes`` then says.
    size : int, optional
        Records in the pool; even, because models come in pairs trained on complementary halves.
        Default: see :func:`datasets`; of an own file, the largest even number that the other parts leave.
    validation : int, optional
        Records for model selection. Default: see :func:`datasets`; of an own file, its validation part or 5 %.
    test : int, optional
        Records for test accuracy. Default: see :func:`datasets`; of an own file, its test part or 25 %.
    reference : int, optional
        Records for defenses and attackers that need other data. Default: none; of an own file, its reference part.
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
    OSError
        If the system could not read or write a file, which says nothing about the file; see `mialab.data.reading`.

    Notes
    -----
    The defaults stand in :func:`datasets`. ``location30``, ``purchase100`` and ``texas100`` are cut as in HAMP (Chen
    and Pattabiraman, 2024): the size is twice its number of members. Pixels stay bytes, 0..255, except for ``digits``;
    networks see them divided by 255. No published checksum of ``purchase100``, ``texas100`` and ``ham10000`` was found:
    ``notes`` of the pool then gives the sha256 of what was read.

    Examples
    --------
    >>> load("digits", size=400, test=500)
    Pool('digits': 400 records of shape (1, 8, 8) float32, 10 classes, image; 40 validation, 500 test)
    """
    entry = _own_file(Path(name).expanduser()) if str(name).endswith(".npz") else _known(str(name))
    given = {"size": size, "validation": validation, "test": test, "reference": reference}
    for parameter, value in given.items():
        check_integer(parameter, 0 if value is None else value)
    check_integer("seed", seed)
    try:
        raw = entry.make()
    except MemoryError as error:
        raise ValueError(f"{entry.name} needs more memory than there is") from error
    n = len(raw.y)
    if test is None:
        test = len(raw.y_test) if entry.test is None and raw.y_test is not None else entry.test
    if validation is None:
        validation = entry.validation if raw.y_val is None else len(raw.y_val)
    if reference is None:
        reference = 0 if raw.y_reference is None else len(raw.y_reference)
    cut = reference if raw.y_reference is None else 0  # reference records that come from those of the pool
    if size is None:
        size = entry.size
    if size is None:  # the pool is what the other parts leave
        test = n // 4 if test is None else test
        validation = n // 20 if validation is None else validation
        taken = (test if raw.y_test is None else 0) + (validation if raw.y_val is None else 0) + cut
        size = max(n - taken, 0) // 2 * 2
    if validation is None:
        validation = size // 10
    if test is None:
        test = max(n - size - validation - cut, 0)
    if size < 2 or size % 2:
        raise ValueError(f"size must be even (a model trains on half of it) and at least 2, got {size}")
    parts = {"size": size, "validation": validation, "test": test, "reference": reference, "seed": seed}
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
        + f"Known: {', '.join(entry.name for entry in _entries())}, or the path of an .npz file"
    )


def _cut(entry: Entry, raw: Raw, *, size: int, validation: int, test: int, reference: int, seed: int) -> Pool:
    """Take the pool from the front of one seeded order; test from its end, validation and reference before it."""

    def take(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x[rows], dtype=x.dtype if entry.kind == "image" else np.float32)

    n = end = len(raw.y)
    order = _spread(raw.y, seed)
    parts: dict[str, np.ndarray] = {}
    counts = {"test": test, "validation": validation, "reference": reference}
    for option, count in counts.items():
        part = "val" if option == "validation" else option
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
        if reference:
            wanted["reference"] = reference
        own = {"validation": raw.y_val, "test": raw.y_test, "reference": raw.y_reference}
        raise ValueError(
            f"{' + '.join(f'{k}={v}' for k, v in wanted.items() if own.get(k) is None)} asks for more records than "
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
