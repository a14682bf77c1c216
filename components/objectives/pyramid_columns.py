"""The autoregressive pyramid training batch: which frames, at which resolution, with how much noise.

Source: Pyramid Flow (arXiv 2410.05954), sections 3.2-3.3, and its released training recipe. A batch of B clips is
spread over columns: clip i in column ``i mod K``. Where a batch alone does not cover all columns and several are
accumulated, i is counted in the training order. Every column has a stage and denoises only the last unit of its prefix.
What precedes it is history, at lower resolution the older it is, lightly corrupted.

All randomness enters through `ColumnDraws`, so the construction itself is a function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from components.errors import InputError
from components.schedules.pyramid_schedule import (
    PyramidSchedule,
    downsample_noise,
    latent_pyramid,
    upsample_nearest,
)


@dataclass(frozen=True)
class ColumnDraws:
    """Random numbers of one column with R rows.

    Attributes:
        noise: standard normal at full resolution for the frames being denoised, ``[R, C, f, H, W]``.
        u: uniform in [0, 1), ``[R]``: the noise level inside the stage.
        history_strength: uniform in [0, 1), ``[R]``; times ``max_history_noise`` it is the share of noise in history.
        history_noise: standard normal per history clip, *newest first*, each of its clip's shape.
    """

    noise: Tensor
    u: Tensor
    history_strength: Tensor
    history_noise: Sequence[Tensor]


@dataclass(frozen=True)
class TrainingColumn:
    """One column ready for the transformer.

    Attributes:
        stage: pyramid stage, 0 is the coarsest.
        rows: the column's R clips of the batch; a slice, which no device has to be told.
        first_frame: latent index of the first frame being denoised.
        clips: ``[R, C, t, h, w]`` oldest first; the last one is the noisy frame(s).
        timesteps: ``[R]`` on the 0-1000 scale.
        local_sigma: ``[R]`` noise level inside the stage.
        target: velocity ``[R, C, f, h, w]`` the model should give.
    """

    stage: int
    rows: slice
    first_frame: int
    clips: list[Tensor]
    timesteps: Tensor
    local_sigma: Tensor
    target: Tensor


def unit_starts(num_latents: int, frames_per_unit: int) -> list[int]:
    """First latent frame of every unit: the image alone, then ``frames_per_unit`` frames each."""
    # the causal VAE makes latent 0 of the first frame alone
    return [0, *range(1, num_latents, frames_per_unit)]


def history_clips(pyramid: Sequence[Tensor], stage: int, unit: int, frames_per_unit: int) -> list[Tensor]:
    """Clean history for generating ``unit`` at ``stage``, oldest first.

    The newest unit stands at the stage's own resolution, the one before one level lower, and so on; once the lowest
    level is reached, everything older is one clip there. ``pyramid`` holds the latents per level, coarsest first.
    """
    bounds = [*unit_starts(pyramid[0].shape[2], frames_per_unit), pyramid[0].shape[2]]
    clips: list[Tensor] = []
    level, newest = stage, unit
    # E.g. unit 5 at stage 2: units 0-2 at level 0 in one clip, 3 at level 1, 4 at level 2. At stage 0 the newest unit
    # stays a clip of its own.
    while newest > 0:
        oldest = newest - 1 if level > 0 or not clips else 0
        clips.append(pyramid[level][:, :, bounds[oldest] : bounds[newest]])
        level, newest = max(level - 1, 0), oldest
    return clips[::-1]


class AutoregressivePyramid:
    """Builds training columns.

    Args:
        schedule: noise levels of the stages.
        stage_of_column: stage of every column; the public recipe uses 0, 1, 1, 2.
        frames_per_unit: latent frames generated at a time (public models: 1).
        max_history_noise: upper end of the uniform share of noise mixed into history.
        autoregressive: False trains whole clips at one stage without history.
    """

    def __init__(
        self,
        schedule: PyramidSchedule | None = None,
        stage_of_column: Sequence[int] = (0, 1, 1, 2),
        frames_per_unit: int = 1,
        max_history_noise: float = 1 / 3,
        autoregressive: bool = True,
    ) -> None:
        self.schedule = schedule or PyramidSchedule()
        self.stage_of_column = tuple(stage_of_column)
        self.frames_per_unit = frames_per_unit
        self.max_history_noise = max_history_noise
        self.autoregressive = autoregressive
        if not set(self.stage_of_column) <= set(range(self.schedule.stages)):
            raise ValueError(f"stage_of_column {stage_of_column} names a stage outside 0..{self.schedule.stages - 1}")

    @property
    def num_columns(self) -> int:
        """K: a batch, or those of a step together, must be a multiple of it."""
        return len(self.stage_of_column)

    def num_units(self, num_latents: int) -> int:
        """Units of a clip of ``num_latents`` latent frames, the image included."""
        return len(unit_starts(num_latents, self.frames_per_unit))

    def prefixes(
        self, batch: int, num_latents: int, units_per_stage: Sequence[int], position: int | None = None
    ) -> list[tuple[slice, int]]:
        """Of every column that has clips: which clips of ``batch``, and how many latent frames `build` reads of them.

        Arguments as in `build`.
        """
        prefixes = []
        for c, clips in self._rows(batch, position):
            _, frames = self._last_unit(num_latents, units_per_stage[self.stage_of_column[c]])
            prefixes.append((clips, frames.stop))
        return prefixes

    def draw(
        self,
        latents: Tensor,
        units_per_stage: Sequence[int],
        generator: torch.Generator | None,
        position: int | None = None,
    ) -> list[ColumnDraws]:
        """Random numbers for `build`, from ``generator`` (on the latents' device); ``position`` as there."""
        batch, channels, num_latents, height, width = latents.shape
        device = latents.device

        def uniform(n: int) -> Tensor:
            return torch.rand(n, generator=generator, device=device)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=device)

        draws = []
        for c, clips in self._rows(batch, position):
            stage, rows = self.stage_of_column[c], len(range(*clips.indices(batch)))
            unit, frames = self._last_unit(num_latents, units_per_stage[stage])
            shapes = []
            if self.autoregressive:
                # on the meta device: only the shapes that `history_clips` cuts are wanted
                sizes = [
                    torch.empty(rows, channels, num_latents, height >> down, width >> down, device="meta")
                    for down in range(self.schedule.stages - 1, -1, -1)
                ]
                shapes = [clip.shape for clip in history_clips(sizes, stage, unit, self.frames_per_unit)]
            draws.append(
                ColumnDraws(
                    noise=normal(rows, channels, frames.stop - frames.start, height, width),
                    # U(0, 1) and no logit-normal, as released
                    u=uniform(rows),
                    history_strength=uniform(rows),
                    # newest first: a longer history leaves the draws of the newer clips as they are
                    history_noise=[normal(*shape) for shape in reversed(shapes)],
                )
            )
        return draws

    def build(
        self,
        latents: Tensor,
        units_per_stage: Sequence[int],
        draws: Sequence[ColumnDraws],
        position: int | None = None,
    ) -> list[TrainingColumn]:
        """Columns for clips ``latents`` ``[B, C, L, H, W]`` (normalised); those that have clips.

        Args:
            latents: the clips; B is a multiple of the number of columns where no position is given. What lies behind
                `prefixes` is not read.
            units_per_stage: prefix length in units (image included) for each stage.
            draws: one per column that has clips.
            position: place of the first clip in the training order, where batches cover the columns together.

        Raises:
            InputError: if the clips cannot cover the columns evenly.
        """
        if position is None and latents.shape[0] % self.num_columns:
            raise InputError(
                f"a batch of {latents.shape[0]} clips is not a multiple of {self.num_columns} columns: "
                f"set the data module's batch_size to a multiple of {self.num_columns}."
            )
        columns = self._rows(latents.shape[0], position)
        return [
            self._column(latents, c, clips, units_per_stage[self.stage_of_column[c]], drawn)
            for (c, clips), drawn in zip(columns, draws, strict=True)
        ]

    def _rows(self, batch: int, position: int | None) -> list[tuple[int, slice]]:
        """Every column that has clips, and which clips."""
        starts = [(c - (position or 0)) % self.num_columns for c in range(self.num_columns)]
        return [(c, slice(start, batch, self.num_columns)) for c, start in enumerate(starts) if start < batch]

    def _last_unit(self, num_latents: int, units: int) -> tuple[int, slice]:
        """Index and latent frames of the last unit of a prefix of ``units`` units."""
        if not self.autoregressive:
            return 0, slice(0, num_latents)
        bounds = [*unit_starts(num_latents, self.frames_per_unit), num_latents]
        if not 1 <= units < len(bounds):
            raise ValueError(f"a prefix of {units} units does not fit a clip of {len(bounds) - 1} units")
        return units - 1, slice(bounds[units - 1], bounds[units])

    def _column(self, latents: Tensor, c: int, rows: slice, units: int, draws: ColumnDraws) -> TrainingColumn:
        stage, schedule = self.stage_of_column[c], self.schedule
        num_latents = latents.shape[2]
        unit, frames = self._last_unit(num_latents, units)
        pyramid = latent_pyramid(latents[rows, :, : frames.stop], schedule.stages)

        noise = draws.noise  # [R, C, f, H, W]; all stages share one noise field
        for _ in range(schedule.stages - 1 - stage):
            noise = downsample_noise(noise)
        clean = pyramid[stage][:, :, frames]
        end_level = schedule.end_sigma[stage]
        # Both ends of the stage's path carry the same noise n (Pyramid Flow, section 3.2): end = e n + (1 - e) c and
        # start = S n + (1 - S) up(down(c)). The velocity is their difference.
        end = end_level * noise + (1 - end_level) * clean
        if stage == 0:
            start = noise
        else:
            start_level = schedule.start_sigma[stage]
            coarse = upsample_nearest(pyramid[stage - 1][:, :, frames])
            start = start_level * noise + (1 - start_level) * coarse
        timesteps, local_sigma = schedule.train_point(stage, draws.u)
        r = local_sigma.view(-1, 1, 1, 1, 1)  # 1 at the stage's start, 0 at its end
        clips = []
        if self.autoregressive:
            clean_history = history_clips(pyramid, stage, unit, self.frames_per_unit)
            # History is corrupted so that errors in generated history, which sampling has, do less harm. One strength
            # per row, which the model is not given; sampling is the case k = 0.
            k = (draws.history_strength * self.max_history_noise).view(-1, 1, 1, 1, 1)
            # after downsampling, one independent noise per clip, as released
            clips = [
                (1 - k) * clip + k * extra
                for clip, extra in zip(clean_history, reversed(draws.history_noise), strict=True)
            ]
        return TrainingColumn(
            stage=stage,
            rows=rows,
            first_frame=frames.start,
            clips=[*clips, r * start + (1 - r) * end],
            timesteps=timesteps,
            local_sigma=local_sigma,
            target=start - end,
        )
