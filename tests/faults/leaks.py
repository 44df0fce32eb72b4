"""Many games in one process: memory and open files stay as they are."""

import gc
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import toys

import mialab as mia
from mialab.attacks.threshold import Threshold
from mialab.models import MLP

#: Games until everything is loaded that is loaded once, and what the rest may add, in MB and files.
WARM, MEGABYTES, FILES = 40, 30, 3


def many_games(indices: Sequence[int], folder: Path) -> Iterator[str]:
    """Play a game for each index, another each time, and look at memory and open files at the end."""
    os.environ["MIALAB_CACHE"], pool, before = str(folder / "cache"), toys.pool(), (0.0, 0)
    for k, index in enumerate(indices):
        game = mia.play(pool, MLP(hidden=(8,)), training=mia.Training(epochs=1), n_models=2, seed=index)
        mia.audit(game, [Threshold(calibrate="known_half")])
        shutil.rmtree(folder / "cache")
        if k == min(WARM, len(indices) // 2):
            before = _held()
        if k < len(indices) - 1:
            yield ""
    memory, handles = (now - then for now, then in zip(_held(), before, strict=True))
    flat = memory <= MEGABYTES and handles <= FILES
    yield "" if flat else f"left: {memory:.0f} MB and {handles} open files after {len(indices)} games"


def _held() -> tuple[float, int]:
    """Return the memory of this process in MB, and the number of its open files."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd"))
