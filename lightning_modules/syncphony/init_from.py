"""Syncphony begins with the weights of another Syncphony training alone."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from components.backbones.syncphony.checkpoint import AUDIO_LAYERS_FILE
from components.backbones.syncphony.model import SyncphonyDiT
from components.weights.file import open_weights, open_weights_file
from components.weights.identity import Identity, forget_identity, identity_of
from components.weights.pretrained import located
from lightning_modules.checkpoints.init_from import (
    check_same_frozen,
    is_export,
    take_over,
    weights_to_begin_with,
)
from lightning_modules.checkpoints.loading import open_checkpoint

_BACKBONE = "backbone."


def begin_from(path: str, dit: SyncphonyDiT, frozen: Mapping[str, Identity]) -> None:
    """Take over trained weights; averaged ones where the checkpoint has them.

    A checkpoint without audio layers, such as that of a backbone's pre-training, leaves those of the transformer as
    they are.

    Args:
        path: checkpoint of a `SyncphonyModule`, file or folder, whole or slim, or a folder that ``avsync export``
            wrote; may be one that the package ships.
        dit: receives the weights.
        frozen: identities of codec and encoders here, by name; those of the checkpoint must be the same.

    Raises:
        InputError: if it is missing or damaged, does not fit, or was trained on other frozen weights. The transformer
            is unchanged then.
    """
    named, held = f"init_from '{path}'", dit.state_dict(keep_vars=True)
    if is_export(path):
        weights, lacks_backbone = _exported(path), True
    else:
        checkpoint = open_checkpoint(path, "init_from")
        weights = weights_to_begin_with(checkpoint, "dit.")
        # what the checkpoint leaves out was frozen there, and must be what it was
        base = {name.removeprefix(_BACKBONE): held[name] for name in held.keys() - weights.keys() if _is_base(name)}
        check_same_frozen(checkpoint, {**frozen, "backbone": identity_of(dit.backbone, base)}, named)
        lacks_backbone = "backbone" not in checkpoint.get("frozen", {})
    has_audio = any(not _is_base(name) for name in weights)
    if not has_audio and dit.audio_layers is not None:
        rank_zero_info(f"{named} has no audio layers; they begin as they are")
    needed = [name for name, _ in dit.named_parameters() if (lacks_backbone if _is_base(name) else has_audio)]
    take_over(weights, held, [name for name in needed if name not in weights], named)
    replaced = (name for name, value in dit.named_parameters() if not value.requires_grad and name in weights)
    if any(_is_base(name) for name in replaced):
        # no file tells any more what the frozen blocks are
        forget_identity(dit.backbone)


def _exported(path: str) -> dict[str, Tensor]:
    folder = located(path)
    weights = {f"{_BACKBONE}{name}": value for name, value in open_weights(folder).tensors.items()}
    audio = folder / AUDIO_LAYERS_FILE
    return weights | (dict(open_weights_file(audio).tensors) if audio.is_file() else {})


def _is_base(name: str) -> bool:
    return name.startswith(_BACKBONE)
