"""A small Sphinx extension for the book: the table of runs, and pages that ask nothing of other servers.

.. code-block:: none

    ```{study-runs}
    ```
"""

import json
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from mialab.book.execution import CHAPTERS, ROOT, chapters, clock


def runs() -> list[dict[str, Any]]:
    """Return the records of the runs that made the book's chapters, in the book's order."""
    pages = [CHAPTERS / f"{name}.ipynb" for name in chapters()]
    notebooks = [json.loads(page.read_text()) for page in pages if page.exists()]
    return [notebook["metadata"]["mialab"] for notebook in notebooks if "mialab" in notebook["metadata"]]


class StudyRuns(SphinxDirective):
    """The directive ``study-runs``: what each chapter was made from, and the versions that made it."""

    def run(self) -> list[nodes.Node]:
        """Return the tables; the page is read again whenever a chapter changes."""
        for name in chapters():
            self.env.note_dependency(str((CHAPTERS / f"{name}.ipynb").relative_to(ROOT)))
        found = runs()
        lines = [
            "| chapter | profile | parameters | time | finished (UTC) | commit |",
            "| --- | --- | --- | --: | --- | --- |",
        ]
        for run in found:
            given = ", ".join(f"`{k}={v!r}`" for k, v in run["parameters"].items()) or "as in the notebook"
            date = run["date"][:16].replace("T", " ")
            lines.append(
                f"| {{doc}}`/book/chapters/{run['notebook']}` | {run['profile'] or '-'} | {given} "
                f"| {clock(run['seconds'])} | {date} | `{run['commit']}` |"
            )
        lines += ["", "| software | version |", "| --- | --- |"]
        versions = {
            (name, v) for run in found for name, v in [("python", run["python"]), *run["versions"].items()]
        }
        lines += [f"| {name} | {version} |" for name, version in sorted(versions)]
        lines += [f"| machine | {machine} |" for machine in sorted({run["machine"] for run in found})]
        holder = nodes.container()
        self.state.nested_parse(StringList(lines, source=self.env.docname), self.content_offset, holder)
        return holder.children


def without_thebe(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document
) -> None:
    """Drop the scripts of sphinx-thebe, which Jupyter Book always loads: not used here, and an error on each page."""
    for kind in ("script_files", "css_files"):
        context[kind] = [
            file for file in context.get(kind, []) if "thebe" not in f"{file} {file.attributes}".lower()
        ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.add_directive("study-runs", StudyRuns)
    app.connect("html-page-context", without_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
