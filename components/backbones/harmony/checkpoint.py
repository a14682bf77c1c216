"""Weights of the dual tower: folders of our own, and public weights that an audio tower begins with.

`save_harmony` writes a folder: ``config.json`` and the weights, whole or only what was trained. `load_harmony`,
`harmony_audio_tower` and `harmony_video_tower` read it; towers stored within one have diffusers' names once
`tower_weights` has taken them out. `ovi_audio_tower` and `audio_tower_from_wan` begin with Ovi's audio tower or copies
of Wan's blocks. All five loaders can be a ``class_path`` in YAML; under ``with torch.device("meta")`` they build shapes
alone, for which a release that is not on this disk stands for the public TI2V-5B.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.backbones.compilation import CompileConfig
from components.backbones.harmony.audio_tower import OWN_PARTS, AudioTower
from components.backbones.harmony.frame_band import BandConfig
from components.backbones.harmony.interaction import InteractionConfig
from components.backbones.harmony.lora import plain_tensors
from components.backbones.harmony.model import HarmonyTransformer, Tower
from components.backbones.lora import adapted_weight, is_adapter, plain_name
from components.backbones.recomputation import Recomputation
from components.backbones.wan.checkpoint import (
    PUBLIC_HEAD_DIM,
    TOWER_WEIGHTS,
    assemble_tower,
    in_diffusers_spelling,
    settings_of,
    tower_of_config,
    wan_config,
)
from components.backbones.wan.model import WanTower
from components.contracts import Modality
from components.errors import InputError
from components.media.clock import TimeMap
from components.weights.file import Weights, open_weights, open_weights_file
from components.weights.fit import assign_weights
from components.weights.identity import identity_of, record_identity, recorded_identity
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

CLASS_NAME = "HarmonyTransformer"
MAX_SHARD = "10GB"

# blocks live in the layers, not in the towers they came from
_LAYER = re.compile(r"layers\.(\d+)\.(video|audio)_block\.(.+)")
_OVI_AUDIO = "audio_model."  # a prefix only in the file of the whole model
_OVI_FUSION = re.compile(r"\.cross_attn\.(k_fusion|v_fusion|pre_attn_norm_fusion|norm_k_fusion)\.")
# made for the video's patches of 2 x 2 pixels and 48 channels
_STEM_AND_HEAD = ("patch_embedding.", "proj_out.", "scale_shift_table")


def save_harmony(
    model: HarmonyTransformer,
    folder: Path,
    only_trained: bool = False,
    dtype: torch.dtype | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes ``config.json`` and the weights into ``folder``, which must be there.

    Adapters are merged into the weights they adapt, and that tower is written in float32, see `plain_tensors`.

    Args:
        model: the dual tower, or one side of it.
        folder: an empty folder, best one of `components.weights.whole_folder.whole_folder`.
        only_trained: leave out what does not require gradients, such as a frozen video tower, and note what it was.
        dtype: precision of the file; None keeps the model's.
        tensors: the whole values, where those of ``model`` are sharded.
    """
    from huggingface_hub import save_torch_state_dict

    frozen = {plain_name(name) for name, parameter in model.named_parameters() if not parameter.requires_grad}
    # adapters change weights that are frozen themselves: once merged, these are trained weights too
    adapted = {adapted_weight(name) for name in model.state_dict() if is_adapter(name)}
    left_out = sorted(frozen - adapted) if only_trained else []
    values = plain_tensors(model, tensors)
    # contiguous: safetensors refuses transposed and sliced views
    kept = {
        key: value.detach().to("cpu", dtype).contiguous() for key, value in values.items() if key not in set(left_out)
    }
    config: dict[str, Any] = {
        "_class_name": CLASS_NAME,
        "num_layers": len(model.layers),
        "video": None if model.video is None else model.video.config,
        "audio": None if model.audio is None else model.audio.config,
        "interaction": None if model.interaction_config is None else asdict(model.interaction_config),
        "time_map": model.time_map,
        # a left-out tower has to be given on loading: its digest tells whether it is the one trained beside
        "left_out": left_out,
        "left_out_from": _identities(model, left_out),
    }
    pattern = "diffusion_pytorch_model{suffix}.safetensors"
    save_torch_state_dict(kept, folder, filename_pattern=pattern, max_shard_size=MAX_SHARD)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")


@names_files(folder=None)
def load_harmony(
    folder: str,
    video: WanTower | None = None,
    audio: AudioTower | None = None,
    dtype: str | None = "float32",
    checkpoint_activations: Recomputation = False,
    attention_backend: str | None = None,
    sha256: Sha256 = None,
    compile: CompileConfig | None = None,
) -> HarmonyTransformer:
    """The dual tower of a folder that `save_harmony` wrote.

    Args:
        folder: folder on this disk or hub repository (``hf://owner/name``).
        video: the video tower the folder's weights were trained beside, where they were left out of it.
        audio: the same for the audio tower.
        dtype: ``float32``, ``bfloat16`` or ``float16``; null keeps the file's.
        checkpoint_activations: see `HarmonyTransformer`.
        attention_backend: see `HarmonyTransformer`.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).
        compile: see `HarmonyTransformer`.

    Raises:
        InputError: if something is missing or damaged, the weights do not fit, or a tower that was left out is not
            given or is another one.
    """
    path = resolve_folder(folder, sha256=sha256)
    config = _config(path)
    given: dict[Modality, WanTower | None] = {"video": video, "audio": audio}
    for side, tower in given.items():
        _check_tower(side, tower, config, path)
    with torch.device("meta"):
        if video is None and config["video"] is not None:
            video = WanTower(**config["video"])
        if audio is None and config["audio"] is not None:
            audio = AudioTower(**config["audio"])
        interaction, time_map = _interaction(config["interaction"]), _time_map(config)
        model = HarmonyTransformer(video, audio, interaction, time_map, checkpoint_activations, attention_backend)
    if builds_shapes_only():
        return model
    weights, held = open_weights(path), model.state_dict()
    # what the folder leaves out comes from the towers that were given; they are already in the model
    for key in config["left_out"]:
        if key in held:
            weights.tensors[key] = held[key]
    assign_weights(model, weights, dtype_named(dtype))
    record_identity(model, folder, weights.files)
    if compile is not None:
        model.compile_layers(compile)
    return model


@names_files(folder=None)
def harmony_audio_tower(folder: str, dtype: str | None = "float32", sha256: Sha256 = None) -> AudioTower:
    """The audio tower out of a folder that `save_harmony` wrote (the way from audio pre-training to joint training).

    Args:
        folder: folder on this disk or hub repository (``hf://owner/name``).
        dtype: ``float32``, ``bfloat16`` or ``float16``; null keeps the file's.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if something is missing or damaged, or there is no whole audio tower in it.
    """
    return _tower_of_folder("audio", AudioTower, folder, dtype, sha256)


@names_files(folder=None)
def harmony_video_tower(folder: str, dtype: str | None = "float32", sha256: Sha256 = None) -> WanTower:
    """The video tower out of a folder that `save_harmony` wrote; otherwise as `harmony_audio_tower`.

    Raises:
        InputError: if something is missing or damaged, or there is no whole video tower in it.
    """
    return _tower_of_folder("video", WanTower, folder, dtype, sha256)


def _tower_of_folder(side: Modality, kind: type[Tower], folder: str, dtype: str | None, sha256: Sha256) -> Tower:
    path = resolve_folder(folder, sha256=sha256)
    config = _config(path)
    if config[side] is None:
        raise InputError(f"{path / CONFIG_FILE} has no {side} tower; give a folder whose model has one")
    with torch.device("meta"):
        tower = kind(**config[side])
    if builds_shapes_only():
        return tower
    weights = open_weights(path)
    found = Weights(tower_weights(weights.tensors, side), weights.files, weights.source)
    assign_weights(tower, found, dtype_named(dtype))
    record_identity(tower, folder, weights.files)
    return tower


def tower_weights(tensors: Mapping[str, Tensor], side: Modality) -> dict[str, Tensor]:
    """One tower out of the ``state_dict`` of a `HarmonyTransformer`, under its own (diffusers') names."""
    taken = {}
    for key, value in tensors.items():
        block = _LAYER.fullmatch(key)
        if block is not None and block[2] == side:
            taken[f"blocks.{block[1]}.{block[3]}"] = value
        elif key.startswith(f"{side}."):
            taken[key.removeprefix(f"{side}.")] = value
    return taken


def _config(path: Path) -> dict[str, Any]:
    config = read_config(path)
    if config.get("_class_name") != CLASS_NAME:
        raise InputError(
            f"{path / CONFIG_FILE} names the class {config.get('_class_name')!r}, not {CLASS_NAME!r}; give a folder "
            "that a Harmony training exported"
        )
    lacking = [key for key in ("video", "audio", "interaction", "left_out", "left_out_from") if key not in config]
    if "time_map" not in config and "clock" not in config:
        lacking.append("time_map")
    if lacking:
        raise InputError(f"{path / CONFIG_FILE} lacks {', '.join(lacking)}; export the model anew")
    return config


def _interaction(settings: Mapping[str, Any] | None) -> InteractionConfig | None:
    return None if settings is None else InteractionConfig(**{**settings, "band": BandConfig(**settings["band"])})


def _time_map(config: Mapping[str, Any]) -> TimeMap:
    """Folders of earlier versions hold it among the rates of a ``clock``, which now come from clips and codecs."""
    time_map: TimeMap = config["time_map"] if "time_map" in config else config["clock"]["time_map"]
    return time_map


def _identities(model: HarmonyTransformer, left_out: Iterable[str]) -> dict[str, str]:
    """Digest of each tower that had no trained part and whose file is known."""
    absent = set(left_out)
    found = {}
    for side, tower in (("video", model.video), ("audio", model.audio)):
        if tower is not None and any(key.startswith(f"{side}.") for key in absent):
            identity = recorded_identity(tower)
            if identity is not None:
                found[side] = identity.sha256
    return found


def _check_tower(side: Modality, tower: nn.Module | None, config: Mapping[str, Any], path: Path) -> None:
    """A tower that was left out must be given, and be the one that was left out."""
    # the keys alone matter: any tensor will do as value
    needed = bool(tower_weights(dict.fromkeys(config["left_out"], torch.empty(0)), side))
    if needed and tower is None:
        raise InputError(f"{path} holds only what was trained: give the {side} tower it was trained beside as '{side}'")
    if tower is None:
        return
    if config[side] is None:
        raise InputError(f"{path} has no {side} tower, but '{side}' was given; leave it out")
    wanted = config["left_out_from"].get(side)
    if wanted is None:
        return
    found = identity_of(tower).sha256
    if found != wanted:
        raise InputError(
            f"{path} was trained beside a {side} tower of SHA-256 {wanted[:12]}, but the one given has {found[:12]}; "
            "give the same weights"
        )


@names_files("file")
def ovi_audio_tower(
    file: str,
    transcript_dim: int | None = 1472,
    rope_scale: float | None = None,
    dtype: str | None = "float32",
    text_len: int | None = 512,
    head_dim: int | None = None,
    sha256: Sha256 = None,
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
        sha256: digest of the file (see `components.weights.digests`).

    Raises:
        InputError: if the file is missing or damaged or holds no such tower.
    """
    weights = open_weights_file(find_file(file, sha256) or Path(file).expanduser())
    if any(key.startswith(_OVI_AUDIO) for key in weights.tensors):
        kept = {k.removeprefix(_OVI_AUDIO): v for k, v in weights.tensors.items() if k.startswith(_OVI_AUDIO)}
    else:
        kept = dict(weights.tensors)
    # keys and values of the other modality, which Ovi adds to the text attention; ours is `DecoupledInteraction`
    kept = {key: value for key, value in kept.items() if not _OVI_FUSION.search(f".{key}")}
    weights = in_diffusers_spelling(Weights(kept, weights.files, weights.source))
    settings = settings_of(weights, head_dim or PUBLIC_HEAD_DIM, stem_key="patch_embedding.0.weight")
    # `AudioTower` takes neither: both follow from its channels
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


@names_files(folder="subfolder")
def audio_tower_from_wan(
    folder: str,
    subfolder: str | None = None,
    channels: int = 20,
    transcript_dim: int | None = 1472,
    rope_scale: float | None = None,
    dtype: str | None = "float32",
    text_len: int | None = 512,
    sha256: Sha256 = None,
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
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

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
    path = resolve_folder(folder, subfolder, TOWER_WEIGHTS, sha256)
    weights = in_diffusers_spelling(open_weights(path))
    for key in [key for key in weights.tensors if key.startswith(_STEM_AND_HEAD)]:
        del weights.tensors[key]
    name = full_name(folder, subfolder)
    fresh = (*OWN_PARTS, *_STEM_AND_HEAD)
    return assemble_tower(AudioTower, {**shared, **ours}, weights, dtype_named(dtype), name, path, fresh)
