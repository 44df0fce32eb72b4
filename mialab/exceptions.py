"""Errors of this package's own."""


class RequirementsNotMet(ValueError):
    """A game lacks what an attack or a signal needs; the message says what, and how to get it."""
