"""Whether the parts and settings of a Syncphony experiment fit together, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from components.backbones.syncphony.model import SyncphonyDiT
from components.contracts import AudioEncoder, Modality, TextEncoder, VideoCodec
from components.errors import InputError
from components.objectives.pyramid_columns import AutoregressivePyramid
from components.samplers.pyramid_sampler import PyramidSampler


def check_parts_fit(
    dit: SyncphonyDiT, codec: VideoCodec, text_encoder: TextEncoder, audio_encoder: AudioEncoder | None
) -> None:
    """Compare the widths and channels that codec, encoders and transformer must share.

    Raises:
        InputError: naming the two values that differ and the setting to change.
    """
    if (audio_encoder is None) != (dit.audio_embedder is None):
        raise InputError("dit.audio_dim and audio_encoder must both be given or both be null.")
    if audio_encoder is not None and audio_encoder.dim != dit.audio_dim:
        raise InputError(f"dit.audio_dim is {dit.audio_dim} but the audio encoder gives {audio_encoder.dim}.")
    wanted = tuple(dit.backbone.config[key] for key in ("joint_attention_dim", "pooled_projection_dim"))
    if (text_encoder.dim, text_encoder.pooled_dim) != wanted:
        raise InputError(
            f"the text encoder gives tokens of width {text_encoder.dim} and pooled vectors of width "
            f"{text_encoder.pooled_dim} but the backbone takes {wanted[0]} and {wanted[1]}: set them equal."
        )
    if codec.latent_channels != dit.backbone.latent_channels:
        in_channels = dit.backbone.config["in_channels"] // dit.backbone.latent_channels * codec.latent_channels
        raise InputError(
            f"the codec has {codec.latent_channels} latent channels but the backbone takes "
            f"{dit.backbone.latent_channels}: set the backbone's in_channels to {in_channels}."
        )


def check_pyramids_fit(pyramid: AutoregressivePyramid, sampler: PyramidSampler) -> None:
    """Training and sampling must cut clips and noise levels alike.

    Raises:
        InputError: naming both settings.
    """
    trained, sampled = ((p.schedule.stages, p.frames_per_unit) for p in (pyramid, sampler))
    if trained != sampled:
        raise InputError(
            f"pyramid has {trained[0]} stages and frames_per_unit {trained[1]} but sampler has {sampled[0]} stages "
            f"and frames_per_unit {sampled[1]}: set them equal."
        )


def check_batches_cover_columns(model: Mapping[str, Any], data: Mapping[str, Any], trainer: Mapping[str, Any]) -> None:
    """Refuse batch sizes that cannot give every column of the pyramid as many clips.

    Args:
        model: arguments of the module.
        data: arguments of the data module.
        trainer: arguments of the trainer.

    Raises:
        InputError: naming the batch size and what may be set instead.
    """
    pyramid = (model.get("pyramid") or {}).get("init_args") or {}
    columns = len(pyramid.get("stage_of_column") or AutoregressivePyramid().stage_of_column)
    size, devices = data.get("batch_size"), str(trainer.get("devices"))
    if not isinstance(size, int):
        return
    processes = int(devices) if devices.isdigit() else _all_devices(trainer.get("accelerator"))
    batches = (trainer.get("accumulate_grad_batches") or 1) * processes * (trainer.get("num_nodes") or 1)
    if size % columns and size * batches % columns:
        raise InputError(columns_not_covered(size, columns))


def needed_modalities(model: Mapping[str, Any]) -> tuple[Modality, ...]:
    """What clips must have for a module with these arguments; a backbone without audio layers needs no sound."""
    return ("video",) if model.get("audio_encoder") is None else ("video", "audio")


def columns_not_covered(size: int, columns: int) -> str:
    """What to say of a batch size with which the columns get unequal numbers of clips."""
    return (
        f"a batch of {size} clips is not a multiple of {columns} columns: set data.batch_size to one, or "
        "trainer.accumulate_grad_batches so that batch_size times accumulate_grad_batches times devices is one."
    )


def _all_devices(accelerator: Any) -> int:
    """Devices of this machine that a trainer with ``devices: auto`` or -1 takes."""
    return max(1, torch.cuda.device_count()) if accelerator in ("auto", "gpu", "cuda") else 1
