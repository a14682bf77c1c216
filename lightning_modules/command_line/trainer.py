"""Lightning's trainer with the command that turns a checkpoint into a folder others can load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from components.errors import InputError
from components.weights.whole_folder import whole_folder
from lightning_modules.checkpoints.atomic import AtomicCheckpointIO
from lightning_modules.checkpoints.loading import load_weights


class AVSyncTrainer(Trainer):
    """Adds ``export`` to ``fit``, ``validate``, ``test`` and ``predict``, and a folder for the run whatever logs it."""

    _run_folder: Path | None = None
    _has_run_folder = False

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
