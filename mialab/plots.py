"""Figures: one colour per defense, one line style per attack."""
