"""Auditing: attacks are run, measured with intervals, compared, and claims are judged."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
