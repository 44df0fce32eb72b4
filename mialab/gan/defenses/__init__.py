"""The defenses of generative models, one file each; every one overrides hooks of `Defense`."""

from mialab.gan.defenses.base import Defense, available, make, register
from mialab.gan.defenses.dp_critic import DPCritic
from mialab.gan.defenses.megan import MEGAN
from mialab.gan.defenses.mixup import Mixup
from mialab.gan.defenses.par_gan import ParGAN
from mialab.gan.defenses.privgan import PrivGAN
from mialab.gan.defenses.relaxloss import RelaxLoss, reference_level

__all__ = [
    "MEGAN",
    "DPCritic",
    "Defense",
    "Mixup",
    "ParGAN",
    "PrivGAN",
    "RelaxLoss",
    "available",
    "make",
    "reference_level",
    "register",
]
