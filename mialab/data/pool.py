"""The pool: labeled records that may or may not be trained on."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mialab._validation import check_integer, check_name, choose
from mialab.data.reading import MAX_CLASSES
from mialab.data.registry import plain_bytes

KINDS = ("tabular", "binary", "image")


@dataclass(frozen=True, eq=False, repr=False)
class Pool:
    """Labeled records that may or may not be trained on.

    The arrays are checked, and neither copied nor changed.

    Parameters
    ----------
    name : str
        Short name, used in tables and as part of the names of files: no slashes, no colons.
    x : numpy.ndarray
        Features, shape ``(n, ...)``, float32; images may be uint8, which means pixels 0..255 that networks see
        divided by 255. Images are ``(n, channels, height, width)``, binary features are 0 and 1.
    y : numpy.ndarray
        Labels 0..n_classes-1, shape ``(n,)``, int64.
    n_classes : int
        Number of classes, from 2 to 65,536.
    kind : {"tabular", "binary", "image"}
        What the features are; models choose their input layer by it.
    x_val, y_val, x_test, y_test : numpy.ndarray, optional
        Records for model selection and for test accuracy; never in `x`. Empty when left out.
    x_reference, y_reference : numpy.ndarray, optional
        Records for defenses and attackers that need other data, such as a teacher's transfer set; in no other part.
        Empty when left out.
    label_names : tuple of str, optional
        One name per class.
    source : str, optional
        Where the records come from, in one line.
    license : str, optional
        The license of the records, as far as it is stated.
    notes : str, optional
        Anything a reader of results should know, such as a conversion made on loading.

    Attributes
    ----------
    loaded : dict or None
        The parameters of `load` that give this pool on any machine that has the data; None for a user's own records.

    Raises
    ------
    ValueError
        If the name, a shape, type, label or value is not as described above. The message names rows and labels.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(8, dtype=np.float32).reshape(4, 2)
    >>> Pool("toy", x=x, y=np.array([0, 1, 0, 1]), n_classes=2, kind="tabular")
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
    x_reference: np.ndarray = None  # type: ignore[assignment]
    y_reference: np.ndarray = None  # type: ignore[assignment]
    label_names: tuple[str, ...] = ()
    source: str = "given as arrays"
    license: str = "not stated"
    notes: str = ""
    loaded: dict[str, Any] | None = field(default=None, init=False)  # so a changed copy has none

    def __post_init__(self) -> None:
        check_name("name", self.name)
        choose("kind", self.kind, KINDS)
        check_integer("n_classes", self.n_classes, low=2)
        if self.n_classes > MAX_CLASSES:
            raise ValueError(f"n_classes={self.n_classes!r} must be at most {MAX_CLASSES:,}.")
        if isinstance(self.label_names, str) or not isinstance(self.label_names, Collection):
            raise ValueError(f"label_names={self.label_names!r} must be a sequence with one name per class.")
        if self.label_names and len(self.label_names) != self.n_classes:
            raise ValueError(f"label_names has {len(self.label_names)} names for {self.n_classes} classes")
        _check_part(self.x, self.y, "", self.n_classes, self.kind)
        if len(self.y) < 2:
            raise ValueError(f"a pool needs at least 2 records, got {len(self.y)}")
        for part in ("val", "test", "reference"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            if (x is None) != (y is None):
                given, missing = ("y", "x") if x is None else ("x", "y")
                raise ValueError(f"{given}_{part} is given without {missing}_{part}: give both or neither")
            if x is None or all(isinstance(a, np.ndarray) and a.shape[:1] == (0,) for a in (x, y)):
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
        """sha256 (hex) over all arrays, their shapes and types, and the number of classes.

        A reference part counts only where there is one.
        """
        # Computed anew each time: a kept one would be wrong once somebody writes into an array.
        digest = hashlib.sha256(f"n_classes={self.n_classes}".encode())
        for name in _ARRAYS if len(self.y_reference) else _ARRAYS[:6]:
            array = getattr(self, name)
            digest.update(f"|{name}{array.shape}{array.dtype.name}|".encode())
            digest.update(plain_bytes(array))
        return digest.hexdigest()

    def twins(self) -> int:
        """Count the records that are equal, but for their label, to an earlier one or to one of the test part.

        Who is a member of which model cannot be told of a record whose twin is on the other side, so twins make any
        attack look weaker, and a test accuracy better, than they are.
        """
        known = set(digests(self.x_test))
        count = 0
        for digest in digests(self.x):
            count += digest in known
            known.add(digest)
        return count

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        reference = f", {len(self.y_reference):,} reference" if len(self.y_reference) else ""
        twins = f"; {count:,} twins" if (count := self.twins()) else ""
        return (
            f"Pool({self.name!r}: {len(self):,} records of shape {self.x.shape[1:]} {self.x.dtype}, "
            f"{self.n_classes} classes, {self.kind}; "
            f"{len(self.y_val):,} validation, {len(self.y_test):,} test{reference}{twins})"
        )


def digests(x: np.ndarray) -> list[bytes]:
    """Return 16 bytes for each record, the same for equal ones; records may hold numbers or words."""
    rows = (repr(row.tolist()).encode() if x.dtype == object else row.tobytes() for row in x)
    return [hashlib.blake2b(row, digest_size=16).digest() for row in rows]


_ARRAYS = ("x", "y", "x_val", "y_val", "x_test", "y_test", "x_reference", "y_reference")


def _check_part(x: np.ndarray, y: np.ndarray, suffix: str, n_classes: int, kind: str) -> None:
    """Raise ValueError for the first thing that is wrong with ``x{suffix}`` and ``y{suffix}``."""
    x_name, y_name = f"x{suffix}", f"y{suffix}"
    for name, array in ((x_name, x), (y_name, y)):
        if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
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
    if not x.ndim or len(x) != len(y):
        raise ValueError(
            f"{x_name} has {len(x) if x.ndim else 'no'} records but {y_name} has {len(y)} labels: they must agree"
        )
    if kind == "image":
        _check_image_shape(x, x_name)
    elif x.ndim != 2:
        raise ValueError(f"{x_name} of kind {kind!r} must have shape (records, features), got {x.shape}")
    if 0 in x.shape[1:]:
        holds = "channels and pixels" if kind == "image" else "features"
        raise ValueError(f"{x_name} has shape {x.shape}, without a value: its records must have {holds}")
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
        message += f": gray images have one channel, pass {name}[:, None]"
    raise ValueError(message)


def _rows(rows: np.ndarray) -> str:
    shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    return f"{len(rows)} record{'s' if len(rows) > 1 else ''} (row {shown})"
