"""Public sets of people who speak: Emilia (sound alone), OpenHumanVid and SpeakerVid-5M."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from components.errors import InputError
from components.weights.named_files import names_files
from datamodules.reading.listed_media import ListedMedia
from datamodules.reading.people_videos import read_emilia, read_openhumanvid, read_speakervid
from datamodules.reading.records import ClipRecord
from datamodules.speech_clips import TrainingClips, sounds_alone


@names_files("root")
class Emilia(TrainingClips):
    """Emilia (He et al., SLT 2024, arXiv 2407.05361): 101,000 hours of speech with transcripts, unpacked.

    ::

        root/.../<id>.mp3    root/.../<id>.json    {"id", "wav", "text", "duration", "speaker", "language", "dnsmos"}
        root/.../*.jsonl     instead of the .json files, one such object per line

    It is for training alone: ``hold_out`` keeps whole speakers for evaluation.

    Args:
        root: the folder into which tar files were unpacked.
        prompt: caption of every clip.
        languages: those to use, as the set writes them (``[en, zh]``); None for all.
        min_dnsmos: least estimated quality (``dnsmos``); None for any.
        audio_only: the set has no pictures.
        **kwargs: see `TrainingClips` (``hold_out``, ``missing_files``), `DescribedClips` and ``ClipDataModule``.
    """

    def __init__(
        self,
        root: str,
        prompt: str = "a person is speaking",
        languages: Sequence[str] | None = None,
        min_dnsmos: float | None = None,
        audio_only: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, audio_only=sounds_alone("Emilia", audio_only), **kwargs)
        self.prompt, self.languages, self.min_dnsmos = prompt, languages, min_dnsmos

    def _listed(self, media: ListedMedia) -> list[ClipRecord]:
        return read_emilia(self.root, media, self.prompt, self.languages, self.min_dnsmos)


@names_files("root")
class OpenHumanVid(TrainingClips):
    """OpenHumanVid (Li et al., CVPR 2025, arXiv 2412.00115): videos of people with captions, sent on request.

    ::

        root/<any name>.csv      one row per video: its file and its caption
        root/.../<SHA-256 of the source>_<first frame>_<last frame>.mp4

    What the list calls its columns is not public; usual names are known, others are told by ``columns``, and an error
    names those that are there. Speech has no transcripts. ``hold_out`` keeps whole source videos for evaluation.

    Args:
        root: the folder.
        listing: the list's name in it; None for the only CSV file there.
        columns: what the list calls ``video`` and ``caption``.
        **kwargs: see `TrainingClips` (``hold_out``, ``missing_files``), `DescribedClips` and ``ClipDataModule``.
    """

    def __init__(
        self,
        root: str,
        listing: str | None = None,
        columns: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.listing, self.columns = listing, _known("columns", columns, ("video", "caption"))

    def _listed(self, media: ListedMedia) -> list[ClipRecord]:
        return read_openhumanvid(self.root, media, self.listing, self.columns)


@names_files("root")
class SpeakerVid(TrainingClips):
    """SpeakerVid-5M (Zhang et al., 2025, arXiv 2507.09862): clips of people who talk and listen, by YouTube id.

    ::

        root/all_data_list.json                    {"<video>": ["<clip>.json", ...]}; SFT_set.json is a better part
        root/raw_labels/asr/<video>_<..>_<..>.json   optional: what is said
        root/raw_labels/anno/<clip>.json           optional: what is seen
        root/.../<clip>.mp4                        the clips, cut out by the annotations; videos are not published

    What the annotations call their fields is not public: ``keys`` says which to read, and an error names those that
    are there. ``hold_out`` keeps whole videos for evaluation.

    Args:
        root: the folder.
        listing: the list to use.
        prompt: caption of clips that have none.
        keys: fields by what they hold: ``{transcript: text, caption: ...}``; those not named are not read.
        speaker_pattern: a regular expression whose first group is the speaker in a clip's name; None if nobody knows,
            and references are then other pieces of the clip's video.
        **kwargs: see `TrainingClips` (``hold_out``, ``missing_files``), `DescribedClips` and ``ClipDataModule``.
    """

    def __init__(
        self,
        root: str,
        listing: str = "all_data_list.json",
        prompt: str = "a person is speaking",
        keys: Mapping[str, str] | None = None,
        speaker_pattern: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.listing, self.prompt = listing, prompt
        self.keys = _known("keys", keys, ("transcript", "caption"))
        self.speaker_pattern = speaker_pattern
        if speaker_pattern is not None:
            try:
                groups = re.compile(speaker_pattern).groups
            except re.error as error:
                raise InputError(f"speaker_pattern {speaker_pattern!r} is no regular expression ({error})") from error
            if not groups:
                raise InputError(
                    f"speaker_pattern {speaker_pattern!r} has no group; put the speaker's part in parentheses"
                )

    def _listed(self, media: ListedMedia) -> list[ClipRecord]:
        return read_speakervid(self.root, media, self.listing, self.prompt, self.keys, self.speaker_pattern)


def _known(argument: str, names: Mapping[str, str] | None, known: Sequence[str]) -> dict[str, str]:
    for name in names or {}:
        if name not in known:
            raise InputError(f"{argument} names {name!r}; choose from {', '.join(known)}")
    return dict(names or {})
