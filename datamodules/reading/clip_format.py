"""What every clip of a set looks like."""

from __future__ import annotations

from dataclasses import dataclass

from components.errors import InputError


@dataclass(frozen=True)
class ClipFormat:
    """Shape of every clip of a set.

    Attributes:
        num_frames: frames per clip; the most where ``min_frames`` is given.
        fps: frames per second.
        height: rows.
        width: columns.
        sample_rate: sound samples per second.
        min_frames: a recording too short for ``num_frames`` gives its longest clip of ``1 + k * frame_step`` frames
            that has at least this many. None (or no less than ``num_frames``): all clips have ``num_frames`` frames.
        frame_step: frames by which shorter clips differ: the video codec's temporal factor.

    Raises:
        InputError: a number is not positive.
    """

    num_frames: int
    fps: float
    height: int
    width: int
    sample_rate: int
    min_frames: int | None = None
    frame_step: int = 8

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{name} is {value}; it must be positive")

    @property
    def duration_s(self) -> float:
        """Length of a clip (of the longest, where they differ) in seconds."""
        return self.num_frames / self.fps

    @property
    def num_samples(self) -> int:
        """Sound samples of a clip (of the longest, where they differ)."""
        return self.samples_of(self.num_frames)

    @property
    def shortest(self) -> int:
        """Frames of the shortest clip."""
        if self.min_frames is None:
            return self.num_frames
        return min(self.num_frames, 1 + -(-(self.min_frames - 1) // self.frame_step) * self.frame_step)

    def longest(self, held: int) -> int:
        """Frames of the longest clip that ``held`` frames give; of the shortest one where even that does not fit."""
        if held >= self.num_frames:
            return self.num_frames
        return max(self.shortest, 1 + (held - 1) // self.frame_step * self.frame_step)

    def samples_of(self, num_frames: int) -> int:
        """Sound samples of a clip of ``num_frames`` frames."""
        return round(num_frames / self.fps * self.sample_rate)

    def frames_of(self, num_samples: int) -> int:
        """Frames of a clip with ``num_samples`` sound samples."""
        return round(num_samples / self.sample_rate * self.fps)
