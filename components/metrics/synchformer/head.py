"""Synchformer's head: a transformer over the tokens of both towers that names the offset between them.

Metrics specification, section 4; parameter names are those of the public checkpoint.

Legend for shapes: N windows, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

NUM_OFFSETS = 21
"""Classes of offsets."""


class OffsetHead(nn.Module):
    """Tokens of a window of picture and sound to one logit per offset.

    Args:
        dim: D, width of the tokens.
        depth: blocks.
        num_heads: heads of every attention.
        num_video_tokens: of a window.
        num_audio_tokens: of a window.
    """

    def __init__(self, dim: int, depth: int, num_heads: int, num_video_tokens: int, num_audio_tokens: int) -> None:
        super().__init__()
        self.OFF_tok = nn.Parameter(torch.randn(1, 1, dim))
        self.MOD_tok = nn.Parameter(torch.randn(1, 1, dim))
        self.vis_in_lnorm = nn.LayerNorm(dim)
        self.aud_in_lnorm = nn.LayerNorm(dim)
        self.pos_emb_cfg = Positions(2 + num_video_tokens + num_audio_tokens, dim)
        self.blocks = nn.Sequential(*(Block(dim, num_heads) for _ in range(depth)))
        self.ln_f = nn.LayerNorm(dim)
        self.off_head = nn.Linear(dim, NUM_OFFSETS)

    def forward(self, video: Tensor, sound: Tensor) -> Tensor:
        """``[N, 14 * 8, D]`` and ``[N, 14 * 6, D]`` to logits ``[N, 21]``."""
        offset, border = (token.expand(len(video), -1, -1) for token in (self.OFF_tok, self.MOD_tok))
        tokens = torch.cat([offset, self.vis_in_lnorm(video), border, self.aud_in_lnorm(sound)], dim=1)
        tokens = self.blocks(self.pos_emb_cfg(tokens))
        logits: Tensor = self.off_head(self.ln_f(tokens)[:, 0])
        return logits


class Positions(nn.Module):
    """A learned vector for every place of a window."""

    def __init__(self, num_tokens: int, dim: int) -> None:
        super().__init__()
        self.pos_emb = nn.Parameter(torch.randn(1, num_tokens, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """``[N, M, D]`` to ``[N, M, D]``."""
        return tokens + self.pos_emb


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(dim)
        self.attn = SelfAttention(dim, num_heads)
        self.ln2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """``[N, M, D]`` to ``[N, M, D]``."""
        tokens = tokens + self.attn(self.ln1(tokens))
        result: Tensor = tokens + self.mlp(self.ln2(tokens))
        return result


class SelfAttention(nn.Module):
    """Multi-head attention with separate projections."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.key = nn.Linear(dim, dim)
        self.query = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[N, M, D]`` to ``[N, M, D]``."""
        query, key, value = (
            layer(tokens).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        attended = scaled_dot_product_attention(query, key, value)  # [N, heads, M, D / heads]
        result: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return result
