"""Quantization: weights and activations of few bits, during training or after it (Famili and Lao, 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import nn
from torch.func import functional_call

from mialab._validation import check_number, choose
from mialab.defenses.base import Defense, Run, register
from mialab.training.hooks import AnyPlan

Bits = int | str

#: Bits that numbers of few values are stored in, which is also how many steps there are between those values.
FEW_VALUES: dict[Bits, int] = {"binary": 1, "ternary": 2}
#: Width of what is not quantized.
FULL = 32
#: Ranges that are tried for a tensor, as fractions of its greatest absolute value, and on how many of its numbers.
RANGES, TRIED = tuple(2 ** (-j / 2) for j in range(7)), 4096
#: Activations that are quantized, and whether they have negative values.
ACTIVATIONS = {nn.ReLU: False, nn.Sigmoid: False, nn.Tanh: True, nn.GELU: True, nn.SiLU: True}
#: Members whose activations set the ranges, and epochs before which they are set.
CALIBRATION_RECORDS, CALIBRATIONS = 512, 5
#: Temperatures of the sigmoid sum in the first and in the last epoch (Yang et al., 2019, released code: 20 (epoch + 1)
#: over 35 epochs), and the widest weights it is used for: each level costs a sigmoid.
TEMPERATURES, SIGMOID_BITS = (20.0, 700.0), 4
TINY = 1e-12


# ----------------------------------------------------------------------------------------------------
# Quantizers


def storage(bits: Bits) -> int:
    """Return the bits that a number of this width is stored in: 1 for ``"binary"``, 2 for ``"ternary"``."""
    return FEW_VALUES.get(bits) or int(bits)


def steps(bits: Bits) -> int:
    """Return the steps from the lowest to the highest level: 2^bits - 1, or 1 for ``"binary"``, 2 for ``"ternary"``."""
    return FEW_VALUES.get(bits) or 2 ** int(bits) - 1


def uniform(x: torch.Tensor, clip: torch.Tensor, n: int, *, signed: bool) -> torch.Tensor:
    """Round to the nearest of n + 1 equally spaced levels; what lies beyond them becomes the outermost one.

    Parameters
    ----------
    x : torch.Tensor
        Numbers of any shape.
    clip : torch.Tensor
        The highest level, greater than 0; broadcast against ``x``.
    n : int
        Steps between the levels.
    signed : bool
        Whether the lowest level is ``-clip``, so that levels are symmetric about 0 (which is one of them if n is
        even); else it is 0.
    """
    if signed:
        return (2 * ((x / clip + 1) / 2 * n).clamp(0, n).round() / n - 1) * clip
    return (x / clip * n).clamp(0, n).round() / n * clip


def best_clip(x: torch.Tensor, n: int, *, signed: bool) -> torch.Tensor:
    """Return the highest level of `uniform` with the least squared error: one of `RANGES` times the greatest |x|.

    The error is that of some `TRIED` numbers. From 8 bits on it is the greatest |x|: levels are dense then, and what is
    cut off would weigh more.

    Parameters
    ----------
    x : torch.Tensor
        All numbers of a tensor.
    n, signed
        See `uniform`.

    Returns
    -------
    torch.Tensor, shape ()
    """
    top = x.abs().amax().clamp(min=TINY)
    if n >= 255:
        return top
    x = x.flatten()[:: x.numel() // TRIED | 1]  # an odd step visits all rows and columns
    best, least = top, torch.full_like(top, torch.inf)
    for fraction in RANGES:
        error = (uniform(x, fraction * top, n, signed=signed) - x).square().sum()
        best, least = torch.where(error < least, fraction * top, best), torch.minimum(error, least)
    return best


def quantized_weights(w: torch.Tensor, bits: Bits) -> torch.Tensor:
    """Quantize a tensor of weights as a whole.

    ``"binary"``: the sign times the mean of |w| (Rastegari et al., 2016, section 3.1). ``"ternary"``: 0 up to 0.7 times
    the mean of |w|, and beyond the sign times the mean of those |w| (Li and Liu, 2016, section 2). Other widths:
    2^bits equally spaced levels, symmetric about 0, over the range of `best_clip`.

    Parameters
    ----------
    w : torch.Tensor
        Weights of one layer of one model.
    bits : int or {"ternary", "binary"}
        Their width.
    """
    if bits == "binary":
        return torch.where(w < 0, -1.0, 1.0) * w.abs().mean()
    if bits == "ternary":
        size = w.abs()
        large = (size > 0.7 * size.mean()).to(w.dtype)
        return w.sign() * large * ((size * large).sum() / large.sum().clamp(min=1))
    return uniform(w, best_clip(w, steps(bits), signed=True), steps(bits), signed=True)


def straight_through(x: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    """Return quantized numbers with the gradient of those that were quantized (Bengio et al., 2013)."""
    return quantized.detach() + (x - x.detach())


def quantized_activations(x: torch.Tensor, clip: torch.Tensor, n: int, *, signed: bool) -> torch.Tensor:
    """Clip and quantize activations: the clipped ones pass their gradient to the clip (PACT, Choi et al., 2018).

    Parameters
    ----------
    x : torch.Tensor, shape (batch, ...)
        Activations.
    clip : torch.Tensor, shape ()
        The highest level. Its gradient is divided by the square root of the numbers per record (Esser et al., 2020,
        section 2.2), lest it outgrow those of the weights.
    n, signed
        See `uniform`.
    """
    slow = (x.numel() / len(x)) ** -0.5
    clip = slow * clip + ((1 - slow) * clip).detach()
    clipped = torch.minimum(x.float(), clip)
    clipped = torch.maximum(clipped, -clip) if signed else clipped
    return straight_through(clipped, uniform(clipped, clip, n, signed=signed)).to(x.dtype)


def sigmoid_sum(
    w: torch.Tensor,
    alpha: torch.Tensor,
    beta: torch.Tensor,
    thresholds: torch.Tensor,
    temperature: float | None,
) -> torch.Tensor:
    """Quantization as a sum of n steps (Yang et al., 2019, equation 2): ``alpha (sum_k A(beta w - b_k) - n / 2)``.

    Parameters
    ----------
    w : torch.Tensor
        Weights.
    alpha, beta : torch.Tensor, shape ()
        Scales of the levels and of the weights.
    thresholds : torch.Tensor, shape (n,)
        The b_k.
    temperature : float or None
        Of the sigmoid that A is in training; None for a unit step.
    """
    distance = (beta * w).unsqueeze(-1) - thresholds
    risen = (distance > 0).to(w.dtype) if temperature is None else torch.sigmoid(temperature * distance)
    return alpha * (risen.sum(-1) - len(thresholds) / 2)


def cluster_thresholds(x: torch.Tensor, n: int, rounds: int = 50) -> torch.Tensor:
    """Return the n midpoints between the sorted centers of n + 1 clusters of numbers, by k-means on the line.

    Parameters
    ----------
    x : torch.Tensor, shape (m,)
        The numbers.
    n : int
        Number of midpoints.
    rounds : int
        Rounds of Lloyd's algorithm, from quantiles.
    """
    x = x.double().sort().values
    total = torch.cat([x.new_zeros(1), x.cumsum(0)])
    places = ((torch.arange(n + 1, device=x.device) + 0.5) / (n + 1) * len(x)).long()
    centers = x[places]
    for _ in range(rounds):
        ends = torch.searchsorted(x, (centers[1:] + centers[:-1]) / 2)
        ends = torch.cat([ends.new_zeros(1), ends, ends.new_full((1,), len(x))])
        size = ends.diff()
        centers = torch.where(size > 0, total[ends].diff() / size.clamp(min=1), centers)
    return ((centers[1:] + centers[:-1]) / 2).float()


# ----------------------------------------------------------------------------------------------------
# The defense


def _check_bits(name: str, bits: object) -> None:
    if bits in ("ternary", "binary") or (bits == FULL and not isinstance(bits, bool)):
        return
    if not isinstance(bits, int) or isinstance(bits, bool) or not 2 <= bits <= 16:
        raise ValueError(
            f"{name}={bits!r} must be 'binary', 'ternary', a number of bits from 2 to 16, or {FULL} for full precision."
        )


@register
@dataclass(frozen=True)
class Quantization(Defense):
    """Compute with weights and activations of few bits.

    What is trained stays in full precision; what computes is quantized, and the gradient goes straight through the
    rounding. Which tensors Famili and Lao quantize, how, and to what width could not be found: all of this is our
    reading, after the field's most common choices. Weights are those of layers and convolutions, quantized as whole
    tensors; biases and normalizations stay as they are. Activations are the outputs of the network's modules of the
    kinds `ACTIVATIONS` (not of functions it calls), with a highest level that is learned.

    Parameters
    ----------
    bits : int or {"ternary", "binary"}
        Width of the weights: 2 to 16 bits, three values, two values, or 32 for full precision.
    activations : int, {"same", "ternary", "binary"}
        Width of the activations; ``"same"`` for that of the layer that they go into; 32 for full precision.
    start : {"full_precision", "scratch", "after_training"}
        Training is in full precision at first and quantized from a fraction of the epochs on; quantized from the first
        step; or never, and weights and activations are rounded once it is over (post-training quantization), as they
        also are where training is over before that fraction.
    fraction : float
        That fraction, of the first kind, in [0, 1).
    quantizer : {"uniform", "sigmoid"}
        Equally spaced levels (and the usual rules for two and three values), or the sum of sigmoids of Quantization
        Networks, the temperature of which grows (see Notes); for weights of at most 4 bits. Activations are uniform.
    ends : int
        Least width of the first and the last layer, and of the activations that go into the last one. Networks without
        layers between them have ``bits`` throughout.
    per_layer : tuple, optional
        Widths of the layers between the first and the last one, in place of ``bits``.

    Notes
    -----
    The highest level of activations is a parameter of the network (its logarithm), learned with the others, weight
    decay included. Before each of the first five quantized epochs it is set from 512 members: one of seven ranges,
    that with the least squared error, as for weights. For rounding after training it is set before the last epoch.

    The sum of sigmoids (Yang et al., 2019) has as many levels as the uniform quantizer. As in the released code,
    thresholds are midpoints between clusters of the layer's weights when quantization begins, ``beta`` begins at 5/4 of
    the highest level over the greatest weight, and the temperature grows linearly from 20 to 700. Ours is that
    ``alpha`` begins where the levels fit the weights best (there: at 1 / beta, too large for weights with a few great
    ones, which many epochs make up for), and that logarithms of alpha and beta are learned, their gradients divided
    as those of clips are.

    References
    ----------
    A. Famili and Y. Lao, "Deep neural network quantization framework for effective defense against membership inference
    attacks", Sensors 23(18), 2023.

    J. Yang, X. Shen, J. Xing, X. Tian, H. Li, B. Deng, J. Huang and X. Hua, "Quantization networks", CVPR 2019.
    """

    name: ClassVar[str] = "quantization"
    bits: Bits = 4
    activations: Bits = "same"
    start: str = "full_precision"
    fraction: float = 0.5
    quantizer: str = "uniform"
    ends: Bits = 8
    per_layer: tuple[Bits, ...] | None = None

    def __post_init__(self) -> None:
        _check_bits("bits", self.bits)
        _check_bits("ends", self.ends)
        if self.activations != "same":
            _check_bits("activations", self.activations)
        choose("start", self.start, ("full_precision", "scratch", "after_training"))
        check_number("fraction", self.fraction, low=0)
        if self.fraction >= 1:
            raise ValueError(
                f"fraction={self.fraction!r} must be less than 1: the rest is trained quantized."
            )
        choose("quantizer", self.quantizer, ("uniform", "sigmoid"))
        if self.per_layer is not None:
            object.__setattr__(self, "per_layer", tuple(self.per_layer))
            for bits in self.per_layer:
                _check_bits("per_layer", bits)
        if self.quantizer == "sigmoid":
            if self.start == "after_training":
                raise ValueError(
                    "quantizer='sigmoid' is a way to train; start='after_training' has no use for it."
                )
            for bits in self.per_layer or (self.bits,):
                if SIGMOID_BITS < storage(bits) < FULL:
                    raise ValueError(f"quantizer='sigmoid' is for at most {SIGMOID_BITS} bits, not {bits!r}.")

    # ---- widths

    def layer_bits(self, network: nn.Module) -> dict[str, Bits]:
        """Return the width of each weight of a network, by name."""
        return self._layer_bits(dict(network.named_parameters()))

    def _layer_bits(self, parameters: dict[str, torch.Tensor]) -> dict[str, Bits]:
        names = [name for name, p in parameters.items() if p.dim() > 1]
        between = max(0, len(names) - 2)
        if not between and self.per_layer is None:
            return dict.fromkeys(names, self.bits)
        inner = (self.bits,) * between if self.per_layer is None else self.per_layer
        if len(inner) != between:
            raise ValueError(
                f"per_layer={self.per_layer} has {len(inner)} widths; the network has {between} layers between the "
                "first and the last one."
            )
        end = max(self.ends, self.bits, key=storage)
        return dict(zip(names, (end, *inner, end)[: len(names)], strict=True))

    def activation_bits(self, network: nn.Module) -> dict[str, Bits]:
        """Return the width of each activation of a network, by the name of its module; none for those at its end."""
        widths, pending = self.layer_bits(network), list[str]()
        found: dict[str, Bits] = {}
        last = next(reversed(widths), None)
        for name, module in network.named_modules():
            if type(module) in ACTIVATIONS:
                pending.append(name)
            weight = f"{name}.weight" if name else "weight"
            if weight in widths:  # what comes before it goes into it
                bits = widths[weight] if self.activations == "same" else self.activations
                bits = max(bits, widths[weight], key=storage) if weight == last else bits
                found |= dict.fromkeys(pending, bits)
                pending = []
        return {name: bits for name, bits in found.items() if bits != FULL}

    def model_bits(self, network: nn.Module) -> int:
        """Return the size of a network in bits: its weights, a scale of 32 bits for each tensor, the rest in 32 bits.

        Parameters
        ----------
        network : torch.nn.Module
            As the model builds it; highest levels of activations are added.
        """
        widths = self.layer_bits(network)
        size = FULL * len(self.activation_bits(network))
        for name, p in network.named_parameters():
            width = storage(widths.get(name, FULL))
            size += width * p.numel() + FULL * (width < FULL)
        return size

    def full_precision_epochs(self, epochs: int) -> int:
        """Return how many of so many epochs are trained in full precision."""
        return sum(not self._on(epoch / max(1, epochs - 1)) for epoch in range(epochs))

    @property
    def is_full_precision(self) -> bool:
        """Whether nothing is quantized at all."""
        return self.bits == FULL and self.activations in ("same", FULL) and self.per_layer is None

    def _on(self, progress: float | None) -> bool:
        if progress is None or self.start == "scratch":
            return True
        return self.start == "full_precision" and progress >= self.fraction

    # ---- hooks

    def check(self, plan: AnyPlan) -> None:
        """Refuse to select an epoch by its accuracy where it may be one in full precision (ValueError)."""
        training = plan.training
        first = self.full_precision_epochs(training.epochs)
        if training.select != "last" and first and not self.is_full_precision:
            raise ValueError(
                f"select={training.select!r} may release a model of an epoch in full precision: with "
                f"start={self.start!r} train with select='last'."
            )

    def network(self, network: nn.Module) -> nn.Module:
        """Add highest levels to activations, and scales and thresholds to layers; see `Defense.network`."""
        widths = self.layer_bits(network)
        activations = self.activation_bits(network)
        modules = dict(network.named_modules())
        for name, bits in activations.items():
            module = modules[name]
            module.register_parameter("log_clip", nn.Parameter(torch.zeros(())))
            signed = ACTIVATIONS[type(module)]
            module.register_forward_hook(partial(_quantize_output, n=steps(bits), signed=signed))
        for name, bits in widths.items() if self.quantizer == "sigmoid" else ():
            if storage(bits) <= SIGMOID_BITS:
                layer = modules[name.rpartition(".")[0]]  # whose one weight this is
                layer.log_alpha, layer.log_beta = (nn.Parameter(torch.zeros(())) for _ in range(2))
                layer.thresholds = nn.Parameter(torch.zeros(steps(bits)), requires_grad=False)
        return network

    def weights(
        self, parameters: dict[str, torch.Tensor], *, progress: float | None = None
    ) -> dict[str, torch.Tensor]:
        """Return quantized weights, or in full precision the weights and no highest levels; see `Defense.weights`."""
        if not self._on(progress):
            # An empty tensor tells the activation's module to do nothing.
            return {name: p.new_empty(0) if _is_clip(name) else p for name, p in parameters.items()}
        given = dict(parameters)
        for name, bits in self._layer_bits(parameters).items():
            prefix, w = name.rpartition("weight")[0], parameters[name]
            if f"{prefix}thresholds" in parameters:
                slow = w.numel() ** -0.5
                scales = (parameters[f"{prefix}log_{scale}"] for scale in ("alpha", "beta"))
                alpha, beta = ((slow * s + ((1 - slow) * s).detach()).exp() for s in scales)
                temperature = self.temperature(progress)
                quantized = sigmoid_sum(w, alpha, beta, parameters[f"{prefix}thresholds"], temperature)
                given[name] = quantized if temperature else straight_through(w, quantized)
            elif bits != FULL:
                given[name] = straight_through(w, quantized_weights(w.detach(), bits))
        return given

    def temperature(self, progress: float | None) -> float | None:
        """Temperature of the sigmoid sum at a fraction of the epochs, or None (a step) when they are over."""
        if progress is None:
            return None
        begin = self.fraction if self.start == "full_precision" else 0.0
        first, last = TEMPERATURES
        return first + (last - first) * (progress - begin) / (1 - begin)

    def before_epoch(self, run: Run) -> None:
        """Set the highest levels of activations, and scales and thresholds when quantization begins."""
        training, first = run.training, self.full_precision_epochs(run.training.epochs)
        end = next(end for end in (*training.checkpoints, training.last) if end > run.epoch)
        begin = min(first, end - 1)
        if begin <= run.epoch < begin + CALIBRATIONS:
            self._calibrate(run)
        if run.epoch == begin:
            _set_thresholds(run)

    @torch.no_grad()
    def _calibrate(self, run: Run) -> None:
        """Set the highest level of every activation, from what members give in full precision."""
        modules = {name: m for name, m in run.network.named_modules() if hasattr(m, "log_clip")}
        for k in range(len(run.models)) if modules else ():
            seen: dict[str, torch.Tensor] = {}
            notes = [
                m.register_forward_hook(partial(_note, seen=seen, name=name)) for name, m in modules.items()
            ]
            _, parameters = run.function(k)
            silent = {name: p.new_empty(0) if _is_clip(name) else p for name, p in parameters.items()}
            with run.evaluating():
                functional_call(run.network, silent, (run.inputs(run.members[k][:CALIBRATION_RECORDS]),))
            for note in notes:
                note.remove()
            for name, bits in self.activation_bits(run.network).items():
                clip = best_clip(seen[name].float(), steps(bits), signed=ACTIVATIONS[type(modules[name])])
                _own(run, f"{name}.log_clip", k).copy_(clip.log())


def _is_clip(name: str) -> bool:
    return name.rpartition(".")[2] == "log_clip"


def _quantize_output(
    module: nn.Module, _: object, out: torch.Tensor, *, n: int, signed: bool
) -> torch.Tensor | None:
    log_clip: torch.Tensor = module.log_clip  # type: ignore[assignment]  # typed as a module too
    if not log_clip.numel():
        return None
    return quantized_activations(out, log_clip.exp(), n, signed=signed)


def _note(_: nn.Module, __: object, out: torch.Tensor, *, seen: dict[str, torch.Tensor], name: str) -> None:
    seen[name] = out


def _own(run: Run, name: str, index: int) -> torch.Tensor:
    """Return one model's own part of a parameter, to write to."""
    return run.parameters[name][index] if run.mode == "stacked" else run.parameters[name]


@torch.no_grad()
def _set_thresholds(run: Run) -> None:
    """Set scales and thresholds of sigmoid sums from the weights as they are."""
    for name in [name for name in run.parameters if name.rpartition(".")[2] == "thresholds"]:
        prefix = name.removesuffix("thresholds")
        for k in range(len(run.models)):
            w, thresholds = _own(run, f"{prefix}weight", k), _own(run, name, k)
            n = len(thresholds)
            beta = 1.25 * (n / 2) / w.abs().amax().clamp(min=TINY)
            thresholds.copy_(cluster_thresholds(beta * w.flatten(), n))
            _own(run, f"{prefix}log_beta", k).copy_(beta.log())
            levels = sigmoid_sum(w, torch.ones_like(beta), beta, thresholds, None)
            alpha = (w * levels).sum() / levels.square().sum().clamp(min=TINY)
            _own(run, f"{prefix}log_alpha", k).copy_(alpha.clamp(min=TINY).log())
