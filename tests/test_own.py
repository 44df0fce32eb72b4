"""Audits of a model of one's own: what it may be, what is left out, the report, and the gate."""

import re
import shlex
from pathlib import Path

import browser
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.svm import LinearSVC

import mialab as mia
from mialab import cli
from mialab.auditing.own import gate
from mialab.classifiers.answers import FLOOR, answers_of

X, Y = load_digits(return_X_y=True)
ORDER = np.random.default_rng(0).permutation(len(Y))
IN, OUT = ORDER[:300], ORDER[300:600]
MEMBERS, OTHERS = (X[IN], Y[IN]), (X[OUT], Y[OUT])


@pytest.fixture(scope="module")
def forest():
    """Return a random forest that knows its members."""
    return RandomForestClassifier(20, random_state=0).fit(*MEMBERS)


@pytest.fixture(scope="module")
def game(forest):
    """Return its game."""
    return mia.auditing.game_of(forest, MEMBERS, OTHERS, name="forest")


def test_a_forest_is_audited_in_a_line(forest):
    table = mia.audit_model(forest, MEMBERS, OTHERS, fprs=(0.001, 0.1))
    assert table.interval("loss_known_half", "auc").low > 0.6
    assert "tpr@0.1" in set(table["metric"])
    assert "tpr@0.001" not in set(table["metric"])
    assert "needs 10,000 non-members that are scored; there are 150" in table.attrs["advice"][0]
    assert "right about 100.0 % of their members" in table.attrs["advice"][1]
    assert "shadow" in table.attrs["refused"]["lira"]


@pytest.mark.parametrize(
    "model",
    [
        GradientBoostingClassifier(n_estimators=3, random_state=0),
        LinearSVC(max_iter=50, random_state=0),
        RidgeClassifier(),
    ],
    ids=lambda m: type(m).__name__,
)
@pytest.mark.filterwarnings("ignore:Liblinear")
def test_every_kind_of_estimator_has_answers(model):
    model.fit(*MEMBERS)
    found = answers_of(model, X[OUT])
    assert found.shape == (300, 10)
    assert (found.argmax(1) == model.predict(X[OUT])).all()


def test_labels_alone_stand_for_sure_answers():
    class Labels:
        classes_ = np.array(["a", "b", "c"])

        def predict(self, x):
            return np.array(["a", "c", "b"])

    found = answers_of(Labels(), np.zeros((3, 1)))
    assert found.argmax(1).tolist() == [0, 2, 1]
    assert found.min() == pytest.approx(np.log(FLOOR))


def test_labels_of_any_kind_follow_the_order_of_the_classes():
    names = np.array([f"digit {d}" for d in "3120456789"])
    model = RandomForestClassifier(5, random_state=0).fit(X[IN], names[Y[IN]])
    game = mia.auditing.game_of(model, (X[IN], names[Y[IN]]), (X[OUT], names[Y[OUT]]))
    assert (game.logits[0, 0].argmax(-1) == game.y)[game.member[0]].mean() > 0.9
    with pytest.raises(ValueError, match="the label 'odd' is none of the model's"):
        mia.auditing.game_of(model, (X[IN], np.repeat("odd", 300)), (X[OUT], names[Y[OUT]]))


def test_a_module_answers_as_it_does_and_is_left_as_it_was():
    model = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 10)).train()
    x = torch.as_tensor(X[:50]).float()
    found = answers_of(model, X[:50], batch_size=7)
    assert model.training
    assert found == pytest.approx(model.eval()(x).detach().numpy(), abs=1e-4)


@given(st.integers(2, 6), st.integers(1, 20), st.integers(0, 99))
def test_logits_and_their_probabilities_are_the_same_answers(classes, n, seed):
    logits = np.random.default_rng(seed).normal(size=(n, classes))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    told, seen = (answers_of(lambda x, a=a: a, np.zeros((n, 1))) for a in (logits, p))
    assert told == pytest.approx(logits)
    assert seen == pytest.approx(np.log(np.maximum(p, FLOOR)))
    as_logits = answers_of(lambda x: p, np.zeros((n, 1)), outputs="logits")
    assert as_logits == pytest.approx(p)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, "must be a torch module, an estimator"),
        (lambda x: np.zeros(len(x)), r"answers with shape \(300,\); it must be \(record, label\)"),
        (lambda x: np.zeros((3, 2)), r"answers with shape \(3, 2\)"),
        (lambda x: np.zeros((len(x), 1)), "two labels at least"),
        (lambda x: np.full((len(x), 2), np.nan), "600 values that are not finite"),
    ],
)
def test_models_that_are_none_are_refused(model, message):
    with pytest.raises((TypeError, ValueError), match=message):
        mia.audit_model(model, MEMBERS, OTHERS)


@pytest.mark.parametrize(
    ("members", "message"),
    [((X[IN], Y[IN][:-1]), "members has 300 records and labels of shape"), ((X[:1], Y[:1]), "two at least")],
)
def test_records_that_do_not_fit_are_refused(forest, members, message):
    with pytest.raises(ValueError, match=message):
        mia.audit_model(forest, members, OTHERS)


@pytest.mark.slow
def test_on_what_was_never_seen_nothing_is_found():
    """Non-members on both sides, 30 draws: an interval lies above .5 with 1 in 40; five do in one test of 1,000."""
    found = 0
    for seed in range(30):
        known, first, second = np.random.default_rng(seed).permutation(len(Y))[:600].reshape(3, 200)
        model = RandomForestClassifier(10, random_state=seed).fit(X[known], Y[known])
        table = mia.audit_model(model, (X[first], Y[first]), (X[second], Y[second]), attacks=["loss"])
        found += table.interval("loss_known_half", "auc").low > 0.5
    assert found < 5


def test_records_on_both_sides_are_told(forest):
    table = mia.audit_model(
        forest, MEMBERS, (np.concatenate([X[OUT], X[IN[:5]]]), Y[[*OUT, *IN[:5]]]), attacks=["loss"]
    )
    assert "5 records are among the members and among the others" in " ".join(table.attrs["advice"])
    alone = mia.audit_model(forest, MEMBERS, OTHERS, attacks=["loss"])
    assert "among the others" not in " ".join(alone.attrs["advice"])


def test_records_may_be_words():
    words = np.array([["red", "a"], ["blue", "b"]] * 40, dtype=object)
    y = np.arange(80) % 2
    model = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(words, y)
    frames = [(pd.DataFrame(words[part]), y[part]) for part in (slice(40), slice(40, 80))]
    for members, others in ([(words[:40], y[:40]), (words[40:], y[40:])], frames):
        table = mia.audit_model(model, members, others, attacks=["loss"], fprs=())
        assert "2 records are among" in " ".join(table.attrs["advice"])


def test_the_gate_looks_at_the_upper_end(game):
    table = mia.auditing.audit_possible(game, fprs=[0.1])
    _, value, _, high, _ = max(table.attrs["strongest"]["tpr@0.1"].values(), key=lambda found: found[3])
    assert value < high < 0.99
    assert gate(game, high + 0.001, 0.1)[0]
    passed, told = gate(game, (value + high) / 2, 0.1)
    assert not passed
    assert told.startswith("FAILED: at 10 % false alarms the strongest of ")
    with pytest.raises(ValueError, match="needs 10,000 non-members"):
        gate(game, 0.5, 0.001)
    with pytest.raises(ValueError, match="max_tpr=2 must be a fraction"):
        gate(game, 2, 0.1)


@pytest.mark.slow
def test_a_report_needs_nothing_else(game, tmp_path):
    text = mia.report(game, fprs=(0.001, 0.1))
    assert "An attacker who sees scores tells a member" in text
    assert "At 1 false alarm in 10, " in text
    assert "its epsilon is at least" in text
    assert "attacks were left out" in text
    assert not re.search(r'(?:src|href)="?http', text)
    odd = mia.report(
        game, [mia.attacks.Threshold(signal="loss", calibrate="known_half")], fprs=(0.1,), title="<b>"
    )
    assert "<h1>&lt;b&gt;</h1>" in odd
    if browser.find_browser():
        page = tmp_path / "report.html"
        page.write_text(text)
        for seen in browser.look_at([page]):
            assert not seen.errors
            assert not seen.outside
            assert not seen.look.get("wide")


def test_commands(game, tmp_path, capsys):
    file = tmp_path / "answers.npz"
    np.savez(file, logits=game.logits[:, 0], member=game.member, y=game.y)
    loss = ["--attack", "attack_p"]
    out, csv = tmp_path / "report.html", tmp_path / "table.csv"
    assert cli.main(["audit", str(file), *loss, "--fpr", "0.1", "--out", str(out), "--csv", str(csv)]) == 0
    told = capsys.readouterr().out
    assert "tells a member from another record" in told
    assert out.read_text().startswith("<!doctype html>")
    assert csv.read_text().startswith("attack,target,metric")
    assert cli.main(["gate", str(file), *loss, "--max-tpr", "0.99", "--at-fpr", "0.1"]) == 0
    assert cli.main(["gate", str(file), *loss, "--max-tpr", "0.01", "--at-fpr", "0.1"]) == 1
    assert cli.main(["gate", str(file), *loss, "--max-tpr", "0.01", "--at-fpr", "0.0001"]) == 2
    assert cli.main(["audit", str(tmp_path / "answers.txt")]) == 2
    assert cli.main(["audit", str(tmp_path / "gone.npz")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_the_job_for_a_pipeline_runs(game, tmp_path, monkeypatch):
    """The job in the chapter is YAML, and its commands do what it says with the answers of a model."""
    page = (Path(__file__).parents[1] / "notebooks" / "audit_your_own.py").read_text()
    text = re.search(r"# ```yaml\n(.*?)# ```", page, re.DOTALL).group(1)
    job = yaml.safe_load(re.sub(r"(?m)^# ?", "", text))
    steps = job["jobs"]["membership-inference"]["steps"]
    commands = [step["run"].split() for step in steps if step.get("run", "").startswith("mialab ")]
    assert [command[1] for command in commands] == ["gate", "audit"]
    monkeypatch.chdir(tmp_path)
    np.savez("answers.npz", logits=game.logits[:, 0], member=game.member, y=game.y)
    assert cli.main(commands[0][1:]) == 1  # a forest knows its members
    assert cli.main(commands[1][1:]) == 0
    (uploaded,) = (step["with"]["path"].split() for step in steps if "upload" in step.get("uses", ""))
    assert all((tmp_path / file).exists() for file in uploaded)


def test_the_examples_of_the_help_are_commands(capsys, monkeypatch):
    """Every example is parsed as it stands; the options that it names exist."""
    lines = [
        line for text in cli.EXAMPLES.values() for line in text.splitlines() if line.startswith("  mialab ")
    ]
    assert len(lines) > 10
    called = []
    for command in ("list", "run", "sweep", "audit", "gate"):
        monkeypatch.setattr(cli, f"_{command}", lambda options, c=command: called.append(c) or 0)
    commands = [shlex.split(re.split(r" {3,}", line.strip())[0])[1:] for line in lines]
    for words in commands:
        assert cli.main(words) == 0, words
    assert called == [words[0] for words in commands]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["gate", "--help"])
    assert stopped.value.code == 0
    assert "exit codes: 0 passed, 1 failed, 2 cannot be told" in capsys.readouterr().out


@pytest.mark.slow
def test_the_example_in_the_prose_runs():
    page = (Path(__file__).parents[1] / "book" / "rerun.md").read_text()
    code = re.search(r"## A model of your own.*?```python\n(.*?)```", page, re.DOTALL).group(1)
    space: dict = {}
    exec(compile(code, "rerun.md", "exec"), space)
    assert space["table"].interval("loss_known_half", "auc").low > 0.5
