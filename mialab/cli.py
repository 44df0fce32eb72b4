"""Command line: ``mialab run | sweep | list | params | show | new | sync | ...``, or ``python -m mialab ...``."""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _given(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return all parameters of a run, and those of them that the command line gave."""
    from mialab.book import execution
    from mialab.book.parameters import parse_yaml

    of_profile = execution.load_profile(options.profile).get(options.notebook, {}) if options.profile else {}
    given = {name: parse_yaml(value, f"-p {name} {value!r}") for name, value in options.parameter}
    return {k: v for k, v in of_profile.items() if k != "after"} | given, given


def _run(options: argparse.Namespace) -> int:
    from mialab.book import execution, reruns

    notebook = execution.find(options.notebook)
    parameters, given = _given(options)
    display, profile = execution.Display(), options.profile or ""
    page: Path | None
    if options.out:
        page = options.out.absolute()
        page = page if execution.show_run(display, notebook, page, parameters, profile=profile) else None
    else:
        page = reruns.run(display, notebook, parameters, profile=profile, given=given)
    if page is None:
        return 1
    print(f"wrote   {_short(page)}")
    if options.html:
        print(f"wrote   {_short(reruns.html(page))}")
    return 0


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _sweep(options: argparse.Namespace) -> int:
    from mialab.book import execution, reruns

    notebook = execution.find(options.notebook)
    name, text = options.over
    values = reruns.values(text)
    parameters, _ = _given(options)
    folder, table = reruns.sweep(
        execution.Display(), notebook, name, values, parameters, profile=options.profile or ""
    )
    print(table.to_string())
    print(f"wrote   {_short(folder / 'stability.html')}")
    return 0 if table.shape[1] == len(values) + 1 else 1


def _game(options: argparse.Namespace) -> Any:
    """Return the game of the answers in a file or folder."""
    from mialab import read_game
    from mialab.classifiers.answers import FLOOR

    floor = FLOOR if options.floor is None else options.floor
    return read_game(options.answers, y=options.labels, floor=floor)


def _audit(options: argparse.Namespace) -> int:
    from mialab.auditing import audit_possible
    from mialab.report import report, sentences

    game, attacks, fprs = _game(options), options.attack or None, options.fpr or (0.001, 0.01)
    table = audit_possible(game, attacks, fprs=fprs)
    for told in [*sentences(table), *table.attrs["advice"]]:
        print(told)
    if options.csv:
        table.to_csv(options.csv, index=False)
        print(f"wrote   {_short(options.csv.absolute())}")
    if options.out:
        options.out.write_text(report(game, attacks, fprs=fprs, table=table), "utf-8")
        print(f"wrote   {_short(options.out.absolute())}")
    return 0


def _gate(options: argparse.Namespace) -> int:
    from mialab.auditing.own import gate

    passed, told = gate(_game(options), options.max_tpr, options.at_fpr, attacks=options.attack or None)
    print(told)
    return 0 if passed else 1


def _list(options: argparse.Namespace) -> int:
    from mialab.book import execution

    names = execution.chapters()
    names += sorted(p.stem for p in execution.NOTEBOOKS.glob("*.py") if p.stem not in names)
    for name in names:
        title = next(
            c.source for c in execution.read(execution.find(name)).cells if c.cell_type == "markdown"
        )
        print(f"{name:<20}{title.splitlines()[0].lstrip('# ')}")
    return 0


def _params(options: argparse.Namespace) -> int:
    from mialab.book import execution

    for one in execution.parameters_of(execution.find(options.notebook)):
        default = one.default if len(one.default) <= 60 else f"{one.default[:57]}..."
        print(f"{one.name:<18}{one.kind:<9}{default:<62}{one.meaning}".rstrip())
    return 0


def _show(options: argparse.Namespace) -> int:
    import webbrowser

    from mialab.book import execution

    built = execution.ROOT / "_build" / "html"
    page = built / "index.html"
    if options.notebook:
        page = built / "book" / "chapters" / f"{execution.find(options.notebook).stem}.html"
    if not page.exists():
        raise ValueError(f"{_short(page)} is not there: build the book first, `make book`.")
    print(page.as_uri())
    webbrowser.open(page.as_uri())
    return 0


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
    from mialab.book import execution, pairs

    for notebook in sorted(execution.NOTEBOOKS.glob("*.py")):
        if told := pairs.sync(notebook):
            print(told)
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


#: What the help of a command ends with; the empty name is that of all.
EXAMPLES = {
    "": """
examples:
  mialab list                                          the chapters
  mialab run hamp -p seed 3 --html                     one of them, with another seed, as a page to read
  mialab audit answers.npz --out report.html           what attackers find in a model of your own
  mialab gate answers.npz --max-tpr 0.02 --at-fpr 0.001

`mialab COMMAND --help` says more; the book's page "How to re-run and fork" has it all.""",
    "run": """
examples:
  mialab run hamp                                      as in the book
  mialab run hamp -p seed 3 -p gamma 0.9 --html        with other parameters: `mialab params hamp` lists them
  mialab run hamp --profile standard --out my.ipynb    real data, on a processor

No run replaces the page of another. After Ctrl-C the same command goes on with the next model.""",
    "sweep": """
examples:
  mialab sweep hamp seed 0..4
  mialab sweep hamp gamma '[0.5, 0.9]' -p n_models 32""",
    "audit": """
examples:
  mialab audit answers.npz                             in sentences
  mialab audit answers.csv --out report.html --csv table.csv
  mialab audit exp/cifar10 --labels y_train.npy        what the published code of LiRA wrote

In Python: np.savez("answers.npz", logits=..., member=..., y=...), with shapes (model, record, label), (model, record)
and (record,). exit codes: 0 done, 2 the file cannot be read or no attack is possible.""",
    "gate": """
examples:
  mialab gate answers.npz --max-tpr 0.02 --at-fpr 0.001

It goes by the upper end of the interval, so that few data do not pass for privacy.
exit codes: 0 passed, 1 failed, 2 cannot be told: the file cannot be read, or has too few records for that rate.""",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    looks: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(
        prog="mialab",
        description="Run and write chapters of the study, and audit models of your own.",
        epilog=EXAMPLES[""],
        **looks,
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, call: Callable[[argparse.Namespace], int], what: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=what, description=what, epilog=EXAMPLES.get(name), **looks)
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
    run.add_argument(
        "--out", type=Path, help="the page to write (default: in runs/, with the parameters in its name)"
    )
    run.add_argument("--html", action="store_true", help="render the page as in the book, beside it")
    sweep = command(
        "sweep", _sweep, "run a notebook for several values of a parameter: how stable are its verdicts?"
    )
    sweep.add_argument("notebook", help="its name, e.g. hamp")
    sweep.add_argument("over", nargs=2, metavar=("NAME", "VALUES"), help="e.g. seed 0..4, or lr '[0.1, 0.5]'")
    sweep.add_argument("-p", **value, help="set one parameter, in all runs")
    sweep.add_argument("--profile", help="start from the parameters in profiles/PROFILE.yml")
    command("list", _list, "list the notebooks")
    params = command("params", _params, "list the parameters of a notebook: name, type, default, meaning")
    params.add_argument("notebook", help="its name, e.g. hamp")
    show = command("show", _show, "open the built book, or a chapter of it")
    show.add_argument("notebook", nargs="?", help="its name, e.g. hamp")
    audit = command("audit", _audit, "audit a model by its answers in a file")
    gate = command("gate", _gate, "pass (0) or fail (1) by the upper end of the strongest attack's interval")
    for one in (audit, gate):
        one.add_argument(
            "answers",
            type=Path,
            help="an .npz, .zarr or .csv file with what models say (logits, probabilities, loss, score or labels), "
            "member and y; or a folder as the published code of LiRA writes it",
        )
        one.add_argument("--labels", type=Path, help="an .npy file with y, where the file holds none")
        one.add_argument("--floor", type=float, help="least probability (default: 1e-6)")
        one.add_argument(
            "--attack", action="append", help="an attack; may be repeated (default: all that are possible)"
        )
    audit.add_argument(
        "--fpr", type=float, action="append", help="a false-positive rate (default: 0.001 and 0.01)"
    )
    audit.add_argument("--out", type=Path, help="a report to write, one page of HTML")
    audit.add_argument("--csv", type=Path, help="a table to write")
    gate.add_argument("--max-tpr", type=float, required=True, help="greatest true-positive rate that passes")
    gate.add_argument("--at-fpr", type=float, required=True, help="at this false-positive rate")
    new = command("new", _new, "start a chapter from the template")
    new.add_argument("name", help="e.g. my_idea")
    command("sync", _sync, "bring notebooks/*.py and their .ipynb pairs in step; no edit is lost")
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
