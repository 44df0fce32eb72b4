# %% [markdown]
# # Cost and scale
#
# Shadow models are what a membership-inference study costs. This page measures what a game takes in time, memory and
# disk, shows how the engine compares with the loops of published code, and says what to do when one machine is too
# small: keep less of the answers, score without loading them, or send the trainings to a cluster.

# %% tags=["parameters"]
dataset = "digits"  # a name from mialab.datasets(), or an .npz file
hidden = [256, 256]  # widths of the network's hidden layers
epochs = 10
models = [4, 8, 16, 32]  # numbers of models to play with
records = [200, 400, 800, 1600]  # sizes of the pool
n_queries = 16  # changed copies of each record, in the last game
cluster = True  # whether to start a cluster of two workers on this machine
seed = 0

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from myst_nb import glue

import mialab as mia
from mialab.book import reference_runs
from mialab.chapters import scale

mia.plots.style()

# %% [markdown]
# ## What a game costs
#
# A game is $K$ trainings and $K \times n$ answers, so its cost should grow in proportion to the number of models and to
# the number of records, and its memory should not grow with the models at all: a finished group of models is written to
# the store before the next one begins. Below, games of growing size are played with the network of the parameters
# above.


# %%
def play(n_models, size):
    """Play a game of some size."""
    return mia.play(
        mia.load(dataset, size=size, validation=0, test=100, seed=seed),
        model=mia.models.MLP(hidden=hidden),
        training=mia.Training(epochs=epochs),
        n_models=n_models,
        seed=seed,
    )


by_models = scale.costs(play(k, max(records)) for k in models)
by_records = scale.costs(play(max(models), n) for n in records)

# %% tags=["hide-input"]
pd.concat([by_models, by_records.iloc[:-1]]).style.format(precision=1).hide()

# %% mystnb={"figure": {"caption": "Time of all trainings and answers, added up over worker processes, against the number of models and of records. The gray line is proportional growth through the last point.", "name": "fig-cost"}, "image": {"alt": "Two panels with logarithmic axes. In both the measured core seconds follow a straight line close to the gray line of proportional growth."}} tags=["hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
for axes, costs, column in zip(
    panels, (by_models, by_records), ("models", "records"), strict=True
):
    size, seconds = costs[column], costs["core seconds"]
    axes.plot(size, seconds.iloc[-1] * size / size.iloc[-1], color="0.7")
    axes.plot(size, seconds, "o-", color=mia.plots.color("none"))
    axes.set(xscale="log", yscale="log", xlabel=column.capitalize())
    axes.set_xticks(size, size)
    axes.minorticks_off()
panels[0].set_ylabel("Core seconds")
plt.show()

# %% tags=["hide-cell"]
for name, costs in (("models", by_models), ("records", by_records)):
    fit = scale.exponent(costs[name], costs["core seconds"])
    glue(f"exponent_{name}", fit, display=False)
glue("peak_low", float(by_models["peak MB"].min()), display=False)
glue("peak_high", float(by_models["peak MB"].max()), display=False)

# %% [markdown]
# The fitted exponents are {glue:text}`exponent_models:.2f` for models and {glue:text}`exponent_records:.2f` for records,
# where 1 is proportional growth; smaller values mean that some costs do not grow. The process that trains takes
# {glue:text}`peak_low:.0f` to {glue:text}`peak_high:.0f` MB, most of it libraries, whatever the number of models. Times
# are those of the run that trained these models, on the machine that built this page; {ref}`how-it-compares` has a
# benchmark with repetitions.
#
# (how-it-compares)=
# ## How the engine compares
#
# Published code trains shadow models one after another through a `DataLoader`. `python benchmarks/engine.py` measures
# the same job three ways in one run: that loop, the same loop without the `DataLoader`, and `mialab.play` with its
# defaults, storing included. The values are from the last reference run.

# %% tags=["hide-input"]
engine = reference_runs.load_benchmark("engine")
about = engine.attrs
glue("engine_machine", f"{about['processor']}", display=False)
glue("engine_date", about["date"][:10], display=False)
glue("engine_commit", about["commit"], display=False)
glue("engine_torch", about["versions"]["torch"], display=False)
races = engine[engine["ratio_to_loader"].notna()]
races.pivot(index="workload", columns="variant", values="ratio_to_loader")[
    ["loader", "plain", "engine", "engine, first call"]
].style.format("{:.1f} x")

# %% [markdown]
# Processor: {glue:text}`engine_machine`; torch {glue:text}`engine_torch`; commit {glue:text}`engine_commit`;
# {glue:text}`engine_date`. "engine" is a session whose worker processes run already; the first game of a session also
# waits some seconds for them to start ("first call").

# %% mystnb={"figure": {"caption": "How many times as fast as a loop over a DataLoader with default threads, wall clock, from the reference run. The dashed line is that loop.", "name": "fig-engine"}, "image": {"alt": "Horizontal bars for each workload: the plain loop without DataLoader and the engine, as multiples of the speed of the DataLoader loop."}} tags=["hide-input"]
figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
shown = {"plain": "0.6", "engine": mia.plots.color("none")}
names = list(dict.fromkeys(races["workload"]))
for offset, (variant, color) in zip((-0.2, 0.2), shown.items(), strict=True):
    ratio = races[races["variant"] == variant].set_index("workload")["ratio_to_loader"]
    axes.barh(
        np.arange(len(names)) + offset,
        ratio.reindex(names),
        height=0.36,
        color=color,
        label={"plain": "the same without DataLoader", "engine": "mialab.play"}[
            variant
        ],
    )
axes.axvline(1, color="black", linestyle="--", linewidth=1)
axes.set(yticks=range(len(names)), xlabel="Speed, in multiples of the DataLoader loop")
axes.set_yticklabels(names)
axes.invert_yaxis()
axes.grid(axis="y", visible=False)
axes.legend()
plt.show()

# %% [markdown]
# Where the gain comes from depends on the network. Small ones spend their time on overhead: up to sixteen are trained in
# one tensor program. Networks with convolutions, and those of more than 50,000 parameters, are trained one at a time, a
# single-threaded process per core; on processors with AVX512-BF16 or AMX the training steps are computed in bfloat16, images laid out channels last. Large fully connected networks at small batches gain least: each step moves
# all weights and the optimizer's state through memory, for little arithmetic. {doc}`../how_built` has the rules.
#
# Scoring is compared in the same way, `python benchmarks/scoring.py`: CPU seconds, and how many times as fast that is
# as a plain loop over targets.

# %% tags=["hide-input"]
scoring = reference_runs.load_benchmark("scoring").dropna(subset="ratio_to_plain")
ours = scoring[scoring["variant"].str.startswith("mialab")]
ours.drop_duplicates("workload").set_index("workload")[
    ["seconds", "ratio_to_plain"]
].set_axis(["CPU s", "x plain"], axis=1).style.format("{:.3g}")

# %% [markdown]
# And every attack on one game of 64 models, 10,000 records and 30 classes, scores, thresholds and what is read off the
# answers included, in seconds of wall clock:

# %% tags=["hide-input"]
every = reference_runs.load_benchmark("scoring").query(
    "variant == 'mialab, wall clock'"
)
every.set_index(every["workload"].str.split(", 64 x").str[0])[["seconds"]].rename_axis(
    None
).style.format("{:.1f}")

# %% [markdown]
# ### Beside other packages
#
# `python benchmarks/peers.py` gives the same job to packages from PyPI: train the shadow models of one target, let them
# answer, score every record by online LiRA. All get the same records, memberships, network and optimizer; those without
# LiRA (ART) get the formulas from the benchmark. They run with one thread and with torch's default number, and the better
# time counts. `mialab.play` stores all answers besides and has the scores of every model as the target. The networks are
# small and two epochs are short, so fixed costs weigh much; the loop is the one above, without the `DataLoader`.

# %% tags=["hide-input"]
peers = reference_runs.load_benchmark("peers")
ours = peers[peers["workload"].str.startswith("B1")]
seconds = (
    ours.assign(package=ours["variant"].str.removesuffix(", 1 thread"))
    .groupby(["workload", "package"], sort=False)["seconds"]
    .min()
    .unstack()
    .rename(columns={"plain": "a plain loop"})
    .drop(columns="loader")
)
others = seconds.drop(columns=["mialab", "a plain loop"])
faster = others.min(axis=1) / seconds["mialab"]
glue("peers_date", peers.attrs["date"][:10], display=False)
glue("peers_machine", peers.attrs["processor"], display=False)
seconds.rename(index=lambda job: job.removeprefix("B1 ")).rename_axis(
    index=None, columns="seconds"
).assign(
    **{
        "best package / mialab": faster.rename(
            index=lambda job: job.removeprefix("B1 ")
        )
    }
).style.format("{:.2f}")

# %% [markdown]
# Processor: {glue:text}`peers_machine`; {glue:text}`peers_date`.
#
# ## What is stored
#
# `play` keeps every answer, because any attack can then be run later. That is cheap for ten classes and dear for a
# thousand. `answers="float16"` halves it; `keep="scores"` keeps a few numbers of each answer, the signals that most
# attacks use (`mialab.classifiers.signals`), whatever the number of classes. Attacks that need the whole answer refuse such a game.
# The arithmetic, uncompressed:


# %% tags=["hide-input"]
def gigabytes(n_records, n_models, n_classes, **options):
    """Size of a game in the store."""
    return scale.stored_bytes(n_records, n_models, n_classes, **options) / 1e9


sizes = [(50_000, 64, 10), (50_000, 256, 100), (1_000_000, 256, 1000)]
pd.DataFrame(
    {
        f"{n:,} records, {k} models, {c:,} classes": {
            "logits, float32": gigabytes(n, k, c),
            "logits, float16": gigabytes(n, k, c, answers="float16"),
            "scores": gigabytes(n, k, c, keep="scores"),
            "one signal, in memory": scale.signal_bytes(n, k) / 1e9,
        }
        for n, k, c in sizes
    }
).T.rename_axis(columns="GB").style.format("{:,.2f}")

# %% [markdown]
# The last column is what an attack on one signal holds in memory when it scores all targets at once.
#
# ## Scoring a game that does not fit into memory
#
# Logits are never loaded as a whole. An attack requests a signal, and the signal is computed with dask arrays, chunk by
# chunk from the store. Below, every record is queried in many copies; all answers together are larger than the memory
# that the audit may take.

# %%
copies = mia.load(dataset, size=max(records), validation=0, test=100, seed=seed)
wide = mia.play(
    copies,
    model=mia.models.MLP(hidden=hidden),
    training=mia.Training(epochs=epochs),
    queries=mia.queries.Noise(n=n_queries),
    n_models=max(models),
    seed=seed,
)
table, audit_mb = scale.allocated(lambda: mia.audit(wide, ["loss", "lira", "rmia"]))
table.summary("auc")

# %% tags=["hide-cell"]
glue("logits_mb", wide.dataset["logits"].nbytes / 1e6, display=False)
glue("audit_mb", audit_mb, display=False)

# %% [markdown]
# The game's logits are {glue:text}`logits_mb:.0f` MB; the audit held {glue:text}`audit_mb:.0f` MB at most.
#
# ## A cluster
#
# Groups of models are independent tasks. Inside `joblib.parallel_config(backend="dask")` they go to the workers of the
# active [dask](https://distributed.dask.org) client, wherever those are (`pip install mialab[cluster]`). Workers load the
# pool by name and compare its fingerprint, train, and write to the store themselves; a worker that dies costs its group,
# which another one takes over. On this machine:

# %%
if cluster:
    import joblib
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs="CRITICAL",
        ) as workers,
        Client(workers),
        joblib.parallel_config(backend="dask"),
    ):
        game = mia.play(
            mia.load(dataset, size=200, validation=0, test=100, seed=seed),
            model=mia.models.MLP(hidden=hidden),
            n_models=8,
            seed=seed,
        )
    print(game)

# %% [markdown]
# The game is the same as one that is played without a cluster, to the last bit if the processors are alike. On a SLURM
# cluster only the first lines differ (`pip install dask-jobqueue`; documented here, not run by this book):
#
# ```python
# from dask_jobqueue import SLURMCluster
#
# workers = SLURMCluster(
#     cores=16, processes=16, memory="64GB", walltime="04:00:00",
#     job_script_prologue=["export MIALAB_DATA=/shared/data"],
# )
# workers.scale(jobs=8)                      # 8 x 16 workers of one thread each
# with Client(workers), joblib.parallel_config(backend="dask"):
#     game = mia.play(pool, n_models=256, store="/shared/games")
# ```
#
# `play` waits until the queue has started a first worker. For GPUs, `cores=1, processes=1,
# job_extra_directives=["--gres=gpu:1"]` gives one worker per GPU, and `play(workers=8)` says among how many to divide the
# models, as few may be there when it begins. On Kubernetes (`pip install dask-kubernetes s3fs`, and dask's operator in
# the cluster; not run either), with a bucket instead of a shared folder:
#
# ```python
# from dask_kubernetes.operator import KubeCluster
#
# workers = KubeCluster(
#     name="mialab", image="registry.example/mialab:1", n_workers=32,
#     worker_command="dask worker --nthreads 1", env={"MIALAB_DATA": "/data"},
# )
# with Client(workers), joblib.parallel_config(backend="dask"):
#     game = mia.play(pool, n_models=256, keep="scores", store="s3://bucket/mialab")
# ```
#
# What must be shared: the store (a folder on a file system that all machines mount, or any URL that
# [fsspec](https://filesystem-spec.readthedocs.io) knows), the data (`MIALAB_DATA` on each worker; arrays of your own
# are sent instead), and the Python environment. Workers have one thread each. Device, precision and the size of
# groups are decided by the worker that answers first, so workers should be alike.
#
# ## Interruptions
#
# A model counts as done once its checksum is in the store, and the checksum is written last. A killed run goes on where
# it stopped: call `play` again with the same parameters. What is lost are the groups in flight, one network each on a
# processor, up to sixteen where they are small. Stored answers that were damaged are named and trained again. Two
# processes that ask for the same game in the same folder do the work once; at a URL nothing keeps them from doing it
# twice, with the same result.
#
# | variable | what |
# | --- | --- |
# | `MIALAB_CACHE` | folder of downloads and games; the user's cache folder by default |
# | `MIALAB_GAMES` | folder or URL of games only, like `play(store=...)` |
# | `MIALAB_DATA` | folder that is searched for data sets before anything is downloaded |
#
# ## Limits
#
# * A group is trained by one process on one device; a single model larger than one machine is out of reach.
# * The GPU path is written and its rules are tested without a GPU, but no value on this page comes from one.
# * Everything but the answers is held in memory: the pool, and one signal of all answers for an attack on all targets.
