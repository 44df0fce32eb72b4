"""Plain versions of what the package computes: short, slow, one thing after the other; tests compare with them."""
