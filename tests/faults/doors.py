"""Whatever comes in from outside: it is taken as it is, or refused with one of few errors."""

import contextlib
import io
import json
import os
import resource
import signal
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from faults.inputs import INPUTS
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import mialab as mia
from mialab import cli
from mialab.auditing.scores import audit_scores
from mialab.book import execution, reference_runs
from mialab.exceptions import RequirementsNotMet
from mialab.games.store import games_root
from mialab.gan import GeneratorGame
from mialab.metrics import epsilon_lower_bound

#: What a door may raise: input that is wrong, a file that is missing or unreadable, a wrong type.
DOCUMENTED = (ValueError, RequirementsNotMet, OSError, TypeError)
#: Most that an input may take: seconds, and bytes besides those that are taken already.
SECONDS, BYTES = 20, 3 * 2**30


class Hang(BaseException):
    """An input has taken too long."""


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Stop what takes too long or too much memory."""

    def too_long(*_: Any) -> None:
        raise Hang(f"no answer in {SECONDS} s")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def _memory_limit() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))


def attempt(door: Callable[[Any], Any], given_: Any) -> str:
    """Let something through a door; return a verdict."""
    try:
        with _limits(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return door(given_) or ""
    except DOCUMENTED as error:
        text = str(error)
        if not text.strip():
            return f"error: {type(error).__name__} without a message for {given_!r:.300}"
        if "\x1b" in text:
            return f"error: a message of {len(text)} characters, raw: {text[:100]!r}"
        return ""
    except (Exception, Hang) as error:
        return f"error: {type(error).__name__}: {str(error)[:150]} for {given_!r:.300}"


def _of_each(
    indices: Sequence[int], strategy: st.SearchStrategy[Any], door: Callable[[Any], Any]
) -> Iterator[str]:
    """Draw an input for each index and let it through the door; the first index is the seed."""
    found: list[str] = []

    @seed(indices[0])
    @settings(
        max_examples=len(indices),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def let_in(value: Any) -> None:
        found.append(attempt(door, value))

    _memory_limit()
    let_in()
    yield from found[: len(indices)]


# ----------------------------------------------------------------------------------------------------
# Files

DTYPES = st.sampled_from(
    ["f4", "f8", "f2", "u1", "i8", "i4", "u8", "?", "c8", "U3", "S2", "M8[s]", "V4", ">f4", ">i8", "O"]
)


@st.composite
def array(draw: st.DrawFn, dtypes: st.SearchStrategy[str] = DTYPES, dims: int = 4) -> np.ndarray:
    """Draw an array of any type, with odd values."""
    dtype = np.dtype(draw(dtypes))
    shape = draw(arrays.array_shapes(min_dims=0, max_dims=dims, min_side=0, max_side=6))
    if dtype.kind == "O":
        made = np.empty(shape, object)
        made[...] = draw(st.sampled_from([None, 1, "text", {"a": 1}, 2**70]))
        return made
    if dtype.kind == "V":
        return np.zeros(shape, dtype)
    return draw(arrays.arrays(dtype, shape))


@st.composite
def damaged(draw: st.DrawFn, contents: Sequence[bytes]) -> bytes:
    """Draw the bytes of a file, of which some are others, are missing, or come twice."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        how = draw(st.sampled_from(["flip", "set", "cut", "remove", "repeat", "insert"]))
        if how == "flip" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif how == "set":
            content[place : place + 4] = draw(st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"]))
        elif how == "cut":
            del content[place:]
        elif how == "remove":
            del content[place : place + draw(st.integers(1, 64))]
        elif how == "repeat":
            content[place:place] = content[place : place + draw(st.integers(1, 200))]
        else:
            content[place:place] = draw(st.binary(max_size=8))
    return bytes(content)


def packed(save: Callable[..., None] = np.savez, **values: Any) -> bytes:
    """Return the bytes of an .npz file."""
    buffer = io.BytesIO()
    save(buffer, **values)
    return buffer.getvalue()


def own_files(indices: Sequence[int], folder: Path) -> Iterator[str]:
    """A user's own .npz: damaged, with arrays of any type under known names, or an archive of something else."""
    x, y = np.random.default_rng(0).random((30, 1, 4, 4)).astype(np.float32), np.arange(30) % 3
    whole = [
        packed(save, x=x, y=y, x_test=x, y_test=y, label_names=np.array(["a", "b", "c"]))
        for save in (np.savez, np.savez_compressed)
    ]
    path = folder / "own.npz"
    keys = st.sampled_from(["x", "y", "x_val", "y_val", "x_test", "y_test", "label_names", "z"])
    labels = st.sampled_from([[0, 1, 0, 1], [1, 2, 1, 2], [0, 10**8, 0, 1], [-1, 0, 1, 0], [0, 2**62, 1, 0]])
    structured = st.dictionaries(keys, array(), max_size=4)
    labeled = st.builds(lambda x, y: {"x": x, "y": np.array(y)}, array(), labels)

    def door(value: Any) -> str:
        path.write_bytes(value if isinstance(value, bytes) else packed(**value))
        pool = mia.load(path)
        fine = np.isfinite(pool.x).all() and pool.y.min() >= 0 and pool.y.max() < pool.n_classes
        return "" if fine else "wrong: values that are no features or labels"

    yield from _of_each(indices, st.one_of(damaged(whole), damaged(whole), structured, labeled), door)


def published_files(indices: Sequence[int], folder: Path) -> Iterator[str]:
    """Files of published data sets, damaged or of something else: never taken for the published ones."""
    rng = np.random.default_rng(0)
    bits = (rng.random((60, 16)) < 0.5).astype(np.uint8)
    y = np.arange(60)
    table = "\n".join(",".join(map(str, row)) for row in np.column_stack([y + 1, bits])).encode()
    adult = b"39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, 2174, 0, "
    adult = (adult + b"40, United-States, <=50K\n") * 4
    pixels = ",".join([*(f"pixel{i}" for i in range(28 * 28 * 3)), "label"]).encode()
    forms = {
        "location30/location30.npz": [packed(features_packed=bits, labels=y, n_features=16), packed(x=bits)],
        "location30/bangkok": [table],
        "purchase100/purchase100.npz": [packed(features=bits, labels=y), packed(x=bits, y=y)],
        "texas100/texas100.npz": [packed(features=bits, labels=y)],
        "adult/adult.npz": [packed(numeric=bits, categorical=bits, labels=y, n_train=np.array(30))],
        "adult/adult.data": [adult],
        "lfw/lfw_min20_48x48_gray.npz": [packed(images=bits, labels=y, names=np.array(["a", "b"]))],
        "ham10000/hmnist_28_28_RGB.csv": [pixels + b"\n" + b"1," * (28 * 28 * 3) + b"3\n"],
    }
    os.environ["MIALAB_DATA"], os.environ["MIALAB_CACHE"] = str(folder), str(folder / "cache")
    strategy = st.sampled_from(sorted(forms)).flatmap(
        lambda form: st.tuples(st.just(form), st.one_of(damaged(forms[form]), st.binary(max_size=200)))
    )

    def door(value: tuple[str, bytes]) -> str:
        file = folder / value[0]
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(value[1])
        if file.name == "adult.data":
            file.with_name("adult.test").write_bytes(b"|1x3 Cross validator\n" + value[1])
        try:
            mia.load(file.parent.name)
        finally:
            file.unlink()
        return f"wrong: {value[0]} was taken for the published one"

    yield from _of_each(indices, strategy, door)


def archives(indices: Sequence[int], folder: Path) -> Iterator[str]:
    """Archives whose members have odd names, sizes and headers."""
    path = folder / "own.npz"
    names = st.sampled_from(["x.npy", "y.npy", "../x.npy", "/etc/x.npy", "x", "x.npy\0", "y.npy/", "é.npy"])
    headers = st.sampled_from(
        [
            "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 2), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
            "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
            "{'descr': '<f4', 'fortran_order': 1, 'shape': (4,) ",
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (4,), }",
            "__import__('os').system('true')",
            "(" * 500,
        ]
    )
    member = st.tuples(names, headers, st.binary(max_size=64), st.sampled_from([0, 8, 12, 14]))

    def door(members: list[tuple[str, str, bytes, int]]) -> None:
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
            warnings.simplefilter("ignore")
            for name, header, content, method in members:
                text = header.encode() + b"\n"
                start = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little")
                info = zipfile.ZipInfo(name)
                info.compress_type = method
                archive.writestr(info, start + text + content)
        mia.load(path)

    yield from _of_each(indices, st.lists(member, min_size=1, max_size=3), door)


def readers(indices: Sequence[int], folder: Path) -> Iterator[str]:
    """Archives of tables, pickled batches and photographs, and arguments of measures, see `faults.inputs`."""
    inputs = {}
    for name, make in INPUTS.items():
        (folder / name).mkdir()
        inputs[name] = make(folder / name)
    strategy = st.one_of(*(st.tuples(st.just(name), one.values) for name, one in inputs.items()))
    yield from _of_each(indices, strategy, lambda value: inputs[value[0]].let_in(value[1]))


# ----------------------------------------------------------------------------------------------------
# Arrays

NUMBERS = st.sampled_from(["f4", "f8", "f2", "i8", "u1", "?", "c8", "U2", "O"])


def _spoiled(values: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw the arguments of a call, of which one or two are something else."""
    odd = st.one_of(
        array(NUMBERS, 5),
        st.sampled_from(
            [None, "text", 3, [], [[1], [1, 2]], {}, np.inf, np.nan, object(), b"bytes", -1, 10**9]
        ),
    )
    names = st.sampled_from(sorted(values))
    planted = st.sampled_from([np.nan, np.inf, -np.inf, -1, 2**53, 789, 0.5, 10**8])
    place = st.integers(0, 10**6)

    def plant(name: str, value: float, where: int) -> dict[str, Any]:
        kept = np.array(values[name])
        if kept.dtype.kind == "U":
            return {**values, name: value}
        if kept.dtype.kind not in "fi":
            kept = kept.astype(np.float64)
        with contextlib.suppress(ValueError, OverflowError):
            kept.flat[where % kept.size] = value
        return {**values, name: kept}

    other = st.dictionaries(names, odd, min_size=1, max_size=2).map(lambda changed: {**values, **changed})
    return st.one_of(other, st.builds(plant, names, planted, place))


def given_arrays(indices: Sequence[int], folder: Path) -> Iterator[str]:
    """Arrays of a user's, as games of classifiers and of generators, as losses, scores and pools."""
    rng = np.random.default_rng(0)
    member = np.repeat([[True, False] * 6], 4, 0) ^ (np.arange(4) % 2 == 1)[:, None]
    loss, y = rng.normal(size=(4, 12)), np.arange(12) % 3
    partner = np.arange(4) ^ 1
    whole: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "classifiers": (
            mia.Game.from_arrays,
            {
                "logits": rng.normal(size=(4, 12, 3)),
                "member": member,
                "y": y,
                "partner": partner,
                "test_accuracy": np.full(4, 0.5),
                "gradient_norm": rng.random((4, 12, 2)),
            },
        ),
        "signals": (mia.Game.from_arrays, {"loss": loss, "member": member, "n_classes": 3}),
        "generators": (
            GeneratorGame.from_arrays,
            {
                "member": member,
                "samples": rng.random((4, 6, 5)).astype(np.float32),
                "sample_y": np.arange(6) % 3,
                "y": y,
                "partner": partner,
                "critic": loss,
                "n_classes": 3,
            },
        ),
        "losses": (
            audit_scores,
            {
                "target_loss": loss[:2],
                "target_member": member[:2],
                "reference_loss": rng.normal(size=(6, 12)),
                "reference_member": np.concatenate([member, member[:2]]),
                "own_reference": np.array([-1, -1]),
            },
        ),
        "pools": (
            mia.Pool,
            {
                "name": "toy",
                "x": rng.random((12, 1, 4, 4)).astype(np.float32),
                "y": y,
                "n_classes": 3,
                "kind": "image",
                "x_test": rng.random((6, 1, 4, 4)).astype(np.float32),
                "y_test": y[:6],
            },
        ),
        "scores": (
            epsilon_lower_bound,
            {"in_scores": loss[0], "out_scores": loss[1], "delta": 1e-5, "confidence": 0.95},
        ),
    }
    strategy = st.sampled_from(sorted(whole)).flatmap(
        lambda door: st.tuples(st.just(door), _spoiled(whole[door][1]))
    )

    def door(value: tuple[str, dict[str, Any]]) -> str:
        made = whole[value[0]][0](**value[1])
        return _sound(made) if isinstance(made, mia.Game | GeneratorGame) else ""

    yield from _of_each(indices, strategy, door)


def _sound(game: Any) -> str:
    """Tell what is wrong with a game that was taken."""
    if game.y.min() < 0 or game.y.max() >= max(game.n_classes, 2):
        return "wrong: labels beyond the classes"
    for name in ("test_accuracy", "train_accuracy"):
        values = getattr(game, name)
        if ((values < 0) | (values > 1)).any():
            return f"wrong: {name} of {values}"
    for name, value in game.dataset.data_vars.items():
        if value.dtype.kind not in "biuf":
            return f"wrong: {name} is {value.dtype}"
    return ""


# ----------------------------------------------------------------------------------------------------
# Parameters, command lines, profiles, tables

ODD = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=12),
    st.none(),
    st.booleans(),
    st.lists(st.integers(-3, 3), max_size=3),
    st.sampled_from(
        ["../../x", "a/b", "http://x", "::", "sgd", "lira", "hamp", 1e300, -0.0, "`<script>`", b"x"]
    ),
)


def parameters(indices: Sequence[int], folder: Path) -> Iterator[str]:
    """Parameters of trainings, games, attacks and audits; nothing is trained."""
    import toys

    from mialab.classifiers.plan import ClassifierPlan

    pool, game = toys.pool(), toys.random_game()
    names = [
        "n_models",
        "seed",
        "canaries",
        "queries",
        "keep",
        "answers",
        "defense",
        "model",
        "probes",
        "members",
    ]
    training = st.sampled_from(sorted(mia.Training.__dataclass_fields__))
    audits = st.sampled_from(["attacks", "fprs", "fnrs", "confidence", "records"])
    doors: dict[str, Callable[[dict[str, Any]], Any]] = {
        "training": lambda given_: mia.Training(**given_).check(pool),
        "plan": lambda given_: ClassifierPlan(**{"pool": pool, "n_models": 4} | given_),
        "audit": lambda given_: mia.audit(game, **{"attacks": ["loss"]} | given_),
        "outcome": lambda given_: game.outcome(given_["attack"]),
        "load": lambda given_: mia.load(**{"name": "digits", "size": 20} | given_),
        "pool": lambda given_: mia.Pool(
            **{"x": pool.x, "y": pool.y, "n_classes": 3, "kind": "tabular"} | given_
        ),
    }
    keys = {
        "training": training,
        "plan": st.sampled_from(names),
        "audit": audits,
        "outcome": st.just("attack"),
        "load": st.sampled_from(["name", "size", "validation", "test", "reference", "seed"]),
        "pool": st.sampled_from(["name", "n_classes", "kind", "label_names"]),
    }
    strategy = st.sampled_from(sorted(doors)).flatmap(
        lambda door: st.tuples(st.just(door), st.dictionaries(keys[door], ODD, min_size=1, max_size=2))
    )

    def door(value: tuple[str, dict[str, Any]]) -> None:
        if value[0] == "pool":
            value[1].setdefault("name", "toy")
        doors[value[0]](value[1])

    yield from _of_each(indices, strategy, door)


def texts(indices: Sequence[int], folder: Path) -> Iterator[str]:
    """Command lines, profiles, tables of results, executed pages and places of games."""
    yaml = st.one_of(
        st.text(max_size=40),
        st.sampled_from(
            ["one: {a: 1", "one: [1, 2", "- 1", "one: !!python/object:os.system x", "&a [*a]", "1", ""]
        ),
        st.sampled_from(["one: {seed: 2020-01-01}", "one: {after: [one]}", "one: 3", "? [a]: b"]),
    )
    words = st.one_of(
        st.text(max_size=10), st.sampled_from(["run", "new", "template", "-p", "seed", "2020-01-01"])
    )
    lines = st.lists(
        st.one_of(words, st.sampled_from(["../x", "/etc/x", "--out", "--profile", "{"])), max_size=5
    )
    json_text = st.one_of(st.text(max_size=30), ODD.map(lambda v: json.dumps(v, default=str)))
    strategy = st.one_of(
        st.tuples(st.just("yaml"), yaml),
        st.tuples(st.just("line"), lines),
        st.tuples(st.just("results"), st.tuples(json_text, st.text(max_size=60))),
        st.tuples(st.just("page"), json_text),
        st.tuples(st.just("place"), st.text(max_size=12)),
    )
    (folder / "notebooks").mkdir()
    (folder / "games").mkdir()

    def line(words_: list[str]) -> None:
        out, error = io.StringIO(), io.StringIO()
        with (
            mock.patch.object(execution, "show_run", return_value=True),
            mock.patch.object(execution, "NOTEBOOKS", folder / "notebooks"),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(error),
        ):
            try:
                cli.main(words_)
            except SystemExit as stop:  # of argparse
                if stop.code not in (0, 2):
                    raise

    def door(value: tuple[str, Any]) -> str:
        what, text = value
        if what == "yaml":
            (folder / "one.yml").write_text(text, encoding="utf-8", errors="replace")
            execution.load_profile("one", folder)
        elif what == "line":
            if text[:1] not in (["sync"], ["datasets"]):
                line(text)
        elif what == "results":
            (folder / "one.json").write_text(text[0], encoding="utf-8", errors="replace")
            (folder / "one-audit.csv").write_text(text[1], encoding="utf-8", errors="replace")
            reference_runs.load("one", folder=folder)
        elif what == "page":
            (folder / "page.ipynb").write_text(text, encoding="utf-8", errors="replace")
            if execution.is_current(folder / "page.ipynb", "key"):
                return "wrong: taken for an executed page"
        elif "\0" not in text:
            place = games_root(str(folder / "games" / text.lstrip("/")) if "://" not in text else text)
            if (
                "://" not in place
                and "~" not in text
                and ".." not in text
                and not place.startswith(str(folder))
            ):
                return f"wrong: {text!r} leads to {place}"
        return ""

    yield from _of_each(indices, strategy, door)
