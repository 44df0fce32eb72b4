"""Networks: what they are made of, what they accept, and what is said about the rest."""

import numpy as np
import pytest
import torch
import toys
from torch import nn

from mialab.models import CNN, MLP, ResNet, make
from mialab.training import stack


def kinds(network: nn.Module) -> list[str]:
    return [type(m).__name__ for m in network.modules() if not list(m.children())]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (MLP(hidden=()), (5,)),
        (MLP(hidden=(7, 3), activation="relu"), (5,)),
        (MLP(hidden=(7,)), (1, 8, 8)),
        (CNN(channels=(4, 8), hidden=5), (3, 9, 13)),
        (CNN(channels=(4,), hidden=5, norm="group"), (1, 2, 2)),
        (CNN(channels=(4,), hidden=5, norm="batch"), (1, 8, 8)),
        (ResNet(blocks=1, channels=(4, 8)), (3, 9, 13)),
        (ResNet(blocks=2, channels=(4,), norm="batch"), (1, 1, 1)),
        (ResNet(blocks=1, channels=(4, 8), norm="none"), (1, 8, 8)),
    ],
)
def test_networks_answer_with_logits_and_can_be_trained(model, shape):
    network = model(shape, 4)
    answers = network(torch.randn(6, *shape))
    assert answers.shape == (6, 4)
    answers.logsumexp(-1).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_the_default_mlp_is_that_of_the_artifact():
    # 446 features, 30 classes: 1,150,622 parameters, calculated from the artifact's code
    network = MLP()((446,), 30)
    assert sum(p.numel() for p in network.parameters()) == 1_150_622
    assert kinds(network) == ["Linear", "Tanh"] * 4 + ["Linear"]
    assert kinds(MLP(hidden=(8,), activation="relu")((446,), 30)) == ["Linear", "ReLU", "Linear"]


def test_resnet_20():
    # He et al. (2016), table 6: 0.27 million parameters, with 19 convolutions and a linear layer
    network = ResNet(norm="batch")((3, 32, 32), 10)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert sum(m.kernel_size == (3, 3) for m in convolutions) == 19
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(0.27e6, rel=0.02)
    maps = network[:-3](torch.zeros(1, 3, 32, 32))
    assert maps.shape == (1, 64, 8, 8)


@pytest.mark.parametrize("model", [CNN, ResNet])
@pytest.mark.parametrize(
    ("norm", "layer"), [("batch", "BatchNorm2d"), ("group", "GroupNorm"), ("none", None)]
)
def test_normalization_is_a_parameter(model, norm, layer):
    found = kinds(model(norm=norm)((3, 16, 16), 10))
    assert {name for name in found if "Norm" in name} == ({layer} if layer else set())


def test_initial_weights_depend_on_seed_and_model_alone():
    pool = toys.pool()

    def weights(seed, model):
        torch.rand(3)
        return nn.utils.parameters_to_vector(
            stack.initialize(MLP(hidden=(8,)), pool, seed, model).parameters()
        )

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = weights(0, 3)
    torch.set_rng_state(before)
    expected = torch.rand(3), torch.rand(1)
    torch.set_rng_state(before)
    again = weights(0, 3)
    assert torch.equal(torch.rand(1), expected[1])  # the user's own random numbers go on undisturbed
    assert torch.equal(first, again)
    assert not torch.equal(first, weights(0, 4))
    assert not torch.equal(first, weights(1, 3))


def test_bytes_become_numbers_from_0_to_1():
    pixels = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    torch.testing.assert_close(stack.prepare(pixels), torch.tensor([[0, 0.2, 1]]))
    x = torch.randn(2, 3)
    assert stack.prepare(x) is x


def test_models_are_made_by_name():
    assert (make("mlp"), make("cnn"), make("resnet")) == (MLP(), CNN(), ResNet())
    assert make(MLP) == MLP()
    assert make(MLP(hidden=[9])) == MLP(hidden=(9,))
    own = lambda shape, n_classes: nn.Linear(shape[0], n_classes)  # noqa: E731
    assert make(own) is own


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: make("resnett"),
            r"model='resnett' is unknown. Did you mean 'resnet'\? Known: cnn, mlp, resnet.",
        ),
        (lambda: make(None), "model=None is unknown. Known: cnn, mlp, resnet."),
        (lambda: MLP(hidden=(0,)), "hidden=0 must be an integer of at least 1."),
        (lambda: MLP(hidden=(2.5,)), "hidden=2.5 must be an integer of at least 1."),
        (lambda: MLP(hidden=64), "hidden=64 must be a sequence of integers, e.g. (64,)."),
        (lambda: MLP(activation="tan"), r"activation='tan' is unknown. Did you mean 'tanh'\?"),
        (lambda: CNN(channels=(8, -1)), "channels=-1 must be an integer of at least 1."),
        (lambda: CNN(channels=8), "channels=8 must be a sequence of integers"),
        (lambda: CNN(norm="layer"), "norm='layer' is unknown. Known: batch, group, none."),
        (lambda: ResNet(blocks=0), "blocks=0 must be an integer of at least 1."),
        (lambda: ResNet(channels=()), "channels=() must not be empty."),
        (lambda: CNN()((20,), 3), "Records of shape (20,) do not fit this model: it needs images"),
        (lambda: CNN()((1, 3, 8), 3), "Records of shape (1, 3, 8) do not fit this model: it needs images"),
        (lambda: ResNet()((20,), 3), "Records of shape (20,) do not fit this model: it needs images"),
    ],
)
def test_wrong_parameters_of_models(build, message):
    literal = message if "\\" in message else message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match="^" + literal):
        build()


def test_group_norm_divides_any_number_of_channels():
    for channels, groups in {1: 1, 4: 4, 6: 2, 12: 4, 16: 8, 20: 4}.items():
        network = CNN(channels=(channels,), norm="group")((1, 8, 8), 2)
        assert [m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)] == [groups]
        assert network(torch.from_numpy(np.zeros((1, 1, 8, 8), np.float32))).shape == (1, 2)
