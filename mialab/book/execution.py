"""Runs notebooks: text and parameters in, an executed page out, or no page at all.

A notebook is a py:percent file in ``notebooks/``. It is executed by papermill in a process of its own, into a
temporary file that becomes the page only when every cell has succeeded.
"""

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
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml
from nbformat import NotebookNode
from tqdm import tqdm

from mialab import provenance
from mialab._validation import choose
from mialab.book import reference_runs

ROOT = Path(__file__).parents[2]


NOTEBOOKS = ROOT / "notebooks"


PROFILES = ROOT / "profiles"


CHAPTERS = ROOT / "book" / "chapters"


RUNS = ROOT / "runs"


Report = Callable[[str], None]


class NotebookError(RuntimeError):
    """A notebook did not run to its end; the message is one line."""


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
        If there is no such profile.
    """
    choose("profile", name, (p.stem for p in folder.glob("*.yml")))
    profile = yaml.safe_load((folder / f"{name}.yml").read_text()) or {}
    return {notebook: dict(given or {}) for notebook, given in profile.items()}


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


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that the notebook's cell tagged ``parameters`` does not define.

    Raises
    ------
    ValueError
        Naming the parameter, the nearest known one and all known ones.
    """
    import papermill

    known = list(papermill.inspect_notebook(read(notebook)))
    for name in parameters:
        choose(f"notebook {notebook.stem!r}: the parameter", name, known)


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
    made_by = provenance.collect()
    facts = [dict(parameters), made_by.get("python"), made_by["versions"]]
    return _digest(
        notebook.read_text(),
        profile,
        provenance.source_hash(*sorted(modules)),
        *(json.dumps(fact, sort_keys=True, default=str) for fact in facts),
        *extra,
    )


def results_key() -> str:
    """Return a hash of the stored results of reference runs, which a chapter may show."""
    files = sorted((ROOT / "results").glob("*.*"))
    return _digest(*(f"{file.name}\0{file.read_text()}" for file in files))


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def is_current(page: Path, key: str) -> bool:
    """Return whether an executed page was made from what ``key`` stands for, and shows the results stored now."""
    try:
        record = json.loads(page.read_text())["metadata"]["mialab"]
        return (record["key"], record["results_key"]) == (key, results_key())
    except (OSError, ValueError, KeyError):
        return False


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
        The page to write, an ``.ipynb`` file. It is removed first and exists afterward only if all cells succeeded.
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
        key, date, commit, versions.

    Raises
    ------
    ValueError
        If a parameter is unknown to the notebook.
    NotebookError
        If a cell or the kernel failed. What was executed until then is kept as ``runs/<name>.failed.ipynb``.
    """
    parameters = dict(parameters or {})
    check_parameters(notebook, parameters)
    if parameters.get("save_as"):
        reference_runs.check_commit()
    key = content_key(notebook, parameters, profile) if key is None else key
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mialab-") as folder:
        draft = Path(folder) / f"{notebook.stem}.ipynb"
        error = _execute(notebook, draft, parameters, report or (lambda line: None))
        if error:
            if draft.exists():
                RUNS.mkdir(exist_ok=True)
                shutil.move(draft, RUNS / f"{notebook.stem}.failed.ipynb")
            raise NotebookError(error)
        page = nbformat.read(draft, as_version=4)
    record = {
        "notebook": notebook.stem,
        "profile": profile,
        "parameters": parameters,
        "seconds": round(time.monotonic() - began, 1),
        "key": key,
        "results_key": results_key(),  # as the run leaves them: a notebook may renew its own
        **provenance.collect(),
    }
    _tidy(page)
    page.metadata["mialab"] = record
    part = out.with_name(f"{out.name}.part")
    nbformat.write(page, part)
    part.replace(out)
    return record


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


def _execute(notebook: Path, draft: Path, parameters: dict[str, Any], report: Report) -> str:
    """Execute ``notebook`` into ``draft`` in a child process; return the error in one line, or ``""``."""
    progress, log = draft.with_suffix(".progress"), draft.with_suffix(".log")
    job = {"notebook": str(notebook), "draft": str(draft), "parameters": parameters}
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
    return state["error"]


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
            papermill.execute_notebook(source, job["draft"], job["parameters"], **options)
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
    except (NotebookError, ValueError) as error:
        failed = RUNS / f"{name}.failed.ipynb"
        kept = isinstance(error, NotebookError) and failed.exists()
        hint = f"  (see {failed.relative_to(ROOT)})" if kept else ""
        display.finish(name, f"FAILED  {name:<16} {error}{hint}")
        return False
    display.finish(name, f"done    {name:<16} {clock(record['seconds'])}")
    return True


if __name__ == "__main__":
    _child()
