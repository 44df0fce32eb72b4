"""Where games are kept: one zarr group each, filled model by model, every model with its provenance and a checksum."""

import asyncio
import hashlib
import json
import math
import os
import platform
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, Literal

import fsspec
import numpy as np
import xarray as xr
import zarr
from filelock import FileLock, Timeout
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.errors import ZarrUserWarning
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from mialab import _progress
from mialab._paths import cache_folder
from mialab.arrays import ArraySpec

#: Bytes of a checksum, and of what is said about a model, a checksum of it included.
DIGEST, ABOUT = hashlib.sha256().digest_size, 4096

#: Seconds to wait before a file is read once more.
PAUSES = (0.05, 0.25, 1.0)


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


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _sealed(attrs: dict) -> dict:
    """Attributes with a checksum of their own."""
    return attrs | {"checksum": hashlib.sha256(_json(attrs)).hexdigest()}


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


class ReadError(OSError):
    """A file of a stored game cannot be read at the moment, which says nothing about what it holds."""


class Files(WrapperStore[Any]):
    """The files of a stored game: what cannot be read is tried again, and what killed writers left is not seen."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: Any = None) -> Buffer | None:
        """Read a file; None if there is none."""
        return await self._patiently(key, lambda: self._store.get(key, prototype, byte_range))

    async def exists(self, key: str) -> bool:
        """Whether there is such a file."""
        return await self._patiently(key, lambda: self._store.exists(key))

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield what is in a folder."""

        async def listed() -> list[str]:
            return [key async for key in self._store.list_dir(prefix)]

        for key in await self._patiently(prefix, listed):
            if not key.endswith(".partial"):
                yield key

    async def _patiently(self, key: str, read: Callable[[], Awaitable[Any]]) -> Any:
        for pause in (*PAUSES, None):
            try:
                return await read()
            except FileNotFoundError:
                raise
            except Exception as error:  # every file system has errors of its own
                if pause is None or isinstance(error, PermissionError):
                    where = getattr(self._store, "root", None) or self._store.path
                    raise ReadError(
                        f"{where}/{key} cannot be read by {platform.node()}: {_why(error)}. That is no damage, and "
                        "nothing is trained again for it: mend the cause, and play again."
                    ) from error
                await asyncio.sleep(pause)
        raise AssertionError


class Store:
    """One game with any number of models, in a folder or at any URL that fsspec knows.

    A model counts as done once its provenance is there, a file with a checksum of its arrays, which is written last; so
    a run that was killed resumes with the models that are missing. All writes can be repeated: at a URL, where nothing
    keeps two processes from playing the same game at once, they may do the same work twice, and both get the same game
    (of a file system whose files appear whole or not at all, as those of object stores do). What differs between the
    two, such as seconds, is in the provenance alone. Every array has room for `ROOM` models from the start, and chunks
    of one model, so a game grows without a change to anything that others read or write.

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

    def _files(self, mode: Literal["r", "r+"] = "r") -> Files:
        read_only = mode == "r"
        if self.is_local:
            return Files(LocalStore(self.url, read_only=read_only))
        return Files(FsspecStore.from_url(self.url, read_only=read_only))

    def _open(self, mode: Literal["r", "r+"] = "r") -> dict[str, zarr.Array]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ZarrUserWarning)  # about arrays that are yet to be made
                group = zarr.open_group(self._files(mode), mode=mode, zarr_format=3, use_consolidated=False)
                return dict(group.arrays())
        except ReadError:
            raise
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"There is no game {self.url} as seen from {platform.node()}. Workers must see the place where games "
                "are kept: set MIALAB_GAMES, or play(store=...), to a folder or URL that they all share."
            ) from error
        except Exception as error:  # whatever zarr raises when its metadata are damaged
            raise OSError(
                f"The stored game {self.url} is damaged ({error}): play it again, and it is mended."
            ) from error

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

    def unfit(
        self, specs: Iterable[ArraySpec], sizes: Mapping[str, int], fixed: dict[str, np.ndarray], attrs: dict
    ) -> list[str]:
        """Return what `lay_out` would write: arrays that are missing or damaged, or ``"attributes"``.

        Nothing is written, so no lock is needed.
        """
        metadata = _metadata(specs, sizes, attrs)
        found = [path or "attributes" for path in metadata if self._state(path, metadata[path]) != "intact"]
        if {*found} - {"attributes"}:
            return found
        try:
            return found + self._changed(fixed)
        except ReadError:
            raise
        except OSError:  # attributes that are no JSON
            return [*found, *fixed]

    def lay_out(
        self, specs: Iterable[ArraySpec], sizes: Mapping[str, int], fixed: dict[str, np.ndarray], attrs: dict
    ) -> list[str]:
        """Lay the game out: room for more models than are ever asked for, and what is known beforehand of these.

        What is there already is left alone, or written anew where it is damaged; all of it follows from the plan.

        Parameters
        ----------
        specs : iterable of ArraySpec
            The arrays.
        sizes : mapping of str to int
            Sizes of dimensions besides ``"model"``.
        fixed : dict of str to numpy.ndarray
            What is known beforehand, for the first models.
        attrs : dict
            What the game is.

        Returns
        -------
        list of str
            Of what the metadata were damaged: arrays, or ``"attributes"``.
        """
        damaged = []
        for path, metadata in _metadata(specs, sizes, attrs).items():
            state = self._state(path, metadata)
            if state == "damaged":
                damaged.append(path or "attributes")
            if state != "intact":
                self._describe(path, metadata)
        if self.is_local:  # what killed writers left
            for file in Path(self.url).rglob("*.partial"):
                file.unlink(missing_ok=True)
        changed = self._changed(fixed)
        arrays = self._open("r+")
        for name in changed:
            self._write(arrays[name], slice(len(fixed[name])), fixed[name], f"Array {name!r}")
        return damaged

    def _state(self, path: str, metadata: Any) -> Literal["missing", "damaged", "intact"]:
        """Compare stored metadata with what they must be; attributes need only be whole, as the plan's are served."""
        options: dict[str, Any] = {"path": path, "mode": "r", "zarr_format": 3}
        try:
            if path:
                found = zarr.open_array(self._files(), **options).metadata.to_dict()
                return "intact" if found == metadata.to_dict() else "damaged"
            attrs = dict(zarr.open_group(self._files(), use_consolidated=False, **options).attrs)
            return (
                "intact"
                if attrs == _sealed({k: v for k, v in attrs.items() if k != "checksum"})
                else "damaged"
            )
        except ReadError:
            raise
        except FileNotFoundError:
            return "missing"
        except Exception:  # whatever zarr raises
            return "damaged"

    def _describe(self, path: str, metadata: Any) -> None:
        try:
            document = metadata.to_buffer_dict(default_buffer_prototype())["zarr.json"]
            sync(self._files("r+").set(f"{path}/zarr.json".lstrip("/"), document))
        except Exception as error:  # every file system has errors of its own
            raise _unwritable(self.root, error) from error

    def _changed(self, fixed: dict[str, np.ndarray]) -> list[str]:
        """Return what of that which is known beforehand is not stored, or damaged."""
        arrays = self._open()

        def is_stored(name: str, value: np.ndarray) -> bool:
            try:
                stored = np.asarray(arrays[name][: len(value)])
                # By bytes: of a flag, 2 is as true as 1.
                return stored.tobytes() == np.asarray(value, stored.dtype).tobytes()
            except ReadError:
                raise
            except Exception:  # whatever a codec raises on a truncated chunk
                return False

        return [name for name, value in fixed.items() if not is_stored(name, value)]

    def _write(self, array: zarr.Array, rows: slice, value: np.ndarray, what: str) -> None:
        try:
            array[rows] = value
        except Exception as error:  # every file system has errors of its own
            raise OSError(
                f"{what} cannot be written to {self.url}: {_why(error)}. Models stored before are kept; make room, or "
                "set MIALAB_GAMES to another place, and play again."
            ) from error

    def write(self, models: Sequence[int], results: Mapping[str, np.ndarray], about: dict) -> None:
        """Write the results of models that nobody else has finished meanwhile.

        Parameters
        ----------
        models : sequence of int
            The models.
        results : mapping of str to numpy.ndarray
            Arrays with a leading model dimension; ``seconds`` become part of the provenance.
        about : dict
            The provenance of these models, JSON-friendly; see `open` for what it must hold.
        """
        todo = [k in set().union(*self.missing(models)) for k in models]
        own = np.asarray(models)[todo]
        arrays = self._open("r+")
        seconds = np.asarray(results["seconds"], dtype=float)[todo]
        kept = {
            name: np.asarray(values, dtype=arrays[name].dtype)[todo]
            for name, values in results.items()
            if name != "seconds"
        }
        abouts = [
            about | {"seconds": float(seconds[i]), "checksum": _checksum(kept, i, arrays)}
            for i in range(len(own))
        ]
        # Neighbors in one go: every call to zarr takes its time. Provenance last.
        for group in np.split(np.arange(len(own)), np.flatnonzero(np.diff(own) != 1) + 1):
            if not len(group):
                continue
            first, last = int(own[group[0]]), int(own[group[-1]])
            what = f"Model {first}" if first == last else f"Models {first} to {last}"
            rows = np.stack([self._as_row(int(own[i]), abouts[i]) for i in group])
            values = {name: array[group] for name, array in kept.items()} | {"provenance": rows}
            for name, value in values.items():
                self._write(arrays[name], slice(first, last + 1), value, what)

    def _as_row(self, model: int, about: dict) -> np.ndarray:
        text = _json(about).ljust(ABOUT - DIGEST, b"\0")
        return np.frombuffer(self._digest(model, text) + text, dtype=np.uint8)

    def _from_row(self, model: int, row: np.ndarray) -> dict | None:
        """Read what is said about a model; None if nothing is, ValueError if it is damaged."""
        if not row.any():
            return None
        digest, text = row[:DIGEST].tobytes(), row[DIGEST:].tobytes()
        if digest != self._digest(model, text):
            raise ValueError(f"The provenance of model {model} is damaged.")
        return json.loads(text.rstrip(b"\0"))

    def _digest(self, model: int, text: bytes) -> bytes:
        # With the game and the model, so that files in a wrong place are noticed.
        return hashlib.sha256(f"{self.key}\0{model}\0".encode() + text).digest()

    def missing(self, models: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return which of some models are still to train: those never finished, and those that are damaged."""
        arrays = self._open()

        def state(model: int) -> str:
            try:
                about = self._from_row(model, np.asarray(arrays["provenance"][model]))
                if about is None:
                    return "absent"
                return "done" if about["checksum"] == _checksum(arrays, model, arrays) else "damaged"
            except ReadError:
                raise
            except Exception:  # whatever a codec raises on a truncated chunk
                return "damaged"

        # In threads: at a URL, every chunk takes its time to come.
        with ThreadPoolExecutor(8) as pool:
            states = dict(zip(models, pool.map(state, models), strict=True))
        absent, damaged = ([k for k, s in states.items() if s == wanted] for wanted in ("absent", "damaged"))
        return absent, damaged

    def count(self, n_models: int) -> int:
        """Return how many of the first models are finished; nothing else is read of them."""
        return int(np.asarray(self._open()["provenance"][:n_models]).any(1).sum())

    def read(self, name: str, models: Sequence[int] | None = None) -> np.ndarray:
        """Return an array that is known before training; the rows of some models, or all of it."""
        array = self._open()[name]
        return np.asarray(array[:] if models is None else array.oindex[np.asarray(models)])

    def open(self, n_models: int, attrs: dict) -> xr.Dataset:
        """Open the game of the first models; arrays are read when they are used.

        Parameters
        ----------
        n_models : int
            How many; all of them must be finished.
        attrs : dict
            What the game is, from its plan. What is known of the runs that trained the models is added: the provenance
            of the last one; ``seconds``, until each had stored the last of these models, together; the largest
            ``peak_mb``; and ``runs``, in short.
        """
        rows = np.asarray(self._open()["provenance"][:n_models])
        abouts = [about for model, row in enumerate(rows) if (about := self._from_row(model, row))]
        dataset = xr.open_zarr(self._files(), consolidated=False, chunks=None).drop_vars("provenance")
        dataset = dataset.isel(model=slice(n_models)).assign(
            seconds=("model", [about["seconds"] for about in abouts])
        )
        dataset.attrs = _plain(attrs) | _history(abouts) | {"n_models": n_models}
        return dataset


def _history(abouts: list[dict]) -> dict:
    """Sum up what is said about models."""
    runs: dict[str, list[dict]] = {}
    for about in sorted(abouts, key=lambda a: a["began"] + a["elapsed"]):
        runs.setdefault(about["run"], []).append(about)
    last = {
        name: [run[-1][name] for run in runs.values()] for name in ("commit", "date", "device", "workers")
    }
    seconds = [run[-1]["elapsed"] for run in runs.values()]
    latest = next(reversed(runs.values()))[-1]
    return {
        **{k: v for k, v in latest.items() if k not in ("run", "began", "elapsed", "checksum")},
        "seconds": sum(seconds),
        "peak_mb": max(about["peak_mb"] for about in abouts),
        "runs": [
            {"models": len(run), "seconds": took, **dict(zip(last, values, strict=True))}
            for run, took, *values in zip(runs.values(), seconds, *last.values(), strict=True)
        ],
    }


def _metadata(specs: Iterable[ArraySpec], sizes: Mapping[str, int], attrs: dict) -> dict[str, Any]:
    """Return zarr's metadata of the group, ``""``, and of its arrays."""
    metadata: dict[str, Any] = {"": zarr.create_group({}, attributes=_sealed(_plain(attrs))).metadata}
    for spec in specs:
        shape = spec.shape({**sizes, "model": ROOM, "byte": ABOUT})
        is_float = np.dtype(spec.dtype).kind == "f"
        metadata[spec.name] = zarr.create_array(
            {},
            shape=shape,
            dtype=spec.dtype,
            chunks=_chunks(spec, shape),
            fill_value=np.nan if is_float else 0,
            # Answers hardly shrink, and packing them takes longer than writing them.
            compressors=None if is_float else ZstdCodec(),
            dimension_names=spec.dims,
        ).metadata
    return metadata


def _checksum(values: Mapping[str, Any], index: int, arrays: Mapping[str, zarr.Array]) -> str:
    """Checksum of one model, chunk by chunk: a model is never read as a whole."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        if _dims(array)[0] == "model" and name not in ("member", "partner", "provenance"):
            for block in _blocks(array):
                digest.update(np.ascontiguousarray(values[name][(index, *block)]).data)
    return digest.hexdigest()


def _dims(array: zarr.Array) -> tuple[Any, ...]:
    return getattr(array.metadata, "dimension_names", None) or ()


def _blocks(array: zarr.Array) -> Iterator[tuple[slice, ...]]:
    """Yield where the chunks of a model are."""
    sizes = zip(array.shape[1:], array.chunks[1:], strict=True)
    yield from product(*([slice(i, i + step) for i in range(0, n, step)] for n, step in sizes))
