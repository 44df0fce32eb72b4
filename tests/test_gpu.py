"""What is trained and measured on a GPU is what is trained and measured on a CPU; skipped where there is no GPU."""

import numpy as np
import pytest
import torch
import toys

import mialab as mia
from mialab.gan import defenses as gan_defenses
from mialab.gan.networks import MLP as GANMLP
from mialab.models import CNN, MLP

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

DEVICES = ("cpu", "cuda")
# Noise of private gradients is drawn where it is needed, by another generator on each device; and of few levels a last
# bit may decide which one is the nearest.
ALIKE = {"dp_sgd": mia.defenses.DPSGD(noise=0.0), "quantization": mia.defenses.Quantization(bits=8)}
ALIKE_GANS = {"dp_critic": gan_defenses.DPCritic(noise_multiplier=1e-6)}


def assert_near(values):
    """Two devices' numbers agree, but for sums in another order and, in a few places, another rounded value."""
    on_cpu, on_gpu = (np.asarray(value, np.float64).ravel() for value in values)
    assert np.isfinite(on_gpu).all()
    off = np.abs(on_gpu - on_cpu) / on_cpu.std()
    assert np.median(off) < 0.01
    assert np.mean(off > 0.1) < 0.02


def played(play, folder, *arguments, **options):
    """Play a game on each device, with a store for each: what is stored is found whatever trained it."""
    games = [play(*arguments, device=device, store=folder / device, **options) for device in DEVICES]
    assert [game.attrs["device"] for game in games] == list(DEVICES)
    return games


@pytest.mark.parametrize("defense", mia.defenses.available())
@pytest.mark.parametrize(("model", "kind"), [(MLP(hidden=(16,)), "tabular"), (CNN(norm="group"), "image")])
def test_every_defense(defense, model, kind, tmp_path):
    pool = toys.pool(kind, 60, validation=20, reference=60)  # with a member for each sub-model of SELENA
    training = mia.Training(epochs=2, batch_size=8, lr=0.01, optimizer="sgd", precision="float32")
    games = played(
        mia.play, tmp_path, pool, model, ALIKE.get(defense, defense), training=training, n_models=4
    )
    assert_near([game.logits for game in games])


@pytest.mark.filterwarnings("ignore:epsilon = .* bounds no attack")  # without noise there is no privacy
@pytest.mark.parametrize("defense", [name for name in gan_defenses.available() if name != "relaxloss"])
def test_every_defense_of_gans(defense, tmp_path):
    pool = toys.pool("image", 40, validation=20, reference=40)
    training = mia.gan.Training(steps=3, batch_size=8, lr=0.001)
    options = {"training": training, "n_models": 2, "samples": 20, "fakes": 8}
    games = played(
        mia.gan.play, tmp_path, pool, GANMLP(hidden=(16,)), ALIKE_GANS.get(defense, defense), **options
    )
    assert_near([game.critic for game in games])
    assert_near([game.samples for game in games])


def test_a_game_with_probes_and_checkpoints(tmp_path):
    pool = mia.load("clusters", size=300, validation=50, test=50)
    training = mia.Training(epochs=30, batch_size=16, lr=0.01, checkpoints=(10,), precision="float32")
    options = {"training": training, "n_models": 16, "probes": ["gradient", "boundary"]}
    values = []
    for game in played(mia.play, tmp_path, pool, MLP(hidden=(64,)), **options):
        attacks = ["loss", "lira", "gradient_norm", "boundary_distance"]
        values.append(mia.audit(game, attacks).query("metric == 'auc' and target == 'pooled'"))
        early = mia.audit(game.at(10), ["loss"]).query("metric == 'auc' and target == 'pooled'")
        assert early["value"].item() < values[-1].set_index("attack")["value"]["loss"]
    # Trajectories part after many steps, models' leakage does not.
    assert (np.abs(values[0]["value"].to_numpy() - values[1]["value"].to_numpy()) < 0.03).all()
