"""Root-mean-square norms between mixed precisions."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn


def rms_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """`torch.nn.RMSNorm` by PyTorch's fused kernel where it has one, also with weights of another precision.

    Under mixed precision weights are float32 and tokens are not. PyTorch's fused kernel takes one precision: it would
    warn and fall back to single operations, whose result is rounded to the tokens' precision.

    Args:
        norm: over the last dimensions of ``x``.
        x: tokens.

    Returns:
        The shape of ``x``, in its precision, or in float32 where the weights have another.
    """
    module = cast(nn.RMSNorm, norm)
    if module.weight.dtype == x.dtype:
        out: Tensor = module(x)
        return out
    # autocast leaves this norm as it is
    return F.rms_norm(x.float(), module.normalized_shape, module.weight.float(), module.eps)
