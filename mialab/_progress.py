"""Progress of long work: a bar on the terminal, a status file for the notebook runner, nothing in a page."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm


def _report(file: Path, text: str, done: int, total: int, began: float) -> None:
    left = (time.monotonic() - began) * (total - done) / done if done else None
    part = file.with_name(f"{file.name}.{os.getpid()}")
    part.write_text(json.dumps({"text": text, "done": done, "total": total, "seconds_left": left}))
    part.replace(file)


def note(text: str) -> None:
    """Say on the terminal, or to the notebook runner, what is being waited for."""
    name = os.environ.get("MIALAB_PROGRESS")
    if name:
        _report(Path(name), text, 0, 0, time.monotonic())
    elif sys.stderr.isatty():
        print(text, file=sys.stderr)


@contextmanager
def bar(total: int, text: str) -> Iterator[Callable[[int], None]]:
    """Show that ``total`` units of work go on; yields a function to call with the number of units just done.

    On a terminal this is a tqdm bar on standard error. Where the environment variable ``MIALAB_PROGRESS`` names
    a file (the notebook runner sets it), the state is written there as JSON: ``text``, ``done``, ``total`` and
    ``seconds_left``. Elsewhere nothing is shown, so that logs and rendered pages stay clean.

    Parameters
    ----------
    total : int
        Units of work, e.g. models to train.
    text : str
        What is done, e.g. ``"training hamp"``.
    """
    began, done = time.monotonic(), 0
    name = os.environ.get("MIALAB_PROGRESS")
    file = Path(name) if name else None
    with tqdm(
        total=total,
        desc=text,
        unit="model",
        smoothing=0,  # the mean rate gives what is left: groups come in bursts, several workers at a time
        leave=False,
        dynamic_ncols=True,
        disable=file is not None or not sys.stderr.isatty(),
    ) as shown:

        def advance(n: int = 1) -> None:
            nonlocal done
            done += n
            shown.update(n)
            if file:
                _report(file, text, done, total, began)

        if file:
            _report(file, text, 0, total, began)
        try:
            yield advance
        finally:
            if file:
                file.unlink(missing_ok=True)
