"""VGGSound: 200,000 clips of 10 s from YouTube, each with one of 309 labels (Chen et al., 2020, arXiv 2004.14368)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.errors import InputError
from components.weights.named_files import names_files
from datamodules.reading.listed_media import ListedMedia, MissingFiles, check_unique, listing_of, published_rows
from datamodules.reading.records import ClipRecord
from datamodules.reading.speech_manifest import RecordsBySplit
from datamodules.speech_clips import DescribedClips

CLIP_S = 10


@names_files("root")
class VGGSound(DescribedClips):
    """The published list and the clips, cut out and named as the usual downloaders do.

    ::

        root/vggsound.csv    lines "<YouTube id>,<start second>,<label>,<train or test>", without header
        root/.../<YouTube id>_<start second, six digits>.mp4      or
        root/.../<YouTube id>_<begin in ms>_<end in ms>.mp4       or
        root/.../<YouTube id>_<start second>.mp4

    The list has no validation part; validation uses the test part.

    Args:
        root: the folder.
        caption: prompt of a clip, with ``{label}`` in it.
        missing_files: "skip" leaves out clips that are not there, which is counted and said; "error" refuses them.
        **kwargs: see `DescribedClips` (``audio_only``, references) and ``ClipDataModule``.
    """

    def __init__(
        self, root: str, caption: str = "{label}", missing_files: MissingFiles = "skip", **kwargs: Any
    ) -> None:
        super().__init__(root, **kwargs)
        if "{label}" not in caption:
            raise InputError(f"caption is {caption!r}; it must have {{label}} where the label stands")
        self.caption, self.missing_files = caption, missing_files

    def _read(self) -> RecordsBySplit:
        media = ListedMedia(self.root, self.audio_only, self.missing_files)
        return read_vggsound(self.root, media, self.caption)


def read_vggsound(root: Path, media: ListedMedia, caption: str) -> RecordsBySplit:
    """Records of the clips that are there.

    Raises:
        InputError: the list is missing or a line of it cannot be used.
    """
    listing = listing_of(root, "vggsound.csv")
    found: RecordsBySplit = {}
    for line, row in published_rows(listing, ("id", "start", "label", "split"), header=False):
        if not row["start"].isdigit() or row["split"] not in ("train", "test"):
            raise InputError(
                f"{listing}, line {line}: {', '.join(row.values())}; a line is <YouTube id>,<start second>,<label>,"
                "<train or test>"
            )
        name, start = row["id"], int(row["start"])
        stem = f"{name}_{start:06d}"
        path = media.find(stem, f"{name}_{start * 1000}_{(start + CLIP_S) * 1000}", f"{name}_{start}")
        if path is not None:
            record = ClipRecord(stem, path, caption.replace("{label}", row["label"]), name)
            found.setdefault("train" if row["split"] == "train" else "test", []).append(record)
    media.report(listing)
    check_unique((record for records in found.values() for record in records), listing)
    return found
