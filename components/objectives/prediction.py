"""What the transformer's output means: a velocity, or the clean latents a velocity follows from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from components.errors import InputError
from components.schedules.pyramid_schedule import PyramidSchedule, downsample_mean, upsample_nearest

Hold = Callable[[Tensor], Tensor]


class Prediction(ABC):
    """Turns the transformer's output into the velocity of the stage's straight path."""

    @abstractmethod
    def velocity(
        self,
        output: Tensor,
        clips: Sequence[Tensor],
        stage: int,
        local_sigma: Tensor,
        schedule: PyramidSchedule,
        hold: Hold,
    ) -> Tensor:
        """Velocity ``[R, C, t, h, w]``.

        Args:
            output: what the transformer gave for the current clip, ``[R, C, t, h, w]``.
            clips: its input: history, oldest first, and the noisy current clip.
            stage: pyramid stage.
            local_sigma: noise level inside the stage, ``[R]``.
            schedule: noise levels of the stages.
            hold: the codec's `VideoCodec.hold`.
        """

    @abstractmethod
    def loss_weight(self, stage: int, local_sigma: Tensor, schedule: PyramidSchedule) -> Tensor:
        """Weight ``[R]`` of each clip's squared velocity error."""


class VelocityPrediction(Prediction):
    """The output is the velocity (Pyramid Flow and Syncphony)."""

    def velocity(
        self,
        output: Tensor,
        clips: Sequence[Tensor],
        stage: int,
        local_sigma: Tensor,
        schedule: PyramidSchedule,
        hold: Hold,
    ) -> Tensor:
        """The output itself."""
        return output

    def loss_weight(self, stage: int, local_sigma: Tensor, schedule: PyramidSchedule) -> Tensor:
        """All ones: the public recipe has no loss weights."""
        return torch.ones_like(local_sigma)


class CleanPrediction(Prediction):
    """The output is the clean latents of the stage, or what they add to a still; the velocity follows exactly.

    A velocity contains the noise, all of it, so a model can only give it if its tokens are wider than the patches they
    carry. That holds for VAE latents (64 numbers in 1,920 channels) but not for pixels (768 in 192). Clean pixels lie
    near a far smaller space. With x = r start + (1 - r) end, start = S n + (1 - S) up(down(c)) and
    end = e n + (1 - e) c, the level of the noise in x is ``s = r S + (1 - r) e``, hence

    ``n = (x - r (1 - S) up(down(c)) - (1 - r) (1 - e) c) / s`` and ``v = start - end``.

    The loss stays the velocity's, i.e. the error of c times a weight that grows like 1/s; predicting clean data under a
    velocity loss is studied in "Back to Basics: Let Denoising Generative Models Denoise" (arXiv 2511.13720). As there,
    the weight stops growing at a smallest noise level; at 1 the loss is the error of the clean latents, evenly over s.

    Args:
        min_sigma: noise level s below which the weight of the error of c grows no further.
        from_still: predict what is added to a still that continues the newest history frame (`VideoCodec.hold`), so
            that what does not move need not pass through the model. Without history the still is zero.
    """

    def __init__(self, min_sigma: float = 1.0, from_still: bool = False) -> None:
        if not 0 < min_sigma <= 1:
            raise InputError(f"min_sigma is {min_sigma}; it must lie in (0, 1]")
        self.min_sigma = min_sigma
        self.from_still = from_still

    def velocity(
        self,
        output: Tensor,
        clips: Sequence[Tensor],
        stage: int,
        local_sigma: Tensor,
        schedule: PyramidSchedule,
        hold: Hold,
    ) -> Tensor:
        """Solve for the noise, then for the velocity, in float32."""
        noisy = clips[-1]
        clean = output.float()
        if self.from_still and len(clips) > 1:
            # the newest history frame stands at the stage's own resolution, so it can be held without resampling
            clean = clean + hold(clips[-2][:, :, -1:]).float()
        r = local_sigma.float().view(-1, 1, 1, 1, 1)
        start, end = schedule.start_sigma[stage], schedule.end_sigma[stage]
        # the two ends of the stage's path without their noise: (1 - e) c and (1 - S) up(down(c))
        from_clean = (1 - end) * clean
        # stage 0 starts from pure noise (S = 1): nothing coarser to upsample
        from_coarse = (1 - start) * upsample_nearest(downsample_mean(clean)) if stage > 0 else 0.0
        # s reaches 0 at the very end of the last stage, where no noise is left to solve for.
        sigma = (r * start + (1 - r) * end).clamp(min=1e-6)
        noise = (noisy.float() - r * from_coarse - (1 - r) * from_clean) / sigma
        # v = start - end = (S - e) n + (1 - S) up(down(c)) - (1 - e) c
        return (start - end) * noise + from_coarse - from_clean

    def loss_weight(self, stage: int, local_sigma: Tensor, schedule: PyramidSchedule) -> Tensor:
        """``min(1, s / min_sigma)^2``."""
        # s = r S + (1 - r) e
        sigma = local_sigma * schedule.start_sigma[stage] + (1 - local_sigma) * schedule.end_sigma[stage]
        return (sigma / self.min_sigma).clamp(max=1).square()
