"""The SD3-style Pyramid Flow transformer: joint blocks only, spatial position table, rotary time axis."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from components.backbones.pyramid_flow.blocks import JointBlock, Modulation, TimeTextEmbedding
from components.backbones.pyramid_flow.column import Column
from components.backbones.pyramid_flow.model import PyramidFlowTransformer
from components.backbones.pyramid_flow.state import ColumnState


class SpatialPatchEmbedding(nn.Module):
    """2x2 patches by convolution, plus a stored table of spatial positions.

    The table covers ``max_size`` x ``max_size`` patches; sine-cosine of the coordinates divided by
    ``max_size / base_size``. A clip takes the table's centre crop of the *current* clip's grid; lower-resolution
    history takes that crop shrunk bilinearly (half-pixel centres).
    """

    pos_embed: Tensor

    def __init__(self, channels: int, dim: int, patch: int, max_size: int, base_size: int) -> None:
        super().__init__()
        self.max_size = max_size
        self.proj = nn.Conv2d(channels, dim, patch, patch)
        self.register_buffer("pos_embed", sine_cosine_table(dim, max_size, base_size)[None])

    def forward(self, clip: Tensor, grid: tuple[int, int], stretch: bool) -> Tensor:
        """Clip ``[R, C, t, h, w]`` to tokens ``[R, t h w / patch^2, D]``; ``grid`` is the current clip's patch grid."""
        rows, _, t, _, _ = clip.shape
        x = self.proj(rearrange(clip, "r c t h w -> (r t) c h w"))
        h, w = x.shape[-2:]
        position = self.crop(*(grid if stretch else (h, w)))
        # history of a lower level: the current clip's crop is shrunk onto it, half-pixel centres as in `token_layout`
        if position.shape[-2:] != (h, w):
            position = F.interpolate(position, (h, w), mode="bilinear", align_corners=False)
        x = x + position.to(x.dtype)
        tokens: Tensor = rearrange(x, "(r t) d h w -> r (t h w) d", r=rows, t=t)
        return tokens

    def crop(self, height: int, width: int) -> Tensor:
        """Centre crop ``[1, D, height, width]`` of the table."""
        if max(height, width) > self.max_size:
            raise ValueError(f"a grid of {height}x{width} patches exceeds the position table's {self.max_size}")
        # the checkpoint stores it flat, [1, max_size^2, D]
        table = rearrange(self.pos_embed, "1 (h w) d -> 1 d h w", h=self.max_size)
        top, left = (self.max_size - height) // 2, (self.max_size - width) // 2
        return table[..., top : top + height, left : left + width]


def sine_cosine_table(dim: int, size: int, base_size: int) -> Tensor:
    """Float32 ``[size * size, dim]``: half the channels for the column, half for the row; each sines then cosines."""
    # the released table counts in units of the base grid: 192 patches over 64 are thirds
    coordinate = torch.arange(size, dtype=torch.float64) * base_size / size
    # sines and cosines for each of two axes: a quarter of the channels each
    frequency = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    angle = coordinate[:, None] * frequency
    wave = torch.cat([angle.sin(), angle.cos()], dim=1)
    row, column = wave[:, None].expand(size, size, -1), wave[None].expand(size, size, -1)  # [size, size, dim / 2]
    return torch.cat([column, row], dim=-1).reshape(size * size, dim).float()


class PyramidMMDiT(PyramidFlowTransformer):
    """Pyramid Flow, SD3 variant. Defaults are the public checkpoint; state-dict keys are its keys.

    Args:
        sample_size: side of the latents the position table is centred for.
        patch_size: latent pixels per patch side.
        in_channels: latent channels.
        num_layers: joint blocks; the text side of the last one ends with its attention.
        attention_head_dim: channels per head; all of them rotate with time.
        num_attention_heads: heads; the width is their product.
        joint_attention_dim: width of the text tokens.
        pooled_projection_dim: width of the pooled text vector.
        pos_embed_max_size: side of the stored position table in patches.
        use_temporal_causal: tokens attend only to their own and earlier latent frames.
        interp_condition_pos: stretch lower-resolution history onto the grid of the current clip.
    """

    class_name = "PyramidDiffusionMMDiT"

    def __init__(
        self,
        sample_size: int = 128,
        patch_size: int = 2,
        in_channels: int = 16,
        num_layers: int = 24,
        attention_head_dim: int = 64,
        num_attention_heads: int = 24,
        joint_attention_dim: int = 4096,
        pooled_projection_dim: int = 2048,
        pos_embed_max_size: int = 192,
        use_temporal_causal: bool = True,
        interp_condition_pos: bool = True,
    ) -> None:
        super().__init__()
        self.dim = dim = attention_head_dim * num_attention_heads
        self.num_heads = heads = num_attention_heads
        self.config: dict[str, Any] = {
            "sample_size": sample_size,
            "patch_size": patch_size,
            "in_channels": in_channels,
            "num_layers": num_layers,
            "attention_head_dim": attention_head_dim,
            "num_attention_heads": num_attention_heads,
            "caption_projection_dim": dim,
            "joint_attention_dim": joint_attention_dim,
            "pooled_projection_dim": pooled_projection_dim,
            "pos_embed_max_size": pos_embed_max_size,
            "qk_norm": "rms_norm",
            "pos_embed_type": "sincos",
            "temp_pos_embed_type": "rope",
            "add_temp_pos_embed": True,
            "use_temporal_causal": use_temporal_causal,
            "interp_condition_pos": interp_condition_pos,
        }
        self.patch = patch_size
        self.latent_channels = in_channels
        self.axes_dims = (attention_head_dim, 0, 0)  # time alone rotates; rows and columns are in the added table
        self.temporal_causal = use_temporal_causal
        self.stretch_history = interp_condition_pos

        base_size = sample_size // patch_size
        self.pos_embed = SpatialPatchEmbedding(in_channels, dim, patch_size, pos_embed_max_size, base_size)
        self.time_text_embed = TimeTextEmbedding(dim, pooled_projection_dim)
        self.context_embedder = nn.Linear(joint_attention_dim, dim)
        self.transformer_blocks = nn.ModuleList(
            JointBlock(dim, heads, 1e-5, ("norm_add_q", "norm_add_k"), last=i == num_layers - 1)
            for i in range(num_layers)
        )
        self.norm_out = Modulation(dim, 2)
        self.proj_out = nn.Linear(dim, patch_size**2 * in_channels)
        nn.init.zeros_(self.proj_out.weight)  # a fresh model answers with a velocity of zero
        nn.init.zeros_(self.proj_out.bias)

    @property
    def blocks(self) -> list[nn.Module]:
        """The joint blocks."""
        return list(self.transformer_blocks)

    def embed(self, column: Column) -> ColumnState:
        """Patches by convolution plus the spatial table; time by rotation inside the attention."""
        parts = self.laid_out(column, self.context_embedder.weight.dtype)
        grid = parts.layout.shapes[-1][1:]
        video = [self.pos_embed(clip.to(parts.text.dtype), grid, self.stretch_history) for clip in parts.clips]
        tokens = torch.cat([self.context_embedder(parts.text), *video], dim=1)
        return self.state(column, parts, tokens, self.time_text_embed(column.timesteps, parts.pooled))
