"""AVHScore and JavisScore: does every picture of a clip fit what is heard, and at that moment?

JavisBench (Liu et al., "JavisDiT", 2025, arXiv 2503.23377; metrics specification, section 6).

Legend for shapes: T frames, S samples, M windows, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from components.errors import InputError
from components.metrics.imagebind.mel import SAMPLE_RATE


@dataclass(frozen=True)
class Window:
    """A stretch of a clip.

    Attributes:
        frames: its first frame and the one behind its last.
        samples: likewise in samples at 16 kHz.
    """

    frames: tuple[int, int]
    samples: tuple[int, int]


@dataclass(frozen=True)
class JavisWindows:
    """Cuts clips into windows that overlap and are judged one by one.

    The table of JavisBench has 2 s and 1.5 s; the defaults of the function behind it (0.5 s and 0 s) are not what its
    program passes. Picture and sound are cut each on its own: lengths in frames are rounded down, so at 25 fps a
    window of pictures begins 0.52 s after the one before, its sound 0.5 s. That is part of the published values.

    Args:
        window_s: length of a window.
        overlap_s: how much of it the next one shares.

    Raises:
        InputError: if a window is empty or the next one would not begin later.
    """

    window_s: float = 2.0
    overlap_s: float = 1.5

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_s < self.window_s:
            raise InputError(
                f"JavisWindows: overlap_s is {self.overlap_s} and window_s is {self.window_s}; windows need a length, "
                "and less overlap than that"
            )

    def of(self, num_frames: int, num_samples: int, fps: float) -> list[Window]:
        """The windows of a clip: all of it where picture or sound is no longer than one.

        The last window of either is moved back to end with it; there are as many as the shorter of both has.

        Args:
            num_frames: frames of the clip.
            num_samples: samples of its sound at 16 kHz.
            fps: frames per second.
        """
        frames = _cuts(num_frames, int(self.window_s * fps), int(self.overlap_s * fps))
        samples = _cuts(num_samples, int(self.window_s * SAMPLE_RATE), int(self.overlap_s * SAMPLE_RATE))
        if frames is None or samples is None:
            return [Window((0, num_frames), (0, num_samples))]
        return [Window(*pair) for pair in zip(frames, samples, strict=False)]


def avh_score(frames: Tensor, sound: Tensor) -> float:
    """Mean cosine of every frame ``[T, D]`` with the whole sound ``[D]``."""
    return float(F.cosine_similarity(frames, sound[None], dim=-1).mean())


def javis_score(frames: Tensor, sounds: Tensor, windows: Sequence[Window], lowest: float = 0.4) -> float:
    """Mean over windows of the mean of the lowest cosines of their frames with their sound.

    Args:
        frames: ``[T, D]``.
        sounds: ``[M, D]``, one per window.
        windows: where they lie.
        lowest: share of a window's frames that counts, rounded down, but one frame at least.
    """
    found = []
    for sound, window in zip(sounds, windows, strict=True):
        cosines = F.cosine_similarity(frames[slice(*window.frames)], sound[None], dim=-1)
        counted = max(1, int(len(cosines) * lowest))
        found.append(cosines.topk(counted, largest=False).values.mean())
    return float(torch.stack(found).mean())


def _cuts(length: int, window: int, overlap: int) -> list[tuple[int, int]] | None:
    """Ends of the windows of ``length`` items; None where that is one window or less."""
    if length <= window:
        return None
    # at very low rates both may round to the same number
    starts = range(0, length, max(1, window - overlap))
    cuts = []
    for start in starts:
        first = min(start, length - window)
        cuts.append((first, first + window))
        if first + window >= length:
            break
    return cuts
