"""The built book: whole, silent, and asking nothing of other servers. Needs `make book`."""

import ast
import json
import pkgutil
import re
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace

import browser
import pytest
import test_toolchain as toolchain
import yaml
from docutils import nodes
from docutils.utils import new_document
from PIL import Image

from mialab import defenses, gan
from mialab.book import execution, extension
from mialab.training import hooks

ROOT = execution.ROOT

HTML = execution.ROOT / "_build" / "html"
needs_book = pytest.mark.skipif(
    not (HTML / "index.html").exists(), reason="no book in _build: run `make book`"
)
needs_browser = pytest.mark.skipif(
    browser.find_browser() is None, reason="no Chromium or Chrome on this machine"
)


class Loads(HTMLParser):
    """Collects what a page loads by itself, and its images."""

    def __init__(self):
        super().__init__()
        self.urls, self.images = [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.urls.append(given.get("src") or "")
        if tag == "link" and given.get("rel") != "canonical":
            self.urls.append(given.get("href") or "")
        if tag == "img":
            self.images.append(given)


def test_the_api_pages_name_what_exists_and_name_it_once():
    pages = sorted((execution.ROOT / "book" / "api").glob("*.md"))
    entries = re.findall(r"\.\. auto\w+:: (\S+)", "".join(page.read_text() for page in pages))
    assert len(entries) == len(set(entries)) > 60
    for entry in entries:
        pkgutil.resolve_name(entry)


def pages():
    return sorted((HTML / "book").rglob("*.html"))


@pytest.mark.parametrize(("dots", "width"), [(220, "300px"), (110, None)])
def test_sharp_images_are_shown_at_the_size_they_were_drawn_in(dots, width, tmp_path):
    folder = tmp_path / "_build" / "jupyter_execute"
    folder.mkdir(parents=True)
    Image.new("RGB", (600, 200)).save(folder / "figure.png", dpi=(dots, dots))
    page = new_document("page")
    page += nodes.image(uri="/_build/jupyter_execute/figure.png")
    extension.sharp_images(SimpleNamespace(srcdir=str(tmp_path)), page)
    assert page[0].get("width") == width


@needs_book
def test_every_page_of_the_toc_is_there_with_its_outputs():
    for name in execution.chapters():
        executed = json.loads((execution.CHAPTERS / f"{name}.ipynb").read_text())
        outputs = [o for cell in executed["cells"] for o in cell.get("outputs", [])]
        assert not any(o["output_type"] == "error" for o in outputs), name
        html = (HTML / "book" / "chapters" / f"{name}.html").read_text()
        assert html.count('class="cell_output') > 0, name
        assert html.count("<figcaption") == sum(
            "figure" in cell["metadata"].get("mystnb", {}) for cell in executed["cells"]
        ), f"{name}: a figure without its caption, or one shown twice"


@needs_book
def test_pages_load_nothing_from_outside_and_describe_their_images():
    for page in pages():
        seen = Loads()
        seen.feed(page.read_text())
        assert not [u for u in seen.urls if re.match(r"(https?:)?//", u)], page.name
        assert not [i for i in seen.images if "alt" not in i], page.name


@needs_book
def test_pages_show_no_machine_paths():
    for page in pages():
        assert str(execution.ROOT) not in page.read_text(), page.name
        assert "site-packages" not in page.read_text(), page.name


@needs_book
def test_provenance_lists_every_chapter():
    html = (HTML / "book" / "provenance.html").read_text()
    assert [r["notebook"] for r in extension.runs()] == execution.chapters()
    for name in execution.chapters():
        assert f'href="chapters/{name}.html"' in html


def test_the_page_on_the_design_lists_the_hooks():
    """Each table of hooks holds those of its class, none missing and none made up."""
    text = (ROOT / "book" / "how_built.md").read_text()
    tables = [re.findall(r"^\| `(\w+)` \|", part, re.M) for part in text.split("| hook |")[1:]]
    common = set(hooks.hooks(hooks.Hooks))
    of_classifiers, of_generators = (
        set(hooks.hooks(d)) - common for d in (defenses.Defense, gan.defenses.Defense)
    )
    assert [sorted(names) for names in tables] == [sorted(h) for h in (common, of_classifiers, of_generators)]


def test_a_defense_and_an_attack_are_short():
    source = ast.parse((ROOT / "notebooks" / "write_your_own.py").read_text())
    lines = {node.name: node.end_lineno - node.lineno + 1 for node in source.body if hasattr(node, "name")}
    assert lines["NoiseAndRounding"] <= 20
    assert lines["mean_over_copies"] <= 10


@pytest.mark.slow
@needs_book
@needs_browser
def test_pages_in_a_browser():
    visits = browser.look_at(pages(), (1280,), axe=True) + browser.look_at(pages(), (390,))
    visits += browser.look_at([HTML / "book" / "index.html"], dark=True)
    assert len({(v.page, v.width) for v in visits}) == 2 * len(pages())
    for seen in visits:
        where = f"{seen.page} at {seen.width} px"
        assert not seen.errors, where
        assert not seen.outside, where
        assert not seen.barriers, where
        assert not seen.look["broken"], where
        assert seen.look["drawn"] >= seen.look["formulas"], f"{where}: formulas are not drawn"
        assert seen.look["overflow"] <= 1, f"{where}: the page scrolls sideways: {seen.look['wide']}"


# What a page must show as it stands: what would run, what ends a code span of Markdown, and what fills in templates.
PLANTED = "`x` {y} {{z}} <img src=x onerror=console.error('planted')>"
PLANTED_TEXT = f"</code></script><script>console.error('planted')</script> {PLANTED}"
PLANTED_CELLS = f"""
from typing import ClassVar
import itables, matplotlib.pyplot as plt, numpy as np, pandas as pd
import mialab as mia
from mialab.auditing.claims import Claim, ClaimsTable, judge, list_claims
from mialab.metrics.intervals import Interval
from myst_nb import glue
itables.init_notebook_mode(all_interactive=False, connected=False)
name, text = {PLANTED!r}, {PLANTED_TEXT!r}
class Planted(mia.defenses.Defense):
    name: ClassVar[str] = name
def attack(game):
    return game.signal("scaled_logit").mean(axis=1)
attack.__name__ = name
rng = np.random.default_rng(0)
pool = mia.Pool(name, x=rng.normal(size=(40, 3)).astype(np.float32), y=np.arange(40) % 2, n_classes=2, kind="tabular",
                label_names=(text, text), source=text, license=text, notes=text)
options = dict(training=mia.Training(epochs=1), model=mia.models.MLP(hidden=(4,)), n_models=4)
game = mia.play(pool, defense=Planted(), **options)
glue("planted", name, display=False)
print(name, text, pool)
# %%
other = mia.play(pool, **options)
table = mia.compare({{name: mia.audit(game, [attack, "loss"]), "none": mia.audit(other, [attack, "loss"])}})
table
# %%
table.summary()
# %%
table.summary("auc")
# %%
mia.auditing.accuracy({{name: game}})
# %%
itables.show(table.as_text(), classes="display compact")
# %%
claims = {{text: Claim(text=text, source=text, published=text, test=text, below=1, requires=())}}
list_claims(claims)
# %%
judge(claims, {{text: Interval(0.5, 0.4, 0.6)}})
# %%
judge(claims, {{text: text}})
# %%
frame = pd.DataFrame({{text: [text], "verdict": ["holds; " + text]}}, index=pd.Index([text], name=text))
itables.show(frame)
# %%
ClaimsTable(frame.rename_axis(columns=text))
# %%
game
# %%
pool
# %%
mia.plots.roc({{name: game}}, attack)
plt.show()
"""


@pytest.mark.slow
@needs_browser
def test_pages_escape_what_comes_from_outside(tmp_path):
    """Names of pools, defenses and attacks, parameters, cells, columns, index: shown as they stand, never run."""
    checkout = toolchain.copy_checkout(tmp_path)
    shutil.rmtree(checkout / "mialab")
    shutil.copytree(ROOT / "mialab", checkout / "mialab")
    (checkout / "book" / "provenance.md").write_text("# Provenance\n\n```{study-runs}\n```\n")
    notebook = toolchain.write(checkout / "notebooks", "one", PLANTED_CELLS)
    text = notebook.read_text().replace("seed = 0\n", "seed = 0\nnote = None\n")
    notebook.write_text(text + "\n# %% [markdown]\n# Glued: {glue:text}`planted`\n")
    given = {"one": {"seed": 1, "note": [PLANTED_TEXT, {PLANTED_TEXT: "`"}]}}
    (checkout / "profiles" / "quick.yml").write_text(yaml.safe_dump(given))
    toc = yaml.safe_load((checkout / "_toc.yml").read_text())
    toc["chapters"].append({"file": "book/provenance"})
    (checkout / "_toc.yml").write_text(yaml.safe_dump(toc))
    code, output = toolchain.doit(checkout)
    assert code == 0, output
    html = checkout / "_build" / "html" / "book"
    page, provenance = browser.look_at(
        [html / "chapters" / "one.html", html / "provenance.html"], widths=(1280,)
    )
    for seen in (page, provenance):
        assert not seen.errors, seen.page
        assert not seen.outside, seen.page
        assert not seen.look["broken"], seen.page
        assert not seen.look["handlers"], f"{seen.page} has elements that a text brought"
        assert PLANTED_TEXT in seen.text, seen.page
    assert page.text.count(PLANTED) >= 40
    assert page.text.count(PLANTED_TEXT) >= 20


@pytest.mark.slow
@needs_browser
def test_the_browser_check_can_fail(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><title>x</title><body><article><img src='https://example.org/x.png'>"
        "<div style='width:3000px'>wide</div></article><script>undefined_name()</script>"
    )
    (seen,) = browser.look_at([page], widths=(800,))
    assert any("undefined_name" in error for error in seen.errors)
    assert seen.outside == ["https://example.org/x.png"]
    assert seen.look["overflow"] > 1000
    assert seen.look["broken"]
