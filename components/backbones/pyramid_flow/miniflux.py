"""The miniFLUX-style Pyramid Flow transformer: joint blocks, then single blocks, rotary positions on three axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import nn

from components.backbones.pyramid_flow.blocks import JointBlock, Modulation, SingleBlock, TimeTextEmbedding
from components.backbones.pyramid_flow.column import Column
from components.backbones.pyramid_flow.model import PyramidFlowTransformer
from components.backbones.pyramid_flow.state import ColumnState


class MiniFluxTransformer(PyramidFlowTransformer):
    """Pyramid Flow, miniFLUX variant. Defaults are the public 384p checkpoint; state-dict keys are its keys.

    Args:
        in_channels: channels of a 2x2 patch of latents (4 times the latent channels).
        num_layers: joint blocks.
        num_single_layers: single blocks.
        attention_head_dim: channels per head.
        num_attention_heads: heads; the width is their product.
        joint_attention_dim: width of the text tokens.
        pooled_projection_dim: width of the pooled text vector.
        axes_dims_rope: head channels that rotate with time, row and column.
        use_temporal_causal: tokens attend only to their own and earlier latent frames.
        interp_condition_pos: stretch lower-resolution history onto the grid of the current clip.
        rope_theta: base of the rotary frequencies. All public checkpoints use 10000; on grids of a few patches most of
            those frequencies hardly rotate, and a small base lets a small model distinguish neighbours.

    Raises:
        ValueError: if the rotary axes do not add up to the head width or ``in_channels`` is not a multiple of 4.
    """

    class_name = "PyramidFluxTransformer"

    def __init__(
        self,
        in_channels: int = 64,
        num_layers: int = 8,
        num_single_layers: int = 16,
        attention_head_dim: int = 64,
        num_attention_heads: int = 30,
        joint_attention_dim: int = 4096,
        pooled_projection_dim: int = 768,
        axes_dims_rope: Sequence[int] = (16, 24, 24),
        use_temporal_causal: bool = True,
        interp_condition_pos: bool = True,
        rope_theta: float = 10000.0,
    ) -> None:
        super().__init__()
        if sum(axes_dims_rope) != attention_head_dim:
            raise ValueError(f"axes_dims_rope {list(axes_dims_rope)} must add up to head width {attention_head_dim}")
        if in_channels % self.patch**2:
            raise ValueError(f"in_channels {in_channels} must be a multiple of {self.patch**2} (2x2 latent pixels)")
        self.config: dict[str, Any] = {
            "patch_size": 1,  # the public config counts the 2x2 patches as channels (in_channels 64)
            "in_channels": in_channels,
            "num_layers": num_layers,
            "num_single_layers": num_single_layers,
            "attention_head_dim": attention_head_dim,
            "num_attention_heads": num_attention_heads,
            "joint_attention_dim": joint_attention_dim,
            "pooled_projection_dim": pooled_projection_dim,
            "axes_dims_rope": list(axes_dims_rope),
            "use_temporal_causal": use_temporal_causal,
            "interp_condition_pos": interp_condition_pos,
            "rope_theta": rope_theta,
        }
        self.dim = dim = attention_head_dim * num_attention_heads
        self.num_heads = heads = num_attention_heads
        self.latent_channels = in_channels // self.patch**2
        self.axes_dims = tuple(axes_dims_rope)
        self.temporal_causal = use_temporal_causal
        self.stretch_history = interp_condition_pos
        self.rope_theta = rope_theta

        self.time_text_embed = TimeTextEmbedding(dim, pooled_projection_dim)
        self.context_embedder = nn.Linear(joint_attention_dim, dim)
        self.x_embedder = nn.Linear(in_channels, dim)
        self.transformer_blocks = nn.ModuleList(
            JointBlock(dim, heads, 1e-6, ("norm_added_q", "norm_added_k")) for _ in range(num_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(SingleBlock(dim, heads, 1e-6) for _ in range(num_single_layers))
        self.norm_out = Modulation(dim, 2)
        self.proj_out = nn.Linear(dim, in_channels)
        nn.init.zeros_(self.proj_out.weight)  # a fresh model answers with a velocity of zero
        nn.init.zeros_(self.proj_out.bias)

    @property
    def blocks(self) -> list[nn.Module]:
        """Joint blocks, then single blocks."""
        return [*self.transformer_blocks, *self.single_transformer_blocks]

    def embed(self, column: Column) -> ColumnState:
        """Patches are linear in (row, column, channel) order with the channel fastest."""
        parts = self.laid_out(column, self.context_embedder.weight.dtype)
        patches = [
            # row, column, channel, the channel fastest, as in the public x_embedder (a convolution would put the
            # channel first)
            rearrange(clip, "r c t (h p) (w q) -> r (t h w) (p q c)", p=self.patch, q=self.patch)
            for clip in parts.clips
        ]
        video = self.x_embedder(torch.cat(patches, dim=1).to(parts.text.dtype))
        tokens = torch.cat([self.context_embedder(parts.text), video], dim=1)
        return self.state(column, parts, tokens, self.time_text_embed(column.timesteps, parts.pooled))
