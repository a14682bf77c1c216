"""Writes codec weights the way their publishers do: diffusers folders and MMAudio's own ``.pth`` files."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]


def write_diffusers_folder(folder: Path, class_name: str, config: dict, tensors: Tensors) -> Path:
    """``config.json`` with diffusers' own entries, and the weights beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    header = {"_class_name": class_name, "_diffusers_version": "0.42.1"}
    (folder / "config.json").write_text(json.dumps(header | config))
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    return folder


def stored(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors under ``prefix``, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def write_pickle(file: Path, content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, file)
    return file


def write_bigvgan_folder(folder: Path, config: dict, vocoder: torch.nn.Module, spelling: str, bias: bool) -> Path:
    """NVIDIA's layout of a BigVGAN generator; version 1, with a ``bias`` of 0.5, is published as the file alone.

    Args:
        folder: written into.
        config: constructor arguments of diffusers' ``MMAudioVocoder``.
        vocoder: has the weights.
        spelling: of weight norm: ``old`` (weight_g, weight_v), ``new`` (parametrizations) or ``folded`` (none).
        bias: the last convolution has one.
    """
    tensors = {key: value.clone() for key, value in vocoder.state_dict().items()}
    if bias:
        tensors["conv_post.bias"] = torch.tensor([0.5])
    names = {
        "old": ("weight_g", "weight_v"),
        "new": ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    }
    if spelling != "folded":
        for key in [key for key in tensors if key.endswith(".weight")]:
            weight, layer = tensors.pop(key), key.removesuffix("weight")
            magnitude = weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1))
            tensors[layer + names[spelling][0]] = magnitude
            tensors[layer + names[spelling][1]] = weight / magnitude * 7  # a direction of any length
    header = {"resblock": "1", "activation": "snakebeta", "snake_logscale": True, "batch_size": 4}
    ending = {"use_bias_at_final": bias, "use_tanh_at_final": bias}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(header | config | ending))
    return write_pickle(folder / "bigvgan_generator.pt", {"generator": tensors})
