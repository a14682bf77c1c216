"""Audio cross-attention of Syncphony's late blocks: every latent frame listens to the sound around its own time.

Source: Syncphony, "Audio Cross-Attention + Audio RoPE": video tokens are queries, audio tokens keys and values, both
rotated by their positions on one shared time axis; the layer stands before the block's joint self-attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils._pytree import register_dataclass

from components.backbones.attention_kernel import attention
from components.backbones.pyramid_flow.column import TokenLayout
from components.backbones.rope import rotate
from components.backbones.syncphony.audio_windows import AudioWindows


@dataclass(frozen=True)
class HeardAudio:
    """Keys and values of one layer, gathered per latent frame: ``[B, L, H, W, d]`` each."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class AudioContext:
    """Everything the late blocks need of a clip's sound; constant over denoising steps, so computed once.

    Attributes:
        windows: which tokens each latent frame hears.
        layers: keys and values of every audio layer, in block order.
    """

    windows: AudioWindows
    layers: tuple[HeardAudio, ...]

    def rows(self, index: Tensor) -> AudioContext:
        """The context of the clips ``index`` (may repeat)."""
        layers = tuple(HeardAudio(layer.keys[index], layer.values[index]) for layer in self.layers)
        return replace(self, windows=self.windows.rows(index), layers=layers)


register_dataclass(HeardAudio)  # see `components.backbones.pyramid_flow.blocks`
register_dataclass(AudioContext)


class AudioCrossAttention(nn.Module):
    """One audio layer. Its output projection starts at zero, so that a fresh layer changes nothing.

    Args:
        dim: width of video and embedded audio tokens.
        heads: attention heads.
        norm_eps: epsilon of the query and key norms.
    """

    def __init__(self, dim: int, heads: int, norm_eps: float = 1e-6) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.norm_q = nn.RMSNorm(dim // heads, eps=norm_eps)
        self.norm_k = nn.RMSNorm(dim // heads, eps=norm_eps)
        self.to_out = nn.Linear(dim, dim)
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def hear(self, audio: Tensor, windows: AudioWindows) -> HeardAudio:
        """Project embedded audio tokens ``[B, N, D]``, rotate the keys, gather both per latent frame."""
        keys = rearrange(self.to_k(audio), "b n (h d) -> b h n d", h=self.heads)
        values = rearrange(self.to_v(audio), "b n (h d) -> b h n d", h=self.heads)
        keys = rotate(self.norm_k(keys), windows.key_rope)
        gathered = (
            x.index_select(2, windows.index.flatten()).unflatten(2, windows.index.shape) for x in (keys, values)
        )
        return HeardAudio(*(x.transpose(1, 2) for x in gathered))

    def forward(self, columns: Sequence[tuple[Tensor, TokenLayout, HeardAudio, AudioWindows]]) -> list[Tensor]:
        """`column` of every column in one call, so that a sharded layer gathers its weights once."""
        return [self.column(*column) for column in columns]

    def column(self, tokens: Tensor, layout: TokenLayout, heard: HeardAudio, windows: AudioWindows) -> Tensor:
        """What the sound adds to a column's video tokens.

        Args:
            tokens: ``[R, S, D]``, text first; text hears nothing.
            layout: which latent frame every video token belongs to.
            heard: keys and values of the R clips.
            windows: audibility and positions.

        Returns:
            ``[R, S - num_text, D]`` for the video tokens.
        """
        video = tokens[:, layout.num_text :]
        queries = rearrange(self.to_q(self.norm(video)), "r n (h d) -> r n h d", h=self.heads)
        queries = self.norm_q(queries)
        outputs = []
        for place, first, (t, h, w) in layout.clip_slices():
            frames = slice(first, first + t)
            q = queries[:, place.start - layout.num_text : place.stop - layout.num_text]
            q = rearrange(q, "r (t p) h d -> r h p t d", t=t, p=h * w)
            q = rotate(q, windows.query_rope[:, frames])
            keys, values = heard.keys[:, frames], heard.values[:, frames]
            audible = windows.audible[:, frames]
            any_audible = audible.any(dim=-1, keepdim=True)
            out = attention(
                rearrange(q, "r h p t d -> (r t) h p d"),
                rearrange(keys, "r t h w d -> (r t) h w d"),
                rearrange(values, "r t h w d -> (r t) h w d"),
                mask=rearrange(audible | ~any_audible, "r t w -> (r t) 1 1 w"),
            )
            # A frame whose whole window is padding hears nothing at all.
            out = out * rearrange(any_audible, "r t 1 -> (r t) 1 1 1")
            outputs.append(rearrange(out, "(r t) h p d -> r (t p) (h d)", t=t))
        return self.to_out(torch.cat(outputs, dim=1))
