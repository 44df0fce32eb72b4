"""A small Sphinx extension for the book: the table of runs, the scoreboard, and pages that ask no other server.

.. code-block:: none

    ```{study-runs}
    ```

    ```{scoreboard}
    ```

    ```{scoreboard} figure
    ```
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from PIL import Image
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.logging import getLogger

from mialab.book.execution import CHAPTERS, ROOT, chapters, clock, read_page

logger = getLogger(__name__)

#: Pixels of the page for an inch of a figure, as `mialab.plots.style` has it.
DOTS = 110


def runs() -> list[dict[str, Any]]:
    """Return the records of the runs that made the book's chapters, in the book's order; warns of changed pages."""
    records = []
    for page in (CHAPTERS / f"{name}.ipynb" for name in chapters()):
        try:
            records.append(read_page(page)["metadata"]["mialab"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            logger.warning("%s", error)
    return records


class StudyRuns(SphinxDirective):
    """The directive ``study-runs``: what each chapter was made from, and the versions that made it."""

    def run(self) -> list[nodes.Node]:
        """Return the tables; the page is read again whenever a chapter changes."""
        for name in chapters():
            self.env.note_dependency(str((CHAPTERS / f"{name}.ipynb").relative_to(ROOT)))
        found = runs()
        rows = [
            [
                self._chapter(run["notebook"]),
                [nodes.Text(run["profile"] or "-")],
                _codes(f"{k}={v!r}" for k, v in run["parameters"].items())
                or [nodes.Text("as in the notebook")],
                [nodes.Text(clock(run["seconds"]))],
                [nodes.Text(run["date"][:16].replace("T", " "))],
                _codes([run["commit"]]),
            ]
            for run in found
        ]
        versions = {
            (name, v) for run in found for name, v in [("python", run["python"]), *run["versions"].items()]
        }
        software = [*sorted(versions), *(("machine", m) for m in sorted({run["machine"] for run in found}))]
        return [
            _table(["chapter", "profile", "parameters", "time", "finished (UTC)", "commit"], rows),
            _table(["software", "version"], [[[nodes.Text(str(cell))] for cell in row] for row in software]),
        ]

    def _chapter(self, name: str) -> Sequence[nodes.Node]:
        link = {"reftype": "doc", "refdomain": "std", "reftarget": f"/book/chapters/{name}"}
        options = {"refexplicit": False, "refwarn": True, "refdoc": self.env.docname}
        return [pending_xref("", nodes.inline("", ""), **link, **options)]


class Scoreboard(SphinxDirective):
    """The directive ``scoreboard``: what the reference runs say of every defense, as a table or as a figure."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table, or the figure; the page is read again whenever a reference run changes."""
        from mialab.book import reference_runs, scoreboard  # only where they are shown: they load torch

        self.env.note_dependency(str((reference_runs.FOLDER / reference_runs.CHECKSUMS).relative_to(ROOT)))
        if self.arguments == ["figure"]:
            return [
                nodes.raw("", f'<div class="scoreboard-figure">{scoreboard.figure()}</div>', format="html")
            ]
        if self.arguments:
            raise self.error(f"scoreboard takes no argument or `figure`, not {self.arguments[0]!r}")
        up = "../" * self.env.docname.count("/")
        link = f"{up}{CHAPTERS.relative_to(ROOT).as_posix()}/{{}}.html"
        return [nodes.raw("", scoreboard.scoreboard(link=link).html, format="html")]


def _codes(texts: Iterable[str]) -> Sequence[nodes.Node]:
    """Return texts as code, with commas between them."""
    parts = [part for text in texts for part in (nodes.Text(", "), nodes.literal("", text))]
    return parts[1:]


def _table(heads: list[str], rows: Sequence[Sequence[Sequence[nodes.Node]]]) -> nodes.table:
    """Return a table of nodes: whatever stands in a cell, no markup is read from it."""

    def row(cells: Sequence[Sequence[nodes.Node]]) -> nodes.row:
        return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", *cell)) for cell in cells))

    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in heads), cols=len(heads))
    group += nodes.thead("", row([[nodes.Text(head)] for head in heads]))
    group += nodes.tbody("", *map(row, rows))
    return nodes.table("", group, classes=["colwidths-auto"])


def sharp_images(app: Sphinx, doctree: nodes.document) -> None:
    """Show figures of notebooks at the size that they were drawn in: they have more pixels than the page's."""
    for image in doctree.findall(nodes.image):
        file = Path(app.srcdir) / image["uri"].lstrip("/")
        if file.suffix == ".png" and "jupyter_execute" in file.parts and "width" not in image:
            with Image.open(file) as held:
                dots, width = held.info.get("dpi", (DOTS, DOTS))[0], held.width
            if dots > 1.5 * DOTS:
                image["width"] = f"{round(width * DOTS / dots)}px"


def without_thebe(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document
) -> None:
    """Drop the scripts of sphinx-thebe, which Jupyter Book always loads: not used here, and an error on each page."""
    for kind in ("script_files", "css_files"):
        context[kind] = [
            file for file in context.get(kind, []) if "thebe" not in f"{file} {file.attributes}".lower()
        ]


def honest_roles(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document
) -> None:
    """Drop a role that Docutils gives to lists of references, whose entries are none of list items."""
    if "body" in context:
        context["body"] = context["body"].replace(
            'role="list" class="citation-list"', 'class="citation-list"'
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.add_directive("study-runs", StudyRuns)
    app.add_directive("scoreboard", Scoreboard)
    app.connect("doctree-read", sharp_images)
    app.connect("html-page-context", without_thebe, priority=900)
    app.connect("html-page-context", honest_roles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
