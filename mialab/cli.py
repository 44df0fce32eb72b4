"""Command line: ``mialab run | new | sync | checksums | datasets``, or ``python -m mialab ...``."""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _run(options: argparse.Namespace) -> int:
    from mialab.book import execution

    notebook = execution.find(options.notebook)
    parameters = execution.load_profile(options.profile).get(options.notebook, {}) if options.profile else {}
    parameters = {k: v for k, v in parameters.items() if k != "after"}
    parameters |= {
        name: execution.parse_yaml(value, f"-p {name} {value!r}") for name, value in options.parameter
    }
    out = options.out or execution.RUNS / f"{options.notebook}.ipynb"
    good = execution.show_run(
        execution.Display(), notebook, out.absolute(), parameters, profile=options.profile or ""
    )
    if good:
        print(f"wrote   {out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out}")
    return 0 if good else 1


def _new(options: argparse.Namespace) -> int:
    from mialab.book import execution

    name = options.name
    if not name.isidentifier():
        raise ValueError(f"name={name!r} must be letters, digits and underscores, e.g. my_idea.")
    target = execution.NOTEBOOKS / f"{name}.py"
    for file in (target, target.with_suffix(".ipynb")):
        if file.exists():
            raise ValueError(f"notebooks/{file.name} is there already.")
    template = execution.find("template").read_text()
    target.write_text(template.replace("A new chapter", name.replace("_", " ").capitalize(), 1))
    execution.pair(target)
    print(
        f"wrote   notebooks/{name}.py and its pair notebooks/{name}.ipynb\n\n"
        f"Run it:             python -m mialab run {name}\n"
        f"Show it in the book: add to _toc.yml, under `chapters:` of the part where it belongs,\n"
        f"                        - file: book/chapters/{name}\n"
        f"                    give it parameters, if it needs any, in profiles/*.yml, and say `make book`."
    )
    return 0


def _sync(options: argparse.Namespace) -> int:
    from mialab.book import execution

    def jupytext(*arguments: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "jupytext", "--quiet", *arguments], check=True, cwd=execution.NOTEBOOKS
        )

    for notebook in sorted(execution.NOTEBOOKS.glob("*.py")):
        if notebook.with_suffix(".ipynb").exists():
            jupytext("--sync", notebook.name)  # the younger of the two wins, so that edits in Jupyter count
        # Metadata in the order in which .ipynb keeps it:
        jupytext("--to", "py:percent", execution.pair(notebook).name)
    return 0


def _checksums(options: argparse.Namespace) -> int:
    from mialab.book import reference_runs

    became = reference_runs.state_checksums()
    for file, what in sorted(became.items()):
        print(f"{what:<8}{file}")
    print(f"{len(became) or 'no'} checksums changed: look at `git diff results/` before you commit them.")
    return 0


def _datasets(options: argparse.Namespace) -> int:
    from mialab.data import loading

    print(loading.datasets().to_string())
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="mialab", description="Run and write chapters of the study.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, call: Callable[[argparse.Namespace], int], what: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=what)
        made.set_defaults(call=call)
        return made

    run = command("run", _run, "execute one notebook with parameters")
    run.add_argument("notebook", help="its name, e.g. hamp")
    value: dict[str, Any] = {
        "dest": "parameter",
        "nargs": 2,
        "action": "append",
        "default": [],
        "metavar": ("NAME", "VALUE"),
    }
    run.add_argument("-p", **value, help="set one parameter; the value is read as YAML")
    run.add_argument("--profile", help="start from the parameters in profiles/PROFILE.yml")
    run.add_argument("--out", type=Path, help="the page to write (default: runs/NOTEBOOK.ipynb)")
    new = command("new", _new, "start a chapter from the template")
    new.add_argument("name", help="e.g. my_idea")
    command("sync", _sync, "bring notebooks/*.py and their .ipynb pairs in step")
    command("checksums", _checksums, "state the checksums of results/ anew, after a change on purpose")
    command("datasets", _datasets, "list the data sets and whether they are here")
    options = parser.parse_args(arguments)
    try:
        return options.call(options)
    except (ValueError, ImportError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\nstopped. Models that were trained are stored: the same command goes on from there.",
            file=sys.stderr,
        )
        return 130
