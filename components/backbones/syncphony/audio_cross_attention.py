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
from components.backbones.pyramid_flow.state import pack, packed_rope, unpack
from components.backbones.rms_norm import rms_norm
from components.backbones.rope import rotate
from components.backbones.syncphony.audio_windows import AudioWindows
from components.backbones.syncphony.listening import Listening


@dataclass(frozen=True)
class AudioKeysValues:
    """Keys and values of one audio layer, gathered per latent frame: ``[B, L, H, W, d]`` each."""

    keys: Tensor
    values: Tensor

    @property
    def both(self) -> tuple[Tensor, Tensor]:
        """Keys, values."""
        return self.keys, self.values


@dataclass(frozen=True)
class AudioContext:
    """Everything the late blocks need of a clip's sound; constant over denoising steps, so computed once.

    Attributes:
        windows: which audio tokens each latent frame attends to.
        layers: keys and values of every audio layer, in block order.
    """

    windows: AudioWindows
    layers: tuple[AudioKeysValues, ...]

    def rows(self, index: Tensor | slice) -> AudioContext:
        """The context of the clips ``index`` (may repeat)."""
        layers = tuple(AudioKeysValues(layer.keys[index], layer.values[index]) for layer in self.layers)
        return replace(self, windows=self.windows.rows(index), layers=layers)


register_dataclass(AudioKeysValues)  # see `components.backbones.pyramid_flow.state`
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

    def keys_values(self, audio: Tensor, windows: Sequence[AudioWindows]) -> list[AudioKeysValues]:
        """Project embedded audio tokens, rotate the keys, gather both per latent frame.

        Args:
            audio: the tokens that the windows read, ``[sum of R N, D]``: R clips of N tokens for each of the windows.
            windows: of groups of clips, in the tokens' order.
        """
        keys = rms_norm(self.norm_k, torch.unflatten(self.to_k(audio), -1, (self.heads, -1)))  # [sum of R N, H, d]
        values = torch.unflatten(self.to_v(audio), -1, (self.heads, -1))
        shapes = [(w.audible.shape[0], w.key_rope.shape[1]) for w in windows]  # (R, N)
        sizes = [clips * tokens for clips, tokens in shapes]
        made = []
        for shape, group, k, v in zip(shapes, windows, keys.split(sizes), values.split(sizes), strict=True):
            rotated = rotate(torch.unflatten(k, 0, shape), group.key_rope.unsqueeze(2))  # [R, N, H, d]
            # a token is kept once for each window it lies in (three in the paper); whole rows of H d are copied
            made.append(AudioKeysValues(*(_gathered(x, group.index) for x in (rotated, torch.unflatten(v, 0, shape)))))
        return made

    def forward(self, columns: Sequence[tuple[Tensor, AudioKeysValues, Listening]]) -> list[Tensor]:
        """What the sound adds to the video tokens of every column, as blocks run all columns in one call (`Block`).

        Args:
            columns: of each the video tokens ``[R, N, D]`` without the text's, which do not attend to the sound; keys
                and values of the R clips; what its frames hear, and where its tokens stand.

        Returns:
            ``[R, N, D]`` each.
        """
        videos, listening = [video for video, *_ in columns], [there for *_, there in columns]
        queries = rms_norm(self.norm_q, torch.unflatten(self.to_q(self.norm(pack(videos))), -1, (self.heads, -1)))
        queries = rotate(queries, packed_rope([there.rope for there in listening], videos))
        heard = [
            _attended(q, audio, there) for q, (_, audio, there) in zip(unpack(queries, videos), columns, strict=True)
        ]
        # A frame whose whole window is padding gets the output bias alone.
        heard_tokens = pack(heard) * pack([there.hears for there in listening])
        return unpack(self.to_out(heard_tokens), videos)


def _attended(queries: Tensor, audio: AudioKeysValues, there: Listening) -> Tensor:
    """What the tokens of one column read of the sound in their frames' windows: ``[R, N, H, d]`` to ``[R, N, H d]``."""
    keys, values = (_frames(x, there.first_frame, sum(there.frames)).split(there.frames, dim=1) for x in audio.both)
    by_run = queries.split([frames * size for frames, size in there.runs], dim=1)
    outputs = []
    # History is computed anew in every call, so its frames attend to their own sound as the current one does.
    for (t, _), q, k, v, allowed in zip(there.runs, by_run, keys, values, there.allowed, strict=True):
        # frames go into the batch: attention is local to each, and its mask is one row of W tokens
        out = attention(
            rearrange(q, "r (t p) h d -> (r t) h p d", t=t),
            rearrange(k, "r t h w d -> (r t) h w d"),
            rearrange(v, "r t h w d -> (r t) h w d"),
            mask=allowed,
        )
        outputs.append(rearrange(out, "(r t) h p d -> r (t p) (h d)", t=t))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)


def _gathered(x: Tensor, index: Tensor) -> Tensor:
    """Tokens ``[R, N, H, d]`` by latent frame and place in its window ``[L, W]``: ``[R, L, H, W, d]``."""
    gathered = x.flatten(2).index_select(1, index.flatten())
    return rearrange(gathered, "r (l w) (h d) -> r l h w d", w=index.shape[1], h=x.shape[2])


def _frames(x: Tensor, first: int, count: int) -> Tensor:
    """Some frames of ``[R, L, ...]``; itself where these are all."""
    return x if (first, count) == (0, x.shape[1]) else x.narrow(1, first, count)
