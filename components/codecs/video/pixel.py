"""A video codec that needs no training: pixels to channels, in luma and half-resolution chroma."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from components.contracts import VideoCodec
from components.errors import InputError

# ITU-R BT.601 analogue luma and colour differences, for RGB in [-1, 1].
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


class PixelCodec(VideoCodec):
    """Space-and-time to depth. Latent frame 0 is the first image, every later one ``temporal_factor`` frames.

    Video files store luma at full and chroma at half resolution; so do the latents, which makes them a third to a half
    smaller than RGB and loses nothing that an H.264 (4:2:0) file still had. With ``spatial_factor`` s and
    ``temporal_factor`` f the channels are ``f * s^2`` of luma and ``2 * f * (s / 2)^2`` of chroma.

    Args:
        temporal_factor: frames per latent frame.
        spatial_factor: pixels per latent pixel along each side; even.
        scale: factor on the values, so that the latents' spread is near 1.
    """

    to_ycc: Tensor
    to_rgb: Tensor

    def __init__(self, temporal_factor: int = 8, spatial_factor: int = 2, scale: float = 1.0) -> None:
        super().__init__()
        if spatial_factor % 2:
            raise ValueError(f"spatial_factor must be even (chroma is stored at half resolution), got {spatial_factor}")
        self.temporal_factor = temporal_factor
        self.spatial_factor = spatial_factor
        self.scale = scale
        self.latent_channels = temporal_factor * spatial_factor**2 * 3 // 2
        # inverted in float64, so that decoding undoes encoding to float32 rounding
        to_ycc = torch.tensor(_TO_YCC, dtype=torch.float64)
        self.register_buffer("to_ycc", to_ycc.float(), persistent=False)
        self.register_buffer("to_rgb", to_ycc.inverse().float(), persistent=False)

    def encode(self, video: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """``[B, T, 3, H, W]`` in [-1, 1] to ``[B, C, L, H / s, W / s]``; deterministic.

        Raises:
            InputError: if the sides are not multiples of ``spatial_factor`` or T is not ``1 + f n``.
        """
        _, t, _, height, width = video.shape
        s, f = self.spatial_factor, self.temporal_factor
        if height % s or width % s:
            raise InputError(f"frames of {height}x{width} pixels do not fit the codec: both must be multiples of {s}")
        # raises where T is not 1 + f n
        self.num_latents(t)
        planes = video.flatten(0, 1)
        luma = self._mix(planes, self.to_ycc[0])
        mean = F.avg_pool2d(planes, 2)  # chroma of the mean is the mean of chroma: the map is linear
        chroma = torch.stack([self._mix(mean, row) for row in self.to_ycc[1:]], dim=1)
        packed = torch.cat(
            [
                rearrange(luma, "(b t) (h i) (w j) -> b t (i j) h w", t=t, i=s, j=s),
                rearrange(chroma, "(b t) c (h i) (w j) -> b t (c i j) h w", t=t, i=s // 2, j=s // 2),
            ],
            dim=2,
        )
        # the image f times, so that latent 0 has as many channels as the rest
        image = repeat(packed[:, :1], "b 1 c h w -> b (f c) 1 h w", f=f)
        rest = rearrange(packed[:, 1:], "b (l f) c h w -> b (f c) l h w", f=f)
        return self.scale * torch.cat([image, rest], dim=2)

    def decode(self, latents: Tensor) -> Tensor:
        """Inverse of `encode` up to the chroma detail that 4:2:0 drops; the image frame averages its f copies."""
        s, f = self.spatial_factor, self.temporal_factor
        x = rearrange(latents / self.scale, "b (f c) l h w -> b l f c h w", f=f)
        # [B, T, C / f, h, w]; the f copies of the image need not agree in generated latents, so they are averaged
        packed = torch.cat([x[:, :1].mean(dim=2), x[:, 1:].flatten(1, 2)], dim=1)
        luma = rearrange(packed[:, :, : s * s], "b t (i j) h w -> b t 1 (h i) (w j)", i=s, j=s)
        chroma = rearrange(packed[:, :, s * s :], "b t (c i j) h w -> b t c (h i) (w j)", c=2, i=s // 2, j=s // 2)
        chroma = chroma.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
        ycc = torch.cat([luma, chroma], dim=2)
        return torch.stack([self._mix(ycc.movedim(2, 1), row) for row in self.to_rgb], dim=2)

    @staticmethod
    def _mix(planes: Tensor, weights: Tensor) -> Tensor:
        """Weighted sum over dimension 1; three multiply-adds beat a matrix product of inner size 3."""
        first, second, third = planes.unbind(1)
        a, b, c = weights.unbind()
        return first * a + second * b + third * c
