"""What a probe is: a measurement on the trained models themselves, as answers to fixed queries do not show it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mialab.arrays import ArraySpec
from mialab.data.pool import Pool


@dataclass(frozen=True)
class AnyProbe(ABC):
    """A probe of any kind of models: a measurement of each model at each record, made when training is over.

    Hyper-parameters are the fields of the dataclass; they are part of a game's hash.
    """

    name: ClassVar[str]
    #: The array of a game that holds the measurements.
    array: ClassVar[ArraySpec]

    def check(self, pool: Pool) -> None:  # noqa: B027  # a hook
        """Refuse, before any training, a pool in which this cannot be measured (ValueError)."""

    @abstractmethod
    def __call__(self, run: Any) -> dict[str, np.ndarray]:
        """Measure a trained group of models.

        Parameters
        ----------
        run : Run
            The group, see `mialab.classifiers.run.Run` and `mialab.gan.run.Run`.

        Returns
        -------
        dict of str to numpy.ndarray of float32, shape (model, record) or (model, record, layer)
            The measurements, under the name `array`; NaN for records that were not queried.
        """


class Probe(AnyProbe):
    """Base class of every probe of classifiers."""
