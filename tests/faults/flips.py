"""One bit of a file is another: what is read then is right, is made again, or is refused by name."""

import dataclasses
import json
import os
import re
import resource
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
import numpy as np
import pandas as pd
import toys
from faults import games
from faults.harness import ROOT, digest, flipped

import mialab as mia
from mialab.book import execution, reference_runs
from mialab.data import registry, tables
from mialab.provenance import collect


def _flips(
    seed: int,
    indices: Sequence[int],
    folder: Path,
    make: Callable[[Path], Any],
    read: Callable[[Path], Any],
    *named: str,
) -> Iterator[str]:
    """Flip a bit of what ``make`` writes, and compare what ``read`` returns with what it is without.

    Errors are documented ones if they are of the value or of the file, and name it.
    """
    template, place = folder / "template", folder / "place"
    template.mkdir()
    make(template)
    shutil.copytree(template, place)
    right = read(place)
    for index in indices:
        with flipped(place, template, np.random.default_rng([seed, index])) as where:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = read(place)
            except Exception as error:
                says = any(name in str(error) for name in named or [str(place)])
                clear = isinstance(error, OSError | ValueError) and says
                yield "" if clear else f"error: {where}: {type(error).__name__}: {str(error)[:200]}"
                continue
            yield f"wrong: {where}: {_difference(found, right)}" if _difference(found, right) else ""


def _difference(found: Any, right: Any) -> str:
    """Say where what was found is not right; None stands for what was refused."""
    if found is None or found == right:
        return ""
    if isinstance(found, dict) and isinstance(right, dict):
        return ", ".join(k for k in [*right, *found] if found.get(k) != right.get(k))
    return f"{str(found)[:80]} is not {str(right)[:80]}"


# ----------------------------------------------------------------------------------------------------
# Stored games


def stored_games(indices: Sequence[int], folder: Path) -> Iterator[str]:
    """Flip a bit of a stored game: of answers, what is known beforehand, checksums, metadata, attributes."""
    groups = {"flipped": [i for i in indices if i % 4], "gan one by one": [i for i in indices if not i % 4]}
    found = {}
    for name, some in groups.items():
        (folder / name).mkdir()
        trials = _flips(10, some, folder / name, *_game(name, folder / "cache"))
        found |= dict(zip(some, trials, strict=True))
    yield from (found[index] for index in indices)


def _game(name: str, cache: Path) -> tuple[Callable[[Path], Any], Callable[[Path], Any]]:
    os.environ["MIALAB_CACHE"] = str(cache)

    def read(place: Path) -> dict[str, Any]:
        # Seconds of a model that is trained again are others; those that were stored are not.
        game = games.GAMES[name](store=str(place), workers=1)
        dataset = game.dataset.load()
        arrays = {str(v): digest(dataset[v].to_numpy()) for v in dataset.variables if v != "seconds"}
        return arrays | {f"attribute {k}": v for k, v in game.attrs.items() if k not in games.VARIES}

    return read, read


# ----------------------------------------------------------------------------------------------------
# Data files


def data_files(indices: Sequence[int], folder: Path) -> Iterator[str]:
    """Flip a bit of a data file: of a user's own, and of published sets in small."""
    forms = {"own.npz": _own, "compressed.npz": _compressed, "location30": _location30}
    found = {}
    for k, (name, form) in enumerate(forms.items()):
        some = [index for index in indices if index % len(forms) == k]
        (folder / name).mkdir()
        with mock.patch.dict(os.environ), mock.patch.multiple(tables, LOCATION30_SHA256=_SMALL[2]):
            found |= dict(zip(some, _flips(11, some, folder / name, *form()), strict=True))
    yield from (found[index] for index in indices)


def _pool(place: str) -> dict[str, Any]:
    pool = mia.load(place, size=20, validation=4, test=10)
    return {
        field.name: digest(value) if isinstance(value, np.ndarray) else value
        for field in dataclasses.fields(pool)
        if (value := getattr(pool, field.name)) is not None and field.name != "loaded"
    }


def _own(save: Callable[..., None] = np.savez) -> tuple[Callable[[Path], Any], Callable[[Path], Any]]:
    pool = toys.pool("image")
    return (
        lambda folder: save(folder / "own.npz", x=pool.x, y=pool.y, label_names=np.array(["a", "b", "c"])),
        lambda folder: _pool(str(folder / "own.npz")),
    )


def _compressed() -> tuple[Callable[[Path], Any], Callable[[Path], Any]]:
    return _own(np.savez_compressed)


def _small_set() -> tuple[np.ndarray, np.ndarray, str]:
    rng = np.random.default_rng(0)
    x = (rng.random((60, 16)) < 0.5).astype(np.uint8)
    y = np.arange(60) % 30
    return x, y, registry.checksum(x, y)


_SMALL = _small_set()


def _location30() -> tuple[Callable[[Path], Any], Callable[[Path], Any]]:
    x, y, _ = _SMALL

    def make(folder: Path) -> None:
        packed = np.packbits(x, axis=1)
        np.savez(folder / "location30.npz", features_packed=packed, labels=y, n_features=x.shape[1])

    def read(folder: Path) -> dict[str, Any]:
        os.environ["MIALAB_DATA"] = str(folder)
        return _pool("location30")

    return make, read


# ----------------------------------------------------------------------------------------------------
# Executed pages and tables of results


def pages(indices: Sequence[int], folder: Path) -> Iterator[str]:
    """Flip a bit of an executed page: a changed one does not pass for what was executed."""

    def make(place: Path) -> None:
        executed(place / "page.ipynb")

    def read(place: Path) -> Any:
        page = place / "page.ipynb"
        return json.loads(page.read_text()) if execution.is_current(page, "key") else None

    yield from _flips(12, indices, folder, make, read)


def executed(out: Path, room: int | None = None) -> None:
    """Write a page as `mialab.book.execution.run` does, without the minute that it takes to execute one.

    With ``room``, files can have so many bytes once it is executed.
    """
    source = out.with_name("chapter.py")
    source.write_text('# # A chapter\n\n# %% tags=["parameters"]\nseed = 0\n')

    def execute(notebook: Path, places: list[Path], *_: Any) -> tuple[Path, str]:
        draft = places[0]
        page = execution.read(notebook)
        page.cells[-1]["outputs"] = [nbformat.v4.new_output("stream", text=f"AUC .{k}\n") for k in range(40)]
        nbformat.write(page, draft)
        if room is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, most))
        return draft, ""

    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    runs = mock.patch.object(execution, "RUNS", out.parent / "runs")
    try:
        with mock.patch.object(execution, "_execute", execute), runs:
            execution.run(source, out, {}, key="key")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        source.unlink()


def full_disks(indices: Sequence[int], folder: Path) -> Iterator[str]:
    """Let a file hold fewer bytes than a page has once it is executed: it is kept where the error says."""
    page = folder / "page.ipynb"
    for index in indices:
        executed(page)
        before = page.read_bytes()
        try:
            executed(page, int(np.random.default_rng([15, index]).integers(len(before))))
            yield "error: no error"
        except execution.NotebookError as error:
            kept = re.search(r"kept as (\S+\.ipynb)", str(error))
            whole = kept and "AUC .39" in (ROOT / kept[1]).read_text()
            yield "" if whole and page.read_bytes() == before else f"lost: an executed page: {error}"
            if kept:
                shutil.rmtree((ROOT / kept[1]).parent)


def results(indices: Sequence[int], folder: Path) -> Iterator[str]:
    """Flip a bit of a table of results: a changed one is refused by name."""

    def make(place: Path) -> None:
        rows = [
            {"target": "pooled", "attack": f"attack {k}", "value": k / 40, "low": k / 41, "high": k / 39}
            for k in range(30)
        ]
        table = pd.DataFrame(rows)
        table.attrs = {"defense": "none", "n_models": 16, "seconds": 12.5, **collect()}
        reference_runs.save("small", folder=place, audit=table)

    def read(place: Path) -> Any:
        loaded = reference_runs.load("small", folder=place)
        return {k: v.to_json() if isinstance(v, pd.DataFrame) else str(v) for k, v in loaded.items()}

    yield from _flips(13, indices, folder, make, read, "small", reference_runs.CHECKSUMS)


def committed(indices: Sequence[int], folder: Path) -> Iterator[str]:
    """Flip a bit of the tables that are committed."""
    names = sorted(file.stem for file in (ROOT / "results").glob("*-standard.json"))

    def make(place: Path) -> None:
        shutil.copytree(ROOT / "results", place, dirs_exist_ok=True)
        for file in [*place.glob("benchmark-*"), *place.glob("faults*"), *place.glob("coverage*")]:
            file.unlink()

    def read(place: Path) -> Any:
        found = {name: reference_runs.load(name, folder=place) for name in names}
        return {
            f"{name} {k}": v.to_json() if isinstance(v, pd.DataFrame) else str(v)
            for name, loaded in found.items()
            for k, v in loaded.items()
        }

    yield from _flips(14, indices, folder, make, read, "-standard", reference_runs.CHECKSUMS)
