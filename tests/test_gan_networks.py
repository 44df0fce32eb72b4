from copy import deepcopy

import numpy as np
import pytest
import torch
import toys
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from mialab.gan.networks import MLP, Conv, make

IMAGES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 6, 20)]
CASES = [
    *[(Conv(width=2, latent=5, norm=norm), shape) for norm in ("batch", "group", "none") for shape in IMAGES],
    *[(Conv(width=2, kernel=kernel), shape) for kernel in (3, 5) for shape in IMAGES],
    *[(MLP((7, 9), latent=3), shape) for shape in [(11,), (1, 8, 8)]],
    (MLP((), latent=3), (11,)),
]
STATELESS = [(MLP((7, 9), latent=3), (11,)), *[(Conv(2, 5, norm), (1, 28, 28)) for norm in ("group", "none")]]


def batch(networks, shape, n_classes=4, size=6):
    torch.manual_seed(0)
    x, z = torch.rand(size, *shape), torch.randn(size, networks.latent)
    return x, z, torch.distributions.Dirichlet(torch.ones(n_classes)).sample((size,))


def n_parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("networks", "shape"), CASES, ids=str)
def test_shapes_and_range(networks, shape):
    x, z, y = batch(networks, shape)
    generator, critic = networks.generator(shape, 4), networks.critic(shape, 4)
    fake, answers = generator(100 * z, y), critic(x, y)
    assert fake.shape == x.shape
    assert answers.shape == (6,)
    assert fake.min() >= 0
    assert fake.max() <= 1
    assert (fake[1:] - fake[:-1]).abs().amax() > 0.05  # another z, another record


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize(("networks", "shape"), [(MLP, (11,)), (MLP, (1, 8, 8)), (Conv, (1, 8, 8))])
def test_labels_matter_where_they_should(networks, shape, conditional):
    networks = networks(conditional=conditional)
    x, z, y = batch(networks, shape)
    generator, critic = networks.generator(shape, 4).eval(), networks.critic(shape, 4)
    other = y.roll(1, 1)
    assert torch.equal(generator(z, y), generator(z, other)) != conditional
    assert torch.equal(critic(x, y), critic(x, other)) != conditional


def test_label_bias_is_what_label_maps_amount_to_away_from_the_border():
    critic = Conv(width=3).critic((1, 32, 32), 4)
    x, _, y = batch(Conv(), (1, 32, 32))
    conv = critic.first[1]
    maps = y[:, :, None, None].expand(-1, -1, 32, 32)
    # A kernel over the label maps whose weights sum, over places, to those of the linear map.
    kernel = critic.label.weight[:, :, None, None].expand(-1, -1, 4, 4) / 16
    concatenated = nn.functional.conv2d(
        torch.cat([2 * x - 1, maps], 1), torch.cat([conv.weight, kernel], 1), conv.bias, 2, 1
    )
    ours = critic.first(x) + critic.label(y)[:, :, None, None]
    torch.testing.assert_close(ours[..., 1:-1, 1:-1], concatenated[..., 1:-1, 1:-1])


@pytest.mark.parametrize(("networks", "shape"), STATELESS, ids=str)
def test_stacked_equals_one_by_one(networks, shape):
    x, z, y = batch(networks, shape)
    for build, into in ((networks.generator, z), (networks.critic, x)):
        nets = [build(shape, 4) for _ in range(3)]
        parameters, buffers = stack_module_state(nets)
        assert not buffers
        plain = deepcopy(nets[0]).to("meta")
        stacked = vmap(lambda p, a, b, plain=plain: functional_call(plain, p, (a, b)), (0, None, None))
        together = stacked(parameters, into, y)
        torch.testing.assert_close(together, torch.stack([net(into, y) for net in nets]))


@pytest.mark.parametrize(("networks", "shape"), [*STATELESS, (Conv(2), (3, 32, 32))], ids=str)
def test_critic_judges_each_record_by_itself(networks, shape):
    critic = networks.critic(shape, 4).train()
    x, _, y = batch(networks, shape)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in critic.modules())
    alone = torch.cat([critic(x[k : k + 1], y[k : k + 1]) for k in range(len(x))])
    torch.testing.assert_close(critic(x, y), alone)


@pytest.mark.parametrize(("networks", "shape"), [*STATELESS, (Conv(2), (3, 32, 32))], ids=str)
def test_gradient_penalty_and_per_record_gradients(networks, shape):
    critic = networks.critic(shape, 4)
    x, _, y = batch(networks, shape)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(critic(x, y).sum(), x, create_graph=True)
    ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean().backward()
    # The last bias moves no slope; everything else does, in a critic with a non-linearity.
    reached = [name for name, p in critic.named_parameters() if p.grad is not None and p.grad.abs().sum()]
    assert any(name.startswith("rest") for name in reached)
    assert any(name.startswith("first") for name in reached)
    parameters = {name: p.detach() for name, p in critic.named_parameters()}

    def answers(p, one, label):
        return functional_call(critic, p, (one[None], label[None]))[0]

    each = vmap(grad(answers), (None, 0, 0))(parameters, x.detach(), y)
    whole = torch.autograd.grad(critic(x.detach(), y).sum(), [*critic.parameters()])
    for per_record, total in zip(each.values(), whole, strict=True):
        torch.testing.assert_close(per_record.sum(0), total, rtol=1e-4, atol=1e-5)


def test_known_numbers_of_parameters():
    # z and label, 20 hidden, 11 features; critic: the label's map has no bias.
    assert n_parameters(MLP((20,), latent=3).generator((11,), 4)) == 8 * 20 + 11 * 21
    assert n_parameters(MLP((20,), latent=3).critic((11,), 4)) == 20 * 12 + 20 * 4 + 21
    # The paper's: channels 64 to 512, 4x4 maps, generator in reverse.
    paper = Conv(width=64, latent=256, kernel=5)
    generator, critic = paper.generator((3, 64, 64), 2), paper.critic((3, 64, 64), 2)
    assert [m.out_channels for m in critic.modules() if isinstance(m, nn.Conv2d)] == [64, 128, 256, 512]
    ups = [m for m in generator.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels) for m in ups] == [(512, 256), (256, 128), (128, 64), (64, 3)]
    assert generator.layers[0].weight.shape == (512 * 4 * 4, 256 + 2)
    assert critic.rest[-1].weight.shape == (1, 512 * 4 * 4)


@pytest.mark.parametrize(
    ("shape", "base"),
    [((1, 8, 8), (4, 4)), ((1, 28, 28), (7, 7)), ((3, 32, 32), (4, 4)), ((3, 64, 64), (4, 4))],
)
def test_first_map_of_the_generator(shape, base):
    assert Conv().generator(shape, 4).layers[1].unflattened_size[1:] == base


@pytest.mark.parametrize("networks", [MLP((16,), latent=2), Conv(2, 2, "group")], ids=str)
def test_gradients_reach_every_parameter(networks):
    shape = (1, 8, 8)
    _, z, y = batch(networks, shape)
    generator, critic = networks.generator(shape, 4), networks.critic(shape, 4)
    critic(generator(z, y), y).sum().backward()
    for network in (generator, critic):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_make():
    assert make("mlp") == make(MLP) == MLP()
    assert make("conv") == make(Conv) == Conv()
    own = Conv(width=3)
    assert make(own) is own
    with pytest.raises(
        ValueError, match=r"networks='mpl' is unknown. Did you mean 'mlp'\? Known: conv, mlp\."
    ):
        make("mpl")
    with pytest.raises(ValueError, match="networks=7 is unknown"):
        make(7)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MLP(hidden=(0,)), "hidden"),
        (lambda: MLP(latent=0), "latent=0"),
        (lambda: MLP(conditional="yes"), "conditional='yes' must be True or False"),
        (lambda: Conv(width=0), "width=0"),
        (lambda: Conv(norm="layer"), "norm='layer' is unknown"),
        (lambda: Conv(kernel=6), "kernel=6 must be 3, 4 or 5"),
    ],
)
def test_bad_parameters(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_check_of_pools():
    images, table = toys.pool("image"), toys.pool("binary")
    for networks in (MLP(), Conv()):
        networks.check(images)
    MLP().check(table)
    with pytest.raises(ValueError, match=r"shape \(6,\) do not fit networks='conv'"):
        Conv().check(table)
    with pytest.raises(ValueError, match=r"in \[0, 1\]: scale the records"):
        MLP().check(toys.pool("tabular"))
    bad = np.array(images.x_test)
    bad[0] = 2
    with pytest.raises(ValueError, match=r"x_test of pool 'toy' has numbers from .* to 2,"):
        Conv().check(toys.pool("image", x_test=bad, y_test=images.y_test))
    bytes_ = (255 * images.x).astype(np.uint8)
    Conv().check(toys.pool("image", x=bytes_, x_val=None, y_val=None, x_test=None, y_test=None))
    odd = np.zeros((40, 1, 7, 7), np.float32)
    with pytest.raises(ValueError, match=r"shape \(1, 7, 7\)"):
        Conv().check(toys.pool("image", x=odd, x_val=None, y_val=None, x_test=None, y_test=None))
