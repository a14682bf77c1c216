"""What a judge costs, as it was in this evaluation: seconds for a clip of 5 s, and memory on a GPU."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

CLIP_S = 5.0
"""Clips that costs are said for; as in ``python -m benchmarks.metrics``."""


@dataclass
class JudgingTime:
    """What was spent on one rank.

    Attributes:
        seconds: by the clock, waiting for other ranks at the end included.
        clips: evaluated, each with all kinds of video there are of it.
        clip_s: their lengths together.
        peak_bytes: most that was held on the GPU at a time, the model's own included; 0 where nobody looked.
    """

    seconds: float = 0.0
    clips: int = 0
    clip_s: float = 0.0
    peak_bytes: int = 0

    @contextmanager
    def counted(self, device: torch.device, with_memory: bool) -> Iterator[None]:
        """Adds what happens inside.

        Args:
            device: what computes; a GPU is waited for, or it would be somebody else's time.
            with_memory: look at the GPU's peak, too; the allocator's record starts anew then.
        """
        on_gpu = device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize(device)
            if with_memory:
                torch.cuda.reset_peak_memory_stats(device)
        begin = time.perf_counter()
        try:
            yield
        finally:
            if on_gpu:
                torch.cuda.synchronize(device)
                if with_memory:
                    self.peak_bytes = max(self.peak_bytes, torch.cuda.max_memory_allocated(device))
            self.seconds += time.perf_counter() - begin

    def record(self) -> dict[str, float]:
        """For ``results.json``."""
        found = {
            "s_per_5s_clip": self.seconds * CLIP_S / self.clip_s if self.clip_s else 0.0,
            "seconds": self.seconds,
            "clips": float(self.clips),
        }
        return found | ({"peak_gib": self.peak_bytes / 2**30} if self.peak_bytes else {})


def together(parts: Iterable[JudgingTime]) -> JudgingTime:
    """What all ranks have spent; memory is that of the fullest."""
    whole = JudgingTime()
    for part in parts:
        whole.seconds += part.seconds
        whole.clips += part.clips
        whole.clip_s += part.clip_s
        whole.peak_bytes = max(whole.peak_bytes, part.peak_bytes)
    return whole
