"""Syncphony's motion-aware loss on autoregressive pyramid columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
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


class MotionAwareLoss(nn.Module):
    r"""Velocity error plus the error weighted by the true motion.

    The paper (Syncphony, "Motion-aware Loss") writes, over the latent frames of a clip,

    ``L = ||v^ - v||^2 + lambda * sum_{l=2..L} ||(v^(l) - v(l)) * (z(l) - z(l-1))||^2``

    with clean latents z, of which z(0) is the image. In autoregressive pyramid training a column predicts *one* unit at
    *one* stage, so the sum over frames becomes the expectation over the prefixes that are drawn: the column that
    denoises latent frame l contributes its own term, with ``z(l) - z(l-1)`` taken at the stage's resolution from the
    latents *before* any corruption. Both norms are means over the elements of the prediction, so lambda weighs them as
    in the paper while every column counts alike whatever its size.

    The sum begins with l = 2, the second latent that is generated. ``z(1) - z(0)`` would compare the latent of eight
    frames in motion with that of a single image, which a video VAE spreads otherwise: a scene that stands still would
    get a large weight there. Latents are compared in the later frames' normalisation (`VideoCodec.uniform_scale`).

    Args:
        weight: lambda; the paper uses 1.
        first_motion_latent: the first latent frame with a motion term; the paper's sum begins with 2. 1 includes the
            first generated latent, for codecs that encode the image like any other latent (`PixelCodec` repeats it).

    Raises:
        InputError: if ``weight`` is negative or ``first_motion_latent`` is the image, which has no predecessor.
    """

    def __init__(self, weight: float = 1.0, first_motion_latent: int = 2) -> None:
        super().__init__()
        if weight < 0:
            raise InputError(f"the motion loss's weight is {weight}; it must not be negative")
        if first_motion_latent < 1:
            raise InputError(
                f"first_motion_latent is {first_motion_latent}, but latent 0 is the image, which nothing precedes: "
                "give 1 or more (2 in the paper)"
            )
        self.weight = weight
        self.first_motion_latent = first_motion_latent

    def forward(self, prediction: Tensor, target: Tensor, clean: Tensor, previous: Tensor | None) -> MotionAwareTerms:
        """Per-clip loss.

        Args:
            prediction: velocity ``[R, C, f, h, w]``.
            target: velocity ``[R, C, f, h, w]``.
            clean: clean latents of the predicted frames at their stage, in one scale, ``[R, C, f, h, w]``.
            previous: clean latents of the frames before each of them, or None where there is no motion term.
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
            near = clean_latents[column.rows, :, max(first - 1, 0) : first + frames]
            level = latent_pyramid(near, stages)[column.stage]  # [R, C, f (+ 1), h, w]
            clean = level[:, :, -frames:]
            without = min(max(self.first_motion_latent - first, 0), frames)  # predicted frames without a motion term
            previous = None
            if without < frames:
                # those stand for their own predecessors: a difference, and so a weight, of zero
                previous = torch.cat([clean[:, :, :without], level[:, :, without - frames - 1 : -1]], dim=2)
            terms.append(self(velocity, column.target, clean, previous))
        return terms
