"""Files from outside: three kinds of errors, limits, nothing carried out; and odd arguments of measures."""

import contextlib
import errno
import gzip
import io
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
from faults.inputs import INPUTS, tar_of
from hypothesis import HealthCheck, given, settings
from test_datasets import archive, change, own_folders, web, write  # noqa: F401  # two are fixtures

from mialab import load
from mialab.data import reading, registry, tables


@pytest.mark.parametrize("kind", INPUTS)
def test_odd_input_raises_documented_errors_alone(kind, tmp_path):
    values, let_in, allowed = INPUTS[kind](tmp_path)

    @settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(values)
    def look(value):
        with contextlib.suppress(*allowed):
            let_in(value)

    look()


def npz_of(path, method=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", method) as packed:
        for name, content in members.items():
            packed.writestr(f"{name}.npy", content)


def npy_of(shape, content, dtype="<f4"):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


@pytest.mark.parametrize("shape", [(2,), (3, 4), (), (0, 5), (2, 3, 4)])
@pytest.mark.parametrize("dtype", ["f4", ">f8", "i8", "?", "u1", "U3", "c16"])
def test_arrays_are_read_as_numpy_reads_them(tmp_path, shape, dtype):
    a = np.random.default_rng(0).integers(0, 2, size=shape).astype(dtype)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", a=a, b=np.asfortranarray(a))
        for found in reading.npz(tmp_path / "a.npz").values():
            np.testing.assert_array_equal(found, a)
            assert found.dtype == a.dtype
            assert found.flags.writeable
    np.save(tmp_path / "a.npy", a)
    np.testing.assert_array_equal(reading.npy(tmp_path / "a.npy"), a)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            npy_of("(10**12,)".replace("10**12", "1000000000000"), b""),
            r"takes 4000000000000 bytes, it has 0$",
        ),
        (npy_of("(-1, -2)", bytes(8)), r"shape \(-1, -2\)"),
        (npy_of("(2,)", bytes(7)), r"takes 8 bytes, it has 7$"),
        (npy_of("(2,)", bytes(9)), r"takes 8 bytes, it has 9$"),
        (npy_of("(99,)", b"", "<U0"), r"not of numbers or text$"),
        (npy_of("(1,)", bytes(8), "|O"), r"could run code"),
        (npy_of("(1,)", b"\x07", "|b1"), r"True and False with other values$"),
        (npy_of("(" * 500, b""), r"."),
        (b"\x93NUMPY\x03\x00" + bytes(99), r"format \(3, 0\)"),
        (b"", r"."),
    ],
)
def test_arrays_that_are_none_are_refused_before_they_are_made(tmp_path, content, message):
    npz_of(tmp_path / "a.npz", x=content)
    (tmp_path / "a.npy").write_bytes(content)
    for file, parse in (("a.npz", reading.npz), ("a.npy", reading.npy)):
        with pytest.raises(ValueError, match=message):
            reading.read(tmp_path / file, parse)


def test_archives_have_limits(monkeypatch, tmp_path):
    monkeypatch.setattr(reading, "MAX_UNPACKED", 10**5)
    zeros = npy_of("(500000,)", bytes(2_000_000))
    npz_of(tmp_path / "bomb.npz", zipfile.ZIP_DEFLATED, x=zeros)
    (tmp_path / "bomb.tgz").write_bytes(gzip.compress(tar_of({"table": bytes(2_000_000)})))
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(2_000_000)))
    # A header of a tape archive that says that 2 GB of text follow, for a name.
    long = tar_of({"name": bytes(2_000_000)}, type=tarfile.GNUTYPE_LONGNAME)
    (tmp_path / "name.tgz").write_bytes(gzip.compress(long))
    for file, parse in (
        ("bomb.npz", reading.npz),
        ("bomb.tgz", lambda path: reading.tables(path, ["table"])),
        ("bomb.tgz", lambda path: reading.unpack(path, tmp_path / "out")),
        ("bomb.gz", lambda path: reading.unpack(path, tmp_path / "out")),
        ("name.tgz", lambda path: reading.unpack(path, tmp_path / "out")),
    ):
        with pytest.raises(ValueError, match=r"^it unpacks to more than 100,000 files or \d"):
            reading.read(tmp_path / file, parse)
    assert not [file for file in (tmp_path / "out").rglob("*") if file.stat().st_size and file.is_file()]
    monkeypatch.setattr(reading, "MAX_MEMBERS", 2)
    (tmp_path / "many.tgz").write_bytes(gzip.compress(tar_of(dict.fromkeys("abc", b""))))
    npz_of(tmp_path / "many.npz", **dict.fromkeys("abc", npy_of("()", bytes(4))))
    for file, parse in (("many.npz", reading.npz), ("many.tgz", lambda path: reading.tables(path, "a"))):
        with pytest.raises(ValueError, match=r"^it unpacks to more than 2 files or"):
            reading.read(tmp_path / file, parse)
    npz_of(tmp_path / "other.npz", zipfile.ZIP_LZMA, x=npy_of("()", bytes(4)))
    with pytest.raises(ValueError, match="compressed in a way that numpy does not use"):
        reading.npz(tmp_path / "other.npz")


def test_a_sparse_member_counts_with_its_full_size(monkeypatch, tmp_path):
    monkeypatch.setattr(reading, "MAX_UNPACKED", 10**6)
    sparse = tar_of({"table": b""}, pax_headers={"GNU.sparse.map": "0,0", "GNU.sparse.size": "99999999"})
    (tmp_path / "sparse.tgz").write_bytes(gzip.compress(sparse))
    with pytest.raises(ValueError, match="unpacks to more than"):
        reading.read(tmp_path / "sparse.tgz", lambda path: reading.tables(path, ["table"]))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
def test_errors_that_pass_are_tried_again_and_are_no_damage(monkeypatch, tmp_path, number):
    monkeypatch.setattr(reading, "PAUSES", (0, 0))
    failures = [OSError(number, "no"), OSError(number, "no")]

    def parse(path):
        if failures:
            raise failures.pop()
        return "right"

    assert reading.read(tmp_path, parse) == "right"
    write(tmp_path / "data", {"location30.npz": b"whole"})
    monkeypatch.setenv("MIALAB_DATA", str(tmp_path / "data"))

    def always(path):
        failures.append(1)
        raise OSError(number, "no")

    monkeypatch.setattr(reading, "npz", always)
    with pytest.raises(OSError, match=r"says nothing about the file: try again.*location30\.npz") as caught:
        load("location30")
    assert caught.value.errno == number
    assert "Delete" not in str(caught.value)
    assert len(failures) == 3


def test_a_file_that_may_not_be_read_is_not_tried_again(tmp_path):
    def parse(path):
        raise PermissionError(errno.EACCES, "no", str(path))

    with pytest.raises(PermissionError, match="says nothing about the file"):
        reading.read(tmp_path / "x", parse)


@pytest.mark.parametrize(
    "error", [MemoryError(), RecursionError("deep"), KeyError("x"), OSError("odd"), TypeError()]
)
def test_whatever_a_parser_says_is_a_value_error(tmp_path, error):
    def parse(path):
        raise error

    with pytest.raises(ValueError, match=r"\S"):
        reading.read(tmp_path, parse)


def test_what_a_file_says_is_printed_in_one_plain_line():
    assert reading.reason(ValueError("a\x1b[31m\nb")) == "a [31m b"
    assert len(reading.reason(ValueError("x" * 9999))) == 200
    assert reading.reason(TypeError()) == "TypeError"


@pytest.mark.parametrize("label", [10**8, 2**62])
def test_a_large_label_takes_no_memory(tmp_path, label):
    np.savez(tmp_path / "f.npz", x=np.zeros((4, 1)), y=np.array([0, 1, 0, label]))
    tracemalloc.start()
    with pytest.raises(
        ValueError, match=rf"^y holds the label {label}; there can be at most 65,536 classes$"
    ):
        load(tmp_path / "f.npz")
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.full((4, 1), 2**53 + 1)}, r"^x holds int64 values that do not fit float32"),
        ({"x": np.full((4, 1), 2**64 - 1, np.uint64)}, r"^x holds uint64 values that do not fit float32"),
        ({"x": np.full((4, 1), -(2**63))}, r"^x holds int64 values that do not fit float32"),
        ({"x": np.zeros((4, 0))}, r"^x has shape \(4, 0\), without a value: its records must have features$"),
        ({"x": np.zeros((4, 0, 8, 8))}, r"^x has shape \(4, 0, 8, 8\), .* must have channels and pixels$"),
        ({"x": np.zeros((4, 1, 0, 8))}, r"^x has shape \(4, 1, 0, 8\), .* must have channels and pixels$"),
        ({"x": np.zeros((4, 1), complex)}, r"^x must hold numbers, got complex128$"),
        ({"x": np.float32(3)}, r"^x has no records but y has 4 labels"),
        (
            {"label_names": np.array("a")},
            r"^label_names must hold a printable text for each class, got shape \(\)",
        ),
        ({"label_names": np.array(["a", "b\n"])}, r"^label_names must hold a printable text"),
    ],
)
def test_files_of_odd_arrays_are_explained(tmp_path, arrays, message):
    np.savez(tmp_path / "f.npz", **{"x": np.zeros((4, 1)), "y": np.array([0, 1, 0, 1])} | arrays)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "f.npz")


def offered(monkeypatch, web, content, **facts):  # noqa: F811
    folder, url, _ = web
    (remote,) = registry.REGISTRY["purchase100"].remotes
    write(folder, {remote.file: content})
    change(
        monkeypatch,
        "purchase100",
        remotes=(remote._replace(url=f"{url}/{remote.file}", **facts),),
        records=300,
    )


def kept(tmp_path):
    return [file for file in (tmp_path / "cache").rglob("*") if file.is_file() and file.stat().st_size]


@pytest.mark.parametrize("stated", [None, 1000])
def test_a_download_has_a_limit(monkeypatch, web, tmp_path, stated):  # noqa: F811
    monkeypatch.setattr(registry, "MAX_DOWNLOAD", 1000)
    offered(monkeypatch, web, bytes(2000), size=stated)
    with pytest.raises(ValueError, match=r"did not give .* nothing was kept\. it is larger than 1\.0 kB$"):
        load("purchase100")
    assert not kept(tmp_path)


def test_a_download_that_is_not_the_set_is_not_kept(monkeypatch, web, tmp_path):  # noqa: F811
    offered(monkeypatch, web, b"<html>not here</html>")
    with pytest.raises(ValueError, match=r"cannot be read \(.*It was downloaded just now, and not kept$"):
        load("purchase100")
    assert not kept(tmp_path)
    offered(monkeypatch, web, archive({tables.SHOKRI["purchase100"][1][0]: b"1,0,1\n"}))
    with pytest.raises(ValueError, match=r"not kept$"):
        load("purchase100")
    assert not kept(tmp_path)
    assert len(web[2]) == 2


def test_a_pickled_batch_is_never_carried_out(tmp_path):
    code = f"cposix\nsystem\n(S'touch {tmp_path / 'trace'}'\ntR.".encode()
    with pytest.raises(ValueError, match=r"0 labels|reshape"):
        reading.read(tmp_path, lambda _: reading.cifar(code, "labels"))
    assert not (tmp_path / "trace").exists()
    with contextlib.suppress(ValueError):
        reading.cifar_names(io.BytesIO(code).read(), "label_names")
    assert not (tmp_path / "trace").exists()
