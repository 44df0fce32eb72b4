# %% [markdown]
# # Audit a model of your own
#
# What would an attacker find in a model that you trained? One call tells, for a random forest, boosted trees, a torch network, or
# anything that predicts; a second one trains shadow models, so that the strongest attacks run as well; a third writes a report.
# This page does all of it on handwritten digits, from nothing, and ends in a check for your pipeline.

# %% tags=["parameters"]
n_records = 1600  # half of them are members of the models below
n_shadows = 16  # shadow models of each model; even
n_trees = 100  # trees of the forest
rounds = 60  # of boosting
hidden = 128  # width of the network
epochs = 40  # of the network
fprs = [0.02, 0.1]  # false-positive rates; one needs ten non-members or more below it
max_tpr = 0.2  # what the check of the pipeline lets pass, at the last of these rates
seed = 0

# %% tags=["hide-input"]
import tempfile
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import HTML, display
from myst_nb import glue
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.model_selection import GridSearchCV

import mialab as mia
from mialab import cli
from mialab.auditing import game_of, leakage_scorer
from mialab.auditing.taxonomy import in_words

mia.plots.style()

# %% [markdown]
# ## Three models
#
# Half of the records are members, the others come from the same source and were never seen. That is all an audit asks for: if the two
# sides differ in anything else, such as their date, attacks find that.

# %%
x, y = load_digits(return_X_y=True)
order = np.random.default_rng(seed).permutation(len(y))[:n_records]
x, y = x[order].astype(np.float32) / 16, y[order]
n = n_records // 2
members, nonmembers = (x[:n], y[:n]), (x[n:], y[n:])

forest = RandomForestClassifier(n_trees, random_state=seed).fit(*members)
boosted = HistGradientBoostingClassifier(
    max_iter=rounds, early_stopping=False, random_state=seed
).fit(*members)


def build():
    return torch.nn.Sequential(
        torch.nn.Linear(64, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 10)
    )


torch.manual_seed(seed)
network = build()
optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
inputs, labels = map(torch.as_tensor, members)
for _ in range(epochs):
    for batch in torch.randperm(n).split(32):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(inputs[batch]), labels[batch])
        loss.backward()
        optimizer.step()

# %% [markdown]
# ## One call
#
# `mia.audit_model` takes the model as it is, and runs every attack that it allows.

# %%
table = mia.audit_model(forest, members, nonmembers, fprs=fprs)
table.pooled("auc").sort_values("value", ascending=False).head()[
    ["attack", "value", "low", "high"]
]

# %% [markdown]
# What so few records cannot tell is said, and what would help:

# %%
print(*table.attrs["advice"], sep="\n\n")

# %% [markdown]
# Which attacks were left out, and why, is in `table.attrs["refused"]`.
#
# ## Shadow models
#
# LiRA ({cite:t}`carlini2022lira`) and RMIA ({cite:t}`zarifzadeh2024rmia`) compare with models that were trained in the same way on
# other halves of the records. Of an estimator, clones are fitted; of a network, you say how it is built and trained.

# %%
recipe = mia.Training(
    epochs=epochs, optimizer="adam", lr=0.003, weight_decay=0, batch_size=32
)
shadowed = {
    "random forest": game_of(forest, members, nonmembers, shadows=n_shadows, seed=seed),
    "boosted trees": game_of(
        boosted, members, nonmembers, shadows=n_shadows, seed=seed
    ),
    "network": game_of(
        network,
        members,
        nonmembers,
        shadows=n_shadows,
        build=build,
        training=recipe,
        seed=seed,
    ),
}
audits = {
    name: mia.auditing.audit_possible(game, fprs=fprs)
    for name, game in shadowed.items()
}

# %% [markdown]
# Look at what the models learned first: shadow models that are better or worse than the target say little about it.

# %% tags=["hide-input"]
rows = {}
for name, game in shadowed.items():
    right = game.logits[:, 0].argmax(-1) == game.y
    for what, which in {"target": ~game.shadow, "shadow models": game.shadow}.items():
        rows[name, what] = {
            "accuracy on members": f"{right[which][game.member[which]].mean():.3f}",
            "on others": f"{right[which][~game.member[which]].mean():.3f}",
        }
pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "of"])

# %% [markdown]
# The strongest attacker of each kind, with intervals that hold for the choice among all attacks. Who asks about sets of eight records, all
# members or none, answers an easier question, and stands apart:

# %% tags=["hide-input"]
strongest = {}
for name, audit in audits.items():
    for sees, (attack, value, low, high, _) in audit.attrs["strongest"]["auc"].items():
        strongest[name, sees] = {
            "AUC": f"{value:.3f} [{low:.3f}, {high:.3f}]",
            "by": in_words(attack),
        }
pd.DataFrame.from_dict(strongest, orient="index").rename_axis(
    ["model", "attacker sees"]
)

# %% mystnb={"figure": {"caption": "One model each, against shadow models of its kind; both axes logarithmic. A curve starts where ten false alarms are allowed. Bands: 95 % intervals over records.", "name": "fig-own-models"}, "image": {"alt": "Log-log ROC curves of the loss, LiRA and RMIA against a random forest, boosted trees and a network."}} tags=["hide-input"]
figure, panels = plt.subplots(
    1, 3, figsize=(9.5, 3.8), sharey=True, layout="constrained"
)
for axes, (name, game) in zip(panels, shadowed.items(), strict=True):
    mia.plots.roc(game, ["loss", "lira", "rmia"], ax=axes)
    handles = axes.get_legend_handles_labels()[0]
    axes.get_legend().remove()
    axes.set_title(name)
    axes.label_outer()
figure.legend(
    handles[:3], ["loss", "LiRA", "RMIA"], loc="outside lower center", ncols=3
)
plt.show()

# %% [markdown]
# ## More models, lower rates
#
# One target and {glue:text}`own_others:d` non-members cannot show what happens at a false-positive rate of 0.1 %. If what you ask is how much *such
# models* leak, and not this one, let many be the target in turn: `mia.play` takes an estimator as well.

# %%
pool = mia.Pool(
    "digits_of_this_page",
    x=x,
    y=y.astype(np.int64),
    n_classes=10,
    kind="tabular",
)
game = mia.play(
    pool, RandomForestClassifier(n_trees), n_models=n_shadows, seed=seed + 1
)
mia.audit(game, ["loss", "lira", "rmia"], fprs=(0.001, 0.01)).summary("tpr@0.001")

# %% [markdown]
# ## Choose a model that leaks less
#
# A scorer for scikit-learn puts leakage beside accuracy in any search. Here it is the depth of the forest's trees; a defense that costs
# nothing but a parameter.

# %%
scoring = {"accuracy": "accuracy", "privacy": leakage_scorer(x, y)}
search = GridSearchCV(
    RandomForestClassifier(30, random_state=seed),
    {"max_depth": [2, 4, 6, 8, 12]},
    cv=2,
    scoring=scoring,
    refit=False,
).fit(x, y)
found = pd.DataFrame(search.cv_results_)

# %% mystnb={"figure": {"caption": "Forests of trees of different depth: accuracy on held-out records against the AUC of the loss. Down and to the right is better.", "name": "fig-own-search"}, "image": {"alt": "Accuracy against attack AUC for five depths; deeper trees are more accurate and leak more."}} tags=["hide-input"]
figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
axes.plot(100 * found["mean_test_accuracy"], -found["mean_test_privacy"], "o-")
for _, row in found.iterrows():
    axes.annotate(
        f"depth {row['param_max_depth']}",
        (100 * row["mean_test_accuracy"], -row["mean_test_privacy"]),
        xytext=(-6, 4),
        textcoords="offset points",
        ha="right",
    )
axes.margins(x=0.3, y=0.12)
axes.set(xlabel="accuracy on held-out records (%)", ylabel="AUC of the loss")
plt.show()

# %% [markdown]
# ## The report
#
# `mia.report` writes one page of HTML that needs nothing else: its first screen is for who decides, what lies below for who checks.
# This is the one of the random forest, as it comes:

# %%
report = mia.report(
    shadowed["random forest"],
    fprs=fprs,
    title="A random forest on digits",
    table=audits["random forest"],
)

# %% tags=["hide-input"]
display(
    HTML(
        f'<div><iframe title="The report on the random forest" srcdoc="{escape(report)}" '
        'style="width: 100%; height: 34rem; border: 1px solid #c9ced6; border-radius: .4rem; background: #fff"></iframe></div>'
    )
)

# %% [markdown]
# ## Without Python: answers in a file
#
# A model that runs elsewhere leaves its answers in a file, and the command line does the rest. The check goes by the *upper* end of the
# interval, so that few data do not pass for privacy; its exit code is 0 (passed), 1 (failed), or 2 (cannot be told).

# %%
folder = Path(tempfile.mkdtemp())
np.savez(
    folder / "answers.npz",
    probabilities=forest.predict_proba(x)[None],
    member=np.arange(n_records)[None] < n,
    y=y,
)
code = cli.main(
    [
        "gate",
        str(folder / "answers.npz"),
        "--max-tpr",
        str(max_tpr),
        "--at-fpr",
        str(fprs[-1]),
    ]
)
print("exit code", code)

# %% [markdown]
# What may be in the file, or be given to `mia.Game.from_arrays` in Python:
#
# | you hold | give |
# | --- | --- |
# | logits or log-probabilities | `logits`, (model, record, label) |
# | probabilities | `probabilities`; a floor, `--floor`, stands for those that are 0, and attacks depend on it |
# | predicted labels | `labels`, (model, record) |
# | one loss a record | `loss`: LiRA's statistic follows from the cross-entropy |
# | any other score, as of a regression or a language model | `score`, higher for members |
# | several queries a record | one more dimension, (model, query, record, ...) |
# | who was a member | `member`, of True and False (model, record), or `members`, a list of places for each model |
# | a `.csv` file | a row for each model and record, with columns `model`, `record`, `member`, `y`, and `loss`, `score`, or `logit_0`, ... |
# | a `.zarr` folder | the same arrays; or a game that `mia.play` stored |
# | what the published code of LiRA wrote | its folder, with `keep.npy` and `logits/` in each experiment |
#
# Models with complementary members are recognized as partners. Targets of your own get shadow models from `mia.play` by
# `targets.with_shadows(shadows)`; who trains models elsewhere draws their members by `mia.membership(n_models, n_records, seed)`.
#
# ## In a pipeline
#
# A job for GitHub Actions; `train.py` is yours, and writes `answers.npz` as above. The report is kept whether the check passes or not.
#
# ```yaml
# name: privacy
# on: [pull_request]
# jobs:
#   membership-inference:
#     runs-on: ubuntu-latest
#     steps:
#       - uses: actions/checkout@v4
#       - uses: actions/setup-python@v5
#         with:
#           python-version: "3.12"
#       - run: pip install -r requirements.txt   # mialab among them
#       - run: python train.py
#       - run: mialab gate answers.npz --max-tpr 0.2 --at-fpr 0.1
#       - if: always()
#         run: mialab audit answers.npz --fpr 0.1 --out report.html --csv table.csv
#       - if: always()
#         uses: actions/upload-artifact@v4
#         with:
#           name: privacy
#           path: |
#             report.html
#             table.csv
# ```
#
# ## What an audit does not say
#
# A low AUC is no proof. It says that *these* attacks found little with so many records and shadow models; whoever knows more may find more.
# {doc}`stress` shows what happens to defenses whose attackers adapt, and {doc}`rivals` what early stopping reaches at the same
# accuracy. A guarantee comes from training alone, as by DP-SGD.

# %% tags=["hide-cell"]
glue("own_others", len(nonmembers[1]), display=False)
