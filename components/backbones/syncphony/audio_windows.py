"""The time axis that latents and audio tokens share, and which audio tokens every latent frame attends to.

Positions are in latent-frame units: ``p(t) = t * fps / f + 1/2 - 1/f`` for t in seconds and f frames per latent. Then
latent frame l >= 1 has its centre exactly at l, the time index the video backbone already uses (24 fps, f = 8:
``p(t) = 3 t + 0.375``); latent 0, one frame long, has its centre at ``1/2 - 1/(2 f)``.

Syncphony's Audio RoPE rotates queries and keys by positions that both share, in two forms (`AudioTimeline.rope`):

- ``backbone`` is the paper's, as digests of it tell: the backbone's own rotary embedder for both. A video query stands
  at its (l, row, column), as in the joint attention, an audio key at (p(t), 0, 0): its time, linearly interpolated on
  the axis of the l. With miniFLUX these are three axes; the SD3 release rotates by time alone.
- ``time`` (ours) gives all channels of a head to time: a latent's patches all stand at its centre.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from components.backbones.pyramid_flow.column import TokenLayout, layout_rope
from components.backbones.rope import rotary_table
from components.contracts import AudioFeatures
from components.errors import InputError

AudioRope = Literal["time", "backbone"]


@dataclass(frozen=True)
class RotaryAxes:
    """A backbone's rotary embedder: channels of a head for time, row and column, and the base of the frequencies."""

    dims: tuple[int, ...]
    theta: float = 10000.0


def latent_position(seconds: Tensor, fps: float, temporal_factor: int) -> Tensor:
    """Seconds to latent-frame units: ``p(t) = t * fps / f + 1/2 - 1/f``."""
    return seconds * (fps / temporal_factor) + (0.5 - 1 / temporal_factor)


def latent_spans_s(num_latents: int, fps: float, temporal_factor: int) -> Tensor:
    """Start and end of every latent frame's time on screen: float64 ``[L, 2]`` seconds.

    Latent 0 is the first frame alone, latent l >= 1 the frames ``f (l - 1) + 1 .. f l``.
    """
    last = torch.arange(num_latents, dtype=torch.float64) * temporal_factor
    start = (last - temporal_factor + 1).clamp_(min=0)
    return torch.stack([start, last + 1], dim=1) / fps


@dataclass(frozen=True)
class AudioWindows:
    """Audio tokens within reach of each of L latent frames, W at most.

    Attributes:
        index: token indices ``[L, W]``.
        audible: bool ``[B, L, W]``, False where the window is shorter than W or the token is padding.
        query_rope: rotary table of the latent frames' centres ``[2, L, d / 2]``, or the axes on which the backbone
            places every video token itself.
        key_rope: rotary table of the audio tokens' centres ``[2, N, d / 2]``, of the N tokens up to the last that any
            window reads; later ones need not be projected.
    """

    index: Tensor
    audible: Tensor
    query_rope: Tensor | RotaryAxes
    key_rope: Tensor

    def query_table(self, layout: TokenLayout) -> Tensor:
        """Rotary table of a column's N video tokens, ``[2, N, d / 2]``."""
        if not isinstance(self.query_rope, Tensor):
            return layout_rope(layout, self.query_rope.dims, self.query_rope.theta)[:, layout.num_text :]
        clips = [
            self.query_rope[:, first : first + t].repeat_interleave(h * w, dim=1)  # all patches of a latent share time
            for _, first, (t, h, w) in layout.clip_slices()
        ]
        return clips[0] if len(clips) == 1 else torch.cat(clips, dim=1)

    def rows(self, index: Tensor | slice) -> AudioWindows:
        """The windows of the clips ``index``."""
        return replace(self, audible=self.audible[index])


@dataclass(frozen=True)
class AudioTimeline:
    """Lays audio tokens beside latent frames; how long frame and latent last follows from clips and codec.

    Attributes:
        look_back_s: seconds of sound before a latent's window that it attends to as well.
        look_ahead_s: seconds of sound after it (motion often starts before its sound).
        rope_theta: base of the rotary frequencies of ``rope: time``.
        rope_time_scale: factor on the positions of ``rope: time`` before rotation. Rotary frequencies are at most 1 per
            unit; a scale of the number of tokens per latent makes single tokens distinguishable.
        reach_latents: latents either side whose span of time belongs to a latent's window (the paper's Delta is 1);
            0 leaves it with its own.
        rope: where queries and keys stand when they are rotated, ``time`` or ``backbone`` (see above).

    Raises:
        InputError: if a reach is negative, or ``rope: backbone`` is given frequencies beside the backbone's own.
    """

    look_back_s: float = 0.0
    look_ahead_s: float = 0.0
    rope_theta: float = 10000.0
    rope_time_scale: float = 1.0
    reach_latents: int = 0
    rope: AudioRope = "time"

    def __post_init__(self) -> None:
        if min(self.look_back_s, self.look_ahead_s, self.reach_latents) < 0:
            raise InputError(
                f"the timeline has look_back_s {self.look_back_s}, look_ahead_s {self.look_ahead_s} and reach_latents "
                f"{self.reach_latents}; none of them may be negative"
            )
        if self.rope not in get_args(AudioRope):
            raise InputError(f"the timeline's rope is '{self.rope}'; give time or backbone")
        if self.rope == "backbone" and (self.rope_theta, self.rope_time_scale) != (10000.0, 1.0):
            raise InputError(
                "the timeline has rope: backbone, whose positions and frequencies are the backbone's: leave rope_theta "
                "and rope_time_scale out, or set rope to time"
            )

    def windows(
        self,
        audio: AudioFeatures,
        num_latents: int,
        head_dim: int,
        fps: float,
        temporal_factor: int,
        backbone: RotaryAxes | None = None,
    ) -> AudioWindows:
        """Which tokens each latent frame attends to, and where both stand.

        Membership is decided by the tokens' centre times, half-open ``[start, end)``.

        Args:
            audio: tokens of B clips, ``[B, N, D]``.
            num_latents: L.
            head_dim: d, channels per attention head.
            fps: frames per second of the clips.
            temporal_factor: f of the video codec.
            backbone: the backbone's rotary embedder; ``rope: backbone`` needs it.

        Raises:
            ValueError: if it is needed and missing.
        """
        if self.rope == "backbone" and backbone is None:
            raise ValueError("rope: backbone needs the backbone's rotary axes")
        where = (audio.tokens.shape[1], audio.first_center_s, audio.rate_hz, num_latents, fps, temporal_factor)
        index, inside, query_rope, key_rope = _placed(self, *where, head_dim, backbone, audio.tokens.device)
        return AudioWindows(
            index=index,
            audible=inside[None] & audio.mask.bool()[:, index],  # [B, L, W]
            query_rope=query_rope,
            key_rope=key_rope,
        )


@lru_cache(maxsize=128)
@torch.inference_mode(False)
def _placed(
    timeline: AudioTimeline,
    num_tokens: int,
    first_center_s: float,
    rate_hz: float,
    num_latents: int,
    fps: float,
    temporal_factor: int,
    head_dim: int,
    backbone: RotaryAxes | None,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor | RotaryAxes, Tensor]:
    """What `AudioWindows` has the same for all clips: index, inside (bool ``[L, W]``) and both rotary tables.

    Made once for clips of a length, outside inference mode to serve training too.
    """
    reach = timeline.reach_latents
    # float64 seconds on the CPU: membership at an edge must not depend on the device
    centers = first_center_s + torch.arange(num_tokens, dtype=torch.float64) / rate_hz
    # also of the latents that would follow: a window does not depend on how many the clip has
    spans = latent_spans_s(num_latents + reach, fps, temporal_factor)
    latent = torch.arange(num_latents)
    starts, ends = spans[(latent - reach).clamp(min=0), 0], spans[latent + reach, 1]
    edges = torch.stack([starts - timeline.look_back_s, ends + timeline.look_ahead_s], dim=1)
    # A centre that rounding puts just before an edge it stands on belongs to the later latent all the same.
    first, end = torch.searchsorted(centers, edges - 1e-9).unbind(1)  # [L] each
    # 1 even where no token is near, so that no shape is empty; nothing in it is audible
    width = max(int((end - first).max()), 1)
    # At 50 Hz and 24 fps a latent has 16 or 17 tokens: windows are gathered by index, never by reshaping.
    index = first[:, None] + torch.arange(width)  # [L, W]
    inside = index < end[:, None]
    # shorter windows repeat the last token, inaudible
    index = index.clamp_(max=num_tokens - 1)
    num_read = int(index.max()) + 1
    tokens_at = latent_position(centers[:num_read], fps, temporal_factor)
    query_rope: Tensor | RotaryAxes
    if timeline.rope == "backbone" and backbone is not None:
        query_rope = backbone
        at = torch.zeros(num_read, len(backbone.dims), dtype=torch.float64)  # a sound has neither row nor column
        at[:, 0] = tokens_at
        key_rope = rotary_table(at, backbone.dims, backbone.theta)
    else:
        # centres of the latents (queries), centres of the tokens (keys): one axis for both
        latents_at = latent_position(spans[:num_latents].mean(dim=1), fps, temporal_factor)
        query_table, key_rope = (
            rotary_table(at[:, None] * timeline.rope_time_scale, [head_dim], timeline.rope_theta)
            for at in (latents_at, tokens_at)
        )
        query_rope = query_table.to(device, non_blocking=True)
    index, inside, key_rope = (made.to(device, non_blocking=True) for made in (index, inside, key_rope))
    return index, inside, query_rope, key_rope
