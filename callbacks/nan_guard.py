"""Stops training at the first loss that is no number."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from components.errors import InputError


class NaNGuard(Callback):
    """Raises, on all processes together, before a NaN or infinite loss reaches the weights.

    Args:
        every_n_steps: how often to look; on a GPU every look waits for the device.

    Raises:
        InputError: in training, naming the step, the loss and the logged parts of it that are no numbers.
    """

    def __init__(self, every_n_steps: int = 1) -> None:
        if every_n_steps < 1:
            raise InputError(f"NaNGuard.every_n_steps is {every_n_steps}; it must be at least 1")
        self.every_n_steps = every_n_steps

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Looks at the loss and, if it is bad, at everything logged beside it."""
        if trainer.global_step % self.every_n_steps:
            return
        # decided together: a rank that stopped alone would leave the others in a collective
        if not trainer.strategy.reduce_boolean_decision(not torch.isfinite(loss).all(), all=False):
            return
        parts = [name for name, value in trainer.callback_metrics.items() if not torch.isfinite(value).all()]
        named = f" (not finite: {', '.join(parts)})" if parts else ""
        raise InputError(
            f"the loss is {loss.detach().mean().item()} at step {trainer.global_step}{named}; lower the learning rate, "
            "set trainer.gradient_clip_val, or look for a damaged clip in the training data"
        )
