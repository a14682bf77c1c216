"""Speech with transcripts and reference voices, from a manifest or public sets of talking heads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from components.errors import Fault, InputError
from components.media.clock import ClipShape
from components.weights.named_files import names_files
from datamodules.reading.clip_data_module import ClipDataModule, Split
from datamodules.reading.clip_dataset import ClipDataset, Mute, passed_over
from datamodules.reading.listed_media import ListedMedia, MissingFiles, held_out
from datamodules.reading.order import SampleKey
from datamodules.reading.record_reader import Cut, RecordReader
from datamodules.reading.records import ClipRecord
from datamodules.reading.reference_pieces import own_segment
from datamodules.reading.reference_voices import ReferenceVoices
from datamodules.reading.speech_manifest import RecordsBySplit, read_manifest
from datamodules.reading.talking_heads import read_hdtf, read_voxceleb2

# A row may be this much longer than a clip and its transcript still hold: the pauses at its ends.
MAX_UNHEARD_S = 0.5


class SpeechDataset(ClipDataset):
    """A ``ClipDataset`` whose clips carry references and whose transcripts fit the clips.

    Args:
        records: the recordings.
        shape: what every clip looks like.
        clipping: see ``ClipDataset``.
        voices: where references of other utterances come from, or None for none. In training the choice depends on the
            seed and the sample's position alone, in evaluation it is always the same.
        own_reference_s: shortest and longest reference in seconds that is cut out of the clip itself, in place of
            ``voices``; None for none.
        partial_transcripts: what becomes of the transcript of a recording more than ``MAX_UNHEARD_S`` longer than a
            clip, which says more than is heard: "error", "drop" or "keep".
        **options: see ``ClipDataset``.
    """

    def __init__(
        self,
        records: Sequence[ClipRecord],
        shape: ClipShape,
        clipping: Literal["random", "fixed"],
        voices: ReferenceVoices | None = None,
        own_reference_s: tuple[float, float] | None = None,
        partial_transcripts: Literal["error", "drop", "keep"] = "error",
        **options: Any,
    ) -> None:
        super().__init__(records, shape, clipping, **options)
        self.voices, self.partial_transcripts = voices, partial_transcripts
        self._own_samples: tuple[int, int] | None = None
        if own_reference_s is not None:
            shortest_s, longest_s = own_reference_s
            self._own_samples = round(shortest_s * shape.sample_rate), round(longest_s * shape.sample_rate)

    def _reference(self, record: ClipRecord, cut: Cut, key: SampleKey) -> tuple[Tensor | None, int]:
        generator = self._generator(record, key, purpose=2) if self.clipping == "random" else None
        if self._own_samples is not None:
            shortest, longest = self._own_samples
            if cut.mute:
                return torch.zeros(longest), 0
            heard = min(len(cut.audio), round(cut.usable_s * self.shape.sample_rate))  # silence may follow (pad_audio)
            return own_segment(cut.audio[:heard], longest, shortest, generator)
        if self.voices is None:
            return None, 0
        clip_s = cut.start_s, cut.start_s + len(cut.audio) / self.shape.sample_rate
        return self.voices.draw(record, generator, clip_s, cut.mute)

    def _transcript(self, record: ClipRecord, cut: Cut) -> tuple[str | None, float]:
        if record.transcript is None or self.partial_transcripts == "keep":
            return record.transcript, 0.0
        duration_s = len(cut.audio) / self.shape.sample_rate
        spoken_s = cut.usable_s - MAX_UNHEARD_S
        if spoken_s <= duration_s:
            return record.transcript, spoken_s
        if self.partial_transcripts == "drop":
            return None, 0.0
        raise InputError(
            f"{record.id} lasts {cut.usable_s:.3f} s, a clip {duration_s:.3f} s, so its transcript says more"
            " than is heard; cut the row, raise clip.num_frames, or set partial_transcripts to drop or keep",
            "with more words than a clip",
        )


class DescribedClips(ClipDataModule):
    """Clips with what is known of them: captions, transcripts, reference sounds. A subclass says from where.

    Where only "val" or only "test" exists it serves as both.

    Args:
        root: where the clips are.
        reference_s: length in seconds of the slot for the reference sound, or None to deliver none. Clips without
            reference have a ``reference_length`` of 0.
        reference: where references come from: ``voice`` takes the row's ``reference_audio`` or another row of the same
            speaker, for rows without speaker (or without both transcript and another row) a piece of the same recording
            outside the clip (Harmony's stages 2 and 3); ``own`` takes a piece of the clip itself (stage 1). In training
            place and length are random, in evaluation it is the beginning of what there is.
        min_reference_s: shortest reference that is drawn in training (what is shorter is taken whole), and shortest
            piece of a recording; None always fills the slot.
        missing_references: "none" trains rows for which there is no reference without one, which is counted and said;
            "error" ends the run.
        long_references: "cut" (in training to a random part, in evaluation to the beginning) or "error" for
            references longer than the slot.
        partial_transcripts: what becomes of a transcript that says over half a second more than a clip can hold:
            "error", "drop" or "keep".
        audio_only: read the sound alone; clips then have zero frames, and rows need no video.
        pad_audio: with ``audio_only``, let recordings shorter than a clip end in silence instead of refusing them.
        mute: what becomes of recordings without sound track. "error" refuses them; "skip" passes them over; with
            "silence" they are trained on and marked as mute (``ClipBatch.mute``), and passed over in evaluation, which
            listens. Harmony's video learns from mute clips beside a sound that is pure noise, and its sound not at
            all; other models hear silence. A recording whose track is silent is not mute.
        **kwargs: see ``ClipDataModule``.
    """

    def __init__(
        self,
        root: str,
        reference_s: float | None = None,
        reference: Literal["voice", "own"] = "voice",
        min_reference_s: float | None = None,
        missing_references: Literal["none", "error"] = "none",
        long_references: Literal["cut", "error"] = "cut",
        partial_transcripts: Literal["error", "drop", "keep"] = "error",
        audio_only: bool = False,
        pad_audio: bool = False,
        mute: Mute = "error",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if reference_s is not None and not 0 < reference_s < float("inf"):
            raise InputError(f"reference_s is {reference_s}; it must be positive, or null for no references")
        if reference not in ("voice", "own"):
            raise InputError(f"reference is {reference!r}; choose from voice and own")
        if min_reference_s is not None and not 0 < min_reference_s <= (reference_s or 0):
            raise InputError(
                f"min_reference_s is {min_reference_s}; it must lie between 0 and reference_s ({reference_s})"
            )
        if missing_references not in ("none", "error"):
            raise InputError(f"missing_references is {missing_references!r}; choose from none and error")
        if pad_audio and not audio_only:
            raise InputError("pad_audio is true but audio_only is not; a clip with a picture cannot be padded")
        if audio_only and self.shape_groups.sizes:
            raise InputError("bucket_sizes is given but audio_only reads no picture; leave one of them out")
        if mute not in ("error", "silence", "skip"):
            raise InputError(f"mute is {mute!r}; choose from error, silence and skip")
        if audio_only and mute == "silence":
            raise InputError("mute is silence but audio_only reads nothing else; set mute to skip or error")
        if audio_only and self.video_track is not None:
            raise InputError(
                f"video_track is {self.video_track} but audio_only reads no picture; leave one of them out"
            )
        if self.clip.min_frames is not None:
            if pad_audio:
                raise InputError(
                    "pad_audio is true and clip.min_frames is set; either pad short recordings or cut clips short"
                )
            # a transcript that was checked for its own clip may be too long for a batch that is cut
            if partial_transcripts == "error" and self.batch_size > 1 and not self.shape_groups.by_length:
                raise InputError(
                    "clip.min_frames is set and partial_transcripts is error, but a batch is cut to its shortest clip"
                    " and its transcripts are not; set partial_transcripts to drop or keep, bucket_lengths to true, or"
                    " batch_size to 1"
                )
        self.root = Path(root)
        self.reference_s, self.long_references = reference_s, long_references
        self.reference, self.min_reference_s = reference, min_reference_s
        self.missing_references = missing_references
        self.partial_transcripts, self.audio_only, self.pad_audio = partial_transcripts, audio_only, pad_audio
        self.mute: Mute = mute
        self._by_split: RecordsBySplit | None = None

    def records(self, split: Split) -> list[ClipRecord]:
        """The rows of a split.

        Raises:
            InputError: the manifest or folder cannot be used, or the split has no rows.
        """
        if self._by_split is None:
            self._by_split = self._read()
        choices: dict[Split, tuple[Split, ...]] = {
            "train": ("train",),
            "val": ("val", "test"),
            "test": ("test", "val"),
        }
        for name in choices[split]:
            if name in self._by_split:
                return self._by_split[name]
        raise InputError(
            f"{self.root} has nothing in the split {' or '.join(choices[split])}; give some of its rows that split"
        )

    def clip_settings(self) -> dict[str, Any]:
        """See the base class; also what references and transcripts depend on."""
        names = ("reference_s", "reference", "min_reference_s", "long_references", "partial_transcripts", "audio_only")
        return super().clip_settings() | {name: getattr(self, name) for name in (*names, "pad_audio", "mute")}

    @property
    def passed_over(self) -> tuple[Fault, ...]:
        """Recordings without sound track, unless they are an error."""
        return passed_over(self.mute)

    @abstractmethod
    def _read(self) -> RecordsBySplit:
        """All recordings by their split."""

    @property
    def _record_reader(self) -> RecordReader:
        return replace(super()._record_reader, audio_only=self.audio_only, pad_audio=self.pad_audio)

    def _dataset_class(self, split: Split) -> Callable[..., ClipDataset]:
        voices, own = None, None
        if self.reference_s is not None and self.reference == "own":
            own = (self.min_reference_s or self.reference_s, self.reference_s)
        elif self.reference_s is not None:
            # of all records, also those that max_val_clips leaves out
            voices = ReferenceVoices(
                self.records(split),
                self.reference_s,
                self.clip.sample_rate,
                self.long_references,
                self.on_corrupt,
                self.cache,
                self.min_reference_s,
                self.missing_references,
                skip_mute=self.mute != "error",
                audio_track=self.audio_track,
            )
        return partial(
            SpeechDataset,
            voices=voices,
            own_reference_s=own,
            partial_transcripts=self.partial_transcripts,
            audio_only=self.audio_only,
            pad_audio=self.pad_audio,
            mute=self.mute,
        )


class TrainingClips(DescribedClips):
    """A public set that was made for training alone: whole speakers, or recordings, of it are kept for evaluation.

    Args:
        root: the folder.
        hold_out: share of the clips that is kept for evaluation.
        split_seed: decides which these are.
        missing_files: "skip" leaves out files that are not there, which is counted and said; "error" refuses them.
        **kwargs: see `DescribedClips` and ``ClipDataModule``.
    """

    def __init__(
        self,
        root: str,
        hold_out: float = 0.001,
        split_seed: int = 0,
        missing_files: MissingFiles = "skip",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.hold_out, self.split_seed, self.missing_files = hold_out, split_seed, missing_files

    @abstractmethod
    def _listed(self, media: ListedMedia) -> list[ClipRecord]:
        """Records of the clips that are there.

        Raises:
            InputError: a list is missing or cannot be used.
        """

    def _together(self, record: ClipRecord) -> str:
        """What is kept for evaluation as a whole: a recording with all its clips."""
        return record.video_id

    def _read(self) -> RecordsBySplit:
        media = ListedMedia(self.root, self.audio_only, self.missing_files)
        return held_out(self._listed(media), self._together, self.hold_out, self.split_seed)


@names_files("root")
class SpeechClips(DescribedClips):
    """Clips of speech; ``root`` says from where.

    - a ``.jsonl`` or ``.csv`` file: our manifest, one row per clip with the column ``video`` (relative to the manifest)
      and, where known, ``id``, ``audio`` (a file that begins with the video), ``start`` and ``end`` (seconds, the
      row's part of the recording), ``caption``, ``audio_caption``, ``transcript``, ``speaker``, ``reference_audio``,
      ``onsets`` (seconds on the recording's clock), ``face_boxes`` (`datamodules.reading.face_boxes`) and ``split``;
    - a folder with ``dev/`` or ``test/``: VoxCeleb2;
    - another folder: HDTF, the public mirror's (``clips/`` and lists) or bare clips ``<video>_<index>.mp4``.

    Args:
        root: a manifest or a folder.
        prompt: caption of clips that have none of their own.
        hold_out_every: where rows have no split, every n-th speaker (or row without speaker) is kept for evaluation.
        speaker_pattern: for HDTF: a regular expression whose first group is the speaker in a clip's name.
        ignore_columns: for manifests: columns that are not read.
        media_root: for manifests: the folder that media paths are relative to and must lie in; None takes the
            manifest's, and absolute paths as they are.
        **kwargs: see `DescribedClips`.
    """

    def __init__(
        self,
        root: str,
        prompt: str = "a person is speaking",
        hold_out_every: int | None = None,
        speaker_pattern: str = r"(.+?)(?:_\d+)+",
        ignore_columns: Sequence[str] = (),
        media_root: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        if hold_out_every is not None and hold_out_every < 2:
            raise InputError(f"hold_out_every is {hold_out_every}; it must be at least 2")
        self.prompt = prompt
        self.hold_out_every, self.speaker_pattern = hold_out_every, speaker_pattern
        self.ignore_columns = tuple(ignore_columns)
        self.media_root = None if media_root is None else Path(media_root)

    def _read(self) -> RecordsBySplit:
        return self._split_by_speaker(self._listed())

    def _listed(self) -> RecordsBySplit:
        if not self.root.is_dir():
            return read_manifest(self.root, self.audio_only, self.prompt, self.ignore_columns, self.media_root)
        if self.media_root is not None:
            raise InputError(
                f"media_root is {self.media_root} but root, {self.root}, is a folder; it goes with manifests alone"
            )
        if any((self.root / part).is_dir() for part in ("dev", "test")):
            return read_voxceleb2(self.root, self.prompt, self.audio_only)
        return read_hdtf(self.root, self.prompt, self.speaker_pattern)

    def _split_by_speaker(self, found: RecordsBySplit) -> RecordsBySplit:
        """Rows without split are divided by speaker, so that no voice is in two splits; else by recording."""
        if None not in found:
            return found
        if self.hold_out_every is None:
            raise InputError(f"{self.root} does not say what to train on; give its rows a split or set hold_out_every")
        speakers: dict[str, int] = {}
        splits: RecordsBySplit = {}
        for record in found[None]:
            # what is cut from one recording is one voice, whoever speaks
            index = speakers.setdefault(record.speaker or f"recording {record.video_id}", len(speakers))
            held_out = index % self.hold_out_every == self.hold_out_every - 1
            splits.setdefault("test" if held_out else "train", []).append(record)
        if "test" not in splits:
            raise InputError(
                f"hold_out_every is {self.hold_out_every} but {self.root} has {len(speakers)} speakers, or recordings"
                " where none is named; lower it"
            )
        return splits


def sounds_alone(name: str, audio_only: bool) -> bool:
    """``audio_only`` of the set of that ``name``, which has no pictures.

    Raises:
        InputError: if it is not set.
    """
    if not audio_only:
        raise InputError(f"audio_only is false, but {name} has no pictures; leave it out")
    return audio_only
