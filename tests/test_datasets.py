"""The data sets that are files: loaders on small sets in the official formats, and on real ones if they are here."""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from mialab import _paths, datasets, load
from mialab.data import images, registry, tables

IMAGES = ("mnist", "fashion_mnist", "cifar10", "cifar100", "stl10")
TABLES = ("purchase100", "texas100")
IDX = [remote.file.removesuffix(".gz") for remote in registry.REGISTRY["mnist"].remotes]
REAL = os.environ.get("MIALAB_DATA")  # read here: the fixture hides it from every other test


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    """No test reads the user's data, nor writes to the user's cache, nor leaves this machine."""
    monkeypatch.delenv("MIALAB_DATA", raising=False)
    monkeypatch.setenv("MIALAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")


def change(monkeypatch, name, **facts):
    monkeypatch.setitem(registry.REGISTRY, name, dataclasses.replace(registry.REGISTRY[name], **facts))


def md5(content):
    return hashlib.md5(content).hexdigest()


def archive(files):
    """Make the bytes of a .tar.gz with these files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.fixture
def web(tmp_path):
    """Serve a folder over HTTP; `asked` collects the paths of all requests."""
    asked = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    folder = tmp_path / "served"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def offer(monkeypatch, web, name, contents):
    """Put the archives of a set on the server, and have the registry expect them there."""
    folder, url, _ = web
    write(folder, contents)
    remotes = tuple(
        remote._replace(
            url=f"{url}/{remote.file}",
            hash=remote.hash and f"sha256:{hashlib.sha256(contents[remote.file]).hexdigest()}",
        )
        for remote in registry.REGISTRY[name].remotes
    )
    change(monkeypatch, name, remotes=remotes)


# ----------------------------------------------------------------------------------------------------
# Small image sets in the official formats


def idx(array):
    """Write bytes in the format of MNIST: two zero bytes, type 8, dimensions, sizes big-endian, values."""
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture
def small(monkeypatch):
    """Make a small set: its unpacked files, its archives, and its images (NCHW) and labels, train and test.

    The checksums that the loaders expect are set to those of the small files.
    """
    from mialab._torchvision import torchvision

    def make(name):
        rng = np.random.default_rng(0)
        classes = 100 if name == "cifar100" else 10
        shape = {"mnist": (1, 28, 28), "fashion_mnist": (1, 28, 28), "stl10": (3, 96, 96)}.get(
            name, (3, 32, 32)
        )
        y, y_test = np.arange(2 * classes) % classes, np.arange(classes)
        x, x_test = (rng.integers(0, 256, size=(len(part), *shape), dtype=np.uint8) for part in (y, y_test))
        if "mnist" in name:
            folder = {"mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw"}[name]
            contents = [idx(x[:, 0]), idx(y), idx(x_test[:, 0]), idx(y_test)]
            files = dict(zip(IDX, contents, strict=True))
            archives = {f"{file}.gz": gzip.compress(content) for file, content in files.items()}
            remotes = registry.REGISTRY[name].remotes
            expected = zip(remotes, contents, strict=True)
            change(monkeypatch, name, remotes=tuple(r._replace(unpacked=md5(c)) for r, c in expected))
        elif name == "stl10":
            folder, kind = "stl10_binary", torchvision.datasets.STL10
            files = {  # a pixel is stored column by column; labels begin with 1
                "train_X.bin": x.transpose(0, 1, 3, 2).tobytes(),
                "train_y.bin": (y + 1).astype(np.uint8).tobytes(),
                "test_X.bin": x_test.transpose(0, 1, 3, 2).tobytes(),
                "test_y.bin": (y_test + 1).astype(np.uint8).tobytes(),
            }
            checks = [[file, md5(content)] for file, content in files.items()]
            monkeypatch.setattr(kind, "train_list", [*checks[:2], ["unlabeled_X.bin", "0" * 32]])
            monkeypatch.setattr(kind, "test_list", checks[2:])
            files["class_names.txt"] = "\n".join(f"class {k}" for k in range(classes)).encode()
            files["unlabeled_X.bin"] = bytes(1000)
            archives = {"stl10_binary.tar.gz": archive({f"{folder}/{k}": v for k, v in files.items()})}
        else:
            kind = getattr(torchvision.datasets, name.upper())
            folder, key = kind.base_folder, "labels" if name == "cifar10" else "fine_labels"
            batches = np.array_split(np.arange(len(y)), len(kind.train_list))
            parts = [(x[rows], y[rows]) for rows in batches] + [(x_test, y_test)]
            listed = [file for file, _ in (*kind.train_list, *kind.test_list)]
            files = {
                file: pickle.dumps(
                    {"data": images.reshape(len(images), -1), key: labels.tolist()}, protocol=2
                )
                for file, (images, labels) in zip(listed, parts, strict=True)
            }
            checks = [[file, md5(content)] for file, content in files.items()]
            meta = pickle.dumps({kind.meta["key"]: [f"class {k}" for k in range(classes)]}, protocol=2)
            files[kind.meta["filename"]] = meta
            monkeypatch.setattr(kind, "train_list", checks[:-1])
            monkeypatch.setattr(kind, "test_list", checks[-1:])
            monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(meta)})
            archives = {
                f"{folder.removesuffix('-batches-py').removesuffix('-python')}-python.tar.gz": archive(
                    {f"{folder}/{k}": v for k, v in files.items()}
                )
            }
        return {f"{folder}/{k}": v for k, v in files.items()}, archives, (x, y), (x_test, y_test)

    return make


PARTS = {"size": 10, "validation": 4, "test": 6}


def labels_of(images, labels):
    return {image.tobytes(): label for image, label in zip(images, labels, strict=True)}


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_read_from_torchvisions_layout(small, monkeypatch, tmp_path, name):
    files, _, train, test = small(name)
    for place in ("", name):
        write(tmp_path / f"data-{place}" / place, files)
        monkeypatch.setenv("MIALAB_DATA", str(tmp_path / f"data-{place}"))
        assert datasets().loc[name, "here"]
        pool = load(name, **PARTS)
        assert (pool.kind, pool.n_classes, pool.x.dtype) == ("image", len(np.unique(train[1])), np.uint8)
        assert pool.x.shape == (10, *train[0].shape[1:])
        assert pool.x.flags.c_contiguous
        assert len(pool.label_names) == pool.n_classes
        # Pixels in their places, labels with their images; pool and validation from train, test from test.
        assert labels_of(pool.x, pool.y).items() <= labels_of(*train).items()
        assert labels_of(pool.x_val, pool.y_val).items() <= labels_of(*train).items()
        assert labels_of(pool.x_test, pool.y_test).items() <= labels_of(*test).items()
        assert not labels_of(pool.x, pool.y).keys() & labels_of(pool.x_val, pool.y_val).keys()


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_downloaded_once_and_unpacked(small, monkeypatch, web, name):
    _, archives, train, _ = small(name)
    offer(monkeypatch, web, name, archives)
    assert not datasets().loc[name, "here"]
    pool = load(name, **PARTS)
    assert labels_of(pool.x, pool.y).items() <= labels_of(*train).items()
    assert len(web[2]) == len(archives)
    assert datasets().loc[name, "here"]
    assert load(name, **PARTS).fingerprint == pool.fingerprint
    assert len(web[2]) == len(archives)
    kept = [file.name for file in (_paths.cache_folder() / "data" / name).rglob("*")]
    assert not any(file.endswith((".gz", "unlabeled_X.bin")) for file in kept)


def test_an_archive_put_into_the_cache_by_hand_is_used(small, monkeypatch, web):
    _, archives, train, _ = small("cifar10")
    offer(monkeypatch, web, "cifar10", archives)
    write(_paths.cache_folder() / "data" / "cifar10", archives)
    pool = load("cifar10", **PARTS)
    assert labels_of(pool.x, pool.y).items() <= labels_of(*train).items()
    assert web[2] == []


def test_two_at_once_download_once(small, monkeypatch, web):
    _, archives, _, _ = small("mnist")
    offer(monkeypatch, web, "mnist", archives)
    with ThreadPoolExecutor(2) as threads:
        pools = list(threads.map(lambda _: load("mnist", **PARTS), range(2)))
    assert pools[0].fingerprint == pools[1].fingerprint
    assert len(web[2]) == len(archives)


@pytest.mark.parametrize("name", IMAGES)
def test_a_damaged_or_missing_file_of_an_image_set_is_named(small, monkeypatch, tmp_path, name):
    files, _, _, _ = small(name)
    file = next(iter(files))
    damaged = files[file][:-1] + bytes([files[file][-1] ^ 1])
    write(tmp_path / "data", files | {file: damaged})
    monkeypatch.setenv("MIALAB_DATA", str(tmp_path / "data"))
    with pytest.raises(
        ValueError, match=rf"{file} is damaged .*\(md5 {md5(damaged)}, expected {md5(files[file])}"
    ):
        load(name, **PARTS)
    (tmp_path / "data" / file).unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"has no file {file.rpartition('/')[2]}\. .* unpack into it"
    ):
        load(name, **PARTS)


def test_an_archive_with_a_wrong_checksum_is_refused_and_not_kept(small, monkeypatch, web):
    _, archives, _, _ = small("stl10")
    offer(monkeypatch, web, "stl10", archives)
    (remote,) = registry.REGISTRY["stl10"].remotes
    change(monkeypatch, "stl10", remotes=(remote._replace(hash="md5:" + "0" * 32),))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"stl10_binary\.tar\.gz did not give the expected file"):
            load("stl10", **PARTS)
    assert not [file for file in _paths.cache_folder().rglob("*") if file.stat().st_size and file.is_file()]


def test_the_registry_agrees_with_torchvision():
    from mialab._torchvision import torchvision

    known = torchvision.datasets
    for name, kind in (("mnist", known.MNIST), ("fashion_mnist", known.FashionMNIST)):
        remotes = registry.REGISTRY[name].remotes
        assert [(remote.file, remote.hash) for remote in remotes] == [
            (f, f"md5:{m}") for f, m in kind.resources
        ]
        assert all(remote.url == kind.mirrors[0] + remote.file for remote in remotes)
        assert registry.REGISTRY[name].files == (f"{kind.__name__}/raw",)
    for name, kind in (("cifar10", known.CIFAR10), ("cifar100", known.CIFAR100), ("stl10", known.STL10)):
        (remote,) = registry.REGISTRY[name].remotes
        assert remote[:3] == (kind.filename, kind.url, f"md5:{kind.tgz_md5}")
        assert registry.REGISTRY[name].files == (kind.base_folder,)
    assert [file for file, _ in known.STL10.train_list] == ["train_X.bin", "train_y.bin", "unlabeled_X.bin"]


def test_the_registry_agrees_with_scikit_learn():
    from sklearn.datasets import _lfw

    (found,), known = registry.REGISTRY["lfw"].remotes, _lfw.FUNNELED_ARCHIVE
    assert found[:3] == (known.filename, known.url, f"sha256:{known.checksum}")


# ----------------------------------------------------------------------------------------------------
# Nothing here and no network

FILES = [name for name, entry in registry.REGISTRY.items() if entry.files]
OFFERED = [name for name in FILES if registry.REGISTRY[name].remotes]


def test_every_set_of_the_design_is_known():
    assert set(FILES) == {*IMAGES, *TABLES, "location30", "adult", "lfw", "ham10000"}
    assert set(FILES) - set(OFFERED) == {"ham10000"}


@pytest.mark.parametrize("name", OFFERED)
def test_without_network_one_message_says_which_file_to_put_where(monkeypatch, name):
    entry = registry.REGISTRY[name]
    remotes = tuple(r._replace(url=f"http://127.0.0.1:9/{r.file}") for r in entry.remotes)
    change(monkeypatch, name, remotes=remotes)
    with pytest.raises(FileNotFoundError, match=rf"^{name} is not here and .*refused") as caught:
        load(name)
    message = str(caught.value)
    for remote in remotes:
        assert remote.url in message
        assert remote.hash is None or remote.hash.replace(":", " ") in message
    for part in (*entry.files, "MIALAB_DATA", str(_paths.cache_folder() / "data" / name / entry.into)):
        assert part in message
    assert not datasets().loc[name, "here"]


def test_a_silent_server_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(registry, "TIMEOUT", (1, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        change(monkeypatch, "cifar10", remotes=(registry.REGISTRY["cifar10"].remotes[0]._replace(url=url),))
        with pytest.raises(FileNotFoundError, match=r"could not be downloaded .*timed out"):
            load("cifar10")


@pytest.mark.slow
def test_torchvision_is_imported_only_for_images():
    code = (
        "import sys, mialab as mia; mia.load('digits'); mia.datasets()\n"
        "print('torchvision' in sys.modules)\n"
        "try: mia.load('mnist')\n"
        "except ValueError: pass\n"
        "print('torchvision' in sys.modules)"
    )
    folder = _paths.cache_folder() / "data" / "mnist" / "MNIST" / "raw"
    write(folder, dict.fromkeys(IDX, b"nothing"))  # so that nothing is downloaded
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "True"], done.stderr


# ----------------------------------------------------------------------------------------------------
# Purchase100 and Texas100


def table(n=300):
    """Make a small table with every class; labels 1..100."""
    rng = np.random.default_rng(3)
    return rng.integers(0, 2, size=(n, 60), dtype=np.uint8), rng.permutation(np.arange(n) % 100) + 1


@pytest.fixture
def narrow(monkeypatch):
    """Expect 300 x 60 features, so that the tests are quick."""
    for name in TABLES:
        change(monkeypatch, name, records=300)
        monkeypatch.setitem(tables.SHOKRI, name, (60, tables.SHOKRI[name][1]))


def csv(array):
    return "".join(",".join(map(str, row)) + "\n" for row in array.tolist()).encode()


def npy(array):
    written = io.BytesIO()
    np.save(written, array)
    return written.getvalue()


def npz(**arrays):
    written = io.BytesIO()
    np.savez(written, **arrays)
    return written.getvalue()


def forms(name):
    """All forms of a small table that are accepted: what lies in the folder."""
    x, y = table()
    both = np.column_stack([y, x])
    one_hot = np.eye(100)[y - 1]
    common = [
        {f"{name}.npz": npz(features=x.astype(np.float32), labels=one_hot)},
        {f"{name}.npz": npz(X=x.astype(np.float64), Y=y - 1)},
    ]
    if name == "purchase100":
        text = {"dataset_purchase": csv(both)}
        return [*common, {"purchase.npy": npy(both)}, text, {"dataset_purchase.tgz": archive(text)}]
    text = {"texas/100/feats": csv(x), "texas/100/labels": csv(y[:, None])}
    arrays = {"texas100-features.npy": npy(x.astype(np.float32)), "texas100-labels.npy": npy(y)}
    return [*common, arrays, text, {"dataset_texas.tgz": archive(text)}]


CUT = {"size": 100, "validation": 40, "test": 60}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_the_same_in_every_form(narrow, monkeypatch, tmp_path, name):
    x, y = table()
    pools = []
    for form, files in enumerate(forms(name)):
        write(tmp_path / str(form), files)
        monkeypatch.setenv("MIALAB_DATA", str(tmp_path / str(form)))
        pools.append(load(name, **CUT))
        assert pools[-1].notes.startswith(f"read from {next(iter(files)).rpartition('/')[2]}; ")
    assert len({pool.fingerprint for pool in pools}) == 1
    assert len({pool.notes.partition("sha256")[2] for pool in pools}) == 1
    expected = hashlib.sha256(x.tobytes() + (y - 1).tobytes()).hexdigest()
    assert pools[0].notes.endswith(f"no published checksum known, sha256 of features and labels {expected}")
    assert (pools[0].kind, pools[0].x.dtype) == ("binary", np.float32)
    assert labels_of(pools[0].x, pools[0].y).items() <= labels_of(x.astype(np.float32), y - 1).items()
    assert registry.REGISTRY[name].make().x.dtype == np.uint8  # only what is taken becomes float32


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_downloaded_once(narrow, monkeypatch, web, name):
    offer(monkeypatch, web, name, forms(name)[-1])
    assert load(name, **CUT).fingerprint == load(name, **CUT).fingerprint
    assert len(web[2]) == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"dataset_purchase.tgz": archive({"other": b""})}, r"cannot be read .*dataset_purchase"),
        (
            {"dataset_purchase.tgz": forms("purchase100")[-1]["dataset_purchase.tgz"][:1000]},
            r"cannot be read",
        ),
        ({"purchase100.npz": npz(a=np.zeros(3))}, r"it holds a instead of features, labels"),
        ({"purchase.npy": npy(np.zeros((300, 601)))}, r"labels must be 1\.\.100 or 0\.\.99"),
        ({"dataset_purchase": b"1,0,x\n"}, r"dataset_purchase cannot be read"),
        (
            {"purchase100.npz": npz(x=np.full((300, 600), 2), y=np.arange(300) % 100)},
            r"features must be 0 and 1\)\. Delete it and load again$",
        ),
        (
            {"purchase100.npz": npz(x=np.zeros((300, 599)), y=np.arange(300) % 100)},
            r"holds 300 x 599 features and 300 labels, but the published set has 300 x 600",
        ),
        (
            {"purchase100.npz": npz(x=np.zeros((200, 600)), y=np.arange(200) % 100)},
            r"holds 200 x 600 features and 200 labels, but",
        ),
    ],
)
def test_a_damaged_or_different_table_is_refused(monkeypatch, tmp_path, files, message):
    change(monkeypatch, "purchase100", records=300)
    write(tmp_path / "data", files)
    monkeypatch.setenv("MIALAB_DATA", str(tmp_path / "data"))
    with pytest.raises(ValueError, match=message):
        load("purchase100", **CUT)


@pytest.mark.parametrize(
    "files", [{"texas/100/feats": b"0,1\n"}, {"texas100-features.npy": npy(np.zeros((2, 2)))}]
)
def test_features_without_labels_are_not_enough(monkeypatch, tmp_path, files):
    write(tmp_path / "data", files)
    monkeypatch.setenv("MIALAB_DATA", str(tmp_path / "data"))
    with pytest.raises(
        FileNotFoundError, match=r"^texas100: .* is here, but a file .* is missing \(.*labels"
    ):
        load("texas100", **CUT)


# ----------------------------------------------------------------------------------------------------
# Adult

ADULT = """39, State-gov, 77516, Bachelors, 13, Single, Sales, Not-in-family, White, Male, 2174, 0, 40, Cuba, <=50K
50, ?, 83311, Bachelors, 13, Married, Exec-managerial, Husband, White, Male, 0, 0, 13, Cuba, >50K
38, Private, 215646, HS-grad, 9, Divorced, Sales, Not-in-family, White, Female, 0, 10, 40, ?, <=50K
53, Private, 234721, 11th, 7, Married, Sales, Husband, Black, Male, 0, 0, 41, Cuba, >50K
"""


@pytest.fixture
def adult(monkeypatch):
    """Make 4 + 2 records as text files and as the same in one .npz."""
    lines = ADULT.splitlines()
    test = "|1x3 Cross validator\n" + "".join(f"{line}.\n" for line in lines[:2])
    rows = [line.split(", ") for line in lines + lines[:2]]
    columns = list(zip(*rows, strict=True))
    numeric = [0, 2, 4, 10, 11, 12]
    others = [k for k in range(14) if k not in numeric]
    numbers = np.array([[int(row[k]) for k in numeric] for row in rows], np.int32)
    codes = np.array([np.unique(columns[k], return_inverse=True)[1] for k in others], np.uint8).T
    y = np.array([row[-1] == ">50K" for row in rows], np.int64)
    content = b"".join(map(registry.plain_bytes, (numbers, codes, y)))
    monkeypatch.setattr(tables, "ADULT_SHA256", hashlib.sha256(content).hexdigest())
    packed = npz(numeric=numbers, categorical=codes, labels=y.astype(np.uint8), n_train=np.int32(4))
    text = {"adult.data": ADULT.encode() + b"\n", "adult.test": test.encode()}
    return text, {"adult.npz": packed}, codes


def test_adult_is_the_same_in_both_forms(adult, monkeypatch, tmp_path):
    *both, codes = adult
    pools = []
    for form, files in enumerate(both):
        write(tmp_path / str(form) / "adult", files)
        monkeypatch.setenv("MIALAB_DATA", str(tmp_path / str(form)))
        pools.append(load("adult", size=4, validation=0, test=2))
    assert pools[0].fingerprint == pools[1].fingerprint
    pool = pools[0]
    assert (pool.kind, pool.x.dtype, pool.label_names) == ("tabular", np.float32, ("<=50K", ">50K"))
    assert pool.x.shape == (4, 6 + sum(len(np.unique(column)) for column in codes.T))
    # Standardized by the training records, and one category of each kind per record.
    np.testing.assert_allclose(pool.x[:, :6].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(pool.x[:, :6].std(axis=0), 1, rtol=1e-6)
    assert np.array_equal(pool.x[:, 6:].sum(axis=1), np.full(4, 8))
    # The two test records are the first two training records.
    known = labels_of(pool.x, pool.y)
    assert labels_of(pool.x_test, pool.y_test).items() <= known.items()
    assert len(known) == 4
    assert sorted(pool.y) == [0, 0, 1, 1]


def test_adult_is_downloaded_once(adult, monkeypatch, web):
    offer(monkeypatch, web, "adult", adult[0])
    for _ in range(2):
        load("adult", size=4, validation=0, test=2)
    assert len(web[2]) == 2


def test_a_different_or_incomplete_adult_is_refused(adult, monkeypatch, tmp_path):
    text = adult[0]
    monkeypatch.setenv("MIALAB_DATA", str(tmp_path))
    write(tmp_path, {"adult.data": text["adult.data"]})
    with pytest.raises(
        FileNotFoundError, match=r"^adult: .*adult\.data is here, but .* is missing \(.*adult\.test"
    ):
        load("adult")
    write(tmp_path, text | {"adult.data": text["adult.data"].replace(b"39", b"40")})
    with pytest.raises(ValueError, match=r"adult\.data does not hold the published records, by checksum"):
        load("adult")
    write(tmp_path, {"adult.npz": adult[1]["adult.npz"][:-40]})
    with pytest.raises(ValueError, match=r"adult\.npz cannot be read"):
        load("adult")


# ----------------------------------------------------------------------------------------------------
# Faces


def face(level):
    """Write a photograph of 250 x 250: the middle of one color, around it noise that is cut away."""
    pixels = np.random.default_rng(level).integers(0, 256, size=(250, 250, 3), dtype=np.uint8)
    pixels[60:190, 60:190] = (level, level + 3, level + 6)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "JPEG", quality=100, subsampling=0)
    return written.getvalue()


def faces():
    """Make two people with 20 images each and one with too few."""
    files = {
        f"lfw_funneled/{name}/{name}_{k:04}.jpg": face(start + 5 * k)
        for name, start, count in (("Ann_Lee", 10, 20), ("Bo_Ek", 120, 20), ("Cy_Few", 60, 3))
        for k in range(count)
    }
    return files


def check_faces(pool):
    assert (pool.kind, pool.x.shape, pool.x.dtype) == ("image", (20, 1, 48, 48), np.uint8)
    assert pool.label_names == ("Ann Lee", "Bo Ek")
    expected = {(0, 13 + 5 * k) for k in range(20)} | {(1, 123 + 5 * k) for k in range(20)}
    # JPEG at its best quality moves a value by one or two.
    for image, label in zip(pool.x, pool.y, strict=True):
        level = int(np.median(image))
        assert np.abs(image.astype(int) - level).max() <= 3
        assert min(abs(level - known) for person, known in expected if person == label) <= 2


def test_faces_are_read_from_scikit_learns_folder(monkeypatch, tmp_path):
    write(tmp_path / "data" / "lfw_home", faces())
    monkeypatch.setenv("MIALAB_DATA", str(tmp_path / "data"))
    change(monkeypatch, "lfw", records=40, n_classes=2)
    before = sorted((tmp_path / "data").rglob("*"))
    check_faces(load("lfw", size=20, validation=4, test=16))
    assert sorted((tmp_path / "data").rglob("*")) == before  # so a folder that cannot be written will do
    change(monkeypatch, "lfw", records=50)
    with pytest.raises(
        ValueError, match=r"holds 40 images of 2 people, but those with 20 or more images are 50 of 2"
    ):
        load("lfw")
    broken = tmp_path / "data" / "lfw_home" / "lfw_funneled" / "Bo_Ek" / "Bo_Ek_0003.jpg"
    Image.new("RGB", (251, 250)).save(broken)
    with pytest.raises(
        ValueError, match=r"^lfw: .*_funneled cannot be read \(Bo_Ek_0003\.jpg has \(251, 250\)"
    ):
        load("lfw")
    broken.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"^lfw: .*_funneled cannot be read \(cannot identify image file"):
        load("lfw")


def test_faces_are_those_of_scikit_learn(tmp_path):
    from sklearn.datasets import fetch_lfw_people

    texts = dict.fromkeys(("pairs.txt", "pairsDevTrain.txt", "pairsDevTest.txt"), b"")
    write(tmp_path / "lfw_home", faces() | texts)
    center = slice(68, 182)
    expected = fetch_lfw_people(
        data_home=tmp_path,
        min_faces_per_person=20,
        slice_=(center, center),
        resize=48.5 / 114,
        download_if_missing=False,
    )
    x, y, people = images._read_lfw(tmp_path / "lfw_home" / "lfw_funneled")
    np.testing.assert_array_equal(x, np.round(expected.images * 255))
    np.testing.assert_array_equal(y, expected.target)
    assert people == expected.target_names.tolist()


def test_faces_are_downloaded_once(monkeypatch, web):
    offer(monkeypatch, web, "lfw", {"lfw-funneled.tgz": archive(faces())})
    change(monkeypatch, "lfw", records=40, n_classes=2)
    for _ in range(2):
        check_faces(load("lfw", size=20, validation=4, test=16))
    assert len(web[2]) == 1


def test_faces_from_an_npz(monkeypatch, tmp_path):
    x = np.random.default_rng(0).integers(0, 256, size=(40, 48, 48), dtype=np.uint8)
    y = (np.arange(40) % 2).astype(np.int16)
    file = "lfw/lfw_min20_48x48_gray.npz"
    whole = npz(images=x, labels=y, names=np.array(["Ann_Lee", "Bo_Ek"]))
    write(tmp_path, {file: whole})
    monkeypatch.setenv("MIALAB_DATA", str(tmp_path))
    change(monkeypatch, "lfw", records=40, n_classes=2)
    pool = load("lfw", size=20, validation=4, test=16)
    assert pool.label_names == ("Ann Lee", "Bo Ek")
    assert labels_of(pool.x[:, 0], pool.y).items() <= labels_of(x, y).items()
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 1
    write(tmp_path, {file: bytes(damaged)})
    with pytest.raises(ValueError, match=r"gray\.npz cannot be read \(Bad CRC-32"):
        load("lfw")


# ----------------------------------------------------------------------------------------------------
# Skin lesions

LESIONS = {"akiec": 3, "bcc": 4, "bkl": 6, "df": 2, "mel": 7, "nv": 9, "vasc": 5}
LESION_LABELS = ("df", "nv", "akiec", "mel", "bcc", "vasc", "bkl")


def lesions(counts=LESIONS):
    """Make a small table in the format of Kaggle's file: pixels row by row, red, green and blue of each, label last."""
    y = np.repeat(np.arange(7), [counts[name] for name in LESION_LABELS])
    x = np.random.default_rng(0).integers(0, 256, size=(len(y), 28, 28, 3), dtype=np.uint8)
    header = ",".join([f"pixel{i:04}" for i in range(28 * 28 * 3)] + ["label"]) + "\n"
    return header.encode() + csv(np.column_stack([x.reshape(len(y), -1), y])), x, y


@pytest.fixture
def few_lesions(monkeypatch, tmp_path):
    change(monkeypatch, "ham10000", records=sum(LESIONS.values()))
    monkeypatch.setattr(images, "HAM10000", LESIONS)
    monkeypatch.setenv("MIALAB_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("place", ["", "ham10000/"])
def test_lesions_are_read_from_kaggles_table(few_lesions, place):
    assert not datasets().loc["ham10000", "here"]
    content, x, y = lesions()
    write(few_lesions, {f"{place}hmnist_28_28_RGB.csv": content})
    assert datasets().loc["ham10000", "here"]
    pool = load("ham10000", size=20, validation=4, test=12)
    assert (pool.kind, pool.x.shape, pool.x.dtype) == ("image", (20, 3, 28, 28), np.uint8)
    parts = [(pool.x, pool.y), (pool.x_val, pool.y_val), (pool.x_test, pool.y_test)]
    found = {k: v for part in parts for k, v in labels_of(*part).items()}
    assert found == labels_of(np.moveaxis(x, -1, 1), y)
    assert pool.label_names == LESION_LABELS  # known by their numbers
    expected = hashlib.sha256(x.tobytes() + y.astype(np.int64).tobytes()).hexdigest()
    assert f"sha256 of pixels and labels {expected}" in pool.notes


def test_other_lesions_are_refused(few_lesions):
    content, *_ = lesions(LESIONS | {"nv": 8})
    header, *rows = content.splitlines(keepends=True)
    for damaged, message in (
        (content, r"has 2, 8, 3, 7, 4, 5, 6 images .* has, in some order, 2, 3, 4, 5, 6, 7, 9\. Replace it"),
        (
            header.replace(b"label", b"class") + rows[0],
            r"cannot be read \(it has 2353 columns instead of .* label",
        ),
        (header[6:] + rows[0][2:], r"cannot be read"),
        (header + rows[0].replace(b",", b",999,", 1), r"cannot be read"),
        (b"", r"cannot be read"),
    ):
        write(few_lesions, {"hmnist_28_28_RGB.csv": damaged})
        with pytest.raises(ValueError, match=message):
            load("ham10000")


def test_lesions_that_are_not_here_are_not_downloaded():
    with pytest.raises(FileNotFoundError, match=r"^ham10000 is not here and is not downloaded") as caught:
        load("ham10000")
    for part in ("hmnist_28_28_RGB.csv", "kaggle.com", "MIALAB_DATA", str(_paths.cache_folder() / "data")):
        assert part in str(caught.value)


def test_the_published_number_of_lesions():
    assert sum(images.HAM10000.values()) == registry.REGISTRY["ham10000"].records
    assert len(set(images.HAM10000.values())) == registry.REGISTRY["ham10000"].n_classes


# ----------------------------------------------------------------------------------------------------
# The real files, where they are

KNOWN = {  # parts by default; records of the smallest and largest class in the whole set, as published
    "mnist": ((10_000, 1000, 2000), (1, 28, 28), (5421, 6742)),
    "fashion_mnist": ((10_000, 1000, 2000), (1, 28, 28), (6000, 6000)),
    "cifar10": ((10_000, 1000, 2000), (3, 32, 32), (5000, 5000)),
    "cifar100": ((10_000, 1000, 2000), (3, 32, 32), (500, 500)),
    "stl10": ((4000, 400, 2000), (3, 96, 96), (500, 500)),
    "lfw": ((2000, 200, 823), (1, 48, 48), (20, 530)),
    "adult": ((10_000, 1000, 2000), (108,), (7841, 24_720)),
    "purchase100": ((36_000, 2000, 2000), (600,), None),
    "texas100": ((27_000, 1500, 1500), (6169,), None),
    "ham10000": ((7000, 700, 2315), (3, 28, 28), (115, 6705)),
}


@pytest.mark.real_data
@pytest.mark.skipif(not REAL, reason="MIALAB_DATA is not set")
@pytest.mark.parametrize("name", KNOWN)
def test_the_real_sets(monkeypatch, name):
    monkeypatch.setenv("MIALAB_DATA", REAL)
    if not datasets().loc[name, "here"]:
        pytest.skip(f"MIALAB_DATA holds no {name}")
    parts, shape, counts = KNOWN[name]
    entry = registry.REGISTRY[name]
    pool = load(name)
    assert (len(pool), len(pool.y_val), len(pool.y_test)) == parts
    assert pool.x.shape[1:] == shape
    for labels in (pool.y, pool.y_val, pool.y_test):
        assert set(labels) == set(range(entry.n_classes))
    whole = entry.make()
    assert len(whole.y) == entry.records
    assert (0 if whole.y_test is None else len(whole.y_test)) == entry.own_test
    if counts:
        assert (np.bincount(whole.y).min(), np.bincount(whole.y).max()) == counts
