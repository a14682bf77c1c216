"""How pictures are brought to a model's size: four ways, one per published metric (metrics specification, 5 to 7).

Legend for shapes: N pictures, H x W pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's training pictures; ImageBind and ASVA's classifier are fed with the same."""


def clip_normalised(frames: Tensor) -> Tensor:
    """``[..., 3, H, W]`` in [0, 1] with CLIP's mean and deviation taken out."""
    mean, std = (frames.new_tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return (frames - mean) / std


def squashed(frames: Tensor, size: int) -> Tensor:
    """``[N, 3, H, W]`` to ``[N, 3, size, size]`` whatever the aspect: ASVA's, whose frames are square before."""
    return _bicubic(frames, size, size)


def centre_square(frames: Tensor, size: int) -> Tensor:
    """``[N, 3, H, W]`` to the middle of the picture whose short side is ``size``: ImageBind's way with pictures."""
    height, width = frames.shape[-2:]
    short = min(height, width)
    # the long side is rounded down
    scaled = _bicubic(frames, int(height * size / short), int(width * size / short)).clamp(0, 1)
    top, left = (round((side - size) / 2) for side in scaled.shape[-2:])
    return scaled[..., top : top + size, left : left + size]


def three_crops(frames: Tensor, size: int, smooth: bool = False) -> Tensor:
    """``[N, 3, H, W]`` to both ends and the middle of the long side: ``[3, N, 3, size, size]``.

    Args:
        frames: pictures in [0, 1].
        size: rows and columns of the crops.
        smooth: bicubic with a low-pass, as av-benchmark has it; else bilinear without, as in ImageBind's video loader.
    """
    height, width = frames.shape[-2:]
    short = min(height, width)
    rows, columns = (side * size // short for side in (height, width))
    if smooth:
        scaled = _bicubic(frames, rows, columns).clamp(0, 1)
    else:
        scaled = F.interpolate(frames, (rows, columns), mode="bilinear", align_corners=False)
    top, left = (math.ceil((side - size) / 2) for side in (rows, columns))
    if height > width:
        corners = [(0, left), (top, left), (rows - size, left)]
    else:
        corners = [(top, 0), (top, left), (top, columns - size)]
    return torch.stack([scaled[..., y : y + size, x : x + size] for y, x in corners])


def _bicubic(frames: Tensor, height: int, width: int) -> Tensor:
    """Resized with a low-pass; may leave [0, 1] a little."""
    if frames.shape[-2:] == (height, width):
        return frames
    return F.interpolate(frames, (height, width), mode="bicubic", antialias=True, align_corners=False)
