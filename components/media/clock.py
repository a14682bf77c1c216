"""The one clock of an experiment: what is said once of a clip, and what follows from it.

An experiment says the shape of its clips under ``clip:``; how many samples, frames and latents that makes, and which
seconds they cover, is derived here from that shape and from the codecs.
"""

from __future__ import annotations

from dataclasses import dataclass

from components.errors import InputError


@dataclass(frozen=True)
class ClipShape:
    """What every clip of an experiment looks like.

    Attributes:
        num_frames: frames per clip; the most where ``min_frames`` is given.
        fps: frames per second of the clips, whatever the recordings have.
        height: rows; pictures are scaled to cover ``height x width`` and cropped about the centre.
        width: columns.
        sample_rate: sound samples per second.
        min_frames: a recording too short for ``num_frames`` gives its longest clip of ``1 + k * frame_step`` frames
            that has at least this many, where ``frame_step`` is the video codec's temporal factor. None (or no less
            than ``num_frames``): all clips have ``num_frames`` frames.

    Raises:
        InputError: a number is not positive.
    """

    num_frames: int = 121
    fps: float = 24.0
    height: int = 384
    width: int = 640
    sample_rate: int = 16000
    min_frames: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"clip.{name} is {value}; it must be positive")

    @property
    def duration_s(self) -> float:
        """Length of a clip (of the longest, where they differ) in seconds."""
        return self.num_frames / self.fps

    @property
    def num_samples(self) -> int:
        """Sound samples of a clip (of the longest, where they differ)."""
        return self.samples_of(self.num_frames)

    def shortest(self, frame_step: int) -> int:
        """Frames of the shortest clip, where clips differ by ``frame_step`` frames."""
        if self.min_frames is None:
            return self.num_frames
        return min(self.num_frames, 1 + -(-(self.min_frames - 1) // frame_step) * frame_step)

    def longest(self, held: int, frame_step: int) -> int:
        """Frames of the longest clip that ``held`` frames give; of the shortest one where even that does not fit."""
        if held >= self.num_frames:
            return self.num_frames
        return max(self.shortest(frame_step), longest_clip(held, frame_step))

    def samples_of(self, num_frames: int) -> int:
        """Sound samples of a clip of ``num_frames`` frames."""
        return round(num_frames / self.fps * self.sample_rate)

    def frames_of(self, num_samples: int) -> int:
        """Frames of a clip with ``num_samples`` sound samples."""
        return round(num_samples / self.sample_rate * self.fps)


def longest_clip(held: int, frame_step: int) -> int:
    """The most frames ``1 + k * frame_step`` that ``held`` frames give (a causal video VAE takes no other number)."""
    return 1 + (held - 1) // frame_step * frame_step
