"""The loss of one autoregressive pyramid batch: columns, the transformer's output for them, motion-aware terms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from components.backbones.pyramid_flow.column import Column
from components.backbones.syncphony.model import SyncphonyDiT
from components.contracts import AudioFeatures, TextFeatures, VideoCodec
from components.objectives.motion_aware import MotionAwareLoss, MotionAwareTerms
from components.objectives.pyramid_columns import AutoregressivePyramid


class PyramidObjective:
    """Puts columns, transformer and loss together; the transformer's output is a velocity (Pyramid Flow, Syncphony).

    Args:
        pyramid: how columns are built.
        loss: the motion-aware loss.
    """

    def __init__(self, pyramid: AutoregressivePyramid, loss: MotionAwareLoss) -> None:
        self.pyramid = pyramid
        self.loss = loss

    def __call__(
        self,
        dit: SyncphonyDiT,
        codec: VideoCodec,
        latents: Tensor,
        text: TextFeatures,
        audio: AudioFeatures | None,
        fps: float,
        units: Sequence[int],
        generator: torch.Generator,
        position: int | None = None,
    ) -> dict[str, Tensor]:
        """``loss`` with its gradient, and without it ``base`` and ``motion``, in all and for every stage.

        Args:
            dit: the transformer.
            codec: knows how its latents compare, and how many frames each of them has.
            latents: clean latents of B clips, ``[B, C, L, h, w]``.
            text: their prompts.
            audio: their sound, or None to train off-sync.
            fps: their frames per second.
            units: prefix length of every stage (`units_per_stage`).
            generator: of all noise, on the latents' device.
            position: see `AutoregressivePyramid.build`.
        """
        schedule = self.pyramid.schedule
        # 1. stages, noise and history of every column
        columns = self.pyramid.build(latents, units, self.pyramid.draw(latents, units, generator, position), position)
        inputs = [Column(column.clips, column.timesteps, text.rows(column.rows)) for column in columns]
        # 2. the sound
        # of a column's clips alone, and no further than its last frame
        ends = [column.first_frame + column.clips[-1].shape[2] for column in columns]
        heard = [] if audio is None else [(audio.rows(c.rows), end) for c, end in zip(columns, ends, strict=True)]
        sounds = None if audio is None else dit.encode_prefixes(heard, fps, codec.temporal_factor)
        # 3. velocities
        velocities = dit(inputs, sounds, off_sync=audio is None)
        # 4. the motion-aware loss
        terms = self.loss.over_columns(columns, velocities, codec.uniform_scale(latents), schedule.stages)
        # A mean over clips: columns weigh alike whatever their resolution, as in Pyramid Flow's released recipe.
        logs = {"loss": torch.cat([term.total for term in terms]).mean(), **_means(terms)}
        for stage in range(schedule.stages):
            of_stage = [term for term, column in zip(terms, columns, strict=True) if column.stage == stage]
            logs |= {f"{name}_stage{stage}": value for name, value in _means(of_stage).items()}
        return logs


def _means(terms: Sequence[MotionAwareTerms]) -> dict[str, Tensor]:
    if not terms:
        return {}
    return {name: torch.cat([getattr(term, name).detach() for term in terms]).mean() for name in ("base", "motion")}
