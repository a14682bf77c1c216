"""Which frames of a clip are looked at, and at what size.

Legend for shapes: N pictures, T frames, H x W pixels.
"""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Interpolation = Literal["bilinear", "bicubic"]


def frames_at(num_frames: int, fps: float, rate_hz: float | None) -> list[int]:
    """The first frame that begins at or after each of 0, 1, 2 ... ``/ rate_hz`` seconds, while the clip lasts.

    This is how the published pipelines bring a clip to 6 or 8 frames a second (metrics specification, section 5). A
    rate above ``fps`` repeats frames.

    Args:
        num_frames: in the clip.
        fps: its frames per second.
        rate_hz: frames per second that are wanted; None takes every frame.
    """
    if rate_hz is None:
        return list(range(num_frames))
    # 1e-6 frames: rounding must not cost or add one
    wanted = math.ceil(num_frames * rate_hz / fps - 1e-6)
    return [min(math.ceil(k * fps / rate_hz - 1e-6), num_frames - 1) for k in range(wanted)]


def resized(pictures: Tensor, height: int, width: int, interpolation: Interpolation, antialias: bool) -> Tensor:
    """``[N, 3, H, W]`` in another size, whatever the aspect; as they are where they have it."""
    if pictures.shape[-2:] == (height, width):
        return pictures
    return F.interpolate(pictures, (height, width), mode=interpolation, align_corners=False, antialias=antialias)


def padded_to_multiple(pictures: Tensor, multiple: int) -> tuple[Tensor, tuple[slice, slice]]:
    """``[N, C, H, W]`` with edges repeated until the sides are multiples, and where the pictures are within.

    The padding is split between both sides, as in RAFT's and AMT's own evaluations.
    """
    height, width = pictures.shape[-2:]
    below, right = -height % multiple, -width % multiple
    top, left = below // 2, right // 2
    inside = (slice(top, top + height), slice(left, left + width))
    if not below and not right:
        return pictures, inside
    return F.pad(pictures, (left, right - left, top, below - top), mode="replicate"), inside
