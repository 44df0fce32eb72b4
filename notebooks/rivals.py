# %% [markdown]
# # The rivals: other defenses, on equal terms
#
# A defense that costs accuracy must be compared with other ways to give up as much of it. The two that every defense should
# beat are the cheapest and the only one with a proof: stopping early, and DP-SGD {cite:p}`abadi2016dpsgd` tuned for utility. Of
# five defenses that {cite:t}`aerni2024misleading` tried, none beat the latter.
#
# This chapter takes every defense of the package, turns its knob from weak to strong over the same number of trainings, and
# reads all curves at the same test accuracy.

# %% [markdown]
# ## Parameters
#
# Everything below follows from these; {doc}`/book/rerun` shows how to run the chapter with others.

# %% tags=["parameters"]
# Data sets: sizes of the pool and of its held-out parts, network, and training
datasets = {
    "clusters": {
        "size": 1000,
        "validation": 400,
        "test": 1000,
        "reference": 400,
        "hidden": [64],
        "epochs": 40,
        "lr": 0.003,
        "batch_size": 32,
    },
}
defenses = []  # names; empty for all there are
skipped = [
    "adversarial_regularization",
    "memguard",
    "selena",
]  # take longer than all others
n_models = (
    16  # models that are reported, of each setting; each plays the target in turn
)
budget = 3  # settings of each defense
search_models = 2  # models that settings are chosen by, with a seed of their own
seed = 0

# Reporting
attacks = ["correctness", "ranking", "loss", "modified_entropy", "lira"]
allowed = [1, 5]  # points of accuracy that a defense may cost, in the tables
points = 10  # the same in the verdicts, which compare at equal accuracy
fprs = [0.01, 0.001]  # false-positive rates
save_as = ""  # keep the tables as results/NAME-*.csv

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display
from myst_nb import glue

import mialab as mia
from mialab import auditing
from mialab.auditing.claims import judge
from mialab.book import answers, reference_runs, scoreboard
from mialab.chapters import rivals
from mialab.chapters.settings import settings

mia.plots.style()

# %% [markdown]
# ## Who takes part
#
# What each defense changes about training (the hooks that it overrides, see {doc}`/book/how_built`), what it needs besides
# members and one training of each model, and what it guarantees:

# %%
table = mia.defenses.summary()
table

# %% [markdown]
# *Early stopping*, *weight decay* and *dropout* are what practitioners do anyway. *DP-SGD* bounds what any attack can find, by its
# epsilon. *RelaxLoss* {cite:p}`chen2022relaxloss` and the *convex-concave loss* {cite:p}`liu2024ccl` keep losses of members away from zero, or
# spread them. *Label smoothing* {cite:p}`szegedy2016rethinking` and *mixup* {cite:p}`zhang2018mixup` soften labels. The others are those of
# the papers in this book. *Distillation* and *SELENA* release a student of other networks, *MIST* {cite:p}`li2024mist` averages
# sub-models that agree about records that only one of them knows, *adversarial regularization* {cite:p}`nasr2018machine` trains against an attacker. *MemGuard* {cite:p}`jia2019memguard`, *DynaNoise* {cite:p}`forough2026dynanoise` and
# *confidence masking* {cite:p}`shokri2017membership` train plainly and change the answers: until an attacker's network is undecided, by
# noise, or by rounding. What the descriptions leave open, and what is assumed for it, stands with each class ({doc}`/book/api/defenses`).

# %% [markdown]
# ## Equal terms
#
# * **One budget.** Every defense gets as many trainings as any other: {glue:text}`rivals_budget:d` settings, with
#   {glue:text}`rivals_search:d` models each to choose from and {glue:text}`rivals_models:d` each to report. Early stopping needs none: its
#   settings are earlier epochs of the undefended models.
# * **One difference.** Data, members, network, optimizer and epochs are those of the undefended models. A paper that trains longer
#   with its defense is tested with that recipe in its own chapter.
# * **Choice on validation.** The setting that is reported for a cost is the strongest whose *validation* accuracy allows it, on
#   models that are not reported.
# * **Equal accuracy.** Curves are read where they cost as much *test* accuracy, with straight lines between neighboring settings.
# * **Sound trainings only.** Settings with a dead model, or whose training had not converged, count for nothing and are
#   listed below. DP-SGD need not converge: it may train no longer than its epsilon lasts, and pays for that in accuracy.
# * **The strongest attack** of each kind of attacker counts, with an interval that knows that it was the strongest.

# %%
made = settings(datasets, seed=seed)
terms = {"n_models": n_models, "budget": budget, "search_models": search_models}
taking_part = [
    name for name in defenses or mia.defenses.available() if name not in skipped
]
seconds = rivals.estimate(made, taking_part, **terms)
glue("rivals_budget", budget, display=False)
glue("rivals_search", search_models, display=False)
glue("rivals_models", n_models, display=False)
glue("rivals_points", points, display=False)
glue("rivals_most", max(allowed), display=False)

# %%
tables = {
    name: auditing.trade_off(
        setting.pool,
        taking_part,
        model=setting.model,
        training=setting.training,
        attacks=attacks,
        fprs=fprs,
        seed=seed,
        allowed=allowed,
        **terms,
    )
    for name, setting in made.items()
}

# %% [markdown]
# ## Privacy against utility
#
# Down and to the right is better. Where a curve lies above that of early stopping, the defense is worse than training less.

# %% mystnb={"figure": {"caption": "AUC of the strongest attack that reads answers, against test accuracy: a curve a defense, from weak to strong settings, with 95 % intervals. Early stopping and DP-SGD are dashed. A panel for each data set.", "name": "fig-rivals"}, "image": {"alt": "Curves of the strongest attack's AUC against test accuracy, one for each defense, with early stopping and DP-SGD dashed."}} tags=["hide-input"]
fig, axes = plt.subplots(len(tables), 1, figsize=(7, 5 * len(tables)), squeeze=False)
for ax, (name, table) in zip(axes[:, 0], tables.items(), strict=True):
    mia.plots.equal_terms(table, ax=ax)
    ax.set_title(name, loc="right")  # what is not shown stands on the left
fig.tight_layout()
plt.show()

# %% [markdown]
# The same at {glue:text}`rivals_most:d` points of validation accuracy: for each defense the strongest setting that was good
# enough, its test accuracy, and the strongest attack by every measure. *seconds* are those of a model, as a multiple of an undefended
# one's. Defenses that are absent had no setting that was good enough.

# %%
for name, table in tables.items():
    print(name)
    display(table.chosen_for(max(allowed)))

# %% [markdown]
# At equal *test* accuracy, interpolated between settings: the AUC of the strongest attack by who sees answers, and by who sees labels
# alone. Answers tell labels too, so the first is never less.

# %%
pd.concat(
    {
        (name, sees): table.operating_points(allowed, sees=sees)
        for name, table in tables.items()
        for sees in ("scores", "labels only")
        if sees in set(table["sees"])
    },
    axis=1,
)

# %% [markdown]
# ### What counts for nothing
#
# Settings whose trainings have a problem, and defenses that could not be trained; besides, this run skipped what `skipped` names.
# Distillation and SELENA train in their own way and keep no checkpoints: of them it is not known whether training had ended.

# %%
problems = {
    name: pd.concat(
        [
            table.problems(),
            pd.DataFrame(table.attrs["missing"]).rename(columns={"reason": "problem"}),
        ]
    )
    for name, table in tables.items()
}
pd.concat(problems, names=["data set"]).reset_index(level=0).filter(
    ["data set", "defense", "setting", "problem"]
).fillna("all").reset_index(drop=True)

# %% [markdown]
# ### What the search costs
#
# Whoever tunes DP-SGD on private records spends epsilon on each setting that is tried. Composed in the simplest way, which is an upper
# bound, the search of this chapter would come to:

# %%
searched = {
    (name, defense): {"epsilon": epsilon, "delta": delta}
    for name, table in tables.items()
    for defense, (epsilon, delta) in table.attrs["search"].items()
}
pd.DataFrame(
    list(searched.values()),
    index=pd.MultiIndex.from_tuples(list(searched), names=["data set", "defense"]),
    columns=["epsilon", "delta"],
)

# %% [markdown]
# ## Verdicts
#
# For each defense of a paper, and for each rival: does it protect better than early stopping, and better than DP-SGD, at the same
# test accuracy, with at most {glue:text}`rivals_points:d` points less than undefended? Verdicts follow
# [the rules of this book](many-claims). Errors of both curves are taken as independent; if they go together, as errors on the same
# records and members may, the intervals are too wide.
#
# ```{admonition} What the verdicts leave out
# :class: warning
# * Attackers ask once about each record. Defenses that only change answers (HAMP's last step, MemGuard, DynaNoise, confidence masking)
#   hide what one answer says; who asks again, or about changed copies of a record, gets around that, as {doc}`hamp` shows. So their
#   verdicts here are the best case for them.
# * Distillation learns from other people's records, as many as the pool's reference part has; nobody else here may use those. SELENA's
#   weak spot are near duplicates of a record that a sub-model knows ({cite:t}`aerni2024misleading`); no data set here has them.
# * Curves that bend lie below the straight line between two settings that are far apart. With few settings a rival may look
#   weaker there than it is; more of them (`budget`) settle it.
# ```


# %%
verdicts = judge(*rivals.claims(tables, points))
answers.beside(verdicts)

# %% tags=["hide-cell"]
if save_as:
    reference_runs.save(save_as, curves=rivals.together(tables), verdicts=verdicts)

# %% [markdown]
# ## The reference run
#
# The page above shows the run that built this book. What follows comes from the last reference run on Location30, with all defenses, read
# from `results/`. The standard profile has CIFAR-10 as well (`make book PROFILE=standard`); its networks take hours on two cores, and
# that part has not been run with all defenses yet.

# %% mystnb={"figure": {"caption": "The reference run: AUC of the strongest attack that reads answers, against test accuracy, and the Pareto front. Settings that count for nothing are left out.", "name": "fig-rivals-reference"}, "image": {"alt": "Curves of the strongest attack's AUC against test accuracy on Location30, one for each defense, with early stopping and DP-SGD dashed."}} tags=["hide-input"]
reference = reference_runs.load("rivals-standard")
stored = scoreboard.curves()
fig, axes = plt.subplots(len(stored), 1, figsize=(7, 5 * len(stored)), squeeze=False)
for ax, (name, table) in zip(axes[:, 0], stored.items(), strict=True):
    mia.plots.equal_terms(table, ax=ax, front=True)
    ax.set_title(name, loc="right")
fig.tight_layout()
plt.show()

# %% tags=["hide-input"]
answers.beside(reference["verdicts"])

# %% [markdown]
# ### Who is better than whom
#
# The strongest attack's AUC where each defense costs at most {glue:text}`rivals_most:d` points of test accuracy, and the ranks that follow. All
# pairs are compared, adjusted for their number; every true rank lies in its bar, all at once, with 95 % confidence. Where bars overlap,
# the data cannot tell. Defenses that cost more at every setting have no rank.

# %% mystnb={"figure": {"caption": "The reference run: AUC of the strongest attack on answers at the same cost, with 95 % intervals, and ranks with intervals that hold at once. A figure for each data set.", "name": "fig-rivals-ranks"}, "image": {"alt": "A row for each defense: the AUC with its interval on the left, the interval of its rank as a bar on the right."}} tags=["hide-input"]
for table in stored.values():
    mia.plots.ranking(table.ranking(max(allowed)))
    plt.show()

# %% [markdown]
# How many settings of each defense count for nothing there, and why most of them do not:

# %% tags=["hide-input"]
pd.concat({name: table.problems() for name, table in stored.items()}).assign(
    problem=lambda rows: rows["problem"].str.extract(
        r"(dead|not converged)", expand=False
    )
).groupby(["defense", "problem"]).size().unstack(fill_value=0)

# %% tags=["hide-input"]
reference["facts"]
