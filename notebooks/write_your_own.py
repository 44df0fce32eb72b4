# %% [markdown]
# # Write a defense, write an attack
#
# A defense is a small class that overrides the steps of training that it changes. An attack is a function from a game to
# one score for each target and record. This page writes one of each, plays them, and measures what they do; it is
# executed whenever the book is built. The steps that a defense may override are listed in {doc}`/book/how_built`.

# %% tags=["parameters"]
dataset = "clusters"  # a name of mialab.datasets(), or a file of your own
size = 600  # records in the pool; each model is trained on half of them
hidden = [64]  # widths of the hidden layers
n_models = 8  # models per arm; each plays the target in turn
epochs = 30
seed = 0

# %% tags=["hide-input"]
from dataclasses import dataclass
from typing import ClassVar

import matplotlib.pyplot as plt
import torch

import mialab as mia

mia.plots.style()

# %% [markdown]
# ## A defense
#
# This one works twice: in training it adds noise to the inputs of every batch, and when it is queried it rounds the
# probabilities of its answers, so that an attacker sees less of them. Parameters are fields of the dataclass: they are
# part of what a stored game is found by. Tensors have a leading model dimension, so that several models can be trained
# in one go. Random numbers come from the run, a stream for each model: a game comes out the same on any machine.


# %%
@dataclass(frozen=True)
class NoiseAndRounding(mia.defenses.Defense):
    """Noise on the inputs in training, rounded probabilities in answers."""

    name: ClassVar[str] = "noise_and_rounding"
    sigma: float = 0.5
    digits: int = 1

    def mix(self, x, y, *, progress, rng):
        return x + self.sigma * rng.normal(*x.shape[1:]), y

    def answer(self, run, logits, x, record, query):
        p = torch.softmax(logits, dim=-1).round(decimals=self.digits)
        return torch.log(p.clamp(min=10**-self.digits / 4))


# %% [markdown]
# ## An attack
#
# A plain function is an attack: it gets the game and returns a score for each target and record, higher for members.
# `game.signal` reads a number from every answer, as an array of models, queries and records. Here the answers to changed
# copies of a record are averaged, which wears rounding away. Decisions need a threshold; it comes from the scores of the
# other models, whose members the attacker knows.


# %%
def mean_over_copies(game):
    """The log odds of the label, averaged over the record and its copies."""
    return game.signal("scaled_logit").mean(axis=1)


# %% [markdown]
# ## Play, and measure
#
# Both arms have the same members, initial weights and batches; the defense is the only difference. Accuracy comes first:
# an arm that has not learned protects in a trivial way.

# %%
pool = mia.load(dataset, size=size, seed=seed)
common = {
    "model": mia.models.MLP(hidden=tuple(hidden), activation="relu"),
    "training": mia.Training(epochs=epochs),
    "queries": "augmented",
    "n_models": n_models,
    "seed": seed,
}
games = {
    "none": mia.play(pool, defense=None, **common),
    "noise_and_rounding": mia.play(pool, defense=NoiseAndRounding(), **common),
}
mia.auditing.accuracy(games)

# %% [markdown]
# The attack is used wherever a name is: in audits, differences and figures.

# %%
attacks = ["loss", mean_over_copies, "lira_pooled"]
table = mia.compare({name: mia.audit(game, attacks) for name, game in games.items()})
table.summary("auc")

# %%
change = mia.difference(
    (games["noise_and_rounding"], mean_over_copies), (games["none"], mean_over_copies)
)
print(f"AUC, defended minus undefended: {change:.3f}")

# %% mystnb={"figure": {"caption": "The attack of this page against both arms, all targets pooled, both axes logarithmic. Bands: 95 % intervals over targets and records.", "name": "fig-own-roc"}, "image": {"alt": "Log-log ROC curves with bands of the attack that averages over copies, for undefended models and for the defense of this page, and the diagonal of chance."}} tags=["hide-input"]
mia.plots.roc(games, mean_over_copies)
plt.show()

# %% [markdown]
# ## Make it known by name
#
# `@mia.defenses.register` above the class makes the defense known by its name: `mia.play(pool, defense="noise_and_rounding")`
# finds it, and tables of every defense against every attack list it. {doc}`/book/rerun` tells how a notebook becomes a
# chapter of the book.
