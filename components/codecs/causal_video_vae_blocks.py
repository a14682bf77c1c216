"""Building blocks of the causal video VAE: normalisation, residual unit, attention, resampling.

Source: the Pyramid Flow specification, section 2. Every block maps ``[B, C, T, H, W]`` to the same layout and takes the
``CausalStream`` of the video it works on; attribute names are those of the public checkpoint.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from components.codecs.causal_video_vae_conv import CausalConv3d, CausalStream

_EPS = 1e-6


class FrameGroupNorm(nn.GroupNorm):
    """Group normalisation whose statistics are those of one frame, so that no frame learns of a later one."""

    def __init__(self, num_groups: int, num_channels: int) -> None:
        super().__init__(num_groups, num_channels, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to the same shape (frame-major in memory; the next padding undoes that for free)."""
        frames = x.transpose(1, 2)
        return super().forward(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)


class CausalResnetBlock(nn.Module):
    """Two (norm, SiLU, causal convolution) steps beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, num_groups: int) -> None:
        super().__init__()
        self.norm1 = FrameGroupNorm(num_groups, in_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels)
        self.norm2 = FrameGroupNorm(num_groups, out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        self.conv_shortcut = None if in_channels == out_channels else CausalConv3d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, stream: CausalStream) -> Tensor:
        """``[B, C_in, T, H, W]`` to ``[B, C_out, T, H, W]``."""
        hidden = self.conv1(F.silu(self.norm1(x), inplace=True), stream)
        hidden = self.conv2(F.silu(self.norm2(hidden), inplace=True), stream)
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x, stream)
        return shortcut + hidden


class FrameAttention(nn.Module):
    """Single-head self-attention among the positions of one frame, with a residual."""

    def __init__(self, channels: int, num_groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(num_groups, channels, eps=_EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to the same shape; frames are independent of each other."""
        batch, _, time, height, _ = x.shape
        frames = x.transpose(1, 2).flatten(0, 1)
        tokens = self.group_norm(frames).flatten(2).transpose(1, 2)[:, None]  # [B T, 1 head, H W, C]
        attended = F.scaled_dot_product_attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        out = self.to_out[0](attended[:, 0]).transpose(1, 2)
        return x + out.unflatten(2, (height, -1)).unflatten(0, (batch, time)).transpose(1, 2)


class MidBlock(nn.Module):
    """Residual unit, frame attention, residual unit."""

    def __init__(self, channels: int, num_groups: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([FrameAttention(channels, num_groups)])
        self.resnets = nn.ModuleList([CausalResnetBlock(channels, channels, num_groups) for _ in range(2)])

    def forward(self, x: Tensor, stream: CausalStream) -> Tensor:
        """``[B, C, T, H, W]`` to the same shape."""
        return self.resnets[1](self.attentions[0](self.resnets[0](x, stream)), stream)


class Downsample(nn.Module):
    """A strided causal convolution: ``stride`` is (1, 2, 2) for space or (2, 1, 1) for time."""

    def __init__(self, channels: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, stride=stride)

    def forward(self, x: Tensor, stream: CausalStream) -> Tensor:
        """Halves the strided axes; in time 1 + 2n frames become 1 + n, and 2n later ones become n."""
        return self.conv(x, stream)


class SpatialUpsample(nn.Module):
    """Convolution to four times the channels, unfolded into 2 x 2 pixels (channel, then row, then column)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, 4 * channels)

    def forward(self, x: Tensor, stream: CausalStream) -> Tensor:
        """``[B, C, T, H, W]`` to ``[B, C, T, 2H, 2W]``."""
        parts = self.conv(x, stream).unflatten(1, (-1, 2, 2))  # [B, C, row, column, T, H, W]
        return parts.permute(0, 1, 4, 5, 2, 6, 3).flatten(5, 6).flatten(3, 4)


class TemporalUpsample(nn.Module):
    """Convolution to twice the channels, unfolded into two frames (channel, then time)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, 2 * channels)

    def forward(self, x: Tensor, stream: CausalStream) -> Tensor:
        """``[B, C, T, H, W]`` to 2T frames, or to 2T - 1 where the video starts: its first frame stays single."""
        parts = self.conv(x, stream).unflatten(1, (-1, 2))  # [B, C, 2, T, H, W]
        frames = parts.transpose(2, 3).flatten(2, 3)
        return frames[:, :, 1:] if stream.starts_video else frames


class DownBlock(nn.Module):
    """Residual units, then halving in space and in time where asked for."""

    def __init__(
        self, in_channels: int, out_channels: int, num_layers: int, num_groups: int, spatial: bool, temporal: bool
    ) -> None:
        super().__init__()
        self.resnets = _resnets(in_channels, out_channels, num_layers, num_groups)
        self.downsamplers = nn.ModuleList([Downsample(out_channels, (1, 2, 2))] if spatial else [])
        self.temporal_downsamplers = nn.ModuleList([Downsample(out_channels, (2, 1, 1))] if temporal else [])

    def forward(self, x: Tensor, stream: CausalStream) -> Tensor:
        """``[B, C_in, T, H, W]`` to ``[B, C_out, T', H', W']``."""
        for layer in (*self.resnets, *self.downsamplers, *self.temporal_downsamplers):
            x = layer(x, stream)
        return x


class UpBlock(nn.Module):
    """Residual units, then doubling in space and in time where asked for."""

    def __init__(
        self, in_channels: int, out_channels: int, num_layers: int, num_groups: int, spatial: bool, temporal: bool
    ) -> None:
        super().__init__()
        self.resnets = _resnets(in_channels, out_channels, num_layers, num_groups)
        self.upsamplers = nn.ModuleList([SpatialUpsample(out_channels)] if spatial else [])
        self.temporal_upsamplers = nn.ModuleList([TemporalUpsample(out_channels)] if temporal else [])

    def forward(self, x: Tensor, stream: CausalStream) -> Tensor:
        """``[B, C_in, T, H, W]`` to ``[B, C_out, T', H', W']``."""
        for layer in (*self.resnets, *self.upsamplers, *self.temporal_upsamplers):
            x = layer(x, stream)
        return x


def _resnets(in_channels: int, out_channels: int, num_layers: int, num_groups: int) -> nn.ModuleList:
    """``num_layers`` residual units, the first of which changes the width."""
    widths = [in_channels] + [out_channels] * num_layers
    return nn.ModuleList([CausalResnetBlock(a, b, num_groups) for a, b in pairwise(widths)])
