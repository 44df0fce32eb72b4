# %% [markdown]
# # The attacks, on undefended models
#
# Before a defense can be said to withstand attacks, the attacks must be seen to work. This chapter runs every attack of
# the package on models without any defense: what each one needs, how much it finds, whether two attacks find the
# same members, how many shadow models they want, and what remains of them when the attacker's data are not the
# target's. {doc}`game` has the rules and the measures.

# %% tags=["parameters"]
# For each data set: its size, the network with its parameters, and those of
# `mialab.Training`; `other_model` is the network of an attacker who guesses wrongly.
datasets = {
    "clusters": {
        "size": 600,
        "model": "mlp",
        "hidden": [128],
        "activation": "relu",
        "epochs": 40,
        "other_model": {"model": "mlp", "hidden": [64, 64]},
    },
    "digits": {
        "size": 600,
        "model": "mlp",
        "hidden": [128],
        "activation": "relu",
        "epochs": 40,
        "other_model": {"model": "mlp", "hidden": [64, 64]},
    },
}
n_models = 18  # each plays the target in turn
shadows = [4, 8, 16, 32, 64]  # numbers of shadow models to compare
curves_of = None  # data sets on which to compare them; all by default
shift_targets = 4  # where the attacker's data differ: targets,
shift_shadows = 8  # and shadow models of each kind
fpr = 0.01  # the false-positive rate at which members are "caught"
fprs = [0.01, 0.001]
seed = 0

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display
from myst_nb import glue

import mialab as mia
from mialab import auditing, chapters

mia.plots.style()
settings = chapters.settings.settings(datasets, seed=seed)
needs = mia.attacks.available()
needs = needs.loc[[name for family in auditing.families().values() for name in family]]
needs = needs.rename_axis(index=None, columns="attack")
glue("attacks_n", len(needs), display=False)
glue("attacks_n_models", n_models, display=False)
glue("attacks_fpr", fpr, display=False)


def title(name):
    return f"{name}, {len(settings[name].pool)} records"


# %% [markdown]
# ## What each attack needs
#
# The package has {glue:text}`attacks_n:d` attacks, variants counted. They differ less in their formulas than in what they
# presuppose. From the attacks' own statements, grouped by what the attacker has:
#
# * *sees*: the predicted label, the ranking of the classes, the logits, or gradients of the target's own weights;
# * *shadow models*: models that the attacker trained, with a record (IN) or without it (OUT);
# * *known half*: half of the target's own members and non-members, which are then not scored.

# %% tags=["hide-input", "scroll-output"]
first = ["sees", "shadow models", "known half", "queries"]
needs[first]

# %% [markdown]
# What else is needed, and how the threshold can be chosen, the default first:

# %% tags=["hide-input", "scroll-output"]
needs[[column for column in needs if column not in [*first, "source"]]]

# %% [markdown]
# Where they come from:

# %% tags=["hide-input", "scroll-output"]
with pd.option_context("display.max_colwidth", None):
    display(needs[["source"]])

# %% [markdown]
# ## The families
#
# Notation: $f$ is the target, $f(x)_c$ the probability that it gives to class $c$, $y$ the label of the record, $\ell(f)
# = -\log f(x)_y$ the loss, and $g_1, \dots, g_m$ are shadow models.
#
# **One answer, one threshold.** A record is called a member if one number of the answer is high: minus the loss
# {cite:p}`yeom2018privacy`, the confidence $f(x)_y$, minus the entropy $\sum_c f(x)_c \log f(x)_c$, or minus the
# modified entropy $(1 - f(x)_y) \log f(x)_y + \sum_{c \ne y} f(x)_c \log (1 - f(x)_c)$, which knows that a confident
# wrong answer is no sign of membership {cite:p}`song2021systematic`. The threshold is one for all records, or one
# for each class.
#
# **Label or ranking only.** The *gap* attack says "member" if the label is right {cite:p}`yeom2018privacy`. Attacks with more
# queries estimate how robust the label is: with copies of the record that are noisy, shifted or flipped
# {cite:p}`choquette2021labelonly`, with shadow models that say which pattern of right answers goes with membership
# {cite:p}`aerni2024misleading`, or as the distance to the decision boundary
# {cite:p}`choquette2021labelonly,li2021labelonly`,
#
# $$ s = \min \{ \lVert x' - x \rVert_2 : \arg\max f(x') \ne y \}, $$
#
# which HopSkipJump {cite:p}`chen2020hopskipjump` bounds from above with labels alone.
#
# **Difficulty.** A record may be easy for any model. With shadow models that never saw it (OUT), calibration subtracts
# what they say {cite:p}`watson2022calibration`, and *Attack R* counts them {cite:p}`ye2022enhanced`:
#
# $$ s = \tfrac1m \textstyle\sum_j \ell(g_j) - \ell(f), \qquad s = \tfrac1m\, \#\{ j : \ell(g_j) \ge \ell(f) \} . $$
#
# *Attack P* compares with other records of the same model instead, and quantile regression
# {cite:p}`bertran2023quantile` with what the record's features lead to expect; both know some non-members of the target and
# need no shadow model. How far difficulty alone misleads an attack is the subject of {cite:t}`rezaei2021difficulty`.
#
# **Likelihood ratios.** LiRA {cite:p}`carlini2022lira` fits a Gaussian to $\varphi = \log \frac{f(x)_y}{1 - f(x)_y}$ over shadow
# models trained with the record (IN) and one over those without:
#
# $$ s = \log \mathcal N(\varphi(f); \mu_\text{in}, \sigma_\text{in}^2) - \log \mathcal N(\varphi(f); \mu_\text{out},
# \sigma_\text{out}^2) . $$
#
# RMIA {cite:p}`zarifzadeh2024rmia` compares the record with every other record $z$ of a population, where $p$ is the mean
# probability over shadow models:
#
# $$ s = \Pr_z \left[ \frac{f(x)_y / p(x)}{f(z)_{y_z} / p(z)} \ge \gamma \right] . $$
#
# Both can do with OUT models alone ("offline"). *Ranking* is LiRA on the rank of the label.
#
# **Learned.** A classifier sees answers to members and non-members. {cite:t}`shokri2017membership` train one for each class on
# the answers of shadow models, {cite:t}`salem2019mlleaks` a single one on sorted probabilities;
# {cite:t}`nasr2018machine` train it on a known half of the target's own records.
#
# **More than answers.** With the weights at hand, the norm $\lVert \nabla_\theta\, \ell \rVert_2$ of a record's gradient is
# small where training has been {cite:p}`nasr2019comprehensive`; a classifier may see it layer by layer.
#
# **Sets of records.** Where several records are known to be members together or not at all, such as those of one
# person, their scores add up {cite:p}`liu2019comembership`. That is an easier question than one about a single record,
# and values on it stand apart.
#
# ## The models

# %%
games = {
    name: mia.play(s.pool, n_models=n_models, seed=seed, **s.options())
    for name, s in settings.items()
}
auditing.accuracy(games).rename_axis(columns="data")

# %% [markdown]
# Nothing leaks where members and test records are answered alike: the gap between the two accuracies is where to look
# first. The simplest attack, *correctness*, has it for its advantage; the others ask what more there is.
#
# ## How much they find
#
# All attacks on all targets, pooled. Which attacks a game does not allow, and why, is listed at the end of the page.

# %%
tables = {
    name: auditing.audit_each(
        {name: game},
        pool=settings[name].pool,
        fprs=fprs,
    )
    for name, game in games.items()
}

# %% [markdown]
# ### The strongest by what the attacker sees
#
# By its AUC, for attackers who get labels only, scores, or the model itself. Who gets scores has labels as well, and who has the model
# has both, so each of them may run the attacks of those before. The best of many, chosen by its result, looks
# better than it is: the interval is that of the greatest of so many estimates ([how](many-claims)).

# %% tags=["hide-input"]
pd.concat([table.strongest("auc") for table in tables.values()], axis=1).fillna("-")

# %% [markdown]
# By its true-positive rate at the first false-positive rate of the parameters, pooled, and calibrated record by record:

# %% tags=["hide-input"]
pd.concat(
    {
        how: pd.concat(
            [table.strongest(f"{kind}@{fprs[0]:g}") for table in tables.values()],
            axis=1,
        )
        for how, kind in (("pooled", "tpr"), ("calibrated", "calibrated_tpr"))
    }
).fillna("-")

# %% [markdown]
# ### What it means for those who are accused
#
# Of 1,000 records that an attack accuses at that rate, how many are members? It depends on how many of those who are asked about
# are members at all: one half in the game, one in ten or in a hundred elsewhere ([why](precision-needs-a-prior)).

# %% tags=["hide-input"]
shown = ["loss", "lira", "lira_pooled", "rmia", "label_only"]
for name, table in tables.items():
    page = table.consequences(f"tpr@{fprs[0]:g}").droplevel("defense")
    display(page.loc[page.index.intersection(shown)].rename_axis(columns=title(name)))

# %% [markdown]
# ### ROC curves by family
#
# One attack of each kind; the number is its AUC, the gray line in every panel the loss threshold, and the bands are
# 95 % intervals. Attacks that are evaluated on fewer records start further right. What to look at: at the left edge,
# how far a family lies above the gray line; and whether curves cross, since then the AUC prefers one attack and a careful
# attacker the other.

# %% mystnb={"image": {"alt": "Log-log ROC curves, a panel for each family of attacks, the loss threshold in gray in each."}} tags=["hide-input"]
for name, game in games.items():
    mia.plots.roc_by_family(
        game,
        pool=settings[name].pool,
        label=title(name),
    )
    plt.show()

# %% [markdown]
# ### All values
#
# Pooled over targets, with 95 % intervals over targets and records. *Balanced accuracy* is that of the attacker's own
# threshold; where it stays far behind what the AUC promises, the threshold is off. Rates that allow fewer than ten false
# alarms are not resolvable.

# %% tags=["hide-input", "scroll-output"]
metrics = [
    "auc",
    "balanced_accuracy",
    *(f"{kind}@{rate:g}" for rate in fprs for kind in ("tpr", "calibrated_tpr")),
]
for table in tables.values():
    display(table.summary(metrics))

# %% [markdown]
# ## Do they find the same members?
#
# At a false-positive rate of {glue:text}`attacks_fpr`, each attack catches some (target, member) pairs. The figure shows, for
# each two attacks, how many of the pairs that either catches are caught by both. A dark cell says that two
# attacks are one attack in two guises; light cells that neither can stand for the other, and that an audit should run
# both. Two attacks that catch a fraction $t$ of the members *independently* fraction $t / (2 - t)$ of them: next to nothing for a
# small $t$.

# %%
shared = {
    name: chapters.attacks.agreement(game, fpr=fpr, pool=settings[name].pool)
    for name, game in games.items()
}

# %% mystnb={"image": {"alt": "Heat map of the fraction of members that two attacks have in common, for each pair of attacks."}} tags=["hide-input"]
for name, table in shared.items():
    mia.plots.agreement(table, label=title(name))
    plt.show()

# %% [markdown]
# What each attack catches, and what it catches alone, as fractions of the members (the latter of those that all attacks are
# evaluated on). An attack with a large second column knows something that the others miss.

# %% tags=["hide-input"]
for name, table in shared.items():
    shown = (
        table[["caught", "alone"]]
        .map("{:.2%}".format)
        .replace("nan%", "not resolvable")
    )
    display(shown.rename_axis(index=None, columns=name))

# %% [markdown]
# ## How many shadow models?
#
# Games of their own, with as many models as the last point of the curves needs and no changed copies of the records. The
# same targets throughout: the models are dealt into blocks, and each is attacked within its block. What to look at: which
# curves still rise at the right end, so that more shadow models would find more; which attack is best when there are
# few; and where a shared variance, or a mean instead of a Gaussian, pays. The loss, in gray, needs none.

# %%
curves = {
    name: chapters.attacks.against_shadows(
        mia.play(
            settings[name].pool,
            settings[name].model,
            training=settings[name].training,
            n_models=max(shadows) + 2,
            seed=seed,
        ),
        shadows=shadows,
        fprs=[fpr],
        pool=settings[name].pool,
    )
    for name in curves_of or settings
}

# %% mystnb={"image": {"alt": "AUC and true-positive rate of the attacks against the number of shadow models, on a logarithmic axis."}} tags=["hide-input"]
for name, table in curves.items():
    mia.plots.against_shadows(table, label=title(name))
    plt.show()

# %% [markdown]
# ## Three definitions of offline LiRA
#
# Without IN models, only $\mathcal N(\mu_\text{out}, \sigma_\text{out}^2)$ is known, and the field has computed three
# different scores from it under one name:
#
# | score | formula | where | name here |
# | --- | --- | --- | --- |
# | z-score | $(\varphi - \mu_\text{out}) / \sigma_\text{out}$ | the paper's one-sided test {cite:p}`carlini2022lira`, in the same order | `lira_offline`, the default |
# | density | $-\log \mathcal N(\varphi; \mu_\text{out}, \sigma_\text{out}^2)$ | the code published with the paper | `lira_offline_density` |
# | density, pooled | the same, with one $\sigma_\text{out}$ for all records | other code | `lira_offline_density_pooled` |
#
# A density is low on *both* sides: an answer that is surprisingly unsure counts as a sign of membership, too. So tables of
# different papers may not compare the same attack. Measured here, with the pooled z-score to complete the square:

# %% tags=["hide-input"]
offline = [
    "lira_offline",
    "lira_offline_pooled",
    "lira_offline_density",
    "lira_offline_density_pooled",
]
for table in tables.values():
    display(table.summary(metrics, attacks=offline))

# %% [markdown]
# ## Learned attacks beside the threshold they must beat
#
# A classifier that was trained on answers can miss what a threshold on the loss finds. A defense that withstands the
# classifier alone has shown little {cite:p}`song2021systematic`.

# %% tags=["hide-input"]
learned = [
    name
    for family in ("learned from shadow models", "known half of the target's records")
    for name in auditing.families(needs.index).get(family, [])
]
for table in tables.values():
    there = [name for name in ["loss", *learned] if name in set(table["attack"])]
    display(table.summary(metrics, attacks=there))

# %% [markdown]
# ## When the attacker's data differ
#
# So far the shadow models were made as the target was, of the same records. Here they are not. The targets are the same
# in all columns, trained on halves of one half of the pool, and the shadow models are separate ones:
#
# * *same data*: made as the targets are;
# * *fewer members*: trained on half as many of the same records;
# * *disjoint records*: trained on the other half of the pool, so that no shadow model saw any record in question, and attacks
#   that need IN models for each record drop out;
# * *another network*: other layers.
#
# What to look at: how much of an attack's lead over the loss threshold is left in the columns to the right.

# %%
shifts = {
    name: chapters.attacks.shifted(
        s.pool,
        other_model=s.other_model,
        n_targets=shift_targets,
        n_shadows=shift_shadows,
        seed=seed,
        **s.options(),
    )
    for name, s in settings.items()
}
shift_tables = {
    name: auditing.audit_each(
        played,
        auditing.needing_shadows(played["same data"], pool=settings[name].pool),
        pool=settings[name].pool,
        fprs=[fpr],
    )
    for name, played in shifts.items()
}

# %% mystnb={"image": {"alt": "Heat map of the AUC: attacks in rows, kinds of shadow models in columns."}} tags=["hide-input"]
for name, table in shift_tables.items():
    mia.plots.matrix(table, "auc", label=title(name))
    plt.show()

# %% tags=["hide-input"]
for table in shift_tables.values():
    display(table.summary("auc"))

# %% [markdown]
# ## What is missing
#
# Attacks that did not run, and why. An empty table says that all of them did.

# %% tags=["hide-input"]
pd.concat(
    [table.missing() for table in (*tables.values(), *shift_tables.values())]
).set_index("attack").rename_axis(index=None, columns="attack")
