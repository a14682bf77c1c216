"""Pyramid Flow transformers of any size and the training batches they run on; for counting, both on the meta device."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from components.backbones.pyramid_flow.checkpoint import VARIANTS, Variant
from components.backbones.pyramid_flow.column import Column
from components.backbones.syncphony.model import SyncphonyDiT
from components.contracts import TextFeatures
from components.objectives.prefix_lengths import units_per_stage
from components.objectives.pyramid_columns import AutoregressivePyramid

HEAD_DIM = 64
TEXT_DIM = 4096
POOLED_DIM = {"miniflux": 768, "sd3": 2048}


@dataclass(frozen=True)
class ModelSize:
    """A transformer with the public heads of 64 channels; ``single_blocks`` is of no concern to ``sd3``.

    Attributes:
        variant: ``miniflux`` or ``sd3``.
        heads: heads per block.
        joint_blocks: blocks with separate weights for text.
        single_blocks: blocks that text and video share.
        first_late_block: blocks from here on train.
    """

    variant: Variant
    heads: int
    joint_blocks: int
    single_blocks: int
    first_late_block: int

    @property
    def num_blocks(self) -> int:
        """Blocks of both kinds."""
        return self.joint_blocks + self.single_blocks


PUBLIC: dict[Variant, ModelSize] = {
    "miniflux": ModelSize("miniflux", 30, 8, 16, 8),
    "sd3": ModelSize("sd3", 24, 24, 0, 12),
}


@dataclass(frozen=True)
class BatchSize:
    """An autoregressive training batch: the column at full resolution ends with latent ``prefix``, counted from 1.

    Attributes:
        clips: clips per batch, a multiple of 4.
        latents: latent frames per clip.
        height: rows of the latents.
        width: columns of the latents.
        prefix: ``shortest`` to ``latents``.
        shortest: shortest prefix that is trained: 1, or 2 for image to video.
        words: text tokens.
    """

    clips: int = 4
    latents: int = 16
    height: int = 48
    width: int = 80
    prefix: int = 8
    shortest: int = 1
    words: int = 128

    def with_prefix(self, prefix: int) -> BatchSize:
        """The same clips with another share of history."""
        return replace(self, prefix=prefix)


def build_dit(
    size: ModelSize,
    device: str,
    dtype: torch.dtype,
    frozen_dtype: torch.dtype,
    audio_dim: int | None = None,
    checkpoint_activations: bool = False,
) -> SyncphonyDiT:
    """The transformer with random weights, made where it is wanted; without audio layers if there is no width."""
    settings: dict[str, Any] = {"num_layers": size.joint_blocks, "num_attention_heads": size.heads}
    settings["pooled_projection_dim"] = POOLED_DIM[size.variant]
    if size.variant == "miniflux":
        settings["num_single_layers"] = size.single_blocks
    with torch.device("meta"):
        backbone = VARIANTS[size.variant](**settings)
        dit = SyncphonyDiT(
            backbone.to(dtype),
            size.first_late_block,
            audio_dim,
            frozen_dtype=str(frozen_dtype).split(".")[1],
            checkpoint_activations=checkpoint_activations,
        )
    if device == "meta":
        return dit
    torch.manual_seed(0)
    dit.to_empty(device=device)
    for tensor in (*dit.parameters(), *dit.buffers()):
        nn.init.normal_(tensor, std=0.02)
    for module in dit.modules():
        if isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)
    return dit


def training_columns(batch: BatchSize, variant: Variant, device: str) -> list[Column]:
    """What the transformer receives in a training step: four columns with history, without sound."""
    pyramid, generator = AutoregressivePyramid(), torch.Generator().manual_seed(1)
    channels = 16
    latents = torch.randn(batch.clips, channels, batch.latents, batch.height, batch.width, generator=generator)
    units = units_per_stage(batch.prefix, batch.latents, pyramid.schedule.stages, batch.shortest)
    columns = []
    for column in pyramid.build(latents, units, pyramid.draw(latents, units, generator)):
        rows = len(column.timesteps)
        text = TextFeatures(
            tokens=torch.randn(rows, batch.words, TEXT_DIM, generator=generator).to(device),
            mask=torch.ones(rows, batch.words, dtype=torch.bool, device="cpu" if device == "meta" else device),
            pooled=torch.randn(rows, POOLED_DIM[variant], generator=generator).to(device),
        )
        columns.append(Column([clip.to(device) for clip in column.clips], column.timesteps.to(device), text))
    return columns


def num_video_tokens(columns: list[Column], patch: int = 2) -> int:
    """Tokens of history and noisy clips of all rows."""
    return sum(math.prod(clip.shape) // (clip.shape[1] * patch**2) for column in columns for clip in column.clips)


def num_text_tokens(columns: list[Column]) -> int:
    """Text tokens of all rows."""
    return sum(column.text.tokens.shape[0] * column.text.tokens.shape[1] for column in columns)
