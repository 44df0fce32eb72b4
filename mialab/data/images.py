"""Data sets of images: what each is, and how its files are read."""

from pathlib import Path

import numpy as np
import pandas as pd

from mialab._paths import cache_folder
from mialab._progress import note
from mialab.data.registry import (
    REGISTRY,
    Raw,
    _one_at_a_time,
    _unpacked,
    checksum,
    fetch,
    find,
    reading,
    reads,
)


@reads("digits")
def _digits(_name: str) -> Raw:
    from sklearn.datasets import load_digits  # scikit-learn takes a second to load: only where it is used

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)  # pixels are 0..16
    return Raw(x, y.astype(np.int64), source="sklearn.datasets.load_digits, pixels divided by 16")


@reads("mnist", "fashion_mnist")
def _mnist_like(name: str) -> Raw:
    from mialab._torchvision import torchvision

    # Its readers, not its classes: those prefer files of an older form that has no checksum.
    reader, folder = torchvision.datasets.mnist, REGISTRY[name].files[0]
    # torchvision knows the checksums of the archives alone.
    md5 = {remote.file.removesuffix(".gz"): remote.unpacked for remote in REGISTRY[name].remotes}
    files = [_unpacked(name, md5) / folder / file for file in md5]
    x, x_test = (reader.read_image_file(file).numpy()[:, None] for file in files[::2])
    y, y_test = (reader.read_label_file(file).numpy() for file in files[1::2])
    names = getattr(torchvision.datasets, Path(folder).parts[0]).classes
    return Raw(x, y, x_test=x_test, y_test=y_test, label_names=tuple(names))


@reads("cifar10", "cifar100")
def _cifar(name: str) -> Raw:
    from mialab._torchvision import torchvision

    kind = getattr(torchvision.datasets, name.upper())
    files = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    root = _unpacked(name, dict(files))
    train, test = (kind(root, train=part) for part in (True, False))
    x, x_test = (part.data.transpose(0, 3, 1, 2) for part in (train, test))  # back to the order of the file
    y, y_test = (np.array(part.targets, dtype=np.int64) for part in (train, test))
    return Raw(x, y, x_test=x_test, y_test=y_test, label_names=tuple(train.classes))


@reads("stl10")
def _stl10(name: str) -> Raw:
    from mialab._torchvision import torchvision

    class Labeled(torchvision.datasets.STL10):  # type: ignore[misc]  # torchvision comes without types
        # Without the 100,000 unlabeled images, 2.8 GB, which are neither kept nor asked for.
        train_list = torchvision.datasets.STL10.train_list[:2]

    root = _unpacked(name, dict([*Labeled.train_list, *Labeled.test_list]))
    train, test = (Labeled(root, split=part) for part in ("train", "test"))
    return Raw(
        train.data,
        train.labels.astype(np.int64),
        x_test=test.data,
        y_test=test.labels.astype(np.int64),
        label_names=tuple(getattr(train, "classes", ())),
    )


@reads("lfw")
def _lfw(name: str) -> Raw:
    entry = REGISTRY[name]
    with reading(name, find(name) or _fetch_lfw()) as path:
        x, y, people = (_read_lfw_npz if path.suffix == ".npz" else _read_lfw)(path)
    if (len(x), len(people)) != (entry.records, entry.n_classes):
        raise ValueError(
            f"lfw: {path} holds {len(x):,} images of {len(people):,} people, but those with 20 or more images "
            f"are {entry.records:,} of {entry.n_classes}. Delete it and load again"
        )
    return Raw(
        x[:, None],
        y.astype(np.int64),
        label_names=tuple(str(person).replace("_", " ") for person in people),
        source=f"Labeled Faces in the Wild, {path.name}: central 114 x 114 pixels, gray, as 48 x 48",
        notes=f"read from {path.name}; the alignment of the faces depends on the edition of the set",
    )


def _fetch_lfw() -> Path:
    """Download what scikit-learn wants to find, lists of pairs too, which are not needed; it unpacks the archive."""
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


@reads("ham10000")
def _ham10000(name: str) -> Raw:
    with reading(name) as path:
        note(f"reading {path.name}")
        table = pd.read_csv(path, dtype=np.uint8)
        if "label" not in table or table.shape[1] != 1 + 28 * 28 * 3:
            raise ValueError(f"it has {table.shape[1]} columns instead of 28 x 28 x 3 and one named label")
        y = table.pop("label").to_numpy(np.int64)
        x = table.to_numpy()
    counts = np.bincount(y).tolist()
    if sorted(counts) != sorted(HAM10000.values()):
        raise ValueError(
            f"ham10000: {path} has {', '.join(map(str, counts))} images with the labels 0, 1, ..., but the published "
            f"set has, in some order, {', '.join(map(str, sorted(HAM10000.values())))}. Replace it"
        )
    by_count = {count: diagnosis for diagnosis, count in HAM10000.items()}
    return Raw(
        x.reshape(-1, 28, 28, 3).transpose(0, 3, 1, 2),
        y,
        label_names=tuple(by_count[count] for count in counts),
        source=f"HAM10000 (Tschandl et al., 2018) as 28 x 28 pixels, {REGISTRY[name].origin.split(' ')[0]}",
        notes=f"read from {path.name}; no published checksum known, sha256 of pixels and labels {checksum(x, y)}; "
        "several images may show the same lesion, members and non-members alike",
    )
