"""The one place that calls scaled dot-product attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention of ``q``, ``k``, ``v`` ``[B, H, S, d]``; the result has ``v``'s dtype.

    On a CPU it runs in float32 whatever the inputs are: the backward pass of PyTorch's fused CPU kernel is several
    times slower in bfloat16 than in float32 (``benchmarks/cpu_attention.py``), unlike the matrix products around it.

    Args:
        q: queries.
        k: keys.
        v: values.
        mask: bool, broadcastable to ``[B, H, S_q, S_k]``, True where attention is allowed; None allows all.
    """
    if v.device.type == "cpu":
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask).to(v.dtype)
    return F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=mask)
