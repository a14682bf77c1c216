"""A video-to-audio model without parameters: every peak of motion sounds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from components.contracts import V2AModel
from components.metrics.cyclesync.motion_peaks import motion_curve, strict_local_maxima
from components.v2a.bursts import render_bursts


class MotionV2A(V2AModel):
    """A burst wherever the mean absolute frame difference has a strict local maximum (metrics specification, 13).

    The answer is known by hand, which makes it the yardstick of everything around a V2A model. It hears every motion
    and tells no sounding event from a silent one.

    Args:
        floor: smallest mean absolute difference, in [0, 1], that counts as motion.
        sample_rate: samples per second of the sound.
    """

    def __init__(self, floor: float = 0.01, sample_rate: int = 22_050) -> None:
        super().__init__()
        self.floor = floor
        self.sample_rate = sample_rate

    def forward(
        self,
        video: Tensor,
        fps: float,
        captions: Sequence[str] | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> tuple[Tensor, int]:
        """``[B, T, 3, H, W]`` in [0, 1] to ``[B, S]`` over ``[0, T / fps]`` s; frame n sounds at n / fps."""
        curves = motion_curve(video.float()).cpu()
        onsets = [[frame / fps for frame in strict_local_maxima(curve, self.floor)] for curve in curves]
        num_samples = round(video.shape[1] / fps * self.sample_rate)
        return render_bursts(onsets, num_samples, self.sample_rate, generators).to(video.device), self.sample_rate
