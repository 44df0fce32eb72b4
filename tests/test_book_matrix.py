"""Every defense against every attack as a document, and the table to explore that a page shows."""

import copy
import json
import re
from pathlib import Path

import browser
import numpy as np
import pytest
import toys
from hypothesis import given
from hypothesis import strategies as st
from test_matrix import Broken, Crash

import mialab as mia
from mialab.attacks import registry
from mialab.book import matrix, reference_runs
from mialab.chapters import rivals
from mialab.defenses.base import DEFENSES

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Audit what is known, a dummy defense and a dummy attack among it, and what fails."""
    dummy = type("Dummy", (mia.defenses.LabelSmoothing,), {"name": "dummy"})
    renamed = type("Renamed", (mia.attacks.LiRA,), {"base_name": "brand_new"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIALAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name in set(DEFENSES) - {"none", "hamp"}:
            patch.delitem(DEFENSES, name)
        patch.setitem(DEFENSES, "dummy", dummy)
        patch.setitem(DEFENSES, "broken", Broken)
        patch.setitem(registry.ATTACKS, "brand_new", renamed())
        patch.setitem(registry.ATTACKS, "crash", Crash())
        table = mia.auditing.audit_defenses(
            toys.pool(n=240),
            model=mia.models.MLP(hidden=(16,)),
            training=mia.Training(epochs=30),
            n_models=8,
            fprs=(0.05, 0.1),
            attacks=["loss", "ranking", "lira_pooled", "brand_new", "crash"],
        )
        return table, matrix.document({"toy": table})


@pytest.fixture(scope="module")
def table(made):
    """Return the table."""
    return made[0]


@pytest.fixture(scope="module")
def document(made):
    """Return the document of it."""
    return made[1]


def test_values_are_those_of_the_table(table, document):
    cells = document["datasets"]["toy"]["cells"]
    assert set(cells) == {"none", "hamp", "dummy"}
    for label, row in cells.items():
        assert set(row) == {"loss", "ranking", "lira_pooled", "brand_new"}
        for attack, cell in row.items():
            for metric, value in cell["values"].items():
                assert value == pytest.approx(table.interval(attack, metric, defense=label), abs=1e-6)
            grid = document["datasets"]["toy"]["roc_fpr"]
            for rate in (0.05, 0.1):
                assert cell["roc"][grid.index(rate)] == pytest.approx(
                    cell["values"][f"tpr@{rate}"][0], abs=1e-5
                )
            known = [value for value in cell["roc"] if value is not None]
            assert known == sorted(known)
            assert cell["roc"][0] is None  # one in 10,000 of 960 records that are no members


def test_what_failed_has_its_reason(document):
    missing = {(m["defense"], m["attack"]): m["reason"] for m in document["datasets"]["toy"]["missing"]}
    assert missing["broken", "all"] == "RuntimeError: no way"
    assert missing["dummy", "crash"] == "FloatingPointError: all NaN"


def test_a_document_survives_its_file(document, tmp_path):
    matrix.write(document, tmp_path / "matrix.json")
    assert matrix.read(tmp_path / "matrix.json") == document


def _paths(value, path=()):
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from _paths(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield from _paths(value[0], (*path, 0))


@given(data=st.data())
def test_a_damaged_document_is_refused_by_name(document, data):
    """Whatever one field is replaced with that cannot stand there."""
    free = ("parameters", "roc_fpr", "fprs", "datasets")
    paths = [p for p in _paths(document) if p and not set(free) & set(p[-2:])]
    path = data.draw(st.sampled_from(paths))
    broken = copy.deepcopy(document)
    at = broken
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = data.draw(st.sampled_from([["odd"], {"odd": "odd"}]))
    with pytest.raises(ValueError, match=r"is not as the schema has it|has schema="):
        matrix.check(broken)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "holds no JSON"),
        ("[]", "schema=None"),
        ('{"schema": 2}', "schema=2; this version of mialab reads 1"),
    ],
)
def test_other_files_are_refused(text, message, tmp_path):
    file = tmp_path / "matrix.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        matrix.read(file)


def test_stored_documents_are_whole():
    files = sorted((ROOT / "results").glob("matrix*.json"))
    for file in files:
        for at in matrix.read(file)["datasets"].values():
            assert at["defenses"]


def test_a_document_is_no_reference_run(document, tmp_path, monkeypatch):
    document = copy.deepcopy(document)
    monkeypatch.setenv("MIALAB_RESULTS", str(tmp_path))
    assert matrix.save(document, "seed-0").name == "matrix-seed-0.json"
    assert matrix.save(document, "matrix").name == "matrix.json"
    assert matrix.read(tmp_path / "matrix.json") == document
    for name in ("matrix", "matrix-seed-0"):
        with pytest.raises(ValueError, match="is unknown"):
            reference_runs.load(name, folder=tmp_path)
    document["made"]["date"] = float("nan")
    with pytest.raises(ValueError, match="made/date is not as the schema has it"):
        matrix.check(document)
    document["made"]["date"] = "2026"
    document["datasets"]["toy"]["roc_fpr"][0] = float("nan")
    with pytest.raises(ValueError, match="numbers that are not finite"):
        matrix.check(document)


def test_the_fields_are_described():
    """Every field of the schema stands on the page that documents it."""
    schema = json.loads((ROOT / "mialab" / "book" / "matrix.schema.json").read_text())
    page = (ROOT / "book" / "add_a_row.md").read_text()
    names = set(re.findall(r'"(\w+)": \{', json.dumps(schema["properties"])))
    names -= {
        "properties",
        "items",
        "additionalProperties",
        "dataset",
        "defense",
        "attack",
        "reason",
        "family",
    }
    assert not [name for name in names if f"`{name}`" not in page]


@pytest.mark.slow
def test_the_example_runs():
    before = dict(DEFENSES)
    space: dict = {}
    try:
        for code in re.findall(
            r"```python\n(.*?)```", (ROOT / "book" / "add_a_row.md").read_text(), re.DOTALL
        ):
            exec(compile(code, "add_a_row.md", "exec"), space)
        assert set(space["table"]["defense"]) == {"none", "temperature"}
    finally:
        for name in set(DEFENSES) - set(before):
            del DEFENSES[name]


def test_tuned_settings_are_those_that_validation_chose():
    from test_scoreboard import curves

    table = curves(hamp=[0.95, 0.94], early_stopping=[0.9, 0.8], dummy=[0.9, 0.8])
    table["setting"] = [{"hamp": "0.9", "early_stopping": "3"}.get(name, "-") for name in table["defense"]]
    found = rivals.tuned(table, 5)
    assert found == {
        "hamp (tuned)": mia.defenses.HAMP(gamma=0.9),
        "early_stopping (tuned)": mia.defenses.EarlyStopping(epochs=3),
    }
    both = list(rivals.with_tuned(table, 5))
    assert both[0] == "none"
    assert both.index("hamp (tuned)") == both.index("hamp") + 1
    assert "hamp (tuned)" not in rivals.with_tuned(None, 5)


@pytest.mark.slow
@pytest.mark.skipif(browser.find_browser() is None, reason="no Chromium or Chrome on this machine")
def test_the_view_works_from_a_file(document, tmp_path):
    page = tmp_path / "view.html"
    page.write_text(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>v</title>{matrix.view(document).html}</html>"
    )
    rows = "[...document.querySelectorAll('tbody th')].map(th => th.textContent)"
    cell = "document.querySelector('td[data-defense=hamp][data-attack=lira_pooled]')"
    choose = """(name, value) => {
        const control = document.querySelector(`[data-part=${name}]`);
        control.value = value;
        control.dispatchEvent(new Event(control.type === "range" ? "input" : "change"));
    }"""
    toy = document["datasets"]["toy"]
    place = toy["roc_fpr"].index(0.1)
    seen, values = browser.use(
        page,
        [
            rows,
            # By the keyboard: sort by an attack, then turn the order round.
            "document.querySelector('th[scope=col] button[title=\"lira pooled\"]').focus()",
            "key:Enter",
            rows,
            "key:Enter",
            rows,
            "document.activeElement.textContent",
            # Move from cell to cell.
            f"{cell}.focus()",
            "document.querySelector('[data-part=told]').textContent",
            "key:ArrowLeft",
            "document.querySelector('[data-part=told]').textContent",
            "document.querySelector('td[data-defense=hamp][data-attack=crash]')?.className ?? 'none'",
            f"({choose})('metric', 'roc')",
            f"({choose})('rate', {place})",
            f"{cell}.textContent",
            "document.querySelector('[data-part=rate-shown]').textContent",
            f"({choose})('rate', 0)",
            f"{cell}.textContent",
            f"({choose})('kind', 'labels only')",
            "[...document.querySelectorAll('th[scope=col]')].map(th => th.textContent)",
        ],
    )
    assert not seen.errors
    assert not seen.outside
    auc = {label: row["lira_pooled"]["values"]["auc"][0] for label, row in toy["cells"].items()}
    falling = sorted(auc, key=lambda label: -auc[label])
    first, _, sorted_once, sorted_twice, focused, _, told, moved, absent, *rest = values
    assert set(first) == {"none", "hamp", "dummy", "broken"}
    assert sorted_once == [*falling, "broken"]
    assert sorted_twice[-3:] == falling[::-1]
    assert focused == "lira pooled"
    assert told.startswith(f"lira pooled against hamp, toy: AUC {auc['hamp']:.3f} [")
    assert "960 members and 960 others of 8 targets" in told
    assert " against hamp, toy: " in moved
    assert moved != told
    assert absent == "mia-absent" or "mia-absent" in absent
    _, _, at_rate, rate, _, at_none, _, left = rest
    value = 100 * toy["cells"]["hamp"]["lira_pooled"]["roc"][place]
    assert at_rate == (f"{value:.1f}" if value < 9.95 else f"{value:.0f}")
    assert rate == "10.0 %"
    assert at_none == "n/a"
    assert left == ["ranking"]


def test_text_in_a_document_is_no_markup(document):
    odd = copy.deepcopy(document)
    odd["datasets"]["toy"]["network"] = "</script><b>"
    assert "</script><b>" not in matrix.view(odd).html
    assert np.isfinite(len(matrix.view(odd).text))


def test_the_overview_has_all_defenses_and_what_was_not_played():
    """Of the stored document: every defense has a row, the one that protects most stands first."""
    stored = matrix.read(reference_runs.FOLDER / "matrix.json")
    (name, about), *_ = stored["datasets"].items()
    table = matrix.overview(stored, name)
    missing = [row["defense"] for row in about["missing"] if row["attack"] == "all"]
    assert set(table.index) == {*about["defenses"], *missing}
    values = [
        about["defenses"][label]["strongest"]["auc"]["scores"]["value"][0]
        for label in table.index
        if label not in missing
    ]
    assert values == sorted(values)
    assert all(table.loc[label, "training"].startswith("not played: ") for label in missing)
    assert table.loc["none", "AUC, scores"].startswith(
        f"{about['defenses']['none']['strongest']['auc']['scores']['value'][0]:.3f} ["
    )
    with pytest.raises(ValueError, match="dataset='clusterz'"):
        matrix.overview(stored, "clusterz")
