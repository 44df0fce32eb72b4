# %% [markdown]
# # Mixup training for GANs
#
# A generative model can leak its training records, too: its critic knows them, and its samples may come too close to them.
# {cite:t}`ji2023mixupgan` train a conditional GAN on mixtures of records only, in the hope that neither critic nor generator ever
# sees a record that could be recognized. This chapter trains many small GANs, with that defense and with others, and asks
# every attack on generative models that we know of: critics, samples, densities, reconstructions, and LiRA with critics
# of reference models.

# %% tags=["remove-input"]
from mialab.book import answers, reference_runs

reference = reference_runs.load("mixup-gan-standard")
answers.answer(
    reference, "mixup", use="Accuracy of classifiers that learn from samples"
)

# %% [markdown]
# The box, and the section on the reference run, are read from the last reference run (`make book PROFILE=standard`); all else shows the run
# that built this book, and [the verdicts](mixup-gan-verdicts) have both side by side.
#
# ## Parameters
#
# Everything below follows from these; {doc}`/book/rerun` shows how to run the chapter with others. `arms` may name some of the
# other arms, to play no more than those.

# %% tags=["parameters"]
dataset = "digits"  # the data set that most of the chapter is about
compared = []  # others, on which undefended and mixup-trained GANs are compared in the end
# Records in the pool and held out as reference records, networks, and training, for each data set
datasets = {
    "digits": {
        "size": 320,
        "reference": 300,
        "networks": "mlp",
        "hidden": [128, 128],
        "latent": 32,
    },
    "mnist": {"size": 512, "reference": 1000, "networks": "conv", "width": 16},
    "fashion_mnist": {"size": 512, "reference": 1000, "networks": "conv", "width": 16},
    "cifar10": {"size": 512, "reference": 1000, "networks": "conv", "width": 16},
    "location30": {
        "size": 1000,
        "reference": 1000,
        "networks": "mlp",
        "hidden": [256, 256],
        "latent": 64,
    },
}
# What they do not say of their training; and what is different with binary cross-entropy, whose steps cost less
training = {"steps": 1000, "batch_size": 32, "n_critic": 2, "lr": 0.002}
cross_entropy = {
    "objective": "bce",
    "steps": 2400,
    "batch_size": 64,
    "n_critic": 2,
    "lr": 0.001,
}
n_models = 16  # GANs of the undefended and of the mixup arm, and as natural references
n_others = 6  # GANs of each other arm
samples = 500  # records that each GAN releases
fakes = 64  # generated records over which the loss of the critic is a mean
probed = 100  # records that reconstruction attacks are tried on
shadow_steps = 200  # of the critic that LOGAN's black-box attacker trains
auxiliary_epochs = 5  # of the classifier that tells samples from reference records
seed = 0

# The defense, its variants, and other defenses
alpha = 1.0  # of the Beta distribution of fractions; the paper's code has 1
other_alphas = [0.2, 5.0]
relax_factors = [1.5]  # other levels of RelaxLoss, as multiples of its own
n_critics = 4  # of PAR-GAN
privacy_weight = 1.0  # of PrivGAN
noise_multiplier = 1.0  # of the private critic
stops = [0.5, 0.9]  # fractions of the steps: early stopping, and checkpoints of FID
arms = []  # labels of other arms to play; empty for all

# Reporting
fpr = 0.01  # the false-positive rate of the verdicts
save_as = ""  # keep the tables as results/NAME-*.csv

# %% tags=["hide-input"]
import warnings
from dataclasses import replace
from types import SimpleNamespace

import itables
import matplotlib.pyplot as plt
from IPython.display import display
from myst_nb import glue

import mialab as mia
from mialab import auditing, gan
from mialab.auditing.claims import (
    ByConstruction,
    Claim,
    ClaimsTable,
    judge,
    list_claims,
    where_played,
)
from mialab.auditing.conditions import EQUAL_ACCURACY
from mialab.chapters import mixup_gan

itables.init_notebook_mode(all_interactive=False, connected=False)
mia.plots.style()
warnings.filterwarnings("ignore", "epsilon")  # the text below says how large it is

# %% [markdown]
# ## What is claimed
#
# The published values are those of the paper's tables for CIFAR-10 and CelebA. The bounds that decide a verdict are ours.
# The references of table II's LiRA are *natural*, that is, undefended; those of an attacker who knows of the defense are trained like the
# target. Both are judged, and each claim says which it is about.

# %% tags=["hide-input"]
claims = {
    "logan": Claim(
        text="The critic tells members less well (LOGAN)",
        source="table II",
        published="AUC 0.644 to 0.520 (CIFAR-10), 0.835 to 0.579 (CelebA)",
        test="AUC of LOGAN, mixup minus undefended: below 0",
        below=0,
        margin=0.01,
    ),
    "lira": Claim(
        text="LiRA with critics finds less, with natural references",
        source="table II",
        published="AUC 0.687 to 0.530 (CIFAR-10), 0.864 to 0.662 (CelebA)",
        test="AUC of LiRA with natural references for both, mixup minus undefended: below 0",
        below=0,
        margin=0.01,
    ),
    "lira own": Claim(
        text="LiRA with critics finds less, with references trained like the target",
        source="our question; table II has natural references alone",
        published="0.543 on mixup (CIFAR-10), 0.670 (CelebA), from the section on adaptive attacks",
        test="AUC of LiRA with references trained like each target, mixup minus undefended: below 0",
        below=0,
        margin=0.01,
    ),
    "strongest": Claim(
        text="The strongest attack on critics finds less",
        source="our question",
        test="AUC of the strongest attack on critics against each arm, chosen on its reference models: mixup minus "
        "undefended, below 0",
        below=0,
        margin=0.01,
    ),
    "leaks": Claim(
        text="Reconstruction (GAN-Leaks, white box) finds little even without a defense",
        source="table II",
        published="AUC 0.508 (CIFAR-10), 0.532 (CelebA)",
        test="AUC of the white-box attack on undefended GANs: below 0.55",
        below=0.55,
    ),
    "leaks mixup": Claim(
        text="Against reconstruction, mixup changes nothing for the worse",
        source="table II, read against it",
        published="AUC 0.508 to 0.531 (CIFAR-10)",
        test="AUC of the white-box attack, mixup minus undefended: below 0.02",
        below=0.02,
    ),
    "accuracy": Claim(
        text="Samples keep their use for training classifiers",
        source="section on utility: no significant decrease",
        published="accuracy 0.490 to 0.421 (CIFAR-10), 0.912 to 0.915 (CelebA)",
        test="accuracy of classifiers trained on samples, mixup minus undefended: above -0.02",
        above=-0.02,
    ),
    "fid": Claim(
        text="Samples keep their quality",
        source="utility table",
        published="FID 150.9 to 159.1 (CIFAR-10), 112.0 to 104.4 (CelebA); Inception features",
        test="FID on our own features, undefended minus mixup, model by model: above 0 (mixup no worse)",
        above=0,
    ),
    "relaxloss": Claim(
        text="It protects better than RelaxLoss",
        source="table II",
        published="LiRA 0.530 and 0.533 (CIFAR-10); 0.662 and 0.586 (CelebA), the other way round",
        test="AUC of LiRA with references trained like each target, mixup minus RelaxLoss: below 0",
        below=0,
        margin=0.01,
        requires=("trained", "equal accuracy"),
    ),
    "relaxloss accuracy": Claim(
        text="It costs less accuracy than RelaxLoss",
        source="utility table",
        published="0.421 and 0.385 (CIFAR-10), 0.915 and 0.836 (CelebA)",
        test="accuracy of classifiers trained on samples, mixup minus RelaxLoss: above 0",
        above=0,
        margin=0.01,
    ),
    "par_gan": Claim(
        text="It protects better than PAR-GAN",
        source="table II",
        published="LiRA 0.530 and 0.740 (CIFAR-10), 0.662 and 0.778 (CelebA)",
        test="AUC of LiRA with references trained like each target, on the least loss of all critics, mixup minus "
        "PAR-GAN: below 0",
        below=0,
        margin=0.01,
        requires=("trained", "equal accuracy"),
    ),
    "adaptive": Claim(
        text="Attackers who know of it find less than they find without it",
        source="section on adaptive attacks",
        published="0.608 (mixed pairs, natural references) and 0.687 undefended (CIFAR-10)",
        test="AUC with natural references, mixed pairs on mixup minus LiRA on undefended: below 0",
        below=0,
        margin=0.01,
    ),
    "references": Claim(
        text="Natural references serve the attacker better than mixup-trained ones, with mixed pairs",
        source="section on adaptive attacks",
        published="0.608 and 0.526 (CIFAR-10), 0.728 and 0.598 (CelebA)",
        test="AUC of mixed pairs on mixup, natural minus mixup-trained references: above 0",
        above=0,
        margin=0.01,
    ),
    "proposition": Claim(
        text="Mixup lowers a member's likelihood ratio more often than not",
        source="proposition 1",
        published="'approximately larger than 0.5'; 0.69, 0.53, 0.46 recomputed from the released scores of three targets",
        test="fraction of (target, member) pairs whose ratio falls: above 0.5",
        above=0.5,
    ),
    "outliers": Claim(
        text="For outliers it falls almost always",
        source="proposition 1, discussion",
        published="close to 1; 0.66, 0.73, 0.49 recomputed",
        test="the same fraction among the tenth of greatest separation: above 0.9",
        above=0.9,
    ),
    "non-members": Claim(
        text="The ratio of non-members does not rise",
        source="our question: the argument is silent on them",
        published="it rises: it falls for 0.36, 0.25, 0.27, recomputed",
        test="fraction of (target, non-member) pairs whose ratio falls: above 0.45",
        above=0.45,
    ),
    "bound": Claim(
        text="No AUC is above 1/2 + D - D^2/2",
        source="theorem 1",
    ),
    "labels": Claim(
        text="Mixing the labels matters",
        source="our question",
        test="AUC of LiRA with references trained like each target, mixup minus mixing images only: below 0",
        below=0,
        margin=0.01,
        requires=("trained", "equal accuracy"),
    ),
    "stopping": Claim(
        text="It protects better than stopping early at the same accuracy",
        source="our question",
        test="AUC of the attack on critics that is strongest on each, mixup minus undefended GANs that stop early, interpolated "
        "between two stops: below 0",
        below=0,
        margin=0.01,
        requires=("trained", EQUAL_ACCURACY),
        decides=True,
    ),
    "exposed": Claim(
        text="It protects the most exposed records",
        source="our question; recomputed from released scores: TPR at 1 % FPR 34.8 % to 4.9 % (CelebA)",
        published="no value",
        test=f"TPR at {fpr:g} FPR of LiRA with natural references for both, mixup minus undefended: below 0",
        below=0,
    ),
}
list_claims(claims)

# %% [markdown]
# ## The reference run
#
# What follows comes from the last reference run on
# Fashion-MNIST, with CIFAR-10 and Location30 beside it: convolutional GANs, and such of layers without convolutions for the table
# (`make book PROFILE=standard`). It is read from `results/`.

# %% tags=["hide-input"]
if changed := reference_runs.standing(reference["verdicts"], claims):
    print(changed)

# %% tags=["hide-input"]
mixup_gan.beside(reference["audit"], reference["quality"], dataset="Fashion-MNIST")

# %% tags=["hide-input"]
if "generators" in reference:
    display(
        reference["generators"].set_index("defense").round(3).astype(object).fillna("-")
    )
reference["elsewhere"].wide("game", "measure")

# %% tags=["remove-input"]
if unused := mixup_gan.without_use(reference["elsewhere"]):
    print(unused)

# %% tags=["hide-input"]
if "progress" in reference:
    mia.plots.fid_by_steps(reference["progress"])
    plt.show()

# %% mystnb={"figure": {"caption": "The reference run on Fashion-MNIST: every attack against every arm, AUC pooled over target models. Hatched: what an arm was not played for.", "name": "fig-gan-reference"}, "image": {"alt": "Matrix of AUCs on Fashion-MNIST, a row for each attack grouped by what the attacker sees, a column for each arm."}} tags=["hide-input"]
mia.plots.matrix(reference["audit"], label="fashion_mnist")
plt.show()
# %% mystnb={"figure": {"caption": "The reference run: how often mixup lowers the likelihood ratio, by tenths of the separation of the two Gaussians; outliers are on the right.", "name": "fig-gan-reference-shifts"}, "image": {"alt": "Two panels of points with intervals over ten parts of equal size: the fraction of pairs on Fashion-MNIST whose ratio falls, for members and for non-members."}} tags=["hide-input"]
mia.plots.shifts(reference["shifts"])
plt.show()
# %% tags=["hide-input"]
reference["facts"]

# %% [markdown]
# ## The method
#
# Two records of a batch and their labels are mixed with one fraction for the whole batch,
#
# $$ \tilde x = \lambda x_1 + (1-\lambda)\, x_2 , \qquad \tilde y = \lambda y_1 + (1-\lambda)\, y_2 , \qquad
#    \lambda \sim \mathrm{Beta}(\alpha, \alpha) , $$
#
# and a Wasserstein GAN with gradient penalty {cite:p}`gulrajani2017wgangp` is trained on nothing else:
#
# $$ L_D = \frac1B\sum D(G(z, \tilde y), \tilde y) - \frac1B\sum D(\tilde x, \tilde y)
#    + 10\, \bigl(\lVert \nabla_{\hat x} D(\hat x, \tilde y) \rVert - 1\bigr)^2 , \qquad
#    L_G = - \frac1B\sum D(G(z, \tilde y), \tilde y) , $$
#
# with $\hat x$ on the line between $\tilde x$ and $G(z, \tilde y)$ and a step of the generator after each
# {glue:text}`gan_n_critic:d` of the critic. Samples are drawn with *hard* labels, which the generator has hardly ever been given in
# training.
#
# ```{admonition} What we had to assume, and where code and paper differ
# :class: note
# * $\alpha$: the paper names no value, its code takes 1. Other values are variants below.
# * Sizes: ours, and far smaller than the paper's (5,000 records, 64x64 pixels, 200 epochs). The published network for
#   CIFAR-10 fails at 32x32 pixels, and scales the images to a range that the generator cannot produce; ours does neither.
# * Labels enter the critic as a learned bias of its first layer rather than as extra image channels, which is the
#   same away from the border of the image.
# * Reference models: the published code scores the target among its own undefended references, and takes the mean over
#   64 generated records for the target but one for the references. Here the target is left out, and all losses are means over
#   as many.
# * PAR-GAN has several critics. What the published attack on it compares with references is the *least* of their losses, as each critic knows
#   other members: LiRA on the least loss here (`critic_lira_min`), beside the mean. With one critic, the two are the same.
# * RelaxLoss and PAR-GAN are re-implemented after their papers, not after the baselines published with this one, which update
#   the generator with one critic only, and use thresholds from models trained on the same records. RelaxLoss's level, the loss of
#   reference critics at the end of their training, is kept throughout.
# * MEGAN: no formula of its paper was available to us. Here the generator's loss is half the usual one, and half minus the entropy of what
#   the critic says.
# ```
#
# **Variants**: a Beta distribution with other $\alpha$; a fraction for each *record* instead of each batch; the *dominant*
# record's hard label; and mixing the *images only*. **Other defenses**: RelaxLoss {cite:p}`chen2022relaxloss`, PAR-GAN
# {cite:p}`chen2021pargan`, PrivGAN {cite:p}`mukherjee2021privgan`, MEGAN {cite:p}`shateri2023megan`, a critic trained with differential
# privacy, and early stopping, which costs nothing. MEGAN and the private critic need binary cross-entropy instead of the
# Wasserstein loss, so there is an undefended arm of that kind, too; and one without labels, a DCGAN {cite:p}`radford2016dcgan`
# in its convolutional form.

# %% tags=["hide-input"]
settings = mixup_gan.settings(
    {name: training | datasets[name] for name in [dataset, *compared]}, seed=seed
)
main = settings[dataset]
common = {"samples": samples, "fakes": fakes}
paired = {"n_models": n_models, "queries": mia.queries.Mixed(), **common}
print(main.pool, main.networks, main.training, sep="\n")

# %% [markdown]
# References of their own, undefended and trained with mixup, are GANs on other halves of the same pool. The natural ones give RelaxLoss its
# level; both serve attackers further below.

# %% tags=["hide-input"]
mixup = gan.defenses.Mixup(alpha=alpha)
main_arms = {"none": None, "mixup": mixup}
references = mixup_gan.play_each(main, main_arms, seed=seed + 1, **paired)
natural = references["none"]
probes = [
    gan.probes.WhiteBox(records=probed),
    gan.probes.PartialBlackBox(records=probed),
    gan.probes.ShadowCritic(steps=shadow_steps),
]
games = mixup_gan.play_each(main, main_arms, probes=probes, seed=seed, **paired)
glue("gan_n_critic", main.training.n_critic, display=False)
glue("gan_dataset", dataset, display=False)
glue("gan_n_models", n_models, display=False)
glue("gan_n_others", n_others, display=False)

# %% tags=["hide-input"]
private = gan.defenses.DPCritic(noise_multiplier=noise_multiplier)
level = gan.defenses.reference_level(natural)
others = {
    "mixup (per record)": gan.defenses.Mixup(alpha=alpha, per="record"),
    "mixup (dominant label)": gan.defenses.Mixup(alpha=alpha, label="dominant"),
    "mixup (images only)": gan.defenses.Mixup(alpha=alpha, label="own"),
    "relaxloss": gan.defenses.RelaxLoss(level=level),
    "par_gan": gan.defenses.ParGAN(critics=n_critics),
    "privgan": gan.defenses.PrivGAN(weight=privacy_weight),
    "none (cross-entropy)": {"training": cross_entropy},
    "megan": {"defense": gan.defenses.MEGAN(), "training": cross_entropy},
    "dp_critic": {"defense": private, "training": cross_entropy},
    "none (no labels)": {
        "networks": {"conditional": False},
        "training": cross_entropy,
    },
}
for value in other_alphas:
    others[f"mixup (alpha={value:g})"] = gan.defenses.Mixup(alpha=value)
for factor in relax_factors:
    others[f"relaxloss (level x {factor:g})"] = gan.defenses.RelaxLoss(factor * level)
for fraction in stops:
    stop = {"stop": max(1, round(fraction * main.training.steps))}
    others[f"early_stopping ({fraction:.0%})"] = {"training": stop}
others = {label: arm for label, arm in others.items() if not arms or label in arms}
games |= mixup_gan.play_each(main, others, n_models=n_others, seed=seed, **common)

# %% tags=["hide-cell"]
promise = private.report(
    SimpleNamespace(
        training=replace(main.training, **cross_entropy),
        n_members=int(games["none"].member[0].sum()),
    )
)
glue("gan_noise", noise_multiplier, display=False)
glue("gan_epsilon", float(promise["epsilon"]), display=False)
glue("gan_delta", float(promise["delta"]), display=False)

# %% [markdown]
# The private critic is trained with noise of {glue:text}`gan_noise:g` times the clipping norm. With so few records this promises little:
# $\varepsilon$ = {glue:text}`gan_epsilon:.0f` at $\delta$ = {glue:text}`gan_delta:.0e` for adding or removing one record, by the accountant
# of Opacus {cite:p}`yousefpour2021opacus`. RelaxLoss has two levels here: where critics are held at the loss that
# reference critics have on records they never saw, a generator may learn nothing; a little below, critics may never be held at all.

# %% mystnb={"figure": {"caption": "Samples of one GAN of each arm, a class a column, and above them some of the records that it was trained on.", "name": "fig-gan-samples"}, "image": {"alt": "Rows of small images, a block for the real members and for each defense, with a column for each class."}} tags=["hide-input"]
mia.plots.sample_grid(games, pool=main.pool, rows=1)
plt.show()
# %% [markdown]
# ## The paper's own evaluation
#
# Three attacks: LOGAN {cite:p}`hayes2019logan` queries the critic; GAN-Leaks {cite:p}`chen2020ganleaks` looks for the latent vector that
# reproduces a record best, here without the perceptual distance, whose network we cannot load; and LiRA {cite:p}`carlini2022lira`
# compares the loss $\ell = \overline{D(G(z, y), y)} - D(x, y)$ with the losses of reference models trained with the record and without
# it. All models are the target once, and the others, but its partner with the complementary half, are its references, trained with the
# same defense. Here are the two main arms with {glue:text}`gan_n_models:d` models each.

# %% tags=["hide-input"]
paper_attacks = [
    "logan",
    "critic_lira",
    "critic_lira_pooled",
    "gan_leaks_white_box",
    "gan_leaks_white_box_calibrated",
]
main_games = {name: games[name] for name in main_arms}
results = auditing.audit_each(main_games, paper_attacks, fprs=(fpr,))
results.summary("auc", attacks=paper_attacks).T

# %% [markdown]
# **What samples are worth.** Classifiers are trained on samples with their hard labels and tested on real records. FID
# {cite:p}`heusel2017fid` and KID {cite:p}`binkowski2018kid` are distances of features to those of test records. The features are those of a
# small network trained on the held-out reference records: **this is not Inception**, and the values can be compared with each
# other, but not with published ones. The FID is too large for few records, equally so for all arms.

# %% tags=["hide-input"]
worth = gan.quality.assess(games, main.pool)

# %% tags=["hide-input"]
worth.wide("defense", "metric")

# %% [markdown]
# **Is there a generator at all, and is its training over?** What critics know of their members says little about a defense if the
# generator has learned nothing. So no claim is judged on an arm whose samples teach classifiers hardly more than chance: the accuracy needed
# is one and a half times the fraction of the most frequent class. And the FID must be flat: after the last checkpoint it may change
# by {glue:text}`gan_flat:.0%` of itself at most. If it changes by more, and the interval over models excludes chance, nothing is judged;
# if chance may have done it, verdicts say that convergence is not shown. Checkpoints are games with fewer steps, which are what the whole
# ones were by then; only the two main arms are watched, with {glue:text}`gan_n_others:d` models each.

# %% tags=["hide-input"]
generators = mixup_gan.usability(games, main.pool)
equal = {label: game.subset(n_others) for label, game in games.items()}
watched = mixup_gan.watch(
    main, main_arms, equal, stops, n_models=n_others, seed=seed, **common
)
progress = mixup_gan.fid_by_steps(watched, main.pool)
glue("gan_flat", mixup_gan.FLAT, display=False)

# %% tags=["hide-input"]
generators.set_index("defense").round(3).astype(object).fillna("-")

# %% mystnb={"figure": {"caption": "FID over the steps of training, for the two main arms, with 95 % intervals over models.", "name": "fig-gan-progress"}, "image": {"alt": "The FID of undefended and of mixup-trained GANs at some steps of their training, each with intervals, joined by lines."}} tags=["hide-input"]
mia.plots.fid_by_steps(progress)
plt.show()
# %% [markdown]
# **All arms.** LiRA gets stronger with the number of references, so from here on arms are compared with
# {glue:text}`gan_n_others:d` models each, the first ones of the main arms.

# %% tags=["hide-input"]
every = mia.attacks.available("generator").index.drop("logan_auxiliary")
attacks = [*every, gan.attacks.LoganAuxiliary(epochs=auxiliary_epochs)]
comparison = auditing.audit_each(equal, attacks, pool=main.pool, fprs=(fpr,))

# %% mystnb={"figure": {"caption": "LiRA (one variance for all records) against the accuracy of classifiers trained on samples, with 95 % intervals both ways. The best corner is the lower right one.", "name": "fig-gan-utility"}, "image": {"alt": "A marker for each defense, the AUC of LiRA over the accuracy of classifiers trained on samples, with intervals both ways."}} tags=["hide-input"]
labeled = comparison[comparison["defense"] != "none (no labels)"]
mia.plots.privacy_utility(labeled, attack="critic_lira_pooled")
plt.show()
# %% [markdown]
# **Published values beside ours.** The data sets differ, so that only the order of the defenses can be compared.

# %% tags=["hide-input"]
mixup_gan.beside(comparison, worth)

# %% [markdown]
# **On other data sets.** `compared` names them; in the `standard` profile these are CIFAR-10 and Location30, a binary table.
# An arm without a usable generator says so; its attacks are shown, and compared with nothing. `needed` is the accuracy that
# makes one usable.

# %% tags=["hide-input"]
elsewhere = mixup_gan.across(
    {name: settings[name] for name in compared},
    main_arms,
    attacks=["logan", "critic_lira_pooled", "gan_leaks"],
    n_models=n_others,
    seed=seed,
    **common,
)
elsewhere.wide("game", "measure")

# %% [markdown]
# ## A harder evaluation
#
# ### All attacks
#
# `mia.attacks.available("generator")` lists what each attack needs. Besides those above: what a critic says that was trained
# on samples alone (LOGAN without access), how many samples come close (Monte Carlo, {cite:t}`hilprecht2019montecarlo`) or how close
# the closest one comes (GAN-Leaks without access), ratios of densities of samples and reference records
# ({cite:t}`vanbreugel2023domias`, and by nearest neighbors), and sets of records with a common membership
# {cite:p}`liu2019comembership`.

# %% tags=["hide-input"]
mia.attacks.available("generator")[["sees", "shadow models", "features", "probe"]]

# %% mystnb={"figure": {"caption": "Every attack against every arm: AUC pooled over target models. Hatched: what an arm was not played for, such as probes, mixed queries, or an attack that needs labels or more models.", "name": "fig-gan-matrix"}, "image": {"alt": "Matrix of AUCs, a row for each attack grouped by what the attacker sees, a column for each arm."}} tags=["hide-input"]
mia.plots.matrix(comparison, label=dataset)
plt.show()
# %% [markdown]
# **The strongest by what the attacker sees**, attacks on sets of records among them. Their intervals know that they were chosen for their value.

# %% tags=["hide-input"]
ClaimsTable(comparison.strongest("auc").T)

# %% [markdown]
# The strongest attack on the critics of the two main arms is judged below. It is chosen on the reference models, GANs of the same arms
# with other members, so that it does not look better than it is. Attacks on sets of records are left to the next section.

# %% tags=["hide-input"]
strongest = mixup_gan.strongest(references, mixup_gan.on_critics())
strongest

# %% mystnb={"figure": {"caption": "LiRA (one variance for all records) against undefended GANs, mixup and its controls, both axes logarithmic. Bands: 95 % intervals over targets and records, point by point.", "name": "fig-gan-roc"}, "image": {"alt": "Log-log ROC curves of LiRA with bands for several arms, and the diagonal of chance."}} tags=["hide-input"]
shown = ("none", "mixup", "relaxloss", "par_gan", f"early_stopping ({stops[-1]:.0%})")
mia.plots.roc(
    {label: equal[label] for label in shown if label in equal},
    "critic_lira_pooled",
)
plt.show()
# %% [markdown]
# ### Attackers who know of the defense
#
# Critics that have seen mixtures only are queried with mixtures: each record is mixed with another one that is known to have the same
# membership, at fractions of 0.2, 0.5 and 0.8, and the losses are averaged (*mixed pairs*). Its references may be natural or
# trained with mixup. Mixed pairs are evaluated by pairs of records, the others by single records; a pair is known to be in or out as a
# whole, which makes its attack easier.

# %% tags=["hide-input"]
ours = games["mixup"]
views = {
    "undefended": games["none"].with_shadows(natural),
    "mixup, natural references": ours.with_shadows(natural),
    "mixup, mixup references": ours.with_shadows(references["mixup"]),
}
adaptive_attacks = [
    "critic_lira_pooled",
    mia.attacks.CoMembership(of="critic_lira_pooled", size=2),
    "critic_mixed_pairs_pooled",
]
adaptive = auditing.audit_each(views, adaptive_attacks, fprs=(fpr,))
adaptive.summary("auc").T

# %% [markdown]
# ### Copies
#
# The plainest check: is a sample closer to a member than to a non-member more than half of the time?

# %% tags=["hide-input"]
gan.quality.memorization(games, main.pool).wide("defense", "metric")

# %% [markdown]
# ### What the theory says
#
# **The bound.** If the distributions of the likelihood ratio on members and on non-members are at total variation distance
# $D$, then $\mathrm{AUC} \le \frac12 + D - \frac12 D^2$ {cite:p}`kairouz2015composition`; and for Gaussians $D \le \sqrt2 H$, with the Hellinger
# distance $H$ in closed form. Mixup is to lower the mean ratio of members, and with it this bound. A bound that moves is no proof that the
# AUC moves.

# %% mystnb={"figure": {"caption": "The measured AUC of LiRA and its bound. A marker stands at the distance that the best threshold shows; its bar reaches from an estimate that errs downward to one that errs upward. Crosses: the bound for Gaussians.", "name": "fig-gan-bounds"}, "image": {"alt": "The curve of the bound over the distance from 0 to 1, and below it a marker with intervals both ways for each of several arms."}} tags=["hide-input"]
mia.plots.bounds(
    {
        label: auditing.distances.bounds(equal[label], "critic_lira_pooled")
        for label in shown
        if label in equal
    }
)
plt.show()
# %% [markdown]
# **Record by record.** The target with the defense and the target without it have the same members, and are measured by the same
# references. Proposition 1 says that where mixup raises the loss of a member, its ratio falls with a probability above one half, which is close
# to one for outliers. With one variance for all records, as here, that is all but certain; what is not, is how often the loss rises. So we
# count how often the ratio falls, whatever the loss did. The argument has nothing to say about non-members, but an attacker's AUC
# depends on both.

# %% tags=["hide-input"]
shifts = mixup_gan.ratio_shifts({"mixup": ours}, games["none"], variance="pooled")

# %% mystnb={"figure": {"caption": "How often mixup lowers the likelihood ratio of a (target, record) pair, for members and for non-members, by tenths of the separation of the two Gaussians; outliers are on the right. The line at one half: no effect.", "name": "fig-gan-shifts"}, "image": {"alt": "Two panels of points with intervals over ten parts of equal size: the fraction of pairs whose ratio falls, for members and for non-members."}} tags=["hide-input"]
mia.plots.shifts(shifts)
plt.show()
# %% [markdown]
# (mixup-gan-verdicts)=
# ## Verdicts
#
# Verdicts follow [the rules of this book](many-claims). A claim *holds* or *does not hold* if its whole 95 % interval lies on one
# side of the bound, after adjusting for the number of claims; it is *negligible* within the stated margin, *not comparable* if a
# condition has failed, and otherwise *not settled*. Conditions are a usable generator and a flat FID of every arm that a claim is
# about; where nobody watched the FID, the verdict says so. All are tested on {glue:text}`gan_dataset`, with LiRA in the form
# with one variance for all records, which is steadier with few references.

# %% tags=["hide-input"]
least = "critic_lira_min_pooled"
none, lira, leaks = games["none"], "critic_lira_pooled", "gan_leaks_white_box"
pairs = "critic_mixed_pairs_pooled"
of_natural, of_mixup = (
    views[f"mixup, {kind} references"] for kind in ("natural", "mixup")
)
few = equal["mixup"]
last_stop = f"early_stopping ({stops[-1]:.0%})"
measured = {
    "logan": mia.difference((ours, "logan"), (none, "logan")),
    "lira": mia.difference((of_natural, lira), (views["undefended"], lira)),
    "lira own": mia.difference((ours, lira), (none, lira)),
    "strongest": mia.difference((ours, strongest["mixup"]), (none, strongest["none"])),
    "stopping": auditing.at_equal(
        few,
        watched["none"],
        mixup_gan.on_critics(),
        condition=EQUAL_ACCURACY,
        training_of=equal["none"],
    ),
    "leaks": results.interval(leaks, "auc", defense="none"),
    "leaks mixup": mia.difference((ours, leaks), (none, leaks)),
    "accuracy": mia.difference((ours, None), (none, None), metric="test_accuracy"),
    "fid": gan.quality.difference(none, ours, main.pool, "fid"),
    "adaptive": mia.difference((of_natural, pairs), (views["undefended"], lira)),
    "references": mia.difference((of_natural, pairs), (of_mixup, pairs)),
    "proposition": mixup_gan.shift(shifts, "mixup", "members", n_pairs=n_models // 2),
    "outliers": mixup_gan.shift(
        shifts, "mixup", "members", part=10, n_pairs=n_models // 2
    ),
    "non-members": mixup_gan.shift(
        shifts, "mixup", "non-members", n_pairs=n_models // 2
    ),
    "bound": ByConstruction("a property of distributions; the figure above shows it"),
    "exposed": mia.difference(
        (of_natural, lira), (views["undefended"], lira), metric=f"tpr@{fpr:g}"
    ),
} | where_played(
    games,
    {
        "relaxloss": ("relaxloss", lambda g: mia.difference((few, lira), (g, lira))),
        "relaxloss accuracy": (
            "relaxloss",
            lambda g: mia.difference((few, None), (g, None), metric="test_accuracy"),
        ),
        "par_gan": ("par_gan", lambda g: mia.difference((few, least), (g, least))),
        "labels": (
            "mixup (images only)",
            lambda g: mia.difference((few, lira), (g, lira)),
        ),
    },
)
about = dict.fromkeys(claims, tuple(main_arms)) | {
    "leaks": ("none",),
    "relaxloss": ("mixup", "relaxloss"),
    "relaxloss accuracy": ("mixup", "relaxloss"),
    "par_gan": ("mixup", "par_gan"),
    "labels": ("mixup", "mixup (images only)"),
    "stopping": ("none", "mixup"),
}
findings = mixup_gan.under_conditions(
    measured, about, generators, progress, stopped=[last_stop]
)
verdicts = judge(claims, findings)
answers.beside(
    verdicts,
    reference["verdicts"],
    audit=comparison,
    reference_audit=reference["audit"],
)

# %% tags=["hide-cell"]
if save_as:
    reference_runs.save(
        save_as,
        audit=comparison,
        main=results,
        adaptive=adaptive,
        elsewhere=elsewhere,
        quality=worth,
        generators=generators,
        progress=progress,
        shifts=shifts,
        verdicts=verdicts,
    )
for arm in main_arms:
    auc = results.interval(lira, "auc", defense=arm).value
    glue(f"gan_lira_{arm}", auc, display=False)
    glue(f"gan_accuracy_{arm}", float(games[arm].test_accuracy.mean()), display=False)

# %% [markdown]
# In this run LiRA with references trained like the target has an AUC of {glue:text}`gan_lira_none:.3f` against undefended GANs and of
# {glue:text}`gan_lira_mixup:.3f` against GANs trained with mixup; classifiers trained on their samples have accuracies of
# {glue:text}`gan_accuracy_none:.3f` and {glue:text}`gan_accuracy_mixup:.3f`.
#
# Every value of the run, pooled over target models, to sort and to search:

# %% tags=["hide-input"]
itables.show(
    comparison.pooled().drop(columns="target").as_text(),
    classes="display compact",
    showIndex=False,
)

# %% [markdown]
# ## Scores made elsewhere
#
# `mia.auditing.audit_scores` evaluates losses that another group released, of targets and of reference models, in the same way: with the target left out
# of its references, a threshold for each kind of attack, and intervals. Here it is given the losses of the undefended GANs above, as
# arrays: the first two are the targets.

# %% tags=["hide-input"]
losses, members = none.critic_loss[:, 0], none.member
auditing.audit_scores(
    target_loss=losses[:2],
    target_member=members[:2],
    reference_loss=natural.critic_loss[:, 0],
    reference_member=natural.member,
    fprs=(fpr,),
).summary()
