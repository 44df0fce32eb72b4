"""Runs the cells of a notebook in a process that is forked from one that has imported all that notebooks import.

Papermill and a kernel of its own take most of the time of a tiny notebook; what they do is tested with small ones.
"""

import os
import traceback
from pathlib import Path
from typing import Any

# What is not used here is imported for the processes that are forked (F401).
import itables  # noqa: F401
import joblib
import matplotlib.pyplot  # noqa: F401
import myst_nb  # noqa: F401
import nbformat
import papermill
import seaborn  # noqa: F401
import sklearn.ensemble
import sklearn.linear_model  # noqa: F401
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from mialab.book import execution
from mialab.gan import utility


def execute(notebook: str, out: str, parameters: dict[str, Any], cache: str, workers: int = 1) -> None:
    """Write the page of a notebook; if a cell fails, what it printed, and end with code 1."""
    os.environ |= {"MIALAB_CACHE": cache, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    os.chdir(execution.ROOT)
    torch.set_num_threads(1)
    utility.STEPS = 4  # accuracies mean nothing at this size
    page = execution.read(Path(notebook))
    kernel = {"kernel_name": "python3", "language": "python"}
    page = papermill.execute_notebook(page, None, parameters, prepare_only=True, progress_bar=False, **kernel)
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    with joblib.parallel_config(n_jobs=workers):
        for cell in page.cells:
            if cell.cell_type == "code" and cell.source.strip():
                cell.outputs = _run(shell, cell.source, Path(out))
                cell.execution_count = shell.execution_count - 1
    nbformat.write(page, out)


def _run(shell: InteractiveShell, source: str, out: Path) -> list[nbformat.NotebookNode]:
    with capture_output() as captured:
        result = shell.run_cell(source, store_history=True)
    if not result.success:
        error = result.error_before_exec or result.error_in_exec
        out.write_text("".join(traceback.format_exception(error)))
        raise SystemExit(1)
    texts = [nbformat.v4.new_output("stream", text=captured.stdout)] if captured.stdout else []
    shown = [nbformat.v4.new_output("display_data", o.data, metadata=o.metadata) for o in captured.outputs]
    return texts + shown
