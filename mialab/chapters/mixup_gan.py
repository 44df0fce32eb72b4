"""The chapter on mixup training for GANs: arms, conditions of its verdicts, published values, ratios of its theory."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from mialab import attacks as _attacks
from mialab._validation import choose, select
from mialab.attacks.lira import VARIANCE_FLOOR, _log_density, _moments
from mialab.auditing.claims import ByConstruction
from mialab.auditing.conditions import TRAINED, UNSURE
from mialab.auditing.deciles import deciles
from mialab.auditing.differences import mean_test_accuracy
from mialab.auditing.distances import PARTS
from mialab.auditing.matrix import audit_each
from mialab.auditing.measure import audit
from mialab.auditing.tables import AuditTable
from mialab.auditing.taxonomy import families
from mialab.chapters.settings import take
from mialab.data import loading
from mialab.data.pool import Pool
from mialab.data.registry import REGISTRY
from mialab.gan.defenses.base import Defense
from mialab.gan.game import GeneratorGame, GeneratorPlan, play
from mialab.gan.networks import GAN, NETWORKS
from mialab.gan.quality import _ruler
from mialab.gan.training import Training
from mialab.metrics.influence import weighted_mean
from mialab.metrics.intervals import Interval, over_targets

if TYPE_CHECKING:
    from mialab.attacks.base import Attack


#: Parameters of `mialab.gan.play` that say how a game is played, not which.
HOW = ("workers", "device", "store")
#: A generator is usable if classifiers trained on its samples are better than chance by this fraction of chance.
ABOVE_CHANCE = 0.5
#: Training has ended if the FID changes by no more than this fraction of itself after the last checkpoint, which is to
#: be a tenth before the end.
FLAT = 0.1
#: Kinds of attacks that look at what critics say of single records, see `mialab.auditing.taxonomy.families`.
ON_CRITICS = ("the critic", "critics of reference models")


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
        Columns ``game`` (data set and arm, and whether its generators are usable), ``measure``, ``value``, ``low``,
        ``high``: the pooled AUC of each attack, the mean accuracy of classifiers trained on samples, and what is
        ``needed`` of it, see `usability`.
    """
    rows = []
    for name, setting in settings.items():
        games = play_each(setting, arms, **common)
        usable = usability(games, setting.pool).set_index("defense")
        for arm, game in games.items():
            label = f"{name}: {arm}" + " (no usable generator)" * (usable.at[arm, "usable"] == "no")
            table = audit(game, attacks, pool=setting.pool)
            aucs = table.pooled("auc")
            rows += [(label, f"AUC of {r.attack}", r.value, r.low, r.high) for r in aucs.itertuples()]
            rows.append((label, "accuracy", *mean_test_accuracy(game)))
            rows.append((label, "needed", usable.at[arm, "needed"], np.nan, np.nan))
    return AuditTable(rows, columns=["game", "measure", "value", "low", "high"])


# ----------------------------------------------------------------------------------------------------
# Conditions of verdicts


def usability(games: Mapping[str, GeneratorGame], pool: Pool) -> pd.DataFrame:
    """Say whose generators are of use: classifiers trained on their samples must be clearly better than chance.

    Chance is the fraction of the most frequent class of the test part. The mean accuracy over targets must be one and a
    half times that; or half-way from chance to 1, if that is less.

    Parameters
    ----------
    games : dict of str to GeneratorGame
        Label, such as the defense, to its game.
    pool : Pool
        With the test part that classifiers were tested on.

    Returns
    -------
    pandas.DataFrame
        A row per game: ``defense``, ``accuracy``, ``chance``, ``needed``, and ``usable``: ``"yes"``, ``"no"``, or
        ``"unknown"`` of generators without labels.
    """
    chance = float(np.bincount(pool.y_test).max() / pool.y_test.size) if pool.y_test.size else np.nan
    needed = chance + min(ABOVE_CHANCE * chance, (1 - chance) / 2)
    rows = []
    for label, game in games.items():
        accuracy = float(game.test_accuracy[~game.shadow].mean())
        known = np.isfinite(accuracy) and np.isfinite(chance)
        usable = ("yes" if accuracy >= needed else "no") if known else "unknown"
        rows.append((label, accuracy, chance, needed, usable))
    return pd.DataFrame(rows, columns=["defense", "accuracy", "chance", "needed", "usable"])


def without_use(table: pd.DataFrame) -> str:
    """Say which generators of a stored table of several data sets are not usable; empty if all are.

    Parameters
    ----------
    table : DataFrame
        From `across`, also of a version that did not say so itself. Chance is one over the number of classes.
    """
    found = []
    for game, accuracy in select(table, measure="accuracy")[["game", "value"]].itertuples(index=False):
        chance = 1 / REGISTRY[game.partition(":")[0]].n_classes
        if accuracy < chance + min(ABOVE_CHANCE * chance, (1 - chance) / 2):
            found.append(f"{game} (accuracy {accuracy:.3f}, chance {chance:.3f})")
    return f"No usable generator, so that nothing is to be compared: {'; '.join(found)}." if found else ""


def watch(
    setting: Setting,
    arms: Mapping[str, Defense | None],
    ends: Mapping[str, GeneratorGame],
    fractions: Sequence[float],
    **common: Any,
) -> dict[str, dict[int, GeneratorGame]]:
    """Play arms to some fractions of their steps. Such games are what the whole ones were by then.

    Parameters
    ----------
    setting : Setting
        From `settings`.
    arms : dict of str to Defense or None
        Label to the defense.
    ends : dict of str to GeneratorGame
        The games of these arms with all steps, from `play_each`.
    fractions : sequence of float
        Of the steps.
    **common
        Parameters of `mialab.gan.play`; as many models, and their seed, as those of ``ends``.

    Returns
    -------
    dict of str to dict of int to GeneratorGame
        Label to steps to game, in the order of steps.
    """
    steps = setting.training.steps
    stops = sorted({max(1, round(fraction * steps)) for fraction in fractions} - {steps})
    watched = {}
    for label, defense in arms.items():
        stopped = {str(stop): {"defense": defense, "training": {"stop": stop}} for stop in stops}
        games = play_each(setting, stopped, **common)
        watched[label] = {int(stop): game for stop, game in games.items()} | {steps: ends[label]}
    return watched


def fid_by_steps(
    watched: Mapping[str, Mapping[int, GeneratorGame]],
    pool: Pool,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> AuditTable:
    """Measure the FID over the steps of training, and whether it was flat in the end.

    Parameters
    ----------
    watched : dict of str to dict of int to GeneratorGame
        From `watch`.
    pool, confidence, seed
        See `mialab.gan.quality.assess`.

    Returns
    -------
    AuditTable
        Columns ``defense, steps, value, low, high, models``: the FID as a mean over models; and ``change, change_low,
        change_high``: by what fraction of itself it has changed since the row before, a geometric mean over models,
        with an interval over models.
    """
    games = {f"{label}, {n} steps": g for label, of in watched.items() for n, g in of.items()}
    compare, _ = _ruler(games, pool, seed)
    rows = []
    for label, of in watched.items():
        before: Any = np.nan
        for steps, game in of.items():
            fid = np.array([max(compare(x)[0], 1e-12) for x in game.samples])
            ends = over_targets(fid, partner=game.partner, confidence=confidence).clip(0)
            # How a training goes on is no matter of whose members a model has: models count one by one.
            change = over_targets(np.log(fid / before), confidence=confidence)
            rows.append((label, steps, *ends, len(fid), *np.expm1(change).tolist()))
            before = fid
    changes = ["change", "change_low", "change_high"]
    return AuditTable(rows, columns=["defense", "steps", "value", "low", "high", "models", *changes])


def ended(progress: pd.DataFrame, defense: str) -> tuple[str, str]:
    """Say if the FID shows that a training was not over, or does not show that it was; both empty if it was flat.

    Parameters
    ----------
    progress : DataFrame
        From `fid_by_steps`.
    defense : str
        Whose.

    Returns
    -------
    (str, str)
        What is wrong, such as ``"FID of 'mixup' changed by -23% after step 720 of 800"``, where the interval tells that
        change from none; and what is not known, where it does not, or where there is no checkpoint.
    """
    rows = progress[progress["defense"] == defense].sort_values("steps")
    if len(rows) < 2:
        return "", f"FID of {defense!r} was not watched"
    change, low, high = rows[["change", "change_low", "change_high"]].iloc[-1]
    if abs(change) <= FLAT:
        return "", ""
    before, last = rows["steps"].tolist()[-2:]
    text = f"FID of {defense!r} changed by {change:+.0%} after step {before} of {last}"
    return (text, "") if low > 0 or high < 0 else ("", f"{text}, which may be chance")


def under_conditions(
    findings: Mapping[str, Interval | ByConstruction | str],
    arms: Mapping[str, Sequence[str]],
    generators: pd.DataFrame,
    progress: pd.DataFrame,
    stopped: Sequence[str] = (),
) -> dict[str, Interval | ByConstruction | str]:
    """Note with each measurement what must be true of the generators that it is about.

    Without a usable generator (`usability`), or where the FID was not flat (`ended`), nothing can be compared; where
    nothing shows whether it was, the verdict says so.

    Parameters
    ----------
    findings : dict of str to Interval, ByConstruction or str
        For `mialab.auditing.claims.judge`; those that were not measured are returned as they are.
    arms : dict of str to sequence of str
        Finding to the labels of the arms that it compares.
    generators : DataFrame
        From `usability`.
    progress : DataFrame
        From `fid_by_steps`.
    stopped : sequence of str
        Labels of arms that end early on purpose.

    Returns
    -------
    dict
        For `mialab.auditing.claims.judge`.
    """
    of = generators.set_index("defense")
    noted = dict(findings)
    for name, found in findings.items():
        if isinstance(found, Interval):
            own = arms[name]
            useless = [
                f"{arm!r} (accuracy {of.at[arm, 'accuracy']:.3f}, chance {of.at[arm, 'chance']:.3f})"
                for arm in own
                if of.at[arm, "usable"] == "no"
            ]
            wrong = ["no usable generator: " + ", ".join(useless)] if useless else []
            of_training = [ended(progress, arm) for arm in own if arm not in stopped]
            wrong += [problem for problem, _ in of_training if problem]
            unsure = [doubt for _, doubt in of_training if doubt]
            noted[name] = found.under(**{TRAINED: "; ".join(wrong), UNSURE: "; ".join(unsure)})
    return noted


def on_critics() -> list[str]:
    """Return the names of all attacks that look at what critics say of single records."""
    of_family = families(_attacks.available("generator").index)
    names = [name for family in ON_CRITICS for name in of_family.get(family, ())]
    return sorted(names, key=len)  # of two that are the same with one critic, the plain one comes first


def strongest(games: Mapping[str, GeneratorGame], attacks: Sequence[str]) -> dict[str, str]:
    """Return the name of the attack with the highest pooled AUC on each game.

    An attack that is chosen on some games and measured on others, of the same arms, does not look better than it is.

    Parameters
    ----------
    games : dict of str to GeneratorGame
        Label to game.
    attacks : sequence of str
        Names to choose from; those that a game does not allow are left out.

    Returns
    -------
    dict of str to str
        Label to name.
    """
    aucs = audit_each(games, attacks, fprs=()).pooled("auc")
    return {
        str(label): str(rows.loc[rows["value"].idxmax(), "attack"])
        for label, rows in aucs.groupby("defense", sort=False)
    }


# ----------------------------------------------------------------------------------------------------
# What is published


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
