"""The book: running notebooks, tables of reference runs, the Sphinx extension. Works in a checkout only."""

from pathlib import Path

from mialab._validation import extra

with extra("book"):
    from mialab.book import execution as execution

if not (Path(__file__).parents[2] / "notebooks").is_dir():
    raise ImportError(
        "mialab.book runs the notebooks of a checkout of the study, and mialab is installed elsewhere: "
        "clone the repository, and there say `pip install -e .`."
    )
