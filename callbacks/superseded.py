"""Removes the checkpoints of a stopped run, once the run that goes on has one of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from callbacks.graceful_stop import STOPPED_CHECKPOINT


class RemoveSuperseded(Callback):
    """What a stopped run kept only to go on from is removed, as within a run the next checkpoint replaces the last.

    That is its ``stopped.ckpt``, its ``last.ckpt`` and the newest file of a `ModelCheckpoint` that keeps one and
    monitors nothing. Whatever was kept for its score, for its step or as weights alone stays, and so does everything of
    a run that came to its end.

    Args:
        resumed_from: the stopped run's ``stopped.ckpt``, beside its other checkpoints.
    """

    def __init__(self, resumed_from: Path) -> None:
        super().__init__()
        self._before = resumed_from.parent.absolute()
        self._kept: set[str] = set()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Notes what was kept: the checkpoint holds the states of the run's callbacks."""
        if any(_folder(callback) == self._before for callback in _full_checkpoints(trainer)):
            return  # one folder for both runs, by the user's choice: the same names are this run's
        self._kept = {STOPPED_CHECKPOINT}
        states = checkpoint.get("callbacks", {})
        for callback in _full_checkpoints(trainer):
            if state := states.get(callback.state_key):
                paths = [state.get("last_model_path")] if callback.save_last else []
                if callback.monitor is None and callback.save_top_k == 1:
                    paths.append(state.get("best_model_path"))
                self._kept |= {Path(path).name for path in paths if path}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Looks whether the batch before has left a checkpoint, which is written after all other callbacks."""
        self._remove(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks once more."""
        self._remove(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Looks once more: a run that is told to stop leaves a checkpoint too."""
        self._remove(trainer)

    def _remove(self, trainer: Trainer) -> None:
        if not self._kept or not trainer.is_global_zero or not any(map(_has_written, _full_checkpoints(trainer))):
            return
        for name in sorted(self._kept):
            path = self._before / name
            if path.exists() or path.is_symlink():
                trainer.strategy.remove_checkpoint(path)
                rank_zero_info(f"removed {path}: the run has gone on, and has a checkpoint of its own")
        self._kept = set()


def _full_checkpoints(trainer: Trainer) -> list[ModelCheckpoint]:
    """The callbacks whose checkpoints training can go on from."""
    found = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    return [callback for callback in found if not callback.save_weights_only]


def _has_written(callback: ModelCheckpoint) -> bool:
    """Whether there is a checkpoint of this run where the callback keeps its own; a name is there once it is whole."""
    folder = _folder(callback)
    # after loading, the state still names a file of the run before
    own = [Path(path).absolute() for path in (callback.last_model_path, callback.best_model_path) if path]
    return any(
        path.exists() for path in [*(path for path in own if path.parent == folder), folder / STOPPED_CHECKPOINT]
    )


def _folder(callback: ModelCheckpoint) -> Path:
    return Path(str(callback.dirpath)).absolute()
