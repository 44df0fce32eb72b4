"""The chapter on mixup training for GANs: its arms, what is published, and the ratios of its theory."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from mialab._validation import choose, select
from mialab.attacks.lira import VARIANCE_FLOOR, _log_density, _moments
from mialab.auditing.conditions import TRAINED
from mialab.auditing.deciles import deciles
from mialab.auditing.differences import mean_test_accuracy
from mialab.auditing.distances import PARTS
from mialab.auditing.equal import strongest_attack
from mialab.auditing.measure import audit
from mialab.auditing.tables import AuditTable
from mialab.chapters.settings import take
from mialab.data import loading
from mialab.data.pool import Pool
from mialab.data.registry import REGISTRY
from mialab.gan.defenses.base import Defense
from mialab.gan.game import GeneratorGame, GeneratorPlan, play
from mialab.gan.networks import GAN, NETWORKS
from mialab.gan.training import Training
from mialab.metrics.influence import weighted_mean
from mialab.metrics.intervals import Interval

if TYPE_CHECKING:
    from mialab.attacks.base import Attack
    from mialab.auditing.taxonomy import Attacking


#: Parameters of `mialab.gan.play` that say how a game is played, not which.
HOW = ("workers", "device", "store")


@dataclasses.dataclass(frozen=True)
class Setting:
    """A pool, networks and a training; from `settings`."""

    pool: Pool
    networks: GAN
    training: Training


def settings(given: Mapping[str, Mapping[str, Any]], *, seed: int = 0) -> dict[str, Setting]:
    """Make pools, networks and trainings of plain parameters, such as those of a profile.

    Parameters
    ----------
    given : dict
        Name of a data set to what is wanted of it: ``size``, ``reference`` (records held out as the pool's validation
        part), ``test``, ``networks`` (``"mlp"``, the default, or ``"conv"``), the parameters of those networks, and of
        `mialab.gan.Training`.
    seed : int
        Of the choice of records.

    Returns
    -------
    dict of str to Setting

    Raises
    ------
    ValueError
        If a parameter is unknown.
    """
    made = {}
    for name, wanted in given.items():
        wanted = dict(wanted)
        kind = NETWORKS[choose(f"datasets[{name!r}]['networks']", wanted.pop("networks", "mlp"), NETWORKS)]
        parts = {"size": "size", "reference": "validation", "test": "test"}
        records = {to: wanted.pop(key) for key, to in parts.items() if key in wanted}
        known = {field.name for made_of in (Training, kind) for field in dataclasses.fields(made_of)}
        for key in wanted:
            choose(f"datasets[{name!r}]", key, {*known, *parts, "networks"})
        pool = loading.load(name, seed=seed, **records)
        made[name] = Setting(pool, take(kind, wanted), take(Training, wanted))
    return made


def play_each(
    setting: Setting,
    arms: Mapping[str, str | Defense | Mapping[str, Any] | None],
    **common: Any,
) -> dict[str, GeneratorGame]:
    """Play a game for each arm of a comparison: same records and members, first weights and latent vectors.

    Parameters
    ----------
    setting : Setting
        From `settings`.
    arms : dict of str to (str, Defense, None or dict)
        Label to a defense; or to a dict of those parameters of `mialab.gan.play` that this arm does not share. There
        ``training`` and ``networks`` may be dicts of what is different in the setting's.
    **common
        Parameters of `mialab.gan.play` for all arms.

    Returns
    -------
    dict of str to GeneratorGame

    Raises
    ------
    ValueError, TypeError
        If a parameter of any arm is unknown or wrong, before any training.
    """
    known = inspect.signature(play)
    options = {}
    for label, arm in arms.items():
        own = {**common, **(arm if isinstance(arm, Mapping) else {"defense": arm})}
        for name in own:
            choose(f"arms[{label!r}]", name, {*known.parameters} - {"pool"})
        for name in ("training", "networks"):
            changes, usual = own.get(name, {}), getattr(setting, name)
            if isinstance(changes, Mapping):
                for key in changes:
                    choose(f"arms[{label!r}][{name!r}]", key, {f.name for f in dataclasses.fields(usual)})
                own[name] = dataclasses.replace(usual, **changes) if changes else usual
        options[label] = own
        whole = known.bind(setting.pool, **own)
        whole.apply_defaults()
        GeneratorPlan(**{name: value for name, value in whole.arguments.items() if name not in HOW})
    return {label: play(setting.pool, **own) for label, own in options.items()}


def across(
    settings: Mapping[str, Setting],
    arms: Mapping[str, str | Defense | Mapping[str, Any] | None],
    *,
    attacks: Sequence[str | Attack],
    **common: Any,
) -> AuditTable:
    """Compare some arms on several data sets.

    Parameters
    ----------
    settings : dict of str to Setting
        From `settings`; may be empty.
    arms
        See `play_each`.
    attacks : sequence of str or Attack
        Of which the AUC is shown.
    **common
        Parameters of `mialab.gan.play` for all arms.

    Returns
    -------
    AuditTable
        Columns ``game`` (data set and arm), ``measure``, ``value``, ``low``, ``high``: the pooled AUC of each attack,
        and the mean accuracy of classifiers trained on samples.
    """
    rows = []
    for name, setting in settings.items():
        games = play_each(setting, arms, **common)
        for arm, game in games.items():
            table = audit(game, attacks, pool=setting.pool)
            aucs = table.pooled("auc")
            rows += [
                (f"{name}: {arm}", f"AUC of {r.attack}", r.value, r.low, r.high) for r in aucs.itertuples()
            ]
            accuracy = mean_test_accuracy(game)
            rows.append((f"{name}: {arm}", "accuracy", *accuracy))
    return AuditTable(rows, columns=["game", "measure", "value", "low", "high"])


#: A generator is usable if classifiers that learn from its samples are right so many times as often as by guessing.
USABLE = 1.5
#: A training is over if its FID fell by no more than this fraction of itself after the last stop.
FLAT = 0.1


def unusable(accuracy: float, chance: float) -> str:
    """Say why a generator is not usable, by the accuracy of classifiers that learned from its samples; empty if it is.

    Parameters
    ----------
    accuracy, chance : float
        Accuracy on real test records, and that of always naming the most frequent class.
    """
    if np.isfinite(accuracy) and accuracy >= USABLE * chance:
        return ""
    return (
        f"no usable generator (accuracy of classifiers on its samples {accuracy:.3f}, by chance {chance:.3f})"
    )


def chance_of(y: np.ndarray) -> float:
    """Return the accuracy of always naming the most frequent class."""
    return float(np.bincount(y).max() / len(y))


def what_is_wrong(quality: pd.DataFrame, chance: float, stopped: Mapping[str, str]) -> dict[str, str]:
    """Say of each arm whether its generators are usable and its training is over; empty texts if so.

    Parameters
    ----------
    quality : DataFrame
        From `mialab.gan.quality.assess`.
    chance : float
        Accuracy of guessing.
    stopped : dict of str
        Label of an arm to the label of the same arm, stopped earlier; of arms that have none nothing is said about
        their end.
    """
    value = quality.set_index(["defense", "metric"])["value"]
    found = {}
    for label in dict.fromkeys(quality["defense"]):
        reasons = [unusable(float(value.get((label, "accuracy"), np.nan)), chance)]
        if stopped.get(label) in set(quality["defense"]):
            now, before = (float(value[each, "fid"]) for each in (label, stopped[label]))
            if before > now * (1 + FLAT):
                reasons.append(
                    f"FID of {label!r} still falls: {before:.2f} at {stopped[label]!r}, {now:.2f} at the end"
                )
        found[label] = "; ".join(filter(None, reasons))
    return found


def provided(
    findings: Mapping[str, Any], reasons: Mapping[str, str], arms: Mapping[str, str]
) -> dict[str, Any]:
    """Note with findings what is wrong with the generators that they compare.

    Parameters
    ----------
    findings : mapping of str to Interval or other
        By claims.
    reasons : dict of str
        From `what_is_wrong`.
    arms : dict of str
        Claims that are about another arm besides the undefended and the mixup-trained one, and its label.
    """
    noted = {}
    for name, found in findings.items():
        if isinstance(found, Interval):
            labels = ["none", "mixup", *([arms[name]] if name in arms else [])]
            wrong = "; ".join(dict.fromkeys(filter(None, (reasons.get(label, "") for label in labels))))
            found = found.under(
                **{TRAINED: "; ".join(filter(None, (found.conditions.get(TRAINED, ""), wrong)))}
            )
        noted[name] = found
    return noted


def strongest(
    games: Sequence[GeneratorGame], attacks: Sequence[str | Attack]
) -> tuple[GeneratorGame, Attacking]:
    """Return the game and the attack with the greatest AUC, of games that differ in their references.

    Parameters
    ----------
    games : sequence of GeneratorGame
        The same targets, with references of several kinds.
    attacks : sequence of str or Attack
        The attacks.
    """
    pairs = [(game, strongest_attack(game, attacks)) for game in games]
    return max(pairs, key=lambda pair: pair[0].outcome(pair[1]).estimate("auc").value)


def without_use(table: pd.DataFrame) -> str:
    """Say which generators of a table from `across` are not usable; empty if all are.

    Parameters
    ----------
    table : DataFrame
        From `across`.
    """
    rows = table[table["measure"] == "accuracy"]
    names = (str(game) for game in rows["game"])
    found = [
        f"{name}: {wrong}"
        for name, value in zip(names, rows["value"], strict=True)
        if (wrong := unusable(float(value), 1 / REGISTRY[name.partition(":")[0]].n_classes))
    ]
    return f"Not comparable. {'; '.join(found)}." if found else ""


#: Attack AUCs of table II, and accuracy and FID of the utility tables, by data set and defense; None: not published.
#: MIMIC-III has other measures of utility.
PUBLISHED = pd.DataFrame(
    [
        ("CIFAR-10", "none", 0.6435, 0.6866, 0.5083, 0.490, 150.9),
        ("CIFAR-10", "mixup", 0.5202, 0.5303, 0.5312, 0.421, 159.1),
        ("CIFAR-10", "relaxloss", 0.5478, 0.5326, 0.4197, 0.385, 103.0),
        ("CIFAR-10", "par_gan", 0.6668, 0.7398, 0.5291, 0.404, 199.1),
        ("CelebA", "none", 0.8346, 0.8637, 0.5317, 0.912, 112.0),
        ("CelebA", "mixup", 0.5788, 0.6615, None, 0.915, 104.4),
        ("CelebA", "relaxloss", 0.7703, 0.5857, None, 0.836, 97.7),
        ("CelebA", "par_gan", 0.6571, 0.7781, None, 0.876, 157.7),
        ("MIMIC-III", "none", 0.5264, 0.5913, 0.5028, None, None),
        ("MIMIC-III", "mixup", 0.5269, 0.5283, None, None, None),
        ("MIMIC-III", "relaxloss", 0.5296, 0.5175, None, None, None),
        ("MIMIC-III", "par_gan", 0.5350, 0.5015, None, None, None),
    ],
    columns=["data set", "defense", "LOGAN", "LiRA", "GAN-Leaks", "accuracy", "FID"],
)


#: The attacks of ours that measure the same.
ATTACKS = {"LOGAN": "logan", "LiRA": "critic_lira_pooled", "GAN-Leaks": "gan_leaks_white_box"}


def beside(results: AuditTable, quality: pd.DataFrame, *, dataset: str = "") -> pd.DataFrame:
    """Put published values and ours for the same defenses into one table.

    Parameters
    ----------
    results : AuditTable
        From `mialab.auditing.audit_each`: pooled AUCs are taken.
    quality : DataFrame
        From `mialab.gan.quality`. Its FID is on features of its own, not Inception's.
    dataset : str
        Name of the data set of ours, by default as the audit notes it.

    Returns
    -------
    DataFrame of str
        A row per defense and data set, ours last; "-" where there is no value. Attacks are AUCs.

    Raises
    ------
    ValueError
        If the audit has none of the defenses that values are published for.
    """
    pooled = results.pooled("auc")
    auc = pooled.set_index(["defense", "attack"])["value"]
    worth = quality.set_index(["defense", "metric"])["value"]
    if not dataset:
        audits = results.attrs.get("audits", {})
        dataset = next((a["dataset"] for a in audits.values()), "ours")
    defenses = [d for d in dict.fromkeys(PUBLISHED["defense"]) if d in set(pooled["defense"])]
    if not defenses:
        choose("results: defense", next(iter(pooled["defense"]), None), set(PUBLISHED["defense"]))
    rows = []
    for defense in defenses:
        values = {name: auc.get((defense, attack)) for name, attack in ATTACKS.items()}
        values |= {"accuracy": worth.get((defense, "accuracy")), "FID": worth.get((defense, "fid"))}
        rows += PUBLISHED[PUBLISHED["defense"] == defense].to_dict("records")
        rows.append({"data set": f"ours: {dataset}", "defense": defense, **values})
    table = pd.DataFrame(rows).set_index(["defense", "data set"])
    for column in table:
        digits = 1 if column == "FID" else 3
        table[column] = ["-" if pd.isna(x) else f"{x:.{digits}f}" for x in table[column]]
    return table


class Ratios(NamedTuple):
    """Log likelihood ratios of targets, and the separation that they were computed with, both (target, record)."""

    log_ratio: np.ndarray
    separation: np.ndarray


def log_ratios(
    loss: np.ndarray,
    natural: np.ndarray,
    member: np.ndarray,
    excluded_models: np.ndarray,
    *,
    variance: str = "per_record",
) -> Ratios:
    """Log likelihood ratios of targets' losses under Gaussians of the losses of other models, trained naturally.

    Parameters
    ----------
    loss : numpy.ndarray of float, shape (model, record)
        Losses of the targets, e.g. under a defense.
    natural : numpy.ndarray of float, shape (model, record)
        Losses of natural models with the same members; model k is no reference of target k.
    member : numpy.ndarray of bool, shape (model, record)
        Which model was trained on which record: at least 3 on each record, and at least 3 not.
    excluded_models : numpy.ndarray of int, shape (target, record)
        The other model that is no reference, see `mialab.Game.excluded_models`.
    variance : {"per_record", "pooled"}
        As in `mialab.attacks.LiRA`, whose online score this is for ``loss=natural``.

    Returns
    -------
    Ratios
        The separation is ``(mean_out - mean_in) / s`` of the natural losses; that s is the root of the mean of both
        variances is our choice: the paper has them equal.
    """
    choose("variance", variance, ("per_record", "pooled"))
    tiny = np.finfo(np.float64).tiny ** 0.5
    means, variances = [], []
    for side in (True, False):
        deviation, squares, degrees = _moments(natural, member == side, excluded_models)
        pooled = np.maximum(squares.sum(1, keepdims=True) / degrees.sum(1, keepdims=True), tiny)
        own = np.maximum(squares / degrees, VARIANCE_FLOOR * pooled)
        means.append(natural - deviation)
        variances.append(own if variance == "per_record" else np.broadcast_to(pooled, own.shape))
    log_density = [_log_density(loss - m, v) for m, v in zip(means, variances, strict=True)]
    s = np.sqrt((variances[0] + variances[1]) / 2)
    return Ratios(log_density[0] - log_density[1], (means[1] - means[0]) / s)


def ratio_shifts(
    games: Mapping[str, GeneratorGame],
    natural: GeneratorGame,
    *,
    variance: str = "per_record",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Test proposition 1 of Ji et al. record by record: how often a defense lowers the likelihood ratio.

    Target k under the defense is compared with target k without it: same members, and the same Gaussians, fitted to
    the other natural models (`log_ratios`), as of an attacker who doesn't know of the defense. The proposition is that
    where a record's loss is higher than without the defense its ratio is lower, with a probability above 1/2 that is
    close to 1 for outliers, records of high separation. It says nothing of how often the loss is higher, or of
    non-members, whose ratio must not rise for the AUC to fall as much as the argument suggests.

    Parameters
    ----------
    games : dict of str to GeneratorGame
        Label, such as the defense, to a game with the members of ``natural``: the same pool, ``n_models`` and ``seed``.
    natural : GeneratorGame
        The undefended game.
    variance : {"per_record", "pooled"}
        Of the Gaussians, see `mialab.attacks.LiRA`.
    confidence : float
        Coverage of the intervals over pairs of complementary targets and records, see `mialab.metrics.Estimate`.

    Returns
    -------
    pandas.DataFrame
        Columns ``defense, of, part, quantity, value, low, high, pairs``: fractions of (target, record) pairs, ties
        counting half. ``of`` is ``"members"`` or ``"non-members"``; ``part`` is 0 for all records, or 1 to 10, the part
        of equal size of each target's records by separation, 10 for the highest. Quantities are ``ratio falls``;
        ``loss rises``; and ``ratio falls if loss rises``. Without any effect of the defense, the first two are 1/2; the
        last is 1 wherever both Gaussians have the same variance and the mean with the record is the lower one. Where
        the separation is estimated below 0, as of many records with few models, a higher loss raises the ratio.

    Raises
    ------
    ValueError
        If members differ, or there are too few models.
    """
    member = natural.member
    for label, game in games.items():
        if game.member.shape != member.shape or (game.member != member).any():
            raise ValueError(
                f"games[{label!r}] and natural differ in their members: play both with the same pool, n_models "
                "and seed."
            )
    fewest = int(np.minimum(member.sum(0), (~member).sum(0)).min())
    if natural.shadow.any() or fewest < 3:
        raise ValueError(
            f"natural has only {fewest} models with or without some record, or separate shadow models; it must have "
            "at least 3 of each: play it with n_models of at least 6."
        )
    natural_loss = natural.critic_loss[:, 0]
    base = log_ratios(natural_loss, natural_loss, member, natural.excluded_models, variance=variance)
    part = np.stack([deciles(row, n=PARTS) for row in base.separation])
    rows = []
    for label, game in games.items():
        loss = game.critic_loss[:, 0]
        shifted = log_ratios(loss, natural_loss, member, natural.excluded_models, variance=variance).log_ratio
        falls, rises = _fraction(base.log_ratio, shifted), _fraction(loss, natural_loss)
        for of, side in (("members", member), ("non-members", ~member)):
            for number in range(PARTS + 1):
                here = side & (part == number) if number else side
                for quantity, event, among in _quantities(falls, rises, here):
                    interval = weighted_mean(event, among, natural.partner).interval(confidence)
                    rows.append((label, of, number, quantity, *interval, int((among > 0).sum())))
    return pd.DataFrame(rows, columns=["defense", "of", "part", "quantity", "value", "low", "high", "pairs"])


def shift(
    table: pd.DataFrame,
    defense: str,
    of: str,
    *,
    part: int = 0,
    quantity: str = "ratio falls",
    n_pairs: int | None = None,
) -> Interval:
    """Return one fraction of a table of `ratio_shifts` with its interval.

    Parameters
    ----------
    table : DataFrame
        From `ratio_shifts`.
    defense, of, part, quantity
        Values of the columns of that name.
    n_pairs : int, optional
        Pairs of complementary targets behind the fraction; one less are its degrees of freedom.
    """
    rows = select(table, defense=defense, of=of, part=part, quantity=quantity)
    ends = rows[["value", "low", "high"]].to_numpy(dtype=np.float64)[0].tolist()
    df = np.inf if n_pairs is None else max(n_pairs - 1, 1)
    return Interval(*ends, df=df, n_pairs=n_pairs)


def _quantities(
    falls: np.ndarray, rises: np.ndarray, here: np.ndarray
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, event, and weight of the pairs among which its fraction is taken, each (target, record)."""
    yield "ratio falls", falls, here.astype(np.float64)
    yield "loss rises", rises, here.astype(np.float64)
    yield "ratio falls if loss rises", falls, (here & (rises == 1)).astype(np.float64)


def _fraction(higher: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """1 where the first is higher, 1/2 where both are equal."""
    return (higher > lower) + (higher == lower) / 2
