"""The audio layers beside a transformer's folder in the public layout, which has no place for them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from components.errors import InputError
from components.weights.file import open_weights_file, save_weights
from components.weights.fit import check_fit, copy_weights
from components.weights.pretrained import builds_shapes_only, resolve_folder

AUDIO_LAYERS_FILE = "audio_layers.safetensors"


def save_audio_layers(parts: nn.ModuleDict, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write ``audio_layers.safetensors`` into ``folder``; nothing where there is no part.

    Args:
        parts: embedder and layers (`SyncphonyDiT.audio_parts`); their names begin the keys in the file.
        folder: an existing folder.
        dtype: precision of the file; None keeps the weights'.
    """
    if len(parts):
        save_weights(folder / AUDIO_LAYERS_FILE, parts.state_dict(), dtype)


def load_audio_layers(parts: nn.ModuleDict, folder: str) -> None:
    """Fill ``parts`` from a folder that `avsync export` wrote (on the meta device: only see whether they fit).

    Args:
        parts: as for `save_audio_layers`.
        folder: folder on this disk or hub repository (``hf://owner/name``).

    Raises:
        InputError: if there is nothing to fill, or the folder or the file is missing or damaged, or has layers for
            other blocks or another width.
    """
    if not len(parts):
        raise InputError("dit.audio_weights is given but dit.audio_dim is null: set audio_dim to the encoder's width")
    file = resolve_folder(folder) / AUDIO_LAYERS_FILE
    if not file.is_file():
        raise InputError(f"'{file}' does not exist; give dit.audio_weights a folder that avsync export has written")
    weights = open_weights_file(file)
    if builds_shapes_only():
        # the check alone: parts on the meta device have nothing to copy into
        check_fit(parts, weights)
    else:
        copy_weights(parts, weights)
