"""The examples in docstrings run, and give what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

import mialab

ROOT = Path(mialab.__file__).parents[1]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "mialab").rglob("*.py"))
    if ">>> " in path.read_text()
]
#: Of examples that train: what is made small.
SMALLER = {
    "n_models=16": "n_models=8, training=mia.Training(epochs=1)",
    "gan.Training(steps=1000": "gan.Training(steps=5",
    "size=400, validation=300": "size=60, validation=30",
}


@pytest.mark.parametrize("module", MODULES)
def test_examples_of(module):
    module = importlib.import_module(module)
    examples = [e for found in doctest.DocTestFinder().find(module) for e in found.examples]
    for example in examples:
        for whole, small in SMALLER.items():
            example.source = example.source.replace(whole, small)
    names = vars(module) | {}
    runner = doctest.DocTestRunner()
    runner.run(doctest.DocTest(examples, names, module.__name__, module.__file__, 0, None))
    assert runner.summarize().attempted > 0
    assert not runner.summarize().failed
