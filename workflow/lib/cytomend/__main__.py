"""``python -m cytomend``."""

import sys

from cytomend.cli import main

sys.exit(main())
