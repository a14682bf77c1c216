"""Keeps what an evaluation judges as files from which ``avsync score`` computes the same scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from rich.console import Console

from callbacks.evaluation import GENERATED, REAL, EvaluationCallback, gathered
from callbacks.report.clip_videos import file_stem, to_uint8
from callbacks.run_record import run_folder
from components.contracts import ClipBatch, Generation
from components.errors import InputError
from components.media.lossless import LOSSLESS_SUFFIX, write_lossless
from components.weights.whole_file import whole_file

CLIPS_FOLDER = "clips"
TABLE = "metadata.jsonl"


class ClipFiles(EvaluationCallback):
    """``<run>/clips/<kind>/<clip>.mov``: every generated clip, its variants and the real one, without loss.

    Files hold 256 levels of a colour. So that scores of the files are those of the run, pictures are rounded to them,
    in place, before any callback judges them: `AVSyncCLI` lets this callback see a generation first. Sound is kept in
    32-bit floats, as it is. Each folder has a ``metadata.jsonl`` with ids, recordings, captions and what else is known,
    so that ``FolderClips`` and ``ReferenceClips`` read it.

    Args:
        folder: where to write instead of the run folder's ``clips``.
    """

    def __init__(self, folder: str | None = None) -> None:
        super().__init__()
        self.folder = folder
        self._target: Path | None = None
        self._rows: list[tuple[str, dict[str, Any]]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds the folder."""
        run = run_folder(trainer)
        self._target = Path(self.folder) if self.folder else None if run is None else run / CLIPS_FOLDER

    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """Forgets the clips of the last evaluation."""
        self._rows = []

    def update(self, generation: Generation) -> None:
        """Rounds the pictures and writes the clips that are not repeated to even out ranks."""
        made = {GENERATED: generation, **generation.variants}
        for kind, item in made.items():
            round_to_levels(item, kind)
        if self._target is None:
            return
        batch = generation.reference
        for row in generation.valid_mask().nonzero().flatten().tolist():
            for kind, item in made.items():
                self._write(kind, batch, row, item.video[row], item.fps, item.audio[row], item.sample_rate)
            # a first frame alone, or a clip without sound, is no real clip
            if batch.video.shape[1] > 1 and batch.audio.shape[1]:
                self._write(REAL, batch, row, batch.video[row], batch.fps, batch.audio[row], batch.sample_rate)

    def _write(
        self, kind: str, batch: ClipBatch, row: int, video: torch.Tensor, fps: float, audio: torch.Tensor, rate: int
    ) -> None:
        assert self._target is not None
        name = f"{file_stem(batch.ids[row])}{LOSSLESS_SUFFIX}"
        write_lossless(self._target / kind / name, to_uint8(video), fps, audio, rate)
        self._rows.append((kind, {"file_name": name, **described(batch, row)}))

    def finish(self, trainer: Trainer, module: LightningModule) -> None:
        """Writes the table of each folder."""
        tables: dict[str, dict[str, dict[str, Any]]] = {}
        for kind, row in gathered(trainer, self._rows):
            tables.setdefault(kind, {})[row["file_name"]] = row
        self._rows = []
        if self._target is None or not trainer.is_global_zero:
            return
        for kind, rows in tables.items():
            with whole_file(self._target / kind / TABLE) as stream:
                for name in sorted(rows):
                    stream.write((json.dumps(rows[name], ensure_ascii=False) + "\n").encode())
        if tables:
            kinds = ", ".join(tables)
            Console().print(f"Clips: {self._target} ({kinds})", soft_wrap=True, highlight=False)


def round_to_levels(generation: Generation, kind: str) -> None:
    """Rounds pictures, in place, to what `to_uint8` and a division by 255 give back.

    Raises:
        InputError: they are not float32, which alone holds these numbers as reading a file gives them.
    """
    video = generation.video
    if video.dtype != torch.float32:
        raise InputError(
            f"the pictures ({kind}) are {str(video.dtype).removeprefix('torch.')}, so that scores of files would not be"
            " those of the run; let the model return float32"
        )
    with torch.no_grad():
        # the same operations as writing and reading: 255ths, to the last bit
        video.copy_(video.clamp(0, 1).mul(255).round().div(255))


def described(batch: ClipBatch, row: int) -> Mapping[str, Any]:
    """What is known of a clip, by the columns of a manifest; what is not known is left out."""
    told: dict[str, Any] = {
        "id": batch.ids[row],
        "recording": batch.video_ids[row],
        "caption": batch.captions[row],
        "split": "test",
    }
    for column, values in (
        ("transcript", batch.transcripts),
        ("audio_caption", batch.scenes),
        ("language", batch.languages),
        ("subset", batch.subsets),
    ):
        if values is not None and values[row]:
            told[column] = values[row]
    if batch.face_boxes is not None and (boxes := batch.face_boxes[row]) is not None:
        told["face_boxes"] = [None if box[0] != box[0] else box for box in boxes.tolist()]
    if batch.onsets is not None:
        told["onsets"] = list(batch.onsets[row])
    return told
