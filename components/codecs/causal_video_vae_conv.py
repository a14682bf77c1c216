"""Causal 3-D convolution over video, and the explicit state that lets it run chunk by chunk.

Source: the Pyramid Flow specification, section 2 (Jin et al., "Pyramidal Flow Matching for Efficient Video Generative
Modeling", section 3.4: causal video VAE).
"""

from __future__ import annotations

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
        padding = (0, kernel_size // 2, kernel_size // 2)
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size, stride, padding)
        self.taps = kernel_size
        self.carry = kernel_size - stride[0]

    def forward(self, x: Tensor, stream: CausalStream) -> Tensor:
        """``[B, C_in, T, H, W]`` to ``[B, C_out, T', H', W']``; ``stream`` supplies and keeps the past frames."""
        if self.taps == 1:
            return self.conv(x)
        x, past = stream.extend(self, x, self.carry)
        missing = self.taps - 1 if past is None else self.carry - past
        if past is None and x.shape[2] == 1:
            return self._last_tap(x)
        return self.conv(F.pad(x, (0, 0, 0, 0, missing, 0)) if missing else x)

    def _last_tap(self, x: Tensor) -> Tensor:
        """A single frame without a past: all taps but the last would only multiply zeros."""
        conv = self.conv
        weight, stride, padding = conv.weight[:, :, -1], conv.stride[1:], conv.padding[1:]
        return F.conv2d(x[:, :, 0], weight, conv.bias, stride, padding).unsqueeze(2)
