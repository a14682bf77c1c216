"""What a stage of a Harmony experiment on the meta device takes."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.experiment_memory import Activations, ExperimentMemory, Part, frozen
from benchmarks.live_memory import with_peak_bytes
from benchmarks.saved_activations import fused_attention, saved_bytes
from benchmarks.vae import VideoSize, encoding_peak
from components.backbones.harmony.model import PARTS, HarmonyLayer, part_of
from components.contracts import TextFeatures
from components.media.clock import LatentClock
from datamodules.reading.clip_data_module import ClipDataModule
from lightning_modules.harmony.module import HarmonyModule

TEXT_TOKENS = 512
TRANSCRIPT_TOKENS = 128


def harmony_memory(module: HarmonyModule, data: ClipDataModule) -> ExperimentMemory:
    """Counts; the transformer is in bfloat16 afterwards.

    Activations that are recomputed in part (``selective``, every n-th layer) are counted as if all were kept.
    """
    transformer, clip = module.transformer, data.clip
    named = list(transformer.named_parameters())
    sharded = {part: Part.of(p for name, p in named if part_of(name) == part) for part in PARTS}
    clips = f"{data.batch_size} clips of {clip.num_frames} frames {clip.height}x{clip.width}"
    if "video" not in module.curriculum.modalities:
        clips = f"{data.batch_size} sounds of {clip.num_frames / clip.fps:.2f} s"
    return ExperimentMemory(
        sharded={name if name == "interaction" else f"{name} tower": part for name, part in sharded.items()},
        replicated={"video codec": frozen(module.video_codec), "audio codec": frozen(module.audio_codec)},
        freed={
            "text encoder": frozen(module.text_encoder),
            "transcript encoder": frozen(module.transcript_encoder),
        },
        unit=max(Part.of(layer.parameters()).parameters for layer in transformer.layers),
        checkpoints=all(layer.checkpoint_activations is True for layer in layers_of(module)),
        activations=count_activations(module, data),
        encoding=count_encoding(module, data),
        clips=clips,
    )


def count_activations(module: HarmonyModule, data: ClipDataModule) -> Activations:
    """A forward pass over one training batch, layers kept whole and layers kept by their inputs."""
    transformer, layers = module.transformer.to(torch.bfloat16), layers_of(module)  # what mixed precision computes in
    given = training_rows(module, data)
    checkpoints = [layer.checkpoint_activations for layer in layers]
    for layer in layers:
        layer.checkpoint_activations = False
    with fused_attention():
        whole, counts = saved_bytes(
            lambda: transformer(**given, active=module.curriculum.modalities), layers, transformer
        )
    for layer, kept_by_input in zip(layers, checkpoints, strict=True):
        layer.checkpoint_activations = kept_by_input
    tokens = {name: 0 if given[key] is None else given[key][0, 0].numel() for name, key in _LATENTS.items()}
    if transformer.video is not None:
        tokens["video"] //= math.prod(transformer.video.patch_size)
    shown = " + ".join(f"{number:,} {name}" for name, number in tokens.items() if number)
    return Activations.of(
        whole,
        counts,
        counts if all(policy is True for policy in checkpoints) else None,
        f"{len(given['z_a'])} rows of {shown} tokens",
    )


def layers_of(module: HarmonyModule) -> list[HarmonyLayer]:
    """The pairs of blocks."""
    return cast(list[HarmonyLayer], list(module.transformer.layers))


_LATENTS = {"video": "z_v", "audio": "z_a", "reference": "z_r"}


def training_rows(module: HarmonyModule, data: ClipDataModule) -> dict[str, Any]:
    """Arguments of the transformer in a training step: one row per clip, or one per clip and task."""
    joint = "video" in module.curriculum.modalities
    rows = data.batch_size * (3 if joint and module.tasks.task_mode == "all" else 1)
    codec = module.audio_codec
    seconds, channels = data.clip.num_frames / data.clip.fps, codec.latent_channels

    def latents(*shape: int) -> Tensor:
        return torch.empty(rows, *shape, device="meta")

    def text(tokens: int, dim: int) -> TextFeatures:
        return TextFeatures(latents(tokens, dim), torch.ones(rows, tokens, dtype=torch.bool, device="meta"))

    timesteps = torch.ones(rows, device="meta")
    slot = getattr(data, "reference_s", None)
    prompts = text(TEXT_TOKENS, module.text_encoder.dim)
    words = module.transcript_encoder
    given: dict[str, Any] = {
        "z_v": None,
        "z_a": latents(channels, codec.num_latents_for(seconds)),
        "z_r": None,
        "ref_len": torch.ones(rows, dtype=torch.long, device="meta"),
        "transcript": None if words is None else text(TRANSCRIPT_TOKENS, words.dim),
        "t_a": timesteps,
        "text_a": prompts,
        "clock": LatentClock(data.clip.fps, module.inputs.temporal_factor, codec.latent_rate_hz),
    }
    if slot is not None:
        given["z_r"] = latents(channels, math.ceil(slot * codec.sample_rate / codec.latent_hop))
    if joint:
        given |= {"z_v": latents(*_video_shape(module, data)), "t_v": timesteps, "text_v": prompts}
        given["first_frame"] = torch.ones(rows, dtype=torch.bool, device="meta")
    return given


def _video_shape(module: HarmonyModule, data: ClipDataModule) -> tuple[int, ...]:
    codec, clip = module.inputs.codec(), data.clip
    side = codec.spatial_factor
    return codec.latent_channels, codec.num_latents(clip.num_frames), clip.height // side, clip.width // side


def count_encoding(module: HarmonyModule, data: ClipDataModule) -> int:
    """Most bytes held while either codec encodes a batch."""
    clip, codec = data.clip, module.audio_codec
    samples = codec.num_latents_for(clip.num_frames / clip.fps) * codec.latent_hop
    sound = torch.empty(data.batch_size, samples, device="meta")
    with torch.no_grad(), fused_attention():
        peak = with_peak_bytes(partial(codec.encode, sound), "meta")[1]
        if module.video_codec is not None:
            size = VideoSize(data.batch_size, clip.num_frames, clip.height, clip.width)
            peak = max(peak, encoding_peak(module.video_codec, size))
    return peak
