"""The one place that calls scaled dot-product attention."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

FEW_QUERIES = 64
"""Blocks of queries that are this few together share one call under a small mask: a call of its own costs more."""


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

    What a mask forbids is not computed, and no mask keeps fused kernels away (but among blocks of a few queries).

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
    groups = _grouped(calls)
    sizes, ends = [sum(size for size, _ in group) for group in groups], [group[-1][1] for group in groups]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [B, H, S, d], views
    blocks = zip(groups, q.split(sizes, dim=2), prefixes(k, ends, 2), prefixes(v, ends, 2), strict=True)
    outputs = []
    for group, queries, keys, values in blocks:
        mask = None if len(group) == 1 else _prefix_mask(group, q.device)
        if key_mask is not None:
            seen = key_mask[:, None, None, : group[-1][1]]
            mask = seen if mask is None else seen & mask
        outputs.append(_attended(queries, keys, values, mask).transpose(1, 2))
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)).to(dtype)


def _grouped(calls: Sequence[tuple[int, int]]) -> list[tuple[tuple[int, int], ...]]:
    groups: list[tuple[tuple[int, int], ...]] = []
    for call in calls:
        if groups and sum(size for size, _ in groups[-1]) + call[0] <= FEW_QUERIES:
            groups[-1] = (*groups[-1], call)
        else:
            groups.append((call,))
    return groups


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _prefix_mask(calls: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """Bool ``[queries, last end]``, at most `FEW_QUERIES` rows; made outside inference mode to serve training too."""
    ends = torch.tensor([end for size, end in calls for _ in range(size)])
    return (torch.arange(calls[-1][1]) < ends[:, None]).to(device, non_blocking=True)


def attention_dtypes(dtype: torch.dtype, device: torch.device) -> tuple[torch.dtype, torch.dtype]:
    """Precisions in which rotated (float32) keys and values of ``dtype`` are attended to without another rounding."""
    return (torch.float32 if device.type == "cpu" else dtype), dtype


def prefixes(x: Tensor, ends: Sequence[int], dim: int = 1) -> Sequence[Tensor]:
    """``x[:, :end]`` for every end, or so along another axis; the last is the whole. Views.

    Gradients add up in one tensor (in float32), where those of plain slices would each fill a whole one with zeros.
    """
    if len(ends) == 1:
        return [x]
    if not (torch.is_grad_enabled() and x.requires_grad):
        return [x.narrow(dim, 0, end) for end in ends]
    views: tuple[Tensor, ...] = _Prefixes.apply(x, tuple(ends), dim)  # type: ignore[no-untyped-call]  # torch's own
    return views


class _Prefixes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ends: tuple[int, ...], dim: int) -> tuple[Tensor, ...]:
        ctx.ends, ctx.dim = ends, dim
        return tuple(x.narrow(dim, 0, end) for end in ends)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        whole = gradients[-1]
        # a copy: what autograd hands in may be read by others
        total = whole.to(torch.float32, copy=True) if whole.element_size() < 4 else whole.clone()
        for end, gradient in zip(ctx.ends[:-1], gradients[:-1], strict=True):
            total.narrow(ctx.dim, 0, end).add_(gradient)
        return total.to(whole.dtype), None, None


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
