"""Sounds with captions by people or by a language model: AudioCaps, Clotho and WavCaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from components.errors import InputError
from components.weights.named_files import names_files
from datamodules.reading.captioned_sounds import WAVCAPS_SOURCES, read_audiocaps, read_clotho, read_wavcaps
from datamodules.reading.listed_media import ListedMedia, MissingFiles
from datamodules.reading.records import ClipRecord
from datamodules.reading.speech_manifest import RecordsBySplit
from datamodules.speech_clips import DescribedClips, TrainingClips, sounds_alone


@names_files("root")
class AudioCaps(DescribedClips):
    """AudioCaps (Kim et al., NAACL 2019), 1.0 or 2.0: clips of 10 s from AudioSet, in evaluation with five captions.

    ::

        root/{train,val,test}.csv      audiocap_id,youtube_id,start_time,caption    (or in root/dataset)
        root/.../<YouTube id>.wav      or named <audiocap_id>, <YouTube id>_<start>, Y<YouTube id> or by milliseconds

    Lists that are not there are left out; "val" and "test" stand in for each other. In training one of several captions
    is drawn, in evaluation it is the first.

    Args:
        root: the folder.
        audio_only: read the sounds; False reads the pictures too, where videos are there.
        missing_files: "skip" leaves out clips that are not there, which is counted and said; "error" refuses them.
        **kwargs: see `DescribedClips` and ``ClipDataModule``.
    """

    def __init__(self, root: str, audio_only: bool = True, missing_files: MissingFiles = "skip", **kwargs: Any) -> None:
        super().__init__(root, audio_only=audio_only, **kwargs)
        self.missing_files = missing_files

    def _read(self) -> RecordsBySplit:
        return read_audiocaps(self.root, ListedMedia(self.root, self.audio_only, self.missing_files))


@names_files("root")
class Clotho(DescribedClips):
    """Clotho (Drossos et al., ICASSP 2020), 1.0 or 2.1: sounds of 15 to 30 s with five captions each, as unpacked.

    ::

        root/clotho_captions_{development,validation,evaluation}.csv   file_name,caption_1,...,caption_5
        root/.../{development,validation,evaluation}/*.wav

    "development" is for training, "validation" and "evaluation" are "val" and "test", which stand in for each other. In
    training one of the captions is drawn, in evaluation it is the first.

    Args:
        root: the folder.
        audio_only: the set has no pictures.
        missing_files: "error" refuses a list that names sounds which are not there, "skip" leaves them out.
        **kwargs: see `DescribedClips` and ``ClipDataModule``.
    """

    def __init__(
        self, root: str, audio_only: bool = True, missing_files: MissingFiles = "error", **kwargs: Any
    ) -> None:
        super().__init__(root, audio_only=sounds_alone("Clotho", audio_only), **kwargs)
        self.missing_files = missing_files

    def _read(self) -> RecordsBySplit:
        return read_clotho(self.root, ListedMedia(self.root, True, self.missing_files))


@names_files("root", "blacklist")
class WavCaps(TrainingClips):
    """WavCaps (Mei et al., 2023, arXiv 2303.17395): 400,000 sounds of four sources, described by a language model.

    ::

        root/json_files/<source>/*_final.json    {"data": [{"id", "caption", "duration", ...}, ...]}
        root/.../<id>.flac                       the unpacked archives

    It is for training alone: ``hold_out`` keeps some for evaluation.

    Args:
        root: the folder.
        sources: of AudioSet_SL, BBC_Sound_Effects, FreeSound and SoundBible, those to use; None for all that are there.
        blacklist: a file of names to leave out, such as the published ``json_files/blacklist/*.json``, which keep the
            test parts of other sets out; None for none.
        audio_only: the set has no pictures.
        **kwargs: see `TrainingClips` (``hold_out``, ``missing_files``), `DescribedClips` and ``ClipDataModule``.
    """

    def __init__(
        self,
        root: str,
        sources: Sequence[str] | None = None,
        blacklist: str | None = None,
        audio_only: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, audio_only=sounds_alone("WavCaps", audio_only), **kwargs)
        if sources is not None and (unknown := [name for name in sources if name not in WAVCAPS_SOURCES]):
            raise InputError(f"sources names {unknown[0]!r}; choose from {', '.join(WAVCAPS_SOURCES)}")
        self.sources = None if sources is None else tuple(sources)
        self.blacklist = blacklist

    def _listed(self, media: ListedMedia) -> list[ClipRecord]:
        return read_wavcaps(self.root, media, self.sources, self.blacklist)
