"""What the chapter on rival defenses needs besides: what its sweep will cost, and one table of several to be saved."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mialab import _progress
from mialab.auditing.claims import Claim
from mialab.auditing.conditions import EQUAL_ACCURACY
from mialab.auditing.knobs import KNOBS
from mialab.auditing.tradeoff import EARLY, REFERENCES, UNDEFENDED, TradeOffTable, chosen_for
from mialab.chapters.settings import Setting
from mialab.classifiers.game import play
from mialab.defenses.base import DEFENSES, Defense
from mialab.defenses.early_stopping import EarlyStopping
from mialab.metrics.intervals import Interval

#: Column of saved curves that says which data set they are of.
DATASET = "data set"

#: Models that are timed, and the two numbers of epochs.
MODELS, EPOCHS = 4, (1, 3)


def together(tables: Mapping[str, TradeOffTable]) -> pd.DataFrame:
    """Return the curves of several data sets in one table, to be saved; `apart` undoes it."""
    rows = pd.concat([pd.DataFrame(table).assign(**{DATASET: name}) for name, table in tables.items()])
    audits = {}
    for name, table in tables.items():
        about = {key: value for key, value in table.attrs.items() if key != "run"}
        audits[name] = table.attrs["run"] | {"sweep": about}
    rows.attrs = {"audits": audits}
    return rows


def apart(curves: pd.DataFrame) -> dict[str, TradeOffTable]:
    """Return the curves of each data set of a table from `together`."""
    tables = {}
    for name, about in curves.attrs["audits"].items():
        rows = pd.DataFrame(curves)[curves[DATASET] == name].drop(columns=DATASET).reset_index(drop=True)
        for column in ("problem", "chosen"):  # texts, which a file may hold as numbers or not at all
            rows[column] = [told if isinstance(told, str) else _text(told) for told in rows[column]]
        tables[name] = TradeOffTable(rows)
        tables[name].attrs = about["sweep"] | {"run": {k: v for k, v in about.items() if k != "sweep"}}
    return tables


def _text(number: float) -> str:
    return "" if np.isnan(number) else f"{number:g}"


def claims(
    tables: Mapping[str, TradeOffTable], points: float
) -> tuple[dict[str, Claim], dict[str, Interval | str]]:
    """Return the claims that each defense protects better than early stopping and than DP-SGD, and the findings.

    Parameters
    ----------
    tables : dict of str to TradeOffTable
        By data set.
    points : float
        Points of test accuracy that a defense may cost, as of `TradeOffTable.against`.

    Returns
    -------
    claims, findings : dict
        By ``"DATA SET: DEFENSE, RIVAL"``, for `mialab.auditing.claims.judge`.
    """
    made: dict[str, Claim] = {}
    found: dict[str, Interval | str] = {}
    for dataset, table in tables.items():
        names = [*table["defense"], *(row["defense"] for row in table.attrs["missing"])]
        for defense in dict.fromkeys(names):
            if defense in (UNDEFENDED, *REFERENCES):
                continue
            for rival, title in REFERENCES.items():
                key = f"{dataset}: {defense}, {rival}"
                made[key] = Claim(
                    text=f"{defense} protects better than {title} at the same accuracy ({dataset})",
                    source="the question of this chapter",
                    test=f"AUC of the strongest attack on answers, {defense} minus {title}, "
                    f"at most {points} points below: below 0",
                    below=0,
                    margin=0.01,
                    requires=("trained", EQUAL_ACCURACY),
                )
                found[key] = table.against(defense, rival, points)
    return made, found


def tuned(table: TradeOffTable, points: float) -> dict[str, Defense]:
    """Return each defense at the setting that validation chose for a cost, where that is not its default one.

    Parameters
    ----------
    table : TradeOffTable
        The curves.
    points : float
        Of the ``allowed`` ones of `mialab.auditing.trade_off`.

    Returns
    -------
    dict of str to Defense
        By labels such as ``"hamp (tuned)"``. Early stopping is at its epoch.
    """
    found: dict[str, Defense] = {}
    rows = pd.DataFrame(table)
    chosen = rows[chosen_for(rows, points)]
    for name, setting in chosen.groupby("defense", sort=False)["setting"].first().items():
        if name not in DEFENSES:
            continue
        default = DEFENSES.make(name)
        if name == EARLY:
            made: Defense = EarlyStopping(epochs=int(float(setting)))
        elif name in KNOBS:
            known = [value for value in KNOBS[name].values if _is(value, str(setting))]
            if not known:
                continue
            made = KNOBS[name].turn(default, known[0])
        else:
            continue
        if made != default:
            found[f"{name} (tuned)"] = made
    return found


def _is(value: Any, told: str) -> bool:
    """Tell whether a value is what a table calls so."""
    try:
        return str(value) == told or float(value) == float(told)
    except (TypeError, ValueError):
        return False


def with_tuned(table: TradeOffTable | None, points: float | None) -> dict[str, Defense]:
    """Return all defenses by label, the undefended models first, and behind each its tuned form, see `tuned`.

    Parameters
    ----------
    table : TradeOffTable or None
        The curves; None where there are none.
    points : float or None
        As of `tuned`; None for no tuned forms.
    """
    names = sorted(DEFENSES.available(), key=lambda name: name != UNDEFENDED)
    second = {} if table is None or points is None else tuned(table, points)
    found: dict[str, Defense] = {}
    for name in names:
        found[name] = DEFENSES.make(name)
        if f"{name} (tuned)" in second:
            found[f"{name} (tuned)"] = second[f"{name} (tuned)"]
    return found


def against_all(
    table: TradeOffTable, defense: str, rivals: Sequence[str], points: float, **curve: str
) -> tuple[pd.DataFrame, Interval | str]:
    """Compare a defense with each of several rivals at equal accuracy.

    Parameters
    ----------
    table : TradeOffTable
        The curves.
    defense : str
        Name of the defense.
    rivals : sequence of str
        Names of the others, at least one.
    points : float
        As of `TradeOffTable.against`.
    **curve
        ``metric`` and ``sees``, as of `TradeOffTable.against`.

    Returns
    -------
    rows : DataFrame
        A row a rival: how much stronger the strongest attack on the defense is, with its interval, or why the two
        cannot be compared.
    greatest : Interval or str
        The greatest of the differences. It is below 0 where the defense protects better than every rival: its upper end
        is the greatest of all (an intersection-union test). Its lower end, which knows that the greatest was picked
        (Bonferroni), is above 0 where some rival protects better. Rivals that could not be compared fail its condition
        "equal accuracy", unless one of the others protects better already.
    """
    if not rivals:
        raise ValueError("rivals=[] must name at least one defense.")
    found = {rival: table.against(defense, rival, points, **curve) for rival in rivals}
    fair: dict[str, Interval] = {}
    reasons: dict[str, str] = {}
    for rival, at in found.items():
        if isinstance(at, str):
            reasons[rival] = at
        elif wrong := "; ".join(filter(None, at.conditions.values())):
            reasons[rival] = wrong
        else:
            fair[rival] = at
    rows = pd.DataFrame.from_dict(
        {
            rival: (f"{at:+.3f}" if isinstance(at, Interval) else "-", reasons.get(rival, ""))
            for rival, at in found.items()
        },
        orient="index",
        columns=["difference", "not comparable"],
    ).rename_axis("rival")
    told = "; ".join(f"{rival}: {reason}" for rival, reason in reasons.items())
    if not fair:
        return rows, told
    worst = max(fair.values(), key=lambda at: at.value)
    # The half of an interval that covers with 97.5 % becomes one that covers all of them with 97.5 %.
    tail = (1 - worst.confidence) / 2
    lows = [
        at.value - (at.value - at.low) * stats.t.isf(tail / len(fair), at.df) / stats.t.isf(tail, at.df)
        for at in fair.values()
    ]
    greatest = Interval(
        worst.value,
        float(max(lows)),
        max(at.high for at in fair.values()),
        df=worst.df,
        n_pairs=worst.n_pairs,
    )
    if reasons and greatest.low <= 0:
        greatest = greatest.under(**{EQUAL_ACCURACY: told})
    return rows, greatest


def estimate(
    settings: Mapping[str, Setting],
    defenses: Iterable[str | Defense] | None = None,
    *,
    n_models: int,
    budget: int,
    search_models: int,
) -> float:
    """Return about how many seconds the sweeps take, and say so on the terminal.

    Two short trainings with the weakest setting of each defense are timed on each data set, because some cost several
    times as much as others; their difference is what epochs cost, without what a game costs once. Defenses that cannot
    be trained there cost nothing; nor does early stopping.

    Parameters
    ----------
    settings : dict of Setting
        The data sets, see `mialab.chapters.settings.settings`.
    defenses : iterable of str or Defense, optional
        As of `mialab.auditing.trade_off`.
    n_models, budget, search_models : int
        As of `mialab.auditing.trade_off`.

    Returns
    -------
    float
        Wall-clock seconds of trainings alone, if none is stored.
    """
    chosen = DEFENSES.several(DEFENSES.available() if defenses is None else defenses)
    swept = [d for d in chosen if d.name in KNOBS and d.name != EARLY]
    trainings, seconds = 0, 0.0
    for setting in settings.values():
        for defense in [DEFENSES.make(UNDEFENDED), *swept]:
            knob = KNOBS.get(defense.name)
            weakest = defense if knob is None else knob.turn(defense, knob.values[0])
            try:
                few, more = (_seconds(setting, weakest, epochs) for epochs in EPOCHS)
            except OSError:
                raise
            except Exception:  # the table of the sweep will say why
                continue
            of_an_epoch = max(more - few, 0) / (EPOCHS[1] - EPOCHS[0])
            settings_of_it = 1 if knob is None else budget
            count = settings_of_it * (n_models + search_models)
            trainings += count
            seconds += count * setting.training.last * of_an_epoch / MODELS
            seconds += 2 * settings_of_it * max(few - EPOCHS[0] * of_an_epoch, 0)  # a search and a report
    minutes = f"{np.ceil(seconds / 60):.0f} min"
    _progress.note(f"{trainings:,} trainings: about {minutes}, attacks apart, unless they are stored")
    return seconds


def _seconds(setting: Setting, defense: Defense, epochs: int) -> float:
    """Time a short game."""
    short = dataclasses.replace(setting.training, epochs=epochs, stop=None, milestones=(), checkpoints=())
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        play(setting.pool, setting.model, defense, training=short, n_models=MODELS, store=folder)
        return time.perf_counter() - began
