"""What encoding clips takes, part by part, and what of a clip ``avsync prepare`` keeps; counted on the meta device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from components.contracts import AudioCodec, AudioEncoder, LatentMoments, VideoCodec
from components.counting.flops import flops_of

FLOAT32 = 4
KEPT_TOKENS = 64
"""Text is kept without its padding: so many tokens are taken for a caption, a scene or a transcript."""


@dataclass
class Encoding:
    """Of one clip.

    Attributes:
        flops: by part, of a training step on raw clips.
        kept_bytes: by what is kept, in float32.
    """

    flops: dict[str, float] = field(default_factory=dict)
    kept_bytes: dict[str, int] = field(default_factory=dict)

    def text(self, name: str, dim: int, pooled: int = 0) -> None:
        """Adds a text that is kept."""
        self.kept_bytes[name] = (KEPT_TOKENS * dim + pooled) * FLOAT32


def video_cost(codec: VideoCodec, frames: int, height: int, width: int) -> tuple[int, int]:
    """FLOPs of encoding one video, and bytes of what comes out."""
    return _moments(lambda: codec.moments(torch.empty(1, frames, 3, height, width, device="meta")))


def sound_cost(codec: AudioCodec, num_samples: int) -> tuple[int, int]:
    """The same for one sound, already of whole latents."""
    return _moments(lambda: codec.moments(torch.empty(1, num_samples, device="meta")))


def features_cost(encoder: AudioEncoder, num_samples: int, sample_rate: int) -> tuple[int, int]:
    """The same for the features of one sound."""
    kept: list[Tensor] = []
    with torch.no_grad():
        flops = flops_of(lambda: kept.append(encoder(torch.empty(1, num_samples, device="meta"), sample_rate).tokens))
    return flops, kept[0].numel() * FLOAT32


def _moments(encode: Callable[[], LatentMoments]) -> tuple[int, int]:
    made: list[LatentMoments] = []
    with torch.no_grad():
        flops = flops_of(lambda: made.append(encode()))
    std = made[0].std
    return flops, (made[0].mean.numel() + (0 if std is None else std.numel())) * FLOAT32
