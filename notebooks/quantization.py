# %% [markdown]
# # Quantization: models of few bits
#
# {cite:t}`famili2023quantization` quantize networks, that is compute with weights and activations of few bits, for the sake of
# privacy: their method has resistance to membership inference as its main objective, and smaller models as a by-product.
# The thought behind it is plain. A network that can hold less can remember less.
#
# It can also predict less. So the question of this chapter is whether few bits protect better than other ways to give up as
# much accuracy, such as stopping early, and whether it matters that the network is trained with them rather than
# rounded when training is over.

# %% tags=["remove-input"]
from mialab.book import answers, reference_runs

reference = reference_runs.load("quantization-standard")
answers.answer(
    reference, "quantization", audits=[a for a in ("audit", "second") if a in reference]
)

# %% [markdown]
# The box, and the section on the reference run, are read from the last reference run (`make book PROFILE=standard`); all else shows the run
# that built this book, and [the verdicts](quantization-verdicts) have both side by side.
#
# ## Parameters
#
# Everything below follows from these; {doc}`/book/rerun` shows how to run the chapter with others. A width is a number of
# bits, `"ternary"` (three values) or `"binary"` (two).

# %% tags=["parameters"]
dataset = "clusters"  # a name of mialab.datasets(), or your own .npz file
# Size, network with its parameters, and training; learning rates fall to a tenth at the milestones
settings = {
    "size": 800,
    "model": "mlp",
    "hidden": [64, 64, 64],
    "activation": "relu",
    "epochs": 40,
    "lr": 0.002,
    "batch_size": 64,
    "milestones": [24],
}
n_models = 16  # models per arm; each plays the target in turn
# Another data set or network, on which the published values are measured as well; empty for none
second = {}
seed = 0

# The defense
bits = 2  # the width that the verdicts are about
activations = "same"  # width of activations: that of the weights, or another one
fraction = 0.6  # of the epochs are in full precision, before quantized training starts from there
widths = [8, 4, 2, "ternary", "binary"]  # trained so
scratch_widths = [2]  # trained quantized from the first step
rounded_widths = [4, 2, "binary"]  # rounded after training
sigmoid_widths = [2]  # trained with sums of sigmoids, at most 4 bits

# Controls, and the choice of widths
rounded_to = (
    4  # the width that the literature calls harmless when rounding after training
)
stops = [6, 8, 10, 12, 14, 16, 20, 24, 32]  # epochs that training is stopped after
decays = [0.1, 1.0, 5.0]  # weight decay in full precision (AdamW)
noises = [0.03, 0.1, 0.3]  # of DP-SGD in full precision
drops = [0.1, 0.2, 0.3, 0.4]  # dropout in full precision
mu = 5.0  # weight of leakage in the choice of widths
choices = [8, 2, "binary"]  # widths of each layer to choose from
groups = None  # of neighboring layers that share a width; None for a width of each layer's own
selection_models = 4  # models that each choice is evaluated by

# Reporting
fpr = 0.01  # the false-positive rate of the verdicts
save_as = ""  # keep the tables as results/NAME-*.csv

# %% tags=["hide-input"]
from dataclasses import replace

import itables
import matplotlib.pyplot as plt
import pandas as pd
from myst_nb import glue

import mialab as mia
from mialab import auditing, chapters
from mialab.auditing import conditions
from mialab.auditing.claims import Claim, judge, list_claims
from mialab.auditing.conditions import EQUAL_ACCURACY, EQUAL_GAP, watched
from mialab.chapters import quantization
from mialab.defenses import DPSGD, Dropout, Quantization, WeightDecay

itables.init_notebook_mode(all_interactive=False, connected=False)
mia.plots.style()

# %% [markdown]
# ## What is claimed
#
# The paper's abstract has three values, for a ResNet on CIFAR-10, each against the same network at full width. It does not
# say whether they are points or fractions of the value before, so that both readings are tested here. Nor could we
# find the widths they belong to; our verdicts are about {glue:text}`quantization_width` weights. A preliminary paper
# ({cite:t}`kowalski2022quantization`) measured a threshold attack. The claims below those are made by others, about rounding after
# training ({cite:t}`zhang2025bits`) and about attackers who have the original as well ({cite:t}`li2025compleak`): of these
# papers we had the abstracts and summaries. The bounds that decide a verdict are ours, but for the published values.

# %% tags=["hide-input"]
width = f"{bits}-bit" if isinstance(bits, int) else bits
claims = {
    "purpose": Claim(
        text="Quantization made for privacy protects against membership inference",
        source="abstract",
        test="AUC of LiRA, widths chosen for privacy (our reading) minus full precision: below 0",
        below=0,
        margin=0.01,
    ),
    "benchmarks": Claim(
        text="It does so on several benchmarks and architectures",
        source="abstract",
        published="not available to us, but for ResNet on CIFAR-10",
    ),
    "accuracy": Claim(
        text="The attack gets less accurate",
        source="abstract",
        test="accuracy of the shadow-model attack, quantized minus full precision: below 0",
        below=0,
        margin=0.01,
    ),
    "accuracy points": Claim(
        text="... by 14 points",
        source="abstract, first reading",
        published="-14 % (ResNet, CIFAR-10)",
        test="the same for an attacker whose shadow models are in full precision: below -0.14",
        below=-0.14,
        requires=("trained", "operating point"),
    ),
    "accuracy fraction": Claim(
        text="... by 14 % of what it was",
        source="abstract, second reading",
        published="-14 % (ResNet, CIFAR-10)",
        test="the same attacker, over the accuracy in full precision: below -0.14",
        below=-0.14,
        requires=("trained", "operating point"),
    ),
    "tpr": Claim(
        text="The attack finds fewer members",
        source="abstract",
        test="true-positive rate of the shadow-model attack, quantized minus full precision: below 0",
        below=0,
    ),
    "tpr points": Claim(
        text="... by 37 points",
        source="abstract, first reading",
        published="-37 % (ResNet, CIFAR-10)",
        test="the same with shadow models in full precision: below -0.37",
        below=-0.37,
        requires=("trained", "operating point"),
    ),
    "tpr fraction": Claim(
        text="... by 37 % of what it was",
        source="abstract, second reading",
        published="-37 % (ResNet, CIFAR-10)",
        test="the same attacker, over the rate in full precision: below -0.37",
        below=-0.37,
        requires=("trained", "operating point"),
    ),
    "f1": Claim(
        text="The F1 score for members falls",
        source="abstract",
        test="F1 of the shadow-model attack, quantized minus full precision: below 0",
        below=0,
    ),
    "f1 points": Claim(
        text="... by 39 points",
        source="abstract, first reading",
        published="-39 % (ResNet, CIFAR-10)",
        test="the same with shadow models in full precision: below -0.39",
        below=-0.39,
        requires=("trained", "operating point"),
    ),
    "f1 fraction": Claim(
        text="... by 39 % of what it was",
        source="abstract, second reading",
        published="-39 % (ResNet, CIFAR-10)",
        test="the same attacker, over F1 in full precision: below -0.39",
        below=-0.39,
        requires=("trained", "operating point"),
    ),
    "precision": Claim(
        text="A threshold attack gets less precise",
        source="Kowalski et al. (2022), as the paper reports it",
        published="7 to 9 points lower",
        test="precision of the threshold on the loss, quantized minus full precision: below -0.07",
        below=-0.07,
    ),
    "recall": Claim(
        text="... at the same recall",
        source="Kowalski et al. (2022), as the paper reports it",
        published="equal",
        test="its recall, quantized minus full precision: less than 5 points lost (above -0.05)",
        above=-0.05,
    ),
    "stronger": Claim(
        text="An attack with shadow models is stronger than a threshold",
        source="the paper's list of contributions",
        test="accuracy in full precision, shadow-model attack minus threshold on the loss: above 0",
        above=0,
        margin=0.01,
    ),
    "rounded": Claim(
        text="Rounding after training to few bits makes LiRA weaker",
        source="Zhang et al. (2025), abstract",
        published="up to an order of magnitude",
        test=f"AUC of LiRA, {width} weights by rounding minus full precision: below 0",
        below=0,
        margin=0.01,
    ),
    "harmless": Claim(
        text="Rounding to 4 bits leaves the leakage as it is",
        source="Zhang et al. (2025), as summarized by others",
        published="comparable",
        test=f"AUC of LiRA, rounded to {rounded_to} bits minus full precision: above -0.02",
        above=-0.02,
    ),
    "both": Claim(
        text="The answers of both models, averaged, tell more than the original's alone",
        source="Li et al. (2025), abstract, on who has both",
        published="not available to us",
        test="AUC of LiRA averaged over both answers (rounded after training), minus on the original's: above 0",
        above=0,
        margin=0.01,
    ),
    "both trained": Claim(
        text="... also where the small model was trained further",
        source="Li et al. (2025), read broadly",
        published="not available to us",
        test="the same for models that were trained quantized, and the start of their quantization: above 0",
        above=0,
    ),
    "training": Claim(
        text="Quantized training protects better than rounding after training",
        source="our question",
        test="AUC of LiRA, trained quantized minus rounded, interpolated between two widths of the same accuracy: below 0",
        below=0,
        margin=0.01,
        requires=("trained", EQUAL_ACCURACY),
    ),
    "stopping": Claim(
        text="It protects better than stopping early at the same accuracy",
        source="our question",
        test="AUC of LiRA, quantized minus early stopping, interpolated between two epochs: below 0",
        below=0,
        margin=0.01,
        requires=("trained", EQUAL_ACCURACY),
        decides=True,
    ),
    "private": Claim(
        text="It protects better than DP-SGD at the same accuracy",
        source="our question",
        test="AUC of LiRA, quantized minus DP-SGD, interpolated between two noises: below 0",
        below=0,
        margin=0.01,
        requires=("trained", EQUAL_ACCURACY),
        decides=True,
    ),
    "decay": Claim(
        text="It protects better than weight decay at the same train-test gap",
        source="our question: is it more than fitting less?",
        test="AUC of LiRA, quantized minus weight decay, interpolated between two settings: below 0",
        below=0,
        margin=0.01,
        requires=("trained", EQUAL_GAP),
    ),
    "decay accuracy": Claim(
        text="... or at the same accuracy",
        source="our question",
        test="the same, interpolated between two settings of the same accuracy: below 0",
        below=0,
        margin=0.01,
        requires=("trained", EQUAL_ACCURACY),
    ),
    "dropout": Claim(
        text="It protects better than dropout at the same train-test gap",
        source="the same question",
        test="AUC of LiRA, quantized minus dropout, interpolated between two settings: below 0",
        below=0,
        margin=0.01,
        requires=("trained", EQUAL_GAP),
    ),
    "dropout accuracy": Claim(
        text="... or at the same accuracy",
        source="our question",
        test="the same, interpolated between two settings of the same accuracy: below 0",
        below=0,
        margin=0.01,
        requires=("trained", EQUAL_ACCURACY),
    ),
}
glue("quantization_width", width, display=False)
list_claims(claims)

# %% [markdown]
# ## The reference run
#
# What follows comes from the last reference run on the paper's headline data set, CIFAR-10, with 1,000 members of 2,000 records and small
# networks of ours (`make book PROFILE=standard`). It is read from `results/`.

# %% tags=["hide-input"]
if changed := reference_runs.standing(reference["verdicts"], claims):
    print(changed)

# %% mystnb={"figure": {"caption": "The reference run on CIFAR-10: every attack against every arm, AUC with 95 % intervals.", "name": "fig-quantization-reference"}, "image": {"alt": "Dot plot with intervals: a row for each attack on CIFAR-10, a dot for full precision, quantized models and control arms."}} tags=["hide-input"]
mia.plots.strength(reference["audit"], metric="auc")
plt.show()
# %% mystnb={"figure": {"caption": "The reference run on CIFAR-10: LiRA against test accuracy, a line for each way of quantizing over the widths, and early stopping.", "name": "fig-quantization-reference-tradeoff"}, "image": {"alt": "Lines of the AUC of LiRA over test accuracy, one for each way of quantizing, their points labeled by width, and one of early stopping."}} tags=["hide-input"]
mia.plots.trade_off(reference["widths"], "lira_pooled")
plt.show()
# %% tags=["hide-input"]
reference["facts"]

# %% [markdown]
# ## The method
#
# The formula of the paper's quantizer could not be found, nor its training procedure. What follows is the field's most
# common choice, and one that the paper's words resemble.
#
# **Weights.** The weights $w$ of a layer are rounded to $n+1$ levels, $n = 2^b - 1$ for $b$ bits, that lie symmetrically about 0,
#
# $$ Q(w) = c\,\Bigl(\frac{2}{n}\,\mathrm{round}\Bigl(n\,\frac{\mathrm{clip}(w/c, -1, 1) + 1}{2}\Bigr) - 1\Bigr) , $$
#
# with the range $c$, of seven fractions of $\max|w|$, that has the least squared error (from 8 bits on $c = \max|w|$). Binary weights are
# $\mathrm{sign}(w)$ times the mean of $|w|$ ({cite:t}`rastegari2016xnor`), ternary ones are 0 up to 0.7 times that mean
# and beyond it $\pm$ the mean of what lies there ({cite:t}`li2016ternary`). What is trained remains in full precision, and gets
# the gradient of its rounded copy as if nothing had been rounded, which is the straight-through estimator
# ({cite:t}`bengio2013estimating`).
#
# **Activations** after a ReLU are clipped to $[0, a]$ and rounded to equal steps. The clip $a$ is learned: it gets the gradient of
# what it clips ({cite:t}`choi2018pact`).
#
# **Sums of sigmoids.** Quantization Networks ({cite:t}`yang2019quantization`) approach the steps from a smooth function,
#
# $$ Q(w) = \alpha \Bigl(\sum_{k=1}^{n} \sigma\bigl(T (\beta w - t_k)\bigr) - \frac n2\Bigr) , $$
#
# with thresholds $t_k$ between clusters of the weights, learned scales $\alpha$ and $\beta$, and a temperature $T$ that grows
# through training until unit steps take the sigmoids' place.
#
# **Widths chosen for privacy.** "Main objective" is where the paper says most and we know least. Our reading: start from wide
# layers and change, again and again, the one layer that lowers
#
# $$ J = \text{validation loss} + \mu \max(0, \mathrm{AUC} - \tfrac12) $$
#
# most, where the AUC is that of a threshold on the modified entropy. Both are measured on records that the model was not
# trained on, with other models than those we attack in the end.
#
# ```{admonition} What we had to assume
# :class: note
# * The *quantizer*, the tensors it is applied to and the widths: all of the above. Biases and normalizations remain in full precision, and
#   the first and the last layer have 8 bits, as is usual.
# * The *start*: quantized training starts from a model in full precision, at a tenth of its learning rate; we also train quantized
#   from the first step. Whether the paper does either could not be found.
# * Activations are as wide as the weights of the layer that they go into. In the arm with sums of sigmoids they are rounded
#   uniformly.
# * The *objective* $J$ and its greedy minimization are ours.
# * The paper's *attack* is a shadow-model attack; ours is Shokri's, with a logistic regression for each class on sorted log
#   probabilities and the record's own signals. "Attack accuracy" is taken on as many members as non-members.
# ```

# %% tags=["hide-input"]
setting = chapters.settings.settings({dataset: settings}, seed=seed)[dataset]
pool, model, training = setting.pool, setting.model, setting.training
quantized = Quantization(bits, activations=activations, fraction=fraction)
full = Quantization(bits=32)
print(pool)
print(f"full precision: {quantization.model_bits(pool, model) / 1000:,.1f} kbit")
print(f"{width}: {quantization.model_bits(pool, model, quantized) / 1000:,.1f} kbit")

# %% [markdown]
# Every arm has the same members, first weights, batches and number of epochs, but one: full precision, stopped early, which is read
# off the undefended models at earlier epochs. Figures that have place for one show the epoch where the test accuracy comes closest to
# that of the {glue:text}`quantization_width` models; the verdict takes the epochs on either side of it. Weight decay and dropout are two
# plain ways to fit less, and DP-SGD is the one with a proof, all in full precision.

# %% tags=["hide-input"]
common = {"n_models": n_models, "seed": seed}
options = {"model": model, "training": watched(training), **common}
measuring = {"fprs": (fpr,)}
attacks = ["loss", "modified_entropy", "shokri_sorted", "lira", "lira_pooled"]

begin = quantized.full_precision_epochs(training.epochs)
undefended = mia.play(
    pool, model, full, training=watched(training, [*stops, begin]), **common
)
trained = {
    b: mia.play(pool, defense=replace(quantized, bits=b), **options) for b in widths
}
from_scratch = {
    b: mia.play(pool, defense=replace(quantized, bits=b, start="scratch"), **options)
    for b in scratch_widths
}
rounded = {
    b: mia.play(
        pool, defense=replace(quantized, bits=b, start="after_training"), **options
    )
    for b in dict.fromkeys([*rounded_widths, rounded_to, bits])
}
sigmoids = {
    b: mia.play(
        pool, defense=replace(quantized, bits=b, quantizer="sigmoid"), **options
    )
    for b in sigmoid_widths
}
early = {s: undefended.at(s) for s in stops}
decayed = {w: mia.play(pool, defense=WeightDecay(w), **options) for w in decays}
private = {n: mia.play(pool, defense=DPSGD(noise=n), **options) for n in noises}
dropped = {p: mia.play(pool, defense=Dropout(p), **options) for p in drops}
stop = quantization.nearest_accuracy(early, trained[bits])
stopped = early[stop]
glue("quantization_stop", stop, display=False)
glue("quantization_epochs", training.epochs, display=False)
auditing.accuracy(
    {
        "none": undefended,
        f"early_stopping ({stop} epochs)": stopped,
        **{f"quantization ({b})": game for b, game in trained.items()},
        **{f"quantization (after training, {b})": game for b, game in rounded.items()},
        **{f"weight_decay ({w:g})": game for w, game in decayed.items()},
        **{f"dropout ({p:g})": game for p, game in dropped.items()},
        **{f"dp_sgd (noise {n:g})": game for n, game in private.items()},
    }
)

# %% [markdown]
# Early stopping ends after {glue:text}`quantization_stop:d` of {glue:text}`quantization_epochs:d` epochs.
#
# ## The paper's own evaluation
#
# An attack with shadow models, its accuracy, precision, recall (the true-positive rate) and F1 for members, at the
# threshold that the attacker sets. Every model is the target once, and its shadow models are quantized as it is.

# %% tags=["hide-input"]
arms = {
    "quantization": trained,
    "quantization (from scratch)": from_scratch,
    "quantization (after training)": rounded,
    "quantization (sums of sigmoids)": sigmoids,
    "early_stopping": {f"{s} epochs": game for s, game in early.items()},
    "weight_decay": decayed,
    "dropout": dropped,
    "dp_sgd": private,
    "none": {"full precision": undefended},
}
drawn = {"early_stopping": f"{stop} epochs"}  # in figures that have no place for all
table = quantization.widths(
    arms,
    ["shokri_sorted", "lira_pooled"],
    pool=pool,
    model=model,
    **measuring,
)
narrow = table[~table["arm"].isin(["weight_decay", "dropout", "dp_sgd"])]
quantization.overview(
    table, "shokri_sorted", ["balanced_accuracy", "recall", "precision", "f1"]
)

# %% mystnb={"figure": {"caption": "The shadow-model attack and the test accuracy against the width of the inner layers' weights, with 95 % intervals. Dashed, with bands: full precision, trained as long or stopped early.", "name": "fig-quantization-widths"}, "image": {"alt": "Two panels with a line for each way to quantize over the widths from wide to narrow, and two horizontal lines for the models in full precision: the attack's accuracy on the left and the test accuracy on the right."}} tags=["hide-input"]
mia.plots.widths(narrow, "shokri_sorted", "balanced_accuracy", controls=drawn)
plt.show()
# %% [markdown]
# How the attack's values change against full precision, in points (as fractions) and relative to what they were. The attacker above
# knows the defense: the shadow models are quantized too. One who does not has shadow models in full precision, and sets thresholds on
# them that suit other answers. The paper does not say which attacker it measured; what it publishes looks like the second one, so that
# its values are held against that. A defender must fear the first.

# %% tags=["hide-input"]
others = mia.play(
    pool, model, full, training=training, n_models=n_models, seed=seed + 2
)
changes = quantization.changes(trained, undefended, "shokri_sorted")
unaware = {
    how: quantization.changes(
        {b: game.with_shadows(others) for b, game in games.items()},
        undefended.with_shadows(others),
        "shokri_sorted",
    )
    for how, games in {"trained": trained, "after training": rounded}.items()
}
pd.concat(
    {
        ("trained", "quantized"): changes,
        **{(how, "full precision"): table for how, table in unaware.items()},
    },
    names=["quantized", "shadow models", "width"],
).style.format("{:+.3f}")

# %% [markdown]
# ### Another network
#
# The paper's network is a ResNet. Where a run was given one (`second`, as in the `standard` profile), the values that the paper publishes are those of that network:
# full precision and {glue:text}`quantization_width` weights, against the attacker who knows the width and the one who does not. Residual
# networks here have group normalization, since batch normalization would tie the records of a batch together.

# %% tags=["hide-input"]
second_games, second_changes = quantization.another_network(
    second, quantized, "shokri_sorted", n_models=n_models, seed=seed
)
second_tables = {
    arm: mia.audit(game, attacks, **measuring) for arm, game in second_games.items()
}
auditing.accuracy(second_games)

# %% tags=["hide-input"]
second_changes.style.format("{:+.3f}")

# %% [markdown]
# ## A harder evaluation
#
# **LiRA** scores each record by itself, and how far the attack gets where few false alarms are allowed.

# %% tags=["hide-input"]
main = {
    "none": undefended,
    "early_stopping": stopped,
    "quantization": trained[bits],
    "quantization (after training)": rounded[bits],
}
tables = {name: mia.audit(game, attacks, **measuring) for name, game in main.items()}
mia.compare(tables).summary(f"tpr@{fpr:g}").T

# %% mystnb={"figure": {"caption": "LiRA with pooled variances against models in full precision, the same stopped early at the accuracy of the quantized ones, and models trained quantized or rounded after training, all target models pooled, both axes logarithmic. Bands: 95 % intervals over targets and records, point by point.", "name": "fig-quantization-roc"}, "image": {"alt": "Log-log ROC curves of LiRA with bands for four arms, and the diagonal of chance."}} tags=["hide-input"]
mia.plots.roc(main, "lira_pooled")
plt.show()
# %% mystnb={"figure": {"caption": "LiRA and the test accuracy against the width of the inner layers' weights, as above.", "name": "fig-quantization-lira"}, "image": {"alt": "Two panels as in the figure before, with LiRA's AUC on the left and the test accuracy on the right."}} tags=["hide-input"]
mia.plots.widths(narrow, "lira_pooled", "auc", controls=drawn)
plt.show()
# %% [markdown]
# ### Both answers
#
# Whoever publishes a small model has often published the large one before. The quantized models here started from models in
# full precision, and since a model's training follows from the seed alone, those are at hand: training stopped
# where quantization began. An attacker with both answers has two queries, and LiRA averages over queries, which is one
# way to combine them. The same can be tried on models that were rounded after training. Who has both may ignore one of them, so the best
# attack on both cannot be weaker than that on one; an average that finds less is a poor way to combine, not a protection.

# %% tags=["hide-input"]
begun = undefended.at(begin)
both = quantization.join_answers(trained[bits], begun)
both_rounded = quantization.join_answers(rounded[bits], undefended)
lira_both = mia.attacks.LiRA(variance="pooled", queries="all")
pairs = {
    "none": (undefended, "lira_pooled"),
    "none (start of quantization)": (begun, "lira_pooled"),
    "quantization": (trained[bits], "lira_pooled"),
    "quantization (with its start)": (both, lira_both),
    "quantization (after training)": (rounded[bits], "lira_pooled"),
    "quantization (after training, with the original)": (both_rounded, lira_both),
}
both_answers = mia.compare(
    {
        name: mia.audit(game, [attack], **measuring)
        for name, (game, attack) in pairs.items()
    }
)
both_answers.summary(["auc", f"tpr@{fpr:g}"])

# %% [markdown]
# ### Widths chosen for privacy
#
# Each choice of widths is evaluated by a few models of another seed:

# %% tags=["hide-input"]
objective = quantization.PrivacyObjective(
    pool,
    model,
    quantized,
    training=training,
    mu=mu,
    n_models=selection_models,
    seed=seed + 1,
    groups=groups,
)
selection = quantization.select_bits(objective, objective.n_layers, choices=choices)
objective.measured.round(3)

# %% tags=["hide-input"]
selected = mia.play(
    pool,
    defense=replace(quantized, per_layer=objective.per_layer(selection.bits)),
    **options,
)
main["quantization (chosen widths)"] = selected
tables["quantization (chosen widths)"] = mia.audit(selected, attacks, **measuring)
alike = set(selection.bits) == {bits}
glue("quantization_selected", ", ".join(map(str, selection.bits)), display=False)
glue(
    "quantization_alike",
    f"All layers have the {width} weights of the arm above: the choice repeats it, and says nothing new."
    if alike
    else "Layers differ, or have another width than the arm above.",
    display=False,
)
auditing.accuracy(main)

# %% [markdown]
# The widths of the inner layers come out as {glue:text}`quantization_selected`. {glue:text}`quantization_alike`

# %% mystnb={"figure": {"caption": "Every attack against the arms: AUC pooled over target models, with 95 % intervals.", "name": "fig-quantization-strength"}, "image": {"alt": "Dot plot with intervals: a row for each attack, a dot for each arm."}} tags=["hide-input"]
mia.plots.strength(tables, metric="auc")
plt.show()
# %% mystnb={"figure": {"caption": "Privacy against utility: LiRA's AUC and the test accuracy of every arm, with 95 % intervals. Lines go through the widths of each kind of quantization, and in full precision through the epochs after which training was stopped, the noises of DP-SGD, and strengths of weight decay and of dropout; the setting with the lowest accuracy is named.", "name": "fig-quantization-tradeoff"}, "image": {"alt": "Scatter plot with lines of LiRA's AUC against test accuracy: four kinds of quantization, the chosen widths, early stopping, DP-SGD, weight decay, dropout and full precision."}} tags=["hide-input"]
chosen = {
    "quantization (chosen widths)": {", ".join(map(str, selection.bits)): selected}
}
chosen_table = quantization.widths(
    chosen, ["lira_pooled"], pool=pool, model=model, **measuring
)
mia.plots.trade_off(pd.concat([table, chosen_table]), "lira_pooled")
plt.show()
# %% [markdown]
# (quantization-verdicts)=
# ## Verdicts
#
# Verdicts follow [the rules of this book](many-claims). A claim *holds* or *does not hold* if its whole 95 % interval lies on one
# side of the bound, after adjusting for the number of claims; it is *negligible* within the stated margin, *not comparable* if a
# condition has failed, and otherwise *not settled*. Differences are taken between games with the same members. What the
# paper published for a ResNet on CIFAR-10 is not comparable with a run on other data or with another network.

# %% tags=["hide-input"]
change = changes.loc[bits]
threshold = (trained[bits], "loss"), (undefended, "loss")
lira, before = (trained[bits], "lira_pooled"), (undefended, "lira_pooled")
findings = {
    "purpose": f"the chosen widths are those of the {width} arm"
    if alike
    else mia.difference((selected, "lira_pooled"), before),
    "benchmarks": "which they are, besides a ResNet on CIFAR-10, could not be found",
    "accuracy": change["balanced_accuracy", "points"],
    "tpr": change["recall", "points"],
    "f1": change["f1", "points"],
    "precision": mia.difference(*threshold, metric="precision"),
    "recall": mia.difference(*threshold, metric="recall"),
    "stronger": mia.difference(
        (undefended, "shokri_sorted"),
        (undefended, "loss"),
        metric="balanced_accuracy",
    ),
    "rounded": mia.difference((rounded[bits], "lira_pooled"), before),
    "harmless": mia.difference((rounded[rounded_to], "lira_pooled"), before),
    "both": mia.difference((both_rounded, lira_both), before),
    "both trained": mia.difference((both, lira_both), (begun, "lira_pooled")),
}
full_length = early | {training.epochs: undefended}
for name, controls, condition, training_of in (
    ("training", rounded, EQUAL_ACCURACY, undefended),
    ("stopping", full_length, EQUAL_ACCURACY, undefended),
    ("private", private, EQUAL_ACCURACY, None),
    ("decay", decayed, EQUAL_GAP, None),
    ("decay accuracy", decayed, EQUAL_ACCURACY, None),
    ("dropout", dropped, EQUAL_GAP, None),
    ("dropout accuracy", dropped, EQUAL_ACCURACY, None),
):
    findings[name] = auditing.at_equal(
        trained[bits],
        controls,
        "lira_pooled",
        condition=condition,
        training_of=training_of,
    )
where, network = next(
    ((name, given.get("model", "mlp")) for name, given in second.items()),
    (dataset, settings["model"]),
)
published = {
    "operating point": ""
    if "cifar10" in where and network == "resnet"
    else f"published for a ResNet on CIFAR-10, here {network} on {where}"
}
of_targets = conditions.of(
    second_games.values() if second else [trained[bits], undefended]
)
blind = second_changes.loc["full precision"] if second else unaware["trained"]
for name, measure in {
    "accuracy": "balanced_accuracy",
    "tpr": "recall",
    "f1": "f1",
}.items():
    for how, reading in {"points": "points", "fraction": "relative"}.items():
        measured = blind.loc[bits][measure, reading]
        findings[f"{name} {how}"] = measured.under(**published, **of_targets)
verdicts = judge(claims, findings)
answers.beside(
    verdicts,
    reference["verdicts"],
    audit=mia.compare(tables),
    reference_audit=reference["audit"],
)

# %% tags=["hide-cell"]
if save_as:
    reference_runs.save(
        save_as,
        audit=mia.compare(tables),
        answers=both_answers,
        widths=table,
        **({"second": mia.compare(second_tables)} if second else {}),
        verdicts=verdicts,
    )
for arm, name in (("none", "none"), ("quantization", "quantized")):
    accuracy = mia.metrics.over_targets(main[arm].test_accuracy).value
    auc = tables[arm].interval("lira_pooled", "auc").value
    glue(f"quantization_{name}_accuracy", accuracy, display=False)
    glue(f"quantization_{name}_auc", auc, display=False)
auc = tables["early_stopping"].interval("lira_pooled", "auc").value
glue("quantization_stopped_auc", auc, display=False)

# %% [markdown]
# In this run full precision has a test accuracy of {glue:text}`quantization_none_accuracy:.3f` and LiRA an AUC of
# {glue:text}`quantization_none_auc:.3f` against it; with {glue:text}`quantization_width` weights these are
# {glue:text}`quantization_quantized_accuracy:.3f` and {glue:text}`quantization_quantized_auc:.3f`. Full precision, stopped early at
# about the same accuracy, has an AUC of {glue:text}`quantization_stopped_auc:.3f`.
#
# Every width of the run, to sort and to search:

# %% tags=["hide-input"]
itables.show(table.round(4), classes="display compact", showIndex=False)
