"""Bringing a notebook and its pair in step, without losing an edit in either."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from mialab.book import execution


def sync(notebook: Path) -> str:
    """Bring a ``.py`` notebook and its ``.ipynb`` pair in step.

    Where they differ, the one with changes that are not committed wins; if both have some, or nobody knows, the younger
    one, and the other is kept beside it.

    Parameters
    ----------
    notebook : Path
        The ``.py`` file.

    Returns
    -------
    str
        What happened, in a sentence; empty if they were in step.
    """
    pair = notebook.with_suffix(".ipynb")
    if not pair.exists() or _in_step(notebook, pair):
        before = pair.read_bytes() if pair.exists() else b""
        _write(notebook)
        return f"wrote {pair.name} from {notebook.name}" * (pair.read_bytes() != before)
    edited = [file for file in (notebook, pair) if _is_edited(file)]
    told = ""
    if len(edited) == 1:
        (winner,) = edited
        why = "has edits that are not committed"
    else:
        winner = max(notebook, pair, key=lambda file: file.stat().st_mtime)
        loser = pair if winner == notebook else notebook
        kept = notebook.parents[1] / "runs" / f"{loser.stem}.kept{loser.suffix}"
        kept.parent.mkdir(exist_ok=True)
        shutil.copy(loser, kept)
        why = "is the younger one" + ", and both have edits" * bool(edited)
        told = f"; the other one is kept as runs/{kept.name}"
    if winner == pair:
        _to_source(pair)
    _write(notebook)
    return f"{notebook.stem}: {winner.name} {why}, and counts{told}"


def _write(notebook: Path) -> None:
    """Write the pair, and the source as its pair has it, with metadata in the order in which these are kept there."""
    _to_source(execution.pair(notebook))


def _to_source(pair: Path) -> None:
    """Write the ``.py`` file of a pair."""
    subprocess.run(
        [sys.executable, "-m", "jupytext", "--quiet", "--to", "py:percent", pair.name],
        check=True,
        cwd=pair.parent,
    )


def _in_step(notebook: Path, pair: Path) -> bool:
    """Tell whether both have the same cells, with the same tags and captions."""
    mine, other = (execution.read(file).cells for file in (notebook, pair))
    return [(c.cell_type, c.source, c.metadata) for c in mine] == [
        (c.cell_type, c.source, c.metadata) for c in other
    ]


def _is_edited(file: Path) -> bool:
    """Tell whether a file differs from the last commit; no, where there is none or no git."""
    try:
        state = subprocess.run(
            ["git", "diff", "--quiet", "HEAD", "--", file.name],
            cwd=file.parent,
            capture_output=True,
            check=False,
        )
    except OSError:
        return False
    return state.returncode == 1
