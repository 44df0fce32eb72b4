# %% [markdown]
# # A new chapter
#
# One sentence on the question, and where it comes from.

# %% tags=["parameters"]
seed = 0
n_points = 50

# %% [markdown]
# ## Method
#
# What is done, as a formula if it has one: $y = x^2$.

# %%
import matplotlib.pyplot as plt
import numpy as np
from myst_nb import glue

# %%
rng = np.random.default_rng(seed)
x = np.sort(rng.uniform(-1, 1, n_points))
y = x**2
glue("template_mean", float(y.mean()), display=False)

# %% [markdown]
# ## Result
#
# A number in a sentence comes from the run, never from the keyboard: the mean is {glue:text}`template_mean:.2f`.

# %% mystnb={"figure": {"caption": "What is on the axes, and what to see.", "name": "fig-template"}, "image": {"alt": "A parabola through the origin."}} tags=["hide-input"]
figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
axes.plot(x, y)
axes.set(xlabel="x", ylabel="y")
plt.show()
