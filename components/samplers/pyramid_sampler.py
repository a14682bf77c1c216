"""Autoregressive pyramid sampling: unit by unit, stage by stage, from noise to latents.

Source: Pyramid Flow (arXiv 2410.05954), section 3.3 and Algorithm 1, with Syncphony's audio sync guidance at every
stage of every unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from components.backbones.pyramid_flow.column import Column
from components.backbones.pyramid_flow.memory import ColumnMemory
from components.backbones.syncphony.audio_cross_attention import AudioContext
from components.backbones.syncphony.model import SyncphonyDiT
from components.contracts import ReportsProgress, TextFeatures
from components.encoders.text.rows import stack_text
from components.errors import InputError
from components.guidance.guidance import AudioSyncGuidance, Branches, TextGuidance, guided_velocity
from components.objectives.pyramid_columns import history_clips, unit_starts
from components.samplers.sampling_noise import SamplingNoise
from components.samplers.unit_memory import GIB, UnitMemory, free_bytes
from components.schedules.pyramid_schedule import (
    PyramidSchedule,
    downsample_noise,
    euler_step,
    jump_to_stage,
    latent_pyramid,
)


@dataclass(frozen=True)
class Conditions:
    """What a batch of B clips is generated from.

    Attributes:
        text: features of the prompts.
        negative_text: features of the negative prompts; only read where text guidance is on.
        audio: keys and values of the audio layers for all latent frames, or None to run off-sync.
    """

    text: TextFeatures
    negative_text: TextFeatures | None
    audio: AudioContext | None

    @cached_property
    def both_texts(self) -> TextFeatures:
        """Prompts with their negatives behind them, put together once for all steps.

        Raises:
            ValueError: if there are no negatives.
        """
        if self.negative_text is None:
            raise ValueError("text guidance is on but there is no negative prompt")
        return stack_text(self.text, self.negative_text)


class PyramidSampler:
    """Samples latents from an image (or from text alone), text and sound.

    Args:
        schedule: noise levels of the stages.
        video_steps: Euler steps per stage for every generated unit after the image.
        image_steps: Euler steps per stage when the image itself is generated (text-to-video).
        video_text_scale: text guidance on video units (1: off, no negative branch is run).
        image_text_scale: text guidance on a generated image.
        sync_scale: audio sync guidance w (0: off, no off-sync branch is run).
        frames_per_unit: latent frames generated at a time.
        memory_gib: most memory, in GiB, for keys and values that units hand on (`UnitMemory`), and on a GPU no more
            than half of what is free; steps for which it does not suffice compute everything anew. 0 keeps nothing.
            Results are those without it but for rounding.
        merge_last_step: leave out the last evaluation of every stage of more than one step. The released schedule
            spends it on a thousandth of the stage's path; the evaluation before moves all the way instead, which
            changes results a little (a PSNR of 82 dB at five steps of the quickstart) and saves a tenth of the work at
            ten steps.

    Raises:
        InputError: if a stage has no number of steps or no step, or ``memory_gib`` is negative.
    """

    def __init__(
        self,
        schedule: PyramidSchedule | None = None,
        video_steps: Sequence[int] = (10, 10, 10),
        image_steps: Sequence[int] = (20, 20, 20),
        video_text_scale: float = 4.0,
        image_text_scale: float = 7.0,
        sync_scale: float = 2.0,
        frames_per_unit: int = 1,
        memory_gib: float = 16.0,
        merge_last_step: bool = False,
    ) -> None:
        self.schedule = schedule or PyramidSchedule()
        for name, steps in (("video_steps", video_steps), ("image_steps", image_steps)):
            if len(steps) != self.schedule.stages or min(steps) < 1:
                raise InputError(
                    f"{name} is {list(steps)}; give a number of steps, at least 1, for each of the "
                    f"{self.schedule.stages} stages"
                )
        if memory_gib < 0:
            raise InputError(f"memory_gib is {memory_gib}; give 0 to keep nothing, or a number above it")
        self.video_steps = tuple(video_steps)
        self.image_steps = tuple(image_steps)
        self.video_text_scale = video_text_scale
        self.image_text_scale = image_text_scale
        self.sync_scale = sync_scale
        self.frames_per_unit = frames_per_unit
        self.memory_gib = memory_gib
        self.merge_last_step = merge_last_step

    def num_steps(self, num_latents: int, from_image: bool) -> int:
        """Denoising steps of one clip (what ``progress`` adds up to)."""
        units = len(unit_starts(num_latents, self.frames_per_unit)) - 1
        of_video, of_image = (sum(map(self._evaluations, steps)) for steps in (self.video_steps, self.image_steps))
        return units * of_video + (0 if from_image else of_image)

    def _evaluations(self, steps: int) -> int:
        return max(steps - 1, 1) if self.merge_last_step else steps

    def _points(self, stage: int, steps: int) -> tuple[list[float], list[float]]:
        """Timesteps of a stage's evaluations, and the local noise levels between which each moves."""
        timesteps, local = self.schedule.inference_points(stage, steps)
        evaluations = self._evaluations(steps)
        return timesteps[:evaluations], [*local[:evaluations], local[-1]]

    @torch.no_grad()
    def sample(
        self,
        model: SyncphonyDiT,
        conditions: Conditions,
        shape: Sequence[int],
        noise: SamplingNoise,
        image_latent: Tensor | None = None,
        sync_scale: float | None = None,
        off_sync: bool = False,
        progress: ReportsProgress | None = None,
        on_stage: list[Tensor] | None = None,
    ) -> Tensor:
        """Latents ``[B, C, L, h, w]``.

        Args:
            model: the transformer.
            conditions: text and sound of the B clips.
            shape: ``(B, C, L, h, w)`` of the result.
            noise: where the random numbers come from.
            image_latent: frame 0 ``[B, C, 1, h, w]``; None generates it.
            sync_scale: audio sync guidance instead of the sampler's own.
            off_sync: generate with the audio layers skipped (the paper's off-sync model).
            progress: called after every step.
            on_stage: if given, the latents at the end of every unit's every stage are appended.
        """
        schedule = self.schedule
        # Slice g of the noise belongs to the g-th generated unit (with a given image the last slice stays unused).
        # at full resolution: the coarse noise is a downsampled view of it, as in training
        level0_noise = noise.initial(shape)
        for _ in range(schedule.stages - 1):
            level0_noise = downsample_noise(level0_noise)
        off_sync = off_sync or conditions.audio is None
        # Without audio layers both branches of the guidance would be the same.
        sync = AudioSyncGuidance(0.0 if off_sync else self.sync_scale if sync_scale is None else sync_scale)

        latents = image_latent
        # unit u is made of latent frames bounds[u] .. bounds[u + 1]
        bounds = [*unit_starts(shape[2], self.frames_per_unit), shape[2]]
        first_unit = 0 if image_latent is None else 1
        memory = self._memory(model, conditions, bounds, level0_noise, sync.enabled)
        noise_at = 0
        for unit in range(first_unit, len(bounds) - 1):
            frames = bounds[unit + 1] - bounds[unit]
            # a generated image has a text scale of its own (7, and 4 for the rest, are reported for Syncphony)
            text = TextGuidance(self.image_text_scale if unit == 0 else self.video_text_scale)
            # all that is generated so far, at every level; history is clean in sampling
            pyramid = [] if latents is None else latent_pyramid(latents, schedule.stages)
            x = level0_noise[:, :, noise_at : noise_at + frames]
            noise_at += frames
            # A unit runs through all stages before the next one begins: later units build on its final latents.
            for stage, steps in enumerate(self.image_steps if unit == 0 else self.video_steps):
                if stage > 0:
                    # the jump renews the noise; without it the upsampled noise would be correlated in 2x2 blocks
                    up_shape = (*x.shape[:3], 2 * x.shape[3], 2 * x.shape[4])
                    alpha, beta = schedule.jump(stage)
                    x = jump_to_stage(x, noise.block(unit - first_unit, stage, up_shape, schedule.gamma), alpha, beta)
                history = history_clips(pyramid, stage, unit, self.frames_per_unit) if pyramid else []
                timesteps, local = self._points(stage, steps)
                for j, timestep in enumerate(timesteps):
                    # a generated image has no history, and other steps and guidance than what follows
                    known = memory.at(unit, stage, j) if unit > 0 else None
                    branches = evaluate_branches(
                        model, [*history, x], timestep, conditions, text.enabled, sync.enabled, off_sync, known
                    )
                    x = euler_step(x, guided_velocity(branches, text, sync), local[j], local[j + 1])
                    if progress is not None:
                        progress(1)
                if on_stage is not None:
                    on_stage.append(x)
            latents = x if latents is None else torch.cat([latents, x], dim=2)
        if latents is None:
            raise ValueError("nothing to sample: the clip has no latent frame")
        return latents

    def _memory(
        self, model: SyncphonyDiT, conditions: Conditions, bounds: Sequence[int], level0: Tensor, twins: bool
    ) -> UnitMemory:
        """Memory for the units behind the image; ``level0`` are latents at the lowest resolution."""
        text = conditions.text
        if TextGuidance(self.video_text_scale).enabled and conditions.negative_text is not None:
            text = conditions.both_texts
        free, context = free_bytes(level0.device), model.backbone.context
        if context is not None:
            free = context.least(free, level0.device)  # of the tokens they share, all compute or all remember
        return UnitMemory(
            model,
            bounds,
            [self._evaluations(steps) for steps in self.video_steps],
            len(text.mask),
            len(level0) if twins else 0,
            text.longest,
            math.prod(level0.shape[-2:]) // model.backbone.patch**2,
            min(self.memory_gib * GIB, free / 2),
            level0.device,
        )


def evaluate_branches(
    model: SyncphonyDiT,
    clips: Sequence[Tensor],
    timestep: float,
    conditions: Conditions,
    negative: bool,
    off_sync_too: bool,
    off_sync: bool = False,
    memory: ColumnMemory | None = None,
) -> Branches:
    """The velocities guidance needs, in one batched call.

    The positive rows come first, negative ones behind them; off-sync twins fork from the positive rows where the first
    audio layer stands, so that everything before is computed once.

    Args:
        model: the transformer.
        clips: history and current clip, ``[B, C, t, h, w]`` each.
        timestep: the same for all rows.
        conditions: text and sound.
        negative: also run the negative prompt.
        off_sync_too: also run the positive prompt with the audio layers skipped.
        off_sync: run everything with the audio layers skipped.
        memory: of earlier calls with the same ``timestep``, conditions and branches; what it holds of ``clips`` is not
            computed, and it is filled.
    """
    rows = clips[-1].shape[0]
    device = clips[-1].device
    text, audio = conditions.text, conditions.audio
    if negative:
        text = conditions.both_texts  # positive rows first, as `Branches` is read below
        twice = torch.arange(rows, device=device).repeat(2)
        clips = [clip[twice] for clip in clips]
        # the negative branch hears the sound too: text guidance must not change what is heard
        audio = None if audio is None else audio.rows(twice)
    column = Column(clips, torch.full((clips[-1].shape[0],), timestep, device=device), text, memory)
    sounds = None if audio is None else [audio]
    twins = torch.arange(rows, device=device) if off_sync_too else None
    # float32 before differences of branches are scaled up
    velocity = model([column], sounds, off_sync, twins)[0].float()
    if memory is not None:
        memory.advance()
    return Branches(
        positive=velocity[:rows],
        negative=velocity[rows : 2 * rows] if negative else None,
        off_sync=velocity[-rows:] if off_sync_too else None,
    )
