"""A model with an optimizer and a schedule of its own, and what its rates were at every step."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from lightning_modules.base import scheduled
from tests.callbacks.jumping_squares import JumpingSquares


class LearningSquares(JumpingSquares):
    """`JumpingSquares` that is trained as the configuration says.

    Args:
        optimizer: builds the optimizer.
        lr_scheduler: builds the schedule.
    """

    def __init__(
        self, optimizer: OptimizerCallable = torch.optim.AdamW, lr_scheduler: LRSchedulerCallable | None = None
    ) -> None:
        super().__init__()
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler

    def configure_optimizers(self) -> Any:
        return scheduled(self, self.optimizer(self.parameters()), self.lr_scheduler)


class Noted(L.Callback):
    """Writes to ``noted.json`` the settings each step was made with, the steps of validations, and the weights."""

    def __init__(self) -> None:
        self.groups: list[Any] = []
        self.validations: list[int] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        kept = {name: value for name, value in optimizer.param_groups[0].items() if name in ("lr", "weight_decay")}
        self.groups.append([trainer.global_step, kept])

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.validations.append(trainer.global_step)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        weights = [value.tolist() for value in pl_module.parameters()]
        found = {"groups": self.groups, "validations": self.validations, "weights": weights}
        Path("noted.json").write_text(json.dumps(found))
