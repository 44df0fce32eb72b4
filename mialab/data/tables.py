"""Tabular data sets: what each is, and how its files are read."""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mialab._progress import note
from mialab.data.registry import REGISTRY, Raw, checksum, reading, reads


@reads("clusters")
def _clusters(_name: str) -> Raw:
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


# Of the 5,010 x 446 features as uint8, then the labels 0..29 as int64: one check for every form of the file.
LOCATION30_SHA256 = "aa37e010ca1dcdcd913995bf7fc091821eca1c942faad3a4de5b5d1ac992f383"


@reads("location30")
def _location30(name: str) -> Raw:
    with reading(name) as path:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                x = np.unpackbits(file["features_packed"], axis=1, count=int(file["n_features"]))
                y = file["labels"].astype(np.int64)
        else:
            x, y = _read_shokri(path, inside=("bangkok",))
            y = y.astype(np.int64) - 1
    if checksum(x, y) != LOCATION30_SHA256:
        raise ValueError(
            f"location30: {path} holds {x.shape[0]} x {x.shape[1]} features, but not the published ones "
            "(5,010 x 446, by checksum). Delete it and load again"
        )
    source = f"{REGISTRY[name].remotes[0].url} (Shokri et al., 2017), labels minus 1"
    return Raw(x, y, source=source, notes=f"read from {path.name}")


def _read_csv(file: Any) -> np.ndarray:
    """Lines of numbers 0..255, the label perhaps quoted; as larger numbers Texas100 would take 3 GB."""
    return np.loadtxt(file, dtype=np.uint8, delimiter=",", quotechar='"', ndmin=2)


# Numbers of features, and the files in the archives.
SHOKRI = {
    "purchase100": (600, ("dataset_purchase",)),
    "texas100": (6169, ("texas/100/feats", "texas/100/labels")),
}


@reads(*SHOKRI)
def _shokri(name: str) -> Raw:
    """Read a set of Shokri et al. (2017) in any of its usual forms.

    Features and labels are two arrays, or one whose first column is the label. Labels run 1..C as published,
    0..C-1, or are one-hot, as in forms that others have made.
    """
    entry, (n_features, inside) = REGISTRY[name], SHOKRI[name]
    with reading(name) as path:
        note(f"reading {path.name}")
        x, y = _read_shokri(path, inside)
        if y.ndim == 2:
            y = y.argmax(axis=1) if y.shape[1] > 1 else y[:, 0]
        labels = np.unique(y)
        if not (np.array_equal(labels - labels[0], np.arange(entry.n_classes)) and labels[0] in (0, 1)):
            raise ValueError(f"labels must be 1..{entry.n_classes} or 0..{entry.n_classes - 1}")
        if not ((x == 0) | (x == 1)).all():
            raise ValueError("features must be 0 and 1")
        x, y = x.astype(np.uint8), y.astype(np.int64) - int(labels[0])
    if x.shape != (entry.records, n_features) or len(y) != len(x):
        raise ValueError(
            f"{name}: {path} holds {' x '.join(map(str, x.shape))} features and {len(y)} labels, but the "
            f"published set has {entry.records:,} x {n_features:,}. Delete it and load again"
        )
    return Raw(
        x,
        y,
        source=f"{entry.remotes[0].url} (Shokri et al., 2017), labels minus 1",
        notes=f"read from {path.name}; no published checksum known, sha256 of features and labels {checksum(x, y)}",
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


#: Columns of the text files; the last is the label.
ADULT_COLUMNS = (
    *(
        "age",
        "workclass",
        "fnlwgt",
        "education",
        "education-num",
        "marital-status",
        "occupation",
        "relationship",
    ),
    *("race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income"),
)


# Of the 6 numeric columns as int32, the codes of the 8 others as uint8 and the labels as int64.
ADULT_SHA256 = "4abb30ffe84e5830d12d23016a19c78c23b581d1e0cb189114bdde6e7976f939"


@reads("adult")
def _adult(name: str) -> Raw:
    with reading(name) as path:
        numbers, codes, y, n_train = (_read_adult_npz if path.suffix == ".npz" else _read_adult)(path)
    if checksum(numbers, codes, y) != ADULT_SHA256:
        raise ValueError(f"adult: {path} does not hold the published records, by checksum. Replace it")
    mean, std = numbers[:n_train].mean(axis=0), numbers[:n_train].std(axis=0)
    url = REGISTRY[name].remotes[0].url.removesuffix("/adult.data")
    one_hot = [column[:, None] == np.arange(column.max() + 1) for column in codes.T]
    x = np.hstack([(numbers - mean) / std, *one_hot]).astype(np.float32)
    return Raw(
        x[:n_train],
        y[:n_train],
        x_test=x[n_train:],
        y_test=y[n_train:],
        label_names=("<=50K", ">50K"),
        source=f"{url}: 6 numbers standardized by adult.data, then 8 categories one-hot ('?' is one)",
        notes=f"read from {path.name}",
    )


def _read_adult(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Read adult.data, and adult.test beside it: a comment line first, a full stop behind every label."""
    options = {"header": None, "names": list(ADULT_COLUMNS), "skipinitialspace": True, "na_filter": False}
    parts = [pd.read_csv(path, **options), pd.read_csv(path.with_name("adult.test"), skiprows=1, **options)]
    table = pd.concat(parts, ignore_index=True)
    income = table.pop("income").str.rstrip(".")
    numbers = table.select_dtypes("number")
    codes = table.drop(columns=numbers).apply(lambda column: column.astype("category").cat.codes)
    y = (income == ">50K").to_numpy(np.int64)
    return numbers.to_numpy(np.int32), codes.to_numpy(np.uint8), y, len(parts[0])


def _read_adult_npz(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    with np.load(path, allow_pickle=False) as file:
        return file["numeric"], file["categorical"], file["labels"].astype(np.int64), int(file["n_train"])
