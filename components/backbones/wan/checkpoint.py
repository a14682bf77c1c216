"""Wan towers from public weights: diffusers' form, the original one, and bare weights, each with its own spelling.

Under ``with torch.device("meta")`` only shapes are
built; a release that is not on this disk then stands for the public TI2V-5B.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from components.backbones.wan.model import WanTower
from components.errors import InputError
from components.weights.diffusers_folder import check_class
from components.weights.file import Weights, open_weights, open_weights_file
from components.weights.fit import Shapes, assign_weights, contradicting, num_numbered, precision_of
from components.weights.identity import record_identity
from components.weights.named_files import names_files
from components.weights.pretrained import (
    CONFIG_FILE,
    Sha256,
    builds_shapes_only,
    dtype_named,
    find_file,
    find_folder,
    full_name,
    read_config,
    resolve_folder,
)

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
    # the norm before the text attention: third in Wan, second in diffusers
    (".norm3.", ".norm2."),
    # the longer spelling first
    (".modulation.modulation", ".scale_shift_table"),
    (".modulation", ".scale_shift_table"),
)
"""Original spelling (Wan, and Ovi after it) and diffusers'; diffusers' own names pass unchanged."""

_WRAPPERS = ("model.diffusion_model.", "diffusion_model.")
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


def diffusers_key(key: str) -> str:
    """A tensor's name in diffusers' spelling."""
    for theirs, ours in RENAMES:
        key = key.replace(theirs, ours)
    return key


def in_diffusers_spelling(weights: Weights) -> Weights:
    """Without the wrappers' prefixes that other programs put in front of every key."""
    tensors = weights.tensors
    for wrapper in _WRAPPERS:
        if tensors and all(key.startswith(wrapper) for key in tensors):
            tensors = {key.removeprefix(wrapper): value for key, value in tensors.items()}
    return Weights({diffusers_key(key): value for key, value in tensors.items()}, weights.files, weights.source)


def settings_of(weights: Weights, head_dim: int | None, stem_key: str = "patch_embedding.weight") -> dict[str, Any]:
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
        # the convolution over patches has three sides, the convolutional stem of an audio tower one
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


def wan_config(folder: Path) -> dict[str, Any]:
    """The tower's arguments from ``config.json`` in diffusers' or the original form."""
    config = read_config(folder)
    file = folder / CONFIG_FILE
    if config.get("_class_name") == _ORIGINAL_CLASS:
        return _original_config(config, file)
    check_class(config, "WanTransformer3DModel", folder)
    # image cross-attention of Wan 2.1; TI2V-5B is given the first latent instead
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
            # the original config.json leaves these two out: constants of its code
            "patch_size": config.get("patch_size", (1, 2, 2)),
            "text_dim": config.get("text_dim", 4096),
        }
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise InputError(f"{file} lacks a setting of Wan's original form ({error}); restore it") from None
    if kind not in ("t2v", "ti2v", "i2v"):
        raise InputError(f"{file} has model_type '{kind}'; give a text- or image-to-video model of Wan 2.2")
    return translated


TOWER_WEIGHTS = "diffusion_pytorch_model*"  # the original release keeps text encoder and VAE in the same folder
PUBLIC_HEAD_DIM = 128
# diffusers loads these in float32 whatever it is asked for: sinusoids of timesteps up to 1000 say little in eight bits
_FLOAT32 = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")

T = TypeVar("T", bound=WanTower)


@names_files(folder="subfolder")
def wan_tower(
    folder: str,
    subfolder: str | None = None,
    dtype: str | None = "float32",
    text_len: int | None = 512,
    head_dim: int | None = None,
    sha256: Sha256 = None,
) -> WanTower:
    """The transformer of a Wan release: a diffusers folder, an original one, or a single weight file.

    Args:
        folder: folder on this disk, hub repository (``hf://Wan-AI/Wan2.2-TI2V-5B-Diffusers``), or a ``.safetensors``
            file in either spelling.
        subfolder: folder within it (``transformer`` in diffusers' releases).
        dtype: ``float32``, ``bfloat16`` or ``float16``, of which timestep embedder, norms and modulation are spared as
            in diffusers; null keeps the file's.
        text_len: see `WanTower`.
        head_dim: channels per head where no config tells; null takes Wan's 128.
        sha256: digest of the file, or of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if something is missing or damaged, describes another model, or the weights do not fit.
    """
    precision = dtype_named(dtype)
    file = find_file(folder, sha256)
    if file is not None:
        weights = in_diffusers_spelling(open_weights_file(file))
        settings = settings_of(weights, head_dim or PUBLIC_HEAD_DIM)
        return assemble_tower(WanTower, {**settings, "text_len": text_len}, weights, precision, str(folder))
    if builds_shapes_only() and find_folder(folder, subfolder) is None:
        return tower_of_config(WanTower, {"text_len": text_len}, Path(folder), precision)
    path = resolve_folder(folder, subfolder, CONFIG_FILE)
    config = {**wan_config(path), "text_len": text_len}
    if builds_shapes_only():
        return tower_of_config(WanTower, config, path, precision)
    path = resolve_folder(folder, subfolder, TOWER_WEIGHTS, sha256)
    weights = in_diffusers_spelling(open_weights(path))
    return assemble_tower(WanTower, config, weights, precision, full_name(folder, subfolder), path)


def tower_of_config(
    kind: Callable[..., T], config: Mapping[str, Any], source: Path, dtype: torch.dtype | None = None
) -> T:
    """The tower of ``config`` on the meta device, in the precision its weights will have."""
    try:
        with torch.device("meta"):
            tower = kind(**config)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"{source} describes no Wan transformer ({error}); restore it from the release") from None
    for key, parameter in tower.named_parameters():
        parameter.data = parameter.data.to(precision_of(key, dtype, _FLOAT32))
    return tower


def assemble_tower(
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
    tower = tower_of_config(kind, config, source or weights.source, dtype)
    if builds_shapes_only():
        return tower
    if fresh:
        # as if they had been in the file: `assign_weights` casts all alike
        like = next(iter(weights.tensors.values())).dtype
        # without blocks: what is fresh lies outside of them, and 30 layers would take 20 GB for nothing
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
