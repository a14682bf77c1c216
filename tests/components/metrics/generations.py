"""Generations of sounds alone: what judges of sound look at."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from components.contracts import ClipBatch, Generation


def sounding(generated: Tensor, sample_rate: int, real: Tensor | None = None, **clip: Any) -> Generation:
    """A `Generation` of sounds ``[B, S]``; ``real`` are those of the data set, the generated ones where not given."""
    count = len(generated)
    video = torch.zeros(count, 1, 3, 8, 8)
    ids = [f"clip{number}" for number in range(count)]
    captions: Sequence[str] = clip.pop("captions", [""] * count)
    batch = ClipBatch(
        ids=ids,
        video=video.byte(),
        fps=24.0,
        audio=generated if real is None else real,
        sample_rate=sample_rate,
        captions=captions,
        video_ids=ids,
        **clip,
    )
    return Generation(video, 24.0, generated, sample_rate, batch)


def noise(seconds: float, sample_rate: int, seed: int = 0, level: float = 0.1) -> Tensor:
    """White noise ``[S]``."""
    generator = torch.Generator().manual_seed(seed)
    return level * torch.randn(round(seconds * sample_rate), generator=generator)


def tone(hz: float, seconds: float, sample_rate: int, level: float = 0.3) -> Tensor:
    """A sine ``[S]``."""
    return level * torch.sin(2 * torch.pi * hz * torch.arange(round(seconds * sample_rate)) / sample_rate)
