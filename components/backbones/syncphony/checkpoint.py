"""The audio layers beside a transformer's folder in the public layout, which has no place for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from components.errors import InputError
from components.weights.file import open_weights_file, save_weights
from components.weights.fit import check_fit, copy_weights
from components.weights.pretrained import builds_shapes_only, resolve_folder

if TYPE_CHECKING:
    from components.backbones.syncphony.model import SyncphonyDiT

AUDIO_LAYERS_FILE = "audio_layers.safetensors"


def audio_part(dit: SyncphonyDiT) -> nn.ModuleDict:
    """Embedder and layers under the names they have in the file.

    Raises:
        InputError: if the transformer was built without audio layers.
    """
    if dit.audio_embedder is None or dit.audio_layers is None:
        raise InputError("dit.audio_weights is given but dit.audio_dim is null: set audio_dim to the encoder's width")
    return nn.ModuleDict({"audio_embedder": dit.audio_embedder, "audio_layers": dit.audio_layers})


def save_audio_layers(dit: SyncphonyDiT, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write ``audio_layers.safetensors`` into ``folder``; nothing for a transformer without audio layers."""
    if dit.audio_layers is None:
        return
    save_weights(folder / AUDIO_LAYERS_FILE, audio_part(dit).state_dict(), dtype)


def load_audio_layers(dit: SyncphonyDiT, folder: str) -> None:
    """Take the audio layers of a folder that `avsync export` wrote (on the meta device: only see whether they fit).

    Raises:
        InputError: if the folder or the file is missing or damaged, or has layers for other blocks or another width.
    """
    file = resolve_folder(folder) / AUDIO_LAYERS_FILE
    if not file.is_file():
        raise InputError(f"'{file}' does not exist; give dit.audio_weights a folder that avsync export has written")
    weights = open_weights_file(file)
    if builds_shapes_only():
        check_fit(audio_part(dit), weights)
    else:
        copy_weights(audio_part(dit), weights)
