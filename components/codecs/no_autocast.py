"""Codecs compute in the precision of their weights, whatever the model around them computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.amp.autocast_mode import is_autocast_available


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast switched off: it turns float32 networks to bfloat16 and group norms of bfloat16 ones to float32."""
    if not is_autocast_available(device.type):  # the meta device
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
