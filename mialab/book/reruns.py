"""Runs of chapters with other parameters: where their pages go, how they are read, and sweeps over a parameter."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from mialab._validation import choose
from mialab.auditing.claims import state
from mialab.book import execution, reference_runs
from mialab.book.answers import cards
from mialab.book.parameters import parse_yaml

#: Longest text of parameters in the name of a page; longer ones are cut, and end in a hash.
LONGEST = 80


def place(notebook: Path, profile: str, parameters: Mapping[str, Any]) -> Path:
    """Return where the page of a run goes: its name carries the profile and the parameters.

    Parameters
    ----------
    notebook : Path
        The py:percent file.
    profile : str
        Name of the profile, or empty.
    parameters : mapping
        Those that were given besides.
    """
    told = ",".join(f"{name}={_slug(value)}" for name, value in sorted(parameters.items()))
    if len(told) > LONGEST:
        digest = hashlib.sha256(repr(sorted(parameters.items())).encode()).hexdigest()[:8]
        told = f"{told[:LONGEST]}-{digest}"
    return execution.RUNS / f"{'.'.join(filter(None, [notebook.stem, profile, told]))}.ipynb"


def _slug(value: object) -> str:
    return re.sub(r"[^\w.+-]+", "_", str(value)).strip("_") or "empty"


def keep_both(fresh: Path, page: Path) -> Path | None:
    """Put a fresh page in its place; one that another run left there keeps its date in its name.

    Returns
    -------
    Path or None
        Where the older one is now.
    """
    older = None
    if page.exists():
        try:
            date = execution.read_page(page)["metadata"]["mialab"]["date"]
        except (OSError, ValueError, KeyError):
            date = str(int(page.stat().st_mtime))
        stem = f"{page.stem}.{re.sub(r'[^0-9T]', '', date)[:15]}"
        older, n = page.with_name(f"{stem}.ipynb"), 1
        while older.exists():
            n += 1
            older = page.with_name(f"{stem}-{n}.ipynb")
        page.replace(older)
    fresh.replace(page)
    return older


def run(
    display: execution.Display,
    notebook: Path,
    parameters: Mapping[str, Any],
    *,
    profile: str = "",
    given: Mapping[str, Any],
) -> Path | None:
    """Run a chapter into its own place among the runs; return the page, or None if it failed.

    Parameters
    ----------
    display : Display
        Where progress is shown.
    notebook : Path
        The py:percent file.
    parameters, profile
        As for `mialab.book.execution.run`.
    given : mapping
        Of the parameters, those that the name of the page carries.
    """
    page = place(notebook, profile, given)
    fresh = page.with_name(f"{page.stem}.{os.getpid()}.new.ipynb")
    if not execution.show_run(display, notebook, fresh, parameters, profile=profile):
        return None
    keep_both(fresh, page)
    return page


def html(page: Path) -> Path:
    """Render an executed page as it looks in the book, with what it needs beside it; return the HTML file.

    Links to other chapters are plain text there.

    Raises
    ------
    ValueError
        If the page is none, or cannot be rendered.
    """
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    execution.read_page(page)
    config = parse_yaml((execution.ROOT / "_config.yml").read_text(encoding="utf-8"), "_config.yml")
    out = page.with_suffix("")
    out = out.with_name(f"{out.name}-html")
    bibliography = execution.ROOT / "book" / "references.bib"
    extensions = [
        *(
            "myst_nb",
            "sphinx_design",
            "sphinxcontrib.bibtex",
            "sphinx-mathjax-offline",
            "mialab.book.extension",
        ),
    ]
    looks = {
        "project": page.stem,
        "html_title": page.stem,
        "root_doc": "index",
        "extensions": extensions,
        "html_theme": "sphinx_book_theme",
        "html_static_path": [str(execution.ROOT / "book" / "_static")],
        "html_css_files": ["custom.css"],
        "html_js_files": ["tables.js"],
        "html_context": {"default_mode": "auto"},
        "myst_enable_extensions": config["parse"]["myst_enable_extensions"],
        "nb_execution_mode": "off",
        "nb_merge_streams": True,
        "bibtex_bibfiles": [str(bibliography)],
        "bibtex_reference_style": "author_year",
        "html_sourcelink_suffix": "",
        "html_show_sourcelink": False,
    }
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source"
        source.mkdir()
        shutil.copy(page, source / "index.ipynb")
        with (source / "references.md").open("w", encoding="utf-8") as file:
            file.write("---\norphan: true\n---\n# References\n\n```{bibliography}\n```\n")
        built, trees = Path(scratch) / "html", Path(scratch) / "trees"
        with docutils_namespace(), redirect_stdout(io.StringIO()):
            options: dict[str, Any] = {"status": None, "warning": io.StringIO(), "keep_going": True}
            app = Sphinx(source, None, built, trees, "html", looks, **options)
            app.build(force_all=True)
        if not (built / "index.html").exists():
            raise ValueError(f"{page.name} cannot be rendered.")
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(built, out)
    return out / "index.html"


def values(text: str) -> list[Any]:
    """Return the values of a sweep: ``0..4`` for whole numbers from 0 to 4, or a list as YAML has it.

    Raises
    ------
    ValueError
        If the text names fewer than two values.
    """
    if found := re.fullmatch(r"(-?\d+)\.\.(-?\d+)", text):
        first, last = map(int, found.groups())
        given: Any = list(range(first, last + 1))
    else:
        given = parse_yaml(text, f"sweep {text!r}")
    if not isinstance(given, list) or len(given) < 2:
        raise ValueError(
            f"sweep {text!r} must be whole numbers such as 0..4, or a list such as '[0.1, 0.5]'."
        )
    return given


def sweep(
    display: execution.Display,
    notebook: Path,
    name: str,
    swept: Sequence[Any],
    parameters: Mapping[str, Any],
    *,
    profile: str = "",
) -> tuple[Path, pd.DataFrame]:
    """Run a chapter once for each value of a parameter, and say how stable its verdicts are.

    A run that fails stops nothing, and is missing in the table.

    Parameters
    ----------
    display : Display
        Where progress is shown.
    notebook : Path
        The py:percent file.
    name : str
        The parameter.
    swept : sequence
        Its values.
    parameters, profile
        As for `mialab.book.execution.run`.

    Returns
    -------
    folder : Path
        ``runs/NAME-sweep-PARAMETER``: the tables of each run, ``stability.csv`` and ``stability.html``.
    table : DataFrame
        A row a claim: the verdict for each value, and how many agree on the most frequent one.

    Raises
    ------
    ValueError
        If the notebook does not have the parameter, or keeps no tables (``save_as``).
    """
    known = [parameter.name for parameter in execution.parameters_of(notebook)]
    choose(f"notebook {notebook.stem!r}: the parameter", name, known)
    if "save_as" not in known:
        raise ValueError(f"notebook {notebook.stem!r} keeps no tables: it has no parameter save_as.")
    folder = execution.RUNS / f"{notebook.stem}-sweep-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    before = os.environ.get(execution.RESULTS)
    os.environ[execution.RESULTS] = str(folder)
    columns: dict[str, pd.Series] = {}
    try:
        for value in swept:
            label = f"{name}-{_slug(value)}"
            own = {**parameters, name: value, "save_as": label}
            done = run(display, notebook, own, profile=profile, given={name: value})
            if done and (folder / f"{label}-verdicts.csv").exists():
                told = reference_runs.load(label, folder=folder)["verdicts"]
                columns[f"{name}={value}"] = told.set_index("claim")["verdict"].map(state)
    finally:
        if before is None:
            del os.environ[execution.RESULTS]
        else:
            os.environ[execution.RESULTS] = before
    table = stability(columns)
    table.to_csv(folder / "stability.csv")
    title = f"{notebook.stem}: how stable are the verdicts over {name}?"
    page = cards(table.reset_index(), "stability")
    (folder / "stability.html").write_text(
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style><h1>{escape(title)}</h1>{page}</html>",
        encoding="utf-8",
    )
    return folder, table


STYLE = (
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1f2430}"
    "table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #c9ced6}"
)


def stability(columns: Mapping[str, pd.Series]) -> pd.DataFrame:
    """Lay out verdicts of several runs: a row a claim, a column a run, and how many agree on the most frequent one.

    Parameters
    ----------
    columns : mapping of str to Series
        Verdicts by claim, for each run.
    """
    table = pd.DataFrame(dict(columns)).rename_axis("claim")
    counts = [row.dropna().value_counts() for _, row in table.iterrows()]
    table["agree"] = [f"{n.iloc[0]} of {n.sum()}" if len(n) else "-" for n in counts]
    return table.fillna("-")
