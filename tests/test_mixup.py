"""AdaMixup and mixup: schedules at their ends, mixtures and losses against plain loops."""

import numpy as np
import pytest
import torch
import toys

import mialab as mia
from mialab.defenses import AdaMixup, Mixup
from mialab.training.streams import Streams


def streams():
    return Streams(0, [0, 1, 2], "mix")


def fractions(defense, progress, n=2000):
    rng = Streams(0, range(n), "mix")
    return np.broadcast_to(np.asarray(defense.fraction(progress, rng)), n)


@pytest.mark.parametrize(
    ("defense", "expected"),
    [
        (AdaMixup(), (0.5, 0.25, 0.0)),
        (AdaMixup(start=0.4, end=0.1), (0.4, 0.25, 0.1)),
        (AdaMixup(schedule="literal"), (0.0, 0.5, 1.0)),
        (AdaMixup(schedule="constant", start=0.3), (0.3, 0.3, 0.3)),
        (AdaMixup(schedule="beta_decay"), (None, None, 0.0)),
    ],
)
def test_schedules(defense, expected):
    for progress, fraction in zip((0, 0.5, 1), expected, strict=True):
        if fraction is not None:
            assert fractions(defense, progress) == pytest.approx(fraction)


def test_random_fractions():
    """Means of 2,000 numbers; each comparison fails by chance with probability below 1e-6 (five standard errors)."""
    error = 5 * np.sqrt(1 / 12 / 2000)
    assert fractions(Mixup(), 0.9).mean() == pytest.approx(0.5, abs=error)
    # The smaller one of two uniform fractions is uniform over [0, 1/2], and half of it is left half-way.
    assert fractions(AdaMixup(schedule="beta_decay"), 0.0).mean() == pytest.approx(0.25, abs=error)
    assert fractions(AdaMixup(schedule="beta_decay"), 0.5).mean() == pytest.approx(0.125, abs=error)
    wide, narrow = (fractions(Mixup(a=a), 0).std() for a in (0.2, 5))
    assert wide > 2 * narrow


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_mixtures_are_those_of_a_plain_loop(dtype):
    x = (torch.rand(3, 5, 1, 4, 4) * 255).to(dtype)
    y = torch.randint(4, (3, 5))
    defense = AdaMixup(start=0.3)
    mixed, target = defense.mix(x, y, progress=0.0, rng=streams())
    plain = x / 255 if dtype == torch.uint8 else x
    partner = streams().permutation(5)
    for k in range(3):
        for i in range(5):
            expected = 0.7 * plain[k, i] + 0.3 * plain[k, partner[k, i]]
            torch.testing.assert_close(mixed[k, i], expected, rtol=0, atol=1e-5 * 255)
    assert torch.equal(target, y), "the record itself is dominant"


def test_the_label_of_the_dominant_record():
    x, y = torch.rand(3, 5, 2), torch.randint(4, (3, 5))
    other = y.gather(1, streams().permutation(5))
    for fraction, expected in ((0.49, y), (0.5, y), (0.51, other)):
        _, target = AdaMixup(schedule="constant", start=fraction).mix(x, y, progress=0, rng=streams())
        assert torch.equal(target, expected)


@pytest.mark.parametrize("defense", [Mixup(), AdaMixup(label="both")])
def test_the_loss_with_both_labels(defense):
    x, y, logits = torch.rand(3, 5, 2), torch.randint(4, (3, 5)), torch.randn(3, 5, 4)
    _, target = defense.mix(x, y, progress=0.2, rng=streams())
    rng = streams()
    other = y.gather(1, rng.permutation(5))
    r = torch.as_tensor(defense.fraction(0.2, rng)).expand(3)
    log_p = torch.log_softmax(logits, -1)
    for k, loss in enumerate(defense.loss(logits, target).mean(-1)):
        own = [-(1 - r[k]) * log_p[k, i, y[k, i]] - r[k] * log_p[k, i, other[k, i]] for i in range(5)]
        assert loss.item() == pytest.approx(float(sum(own)) / 5, rel=1e-5)


def test_without_a_partner_it_is_plain_training():
    pool, training = toys.pool(), mia.Training(epochs=3)
    model = mia.models.MLP(hidden=(8,))
    plain = mia.play(pool, model, training=training, n_models=4)
    for defense in (AdaMixup(start=0, end=0), AdaMixup(start=0, end=0, label="both")):
        game = mia.play(pool, model, defense, training=training, n_models=4)
        np.testing.assert_allclose(game.logits, plain.logits, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "cosine"}, "schedule"),
        ({"start": 1.1}, "start"),
        ({"end": -0.1}, "end"),
        ({"a": 0}, "a=0"),
        ({"label": "soft"}, "label"),
    ],
)
def test_impossible_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        AdaMixup(**options)
