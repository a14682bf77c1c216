"""What enters Syncphony's transformer in a training step, as shapes on the meta device, and what the step costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

import torch

from components.backbones.pyramid_flow.column import Column
from components.backbones.syncphony.audio_cross_attention import AudioContext
from components.backbones.syncphony.model import SyncphonyDiT
from components.contracts import AudioFeatures, TextFeatures, VideoCodec
from components.counting.flops import StepCost, activations_kept, backward, flops_of
from components.counting.step_shape import StepShape
from components.objectives.prefix_lengths import units_per_stage
from components.objectives.pyramid_columns import AutoregressivePyramid

Place = tuple[int, int | None]
"""Prefix length of the finest column, and place of the batch among the columns (None: it covers them all)."""


@dataclass(frozen=True)
class SyncphonyShapes:
    """Training batches without values.

    Attributes:
        dit: the transformer, on the meta device.
        codec: asked for the shape of its latents alone.
        pyramid: how columns are built.
        shortest_prefix: units of the shortest prefix that is trained.
        text_dim: width of the text tokens.
        pooled_dim: width of the pooled text.
        audio_rate_hz: audio tokens per second; None without an audio encoder.
    """

    dit: SyncphonyDiT
    codec: VideoCodec
    pyramid: AutoregressivePyramid
    shortest_prefix: int
    text_dim: int
    pooled_dim: int
    audio_rate_hz: float | None

    def places(self, shape: StepShape) -> list[Place]:
        """All that is drawn for batches of this shape, each as often as the others."""
        columns = self.pyramid.num_columns
        turns = columns // math.gcd(shape.clips, columns)
        positions: list[int | None] = [None] if turns == 1 else [turn * shape.clips for turn in range(turns)]
        lengths = range(self.shortest_prefix, self._num_units(shape) + 1)
        return [(n, position) for n in lengths for position in positions]

    def prefixes(self, shape: StepShape, place: Place) -> list[tuple[int, int]]:
        """Of every column with clips: how many clips, and latents of each that are read."""
        num_latents = self.codec.num_latents(shape.num_frames)
        read = self.pyramid.prefixes(shape.clips, num_latents, self._units(shape, place), place[1])
        return [(len(range(shape.clips)[clips]), latents) for clips, latents in read]

    def columns(self, shape: StepShape, place: Place) -> list[Column]:
        """The transformer's input."""
        codec, side = self.codec, self.codec.spatial_factor
        size = (codec.latent_channels, codec.num_latents(shape.num_frames), shape.height // side, shape.width // side)
        units, position = self._units(shape, place), place[1]
        # on the CPU: noise levels are read while columns are built
        latents = torch.zeros(shape.clips, *size, device="cpu")
        draws = self.pyramid.draw(latents, units, torch.Generator().manual_seed(0), position)
        return [
            Column(
                [clip.to("meta") for clip in column.clips],
                column.timesteps.to("meta"),
                self._text(len(column.timesteps), shape.text_tokens),
            )
            for column in self.pyramid.build(latents, units, draws, position)
        ]

    def sounds(self, shape: StepShape, columns: list[Column]) -> list[AudioContext] | None:
        """Keys and values of the sound of every column; None for a transformer that hears nothing."""
        rate_hz = self.audio_rate_hz
        if rate_hz is None:
            return None
        heard = []
        for column in columns:
            size = (column.num_rows, int(shape.num_samples / shape.sample_rate * rate_hz))
            tokens = torch.empty(*size, self.dit.audio_dim or 0, device="meta")
            mask = torch.ones(size, dtype=torch.bool, device="meta")
            frames = sum(clip.shape[2] for clip in column.clips)
            heard.append((AudioFeatures(tokens, rate_hz, mask, 0.5 / rate_hz), frames))
        return self.dit.encode_prefixes(heard, shape.fps, self.codec.temporal_factor)

    def cost(self, shape: StepShape, most: int | None = None) -> StepCost:
        """FLOPs and tokens, in the mean over all that is drawn.

        Args:
            shape: of the batch.
            most: count no more than so many cases, evenly spread; None counts all.
        """
        places = self.places(shape)
        if most is not None and most < len(places):
            places = [places[(2 * i + 1) * len(places) // (2 * most)] for i in range(most)]
        costs = [self.cost_of(shape, place) for place in places]
        return StepCost(fmean(cost.flops for cost in costs), fmean(cost.tokens for cost in costs))

    def cost_of(self, shape: StepShape, place: Place) -> StepCost:
        """FLOPs and tokens of one case."""
        columns = self.columns(shape, place)
        with torch.enable_grad(), activations_kept(self.dit):
            flops = flops_of(lambda: self._train(shape, columns))
        tokens = sum(clip[:, 0].numel() for column in columns for clip in column.clips)
        return StepCost(flops, tokens // self.dit.backbone.patch**2)

    def _train(self, shape: StepShape, columns: list[Column]) -> None:
        backward(self.dit(columns, self.sounds(shape, columns), off_sync=self.audio_rate_hz is None))

    def _num_units(self, shape: StepShape) -> int:
        return self.pyramid.num_units(self.codec.num_latents(shape.num_frames))

    def _units(self, shape: StepShape, place: Place) -> list[int]:
        return units_per_stage(place[0], self._num_units(shape), self.pyramid.schedule.stages, self.shortest_prefix)

    def _text(self, rows: int, tokens: int) -> TextFeatures:
        return TextFeatures(
            tokens=torch.empty(rows, tokens, self.text_dim, device="meta"),
            mask=torch.ones(rows, tokens, dtype=torch.bool, device="meta"),
            pooled=torch.empty(rows, self.pooled_dim, device="meta") if self.pooled_dim else None,
            known_spans=((tokens, tokens),) * rows,
        )
