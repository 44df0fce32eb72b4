"""From files to arrays: the one place that reads bytes from outside.

Whatever a file holds, reading it raises one of three errors and nothing else:

* ``FileNotFoundError``: it is not there;
* another ``OSError``: the system could not read it, such as for want of file handles. It was tried again, and says
  nothing about the file, which may be whole;
* ``ValueError``: it is damaged, holds something else, or is beyond a limit below.

Nothing is ever unpickled, and no array is made before its size is known to agree with that of the file.
"""

import errno
import gzip
import io
import os
import pickletools
import shutil
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

T = TypeVar("T")

#: Most classes of a data set: a network has a row of weights for each.
MAX_CLASSES = 2**16
#: Most members of an archive.
MAX_MEMBERS = 100_000
#: An archive may unpack to so many bytes, or to so many times its own size if that is more.
MAX_UNPACKED, MAX_RATIO = 10**9, 250
#: Most bytes of a download whose size is not stated.
MAX_DOWNLOAD = 10**9
#: Errors of the system that may pass, and how long to wait before each further try, in seconds.
PASSING = (
    *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENFILE),
    *(errno.ENOBUFS, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT),
)
PAUSES = (0.1, 0.5)


def read(path: Path, parse: Callable[[Path], T]) -> T:
    """Return what a function makes of a file, with no other errors than those of this module.

    Parameters
    ----------
    path : Path
        The file, or a folder of files.
    parse : callable
        Reads it. Whatever it raises is due to what the file holds, but for errors of the system.

    Raises
    ------
    FileNotFoundError
        If it, or a file that belongs to it, is missing.
    OSError
        If the system could not read it, also at further tries.
    ValueError
        If it cannot be read for another reason; the message is that reason.
    """
    for pause in (*PAUSES, None):
        try:
            return parse(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            # Libraries raise this without a number, or after seeking to nowhere, for what is wrong with contents.
            if error.errno in (None, errno.EINVAL, errno.EISDIR, errno.ENOTDIR):
                raise ValueError(reason(error)) from error
            if error.errno not in PASSING or pause is None:
                raise OSError(
                    error.errno,
                    f"{os.strerror(error.errno)}, while reading; this says nothing about the file: try again",
                    str(error.filename or path),
                ) from error
            time.sleep(pause)
        except MemoryError as error:
            raise ValueError("it needs more memory than there is") from error
        except Exception as error:  # no list of what parsers raise on foreign bytes is complete
            raise ValueError(reason(error)) from error
    raise AssertionError("the last try returns or raises")


def reason(error: BaseException) -> str:
    """Return an error's message in one printable line of at most 200 characters: it may quote a file or a server."""
    text = "".join(c if c.isprintable() else " " for c in str(error)).strip() or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays in an .npz file."""
    arrays = {}
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        check_sizes(path, (member.file_size for member in members))
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name == member.filename or name in arrays:
                raise ValueError(f"it holds {name!r} {'twice' if name in arrays else 'that is no array'}")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name!r} is compressed in a way that numpy does not use")
            with archive.open(member) as opened:
                arrays[name] = _array(opened, member.file_size)
    return arrays


def npy(path: Path) -> np.ndarray:
    """Return the array in an .npy file."""
    with open(path, "rb") as file:
        return _array(file, os.fstat(file.fileno()).st_size)


def _array(file: IO[bytes], size: int) -> np.ndarray:
    """Read an array of so many bytes, its header included."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, by_column, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"it is an array of format {version}, which numpy uses for none of numbers or text")
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded, as that could run code: give numbers or text")
    if dtype.kind not in "biufcSU" or not dtype.itemsize:
        raise ValueError(f"it is an array of {dtype}, not of numbers or text")
    stated = prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or stated != size - file.tell():
        raise ValueError(
            f"an array of shape {shape} {dtype} takes {stated} bytes, it has {size - file.tell()}"
        )
    flat = np.empty(prod(shape), dtype)
    rest = flat.view(np.uint8).data if flat.size else memoryview(b"")
    while rest and (n := file.readinto(rest)):  # type: ignore[attr-defined]  # both kinds of files have it
        rest = rest[n:]
    if len(rest) or file.read(1):  # reading to the end checks a member's checksum
        raise ValueError("it ends too early")
    if dtype.kind == "b" and (flat.view(np.uint8) > 1).any():
        raise ValueError("it is an array of True and False with other values")
    return flat.reshape(shape, order="F" if by_column else "C")


def table(file: str | Path | IO[bytes]) -> np.ndarray:
    """Return lines of numbers 0..255, the label perhaps quoted; as larger numbers Texas100 would take 3 GB."""
    return np.loadtxt(file, dtype=np.uint8, delimiter=",", quotechar='"', ndmin=2)


@contextmanager
def gunzipped(path: Path) -> Iterator[gzip.GzipFile]:
    """Open a .gz file, after reading through it to see that it keeps within the limits of archives."""
    with gzip.open(path) as opened:
        check_sizes(path, iter(lambda: len(opened.read(2**20)), 0))
        opened.seek(0)
        yield opened


@contextmanager
def tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a .tar.gz file within the limits of archives."""
    with gunzipped(path) as opened, tarfile.open(fileobj=opened, mode="r:") as archive:
        check_sizes(path, (member.size for member in archive))  # a sparse file is larger than what is stored
        yield archive


def tables(path: Path, inside: Iterable[str]) -> list[np.ndarray]:
    """Return the tables in a .tar.gz file."""
    read = []
    with tar(path) as archive:
        for name in inside:
            file = archive.extractfile(name)
            if file is None:
                raise ValueError(f"{name!r} in it is no file")
            read.append(table(file))
    return read


def check_sizes(path: Path, sizes: Iterable[int]) -> None:
    """Refuse an archive whose members, of so many bytes, are too many or too large (ValueError)."""
    limit = max(MAX_UNPACKED, MAX_RATIO * path.stat().st_size)
    total = 0
    for k, size in enumerate(sizes):
        total += size
        if k >= MAX_MEMBERS or total > limit:
            raise ValueError(
                f"it unpacks to more than {MAX_MEMBERS:,} files or {file_size(limit)}, as no data set does"
            )


def unpack(archive: Path, folder: Path, skip: str = "\0") -> None:
    """Unpack the files of a .tar.gz or .tgz file, but those whose names end with `skip`, or the one file in a .gz."""
    folder.mkdir(parents=True, exist_ok=True)
    if archive.name.endswith((".tar.gz", ".tgz")):
        with tar(archive) as opened:
            members = [m for m in opened if (m.isfile() or m.isdir()) and not m.name.endswith(skip)]
            opened.extractall(folder, members, filter="data")
    else:
        with gunzipped(archive) as source, open(folder / archive.stem, "wb") as target:
            shutil.copyfileobj(source, target)


class Limited:
    """A file to write into that takes no more than a number of bytes (ValueError)."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self.file, self.left, self.limit = file, limit, limit

    def write(self, content: bytes) -> int:
        """Write, if there is room."""
        self.left -= len(content)
        if self.left < 0:
            raise ValueError(f"it is larger than {file_size(self.limit)}")
        return self.file.write(content)

    def flush(self) -> None:
        """Write what is held back."""
        self.file.flush()


def cifar(content: bytes, numbers: str) -> tuple[np.ndarray, list[int]]:
    """Read images and labels of a CIFAR batch, a pickled dictionary, from its opcodes without carrying them out.

    Parameters
    ----------
    content : bytes
        The file.
    numbers : str
        Key of the labels.

    Returns
    -------
    images : numpy.ndarray of uint8, shape (image, 3, 32, 32)
    labels : list of int
    """
    labels, key, pixels = [], "", ""
    for opcode, value in _opcodes(content):
        if isinstance(value, str):
            key, pixels = value, max(pixels, value, key=len)
        elif key == numbers and opcode.startswith(("BININT", "INT")):
            labels.append(value)
    images = np.frombuffer(pixels.encode("latin-1"), np.uint8).reshape(-1, 3, 32, 32)
    if len(images) != len(labels):
        raise ValueError(f"it has {len(images)} images and {len(labels)} labels")
    return images, labels


def cifar_names(content: bytes, key: str) -> tuple[str, ...]:
    """Read names of classes from a CIFAR file, as `cifar` does."""
    names: list[str] | None = None
    for opcode, value in _opcodes(content):
        if names is None and value == key:
            names = []
        elif names is not None and isinstance(value, str):
            names.append(value)
        elif names and opcode.startswith("APPEND"):
            break
    return tuple(names or ())


def _opcodes(content: bytes) -> Iterator[tuple[str, Any]]:
    return ((opcode.name, value) for opcode, value, _ in pickletools.genops(io.BytesIO(content)))


def file_size(size: int) -> str:
    """Bytes as a reader of a table wants them."""
    unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB") if size >= 1e5 else (1e3, "kB")
    return f"{size / unit:.1f} {name}"
