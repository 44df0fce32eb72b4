"""Runs with other parameters: how parameters are read, where pages go, and sweeps."""

import json
import math
import os
import re
import shutil

import nbformat
import pandas as pd
import papermill
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mialab import cli
from mialab.book import execution, reference_runs, reruns
from mialab.book.parameters import parse_yaml, read_parameters


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-5", 1e-5), ("-2E3", -2000.0), (".5", 0.5), ("1.", 1.0), ("12", 12), ("-3", -3), ("012", 12)),
        *(
            ("0x10", 16),
            ("true", True),
            ("False", False),
            ("null", None),
            ("None", None),
            ("~", None),
            ("", None),
        ),
        *(
            ("no", "no"),
            ("yes", "yes"),
            ("on", "on"),
            ("1_000", "1_000"),
            ("12:30:45", "12:30:45"),
            ("1e", "1e"),
        ),
        *(
            ("2020-01-01", "2020-01-01"),
            ("[1e-3, no]", [1e-3, "no"]),
            ("{a: 1e3}", {"a": 1000.0}),
            ("-.inf", -math.inf),
        ),
    ],
)
def test_plain_words_are_those_of_json(text, value):
    found = parse_yaml(text, "here")
    assert found == value
    assert type(found) is type(value)


@given(value=st.floats(allow_nan=False) | st.integers() | st.booleans() | st.none())
def test_what_python_writes_is_read_as_such(value):
    text = {math.inf: ".inf", -math.inf: "-.inf"}.get(value, repr(value)) if value is not None else "None"
    assert parse_yaml(text, "here") == value


@given(text=st.text(alphabet="0123456789.eE+-xo_nulltrefas~", min_size=1, max_size=8))
def test_papermill_and_yaml_agree_on_numbers(text):
    """Whatever papermill's own command line takes for a number is the same number here."""
    try:
        number = float(text) if not text.strip().isdigit() else int(text)
    except ValueError:
        return
    if "_" in text or "inf" in text.lower() or "nan" in text.lower():
        return
    assert parse_yaml(text, "here") == number


def test_parameters_are_read_by_their_syntax():
    source = """
# A heading

a = 1  # what a = 1 is
b: float = 0.5
# Above c
c = "x=y # z"
d = [
    1,
    2,  # in two lines
]
e = f = None
g = a + 1
"""
    found = {p.name: (p.kind, p.default, p.meaning) for p in read_parameters(source, "here")}
    assert found == {
        "a": ("int", "1", "what a = 1 is"),
        "b": ("float", "0.5", ""),
        "c": ("str", '"x=y # z"', "Above c"),
        "d": ("list", "[ 1, 2, # in two lines ]", "in two lines"),
        "e": ("NoneType", "None", ""),
        "f": ("NoneType", "None", ""),
        "g": ("unknown", "a + 1", ""),
    }
    with pytest.raises(ValueError, match="here: the cell of parameters is no Python"):
        read_parameters("a = (", "here")


@pytest.mark.parametrize("notebook", sorted(p.stem for p in execution.NOTEBOOKS.glob("*.py")))
def test_every_notebook_defines_what_papermill_sees(notebook):
    found = execution.parameters_of(execution.find(notebook))
    assert len({p.name for p in found}) == len(found)
    seen = papermill.inspect_notebook(execution.read(execution.find(notebook)))
    assert set(seen) <= {p.name for p in found}


def test_places_carry_profile_and_parameters():
    hamp = execution.find("hamp")
    assert reruns.place(hamp, "", {}).name == "hamp.ipynb"
    assert reruns.place(hamp, "tiny", {"seed": 3, "lr": 0.5}).name == "hamp.tiny.lr=0.5,seed=3.ipynb"
    odd = reruns.place(hamp, "", {"dataset": "../../x y", "hidden": [1, 2]})
    assert odd.parent == execution.RUNS
    assert odd.name == "hamp.dataset=.._.._x_y,hidden=1_2.ipynb"
    long = [reruns.place(hamp, "", {"second": {"a": "b" * 200, "c": c}}).name for c in (1, 2)]
    assert long[0] != long[1]
    assert max(map(len, long)) < 130


@pytest.mark.parametrize("text", ["3", "0..0", "[1]", "a", "{a: 1}", ""])
def test_a_sweep_needs_two_values(text):
    with pytest.raises(ValueError, match=re.escape(f"sweep {text!r} must be whole numbers")):
        reruns.values(text)


def test_values_of_a_sweep():
    assert reruns.values("-1..2") == [-1, 0, 1, 2]
    assert reruns.values("[1e-3, none]") == [1e-3, "none"]


def test_stability_counts_who_agrees():
    columns = {
        "seed=0": pd.Series({"a": "holds", "b": "holds"}),
        "seed=1": pd.Series({"a": "does not hold", "b": "holds"}),
        "seed=2": pd.Series({"a": "holds"}),
    }
    table = reruns.stability(columns)
    assert table["agree"].to_dict() == {"a": "2 of 3", "b": "2 of 2"}
    assert table.loc["b", "seed=2"] == "-"


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Return a folder of runs of its own."""
    monkeypatch.setattr(execution, "RUNS", tmp_path / "runs")
    return tmp_path / "runs"


@pytest.mark.slow
def test_no_run_replaces_another(runs, capsys):
    command = ["run", "template", "-p", "seed", "3", "-p", "n_points", "20"]
    assert cli.main(command) == 0
    first = (runs / "template.n_points=20,seed=3.ipynb").read_text()
    assert cli.main(command) == 0
    pages = sorted(runs.glob("*.ipynb"))
    assert len(pages) == 2
    assert first in [page.read_text() for page in pages]
    assert cli.main(["run", "template", "-p", "seed", "'x'", "-p", "n_points", "20"]) == 1
    assert sorted(p for p in runs.glob("*.ipynb") if "failed" not in p.name) == pages
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_is_rendered_as_in_the_book(runs):
    assert cli.main(["run", "template", "-p", "n_points", "20", "--html"]) == 0
    page = runs / "template.n_points=20-html" / "index.html"
    text = page.read_text()
    assert "{glue:" not in text
    assert "{cite:" not in text
    assert (page.parent / "_static" / "custom.css").exists()
    assert not (runs / "jupyter_execute").exists()


@pytest.mark.slow
def test_a_sweep_keeps_out_of_the_results(runs, tmp_path, monkeypatch):
    """A notebook that judges one claim by its seed alone."""
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    (notebooks / "odd.py").write_text(
        '# %% tags=["parameters"]\nseed = 0\nsave_as = ""\n# %%\nimport pandas as pd\n'
        "from mialab.auditing.claims import Claim, judge\nfrom mialab.book import reference_runs\n"
        "from mialab.metrics import Interval\nassert seed != 3\n"
        'claims = {"c": Claim(text="odd", source="us", test="t", above=0)}\n'
        "at = seed % 2 - 0.5\n"
        'told = judge(claims, {"c": Interval(at, at - 0.1, at + 0.1)})\n'
        "reference_runs.save(save_as, verdicts=told)\n"
    )
    before = {p: p.read_bytes() for p in reference_runs.FOLDER.iterdir() if p.is_file()}
    folder, table = reruns.sweep(execution.Display(), notebooks / "odd.py", "seed", [0, 1, 2, 3], {})
    assert table.loc["odd"].tolist() == ["does not hold", "holds", "does not hold", "2 of 3"]
    assert folder == runs / "odd-sweep-seed"
    assert "odd" in (folder / "stability.html").read_text()
    assert pd.read_csv(folder / "stability.csv").shape == (1, 5)
    assert execution.RESULTS not in os.environ
    assert before == {p: p.read_bytes() for p in reference_runs.FOLDER.iterdir() if p.is_file()}
    assert (
        nbformat.read(runs / "odd.seed=1.ipynb", as_version=4).metadata["mialab"]["parameters"]["seed"] == 1
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "hamp", "sead", "0..1"], "parameter='sead'|Did you mean 'seed'"),
        (["sweep", "template", "seed", "0..1"], "keeps no tables"),
        (["sweep", "hamp", "seed", "1"], "must be whole numbers"),
        (["params", "hmp"], "Did you mean 'hamp'"),
        (["show", "hmp"], "Did you mean 'hamp'"),
    ],
)
def test_commands_refuse_in_a_line(arguments, message, capsys, runs):
    assert cli.main(arguments) == 2
    told = capsys.readouterr().err
    assert re.search(message, told)
    assert len(told.splitlines()) == 1
    assert not runs.exists()


def test_lists_for_a_terminal(capsys):
    assert cli.main(["list"]) == 0
    assert re.search(r"^hamp +HAMP: high-entropy labels", capsys.readouterr().out, re.MULTILINE)
    assert cli.main(["params", "hamp"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^n_models +int +16 +models per defense", told, re.MULTILINE)
    assert len(told.splitlines()) == len(execution.parameters_of(execution.find("hamp")))


def test_show_names_what_is_missing(monkeypatch, tmp_path, capsys):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(execution, "ROOT", tmp_path)
    assert cli.main(["show"]) == 2
    assert "build the book first" in capsys.readouterr().err
    page = tmp_path / "_build" / "html" / "index.html"
    page.parent.mkdir(parents=True)
    page.touch()
    assert cli.main(["show"]) == 0
    assert opened == [page.as_uri()]


def test_a_page_keeps_the_older_one(tmp_path):
    page, fresh = tmp_path / "a.ipynb", tmp_path / "fresh.ipynb"
    for text in ("one", "two", "three"):
        fresh.write_text(json.dumps(text))
        reruns.keep_both(fresh, page)
    assert json.loads(page.read_text()) == "three"
    assert sorted(json.loads(p.read_text()) for p in tmp_path.iterdir()) == ["one", "three", "two"]
    shutil.rmtree(tmp_path)
