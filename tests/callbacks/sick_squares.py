"""A model that one clip makes sick: its loss is finite, or not, and its gradient is not finite."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader

from lightning_modules.syncphony.module import SyncphonyModule
from tests.callbacks.jumping_squares import JumpingSquares
from tests.lightning_modules.tiny_module import TinyData, clips, tiny_module


def root_of_zero(value: torch.Tensor) -> torch.Tensor:
    """0, whose gradient is nan."""
    return (value - value.detach()).square().sum().sqrt()


class SickSquares(JumpingSquares):
    """The loss of the clip ``sick`` is a number, its gradient is not.

    Args:
        sick: the clip's name.
        loss: its loss is nan too.
        until: from this step on it does no harm.
        **settings: of `JumpingSquares`.
    """

    def __init__(self, sick: str, loss: bool = False, until: int = 1000, **settings):
        super().__init__(**settings)
        self.sick, self.nan_loss, self.until = sick, loss, until
        self.drawn = []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.drawn.append(torch.rand(()).item())
        if self.sick in batch.ids and self.global_step < self.until:
            loss = loss * float("nan") if self.nan_loss else loss + root_of_zero(self.layer.weight)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class SickSyncphony(SyncphonyModule):
    """A tiny Syncphony in which one training batch, by its global index, gets a gradient that is not finite."""

    def __init__(self, sick_index: int = 1):
        tiny = tiny_module(random_audio=True)
        names = ("dit", "codec", "text_encoder", "audio_encoder", "optimizer", "sampler")
        super().__init__(**{name: getattr(tiny, name) for name in names})
        self.sick_index = sick_index

    def _losses(self, batch, index, generator):
        logs = super()._losses(batch, index, generator)
        if index == self.sick_index:
            logs["loss"] = logs["loss"] + root_of_zero(logs["loss"])
        return logs


class Pairs(TinyData):
    """Two clips to a batch: fewer than the pyramid has columns."""

    def train_dataloader(self):
        return DataLoader([clips(2, position=2 * index, seed=index) for index in range(8)], batch_size=None)
