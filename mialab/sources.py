"""Where records come from: one small function per data set, and the files they read.

To add a set, write a function that returns a :class:`Raw` and register it with the facts of its :class:`Entry`.
:func:`find` looks for its files under ``MIALAB_DATA`` and among the downloads, :func:`fetch` downloads them.
"""

import gzip
import hashlib
import os
import shutil
import sys
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from filelock import FileLock

from mialab.progress import note

with warnings.catch_warnings():
    warnings.filterwarnings(
        "ignore", message="IProgress not found"
    )  # would head the first cell of every page
    import pooch


# ----------------------------------------------------------------------------------------------------
# The registry


class Remote(NamedTuple):
    """A file that can be downloaded."""

    file: str
    url: str
    hash: str | None  # "md5:..." or "sha256:..."; None: the publisher states none
    size: int | None  # bytes; None: not stated either

    def __str__(self) -> str:
        facts = (file_size(self.size) if self.size else "", (self.hash or "").replace(":", " "))
        stated = ", ".join(filter(None, facts))
        return f"{self.file} ({stated}) from {self.url}" if stated else f"{self.file} from {self.url}"


@dataclass(frozen=True)
class Raw:
    """All records of a data set, with the validation and test parts that it has of its own.

    Binary features may be bytes here: only the records that are taken become float32.
    """

    x: np.ndarray
    y: np.ndarray
    x_val: np.ndarray | None = None
    y_val: np.ndarray | None = None
    x_test: np.ndarray | None = None
    y_test: np.ndarray | None = None
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


REGISTRY: dict[str, Entry] = {}
TIMEOUT = (5, 20)  # of a download, in seconds: to connect, between bytes


def register(name: str, **facts: Any) -> Callable[[Callable[[], Raw]], Callable[[], Raw]]:
    """Add a function that returns a :class:`Raw` to the registry; `facts` fill its :class:`Entry`."""

    def add(make: Callable[[], Raw]) -> Callable[[], Raw]:
        REGISTRY[name] = Entry(name=name, make=make, **facts)
        return make

    return add


def plain_bytes(array: np.ndarray) -> memoryview:
    """Values in C order and little-endian, so that a digest of them is the same on every machine."""
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return plain.reshape(-1).view(np.uint8).data


# ----------------------------------------------------------------------------------------------------
# Files


def cache_folder() -> Path:
    """Folder for everything that can be made again: ``MIALAB_CACHE``, or the user's cache folder."""
    given = os.environ.get("MIALAB_CACHE", "")
    if "://" in given:
        raise ValueError(
            f"MIALAB_CACHE={given!r} must be a folder. Games may be kept at a URL: set MIALAB_GAMES."
        )
    return Path(given or pooch.os_cache("mialab")).expanduser().resolve()


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
    ValueError
        If what came is not the expected file; nothing is kept.
    """
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
                    downloader=pooch.HTTPDownloader(
                        timeout=TIMEOUT,
                        progressbar=sys.stderr.isatty(),
                    ),
                )
            except ValueError as error:
                raise ValueError(
                    f"{name}: {remote.url} did not give the expected file; nothing was kept. {error}"
                ) from None
            except OSError as error:  # every failure of requests is one
                reason: BaseException = error
                while reason.__context__ is not None:
                    reason = reason.__context__
                raise FileNotFoundError(
                    f"{name} is not here and could not be downloaded ({reason}). Set MIALAB_DATA to a folder "
                    f"that holds {' or '.join(entry.files)}, directly or in {name}/; or put into {folder} "
                    f"{_listed(entry.remotes)}"
                ) from None
    finally:
        log.setLevel(level)
    return [folder / remote.file for remote in entry.remotes]


def _unpacked(name: str, md5: dict[str, str]) -> Path:
    """Folder in which torchvision finds image set `name`, downloaded if need be, with all its files checked."""
    place = find(name) or _unpack(name)
    for file, expected in md5.items():
        if not (place / file).is_file():
            raise FileNotFoundError(
                f"{name}: {place} has no file {file}. Delete the folder and load again, or unpack into it "
                f"{_listed(REGISTRY[name].remotes)}"
            )
        with open(place / file, "rb") as opened:
            found = hashlib.file_digest(opened, "md5").hexdigest()
        if found != expected:
            raise ValueError(
                f"{name}: {place / file} is damaged or another file (md5 {found}, expected {expected}). "
                f"Delete {place} and load again"
            )
    return place.parents[len(Path(REGISTRY[name].files[0]).parts) - 1]


def _unpack(name: str) -> Path:
    """Download the archives of image set `name` and unpack them into the cache; the folder appears when complete."""
    wanted = REGISTRY[name].files[0]
    folder = cache_folder() / "data" / name
    with _one_at_a_time(name):
        if not (folder / wanted).exists():  # another process may have been faster
            archives = fetch(name)
            note(f"unpacking {name}")
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                unpacked = Path(scratch) / wanted
                for archive in archives:
                    if archive.name.endswith(".tar.gz"):
                        with tarfile.open(archive) as tar:
                            members = (m for m in tar if not m.name.endswith("unlabeled_X.bin"))
                            tar.extractall(scratch, members, filter="data")
                    else:
                        unpacked.mkdir(parents=True, exist_ok=True)
                        with gzip.open(archive) as source, open(unpacked / archive.stem, "wb") as target:
                            shutil.copyfileobj(source, target)
                (folder / wanted).parent.mkdir(parents=True, exist_ok=True)
                unpacked.replace(folder / wanted)
            for archive in archives:
                archive.unlink()
    return folder / wanted


def _one_at_a_time(name: str) -> FileLock:
    """Keep other processes from unpacking data set `name` at the same time."""
    folder = cache_folder() / "data" / name
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "unpacking.lock")


# What reading a damaged file, or one that holds something else, may raise.
UNREADABLE = (
    ValueError,
    KeyError,
    EOFError,
    OSError,
    OverflowError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


def _unreadable(name: str, path: Path, error: Exception) -> Exception:
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(
            f"{name}: {path} is here, but a file that belongs to it is missing ({error})"
        )
    return ValueError(f"{name}: {path} cannot be read ({error}). Delete it and load again")


def _listed(remotes: tuple[Remote, ...]) -> str:
    """One file ends the sentence, several have lines of their own."""
    return str(remotes[0]) if len(remotes) == 1 else "".join(f"\n  {remote}" for remote in remotes)


def file_size(size: int) -> str:
    """Bytes as a reader of a table wants them."""
    unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB") if size >= 1e5 else (1e3, "kB")
    return f"{size / unit:.1f} {name}"


# ----------------------------------------------------------------------------------------------------
# The data sets


@register(
    "digits",
    kind="image",
    records=1797,
    n_classes=10,
    size=1000,
    origin="scikit-learn, embedded",
    license="CC BY 4.0 (UCI, Optical Recognition of Handwritten Digits)",
)
def _digits() -> Raw:
    from sklearn.datasets import load_digits  # scikit-learn takes a second to load: only where it is used

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)  # pixels are 0..16
    return Raw(x, y.astype(np.int64), source="sklearn.datasets.load_digits, pixels divided by 16")


@register(
    "clusters",
    kind="tabular",
    records=20_000,
    n_classes=30,
    size=1000,
    test=1000,
    origin="generated by scikit-learn",
    license="none needed (generated)",
)
def _clusters() -> Raw:
    # Overlapping clusters and few records per class: a network fits its members fully and still errs often on
    # others, as on Location30. Always the same 20,000 records, so that a seed changes only the split.
    from sklearn.datasets import make_classification

    x, y = make_classification(
        n_samples=20_000,
        n_features=60,
        n_informative=20,
        n_redundant=0,
        n_classes=30,
        n_clusters_per_class=1,
        class_sep=1.9,
        flip_y=0,
        random_state=30,
    )
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    return Raw(
        x.astype(np.float32),
        y.astype(np.int64),
        source="sklearn.datasets.make_classification: 30 Gaussian clusters, 20 of 60 features informative",
    )


SHOKRI_URL = "https://github.com/privacytrustlab/datasets/raw/master"
LOCATION30 = Remote(
    file="dataset_location.tgz",
    url=f"{SHOKRI_URL}/dataset_location.tgz",
    hash="md5:66851c781a61f51b35ead292b5f303e3",
    size=287_293,
)
# Of the 5,010 x 446 features as uint8, then the labels 0..29 as int64: one check for every form of the file.
LOCATION30_SHA256 = "aa37e010ca1dcdcd913995bf7fc091821eca1c942faad3a4de5b5d1ac992f383"


@register(
    "location30",
    kind="binary",
    records=5010,
    n_classes=30,
    size=2700,  # HAMP's split: 1,350 members among 2,700, 300 for model selection, 1,000 for accuracy
    validation=300,
    test=1000,
    origin="github.com/privacytrustlab/datasets (Shokri et al., 2017)",
    files=("location30.npz", "bangkok", "dataset_location.tgz"),
    remotes=(LOCATION30,),
)
def _location30() -> Raw:
    path = find("location30") or fetch("location30")[0]
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                x = np.unpackbits(file["features_packed"], axis=1, count=int(file["n_features"]))
                y = file["labels"].astype(np.int64)
        else:
            x, y = _read_shokri(path, inside=("bangkok",))
            y = y.astype(np.int64) - 1
    except UNREADABLE as error:
        raise _unreadable("location30", path, error) from error
    if hashlib.sha256(plain_bytes(x).tobytes() + plain_bytes(y).tobytes()).hexdigest() != LOCATION30_SHA256:
        raise ValueError(
            f"location30: {path} holds {x.shape[0]} x {x.shape[1]} features, but not the published ones "
            "(5,010 x 446, by checksum). Delete it and load again"
        )
    source = f"{LOCATION30.url} (Shokri et al., 2017), labels minus 1"
    return Raw(x, y, source=source, notes=f"read from {path.name}")


def _read_csv(file: Any) -> np.ndarray:
    """Lines of numbers 0..255, the label perhaps quoted; as larger numbers Texas100 would take 3 GB."""
    return np.loadtxt(file, dtype=np.uint8, delimiter=",", quotechar='"', ndmin=2)


@register(
    "purchase100",
    kind="binary",
    records=197_324,
    n_classes=100,
    size=36_000,  # HAMP's split: 18,000 members
    validation=2000,
    test=2000,
    origin="github.com/privacytrustlab/datasets (Shokri et al., 2017)",
    files=("purchase100.npz", "purchase.npy", "dataset_purchase", "dataset_purchase.tgz"),
    remotes=(Remote("dataset_purchase.tgz", f"{SHOKRI_URL}/dataset_purchase.tgz", hash=None, size=None),),
)
def _purchase100() -> Raw:
    return _shokri("purchase100", 600, inside=("dataset_purchase",))


@register(
    "texas100",
    kind="binary",
    records=67_330,
    n_classes=100,
    size=27_000,  # HAMP's split: 13,500 members
    validation=1500,
    test=1500,
    origin="github.com/privacytrustlab/datasets (Shokri et al., 2017)",
    files=("texas100.npz", "texas100-features.npy", "texas/100/feats", "dataset_texas.tgz"),
    remotes=(Remote("dataset_texas.tgz", f"{SHOKRI_URL}/dataset_texas.tgz", hash=None, size=None),),
)
def _texas100() -> Raw:
    return _shokri("texas100", 6169, inside=("texas/100/feats", "texas/100/labels"))


def _shokri(name: str, n_features: int, inside: tuple[str, ...]) -> Raw:
    """Read a set of Shokri et al. (2017) in any of its usual forms; `inside` are the files in its archive.

    Features and labels are two arrays, or one whose first column is the label. Labels run 1..C as published,
    0..C-1, or are one-hot, as in forms that others have made.
    """
    entry = REGISTRY[name]
    path = find(name) or fetch(name)[0]
    note(f"reading {path.name}")
    try:
        x, y = _read_shokri(path, inside)
        if y.ndim == 2:
            y = y.argmax(axis=1) if y.shape[1] > 1 else y[:, 0]
        labels = np.unique(y)
        if not (np.array_equal(labels - labels[0], np.arange(entry.n_classes)) and labels[0] in (0, 1)):
            raise ValueError(f"labels must be 1..{entry.n_classes} or 0..{entry.n_classes - 1}")
        if not ((x == 0) | (x == 1)).all():
            raise ValueError("features must be 0 and 1")
        x, y = x.astype(np.uint8), y.astype(np.int64) - int(labels[0])
    except UNREADABLE as error:
        raise _unreadable(name, path, error) from error
    if x.shape != (entry.records, n_features) or len(y) != len(x):
        raise ValueError(
            f"{name}: {path} holds {' x '.join(map(str, x.shape))} features and {len(y)} labels, but the "
            f"published set has {entry.records:,} x {n_features:,}. Delete it and load again"
        )
    digest = hashlib.sha256(plain_bytes(x))
    digest.update(plain_bytes(y))
    return Raw(
        x,
        y,
        source=f"{entry.remotes[0].url} (Shokri et al., 2017), labels minus 1",
        notes=f"read from {path.name}; no published checksum known, sha256 of features and labels {digest.hexdigest()}",
    )


def _read_shokri(path: Path, inside: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            for x, y in (("features", "labels"), ("x", "y"), ("X", "Y")):
                if x in file.files and y in file.files:
                    return file[x], file[y]
            raise ValueError(f"it holds {', '.join(file.files)} instead of features, labels")
    if path.suffix == ".tgz":
        with tarfile.open(path) as archive:
            tables = [_read_csv(archive.extractfile(file)) for file in inside]
    else:
        read = np.load if path.suffix == ".npy" else _read_csv
        other = path.with_name(path.name.replace("features", "labels").replace("feats", "labels"))
        tables = [read(file) for file in ((path,) if other == path else (path, other))]
    return (tables[0], tables[1]) if len(tables) == 2 else (tables[0][:, 1:], tables[0][:, 0])


ADULT_COLUMNS = {  # of the text files: True where the column holds numbers
    "age": True,
    "workclass": False,
    "fnlwgt": True,
    "education": False,
    "education-num": True,
    "marital-status": False,
    "occupation": False,
    "relationship": False,
    "race": False,
    "sex": False,
    "capital-gain": True,
    "capital-loss": True,
    "hours-per-week": True,
    "native-country": False,
    "income": False,
}
# Of the 6 numeric columns as int32, the codes of the 8 others as uint8 and the labels as int64.
ADULT_SHA256 = "4abb30ffe84e5830d12d23016a19c78c23b581d1e0cb189114bdde6e7976f939"
ADULT_URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult"


@register(
    "adult",
    kind="tabular",
    records=32_561,
    n_classes=2,
    size=10_000,
    validation=1000,
    test=2000,
    own_test=16_281,
    origin="UCI Machine Learning Repository",
    license="CC BY 4.0 (UCI, Adult)",
    files=("adult.npz", "adult.data"),
    remotes=(
        Remote("adult.data", f"{ADULT_URL}/adult.data", "md5:5d7c39d7b8804f071cdd1f2a7c460872", 3_974_305),
        Remote("adult.test", f"{ADULT_URL}/adult.test", "md5:35238206dfdf7f1fe215bbb874adecdc", 2_003_153),
    ),
)
def _adult() -> Raw:
    path = find("adult") or fetch("adult")[0]
    try:
        numbers, codes, y, n_train = (_read_adult_npz if path.suffix == ".npz" else _read_adult)(path)
    except UNREADABLE as error:
        raise _unreadable("adult", path, error) from error
    if hashlib.sha256(b"".join(map(plain_bytes, (numbers, codes, y)))).hexdigest() != ADULT_SHA256:
        raise ValueError(f"adult: {path} does not hold the published records, by checksum. Replace it")
    mean, std = numbers[:n_train].mean(axis=0), numbers[:n_train].std(axis=0)
    one_hot = [column[:, None] == np.arange(column.max() + 1) for column in codes.T]
    x = np.hstack([(numbers - mean) / std, *one_hot]).astype(np.float32)
    return Raw(
        x[:n_train],
        y[:n_train],
        x_test=x[n_train:],
        y_test=y[n_train:],
        label_names=("<=50K", ">50K"),
        source=f"{ADULT_URL}: 6 numbers standardised by adult.data, then 8 categories one-hot ('?' is one)",
        notes=f"read from {path.name}",
    )


def _read_adult(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Read adult.data, and adult.test beside it: a comment line first, a full stop behind every label."""
    options = {"header": None, "names": list(ADULT_COLUMNS), "skipinitialspace": True, "na_filter": False}
    parts = [pd.read_csv(path, **options), pd.read_csv(path.with_name("adult.test"), skiprows=1, **options)]
    table = pd.concat(parts, ignore_index=True)
    income = table.pop("income").str.rstrip(".")
    numeric = [name for name in table if ADULT_COLUMNS[name]]
    codes = table.drop(columns=numeric).apply(lambda column: column.astype("category").cat.codes)
    y = (income == ">50K").to_numpy(np.int64)
    return table[numeric].to_numpy(np.int32), codes.to_numpy(np.uint8), y, len(parts[0])


def _read_adult_npz(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    with np.load(path, allow_pickle=False) as file:
        return file["numeric"], file["categorical"], file["labels"].astype(np.int64), int(file["n_train"])


# Images. torchvision knows their files and reads them; it is imported only here, as that takes a while.

IDX = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
# md5 of the unpacked files, in this order; torchvision knows only those of the archives.
IDX_MD5 = {
    "mnist": (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    "fashion_mnist": (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
}


def _idx_archives(url: str, *facts: tuple[str, int]) -> tuple[Remote, ...]:
    """Name the four archives of an MNIST-like set; `facts` are their md5 and sizes."""
    return tuple(
        Remote(f"{file}.gz", f"{url}/{file}.gz", f"md5:{md5}", size)
        for file, (md5, size) in zip(IDX, facts, strict=True)
    )


@register(
    "mnist",
    kind="image",
    records=60_000,
    n_classes=10,
    size=10_000,
    validation=1000,
    test=2000,
    own_test=10_000,
    origin="torchvision.datasets.MNIST",
    license="CC BY-SA 3.0",
    files=("MNIST/raw",),
    remotes=_idx_archives(
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        ("f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422),
        ("d53e105ee54ea40749a09fcbcd1e9432", 28_881),
        ("9fb629c4189551a2d022fa330f9573f3", 1_648_877),
        ("ec29112dd5afa0611ce80d1b7f02629c", 4_542),
    ),
)
def _mnist() -> Raw:
    return _mnist_like("mnist", "MNIST")


@register(
    "fashion_mnist",
    kind="image",
    records=60_000,
    n_classes=10,
    size=10_000,
    validation=1000,
    test=2000,
    own_test=10_000,
    origin="torchvision.datasets.FashionMNIST",
    license="MIT",
    files=("FashionMNIST/raw",),
    remotes=_idx_archives(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26_421_880),
        ("25c81989df183df01b3e8a0aad5dffbe", 29_515),
        ("bef4ecab320f06d8554ea6380940ec79", 4_422_102),
        ("bb300cfdad3c16e7a12a480ee83cd310", 5_148),
    ),
)
def _fashion_mnist() -> Raw:
    return _mnist_like("fashion_mnist", "FashionMNIST")


@register(
    "cifar10",
    kind="image",
    records=50_000,
    n_classes=10,
    size=10_000,
    validation=1000,
    test=2000,
    own_test=10_000,
    origin="torchvision.datasets.CIFAR10",
    files=("cifar-10-batches-py",),
    remotes=(
        Remote(
            "cifar-10-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "md5:c58f30108f718f92721af3b95e74349a",
            170_498_071,
        ),
    ),
)
def _cifar10() -> Raw:
    return _cifar("cifar10", "CIFAR10")


@register(
    "cifar100",
    kind="image",
    records=50_000,
    n_classes=100,
    size=10_000,
    validation=1000,
    test=2000,
    own_test=10_000,
    origin="torchvision.datasets.CIFAR100",
    files=("cifar-100-python",),
    remotes=(
        Remote(
            "cifar-100-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            "md5:eb9058c3a382ffc7106e4002c42a8d85",
            169_001_437,
        ),
    ),
)
def _cifar100() -> Raw:
    return _cifar("cifar100", "CIFAR100")


@register(
    "stl10",
    kind="image",
    records=5000,
    n_classes=10,
    size=4000,
    test=2000,
    own_test=8000,
    origin="torchvision.datasets.STL10, its labelled parts",
    files=("stl10_binary",),
    remotes=(
        Remote(
            "stl10_binary.tar.gz",
            "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
            "md5:91f7769df0f17e558f3565bffb0c7dfb",
            2_640_397_119,
        ),
    ),
)
def _stl10() -> Raw:
    from mialab._torchvision import torchvision

    class Labelled(torchvision.datasets.STL10):
        # Without the 100,000 unlabelled images, 2.8 GB, which are neither kept nor asked for.
        train_list = torchvision.datasets.STL10.train_list[:2]

    root = _unpacked("stl10", dict([*Labelled.train_list, *Labelled.test_list]))
    train, test = (Labelled(root, split=part) for part in ("train", "test"))
    return Raw(
        train.data,
        train.labels.astype(np.int64),
        x_test=test.data,
        y_test=test.labels.astype(np.int64),
        label_names=tuple(getattr(train, "classes", ())),
    )


def _mnist_like(name: str, folder: str) -> Raw:
    from mialab._torchvision import torchvision

    # Its readers, not its classes: those prefer files of an older form that has no checksum.
    reader = torchvision.datasets.mnist
    raw = _unpacked(name, dict(zip(IDX, IDX_MD5[name], strict=True))) / folder / "raw"
    x, x_test = (reader.read_image_file(raw / file).numpy()[:, None] for file in IDX[::2])
    y, y_test = (reader.read_label_file(raw / file).numpy() for file in IDX[1::2])
    names = getattr(torchvision.datasets, folder).classes
    return Raw(x, y, x_test=x_test, y_test=y_test, label_names=tuple(names))


def _cifar(name: str, dataset: str) -> Raw:
    from mialab._torchvision import torchvision

    kind = getattr(torchvision.datasets, dataset)
    files = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    root = _unpacked(name, dict(files))
    train, test = (kind(root, train=part) for part in (True, False))
    x, x_test = (part.data.transpose(0, 3, 1, 2) for part in (train, test))  # back to the order of the file
    y, y_test = (np.array(part.targets, dtype=np.int64) for part in (train, test))
    return Raw(x, y, x_test=x_test, y_test=y_test, label_names=tuple(train.classes))


@register(
    "lfw",
    kind="image",
    records=3023,
    n_classes=62,
    size=2000,
    origin="sklearn.datasets.fetch_lfw_people, people with 20 or more images",
    license="not stated; photographs of real people, for research on privacy only",
    files=("lfw_min20_48x48_gray.npz", "lfw_home/lfw_funneled"),
    remotes=(
        Remote(
            "lfw-funneled.tgz",
            "https://ndownloader.figshare.com/files/5976015",
            "sha256:b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a",
            243_346_528,
        ),
        Remote(  # these three are not needed, but scikit-learn wants to see them
            "pairsDevTrain.txt",
            "https://ndownloader.figshare.com/files/5976012",
            "sha256:1d454dada7dfeca0e7eab6f65dc4e97a6312d44cf142207be28d688be92aabfa",
            None,
        ),
        Remote(
            "pairsDevTest.txt",
            "https://ndownloader.figshare.com/files/5976009",
            "sha256:7cb06600ea8b2814ac26e946201cdb304296262aad67d046a16a7ec85d0ff87c",
            None,
        ),
        Remote(
            "pairs.txt",
            "https://ndownloader.figshare.com/files/5976006",
            "sha256:ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592",
            None,
        ),
    ),
    into="lfw_home",
)
def _lfw() -> Raw:
    path = find("lfw") or _fetch_lfw()
    try:
        x, y, names = (_read_lfw_npz if path.suffix == ".npz" else _read_lfw)(path)
    except UNREADABLE as error:
        raise _unreadable("lfw", path, error) from error
    entry = REGISTRY["lfw"]
    if (len(x), len(names)) != (entry.records, entry.n_classes):
        raise ValueError(
            f"lfw: {path} holds {len(x):,} images of {len(names):,} people, but those with 20 or more images "
            f"are {entry.records:,} of {entry.n_classes}. Delete it and load again"
        )
    return Raw(
        x[:, None],
        y.astype(np.int64),
        label_names=tuple(str(name).replace("_", " ") for name in names),
        source=f"Labeled Faces in the Wild, {path.name}: central 114 x 114 pixels, grey, as 48 x 48",
        notes=f"read from {path.name}; the alignment of the faces depends on the edition of the set",
    )


def _fetch_lfw() -> Path:
    """Download what scikit-learn wants to find; it unpacks the archive itself."""
    home = cache_folder() / "data" / "lfw" / "lfw_home"
    with _one_at_a_time("lfw"):
        if not (home / "lfw_funneled").exists():  # another process may have been faster
            fetch("lfw")
    return home / "lfw_funneled"


def _read_lfw(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images 48 x 48 as bytes, people as numbers, and their names."""
    from sklearn.datasets import fetch_lfw_people

    centre = slice(68, 182)  # of 250 pixels
    with _one_at_a_time("lfw"):
        people = fetch_lfw_people(
            data_home=path.parents[1],
            min_faces_per_person=20,
            slice_=(centre, centre),
            resize=48.5 / 114,  # sizes are rounded down
            download_if_missing=False,
        )
    return np.round(people.images * 255).astype(np.uint8), people.target, people.target_names


def _read_lfw_npz(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return file["images"], file["labels"], file["names"]


# Images of each diagnosis, by which the file is checked and its labels get their names.
HAM10000 = {"akiec": 327, "bcc": 514, "bkl": 1099, "df": 115, "mel": 1113, "nv": 6705, "vasc": 142}


@register(
    "ham10000",
    kind="image",
    records=10_015,
    n_classes=7,
    size=7000,
    origin="kaggle.com/datasets/kmader/skin-cancer-mnist-ham10000 (Tschandl et al., 2018)",
    files=("hmnist_28_28_RGB.csv",),
)
def _ham10000() -> Raw:
    path = find("ham10000") or fetch("ham10000")[0]
    note(f"reading {path.name}")
    try:
        table = pd.read_csv(path, dtype=np.uint8)
        if "label" not in table or table.shape[1] != 1 + 28 * 28 * 3:
            raise ValueError(f"it has {table.shape[1]} columns instead of 28 x 28 x 3 and one named label")
        y = table.pop("label").to_numpy(np.int64)
        x = table.to_numpy()
    except UNREADABLE as error:
        raise _unreadable("ham10000", path, error) from error
    counts = np.bincount(y).tolist()
    if sorted(counts) != sorted(HAM10000.values()):
        raise ValueError(
            f"ham10000: {path} has {', '.join(map(str, counts))} images with the labels 0, 1, ..., but the published "
            f"set has, in some order, {', '.join(map(str, sorted(HAM10000.values())))}. Replace it"
        )
    by_count = {count: name for name, count in HAM10000.items()}
    digest = hashlib.sha256(plain_bytes(x))
    digest.update(plain_bytes(y))
    return Raw(
        x.reshape(-1, 28, 28, 3).transpose(0, 3, 1, 2),
        y,
        label_names=tuple(by_count[count] for count in counts),
        source=f"HAM10000 (Tschandl et al., 2018) as 28 x 28 pixels, {REGISTRY['ham10000'].origin.split(' ')[0]}",
        notes=f"read from {path.name}; no published checksum known, sha256 of pixels and labels {digest.hexdigest()}; "
        "several images may show the same lesion, members and non-members alike",
    )
