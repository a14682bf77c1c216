"""What a Syncphony experiment on the meta device takes."""

from __future__ import annotations

from statistics import fmean

import torch
from torch import nn

from components.counting.coding_peaks import VideoSize, encoding_peak
from components.counting.saved_activations import fused_attention, saved_bytes
from components.counting.step_shape import StepShape
from datamodules.reading.ordered_data_module import OrderedDataModule
from lightning_modules.estimates.counts import TEXT_TOKENS, Counts, batch_shape
from lightning_modules.estimates.encoding import Encoding, features_cost, video_cost
from lightning_modules.estimates.memory import Activations, ExperimentMemory, Part, frozen
from lightning_modules.estimates.optimizer_state import optimizer_bytes
from lightning_modules.syncphony.module import SyncphonyModule


def count_syncphony(module: SyncphonyModule, data: OrderedDataModule, dtype: torch.dtype = torch.bfloat16) -> Counts:
    """Counts of a module that computes in ``dtype``."""
    shape = shape_of(data)
    cost = module.step_shapes().cost(shape)
    encoding = _encoding(module, shape, getattr(data, "latents", None) is not None)
    memory = syncphony_memory(module, shape, dtype, encodes=bool(encoding.flops))
    return Counts(shape, memory, cost, encoding)


def shape_of(data: OrderedDataModule) -> StepShape:
    """A training batch at its longest."""
    return batch_shape(data, TEXT_TOKENS["Syncphony"])


def syncphony_memory(
    module: SyncphonyModule, shape: StepShape, dtype: torch.dtype, encodes: bool = True
) -> ExperimentMemory:
    """Memory by part."""
    module.configure_model()  # as a run does: what trains is float32
    dit = module.dit
    parameters = list(dit.parameters())
    replicated = {"video codec": frozen(module.codec), "audio encoder": frozen(module.audio_encoder)}
    freed = {"text encoder": frozen(module.text_encoder)}
    early, late = dit.backbone.blocks[: dit.first_late_block], dit.backbone.blocks[dit.first_late_block :]
    layers = list(dit.audio_layers or ())
    in_units = sum(_size(part) for part in (*early, *late, *layers))
    stepped = optimizer_bytes(module)
    size = VideoSize(shape.clips, shape.num_frames, shape.height, shape.width)
    return ExperimentMemory(
        sharded={
            "transformer, frozen": Part.of(p for p in parameters if not p.requires_grad),
            "transformer, trained": Part.of(p for p in parameters if p.requires_grad),
        },
        replicated=replicated if encodes else {},
        freed=freed if encodes else {},
        unit=max(_size(block) for block in dit.backbone.blocks),
        checkpoints=any(dit.late_policies),
        optimizer=stepped.state,
        stepping=stepped.stepping,
        activations=count_activations(module, shape, dtype),
        encoding=encoding_peak(module.codec, size) if encodes else 0,
        clips=f"{shape.clips} clips of {shape.num_frames} frames {shape.height}x{shape.width}",
        # Blocks forward and backward; early ones have no backward pass. Audio layers run apart for keys and values. The
        # root stays gathered.
        gathered=(_size(dit) - in_units)
        + sum(map(_size, early)) * (1 if dit.prefix_is_frozen else 2)
        + 2 * sum(map(_size, late))
        + 4 * sum(map(_size, layers)),
    )


def count_activations(module: SyncphonyModule, shape: StepShape, dtype: torch.dtype) -> Activations:
    """Forward passes over the costliest training batch, blocks kept whole and blocks kept by their inputs."""
    shapes = module.step_shapes()
    shapes.dit.to(dtype)  # what mixed precision computes in
    inputs = {place: shapes.columns(shape, place) for place in shapes.places(shape)}
    # every n has about as many tokens; attention and windows make the difference
    costliest = max(inputs, key=lambda place: sum(clip.numel() for column in inputs[place] for clip in column.clips))
    columns, dit = inputs[costliest], shapes.dit
    sounds = shapes.sounds(shape, columns)
    # of late blocks and of the audio layers in front of them; early blocks keep nothing
    policies, layers = module.dit.late_policies, list(dit.audio_layers or ())
    parts, policies = [*dit.backbone.blocks[dit.first_late_block :], *layers], [*policies, *policies[: len(layers)]]
    checkpoints, dit.checkpoint_activations = dit.checkpoint_activations, False
    with fused_attention():
        whole, kept = saved_bytes(lambda: dit(columns, sounds), parts, dit)
    dit.checkpoint_activations = checkpoints
    return Activations.of(whole, kept, policies, f"costliest batch (high-resolution prefix of {costliest[0]})")


def _encoding(module: SyncphonyModule, shape: StepShape, prepared: bool) -> Encoding:
    """Pictures are encoded as far as a column reads them, sounds from end to end."""
    found, codec, shapes = Encoding(), module.codec, module.step_shapes()
    size = (shape.height, shape.width)
    found.kept_bytes["video latents"] = video_cost(codec, shape.num_frames, *size)[1]
    read = [shapes.prefixes(shape, place) for place in shapes.places(shape)]
    lengths = {latents for prefixes in read for _, latents in prefixes}
    by_length = {latents: video_cost(codec, codec.num_frames(latents), *size)[0] for latents in lengths}
    clips = [sum(by_length[latents] * clips for clips, latents in prefixes) / shape.clips for prefixes in read]
    found.flops["video codec"] = fmean(clips)
    if module.audio_encoder is not None:
        flops, kept = features_cost(module.audio_encoder, shape.num_samples, shape.sample_rate)
        found.flops["audio encoder"], found.kept_bytes["audio features"] = float(flops), kept
    found.text("caption", module.text_encoder.dim, module.text_encoder.pooled_dim)
    if prepared:
        found.flops = {}
    return found


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
