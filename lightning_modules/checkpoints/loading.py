"""Opens a checkpoint, and gives a model its weights, where no trainer does it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

from callbacks.ema import EMA_PREFIX
from components.errors import InputError
from components.weights.pretrained import located
from lightning_modules.checkpoints.atomic import AtomicCheckpointIO
from lightning_modules.checkpoints.check import check_checkpoint, checkpoint_error_sentence


def open_checkpoint(path: str, option: str) -> dict[str, Any]:
    """The checkpoint at ``path``, file or folder, whole or slim; may be one that the package ships.

    Raises:
        InputError: if it is missing, damaged or no checkpoint.
    """
    source = str(located(path))
    check_checkpoint(source, option)
    try:
        return AtomicCheckpointIO().load_checkpoint(source)
    except (FileNotFoundError, pickle.UnpicklingError) as error:
        raise InputError(checkpoint_error_sentence(error, source, option)) from None


def load_weights(model: LightningModule, checkpoint: dict[str, Any], averaged: bool = True) -> None:
    """Loads what the checkpoint holds into ``model``, which is configured as for a run.

    Args:
        model: has the pre-trained weights that the checkpoint's were trained on top of.
        checkpoint: as it was saved.
        averaged: take the moving average of the weights, which validation judged, where the checkpoint has one.

    Raises:
        InputError: if the checkpoint does not fit the model.
        RuntimeError: the same, of a model that does not check it itself.
    """
    if averaged:
        checkpoint["state_dict"] = with_averages(checkpoint["state_dict"])
    model.configure_model()  # as a run does: what trains is float32, as the checkpoint has it
    model.on_load_checkpoint(checkpoint)
    model.load_state_dict(checkpoint["state_dict"], strict=model.strict_loading)


def with_averages(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a checkpoint, its moving averages in place of those of the last step where it has any."""
    averages = {key.removeprefix(EMA_PREFIX): value for key, value in state.items() if key.startswith(EMA_PREFIX)}
    return {key: value for key, value in state.items() if not key.startswith(EMA_PREFIX)} | averages
