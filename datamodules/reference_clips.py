"""Real clips that generated ones are compared with: a folder or a manifest, all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from components.weights.named_files import names_files
from datamodules.reading.folder import read_folder
from datamodules.reading.speech_manifest import RecordsBySplit, read_manifest
from datamodules.speech_clips import DescribedClips


@names_files("root")
class ReferenceClips(DescribedClips):
    """All clips of a folder (as `FolderClips` reads it) or of a manifest (as `SpeechClips` does), for evaluation alone.

    Where rows say a ``split``, those of training are left out; otherwise nothing is held out. Captions may be missing.
    A clip is the beginning of its recording: what a model makes begins where the real clip does.

    Args:
        root: the folder or the manifest.
        columns: for folders: what tables or JSON files call our columns.
        ignore_columns: for manifests: further columns, which are not read.
        prompt: caption of clips that have none.
        single_clip: where the clip of a longer recording lies: "start" or "center".
        num_workers: loader processes per rank.
        **kwargs: see `DescribedClips` and ``ClipDataModule``.
    """

    def __init__(
        self,
        root: str,
        columns: Mapping[str, str] | None = None,
        ignore_columns: Sequence[str] = (),
        prompt: str = "",
        single_clip: Literal["start", "center"] = "start",
        num_workers: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, single_clip=single_clip, num_workers=num_workers, **kwargs)
        self.columns, self.ignore_columns = dict(columns or {}), tuple(ignore_columns)
        self.prompt = prompt

    def _read(self) -> RecordsBySplit:
        root = Path(self.root)
        if root.is_dir():
            return read_folder(root, self.columns, self.prompt, None, self.audio_only)
        found = read_manifest(root, self.audio_only, self.prompt, self.ignore_columns)
        return {"test": found[None]} if None in found else found
