"""``python -m mialab``, the same as the command ``mialab``."""

import sys

from mialab.cli import main

if __name__ == "__main__":
    sys.exit(main())
