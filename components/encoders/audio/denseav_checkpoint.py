"""DenseAV checkpoints as they are published: what to build, and the weights of the audio branch under our names.

Two layouts hold the same keys: a hub folder (``model.safetensors`` with the constructor's arguments in
``config.json``) and a Lightning ``.ckpt`` (``state_dict`` with the arguments in ``hyper_parameters``). The image tower
and the similarity heads are left out. Sizes of the HuBERT are read off the weights, so that variants of any size load.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.errors import InputError
from components.weights.file import open_weights_file
from components.weights.pretrained import Sha256, builds_shapes_only, find_file, read_config, resolve_folder

PUBLIC_NAMES = ("mhamilton723/DenseAV-sound", "mhamilton723/DenseAV-language", "mhamilton723/DenseAV-sound-language")

PUBLIC_HUBERT: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "conv_dim": (512,) * 7,
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "feat_proj_layer_norm": True,
    "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "layer_norm_eps": 1e-4,
}
"""facebook/hubert-large-ls960-ft with the epsilon DenseAV was trained with."""

_HEAD_DIM = 64
_LORA_ALPHA = 32
_LORA = re.compile(r"(?P<layer>.+)\.lora_A\.(?P<adapter>[^.]+)\.weight")
_POSITION_CONV = "encoder.pos_conv_embed.conv."
_NEW_SPELLING = {
    _POSITION_CONV + "weight_g": _POSITION_CONV + "parametrizations.weight.original0",
    _POSITION_CONV + "weight_v": _POSITION_CONV + "parametrizations.weight.original1",
}


@dataclass(frozen=True)
class DenseAVCheckpoint:
    """The audio branch of a checkpoint.

    Attributes:
        hubert: settings of the ``HubertConfig``.
        aligner: kind of the aligner.
        code_dim: width of the aligned tokens.
        learn_audio_cls: whether a learned class vector goes through the aligner with the tokens.
        norm_vectors: whether aligned tokens are scaled to unit length.
        weights: ``hubert.*``, ``aligner.*`` and ``audio_cls``; empty where only the architecture is known.
    """

    hubert: Mapping[str, Any]
    aligner: str = "audio_sa_3_3_pool_2"
    code_dim: int = 384
    learn_audio_cls: bool = True
    norm_vectors: bool = False
    weights: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def public(cls) -> DenseAVCheckpoint:
        """The architecture of the public checkpoints, without weights."""
        return cls(PUBLIC_HUBERT)

    @classmethod
    def of(cls, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], source: Path) -> DenseAVCheckpoint:
        """What stored constructor arguments and tensors describe; ``source`` is named in errors.

        Beside DenseAV's own arguments an optional ``hubert`` gives settings that weights do not show.

        Raises:
            InputError: if the arguments are incomplete or describe something else than a HuBERT branch.
        """
        backbone = arguments.get("audio_model_type", "hubert")
        if backbone != "hubert":
            raise InputError(
                f"'{source}' has the audio model {backbone!r}: only DenseAV with HuBERT is supported, "
                f"for example hf://{PUBLIC_NAMES[0]}."
            )
        absent = [key for key in ("code_dim", "audio_aligner_type", "learn_audio_cls") if key not in arguments]
        if absent:
            raise InputError(
                f"'{source}' does not store {', '.join(absent)}; give a checkpoint with DenseAV's constructor arguments"
            )
        if not isinstance(arguments["code_dim"], int):
            raise InputError(f"'{source}' stores the code_dim {arguments['code_dim']!r}, which is no width; restore it")
        weights = audio_weights(tensors)
        backbone_shapes = {k.removeprefix("hubert."): v.shape for k, v in weights.items() if k.startswith("hubert.")}
        if not backbone_shapes:
            raise InputError(
                f"'{source}' holds no audio_model weights: it is not a DenseAV checkpoint with its HuBERT."
            )
        return cls(
            hubert_settings(backbone_shapes, arguments.get("hubert") or {}, source),
            str(arguments["audio_aligner_type"]),
            int(arguments["code_dim"]),
            bool(arguments["learn_audio_cls"]),
            bool(arguments.get("norm_vectors", False)),
            weights,
        )


def audio_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The audio branch of a public state dict under the names ``hubert.*``, ``aligner.*`` and ``audio_cls``.

    Undoes what peft adds to names, merges LoRA updates into the weights they belong to, and drops the embedding that
    HuBERT needs for masked training only.
    """
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if key.startswith("audio_model."):
            # peft's wrapper, then DenseAV's own
            name = key.removeprefix("audio_model.").removeprefix("base_model.model.").removeprefix("model.")
            name = name.replace(".base_layer.", ".")
            found["hubert." + _NEW_SPELLING.get(name, name)] = tensor
        elif key.startswith("audio_aligner."):
            found["aligner." + key.removeprefix("audio_aligner.")] = tensor
        elif key == "audio_cls":
            found[key] = tensor
    found.pop("hubert.masked_spec_embed", None)
    for key in [key for key in found if _LORA.fullmatch(key)]:
        _merge_lora(found, key)
    return found


def _merge_lora(weights: dict[str, Tensor], key_a: str) -> None:
    """``W + alpha / r * B A`` in float32, with the alpha that DenseAV's training code fixes."""
    key_b = key_a.replace(".lora_A.", ".lora_B.")
    base = key_a[: key_a.index(".lora_A.")] + ".weight"
    if base not in weights or key_b not in weights:
        return  # left in place, so that loading names it as unexpected
    a, b = weights.pop(key_a).float(), weights.pop(key_b).float()
    weights[base] = torch.addmm(weights[base].float(), b, a, alpha=_LORA_ALPHA / a.shape[0])


def hubert_settings(shapes: Mapping[str, torch.Size], given: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Settings of the HuBERT whose parameters have these shapes.

    What shapes leave open is as in the public model (heads of 64 channels, strides), unless ``given`` says otherwise.

    Raises:
        InputError: if the number of heads or the strides can be neither read nor assumed.
    """
    seen: dict[str, Any] = {}
    convs = [
        shapes[key] for i in range(len(shapes)) if (key := f"feature_extractor.conv_layers.{i}.conv.weight") in shapes
    ]
    if convs:
        seen["conv_dim"] = tuple(shape[0] for shape in convs)
        seen["conv_kernel"] = tuple(shape[2] for shape in convs)
        seen["conv_bias"] = "feature_extractor.conv_layers.0.conv.bias" in shapes
        # layer norm in every convolution or group norm in the first: told by a second layer's norm
        layered = len(convs) == 1 or "feature_extractor.conv_layers.1.layer_norm.weight" in shapes
        seen["feat_extract_norm"] = "layer" if layered else "group"
        seen["do_stable_layer_norm"] = layered  # the two go together in every public model
    projection = shapes.get("feature_projection.projection.weight")
    if projection is not None:
        seen["hidden_size"] = projection[0]
        seen["num_attention_heads"] = projection[0] // _HEAD_DIM
        seen["feat_proj_layer_norm"] = "feature_projection.layer_norm.weight" in shapes
    layers = {match[1] for key in shapes if (match := re.match(r"encoder\.layers\.(\d+)\.", key))}
    if layers:
        seen["num_hidden_layers"] = len(layers)
    hidden = shapes.get("encoder.layers.0.feed_forward.intermediate_dense.weight")
    if hidden is not None:
        seen["intermediate_size"] = hidden[0]
    position = shapes.get(_POSITION_CONV + "parametrizations.weight.original1")
    if position is not None:
        seen["num_conv_pos_embeddings"] = position[2]
        seen["num_conv_pos_embedding_groups"] = position[0] // position[1]
    settings = {**PUBLIC_HUBERT, **seen, **given}
    if settings["hidden_size"] % _HEAD_DIM and "num_attention_heads" not in given:
        raise InputError(
            f"'{source}' has a HuBERT of width {settings['hidden_size']}, whose number of heads cannot be told: "
            "store it beside the other arguments as hubert: {num_attention_heads: N}."
        )
    if len(settings["conv_stride"]) != len(settings["conv_kernel"]):
        raise InputError(
            f"'{source}' has a HuBERT of {len(settings['conv_kernel'])} convolutions, whose strides cannot be told: "
            "store them beside the other arguments as hubert: {conv_stride: [...]}."
        )
    return settings


def read_checkpoint(name: str, sha256: Sha256 = None) -> tuple[DenseAVCheckpoint, Path]:
    """The checkpoint called ``name`` and the file that holds its weights; on the meta device their shapes only.

    Args:
        name: hub repository, folder in its layout (or holding one ``.ckpt``), or a ``.safetensors`` or ``.ckpt`` file.
        sha256: digest of the file, or of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if nothing is found under that name or it cannot be used.
    """
    file = _weights_file(name, sha256)
    if file.suffix == ".safetensors":
        arguments, tensors = read_config(file.parent), open_weights_file(file).tensors
    else:
        stored = _read_lightning(file)
        arguments, tensors = stored["hyper_parameters"], stored["state_dict"]
    device = "meta" if builds_shapes_only() else "cpu"
    audio = {key: tensor.to(device) for key, tensor in tensors.items() if key.startswith("audio_")}
    return DenseAVCheckpoint.of(arguments, audio, file), file


def _weights_file(name: str, sha256: Sha256) -> Path:
    if (file := find_file(name, sha256)) is not None:
        return file
    folder = resolve_folder(name, sha256=sha256)
    if (folder / "model.safetensors").is_file():
        return folder / "model.safetensors"
    candidates = sorted(folder.glob("*.ckpt"))
    if len(candidates) != 1:
        raise InputError(
            f"folder '{folder}' holds {len(candidates) or 'no'} DenseAV checkpoints: "
            "it needs model.safetensors with config.json, or one .ckpt file"
        )
    return candidates[0]


def _read_lightning(file: Path) -> dict[str, Any]:
    """The plain content of a Lightning checkpoint; Python objects in it are refused, never built."""
    try:
        with warnings.catch_warnings():  # what the sentence about a file that cannot be read says better
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            stored = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        named = re.findall(r"GLOBAL ([\w.]+)", str(error))
        raise InputError(
            f"checkpoint '{file}' is damaged or holds {', '.join(named) or 'Python objects'}, which could run code and "
            "is therefore not loaded; save it anew with nothing but state_dict and hyper_parameters of plain types, or "
            f"use hf://{PUBLIC_NAMES[0]}"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = re.split(r"\n|\. ", str(error))[0] or "it is empty"
        raise InputError(f"checkpoint '{file}' cannot be read ({reason}); download it anew") from None
    parts = ("state_dict", "hyper_parameters")
    absent = [part for part in parts if not isinstance(stored, dict) or not isinstance(stored.get(part), dict)]
    if absent:
        raise InputError(
            f"checkpoint '{file}' holds no {' and no '.join(absent)}; give a Lightning checkpoint of DenseAV, "
            f"or hf://{PUBLIC_NAMES[0]}"
        )
    return dict(stored)
