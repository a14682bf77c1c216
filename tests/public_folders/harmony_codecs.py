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
