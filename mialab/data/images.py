"""Data sets of images: what each is, and how its files are read."""

from pathlib import Path

import numpy as np
import pandas as pd

from mialab._progress import note
from mialab._validation import extra
from mialab.data import reading
from mialab.data.registry import REGISTRY, Raw, checked_files, checksum, find, read_file, reads, unpacked


@reads("digits")
def _digits(_name: str) -> Raw:
    from sklearn.datasets import load_digits  # scikit-learn takes a second to load: only where it is used

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)  # pixels are 0..16
    return Raw(x, y.astype(np.int64), source="sklearn.datasets.load_digits, pixels divided by 16")


@reads("mnist", "fashion_mnist")
def _mnist_like(name: str) -> Raw:
    from mialab._torchvision import torchvision

    folder, remotes = REGISTRY[name].files[0], REGISTRY[name].remotes
    # torchvision knows the checksums of the archives alone.
    files = checked_files(name, {r.file.removesuffix(".gz"): r.unpacked for r in remotes})
    arrays = [np.frombuffer(file, np.uint8) for file in files]
    x, x_test = (array[16:].reshape(-1, 1, 28, 28) for array in arrays[::2])
    y, y_test = (array[8:].astype(np.int64) for array in arrays[1::2])
    names = getattr(torchvision.datasets, Path(folder).parts[0]).classes
    return Raw(x, y, x_test=x_test, y_test=y_test, label_names=tuple(names))


@reads("cifar10", "cifar100")
def _cifar(name: str) -> Raw:
    from mialab._torchvision import torchvision

    kind = getattr(torchvision.datasets, name.upper())
    listed = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    *files, about = checked_files(name, dict(listed))
    parts = [reading.cifar(file, "labels" if name == "cifar10" else "fine_labels") for file in files]
    n_train = len(kind.train_list)
    (x, y), (x_test, y_test) = (
        (np.concatenate([images for images, _ in part]), np.concatenate([labels for _, labels in part]))
        for part in (parts[:n_train], parts[n_train:])
    )
    names = reading.cifar_names(about, kind.meta["key"])
    return Raw(x, y, x_test=x_test, y_test=y_test, label_names=names)


@reads("stl10")
def _stl10(name: str) -> Raw:
    from mialab._torchvision import torchvision

    # Without the 100,000 unlabeled images, 2.8 GB, which are neither kept nor asked for.
    listed = [*torchvision.datasets.STL10.train_list[:2], *torchvision.datasets.STL10.test_list]
    arrays = [np.frombuffer(file, np.uint8) for file in checked_files(name, dict(listed))]
    x, x_test = (array.reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2) for array in arrays[::2])
    y, y_test = (array.astype(np.int64) - 1 for array in arrays[1::2])
    return Raw(x, y, x_test=x_test, y_test=y_test, label_names=STL10)


#: Classes in the order of their labels, as in the set's own class_names.txt.
STL10 = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


@reads("lfw")
def _lfw(name: str) -> Raw:
    entry = REGISTRY[name]
    path = find(name) or unpacked(name)
    _, (x, y, people) = read_file(name, _read_lfw_npz if path.suffix == ".npz" else _read_lfw, path)
    if (len(x), len(people)) != (entry.records, entry.n_classes):
        raise ValueError(
            f"lfw: {path} holds {len(x):,} images of {len(people):,} people, but those with 20 or more images "
            f"are {entry.records:,} of {entry.n_classes}. Delete it and load again"
        )
    return Raw(
        x[:, None],
        y,
        label_names=tuple(person.replace("_", " ") for person in people),
        source=f"Labeled Faces in the Wild, {path.name}: central 114 x 114 pixels, gray, as 48 x 48",
        notes=f"read from {path.name}; the alignment of the faces depends on the edition of the set",
    )


def _read_lfw(path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Images 48 x 48 as bytes, people as numbers, and their names; as `sklearn.datasets.fetch_lfw_people` has them."""
    with extra("images"):
        from PIL import Image

    files = {person.name: sorted(person.iterdir()) for person in sorted(path.iterdir()) if person.is_dir()}
    files = {person: photographs for person, photographs in files.items() if len(photographs) >= 20}
    people = sorted(person.replace("_", " ") for person in files)
    listed = [(file, people.index(person.replace("_", " "))) for person, own in files.items() for file in own]
    order = np.arange(len(listed))
    np.random.RandomState(42).shuffle(order)
    x, y = np.empty((len(listed), 48, 48), np.uint8), np.empty(len(listed), np.int64)
    for row, k in enumerate(order):
        file, y[row] = listed[k]
        with Image.open(file, formats=["JPEG"]) as image:
            if image.size != (250, 250) or image.mode != "RGB":  # known before it is unpacked
                raise ValueError(f"{file.name} has {image.size} pixels of {image.mode}, not 250 x 250 of RGB")
            small = image.crop((68, 68, 182, 182)).resize((48, 48))
        x[row] = np.round((np.asarray(small, np.float32) / np.float32(255)).mean(axis=2) * 255)
    return x, y, people


def _read_lfw_npz(path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    arrays = reading.npz(path)
    x, y, people = arrays["images"], arrays["labels"].astype(np.int64), arrays["names"].tolist()
    if x.dtype != np.uint8 or x.shape != (*y.shape, 48, 48):
        raise ValueError(f"images have shape {x.shape} {x.dtype} and labels {y.shape}")
    return x, y, list(map(str, people))


# Images of each diagnosis, by which the file is checked and its labels get their names.
HAM10000 = {"akiec": 327, "bcc": 514, "bkl": 1099, "df": 115, "mel": 1113, "nv": 6705, "vasc": 142}


@reads("ham10000")
def _ham10000(name: str) -> Raw:
    path, (x, y) = read_file(name, _read_ham10000)
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


def _read_ham10000(path: Path) -> tuple[np.ndarray, np.ndarray]:
    note(f"reading {path.name}")
    table = pd.read_csv(path, dtype=np.uint8)
    if "label" not in table or table.shape[1] != 1 + 28 * 28 * 3:
        raise ValueError(f"it has {table.shape[1]} columns instead of 28 x 28 x 3 and one named label")
    y = table.pop("label").to_numpy(np.int64)
    return table.to_numpy(), y
