"""What a stage of a Harmony experiment on the meta device takes."""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import nn

from components.backbones.harmony.layer import HarmonyLayer
from components.backbones.harmony.model import PARTS, part_of
from components.counting.coding_peaks import VideoSize, encoding_peak
from components.counting.live_memory import with_peak_bytes
from components.counting.saved_activations import fused_attention, saved_bytes
from components.counting.step_shape import StepShape
from datamodules.reading.ordered_data_module import OrderedDataModule
from lightning_modules.estimates.counts import TEXT_TOKENS, TRANSCRIPT_TOKENS, Counts, batch_shape
from lightning_modules.estimates.encoding import Encoding, sound_cost, video_cost
from lightning_modules.estimates.memory import Activations, ExperimentMemory, Part, frozen
from lightning_modules.estimates.optimizer_state import optimizer_bytes
from lightning_modules.harmony.module import HarmonyModule


def count_harmony(module: HarmonyModule, data: OrderedDataModule, dtype: torch.dtype = torch.bfloat16) -> Counts:
    """Counts of a module that computes in ``dtype``."""
    shape = shape_of(data)
    cost = module.step_shapes().cost(shape)
    encoding = _encoding(module, shape, getattr(data, "latents", None) is not None)
    return Counts(shape, harmony_memory(module, shape, dtype, encodes=bool(encoding.flops)), cost, encoding)


def shape_of(data: OrderedDataModule) -> StepShape:
    """A training batch at its longest."""
    reference_s = getattr(data, "reference_s", None)
    return batch_shape(
        data,
        TEXT_TOKENS["Harmony"],
        reference_samples=None if reference_s is None else round(reference_s * data.clip.sample_rate),
        transcript_tokens=TRANSCRIPT_TOKENS,
    )


def harmony_memory(
    module: HarmonyModule, shape: StepShape, dtype: torch.dtype, encodes: bool = True
) -> ExperimentMemory:
    """Memory by part."""
    module.configure_model()  # as a run does: what trains is float32
    transformer = module.transformer
    named = list(transformer.named_parameters())
    sharded = {part: Part.of(p for name, p in named if part_of(name) == part) for part in PARTS}
    clips = f"{shape.clips} clips of {shape.num_frames} frames {shape.height}x{shape.width}"
    if "video" not in module.curriculum.modalities:
        clips = f"{shape.clips} sounds of {shape.duration_s:.2f} s"
    replicated = {"video codec": frozen(module.video_codec), "audio codec": frozen(module.audio_codec)}
    texts = {"text encoder": frozen(module.text_encoder), "transcript encoder": frozen(module.transcript_encoder)}
    in_layers = _size(transformer.layers)
    stepped = optimizer_bytes(module)
    return ExperimentMemory(
        sharded={name if name == "interaction" else f"{name} tower": part for name, part in sharded.items()},
        replicated=replicated if encodes else {},
        freed=texts if encodes else {},
        unit=max(_size(layer) for layer in transformer.layers),
        checkpoints=any(layer.checkpoint_activations for layer in layers_of(module)),
        optimizer=stepped.state,
        stepping=stepped.stepping,
        activations=count_activations(module, shape, dtype),
        encoding=count_encoding(module, shape) if encodes else 0,
        clips=clips,
        gathered=2 * in_layers + (_size(transformer) - in_layers),  # the root stays gathered
    )


def count_activations(module: HarmonyModule, shape: StepShape, dtype: torch.dtype) -> Activations:
    """A forward pass over one training batch, layers kept whole and layers kept by their inputs."""
    shapes = module.step_shapes()
    transformer = shapes.transformer.to(dtype)  # what mixed precision computes in
    layers = cast(list[HarmonyLayer], list(transformer.layers))
    given = shapes.arguments(shape)
    checkpoints = [layer.checkpoint_activations for layer in layers]
    for layer in layers:
        layer.checkpoint_activations = False
    with fused_attention():
        whole, counts = saved_bytes(lambda: transformer(**given), layers, transformer)
    for layer, kept_by_input in zip(layers, checkpoints, strict=True):
        layer.checkpoint_activations = kept_by_input
    shown = " + ".join(f"{number:,} {name}" for name, number in shapes.tokens(given).items())
    rows = shape.clips * shapes.rows_per_clip
    policies = [layer.checkpoint_activations for layer in layers_of(module)]
    return Activations.of(whole, counts, policies, f"{rows} rows of {shown} tokens")


def layers_of(module: HarmonyModule) -> list[HarmonyLayer]:
    """The pairs of blocks."""
    return cast(list[HarmonyLayer], list(module.transformer.layers))


def count_encoding(module: HarmonyModule, shape: StepShape) -> int:
    """Most bytes held while either codec encodes a batch."""
    peak = 0
    if "audio" in module.curriculum.modalities:
        sound = torch.empty(shape.clips, _samples(module, shape.duration_s), device="meta")
        with torch.no_grad(), fused_attention():
            peak = with_peak_bytes(partial(module.audio_codec.encode, sound), "meta")[1]
    if module.video_codec is not None:
        size = VideoSize(shape.clips, shape.num_frames, shape.height, shape.width)
        peak = max(peak, encoding_peak(module.video_codec, size))
    return peak


def _encoding(module: HarmonyModule, shape: StepShape, prepared: bool) -> Encoding:
    """Pictures, sounds and reference voices, all from end to end."""
    found, codec = Encoding(), module.audio_codec
    if module.video_codec is not None:
        flops, kept = video_cost(module.video_codec, shape.num_frames, shape.height, shape.width)
        found.flops["video codec"], found.kept_bytes["video latents"] = float(flops), kept
    if "audio" in module.curriculum.modalities:
        flops, kept = sound_cost(codec, _samples(module, shape.duration_s))
        found.flops["audio codec"], found.kept_bytes["audio latents"] = float(flops), kept
        if shape.reference_samples is not None:
            flops, kept = sound_cost(codec, _samples(module, shape.reference_samples / shape.sample_rate))
            found.flops["audio codec"] += flops
            found.kept_bytes["reference latents"] = kept
        found.text("scene", module.text_encoder.dim)
    if "video" in module.curriculum.modalities:
        found.text("caption", module.text_encoder.dim)
    if module.transcript_encoder is not None:
        found.text("transcript", module.transcript_encoder.dim)
    if prepared:
        found.flops = {}
    return found


def _samples(module: HarmonyModule, seconds: float) -> int:
    """Samples of the whole latents of a sound."""
    return module.audio_codec.num_latents_for(seconds) * module.audio_codec.latent_hop


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
