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

from components.backbones.audio_tower import AudioTower
from components.backbones.wan_branch import WanTower
from components.codecs.diffusers_folder import check_class
from components.errors import InputError
from components.identity import record_identity
from components.pretrained import (
    CONFIG_FILE,
    builds_shapes_only,
    dtype_named,
    find_folder,
    full_name,
    read_config,
    resolve_folder,
)
from components.weights_file import Weights, open_weights, open_weights_file
from components.weights_fit import Shapes, assign_weights, contradicting, num_numbered

RENAMES = (
    ("time_embedding.0.", "condition_embedder.time_embedder.linear_1."),
    ("time_embedding.2.", "condition_embedder.time_embedder.linear_2."),
    ("text_embedding.0.", "condition_embedder.text_embedder.linear_1."),
    ("text_embedding.2.", "condition_embedder.text_embedder.linear_2."),
    ("time_projection.1.", "condition_embedder.time_proj."),
    ("head.modulation", "scale_shift_table"),
    ("head.head.", "proj_out."),
    ("ffn.0.", "ffn.net.0.proj."),
    ("ffn.2.", "ffn.net.2."),
    ("self_attn.norm", "attn1.norm"),
    ("self_attn.q.", "attn1.to_q."),
    ("self_attn.k.", "attn1.to_k."),
    ("self_attn.v.", "attn1.to_v."),
    ("self_attn.o.", "attn1.to_out.0."),
    ("cross_attn.norm", "attn2.norm"),
    ("cross_attn.q.", "attn2.to_q."),
    ("cross_attn.k.", "attn2.to_k."),
    ("cross_attn.v.", "attn2.to_v."),
    ("cross_attn.o.", "attn2.to_out.0."),
    (".norm3.", ".norm2."),
    (".modulation.modulation", ".scale_shift_table"),
    (".modulation", ".scale_shift_table"),
)
"""Original spelling (Wan, and Ovi after it) and diffusers'; diffusers' own names pass unchanged."""

_WEIGHTS = "diffusion_pytorch_model*"  # the original release keeps text encoder and VAE in the same folder
_WRAPPERS = ("model.diffusion_model.", "diffusion_model.")
_OVI_AUDIO = "audio_model."
_OVI_FUSION = re.compile(r"\.cross_attn\.(k_fusion|v_fusion|pre_attn_norm_fusion|norm_k_fusion)\.")
_OWN = ("null_reference", "reference_segment", "transcript_type", "transcript_embedder.")
_STEM_AND_HEAD = ("patch_embedding.", "proj_out.", "scale_shift_table")
_ORIGINAL_CLASS = "WanModel"
_SETTINGS = (
    "num_layers",
    "num_attention_heads",
    "attention_head_dim",
    "ffn_dim",
    "in_channels",
    "out_channels",
    "text_dim",
    "freq_dim",
    "patch_size",
    "cross_attn_norm",
    "qk_norm",
    "eps",
)
_PUBLIC_HEAD_DIM = 128

T = TypeVar("T", bound=WanTower)


def diffusers_key(key: str) -> str:
    """A tensor's name in diffusers' spelling."""
    for theirs, ours in RENAMES:
        key = key.replace(theirs, ours)
    return key


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
        dtype: ``float32``, ``bfloat16`` or ``float16``; null keeps the file's.
        text_len: see `WanTower`.
        head_dim: channels per head where no config tells; null takes Wan's 128.

    Raises:
        InputError: if something is missing or damaged, describes another model, or the weights do not fit.
    """
    precision = dtype_named(dtype)
    if Path(folder).expanduser().is_file():
        file = Path(folder).expanduser()
        weights = _in_diffusers_spelling(open_weights_file(file))
        settings = _settings(weights, head_dim or _PUBLIC_HEAD_DIM)
        return _assemble(WanTower, {**settings, "text_len": text_len}, weights, precision, str(folder))
    if builds_shapes_only() and find_folder(folder, subfolder) is None:
        with torch.device("meta"):
            return WanTower(text_len=text_len)
    path = resolve_folder(folder, subfolder, CONFIG_FILE)
    config = {**_wan_config(path), "text_len": text_len}
    if builds_shapes_only():
        return _build(WanTower, config, path)
    path = resolve_folder(folder, subfolder, _WEIGHTS)
    weights = _in_diffusers_spelling(open_weights(path))
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
    weights = _in_diffusers_spelling(Weights(kept, weights.files, weights.source))
    settings = _settings(weights, head_dim or _PUBLIC_HEAD_DIM, stem_key="patch_embedding.0.weight")
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
    return _assemble(AudioTower, config, weights, dtype_named(dtype), file, fresh=_OWN)


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
        return _build(AudioTower, ours, Path(folder))
    path = resolve_folder(folder, subfolder, CONFIG_FILE)
    video = _wan_config(path)
    shared = {key: video[key] for key in video if key not in ("in_channels", "out_channels", "patch_size", "qk_norm")}
    if builds_shapes_only():
        return _build(AudioTower, {**shared, **ours}, path)
    path = resolve_folder(folder, subfolder, _WEIGHTS)
    weights = _in_diffusers_spelling(open_weights(path))
    for key in [key for key in weights.tensors if key.startswith(_STEM_AND_HEAD)]:
        del weights.tensors[key]
    name = full_name(folder, subfolder)
    fresh = (*_OWN, *_STEM_AND_HEAD)
    return _assemble(AudioTower, {**shared, **ours}, weights, dtype_named(dtype), name, path, fresh)


def _build(kind: Callable[..., T], config: Mapping[str, Any], source: Path) -> T:
    """The tower of ``config`` on the meta device."""
    try:
        with torch.device("meta"):
            return kind(**config)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"{source} describes no Wan transformer ({error}); restore it from the release") from None


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
    tower = _build(kind, config, source or weights.source)
    if builds_shapes_only():
        return tower if dtype is None else tower.to(dtype)
    if fresh:
        like = next(iter(weights.tensors.values())).dtype
        beginner = kind(**{**config, "num_layers": 0})
        for key, value in beginner.state_dict().items():
            if key.startswith(fresh) and key not in weights.tensors:
                weights.tensors[key] = value.to(like)

    def contradictions(module: T, shapes: Shapes) -> list[str]:
        if source is None:
            return []
        found = _settings(Weights({k: torch.empty(v, device="meta") for k, v in shapes.items()}, (), source), None)
        return contradicting(module.config, found)

    assign_weights(tower, weights, dtype, contradictions=contradictions)
    record_identity(tower, name, weights.files)
    return tower


def _in_diffusers_spelling(weights: Weights) -> Weights:
    """Without the wrappers' prefixes that other programs put in front of every key."""
    tensors = weights.tensors
    for wrapper in _WRAPPERS:
        if tensors and all(key.startswith(wrapper) for key in tensors):
            tensors = {key.removeprefix(wrapper): value for key, value in tensors.items()}
    return Weights({diffusers_key(key): value for key, value in tensors.items()}, weights.files, weights.source)


def _settings(weights: Weights, head_dim: int | None, stem_key: str = "patch_embedding.weight") -> dict[str, Any]:
    """What the shapes say about the architecture.

    Raises:
        InputError: if tensors that every Wan transformer has are not there.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in weights.tensors.items()}
    try:
        dim, channels, *patch = shapes[stem_key]
        settings: dict[str, Any] = {
            "num_layers": num_numbered(shapes, "blocks"),
            "ffn_dim": shapes["blocks.0.ffn.net.0.proj.weight"][0],
            "in_channels": channels,
            "text_dim": shapes["condition_embedder.text_embedder.linear_1.weight"][1],
            "freq_dim": shapes["condition_embedder.time_embedder.linear_1.weight"][1],
            "cross_attn_norm": "blocks.0.norm2.weight" in shapes,
        }
        area = 1
        if len(patch) == 3:
            settings["patch_size"] = tuple(patch)
            area = patch[0] * patch[1] * patch[2]
        settings["out_channels"] = shapes["proj_out.weight"][0] // area
    except (KeyError, ValueError):
        if head_dim is None:  # the list of missing keys says it better
            return {}
        raise InputError(
            f"weights file '{weights.source}' holds no Wan transformer (its first key is "
            f"'{next(iter(shapes), 'none')}'); give the transformer's weights"
        ) from None
    if head_dim is not None:
        if dim % head_dim:
            raise InputError(
                f"weights file '{weights.source}' has a width of {dim}, which heads of {head_dim} channels do not "
                "divide; set head_dim"
            )
        settings.update(num_attention_heads=dim // head_dim, attention_head_dim=head_dim)
    return settings


def _wan_config(folder: Path) -> dict[str, Any]:
    """The tower's arguments from ``config.json`` in diffusers' or the original form."""
    config = read_config(folder)
    file = folder / CONFIG_FILE
    if config.get("_class_name") == _ORIGINAL_CLASS:
        return _original_config(config, file)
    check_class(config, "WanTransformer3DModel", folder)
    for key in ("image_dim", "added_kv_proj_dim"):
        if config.get(key) is not None:
            raise InputError(
                f"{file} has {key} {config[key]}: image-to-video models of Wan 2.1 have extra image layers that are "
                "not supported; give a Wan 2.2 release"
            )
    return {key: config[key] for key in _SETTINGS if config.get(key) is not None}


def _original_config(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    try:
        kind, heads, dim = config.get("model_type", "ti2v"), config["num_heads"], config["dim"]
        translated = {
            "num_layers": config["num_layers"],
            "num_attention_heads": heads,
            "attention_head_dim": dim // heads,
            "ffn_dim": config["ffn_dim"],
            "in_channels": config["in_dim"],
            "out_channels": config["out_dim"],
            "freq_dim": config["freq_dim"],
            "eps": config.get("eps", 1e-6),
            "patch_size": config.get("patch_size", (1, 2, 2)),
            "text_dim": config.get("text_dim", 4096),
        }
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise InputError(f"{file} lacks a setting of Wan's original form ({error}); restore it") from None
    if kind not in ("t2v", "ti2v", "i2v"):
        raise InputError(f"{file} has model_type '{kind}'; give a text- or image-to-video model of Wan 2.2")
    return translated
