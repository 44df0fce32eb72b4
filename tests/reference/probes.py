"""What probes measure, a record and a layer at a time."""

from math import log

import numpy as np
from torch.nn.functional import cross_entropy


def gradient_norm(game) -> np.ndarray:
    norms = game.gradient_norm
    return np.array([[-log(sum(float(n) ** 2 for n in layers)) / 2 for layers in model] for model in norms])


def by_autograd(network, parameters, x, y, parts):
    """Norms of the gradients of a layer's parameters, a record and a layer at a time, in float64."""
    network = network.double().eval()
    network.load_state_dict({name: value.double() for name, value in parameters.items()}, strict=False)
    norms = []
    for one, label in zip(x, y, strict=True):
        network.zero_grad()
        cross_entropy(network(one[None].double()), label[None]).backward()
        gradient = {name: value.grad for name, value in network.named_parameters()}
        norms.append([sum(gradient[n].square().sum() for n in names) ** 0.5 for names in parts])
    return np.array(norms)
