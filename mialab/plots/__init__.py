"""Figures. A defense has one color and one marker in all of them, an attack one dash pattern.

In figures of many attacks on one defense, colors tell the attacks apart.
"""

import lazy_loader

from mialab._validation import extra

with extra("plots"):
    import seaborn as seaborn  # and matplotlib with it

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
