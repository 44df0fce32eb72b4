"""Every notebook: in step with its pair, free of outputs, and running from first to last cell at tiny size."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cells
import nbformat
import papermill
import pytest
from test_store import PROCESSES, fork_server  # noqa: F401

from mialab.book import execution, pairs

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(execution.NOTEBOOKS.glob("*.py"))
every_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.mark.slow
@every_notebook
def test_pair_is_in_step(notebook, tmp_path):
    copy = shutil.copy(notebook, tmp_path)
    pair = notebook.with_suffix(".ipynb")
    assert pair.exists(), "no .ipynb beside it: run `make sync`"
    assert execution.pair(Path(copy)).read_text() == pair.read_text(), "out of step: run `make sync`"
    assert not any(cell.get("outputs") for cell in nbformat.read(pair, as_version=4).cells)


PAPERS = ("adamixup", "hamp", "mixup_gan", "quantization", "weighted_smoothing")


@pytest.mark.parametrize("name", PAPERS)
def test_a_chapter_of_a_paper_opens_with_its_answer_and_folds_its_code(name):
    pair = nbformat.read(execution.NOTEBOOKS / f"{name}.ipynb", as_version=4)
    code = [cell for cell in pair.cells if cell.cell_type == "code"]
    assert "answers.answer(" in code[0].source
    assert sum("answers.beside(" in cell.source for cell in code) >= 1
    folded = {"hide-input", "hide-cell", "remove-input", "parameters"}
    assert [c.source for c in code if not folded & set(c.metadata.get("tags", []))] == []


#: Functions that choose hyper-parameters.
SEARCHES = {"choose_sigma", "PrivacyObjective"}


def seeds(tree):
    """Say what is added to the notebook's seed wherever one is passed on: (by which function, how much)."""
    for node in ast.walk(tree):
        given = [(k.value, node) for k in getattr(node, "keywords", ()) if k.arg == "seed"]
        if isinstance(node, ast.Dict):
            given = [
                (v, None)
                for k, v in zip(node.keys, node.values, strict=True)
                if ast.unparse(k or v) == "'seed'"
            ]
        for value, call in given:
            name = ast.unparse(call.func).rpartition(".")[2] if call else "dict"
            match value:
                case ast.Name(id="seed"):
                    yield name, 0
                case ast.BinOp(left=ast.Name(id="seed"), op=ast.Add(), right=ast.Constant(value=more)):
                    yield name, more
                case _:
                    raise AssertionError(f"{name}: seed={ast.unparse(value)} is not seed or seed + a number")


@pytest.mark.parametrize("name", PAPERS)
def test_hyper_parameters_are_chosen_with_seeds_that_no_reported_game_has(name):
    found = list(seeds(ast.parse((execution.NOTEBOOKS / f"{name}.py").read_text())))
    searching = {more for function, more in found if function in SEARCHES}
    reported = {more for function, more in found if function not in SEARCHES}
    assert reported
    assert not searching & reported
    assert bool(searching) == (name in ("quantization", "weighted_smoothing")), "the others choose nothing"


def test_no_pair_without_its_source():
    assert [p.stem for p in sorted(execution.NOTEBOOKS.glob("*.ipynb"))] == [p.stem for p in NOTEBOOKS]


@pytest.fixture(scope="module")
def synced(tmp_path_factory):
    """Copies of all notebooks and their pairs, after jupytext has brought them in step."""
    folder = tmp_path_factory.mktemp("synced")
    for file in [
        *NOTEBOOKS,
        *(p.with_suffix(".ipynb") for p in NOTEBOOKS),
        NOTEBOOKS[0].with_name("jupytext.toml"),
    ]:
        shutil.copy(file, folder)
    names = [p.name for p in NOTEBOOKS]
    subprocess.run([sys.executable, "-m", "jupytext", "--quiet", "--sync", *names], cwd=folder, check=True)
    return folder


@pytest.mark.slow
@every_notebook
def test_jupytext_sync_leaves_the_pair_alone(notebook, synced):
    execution.pair(synced / notebook.name)
    for file in (notebook, notebook.with_suffix(".ipynb"), notebook.with_name("jupytext.toml")):
        assert (synced / file.name).read_text() == file.read_text(), file.name


@pytest.mark.slow
def test_edits_in_jupyter_reach_the_source(tmp_path):
    source = Path(shutil.copy(execution.NOTEBOOKS / "template.py", tmp_path))
    shutil.copy(execution.NOTEBOOKS / "jupytext.toml", tmp_path)
    pair = execution.pair(source)
    notebook = nbformat.read(pair, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("added = 'in Jupyter'"))
    nbformat.write(notebook, pair)
    subprocess.run(
        [sys.executable, "-m", "jupytext", "--quiet", "--sync", pair.name], cwd=tmp_path, check=True
    )
    assert "added = 'in Jupyter'" in source.read_text()


def edited(file, text):
    """Add a cell to a notebook or its pair."""
    if file.suffix == ".py":
        file.write_text(f"{file.read_text()}\n# %%\nadded = {text!r}\n")
        return
    notebook = nbformat.read(file, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(f"added = {text!r}"))
    nbformat.write(notebook, file)


@pytest.mark.slow
@pytest.mark.parametrize("younger", [".py", ".ipynb"])
@pytest.mark.parametrize("changed", [".py", ".ipynb", ".py .ipynb", ""])
def test_no_edit_is_lost(changed, younger, tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    source = Path(shutil.copy(execution.NOTEBOOKS / "template.py", folder))
    shutil.copy(execution.NOTEBOOKS / "jupytext.toml", folder)
    files = {".py": source, ".ipynb": execution.pair(source)}
    before = [file.read_text() for file in files.values()]
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "start"]):
        subprocess.run([*git, *command], check=True)
    for ending in changed.split():
        edited(files[ending], f"in {ending}")
    for ending, file in files.items():
        os.utime(file, (2e9, 2e9) if ending == younger else (1e9, 1e9))  # as a checkout may leave them
    told = pairs.sync(source)
    after = source.read_text()
    assert execution.read(files[".ipynb"]).cells == execution.read(source).cells
    if not changed:
        assert not told
        assert [file.read_text() for file in files.values()] == before
    elif changed in files:
        assert f"added = 'in {changed}'" in after
        assert "not committed" in told
    else:
        (other,) = {".py", ".ipynb"} - {younger}
        assert f"added = 'in {younger}'" in after
        assert f"in {other}" in (tmp_path / "runs" / f"template.kept{other}").read_text()
        assert "both have edits" in told
    assert not pairs.sync(source)


@pytest.mark.slow
def test_an_edited_caption_is_an_edit(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    source = Path(shutil.copy(execution.NOTEBOOKS / "template.py", folder))
    shutil.copy(execution.NOTEBOOKS / "jupytext.toml", folder)
    pair = execution.pair(source)
    notebook = nbformat.read(pair, as_version=4)
    (figure,) = [cell for cell in notebook.cells if "mystnb" in cell.metadata]
    figure.metadata["mystnb"]["figure"]["caption"] = "Told in Jupyter."
    nbformat.write(notebook, pair)
    os.utime(source, (1e9, 1e9))
    assert pairs.sync(source)
    assert "Told in Jupyter." in source.read_text()
    assert not pairs.sync(source)


@pytest.mark.slow
@every_notebook
def test_papermill_sees_every_parameter(notebook):
    source = execution.read(notebook)
    (cell,) = [c for c in source.cells if "parameters" in c.metadata.get("tags", [])]
    assigned = [node.targets[0].id for node in ast.parse(cell.source).body]
    assert list(papermill.inspect_notebook(source)) == assigned


def tiny_run(notebook, folder, cache, workers=1):
    """Run a notebook with the tiny profile, and return its cells of code."""
    given = execution.load_profile("tiny").get(notebook.stem, {})
    parameters = {name: value for name, value in given.items() if name != "after"}
    execution.check_parameters(notebook, parameters)
    out = folder / f"{notebook.stem}.ipynb"
    process = PROCESSES.Process(
        target=cells.execute, args=(str(notebook), str(out), parameters, str(cache), workers)
    )
    process.start()
    process.join()
    assert process.exitcode == 0, out.read_text() if out.exists() else "the process was killed"
    return [cell for cell in nbformat.read(out, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.slow
@every_notebook
def test_notebook_runs_at_tiny_size(notebook, tmp_path, fresh_cache):
    code = tiny_run(notebook, tmp_path, fresh_cache)
    assert all(cell.execution_count for cell in code if cell.source.strip())
    assert any(cell.outputs for cell in code), "a page without any output"
    # The book formats what is glued as Python reads it, and knows nothing of NumPy.
    glued = [o for cell in code for o in cell.outputs if "scrapbook" in o.get("metadata", {})]
    assert not [o.metadata.scrapbook.name for o in glued if "np." in str(o.data)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hamp", "mixup_gan"])
def test_two_builds_from_scratch_are_identical(name, tmp_path):
    """Whatever the number of workers, in tables and numbers that the text quotes."""
    builds = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        code = tiny_run(execution.NOTEBOOKS / f"{name}.py", folder, folder / "cache", workers)
        builds.append([said(output) for cell in code for output in cell.outputs])
    assert any("<table" in text or "DataTable" in text for text in builds[0])
    assert builds[0] == builds[1]


def said(output):
    """Return what an output says, but for pictures and the random names of tables."""
    texts = [output.get("text", ""), *(str(v) for k, v in output.get("data", {}).items() if "text" in k)]
    return re.sub(r"itables_[0-9a-f]{8}(_[0-9a-f]{4}){3}_[0-9a-f]{12}", "", "\n".join(texts))


@pytest.mark.slow
def test_plain_papermill_runs_a_committed_notebook(tmp_path):
    command = [sys.executable, "-m", "papermill", "notebooks/template.ipynb", str(tmp_path / "out.ipynb")]
    subprocess.run(
        [*command, "-p", "seed", "3", "--no-progress-bar"], cwd=ROOT, check=True, capture_output=True
    )
    page = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert any(cell.source.endswith("seed = 3\n") or "\nseed = 3" in cell.source for cell in page.cells)


def test_new_chapter_from_the_template(tmp_path, monkeypatch, capsys):
    from mialab.cli import main

    shutil.copy(execution.NOTEBOOKS / "template.py", tmp_path)
    monkeypatch.setattr(execution, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(execution.find, "__defaults__", (tmp_path,))
    assert main(["new", "my_idea"]) == 0
    assert "file: book/chapters/my_idea" in capsys.readouterr().out
    assert (tmp_path / "my_idea.py").read_text().startswith("# %% [markdown]\n# # My idea\n")
    assert (tmp_path / "my_idea.ipynb").exists()
    assert main(["new", "my_idea"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["new", "my-idea"]) == 2
