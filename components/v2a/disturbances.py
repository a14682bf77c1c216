"""What flashes in a picture without anything happening: patches, jumps of brightness, bursts of noise, broken blocks.

A model that infers sound from pictures must not hear them. They are drawn into training clips at random times as
non-events, and into frozen pictures at the times of true onsets, which shows whether a trained model can be fooled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

Disturbance = Callable[[Tensor, Tensor, float, torch.Generator], Tensor]
"""``(frames [T, 3, H, W], course [T] in [0, 1], strength in (0, 1], generator)`` to frames with one disturbance."""


def patch(frames: Tensor, course: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """A square of one random colour anywhere in the picture; its side is a quarter of the height at strength 0.5."""
    height, width = frames.shape[-2:]
    side = max(2, round(strength * height / 2))
    top, left = (_below(max(1, room - side + 1), generator) for room in (height, width))
    cover = torch.zeros(height, width)
    cover[top : top + side, left : left + side] = 1
    colour = torch.rand(3, 1, 1, generator=generator)
    return frames + _over_time(course, frames) * cover.to(frames) * (colour.to(frames) - frames)


def brightness_jump(frames: Tensor, course: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """The whole picture becomes lighter or darker by up to ``strength`` / 2."""
    sign = 1 - 2 * _below(2, generator)
    return frames + _over_time(course, frames) * (sign * strength / 2)


def noise_burst(frames: Tensor, course: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Pixel noise of standard deviation ``strength`` / 2, new in each frame."""
    noise = torch.randn(frames.shape, generator=generator).to(frames)
    return frames + _over_time(course, frames) * (strength / 2) * noise


def broken_blocks(frames: Tensor, course: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Blocks of an eighth or a quarter of the height take on colours that are off by ``strength`` / 2 (deviation)."""
    grid = (8, 4)[_below(2, generator)]
    coarse = torch.randn(1, 3, grid, grid, generator=generator)
    # half of the blocks stay whole
    coarse = coarse * (torch.rand(1, 1, grid, grid, generator=generator) < 0.5)
    blocks = interpolate(coarse, size=frames.shape[-2:], mode="nearest").to(frames)
    return frames + _over_time(course, frames) * (strength / 2) * blocks


DISTURBANCES: Mapping[str, Disturbance] = {
    "patch": patch,
    "brightness_jump": brightness_jump,
    "noise_burst": noise_burst,
    "broken_blocks": broken_blocks,
}


@dataclass(frozen=True)
class NonEvents:
    """Disturbs a share of the clips at random times with everything in `DISTURBANCES`.

    Attributes:
        share: of the clips that are disturbed.
        most: largest number of disturbances in a clip; at least one.
        fade_frames: shortest and longest time constant in which one fades; now and then one stays to the end.
        strength: least and greatest, see `DISTURBANCES`.
    """

    share: float = 0.7
    most: int = 6
    fade_frames: tuple[float, float] = (0.5, 4.0)
    strength: tuple[float, float] = (0.1, 1.0)

    def __call__(self, video: Tensor, generator: torch.Generator) -> Tensor:
        """Disturbs clips ``[B, T, 3, H, W]`` in [0, 1]; the result is in [0, 1] again.

        Args:
            video: the clips.
            generator: on the CPU; decides everything.
        """
        kinds = tuple(DISTURBANCES.values())
        frames = video.shape[1]
        disturbed = []
        for clip in video:
            if _uniform((0, 1), generator) < self.share:
                for _ in range(1 + _below(self.most, generator)):
                    fade = _uniform(self.fade_frames, generator)
                    stays = _uniform((0, 1), generator) < _STAYS
                    course = fading(frames, _below(frames, generator), torch.inf if stays else fade)
                    kind = kinds[_below(len(kinds), generator)]
                    clip = kind(clip, course, _uniform(self.strength, generator), generator).clamp(0, 1)
            disturbed.append(clip)
        return torch.stack(disturbed)


def fooling_clip(
    frame: Tensor, num_frames: int, fps: float, onsets: Sequence[float], kind: str, generator: torch.Generator
) -> Tensor:
    """A frozen picture with one disturbance of a kind at each onset: ``[num_frames, 3, H, W]`` in [0, 1].

    Args:
        frame: ``[3, H, W]`` in [0, 1].
        num_frames: length of the clip.
        fps: frames per second.
        onsets: when the sound has events, in seconds.
        kind: one of `DISTURBANCES`.
        generator: on the CPU; draws colours and places.
    """
    clip = frame.expand(num_frames, -1, -1, -1)
    for onset in onsets:
        course = fading(num_frames, round(onset * fps), _FOOLING_FADE_FRAMES)
        clip = DISTURBANCES[kind](clip, course, _FOOLING_STRENGTH, generator).clamp(0, 1)
    return clip


def fading(num_frames: int, first: int, fade_frames: float) -> Tensor:
    """0 before frame ``first``, 1 there, then fading with that time constant: ``[num_frames]``."""
    since = torch.arange(num_frames) - first
    return torch.where(since >= 0, torch.exp(-since.clamp(min=0) / fade_frames), 0.0)


_STAYS = 0.1
_FOOLING_FADE_FRAMES = 2.0
_FOOLING_STRENGTH = 0.5  # a patch of a quarter of the height, brightness and colours off by a quarter


def _over_time(course: Tensor, frames: Tensor) -> Tensor:
    return course.to(frames)[:, None, None, None]


def _below(end: int, generator: torch.Generator) -> int:
    return int(torch.randint(end, (), generator=generator))


def _uniform(ends: tuple[float, float], generator: torch.Generator) -> float:
    low, high = ends
    return low + (high - low) * torch.rand((), generator=generator).item()
