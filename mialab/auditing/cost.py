"""What a defense costs in time, from the seconds that games keep of each model."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from mialab._validation import choose
from mialab.games.base import Game


def training_cost(games: Mapping[str, Game], *, baseline: str = "none") -> pd.DataFrame:
    """Return the seconds of a model of each game, and how many times those of the undefended one they are.

    Parameters
    ----------
    games : dict of str to Game
        Label to game; all of one network and pool, trained on one kind of device, for the ratio to mean something.
    baseline : str
        Label of the game that the others are compared with.

    Returns
    -------
    pandas.DataFrame
        A row per game; columns ``models``, ``seconds`` and ``relative_cost``.

    Raises
    ------
    ValueError
        If ``baseline`` is no label, a game keeps no seconds, or devices differ.

    Notes
    -----
    A model's seconds are its fraction of the wall-clock time of its group, on one processor core or a GPU: training,
    answers and probes. They depend on the size of the group and on what else the machine does, so ratios are rough
    unless games were played one after the other on an idle machine, with the same number of models.
    """
    choose("baseline", baseline, games)
    reference, rows = games[baseline], {}
    for label, game in games.items():
        if "seconds" not in game.dataset:
            raise ValueError(
                f"games[{label!r}] keeps no seconds: it was not played, or is a view of an earlier epoch."
            )
        devices = [one.attrs.get("device") for one in (game, reference)]
        if devices[0] != devices[1]:
            raise ValueError(
                f"games[{label!r}] was trained on {devices[0]!r}, {baseline!r} on {devices[1]!r}: times do not compare."
            )
        rows[label] = (game.n_models, float(game.dataset["seconds"].mean()))
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["models", "seconds"])
    return table.assign(relative_cost=table["seconds"] / table.loc[baseline, "seconds"])
