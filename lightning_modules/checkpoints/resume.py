"""Going on with other rates, another schedule or other batches to a step than a checkpoint was made with."""

from __future__ import annotations

import warnings
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from components.errors import InputError

_OF_PLATEAU = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")


class ConfiguredRates(Callback):
    """Rates, weight decay and schedule are those of the configuration; moments and step come from the checkpoint.

    The configured schedule is stepped as often as it would have been by the step that the checkpoint reached. One that
    reacts to a metric (``ReduceLROnPlateau``) cannot be: it keeps what it knows of a metric that is still the same and,
    if asked to, the rate it had come down to.

    Args:
        keep_reduced_rate: the configured rate is the checkpoint's too, so a reduced one stays reduced.

    Raises:
        InputError: when training starts, if the schedule ends before the step reached.
    """

    def __init__(self, keep_reduced_rate: bool) -> None:
        self.keep_reduced_rate = keep_reduced_rate
        self._schedules: list[dict[str, Any]] = []
        self._configured: list[list[dict[str, Any]]] = []

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps the trainer from filling the new schedules with the old ones' numbers."""
        if "lr_schedulers" in checkpoint:
            self._schedules, checkpoint["lr_schedulers"] = checkpoint["lr_schedulers"], []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes how the configuration begins; afterwards the optimizers' state is restored."""
        self._configured = [
            [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
            for optimizer in trainer.optimizers
        ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets the configured rates as they are at the step reached."""
        reached = [[group["lr"] for group in optimizer.param_groups] for optimizer in trainer.optimizers]
        for optimizer, groups in zip(trainer.optimizers, self._configured, strict=True):
            _set_groups(optimizer, groups)
        for index, config in enumerate(trainer.lr_scheduler_configs):
            schedule = config.scheduler
            if isinstance(schedule, ReduceLROnPlateau):
                before = self._schedules[index] if index < len(self._schedules) else {}
                self._go_on_reducing(schedule, before, reached[trainer.optimizers.index(schedule.optimizer)])
                continue
            made = trainer.global_step if config.interval == "step" else trainer.current_epoch
            _advance(schedule, made // config.frequency)

    def _go_on_reducing(self, schedule: ReduceLROnPlateau, before: dict[str, Any], rates: list[Any]) -> None:
        same = all(before.get(name) == getattr(schedule, name, None) for name in ("mode", "monitor"))
        if not same or "best" not in before:
            return
        vars(schedule).update({name: before[name] for name in _OF_PLATEAU})
        if self.keep_reduced_rate:
            for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate


class BatchesToAStep(Callback):
    """Counts a checkpoint's batches as this run would have: it may make a step of more of them, or of fewer.

    The trainer steps and validates by the number of batches that it has seen. Taken over from two processes by one that
    accumulates two batches, an odd number would make its first step of one batch alone. Where passes over the data are
    counted, the one in progress ends as if all its batches had been taken in the new way.

    Args:
        before: batches that the checkpoint's run accumulated.
        now: batches that this run accumulates.
    """

    def __init__(self, before: int, now: int) -> None:
        self.before = before
        self.now = now

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Changes the counts before the trainer's loops take them up; checkpoints are written between two steps."""
        progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress", {})
        for counts in (progress.get("total", {}), progress.get("current", {})):
            if counts:
                steps = -(-counts["ready"] // self.before)  # the last step of an epoch may have had fewer
                shift = steps * self.now - counts["ready"]
                counts |= {name: count + shift for name, count in counts.items()}


def _set_groups(optimizer: Optimizer, groups: list[dict[str, Any]]) -> None:
    for group, settings in zip(optimizer.param_groups, groups, strict=True):
        parameters = group["params"]
        # cleared: what another schedule has left there must not stay
        group.clear()
        group.update(settings, params=parameters)


def _advance(schedule: Any, steps: int) -> None:
    with warnings.catch_warnings():
        # PyTorch supposes that the optimizer was forgotten
        warnings.simplefilter("ignore")
        for done in range(steps):
            try:
                schedule.step()
            except ValueError as error:  # that of OneCycleLR beyond its end
                raise InputError(
                    f"lr_scheduler: {type(schedule).__name__} ends after step {done}, but the checkpoint has reached "
                    f"step {steps} ({error}); make it longer"
                ) from None
