"""How much a video moves: the mean length of Farnebäck's optical flow from each frame to the next.

Reference: metrics specification, section 2 ("How others detect and match"); Farnebäck, "Two-frame motion estimation
based on polynomial expansion" (2003), as OpenCV has it.
"""

from __future__ import annotations

import importlib
from itertools import pairwise
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from components.errors import InputError

_PYRAMID_SCALE, _LEVELS, _WINDOW, _ITERATIONS, _POLY_N, _POLY_SIGMA = 0.5, 3, 15, 3, 5, 1.2
"""As TempoTokens sets them."""


def opencv() -> ModuleType:
    """OpenCV, imported when it is needed.

    Raises:
        InputError: if it is not installed.
    """
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise InputError(
            f"AV-Align needs OpenCV for its optical flow, which cannot be imported ({error}); install it with "
            "`pip install 'avsync[eval]'`"
        ) from None


def flow_curve(video: Tensor) -> Tensor:
    """Mean length of the flow that leads to each frame, in pixels.

    It is computed on the CPU from 8-bit grey pictures, at the size the video has: the same scene has longer flow in
    larger pictures.

    Args:
        video: ``[T, 3, H, W]`` in [0, 1].

    Returns:
        float64 ``[T]``; frame 0, which has no predecessor, has the value of frame 1, so that neither is a strict
        maximum.
    """
    cv2 = opencv()
    pictures = (video.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    grey = [
        cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in pictures.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    ]
    lengths = [_mean_flow(cv2, before, after) for before, after in pairwise(grey)]
    return torch.tensor([*lengths[:1], *lengths] if lengths else [0.0] * len(grey), dtype=torch.float64)


def _mean_flow(cv2: ModuleType, before: np.ndarray, after: np.ndarray) -> float:
    flow = cv2.calcOpticalFlowFarneback(
        before, after, None, _PYRAMID_SCALE, _LEVELS, _WINDOW, _ITERATIONS, _POLY_N, _POLY_SIGMA, 0
    )
    return float(np.linalg.norm(flow, axis=-1).mean(dtype=np.float64))
