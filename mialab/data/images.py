"""Data sets of images: what each is, and how its files are read."""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from mialab._paths import cache_folder
from mialab._progress import note
from mialab.data.registry import (
    REGISTRY,
    UNREADABLE,
    Raw,
    Remote,
    _one_at_a_time,
    _unpacked,
    _unreadable,
    fetch,
    find,
    plain_bytes,
    register,
)


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


# How sets with a large test part of their own are cut.
LARGE = {"kind": "image", "size": 10_000, "validation": 1000, "test": 2000, "own_test": 10_000}


def _mnist_like(name: str, folder: str) -> Raw:
    from mialab._torchvision import torchvision

    # Its readers, not its classes: those prefer files of an older form that has no checksum.
    reader = torchvision.datasets.mnist
    raw = _unpacked(name, dict(zip(IDX, IDX_MD5[name], strict=True))) / folder / "raw"
    x, x_test = (reader.read_image_file(raw / file).numpy()[:, None] for file in IDX[::2])
    y, y_test = (reader.read_label_file(raw / file).numpy() for file in IDX[1::2])
    names = getattr(torchvision.datasets, folder).classes
    return Raw(x, y, x_test=x_test, y_test=y_test, label_names=tuple(names))


for _name, _folder, _license, _url, _archives in (
    (
        *("mnist", "MNIST", "CC BY-SA 3.0", "https://ossci-datasets.s3.amazonaws.com/mnist"),
        (
            ("f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422),
            ("d53e105ee54ea40749a09fcbcd1e9432", 28_881),
            ("9fb629c4189551a2d022fa330f9573f3", 1_648_877),
            ("ec29112dd5afa0611ce80d1b7f02629c", 4_542),
        ),
    ),
    (
        *(
            "fashion_mnist",
            "FashionMNIST",
            "MIT",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        ),
        (
            ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26_421_880),
            ("25c81989df183df01b3e8a0aad5dffbe", 29_515),
            ("bef4ecab320f06d8554ea6380940ec79", 4_422_102),
            ("bb300cfdad3c16e7a12a480ee83cd310", 5_148),
        ),
    ),
):
    register(
        _name,
        **LARGE,
        records=60_000,
        n_classes=10,
        origin=f"torchvision.datasets.{_folder}",
        license=_license,
        files=(f"{_folder}/raw",),
        remotes=tuple(
            Remote(f"{file}.gz", f"{_url}/{file}.gz", f"md5:{md5}", size)
            for file, (md5, size) in zip(IDX, _archives, strict=True)
        ),
    )(partial(_mnist_like, _name, _folder))


def _cifar(name: str, dataset: str) -> Raw:
    from mialab._torchvision import torchvision

    kind = getattr(torchvision.datasets, dataset)
    files = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    root = _unpacked(name, dict(files))
    train, test = (kind(root, train=part) for part in (True, False))
    x, x_test = (part.data.transpose(0, 3, 1, 2) for part in (train, test))  # back to the order of the file
    y, y_test = (np.array(part.targets, dtype=np.int64) for part in (train, test))
    return Raw(x, y, x_test=x_test, y_test=y_test, label_names=tuple(train.classes))


for _n, _md5, _size in (
    (10, "c58f30108f718f92721af3b95e74349a", 170_498_071),
    (100, "eb9058c3a382ffc7106e4002c42a8d85", 169_001_437),
):
    _file = f"cifar-{_n}-python.tar.gz"
    register(
        f"cifar{_n}",
        **LARGE,
        records=50_000,
        n_classes=_n,
        origin=f"torchvision.datasets.CIFAR{_n}",
        files=(f"cifar-{_n}-batches-py" if _n == 10 else f"cifar-{_n}-python",),
        remotes=(Remote(_file, f"https://www.cs.toronto.edu/~kriz/{_file}", f"md5:{_md5}", _size),),
    )(partial(_cifar, f"cifar{_n}", f"CIFAR{_n}"))


@register(
    "stl10",
    kind="image",
    records=5000,
    n_classes=10,
    size=4000,
    test=2000,
    own_test=8000,
    origin="torchvision.datasets.STL10, its labeled parts",
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

    class Labeled(torchvision.datasets.STL10):  # type: ignore[misc]  # torchvision comes without types
        # Without the 100,000 unlabeled images, 2.8 GB, which are neither kept nor asked for.
        train_list = torchvision.datasets.STL10.train_list[:2]

    root = _unpacked("stl10", dict([*Labeled.train_list, *Labeled.test_list]))
    train, test = (Labeled(root, split=part) for part in ("train", "test"))
    return Raw(
        train.data,
        train.labels.astype(np.int64),
        x_test=test.data,
        y_test=test.labels.astype(np.int64),
        label_names=tuple(getattr(train, "classes", ())),
    )


# The archive comes first; the lists of pairs are not needed, but scikit-learn wants to see them.
LFW_SHA256 = (
    "b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a",
    "1d454dada7dfeca0e7eab6f65dc4e97a6312d44cf142207be28d688be92aabfa",
    "7cb06600ea8b2814ac26e946201cdb304296262aad67d046a16a7ec85d0ff87c",
    "ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592",
)


@register(
    "lfw",
    kind="image",
    records=3023,
    n_classes=62,
    size=2000,
    origin="sklearn.datasets.fetch_lfw_people, people with 20 or more images",
    license="not stated; photographs of real people, for research on privacy only",
    files=("lfw_min20_48x48_gray.npz", "lfw_home/lfw_funneled"),
    remotes=tuple(
        Remote(file, f"https://ndownloader.figshare.com/files/{number}", f"sha256:{digest}", size)
        for file, number, digest, size in (
            ("lfw-funneled.tgz", 5976015, LFW_SHA256[0], 243_346_528),
            ("pairsDevTrain.txt", 5976012, LFW_SHA256[1], None),
            ("pairsDevTest.txt", 5976009, LFW_SHA256[2], None),
            ("pairs.txt", 5976006, LFW_SHA256[3], None),
        )
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
        source=f"Labeled Faces in the Wild, {path.name}: central 114 x 114 pixels, gray, as 48 x 48",
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

    center = slice(68, 182)  # of 250 pixels
    with _one_at_a_time("lfw"):
        people = fetch_lfw_people(
            data_home=path.parents[1],
            min_faces_per_person=20,
            slice_=(center, center),
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
