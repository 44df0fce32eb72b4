# %% [markdown]
# # AdaMixup: mixing less and less
#
# {cite:t}`chen2025adamixup` train on mixtures of two records, strongly mixed at first and less and less so as training goes
# on, and give each mixture the label of the record that dominates it. The idea is to regularize early and to converge
# late. Its weak spot is in plain sight: the last epochs see the records as they are. So the question of this chapter is
# whether what was gained early is still there at the end.
#
# (The method has nothing but its name in common with AdaMixUp of {cite:t}`guo2019mixup`, which learns how to mix.)

# %% tags=["remove-input"]
from mialab.book import answers, reference_runs

reference = reference_runs.load("adamixup-standard")
answers.answer(reference, "adamixup")

# %% [markdown]
# The box, and the section on the reference run, are read from the last reference run (`make book PROFILE=standard`); all else shows the run
# that built this book, and [the verdicts](adamixup-verdicts) have both side by side.
#
# ## Parameters
#
# Everything below follows from these; {doc}`/book/rerun` shows how to run the chapter with others. To look at another
# data set as closely as this page does at this one, name it:
# `python -m mialab run adamixup -p dataset lfw`, or with `cifar10`, `mnist`, `stl10` or `digits`.

# %% tags=["parameters"]
dataset = "clusters"  # the data set that most of the chapter is about
compared = ["digits"]  # others, on which accuracy and attacks are compared in the end
# Size, network with its parameters, and training, for each data set
datasets = {
    "clusters": {"size": 800, "model": "mlp", "hidden": [256], "epochs": 60, "lr": 0.2},
    "digits": {"size": 800, "model": "mlp", "hidden": [256], "epochs": 100, "lr": 0.2},
    "mnist": {"size": 2000, "model": "cnn", "channels": [16, 32], "momentum": 0.9},
    "cifar10": {"size": 2000, "model": "cnn", "channels": [16, 32], "momentum": 0.9},
    "lfw": {"size": 1000, "model": "cnn", "channels": [16, 32], "momentum": 0.9},
    "stl10": {"size": 1000, "model": "cnn", "channels": [8, 16, 32], "momentum": 0.9},
}
# What they do not say of their training
training = {"optimizer": "sgd", "lr": 0.05, "batch_size": 64, "epochs": 120}
n_models = 16  # models per defense; each plays the target in turn
copies = 4  # changed copies of each record that attackers query
seed = 0

# The defense and its variants
start = 0.5  # partner fraction of the first epoch
end = 0.0  # and of the last one
constant_fraction = 0.25  # of the variant whose fraction never changes
a = 1.0  # parameter of the Beta distribution, where fractions are drawn from one

# Reporting
# Fractions of the training: it is attacked there, too
stops = [0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 0.9]
halfway = 0.4  # the one of them where both trainings are compared at the same accuracy on members
fpr = 0.01  # the false-positive rate of the verdicts
marked = 0.05  # what counts as a marked fall of an attack's accuracy
save_as = ""  # keep the tables as results/NAME-*.csv

# %% tags=["hide-input"]
from dataclasses import replace

import itables
import matplotlib.pyplot as plt
from myst_nb import glue

import mialab as mia
from mialab import auditing, chapters
from mialab.auditing.claims import ByConstruction, Claim, judge, list_claims
from mialab.auditing.conditions import EQUAL_ACCURACY, EQUAL_TRAIN
from mialab.chapters import adamixup, rivals

itables.init_notebook_mode(all_interactive=False, connected=False)
mia.plots.style()

# %% [markdown]
# ## What is claimed
#
# We had the abstract, and what others wrote about the paper, but not its tables and figures, so that none of its numbers
# can be repeated here. It reports an attack accuracy called A1; what A1 is we could not find. **A1 and A2 on this page are
# our own definitions**: A1 is the balanced accuracy of attacks on confidences (a threshold on the modified entropy, and Shokri's
# learned attack), A2 that of attacks that see predicted labels only (whether the prediction is right, and which changed
# copies of the record are predicted rightly). The bounds that decide a verdict are ours, too.

# %% tags=["hide-input"]
claims = {
    "marked": Claim(
        text="Attack success falls markedly",
        source="abstract",
        published="not available to us",
        test=f"A1 (threshold), AdaMixup minus undefended: below {-marked:g}",
        below=-marked,
    ),
    "accuracy": Claim(
        text="Accuracy is kept",
        source="abstract",
        published="not available to us",
        test="test accuracy, AdaMixup minus undefended: less than one point lost (above -0.01)",
        above=-0.01,
    ),
    "threshold": Claim(
        text="It works against attacks on confidences",
        source="a summary by others",
        published="not available to us",
        test="A1 (threshold), AdaMixup minus undefended: below 0",
        below=0,
        margin=0.01,
    ),
    "learned": Claim(
        text="It works against attacks on confidences that learn",
        source="a summary by others, read strictly",
        published="not available to us",
        test="A1 (learned), AdaMixup minus undefended: below 0",
        below=0,
        margin=0.01,
    ),
    "gap": Claim(
        text="It works against attacks on predicted labels",
        source="a summary by others",
        published="not available to us",
        test="A2 (prediction right or wrong), AdaMixup minus undefended: below 0",
        below=0,
        margin=0.01,
    ),
    "copies": Claim(
        text="It works against attacks on predicted labels that query copies",
        source="a summary by others, read strictly",
        published="not available to us",
        test="A2 (changed copies), AdaMixup minus undefended: below 0",
        below=0,
        margin=0.01,
    ),
    "datasets": Claim(
        text="It works on all data sets: MNIST, CIFAR-10, LFW, STL-10",
        source="a summary by others",
        published="not available to us",
        test="A1 (threshold), AdaMixup minus undefended, on that of our data sets where it is greatest: below 0",
        below=0,
        margin=0.01,
    ),
    **{
        f"on {name}": Claim(
            text=f"... on {name}",
            source="the same",
            published="not available to us",
            test=f"the same on {name}: below 0",
            below=0,
            margin=0.01,
        )
        for name in [dataset, *compared]
    },
    "others": Claim(
        text="In several scenarios it is better than differential privacy and MemGuard",
        source="a summary by others",
        published="not available to us",
        test="AUC of the strongest attack on answers at equal accuracy (reference run, Location30), AdaMixup minus DP-SGD "
        "and minus MemGuard, the greater one: below 0",
        below=0,
        margin=0.01,
        requires=("trained", "equal accuracy"),
        decides=True,
    ),
    "static": Claim(
        text="A fraction that falls protects better than static mixup",
        source="a summary by others: static mixup was compared with",
        published="not available to us",
        test="A1 (threshold), AdaMixup minus static mixup: below 0",
        below=0,
        margin=0.01,
        requires=("trained", "equal accuracy"),
    ),
    "static accuracy": Claim(
        text="A fraction that falls is more accurate than static mixup",
        source="the same reasoning: late epochs see almost unmixed records",
        test="test accuracy, AdaMixup minus static mixup: above 0",
        above=0,
        margin=0.01,
    ),
    "label": Claim(
        text="The label of the dominant record helps",
        source="a summary by others: one of two components",
        test="A1 (threshold), AdaMixup minus the same with both labels: below 0",
        below=0,
        margin=0.01,
        requires=("trained", "equal accuracy"),
    ),
    "lasting": Claim(
        text="What is gained early lasts: regularize early, converge late",
        source="the paper's reasoning, as summarized by others",
        test="AUC of LiRA after the last epoch, AdaMixup minus undefended: below 0",
        below=0,
        margin=0.01,
    ),
    "stopping": Claim(
        text="It protects better than stopping early at the same accuracy",
        source="our question",
        test="AUC of LiRA, AdaMixup minus undefended training that stops early, interpolated between two epochs: below 0",
        below=0,
        margin=0.01,
        requires=("trained", EQUAL_ACCURACY),
        decides=True,
    ),
    "slower": Claim(
        text="Before training is over, it leaks less than undefended training that fits its members as well",
        source="our question: or does it only learn more slowly?",
        test=f"AUC of LiRA after {halfway:.0%} of the epochs, AdaMixup minus undefended training at the same train accuracy, "
        "interpolated between two epochs: below 0",
        below=0,
        margin=0.01,
        requires=(EQUAL_TRAIN,),
    ),
    "exposed": Claim(
        text="It protects the most exposed records",
        source="our question",
        test=f"TPR at {fpr:g} FPR of LiRA, AdaMixup minus undefended: below 0",
        below=0,
    ),
    "free": Claim(
        text="The answers need no further step, and no other data are needed",
        source="the paper's description: a training-time defense",
    ),
}
list_claims(claims)

# %% [markdown]
# ## The reference run
#
# What follows comes from the last reference run on three of the paper's four data sets: CIFAR-10 for most of it, MNIST and LFW beside it,
# and small convolutional networks, whose sizes are ours (`make book PROFILE=standard`). It is read from `results/`: attacks on
# confidences and labels, and how each arm was made.

# %% tags=["hide-input"]
if changed := reference_runs.standing(reference["verdicts"], claims):
    print(changed)

# %% tags=["hide-input"]
reference["audit"].summary(
    "balanced_accuracy",
    attacks=["modified_entropy", "shokri", "correctness", "label_only", "lira_pooled"],
).T

# %% mystnb={"figure": {"caption": "The reference run: A1 (threshold on the modified entropy), A2 (gap attack) and test accuracy on CIFAR-10, MNIST and LFW, with 95 % intervals.", "name": "fig-adamixup-reference"}, "image": {"alt": "Three panels of dots with intervals, a row for each of CIFAR-10, MNIST and LFW: balanced accuracy of two attacks, and test accuracy, for the undefended models, static mixup and AdaMixup."}} tags=["hide-input"]
mia.plots.by_dataset(
    reference["datasets"],
    [
        ("modified_entropy", "balanced_accuracy"),
        ("correctness", "balanced_accuracy"),
        ("", "test_accuracy"),
    ],
)
plt.show()
# %% mystnb={"figure": {"caption": "The reference run on CIFAR-10: AUC and test accuracy where training stops after so many epochs, as differences to the undefended models at the same epoch.", "name": "fig-adamixup-reference-gain"}, "image": {"alt": "Four panels of lines over the epochs around a dashed line of no difference: the AUC of three attacks on CIFAR-10 minus that of the undefended models, and the difference in test accuracy, for seven arms."}} tags=["hide-input"]
mia.plots.trajectory(reference["trajectory"], "auc minus none", label="cifar10")
plt.show()
# %% tags=["hide-input"]
reference["facts"]

# %% [markdown]
# ## The method
#
# In each batch every record $x_i$ gets a partner $x_{\pi(i)}$ by a random permutation $\pi$. In epoch $t = 0, \dots, T-1$ the
# network sees
#
# $$ \tilde x_i = (1-r_t)\, x_i + r_t\, x_{\pi(i)} , \qquad
#    r_t = r_\text{end} + (r_\text{start} - r_\text{end}) \Bigl(1 - \frac{t}{T-1}\Bigr) , $$
#
# and the label of the record with the greater fraction, with plain cross-entropy. We let the partner fraction $r_t$ fall from
# {glue:text}`adamixup_start:g` to {glue:text}`adamixup_end:g`. As long as it is at most one half, the dominant record is
# always $x_i$ itself: the method is then an interpolation of inputs with unmixed labels that fades out.
#
# ```{admonition} What we had to assume
# :class: note
# * The *formula*. The sources agree that mixing is strong at first and falls linearly with the epoch. Start, end and
#   whether chance remains could not be found. (One of them says that the ratio adapts to the model's performance,
#   against the others.)
# * The *convention*. "A large ratio means strong mixing" makes sense for the fraction of the partner, up to one half.
# * The *label's* formula, networks, optimizer, epochs, batch size and sizes of the data sets: ours, too. Models are
#   those of the last epoch, without other augmentation.
# ```
#
# Each assumption has a variant to be held against:
#
# * **both labels**: the same fractions, and the loss of ordinary mixup ({cite:t}`zhang2018mixup`), the losses for both labels
#   weighted by their fractions;
# * **literal**: the words "the ratio falls from 1 to 0" taken as the fraction of the record itself. The mixture is then
#   strongest half-way, and the first and the last epochs are plain; this does not fit the description;
# * **beta decay**: the smaller fraction of a Beta($a$, $a$) draw for each batch, times $1 - t/(T-1)$;
# * **constant**: a fraction of {glue:text}`adamixup_constant:g` throughout;
# * **mixup**: static mixup, a Beta($a$, $a$) draw for each batch throughout, and both labels.

# %% tags=["hide-input"]
settings = chapters.settings.settings(
    {name: training | datasets[name] for name in [dataset, *compared]}, seed=seed
)
main = settings[dataset]
linear = mia.defenses.AdaMixup(start=start, end=end)
arms = {
    "none": None,
    "mixup": mia.defenses.Mixup(a=a),
    "adamixup": linear,
    "adamixup (both labels)": replace(linear, label="both"),
    "adamixup (literal)": replace(linear, schedule="literal"),
    "adamixup (beta decay)": replace(linear, schedule="beta_decay", a=a),
    "adamixup (constant)": replace(
        linear, schedule="constant", start=constant_fraction
    ),
}
print(main.pool)

# %% tags=["hide-cell"]
glue("adamixup_start", start, display=False)
glue("adamixup_end", end, display=False)
glue("adamixup_constant", constant_fraction, display=False)
glue("adamixup_dataset", dataset, display=False)

# %% mystnb={"figure": {"caption": "How strongly records are mixed in each epoch: the smaller one of the two fractions, and where chance decides its mean over batches and the middle 90 % of them. AdaMixup with both labels has the fractions of AdaMixup.", "name": "fig-adamixup-fractions"}, "image": {"alt": "Lines over the epochs: AdaMixup falls linearly, the literal reading rises to one half and falls again, the drawn fractions have bands, the constant fraction is level."}} tags=["hide-input"]
mia.plots.trajectory(
    adamixup.mixing_strength(arms, main.training.epochs),
    "smaller_fraction",
)
plt.show()
# %% [markdown]
# ## The paper's own evaluation
#
# Accuracy and attack success, with the defense and without. All arms have the same members, first weights and batches.
# Every model is the target once, and the shadow models are trained with the defense that the target is trained with.
#
# There is one more control. Stopping early is free and protects, too. So we also look at the undefended training at the first
# measured epoch at which it is as accurate as AdaMixup is in the end (or, if it never is, where it is best). That epoch
# is chosen by test accuracy, in favor of the control; the verdict takes the epochs on either side.

# %% tags=["hide-input"]
common = {
    "n_models": n_models,
    "queries": mia.queries.Noise(n=copies),
    "seed": seed,
}
epochs = sorted({max(1, round(part * main.training.epochs)) for part in stops})
path = adamixup.trajectory(
    main.pool,
    main.model,
    arms,
    training=main.training,
    stops=epochs,
    attacks=["modified_entropy", "correctness", "lira_pooled"],
    baseline="none",
    fprs=[fpr],
    **common,
)
stop = adamixup.same_accuracy(path, "adamixup")
watched = replace(main.training, checkpoints=tuple(epochs))
games = {
    name: mia.play(main.pool, main.model, defense, training=watched, **common)
    for name, defense in arms.items()
}
games["early_stopping"] = games["none"].at(stop)
glue("adamixup_stop", stop, display=False)
glue("adamixup_epochs", main.training.epochs, display=False)
auditing.accuracy(games)

# %% [markdown]
# Early stopping ends after {glue:text}`adamixup_stop:d` of {glue:text}`adamixup_epochs:d` epochs.

# %% tags=["hide-input"]
paper_attacks = ["loss", "modified_entropy", "shokri", "correctness", "label_only"]
hard_attacks = ["lira", "lira_pooled", "rmia"]
tables = {
    name: mia.audit(game, [*paper_attacks, *hard_attacks], fprs=(fpr,))
    for name, game in games.items()
}
results = mia.compare(tables)

# %% [markdown]
# **A1: attacks on confidences.** The balanced accuracy of a threshold on the modified entropy and of Shokri's attack, with
# the threshold on the loss beside them, each at the threshold that the attacker sets on the shadow models; with 95 %
# intervals over targets and records.

# %% tags=["hide-input"]
results.summary("balanced_accuracy", attacks=["loss", "modified_entropy", "shokri"]).T

# %% [markdown]
# **A2: attacks on predicted labels.** The gap attack calls a record a member if it is predicted rightly. The label-only
# attack also queries copies with noise, and learns from the shadow models which pattern of right answers goes with
# membership of that record.

# %% tags=["hide-input"]
results.summary("balanced_accuracy", attacks=["loss", "correctness", "label_only"]).T

# %% mystnb={"figure": {"caption": "Every attack against every arm: balanced accuracy pooled over target models, with 95 % intervals.", "name": "fig-adamixup-strength"}, "image": {"alt": "Dot plot with intervals: a row for each attack, a dot for the undefended models, static mixup, AdaMixup with its four variants, and early stopping."}} tags=["hide-input"]
mia.plots.strength(
    results[results["attack"].isin(paper_attacks)], metric="balanced_accuracy"
)
plt.show()
# %% [markdown]
# **On several data sets.** The paper's second figure shows A1 and accuracy with and without the defense on four data sets.
# Ours shows those that this run was given. MNIST, CIFAR-10 and LFW are in the `standard` profile; STL-10 is a large
# download, and in the `paper` profile only.

# %% tags=["hide-input"]
everywhere = adamixup.across(
    settings,
    {name: arms[name] for name in ("none", "mixup", "adamixup")},
    attacks=["loss", "modified_entropy", "correctness"],
    baseline="none",
    **common,
)

# %% mystnb={"figure": {"caption": "A1 (threshold on the modified entropy), A2 (gap attack) and test accuracy on each data set of this run, undefended, with static mixup and with AdaMixup. Intervals of attacks are over targets and records, those of accuracies over models.", "name": "fig-adamixup-datasets"}, "image": {"alt": "Three panels of dots with intervals, a row for each data set: balanced accuracy of two attacks, and test accuracy, for the undefended models, static mixup and AdaMixup."}} tags=["hide-input"]
mia.plots.by_dataset(
    everywhere,
    [
        ("modified_entropy", "balanced_accuracy"),
        ("correctness", "balanced_accuracy"),
        ("", "test_accuracy"),
    ],
)
plt.show()
# %% [markdown]
# ### Differential privacy and MemGuard
#
# The paper compares with both. {doc}`rivals` turns the knob of every defense over one budget, with one network and one training; its
# reference run says how much stronger the strongest attack on answers is on AdaMixup than on each of them at equal accuracy, where
# none costs more than {glue:text}`adamixup_points:d` points. Below 0, AdaMixup protects better. The run has Location30, where a record is a
# set of places and mixed records are none; the paper has images.

# %% tags=["hide-input"]
points = 10
glue("adamixup_points", points, display=False)
curves = rivals.apart(reference_runs.load("rivals-standard")["curves"])
against, greatest = rivals.against_all(
    curves["location30"], "adamixup", ["dp_sgd", "memguard"], points
)
against

# %% [markdown]
# ## A harder evaluation
#
# ### Does the gain survive the unmixed epochs?
#
# Training that stops at an epoch is the beginning of the longer one: same records, same batches, same fractions. So we stop it
# at several epochs, and attack what is there, with shadow models that stop there as well. What counts is the distance to
# the undefended models *at the end*. A distance half-way tells about models that nobody releases; and if these are also
# less accurate, it may only say that AdaMixup learns more slowly.

# %% mystnb={"figure": {"caption": "Attacks on models whose training stops after so many epochs: AUC with 95 % intervals over targets and records, and the test accuracy.", "name": "fig-adamixup-trajectory"}, "image": {"alt": "Four panels of lines over the epochs, one line for each of seven arms: the AUC of a threshold on the modified entropy, of the gap attack and of LiRA, and the test accuracy."}} tags=["hide-input"]
mia.plots.trajectory(path, "auc", label=dataset)
plt.show()
# %% mystnb={"figure": {"caption": "The same as differences to the undefended models at the same epoch; targets and records are resampled for both at once. Below zero, the defense leaks less.", "name": "fig-adamixup-gain"}, "image": {"alt": "Four panels of lines over the epochs around a dashed line of no difference: for three attacks the AUC of each arm minus that of the undefended models, and the difference in test accuracy."}} tags=["hide-input"]
mia.plots.trajectory(path, "auc minus none", label=dataset)
plt.show()
# %% [markdown]
# ### Or does it only learn more slowly?
#
# The next figure has no epochs. It shows how much leaks at a given accuracy; the line of the undefended models is what
# early stopping offers at each of its epochs. A defense that is worth its name ends below that line.

# %% mystnb={"figure": {"caption": "The AUC of LiRA against test accuracy. Each line joins the epochs at which training might stop; the large marker, with intervals, is the last one. The black line is early stopping without any defense.", "name": "fig-adamixup-path"}, "image": {"alt": "Lines of the AUC of LiRA over test accuracy for seven arms, each ending in a large marker with intervals both ways."}} tags=["hide-input"]
mia.plots.trajectory(
    path, "auc", attacks=["lira_pooled"], x="test_accuracy", label=dataset
)
plt.show()
# %% [markdown]
# ### The stronger attacks, and low false-positive rates
#
# LiRA and RMIA compare an answer with those of shadow models that were trained on the record and of others that were not,
# all of them with the same defense. What they find at a low false-positive rate is what the most exposed records suffer.

# %% tags=["hide-input"]
results.summary(f"tpr@{fpr:g}", attacks=["loss", "modified_entropy", *hard_attacks]).T

# %% mystnb={"figure": {"caption": "LiRA with pooled variances against the undefended models, both controls and AdaMixup, all target models pooled, both axes logarithmic. Bands: 95 % intervals over targets and records, point by point.", "name": "fig-adamixup-roc"}, "image": {"alt": "Log-log ROC curves of LiRA with bands for the undefended models, early stopping, static mixup and AdaMixup, and the diagonal of chance."}} tags=["hide-input"]
mia.plots.roc(
    {name: games[name] for name in ("none", "early_stopping", "mixup", "adamixup")},
    "lira_pooled",
)
plt.show()
# %% [markdown]
# (adamixup-verdicts)=
# ## Verdicts
#
# Verdicts follow [the rules of this book](many-claims). A claim *holds* or *does not hold* if its whole 95 % interval lies on one
# side of the bound, after adjusting for the number of claims; it is *negligible* within the stated margin, *not comparable* if a
# condition has failed, and otherwise *not settled*. Differences are taken between games with the same members. Unless
# a claim is about several data sets, its verdict is for {glue:text}`adamixup_dataset`.

# %% tags=["hide-input"]
none, mixup, ours = games["none"], games["mixup"], games["adamixup"]
of_attacks = {"metric": "balanced_accuracy"}
threshold = "modified_entropy"
undefended = {e: none.at(e) for e in epochs} | {main.training.epochs: none}
middle = max(1, round(halfway * main.training.epochs))
falls = mia.difference((ours, threshold), (none, threshold), **of_attacks)
findings = {
    "marked": falls,
    "accuracy": mia.difference((ours, None), (none, None), metric="test_accuracy"),
    "threshold": falls,
    "learned": mia.difference((ours, "shokri"), (none, "shokri"), **of_attacks),
    "gap": mia.difference((ours, "correctness"), (none, "correctness"), **of_attacks),
    "copies": mia.difference((ours, "label_only"), (none, "label_only"), **of_attacks),
    "datasets": adamixup.worst(
        everywhere,
        threshold,
        "balanced_accuracy minus none",
        "adamixup",
        n_pairs=n_models // 2,
    ),
    "others": greatest,
    "static": mia.difference((ours, threshold), (mixup, threshold), **of_attacks),
    "static accuracy": mia.difference(
        (ours, None), (mixup, None), metric="test_accuracy"
    ),
    "label": mia.difference(
        (ours, threshold), (games["adamixup (both labels)"], threshold), **of_attacks
    ),
    "lasting": mia.difference((ours, "lira_pooled"), (none, "lira_pooled")),
    "stopping": auditing.at_equal(
        ours,
        undefended,
        "lira_pooled",
        condition=EQUAL_ACCURACY,
        training_of=none,
    ),
    "slower": auditing.at_equal(
        ours.at(middle), undefended, "lira_pooled", condition=EQUAL_TRAIN
    ),
    **{
        f"on {name}": adamixup.worst(
            everywhere[everywhere["dataset"] == name],
            threshold,
            "balanced_accuracy minus none",
            "adamixup",
            n_pairs=n_models // 2,
        )
        for name in [dataset, *compared]
    },
    "exposed": mia.difference(
        (ours, "lira_pooled"), (none, "lira_pooled"), metric=f"tpr@{fpr:g}"
    ),
    "free": ByConstruction("only the batches change, and they hold members only"),
}
verdicts = judge(claims, findings)
answers.beside(
    verdicts,
    reference["verdicts"],
    audit=results,
    reference_audit=reference["audit"],
)

# %% tags=["hide-cell"]
if save_as:
    reference_runs.save(
        save_as,
        audit=results,
        trajectory=path,
        datasets=everywhere,
        verdicts=verdicts,
    )
for arm in ("none", "adamixup", "early_stopping"):
    auc = results.interval("lira_pooled", "auc", defense=arm).value
    glue(f"adamixup_lira_{arm}", auc, display=False)
    glue(
        f"adamixup_accuracy_{arm}",
        float(games[arm].test_accuracy.mean()),
        display=False,
    )

# %% [markdown]
# In this run LiRA has an AUC of {glue:text}`adamixup_lira_none:.3f` against the undefended models,
# {glue:text}`adamixup_lira_adamixup:.3f` against AdaMixup and {glue:text}`adamixup_lira_early_stopping:.3f` against early stopping,
# whose test accuracies are {glue:text}`adamixup_accuracy_none:.3f`, {glue:text}`adamixup_accuracy_adamixup:.3f` and
# {glue:text}`adamixup_accuracy_early_stopping:.3f`. A fraction that ends at zero is a choice of ours and of the sources we had; with
# `-p end 0.25` the last epochs are mixed as well.
#
# Every value of the run, pooled over target models, to sort and to search:

# %% tags=["hide-input"]
itables.show(
    results.pooled().drop(columns="target").as_text(),
    classes="display compact",
    showIndex=False,
)
