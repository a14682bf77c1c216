"""What a Syncphony experiment on the meta device takes."""

from __future__ import annotations

import torch

from benchmarks.experiment_memory import Activations, ExperimentMemory, Part, frozen
from benchmarks.saved_activations import fused_attention, saved_bytes
from benchmarks.vae import VideoSize, encoding_peak
from components.backbones.pyramid_flow.column import Column
from components.backbones.syncphony.audio_cross_attention import AudioContext
from components.contracts import AudioEncoder, AudioFeatures, TextFeatures
from components.objectives.prefix_lengths import units_per_stage
from datamodules.reading.clip_data_module import ClipDataModule
from lightning_modules.syncphony.module import SyncphonyModule

TEXT_TOKENS = 128


def syncphony_memory(module: SyncphonyModule, data: ClipDataModule) -> ExperimentMemory:
    """Counts; the transformer is in bfloat16 afterwards."""
    dit, clip = module.dit, data.clip
    parameters = list(dit.parameters())
    size = VideoSize(data.batch_size, clip.num_frames, clip.height, clip.width)
    return ExperimentMemory(
        sharded={
            "transformer, frozen": Part.of(p for p in parameters if not p.requires_grad),
            "transformer, trained": Part.of(p for p in parameters if p.requires_grad),
        },
        replicated={"video codec": frozen(module.codec), "audio encoder": frozen(module.audio_encoder)},
        freed={"text encoder": frozen(module.text_encoder)},
        unit=max(Part.of(block.parameters()).parameters for block in dit.backbone.blocks),
        checkpoints=dit.checkpoint_activations,
        activations=count_activations(module, data),
        encoding=encoding_peak(module.codec, size),
        clips=f"{data.batch_size} clips of {clip.num_frames} frames {clip.height}x{clip.width}",
    )


def count_activations(module: SyncphonyModule, data: ClipDataModule) -> Activations:
    """Forward passes over the costliest training batch, blocks kept whole and blocks kept by their inputs."""
    module.dit.to(torch.bfloat16)  # what mixed precision computes in
    num_latents = module.codec.num_latents(data.clip.num_frames)
    num_units = module.pyramid.num_units(num_latents)
    shortest = module.shortest_prefix
    inputs = {n: training_inputs(module, data, n, num_units) for n in range(shortest, num_units + 1)}
    # every n has about as many tokens; attention and windows make the difference
    costliest = max(inputs, key=lambda n: sum(clip.numel() for column in inputs[n][0] for clip in column.clips))
    checkpoints = module.dit.checkpoint_activations
    module.dit.checkpoint_activations = False
    with fused_attention():
        whole, blocks = saved_bytes(
            lambda: module.dit(*inputs[costliest]), list(module.dit.backbone.blocks), module.dit
        )
    module.dit.checkpoint_activations = checkpoints
    late = blocks[module.dit.first_late_block :] if checkpoints else None
    return Activations.of(whole, blocks, late, f"costliest batch (high-resolution prefix of {costliest})")


def training_inputs(
    module: SyncphonyModule, data: ClipDataModule, n: int, num_units: int, words: int = TEXT_TOKENS
) -> tuple[list[Column], list[AudioContext] | None]:
    """A training batch's columns and their sound on the meta device."""
    codec, pyramid, clip = module.codec, module.pyramid, data.clip
    side = codec.spatial_factor
    shape = (codec.latent_channels, codec.num_latents(clip.num_frames), clip.height // side, clip.width // side)
    latents = torch.zeros(data.batch_size, *shape, device="cpu")
    units = units_per_stage(n, num_units, pyramid.schedule.stages, module.shortest_prefix)
    training = pyramid.build(latents, units, pyramid.draw(latents, units, torch.Generator().manual_seed(0)))
    columns, sounds = [], []
    for column in training:
        rows, frames = len(column.rows), column.first_frame + column.target.shape[2]
        text = TextFeatures(
            tokens=torch.empty(rows, words, module.text_encoder.dim, device="meta"),
            mask=torch.ones(rows, words, dtype=torch.bool, device="cpu"),
            pooled=torch.empty(rows, module.text_encoder.pooled_dim, device="meta"),
        )
        columns.append(Column([part.to("meta") for part in column.clips], column.timesteps.to("meta"), text))
        if module.audio_encoder is not None:
            features = _sound(module.audio_encoder, rows, clip.duration_s)
            context = module.dit.encode_audio(features, frames, clip.fps, codec.temporal_factor)
            assert context is not None
            sounds.append(context)
    return columns, sounds or None


def _sound(encoder: AudioEncoder, rows: int, seconds: float) -> AudioFeatures:
    """Shapes of the encoder's tokens."""
    rate_hz = float(getattr(encoder, "rate_hz", 50.0))
    tokens = torch.empty(rows, int(seconds * rate_hz), encoder.dim, device="meta")
    return AudioFeatures(tokens, rate_hz, torch.ones(tokens.shape[:2], dtype=torch.bool, device="meta"), 0.5 / rate_hz)
