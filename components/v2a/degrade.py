"""What a generated video looks like to a model trained on real ones: blur, noise, other light, small shifts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample, interpolate, pad

_BLUR_RADIUS = 3


@dataclass(frozen=True)
class Degrade:
    """Degrades each clip in its own random measure, the same for all its frames where a camera's would be.

    Attributes:
        blur_px: largest standard deviation of the Gaussian blur in pixels.
        noise: largest standard deviation of pixel noise, new in each frame.
        flicker: largest standard deviation of coarse noise (a 4 x 4 grid, enlarged), new in each frame.
        smear: largest share of the neighbouring frames mixed into each frame.
        brightness: largest offset.
        contrast: largest relative change of contrast about mid-grey.
        shift: largest shift of the picture, as a fraction of its side; edges repeat.
        mirror: flip half of the clips left to right.
    """

    blur_px: float = 1.0
    noise: float = 0.05
    flicker: float = 0.02
    smear: float = 0.3
    brightness: float = 0.15
    contrast: float = 0.25
    shift: float = 0.08
    mirror: bool = True

    def __call__(self, video: Tensor, generator: torch.Generator) -> Tensor:
        """Degrades ``[B, T, 3, H, W]`` in [0, 1]; the result is in [0, 1] again.

        Args:
            video: the clips.
            generator: on the CPU; decides everything.
        """
        clips = len(video)

        def draw(*shape: int) -> Tensor:
            return torch.rand(clips, *shape, generator=generator).to(video)

        video = _move(video, self.shift * (2 * draw(2) - 1), (draw() < 0.5) & self.mirror)
        video = _smear(video, self.smear * draw())
        video = _blur(video, self.blur_px * draw())
        gain = 1 + self.contrast * (2 * draw() - 1)
        offset = 0.5 + self.brightness * (2 * draw() - 1)
        video = (video - 0.5) * _per_clip(gain) + _per_clip(offset)
        # squared, so that most clips stay nearly clean
        video = video + _per_clip(self.noise * draw().square()) * _noise(video.shape, generator).to(video)
        # [B T, 3, 4, 4]: new in each frame, smooth in space
        coarse = _noise((clips * video.shape[1], 3, 4, 4), generator).to(video)
        coarse = interpolate(coarse, size=video.shape[-2:], mode="bilinear").view(video.shape)
        return (video + _per_clip(self.flicker * draw()) * coarse).clamp(0, 1)


def _per_clip(value: Tensor) -> Tensor:
    return value[:, None, None, None, None]


def _noise(shape: torch.Size | tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _move(video: Tensor, shift: Tensor, mirror: Tensor) -> Tensor:
    """Shifts by ``shift`` ``[B, 2]`` (fractions of the sides, x and y) and mirrors where ``mirror`` ``[B]``."""
    clips, frames, _, height, width = video.shape
    y, x = torch.meshgrid(
        (torch.arange(height, device=video.device) + 0.5) * 2 / height - 1,
        (torch.arange(width, device=video.device) + 0.5) * 2 / width - 1,
        indexing="ij",
    )
    # mirroring turns the sampling grid's x around
    sign = 1 - 2 * mirror.to(video)
    grid_x = x * sign[:, None, None] + 2 * shift[:, 0, None, None]
    grid_y = y + 2 * shift[:, 1, None, None]
    grid = torch.stack(torch.broadcast_tensors(grid_x, grid_y), dim=-1).to(video)  # [B, H, W, 2]
    stacked = video.flatten(1, 2)  # the frames as channels: one grid per clip
    moved = grid_sample(stacked, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved.view(clips, frames, 3, height, width)


def _smear(video: Tensor, share: Tensor) -> Tensor:
    """Mixes half of ``share`` ``[B]`` of either neighbouring frame into each frame."""
    before = torch.cat((video[:, :1], video[:, :-1]), dim=1)
    after = torch.cat((video[:, 1:], video[:, -1:]), dim=1)
    neighbours = 0.5 * (before + after)
    return video + _per_clip(share) * (neighbours - video)


def _blur(video: Tensor, sigma: Tensor) -> Tensor:
    """Separable Gaussian blur, ``sigma`` ``[B]`` in pixels."""
    offsets = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, device=video.device)
    # softmax of -x^2 / (2 sigma^2): a Gaussian whose taps sum to 1
    kernels = torch.softmax(-0.5 * (offsets / sigma.clamp(min=1e-3)[:, None]).square(), dim=-1)  # [B, K]
    clips = len(video)
    # clips as channel groups: every clip has its own kernel
    stacked = video.flatten(1, 2).transpose(0, 1)  # [T * 3, B, H, W]
    stacked = pad(stacked, (_BLUR_RADIUS,) * 4, mode="replicate")
    stacked = conv2d(stacked, kernels[:, None, None, :].to(video), groups=clips)
    stacked = conv2d(stacked, kernels[:, None, :, None].to(video), groups=clips)
    return stacked.transpose(0, 1).reshape(video.shape)
