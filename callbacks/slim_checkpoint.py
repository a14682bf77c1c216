"""A checkpoint small enough to ship: weights only, in bfloat16."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from callbacks.run_record import config_text, run_folder
from components.weights.whole_file import whole_file


class SlimCheckpoint(Callback):
    """At the successful end of ``fit`` writes ``<run>/checkpoints/<name>`` for ``--ckpt_path`` of other commands.

    It holds what the model's checkpoints hold, without optimizer state and with floating-point weights in bfloat16, and
    as text the run's configuration.

    Args:
        name: file name.
    """

    def __init__(self, name: str = "slim.ckpt") -> None:
        self.name = name

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes under another name, then renames."""
        folder = run_folder(trainer)
        if folder is None:
            return
        file = folder / "checkpoints" / self.name
        whole = file.with_name(f".{file.name}.whole")
        # collective where the weights are sharded: every rank calls it
        trainer.save_checkpoint(whole, weights_only=True)
        if trainer.is_global_zero:
            # a file, or a folder that every process has written its shards into
            checkpoint: dict[str, Any] = trainer.strategy.checkpoint_io.load_checkpoint(whole)
            checkpoint["state_dict"] = {key: _small(value) for key, value in checkpoint["state_dict"].items()}
            # Lightning asks no callback for its part of a checkpoint that is to hold weights alone
            if (text := config_text(folder)) is not None:
                checkpoint["config_yaml"] = text
            with whole_file(file) as stream:
                torch.save(checkpoint, stream)
            rank_zero_info(f"wrote {file}")
        trainer.strategy.remove_checkpoint(whole)


def _small(value: Tensor) -> Tensor:
    return value.to(torch.bfloat16) if value.is_floating_point() else value
