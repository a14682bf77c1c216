"""Onsets of a silent video: peaks of the frame-to-frame change.

Reference: metrics specification, section 2 (strict local maxima of a motion curve, with or without a floor).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad


def motion_curve(video: Tensor) -> Tensor:
    """Mean absolute change of each frame against the one before.

    Args:
        video: ``[B, T, 3, H, W]`` in [0, 1].

    Returns:
        float ``[B, T]``; frame 0 has no predecessor and is 0.
    """
    return pad((video[:, 1:] - video[:, :-1]).abs().mean(dim=(2, 3, 4)), (1, 0))


def strict_local_maxima(curve: Sequence[float] | Tensor, floor: float = 0.0) -> list[int]:
    """Indices whose value is above both neighbours' and at least ``floor``; ends and plateaus do not count.

    Args:
        curve: N values.
        floor: smallest value that counts.

    Example:
        >>> strict_local_maxima([0.0, 0.3, 0.1, 0.05, 0.08, 0.0], floor=0.1)
        [1]
    """
    values = torch.as_tensor(curve, dtype=torch.float64)
    middle = values[1:-1]
    peaks = (middle > values[:-2]) & (middle > values[2:]) & (middle >= floor)
    return [int(index) + 1 for index in peaks.nonzero()]
