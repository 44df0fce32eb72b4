"""The pipeline: notebooks through papermill, then the book; only what changed, in parallel.

doit               both, for the profile named by the environment variable PROFILE (default: quick)
doit list --all    the tasks
doit notebook:hamp one chapter
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from doit.exceptions import InvalidTask
from doit.reporter import ZeroReporter
from doit.tools import config_changed

from mialab.book import execution

PROFILE = os.environ.get("PROFILE", "quick")
HTML = execution.ROOT / "_build" / "html"
display = execution.Display()


class Reporter(ZeroReporter):
    """Says only what our own lines do not: what is up to date, and what could not run."""

    def skip_uptodate(self, task):
        display.finish(task.name, f"current {task.name.split(':')[-1]}")

    def add_failure(self, task, fail):
        if type(fail).__name__ == "UnmetDependency":
            needed = ", ".join(d.removeprefix("notebook:") for d in fail.message.split(", "))
            display.finish(task.name, f"skipped {task.name.split(':')[-1]:<16} because of {needed}")


DOIT_CONFIG = {
    "default_tasks": ["book"],
    "dep_file": ".cache/doit.db",
    "num_process": 2,
    "par_type": "thread",  # every notebook has a process of its own already
    "continue": True,
    "verbosity": 2,
    "reporter": Reporter,
}


def plan():
    """Name, file, parameters, predecessors and content key of every chapter; refuses what cannot run."""
    try:
        return list(_plan())
    except ValueError as error:
        raise InvalidTask(str(error)) from error  # doit prints it without a traceback


def _plan():
    profile = execution.load_profile(PROFILE)
    for name in profile:
        execution.find(name)
    keys = {}

    def key(name):
        if name not in keys:
            given = dict(profile.get(name, {}))
            after = given.pop("after", [])
            execution.check_parameters(execution.find(name), given)
            keys[name] = execution.content_key(execution.find(name), given, PROFILE, [key(a) for a in after])
        return keys[name]

    for name in execution.chapters():
        given = dict(profile.get(name, {}))
        yield name, execution.find(name), given, given.pop("after", []), key(name)


def execute(name, notebook, page, given, key):
    (HTML / "book" / "chapters" / f"{name}.html").unlink(missing_ok=True)  # no old page beside a failed run
    return execution.show_run(display, notebook, page, given, profile=PROFILE, key=key)


def task_notebook():
    """Execute a notebook with the profile's parameters."""
    for name, notebook, given, after, key in plan():
        page = execution.CHAPTERS / f"{name}.ipynb"
        yield {
            "name": name,
            "actions": [(execute, [name, notebook, page, given, key])],
            # The page carries the key of what it was made from, so that no page of another run can pass for it.
            "uptodate": [lambda page=page, key=key: execution.is_current(page, key)],
            "targets": [page],
            "task_dep": [f"notebook:{a}" for a in after],
        }


def build():
    # From scratch: an incremental build forgets the warnings of pages that it does not read again.
    shutil.rmtree(execution.ROOT / "_build", ignore_errors=True)
    book = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", book, "build", ".", "-W", "-n", "--keep-going", "-q"]
    print("building the book ...", flush=True)
    done = subprocess.run(command, cwd=execution.ROOT, check=False, stdout=subprocess.DEVNULL)
    if done.returncode:
        print("The book was not built: the warnings above say why.", flush=True)
    return done.returncode == 0


def task_book():
    """Build the Jupyter Book; any warning is an error."""
    root, pages = execution.ROOT, [execution.CHAPTERS / f"{name}.ipynb" for name in execution.chapters()]
    prose = [p for p in (root / "book").rglob("*") if p.is_file() and execution.CHAPTERS not in p.parents]
    stored = sorted((root / "results").glob("checksums.json"))  # the scoreboard shows the reference runs
    docs = [
        *prose,
        root / "_config.yml",
        root / "_toc.yml",
        *stored,
        *sorted((root / "mialab").rglob("*.py")),
    ]
    return {
        "actions": [build],
        "file_dep": [*docs, *pages],
        "uptodate": [config_changed(",".join(sorted(str(p) for p in docs)))],
        "targets": [HTML / "index.html"],
        "task_dep": [f"notebook:{p.stem}" for p in pages],
        "clean": [lambda: shutil.rmtree(root / "_build", ignore_errors=True)],
    }


Path(".cache").mkdir(exist_ok=True)
