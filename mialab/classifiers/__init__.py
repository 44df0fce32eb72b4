"""The first victim: classifiers."""
