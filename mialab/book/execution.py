"""Runs notebooks: text and parameters in, an executed page out, or no page at all.

A notebook is a py:percent file in ``notebooks/``. It is executed by papermill in a process of its own, into a
temporary file that becomes the page only when every cell has succeeded. A page carries the key of what it was made from
and a checksum of its contents, so that neither an old nor a changed one passes for current.
"""

import datetime as dt
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat import NotebookNode
from tqdm import tqdm

from mialab import provenance
from mialab._validation import check_name, choose
from mialab.book.parameters import Parameter, parse_yaml, read_parameters

ROOT = Path(__file__).parents[2]


NOTEBOOKS = ROOT / "notebooks"


PROFILES = ROOT / "profiles"


CHAPTERS = ROOT / "book" / "chapters"


RUNS = ROOT / "runs"


#: Environment variable that names another folder than ``results/`` for the tables that a run keeps.
RESULTS = "MIALAB_RESULTS"


Report = Callable[[str], None]


class NotebookError(RuntimeError):
    """There is no page; the message is one line, and names what was kept of the execution."""


def find(name: str, folder: Path = NOTEBOOKS) -> Path:
    """Return the py:percent file of the notebook ``name``.

    Raises
    ------
    ValueError
        If there is none; the message lists the notebooks there are.
    """
    return folder / f"{choose('notebook', name, (p.stem for p in folder.glob('*.py')))}.py"


def chapters(toc: Path = ROOT / "_toc.yml") -> list[str]:
    """Return the names of the notebooks that the book's table of contents lists, in its order."""
    folder = CHAPTERS.relative_to(ROOT).as_posix()
    return re.findall(rf"^[\s-]*file: *{folder}/(\w+)$", toc.read_text(), re.MULTILINE)


def load_profile(name: str, folder: Path = PROFILES) -> dict[str, dict[str, Any]]:
    """Return the parameters that the profile ``name`` gives to each notebook.

    The key ``after`` of a notebook is no parameter: it lists the notebooks that must have run before.

    Raises
    ------
    ValueError
        If there is no such profile, it is not laid out so, or notebooks wait for each other.
    """
    choose("profile", name, (p.stem for p in folder.glob("*.yml")))
    where = f"profiles/{name}.yml"
    profile = parse_yaml((folder / f"{name}.yml").read_text(encoding="utf-8"), where)
    profile = {} if profile is None else profile
    if not isinstance(profile, dict) or not all(isinstance(g, dict | None) for g in profile.values()):
        raise ValueError(f"{where} must map notebooks to their parameters, e.g. `hamp: {{seed: 1}}`.")
    profile = {notebook: dict(given or {}) for notebook, given in profile.items()}
    for notebook, given in profile.items():
        after = given.get("after", [])
        if not isinstance(after, list) or not all(isinstance(other, str) for other in after):
            raise ValueError(f"{where}: {notebook}: after={after!r} must be a list of notebooks.")
    _check_order(where, {notebook: given.get("after", []) for notebook, given in profile.items()})
    return profile


def _check_order(where: str, after: Mapping[str, list[str]]) -> None:
    """Refuse notebooks that wait for each other (ValueError)."""
    try:
        TopologicalSorter(after).prepare()
    except CycleError as error:
        raise ValueError(
            f"{where}: notebooks wait for each other by `after`: {' -> '.join(error.args[1])}."
        ) from None


def read(notebook: Path) -> NotebookNode:
    """Return a py:percent file as a notebook without outputs, the same bytes every time."""
    source = jupytext.read(notebook)
    source.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    source.nbformat, source.nbformat_minor = 4, 5
    used: Counter[str] = Counter()
    for cell in source.cells:
        # A cell's id follows from its text, so that an edit elsewhere leaves it alone.
        digest = _digest(f"{cell.cell_type}\n{cell.source}")[:10]
        used[digest] += 1
        cell["id"] = digest if used[digest] == 1 else f"{digest}-{used[digest]}"
    return source


def pair(notebook: Path) -> Path:
    """Write the ``.ipynb`` pair of a py:percent file beside it and return its path."""
    path = notebook.with_suffix(".ipynb")
    nbformat.write(read(notebook), path)
    return path


def parameters_of(notebook: Path) -> list[Parameter]:
    """Return the parameters that a notebook can be given: what its cell tagged ``parameters`` assigns.

    Raises
    ------
    ValueError
        If the cell is no Python.
    """
    tagged = [c.source for c in read(notebook).cells if "parameters" in c.metadata.get("tags", [])]
    return read_parameters(tagged[0], f"notebook {notebook.stem!r}") if tagged else []


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that the notebook's cell tagged ``parameters`` does not define, or that it cannot be given.

    Raises
    ------
    ValueError
        Naming the parameter, and the nearest known one and all known ones, or what its value can be.
    """
    known = [parameter.name for parameter in parameters_of(notebook)]
    for name, value in parameters.items():
        choose(f"notebook {notebook.stem!r}: the parameter", name, known)
        if not _is_plain(value):
            raise ValueError(
                f"notebook {notebook.stem!r}: the parameter {name}={value!r} must be made of numbers, texts, true, "
                "false and null, in lists and mappings; a text that looks like a date needs quotes of its own."
            )
    if parameters.get("save_as"):
        check_name("save_as", parameters["save_as"])


def _is_plain(value: object) -> bool:
    """Return whether JSON can say a value."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, bool | int | float | str)


def check_out(out: Path) -> None:
    """Refuse a place for a page, before anything runs.

    Raises
    ------
    ValueError
        If it is no ``.ipynb`` file, is where the pairs of notebooks are, holds a file that no run has made, or cannot
        be written.
    """
    wrong, place = "", out.resolve()
    ours = any(place.is_relative_to(folder.resolve()) for folder in (CHAPTERS, RUNS))
    if out.suffix != ".ipynb":
        wrong = "must end in .ipynb"
    elif place.is_relative_to(NOTEBOOKS.resolve()):
        wrong = "must not be in notebooks/, where the notebooks themselves are"
    elif out.is_dir():
        wrong = "is a folder"
    elif out.exists() and not ours and not _is_whole(out):
        wrong = "is there already and is not a page as a run left it: give another name, or remove it"
    else:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=out.parent):
                pass
        except OSError as error:
            wrong = f"cannot be written ({error.strerror or error}): give another place"
    if wrong:
        raise ValueError(f"out={str(out)!r} {wrong}.")


def content_key(
    notebook: Path, parameters: Mapping[str, Any], profile: str = "", extra: Iterable[str] = ()
) -> str:
    """Return a hash of what a page is made from: text, parameters, this package's source, library versions.

    Parameters
    ----------
    notebook : Path
        The py:percent file.
    parameters : mapping
        Papermill parameters.
    profile : str
        Name of the profile the parameters come from; the page states it.
    extra : iterable of str
        Whatever else counts, e.g. the keys of notebooks that run before this one.
    """
    package = Path(__file__).parents[1]
    modules = {p.relative_to(package).as_posix() for p in package.rglob("*.py")}
    modules -= {"__main__.py", "cli.py", "book/extension.py"}
    shown = sorted(p for p in (package / "book").iterdir() if p.suffix in (".css", ".html", ".js", ".json"))
    made_by = provenance.collect()
    facts = [dict(parameters), made_by.get("python"), made_by["versions"]]
    return _digest(
        notebook.read_text(),
        profile,
        provenance.source_hash(*sorted(modules)),
        *(p.read_text(encoding="utf-8") for p in shown),
        *(json.dumps(fact, sort_keys=True, default=str) for fact in facts),
        *extra,
    )


def results_key() -> str:
    """Return a hash of the stored results of reference runs, which a chapter may show."""
    files = sorted((ROOT / "results").glob("*.*"))
    return _digest(*(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files))


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def is_current(page: Path, key: str) -> bool:
    """Return whether a page is as it was executed, from what ``key`` stands for and with the results stored now."""
    try:
        record = read_page(page)["metadata"]["mialab"]
        return (record["key"], record["results_key"]) == (key, results_key())
    except (OSError, ValueError, KeyError):
        return False


def read_page(page: Path) -> dict[str, Any]:
    """Return an executed page.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it was changed since it was executed.
    """
    try:
        found = json.loads(page.read_bytes())
        if found["metadata"]["mialab"]["checksum"] == _checksum(found):
            return found
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise ValueError(f"{page.name} was changed or damaged since it was executed: run it again.")


def _is_whole(page: Path) -> bool:
    with suppress(OSError, ValueError):
        return bool(read_page(page))
    return False


def _checksum(page: Mapping[str, Any]) -> str:
    """Return a sha256 of all that a page holds but this checksum itself."""
    record = {k: v for k, v in page["metadata"]["mialab"].items() if k != "checksum"}
    bare = {**page, "metadata": {**page["metadata"], "mialab": record}}
    return _digest(json.dumps(bare, sort_keys=True))


def run(
    notebook: Path,
    out: Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    profile: str = "",
    key: str | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Execute one notebook and write its page.

    Parameters
    ----------
    notebook : Path
        A py:percent file.
    out : Path
        The page to write, an ``.ipynb`` file. It is there afterward only if all cells succeeded: an earlier page is
        replaced by the new one, or else becomes ``runs/<name>.previous.ipynb``.
    parameters : mapping, optional
        Papermill parameters; each must be defined in the notebook's cell tagged ``parameters``.
    profile : str
        Name of the profile the parameters come from, kept for the record.
    key : str, optional
        Content key to keep in the page, by default that of notebook, parameters and profile.
    report : callable, optional
        Called about twice a second with one line on what is going on.

    Returns
    -------
    dict
        The run's record, also kept in the page's metadata under ``mialab``: notebook, profile, parameters, seconds,
        key, date, commit, versions, checksum.

    Raises
    ------
    ValueError
        If a parameter is unknown to the notebook, or ``out`` is no place for a page, see `check_out`.
    NotebookError
        If a cell or the kernel failed; what was executed until then is kept as ``runs/<name>.failed.ipynb``. Or if the
        page cannot be written; the message says where it is kept instead.
    """
    parameters = dict(parameters or {})
    check_parameters(notebook, parameters)
    check_out(out)
    if parameters.get("save_as") and not os.environ.get(RESULTS):  # else not for results/
        provenance.check_commit()
    key = content_key(notebook, parameters, profile) if key is None else key
    began = time.monotonic()
    scratch, draft, kept = Path(tempfile.mkdtemp(prefix="mialab-")), None, None
    try:
        spare = f"{notebook.stem}.{os.getpid()}.draft.ipynb"
        places = [scratch / f"{notebook.stem}.ipynb", RUNS / spare, out.with_name(spare)]
        draft, error = _execute(notebook, places, parameters, report or (lambda line: None))
        if error or not draft:
            with suppress(OSError):
                if out.exists():
                    RUNS.mkdir(exist_ok=True)
                    shutil.move(out, RUNS / f"{notebook.stem}.previous.ipynb")
            if draft:
                kept = (
                    _keep(draft.read_text(encoding="utf-8"), RUNS / f"{notebook.stem}.failed.ipynb") or draft
                )
                error += f"  (see {_short(kept)})"
            raise NotebookError(error)
        kept = draft
        try:
            page, record = _finish(draft, notebook, profile, parameters, time.monotonic() - began, key)
        except (OSError, ValueError) as problem:
            raise NotebookError(
                f"no page could be made ({problem}); what was executed is kept as {draft}."
            ) from problem
        now = dt.datetime.now().strftime("%Y%m%d-%H%M%S")
        kept = _keep(page, out, RUNS / f"{notebook.stem}.{now}.ipynb", draft) or draft
        if kept != out:
            raise NotebookError(
                f"the page cannot be written to {_short(out)}; the finished execution is kept as {_short(kept)}: "
                "make room, and move it there."
            )
    finally:
        if kept != draft and draft:
            draft.unlink(missing_ok=True)
        if kept is None or scratch not in kept.parents:
            shutil.rmtree(scratch, ignore_errors=True)
    return record


def _finish(
    draft: Path, notebook: Path, profile: str, parameters: dict[str, Any], seconds: float, key: str
) -> tuple[str, dict[str, Any]]:
    """Return the page of an executed notebook, and the record it carries."""
    page = nbformat.read(draft, as_version=4)
    record = {
        "notebook": notebook.stem,
        "profile": profile,
        "parameters": parameters,
        "seconds": round(seconds, 1),
        "key": key,
        "results_key": results_key(),  # as the run leaves them: a notebook may renew its own
        **provenance.collect(),
    }
    _tidy(page)
    page.metadata["mialab"] = record
    record["checksum"] = page.metadata["mialab"]["checksum"] = _checksum(json.loads(nbformat.writes(page)))
    return nbformat.writes(page) + "\n", record


def _keep(text: str, *places: Path) -> Path | None:
    """Write a text to the first place that takes it, beside it and then renamed; return the place, if any."""
    for place in places:
        part = place.with_name(f"{place.name}.{os.getpid()}.part")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(text, encoding="utf-8")
            part.replace(place)
            return place
        except OSError:  # a full disk, and others
            with suppress(OSError):
                part.unlink()
    return None


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def _tidy(page: NotebookNode) -> None:
    """Hide the injected parameters behind a click, keep figures alone, drop what differs from run to run."""
    page.metadata.pop("papermill", None)
    for cell in page.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
        elif "injected-parameters" in cell.metadata.tags:
            cell.metadata.tags.append("hide-input")
            cell.metadata["mystnb"] = {"code_prompt_show": "Show the parameters of this run"}
        if "figure" in cell.metadata.get("mystnb", {}):
            # Not the repr of the last line: it would be a second figure with the same name and caption.
            cell.outputs = [o for o in cell.outputs if set(o.get("data", {})) != {"text/plain"}]


def _environment(progress: Path) -> dict[str, str]:
    """Environment of a kernel: one thread per process, inline figures, and a file to report progress to."""
    # MPLBACKEND=Agg would drop every figure without a word; JUPYTER_PATH could bring another python3 kernel.
    inherited = {k: v for k, v in os.environ.items() if k not in ("MPLBACKEND", "JUPYTER_PATH")}
    # `from myst_nb import glue` imports tqdm.auto, which would advise every page to install ipywidgets.
    quiet = ",".join(filter(None, [inherited.get("PYTHONWARNINGS"), "ignore:IProgress not found"]))
    return {**inherited, "OMP_NUM_THREADS": "1", "MIALAB_PROGRESS": str(progress), "PYTHONWARNINGS": quiet}


def _execute(
    notebook: Path, places: list[Path], parameters: dict[str, Any], report: Report
) -> tuple[Path | None, str]:
    """Execute ``notebook`` in a child process, into the first of some places that has room for it.

    Returns what was executed, if it is anywhere, and the error in one line, or ``""``.
    """
    progress, log = places[0].with_suffix(".progress"), places[0].with_suffix(".log")
    job = {"notebook": str(notebook), "places": [str(p) for p in places], "parameters": parameters}
    state: dict[str, Any] = {}

    def listen(lines: Iterable[str]) -> None:
        for line in lines:
            if line.startswith("{"):
                state.update(json.loads(line))

    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [
                sys.executable,
                "-P",
                __file__,
            ],  # as a file: the runner itself needs next to nothing of the package
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=ROOT,
            env=_environment(progress),
        ) as child,
    ):
        assert child.stdin  # pipes, both
        assert child.stdout
        listener = threading.Thread(target=listen, args=(child.stdout,), daemon=True)
        listener.start()
        try:
            child.stdin.write(json.dumps(job) + "\n")
            child.stdin.flush()
            while child.poll() is None:
                report(_status(state, progress))
                with suppress(subprocess.TimeoutExpired):
                    child.wait(0.5)
        finally:
            child.stdin.close()  # tells a child that still runs to stop
            child.wait()
            listener.join(5)
    if "error" not in state:
        state["error"] = (
            f"the runner's process ended with code {child.returncode}: {_last_line(log.read_text()) or 'no message'}"
        )
    executed = next((p for p in reversed(places) if p.exists()), None)
    return executed, state["error"]


def _status(state: Mapping[str, Any], progress: Path) -> str:
    line = f"cell {state['cell']}/{state['cells']}" if "cell" in state else "starting"
    try:
        now = json.loads(progress.read_text())
    except (OSError, ValueError):
        return line
    line += f" · {now['text']} {now['done']}/{now['total']}"
    left = now.get("seconds_left")
    return line if left is None else f"{line}, {clock(left)} left"


def clock(seconds: float) -> str:
    """Return a duration as ``m:ss`` or ``h:mm:ss``."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def _child() -> None:
    """Execute the job on standard input; say on standard output, as JSON lines, where it is and how it ended."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    job = json.loads(sys.stdin.readline())

    def stop_with_parent() -> None:
        sys.stdin.read()
        os._exit(1)  # the kernel notices within a second and ends as well

    threading.Thread(target=stop_with_parent, daemon=True).start()

    drafts = _Drafts(job["places"])
    papermill.iorw.papermill_io.register(drafts.scheme, drafts)

    def say(**state: Any) -> None:
        print(json.dumps(state), flush=True)

    source, reached = read(Path(job["notebook"])), 0

    def at_cell(cell: NotebookNode, cell_index: int) -> None:
        nonlocal reached
        reached = cell_index + 1
        say(cell=reached, cells=len(source.cells) + bool(job["parameters"]))

    options: dict[str, Any] = {"kernel_name": "python3", "language": "python", "cwd": str(ROOT)}
    options |= {"progress_bar": False, "coalesce_streams": True, "on_cell_start": at_cell}
    # Parallel kernels with "ipc" would share sockets; plain tcp makes ipykernel 7 warn on every page.
    options["config"] = Config({"KernelManager": {"transport_encryption": "auto"}})
    failed = ""
    for attempt in (1, 2):
        try:
            papermill.execute_notebook(source, f"{drafts.scheme}draft.ipynb", job["parameters"], **options)
            if not drafts.written:
                failed = f"there is no room to keep what was executed in any of {', '.join(job['places'])}"
        except papermill.PapermillExecutionError as error:
            failed = f"cell {error.cell_index + 1}: {error.ename}: {_last_line(error.evalue)}"
        except DeadKernelError:
            failed = f"cell {reached}: the kernel died (out of memory, or killed)"
        except Exception as error:
            if isinstance(error, RuntimeError) and not reached and attempt == 1:
                continue  # ports are chosen before they are bound, so that a kernel can fail to start: once more
            failed = f"{type(error).__name__}: {_last_line(error)}"
        break
    say(error=failed)


class _Drafts:
    """Where papermill writes after every cell: the first of some places that has room."""

    scheme = "drafts:"

    def __init__(self, places: list[str]) -> None:
        self._places, self.written = [Path(p) for p in places], False

    def write(self, text: str, path: str) -> None:
        """Write what was executed so far; without room, the next cell may find some."""
        place = _keep(text, *self._places)
        self.written = place is not None
        for other in self._places:
            if place and other != place:
                with suppress(OSError):
                    other.unlink()  # it is older

    def pretty_path(self, path: str) -> str:
        """Return how messages call the place."""
        return path


def _last_line(text: object) -> str:
    return (str(text).strip().splitlines() or [""])[-1]


class Display:
    """One live line per running notebook on a terminal; elsewhere a plain line now and then."""

    def __init__(self, stream: Any = None, every: float = 60.0) -> None:
        self._stream, self._every = stream or sys.stdout, every
        self._lines: dict[str, tqdm] = {}
        self._said: dict[str, float] = {}
        self._lock = threading.Lock()

    def update(self, name: str, status: str) -> None:
        """Show what the notebook ``name`` does now."""
        line = f"  {name:<16} {status}"
        with self._lock:
            if self._stream.isatty():
                if name not in self._lines:
                    looks: dict[str, Any] = {"bar_format": "{desc}", "leave": False, "dynamic_ncols": True}
                    self._lines[name] = tqdm(file=self._stream, **looks)
                self._lines[name].set_description_str(line)
            elif time.monotonic() - self._said.get(name, -self._every) >= self._every:
                self._said[name] = time.monotonic()
                print(line, file=self._stream, flush=True)

    def finish(self, name: str, line: str) -> None:
        """Print the last line on the notebook ``name``."""
        with self._lock:
            self._said.pop(name, None)
            if name in self._lines:
                self._lines.pop(name).close()
            tqdm.write(line, file=self._stream)
            self._stream.flush()


def show_run(display: Display, notebook: Path, out: Path, parameters: Mapping[str, Any], **more: Any) -> bool:
    """Run one notebook, as `run` does, with its status on ``display``; return whether it succeeded."""
    name = notebook.stem
    try:
        record = run(notebook, out, parameters, report=lambda status: display.update(name, status), **more)
    except (RuntimeError, ValueError, OSError) as error:
        display.finish(name, f"FAILED  {name:<16} {error}")
        return False
    display.finish(name, f"done    {name:<16} {clock(record['seconds'])}")
    return True


if __name__ == "__main__":
    _child()
