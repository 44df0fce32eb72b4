"""Tabular data sets: what each is, and how its files are read."""

from pathlib import Path

import numpy as np
import pandas as pd

from mialab._progress import note
from mialab.data import reading
from mialab.data.registry import REGISTRY, Raw, checksum, read_file, reads


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
    path, (x, y) = read_file(name, _read_location30)
    if checksum(x, y) != LOCATION30_SHA256:
        raise ValueError(
            f"location30: {path} holds {' x '.join(map(str, x.shape))} features, but not the published ones "
            "(5,010 x 446, by checksum). Delete it and load again"
        )
    source = f"{REGISTRY[name].remotes[0].url} (Shokri et al., 2017), labels minus 1"
    return Raw(x, y, source=source, notes=f"read from {path.name}")


def _read_location30(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if path.suffix != ".npz":
        x, y = _read_shokri(path, inside=("bangkok",))
        return x, y.astype(np.int64) - 1
    arrays = reading.npz(path)
    packed, count = arrays["features_packed"], int(arrays["n_features"])
    if packed.ndim != 2 or not 0 < count <= 8 * packed.shape[1]:
        raise ValueError(f"{count} features cannot be in bits of shape {packed.shape}")
    return np.unpackbits(packed, axis=1, count=count), arrays["labels"].astype(np.int64)


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

    def parse(path: Path) -> tuple[np.ndarray, np.ndarray]:
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
                f"it holds {' x '.join(map(str, x.shape))} features and {len(y)} labels, but the published set "
                f"has {entry.records:,} x {n_features:,}"
            )
        return x, y

    path, (x, y) = read_file(name, parse)
    return Raw(
        x,
        y,
        source=f"{entry.remotes[0].url} (Shokri et al., 2017), labels minus 1",
        notes=f"read from {path.name}; no published checksum known, sha256 of features and labels {checksum(x, y)}",
    )


def _read_shokri(path: Path, inside: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    if path.suffix == ".npz":
        arrays = reading.npz(path)
        for x, y in (("features", "labels"), ("x", "y"), ("X", "Y")):
            if x in arrays and y in arrays:
                return arrays[x], arrays[y]
        raise ValueError(f"it holds {', '.join(arrays)} instead of features, labels")
    if path.suffix == ".tgz":
        tables = reading.tables(path, inside)
    else:
        read = reading.npy if path.suffix == ".npy" else reading.table
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
    path, (numbers, codes, y, n_train) = read_file(name, _read_adult)
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
    """Read an .npz, or adult.data and adult.test beside it: a comment line first, a full stop behind every label."""
    if path.suffix == ".npz":
        arrays = reading.npz(path)
        y, n_train = arrays["labels"].astype(np.int64), int(arrays["n_train"])
        if not 0 < n_train < len(y):
            raise ValueError(f"{n_train} of {len(y)} records cannot be for training")
        return arrays["numeric"], arrays["categorical"], y, n_train
    options = {"header": None, "names": list(ADULT_COLUMNS), "skipinitialspace": True, "na_filter": False}
    parts = [pd.read_csv(path, **options), pd.read_csv(path.with_name("adult.test"), skiprows=1, **options)]
    table = pd.concat(parts, ignore_index=True)
    income = table.pop("income").str.rstrip(".")
    numbers = table.select_dtypes("number")
    codes = table.drop(columns=numbers).apply(lambda column: column.astype("category").cat.codes)
    y = (income == ">50K").to_numpy(np.int64)
    return numbers.to_numpy(np.int32), codes.to_numpy(np.uint8), y, len(parts[0])
