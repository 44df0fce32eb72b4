"""Where games are kept: one zarr group each, filled model by model, every model with a checksum."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import xarray as xr
import zarr
from filelock import FileLock, Timeout

from mialab import progress
from mialab.data import cache_folder

DIMENSIONS = {
    "logits": ("model", "query", "record", "label"),
    "raw_logits": ("model", "query", "record", "label"),
    "member": ("model", "record"),
    "partner": ("model",),
    "y": ("record",),
    "canary": ("record",),
    "train_accuracy": ("model",),
    "validation_accuracy": ("model",),
    "test_accuracy": ("model",),
    "seconds": ("model",),
}
PER_MODEL = ("logits", "raw_logits", "train_accuracy", "validation_accuracy", "test_accuracy", "seconds")


def _plain(attrs: dict) -> dict:
    """Attributes as JSON has them; other values by their text."""
    return json.loads(json.dumps(attrs, default=lambda v: v.item() if isinstance(v, np.generic) else repr(v)))


class Store:
    """One game on disk.

    A model counts as done once its checksum is there, and the checksum is written last; so a run that was killed
    resumes with the models that are missing.

    Parameters
    ----------
    key : str
        Hash of everything that determines the game.
    """

    def __init__(self, key: str) -> None:
        self.path = cache_folder() / "games" / f"{key}.zarr"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        self._lock = FileLock(f"{self.path}.lock")

    def _unwritable(self, error: OSError) -> OSError:
        return OSError(
            f"Games cannot be kept in {self.path.parent}: {error.strerror}. "
            "Set MIALAB_CACHE to a folder that can be written to."
        )

    def _open(self, mode: Literal["r", "r+"]) -> zarr.Group:
        try:
            return zarr.open_group(self.path, mode=mode)
        except Exception as error:  # whatever zarr raises when its metadata are damaged
            raise OSError(
                f"The stored game {self.path} cannot be read ({error}): delete that folder to play the game again."
            ) from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from playing the same game meanwhile."""
        try:
            self._lock.acquire(timeout=0.5)
        except Timeout:
            progress.note(f"waiting for another process that plays {self.path.stem}")
            self._lock.acquire()
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            yield
        finally:
            self._lock.release()

    def create(self, fixed: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]], attrs: dict) -> None:
        """Lay the game out: what is known beforehand, and room for the rest.

        If that is done already, only what is known beforehand is compared, and written anew where it is damaged.

        Parameters
        ----------
        fixed : dict of str to numpy.ndarray
            Arrays that are known before training, e.g. ``member``.
        shapes : dict of str to tuple of int
            Shapes of the arrays to come; the first dimension is the model.
        attrs : dict
            What the game is, JSON-friendly.
        """
        if self.path.exists():
            self._restore(fixed)
            return
        part = self.path.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        group = zarr.open_group(part, mode="w", attributes=_plain(attrs))
        for name, value in fixed.items():
            group.create_array(name, data=value, dimension_names=DIMENSIONS[name])
        for name, shape in shapes.items():
            dtype = "float32" if name.endswith("logits") else "float64"
            group.create_array(
                name,
                shape=shape,
                chunks=(1, *shape[1:]),
                dtype=dtype,
                fill_value=np.nan,
                dimension_names=DIMENSIONS[name],
            )
        n_models = len(fixed["member"])
        group.create_array(
            "checksum", shape=(n_models, 32), chunks=(1, 32), dtype="uint8", dimension_names=("model", "byte")
        )
        part.rename(self.path)

    def _restore(self, fixed: dict[str, np.ndarray]) -> None:
        group = self._open("r")
        for name, value in fixed.items():
            try:
                intact = np.array_equal(group[name][:], value)
            except Exception:  # whatever a codec raises on a truncated chunk
                intact = False
            if not intact:
                self._open("r+")[name][:] = value

    def _checksum(self, group: zarr.Group, model: int) -> np.ndarray:
        digest = hashlib.sha256()
        for name in PER_MODEL:
            if name in group:
                digest.update(np.ascontiguousarray(group[name][model]).tobytes())
        return np.frombuffer(digest.digest(), dtype=np.uint8)

    def write(self, models: list[int], arrays: dict[str, np.ndarray]) -> None:
        """Write the results of ``models``; each array has a leading model dimension."""
        group = self._open("r+")
        try:
            for i, model in enumerate(models):
                for name, value in arrays.items():
                    group[name][model] = value[i]
                group["checksum"][model] = self._checksum(group, model)
        except OSError as error:
            raise OSError(
                f"Models {models} cannot be written to {self.path}: {error.strerror or error}. "
                "Models stored before are kept; make room, or set MIALAB_CACHE, and play again."
            ) from error

    def missing(self) -> tuple[list[int], list[int]]:
        """Return the models still to train: those never finished, and those whose stored answers are damaged."""
        group = self._open("r")
        absent, damaged = [], []
        for model in range(group["member"].shape[0]):
            try:
                stored = np.asarray(group["checksum"][model])
                if not stored.any():
                    absent.append(model)
                elif not np.array_equal(stored, self._checksum(group, model)):
                    damaged.append(model)
            except Exception:  # whatever a codec raises on a truncated chunk
                damaged.append(model)
        return absent, damaged

    def set_attrs(self, attrs: dict) -> None:
        """Add attributes to the game."""
        self._open("r+").attrs.update(_plain(attrs))

    def open(self) -> xr.Dataset:
        """Open the game; arrays are read when they are used."""
        return xr.open_zarr(self.path, consolidated=False, chunks=None).drop_vars("checksum")
