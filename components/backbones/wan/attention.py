"""Attention of a Wan block: diffusers' modules and backends, without the detours of its processor.

The numbers are those of diffusers' ``WanAttnProcessor`` within rounding, with one exception: on a CPU under autocast
the attention itself runs in float32, because PyTorch's fused CPU kernel is slower in bfloat16 (see
`components.backbones.attention_kernel`).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from components.backbones.context_parallel import TokenSplit
from components.backbones.wan.normed_heads import RotaryTable, normed_heads


def wan_attention(
    attention: nn.Module,
    x: Tensor,
    context: Tensor | None,
    mask: Tensor | None,
    rope: RotaryTable | None,
    split: TokenSplit | None = None,
) -> Tensor:
    """What calling diffusers' ``WanAttention`` gives, through its attention backend.

    Args:
        attention: `WanAttention` without image keys.
        x: tokens ``[B, L, D]`` that ask.
        context: tokens ``[B, M, D]`` that answer; None for the tokens themselves.
        mask: bool, broadcastable to ``[B, H, L, M]``, True where attention is allowed; None allows all.
        rope: positions of the tokens in self-attention.
        split: in self-attention, how the sequence is shared among processes, of whose tokens ``x`` and ``rope`` have
            this one's; None where they have all.

    Returns:
        ``[B, L, D]``.
    """
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    wan = cast(Any, attention)
    source = x if context is None else context
    query = normed_heads(wan.norm_q, wan.to_q(x), wan.heads, rope)  # [B, L, H, d]
    key = normed_heads(wan.norm_k, wan.to_k(source), wan.heads, rope)
    value: Tensor = torch.unflatten(wan.to_v(source), -1, (wan.heads, -1))
    widened = value.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if widened:
        query, key, value = query.float(), key.float(), value.float()
    with torch.autocast("cpu", enabled=False) if widened else nullcontext():  # it would cast them back
        if split is not None:
            query, key, value = split.to_heads(query), split.to_heads(key), split.to_heads(value)
        out = dispatch_attention_fn(query, key, value, attn_mask=mask, backend=wan.processor._attention_backend)
        out = out if split is None else split.to_tokens(out)
    project, dropout = wan.to_out
    return cast(Tensor, dropout(project(out.flatten(2))))
