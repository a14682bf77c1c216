"""Gives a model the weights of a checkpoint where no trainer does it."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

from callbacks.ema import EMA_PREFIX


def load_weights(model: LightningModule, checkpoint: dict[str, Any], averaged: bool = True) -> None:
    """Loads what the checkpoint holds into ``model``.

    Args:
        model: has the pre-trained weights that the checkpoint's were trained on top of.
        checkpoint: as it was saved.
        averaged: take the moving average of the weights, which validation judged, where the checkpoint has one.

    Raises:
        InputError: if the checkpoint does not fit the model.
        RuntimeError: the same, of a model that does not check it itself.
    """
    state: dict[str, Tensor] = checkpoint["state_dict"]
    averages = {key.removeprefix(EMA_PREFIX): value for key, value in state.items() if key.startswith(EMA_PREFIX)}
    if averaged and averages:
        # in place of the weights whose names they have
        weights = {key: value for key, value in state.items() if not key.startswith(EMA_PREFIX)}
        checkpoint["state_dict"] = weights | averages
    model.on_load_checkpoint(checkpoint)
    model.load_state_dict(checkpoint["state_dict"], strict=model.strict_loading)
