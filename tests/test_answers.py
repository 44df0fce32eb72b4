"""The answer box and the one table of verdicts, on made-up runs."""

import numpy as np
import pandas as pd
import pytest

from mialab.auditing.claims import ByConstruction, Claim, judge
from mialab.auditing.tables import COLUMNS, AuditTable
from mialab.book.answers import answer, beside, members
from mialab.metrics.intervals import Interval


def made(dataset="cifar10", n_models=16, n_member=1000):
    """Make an audit of two arms that holds nothing but its attributes and a row a target."""
    rows = [("loss", k, "auc", 0.6, 0.5, 0.7, n_member, n_member, 0, 0, 0) for k in (0, "pooled")]
    table = AuditTable(rows, columns=COLUMNS)
    arm = {
        "dataset": dataset,
        "model": "MLP",
        "n_models": n_models,
        "audit": {"date": "2026-11-27T00:00:00+00:00", "commit": "abc"},
    }
    before = arm | {
        "test_accuracy": [0.5, 0.52],
        "strongest": {
            "auc": {"labels only": ["correctness", 0.7, 0.6, 0.8, 1], "scores": ["lira", 0.9, 0.85, 0.95, 3]},
            "tpr@0.01": {"scores": ["lira", 0.2, 0.1, 0.3, 3]},
            "tpr@0.001": {},
        },
    }
    after = arm | {
        "test_accuracy": [0.49, 0.49],
        "strongest": {
            "auc": {"labels only": ["correctness", 0.6, 0.5, 0.7, 1], "scores": ["rmia", 0.8, 0.7, 0.9, 3]},
            "tpr@0.01": {"scores": ["rmia", 0.05, 0.03, 0.07, 3]},
        },
    }
    table.attrs["audits"] = {"none": before, "ours": after}
    return table


def judged(*found, decides=True):
    claims = {
        str(i): Claim(text=f"claim {i}", source="s", test=f"t{i}", below=0, margin=0.01, decides=decides)
        for i in range(len(found))
    }
    return judge(claims, dict(zip(claims, found, strict=True)))


LOW, HIGH, NEAR = Interval(-0.2, -0.3, -0.1), Interval(0.2, 0.1, 0.3), Interval(0.0, -0.001, 0.001)
OPEN, APART = Interval(0.0, -0.2, 0.2), Interval(-0.2, -0.3, -0.1, conditions={"trained": "it is dead"})


@pytest.mark.parametrize(
    ("found", "word"),
    [
        ([LOW, LOW], "Yes"),
        ([LOW, HIGH], "No"),
        ([LOW, NEAR], "No"),
        ([OPEN, APART], "Not comparable"),
        ([LOW, OPEN], "Not settled"),
        ([HIGH, APART], "No"),
    ],
)
def test_a_defense_works_only_if_every_claim_that_decides_holds(found, word):
    page = answer({"audit": made(), "verdicts": judged(*found)}, "ours")
    assert repr(page).startswith(f"Does it work? {word}.")
    assert f">{word}.</strong>" in page._repr_html_()


def test_claims_that_do_not_decide_say_nothing_about_the_answer():
    page = answer({"audit": made(), "verdicts": judged(LOW, decides=False)}, "ours")
    assert "The reference run did not judge what would decide it" in repr(page)
    older = judged(LOW).drop(columns="decides")
    assert "Not settled" in repr(answer({"audit": made(), "verdicts": older}, "ours"))


def test_the_answer_shows_strongest_attacks_cost_and_run():
    text = repr(answer({"audit": made(), "verdicts": judged(LOW)}, "ours"))
    assert "0.900 [0.850, 0.950] lira" in text
    assert "0.800 [0.700, 0.900] rmia" in text
    assert "TPR at 1 % FPR" in text
    assert "0.1 % FPR" not in text  # which neither run resolves
    assert "0.510 before, 0.490 after (-2.0 points)" in text
    assert "1,000 members, 16 models an arm" in text
    assert "Run of 2026-11-27, commit abc" in text


def test_a_run_of_an_older_form_has_an_answer_without_attacks():
    old = made()
    for arm in old.attrs["audits"].values():
        del arm["strongest"]
    page = answer({"audit": old, "verdicts": judged(LOW)}, "ours")
    assert "did not keep the strongest attack" in repr(page)
    assert "<table" not in page._repr_html_()
    assert "Empty DataFrame" not in repr(page)


def test_an_answer_needs_both_arms():
    with pytest.raises(ValueError, match=r"table 'audit' has no arm 'theirs'; it has 'none', 'ours'"):
        answer({"audit": made(), "verdicts": judged(LOW)}, "theirs")


def test_members_are_those_of_one_model_also_where_only_pooled_rows_are_kept():
    table = made()
    assert members(table) == 1000
    pooled = AuditTable(pd.DataFrame(table)[table["target"] == "pooled"].assign(n_member=16_000))
    pooled.attrs = table.attrs
    assert members(pooled) == 1000


def test_verdicts_of_both_runs_stand_side_by_side():
    page = beside(
        judged(HIGH, LOW, OPEN),
        judged(LOW, LOW, LOW),
        audit=made("digits", n_member=100),
        reference_audit=made(),
    )
    html = page._repr_html_()
    assert html.count('data-label="verdict"') == 3
    assert "0.200 [0.100, 0.300]: does not hold" in html
    assert "-0.200 [-0.300, -0.100]: holds" in html
    # C3 is no contradiction: this build is merely too small to tell.
    assert "C1: the reference run and this build contradict each other" in html
    assert "other data (cifar10, here digits); members (1,000, here 100)" in html


def test_runs_that_differ_in_nothing_differ_by_chance():
    page = beside(judged(HIGH), judged(LOW), audit=made(), reference_audit=made())
    assert "They differ in chance alone" in repr(page)


def test_a_claim_that_the_reference_run_did_not_judge_says_so():
    now, then = judged(LOW, HIGH), judged(LOW)
    page = repr(beside(now, then))
    assert page.count("not in the reference run") == 1
    assert "contradict" not in page
    alone = repr(beside(now))
    assert "reference" not in alone
    assert "measured" in alone
    first_version = pd.DataFrame({"claim": ["claim 0"], "verdict": ["holds"]})
    assert repr(beside(now, first_version)).count("not in the reference run") == 2


def test_what_was_not_measured_has_no_number_and_no_tag_is_taken_from_a_text():
    claims = {"a": Claim(text="<b>A</b>", source="s"), "b": Claim(text="B", source="s")}
    now = judge(claims, {"a": ByConstruction("built so"), "b": "no such data"})
    html = beside(now, now)._repr_html_()
    assert "&lt;b&gt;A&lt;/b&gt;" in html
    assert "holds</strong>, by construction: built so" in html
    assert np.isnan(now["value"]).all()
    assert "nan" not in html
