"""The one place that calls scaled dot-product attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention of ``q``, ``k``, ``v`` ``[B, H, S, d]``; the result has ``v``'s dtype.

    On a CPU it runs in float32 whatever the inputs are: unlike the matrix products around it, PyTorch's fused CPU
    kernel is no faster in bfloat16, and its backward pass over about a hundred tokens is two to three times slower
    (``benchmarks/cpu_attention.py``).

    Args:
        q: queries.
        k: keys.
        v: values.
        mask: bool, broadcastable to ``[B, H, S_q, S_k]``, True where attention is allowed; None allows all.
    """
    if v.device.type == "cpu":
        # autocast would cast the float32 inputs back: attention is on its list of products
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask).to(v.dtype)
    # rotation and query-key norms give float32, but fused kernels want one dtype, and the values have the blocks' own
    return F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=mask)
