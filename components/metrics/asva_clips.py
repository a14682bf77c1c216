"""The clips ASVA judges: 12 frames at 6 fps beside two seconds of sound (metrics specification, sections 5 and 14.1).

IA, IT, RelSync and AlignSync are defined on them. Zhang et al., "Audio-Synchronized Visual Animation", 2024
(arXiv 2403.05659).

Legend for shapes: T frames, H x W pixels, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CLIP_S = 2.0
FPS = 6
NUM_FRAMES = 12
MIN_DURATION_S = (NUM_FRAMES - 1) / FPS
"""Less than that would show a frame twice."""


@dataclass(frozen=True)
class AsvaClip:
    """Two seconds as ASVA sees and hears them.

    Attributes:
        frames: ``[12, 3, h, w]`` in [0, 1], 6 a second.
        sound: ``[S]`` of the same two seconds.
        sample_rate: samples per second of ``sound``.
    """

    frames: Tensor
    sound: Tensor
    sample_rate: int


@dataclass(frozen=True)
class Recording:
    """What clips are cut from.

    Attributes:
        video: ``[T, 3, H, W]`` in [0, 1], or uint8.
        fps: frames per second.
        audio: ``[S]`` in [-1, 1].
        sample_rate: samples per second.
    """

    video: Tensor
    fps: float
    audio: Tensor
    sample_rate: int

    @property
    def duration_s(self) -> float:
        """How long both picture and sound last."""
        return min(len(self.video) / self.fps, len(self.audio) / self.sample_rate)

    def clip(self, start_s: float, size: int | Sequence[int] | None) -> AsvaClip:
        """The clip that begins at ``start_s``.

        A frame is the first that appears at or after its time, and the last one again beyond the end.

        Args:
            start_s: in seconds; what lies before the recording is its start.
            size: see `trimmed`; None leaves the frames as they are.
        """
        start_s = max(0.0, start_s)
        # 1e-6 frames: a time that is a frame's own but for rounding is that frame
        index = [math.ceil((start_s + number / FPS) * self.fps - 1e-6) for number in range(NUM_FRAMES)]
        frames = self.video[torch.tensor(index, device=self.video.device).clamp(max=len(self.video) - 1)]
        frames = frames.float() if self.video.is_floating_point() else frames.float() / 255
        first = round(start_s * self.sample_rate)
        sound = self.audio[first : first + round(CLIP_S * self.sample_rate)].float()
        return AsvaClip(frames if size is None else trimmed(frames, size), sound, self.sample_rate)


def clip_starts(duration_s: float, num_clips: int) -> list[float]:
    """Where the clips of a recording begin, in seconds: evenly from its start to its end; a single one in its middle.

    Negative for a recording below two seconds, which begins before its start then.
    """
    last = duration_s - CLIP_S
    if num_clips == 1:
        return [last / 2]
    return [last * index / (num_clips - 1) for index in range(num_clips)]


def trimmed(frames: Tensor, size: int | Sequence[int]) -> Tensor:
    """The middle of ``[T, 3, H, W]`` with the aspect of ``size``, in that size: ASVA's way to 256 x 256.

    Args:
        frames: pictures in [0, 1].
        size: height and width, or the side of a square.
    """
    height, width = frames.shape[-2:]
    wanted_height, wanted_width = (size, size) if isinstance(size, int) else size
    aspect = wanted_height / wanted_width
    # whole pixels are cut off, the fraction stays with the side that is cut
    if aspect >= height / width:
        kept = int(height / aspect)
        first = (width - kept) // 2
        frames = frames[..., first : first + kept]
    else:
        kept = int(width * aspect)
        first = (height - kept) // 2
        frames = frames[..., first : first + kept, :]
    return F.interpolate(frames, (wanted_height, wanted_width), mode="bilinear", antialias=True, align_corners=False)
