"""The defenses, one file each; every one overrides hooks of `Defense`."""

from mialab.defenses.adamixup import AdaMixup, Mixup
from mialab.defenses.adversarial_regularization import AdversarialRegularization
from mialab.defenses.base import Defense, available, make, register, summary
from mialab.defenses.confidence_masking import ConfidenceMasking
from mialab.defenses.convex_concave import ConvexConcave
from mialab.defenses.distillation import Distillation
from mialab.defenses.dp_sgd import DPSGD
from mialab.defenses.dropout import Dropout
from mialab.defenses.dynanoise import DynaNoise
from mialab.defenses.early_stopping import EarlyStopping
from mialab.defenses.hamp import HAMP
from mialab.defenses.label_smoothing import LabelSmoothing
from mialab.defenses.memguard import MemGuard
from mialab.defenses.mist import MIST
from mialab.defenses.quantization import Quantization
from mialab.defenses.relaxloss import RelaxLoss
from mialab.defenses.selena import SELENA
from mialab.defenses.weight_decay import WeightDecay
from mialab.defenses.weighted_smoothing import WeightedSmoothing

__all__ = [
    "DPSGD",
    "HAMP",
    "MIST",
    "SELENA",
    "AdaMixup",
    "AdversarialRegularization",
    "ConfidenceMasking",
    "ConvexConcave",
    "Defense",
    "Distillation",
    "Dropout",
    "DynaNoise",
    "EarlyStopping",
    "LabelSmoothing",
    "MemGuard",
    "Mixup",
    "Quantization",
    "RelaxLoss",
    "WeightDecay",
    "WeightedSmoothing",
    "available",
    "make",
    "register",
    "summary",
]
