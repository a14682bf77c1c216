"""Writes what ``avsync predict`` generates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console

from callbacks.report.clip_videos import file_stem, to_uint8, watchable
from callbacks.run_record import run_folder
from components.contracts import Generation
from components.media.lossless import LOSSLESS_SUFFIX, write_lossless
from components.media.writer import write_mp4

PREDICTIONS_FOLDER = "predictions"


class PredictionWriter(Callback):
    """``<run>/predictions/<id>.mp4`` for every `Generation` of ``predict_step``, with its sound.

    Args:
        folder: where to write instead of the run folder's ``predictions``.
        crf: quality of the videos, 0 (nearly lossless: colours are halved in size) to 51.
        min_side: shorter side in pixels that small videos are enlarged to by repeating pixels; 0 keeps their size.
        lossless: write ``<id>.mov`` from which every pixel, rounded to 256 levels, and every sample is read back, at
            the size it was generated at: for ``avsync score``. ``crf`` and ``min_side`` are of no account then.
    """

    def __init__(self, folder: str | None = None, crf: float = 14.0, min_side: int = 0, lossless: bool = False) -> None:
        self.folder = folder
        self.lossless = lossless
        self.crf = crf
        self.min_side = min_side
        self._written: list[Path] = []
        self._target: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds the folder."""
        run = run_folder(trainer)
        self._target = Path(self.folder) if self.folder else None if run is None else run / PREDICTIONS_FOLDER
        self._written = []
        if self.lossless and stage == "predict":
            rank_zero_info("predictions are written without loss, at their own size: crf and min_side are not used")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes one file per clip."""
        if self._target is None or not isinstance(outputs, Generation):
            return
        for row in outputs.valid_mask().nonzero().flatten().tolist():
            video, stem = to_uint8(outputs.video[row]), file_stem(outputs.reference.ids[row])
            sound = outputs.audio[row, : round(len(video) / outputs.fps * outputs.sample_rate)]
            if self.lossless:
                file = self._target / f"{stem}{LOSSLESS_SUFFIX}"
                write_lossless(file, video, outputs.fps, sound, outputs.sample_rate)
            else:
                file, video = self._target / f"{stem}.mp4", watchable(video, self.min_side)
                write_mp4(file, video, outputs.fps, sound, outputs.sample_rate, self.crf)
            self._written.append(file)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says where the files are."""
        for file in self._written:
            Console().print(f"Wrote {file}", soft_wrap=True, highlight=False)
