"""What processes of tests/processes.py have imported when they begin."""

from lightning_modules.command_line.startup import import_own_modules, import_torchmetrics

import_torchmetrics()
import_own_modules()

import torch._dynamo  # noqa: E402, F401  an optimizer imports it at its first step

import lightning_modules.command_line.cli  # noqa: E402, F401
