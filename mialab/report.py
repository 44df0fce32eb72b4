"""A report on the privacy of a model: one page of HTML that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from mialab.attacks.base import Attack
from mialab.auditing.epsilon import epsilon_bound
from mialab.auditing.own import audit_possible, possible
from mialab.auditing.tables import AuditTable
from mialab.auditing.taxonomy import SETS, in_words, threat_model
from mialab.classifiers.game import Game
from mialab.exceptions import RequirementsNotMet
from mialab.metrics import rates
from mialab.metrics.intervals import Interval

#: Fraction of members among those who might be asked about, for the sentence on accused records.
PRIOR = 0.01

STYLE = """
:root { color-scheme: light; }
body { font: 1rem/1.55 system-ui, sans-serif; color: #1f2430; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.first { border: 1px solid #c9ced6; border-left: .4rem solid #1b4f7a; border-radius: .4rem; padding: .8rem 1.1rem; }
.first p { margin: .4rem 0; } .big { font-size: 1.15rem; }
.muted { color: #5b6472; font-size: .88rem; }
.box { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid #e2e5ea; white-space: nowrap; }
svg { max-width: 100%; height: auto; }
@media print { body { margin: 0; max-width: none; } details { display: block; } details > * { display: block; } }
"""


def report(
    game: Game,
    attacks: Sequence[str | Attack] | None = None,
    *,
    fprs: Sequence[float] = (0.001, 0.01),
    title: str = "",
    table: AuditTable | None = None,
) -> str:
    """Audit a game and return a report as one self-contained page of HTML.

    Its first screen says what an attacker finds, in sentences; below it stand ROC curves, all values, a bound on
    epsilon, the most exposed records, what could not be tested, and where the numbers come from.

    Parameters
    ----------
    game : Game
        E.g. from `mialab.auditing.game_of`.
    attacks, fprs
        As of `mialab.auditing.audit_possible`.
    title : str
        By default that of the data.
    table : AuditTable, optional
        The audit of this game with these attacks and rates, if it was made already.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If no attack is possible.
    ImportError
        If matplotlib is not installed.
    """
    table = audit_possible(game, attacks, fprs=fprs) if table is None else table
    able, _ = possible(game, attacks)  # their outcomes are known to the game
    name = title or f"Membership inference: {game.attrs.get('dataset', 'a model')}"
    order = table.pooled("auc").sort_values("value", ascending=False)["attack"].tolist()
    by_name = {attack.name: attack for attack in able}
    single = [attack for attack in order if threat_model(attack) != SETS]
    strongest = [by_name[attack] for attack in (single or order)[:3]]
    parts = [
        f"<h1>{escape(name)}</h1>",
        _first_screen(game, table),
        "<h2>ROC curves</h2>",
        "<p class='muted'>The strongest attacks, on logarithmic axes. A curve starts where ten false alarms are "
        "allowed.</p>",
        _curves(game, strongest),
        "<h2>All attacks</h2>",
        f"<div class='box'>{_values(table, order)}</div>",
        "<h2>Epsilon from below</h2>",
        f"<p>{escape(_epsilon(game, able))}</p>",
        "<h2>The most exposed records</h2>",
        _exposed(game, strongest[0]),
        "<h2>What was not tested</h2>",
        _refused(table),
        "<h2>Where the numbers come from</h2>",
        _provenance(table),
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<meta name='viewport' content='width=device-width'><title>{escape(name)}</title><style>{STYLE}</style>"
        f"</head><body>{''.join(parts)}</body></html>\n"
    )


def sentences(table: AuditTable) -> list[str]:
    """Say what the strongest attack of each kind of attacker finds, for a reader in a hurry."""
    told = []
    rated = sorted(
        (m for m in set(table["metric"]) if m.startswith("tpr@")), key=lambda m: float(m.split("@")[1])
    )
    strongest = table.attrs["strongest"]
    for kind, (attack, *ends, n) in strongest["auc"].items():
        at = Interval(*ends[:3])
        if kind == SETS:
            told.append(
                f"One who asks about several records at a time, all of them members or none, tells which with a chance "
                f"of {100 * at.value:.0f} % [{100 * at.low:.0f}, {100 * at.high:.0f}] ({in_words(attack)})."
            )
            continue
        chance = " That is no better than guessing." if at.low <= 0.5 else ""
        told.append(
            f"An attacker who sees {kind} tells a member from another record with a chance of {100 * at.value:.0f} % "
            f"[{100 * at.low:.0f}, {100 * at.high:.0f}]; 50 % is a coin ({in_words(attack)}, the best "
            f"of {n}).{chance}"
        )
    for metric in rated[:1]:
        rate = float(metric.split("@")[1])
        for kind, (attack, *ends, _) in strongest[metric].items():
            if kind == SETS:
                continue
            at = Interval(*ends[:3])
            accused = rates.precision_at(at.value, rate, PRIOR)
            told.append(
                f"At 1 false alarm in {1 / rate:,.0f}, one who sees {kind} finds {100 * at.value:.1f} % "
                f"[{100 * at.low:.1f}, {100 * at.high:.1f}] of the members ({in_words(attack)}): of 1,000 accused, "
                f"{1000 * accused:.0f} were members if {100 * PRIOR:g} % of those who might be asked about are."
            )
    return told


def _first_screen(game: Game, table: AuditTable) -> str:
    told = sentences(table)
    head, *rest = told
    advice: Sequence[str] = table.attrs.get("advice", [])
    n_in, n_out = int(game.member[~game.shadow].sum()), int((~game.member[~game.shadow]).sum())
    targets = int((~game.shadow).sum())
    facts = (
        f"{targets} model{'s' * (targets != 1)}, {n_in:,} members and {n_out:,} others; "
        f"{game.n_models - targets} models that are shadow models only. Intervals are of 95 %."
    )
    return (
        f"<div class='first'><p class='big'>{escape(head)}</p>"
        + "".join(f"<p>{escape(each)}</p>" for each in rest)
        + f"<p class='muted'>{escape(facts)}</p>"
        + "".join(f"<p class='muted'>{escape(each)}</p>" for each in advice)
        + "</div>"
    )


def _curves(game: Game, attacks: Sequence[Attack]) -> str:
    import matplotlib.pyplot as plt

    from mialab import plots

    plots.style()
    fig, ax = plt.subplots(figsize=(6.2, 4.4))
    plots.roc(game, attacks, ax=ax)
    return plots.as_svg(fig, "ROC curves of the three strongest attacks on logarithmic axes.")


def _values(table: AuditTable, order: Sequence[str]) -> str:
    metrics = [
        "auc",
        "balanced_accuracy",
        *(m for m in dict.fromkeys(table["metric"]) if m.startswith("tpr@")),
    ]
    head = "".join(f"<th>{escape(text)}</th>" for text in ["attack", *map(_words, metrics)])
    rows = []
    for attack in order:
        cells = [f"{table.interval(attack, metric):.3f}" for metric in metrics]
        rows.append(
            "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in [in_words(attack), *cells]) + "</tr>"
        )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _words(metric: str) -> str:
    kind, _, rate = metric.partition("@")
    return f"TPR at {100 * float(rate):g} % FPR" if rate else {"auc": "AUC"}.get(kind, kind.replace("_", " "))


def _epsilon(game: Game, able: Sequence[Attack]) -> str:
    """Bound epsilon by the loss, which is tried in all reports, so that no attack is chosen for its success."""
    loss = next((attack for attack in able if attack.name in ("loss", "loss_known_half")), None)
    if loss is None:
        return "No bound: the loss was not among the attacks."
    try:
        bound = epsilon_bound(game, loss, method="one_run_gdp", delta=1e-5)
    except (ValueError, RequirementsNotMet) as error:
        return f"No bound: {error}"
    return (
        f"If training was private, its epsilon is at least {bound.epsilon:.2f} at delta 1e-5, and mu at least "
        f"{bound.mu:.2f} (95 %). That holds if members and others were drawn at random from the same records; if "
        "somebody chose them, it may be wrong."
    )


def _exposed(game: Game, attack: Attack, n: int = 10) -> str:
    """Name the members that an attack is surest of, over all targets."""
    outcome = game.outcome(attack)
    scored = outcome.evaluated & outcome.member
    known = scored.any(0)
    mean = np.where(scored, outcome.score, 0).sum(0) / np.maximum(scored.sum(0), 1)
    order = [int(i) for i in np.argsort(-np.where(known, mean, -np.inf), kind="stable")[:n] if known[i]]
    listed = ", ".join(f"{i:,}" for i in order)
    few = " One model says little about a single record." if len(outcome.score) == 1 else ""
    return (
        f"<p>The members that the strongest attack ({escape(in_words(attack.name))}) is surest of are the records "
        f"{listed}, by their places, from 0.{few}</p>"
    )


def _refused(table: AuditTable) -> str:
    left: dict[str, str] = table.attrs.get("refused", {})
    if not left:
        return "<p>Every attack that is known was run.</p>"
    rows = "".join(
        f"<li><strong>{escape(in_words(name))}</strong>: {escape(why)}</li>" for name, why in left.items()
    )
    return f"<details><summary>{len(left)} attacks were left out</summary><ul>{rows}</ul></details>"


def _provenance(table: AuditTable) -> str:
    made = table.attrs["audit"]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    date = str(made["date"])[:16].replace("T", " ")
    told = (
        f"Audit of {date} UTC, Python {made['python']}, {versions}. Intervals are about other records like these and, "
        "with several targets, other models."
    )
    return f"<p class='muted'>{escape(told)}</p>"
