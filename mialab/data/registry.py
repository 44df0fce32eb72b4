"""Where records come from: one small function per data set, and the files they read.

To add a set, state the facts of its :class:`Entry` in ``sets.csv``, what can be downloaded in ``remotes.csv``, and mark
a function that returns a :class:`Raw` with :func:`reads`. :func:`find` looks for its files under ``MIALAB_DATA`` and
among the downloads, :func:`fetch` downloads them.
"""

import csv
import hashlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from filelock import FileLock

from mialab._paths import cache_folder
from mialab._progress import note
from mialab.data.reading import MAX_DOWNLOAD, Limited, file_size, read, reason, unpack

with warnings.catch_warnings():
    warnings.filterwarnings(
        "ignore", message="IProgress not found"
    )  # would head the first cell of every page
    import pooch

T = TypeVar("T")


class Remote(NamedTuple):
    """A file that can be downloaded."""

    file: str
    url: str
    hash: str | None = None  # "md5:..." or "sha256:..."; None: the publisher states none
    size: int | None = None  # bytes; None: not stated either
    unpacked: str = ""  # md5 of the one file in an archive, where it is checked

    def __str__(self) -> str:
        facts = (file_size(self.size) if self.size else "", (self.hash or "").replace(":", " "))
        stated = ", ".join(filter(None, facts))
        return f"{self.file} ({stated}) from {self.url}" if stated else f"{self.file} from {self.url}"


@dataclass(frozen=True)
class Raw:
    """All records of a data set, with the validation, test and reference parts that it has of its own.

    Binary features may be bytes here: only the records that are taken become float32.
    """

    x: np.ndarray
    y: np.ndarray
    x_val: np.ndarray | None = None
    y_val: np.ndarray | None = None
    x_test: np.ndarray | None = None
    y_test: np.ndarray | None = None
    x_reference: np.ndarray | None = None
    y_reference: np.ndarray | None = None
    label_names: tuple[str, ...] = ()
    source: str = ""
    notes: str = ""


@dataclass(frozen=True)
class Entry:
    """One data set of the registry: what :func:`datasets` lists, and how :func:`load` cuts it by default."""

    name: str
    make: Callable[[], Raw]
    kind: str
    records: int
    n_classes: int
    origin: str
    size: int | None = None  # None: what validation and test leave
    validation: int | None = None  # None: 10 % of size
    test: int | None = None  # None: all the rest, or all of the set's own test part
    own_test: int = 0  # records in the set's own test part, not counted in `records`
    license: str = "not stated"
    files: tuple[str, ...] = ()  # any of these has the data; none: embedded, or generated
    remotes: tuple[Remote, ...] = ()  # what to download if none of them is here
    into: str = ""  # folder for the downloads, in the set's own cache folder


def _rows(file: str) -> Iterator[dict[str, Any]]:
    """Read a table of this folder; empty cells are left out, and digits alone are numbers."""
    with open(Path(__file__).with_name(file), newline="", encoding="utf-8") as table:
        for row in csv.DictReader(table):
            yield {key: int(cell) if cell.isdigit() else cell for key, cell in row.items() if cell}


REGISTRY: dict[str, Entry] = {}
SETS = {row["name"]: row for row in _rows("sets.csv")}
REMOTES = [(row.pop("name"), Remote(**row)) for row in _rows("remotes.csv")]
TIMEOUT = (5, 20)  # of a download, in seconds: to connect, between bytes


def reads(*names: str) -> Callable[[Callable[[str], Raw]], Callable[[str], Raw]]:
    """Mark a function that reads these data sets, given the name of one (decorator)."""

    def add(read: Callable[[str], Raw]) -> Callable[[str], Raw]:
        for name in names:
            remotes = tuple(remote for owner, remote in REMOTES if owner == name)
            about = SETS[name] | {"files": tuple(SETS[name].get("files", "").split()), "remotes": remotes}
            REGISTRY[name] = Entry(make=partial(read, name), **about)
        return read

    return add


def plain_bytes(array: np.ndarray) -> memoryview:
    """Values in C order and little-endian, so that a digest of them is the same on every machine."""
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return plain.reshape(-1).view(np.uint8).data


def checksum(*arrays: np.ndarray) -> str:
    """Digest of the values of arrays, sha256 (hex)."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(plain_bytes(array))
    return digest.hexdigest()


def _data_folder() -> Path | None:
    given = os.environ.get("MIALAB_DATA")
    if not given:
        return None
    folder = Path(given).expanduser().resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"MIALAB_DATA={given!r} is not a folder: set it to the one with your data")
    return folder


def find(name: str) -> Path | None:
    """First file or folder with data set `name` under MIALAB_DATA or among the downloads, in a folder `name` or not."""
    for folder in (_data_folder(), cache_folder() / "data"):
        for place in (folder / name, folder) if folder else ():
            for file in REGISTRY[name].files:
                if (place / file).exists():
                    return place / file
    return None


def fetch(name: str) -> list[Path]:
    """Download the files of data set `name` into the cache, checked against their hashes where there are any.

    Raises
    ------
    FileNotFoundError
        If one cannot be downloaded. The message says where to put which file.
    OSError
        If it cannot be written.
    ValueError
        If what came is not the expected file, or is larger; nothing is kept.
    """
    import requests  # takes a while to load: only where it is used

    entry = REGISTRY[name]
    folder = cache_folder() / "data" / name / entry.into
    if not entry.remotes:
        raise FileNotFoundError(
            f"{name} is not here and is not downloaded by this package. Get {' or '.join(entry.files)} from "
            f"{entry.origin}; then set MIALAB_DATA to a folder that holds it, directly or in {name}/, or put it into "
            f"{folder}"
        )
    log = pooch.get_logger()
    level = log.level
    log.setLevel("WARNING")  # it names folders of this machine, and would do so on a rendered page
    try:
        for remote in entry.remotes:
            try:
                if not (folder / remote.file).exists():
                    note(f"downloading {remote}")
                pooch.retrieve(
                    remote.url,
                    known_hash=remote.hash,
                    fname=remote.file,
                    path=folder,
                    downloader=partial(_download, limit=remote.size or MAX_DOWNLOAD),
                )
            except requests.RequestException as error:  # an OSError, and some are ValueErrors too
                cause: BaseException = error
                while cause.__context__ is not None:
                    cause = cause.__context__
                raise FileNotFoundError(
                    f"{name} is not here and could not be downloaded ({reason(cause)}). Set MIALAB_DATA to a folder "
                    f"that holds {' or '.join(entry.files)}, directly or in {name}/; or put into {folder} "
                    f"{_listed(entry.remotes)}"
                ) from None
            except ValueError as error:
                raise ValueError(
                    f"{name}: {remote.url} did not give the expected file; nothing was kept. {reason(error)}"
                ) from None
    finally:
        log.setLevel(level)
    return [folder / remote.file for remote in entry.remotes]


def _download(url: str, path: str, _: Any, *, limit: int) -> None:
    """Download into a file, but no more than a number of bytes (a downloader of pooch)."""
    with open(path, "wb") as file:
        once = pooch.HTTPDownloader(timeout=TIMEOUT, progressbar=sys.stderr.isatty())
        once(url, Limited(file, limit), None)


def checked_files(name: str, md5: dict[str, str]) -> list[bytes]:
    """Return the contents of files of image set `name`, downloaded if need be, each with the md5 it must have."""
    place = find(name) or unpacked(name)
    return [_checked(name, place, file, expected) for file, expected in md5.items()]


def _checked(name: str, place: Path, file: str, expected: str) -> bytes:
    try:
        content = read(place / file, Path.read_bytes)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{name}: {place} has no file {file}. Delete the folder and load again, or unpack into it "
            f"{_listed(REGISTRY[name].remotes)}"
        ) from None
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ValueError(
            f"{name}: {place / file} is damaged or another file (md5 {found}, expected {expected}). "
            f"Delete {place} and load again"
        )
    return content


def unpacked(name: str) -> Path:
    """Download the archives of image set `name` and unpack them into the cache; the folder appears when complete."""
    entry = REGISTRY[name]
    wanted = entry.files[-1]  # the folder; others may stand before it
    folder = cache_folder() / "data" / name
    with _one_at_a_time(name):
        if not (folder / wanted).exists():  # another process may have been faster
            archives = fetch(name)
            note(f"unpacking {name}")
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                for archive in archives:
                    inside = entry.into if archive.name.endswith((".tar.gz", ".tgz")) else wanted
                    to = Path(scratch) / inside
                    read(archive, partial(unpack, folder=to, skip="unlabeled_X.bin"))
                (folder / wanted).parent.mkdir(parents=True, exist_ok=True)
                (Path(scratch) / wanted).replace(folder / wanted)
            for archive in archives:
                archive.unlink()
    return folder / wanted


def _one_at_a_time(name: str) -> FileLock:
    """Keep other processes from unpacking data set `name` at the same time."""
    folder = cache_folder() / "data" / name
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "unpacking.lock")


def read_file(name: str, parse: Callable[[Path], T], path: Path | None = None) -> tuple[Path, T]:
    """Find or download the first file of data set `name`, and return where it is and what a function makes of it.

    What was downloaded just now and is not the set is not kept.

    Raises
    ------
    FileNotFoundError, OSError, ValueError
        As of `mialab.data.reading.read`; the message says which file it is, and what to do.
    """
    found = path or find(name)
    path = found or fetch(name)[0]
    try:
        return path, read(path, parse)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{name}: {path} is here, but a file that belongs to it is missing ({error})"
        ) from error
    except ValueError as error:
        if found:
            remedy = "Delete it and load again"
        else:
            path.unlink()
            remedy = "It was downloaded just now, and not kept"
        raise ValueError(f"{name}: {path} cannot be read ({error}). {remedy}") from error


def _listed(remotes: tuple[Remote, ...]) -> str:
    """One file ends the sentence, several have lines of their own."""
    return str(remotes[0]) if len(remotes) == 1 else "".join(f"\n  {remote}" for remote in remotes)
