"""Audio cross-attention of Syncphony's late blocks: every latent frame attends to the sound around its own time.

Source: Syncphony, "Audio Cross-Attention + Audio RoPE": video tokens are queries, audio tokens keys and values, both
rotated by positions that they share (`components.backbones.syncphony.audio_windows`); the layer stands before the
block's joint self-attention.
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
class AudioKeysValues:
    """Keys and values of one audio layer, gathered per latent frame: ``[B, L, H, W, d]`` each."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class AudioContext:
    """Everything the late blocks need of a clip's sound; constant over denoising steps, so computed once.

    Attributes:
        windows: which audio tokens each latent frame attends to.
        layers: keys and values of every audio layer, in block order.
    """

    windows: AudioWindows
    layers: tuple[AudioKeysValues, ...]

    def rows(self, index: Tensor) -> AudioContext:
        """The context of the clips ``index`` (may repeat)."""
        layers = tuple(AudioKeysValues(layer.keys[index], layer.values[index]) for layer in self.layers)
        return replace(self, windows=self.windows.rows(index), layers=layers)


register_dataclass(AudioKeysValues)  # see `components.backbones.pyramid_flow.blocks`
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
        # Zero: at step 0 the model is exactly its backbone.
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def keys_values(self, audio: Tensor, windows: AudioWindows) -> AudioKeysValues:
        """Project embedded audio tokens ``[B, N, D]``, rotate the keys, gather both per latent frame."""
        keys = rearrange(self.to_k(audio), "b n (h d) -> b h n d", h=self.heads)
        values = rearrange(self.to_v(audio), "b n (h d) -> b h n d", h=self.heads)
        keys = rotate(self.norm_k(keys), windows.key_rope)
        # [B, H, N, d] -> [B, H, L, W, d]: a token is kept once for each window it lies in (three in the paper)
        gathered = (
            x.index_select(2, windows.index.flatten()).unflatten(2, windows.index.shape) for x in (keys, values)
        )
        return AudioKeysValues(*(x.transpose(1, 2) for x in gathered))  # [B, L, H, W, d]

    def forward(self, columns: Sequence[tuple[Tensor, TokenLayout, AudioKeysValues, AudioWindows]]) -> list[Tensor]:
        """`column` of every column in one call, so that a sharded layer gathers its weights once."""
        return [self.column(*column) for column in columns]

    def column(self, tokens: Tensor, layout: TokenLayout, audio: AudioKeysValues, windows: AudioWindows) -> Tensor:
        """What the sound adds to a column's video tokens.

        Args:
            tokens: ``[R, S, D]``, text first; text tokens do not attend to the sound.
            layout: which latent frame every video token belongs to.
            audio: keys and values of the R clips.
            windows: audibility and positions.

        Returns:
            ``[R, S - num_text, D]`` for the video tokens.
        """
        video = tokens[:, layout.num_text :]
        queries = rearrange(self.to_q(self.norm(video)), "r n (h d) -> r n h d", h=self.heads)
        queries = self.norm_q(queries)
        outputs = []
        # History is computed anew in every call, so its frames attend to their own sound as the current one does.
        for place, first, (t, h, w) in layout.clip_slices():
            frames = slice(first, first + t)
            q = queries[:, place.start - layout.num_text : place.stop - layout.num_text]
            # with t next to d a table of latents [2, t, d / 2] broadcasts over p, and one of patches has p in front
            q = rearrange(q, "r (t p) h d -> r h p t d", t=t, p=h * w)
            q = rotate(q, windows.query_table(layout, place, first, (t, h, w)))
            # a column is a prefix, a window belongs to its frame: later sound is never read
            keys, values = audio.keys[:, frames], audio.values[:, frames]  # [R, t, H, W, d]
            audible = windows.audible[:, frames]  # [R, t, W]
            any_audible = audible.any(dim=-1, keepdim=True)
            # frames go into the batch: attention is local to each, and its mask is one row of W tokens
            out = attention(
                rearrange(q, "r h p t d -> (r t) h p d"),
                rearrange(keys, "r t h w d -> (r t) h w d"),
                rearrange(values, "r t h w d -> (r t) h w d"),
                # a row without any allowed key would be NaN; what such a frame reads instead is multiplied by 0 below
                mask=rearrange(audible | ~any_audible, "r t w -> (r t) 1 1 w"),
            )
            # A frame whose whole window is padding gets the output bias alone.
            out = out * rearrange(any_audible, "r t 1 -> (r t) 1 1 1")
            outputs.append(rearrange(out, "(r t) h p d -> r (t p) (h d)", t=t))
        change: Tensor = self.to_out(torch.cat(outputs, dim=1))
        return change
