"""Lightning's trainer with the command that turns a checkpoint into a folder others can load."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.progress import _ProcessedTracker
from lightning.pytorch.utilities import rank_zero_info
from torch.optim.lr_scheduler import OneCycleLR

from callbacks.pace import PacedCallback
from components.errors import InputError
from components.weights.whole_folder import whole_folder
from lightning_modules.checkpoints.atomic import AtomicCheckpointIO
from lightning_modules.checkpoints.loading import load_weights


class FinishingFitLoop(_FitLoop):
    """Makes up for a validation that was due, or in progress, where a checkpoint was written.

    Lightning takes it as done when a run goes on. After a stop (see `GracefulStop`) it is made up for before the next
    step. Checkpoints of every so many steps are written right before the validation that is due at the same step, and
    mostly that follows; it is made up for where nothing is left to train and so nothing would ever tell the outcome.
    Where training was told to end after a validation that not all metrics took part in, it validates once more.
    """

    _is_due = False
    _was_begun = False

    def on_save_checkpoint(self) -> dict[str, Any]:
        """Whether a validation is ahead of the next step, and whether it has begun."""
        batches = cast(_ProcessedTracker, self.epoch_loop.batch_progress.current)
        validation = self.epoch_loop.val_loop.batch_progress
        is_whole = validation.is_last_batch and validation.current.completed == validation.current.ready
        begun = self.trainer.validating and not is_whole
        # behind a batch that is processed but not completed: in `on_train_batch_end`
        ahead = batches.completed < batches.processed and self._data_fetcher is not None
        due = ahead and self.epoch_loop._should_check_val_fx(self._data_fetcher)  # type: ignore[arg-type]
        return {**super().on_save_checkpoint(), "validation_is_due": begun or due, "validation_has_begun": begun}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Takes up what `on_save_checkpoint` found."""
        super().on_load_checkpoint(state_dict)
        self._is_due = state_dict.get("validation_is_due", False)
        self._was_begun = state_dict.get("validation_has_begun", False)

    @property
    def skip(self) -> bool:
        """A run without another step has all its hooks where a validation is due."""
        return super().skip and not (self._is_due and self.max_batches and self.trainer.enable_validation)

    def on_run_start(self) -> None:
        """The validation, once everybody knows that training begins.

        Raises:
            InputError: if a schedule ends before the training does.
        """
        super().on_run_start()
        _check_schedules(self.trainer)
        if self._is_due and self.trainer.enable_validation and (self._was_begun or self.done):
            self._validate()
        self._is_due = False

    def on_run_end(self) -> None:
        """The metrics that the last validation left out, before everybody is told that training ends."""
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        paced = [callback for callback in callbacks if isinstance(callback, PacedCallback)]
        if self.trainer.should_stop and self.trainer.enable_validation and not all(one.measures for one in paced):
            self._validate()
        super().on_run_end()

    def _validate(self) -> None:
        validation = self.epoch_loop.val_loop
        validation.restarting = False  # from its first batch on: callbacks keep nothing of a part
        # as Lightning does around a validation within an epoch
        self.trainer.validating = True
        first_iteration = self.trainer._logger_connector._first_loop_iter
        validation.run()
        self.trainer.training = True
        self.trainer._logger_connector._first_loop_iter = first_iteration
        # the epoch's loop would take it for the one it looks for at the end of an epoch, and not begin at all
        validation._has_run = False


def _check_schedules(trainer: Trainer) -> None:
    """Of a run that counts epochs, whose steps nobody knew before (`preflight` has looked at the others)."""
    if trainer.max_steps >= 0:
        return
    for config in trainer.lr_scheduler_configs:
        schedule, steps = config.scheduler, trainer.estimated_stepping_batches
        if config.interval == "step" and isinstance(schedule, OneCycleLR) and schedule.total_steps < steps < math.inf:
            raise InputError(
                f"model.lr_scheduler.total_steps is {schedule.total_steps}, but the schedule is stepped {steps:.0f} "
                f"times (in trainer.max_epochs = {trainer.max_epochs}); set total_steps to {steps:.0f}"
            )


class AVSyncTrainer(Trainer):
    """Adds ``export`` to ``fit``, ``validate``, ``test`` and ``predict``, and a folder for the run whatever logs it."""

    _run_folder: Path | None = None
    _has_run_folder = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        steps, loop = self.fit_loop.epoch_loop, self.fit_loop
        self.fit_loop = FinishingFitLoop(self, min_epochs=loop.min_epochs, max_epochs=loop.max_epochs)
        self.fit_loop.epoch_loop = steps

    def write_into(self, folder: Path | None) -> None:
        """Everything the run writes goes into ``folder``, checkpoints into ``checkpoints`` there unless told otherwise.

        Called on every rank.

        Args:
            folder: of the run; ignored on other ranks than 0.
        """
        self._run_folder, self._has_run_folder = folder, True
        for callback in self.checkpoint_callbacks:
            # with some loggers, and with none, Lightning's own choice is the same folder for every run
            if folder is not None and isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(folder / "checkpoints")

    @property
    def log_dir(self) -> str | None:
        """The run's folder, the same on every rank; every rank has to ask for it."""
        if not self._has_run_folder:
            return super().log_dir
        folder: str | None = self.strategy.broadcast(None if self._run_folder is None else str(self._run_folder))
        return folder

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's, and no checkpoint is still being written when it returns.

        Raises:
            InputError: if the disk has refused one.
        """
        super().fit(*args, **kwargs)
        # Lightning waits before the last hooks, in which callbacks may save once more
        self.strategy.checkpoint_io.teardown()

    def export(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        folder: str = "exported",
        ckpt_path: str | None = None,
        averaged: bool = True,
    ) -> None:
        """Write the trained model as a folder in its public format, trained and frozen weights merged.

        Args:
            model: the model, with the pre-trained weights it was trained on top of.
            datamodule: not used; a configuration has one.
            folder: where to; an earlier export that is there is replaced.
            ckpt_path: the checkpoint to take the trained weights from; without one the model is written as it is.
            averaged: write the moving average of the weights, which validation judged, where the checkpoint has one.

        Raises:
            InputError: if the model cannot be exported, the checkpoint does not fit it, or ``folder`` holds anything
                but an earlier export.
        """
        write: Any = getattr(model, "save_pretrained", None)
        if not callable(write):
            raise InputError(f"{type(model).__name__} has no save_pretrained(folder): it cannot be exported")
        if ckpt_path in ("best", "last", "hpc"):
            raise InputError(f"ckpt_path is '{ckpt_path}', which only fit can tell; give the path of a .ckpt file")
        # no strategy runs that would load it
        if ckpt_path is not None:
            load_weights(model, AtomicCheckpointIO().load_checkpoint(ckpt_path), averaged)
        with whole_folder(Path(folder)) as partial:
            write(partial)
        rank_zero_info(f"wrote {folder}")
