"""Finds the principal components of a data set's videos: a linear codec in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from components.codecs.video.principal import PrincipalCodec, PrincipalComponents
from components.contracts import ClipBatch, Modality
from components.errors import InputError


class PrincipalCodecModule(L.LightningModule):
    """Adds up the covariance of blocks over one epoch of training clips; the end of it gives the codec.

    There is nothing to optimise: train for one epoch (``trainer.max_epochs: 1``) and let `ExportPretrained` write the
    folder that `PrincipalCodec.from_pretrained` reads.

    Args:
        codec: the codec to fit.

    Raises:
        InputError: at the start, on more than one process: a minute's work of one.
    """

    logged_names = ("train/clips",)

    @staticmethod
    def needed_modalities(_model: Mapping[str, Any]) -> tuple[Modality, ...]:
        """Pictures alone."""
        return ("video",)

    def __init__(self, codec: PrincipalCodec) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.sums = PrincipalComponents(codec)

    def setup(self, stage: str) -> None:
        """Refuses several processes."""
        if self.trainer.world_size > 1:
            raise InputError(
                f"PrincipalCodecModule adds up on one process, but there are {self.trainer.world_size}: set "
                "trainer.devices to 1."
            )

    def configure_optimizers(self) -> None:
        """None: sums have no gradients."""

    def training_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Counts the clips' blocks in."""
        self.sums.add(batch.video.float() / 127.5 - 1)
        # without an optimizer Lightning counts no steps, and a run that is bounded by steps would never end
        self.log("train/clips", float((batch_idx + 1) * len(batch)), prog_bar=True, batch_size=len(batch))

    def on_train_end(self) -> None:
        """Settles the codec."""
        kept = self.sums.settle()
        rank_zero_info(f"{self.sums.codec.latent_channels} components keep {100 * kept:.1f} % of the blocks' variance")

    def save_pretrained(self, folder: Path) -> None:
        """Writes the codec into ``folder``."""
        self.sums.codec.save_pretrained(folder)
