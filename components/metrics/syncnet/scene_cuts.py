"""Where one shot of a clip ends and the next begins: a face is followed within a shot only.

The criterion of PySceneDetect's content detector, version 0.5.1, as SyncNet's public pipeline calls it: the mean change
of hue, saturation and value from frame to frame, in OpenCV's 8-bit scales, of pictures thinned to about 200 columns.

Legend for shapes: T frames, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from components.errors import InputError

_THINNING = ((3200, 12), (2100, 8), (1700, 6), (1200, 5), (900, 4), (600, 3), (400, 2))
"""From so many columns on, every so many-th column and row is looked at."""
_BITS = 12
"""Fixed point that OpenCV divides in."""


@dataclass(frozen=True)
class SceneCuts:
    """Finds hard cuts; fades are none.

    Attributes:
        threshold: mean change per pixel, averaged over hue (0 to 179), saturation and value (0 to 255), from which on
            a new shot begins. The public pipeline has 30; later versions of its library 27.
        min_frames: frames after a cut in which no other is looked for.

    Raises:
        InputError: if a number is out of range.
    """

    threshold: float = 30.0
    min_frames: int = 15

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise InputError(f"SceneCuts.threshold is {self.threshold}; it must be more than 0")
        if self.min_frames < 1:
            raise InputError(f"SceneCuts.min_frames is {self.min_frames}; it must be at least 1")

    def shots(self, frames: Tensor) -> list[range]:
        """The frames of each shot of a clip ``[T, 3, H, W]`` in [0, 1], in their order; together all T."""
        borders = [0]
        for frame, change in enumerate(self.changes(frames).tolist(), start=1):
            # as in the public version, the first cut may come at any time
            if change >= self.threshold and (borders == [0] or frame - borders[-1] >= self.min_frames):
                borders.append(frame)
        return [range(*ends) for ends in zip(borders, [*borders[1:], len(frames)], strict=True)]

    def changes(self, frames: Tensor) -> Tensor:
        """How much each frame of ``[T, 3, H, W]`` in [0, 1] differs from the one before: float64 ``[T - 1]``."""
        step = next((step for columns, step in _THINNING if frames.shape[3] >= columns), 1)
        pictures = (frames[:, :, ::step, ::step].float().clamp(0, 1) * 255).round().int()
        differences = hue_saturation_value(pictures).diff(dim=0).abs()
        # whole numbers up to here, and means on the CPU: the same cuts on any device
        return differences.sum(dim=(1, 2, 3)).cpu().double() / (3 * max(1, pictures[0, 0].numel()))


def hue_saturation_value(pictures: Tensor) -> Tensor:
    """8-bit RGB to OpenCV's 8-bit HSV, both int32 ``[T, 3, H, W]``: hue in 0..179, the others in 0..255."""
    red, green, blue = pictures.unbind(1)
    value = pictures.amax(dim=1)
    spread = value - pictures.amin(dim=1)
    saturation = _divided(spread, value, 255)
    sector = torch.where(
        value == red,
        green - blue,
        torch.where(value == green, blue - red + 2 * spread, red - green + 4 * spread),
    )
    hue = _divided(sector, spread, 30)  # a sixth of the circle
    return torch.stack([hue + 180 * (hue < 0), saturation, value], dim=1)


def _divided(numerator: Tensor, denominator: Tensor, scale: int) -> Tensor:
    """``scale * numerator / denominator`` rounded as OpenCV does it, 0 where the denominator is."""
    every = torch.arange(256, dtype=torch.float64)
    inverse = ((scale << _BITS) / every.clamp(min=1)).round().int()
    inverse[0] = 0
    # the shift rounds towards minus infinity, which a division of integers would not
    return (numerator * inverse.to(numerator.device)[denominator] + (1 << (_BITS - 1))) >> _BITS
