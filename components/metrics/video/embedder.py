"""Vision transformers of the DINO family from transformers, as what tells how alike two pictures are.

Legend for shapes: N pictures, H x W pixels, D features.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.encoders.transformers_model import load_audio_model
from components.errors import InputError
from components.weights.digests import Sha256
from components.weights.identity import inherit_identity
from components.weights.pretrained import CONFIG_FILE, read_config, resolve_folder

Pooling = Literal["cls", "verse_bench"]

_CLASSES = {
    "vit": "ViTModel",  # DINO
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
}
"""What ``config.json`` calls a model -> its class in transformers."""


class ImageEmbedder(nn.Module):
    """Unit vectors of pictures that are of the model's size and scale already.

    Args:
        checkpoint: folder or hub repository of a DINO, DINOv2 or DINOv3 vision transformer.
        pooling: ``cls`` takes the class token after the last norm; ``verse_bench`` the last token but one, a patch near
            the lower right corner, which is what Verse-Bench's script does.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if the checkpoint is absent, damaged or another model.
    """

    def __init__(self, checkpoint: str, pooling: Pooling = "cls", sha256: Sha256 = None) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise InputError(f"pooling is '{pooling}'; use one of {', '.join(get_args(Pooling))}")
        kind = read_config(resolve_folder(checkpoint, files=CONFIG_FILE)).get("model_type")
        if kind not in _CLASSES:
            raise InputError(
                f"'{checkpoint}' is a model of type {kind!r}, but one of {', '.join(_CLASSES)} is needed: give one"
            )
        self.pooling = pooling
        # DINO's class token is read without the pooler that ViT adds and no public file holds
        settings: dict[str, Any] = {"add_pooling_layer": False} if kind == "vit" else {}
        self.model = load_audio_model(_CLASSES[kind], checkpoint, "float32", {}, sha256=sha256, **settings)
        inherit_identity(self, self.model)
        self.any_size: dict[str, Any] = {"interpolate_pos_encoding": True} if kind == "vit" else {}

    def forward(self, pictures: Tensor) -> Tensor:
        """``[N, 3, H, W]`` to unit vectors ``[N, D]``."""
        tokens = self.model(pictures, **self.any_size).last_hidden_state
        return F.normalize(tokens[:, 0 if self.pooling == "cls" else -2], dim=-1)


def embedded(embedder: nn.Module, pictures: Tensor, at_once: int) -> Tensor:
    """As the embedder says, a few pictures at a time."""
    return torch.cat([embedder(part) for part in pictures.split(at_once)])
