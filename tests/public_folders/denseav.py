"""Tiny DenseAV checkpoints in both public layouts: real HuBERT, real key names, random weights by the golden recipe."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

TINY_HUBERT: dict[str, Any] = {
    "hidden_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "layer_norm_eps": 1e-4,
}

ARGUMENTS: dict[str, Any] = {
    "code_dim": 24,
    "image_model_type": "dino8",
    "image_aligner_type": "image_linear",
    "audio_model_type": "hubert",
    "audio_aligner_type": "audio_sa_3_3_pool_2",
    "audio_pool_width": 1,
    "audio_lora": False,
    "audio_lora_rank": 8,
    "image_lora": True,
    "learn_audio_cls": True,
    "norm_vectors": False,
    "sim_agg_type": "misa",
    "lr": 5e-5,
    "lr_schedule": None,
}
"""The constructor arguments a checkpoint stores, those of the public sound model but for the width."""


def tiny_denseav(
    hubert: Mapping[str, Any] = TINY_HUBERT, arguments: Mapping[str, Any] = ARGUMENTS, seed: int = 31
) -> dict[str, Tensor]:
    """Random weights of the whole model (audio branch; a piece of the image tower and of the similarity heads)."""
    from transformers import HubertConfig, HubertModel

    from components.encoders.audio.denseav_aligner import Aligner

    with torch.device("meta"):
        backbone = HubertModel(HubertConfig(**hubert))
        aligner = Aligner(arguments["audio_aligner_type"], backbone.config.hidden_size, arguments["code_dim"])
    shapes = {"audio_model.model." + k: tuple(v.shape) for k, v in backbone.state_dict().items()}
    shapes |= {"audio_aligner." + k: tuple(v.shape) for k, v in aligner.state_dict().items()}
    shapes |= {"image_model.model.cls_token": (1, 1, 8), "image_aligner.layer.weight": (24, 8, 1, 1), "sim_cal.w": (1,)}
    if arguments["learn_audio_cls"]:
        shapes["audio_cls"] = (backbone.config.hidden_size,)
    return recipe_weights({old_spelling(key): shape for key, shape in shapes.items()}, seed)


def write_hub_folder(
    folder: Path,
    weights: Mapping[str, Tensor] | None = None,
    arguments: Mapping[str, Any] = ARGUMENTS,
    hubert: Mapping[str, Any] = TINY_HUBERT,
) -> Path:
    """``model.safetensors`` and ``config.json``, as on the hub; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = tiny_denseav(hubert, arguments) if weights is None else weights
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**arguments, "hubert": _not_in_weights(hubert)}))
    return folder


def write_lightning_checkpoint(
    file: Path,
    weights: Mapping[str, Tensor] | None = None,
    arguments: Mapping[str, Any] = ARGUMENTS,
    hubert: Mapping[str, Any] = TINY_HUBERT,
) -> Path:
    """A ``.ckpt`` as Lightning's trainer writes it; returns the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    weights = tiny_denseav(hubert, arguments) if weights is None else weights
    content = {
        "epoch": 0,
        "global_step": 1,
        "pytorch-lightning_version": "1.9.4",
        "state_dict": dict(weights),
        "hparams_name": "kwargs",
        "hyper_parameters": {**arguments, "hubert": _not_in_weights(hubert)},
    }
    torch.save(content, file)
    return file


def with_lora(
    weights: Mapping[str, Tensor], rank: int = 8, seed: int = 7, new_names: bool = False
) -> dict[str, Tensor]:
    """The same checkpoint as peft stores a model with LoRA on queries, keys and values.

    Args:
        weights: a checkpoint without LoRA; its weights become the frozen base.
        rank: of the updates.
        seed: of the updates.
        new_names: call frozen weights ``base_layer``, as peft does since 0.7.
    """
    wrapped: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in weights.items():
        name = key.replace("audio_model.", "audio_model.base_model.model.")
        layer, _, kind = name.rpartition(".")
        adapted = layer.endswith(("q_proj", "k_proj", "v_proj"))
        wrapped[f"{layer}.base_layer.{kind}" if adapted and new_names else name] = tensor
        if adapted and kind == "weight":
            out_dim, in_dim = tensor.shape
            wrapped[f"{layer}.lora_A.default.weight"] = torch.randn(rank, in_dim, generator=generator) / in_dim**0.5
            wrapped[f"{layer}.lora_B.default.weight"] = torch.randn(out_dim, rank, generator=generator) / rank
    return wrapped


def old_spelling(key: str) -> str:
    """A key with the position convolution spelled as torch did before parametrisations."""
    return key.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    )


def new_spelling(key: str) -> str:
    """The opposite of `old_spelling`."""
    return key.replace("conv.weight_g", "conv.parametrizations.weight.original0").replace(
        "conv.weight_v", "conv.parametrizations.weight.original1"
    )


def recipe_weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Each tensor drawn from its name and ``seed`` alone, so that order does not matter."""
    return {key: torch.from_numpy(_recipe(key, tuple(shape), seed)).float() for key, shape in shapes.items()}


def _recipe(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.RandomState((zlib.crc32(key.encode()) + 1000003 * seed) % 2**32)
    if key.endswith("weight"):
        noise = rng.standard_normal(shape)
        return 1 + 0.1 * noise if len(shape) == 1 else noise * (1.5 / prod(shape[1:])) ** 0.5
    return 0.1 * rng.standard_normal(shape)


def _not_in_weights(hubert: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that shapes of weights do not tell."""
    return {"num_attention_heads": hubert["num_attention_heads"]}
