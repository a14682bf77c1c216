"""Exports the trained weights at the end of training."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from callbacks.ema import judged_weights
from components.backbones.sharding import is_sharded
from components.errors import InputError
from components.weights.whole_folder import check_target, whole_folder


class ExportPretrained(Callback):
    """Calls ``save_pretrained(folder)`` of the model when ``fit`` has ended well, as ``avsync export`` would.

    Where a moving average of the weights is kept (`EMA`), that is what is written, as it is what validation judged.

    The folder is written under another name and then renamed, so a whole one is never replaced by a part.

    Args:
        folder: where to; an earlier export is replaced.

    Raises:
        InputError: at the start of training, if the model has no ``save_pretrained``, no process holds all of it or
            ``folder`` holds anything but an earlier export.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds out now, not after hours of training, whether the model can be exported."""
        if not callable(getattr(pl_module, "save_pretrained", None)):
            raise InputError(
                f"ExportPretrained: {type(pl_module).__name__} has no save_pretrained(folder); "
                "remove the callback from trainer.callbacks"
            )
        check_target(Path(self.folder))  # on every rank: one alone would leave the others waiting
        if is_sharded(pl_module):
            raise InputError(
                "ExportPretrained: the model is sharded over the processes and none has all of it; remove the callback "
                "and run avsync export with --ckpt_path afterwards"
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes, then renames."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        with whole_folder(Path(self.folder)) as partial, judged_weights(trainer, pl_module):
            pl_module.save_pretrained(partial)  # type: ignore[operator]
        rank_zero_info(f"wrote {self.folder}")
