"""Building blocks of the causal video VAE: normalisation, residual unit, attention, resampling.

Source: the Pyramid Flow specification, section 2. Every block maps ``[B, C, T, H, W]`` to the same layout and takes the
``CausalStream`` of the video it works on; attribute names are those of the public checkpoint.

Causal 3-D convolution over video, and the explicit state that lets it run chunk by chunk.

Source: the Pyramid Flow specification, section 2 (Jin et al., "Pyramidal Flow Matching for Efficient Video Generative
Modeling", section 3.4: causal video VAE).
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CausalStream:
    """What one pass over one video has to remember between chunks: the last input frames of every causal convolution.

    The state lives here and not in the modules, so one network serves any number of videos at once: one stream for
    each video (or batch of videos) and direction (encoding, decoding).

    Attributes:
        starts_video: True until the first chunk went through; the first chunk has one frame that stands alone.
        is_last: set it before the last chunk: nothing is remembered any more, which saves the copies.
    """

    def __init__(self, starts_video: bool = True, is_last: bool = False) -> None:
        self.starts_video = starts_video
        self.is_last = is_last
        self._past: dict[nn.Module, Tensor] = {}

    @property
    def num_remembered(self) -> int:
        """How many layers hold past frames at the moment."""
        return len(self._past)

    def extend(self, layer: nn.Module, frames: Tensor, carry: int) -> tuple[Tensor, int | None]:
        """Puts the remembered frames of ``layer`` in front of ``frames`` and remembers the last ones of the result.

        Args:
            layer: the layer that is about to read ``frames`` (it names the memory).
            frames: ``[B, C, T, H, W]``, the layer's new input.
            carry: how many frames the next chunk needs.

        Returns:
            ``[B, C, past + T, H, W]``, and the number of past frames; None on the layer's first call.
        """
        past = self._past.pop(layer, None)
        joined = frames if past is None else torch.cat((past, frames), dim=2)
        # ``carry`` frames: taps minus stride, 2 for a plain convolution, 1 for one that halves time
        if not self.is_last and carry > 0:
            self._past[layer] = joined[:, :, -carry:].clone()  # a view would keep the whole chunk alive
        return joined, None if past is None else past.shape[2]


class CausalConv3d(nn.Module):
    """Convolution over (time, height, width) whose output at one instant reads no later frame.

    Zeros stand in for the frames before the video (``kernel_size - 1`` of them, none behind); in space the padding is
    symmetric, for strided convolutions too.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: taps along each of the three axes.
        stride: steps along (time, height, width).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        super().__init__()
        padding = (0, kernel_size // 2, kernel_size // 2)  # time is padded by hand, in front alone
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size, stride, padding)
        self.taps = kernel_size
        self.carry = kernel_size - stride[0]

    def forward(self, x: Tensor, stream: CausalStream) -> Tensor:
        """``[B, C_in, T, H, W]`` to ``[B, C_out, T', H', W']``; ``stream`` supplies and keeps the past frames."""
        result: Tensor
        if self.taps == 1:
            result = self.conv(x)
            return result
        x, past = stream.extend(self, x, self.carry)
        # at the video's start zeros, later the frames that are remembered
        missing = self.taps - 1 if past is None else self.carry - past
        if past is None and x.shape[2] == 1:
            return self._last_tap(x)
        result = self.conv(F.pad(x, (0, 0, 0, 0, missing, 0)) if missing else x)
        return result

    def _last_tap(self, x: Tensor) -> Tensor:
        """A single frame without a past: all taps but the last would only multiply zeros."""
        conv = self.conv
        weight, stride, padding = conv.weight[:, :, -1], conv.stride[1:], conv.padding[1:]
        return F.conv2d(x[:, :, 0], weight, conv.bias, stride, padding).unsqueeze(2)


_EPS = 1e-6


class FrameGroupNorm(nn.GroupNorm):
    """Group normalisation whose statistics are those of one frame, so that no frame learns of a later one."""

    def __init__(self, num_groups: int, num_channels: int) -> None:
        super().__init__(num_groups, num_channels, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to the same shape (frame-major in memory; the next padding undoes that for free)."""
        # frames as batch: [B T, C, H, W], so that statistics never cross frames
        frames = x.transpose(1, 2)
        result: Tensor = super().forward(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)
        return result


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
        # in place: the norm's result is new, so nothing else reads it
        hidden = self.conv1(F.silu(self.norm1(x), inplace=True), stream)
        hidden = self.conv2(F.silu(self.norm2(hidden), inplace=True), stream)
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x, stream)
        result: Tensor = shortcut + hidden
        return result


class FrameAttention(nn.Module):
    """Single-head self-attention among the positions of one frame, with a residual."""

    def __init__(self, channels: int, num_groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(num_groups, channels, eps=_EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])  # a list, because the checkpoint's key is to_out.0

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to the same shape; frames are independent of each other."""
        batch, _, time, height, _ = x.shape
        frames = x.transpose(1, 2).flatten(0, 1)
        tokens = self.group_norm(frames).flatten(2).transpose(1, 2)[:, None]  # [B T, 1 head, H W, C]
        # one head as wide as the channels, 512 in the public VAE
        attended = F.scaled_dot_product_attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        out = self.to_out[0](attended[:, 0]).transpose(1, 2)
        result: Tensor = x + out.unflatten(2, (height, -1)).unflatten(0, (batch, time)).transpose(1, 2)
        return result


class MidBlock(nn.Module):
    """Residual unit, frame attention, residual unit."""

    def __init__(self, channels: int, num_groups: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([FrameAttention(channels, num_groups)])
        self.resnets = nn.ModuleList([CausalResnetBlock(channels, channels, num_groups) for _ in range(2)])

    def forward(self, x: Tensor, stream: CausalStream) -> Tensor:
        """``[B, C, T, H, W]`` to the same shape."""
        result: Tensor = self.resnets[1](self.attentions[0](self.resnets[0](x, stream)), stream)
        return result


class Downsample(nn.Module):
    """A strided causal convolution: ``stride`` is (1, 2, 2) for space or (2, 1, 1) for time."""

    def __init__(self, channels: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, stride=stride)

    def forward(self, x: Tensor, stream: CausalStream) -> Tensor:
        """Halves the strided axes; in time 1 + 2n frames become 1 + n, and 2n later ones become n."""
        result: Tensor = self.conv(x, stream)
        return result


class SpatialUpsample(nn.Module):
    """Convolution to four times the channels, unfolded into 2 x 2 pixels (channel, then row, then column)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, 4 * channels)

    def forward(self, x: Tensor, stream: CausalStream) -> Tensor:
        """``[B, C, T, H, W]`` to ``[B, C, T, 2H, 2W]``."""
        # channel-major as in the checkpoint: c, then row, then column
        parts = self.conv(x, stream).unflatten(1, (-1, 2, 2))  # [B, C, row, column, T, H, W]
        # to [B, C, T, H, row, W, column], then merged
        result: Tensor = parts.permute(0, 1, 4, 5, 2, 6, 3).flatten(5, 6).flatten(3, 4)
        return result


class TemporalUpsample(nn.Module):
    """Convolution to twice the channels, unfolded into two frames (channel, then time)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, 2 * channels)

    def forward(self, x: Tensor, stream: CausalStream) -> Tensor:
        """``[B, C, T, H, W]`` to 2T frames, or to 2T - 1 where the video starts: its first frame stays single."""
        parts = self.conv(x, stream).unflatten(1, (-1, 2))  # [B, C, 2, T, H, W]
        frames = parts.transpose(2, 3).flatten(2, 3)
        # a single first frame would come out as two: the first of them stands for time before the video
        result: Tensor = frames[:, :, 1:] if stream.starts_video else frames
        return result


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
