"""Target curves for learning onset times."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def onset_targets(onsets: Sequence[Sequence[float]], num_values: int, rate_hz: float, sigma_s: float) -> Tensor:
    """Curves with a Gaussian bump of height 1 at each onset (the highest bump counts where two overlap).

    Args:
        onsets: B lists of seconds.
        num_values: N, length of the curves.
        rate_hz: values per second; value n stands for ``n / rate_hz``.
        sigma_s: standard deviation of a bump.

    Returns:
        float32 ``[B, N]`` in [0, 1].
    """
    times = torch.arange(num_values) / rate_hz
    curves = torch.zeros(len(onsets), num_values)
    for curve, row in zip(curves, onsets, strict=True):
        if len(row):
            distance = times[None] - torch.as_tensor(row)[:, None]
            curve.copy_(torch.exp(-0.5 * (distance / sigma_s).square()).amax(dim=0))
    return curves
