"""Pools of labeled records, some of which a model will be trained on.

``load("digits")`` gives a `Pool`: the records that may become members (``x``, ``y``) and, apart from them, validation
records for model selection, test records for accuracy and, where asked for, reference records for defenses and
attackers that need other data. The parts are always disjoint. Nothing is ever replaced by
other data: a set that is missing is an error that says which file to put where.

Two environment variables matter: ``MIALAB_DATA`` is a folder searched for data files you already have,
``MIALAB_CACHE`` is where downloads go (default: the user's cache folder).
"""

from mialab.data.loading import datasets, load
from mialab.data.pool import Pool

__all__ = ["Pool", "datasets", "load"]
