"""MS: whether every second frame is where its neighbours' motion says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from components.metrics.scorers import ClipScores
from components.metrics.video.frame_interpolation import FrameInterpolator
from components.metrics.video.judge import VideoScorer, at_least_one
from components.weights.named_files import of_no_consequence


@of_no_consequence("pairs_at_once")
class MotionSmoothness(VideoScorer):
    """VBench's motion smoothness, 0 to 1; higher is better.

    Frames 1, 3, 5 ... are guessed from 0 and 2, 2 and 4, 4 and 6 ...; the score is one less the mean absolute
    difference of 8-bit pictures over 255, averaged over the guesses. A still picture scores near 1, so read it beside
    the dynamic degree. Scores of different interpolators do not compare.

    VBench shrinks large pictures within the network where a GPU's memory is small, which is not done here.

    Args:
        interpolator: guesses the frames; VBench's is AMT-S (see `ScriptedInterpolator`).
        pairs_at_once: guesses made together; bounds the memory.

    Raises:
        InputError: if a number is out of range.
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {"motion_smoothness": True}

    def __init__(self, interpolator: FrameInterpolator, pairs_at_once: int = 1) -> None:
        super().__init__()
        at_least_one(self, pairs_at_once=pairs_at_once)
        self.interpolator = interpolator
        self.pairs_at_once = pairs_at_once
        self.eval()

    def judge(self, frames: Tensor, fps: float) -> ClipScores:
        """Scores one clip of at least three frames."""
        kept, left_out = frames[::2], frames[1::2]
        if len(kept) < 2:
            return ClipScores(problem="too_short")
        # the last frame of an even number has no successor to be guessed from
        left_out = left_out[: len(kept) - 1]
        at_once = self.pairs_at_once
        parts = zip(kept[:-1].split(at_once), kept[1:].split(at_once), left_out.split(at_once), strict=True)
        differences = [self._difference(*part) for part in parts]
        return ClipScores({"motion_smoothness": 1 - torch.cat(differences).mean().item() / 255})

    def _difference(self, first: Tensor, second: Tensor, between: Tensor) -> Tensor:
        """Mean absolute difference ``[N]`` in 8-bit levels; the guess is cut to whole levels, as VBench does."""
        guess = (255 * self.interpolator(first, second)).clamp(0, 255).floor()
        difference: Tensor = (guess - (255 * between).round()).abs()
        return difference.double().flatten(1).mean(dim=1)

    def identity(self) -> dict[str, object]:
        """What guesses the frames."""
        return {"interpolator": type(self.interpolator).__qualname__, **self.interpolator.identity()}
