"""Odd and damaged input for readers and measures, each kind as what hypothesis draws it with and what it is let into.

`INPUTS` has functions of an empty folder that return an `Input`. To look for faults with one of them::

    @given(values)
    def look(value):
        with contextlib.suppress(*allowed):
            let_in(value)

Any other error, a hang, or a process that takes much memory is a fault. A value that is taken is right: `let_in` fails
with an AssertionError where it is not.
"""

import gzip
import io
import pickle
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from mialab import metrics
from mialab.data import images, reading


class Input(NamedTuple):
    """Values to draw, what lets one in, and the errors that it may raise."""

    values: st.SearchStrategy[Any]
    let_in: Callable[[Any], Any]
    allowed: tuple[type[Exception], ...]


@st.composite
def damaged(draw: st.DrawFn, contents: Sequence[bytes]) -> bytes:
    """Draw the bytes of a file, some of which are others, are missing, or come twice."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 4))):
        place, n = draw(st.integers(0, max(0, len(content) - 1))), draw(st.integers(1, 64))
        with_ = draw(
            st.sampled_from(
                [b"", b"\0" * n, b"\xff" * n, bytes(content[:n]), bytes(content[place : place + n])]
            )
        )
        content[place : place + draw(st.integers(0, 64))] = with_
        if draw(st.integers(0, 9)) == 0:
            del content[place:]
    return bytes(content)


def tar_of(files: dict[str, bytes], **about: Any) -> bytes:
    """Return the bytes of a .tar with these files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in about.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def archives(folder: Path) -> Input:
    """Archives of tables: damaged before they are compressed, and after."""
    lines = b'"1",0,1,0\n"2",1,1,1\n' * 20
    whole = [tar_of({"table": lines}), tar_of({"table": lines, "a/b": b"x" * 999}), tar_of({"table": b""})]
    whole.append(tar_of({"table": lines}, type=tarfile.SYMTYPE, linkname="/etc/passwd"))
    path, right = folder / "set.tgz", np.loadtxt(io.BytesIO(lines), delimiter=",", quotechar='"')
    values = st.one_of(
        damaged(whole).map(gzip.compress), damaged([*map(gzip.compress, whole)]), st.binary(max_size=99)
    )

    def let_in(value: bytes) -> None:
        path.write_bytes(value)
        (table,) = reading.read(path, lambda path: reading.tables(path, ["table"]))
        assert table.dtype == np.uint8
        assert table.size <= right.size * 2
        reading.read(path, lambda path: reading.unpack(path, folder / "unpacked"))
        outside = [file for file in folder.rglob("*") if file.is_symlink()]
        assert not outside

    return Input(values, let_in, (ValueError,))


def batches(folder: Path) -> Input:
    """Batches of CIFAR, which are pickled: damaged, or pickled code."""
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (3, 3072), dtype=np.uint8)
    whole = [pickle.dumps({"data": data, "labels": [3, 1, 2]}, protocol=k) for k in (0, 1, 2)]
    trace = folder / "code has run"
    code = f"cposix\nsystem\n(S'touch \"{trace}\"'\ntR.".encode()
    path = folder / "batch"
    values = st.one_of(damaged(whole), damaged([code]), damaged([whole[2] + code, code + whole[2]]))

    def let_in(value: bytes) -> None:
        path.write_bytes(value)
        try:
            found, labels = reading.read(path, lambda path: reading.cifar(path.read_bytes(), "labels"))
            assert found.shape == (len(labels), 3, 32, 32)
            reading.read(path, lambda path: reading.cifar_names(path.read_bytes(), "label_names"))
        finally:
            assert not trace.exists()

    return Input(values, let_in, (ValueError,))


def photographs(folder: Path) -> Input:
    """Photographs of a person, one of them damaged or of another format."""
    contents = []
    for size, kind in (((250, 250), "JPEG"), ((250, 250), "PNG"), ((9, 9), "JPEG"), ((250, 250), "GIF")):
        written = io.BytesIO()
        Image.new("RGB", size, (9, 99, 199)).save(written, kind)
        contents.append(written.getvalue())
    person = folder / "lfw_funneled" / "Ann_Lee"
    person.mkdir(parents=True)
    for k in range(20):
        (person / f"{k:02}.jpg").write_bytes(contents[0])

    def let_in(value: bytes) -> None:
        (person / "07.jpg").write_bytes(value)
        x, y, people = reading.read(person.parent, images._read_lfw)
        assert (x.shape, y.tolist(), people) == ((20, 48, 48), [0] * 20, ["Ann Lee"])

    return Input(st.one_of(damaged(contents), st.binary(max_size=99)), let_in, (ValueError,))


#: What is given in the place of an array or a number.
ODD = st.one_of(
    st.sampled_from(
        [None, "text", b"x", 3, -1, 10**400, [], {}, [[1], [1, 2]], object(), 1j, np.inf, np.nan]
    ),
    st.sampled_from(["f2", "f4", "f8", "i8", "u8", "?", "c8", "U2", "M8[s]", "O"]).flatmap(
        lambda dtype: arrays.arrays(
            dtype,
            arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
            elements=st.sampled_from([None, 1.5, "text", {}, 1j]) if dtype == "O" else None,
        )
    ),
)


def measures(folder: Path) -> Input:
    """Arguments of the functions of `mialab.metrics`, of which one or two are something else."""
    score, member = (
        np.array([[0.3, -np.inf, np.inf, 0.3], [1, 2, np.inf, np.inf]]),
        np.array([[1, 0, 1, 0]] * 2) > 0,
    )
    flat: dict[str, Any] = {"score": score[0], "member": member[0]}
    decided: dict[str, Any] = {"predicted_member": score[0] > 0, "member": member[0]}
    cells: dict[str, Any] = {
        "score": score,
        "member": member,
        "evaluated": member | True,
        "partner": np.array([-1, -1]),
        "predicted_member": score > 0,
    }
    functions: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "roc": (metrics.roc, flat),
        "auc": (metrics.auc, flat),
        "tpr_at_fpr": (metrics.tpr_at_fpr, flat | {"fpr": 0.1}),
        "tnr_at_fnr": (metrics.tnr_at_fnr, flat | {"fnr": 0.1}),
        "precision_at": (metrics.precision_at, {"tpr": 0.2, "fpr": 0.1, "prior": 0.3}),
        "balanced_accuracy": (metrics.balanced_accuracy, decided),
        "precision": (metrics.precision, decided),
        "recall": (metrics.recall, decided),
        "f1": (metrics.f1, decided),
        "over_targets": (metrics.over_targets, {"value": [0.1, 0.2], "partner": [1, 0], "confidence": 0.9}),
        "clopper_pearson": (metrics.clopper_pearson, {"successes": 3, "trials": 9, "confidence": 0.9}),
        "proportion": (metrics.proportion, {"successes": 3, "trials": 9, "confidence": 0.9}),
        "cells": (lambda **given: metrics.Cells(**given).estimate("auc").interval(0.95), cells),
        "decisions": (lambda **given: metrics.Cells(**given).estimate("balanced_accuracy"), cells),
        "metric": (metrics.Cells(**cells).estimate, {"metric": "tpr@0.1"}),
        "epsilon": (
            metrics.epsilon_lower_bound,
            {"in_scores": score[1], "out_scores": score[0], "delta": 1e-5, "confidence": 0.9, "seed": 0},
        ),
        "threshold": (
            metrics.epsilon_lower_bound,
            {"in_scores": [1, 2], "out_scores": [0], "threshold": 1.5},
        ),
        "guesses": (
            metrics.epsilon_lower_bound,
            {"in_scores": [1, 2], "out_scores": [0, 1], "method": "one_run", "guesses": 0.5, "paired": True},
        ),
    }
    values = st.sampled_from(sorted(functions)).flatmap(
        lambda name: st.tuples(
            st.just(name),
            st.dictionaries(st.sampled_from(sorted(functions[name][1])), ODD, min_size=1, max_size=2),
        )
    )

    def let_in(value: tuple[str, dict[str, Any]]) -> None:
        function, given = functions[value[0]]
        function(**given | value[1])

    return Input(values, let_in, (ValueError,))


INPUTS: dict[str, Callable[[Path], Input]] = {
    make.__name__: make for make in (archives, batches, photographs, measures)
}
