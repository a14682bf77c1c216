"""Everything about frame-level attention that depends on the clip's shape alone: windows and rotary tables.

Built once per shape and shared by all layers and denoising steps. Three ways to run the same attention:

- ``banded``: scaled dot-product attention with a bool mask (the default; the mask of 704 x 1280 x 121 takes 4.4 MB);
- ``flex``: FlexAttention over the blocks that the windows touch, without a mask in memory (for compiled layers on a
  GPU; PyTorch has no backward of it on a CPU);
- ``gather``: keys and values of each step's window copied side by side (cheap where windows are few and small, as in
  tiny models on a CPU; for audio queries the copies are as many as video tokens times windows).

Legend: T steps in time, S tokens per step, L = T S, d channels per head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal, cast

import torch
from torch import Tensor

from components.backbones.attention_kernel import attention
from components.backbones.rope import rotary_table, wan_axis_dims
from components.media.clock import LatentClock, TimeMap

Kernel = Literal["banded", "flex", "gather"]
Rope = Literal["temporal", "tower", "none"]
RopeUnit = Literal["video", "query"]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class FrameBand:
    """One direction of frame-level attention on one clip shape.

    A plain class on purpose: sharding casts the tensors of tuples and dataclasses to bfloat16, and rotary tables must
    stay in float32.

    Attributes:
        query_rope: rotary table ``[2, T_q, 1 or S_q, n]``, or None.
        key_rope: rotary table ``[2, T_k, 1 or S_k, n]``, or None.
    """

    def __init__(
        self, attend: Attend, reached: Tensor | None, query_rope: Tensor | None, key_rope: Tensor | None
    ) -> None:
        self._attend = attend
        self._reached = reached
        self.query_rope = query_rope
        self.key_rope = key_rope

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Windowed attention of ``q`` ``[B, H, L_q, d]``; a query whose window is empty receives zeros."""
        out = self._attend(q, k, v)
        return out if self._reached is None else out * self._reached.to(out.dtype)


@dataclass(frozen=True)
class BandConfig:
    """Windows, positions and kernel of the frame-level attention.

    Attributes:
        half_window: w, how far a window reaches beyond a video latent, in latents (None: everything).
        kernel: ``banded``, ``flex`` or ``gather``.
        rope: ``temporal`` rotates the time channels alone (44 of 128), ``tower`` adds the rows and columns of the
            video (audio stands at 0, 0), ``none`` rotates nothing.
        rope_unit: positions count the query stream's own steps (``query``: the paper rescales the source's indices to
            the timeline of the target), or video latents in both directions (``video``, ours: for video queries the
            same; for audio queries the same angles but for one factor on all frequencies).
    """

    half_window: float | None = 1.0
    kernel: Kernel = "banded"
    rope: Rope = "temporal"
    rope_unit: RopeUnit = "query"

    def __post_init__(self) -> None:
        if self.half_window is not None and self.half_window < 0:
            raise ValueError(f"half_window is {self.half_window}: give 0 or more video latents, or null for no window")


@dataclass(frozen=True)
class TokenShape:
    """How many tokens meet: ``grid``: video latents, patch rows, patch columns; ``num_audio``: audio tokens."""

    grid: tuple[int, int, int]
    num_audio: int


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def frame_bands(
    clock: LatentClock,
    time_map: TimeMap,
    config: BandConfig,
    shape: TokenShape,
    head_dim: int,
    device: torch.device,
) -> tuple[FrameBand, FrameBand]:
    """Both directions for clips of one shape: video queries over the audio, audio queries over the video.

    Cached by its arguments, as it is the same for all layers, steps and clips of a shape; made outside of inference
    mode, since tables made in it could not enter training.
    """
    num_video, rows, columns = shape.grid
    num_patches = rows * columns
    # on the CPU even where a model is tried on the meta device: the windows are read below
    with torch.device("cpu"):
        relation = clock.relation(num_video, shape.num_audio, config.half_window, time_map)  # [T_v, T_a]
        video_at = torch.arange(num_video, dtype=torch.float64)
        audio_at = clock.audio_positions(num_video, shape.num_audio, time_map)

        def band(allowed: Tensor, per_query: int, per_key: int, audio_queries: bool) -> FrameBand:
            # i' = i T_a / T_v in the paper's wording for audio queries
            unit = shape.num_audio / num_video if audio_queries and config.rope_unit == "query" else 1.0
            video_rope = _rope(video_at * unit, (rows, columns), config.rope, head_dim)
            audio_rope = _rope(audio_at * unit, (1, 1), config.rope, head_dim)
            ropes = (audio_rope, video_rope) if audio_queries else (video_rope, audio_rope)
            query_rope, key_rope = (None if table is None else table.to(device) for table in ropes)
            reached = allowed.any(dim=1)
            everyone = bool(reached.all())
            # A softmax over nothing is not a number: queries that reach nothing attend to all, and are zeroed after.
            attend = _KERNELS[config.kernel](allowed | ~reached[:, None], per_query, per_key, device)
            mask = None if everyone else reached.repeat_interleave(per_query)[:, None].to(device)
            return FrameBand(attend, mask, query_rope, key_rope)

        return band(relation, num_patches, 1, audio_queries=False), band(relation.T, 1, num_patches, audio_queries=True)


def _rope(at: Tensor, sides: tuple[int, int], rope: Rope, head_dim: int) -> Tensor | None:
    """Rotary table ``[2, T, S or 1, n]`` of steps at the times ``at``."""
    time_dim, row_dim, column_dim = wan_axis_dims(head_dim)
    if rope == "none":
        return None
    if rope == "temporal":
        # [2, T, 1, n]: the time channels come first in a head; `_rotated` lets those of rows and columns pass
        return rotary_table(at[:, None], [time_dim])[:, :, None]
    # [T rows columns, 3] in the order of the tokens, then [2, T, S, n]
    places = torch.cartesian_prod(at, *(torch.arange(side, dtype=torch.float64) for side in sides))
    return torch.unflatten(rotary_table(places, [time_dim, row_dim, column_dim]), 1, (len(at), -1))


def _banded(allowed: Tensor, per_query: int, per_key: int, device: torch.device) -> Attend:
    # flash kernels take no mask
    if bool(allowed.all()):
        return lambda q, k, v: attention(q, k, v, None)
    mask = allowed.to(device).repeat_interleave(per_query, 0).repeat_interleave(per_key, 1)  # [L_q, L_k]
    return lambda q, k, v: attention(q, k, v, mask)


def _gather(allowed: Tensor, per_query: int, per_key: int, device: torch.device) -> Attend:
    width = int(allowed.sum(dim=1).max())
    # stable: the allowed steps first and in their order, the rest behind as padding
    inside, index = allowed.to(torch.uint8).sort(dim=1, descending=True, stable=True)
    tokens = index[:, :width, None] * per_key + torch.arange(per_key)  # [T_q, steps of a window, S_k]
    tokens, num_steps = tokens.flatten(1).to(device), len(allowed)
    mask = inside[:, :width].bool().repeat_interleave(per_key, 1)[:, None, None].to(device)  # [T_q, 1, 1, W]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # the step in time becomes part of the batch, and every step has its own keys
        keys, values = (x[:, :, tokens].transpose(1, 2).flatten(0, 1) for x in (k, v))  # [B T_q, H, W, d]
        steps = torch.unflatten(q, 2, (num_steps, per_query)).transpose(1, 2).flatten(0, 1)  # [B T_q, H, S_q, d]
        out = attention(steps, keys, values, mask.repeat(len(q), 1, 1, 1))
        return torch.unflatten(out, 0, (-1, num_steps)).transpose(1, 2).flatten(2, 3)  # [B, H, L_q, d]

    return attend


def _flex(allowed: Tensor, per_query: int, per_key: int, device: torch.device) -> Attend:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    table = allowed.to(device)

    def visible(_row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return table[query // per_query, key // per_key]

    num_queries, num_keys = len(allowed) * per_query, allowed.shape[1] * per_key
    blocks: Any = create_block_mask(visible, None, None, num_queries, num_keys, device=device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        fused = q.is_cuda and not torch.compiler.is_compiling()  # inside a compiled layer it is fused already
        run = _compiled_flex() if fused else cast(Callable[..., Tensor], flex_attention)
        return run(q, k, v, block_mask=blocks)

    return attend


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(cast(Callable[..., Tensor], flex_attention))


_KERNELS: dict[Kernel, Callable[[Tensor, int, int, torch.device], Attend]] = {
    "banded": _banded,
    "flex": _flex,
    "gather": _gather,
}
