"""What every clip of a set looks like."""

from __future__ import annotations

from dataclasses import dataclass

from components.errors import InputError


@dataclass(frozen=True)
class ClipFormat:
    """Shape of every clip of a set.

    Attributes:
        num_frames: frames per clip.
        fps: frames per second.
        height: rows.
        width: columns.
        sample_rate: sound samples per second.

    Raises:
        InputError: a number is not positive.
    """

    num_frames: int
    fps: float
    height: int
    width: int
    sample_rate: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < float("inf"):
                raise InputError(f"{name} is {value}; it must be positive")

    @property
    def duration_s(self) -> float:
        """Length of a clip in seconds."""
        return self.num_frames / self.fps

    @property
    def num_samples(self) -> int:
        """Sound samples per clip."""
        return round(self.duration_s * self.sample_rate)
