"""Event times from a curve of event probability."""

from __future__ import annotations

from torch import Tensor


def probability_peaks(curve: Tensor, rate_hz: float, threshold: float, min_gap_s: float) -> list[float]:
    """Times of the peaks of a curve that reach a threshold, the higher of any two that are too close.

    A peak's time is the vertex of the parabola through it and its neighbours.

    Args:
        curve: float ``[N]``; value n stands for the time ``n / rate_hz``.
        rate_hz: values per second.
        threshold: smallest height of a peak.
        min_gap_s: peaks at least this far apart are kept.

    Returns:
        Sorted seconds.

    Example:
        >>> import torch
        >>> probability_peaks(torch.tensor([0.0, 0.5, 1.0, 0.5, 0.0, 0.1]), rate_hz=10.0, threshold=0.3, min_gap_s=0.1)
        [0.2]
    """
    values = curve.detach().double().cpu()
    left, middle, right = values[:-2], values[1:-1], values[2:]
    # ">=" on one side: of a plateau of two the first counts, of a longer one nothing
    peaks = ((middle > left) & (middle >= right) & (middle >= threshold)).nonzero().flatten().tolist()
    kept: list[float] = []
    for index in sorted(peaks, key=lambda at: -float(middle[at])):
        before, here, after = float(left[index]), float(middle[index]), float(right[index])
        time = (index + 1 + 0.5 * (before - after) / (before - 2.0 * here + after)) / rate_hz
        if all(abs(time - other) >= min_gap_s for other in kept):
            kept.append(time)
    return sorted(kept)
