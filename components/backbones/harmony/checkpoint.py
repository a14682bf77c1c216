"""A dual tower in a folder: ``config.json`` and the weights, whole or only what was trained.

Towers stored within one have diffusers' names once `tower_weights` has taken them out.
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

from components.backbones.harmony.audio_tower import AudioTower
from components.backbones.harmony.frame_band import BandConfig
from components.backbones.harmony.interaction import InteractionConfig
from components.backbones.harmony.latent_clock import LatentClock
from components.backbones.harmony.lora import plain_tensors
from components.backbones.harmony.model import HarmonyTransformer, Modality
from components.backbones.lora import adapted_weight, is_adapter, plain_name
from components.backbones.wan.model import WanTower
from components.errors import InputError
from components.weights.file import Weights, open_weights
from components.weights.fit import assign_weights
from components.weights.identity import identity_of, record_identity, recorded_identity
from components.weights.pretrained import CONFIG_FILE, builds_shapes_only, dtype_named, read_config, resolve_folder

CLASS_NAME = "HarmonyTransformer"
MAX_SHARD = "10GB"

_LAYER = re.compile(r"layers\.(\d+)\.(video|audio)_block\.(.+)")


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
    adapted = {adapted_weight(name) for name in model.state_dict() if is_adapter(name)}
    left_out = sorted(frozen - adapted) if only_trained else []
    values = plain_tensors(model, tensors)
    kept = {
        key: value.detach().to("cpu", dtype).contiguous() for key, value in values.items() if key not in set(left_out)
    }
    config: dict[str, Any] = {
        "_class_name": CLASS_NAME,
        "num_layers": len(model.layers),
        "video": None if model.video is None else model.video.config,
        "audio": None if model.audio is None else model.audio.config,
        "interaction": None if model.interaction_config is None else asdict(model.interaction_config),
        "clock": asdict(model.clock),
        "left_out": left_out,
        "left_out_from": _identities(model, left_out),
    }
    pattern = "diffusion_pytorch_model{suffix}.safetensors"
    save_torch_state_dict(kept, folder, filename_pattern=pattern, max_shard_size=MAX_SHARD)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")


def load_harmony(
    folder: str,
    video: WanTower | None = None,
    audio: AudioTower | None = None,
    dtype: str | None = "float32",
    checkpoint_activations: bool = False,
    attention_backend: str | None = None,
) -> HarmonyTransformer:
    """The dual tower of a folder that `save_harmony` wrote.

    Args:
        folder: folder on this disk or ``owner/name`` of a hub repository.
        video: the video tower the folder's weights were trained beside, where they were left out of it.
        audio: the same for the audio tower.
        dtype: ``float32``, ``bfloat16`` or ``float16``; null keeps the file's.
        checkpoint_activations: see `HarmonyTransformer`.
        attention_backend: see `HarmonyTransformer`.

    Raises:
        InputError: if something is missing or damaged, the weights do not fit, or a tower that was left out is not
            given or is another one.
    """
    path = resolve_folder(folder)
    config = _config(path)
    given: dict[Modality, WanTower | None] = {"video": video, "audio": audio}
    for side, tower in given.items():
        _check_tower(side, tower, config, path)
    with torch.device("meta"):
        if video is None and config["video"] is not None:
            video = WanTower(**config["video"])
        if audio is None and config["audio"] is not None:
            audio = AudioTower(**config["audio"])
        interaction, clock = _interaction(config["interaction"]), LatentClock(**config["clock"])
        model = HarmonyTransformer(video, audio, interaction, clock, checkpoint_activations, attention_backend)
    if builds_shapes_only():
        return model
    weights, held = open_weights(path), model.state_dict()
    for key in config["left_out"]:
        if key in held:
            weights.tensors[key] = held[key]
    assign_weights(model, weights, dtype_named(dtype))
    record_identity(model, folder, weights.files)
    return model


def harmony_audio_tower(folder: str, dtype: str | None = "float32") -> AudioTower:
    """The audio tower out of a folder that `save_harmony` wrote (the way from audio pre-training to joint training).

    Args:
        folder: folder on this disk or ``owner/name`` of a hub repository.
        dtype: ``float32``, ``bfloat16`` or ``float16``; null keeps the file's.

    Raises:
        InputError: if something is missing or damaged, or there is no whole audio tower in it.
    """
    path = resolve_folder(folder)
    config = _config(path)
    if config["audio"] is None:
        raise InputError(f"{path / CONFIG_FILE} has no audio tower; give a folder whose model has one")
    with torch.device("meta"):
        tower = AudioTower(**config["audio"])
    if builds_shapes_only():
        return tower
    weights = open_weights(path)
    assign_weights(
        tower, Weights(tower_weights(weights.tensors, "audio"), weights.files, weights.source), dtype_named(dtype)
    )
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
    lacking = [k for k in ("video", "audio", "interaction", "clock", "left_out", "left_out_from") if k not in config]
    if lacking:
        raise InputError(f"{path / CONFIG_FILE} lacks {', '.join(lacking)}; export the model anew")
    return config


def _interaction(settings: Mapping[str, Any] | None) -> InteractionConfig | None:
    return None if settings is None else InteractionConfig(**{**settings, "band": BandConfig(**settings["band"])})


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
