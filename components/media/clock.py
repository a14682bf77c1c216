"""The one clock of an experiment: what is said once of a clip, and what follows from it.

An experiment says the shape of its clips under ``clip:``; how many samples, frames and latents that makes, and which
seconds they cover, is derived here from that shape and from the codecs (`ClipShape`, `LatentClock`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from components.errors import InputError

TimeMap = Literal["linear", "causal"]


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
        # rounded once from the frames: sums of rounded parts would drift
        return round(num_frames / self.fps * self.sample_rate)

    def frames_of(self, num_samples: int) -> int:
        """Frames of a clip with ``num_samples`` sound samples."""
        return round(num_samples / self.sample_rate * self.fps)


def longest_clip(held: int, frame_step: int) -> int:
    """The most frames ``1 + k * frame_step`` that ``held`` frames give (a causal video VAE takes no other number)."""
    return 1 + (held - 1) // frame_step * frame_step


@dataclass(frozen=True)
class LatentClock:
    """Rates of a clip's latents: where video and audio latents stand in time, and which of them overlap.

    Source: Harmony (arXiv 2511.21579), "RoPE-aligned Frame-level Attention": audio token j gets the position
    ``j' = j T_v / T_a``, so that positions count video latents. The unit here is the same; there are two maps:

    - ``linear`` is the paper's: video latent i at i, audio token j at ``j T_v / T_a``;
    - ``causal`` (ours) knows that the first latent of a causal video VAE holds one frame and every other one f frames.
      Latent i >= 1 is centred on frame ``f i - (f - 1) / 2``; an audio token's centre, in frames, is mapped piecewise
      linearly through those knots. At 121 frames (f = 4, 24 fps) the linear map is 58 ms late at latent 1 and 58 ms
      early at latent 30.

    Attributes:
        video_fps: frames per second of the video (`ClipBatch.fps`).
        temporal_factor: f, frames per video latent after the first (`VideoCodec.temporal_factor`).
        audio_rate_hz: audio latents per second (`AudioCodec.latent_rate_hz`; 31.25 at 16 kHz and 512 samples each).

    Raises:
        ValueError: if a rate is not positive.
    """

    video_fps: float
    temporal_factor: int
    audio_rate_hz: float

    def __post_init__(self) -> None:
        if self.video_fps <= 0 or self.temporal_factor < 1 or self.audio_rate_hz <= 0:
            raise ValueError(
                f"video_fps {self.video_fps}, temporal_factor {self.temporal_factor} and audio_rate_hz "
                f"{self.audio_rate_hz} must be positive"
            )

    def num_video_latents(self, num_audio: int) -> int:
        """Video latents of the clip that ``num_audio`` audio tokens sound through (157 at 31.25 Hz: 31)."""
        frames = num_audio / self.audio_rate_hz * self.video_fps
        return max(1, round(1 + (frames - 1) / self.temporal_factor))

    def video_centers_s(self, num_video: int, time_map: TimeMap) -> Tensor:
        """When, in seconds, the map takes each video latent to happen: float64 ``[T_v]``."""
        latent = torch.arange(num_video, dtype=torch.float64)
        if time_map == "linear":
            num_frames = self.temporal_factor * (num_video - 1) + 1
            return latent * (num_frames / num_video / self.video_fps)
        f = self.temporal_factor
        return torch.where(latent == 0, 0.0, f * latent - (f - 1) / 2) / self.video_fps

    def audio_positions(self, num_video: int, num_audio: int, time_map: TimeMap) -> Tensor:
        """Positions of the audio tokens in units of video latents (these stand at 0, 1, 2 ...): float64 ``[T_a]``."""
        token = torch.arange(num_audio, dtype=torch.float64)
        if time_map == "linear":
            return token * (num_video / num_audio)  # j' = j T_v / T_a
        f = self.temporal_factor
        frame = (token + 0.5) * (self.video_fps / self.audio_rate_hz)
        # Latent 0 is centred on frame 0 and latent 1 on frame (f + 1) / 2; from there on latents are f frames apart.
        first_knot = (f + 1) / 2
        return torch.where(frame < first_knot, frame / first_knot, (frame + (f - 1) / 2) / f)

    def relation(self, num_video: int, num_audio: int, half_window: float | None, time_map: TimeMap) -> Tensor:
        """Which video latents and audio tokens may attend to each other: bool ``[T_v, T_a]``.

        ``linear``: the token's interval ``[p, p + T_v / T_a)`` meets ``(i - w, i + 1 + w)``; ``causal``: the token's
        centre lies within ``w + 1/2`` of i.

        Args:
            num_video: T_v.
            num_audio: T_a.
            half_window: w in video latents; None lets everyone attend to everyone.
            time_map: where tokens stand.
        """
        if half_window is None:
            return torch.ones(num_video, num_audio, dtype=torch.bool)
        latent = torch.arange(num_video, dtype=torch.float64)[:, None]
        if time_map == "causal":
            return (self.audio_positions(num_video, num_audio, time_map)[None] - latent).abs() <= half_window + 0.5
        # both sides times T_a: whole numbers compare exactly
        start = torch.arange(num_audio, dtype=torch.float64)[None] * num_video
        begins_in_time = start < (latent + 1 + half_window) * num_audio
        ends_in_time = start + num_video > (latent - half_window) * num_audio
        return begins_in_time & ends_in_time
