"""Where games are kept: one zarr group each, filled model by model, every model with a checksum."""

import hashlib
import json
import math
import os
import platform
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any, Literal

import fsspec
import numpy as np
import xarray as xr
import zarr
from filelock import FileLock, Timeout
from zarr.errors import ContainsArrayError, ZarrUserWarning

from mialab import _progress
from mialab._paths import cache_folder
from mialab.arrays import ArraySpec

#: Bytes of a checksum.
DIGEST = hashlib.sha256().digest_size


#: Models that a stored game has room for, so that it can grow; what was never written takes no space.
ROOM = 2**16


#: Bytes of a chunk, at most: blocks of records can be read without reading whole models.
CHUNK_BYTES = 16 * 2**20


def _chunks(spec: ArraySpec, shape: tuple[int, ...]) -> tuple[int, ...] | Literal["auto"]:
    """Cut arrays into chunks of one model and checkpoint and as many records as fit, about the same in each."""
    if "model" not in spec.dims:
        return "auto"
    if "record" not in spec.dims:
        return (1, *shape[1:])
    along = spec.dims.index("record")
    (records, *after) = shape[along:]
    before = [1 if d == "checkpoint" else n for d, n in zip(spec.dims[1:along], shape[1:along], strict=True)]
    most = max(1, CHUNK_BYTES // (math.prod(before) * math.prod(after) * np.dtype(spec.dtype).itemsize))
    return (1, *before, math.ceil(records / math.ceil(records / most)), *after)


def _plain(attrs: dict) -> dict:
    """Attributes as JSON has them; other values by their text."""
    return json.loads(json.dumps(attrs, default=lambda v: v.item() if isinstance(v, np.generic) else repr(v)))


def _why(error: Exception) -> object:
    return getattr(error, "strerror", None) or error


def games_root(where: str | os.PathLike[str] | None = None) -> str:
    """Return where games are kept, a folder or a URL, having made the folder.

    Parameters
    ----------
    where : str or path, optional
        A folder, or a URL of any file system that fsspec knows, such as ``"s3://bucket/mialab"``; by default what the
        environment variable ``MIALAB_GAMES`` says, or else ``games`` in the cache folder. Credentials and other
        options of a file system are set as its fsspec package has it.
    """
    root = os.fspath(where or os.environ.get("MIALAB_GAMES") or cache_folder() / "games")
    root = root.removeprefix("file://").rstrip("/")
    try:
        if "://" in root:
            fsspec.url_to_fs(root)
            return root
        if "::" in root:
            raise ValueError("'::' stands for a chain of URLs; a folder needs a name without it")
        folder = Path(root).expanduser().resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)
    except (OSError, ValueError, ImportError) as error:
        raise _unwritable(root, error) from error


def is_shared(root: str) -> bool:
    """Whether other processes can see games that are kept there."""
    return not root.startswith("memory://")


def _unwritable(root: str, error: Exception) -> OSError:
    return OSError(
        f"Games cannot be kept in {root}: {_why(error)}. "
        "Set MIALAB_GAMES, or play(store=...), to a folder or URL that can be written to."
    )


class Store:
    """One game with any number of models, in a folder or at any URL that fsspec knows.

    A model counts as done once its checksum is there, and the checksum is written last; so a run that was killed
    resumes with the models that are missing. All writes can be repeated: at a URL, where nothing keeps two processes
    from playing the same game at once, they may do the same work twice, and both get the same game (of a file system
    whose files appear whole or not at all, as those of object stores do). Every array has room for `ROOM` models from
    the start, and chunks of one model, so a game grows without a change to anything that others read or write.

    Parameters
    ----------
    root : str
        Where games are kept, from `games_root`.
    key : str
        Hash of everything that determines the game.

    Attributes
    ----------
    url : str
        Where this game is.
    """

    def __init__(self, root: str, key: str) -> None:
        self.root, self.key, self.url = root, key, f"{root}/{key}.zarr"
        self.is_local = "://" not in root

    def _open(self, mode: Literal["r", "r+"] = "r") -> tuple[zarr.Group, dict[str, zarr.Array]]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ZarrUserWarning)  # about arrays that are yet to be made
                group = zarr.open_group(self.url, mode=mode)
                return group, dict(group.arrays())
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"There is no game {self.url} as seen from {platform.node()}. Workers must see the place where games "
                "are kept: set MIALAB_GAMES, or play(store=...), to a folder or URL that they all share."
            ) from error
        except Exception as error:  # whatever a file system raises, or zarr when its metadata are damaged
            advice = "delete that folder to play the game again."
            if not self.is_local:
                advice = f"see whether {platform.node()} can reach it; if it can, delete it to play the game again."
            raise OSError(f"The stored game {self.url} cannot be read ({error}): {advice}") from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from playing the same game meanwhile; at a URL, nothing does."""
        if not self.is_local:
            yield
            return
        lock = FileLock(f"{self.url}.lock")
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            _progress.note(f"waiting for another process that plays {self.key}")
            lock.acquire()
        except OSError as error:
            raise _unwritable(self.root, error) from error
        try:
            yield
        finally:
            lock.release()

    def create(
        self,
        specs: Iterable[ArraySpec],
        sizes: Mapping[str, int],
        fixed: dict[str, np.ndarray],
        attrs: dict,
    ) -> None:
        """Lay the game out: room for more models than are ever asked for, and what is known beforehand of these.

        What is there already is left alone; what is known beforehand (``fixed``, for the first models) is compared, and
        written anew where it is damaged. Sizes are those of dimensions besides ``"model"``.
        """
        try:
            _, there = self._open()
        except FileNotFoundError:
            there = {}
        if missing := [spec for spec in specs if spec.name not in there]:
            try:
                group = zarr.open_group(self.url, mode="a", attributes=_plain(attrs))
                for spec in missing:
                    shape = spec.shape({**sizes, "model": ROOM, "byte": DIGEST})
                    is_float = np.dtype(spec.dtype).kind == "f"
                    with suppress(ContainsArrayError):  # another process was faster
                        group.create_array(
                            spec.name,
                            shape=shape,
                            dtype=spec.dtype,
                            chunks=_chunks(spec, shape),
                            fill_value=np.nan if is_float else 0,
                            # Answers hardly shrink, and packing them takes longer than writing them.
                            compressors=None if is_float else "auto",
                            dimension_names=spec.dims,
                        )
            except Exception as error:  # every file system has errors of its own
                raise _unwritable(self.root, error) from error
        self._restore(fixed)

    def _restore(self, fixed: dict[str, np.ndarray]) -> None:
        _, arrays = self._open("r+")
        for name, value in fixed.items():
            rows = slice(len(value))
            try:
                intact = np.array_equal(arrays[name][rows], value)
            except Exception:  # whatever a codec raises on a truncated chunk
                intact = False
            if not intact:
                self._write(arrays[name], rows, value, f"Array {name!r}")

    def _write(self, array: zarr.Array, rows: slice, value: np.ndarray, what: str) -> None:
        try:
            array[rows] = value
        except Exception as error:  # every file system has errors of its own
            raise OSError(
                f"{what} cannot be written to {self.url}: {_why(error)}. Models stored before are kept; make room, or "
                "set MIALAB_GAMES to another place, and play again."
            ) from error

    def write(self, models: Sequence[int], results: Mapping[str, np.ndarray]) -> None:
        """Write the results of ``models``; each array has a leading model dimension."""
        _, arrays = self._open("r+")
        results = {name: np.asarray(values, dtype=arrays[name].dtype) for name, values in results.items()}
        checksums = np.stack([_checksum(results, i, arrays) for i in range(len(models))])
        # Neighbors in one go: every call to zarr takes its time. Checksums last.
        order = np.arange(len(models))
        for group in np.split(order, np.flatnonzero(np.diff(models) != 1) + 1):
            first, last = models[group[0]], models[group[-1]]
            what = f"Model {first}" if first == last else f"Models {first} to {last}"
            for name, values in (results | {"checksum": checksums}).items():
                self._write(arrays[name], slice(first, last + 1), values[group], what)

    def missing(self, models: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return which of some models are still to train: those never finished, and those that are damaged."""
        _, arrays = self._open()

        def state(model: int) -> str:
            try:
                stored = np.asarray(arrays["checksum"][model])
                if not stored.any():
                    return "absent"
                return "done" if np.array_equal(stored, _checksum(arrays, model, arrays)) else "damaged"
            except Exception:  # whatever a codec raises on a truncated chunk
                return "damaged"

        # In threads: at a URL, every chunk takes its time to come.
        with ThreadPoolExecutor(8) as pool:
            states = dict(zip(models, pool.map(state, models), strict=True))
        absent, damaged = ([k for k, s in states.items() if s == wanted] for wanted in ("absent", "damaged"))
        return absent, damaged

    def read(self, name: str, models: Sequence[int] | None = None) -> np.ndarray:
        """Return an array that is known before training; the rows of some models, or all of it."""
        array = self._open()[1][name]
        return np.asarray(array[:] if models is None else array.oindex[np.asarray(models)])

    def attrs(self) -> dict:
        """Return what is said about the game."""
        return dict(self._open()[0].attrs)

    def set_attrs(self, attrs: dict) -> None:
        """Add attributes to the game."""
        self._open("r+")[0].attrs.update(_plain(attrs))

    def open(self, n_models: int) -> xr.Dataset:
        """Open the game of the first models; arrays are read when they are used."""
        dataset = xr.open_zarr(self.url, consolidated=False, chunks=None).drop_vars("checksum")
        return dataset.isel(model=slice(n_models)).assign_attrs(n_models=n_models)


def _checksum(values: Mapping[str, Any], index: int, arrays: Mapping[str, zarr.Array]) -> np.ndarray:
    """Checksum of one model, chunk by chunk: a model is never read as a whole."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        if _dims(array)[0] == "model" and name not in ("member", "partner", "checksum"):
            for block in _blocks(array):
                digest.update(np.ascontiguousarray(values[name][(index, *block)]).data)
    return np.frombuffer(digest.digest(), dtype=np.uint8)


def _dims(array: zarr.Array) -> tuple[Any, ...]:
    return getattr(array.metadata, "dimension_names", None) or ()


def _blocks(array: zarr.Array) -> Iterator[tuple[slice, ...]]:
    """Yield where the chunks of a model are."""
    sizes = zip(array.shape[1:], array.chunks[1:], strict=True)
    yield from product(*([slice(i, i + step) for i in range(0, n, step)] for n, step in sizes))
