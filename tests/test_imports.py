"""What imports what: the direction, what stays unloaded, the stubs of lazy packages, and missing extras."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STUBS = sorted((ROOT / "mialab").rglob("__init__.pyi"))
#: What takes long to load, and what only an extra brings.
HEAVY = [
    "matplotlib",
    "seaborn",
    "torchvision",
    "torchmetrics",
    "opacus",
    "sklearn.neural_network",
    "distributed",
]


def python(code, **environment):
    """Run code in a process of its own."""
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment}
    )


def test_imports_go_one_way():
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}
    )
    assert done.returncode == 0, done.stdout


#: What is done in one process, one after the other, and what must not be loaded then.
WORK = {
    "import mialab": ("import mialab", [*HEAVY, "sklearn", "torch", "numpy", "pandas", "xarray"]),
    "mialab.play": ("mialab.play", HEAVY),
    "audit of stored answers": (
        "import numpy as np\n"
        "member = np.eye(4, dtype=bool)[[0, 0, 1, 1]] ^ [[0], [1], [0], [1]]\n"
        "game = mialab.Game.from_arrays(logits=np.zeros((4, 1, 4, 2)), member=member > 0, y=np.arange(4) % 2)\n"
        "mialab.audit(game, attacks=['loss'])",
        HEAVY,
    ),
    "a game of two models": (
        "pool = mialab.load('digits', size=20, test=10)\n"
        "mialab.play(pool, training=mialab.Training(epochs=1), n_models=2)",
        HEAVY,
    ),
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """What was loaded of what must not be, after each piece of work."""
    steps = [f"{work}\nprint(sorted({set(names)} & set(sys.modules)))" for work, names in WORK.values()]
    done = python("import sys\n" + "\n".join(steps), MIALAB_CACHE=str(tmp_path_factory.mktemp("cache")))
    assert done.returncode == 0, done.stderr
    return dict(zip(WORK, done.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("work", WORK)
def test_what_stays_unloaded(work, loaded):
    assert loaded[work] == "[]"


def test_the_package_is_imported_at_once():
    code = "import time; t = time.monotonic(); import mialab; print(time.monotonic() - t)"
    assert min(float(python(code).stdout) for _ in range(3)) < 2.5  # in seconds; some 0.1 on an idle machine


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.parent.name)
def test_stubs_name_what_is_there(stub):
    package = importlib.import_module(".".join(stub.parent.relative_to(ROOT).parts))
    names = []
    for node in ast.parse(stub.read_text()).body:
        assert isinstance(node, ast.ImportFrom)
        assert node.level == 1
        for alias in node.names:
            assert alias.asname == alias.name, f"{stub}: a type checker takes {alias.name} for private"
            found = getattr(package, alias.name)
            if node.module:
                source = importlib.import_module(f"{package.__name__}.{node.module}")
                assert found is getattr(source, alias.name)
            else:
                assert found is importlib.import_module(f"{package.__name__}.{alias.name}")
            names.append(alias.name)
    assert sorted(names) == sorted(package.__all__) == sorted(set(names))
    assert set(names) <= set(dir(package))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "missing", "use"),
    [
        ("plots", "seaborn", "mialab.plots"),
        ("images", "torchvision", "from mialab._torchvision import torchvision"),
        ("book", "jupytext", "import mialab.book.execution"),
    ],
)
def test_a_missing_extra_is_one_clear_message(extra, missing, use):
    done = python(f"import sys, mialab\nsys.modules[{missing!r}] = None\n{use}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ModuleNotFoundError: This needs {missing}, which is not installed: pip install 'mialab[{extra}]'."
    )
