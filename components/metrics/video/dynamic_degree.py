"""DD: whether a clip moves at all. A model that repeats its first frame is perfect by most other measures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from components.metrics.scorers import ClipScores
from components.metrics.video.judge import VideoScorer, at_least_one
from components.metrics.video.optical_flow import OpticalFlow
from components.weights.named_files import of_no_consequence

RATE_HZ = 8
"""About how many frames a second are compared."""
SHARE = 0.05
"""Of the pixels, those that move fastest."""
PIXELS, OF_SIDE = 6.0, 256
"""A pair of frames moves if its fastest pixels move by more than 6 in pictures whose short side has 256."""
PAIRS, OF_FRAMES = 4, 16
"""A clip is dynamic if 4 pairs move in 16 frames."""


@of_no_consequence("pairs_at_once")
class DynamicDegree(VideoScorer):
    """VBench's dynamic degree: 1 for a clip that moves, 0 for one that does not; the mean is the share that does.

    Every ``round(fps / 8)``-th frame is compared with the one before. A pair moves if the mean length of the flow over
    its fastest 5 % of pixels exceeds 6 pixels at a short side of 256; a clip of n such frames is dynamic if at least
    ``round(4 n / 16)`` pairs move, and at least one. (In VBench a clip of two frames is dynamic whatever it shows, and
    where sides are no multiples of 8 its 5 % are of the padded picture.)
    Higher means more motion, not better motion.

    Args:
        flow: estimates the motion; VBench's is `RaftFlow`.
        pairs_at_once: pairs of frames whose flow is estimated together; bounds the memory.

    Raises:
        InputError: if a number is out of range.
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {"dynamic_degree": True}

    def __init__(self, flow: OpticalFlow, pairs_at_once: int = 4) -> None:
        super().__init__()
        at_least_one(self, pairs_at_once=pairs_at_once)
        self.flow = flow
        self.pairs_at_once = pairs_at_once
        self.eval()

    def judge(self, frames: Tensor, fps: float) -> ClipScores:
        """Scores one clip of at least two frames that are an eighth of a second apart."""
        seen = frames[:: max(1, round(fps / RATE_HZ))]
        if len(seen) < 2:
            return ClipScores(problem="too_short")
        threshold = PIXELS * min(frames.shape[-2:]) / OF_SIDE
        moving = int((self.speeds(seen) > threshold).sum())
        needed = max(1, round(PAIRS * len(seen) / OF_FRAMES))
        return ClipScores({"dynamic_degree": float(moving >= needed)})

    def speeds(self, frames: Tensor) -> Tensor:
        """``[T, 3, H, W]`` to the pixels that the fastest 5 % of each frame move to the next: ``[T - 1]``."""
        pairs = zip(frames[:-1].split(self.pairs_at_once), frames[1:].split(self.pairs_at_once), strict=True)
        return torch.cat([fastest(self.flow(first, second)) for first, second in pairs])

    def identity(self) -> dict[str, object]:
        """What estimates the motion."""
        return self.flow.identity()


def fastest(flow: Tensor) -> Tensor:
    """Mean length of the longest 5 % of the vectors of flows ``[N, 2, H, W]``: ``[N]``."""
    lengths = flow.square().sum(dim=1).sqrt().flatten(1)
    # one at least, for pictures of a few pixels
    return lengths.topk(max(1, int(SHARE * lengths.shape[1])), dim=1).values.mean(dim=1)
