"""``python -m mialab``, the same as the command ``mialab``."""

import sys

from mialab.cli import main

sys.exit(main())
