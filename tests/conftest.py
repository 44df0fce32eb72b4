"""What every test needs: a cache folder of its own, and one thread."""

import os

import pytest
import torch
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples on every run, so that a failure can be seen again; no deadline, as machines differ.
settings.register_profile("mialab", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("mialab")


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory):
    """Keep games out of the user's cache; played games are shared between the tests of a session."""
    before = os.environ.get("MIALAB_CACHE")
    os.environ["MIALAB_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    torch.set_num_threads(1)
    yield
    if before is None:
        del os.environ["MIALAB_CACHE"]
    else:
        os.environ["MIALAB_CACHE"] = before


@pytest.fixture
def fresh_cache(monkeypatch, tmp_path):
    """Give a test a cache folder of its own."""
    monkeypatch.setenv("MIALAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def trained(monkeypatch):
    """Count the models that are trained."""
    import toys

    from mialab.classifiers import run as classifier_run

    return toys.count_trained(monkeypatch, classifier_run)
