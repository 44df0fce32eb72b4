"""The lock, the runner's promises, and the pipeline on a small copy of this checkout."""

import datetime as dt
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mialab import cli
from mialab.book import execution, reference_runs
from mialab.training.membership import membership

ROOT = Path(__file__).parents[1]


def write(folder, name, *cells):
    """A notebook with a parameters cell (seed) and further code cells."""
    path = folder / f"{name}.py"
    tagged = '# %% tags=["parameters"]\nseed = 0\n'
    path.write_text("# %% [markdown]\n# # Title\n\n" + tagged + "".join(f"\n# %%\n{c}\n" for c in cells))
    return path


# ---- pins -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lock():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_lock_is_exact_and_free_of_accelerator_packages(lock):
    for pin in lock:
        assert str(pin.specifier).startswith("=="), pin
        assert "+" not in str(pin.specifier), f"{pin} has a local suffix"
        assert not pin.name.startswith(("nvidia", "cuda", "triton")), pin
    names = [pin.name for pin in lock]
    assert names == sorted(names)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_lock_satisfies_pyproject(lock, python):
    here = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux"}
    here_pins = [pin for pin in lock if pin.marker is None or pin.marker.evaluate(here)]
    pins = {pin.name: str(pin.specifier).removeprefix("==") for pin in here_pins}
    assert len(pins) == len(here_pins), "a package has two versions"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for line in [
        *project["dependencies"],
        *(line for name in extras if name != "peers" for line in extras[name]),
    ]:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if name == "mialab":
            continue
        assert name in pins, f"{line} of pyproject.toml is not in requirements.lock: run `make lock`"
        assert requirement.specifier.contains(pins[name]), f"the lock has {name}=={pins[name]}, not {line}"


def test_the_lock_knows_what_torch_needs(lock):
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    (stated,) = tool["uv"]["dependency-metadata"]
    (torch,) = [pin for pin in lock if pin.name == "torch"]
    assert str(torch.specifier) == f"=={stated['version']}"
    needed = {r.name for r in map(Requirement, metadata.requires("torch")) if not r.marker}
    assert needed <= {Requirement(line).name for line in stated["requires-dist"]}


def test_actions_are_pinned_by_commit():
    for workflow in (ROOT / ".github" / "workflows").glob("*.yml"):
        used = re.findall(r"uses: *(\S+)(.*)", workflow.read_text())
        assert used
        for action, note in used:
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), f"{action} of {workflow.name} can change"
            assert re.fullmatch(r"  # v[\d.]+", note), f"which version is {action}?"


def test_conda_installs_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert pip == ["-r requirements.lock", "-e ."]


def test_a_missing_or_old_python_is_one_clear_message(tmp_path):
    for name in ("requirements.lock", "pyproject.toml", ".ci/env"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    old = tmp_path / "python3.6"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        ["sh", ".ci/env"], cwd=tmp_path, env={**os.environ, "PYTHON": str(old)}, capture_output=True
    )
    assert done.returncode == 1
    assert b"needs Python 3.11 or newer" in done.stderr
    assert str(old).encode() in done.stderr
    assert not (tmp_path / ".venv").exists()


# ---- profiles -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", sorted(p.stem for p in (ROOT / "profiles").glob("*.yml")))
def test_profile_fits_the_notebooks(profile):
    for name, given in execution.load_profile(profile).items():
        for other in given.pop("after", []):
            execution.find(other)
        execution.check_parameters(execution.find(name), given)


def test_unknown_names_are_refused_with_the_near_miss(tmp_path):
    notebook = write(tmp_path, "one")
    out = tmp_path / "one.ipynb"
    with pytest.raises(
        ValueError, match=r"'one': the parameter='sead' is unknown\. Did you mean 'seed'\? Known: seed"
    ):
        execution.run(notebook, out, {"sead": 1})
    assert not out.exists()
    with pytest.raises(ValueError, match=r"notebook='onne' is unknown.*Did you mean 'one'"):
        execution.find("onne", tmp_path)
    with pytest.raises(ValueError, match=r"profile='fast' is unknown.*quick"):
        execution.load_profile("fast")


# ---- the runner -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_page(tmp_path_factory):
    """Run a notebook that shows progress, prints over a line and draws: what came of it."""
    progress = (
        "import json, os, pathlib, time\n"
        "file = pathlib.Path(os.environ['MIALAB_PROGRESS'])\n"
        "file.write_text(json.dumps(dict(text='training', done=3, total=8, seconds_left=75)))\n"
        "time.sleep(1.5)\n"
        "file.unlink()\n"
        "for i in range(3):\n    print(seed, end='\\r')"
    )
    folder, lines, children = tmp_path_factory.mktemp("page"), [], []

    class Child(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            children.append(self)

    notebook = write(folder, "one", progress, "import matplotlib.pyplot as plt\nplt.plot([1, 2])")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLBACKEND", "Agg")  # would drop figures without a word
        patch.setattr(subprocess, "Popen", Child)
        record = execution.run(
            notebook, folder / "one.ipynb", {"seed": 7}, profile="tiny", report=lines.append
        )
    page = nbformat.read(folder / "one.ipynb", as_version=4)
    return SimpleNamespace(folder=folder, record=record, lines=lines, page=page, children=children)


@pytest.mark.slow
def test_a_run_reports_its_progress(run_page):
    assert any(line.startswith("cell 4/5 · training 3/8, 1:15 left") for line in run_page.lines), (
        run_page.lines
    )


@pytest.mark.slow
def test_a_page_holds_the_record_of_its_run(run_page):
    record = run_page.record
    assert run_page.page.metadata["mialab"] == record
    assert record["notebook"] == "one"
    assert (record["profile"], record["parameters"]) == ("tiny", {"seed": 7})


@pytest.mark.slow
def test_a_page_holds_nothing_of_the_machinery(run_page):
    assert "papermill" not in run_page.page.metadata
    assert not any("papermill" in c.metadata or "execution" in c.metadata for c in run_page.page.cells)


@pytest.mark.slow
def test_a_page_hides_its_parameters(run_page):
    injected = [c for c in run_page.page.cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert len(injected) == 1
    assert "hide-input" in injected[0].metadata.tags


@pytest.mark.slow
def test_a_page_shows_texts_and_figures(run_page):
    cells = run_page.page.cells
    assert "7" in cells[3].outputs[0].text
    assert any("image/png" in o.get("data", {}) for o in cells[4].outputs), "the figure is missing"


@pytest.mark.slow
def test_a_run_closes_its_pipes(run_page):
    pipes = [pipe for child in run_page.children for pipe in (child.stdin, child.stdout) if pipe]
    assert pipes
    assert all(pipe.closed for pipe in pipes)


@pytest.mark.slow
def test_a_run_leaves_its_page_alone(run_page):
    assert sorted(p.name for p in run_page.folder.iterdir()) == ["one.ipynb", "one.py"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\nraise ValueError('first line\\nlast line')", r"cell 3: ValueError: last line"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", r"cell 3: the kernel died"),
        ("import sys\nsys.exit(3)", r"cell 3: SystemExit: 3"),
        ("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)", r"process ended with code -9"),
    ],
    ids=["error", "killed kernel", "exit", "killed runner"],
)
def test_a_failed_run_leaves_no_page(run_page, tmp_path, monkeypatch, code, message):
    monkeypatch.setattr(execution, "RUNS", tmp_path / "runs")
    notebook, out = write(tmp_path, "bad", code, "print('never reached')"), tmp_path / "bad.ipynb"
    earlier = page_of(run_page.page, out)
    with pytest.raises(execution.NotebookError, match=message) as raised:
        execution.run(notebook, out)
    assert "\n" not in str(raised.value)
    assert str(tmp_path / "runs" / "bad.failed.ipynb") in str(raised.value)
    assert not out.exists()
    assert (tmp_path / "runs" / "bad.previous.ipynb").read_text() == earlier, "a finished execution is lost"
    assert not list(tmp_path.glob("*.part"))
    assert (tmp_path / "runs" / "bad.failed.ipynb").exists()


def page_of(page, out):
    """Write an executed page somewhere; return its text."""
    out.write_text(nbformat.writes(page) + "\n")
    return out.read_text()


@pytest.mark.slow
def test_a_changed_page_is_not_current(run_page, tmp_path):
    """Whatever bit is flipped."""
    page = tmp_path / "one.ipynb"
    whole = page_of(run_page.page, page).encode()
    key = run_page.record["key"]
    assert execution.is_current(page, key)
    assert not execution.is_current(page, "another key")
    rng = np.random.default_rng(0)
    for _ in range(200):
        flipped = bytearray(whole)
        flipped[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        page.write_bytes(flipped)
        assert not execution.is_current(page, key)
    for junk in (
        b"",
        b"[]",
        b"{}",
        b'{"metadata": []}',
        b'{"metadata": {"mialab": 1}}',
        b"[" * 100_000,
        whole[:-5],
    ):
        page.write_bytes(junk)
        assert not execution.is_current(page, key)


@pytest.mark.slow
def test_a_finished_execution_outlives_a_full_disk(tmp_path, monkeypatch):
    """Of the place for pages, and then of every other place as well."""
    notebook, out = write(tmp_path, "one", "print('hours of work')"), tmp_path / "pages" / "one.ipynb"
    monkeypatch.setattr(execution, "RUNS", tmp_path / "runs")
    full, writes = [out.parent], Path.write_text

    def write_text(path, *arguments, **options):
        if any(path.is_relative_to(folder) for folder in full):
            raise OSError(28, "No space left on device")
        return writes(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", write_text)
    for places in ([out.parent], [out.parent, tmp_path / "runs"], [Path("/")]):
        full[:] = places
        with pytest.raises(execution.NotebookError, match=r"cannot be written.*kept as") as raised:
            execution.run(notebook, out)
        kept = Path(re.search(r"kept as (.*?): make room", str(raised.value)).group(1))
        page = nbformat.read(kept, as_version=4)
        assert "hours of work" in page.cells[-1].outputs[0].text
        if places != [Path("/")]:
            out.parent.mkdir(exist_ok=True)
            kept.replace(out)
            assert execution.is_current(out, page.metadata["mialab"]["key"]), "moved there, it is the page"
            out.unlink()
        assert not list(tmp_path.rglob("*.part"))
        if tmp_path not in kept.parents:
            shutil.rmtree(kept.parent)


def test_drafts_go_where_there_is_room(tmp_path):
    blocked, free = tmp_path / "file" / "one.ipynb", tmp_path / "runs" / "one.ipynb"
    (tmp_path / "file").write_text("no folder")
    drafts = execution._Drafts([blocked, free])
    drafts.write("after cell 1", "drafts:draft.ipynb")
    assert (drafts.written, free.read_text()) == (True, "after cell 1")
    (tmp_path / "file").unlink()
    drafts.write("after cell 2", "drafts:draft.ipynb")
    assert (blocked.read_text(), free.exists()) == ("after cell 2", False)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("one.txt", "must end in .ipynb"),
        ("own.ipynb", "not a page as a run left it"),
        ("folder.ipynb", "is a folder"),
        ("file/one.ipynb", "cannot be written"),
        (execution.NOTEBOOKS / "hamp.ipynb", "must not be in notebooks/"),
        (execution.RUNS / ".." / "notebooks" / "new.ipynb", "must not be in notebooks/"),
    ],
)
def test_a_page_goes_only_where_nothing_of_the_users_is(tmp_path, out, message):
    for name in ("own.ipynb", "file"):
        (tmp_path / name).write_text("the user's")
    (tmp_path / "folder.ipynb").mkdir()
    with pytest.raises(ValueError, match=message):
        execution.run(write(tmp_path, "one"), tmp_path / out)
    assert (tmp_path / "own.ipynb").read_text() == "the user's"


@pytest.mark.parametrize(
    "value", [dt.date(2020, 1, 1), {1: 2}, {"a": {1}}, b"bytes", [dt.datetime(2020, 1, 1)]], ids=repr
)
def test_parameters_are_what_a_notebook_can_be_given(tmp_path, value):
    with pytest.raises(ValueError, match=r"the parameter seed=.* must be made of numbers, texts"):
        execution.check_parameters(write(tmp_path, "one"), {"seed": value})


@pytest.mark.parametrize("name", ["../../outside", "/outside", "a/b", ""])
def test_results_stay_in_their_folder(tmp_path, name):
    with pytest.raises(ValueError, match="must be a name for files"):
        reference_runs.save(name, folder=tmp_path / "results")
    with pytest.raises(ValueError, match="must be a name for files"):
        reference_runs.save("run", folder=tmp_path / "results", **{name: pd.DataFrame({"a": [1]})})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {after: [b]}\nb: {after: [c]}\nc: {after: [a]}", "wait for each other by `after`"),
        ("a: {after: [a]}", "wait for each other by `after`: a -> a"),
        ("a: {after: b}", "a: after='b' must be a list"),
        ("a: [1", "cannot be read as YAML"),
        ("[" * 5_000, "cannot be read as YAML"),
        ("[a, b]", "must map notebooks to their parameters"),
        ("a: 1", "must map notebooks to their parameters"),
        ("!!python/object/apply:os.system ['false']", "cannot be read as YAML"),
    ],
)
def test_a_profile_that_cannot_be_followed_is_refused(tmp_path, text, message):
    (tmp_path / "odd.yml").write_text(text)
    with pytest.raises(ValueError, match=message):
        execution.load_profile("odd", tmp_path)


@pytest.mark.slow
def test_a_killed_build_leaves_no_process_and_no_page(tmp_path):
    code = "import os, pathlib, time\npathlib.Path('{}').write_text(str(os.getpid()))\ntime.sleep(60)"
    pid = tmp_path / "pid"
    notebook, out = write(tmp_path, "slow", code.format(pid)), tmp_path / "slow.ipynb"
    script = (
        "from pathlib import Path; from mialab.book.execution import run; "
        f"run(Path({str(notebook)!r}), Path({str(out)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) as build:
        wait_until(lambda: pid.exists() and pid.read_text(), 60)
        build.kill()
    wait_until(lambda: not alive(int(pid.read_text())), 20)
    assert not out.exists()


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_a_figure_cell_shows_the_figure_alone(tmp_path):
    header = '# %% mystnb={"figure": {"caption": "c", "name": "fig-x"}}'
    figure = f"import matplotlib.pyplot as plt\n\n{header}\nplt.plot([1, 2])[0].axes.set(xlabel='x')"
    execution.run(write(tmp_path, "one", figure), tmp_path / "one.ipynb")
    outputs = nbformat.read(tmp_path / "one.ipynb", as_version=4).cells[-1].outputs
    assert [o.output_type for o in outputs] == ["display_data"]


def test_content_key_follows_text_parameters_profile_and_source(tmp_path, monkeypatch):
    notebook = write(tmp_path, "one")
    key = execution.content_key(notebook, {"seed": 1}, "quick")
    assert key == execution.content_key(notebook, {"seed": 1}, "quick")
    others = [
        execution.content_key(notebook, {"seed": 2}, "quick"),
        execution.content_key(notebook, {"seed": 1}, "standard"),
    ]
    others.append(execution.content_key(notebook, {"seed": 1}, "quick", ["key of a predecessor"]))
    monkeypatch.setattr("mialab.provenance.source_hash", lambda *modules: "changed source")
    others.append(execution.content_key(notebook, {"seed": 1}, "quick"))
    monkeypatch.undo()
    monkeypatch.setattr("mialab.provenance.collect", lambda: {"versions": {"torch": "0"}})
    others.append(execution.content_key(notebook, {"seed": 1}, "quick"))
    monkeypatch.undo()
    write(tmp_path, "one", "1 + 1")
    others.append(execution.content_key(notebook, {"seed": 1}, "quick"))
    assert len({key, *others}) == 1 + len(others)


# ---- the command line -----------------------------------------------------------------------------------------


def mialab(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "mialab", *arguments], cwd=cwd, capture_output=True, text=True
    )


@pytest.mark.slow
def test_run_command(tmp_path):
    out = tmp_path / "out.ipynb"
    done = mialab("run", "template", "-p", "seed", "3", "-p", "n_points", "20", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout, "escape codes where no terminal is"
    assert nbformat.read(out, as_version=4).metadata["mialab"]["parameters"] == {"seed": 3, "n_points": 20}
    done = mialab("run", "template", "-p", "n_point", "3", "--out", str(out))
    assert done.returncode == 1
    assert "Did you mean 'n_points'?" in done.stdout
    assert mialab("run", "templat").stderr.startswith("error: notebook='templat' is unknown")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", str(ROOT / "notebooks" / "template")], "error: notebook='/.*' is unknown"),
        (["run", "../notebooks/template"], "error: notebook='../.*' is unknown"),
        (["run", "template", "--profile", "../profiles/quick"], "error: profile='../.*' is unknown"),
        (["run", "template", "-p", "seed", "[1,"], r"error: -p seed '\[1,' cannot be read as YAML"),
        (["run", "template", "--out", "{tmp}/file/one.ipynb"], "FAILED .*file/one.ipynb' cannot be written"),
        (["run", "template", "--out", "notebooks/template.ipynb"], "FAILED .* must not be in notebooks/"),
        (["new", "../escape"], "error: name='../escape' must be letters"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_commands_refuse_in_a_line(tmp_path, arguments, message, capfd):
    (tmp_path / "file").write_text("no folder")
    before = sorted((ROOT / "notebooks").iterdir())
    assert cli.main([a.replace("{tmp}", str(tmp_path)) for a in arguments]) > 0
    output = "".join(capfd.readouterr())
    assert re.match(message, output), output
    assert len(output.splitlines()) == 1
    assert sorted((ROOT / "notebooks").iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "book/index.md"])
def test_the_example_in_the_prose_runs(page, monkeypatch):
    """Every line as printed, but for the size."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    code = re.search(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL).group(1)
    small = code.replace("n_models=16", "n_models=8, training=mia.Training(epochs=1)")
    assert small != code
    exec(compile(small, page, "exec"), {})


def test_the_examples_for_own_answers_run():
    rng = np.random.default_rng(0)
    arrays = {
        "logits": rng.normal(size=(8, 60, 3)),
        "member": membership(8, 60, seed=0),
        "y": rng.integers(3, size=60),
    }
    section = (ROOT / "book" / "rerun.md").read_text().partition("### Answers of your own")[2]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 2
    exec("\n".join(blocks), arrays)
    assert arrays["game"].n_models == 1


# ---- the pipeline ---------------------------------------------------------------------------------------------


def copy_checkout(tmp_path):
    """Make a copy of the toolchain with two small notebooks, a package that imports fast, and a one-page book."""
    for name in (
        "dodo.py",
        "_config.yml",
        "mialab/_validation.py",
        "mialab/book/execution.py",
        "mialab/book/extension.py",
        "mialab/book/parameters.py",
        "mialab/provenance.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("notebooks", "profiles", "book"):
        (tmp_path / name).mkdir()
    shutil.copytree(ROOT / "book" / "_static", tmp_path / "book" / "_static")
    for package in ("mialab", "mialab/book"):
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "book" / "index.md").write_text("# Index\n\nSee {doc}`chapters/one`.\n")
    (tmp_path / "book" / "references.bib").write_text("")
    (tmp_path / "profiles" / "quick.yml").write_text("one: {seed: 1}\ntwo: {after: [one]}\n")
    pages = [{"file": f"book/chapters/{name}"} for name in ("one", "two")]
    (tmp_path / "_toc.yml").write_text(
        yaml.safe_dump({"format": "jb-book", "root": "book/index", "chapters": pages})
    )
    write(tmp_path / "notebooks", "one", "print('one', seed)")
    write(tmp_path / "notebooks", "two", "print('two')")
    return tmp_path


def doit(checkout):
    done = subprocess.run(
        [sys.executable, "-m", "doit"],
        cwd=checkout,
        env={k: v for k, v in os.environ.items() if k != "PROFILE"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    """Builds of one book after one change after another: exit code, output, and the page of the first chapter."""
    checkout = copy_checkout(tmp_path_factory.mktemp("checkout"))
    page, html = checkout / "book/chapters/one.ipynb", checkout / "_build/html/book/chapters/one.html"
    one, profile = checkout / "notebooks" / "one.py", checkout / "profiles" / "quick.yml"
    made = {}

    def build(name):
        began = time.monotonic()
        code, output = doit(checkout)
        made[name] = SimpleNamespace(
            code=code,
            output=output,
            seconds=time.monotonic() - began,
            page=page.exists(),
            html=html.read_text() if html.exists() else None,
        )

    build("first")
    build("again")
    other = nbformat.read(page, as_version=4)
    other.metadata["mialab"]["key"] = "of another run"
    nbformat.write(other, page)
    profile.write_text("one: {seed: 2}\n")
    build("page of another run")
    (checkout / "results").mkdir()
    (checkout / "results" / "one.csv").write_text("auc\n0.5\n")
    build("reference results")
    build("reference results again")
    text = page.read_text()
    assert text.count("one 2") == 1
    page.write_text(text.replace("one 2", "one 3"))
    build("changed page")
    index = checkout / "book" / "index.md"
    whole = index.read_text()
    index.write_text("# Index\n\nSee {doc}`missing`.\n")
    build("warning")
    build("warning again")
    index.write_text(whole)
    one.write_text(one.read_text() + "\n# %%\nraise RuntimeError('broken on purpose')\n")
    build("failing notebook")
    profile.write_text("one: {sed: 2}\n")
    build("unknown parameter")
    profile.write_text("one: {after: [two]}\ntwo: {after: [one]}\n")
    build("circle")
    return made


def succeeded(build):
    assert build.code == 0, build.output
    return build.output


@pytest.mark.slow
def test_a_book_is_built_in_order(builds):
    output = succeeded(builds["first"])
    assert output.index("done    one") < output.index("done    two"), "two is to run after one"
    assert "one 1" in builds["first"].html


@pytest.mark.slow
def test_what_is_current_is_not_built_again(builds):
    lines = succeeded(builds["again"]).splitlines()
    assert [line.split() for line in lines] == [["current", n] for n in ("one", "two", "book")]
    assert builds["again"].seconds < 10


@pytest.mark.slow
def test_a_page_that_another_run_left_in_the_books_place_does_not_pass_for_this_one(builds):
    assert "done    one" in succeeded(builds["page of another run"])
    assert "one 2" in builds["page of another run"].html


@pytest.mark.slow
def test_a_chapter_runs_again_when_its_reference_results_change(builds):
    assert "done    one" in succeeded(builds["reference results"])
    assert "current one" in builds["reference results again"].output


@pytest.mark.slow
def test_a_changed_page_is_run_again_before_it_is_published(builds):
    assert "done    one" in succeeded(builds["changed page"])
    assert "one 2" in builds["changed page"].html
    assert "one 3" not in builds["changed page"].html


@pytest.mark.slow
def test_chapters_that_wait_for_each_other_stop_everything_in_a_line(builds):
    assert builds["circle"].code != 0
    assert "wait for each other by `after`" in builds["circle"].output
    assert "Traceback" not in builds["circle"].output


@pytest.mark.slow
def test_a_failing_notebook_fails_the_build_and_leaves_no_page(builds):
    build = builds["failing notebook"]
    assert build.code != 0
    assert "FAILED  one" in build.output
    assert "RuntimeError: broken on purpose" in build.output, "its last line"
    assert not build.page
    assert build.html is None, "an old page in the built book"


@pytest.mark.slow
def test_an_unknown_parameter_stops_everything_before_anything_runs(builds):
    assert builds["unknown parameter"].code != 0
    assert "Did you mean 'seed'?" in builds["unknown parameter"].output


@pytest.mark.slow
@pytest.mark.parametrize("name", ["warning", "warning again"])
def test_a_warning_fails_the_build_every_time(builds, name):
    assert builds[name].code != 0
    assert "missing" in builds[name].output
