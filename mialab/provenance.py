"""Where a result comes from: versions, commit, machine."""

import ast
import datetime as dt
import hashlib
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "mialab",
    "torch",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "xarray",
    "zarr",
    "matplotlib",
    "seaborn",
)


@cache
def commit() -> str:
    """Return the git commit of this code, with ``+`` behind it if files were changed since, or ``"unknown"``."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", "--", ".") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"


@cache
def source_hash(*modules: str) -> str:
    """Return a sha256 of the code of this package's modules, blind to comments, docstrings and layout.

    Parameters
    ----------
    *modules : str
        Paths inside the package: files (``"engine.py"``) or folders (``"defenses"``); all of it by default.
    """
    here = Path(__file__).parent
    roots = [here / m for m in modules] or [here]
    files = sorted(f for root in roots for f in ([root] if root.is_file() else root.rglob("*.py")))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(here)}\0{code_of(file)}".encode())
    return digest.hexdigest()


def code_of(file: Path) -> str:
    """Return the code in a file without comments, docstrings and layout."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            body.pop(0)
    return ast.dump(tree)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def collect() -> dict[str, object]:
    """Return versions, commit, machine and time as a JSON-friendly dictionary."""
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {p: _version(p) for p in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}",
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
