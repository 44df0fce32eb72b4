"""Attacks beside each other: families, agreement, curves over the number of shadow models, shifted shadow models."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import toys

import mialab as mia
from mialab import attacks, metrics
from mialab.attacks.base import Attack
from mialab.auditing import taxonomy
from mialab.exceptions import RequirementsNotMet


@pytest.fixture(scope="module")
def game():
    return toys.random_game(n_models=16, n_records=200, n_queries=3, signal=1.5, seed=3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told(Attack):
    """Scores that the test decides."""

    label: str = "told"
    score: tuple = ()
    half: bool = False
    calibrations = ("shadows",)

    @property
    def base_name(self):
        return self.label

    @property
    def needs(self):
        return attacks.Requirements(known_half=2 * self.half)

    def scores(self, game):
        return np.array(self.score).reshape(game.member.shape)


def told(game, label, score, **options):
    return Told(label=label, score=tuple(np.asarray(score, float).ravel()), **options)


def test_every_attack_is_in_one_family():
    names = list(attacks.available().index)
    found = mia.auditing.families()
    assert sorted(name for family in found.values() for name in family) == names
    assert "other" not in found
    assert {"correctness", "ranking", "label_only"} <= set(found["label or ranking only"])
    assert {"loss", "entropy"} <= set(found["one answer, one threshold"])
    assert {"nasr", "attack_p"} <= set(found["known half of the target's records"])
    assert {"lira", "rmia"} <= set(found["IN and OUT shadow models"])
    assert {"lira_offline", "attack_r"} <= set(found["OUT shadow models"])
    assert all(name.startswith(("co_membership", "mixed")) for name in found["sets of records"])
    assert mia.auditing.families(["mine", "lira"])["other"] == ["mine"]
    # Names of variants, as tables print them, stand for the same attacks in both kinds of groups.
    known_half = attacks.make("correctness_known_half")
    for meant in (known_half, known_half.name):
        assert taxonomy.family(meant) == "label or ranking only"
        assert taxonomy.threat_model(meant) == "labels only"
    assert taxonomy.family("mine") == taxonomy.threat_model("mine") == "other"


def test_sets_of_records_are_another_question():
    """Sets of eight are easier to tell than single records, so their AUC is no one's strongest attack on records."""
    sets = mia.attacks.make("co_membership_lira_8")
    assert taxonomy.threat_model(sets) == taxonomy.threat_model("mixed_pairs") == taxonomy.SETS
    assert taxonomy.threat_model(dataclasses.replace(sets, size=1)) == "scores"
    member = mia.membership(16, 400, 0)
    score = member + np.random.default_rng(0).normal(size=member.shape)
    game = mia.Game.from_arrays(scaled_logit=score, member=member)
    found = mia.audit(game, ["lira_pooled", "co_membership_lira_8"]).attrs["strongest"]["auc"]
    assert found["scores"][0] == "lira_pooled"
    assert found[taxonomy.SETS][1] > found["scores"][1] + 0.1
    assert taxonomy.SETS not in taxonomy.INCLUDES["white box"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lira_offline_pooled", "LiRA, offline, pooled variance"),
        ("loss_per_class_known_half", "loss, per class, half known"),
        ("co_membership_lira_8", "LiRA on sets of 8 records"),
        ("my_own", "my own"),
    ],
)
def test_names_for_readers(name, words):
    assert taxonomy.in_words(name) == words


def test_names_for_readers_are_as_many_as_attacks():
    names = mia.attacks.available().index
    assert len({taxonomy.in_words(name) for name in names}) == len(names)


def test_one_of_each_has_every_class_once_per_family():
    chosen = mia.auditing.one_of_each()
    kinds = [(taxonomy.family(name), type(attacks.make(name))) for name in chosen]
    every = {(taxonomy.family(name), type(attacks.make(name))) for name in attacks.available().index}
    assert len(kinds) == len(every) == len(set(kinds))
    assert {"loss", "correctness", "lira", "lira_offline", "rmia", "shokri", "nasr"} <= set(chosen)
    assert mia.auditing.one_of_each(["lira_pooled", "lira"]) == ["lira"]


def test_applicable_gives_reasons(game):
    able, refused = mia.auditing.applicable(game)
    names = [attack.name for attack in able]
    assert {"lira", "label_only"} <= set(names)
    assert sorted([*names, *refused["attack"]]) == list(attacks.available().index)
    assert "pass pool=" in refused.set_index("attack").loc["quantile", "reason"]
    one_query = mia.Game.from_arrays(logits=game.logits[:, 0], member=game.member, y=game.y)
    able, refused = mia.auditing.applicable(one_query, ["loss", "label_only"])
    assert [attack.name for attack in able] == ["loss"]
    assert refused["reason"].str.contains("needs at least 2 queries").all()
    with pytest.raises(ValueError, match="Did you mean 'loss'"):
        mia.auditing.applicable(game, ["los"])


@pytest.mark.slow
@pytest.mark.parametrize("fpr", [0.05, 0.1, 0.29])
def test_agreement_by_plain_sets(game, fpr):
    names = ["loss", "lira", "correctness", "attack_p", "nasr"]
    table = mia.chapters.attacks.agreement(game, names, fpr=fpr)
    assert list(table.columns) == ["caught", "alone", *names]
    caught, seen = {}, {}
    for name in names:
        outcome = attacks.make(name).run(game)
        pairs = [tuple(p) for p in np.argwhere(outcome.evaluated)]
        members = {p for p in pairs if game.member[p]}
        score, member = outcome.score[outcome.evaluated], game.member[outcome.evaluated]
        # The step rule, by trying every threshold.
        best = set()
        for threshold in np.unique(score):
            if (score[~member] >= threshold).sum() <= fpr * (~member).sum() * (1 + 1e-12):
                best = {p for p in members if outcome.score[p] >= threshold}
                break
        caught[name], seen[name] = best, members
        assert table.loc[name, "caught"] == pytest.approx(metrics.tpr_at_fpr(score, member, fpr))
    common = set.intersection(*seen.values())
    for a in names:
        others = set().union(*(caught[b] for b in names if b != a))
        assert table.loc[a, "alone"] == pytest.approx(len((caught[a] - others) & common) / len(common))
        for b in names:
            both = seen[a] & seen[b]
            either = (caught[a] | caught[b]) & both
            if either and a != b:
                assert table.loc[a, b] == pytest.approx(len(caught[a] & caught[b] & both) / len(either))


def test_agreement_of_twins_and_of_strangers(game):
    rng = np.random.default_rng(0)
    odd = np.arange(game.n_records) % 2 == 1
    score = game.member + 0.1 * rng.random(game.member.shape)
    twins = told(game, "a", score), told(game, "b", 7 * score - 1)
    table = mia.chapters.attacks.agreement(
        game, [*twins, told(game, "nobody", np.zeros_like(score))], fpr=0.05
    )
    assert table.loc["a", "b"] == table.loc["a", "caught"] == table.loc["b", "caught"] == 1
    assert table.loc["a", "nobody"] == table.loc["nobody", "caught"] == table["alone"].max() == 0
    assert np.isnan(table.loc["nobody", "nobody"])
    halves = [told(game, str(int(h)), np.where(odd == h, score, rng.random(score.shape))) for h in (0, 1)]
    table = mia.chapters.attacks.agreement(game, halves, fpr=0.01)
    assert table.loc["0", "1"] < 0.05
    np.testing.assert_allclose(table["alone"], table["caught"], atol=0.05)


def test_agreement_refuses_what_means_nothing(game):
    with pytest.raises(ValueError, match=r"fpr=0.001 allows 1.6 false alarms .* at least fpr=0.0063"):
        mia.chapters.attacks.agreement(game, ["loss"], fpr=0.001)
    table = mia.chapters.attacks.agreement(
        game, ["loss", "nasr"], fpr=0.01
    )  # nasr is evaluated on half of the records
    assert table.loc["loss"].notna().tolist() == [True, True, True, False]
    assert table.loc["nasr"].isna().all()
    with pytest.raises(ValueError, match="fraction"):
        mia.chapters.attacks.agreement(game, ["loss"], fpr=2)
    with pytest.raises(RequirementsNotMet, match="quantile"):
        mia.chapters.attacks.agreement(game, ["quantile"], fpr=0.1)


def test_agreement_takes_all_kinds_by_itself(game):
    table = mia.chapters.attacks.agreement(game, fpr=0.05)
    assert {"lira", "loss", "label_only", "nasr"} <= set(table.index)
    assert "quantile" not in table.index  # needs the records


def test_against_shadows_attacks_within_blocks(game):
    table = mia.chapters.attacks.against_shadows(game, ["loss", "lira"], (4, 8, 14), fprs=(0.05,))
    value = table.set_index(["attack", "n_shadows", "metric"])["value"]
    assert len(table) == 2 * 3 * 2
    # All models in one block: the plain game.
    whole = attacks.make("lira").run(game)
    assert value["lira", 14, "auc"] == pytest.approx(metrics.auc(whole.score.ravel(), game.member.ravel()))
    # Blocks of 6: models 0 to 5, 6 to 11, and 12 to 15, for which 0 and 1 are added.
    score = np.empty(game.member.shape)
    for models, targets in ((range(6), 6), (range(6, 12), 6), ([12, 13, 14, 15, 0, 1], 4)):
        models = list(models)
        part = mia.Game.from_arrays(
            logits=game.logits[models], member=game.member[models], y=game.y, partner=np.arange(6) ^ 1
        )
        score[models[:targets]] = attacks.make("lira").run(part).score[:targets]
    assert value["lira", 4, "auc"] == pytest.approx(metrics.auc(score.ravel(), game.member.ravel()))
    expected = metrics.tpr_at_fpr(score.ravel(), game.member.ravel(), 0.05)
    assert value["lira", 4, "tpr@0.05"] == pytest.approx(expected)
    # The loss needs no shadow models for its score.
    assert value.loc["loss"].groupby("metric").nunique().eq(1).all()
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()


def test_against_shadows_knows_nothing_of_the_membership():
    """On noise the mean AUC of LiRA is 1/2; it fails with a probability of 1 in 1,000 if all is well (t test)."""
    auc = []
    for seed in range(24):
        noise = toys.random_game(n_models=16, n_records=60, seed=seed)
        table = mia.chapters.attacks.against_shadows(noise, ["lira"], (4,), fprs=())
        auc.append(table["value"].item())
    from scipy.stats import ttest_1samp

    assert ttest_1samp(auc, 0.5).pvalue > 1e-3


def test_blocks_keep_pairs_together_whatever_their_order():
    partner = np.array([5, 3, 4, 1, 2, 0, 7, 6])
    blocks = mia.chapters.attacks._blocks(partner, 6)
    assert sorted(np.concatenate([models[targets] for models, targets in blocks])) == list(range(8))
    for models, _ in blocks:
        assert len(set(models)) == 6
        assert set(partner[models]) == set(models)


def test_against_shadows_takes_all_kinds_and_rates_that_are_not_resolvable(game):
    table = mia.chapters.attacks.against_shadows(game, shadows=(4,), fprs=(0.001,))
    assert {"loss", "lira", "rmia", "shokri"} <= set(table["attack"])
    assert table[table["metric"] == "tpr@0.001"]["value"].isna().all()
    assert table[table["metric"] == "auc"]["value"].notna().all()


@pytest.mark.parametrize(
    ("shadows", "message"),
    [
        ((5,), "shadows: 5 must be even"),
        ((4, 16), "shadows: 16 must be even, and at most 14"),
        (4, "shadows=4 must be a sequence"),
    ],
)
def test_against_shadows_refuses_sizes(game, shadows, message):
    with pytest.raises(ValueError, match=message):
        mia.chapters.attacks.against_shadows(game, ["lira"], shadows)


def test_against_shadows_refuses_games_without_pairs(game):
    with pytest.raises(RequirementsNotMet, match="at least 2 shadow models"):
        mia.chapters.attacks.against_shadows(game, ["lira"], (2,))
    unpaired = np.full(game.n_models, -1)
    alone = mia.Game.from_arrays(logits=game.logits, member=game.member, y=game.y, partner=unpaired)
    with pytest.raises(ValueError, match="come in pairs"):
        mia.chapters.attacks.against_shadows(alone, ["lira"], (4,))


def test_shifted_games(tmp_path, monkeypatch):
    monkeypatch.setenv("MIALAB_GAMES", str(tmp_path))
    pool = toys.pool(n=48)
    games = mia.chapters.attacks.shifted(
        pool,
        mia.models.MLP(hidden=(4,)),
        other_model=mia.models.MLP(hidden=(6,)),
        training=mia.Training(epochs=2),
        n_targets=6,
        n_shadows=8,
    )
    assert list(games) == ["same data", "fewer members", "disjoint records", "another network"]
    first = games["same data"]
    for game in games.values():
        np.testing.assert_array_equal(game.logits[:6], first.logits[:6])  # the same targets
        assert game.shadow.sum() == 8
        assert (game.member[:6].sum(1) == 12).all()
    shadows = {label: game.member[6:] for label, game in games.items()}
    assert (shadows["same data"].sum(1) == 12).all()
    assert (shadows["fewer members"].sum(1) == 6).all()
    assert not (shadows["disjoint records"].any(0) & first.member[:6].any(0)).any()
    np.testing.assert_array_equal(shadows["another network"], shadows["same data"])
    assert (games["another network"].logits[6:] != first.logits[6:]).any()
    assert "another network" not in mia.chapters.attacks.shifted(
        pool, mia.models.MLP(hidden=(4,)), training=mia.Training(epochs=2), n_targets=6, n_shadows=8
    )
    with pytest.raises(ValueError, match="7 records"):
        mia.chapters.attacks.shifted(toys.pool(n=7))


def test_tables_are_plain(game):
    assert type(mia.chapters.attacks.agreement(game, ["loss"], fpr=0.1)) is pd.DataFrame
