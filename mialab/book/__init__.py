"""The book: running notebooks, tables of reference runs, the Sphinx extension. Works in a checkout only."""
