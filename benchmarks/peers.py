"""The peers' own jobs: ART, SACRO-ML and PrivacyGuard beside this package, wall clock, on the same arrays.

    python benchmarks/peers.py [--only B1 B1-64 B1-long B2 B3 B4 B7] [--json FILE]

B1  LiRA online, end to end: train 16 shadow models of an MLP 600-64-100 and a target, each on half of 4,000 records,
    let them answer, score every record; B1-64 with 64 of them, B1-long for 20 epochs instead of 2
B2  the same with an MLP 30-64-2 and 32 shadow models; B3 with a small CNN on 28x28 images and 8 shadow models
B4  scoring alone: the scores of peers with the same definition, rank for rank
B7  resuming: a run that is killed half-way, and what a second run makes of changed records

Each variant has a process of its own; they take turns, and the smallest of the repeats counts. Peers run with as
many threads as PyTorch takes by default, and with one; compare with the better. Importing is not measured. A peer that
is not installed is skipped, and a line says so.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import common
import loops
import numpy as np
import torch
from common import FreshProcess, Row
from scipy.stats import norm, spearmanr
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

import mialab as mia
from mialab.models import CNN, MLP, Model
from mialab.training.membership import membership
from mialab.training.streams import generator

#: Name, distribution on PyPI and module of each peer.
PEERS = {
    "ART": ("adversarial-robustness-toolbox", "art"),
    "SACRO-ML": ("sacroml", "sacroml"),
    "PrivacyGuard": ("privacyguard-platform", "privacy_guard"),
}
#: What PrivacyGuard's own training function does, and cannot be told; so all others do it too.
SGD = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
BATCH = 128


def installed() -> dict[str, str]:
    """Versions of the peers that are here; says how to install the others."""
    versions = {}
    for peer, (distribution, module) in PEERS.items():
        try:
            versions[peer] = metadata.version(distribution)
            if module == "privacy_guard":
                importlib.import_module("mialab._torchvision")  # without it torchvision may not load
            importlib.import_module(module)
        except (ImportError, metadata.PackageNotFoundError) as error:
            versions.pop(peer, None)
            print(f"SKIPPED {peer}: {error}. Install it with: pip install -e '.[peers]'", flush=True)
    return versions


@dataclass(frozen=True)
class Job:
    """Shadow models and a target to train and score."""

    name: str
    shape: tuple[int, ...]
    n_classes: int
    model: Model
    n_shadows: int
    n_records: int
    epochs: int
    most_repeats: int = 99

    def records(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        y = rng.integers(self.n_classes, size=self.n_records)
        x = rng.normal(size=(self.n_classes, *self.shape))[y] + 1.5 * rng.normal(
            size=(self.n_records, *self.shape)
        )
        return x.astype(np.float32), y

    def member(self) -> np.ndarray:
        """Members of the target (row 0) and of the shadow models, (model, record).

        The target's partner is left out, so that of the shadow models half are trained on each record.
        """
        return np.delete(membership(self.n_shadows + 2, self.n_records, seed=0), 1, axis=0)

    def network(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return self.model(self.shape, self.n_classes)


def jobs(quick: bool) -> dict[str, Job]:
    mlp, tabular = MLP((64,), activation="relu"), MLP((64,), activation="relu")
    found = {
        "B1": Job("B1 MLP 600-64-100, K=16", (600,), 100, mlp, 16, 4000, 2),
        "B1-64": Job("B1 MLP 600-64-100, K=64", (600,), 100, mlp, 64, 4000, 2, 3),
        "B1-long": Job("B1 MLP 600-64-100, K=16, 20 epochs", (600,), 100, mlp, 16, 4000, 20, 2),
        "B2": Job("B2 MLP 30-64-2, K=32", (30,), 2, tabular, 32, 2000, 2),
        "B3": Job("B3 CNN 28x28, K=8", (1, 28, 28), 10, CNN((8, 16), hidden=32), 8, 2000, 2, 3),
    }
    if quick:
        return {"B1": Job("B1 MLP 600-64-100, K=4", (600,), 100, mlp, 4, 200, 1)}
    return found


# ---- the same job by everybody: scores of the target on all records ---------------------------------------------


def online_lira(phi: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Scores of the model in row 0, by the formulas as they stand; for those who have no LiRA."""
    means, stds = [], []
    for side in (member[1:], ~member[1:]):
        count = np.maximum(side.sum(0), 2)  # fewer happen where each model draws its own members
        mean = np.where(side, phi[1:], 0).sum(0) / count
        squares = np.where(side, (phi[1:] - mean) ** 2, 0).sum(0) / (count - 1)
        means.append(mean)
        stds.append(np.sqrt(squares) + 1e-8)
    return norm.logpdf(phi[0], means[0], stds[0]) - norm.logpdf(phi[0], means[1], stds[1])


def scaled_logit(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    own = np.take_along_axis(logits, y[:, None], 1)[:, 0]
    others = logits.copy()
    np.put_along_axis(others, y[:, None], -np.inf, 1)
    return own - np.logaddexp.reduce(others, axis=1)


def by_loop(job: Job, folder: str, *, loader: bool) -> np.ndarray:
    """With a plain PyTorch loop."""
    records = TensorDataset(*map(torch.as_tensor, job.records()))
    x, y = records.tensors

    def make(k: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        network = job.network(k)
        return network, torch.optim.SGD(network.parameters(), **SGD)

    options = {"epochs": job.epochs, "batch_size": BATCH, "loader": loader}
    logits = loops.train(make, records, job.member(), queries=lambda: x.split(BATCH), **options)
    np.savez(f"{folder}/answers.npz", logits=np.stack(logits))
    return online_lira(np.stack([scaled_logit(z, y.numpy()) for z in logits]), job.member())


def by_mialab(job: Job, folder: str) -> np.ndarray:
    """With this package: two models more, and the scores of all of them as targets."""
    os.environ["MIALAB_CACHE"] = folder
    x, y = job.records()
    kind = "image" if len(job.shape) == 3 else "tabular"
    pool = mia.Pool("peers", x=x, y=y, n_classes=job.n_classes, kind=kind)
    training = mia.Training(epochs=job.epochs, batch_size=BATCH, optimizer="sgd", **SGD)
    game = mia.play(pool, model=job.model, training=training, n_models=job.n_shadows + 2)
    return mia.attacks.make("lira").scores(game)[0]


def by_art(job: Job, folder: str) -> np.ndarray:
    """With ART's shadow models; it has no LiRA, so the formulas above follow."""
    from art.attacks.inference.membership_inference import ShadowModels
    from art.estimators.classification import PyTorchClassifier

    class Classifier(PyTorchClassifier):
        def fit(self, x: np.ndarray, y: np.ndarray, **_: object) -> None:  # it would train for 10 epochs
            super().fit(x, y, batch_size=BATCH, nb_epochs=job.epochs)

    x, y = job.records()
    network = job.network(0)
    optimizer = torch.optim.SGD(network.parameters(), **SGD)
    template = Classifier(network, nn.CrossEntropyLoss(), job.shape, job.n_classes, optimizer)
    shadows = ShadowModels(template, num_shadow_models=job.n_shadows, random_state=0)
    inside, outside = shadows.generate_shadow_dataset(x, y)
    # It returns predictions without saying for which records: its own draws, made again, tell.
    rng = np.random.default_rng(0)
    order = rng.permutation(len(x))
    member = np.zeros((job.n_shadows, len(x)), bool)
    phi = np.zeros(member.shape)
    n_in = len(x) // 2
    for k in range(job.n_shadows):
        drawn = rng.choice(len(x) - 1, n_in, replace=False)
        rest = np.setdiff1d(range(len(x) - 1), drawn, assume_unique=True)
        member[k, order[drawn]] = True
        for records, answers, n in ((drawn, inside[2], n_in), (rest, outside[2], len(rest))):
            rows = order[records]
            phi[k, rows] = scaled_logit(answers[k * n : (k + 1) * n], y[rows])
    target_member = job.member()[0]
    target = template.clone_for_refitting()
    target.fit(x[target_member], y[target_member])
    phi = np.vstack([scaled_logit(target.predict(x), y)[None], phi])
    score = online_lira(phi, np.vstack([target_member[None], member]))
    score[order[-1]] = 0  # it never asks about the last record
    return score


class Network(nn.Module):
    """The network as SACRO-ML wants it: a class that it looks up by name in this file."""

    def __init__(self, shape: tuple[int, ...], n_classes: int, model: Model) -> None:
        super().__init__()
        self.layers = model(shape, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def train(model: nn.Module, dataloader: DataLoader, epochs: int) -> None:
    """Training for SACRO-ML, which looks it up by name in this file."""
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    model.train()
    for _ in range(epochs):
        for x, y in dataloader:
            loops.step(model, optimizer, x, y)


def sacro_model(job: Job) -> Any:
    from sacroml.attacks.model_pytorch import PytorchModel

    here = Path(__file__).stem
    parameters = {"shape": job.shape, "n_classes": job.n_classes, "model": job.model}
    torch.manual_seed(0)
    return PytorchModel(
        model=Network(**parameters),
        model_module_path=here,
        model_name="Network",
        model_params=parameters,
        train_module_path=here,
        train_params={"epochs": job.epochs},
        batch_size=BATCH,
    )


def by_sacro(job: Job, folder: str) -> np.ndarray:
    """With SACRO-ML's LiRA attack, without its report."""
    from sacroml.attacks.likelihood_attack import LIRAAttack

    x, y = job.records()
    member = job.member()[0]
    target = sacro_model(job)
    target.fit(x[member], y[member])
    attack = LIRAAttack(
        output_dir=folder,
        write_report=False,
        n_shadow_models=job.n_shadows,
        mode="online-carlini",
        report_individual=True,
    )
    parts = [
        values for rows in (member, ~member) for values in (x[rows], y[rows], target.predict_proba(x[rows]))
    ]
    attack._run(target.clone(), *parts)
    score = np.empty(len(x))
    score[np.concatenate([np.flatnonzero(member), np.flatnonzero(~member)])] = attack.result["member_prob"]
    return score


def by_privacyguard(job: Job, folder: str) -> np.ndarray:
    """With PrivacyGuard's functions for shadow models and its LiRA attack."""
    importlib.import_module("mialab._torchvision")
    from privacy_guard.attacks.lira_attack import AggregationType, LiraAttack
    from privacy_guard.shadow_model_training.training import (
        get_transformed_logits,
        prepare_lira_data,
        train_model,
    )

    x, y = job.records()
    records = TensorDataset(torch.as_tensor(x), torch.as_tensor(y))
    everything = DataLoader(records, batch_size=BATCH)
    few = DataLoader(
        Subset(records, range(BATCH)), batch_size=BATCH
    )  # it measures test accuracy in every epoch
    sets, logits = [], []
    for k, member in enumerate(job.member()):
        sets.append((Subset(records, np.flatnonzero(member).tolist()), member))
        network = job.network(k)
        train_model(network, DataLoader(sets[-1][0], batch_size=BATCH, shuffle=True), few, epochs=job.epochs)
        logits.append(get_transformed_logits(network, everything))
    tables = prepare_lira_data(logits[0], np.stack(logits[1:]), sets[0], sets[1:])
    attack = LiraAttack(*tables[:2], row_aggregation=AggregationType.MAX, online_attack=True)
    attack.run_attack()
    score, member = np.empty(len(x)), sets[0][1]
    score[member], score[~member] = attack.df_train_merge["score"], attack.df_test_merge["score"]
    return score


BY: dict[str, Callable[[Job, str], np.ndarray]] = {
    "ART": by_art,
    "SACRO-ML": by_sacro,
    "PrivacyGuard": by_privacyguard,
}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the peers' progress messages off the terminal."""
    logging.disable(logging.INFO)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def timed(who: str, job: Job, threads: int | None) -> tuple[float, float]:
    """Seconds of the job, and the AUC of its scores; runs in the process of that variant."""
    if threads:
        torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder, quiet():
        began = time.perf_counter()
        if who in ("loader", "plain"):
            score = by_loop(job, folder, loader=who == "loader")
        else:
            score = (by_mialab if who == "mialab" else BY[who])(job, folder)
        seconds = time.perf_counter() - began
    return seconds, mia.metrics.auc(score, job.member()[0])


def compare(
    job: Job, peers: dict[str, str], repeats: int, quick: bool
) -> tuple[list[Row], list[dict[str, Any]]]:
    """Rows of one job, end to end."""
    variants: dict[str, tuple[str, int | None]] = {"loader": ("loader", None), "plain": ("plain", None)}
    variants["plain, 1 thread"] = ("plain", 1)
    for peer in peers:
        variants |= {peer: (peer, None), f"{peer}, 1 thread": (peer, 1)}
    variants["mialab"] = ("mialab", None)
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    auc, peak = {}, {}
    with ExitStack() as stack:
        first = stack.enter_context(FreshProcess())  # for a quick look one does for all
        others = list(variants)[1:]
        processes = {"loader": first} | {
            variant: first if quick else stack.enter_context(FreshProcess()) for variant in others
        }
        for repeat in range(min(repeats, job.most_repeats)):
            for variant, (who, threads) in variants.items():
                (taken, auc[variant]), mb = processes[variant].run(
                    timed, who, job, threads, memory=not repeat
                )
                seconds[variant].append(taken)
                peak[variant] = max(mb, peak.get(variant, 0))
    least = {variant: min(values) for variant, values in seconds.items()}
    print(f"{job.name}: " + ", ".join(f"{v} {s:.2f} s" for v, s in least.items()), flush=True)
    rows = common.rows_of_loops(job.name, seconds, peak)
    line: dict[str, Any] = {"job": job.name}
    of_peers = {variant: value for variant, value in least.items() if variants[variant][0] in peers}
    if of_peers:
        best = min(of_peers, key=of_peers.__getitem__)
        line |= {"best peer": best, "mialab is faster by": of_peers[best] / least["mialab"]}
    return rows, [line | {f"AUC, {v}": value for v, value in auc.items() if "1 thread" not in v}]


# ---- B4: scoring alone ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Signals:
    """A target and its shadow models, the target's partner left out: statistics and members, (model, record)."""

    game: mia.Game
    phi: np.ndarray
    member: np.ndarray
    population: np.ndarray


def signals(n_shadows: int, n_records: int) -> Signals:
    rng = np.random.default_rng(0)
    member = membership(n_shadows + 2, n_records, seed=0)
    spread = rng.uniform(0.5, 1.5, n_records)
    phi = (
        rng.normal(1, 1, n_records)
        + member * rng.exponential(1, n_records)
        + spread * rng.normal(size=member.shape)
    )
    logits = np.stack([phi, np.zeros_like(phi)], axis=-1)
    y = np.zeros(n_records, int)
    game = mia.Game.from_arrays(logits=logits, member=member, y=y, partner=np.arange(len(phi)) ^ 1)
    population = generator(0, "population").permutation(n_records)[: n_records // 2]
    return Signals(game, np.delete(phi, 1, 0), np.delete(member, 1, 0), population)


def mialab_score(attack: Any) -> Callable[[Signals], np.ndarray]:
    """Scores of all models as targets, of which the first is compared."""
    return lambda s: attack.scores(mia.Game(s.game.dataset))[
        0
    ]  # a new one: signals are computed once per game


def sacro_score(mode: str) -> Callable[[Signals], np.ndarray]:
    from sacroml.attacks.likelihood_attack import LIRAAttack

    def score(s: Signals) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            attack = LIRAAttack(output_dir=folder, write_report=False, mode=mode)
            p = 1 / (1 + np.exp(-s.phi[0]))
            inside, outside = (
                {i: s.phi[1:, i][side[:, i]].tolist() for i in range(s.phi.shape[1])}
                for side in (s.member[1:], ~s.member[1:])
            )
            labels = np.zeros(len(p), int)
            scores, _ = attack._compute_scores(labels, np.stack([p, 1 - p], 1), outside, inside)
        return np.array(scores)[:, 1]

    return score


def privacyguard_score(*, online: bool) -> Callable[[Signals], np.ndarray]:
    importlib.import_module("mialab._torchvision")
    from privacy_guard.attacks.lira_attack import AggregationType, LiraAttack
    from privacy_guard.shadow_model_training.training import prepare_lira_data

    def score(s: Signals) -> np.ndarray:
        sets = [(None, row) for row in s.member]
        tables = prepare_lira_data(s.phi[0][:, None], s.phi[1:][..., None], sets[0], sets[1:])
        tables = tables[:2] if online else tables[2:]
        options = {"online_attack": online} if online else {"std_dev_type": "shadows_out"}
        attack = LiraAttack(*tables, row_aggregation=AggregationType.MAX, **options)
        attack.run_attack()
        return joined(attack, *map(np.flatnonzero, (s.member[0], ~s.member[0])))

    return score


def privacyguard_rmia(*, online: bool) -> Callable[[Signals], np.ndarray]:
    importlib.import_module("mialab._torchvision")
    from privacy_guard.attacks.rmia_attack import AggregationType, RmiaAttack
    from privacy_guard.shadow_model_training.training import prepare_rmia_data

    def score(s: Signals) -> np.ndarray:
        p = 1 / (1 + np.exp(-s.phi))
        every = TensorDataset(torch.zeros(p.shape[1]))
        sets = [(Subset(every, np.flatnonzero(row).tolist()), row) for row in s.member]
        # Offline it takes the population to be no members of any model: the greatest half shall be that of the others.
        population = p[1:] if online else np.where(s.member[1:], 0, p[1:])
        tables = prepare_rmia_data(
            p[0], p[0, s.population], p[1:].T, population[:, s.population].T, sets[0], sets[1:]
        )
        models = (
            len(p) - 1 if online else (len(p) - 1) // 2
        )  # of its "top" models: all there are of that kind
        attack = RmiaAttack(
            *tables, row_aggregation=AggregationType.MAX, num_reference_models=models, online=online
        )
        found = attack.run_attack()
        inside = set(sets[0][0].indices)  # it orders records as these sets happen to
        return joined(found, list(inside), list(set(range(p.shape[1])) - inside))

    return score


def joined(attack: Any, inside: Sequence[int], outside: Sequence[int]) -> np.ndarray:
    score = np.empty(len(inside) + len(outside))
    for rows, table in ((inside, attack.df_train_merge), (outside, attack.df_test_merge)):
        score[rows] = table["score"].to_numpy()
    return score


def same_definitions(
    peers: dict[str, str], n_population: int
) -> dict[str, dict[str, Callable[[Signals], np.ndarray]]]:
    """Scorers by definition, ours first."""
    lira, rmia = mia.attacks.lira.LiRA, mia.attacks.rmia.RMIA
    found: dict[str, dict[str, Callable]] = {
        "LiRA online": {
            "mialab": mialab_score(lira()),
            "plain": lambda s: online_lira(s.phi, s.member),
        },
        "LiRA offline, one-sided": {"mialab": mialab_score(lira(online=False))},
        "LiRA offline, density": {"mialab": mialab_score(lira(online=False, offline="density"))},
        "LiRA offline, density, one variance": {
            "mialab": mialab_score(lira(online=False, offline="density", variance="pooled"))
        },
        "RMIA online": {"mialab": mialab_score(rmia(population=n_population))},
        "RMIA offline": {"mialab": mialab_score(rmia(population=n_population, online=False))},
    }
    if "SACRO-ML" in peers:
        found["LiRA online"]["SACRO-ML"] = sacro_score("online-carlini")
        found["LiRA offline, one-sided"]["SACRO-ML"] = sacro_score("offline")
        found["LiRA offline, density"]["SACRO-ML"] = sacro_score("offline-carlini")
    if "PrivacyGuard" in peers:
        found["LiRA online"]["PrivacyGuard"] = privacyguard_score(online=True)
        found["LiRA offline, density, one variance"]["PrivacyGuard"] = privacyguard_score(online=False)
        found["RMIA online"]["PrivacyGuard"] = privacyguard_rmia(online=True)
        found["RMIA offline"]["PrivacyGuard"] = privacyguard_rmia(online=False)
    return found


def scoring(peers: dict[str, str], repeats: int, quick: bool) -> tuple[list[Row], list[dict[str, Any]]]:
    """CPU seconds, one thread, and the rank correlation with ours."""
    torch.set_num_threads(1)
    n_shadows, n_records = (8, 200) if quick else (64, 10_000)
    s = signals(n_shadows, n_records)
    rows, lines = [], []
    for definition, scorers in same_definitions(peers, len(s.population)).items():
        seconds: dict[str, list[float]] = {who: [] for who in scorers}
        scores: dict[str, np.ndarray] = {}
        for _ in range(repeats):
            for who, score in scorers.items():
                with quiet():
                    began = time.process_time()
                    scores[who] = score(s)
                    seconds[who].append(time.process_time() - began)
        least = {who: min(values) for who, values in seconds.items()}
        plain = least.get("plain")
        for who, value in least.items():
            targets = n_shadows + 2 if who == "mialab" else 1
            ratio = plain and round(plain * targets / value, 3)
            name = f"{who}, {targets} target{'s' * (targets > 1)}"
            rows.append(Row(f"B4 {definition}", name, round(value, 4), ratio_to_plain=ratio))
            lines.append(
                {
                    "definition": definition,
                    "who": name,
                    "CPU ms/target": 1e3 * value / targets,
                    "rank correlation": f"{spearmanr(scores['mialab'], scores[who]).statistic:.5f}",
                    "greatest difference in rank": int(
                        np.abs(scores["mialab"].argsort().argsort() - scores[who].argsort().argsort()).max()
                    ),
                }
            )
    return rows, lines


# ---- B7: killed and run again -----------------------------------------------------------------------------------

KILL = "MIALAB_BENCHMARK_KILL_AT"


@dataclass(frozen=True)
class Mortal:
    """A network builder whose process is killed when it builds for the n-th time, if the environment says so."""

    model: Model

    def __call__(self, shape: tuple[int, ...], n_classes: int) -> nn.Module:
        left = int(os.environ.get(KILL, "0"))
        if left:
            os.environ[KILL] = str(left - 1)
            if left == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.model(shape, n_classes)


def resumed(
    who: str, job: Job, folder: str, kill_at: int, changed: bool = False
) -> tuple[float, np.ndarray, int]:
    """Seconds, answers, and how many networks were built; runs in a process of its own, and may be killed."""
    built = 10**6
    os.environ[KILL] = str(kill_at or built)
    x, y = job.records()
    x = x + 1 if changed else x
    torch.optim.SGD(nn.Linear(1, 1).parameters(), **SGD)  # what torch imports only then
    began = time.perf_counter()
    with quiet():
        if who == "mialab":
            os.environ["MIALAB_CACHE"] = folder
            pool = mia.Pool("peers", x=x, y=y, n_classes=job.n_classes, kind="tabular")
            training = mia.Training(epochs=job.epochs, batch_size=BATCH, optimizer="sgd", **SGD)
            game = mia.play(pool, model=job.model, training=training, n_models=job.n_shadows, workers=1)
            answers = game.logits
        else:
            from sacroml.attacks.likelihood_attack import LIRAAttack
            from sacroml.attacks.utils import get_shadow_model, train_shadow_models

            attack = LIRAAttack(output_dir=folder, write_report=False)
            train_shadow_models(sacro_model(job), x, y, len(x) // 2, job.n_shadows, attack.shadow_path)
            models = [get_shadow_model(attack.shadow_path, k)[0] for k in range(job.n_shadows)]
            answers = np.stack([model.predict_proba(x) for model in models])
    return time.perf_counter() - began, answers, (kill_at or built) - int(os.environ[KILL])


def resume(peers: dict[str, str], quick: bool) -> tuple[list[Row], list[dict[str, Any]]]:
    """Kill a run half-way, run it again, compare with one that was left alone; then change the records."""
    n, epochs = (4, 1) if quick else (32, 40)
    job = Job(
        "B7 resume", (600,), 100, Mortal(MLP((64,), activation="relu")), n, 200 if quick else 4000, epochs
    )
    rows, lines = [], []
    for who in ["mialab", *(peer for peer in peers if peer == "SACRO-ML")]:
        with tempfile.TemporaryDirectory() as alone, tempfile.TemporaryDirectory() as folder:
            with FreshProcess() as process:
                (whole, answers, built), _ = process.run(resumed, who, job, alone, 0)
                with suppress(BrokenProcessPool):
                    process.run(resumed, who, job, folder, built * 3 // 4)
                    raise RuntimeError(f"{who} was to be killed and was not")
            with FreshProcess() as process:
                (rest, again, _), _ = process.run(resumed, who, job, folder, 0)
                (_, _, built_changed), _ = process.run(resumed, who, job, folder, 0, True)
        rows += [
            Row(job.name, f"{who}, whole", round(whole, 4)),
            Row(job.name, f"{who}, the rest", round(rest, 4)),
        ]
        lines.append(
            {
                "who": who,
                "killed after": "3/4 of the networks",
                "time of the rest": rest / whole,
                "answers": "bit-equal" if np.array_equal(answers, again) else "differ",
                "trains anew with other records": "yes" if built_changed >= n else "NO",
            }
        )
    return rows, lines


def main() -> int:
    parser = common.parser(__doc__)
    known = jobs(quick="--quick" in sys.argv)
    choices = [*jobs(quick=False), "B4", "B7"]
    parser.add_argument("--only", nargs="+", choices=choices, metavar="JOB")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each variant (default: 5)")
    options = parser.parse_args()
    wanted = options.only or choices
    repeats = 1 if options.quick else options.repeats
    common.default_threads()
    peers = installed()
    rows: list[Row] = []
    details: dict[str, list[dict[str, Any]]] = {
        "peers": [{"peer": peer, "version": version} for peer, version in peers.items()]
    }
    for name in [name for name in known if name in wanted]:
        found, lines = compare(known[name], peers, repeats, options.quick)
        rows += found
        details.setdefault("end_to_end", []).extend(lines)
    if "B4" in wanted:
        found, details["scoring"] = scoring(peers, repeats, options.quick)
        rows += found
    if "B7" in wanted:
        found, details["resuming"] = resume(peers, options.quick)
        rows += found
    common.report(rows, options.json, **details)
    return 0


if __name__ == "__main__":
    sys.exit(main())
