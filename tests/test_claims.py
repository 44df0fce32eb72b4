import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import mialab as mia
from mialab import provenance
from mialab.auditing import conditions
from mialab.auditing import tables as tables_of_audits
from mialab.auditing.claims import NUMBERS, ByConstruction, Claim, holm, judge
from mialab.book import execution, reference_runs
from mialab.metrics.intervals import Interval
from mialab.training.membership import membership


@pytest.mark.parametrize(
    ("bound", "measured", "verdict"),
    [
        ({"below": 0}, (-0.2, -0.3, -0.1), "holds"),
        ({"below": 0}, (-0.2, -0.3, 0.01), "not settled"),
        ({"below": 0}, (0.2, 0.01, 0.3), "does not hold"),
        ({"above": 0.5}, (0.7, 0.51, 0.8), "holds"),
        ({"above": 0.5}, (0.5, 0.4, 0.6), "not settled"),
        ({"above": 0.5}, (0.3, 0.2, 0.49), "does not hold"),
        ({"above": 0.5}, (float("nan"),) * 3, "not settled"),
    ],
)
def test_verdict_follows_from_the_whole_interval(bound, measured, verdict):
    assert Claim(text="x", source="y", **bound).verdict(Interval(*measured)) == verdict


def test_a_bound_is_one_sided_and_needed():
    with pytest.raises(ValueError, match="both below=1 and above=0"):
        Claim(text="x", source="y", below=1, above=0)
    with pytest.raises(ValueError, match="has no bound"):
        Claim(text="x", source="y").verdict(Interval(0, 0, 0))


def test_judge_keeps_every_claim():
    claims = {
        "a": Claim(text="A < 1", source="abstract", published="0.5", test="measured", below=1),
        "b": Claim(text="B", source="abstract"),
        "c": Claim(text="C", source="table 2"),
    }
    findings = {
        "a": Interval(0.2, 2e-4, 0.3, n_pairs=8),
        "b": ByConstruction("it is built so"),
        "c": "no such data",
    }
    table = judge(claims, findings)
    verdicts = ["holds", "holds, by construction: it is built so", "could not be tested: no such data"]
    assert list(table["verdict"]) == verdicts
    text = table.as_text()
    assert list(text.columns) == [
        *("claim", "verdict", "value", "interval", "bound", "margin", "p", "adjusted p", "pairs"),
        *("quantity", "published"),
    ]
    assert list(text.loc["C1"])[2:9] == [
        "0.200",
        "[2.0e-04, 0.300]",
        "below 1",
        "-",
        "< 0.0001",
        "< 0.0001",
        "8",
    ]
    assert list(text.loc["C2"])[2:10] == ["-"] * 8
    assert list(table["published"]) == ["0.5", "no value", "no value"]
    assert list(mia.auditing.claims.list_claims(claims)["tested here by"]) == [
        "measured",
        "not measured",
        "not measured",
    ]
    with pytest.raises(ValueError, match="'c'"):
        judge(claims, {"a": findings["a"], "b": findings["b"]})
    with pytest.raises(TypeError, match=r"findings\['c'\]=3"):
        judge(claims, findings | {"c": 3})


def claims_with_p(*p):
    """Claims above 0, each with an interval of which the one-sided p-value is given."""
    values = stats.norm.isf(p)
    claims = {str(i): Claim(text=str(i), source="s", above=0) for i in range(len(p))}
    return claims, {str(i): Interval(v, v - 1.959964, v + 1.959964) for i, v in enumerate(values)}


def test_holm_by_hand():
    # 0.01 x 4; 0.02 x 3; 0.03 x 2 = 0.06, not below the one before; 0.5 x 1.
    assert holm([0.02, 0.5, 0.01, 0.03]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.9]) == [1, 1]


def test_many_claims_are_judged_by_adjusted_p_values():
    one = judge(*claims_with_p(0.02))
    assert list(one["verdict"]) == ["holds"]
    many = judge(*claims_with_p(0.02, 0.001, 0.4, 0.004))
    assert list(many["verdict"]) == ["not settled", "holds", "not settled", "holds"]
    assert list(many["p"]) == pytest.approx([0.02, 0.001, 0.4, 0.004], rel=1e-5)
    assert list(many["adjusted p"]) == pytest.approx([0.04, 0.004, 0.4, 0.012], rel=1e-5)


def test_holm_keeps_the_family_wise_error_rate():
    # 20 claims at their bound, 2,000 times: some is settled in at most 5 % (2.5 % on either side); more than 6.3 % has
    # probability below 0.5 % (binomial). Without Holm it would be 64 %.
    rng = np.random.default_rng(0)
    p = rng.random((2000, 20))
    smaller = np.minimum(p, 1 - p)
    settled = np.mean([min(holm(row)) <= 0.025 for row in smaller])
    assert 0.03 < settled < 0.063
    assert np.mean((smaller <= 0.025).any(1)) > 0.55


def test_what_lies_within_the_margin_is_negligible():
    claim = Claim(text="lowers it", source="s", below=0, margin=0.01)
    assert claim.verdict(Interval(-0.002, -0.005, -0.001)) == "negligible"
    assert claim.verdict(Interval(-0.02, -0.03, -0.011)) == "holds"
    assert claim.verdict(Interval(0.0, -0.02, 0.02)) == "not settled"
    assert claim.verdict(Interval(0.03, 0.02, 0.04)) == "does not hold"


def test_few_pairs_settle_nothing():
    claim = Claim(text="lowers it", source="s", below=0)
    assert claim.verdict(Interval(-0.2, -0.3, -0.1, n_pairs=8)) == "holds"
    few = claim.verdict(Interval(-0.2, -0.3, -0.1, n_pairs=6))
    assert few == "not settled: 6 pairs of models, at least 8 are needed"


def game(accuracy, train=None, n_models=16, **about):
    rng = np.random.default_rng(0)
    member = membership(n_models, 60, 0)
    return mia.Game.from_arrays(
        loss=rng.exponential(size=member.shape),
        member=member,
        y=np.arange(60) % 2,
        partner=np.arange(n_models) ^ 1,
        test_accuracy=np.full(n_models, accuracy),
        train_accuracy=np.full(n_models, 0.995) if train is None else train,
        **about,
    )


def test_arms_of_unequal_accuracy_are_not_compared_where_a_claim_needs_it():
    same = {"text": "better", "source": "s", "below": 0}
    better = Claim(**same, requires=("trained", "equal accuracy"))
    near = mia.difference((game(0.8), "loss"), (game(0.796), "loss"))
    assert not better.verdict(near).startswith("not comparable")
    apart = mia.difference((game(0.8), "loss"), (game(0.769), "loss"))
    assert better.verdict(apart) == "not comparable: test accuracies differ by 3.1 points"
    assert not Claim(**same).verdict(apart).startswith("not comparable")
    with pytest.raises(ValueError, match="requires='equal acuracy'"):
        Claim(**same, requires=("equal acuracy",))


def test_a_verdict_says_if_nothing_shows_that_training_had_ended():
    claim = Claim(text="lower", source="s", below=0)
    early = game(0.8, np.full(16, 0.9))
    assert conditions.unsure(early) == "train accuracy of 'unknown' is 0.900, and no checkpoint was kept"
    assert conditions.unsure(game(0.8)) == ""
    found = mia.difference((early, "loss"), (early, mia.attacks.LiRA(signal="loss")))
    assert claim.verdict(found.under()) == "not settled"
    verdict = claim.verdict(Interval(-0.2, -0.3, -0.1, conditions=found.conditions))
    assert verdict.startswith("holds; convergence is not shown: train accuracy of 'unknown' is 0.900")
    page = judge({"a": claim}, {"a": Interval(-0.2, -0.3, -0.1, conditions=found.conditions)})._repr_html_()
    assert '<strong class="verdict-holds">holds</strong>; convergence is not shown' in page


def test_training_that_still_rises_has_not_converged():
    plain = game(0.8, np.full(16, 0.9))

    def before(accuracy):
        earlier = (("model", "checkpoint"), np.full((16, 1), accuracy))
        return type(plain)(plain.dataset.assign(checkpoint=[8], checkpoint_train_accuracy=earlier))

    assert "has not converged: train accuracy 0.900, 0.050 more than at epoch 8" in conditions.trained(
        before(0.85)
    )
    assert conditions.trained(before(0.895)) == conditions.unsure(before(0.895)) == ""


def test_dead_models_make_a_verdict_impossible():
    train = np.full(16, 0.995)
    train[3] = 0.51
    dead = game(0.8, train)
    assert conditions.trained(dead) == "1 of 16 models of 'unknown' are dead (train accuracy 0.510)"
    found = mia.difference((dead, "loss"), (game(0.8), "loss"))
    verdict = Claim(text="x", source="s", below=0).verdict(found)
    assert verdict.startswith("not comparable: 1 of 16 models of 'unknown' are dead")
    table = mia.audit(dead, ["loss"], fprs=(), fnrs=())
    assert "dead" in table.interval("loss", "auc").conditions["trained"]
    assert conditions.trained(game(0.8)) == ""
    assert "dead" in conditions.trained(game(0.8, np.full(16, np.nan)))


def test_page_shows_cells_in_full_and_escaped():
    long = "a claim that is much longer than the fifty characters after which tables are cut < off"
    table = judge({"a": Claim(text=long, source="s", below=0)}, {"a": Interval(1, 0.5, 2)})
    page = table._repr_html_()
    assert long.replace("<", "&lt;") in page
    assert (
        long.replace("<", "&lt;")
        in mia.auditing.claims.list_claims({"a": Claim(text=long, source="s")})._repr_html_()
    )
    assert '<strong class="verdict-fails">does not hold</strong>' in page


def test_results_round_trip(tmp_path):
    rows = [("loss", t, "auc", 0.6, 0.5, 0.7, 10, 10) for t in (0, "pooled")]
    columns = ["attack", "target", "metric", "value", "low", "high", "n_member", "n_nonmember"]
    audit = pd.DataFrame(rows, columns=columns)
    audit.attrs = {"seed": 3}
    verdicts = judge({"a": Claim(text="A", source="s", below=0)}, {"a": Interval(1, 0.5, 1.5, n_pairs=8)})
    reference_runs.save("demo", folder=tmp_path, audit=audit, verdicts=verdicts)
    back = reference_runs.load("demo", folder=tmp_path)
    assert list(back["audit"]["target"]) == [0, "pooled"]
    assert back["audit"].interval("loss", "auc") == (0.6, 0.5, 0.7)
    assert back["provenance"]["audit"] == {"seed": 3}
    pd.testing.assert_frame_equal(pd.DataFrame(back["verdicts"]), pd.DataFrame(verdicts))
    with pytest.raises(ValueError, match="Did you mean 'demo'"):
        reference_runs.load("dem", folder=tmp_path)


def test_claims_on_arms_that_were_not_played_say_so():
    found = mia.auditing.claims.where_played(
        {"a": 2}, {"one": ("a", lambda g: Interval(g, 1, 3)), "two": ("b", None)}
    )
    assert found["one"] == (2, 1, 3)
    assert "without the arm 'b'" in found["two"]


def test_values_of_a_reference_run_are_laid_out_by_the_table(tmp_path):
    rows = [("none", "fid", 1.5, 1.0, 2.0), ("none", "kid", 0.25, -0.5, 1.0)]
    quality = mia.auditing.AuditTable(rows, columns=["defense", "metric", "value", "low", "high"])
    reference_runs.save("demo", folder=tmp_path, quality=quality)
    back = reference_runs.load("demo", folder=tmp_path)["quality"]
    pd.testing.assert_frame_equal(back.wide("defense", "metric"), quality.wide("defense", "metric"))


def test_a_run_of_changed_code_is_no_reference_run(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "commit", lambda: "0123456789ab+")
    table = pd.DataFrame({"a": [1]})
    monkeypatch.setattr(reference_runs, "FOLDER", tmp_path)
    with pytest.raises(RuntimeError, match=r"commit='0123456789ab\+'.*Commit the changes"):
        reference_runs.save("demo", folder=tmp_path, table=table)
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="Commit the changes"):  # before the notebook runs
        execution.run(execution.NOTEBOOKS / "hamp.py", tmp_path / "out.ipynb", {"save_as": "demo"})
    monkeypatch.setattr(provenance, "commit", lambda: "0123456789ab")
    reference_runs.save("demo", folder=tmp_path, table=table)


def test_a_changed_table_is_refused_by_name(tmp_path):
    """Whatever bit of a table, of its provenance or of the checksums is flipped."""
    table = pd.DataFrame({"target": ["pooled"], "value": [0.5], "low": [0.4], "high": [0.6]})
    files = reference_runs.save("demo", folder=tmp_path, one=table, two=table)
    rng = np.random.default_rng(0)
    for file in files:
        whole = file.read_bytes()
        for _ in range(20):
            flipped = bytearray(whole)
            flipped[rng.integers(len(whole))] ^= 1 << rng.integers(8)
            file.write_bytes(flipped)
            with pytest.raises(ValueError, match=f"{file.name} was changed or damaged.*mialab checksums"):
                reference_runs.load("demo", folder=tmp_path)
        file.unlink()
        with pytest.raises(ValueError, match=f"{file.name} is missing"):
            reference_runs.load("demo", folder=tmp_path)
        file.write_bytes(whole)
    (tmp_path / "demo-three.csv").write_text("a\n1\n")
    with pytest.raises(ValueError, match=r"demo-three\.csv is not listed in checksums\.json"):
        reference_runs.load("demo", folder=tmp_path)
    assert reference_runs.state_checksums(folder=tmp_path) == {"demo-three.csv": "new"}
    (tmp_path / "demo-three.csv").unlink()
    assert reference_runs.state_checksums(folder=tmp_path) == {"demo-three.csv": "gone"}
    assert {"one", "two"} < set(reference_runs.load("demo", folder=tmp_path))
    (tmp_path / "checksums.json").write_text("{")
    with pytest.raises(ValueError, match=r"checksums\.json cannot be read"):
        reference_runs.load("demo", folder=tmp_path)


def test_the_stored_results_are_as_they_were_written():
    found = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in reference_runs.FOLDER.iterdir()}
    found.pop("checksums.json")
    stated = json.loads((reference_runs.FOLDER / "checksums.json").read_text())
    assert stated == found, "after a change on purpose, say `python -m mialab checksums`"


def test_a_file_of_a_later_version_is_refused(tmp_path):
    reference_runs.save("demo", folder=tmp_path, table=pd.DataFrame({"a": [1]}))
    file = tmp_path / "demo.json"
    file.write_text(file.read_text().replace('"schema": 2', '"schema": 9'))
    reference_runs.state_checksums(folder=tmp_path)
    with pytest.raises(ValueError, match="schema=9; this version reads up to 2"):
        reference_runs.load("demo", folder=tmp_path)


@pytest.mark.parametrize("file", sorted(reference_runs.FOLDER.glob("*-standard.json")), ids=lambda f: f.stem)
def test_reference_runs_have_the_columns_of_their_version(file):
    schema = json.loads(file.read_text()).get("schema", 1)
    assert schema in (1, reference_runs.SCHEMA)
    tables = reference_runs.load(file.stem)
    audits = [table for table in tables.values() if isinstance(table, pd.DataFrame) and "target" in table]
    # A sweep has a row for each setting of a defense instead.
    curves = [t for t in tables.values() if isinstance(t, pd.DataFrame) and {"setting", "cost"} <= set(t)]
    assert audits or curves
    for table in audits:
        assert set(tables_of_audits.COLUMNS[:8]) <= set(table)
        assert (schema == 1) == ("threshold" not in table)
        assert (schema == 1) == (set(table["target"]) == {"pooled"})
        assert (table["low"].fillna(0) <= table["high"].fillna(1)).all()
    verdicts = tables["verdicts"]
    first = {"claim", "published", "verdict"}
    assert first | ({"measured here"} if schema == 1 else {"quantity", "bound", *NUMBERS}) == set(
        verdicts
    ) - {"decides"}
    known = ("holds", "does not hold", "negligible", "not settled", "not comparable", "could not be tested")
    assert all(verdict.startswith(known) for verdict in verdicts["verdict"])


# ----------------------------------------------------------------------------------------------------
# Claims that have changed since


def test_a_stored_run_says_which_claims_it_judged():
    old = Claim(text="It works", source="here", test="AUC: below 0", below=0)
    untested = Claim(text="It is fast", source="here")
    stored = pd.DataFrame({"claim": ["It works", "It is fast"], "quantity": ["AUC: below 0", "-"]})
    assert reference_runs.standing(stored, {"a": old, "b": untested}) == ""
    new = Claim(text="It works", source="here", test="AUC at equal accuracy: below 0", below=0)
    said = reference_runs.standing(stored, {"a": new, "b": untested, "c": old})
    assert said.startswith("This run judged 2 of the 3 claims of this page as they stand here.")
    # Tables of the first version had no quantity.
    assert reference_runs.standing(stored[["claim"]], {"a": new}) == ""
    other = Claim(text="It is small", source="here")
    assert "judged 1 of the 2" in reference_runs.standing(stored[["claim"]], {"a": new, "b": other})
