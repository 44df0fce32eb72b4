# %% [markdown]
# # Membership inference as a game
#
# A model was trained on some records and not on others. Somebody who holds a record and can query the model wants to
# know: was this one in the training data? Every number in this study is the outcome of that game, played many times
# under fixed rules. This chapter states the rules, the measures and their limits, and shows how to read the one
# figure that appears in every other chapter, the ROC curve on logarithmic axes.

# %% tags=["parameters"]
dataset = "clusters"  # a name from mialab.datasets(), or an .npz file
size = 2000  # records in the pool; None for the data set's default
n_models = 32  # even, at least 8
hidden = [128]  # widths of the network's hidden layers
epochs = 40
seed = 0

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from myst_nb import glue
from scipy import stats

import mialab as mia
from mialab.book import reference_runs
from mialab.training.membership import membership

mia.plots.style()

# %% [markdown]
# ## The rules
#
# The game follows {cite:t}`yeom2018privacy` and {cite:t}`carlini2022lira`. There is a *pool* of $n$ labeled records
# $(x_1, y_1), \dots, (x_n, y_n)$, a training procedure $\mathcal T$, which includes the defense if there is one, and
# an attacker.
#
# 1. The challenger draws a random half $S$ of the pool and trains the *target model* $f \sim \mathcal T(S)$. Records
#    in $S$ are its *members*, the other half its *non-members*.
# 2. The attacker gets every record of the pool with its label, and may put queries to $f$.
# 3. The attacker gives every record a *score* $s_i$, higher for "member", and a decision $\hat b_i \in \{0, 1\}$ at a
#    threshold that was chosen without knowing the answers.
# 4. The challenger reveals the membership bits $b_i = [i \in S]$, and scores and decisions are compared with them.
#
# Members and non-members come from the same pool by a fair draw, so nothing but the training tells them apart: not
# when they were collected, not how they were preprocessed. And half of the records are members, so a coin is right
# half of the time.
#
# ## Who is a member of which model
#
# One target model is one sample. The study therefore trains $K$ models and lets *each of them play the target in
# turn*, while the others serve as *shadow models*, the attacker's own models whose training data the attacker knows
# {cite:p}`shokri2017membership`. $K$ trainings give $K$ targets, each with its shadow models, for every attack at
# once.
#
# Who trains on what is a matrix of bits, $M_{ki} = 1$ if record $i$ is a member of model $k$. It is drawn before any
# training, in pairs: model $2j$ gets a random half of the pool, and model $2j + 1$, its *partner*, gets the other
# half. So
#
# * every row holds $n/2$ ones: all models train on equally many records;
# * every column holds $K/2$ ones: for every record there are as many models that saw it as models that did not;
# * different pairs are independent.

# %%
pool = mia.load(dataset, size=size, seed=seed)
game = mia.play(
    pool,
    model=mia.models.MLP(hidden=hidden, activation="relu"),
    training=mia.Training(epochs=epochs),
    n_models=n_models,
    seed=seed,
)
game

# %% mystnb={"figure": {"caption": "The membership matrix: the first eight models and forty records. Dark cells are members. Two neighboring rows between the lines are a pair; each is the other's complement.", "name": "fig-membership"}, "image": {"alt": "A grid of dark and light cells, eight rows by forty columns. Rows one and two, three and four, and so on, are complements of each other."}} tags=["hide-input"]
figure, axes = plt.subplots(figsize=(8, 2.2), layout="constrained")
axes.imshow(game.member[:8, :40], cmap="Greys", vmin=-0.15, vmax=1.4, aspect="auto")
axes.hlines(np.arange(1.5, 7, 2), -0.5, 39.5, color="tab:red", linewidth=1.5)
axes.set(xlabel="Record", ylabel="Model", yticks=range(8))
axes.grid(False)
plt.show()

# %% [markdown]
# ### Why the partner is no shadow model
#
# The natural choice of shadow models, "all but the target", is wrong in a balanced matrix. Column $i$ holds exactly
# $K/2$ ones. Take the target $k$ away, and the number of shadow models that were trained on record $i$ is
#
# $$
# \sum_{l \ne k} M_{li} = \frac K2 - M_{ki} =
# \begin{cases}
#   K/2 - 1 & \text{if } i \text{ is a member of the target,}\\
#   K/2     & \text{if it is not.}
# \end{cases}
# $$
#
# Counting gives the answer away without a single look at the target. No real attacker has such a count, and an attack
# that learns from shadow models uses it without intending to. LiRA {cite:p}`carlini2022lira`, for one, estimates the
# mean of a statistic $\varphi$ over the $m$ shadow models on each side. If the target's own $\varphi$ comes from the
# same distribution with variance $\sigma^2$, its squared distance from the estimate is
# $\sigma^2 (1 + 1/m)$ on average: larger on the side with fewer shadow models, which is the side where the target
# belongs. The attack is pulled toward the wrong answer.
#
# Leaving the partner out as well mends it. Of the remaining $K - 2$ models exactly $K/2 - 1$ were trained on each
# record and $K/2 - 1$ were not, and, pairs being independent, nothing about them depends on the target's members.
#
# The effect is easily shown where there is nothing to find. Below, the "answers" are random numbers that know of no
# membership, so that an honest evaluation must give an AUC of 0.5.


# %% tags=["hide-input"]
def nothing_to_find(k, n=4000, n_classes=10):
    """Make a game in which all answers are noise."""
    rng = np.random.default_rng([seed, k])
    logits, y = rng.normal(size=(k, n, n_classes)), rng.integers(n_classes, size=n)
    return mia.Game.from_arrays(
        logits=logits,
        member=membership(k, n, seed),
        y=y,
        partner=np.arange(k) ^ 1,
        name="noise",
    )


rows = []
for k in (8, 12, 16, 32):
    for shadow_models in ("all but the target", "all but the target and its partner"):
        noise = nothing_to_find(k)
        played = (
            noise.plain_leave_one_out()
            if shadow_models == "all but the target"
            else noise
        )
        score = played.outcome("lira").score
        cells = mia.metrics.Cells(score, noise.member, partner=noise.partner)
        interval = cells.estimate("auc").interval()
        rows.append((k, shadow_models, *interval))
null = pd.DataFrame(rows, columns=["models", "shadow models", "auc", "low", "high"])

# %% mystnb={"figure": {"caption": "LiRA on answers that are pure noise, with 95 % intervals. With all other models as shadow models it is systematically wrong; without the partner the AUC is what it must be, 0.5.", "name": "fig-null"}, "image": {"alt": "AUC of LiRA against the number of models. With all models but the target as shadow models the AUC lies below one half, most of all for few models; without the partner the intervals hold one half."}} tags=["hide-input"]
figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
for (name, part), shift, fmt in zip(
    null.groupby("shadow models", sort=False), (-0.06, 0.06), "so", strict=True
):
    axes.errorbar(
        np.arange(len(part)) + shift,
        part["auc"],
        yerr=[part["auc"] - part["low"], part["high"] - part["auc"]],
        fmt=fmt,
        capsize=3,
        label=name,
        color="tab:red" if fmt == "s" else "tab:blue",
    )
axes.axhline(0.5, color="0.6", linestyle="--", linewidth=1)
axes.set(xlabel="Number of models", ylabel="AUC of LiRA on noise")
axes.set_xticks(range(null["models"].nunique()), null["models"].unique())
axes.legend(title="Shadow models", loc="lower right")
plt.show()

# %% [markdown]
# The two targets of a pair are not two independent experiments: what is a member of one is a non-member of the other.
# Intervals over targets below are therefore computed over pairs.
#
# ## What the attacker knows
#
# "The attack fails" means little without saying what the attacker was allowed. These are the levels the study tells
# apart; the rightmost column holds unless a chapter says otherwise.
#
# | | weaker | stronger | in this study |
# | --- | --- | --- | --- |
# | the record | – | features and label | always known |
# | an answer | the predicted label only {cite:p}`choquette2021labelonly`; the ranking of the classes | the logits | the logits, and the weaker levels for comparison |
# | queries | the record itself | also changed copies of it | the record itself; copies for the attacks that need them |
# | shadow models | none; or trained without the record ("offline") | trained with and without it ("online") | online: half of them with each record |
# | training procedure | undefended shadow models | shadow models trained with the same defense ("adaptive") | adaptive |
# | threshold | from the shadow models | from a half of the target's own records whose membership the attacker knows; that half is then not scored | from the shadow models; a likelihood ratio has its own, 1 |
# | weights, gradients, training log | – | – | never known: the model answers queries, no more |
#
# A defense is measured by the strongest row it must face: an attacker who knows of the defense and prepares for it.
# Evaluations with weak or unadapted attackers have made defenses look far better than they are
# {cite:p}`aerni2024misleading`. Each attack states what it needs;
# `mia.attacks.available()` lists them all. The three of this chapter:

# %%
attacks = ["loss", "lira", "correctness"]
mia.attacks.available().loc[attacks]

# %% [markdown]
# ## The measures
#
# A threshold $\tau$ turns scores into decisions, with the rates
#
# $$
# \mathrm{TPR}(\tau) = \Pr[s \ge \tau \mid \text{member}], \qquad
# \mathrm{FPR}(\tau) = \Pr[s \ge \tau \mid \text{non-member}],
# $$
#
# $\mathrm{FNR} = 1 - \mathrm{TPR}$ and $\mathrm{TNR} = 1 - \mathrm{FPR}$. All rates are fractions and follow the *step
# rule*: only rates that an actual threshold reaches, nothing interpolated, equal scores together.
#
# **TPR at a low FPR**, $\max \{\mathrm{TPR}(\tau) : \mathrm{FPR}(\tau) \le \alpha\}$ with $\alpha$ = 0.1 %: the fraction of
# members who can be named with hardly anybody named in error. A privacy breach is a confident true statement about
# *somebody*, so this is the measure to look at first {cite:p}`carlini2022lira`.
#
# **TNR at a low FNR**, the same with roles exchanged: the fraction of non-members who can be ruled out while hardly any
# member is. To know for sure that somebody is *not* in a data set can be harmful, too. {cite:t}`chen2024hamp` report
# both.
#
# **AUC**, the chance that a random member scores above a random non-member, ties counting half. It weighs all
# thresholds alike, so it is an average case: a thousand members out of a million, exposed beyond doubt, raise it from
# 0.5 to 0.5005.
#
# **Balanced accuracy**, $(\mathrm{TPR} + \mathrm{TNR})/2$ of the attacker's decisions at the attacker's own threshold.
# It is the *membership advantage* of {cite:t}`yeom2018privacy` in other units:
# $\mathrm{TPR} - \mathrm{FPR} = 2 \cdot \text{balanced accuracy} - 1$. AUC and the rates grant the attacker the best
# threshold in hindsight; this one does not.
#
# **Precision**, the fraction of true statements among the statements "is a member". It depends on how many members there
# are to begin with, see [below](#precision-needs-a-prior).
#
# *loss* scores a record by minus its cross-entropy loss, with the same
# threshold for all records {cite:p}`yeom2018privacy`. *lira* compares the target's answer with those of the shadow
# models that were, and that were not, trained on this very record {cite:p}`carlini2022lira`. *correctness* says
# "member" if the predicted label is right: the gap attack {cite:p}`yeom2018privacy`, which any model with a
# generalization gap suffers.

# %%
rates = [0.001, 0.01, 0.1]
table = mia.audit(game, attacks, fprs=rates, fnrs=[0.001])
table.summary().T.rename_axis(None)

# %% tags=["hide-input"]
glue("game_train_accuracy", float(game.train_accuracy.mean()), display=False)
glue("game_test_accuracy", float(game.test_accuracy.mean()), display=False)
glue("game_models", game.n_models, display=False)
glue("game_half", game.n_records // 2, display=False)

# %% [markdown]
# The {glue:text}`game_models` networks behind these numbers label their members with an accuracy of
# {glue:text}`game_train_accuracy:.3f` and test records with {glue:text}`game_test_accuracy:.3f`. They are undefended
# and overfitted on purpose, so that there is something to see.
#
# ## Reading a ROC curve on logarithmic axes

# %% mystnb={"figure": {"caption": "The same three attacks on linear axes (left) and on logarithmic axes (right). Bands are 95 % intervals, pointwise, over new models and new records.", "name": "fig-roc"}, "image": {"alt": "Two ROC plots of the attacks loss, lira and correctness. On linear axes the curves of loss and lira both rise well above the diagonal; on logarithmic axes loss comes close to the diagonal at low false-positive rates while lira stays far above it, and correctness drops to the floor."}} tags=["hide-input"]
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.6), layout="constrained")
mia.plots.roc(game, attacks, ax=right)
lines = [
    line
    for name in attacks
    for line in right.get_lines()
    if str(line.get_label()).startswith(name)
]
for name, line, dash in zip(attacks, lines, ("-", "--", ":"), strict=True):
    fpr, tpr, _ = mia.metrics.roc(game.outcome(name).score.ravel(), game.member.ravel())
    left.plot(fpr, tpr, color=line.get_color(), linestyle=dash, drawstyle="steps-post")
left.plot([0, 1], [0, 1], color="0.6", linewidth=1)
left.set(
    xlabel="False-positive rate",
    ylabel="True-positive rate",
    xlim=(0, 1),
    ylim=(0, 1.02),
)
plt.show()

# %% [markdown]
# On linear axes the interesting part, the left edge, is a pixel wide. Logarithmic axes spread it out. How to read
# them:
#
# * **The gray diagonal is chance**, $\mathrm{TPR} = \mathrm{FPR}$. It is straight here, too.
# * **The height above the diagonal is a factor.** One decade above it means $\mathrm{TPR} = 10 \cdot \mathrm{FPR}$: the
#   statement "member" is then ten times as likely about a member as about a non-member, and multiplies the odds of
#   membership by ten.
# * **Compare curves at the left edge first.** There the attacker is almost never wrong. Two attacks with similar AUC can
#   differ by orders of magnitude there, and curves may cross: an attack that is good on average need not be good at
#   being sure.
# * **A curve that falls to the floor** belongs to an attack that cannot be careful. *correctness* knows two scores only;
#   its false-positive rate is the fraction of non-members that are labeled correctly, and below that rate it can name
#   nobody.
# * **The right edge is squeezed.** What happens there, non-members ruled out while hardly a member is, is the TNR at a low
#   FNR in the table. *correctness* can be good at that: a model that fits its members perfectly cannot have seen what it gets wrong.
# * **A guarantee is a line.** If training is $\varepsilon$-differentially private with respect to the replacement of one
#   record, then $\mathrm{TPR} \le e^{\varepsilon}\, \mathrm{FPR}$ for every attack {cite:p}`kairouz2015composition`: a
#   parallel to the diagonal, $\varepsilon / \ln 10 \approx 0.43\,\varepsilon$ decades above it. A curve that lies above it by
#   more than chance refutes the guarantee.
# * **The hatched area is out of sight**: rates that allow fewer than ten false alarms; see the next section.
#
# ## How sure one can be
#
# ### Rates that cannot be resolved
#
# With $N$ non-members, an FPR of $\alpha$ allows $\alpha N$ false alarms. If that is less than one, the "TPR at
# $\alpha$" is the fraction of members above the single highest non-member; a different draw of one record changes it
# completely. The study reports a rate only if at least ten errors are allowed, and writes *not resolvable* otherwise.
# One target of this game has {glue:text}`game_half` non-members; all targets pooled have
# {glue:text}`game_models` times as many.

# %% tags=["hide-input"]
counts = {
    "one target": game.n_records // 2,
    "all targets pooled": game.n_models * game.n_records // 2,
}
pd.DataFrame(
    {
        f"FPR {rate:g}": [
            f"{n * rate:g} allowed"
            + ("" if mia.metrics.resolvable(n, rate) else ": not resolvable")
            for n in counts.values()
        ]
        for rate in rates
    },
    index=pd.Index(counts, name="non-members of"),
)

# %% [markdown]
# ### How wide an interval must be
#
# A TPR over all $K n$ (target, record) pairs has many points behind it, but they are no independent draws: a record that is an
# outlier is found in most models that trained on it, and a model that overfits more gives all of its members away. So every
# interval in this book is **two-way**. Each pair has an *influence* on the number, which says how much it would move if the
# pair counted a little more; the pair's influences are summed over records, over targets, and not at all, and the three sums
# of squares tell how much of the variance comes from targets, $V_t$, from records, $V_r$, and from single pairs, $V_p$:
#
# $$
# V = \max(V_t - V_p,\, 0) + \max(V_r,\, V_p) .
# $$
#
# The interval speaks about *new models trained on new records*. To draw targets and records again and again, the pigeonhole
# bootstrap of {cite:t}`owen2007pigeonhole`, would count $V_p$ three times {cite:p}`mccullagh2000resampling`; with intervals
# that much too wide, differences that are there stay "not settled" ({numref}`fig-wide`). Where an attacker picks a threshold,
# what that choice adds is in the interval as well. $V_t / V_p$ stands in the attributes of every audit: about 1 if models differ
# by chance only, 5 and more if whole models do. A difference of two games uses the difference of the influences, so that what
# both games have in common cancels. With fewer than eight pairs of models no verdict is given, because $V_t$ is hardly known.
#
# For a single target only its records vary, and the interval speaks about this model and other records of the same source.

# %% tags=["hide-input"]
pooled = table.query(
    "attack == 'lira' and target == 'pooled' and metric == 'tpr@0.01'"
).iloc[0]
each = table.query(
    "attack == 'lira' and target not in ['pooled', 'mean'] and metric == 'tpr@0.01'"
)
naive = mia.metrics.clopper_pearson(
    round(np.nan_to_num(pooled.value) * pooled.n_member), pooled.n_member
)
pd.DataFrame(
    [
        ("as if all pairs were independent, and the threshold fixed", *naive),
        ("two-way", pooled.low, pooled.high),
    ],
    columns=["95 % interval of the pooled TPR at 1 % FPR (lira)", "low", "high"],
).assign(width=lambda t: t["high"] - t["low"]).set_index(
    "95 % interval of the pooled TPR at 1 % FPR (lira)"
).round(4)

# %% mystnb={"figure": {"caption": "Left: the chance that a true difference is settled, for differences of 2 to 4 standard errors, if intervals are wider than they need be. Right: TPR of LiRA at 1 % FPR for each target with its interval over records, in the order of the TPR; the band is the pooled value with its two-way interval. Targets without a point are not resolvable.", "name": "fig-wide"}, "image": {"alt": "Left, three falling curves: a difference of three standard errors is settled in 85 percent of the cases with intervals of the right width and in less than half with intervals half as wide again. Right, one point with an error bar for each target model, rising from left to right, and a horizontal band for the pooled interval."}} tags=["hide-input"]
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
width = np.linspace(1, np.sqrt(3), 50)
for size, style in ((4, ":"), (3, "-"), (2, "--")):
    settled = stats.norm.sf(stats.norm.isf(0.025) * width - size)
    left.plot(width, settled, style, color="black")
    below = {"ha": "right", "va": "top", "fontsize": "small"}
    left.text(width[-1], settled[-1] - 0.02, f"{size} standard errors", **below)
left.set(
    xlabel="Width of the interval / right width",
    ylabel="Chance to settle the difference",
    ylim=(0, 1.02),
)
ordered = each.sort_values("value").reset_index(drop=True)
right.axhspan(
    pooled.low, pooled.high, color="tab:blue", alpha=0.2, label="pooled, two-way"
)
right.axhline(pooled.value, color="tab:blue", linewidth=1)
right.errorbar(
    ordered.index,
    ordered["value"],
    yerr=[ordered["value"] - ordered["low"], ordered["high"] - ordered["value"]],
    fmt="o",
    color="black",
    markersize=4,
    label="one target",
)
right.set(xlabel="Targets, in the order of their TPR", ylabel="TPR at 1 % FPR")
right.legend(loc="upper left")
plt.show()

# %% [markdown]
# The intervals were held against 400 simulated games in each of five cases (`benchmarks/coverage.py`): no signal (a), a uniform
# effect (aa), a few very exposed records (b), and the last two with whole models that leak more or less than others (c, d). How
# often nominal 95 % intervals hold the truth, with 16 models and 1,000 records:

# %% tags=["hide-input"]
simulated = pd.read_csv(reference_runs.FOLDER / "coverage.csv")
simulated = simulated[(simulated["models"] == 16) & (simulated["records"] == 1000)]
simulated = simulated[simulated["of"].isin(["one game", "two games alike"])]
simulated.pivot(index=["of", "metric"], columns="case", values="coverage").loc[
    (slice(None), ["auc", "tpr@0.01", "balanced_accuracy", "recall", "precision"]), :
].round(3).rename_axis(index=["", ""], columns=None)

# %% [markdown]
# ### Who the false alarms are
#
# A pooled FPR of 1 % does not mean that every record is falsely accused in 1 % of the models. Records whose loss is low in all
# models, trained on them or not, get most of the false alarms of the loss attack, and records with a high loss could never be
# accused. The pooled TPR is an average over both. So the tables also have a **calibrated** TPR: each score (as a quantile of the
# normal distribution with the same rank, so that its scale does not matter) is replaced by its place among the models that
# were *not* trained on the record, in units of their standard deviation, with the sign of
# $\mathrm{mean}_{in} - \mathrm{mean}_{out}$; then all records have nearly the same FPR {cite:p}`jaelkoe2026calibration`. It needs
# shadow models. For the loss attack it is a stronger attack; of LiRA and RMIA, whose false alarms are spread evenly already, the
# calibration throws away what their likelihood ratios know about members. A ROC curve *of a single record* over targets is
# never shown: shadow models are shared, which biases it downward.

# %% mystnb={"figure": {"caption": "Left: the fraction of all false alarms at a pooled FPR of 1 % that falls on the records with the most of them; if all records were alike the curve would follow the gray band. Right: true-positive rates at 1 % FPR, pooled and calibrated, with 95 % intervals.", "name": "fig-calibrated"}, "image": {"alt": "Left, curves of cumulated false alarms over records: that of the loss attack rises steeply, those of LiRA and of calibrated scores stay near the gray band. Right, a dot and an interval for each attack, pooled and calibrated."}} tags=["hide-input"]
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
share = np.arange(1, game.n_records + 1) / game.n_records
shown = {"loss": "tab:orange", "lira": "tab:blue"}
for name, color in shown.items():
    cells = game.outcome(name).cells
    for one, style in ((cells, "-"), (cells.calibrated, "--")):
        accused = one.score >= one.curve.at(0.01).threshold
        alarms = (accused & one.evaluated & ~game.member).sum(0)
        label = f"{name}, calibrated" if one is not cells else name
        left.plot(
            share,
            np.sort(alarms)[::-1].cumsum() / alarms.sum(),
            style,
            color=color,
            label=label,
        )
even = np.random.default_rng(seed).multinomial(
    int(alarms.sum()), np.full(game.n_records, 1 / game.n_records), 200
)
even = np.sort(even, axis=1)[:, ::-1].cumsum(axis=1) / alarms.sum()
left.fill_between(
    share, *np.quantile(even, [0.025, 0.975], axis=0), color="0.8", label="all alike"
)
left.set(
    xlabel="Fraction of records, most accused first",
    ylabel="Fraction of the false alarms",
    xlim=(0, 0.3),
    ylim=(0, 1.02),
)
left.legend()
rows = [
    (f"{name}, {how}", *table.interval(name, metric), color)
    for name, color in shown.items()
    for how, metric in (("pooled", "tpr@0.01"), ("calibrated", "calibrated_tpr@0.01"))
]
for y, (_, value, low, high, color) in enumerate(rows[::-1]):
    right.errorbar(value, y, xerr=[[value - low], [high - value]], fmt="o", color=color)
right.axvline(0.01, color="0.6", linewidth=1)
right.set_yticks(range(len(rows)), [row[0] for row in rows[::-1]])
right.set(xlabel="TPR at 1 % FPR", xlim=(0, None), ylim=(-0.5, len(rows) - 0.5))
plt.show()

# %% [markdown]
# ### What the attacker knows of the pool
#
# Half of a finite pool are members. If one record is not a member, the others are members a little more often: memberships tell
# on each other. For an attacker who knows the pool, the outputs of shadow models therefore vary less than those of models
# trained on $m$ records of an endless population, by $\sqrt{1 - m/N}$ with $N$ records in the pool, and members and non-members are
# separated $1/\sqrt{1 - m/N}$ times as well: 1.41 times for the usual half ({numref}`fig-pool`). Efficient games such as this
# one, LiRA's among them, all state figures that are conditional on an attacker who knows the pool. It is the same for every
# defense, so that comparisons stand.

# %% mystnb={"figure": {"caption": "How much better members and non-members are separated if m members are drawn from a pool of N known records instead of an endless population: the standard deviation of a sum over m members, in 4,000 draws (points), and the formula (line).", "name": "fig-pool"}, "image": {"alt": "A rising curve from 1 at small fractions to 1.41 at one half and above 3 near 0.9, with points that lie on it."}} tags=["hide-input"]
rng, size = np.random.default_rng(seed), 200
contribution = rng.standard_normal(size)
fractions = np.array([0.05, 0.1, 0.25, 0.5, 0.75, 0.9])
order = rng.permuted(np.tile(np.arange(size), (4000, 1)), axis=1)
spread = [contribution[order[:, : int(f * size)]].sum(1).std() for f in fractions]
endless = contribution.std() * np.sqrt(fractions * size)
figure, axes = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
grid = np.linspace(0, 0.92, 100)
axes.plot(grid, 1 / np.sqrt(1 - grid), color="black", label=r"$1/\sqrt{1 - m/N}$")
axes.plot(fractions, endless / spread, "o", color="tab:blue", label="simulated")
axes.axvline(0.5, color="0.6", linewidth=1, linestyle="--")
axes.set(
    xlabel="Members as a fraction of the pool, m / N", ylabel="Separation, relative"
)
axes.legend()
plt.show()

# %% [markdown]
# ### From an attack to an epsilon
#
# An attack that guesses better than differential privacy allows refutes an $\varepsilon$. From one training alone: members are
# matched with non-members at random, so that which of the two is the member is a fair coin, and the attack guesses for the pairs
# of which it is surest {cite:p}`steinke2023onerun`; if training were a Gaussian mechanism, the tighter count of
# {cite:t}`mahloujifar2025fdp` would hold. The bounds below hold with 95 % confidence, for *replacing* a record, for the best of
# all targets (so that each is tested at 5 % divided by their number). The training here has no noise: its true $\varepsilon$ is
# infinite, and what is bounded is what these attacks can show.

# %% tags=["hide-input"]
rows = {}
for name in ("loss", "lira"):
    for method, delta in (("one_run", 0.0), ("one_run_gdp", 1e-5)):
        bound = mia.auditing.epsilon_bound(
            game, name, target="best", method=method, delta=delta
        )
        rows[name, method.replace("_", " ")] = {
            "epsilon at least": f"{bound.epsilon:.2f}",
            "delta": f"{bound.delta:g}",
            "right guesses": f"{bound.right} of {bound.guesses}",
        }
pd.DataFrame.from_dict(rows, orient="index").rename_axis(["attack", "method"])

# %% [markdown]
# (many-claims)=
# ### Many attacks, many claims
#
# Intervals are about chance. None covers the choice of the data set, of the network or of the attack. The best of many attacks,
# picked by looking at the result, looks better than it is; where this book names the strongest one, its interval is that of the
# *greatest of so many* estimates, drawn jointly. And with twenty claims in a chapter one would "hold" by chance: p-values are
# adjusted for their number {cite:p}`holm1979`, and the tables of verdicts show both. Before any number is looked at, a verdict's
# **conditions** are checked: no dead model and a training that has ended (where nothing shows it, the verdict says so); for "better than", test accuracies within half a point;
# at least eight pairs of models. What fails them is *not comparable*, and the table says why. A difference that lies within
# a stated margin is *negligible*, whatever its p-value.
#
# (precision-needs-a-prior)=
# ## Precision needs a prior
#
# In the game half of the records are members. Outside, the attacker may face a list of a million people of whom a
# thousand are in the training data. By Bayes' rule, with a fraction $\pi$ of members,
#
# $$
# \text{precision} = \frac{\pi\,\mathrm{TPR}}{\pi\,\mathrm{TPR} + (1 - \pi)\,\mathrm{FPR}},
# \qquad\text{or}\qquad
# \underbrace{\frac{\text{precision}}{1 - \text{precision}}}_{\text{odds afterward}}
#   = \frac{\mathrm{TPR}}{\mathrm{FPR}} \cdot \underbrace{\frac{\pi}{1 - \pi}}_{\text{odds before}} .
# $$
#
# The factor $\mathrm{TPR}/\mathrm{FPR}$ is the height above the diagonal in {numref}`fig-roc`. What LiRA's measured
# rates would mean under other priors:

# %% tags=["hide-input"]
lira = table.query("attack == 'lira' and target == 'pooled'").set_index("metric")[
    "value"
]
points = {
    "at the attacker's own threshold": (
        lira["recall"],
        lira["recall"] - 2 * lira["balanced_accuracy"] + 1,
    )
}
points |= {f"at {rate:.1%} FPR": (lira[f"tpr@{rate}"], rate) for rate in (0.01, 0.001)}
pd.DataFrame(
    {
        f"{prior:g} members": {
            name: "not resolvable"
            if np.isnan(tpr)
            else f"{prior * tpr / (prior * tpr + (1 - prior) * fpr):.3f}"
            for name, (tpr, fpr) in points.items()
        }
        for prior in (0.5, 0.1, 0.01, 0.001)
    }
).rename_axis("precision of LiRA")

# %% [markdown]
# A high balanced accuracy does not survive a small prior; a high TPR at a low FPR does, to some degree. This is why the
# study never reports precision without the prior of one half that goes with it.
#
# ## What a result does not say
#
# * **It is a lower bound.** An attack that fails shows that *this attack* fails. A better one may come; only a proof, such
#   as differential privacy, bounds them all from above.
# * **It is about this pool, network and training.** Leakage grows with overfitting and shrinks with the number of records;
#   values from different data sets, sizes or networks cannot be compared.
# * **It is an average over records.** A small fraction of records can be exposed while the average is not. The chapters on
#   defenses therefore also measure *canaries*, deliberately mislabeled records that only memorization explains
#   {cite:p}`aerni2024misleading`.
# * **It is about members and non-members from one source.** If they differ in more than the training, say in age, an
#   "attack" may find the difference without the model having learned anything.
# * **It is about queries.** An attacker with the weights, with the training log, or with several versions of the model
#   may know more.
# * **Membership is one harm among others.** What can be inferred about a person who is a member, and whether membership
#   itself is sensitive, depends on the data set and not on the ROC curve.
