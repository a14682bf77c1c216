"""Clips cut out of recordings, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from components.contracts import ClipBatch, mixed_seed
from components.errors import Fault, InputError
from components.media.clock import ClipShape
from components.media.sound_reader import MAX_MISSING_AUDIO_S
from components.metrics.recordings.measures import SILENCE_PEAK
from datamodules.reading.order import SampleKey, drawn_offset, sample_generator, stand_ins
from datamodules.reading.record_reader import Cut, RecordReader
from datamodules.reading.records import ClipRecord
from datamodules.reading.unusable import WHOLE, UnusableClips

Mute = Literal["error", "silence", "skip"]


def passed_over(mute: Mute) -> tuple[Fault, ...]:
    """What is passed over where recordings without sound track are to be treated so; it counts as no failure."""
    return () if mute == "error" else ("without sound",)


@dataclass(frozen=True)
class Clip:
    """One item of a ``ClipDataset``; see ``ClipBatch`` for the fields.

    ``reference`` is ``[S_ref]``, of which ``reference_length`` samples are sound; None where no set of voices is given.
    A clip of a batch that ends before ``spoken_s`` seconds keeps no transcript. A ``mute`` clip has no sound track.
    """

    id: str
    video_id: str
    video: Tensor
    audio: Tensor
    caption: str
    transcript: str | None
    onsets: tuple[float, ...] | None
    position: int
    valid: bool
    reference: Tensor | None = None
    reference_length: int = 0
    spoken_s: float = 0.0
    scene: str | None = None
    mute: bool = False
    language: str = ""
    subset: str = ""
    face_boxes: Tensor | None = None

    @property
    def is_silent(self) -> bool:
        """Whether nothing in it is louder than -60 dBFS."""
        return float(self.audio.abs().max()) < SILENCE_PEAK


class ClipDataset(Dataset[Clip]):
    """Map-style set of clips; a ``SampleKey`` (or a plain index) picks one.

    Args:
        records: the recordings.
        shape: what every clip looks like.
        clipping: "random" cuts one clip at a random place, drawn from the seed and the sample's position alone;
            "fixed" cuts ``clips_per_video`` clips at evenly spaced places, from the beginning to the end.
        clips_per_video: clips per recording ("fixed" only).
        single_clip: where a single fixed clip begins: at the recording's start, or so that it lies in the centre.
        seed: decides the random places.
        cache: keep each recording (at this rate and size) in memory after its first use. Random clips are then slices
            of it and begin on its frames. Every loader worker has a memory of its own.
        on_corrupt: "error" ends the run at a file that cannot be used, "skip" reports it and takes another one.
        max_corrupt_fraction: share of the recordings that may be skipped.
        allow_silence: report silent clips and use them (training) instead of raising (evaluation).
        audio_only: read the sound alone; clips then have zero frames.
        pad_audio: with ``audio_only``, let recordings shorter than a clip end in silence.
        frame_step: frames by which clips of different length differ (``ClipShape.min_frames``).
        video_track: number of the track among each file's video tracks, from 0; None for the default, never a cover.
        audio_track: likewise among the audio tracks.
        max_missing_audio_s: so many seconds of a clip's sound may be missing; they are silent. More is a recording
            that cannot be used.
        offsets: with "random", cut one of so many clips of a recording that are always the same; the sample says
            which. None cuts anywhere.
        num_frames: of every clip, where that is known: an evaluation in which no recording of this length can be used
            then shows, in place of each, black and silence of this length, which do not count.
        mute: what becomes of recordings without sound track: "error" makes them unusable, "skip" passes them over,
            "silence" trains on them as mute clips and passes them over in evaluation.
        unusable: keeps book of recordings that cannot be used, for sets that count together; None for a book of its
            own.
    """

    def __init__(
        self,
        records: Sequence[ClipRecord],
        shape: ClipShape,
        clipping: Literal["random", "fixed"],
        clips_per_video: int = 1,
        single_clip: Literal["start", "center"] = "center",
        seed: int = 0,
        cache: bool = False,
        on_corrupt: Literal["error", "skip"] = "error",
        max_corrupt_fraction: float = 0.01,
        allow_silence: bool | None = None,
        audio_only: bool = False,
        pad_audio: bool = False,
        frame_step: int = 8,
        video_track: int | None = None,
        audio_track: int | None = None,
        max_missing_audio_s: float = MAX_MISSING_AUDIO_S,
        offsets: int | None = None,
        mute: Mute = "error",
        num_frames: int | None = None,
        unusable: UnusableClips | None = None,
    ) -> None:
        if clips_per_video < 1:
            raise InputError(f"clips_per_video is {clips_per_video}; it must be at least 1")
        if not 0 <= max_corrupt_fraction <= 1:
            raise InputError(f"max_corrupt_fraction is {max_corrupt_fraction}; it must lie between 0 and 1")
        self.records, self.shape, self.clipping, self.seed = list(records), shape, clipping, seed
        self.clips_per_video = clips_per_video if clipping == "fixed" else 1
        self.single_clip, self.on_corrupt = single_clip, on_corrupt
        self.offsets = offsets if clipping == "random" else None
        self.num_frames = num_frames
        self.allow_silence = clipping == "random" if allow_silence is None else allow_silence
        self.unusable = unusable or UnusableClips(self.records, max_corrupt_fraction, passed_over(mute))
        self.reader = RecordReader(
            shape,
            audio_only,
            pad_audio,
            frame_step,
            video_track,
            audio_track,
            max_missing_audio_s,
            # what is generated cannot be judged by a sound that nobody knows
            mute_is_silence=mute == "silence" and clipping == "random",
        )
        self._cache: dict[tuple[int, int], Cut] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.records) * self.clips_per_video

    def __getitem__(self, key: SampleKey | int) -> Clip:
        key = key if isinstance(key, SampleKey) else SampleKey(key)
        index, part = divmod(key.item, self.clips_per_video)
        for candidate in stand_ins(self.seed, key, index, len(self.records)):
            # what is wrong with one of its clips alone is found again: which clips there are must not depend on what
            # was met before, which every worker, rank and resumed run knows differently
            if self.unusable.known(candidate, WHOLE):
                continue
            try:
                # In evaluation a stand-in must not be counted: its own turn comes anyway.
                stand_in = key.position < 0 and candidate != index
                cut = self._cut(candidate, self._place(candidate, part, key), part)
                clip = self._clip(self.records[candidate], cut, part, key, valid=key.valid and not stand_in)
            except InputError as reason:
                if self.on_corrupt == "error" and reason.fault not in self.unusable.expected:
                    raise
                self.unusable.report(candidate, reason)
                continue
            # one that is known to hold no onset is silent on purpose
            if clip.is_silent and not clip.mute and self.records[candidate].onsets != ():
                self.unusable.report_silent(candidate, self._span(cut))
            return clip
        if key.position < 0 and self.num_frames is not None and self.unusable.leaves_some:
            return self._nothing(index, part, key, self.num_frames)
        raise InputError(f"none of the {len(self.records)} clips can be used; see the reports above")

    def exactly(self, key: SampleKey) -> Clip:
        """The clip that ``key`` asks for and no other.

        Raises:
            InputError: if its recording cannot be used.
        """
        index, part = divmod(key.item, self.clips_per_video)
        cut = self._cut(index, self._place(index, part, key), part)
        return self._clip(self.records[index], cut, part, key, key.valid)

    def trial(self, index: int) -> list[Clip]:
        """Clips of a recording as a run makes them, read anew: what a run would say of it.

        In training those at its start, middle and end, in evaluation all.

        Raises:
            InputError: the recording cannot be used.
        """
        record, key = self.records[index], SampleKey(index)
        if self._cache is not None and self.clipping == "random":
            self.reader.read(record, 0.0, whole=True)  # all of it will be
        random = self.clipping == "random"
        places = [0.0, 0.5, 1.0] if random else [self._place(index, part, key) for part in range(self.clips_per_video)]
        clips: list[Clip] = []
        for part, place in enumerate(places):
            cut = self.reader.read(record, place)
            clips.append(self._clip(record, cut, part, key, valid=True))
            if cut.usable_s - len(cut.audio) / self.shape.sample_rate < 1 / self.shape.fps:
                break  # there is no other
        return clips

    def fixed_name(self, item: int) -> str:
        """What the clip of an item is called in evaluation, before anything is read."""
        index, part = divmod(item, self.clips_per_video)
        return self._fixed_name(self.records[index], part)

    def forget(self) -> None:
        """Gives the memory of recordings back."""
        if self._cache is not None:
            self._cache.clear()

    def _fixed_name(self, record: ClipRecord, part: int) -> str:
        return record.id if self.clips_per_video == 1 else f"{record.id}_clip-{part:02d}"

    def _nothing(self, index: int, part: int, key: SampleKey, num_frames: int) -> Clip:
        """What keeps all ranks in step where there is no clip that would be as long."""
        shape = self.shape
        shown = torch.zeros(
            0 if self.reader.audio_only else num_frames, 3, shape.height, shape.width, dtype=torch.uint8
        )
        # mute while it is described: no reference is looked for in a recording that cannot be used
        cut = Cut(0.0, shown, torch.zeros(shape.samples_of(num_frames)), num_frames / shape.fps, mute=True)
        return replace(self._described(self.records[index], cut, part, key, valid=False), mute=False)

    def _span(self, cut: Cut) -> str:
        return f"{cut.start_s:.3f}..{cut.start_s + self.shape.frames_of(len(cut.audio)) / self.shape.fps:.3f} s"

    def _clip(self, record: ClipRecord, cut: Cut, part: int, key: SampleKey, valid: bool) -> Clip:
        clip = self._described(record, cut, part, key, valid)
        if clip.is_silent and not self.allow_silence:
            raise InputError(
                f"{record.path} is silent in {self._span(cut)} (peak below -60 dBFS); remove it from the list", "silent"
            )
        return clip

    def _described(self, record: ClipRecord, cut: Cut, part: int, key: SampleKey, valid: bool) -> Clip:
        shape, audio = self.shape, cut.audio
        start_s, end_s = cut.start_s, cut.start_s + shape.frames_of(len(audio)) / shape.fps
        onsets = None
        if record.onsets is not None:
            onsets = tuple(onset - start_s for onset in record.onsets if start_s <= onset < end_s)
        # random ones by their seconds, so that every clip of a recording has a name of its own
        random = self.clipping == "random"
        name = f"{record.id}@{start_s:.3f}" if random else self._fixed_name(record, part)
        transcript, spoken_s = self._transcript(record, cut)
        reference, reference_length = self._reference(record, cut, key)
        return Clip(
            id=name,
            video_id=record.video_id,
            video=cut.video,
            audio=audio,
            caption=self._caption(record, key),
            transcript=transcript,
            onsets=onsets,
            position=key.position,
            valid=valid,
            reference=reference,
            reference_length=reference_length,
            spoken_s=spoken_s,
            scene=record.scene,
            mute=cut.mute,
            language=record.language or "",
            subset=record.subset or "",
            face_boxes=cut.face_boxes,
        )

    def _caption(self, record: ClipRecord, key: SampleKey) -> str:
        """One of a clip's captions, each as likely; the first where nothing is random."""
        if self.clipping == "fixed" or not record.other_captions:
            return record.caption
        captions = (record.caption, *record.other_captions)
        return captions[int(self._generator(record, key, purpose=3).integers(len(captions)))]

    def _transcript(self, record: ClipRecord, cut: Cut) -> tuple[str | None, float]:
        """The words of a clip, and the least length in seconds of which they are true."""
        del cut
        return record.transcript, 0.0

    def _reference(self, record: ClipRecord, cut: Cut, key: SampleKey) -> tuple[Tensor | None, int]:
        """The reference sound of a clip in its slot, and how many samples of it are sound."""
        del record, cut, key
        return None, 0

    def _cut(self, index: int, place: float, part: int) -> Cut:
        """One clip of a recording, from memory where it is kept."""
        shape, record = self.shape, self.records[index]
        if self._cache is None:
            return self.reader.read(record, place)
        if self.clipping == "fixed":
            if (index, part) not in self._cache:
                self._cache[index, part] = self.reader.read(record, place)
            return self._cache[index, part]
        if (index, 0) not in self._cache:
            self._cache[index, 0] = self.reader.read(record, 0.0, whole=True)
        begin_s, video, audio, usable_s, mute, boxes = self._cache[index, 0]
        held = shape.frames_of(len(audio))
        length = shape.longest(held, self.reader.frame_step)
        num_samples = shape.samples_of(length)
        # every start is equally likely; ``min`` for a place of exactly 1
        frame = min(int(place * (held - length + 1)), held - length)
        # rounding may leave the sound a sample short of the picture's end
        sample = min(shape.samples_of(frame), len(audio) - num_samples)
        return Cut(
            begin_s + frame / shape.fps,
            video[frame : frame + length],
            audio[sample : sample + num_samples],
            usable_s,
            mute,
            None if boxes is None else boxes[frame : frame + length],
        )

    def _place(self, index: int, part: int, key: SampleKey) -> float:
        """Where between the first and the last possible start the clip begins, 0 to 1."""
        if self.clipping == "random":
            place = float(self._generator(self.records[index], key, purpose=0).uniform())
            if self.offsets is None:
                return place
            # one in each part of the recording, but not evenly spaced: what repeats in it would always be cut alike
            return (drawn_offset(self.seed, key, self.offsets) + place) / self.offsets
        if self.clips_per_video == 1:
            return 0.0 if self.single_clip == "start" else 0.5
        return part / (self.clips_per_video - 1)

    def _generator(self, record: ClipRecord, key: SampleKey, purpose: int) -> np.random.Generator:
        """Random numbers of a training clip: of the sample alone, or where clips are fixed of the recording's name.

        Neither the seed of the order nor the other recordings decide what a fixed clip is: it may be encoded once.
        """
        if self.offsets is None:
            return sample_generator(self.seed, key, purpose)
        return np.random.default_rng([mixed_seed(record.id), drawn_offset(self.seed, key, self.offsets), purpose])


def collate_clips(clips: Sequence[Clip], shape: ClipShape) -> ClipBatch:
    """Stacks clips into a batch, all cut to the length of the shortest one."""
    num_samples = min(len(clip.audio) for clip in clips)
    num_frames = shape.frames_of(num_samples)
    end_s = num_frames / shape.fps
    onsets = [tuple(onset for onset in clip.onsets if onset < end_s) for clip in clips if clip.onsets is not None]
    references = [clip.reference for clip in clips if clip.reference is not None]
    # the words of a clip that had to be cut by much would say more than is heard
    transcripts = ["" if clip.transcript is None or end_s < clip.spoken_s else clip.transcript for clip in clips]
    scenes = [clip.caption if clip.scene is None else clip.scene for clip in clips]
    boxes = [None if clip.face_boxes is None else clip.face_boxes[:num_frames] for clip in clips]
    return ClipBatch(
        ids=[clip.id for clip in clips],
        video=torch.stack([clip.video[:num_frames] for clip in clips]),
        fps=shape.fps,
        audio=torch.stack([clip.audio[:num_samples] for clip in clips]),
        sample_rate=shape.sample_rate,
        captions=[clip.caption for clip in clips],
        video_ids=[clip.video_id for clip in clips],
        transcripts=transcripts if any(clip.transcript is not None for clip in clips) else None,
        reference_audio=torch.stack(references) if references else None,
        reference_lengths=torch.tensor([clip.reference_length for clip in clips]) if references else None,
        onsets=onsets if len(onsets) == len(clips) else None,
        valid=torch.tensor([clip.valid for clip in clips]),
        position=clips[0].position if clips[0].position >= 0 else None,
        scenes=scenes if any(clip.scene is not None for clip in clips) else None,
        mute=torch.tensor([clip.mute for clip in clips]) if any(clip.mute for clip in clips) else None,
        languages=[clip.language for clip in clips] if any(clip.language for clip in clips) else None,
        subsets=[clip.subset for clip in clips] if any(clip.subset for clip in clips) else None,
        face_boxes=boxes if any(found is not None for found in boxes) else None,
    )
