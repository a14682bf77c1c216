"""What all judges of pictures share: frozen weights in float32, and pictures as a file would hold them.

Legend for shapes: T frames, H x W pixels.
"""

from __future__ import annotations

import importlib.util
import itertools
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor, nn

from components.codecs.no_autocast import no_autocast
from components.contracts import Generation
from components.errors import InputError
from components.metrics.scorers import ClipScorer, ClipScores


class FrozenJudge(nn.Module):
    """A network that judges: without gradients, without autocast, and always in evaluation mode."""

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode whatever the trainer asks for."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(itertools.chain(self.parameters(), self.buffers()), torch.zeros(())).device

    @contextmanager
    def judging(self) -> Iterator[None]:
        """No gradients and no autocast within."""
        with torch.no_grad(), no_autocast(self.device):
            yield

    def frames_of(self, generation: Generation, row: int) -> Tensor:
        """The pictures of one clip, float32 ``[T, 3, H, W]`` in [0, 1] on the judge's device.

        They are rounded to 8 bits, as real clips are and as generated ones become when they are written.
        """
        frames = generation.video[row].to(self.device, torch.float32)
        return (255 * frames).round().clamp(0, 255) / 255


class VideoScorer(FrozenJudge, ClipScorer):
    """A scorer that looks at the pictures alone, one clip at a time: a score cannot depend on the batch."""

    def score(self, generation: Generation, rows: Sequence[int]) -> list[ClipScores]:
        """See `ClipScorer.score`."""
        with self.judging():
            return [self.judge(self.frames_of(generation, row), generation.fps) for row in rows]

    @abstractmethod
    def judge(self, frames: Tensor, fps: float) -> ClipScores:
        """Scores one clip: frames ``[T, 3, H, W]`` in [0, 1] at ``fps``."""


def needs_torchvision(name: str) -> None:
    """Stops before anything is loaded.

    Raises:
        InputError: if torchvision is not installed.
    """
    if importlib.util.find_spec("torchvision") is None:
        raise InputError(f"{name} needs torchvision, which is not installed: pip install 'avsync[eval]'")


def at_least_one(owner: object, **values: int) -> None:
    """Checks settings that count something.

    Raises:
        InputError: naming the class and the setting, if a value is below 1.
    """
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{type(owner).__name__}.{name} is {value}; it must be at least 1")


def positive_or_none(owner: object, **values: float | None) -> None:
    """Checks settings that are rates, where None means all there is.

    Raises:
        InputError: naming the class and the setting, if a value is not positive.
    """
    for name, value in values.items():
        if value is not None and not value > 0:
            raise InputError(f"{type(owner).__name__}.{name} is {value}; it must be positive, or null for every frame")
