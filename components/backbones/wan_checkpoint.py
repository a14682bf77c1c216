"""Towers from public weights: Wan in diffusers' and its original form, Ovi's audio tower, copies of Wan's blocks.

Every function here can be the ``class_path`` of a tower in YAML. Under ``with torch.device("meta")`` only shapes are
built; a release that is not on this disk then stands for the public TI2V-5B.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from components.backbones.audio_tower import OWN_PARTS, AudioTower
from components.backbones.wan_branch import WanTower
from components.backbones.wan_release import in_diffusers_spelling, settings_of, wan_config
from components.errors import InputError
from components.identity import record_identity
from components.pretrained import (
    CONFIG_FILE,
    builds_shapes_only,
    dtype_named,
    find_folder,
    full_name,
    resolve_folder,
)
from components.weights_file import Weights, open_weights, open_weights_file
from components.weights_fit import Shapes, assign_weights, contradicting, precision_of

_WEIGHTS = "diffusion_pytorch_model*"  # the original release keeps text encoder and VAE in the same folder
_OVI_AUDIO = "audio_model."
_OVI_FUSION = re.compile(r"\.cross_attn\.(k_fusion|v_fusion|pre_attn_norm_fusion|norm_k_fusion)\.")
_STEM_AND_HEAD = ("patch_embedding.", "proj_out.", "scale_shift_table")
_PUBLIC_HEAD_DIM = 128
# diffusers loads these in float32 whatever it is asked for: sinusoids of timesteps up to 1000 say little in eight bits
_FLOAT32 = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")

T = TypeVar("T", bound=WanTower)


def wan_tower(
    folder: str,
    subfolder: str | None = None,
    dtype: str | None = "float32",
    text_len: int | None = 512,
    head_dim: int | None = None,
) -> WanTower:
    """The transformer of a Wan release: a diffusers folder, an original one, or a single weight file.

    Args:
        folder: folder on this disk, ``owner/name`` of a hub repository (``Wan-AI/Wan2.2-TI2V-5B-Diffusers``), or a
            ``.safetensors`` file in either spelling.
        subfolder: folder within it (``transformer`` in diffusers' releases).
        dtype: ``float32``, ``bfloat16`` or ``float16``, of which timestep embedder, norms and modulation are spared as
            in diffusers; null keeps the file's.
        text_len: see `WanTower`.
        head_dim: channels per head where no config tells; null takes Wan's 128.

    Raises:
        InputError: if something is missing or damaged, describes another model, or the weights do not fit.
    """
    precision = dtype_named(dtype)
    if Path(folder).expanduser().is_file():
        file = Path(folder).expanduser()
        weights = in_diffusers_spelling(open_weights_file(file))
        settings = settings_of(weights, head_dim or _PUBLIC_HEAD_DIM)
        return _assemble(WanTower, {**settings, "text_len": text_len}, weights, precision, str(folder))
    if builds_shapes_only() and find_folder(folder, subfolder) is None:
        return _build(WanTower, {"text_len": text_len}, Path(folder), precision)
    path = resolve_folder(folder, subfolder, CONFIG_FILE)
    config = {**wan_config(path), "text_len": text_len}
    if builds_shapes_only():
        return _build(WanTower, config, path, precision)
    path = resolve_folder(folder, subfolder, _WEIGHTS)
    weights = in_diffusers_spelling(open_weights(path))
    return _assemble(WanTower, config, weights, precision, full_name(folder, subfolder), path)


def ovi_audio_tower(
    file: str,
    transcript_dim: int | None = 1472,
    rope_scale: float | None = None,
    dtype: str | None = "float32",
    text_len: int | None = 512,
    head_dim: int | None = None,
) -> AudioTower:
    """Ovi's audio tower with its convolutional stem, out of a checkpoint of the tower alone or of the whole model.

    What Ovi does not have (reference and transcript vectors) starts fresh; its fusion layers are left out.

    Args:
        file: the ``.safetensors`` file.
        transcript_dim: see `AudioTower`.
        rope_scale: see `AudioTower`; Ovi was trained with 0.19676 at 5 s, which is what null comes to.
        dtype: ``float32``, ``bfloat16`` or ``float16``; null keeps the file's.
        text_len: see `WanTower`.
        head_dim: channels per head; null takes Wan's 128.

    Raises:
        InputError: if the file is missing or damaged or holds no such tower.
    """
    weights = open_weights_file(Path(file).expanduser())
    if any(key.startswith(_OVI_AUDIO) for key in weights.tensors):
        kept = {k.removeprefix(_OVI_AUDIO): v for k, v in weights.tensors.items() if k.startswith(_OVI_AUDIO)}
    else:
        kept = dict(weights.tensors)
    kept = {key: value for key, value in kept.items() if not _OVI_FUSION.search(f".{key}")}
    weights = in_diffusers_spelling(Weights(kept, weights.files, weights.source))
    settings = settings_of(weights, head_dim or _PUBLIC_HEAD_DIM, stem_key="patch_embedding.0.weight")
    settings = {key: value for key, value in settings.items() if key not in ("patch_size", "out_channels")}
    channels = settings.pop("in_channels")
    config = {
        **settings,
        "channels": channels,
        "stem": "conv",
        "transcript_dim": transcript_dim,
        "rope_scale": rope_scale,
        "text_len": text_len,
    }
    return _assemble(AudioTower, config, weights, dtype_named(dtype), file, fresh=OWN_PARTS)


def audio_tower_from_wan(
    folder: str,
    subfolder: str | None = None,
    channels: int = 20,
    transcript_dim: int | None = 1472,
    rope_scale: float | None = None,
    dtype: str | None = "float32",
    text_len: int | None = 512,
) -> AudioTower:
    """An audio tower whose blocks and embedders of text and time are copies of a Wan video transformer's.

    Stem, head, reference and transcript vectors start fresh.

    Args:
        folder: as for `wan_tower`, with a ``config.json``.
        subfolder: folder within it.
        channels: C of the audio latents.
        transcript_dim: see `AudioTower`.
        rope_scale: see `AudioTower`.
        dtype: ``float32``, ``bfloat16`` or ``float16``; null keeps the file's.
        text_len: see `WanTower`.

    Raises:
        InputError: if something is missing or damaged, describes another model, or the weights do not fit.
    """
    ours = {"channels": channels, "transcript_dim": transcript_dim, "rope_scale": rope_scale, "text_len": text_len}
    if builds_shapes_only() and find_folder(folder, subfolder) is None:
        return _build(AudioTower, ours, Path(folder), dtype_named(dtype))
    path = resolve_folder(folder, subfolder, CONFIG_FILE)
    video = wan_config(path)
    shared = {key: video[key] for key in video if key not in ("in_channels", "out_channels", "patch_size", "qk_norm")}
    if builds_shapes_only():
        return _build(AudioTower, {**shared, **ours}, path, dtype_named(dtype))
    path = resolve_folder(folder, subfolder, _WEIGHTS)
    weights = in_diffusers_spelling(open_weights(path))
    for key in [key for key in weights.tensors if key.startswith(_STEM_AND_HEAD)]:
        del weights.tensors[key]
    name = full_name(folder, subfolder)
    fresh = (*OWN_PARTS, *_STEM_AND_HEAD)
    return _assemble(AudioTower, {**shared, **ours}, weights, dtype_named(dtype), name, path, fresh)


def _build(kind: Callable[..., T], config: Mapping[str, Any], source: Path, dtype: torch.dtype | None = None) -> T:
    """The tower of ``config`` on the meta device, in the precision its weights will have."""
    try:
        with torch.device("meta"):
            tower = kind(**config)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"{source} describes no Wan transformer ({error}); restore it from the release") from None
    for key, parameter in tower.named_parameters():
        parameter.data = parameter.data.to(precision_of(key, dtype, _FLOAT32))
    return tower


def _assemble(
    kind: Callable[..., T],
    config: Mapping[str, Any],
    weights: Weights,
    dtype: torch.dtype | None,
    name: str,
    source: Path | None = None,
    fresh: tuple[str, ...] = (),
) -> T:
    """The tower of ``config`` with ``weights``; tensors that start with ``fresh`` are drawn anew.

    Args:
        kind: the tower's class.
        config: its arguments.
        weights: in diffusers' spelling.
        dtype: what floating-point tensors become; None leaves each as the file has it.
        name: what the user asked for.
        source: where ``config`` was read, if not off the weights.
        fresh: prefixes of what the file is not expected to hold.
    """
    tower = _build(kind, config, source or weights.source, dtype)
    if builds_shapes_only():
        return tower
    if fresh:
        like = next(iter(weights.tensors.values())).dtype
        beginner = kind(**{**config, "num_layers": 0})
        for key, value in beginner.state_dict().items():
            if key.startswith(fresh) and key not in weights.tensors:
                weights.tensors[key] = value.to(like)

    def contradictions(module: T, shapes: Shapes) -> list[str]:
        if source is None:
            return []
        found = settings_of(Weights({k: torch.empty(v, device="meta") for k, v in shapes.items()}, (), source), None)
        return contradicting(module.config, found)

    assign_weights(tower, weights, dtype, contradictions=contradictions, float32=_FLOAT32)
    record_identity(tower, name, weights.files)
    return tower
