"""Synchformer's video tower: a Motionformer whose attention goes over time first and over each frame then.

Metrics specification, section 4; parameter names are those of the public checkpoint.

Legend for shapes: S segments, T' token frames (pairs of frames), P patches of a frame, N = 1 + T' P tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from components.metrics.synchformer.aggregation import LAYER_NORM_EPS, TokenAggregation

SEGMENT_FRAMES = 16
IMAGE_SIZE = 224
PATCH_SIZE = 16
TUBELET_FRAMES = 2
"""Frames that one token covers."""


class VideoTower(nn.Module):
    """Segments of 16 pictures of 224 x 224 to eight tokens each.

    Args:
        dim: D, width of the tokens.
        depth: blocks.
        num_heads: heads of every attention.
    """

    def __init__(self, dim: int, depth: int, num_heads: int) -> None:
        super().__init__()
        self.token_frames = SEGMENT_FRAMES // TUBELET_FRAMES
        num_patches = (IMAGE_SIZE // PATCH_SIZE) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + num_patches, dim))
        self.temp_embed = nn.Parameter(torch.zeros(1, self.token_frames, dim))
        # of the image model the tower was begun from: in every checkpoint, never used
        self.patch_embed = PatchEmbedding(nn.Conv2d(3, dim, PATCH_SIZE, stride=PATCH_SIZE))
        tubelet = (TUBELET_FRAMES, PATCH_SIZE, PATCH_SIZE)
        self.patch_embed_3d = PatchEmbedding(nn.Conv3d(3, dim, tubelet, stride=tubelet))
        self.blocks = nn.ModuleList(DividedBlock(dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.spatial_attn_agg = TokenAggregation(dim, num_heads)

    def forward(self, segments: Tensor) -> Tensor:
        """``[S, 16, 3, 224, 224]`` in [-1, 1] to ``[S, 8, D]``."""
        patches = self.patch_embed_3d(segments.transpose(1, 2)).flatten(2).transpose(1, 2)  # [S, T' P, D], time first
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self._positions()
        for block in self.blocks:
            tokens = block(tokens, self.token_frames)
        frames = self.norm(tokens)[:, 1:].unflatten(1, (self.token_frames, -1))  # [S, T', P, D]
        result: Tensor = self.spatial_attn_agg.aggregate(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return result

    def _positions(self) -> Tensor:
        """``[1, N, D]``: place in the picture plus time; the class token has a place alone."""
        places, times = self.pos_embed[:, None, 1:], self.temp_embed[:, :, None]
        return torch.cat([self.pos_embed[:, :1], (places + times).flatten(1, 2)], dim=1)


class PatchEmbedding(nn.Module):
    """A strided convolution under the name that the checkpoint gives it."""

    def __init__(self, proj: nn.Module) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures to a grid of patches."""
        patches: Tensor = self.proj(pictures)
        return patches


class DividedBlock(nn.Module):
    """Attention of each patch to itself at other times, then of each frame's patches to each other, then an MLP."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = DividedAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim)
        self.norm3 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.timeattn = DividedAttention(dim, num_heads)

    def forward(self, tokens: Tensor, token_frames: int) -> Tensor:
        """``[S, N, D]`` to ``[S, N, D]``; ``token_frames`` is T'."""
        tokens = tokens + self.timeattn(self.norm3(tokens), token_frames, over_time=True)
        tokens = tokens + self.attn(self.norm1(tokens), token_frames, over_time=False)
        result: Tensor = tokens + self.mlp(self.norm2(tokens))
        return result


class DividedAttention(nn.Module):
    """Attention within groups of tokens; the class token sees all tokens, and every group sees the class token."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, token_frames: int, over_time: bool) -> Tensor:
        """``[S, N, D]`` to ``[S, N, D]``.

        Args:
            tokens: the class token, then frame after frame of patches.
            token_frames: T'.
            over_time: groups are the T' tokens of one patch; else the P tokens of one frame.
        """
        # [S, heads, N, D / heads] each
        query, key, value = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        of_class = scaled_dot_product_attention(query[:, :, :1], key, value)
        of_patches = scaled_dot_product_attention(
            _grouped(query, token_frames, over_time),
            _with_class(_grouped(key, token_frames, over_time), key[:, :, :1]),
            _with_class(_grouped(value, token_frames, over_time), value[:, :, :1]),
        )
        if over_time:
            of_patches = of_patches.transpose(2, 3)
        joined = torch.cat([of_class, of_patches.flatten(2, 3)], dim=2)  # [S, heads, N, D / heads]
        result: Tensor = self.proj(joined.transpose(1, 2).flatten(2))
        return result


class Mlp(nn.Module):
    """Two linear layers, four times as wide between."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[..., D]`` to ``[..., D]``."""
        result: Tensor = self.fc2(gelu(self.fc1(tokens)))
        return result


def _grouped(part: Tensor, token_frames: int, over_time: bool) -> Tensor:
    """``[S, heads, N, d]`` without the class token: ``[.., P, T', d]`` over time, else ``[.., T', P, d]``."""
    frames: Tensor = part[:, :, 1:].unflatten(2, (token_frames, -1))
    return frames.transpose(2, 3) if over_time else frames


def _with_class(groups: Tensor, of_class: Tensor) -> Tensor:
    """Puts the class token ``[S, heads, 1, d]`` before the keys or values of every group ``[S, heads, G, M, d]``."""
    repeated = of_class[:, :, None].expand(-1, -1, groups.shape[2], -1, -1)
    return torch.cat([repeated, groups], dim=3)
