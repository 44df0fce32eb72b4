"""Where files are kept."""

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Folder for everything that can be made again: ``MIALAB_CACHE``, or the user's cache folder."""
    given = os.environ.get("MIALAB_CACHE", "")
    if "://" in given:
        raise ValueError(
            f"MIALAB_CACHE={given!r} must be a folder. Games may be kept at a URL: set MIALAB_GAMES."
        )
    return Path(given or platformdirs.user_cache_dir("mialab")).expanduser().resolve()
