"""The signals of a game: what can be read off each of its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mialab.options import choose
from mialab.signals import SIGNALS

if TYPE_CHECKING:
    from mialab.game import Game


def signal(game: Game, name: str) -> np.ndarray:
    """Return a signal of every answer of a game, float64 (model, query, record); computed once per game.

    Parameters
    ----------
    game : Game
        The game. Where it keeps scores instead of logits, the stored ones are returned.
    name : str
        A name of `mialab.signals.SIGNALS`.
    """
    choose("signal", name, SIGNALS)
    known = game.__dict__.setdefault("_signals", {})
    if name not in known:
        if name in game.dataset:
            known[name] = game.dataset[name].to_numpy().astype(np.float64)
        else:
            function = SIGNALS[name]
            # Model by model: in float64 all answers at once would not fit for large games.
            known[name] = np.stack([function(np.asarray(z, dtype=np.float64), game.y) for z in game.logits])
    return known[name]
