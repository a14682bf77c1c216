"""The one place that calls scaled dot-product attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


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
    return _attended(*_as_attended(q, k, v), mask).to(v.dtype)


def prefix_attention(
    q: Tensor, k: Tensor, v: Tensor, calls: Sequence[tuple[int, int]], key_mask: Tensor | None = None
) -> Tensor:
    """Block-causal attention without a matrix of masks: consecutive queries, each block with keys up to its own end.

    What a mask forbids is not computed, and no mask keeps fused kernels away.

    Args:
        q: queries ``[B, S_q, H, d]``.
        k: keys ``[B, S_k, H, d]``.
        v: values ``[B, S_k, H, d]``.
        calls: ``(queries, end)`` of each block; the queries add up to S_q, ends never fall, the last one is S_k.
        key_mask: bool ``[B, S_k]``, False for keys that nobody sees; the first block sees at least one.

    Returns:
        ``[B, S_q, H, d]`` in ``v``'s dtype.
    """
    dtype = v.dtype
    q, k, v = _as_attended(q, k, v)
    sizes, ends = [size for size, _ in calls], [end for _, end in calls]
    blocks = zip(q.split(sizes, dim=1), prefixes(k, ends), prefixes(v, ends), ends, strict=True)
    outputs = []
    for queries, keys, values, end in blocks:
        mask = None if key_mask is None else key_mask[:, None, None, :end]
        q, k, v = (x.transpose(1, 2) for x in (queries, keys, values))  # [B, H, S, d], views
        outputs.append(_attended(q, k, v, mask).transpose(1, 2))
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)).to(dtype)


def attention_dtypes(dtype: torch.dtype, device: torch.device) -> tuple[torch.dtype, torch.dtype]:
    """Precisions in which rotated (float32) keys and values of ``dtype`` are attended to without another rounding."""
    return (torch.float32 if device.type == "cpu" else dtype), dtype


def prefixes(x: Tensor, ends: Sequence[int]) -> Sequence[Tensor]:
    """``x[:, :end]`` for every end, the last of which is the whole; views.

    Gradients add up in one tensor (in float32), where those of plain slices would each fill a whole one with zeros.
    """
    if len(ends) == 1:
        return [x]
    if not (torch.is_grad_enabled() and x.requires_grad):
        return [x[:, :end] for end in ends]
    views: tuple[Tensor, ...] = _Prefixes.apply(x, tuple(ends))  # type: ignore[no-untyped-call]  # torch's own
    return views


class _Prefixes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ends: tuple[int, ...]) -> tuple[Tensor, ...]:
        ctx.ends = ends
        return tuple(x[:, :end] for end in ends)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = gradients[-1]
        # a copy: what autograd hands in may be read by others
        total = whole.to(torch.float32, copy=True) if whole.element_size() < 4 else whole.clone()
        for end, gradient in zip(ctx.ends[:-1], gradients[:-1], strict=True):
            total[:, :end] += gradient
        return total.to(whole.dtype), None


def _as_attended(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values in the one precision that the kernel runs in."""
    # rotation and query-key norms give float32, but fused kernels want one dtype, and the values have the blocks' own
    dtype = torch.float32 if v.device.type == "cpu" else v.dtype
    return q.to(dtype), k.to(dtype), v.to(dtype)


def _attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    if v.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    # autocast would cast the float32 inputs back: attention is on its list of products
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
