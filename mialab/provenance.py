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
    """Return the git commit of this code, with ``+`` if it or a notebook was changed since, or ``"unknown"``."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", "--", ".", ":/notebooks/*.py") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def check_commit() -> None:
    """Refuse a run of which nobody could say what code made it (RuntimeError)."""
    if commit().endswith("+") or commit() == "unknown":
        raise RuntimeError(
            f"commit={commit()!r}: tables for results/ need code that is committed, so that the run can be repeated. "
            "Commit the changes to mialab/ and notebooks/, and run again; games that were played are read from the "
            "store."
        )


@cache
def source_hash(*modules: str) -> str:
    """Return a sha256 of the code of this package's modules, blind to imports, comments, docstrings and layout.

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
    """Return the code in a file without imports, comments, docstrings and layout."""
    return ast.dump(_Bare().visit(ast.parse(file.read_text())))


class _Bare(ast.NodeTransformer):
    """Leave out what decides no number: where names come from is seen where they are defined."""

    def visit_Import(self, node: ast.Import) -> None:
        """Leave it out."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Leave it out."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        """Leave out what only a type checker reads."""
        return None if "TYPE_CHECKING" in ast.dump(node.test) else self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Leave docstrings out."""
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)


@cache
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
