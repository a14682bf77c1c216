"""Means over recordings and their spread: what every score with an interval is made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from components.metrics.bootstrap import bootstrap_interval


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


def interval_of_mean(video_sum: Tensor, video_count: Tensor) -> tuple[Tensor, Tensor]:
    """Ends of the 95 % bootstrap interval of the mean of the per-recording means (`bootstrap_interval`).

    Args:
        video_sum: ``[K, V]`` sums of the clip scores of each recording, K kinds of score.
        video_count: ``[V]`` clips of each recording; those without clips do not take part.

    Returns:
        Two ``[K]``, within the range of the scores; NaN where fewer than two recordings are there.
    """
    counted = video_count > 0
    means = (video_sum[:, counted] / video_count[counted]).double()
    low, high = (torch.from_numpy(end).to(means) for end in bootstrap_interval(means.cpu().numpy()))
    # where all recordings are alike, the mean as it is rounded here
    mean = means.mean(dim=1)
    return torch.minimum(low, mean), torch.maximum(high, mean)
