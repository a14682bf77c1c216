"""What the transformer's output means: a velocity, or the clean latents a velocity follows from."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from components.schedules.pyramid_schedule import PyramidSchedule, downsample_mean, upsample_nearest


class Prediction(ABC):
    """Turns the transformer's output into the velocity of the stage's straight path."""

    @abstractmethod
    def velocity(
        self, output: Tensor, noisy: Tensor, stage: int, local_sigma: Tensor, schedule: PyramidSchedule
    ) -> Tensor:
        """Velocity ``[R, C, t, h, w]``.

        Args:
            output: what the transformer gave for the current clip, ``[R, C, t, h, w]``.
            noisy: the current clip it saw, same shape.
            stage: pyramid stage.
            local_sigma: noise level inside the stage, ``[R]``.
            schedule: noise levels of the stages.
        """


class VelocityPrediction(Prediction):
    """The output is the velocity (Pyramid Flow and Syncphony)."""

    def velocity(
        self, output: Tensor, noisy: Tensor, stage: int, local_sigma: Tensor, schedule: PyramidSchedule
    ) -> Tensor:
        """The output itself."""
        return output


class CleanPrediction(Prediction):
    """The output is the clean latents of the stage; the velocity follows exactly.

    A velocity contains the noise, all of it, so a model can only give it if its tokens are wider than the patches they
    carry. That holds for VAE latents (64 numbers in 1,920 channels) but not for pixels (768 in 192). Clean pixels lie
    near a far smaller space. With x = r start + (1 - r) end, start = S n + (1 - S) up(down(c)) and
    end = e n + (1 - e) c, the level of the noise in x is ``s = r S + (1 - r) e``, hence

    ``n = (x - r (1 - S) up(down(c)) - (1 - r) (1 - e) c) / s`` and ``v = start - end``.

    The loss stays the velocity's; predicting clean data under a velocity loss is studied in "Back to Basics: Let
    Denoising Generative Models Denoise" (arXiv 2511.13720).

    Args:
        min_sigma: smallest s that is divided by; it bounds the weight of nearly clean inputs.
    """

    def __init__(self, min_sigma: float = 0.1) -> None:
        if not 0 < min_sigma < 1:
            raise ValueError(f"min_sigma must lie between 0 and 1, got {min_sigma}")
        self.min_sigma = min_sigma

    def velocity(
        self, output: Tensor, noisy: Tensor, stage: int, local_sigma: Tensor, schedule: PyramidSchedule
    ) -> Tensor:
        """Solve for the noise, then for the velocity, in float32."""
        clean = output.float()
        r = local_sigma.float().view(-1, 1, 1, 1, 1)
        start, end = schedule.start_sigma[stage], schedule.end_sigma[stage]
        from_clean = (1 - end) * clean
        from_coarse = (1 - start) * upsample_nearest(downsample_mean(clean)) if stage > 0 else 0.0
        sigma = (r * start + (1 - r) * end).clamp(min=self.min_sigma)
        noise = (noisy.float() - r * from_coarse - (1 - r) * from_clean) / sigma
        return (start - end) * noise + from_coarse - from_clean
