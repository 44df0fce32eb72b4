"""Games from files: answers that were computed elsewhere, as people hold them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from mialab.classifiers.answers import FLOOR
from mialab.classifiers.game import Game
from mialab.games.store import Store

#: Columns of a .csv file that say what a row is about.
ABOUT = ("model", "record", "member", "y", "canary")
#: Columns of answers with a number for each label, and the array that they make.
BY_LABEL = {"logit": "logits", "probability": "probabilities"}


def read_game(
    path: str | os.PathLike[str],
    *,
    y: str | os.PathLike[str] | None = None,
    floor: float = FLOOR,
    name: str = "",
) -> Game:
    """Read a game from a file or folder of answers.

    Parameters
    ----------
    path : path
        One of these:

        - ``.npz`` or ``.zarr``: arrays as `Game.from_arrays` takes them, such as ``logits``, ``member``, ``y``;
          a ``.zarr`` that `play` stored is read as it is;
        - ``.csv``: a row for each model and record, with the columns ``member`` (0 or 1), ``y``, ``record`` and
          ``model`` (both may be missing where there is one model: rows are records then), and what the model says:
          ``loss``, ``score``, ``labels`` or another signal, or ``logit_0``, ``logit_1``, ..., or ``probability_0`` ...;
        - a folder as the published code of LiRA writes it: ``<experiment>/keep.npy``, the members, and
          ``<experiment>/logits/<step>.npy``, (record, 1, query, label), of which the last step is read; labels stand in
          ``y_train.npy`` in the folder, or are given as ``y``.
    y : path, optional
        An ``.npy`` file with labels, where the file holds none.
    floor : float
        Least probability, see `Game.from_arrays`.
    name : str
        For tables and figures; by default the file's.

    Raises
    ------
    ValueError
        If the file is none of these, or what it holds does not fit; the message names the file.
    FileNotFoundError
        If there is no such file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}.")
    if path.suffix == ".zarr" and "provenance" in (group := dict(zarr.open_group(path, mode="r").arrays())):
        return _stored(path, group)
    reader = READERS.get(path.suffix) or (_of_lira if path.is_dir() else None)
    if reader is None:
        raise ValueError(
            f"{path} must be .npz, .zarr or .csv, or a folder as LiRA's code writes it; it ends in {path.suffix!r}."
        )
    given = reader(path)
    if y is not None:
        given["y"] = np.load(y)
    try:
        return Game.from_arrays(**given, floor=floor, name=name or path.stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _npz(path: Path) -> dict[str, Any]:
    with np.load(path) as held:
        return {name: held[name] for name in held.files}


def _zarr(path: Path) -> dict[str, Any]:
    return {name: array[:] for name, array in zarr.open_group(path, mode="r").arrays()}


def _stored(path: Path, group: dict[str, Any]) -> Game:
    n, rows = 0, group["provenance"]  # which has room for more models than were ever trained
    while (part := np.asarray(rows[n : n + 64], bool).max(axis=1)).all():
        n += len(part)
    n += int(part.argmin())
    if n < 2:
        raise ValueError(f"{path} holds {n} finished models; there must be two at least.")
    attrs = {k: v for k, v in zarr.open_group(path, mode="r").attrs.items() if k != "checksum"}
    return Game(Store(str(path.parent), path.stem).open(n - n % 2, attrs).load())


def _csv(path: Path) -> dict[str, Any]:
    table = pd.read_csv(path)
    if "member" not in table:
        raise ValueError(
            f"{path} has the columns {', '.join(map(str, table.columns))}, but no column 'member'."
        )
    table["model"] = table.get("model", 0)
    if "record" not in table:
        if table["model"].nunique() > 1:
            raise ValueError(
                f"{path} has several models; a column 'record' must say which record a row is about."
            )
        table["record"] = np.arange(len(table))
    if twice := int(table.duplicated(["model", "record"]).sum()):
        raise ValueError(f"{path} has {twice} rows for models and records that it had before.")
    n_models, n_records = table["model"].nunique(), table["record"].nunique()
    if len(table) != n_models * n_records:
        raise ValueError(
            f"{path} has {len(table)} rows; {n_models} models and {n_records} records need {n_models * n_records}."
        )
    if holes := [str(c) for c in table.columns if table[c].isna().any()]:
        raise ValueError(f"{path} has empty cells in {', '.join(holes)}.")
    table = table.sort_values(["model", "record"])
    shape = (n_models, n_records)
    given = {"member": table["member"].to_numpy().reshape(shape)}
    for column in ("y", "canary"):
        if column in table:
            values = table[column].to_numpy().reshape(shape)
            if (values != values[0]).any():
                raise ValueError(f"{path}: {column} of a record differs between models; it must be the same.")
            given[column] = values[0]
    for column in map(str, table.columns):
        kind, _, label = column.rpartition("_")
        if kind in BY_LABEL and label.isdigit():
            continue
        if column not in ABOUT:
            given[column] = table[column].to_numpy().reshape(shape)
    for kind, array in BY_LABEL.items():
        labels = sorted(
            int(m[1]) for c in map(str, table.columns) if (m := re.fullmatch(rf"{kind}_(\d+)", c))
        )
        if labels and labels != list(range(len(labels))):
            raise ValueError(
                f"{path} has {kind}_ of the labels {labels}; they must be 0, 1, ... without a gap."
            )
        if labels:
            given[array] = np.stack([table[f"{kind}_{i}"].to_numpy().reshape(shape) for i in labels], axis=-1)
    return given


def _of_lira(path: Path) -> dict[str, Any]:
    kept = sorted(path.glob("*/keep.npy"))
    if not kept:
        raise ValueError(f"{path} holds no <experiment>/keep.npy, which the code of LiRA writes.")
    logits: list[np.ndarray] = []
    for file in kept:
        steps = sorted(file.parent.glob("logits/*.npy")) or sorted(file.parent.glob("logits.npy"))
        if not steps:
            raise ValueError(f"{file.parent} has no logits/<step>.npy: run the inference of that code first.")
        held = np.load(steps[-1])
        if held.ndim == 4 and held.shape[1] == 1:
            held = held[:, 0]
        if held.ndim == 2:
            held = held[:, None]
        if held.ndim != 3 or (logits and held.transpose(1, 0, 2).shape != logits[0].shape):
            raise ValueError(
                f"{steps[-1]} has shape {held.shape}; it must be (record, 1, query, label), the same for all models."
            )
        logits.append(held.transpose(1, 0, 2))
    given = {"member": np.stack([np.load(file).astype(bool) for file in kept]), "logits": np.stack(logits)}
    labels = path / "y_train.npy"
    return given | ({"y": np.load(labels).astype(np.int64)} if labels.exists() else {})


READERS = {".npz": _npz, ".zarr": _zarr, ".csv": _csv}
