"""Any folder of videos with captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.weights.named_files import names_files
from datamodules.reading.folder import HeldOut, read_folder
from datamodules.reading.speech_manifest import RecordsBySplit
from datamodules.speech_clips import DescribedClips


@names_files("root")
class FolderClips(DescribedClips):
    """A folder of videos in any container, nested as it may be, with their captions; for every model.

    ::

        root/beach/waves.mov      root/beach/waves.txt      "waves on a beach"
        root/dog.mp4              root/dog.json             {"caption": "a dog barks", "speaker": "rex"}
        root/metadata.csv         file_name,text            instead of texts beside the videos

    ``metadata.jsonl``, ``metadata.csv``, ``captions.jsonl`` and ``captions.csv`` are tables, whose rows name the files
    that are used; they and the JSON files may hold every column of a manifest (`SpeechClips`), also ``split``. Ids are
    the paths below ``root`` without suffix.

    Args:
        root: the folder.
        prompt: caption of clips that have none; None refuses them.
        columns: what tables or JSON files call our columns, such as ``{caption: text, video: path}``; ``file_name``,
            ``path`` and ``file`` for videos, ``text`` and ``prompt`` for captions are known without.
        hold_out: share of the clips that is kept for evaluation where no column ``split`` says which.
        split_seed: decides which these are.
        group: a column whose values are not divided between training and evaluation (a scene, a person).
        test_list: a file that names the clips for evaluation instead, one path a line.
        **kwargs: see `DescribedClips` (references, transcripts, ``audio_only``) and ``ClipDataModule``.
    """

    def __init__(
        self,
        root: str,
        prompt: str | None = None,
        columns: Mapping[str, str] | None = None,
        hold_out: float = 0.1,
        split_seed: int = 0,
        group: str | None = None,
        test_list: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.prompt = prompt
        self.columns = dict(columns or {})
        self.held_out = HeldOut(hold_out, split_seed, group, test_list)

    def _read(self) -> RecordsBySplit:
        return read_folder(self.root, self.columns, self.prompt, self.held_out, self.audio_only)
