"""What processes of tests/processes.py have imported when they begin."""

from lightning_modules.command_line.startup import import_own_modules, import_torchmetrics

import_torchmetrics()
import_own_modules()

import diffusers.models.attention_dispatch  # noqa: E402, F401  Harmony's towers import it when they are built
import torch._dynamo  # noqa: E402, F401  an optimizer imports it at its first step
from diffusers import WanTransformer3DModel  # noqa: E402, F401  with peft and transformers

import lightning_modules.command_line.cli  # noqa: E402, F401
