"""Means over recordings and their spread: what every score with an interval is made of."""

from __future__ import annotations

import math
from statistics import NormalDist

from torch import Tensor

NORMAL_95 = NormalDist().inv_cdf(0.975)
"""Half-width of the 95 % interval of a standard normal variable, 1.96 to three digits."""


def mean_and_spread(video_sum: Tensor, video_count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation (ddof 1) and standard error of the per-recording means.

    Clips of one recording are averaged first because they are not independent.

    Args:
        video_sum: ``[K, V]`` sums of the clip scores of each recording, K kinds of score.
        video_count: ``[V]`` clips of each recording; those without clips do not take part.

    Returns:
        Three ``[K]``; NaN where no clip (mean) or fewer than two recordings (spread) are there.
    """
    counted = video_count > 0
    means = video_sum[:, counted] / video_count[counted]
    videos = means.shape[1]
    missing = means.new_full((len(means),), math.nan)
    mean = means.mean(dim=1) if videos else missing
    sd = means.std(dim=1, correction=1) if videos > 1 else missing
    return mean, sd, sd / math.sqrt(max(videos, 1))
