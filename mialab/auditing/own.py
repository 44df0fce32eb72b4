"""Audit a model of one's own: a torch module, a scikit-learn estimator, or any function that predicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mialab.arrays import plain
from mialab.attacks.base import Attack
from mialab.attacks.lira import LiRA
from mialab.attacks.threshold import Threshold
from mialab.auditing.measure import audit
from mialab.auditing.tables import AuditTable
from mialab.auditing.taxonomy import SETS, _all, _check_pool, in_words
from mialab.classifiers.answers import answers_of, is_estimator
from mialab.classifiers.game import Game, play
from mialab.data.pool import Pool, digests
from mialab.exceptions import RequirementsNotMet
from mialab.metrics import rates
from mialab.metrics.rates import check_fraction, rate_name
from mialab.training.options import Training


def game_of(
    model: Any,
    members: tuple[ArrayLike, ArrayLike],
    nonmembers: tuple[ArrayLike, ArrayLike],
    *,
    name: str = "your model",
    shadows: int = 0,
    build: Any = None,
    training: Training | None = None,
    seed: int = 0,
    **options: Any,
) -> Game:
    """Make a game of one model, the records it was trained on, and others like them.

    With shadow models, the game is that of this target against models like it (`Game.with_shadows`): the attacker has
    the same records, and knows how the target was trained, but not on which of them.

    Parameters
    ----------
    model
        As of `mialab.classifiers.answers.answers_of`.
    members, nonmembers : (x, y)
        Records and labels. Non-members must come from the same source as members; if they differ in anything else, such
        as their date, attacks find that.
    name : str
        For tables and figures.
    shadows : int
        Shadow models to train, an even number; none by default.
    build : callable or estimator, optional
        What a shadow model is, as ``model`` of `mialab.play`: needed for torch modules and functions; of an estimator
        clones are fitted by default.
    training : Training, optional
        How networks are trained; it should be how the model was.
    seed : int
        Of the shadow models.
    **options
        ``outputs``, ``floor`` and ``batch_size`` of `mialab.classifiers.answers.answers_of`.

    Raises
    ------
    ValueError
        If records and labels differ in number, a side has fewer than two records, or a label is none of the model's.
    """
    answers, labels = [], []
    for side, (x, y) in {"members": members, "nonmembers": nonmembers}.items():
        y = np.asarray(plain(y))
        if len(y) != len(np.asarray(x)) or y.ndim != 1:
            raise ValueError(
                f"{side} has {len(np.asarray(x))} records and labels of shape {y.shape}: one each is needed."
            )
        if len(y) < 2:
            raise ValueError(f"{side} has {len(y)} records; there must be two at least.")
        answers.append(answers_of(model, x, **options))
        labels.append(y)
    y = np.concatenate(labels)
    if hasattr(model, "classes_"):  # estimators have labels of any kind, in the order of their answers
        place = {label: i for i, label in enumerate(np.asarray(model.classes_).tolist())}
        if odd := [label for label in np.unique(y).tolist() if label not in place]:
            raise ValueError(f"the label {odd[0]!r} is none of the model's: {list(place)}.")
        y = np.array([place[label] for label in y.tolist()])
    n_in, n_out = map(len, labels)
    member = np.arange(n_in + n_out) < n_in
    logits = np.concatenate(answers)[None]
    game = Game.from_arrays(logits=logits, member=member[None], y=y, name=name)
    inside, outside = (set(digests(np.asarray(plain(x)))) for x, _ in (members, nonmembers))
    game.attrs["on_both_sides"] = len(inside & outside)
    if not shadows:
        return game
    if build is None and not is_estimator(model):
        raise ValueError(
            f"build is missing: say how shadow models of model={type(model).__name__} are made, e.g. "
            "build=lambda shape, n_classes: Net(), and how they are trained, training=Training(...)."
        )
    x = np.concatenate([_records(side[0]) for side in (members, nonmembers)])
    if len(x) % 2:
        raise ValueError(
            f"members and nonmembers are {len(x)} records; for shadow models, which are each trained on half of them, "
            "the number must be even: leave one out."
        )
    kind = "image" if x.ndim in (3, 4) else "tabular"
    pool = Pool(_short(name), x=x, y=y.astype(np.int64), n_classes=logits.shape[-1], kind=kind)
    build = model if build is None else build
    shadowed = game.with_shadows(play(pool, build, training=training, n_models=shadows, seed=seed))
    shadowed.attrs["on_both_sides"] = game.attrs["on_both_sides"]
    return shadowed


def _records(x: ArrayLike) -> np.ndarray:
    """Return records as a pool holds them."""
    records = np.asarray(plain(x))
    is_image = records.dtype == np.uint8 and records.ndim in (3, 4)
    return records if is_image else records.astype(np.float32)


def _short(name: str) -> str:
    """Make a name fit for a file."""
    return "".join(c if c.isalnum() else "_" for c in name.lower())


def audit_model(
    model: Any,
    members: tuple[ArrayLike, ArrayLike],
    nonmembers: tuple[ArrayLike, ArrayLike],
    *,
    attacks: Sequence[str | Attack] | None = None,
    fprs: Sequence[float] = (0.001, 0.01),
    name: str = "your model",
    shadows: int = 0,
    build: Any = None,
    training: Training | None = None,
    seed: int = 0,
    **options: Any,
) -> AuditTable:
    """Audit a trained model with every attack that it allows.

    Without shadow models, a threshold is set on a random half of the records, whose membership the attacker knows; the
    other half is scored.

    Parameters
    ----------
    model
        A torch module, an estimator, or a function, see `mialab.classifiers.answers.answers_of`.
    members, nonmembers : (x, y)
        Records it was trained on, and others from the same source, with labels.
    attacks : sequence of str or Attack, optional
        Names or attacks; by default all that one model allows.
    fprs : sequence of float
        False-positive rates of the TPR; those that are not resolvable with so few records are left out and said.
    name : str
        For tables and figures.
    shadows : int
        Models to train like this one, each on a random half of the same records, so that LiRA, RMIA and the others can
        be run; even, 16 or more for values that mean something. See `game_of`.
    build, training, seed
        How shadow models are trained, see `game_of`.
    **options
        ``outputs``, ``floor`` and ``batch_size`` of `mialab.classifiers.answers.answers_of`.

    Returns
    -------
    AuditTable
        As from `mialab.audit`. ``attrs["refused"]`` says which attacks were left out and why, ``attrs["advice"]``, in
        sentences, which rates cannot be resolved and what more data would add.

    Raises
    ------
    ValueError
        If records do not fit, or no attack is possible.
    """
    how: dict[str, Any] = {"shadows": shadows, "build": build, "training": training, "seed": seed}
    game = game_of(model, members, nonmembers, name=name, **how, **options)
    return audit_possible(game, attacks, fprs=fprs)


def possible(
    game: Game, attacks: Sequence[str | Attack] | None = None
) -> tuple[list[Attack], dict[str, str]]:
    """Run all attacks that a game allows; return them, and why the others were left out.

    Parameters
    ----------
    game, attacks
        As of `audit_possible`.

    Raises
    ------
    ValueError
        If no attack is possible.
    """
    able: list[Attack] = []
    left: dict[str, str] = {}
    for attack in [*_all(attacks, None, game.victim), *(_of_signals(game) if attacks is None else ())]:
        for one in _readings(attack):
            try:
                _check_pool(one)
                one.check(game)
                game.outcome(one)
            except (RequirementsNotMet, ValueError) as error:
                left[attack.name] = str(error)
            else:
                able.append(one)
                left.pop(attack.name, None)
                break
    if not able:
        first, reason = next(iter(left.items()))
        raise ValueError(f"no attack is possible: {first}: {reason}")
    return able, left


def audit_possible(
    game: Game, attacks: Sequence[str | Attack] | None = None, *, fprs: Sequence[float] = (0.001, 0.01)
) -> AuditTable:
    """Audit a game with all attacks that it allows, at all rates that it resolves, and say what is left out.

    Parameters
    ----------
    game : Game
        E.g. from `game_of` or `mialab.Game.from_arrays`. Where it has no shadow models for a threshold, a random half
        of the records, whose membership the attacker knows, sets it.
    attacks : sequence of str or Attack, optional
        Names or attacks; all by default.
    fprs : sequence of float
        False-positive rates of the TPR.

    Returns
    -------
    AuditTable
        See `audit_model`.

    Raises
    ------
    ValueError
        If no attack is possible.
    """
    able, left = possible(game, attacks)
    outcomes = [game.outcome(one) for one in able]
    n_out = max(int((~outcome.member & outcome.evaluated).sum()) for outcome in outcomes)
    resolved = [rate for rate in fprs if rates.resolvable(n_out, rate)]
    table = audit(game, able, fprs=resolved, fnrs=())
    table.attrs["refused"] = left
    table.attrs["advice"] = _advice(game, n_out, fprs, resolved)
    return table


def _of_signals(game: Game) -> list[Attack]:
    """Return the threshold and LiRA by a score of the user's own, which no listed attack looks at."""
    if "score" not in game.dataset:
        return []
    thresholds = [Threshold(signal="score"), Threshold(signal="score", calibrated=True)]
    return [*thresholds, LiRA(signal="score"), LiRA(signal="score", online=False)]


def _readings(attack: Attack) -> list[Attack]:
    """Return an attack as it is and, if it can be, with a threshold from records that the attacker knows."""
    if "known_half" in attack.calibrations and attack.calibrate != "known_half":
        return [attack, replace(attack, calibrate="known_half")]
    return [attack]


def _advice(game: Game, n_out: int, fprs: Sequence[float], resolved: Sequence[float]) -> list[str]:
    """Say in sentences what so few records cannot tell, and what would."""
    told = []
    for rate in fprs:
        if rate not in resolved:
            needed = int(np.ceil(rates.smallest_rate(1) / rate))
            told.append(
                f"A false-positive rate of {100 * rate:g} % needs {needed:,} non-members that are "
                f"scored; there are {n_out:,}, which resolve {100 * rates.smallest_rate(n_out):.2g} % at the least."
            )
    if "logits" in game.dataset:
        right = game.logits[:, 0].argmax(-1) == game.y
        learned, tested = (100 * right[game.member == side].mean() for side in (True, False))
        told.append(
            f"Models are right about {learned:.1f} % of their members and {tested:.1f} % of the others."
        )
    if twins := game.attrs.get("on_both_sides"):
        told.append(
            f"{twins:,} records are among the members and among the others: nobody can tell these apart, and all rates "
            "are too low for them. Leave them out on one side."
        )
    if share := game.attrs.get("answers_at_floor"):
        told.append(
            f"In {100 * share:.1f} % of the answers the label's probability is within {game.attrs['floor']:g} of 0 or "
            "1, where the floor decides: attacks that compare sure answers, such as LiRA, depend on it. Try others."
        )
    if game.n_models == 1:
        told.append(
            "There are no shadow models: attacks that compare with models like this one, such as LiRA, find more. "
            "Train some in the same way: audit_model(..., shadows=16), or mialab.play and Game.with_shadows."
        )
    return told


def gate(
    game: Game, max_tpr: float, at_fpr: float, *, attacks: Sequence[str | Attack] | None = None
) -> tuple[bool, str]:
    """Say whether a game passes: whether the strongest attack's TPR is below a bound, by the upper end of its interval.

    Parameters
    ----------
    game : Game
        E.g. from `game_of`.
    max_tpr : float
        Greatest true-positive rate that passes, a fraction.
    at_fpr : float
        False-positive rate, a fraction.
    attacks : sequence of str or Attack, optional
        All that are possible by default.

    Returns
    -------
    passed : bool
    told : str
        Why, in a sentence.

    Raises
    ------
    ValueError
        If a rate is no fraction, the records are too few for that false-positive rate, or no attack is possible.
    """
    check_fraction("max_tpr", max_tpr)
    check_fraction("at_fpr", at_fpr)
    table = audit_possible(game, attacks, fprs=[at_fpr])
    metric = rate_name("tpr", at_fpr)
    if metric not in set(table["metric"]):
        raise ValueError(table.attrs["advice"][0])
    found = {kind: of for kind, of in table.attrs["strongest"][metric].items() if kind != SETS}
    if not found:
        raise ValueError(f"attacks={attacks!r} tell sets of records, not single ones: give another one.")
    attack, value, low, high, n = max(found.values(), key=lambda one: one[3])
    passed = bool(high <= max_tpr)
    return passed, (
        f"{'PASSED' if passed else 'FAILED'}: at {100 * at_fpr:g} % false alarms the strongest of {n} attacks "
        f"({in_words(attack)}) finds {100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of the members; the upper "
        f"end may be {100 * max_tpr:g} % at most."
    )


def leakage_scorer(x: ArrayLike, y: ArrayLike, *, attack: str | Attack = "loss") -> Callable[..., float]:
    """Return a scorer for scikit-learn's `cross_validate` and searches: minus the AUC of an attack; more is better.

    Whoever selects hyper-parameters can so look at accuracy and at leakage at once. The members of a model are the
    records that the split did not hold out.

    Parameters
    ----------
    x : array_like, shape (record, feature)
        All records, as given to the search.
    y : array_like, shape (record,)
        Their labels.
    attack : str or Attack
        One that needs no shadow models.

    Returns
    -------
    callable
        ``scorer(estimator, x_held_out, y_held_out)`` gives minus the AUC; -0.5 is chance.

    Raises
    ------
    ValueError
        By the scorer, if what is held out is not among the records, or all of it.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import cross_validate
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> x, y = load_digits(return_X_y=True)
    >>> scoring = {"accuracy": "accuracy", "privacy": leakage_scorer(x, y)}
    >>> found = cross_validate(DecisionTreeClassifier(random_state=0), x, y, cv=2, scoring=scoring)
    >>> bool((found["test_privacy"] < -0.5).all())
    True
    """
    every, labels = np.asarray(x), np.asarray(y)
    places: dict[bytes, list[int]] = {}
    for i, digest in enumerate(digests(every)):
        places.setdefault(digest, []).append(i)

    def scorer(estimator: Any, x_out: ArrayLike, y_out: ArrayLike) -> float:
        left = np.ones(len(every), bool)
        for digest in digests(np.asarray(x_out, every.dtype)):
            if digest not in places:
                raise ValueError(
                    "a record that is held out is none of x: give the scorer what the search is given."
                )
            left[places[digest]] = False
        if not left.any():
            raise ValueError("all records are held out: there are no members.")
        members, others = (every[left], labels[left]), (every[~left], labels[~left])
        table = audit_model(estimator, members, others, attacks=[attack], fprs=())
        return -float(table.pooled("auc")["value"].iloc[0])

    return scorer
