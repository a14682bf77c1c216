"""The time axis that latents and audio tokens share, and which audio tokens every latent frame attends to.

Positions are in latent-frame units: ``p(t) = t * fps / f + 1/2 - 1/f`` for t in seconds and f frames per latent. Then
latent frame l >= 1 has its centre exactly at l, the time index the video backbone already uses (24 fps, f = 8:
``p(t) = 3 t + 0.375``); latent 0, one frame long, has its centre at ``1/2 - 1/(2 f)``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from components.backbones.rope import rotary_table
from components.contracts import AudioFeatures
from components.errors import InputError


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
        query_rope: rotary table of the latent frames' centres ``[2, L, d / 2]``.
        key_rope: rotary table of the audio tokens' centres ``[2, N, d / 2]``.
    """

    index: Tensor
    audible: Tensor
    query_rope: Tensor
    key_rope: Tensor

    def rows(self, index: Tensor) -> AudioWindows:
        """The windows of the clips ``index``."""
        return replace(self, audible=self.audible[index])


@dataclass(frozen=True)
class AudioTimeline:
    """Lays audio tokens beside latent frames; how long frame and latent last follows from clips and codec.

    Attributes:
        look_back_s: seconds of sound before a latent's own span that it attends to.
        look_ahead_s: seconds of sound after it (motion often starts before its sound).
        rope_theta: base of the audio rotary frequencies.
        rope_time_scale: factor on the positions before rotation. Rotary frequencies are at most 1 per unit; a scale
            of the number of tokens per latent makes single tokens distinguishable.

    Raises:
        InputError: if a reach is negative.
    """

    look_back_s: float = 0.0
    look_ahead_s: float = 0.0
    rope_theta: float = 10000.0
    rope_time_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.look_back_s < 0 or self.look_ahead_s < 0:
            raise InputError(
                f"the timeline has look_back_s {self.look_back_s} and look_ahead_s {self.look_ahead_s}; neither may be "
                "negative"
            )

    def windows(
        self, audio: AudioFeatures, num_latents: int, head_dim: int, fps: float, temporal_factor: int
    ) -> AudioWindows:
        """Which tokens each latent frame attends to, and where both stand.

        Membership is decided by the tokens' centre times, half-open ``[start, end)``.

        Args:
            audio: tokens of B clips, ``[B, N, D]``.
            num_latents: L.
            head_dim: d, channels per attention head.
            fps: frames per second of the clips.
            temporal_factor: f of the video codec.
        """
        device = audio.tokens.device
        num_tokens = audio.tokens.shape[1]
        # float64 seconds on the CPU: membership at an edge must not depend on the device
        centers = audio.first_center_s + torch.arange(num_tokens, dtype=torch.float64) / audio.rate_hz
        spans = latent_spans_s(num_latents, fps, temporal_factor)
        edges = torch.stack([spans[:, 0] - self.look_back_s, spans[:, 1] + self.look_ahead_s], dim=1)
        # A centre that rounding puts just before an edge it stands on belongs to the later latent all the same.
        first, end = torch.searchsorted(centers, edges - 1e-9).unbind(1)  # [L] each
        # 1 even where no token is near, so that no shape is empty; nothing in it is audible
        width = max(int((end - first).max()), 1)
        # At 50 Hz and 24 fps a latent has 16 or 17 tokens: windows are gathered by index, never by reshaping.
        index = first[:, None] + torch.arange(width)  # [L, W]
        inside = index < end[:, None]
        # shorter windows repeat the last token, inaudible
        index = index.clamp_(max=num_tokens - 1).to(device)
        rope = [
            rotary_table(
                latent_position(seconds, fps, temporal_factor)[:, None] * self.rope_time_scale,
                [head_dim],
                self.rope_theta,
            )
            # centres of the latents (queries), centres of the tokens (keys): Syncphony's "Audio RoPE", one axis for
            # both
            for seconds in (spans.mean(dim=1), centers)
        ]
        return AudioWindows(
            index=index,
            audible=inside.to(device)[None] & audio.mask.bool()[:, index],  # [B, L, W]
            query_rope=rope[0].to(device),
            key_rope=rope[1].to(device),
        )
