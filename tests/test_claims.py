import pandas as pd
import pytest

import mialab as mia
from mialab.auditing.claims import ByConstruction, Claim
from mialab.book import reference_runs
from mialab.metrics.intervals import Interval


@pytest.mark.parametrize(
    ("bound", "measured", "verdict"),
    [
        ({"below": 0}, (-0.2, -0.3, -0.1), "holds"),
        ({"below": 0}, (-0.2, -0.3, 0.0), "not settled"),
        ({"below": 0}, (0.2, 0.0, 0.3), "does not hold"),
        ({"above": 0.5}, (0.7, 0.51, 0.8), "holds"),
        ({"above": 0.5}, (0.5, 0.4, 0.6), "not settled"),
        ({"above": 0.5}, (0.3, 0.2, 0.5), "does not hold"),
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
    findings = {"a": Interval(0.2, 0.1, 2e-4), "b": ByConstruction("it is built so"), "c": "no such data"}
    table = mia.auditing.claims.judge(claims, findings)
    assert list(table["verdict"]) == ["holds", "holds, by construction", "could not be tested here"]
    assert table.loc["C1", "measured here"] == "0.200 [0.100, 2.0e-04]"
    assert list(table["published"]) == ["0.5", "no value", "no value"]
    assert list(mia.auditing.claims.list_claims(claims)["tested here by"]) == [
        "measured",
        "not measured",
        "not measured",
    ]
    with pytest.raises(ValueError, match="'c'"):
        mia.auditing.claims.judge(claims, {"a": findings["a"], "b": findings["b"]})


def test_page_shows_cells_in_full_and_escaped():
    long = "a claim that is much longer than the fifty characters after which tables are cut < off"
    table = mia.auditing.claims.judge({"a": Claim(text=long, source="s", below=0)}, {"a": Interval(1, 1, 1)})
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
    verdicts = mia.auditing.claims.judge(
        {"a": Claim(text="A", source="s", below=0)}, {"a": Interval(1, 1, 1)}
    )
    reference_runs.save("demo", folder=tmp_path, audit=audit, verdicts=verdicts)
    back = reference_runs.load("demo", folder=tmp_path)
    assert list(back["audit"]["target"]) == ["pooled"]
    assert back["audit"].interval("loss", "auc") == (0.6, 0.5, 0.7)
    assert back["provenance"]["audit"] == {"seed": 3}
    assert back["verdicts"].to_dict() == verdicts.to_dict()
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
