"""Most memory that a video codec holds while it encodes or decodes, counted on the meta device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from components.contracts import VideoCodec
from components.counting.live_memory import with_peak_bytes
from components.counting.saved_activations import fused_attention


@dataclass(frozen=True)
class VideoSize:
    """Clips, frames, rows and columns of a video batch."""

    clips: int
    frames: int
    height: int
    width: int

    def __str__(self) -> str:
        """For people."""
        return f"{self.clips} x {self.frames} frames of {self.height}x{self.width}"


def encoding_peak(codec: VideoCodec, size: VideoSize) -> int:
    """Bytes that encoding takes at most, latents included, weights and float32 pixels left out: for meta codecs."""
    video = torch.empty(size.clips, size.frames, 3, size.height, size.width, device="meta")
    with torch.no_grad(), fused_attention():
        return with_peak_bytes(lambda: codec.encode(video), "meta")[1]


def decoding_peak(codec: VideoCodec, size: VideoSize) -> int:
    """Bytes that decoding takes at most, the video included, weights and latents left out: for meta codecs."""
    side = codec.spatial_factor
    shape = (codec.latent_channels, codec.num_latents(size.frames), size.height // side, size.width // side)
    latents = torch.empty(size.clips, *shape, device="meta")
    with torch.no_grad(), fused_attention():
        return with_peak_bytes(lambda: codec.decode(latents), "meta")[1]
