"""Write requirements.lock and environment.yml from what is installed in the running environment.

The lock holds one exact version of everything that ``mialab[book,cluster,test]`` needs, directly or not, on any
supported Python. What torch brings for a particular accelerator is left to torch, and so are its build suffixes.
"""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
ACCELERATOR = re.compile(r"nvidia|cuda|triton|pytorch-triton")


def direct() -> list[Requirement]:
    """Return the requirements that pyproject.toml states, with the extras that CI uses."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [
        Requirement(r)
        for r in [
            *project["dependencies"],
            *(r for name in ("book", "cluster", "test") for r in extras[name]),
        ]
    ]


def installed(name: str) -> metadata.Distribution:
    """Return what is installed as ``name``; install it first if only another Python needs it."""
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", name], check=True)
        return metadata.distribution(name)


def closure(python: str) -> dict[str, str]:
    """Return name and version of everything that this project leads to on one version of Python."""
    here = {**default_environment(), "python_version": python, "python_full_version": f"{python}.0"}
    pins: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(r, frozenset[str]()) for r in direct()]
    while waiting:
        requirement, extras = waiting.pop()
        marker, name = requirement.marker, canonicalize_name(requirement.name)
        if marker and not any(marker.evaluate({**here, "extra": e}) for e in extras or {""}):
            continue
        wanted = frozenset(requirement.extras)
        if ACCELERATOR.match(name) or (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        found = installed(name)
        pins[name] = found.version.split("+")[0]
        waiting += [(Requirement(r), wanted) for r in found.requires or []]
    return pins


def pins() -> list[str]:
    """Return the lines of the lock; a package that not every Python needs carries a marker."""
    needed = {python: closure(python) for python in PYTHONS}
    lines = []
    for name, version in sorted({k: v for found in needed.values() for k, v in found.items()}.items()):
        where = [python for python in PYTHONS if name in needed[python]]
        marker = " or ".join(f'python_version == "{p}"' for p in where) if len(where) < len(PYTHONS) else ""
        lines.append(f"{name}=={version}" + (f" ; {marker}" if marker else ""))
    return lines


def lock_text(lines: list[str]) -> str:
    """Return the text of requirements.lock."""
    return (
        "# What mialab[book,cluster,test] needs, directly or not. Written by `make lock`.\n"
        + "\n".join(lines)
        + "\n"
    )


def environment_text(lines: list[str]) -> str:
    """Return the text of environment.yml: the same pins, then this package."""
    return (
        "# The pins of requirements.lock for conda: `conda env create -f environment.yml`. Written by `make lock`.\n"
        "name: mialab\nchannels:\n  - conda-forge\ndependencies:\n  - python=3.11\n  - pip\n  - pip:\n"
        + "".join(f"      - {line}\n" for line in [*(repr(x) if ";" in x else x for x in lines), "-e ."])
    )


if __name__ == "__main__":
    found = pins()
    (ROOT / "requirements.lock").write_text(lock_text(found))
    (ROOT / "environment.yml").write_text(environment_text(found))
    print(f"requirements.lock and environment.yml: {len(found)} packages")
