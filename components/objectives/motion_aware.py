"""Syncphony's motion-aware loss on autoregressive pyramid columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from components.errors import InputError
from components.objectives.pyramid_columns import TrainingColumn
from components.schedules.pyramid_schedule import latent_pyramid


@dataclass(frozen=True)
class MotionAwareTerms:
    """Loss parts per clip, each ``[R]``: ``total = base + weight * motion``."""

    total: Tensor
    base: Tensor
    motion: Tensor

    def weighted(self, weight: Tensor) -> MotionAwareTerms:
        """Every part times ``weight`` ``[R]``."""
        return MotionAwareTerms(self.total * weight, self.base * weight, self.motion * weight)


class MotionAwareLoss(nn.Module):
    r"""Velocity error plus the error weighted by the true motion.

    The paper (Syncphony, "Motion-aware Loss") writes, over the latent frames of a clip,

    ``L = ||v^ - v||^2 + lambda * sum_{l=2..L} ||(v^(l) - v(l)) * (z(l) - z(l-1))||^2``

    with clean latents z counted from 1. In autoregressive pyramid training a column predicts *one* unit at *one*
    stage, so the sum over frames becomes the expectation over the prefixes that are drawn: the column that denoises
    latent frame l contributes its own term, with ``z(l) - z(l-1)`` taken at the stage's resolution from the latents
    *before* any corruption. Both norms are means over the elements of the prediction, so lambda weighs them as in the
    paper while every column counts alike whatever its size. The image frame (l = 0 here) has no predecessor and gets
    no motion term. Latent 1 is the first with one; where the codec normalises the image frame by other constants, the
    difference is only meaningful in one scale, so the caller passes latents in the later frames' normalisation
    (`VideoCodec.uniform_scale`).

    Args:
        weight: lambda; the paper uses 1.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        if weight < 0:
            raise InputError(f"the motion loss's weight is {weight}; it must not be negative")
        self.weight = weight

    def forward(self, prediction: Tensor, target: Tensor, clean: Tensor, previous: Tensor | None) -> MotionAwareTerms:
        """Per-clip loss.

        Args:
            prediction: velocity ``[R, C, f, h, w]``.
            target: velocity ``[R, C, f, h, w]``.
            clean: clean latents of the predicted frames at their stage, in one scale, ``[R, C, f, h, w]``.
            previous: clean latents of the frames before each of them, or None for the image frame.
        """
        error = (prediction.float() - target.float()).square()
        # a mean, not the paper's sum: columns of different resolution weigh alike
        base = error.flatten(1).mean(dim=1)
        if previous is None:
            return MotionAwareTerms(base, base, base.new_zeros(base.shape))
        # ||e (z_l - z_{l-1})||^2, the squares multiplied; the frame difference is a weight and carries no gradient
        motion = (error * (clean - previous).float().square()).flatten(1).mean(dim=1)
        return MotionAwareTerms(base + self.weight * motion, base, motion)

    def over_columns(
        self, columns: Sequence[TrainingColumn], velocities: Sequence[Tensor], clean_latents: Tensor, stages: int
    ) -> list[MotionAwareTerms]:
        """Per-clip loss of every training column.

        Args:
            columns: the batch.
            velocities: the model's prediction for each column.
            clean_latents: the clips' latents ``[B, C, L, H, W]`` in one scale (`VideoCodec.uniform_scale`).
            stages: number of pyramid stages.
        """
        terms = []
        for column, velocity in zip(columns, velocities, strict=True):
            first, frames = column.first_frame, column.target.shape[2]
            # Only the predicted frames and the one before them are brought to the column's resolution.
            before = min(first, 1)  # the image frame has none before it
            near = clean_latents[column.rows, :, first - before : first + frames]
            level = latent_pyramid(near, stages)[column.stage]  # [R, C, before + f, h, w]
            previous = level[:, :, :frames] if before else None
            terms.append(self(velocity, column.target, level[:, :, before:], previous))
        return terms
