"""``python -m lightning_modules`` is the command ``avsync``."""

import sys

from lightning_modules.command_line.cli import main

sys.exit(main())
