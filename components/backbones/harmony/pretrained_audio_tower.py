"""Audio towers that begin with public weights: Ovi's audio tower, or copies of Wan's blocks.

Both functions can be the ``class_path`` of the audio tower in YAML. Under ``with torch.device("meta")`` only shapes are
built; a release that is not on this disk then stands for the public TI2V-5B.
"""

from __future__ import annotations

import re
from pathlib import Path

from components.backbones.harmony.audio_tower import OWN_PARTS, AudioTower
from components.backbones.wan.checkpoint import (
    PUBLIC_HEAD_DIM,
    TOWER_WEIGHTS,
    assemble_tower,
    in_diffusers_spelling,
    settings_of,
    tower_of_config,
    wan_config,
)
from components.weights.file import Weights, open_weights, open_weights_file
from components.weights.pretrained import (
    CONFIG_FILE,
    builds_shapes_only,
    dtype_named,
    find_folder,
    full_name,
    resolve_folder,
)

_OVI_AUDIO = "audio_model."
_OVI_FUSION = re.compile(r"\.cross_attn\.(k_fusion|v_fusion|pre_attn_norm_fusion|norm_k_fusion)\.")
_STEM_AND_HEAD = ("patch_embedding.", "proj_out.", "scale_shift_table")


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
    settings = settings_of(weights, head_dim or PUBLIC_HEAD_DIM, stem_key="patch_embedding.0.weight")
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
    return assemble_tower(AudioTower, config, weights, dtype_named(dtype), file, fresh=OWN_PARTS)


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
        return tower_of_config(AudioTower, ours, Path(folder), dtype_named(dtype))
    path = resolve_folder(folder, subfolder, CONFIG_FILE)
    video = wan_config(path)
    shared = {key: video[key] for key in video if key not in ("in_channels", "out_channels", "patch_size", "qk_norm")}
    if builds_shapes_only():
        return tower_of_config(AudioTower, {**shared, **ours}, path, dtype_named(dtype))
    path = resolve_folder(folder, subfolder, TOWER_WEIGHTS)
    weights = in_diffusers_spelling(open_weights(path))
    for key in [key for key in weights.tensors if key.startswith(_STEM_AND_HEAD)]:
        del weights.tensors[key]
    name = full_name(folder, subfolder)
    fresh = (*OWN_PARTS, *_STEM_AND_HEAD)
    return assemble_tower(AudioTower, {**shared, **ours}, weights, dtype_named(dtype), name, path, fresh)
