"""``python -m cytomend``."""

import sys

from cytomend.cli import run

sys.exit(run())
