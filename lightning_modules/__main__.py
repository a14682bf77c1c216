"""``python -m lightning_modules`` is the command ``avsync``."""

import sys

from lightning_modules.cli import main

sys.exit(main())
