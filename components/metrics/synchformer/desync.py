"""From Synchformer's logits to DeSync, and from segments to the windows that the logits are of.

Metrics specification, section 4:

    DeSync = mean over windows of |g[argmax logits]|,   g = -2, -1.8 .. 2 s

A network that knows nothing has a DeSync of 22 / 21 = 1.048 s. A positive offset means that the content of the sound
appears too early by so much.

Legend for shapes: S segments, N windows of 14 segments.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from components.metrics.synchformer.head import NUM_OFFSETS
from components.metrics.synchformer.model import WINDOW_SEGMENTS

MAX_OFFSET_S = 2.0

WindowRule = Literal["javisbench", "av_benchmark"]
"""How windows of 14 segments are laid over a clip (see `window_segments`)."""
Mode = Literal["argmax", "expected"]
"""What a window says: its likeliest offset, or the mean over all offsets weighted by their probabilities."""


def offset_grid(device: torch.device | str = "cpu") -> Tensor:
    """The 21 offsets in seconds that the head's classes stand for."""
    half = NUM_OFFSETS // 2
    # not linspace, which leaves 3e-8 s where 0 is meant
    return torch.arange(-half, half + 1, device=device) / half * MAX_OFFSET_S


def window_segments(count: int, rule: WindowRule) -> list[list[int]]:
    """Which segments each window of a clip of ``count`` segments is made of: N lists of 14.

    ``javisbench``: one after the other from the start; the last window is moved back to the clip's end, and a clip
    that is shorter than a window is looped (over its embedded segments, so that no border is seen or heard).
    ``av_benchmark``: the first 14 segments and the last 14, which are the same in a clip of exactly 14; a shorter clip
    has no window.

    Example:
        >>> [(window[0], window[-1]) for window in window_segments(20, "javisbench")]
        [(0, 13), (6, 19)]
        >>> window_segments(5, "javisbench")
        [[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3]]
        >>> window_segments(5, "av_benchmark")
        []
    """
    if count < 1:
        return []
    last = count - WINDOW_SEGMENTS
    if last < 0:
        return [[place % count for place in range(WINDOW_SEGMENTS)]] if rule == "javisbench" else []
    starts = [0, last] if rule == "av_benchmark" else [min(at, last) for at in range(0, count, WINDOW_SEGMENTS)]
    return [list(range(start, start + WINDOW_SEGMENTS)) for start in starts]


def offsets_s(logits: Tensor, mode: Mode = "argmax") -> Tensor:
    """How much too early the sound is, with its sign: logits ``[..., 21]`` to seconds ``[...]``."""
    return _read(logits, offset_grid(logits.device), mode)


def desync_s(logits: Tensor, mode: Mode = "argmax") -> Tensor:
    """By how much picture and sound are apart: logits ``[..., 21]`` to seconds ``[...]``, 0 to 2.

    ``expected`` takes the mean of the distances, not the distance of the mean: opposite guesses do not cancel.
    """
    return _read(logits, offset_grid(logits.device).abs(), mode)


def _read(logits: Tensor, seconds: Tensor, mode: Mode) -> Tensor:
    if mode == "argmax":
        return seconds[logits.argmax(dim=-1)]
    # a sum, not a product of matrices: autocast would turn that to half precision
    return (logits.softmax(dim=-1) * seconds).sum(dim=-1)
