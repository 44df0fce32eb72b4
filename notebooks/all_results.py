# %% [markdown]
# # Every defense against every attack
#
# Every defense of the package against every attack of the package, on one table for each data set. The page is
# generated: a new defense or a new attack appears on it by itself ({doc}`/book/add_a_row`), and what could not be run is
# listed with the reason. {doc}`attacks` describes the attacks, {doc}`game` the measures.
#
# All defenses are trained on the same memberships, from the same first weights, and the shadow models are trained with
# the defense, so that the attacker is an adaptive one. Parameters of the defenses are the default ones unless they are
# changed below; where {doc}`rivals` has a reference run on the same data, each defense is there a second time,
# *tuned*: at the strongest setting that costs few points of validation accuracy. A paper's chapter looks at one defense with care.

# %% tags=["parameters"]
# For each data set: its size, the network with its parameters, and those of `mialab.Training`.
datasets = {
    "clusters": {
        "size": 400,
        "model": "mlp",
        "hidden": [64],
        "activation": "relu",
        "epochs": 40,
    },
}
# For a defense: parameters other than its default ones, and what differs in its training (then it is not the defense alone that differs).
overrides = {"hamp": {"gamma": 0.5}}
without = {}  # defenses that are not played, each with the reason
tuned_for = 5  # points of accuracy that a tuned defense may cost; None for none
attacks = None  # names of attacks; None for all
compared = [
    "loss",
    "modified_entropy",
    "lira_pooled",
    "rmia",
]  # for the figure of privacy against utility
n_models = 10  # per defense; each plays the target in turn
fprs = [0.01]
seed = 0
save_as = ""  # keep all values as results/NAME.json; the name begins with "matrix"

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display
from myst_nb import glue

import mialab as mia
from mialab import auditing, chapters
from mialab.book import matrix, reference_runs, scoreboard

mia.plots.style()
settings = chapters.settings.settings(datasets, seed=seed)
glue("all_n_attacks", len(mia.attacks.available()), display=False)
glue("all_n_defenses", len(mia.defenses.available()), display=False)
glue("all_n_models", n_models, display=False)

# %% [markdown]
# (all-reference)=
# ## The reference run
#
# All defenses on Location30, with {glue:text}`all_ref_models:d` models each and {glue:text}`all_ref_members:d` members, from `results/matrix.json`
# (commit {glue:text}`all_ref_commit`; {doc}`/book/add_a_row` describes the file). The strongest attack of each kind of attacker has an interval that knows that
# it was chosen; who protects most comes first. Look at the accuracies before the attacks: *tuned* rows cost few points, the others are at
# their default settings and may cost many. {doc}`rivals` compares them at the same accuracy.

# %% tags=["hide-input"]
reference = matrix.read(reference_runs.FOLDER / "matrix.json")
stored = reference["datasets"]["location30"]
glue("all_ref_models", stored["models"], display=False)
glue("all_ref_members", stored["members"], display=False)
glue("all_ref_commit", reference["made"]["commit"], display=False)
matrix.overview(reference, "location30")

# %% [markdown]
# All of its values, to sort and to search; choose a measure and what the attacker sees, and move through the ROC curves:

# %% tags=["hide-input"]
matrix.view(reference)

# %% [markdown]
# ## This build
#
# {glue:text}`all_n_defenses:d` defenses, the undefended models among them, against {glue:text}`all_n_attacks:d` attacks, with
# {glue:text}`all_n_models:d` models for each defense.

# %%
swept = scoreboard.curves()
tables = {
    name: auditing.audit_defenses(
        s.pool,
        defenses={
            label: defense
            for label, defense in chapters.rivals.with_tuned(
                swept.get(name), tuned_for
            ).items()
            if defense.name not in without
        },
        n_models=n_models,
        overrides=overrides,
        attacks=attacks,
        fprs=fprs,
        seed=seed,
        **s.options(),
    )
    for name, s in settings.items()
}
for table in tables.values():
    table.attrs["missing"] += [
        {"defense": defense, "attack": "all", "reason": why}
        for defense, why in without.items()
    ]
found = matrix.document(tables)

# %% tags=["hide-cell"]
if save_as:
    matrix.save(found, save_as)

# %% [markdown]
# ### Explore
#
# Choose a measure and what the attacker sees. The slider moves through the ROC curves. Look first at
# [what the models learned](all-arms): who has not learned hides nothing.

# %% tags=["hide-input"]
matrix.view(found)

# %% [markdown]
# (all-arms)=
# ### What the models learned
#
# All defenses have the same training. One that has not ended, or whose models are dead, hides its members for that reason alone: look here
# before you look at any attack.

# %% tags=["hide-input", "scroll-output"]
for table in tables.values():
    display(table.arms())

# %% [markdown]
# ### AUC
#
# White is chance; the darker, the more is found on average over all thresholds. A hatched cell was not run. Values are
# pooled over all targets; "n/a" says that too few records stand behind a value.

# %% mystnb={"image": {"alt": "Heat map of the AUC, attacks in rows and defenses in columns."}} tags=["hide-input"]
for name, table in tables.items():
    mia.plots.matrix(table, "auc", label=name)
    plt.show()

# %% [markdown]
# ### True-positive rate at a low false-positive rate
#
# The fraction of members that are named with hardly anybody named in error, in percent. Colors are logarithmic.

# %% mystnb={"image": {"alt": "Heat map of the true-positive rate at a low false-positive rate, attacks in rows and defenses in columns."}} tags=["hide-input"]
for name, table in tables.items():
    mia.plots.matrix(table, f"tpr@{fprs[0]:g}", label=name)
    plt.show()

# %% [markdown]
# ### The strongest attack by what the attacker sees
#
# A defense is as good as the strongest attack that it must face. By the AUC; the interval is that of the greatest of so many
# estimates ([how](many-claims)):

# %% tags=["hide-input"]
for table in tables.values():
    display(table.strongest("auc"))

# %% [markdown]
# ### Privacy against utility
#
# The strongest of some attacks that read answers: {glue:text}`all_compared`. The dashed lines are what any defense should beat: undefended
# training that stops early, and DP-SGD with more and more noise.

# %% mystnb={"image": {"alt": "Strongest AUC of some attacks against test accuracy, one marker for each defense, and dashed curves of early stopping and DP-SGD."}} tags=["hide-input"]
glue("all_compared", ", ".join(compared), display=False)
for name, table in tables.items():
    curves = auditing.trade_off(
        settings[name].pool,
        ["dp_sgd"],
        attacks=compared,
        fprs=fprs,
        n_models=n_models,
        budget=3,
        seed=seed,
        **settings[name].options(),
    )
    some = table[table["attack"].isin(compared)]
    mia.plots.privacy_utility(some, reference=curves).set_title(name)
    plt.show()

# %% [markdown]
# ### All values
#
# AUC, with 95 % intervals over targets and records:

# %% tags=["hide-input", "scroll-output"]
for table in tables.values():
    display(table.summary("auc"))

# %% [markdown]
# True-positive rates:

# %% tags=["hide-input", "scroll-output"]
for table in tables.values():
    display(table.summary(f"tpr@{fprs[0]:g}"))

# %% [markdown]
# ## The claims of all papers
#
# Each claim with its verdict, from the reference runs; a chapter says how it was judged, and has this build's verdict beside it.
# Who protects better than whom at the same accuracy, and where the data cannot tell, is in {doc}`rivals`.

# %% tags=["hide-input", "scroll-output"]
scoreboard.claims()

# %% [markdown]
# ## What is missing
#
# Defenses that could not be trained ("all") and attacks that could not run, and why:

# %% tags=["hide-input"]
pd.concat(
    [table.missing().assign(data=name) for name, table in tables.items()]
).set_index("attack").rename_axis(index=None, columns="attack")
