"""Cuts clips out of recordings, with or without a picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from components.errors import InputError
from components.media.clock import ClipShape
from components.media.reader import MediaInfo, MediaReader
from components.media.sound_reader import MAX_MISSING_AUDIO_S, SoundReader
from datamodules.reading.face_boxes import boxes_of_clip
from datamodules.reading.records import ClipRecord

# Header durations are rounded to the container's ticks; a clip may reach beyond them by this much.
_HEADER_SLACK_S = 0.005
# The reader shows a recording's last frame for this many frames more than the recording does.
_HELD_FRAMES = 0.5


class Cut(NamedTuple):
    """A part of a recording.

    Attributes:
        start_s: where it begins, on the recording's clock.
        video: uint8 ``[T, 3, H, W]``, T = 0 where only the sound is read.
        audio: float32 ``[S]``.
        usable_s: length of all of the recording that clips may be cut from.
        mute: the recording has no sound track; ``audio`` is zeros.
        face_boxes: ``[T, 4]`` in fractions of the clip's picture, NaN where there is no face; None where unknown.
    """

    start_s: float
    video: Tensor
    audio: Tensor
    usable_s: float
    mute: bool = False
    face_boxes: Tensor | None = None


class Promise(NamedTuple):
    """What the header of a recording promises.

    Attributes:
        usable_s: seconds that clips may be cut from.
        mute: it has no sound track, and is read all the same.
    """

    usable_s: float
    mute: bool = False


class _Window(NamedTuple):
    """What clips of a recording may be cut from, by its header.

    Attributes:
        begin_s: where it begins.
        end_s: where it ends; where the header has too little, so late that the reader is asked for a whole clip.
        length: frames of a clip.
        is_short: the header has too little; the decoder has the last word.
    """

    begin_s: float
    end_s: float
    length: int
    is_short: bool = False


class ClipForm(NamedTuple):
    """What all clips of a recording have in common.

    Attributes:
        num_frames: frames of a clip.
        size: height and width of the picture as it is seen, None where nobody looked.
    """

    num_frames: int
    size: tuple[float, float] | None


@dataclass(frozen=True)
class RecordReader:
    """Reads clips of one format.

    Attributes:
        shape: what a clip looks like.
        audio_only: leave the picture out; recordings then need none.
        pad_audio: let recordings shorter than a clip end in silence (``audio_only`` alone: a picture cannot).
        frame_step: frames by which clips of different length differ.
        video_track: number of the track among each file's video tracks, from 0; None for the default one.
        audio_track: likewise among the audio tracks.
        max_missing_s: so many seconds of a clip's sound may be missing; they are silent.
        mute_is_silence: read recordings without sound track, as digital silence.

    Raises:
        InputError: a number is negative, or a track of the picture is chosen where only the sound is read.
    """

    shape: ClipShape
    audio_only: bool = False
    pad_audio: bool = False
    frame_step: int = 8
    video_track: int | None = None
    audio_track: int | None = None
    max_missing_s: float = MAX_MISSING_AUDIO_S
    mute_is_silence: bool = False

    def __post_init__(self) -> None:
        if self.audio_only and self.video_track is not None:
            raise InputError(
                f"video_track is {self.video_track} but audio_only reads no picture; leave one of them out"
            )
        for name, value in (("video_track", self.video_track), ("audio_track", self.audio_track)):
            if value is not None and value < 0:
                raise InputError(f"{name} is {value}; tracks are counted from 0")
        if not self.max_missing_s >= 0:
            raise InputError(f"max_missing_audio_s is {self.max_missing_s}; it must be 0 or more seconds")

    def read(self, record: ClipRecord, place: float, whole: bool = False) -> Cut:
        """A clip that begins at ``place`` (0 to 1) of the possible starts, or everything usable.

        Args:
            record: the recording.
            place: 0 for the first possible start, 1 for the last.
            whole: everything that clips may be cut from, instead of a clip.

        Raises:
            InputError: the recording cannot be read or is too short.
        """
        return self._read_sound(record, place, whole) if self.audio_only else self._read(record, place, whole)

    def promise(self, record: ClipRecord) -> Promise:
        """What can be said of a recording by its header alone.

        Raises:
            InputError: it cannot be opened, has no sound where that is needed, or is too short as its header has it.
        """
        mute = False
        if self.audio_only:
            with SoundReader(record.sound or record.path, self.audio_track) as sound:
                window = self._sound_window(record, sound)
        else:
            with MediaReader(record.path, record.sound, self.video_track, self.audio_track) as media:
                info = media.info
                window, mute = self._window(record, info), info.audio_span_s is None
        if window.is_short:
            clip_s = window.length / self.shape.fps
            raise InputError(
                f"{record.path} is shorter than a clip of {clip_s:.3f} s; remove it from the list or lower"
                " clip.num_frames",
                "shorter than a clip",
            )
        return Promise(window.end_s - window.begin_s, mute)

    def _read(self, record: ClipRecord, place: float, whole: bool) -> Cut:
        shape = self.shape
        with MediaReader(record.path, record.sound, self.video_track, self.audio_track) as media:
            info = media.info
            begin_s, end_s, length, is_short = self._window(record, info)
            start_s, num_frames = self._place(begin_s, end_s, place, length, whole)
            samples, mute = shape.samples_of(num_frames), info.audio_span_s is None
            with _called_short(is_short):
                video = media.video(start_s, num_frames, shape.fps, shape.height, shape.width)
                audio = torch.zeros(samples) if mute else self._sound(media, start_s, samples)
            boxes = None
            if record.face_boxes is not None:
                seen, name = media.shown_size(), f"{record.path} ({record.id})"
                boxes = boxes_of_clip(record.face_boxes, name, start_s, num_frames, shape, info.fps, seen)
        return Cut(start_s, video, audio, end_s - begin_s, mute, boxes)

    def _sound(self, media: MediaReader, start_s: float, num_samples: int) -> Tensor:
        return media.audio(start_s, num_samples, self.shape.sample_rate, self.max_missing_s)

    def _usable(self, record: ClipRecord, info: MediaInfo) -> tuple[float, float, int]:
        """What clips may be cut from, in seconds, and the frames of one."""
        begin_s, end_s = 0.0, info.duration_s
        if info.audio_span_s is not None:
            # only seconds that have both picture and sound
            begin_s, end_s = max(begin_s, info.audio_span_s[0]), min(end_s, info.audio_span_s[1])
        begin_s, end_s = self._within_span(record, begin_s, end_s)
        length = self._clip_length(begin_s, end_s)
        if record.span_s is None and length < self.shape.num_frames and self._is_nearly_whole(info):
            length = self.shape.num_frames
        return begin_s, end_s, length

    def clip_form(self, record: ClipRecord, with_size: bool) -> ClipForm:
        """How long the record's clips are and what size its picture has, before any clip is read.

        Whether it has the sound that is needed is another question.

        Args:
            record: the recording.
            with_size: look at the first frame; otherwise, and where only the sound is read, the size is None.

        Raises:
            InputError: the recording cannot be opened, or its own part is too short.
        """
        if self.audio_only:
            with SoundReader(record.sound or record.path, self.audio_track) as sound:
                begin_s, end_s = self._within_span(record, max(0.0, sound.span_s[0]), sound.span_s[1])
            return ClipForm(self._clip_length(begin_s, end_s), None)
        with MediaReader(record.path, record.sound, self.video_track, self.audio_track) as media:
            *_, length = self._usable(record, media.info)
            return ClipForm(length, media.shown_size() if with_size else None)

    def _read_sound(self, record: ClipRecord, place: float, whole: bool) -> Cut:
        shape = self.shape
        with SoundReader(record.sound or record.path, self.audio_track) as sound:
            begin_s, end_s, length, is_short = self._sound_window(record, sound)
            start_s, num_frames = self._place(begin_s, end_s, place, length, whole)
            wanted = shape.samples_of(num_frames)
            # without a picture the clip may end in silence, from the file's end on
            held = min(wanted, round((end_s - start_s) * shape.sample_rate)) if self.pad_audio else wanted
            if held < 1:
                raise InputError(f"{sound.path} has no sound after {start_s:.3f} s; remove {record.id} from the list")
            with _called_short(is_short):
                audio = pad(sound.read(start_s, held, shape.sample_rate, self.max_missing_s), (0, wanted - held))
        return Cut(start_s, torch.empty(0, 3, shape.height, shape.width, dtype=torch.uint8), audio, end_s - begin_s)

    def _window(self, record: ClipRecord, info: MediaInfo) -> _Window:
        """What clips with a picture may be cut from.

        Raises:
            InputError: there is no sound, or too little in the record's own span.
        """
        shape = self.shape
        if info.audio_span_s is None and not self.mute_is_silence:
            raise InputError(
                f"{record.path} has no audio track; give a recording with sound, or set mute where the data set has it",
                "without sound",
            )
        begin_s, end_s, length = self._usable(record, info)
        if record.span_s is not None:
            return _Window(begin_s, end_s, length)
        slack_s = _HEADER_SLACK_S if length < shape.num_frames else 0.0
        if end_s - begin_s >= length / shape.fps - slack_s:
            return _Window(begin_s, end_s, length)
        # the reader says what is missing, and makes up for a moment
        begin_s, end_s = 0.0, max(info.duration_s, length / shape.fps)
        return _Window(begin_s, end_s, length, is_short=length < shape.num_frames or not self._is_nearly_whole(info))

    def _sound_window(self, record: ClipRecord, sound: SoundReader) -> _Window:
        begin_s, end_s = self._within_span(record, max(0.0, sound.span_s[0]), sound.span_s[1])
        length = self._clip_length(begin_s, end_s)
        missing_s = length / self.shape.fps - (end_s - begin_s)
        return _Window(begin_s, end_s, length, is_short=not self.pad_audio and missing_s > self.max_missing_s)

    def _within_span(self, record: ClipRecord, begin_s: float, end_s: float) -> tuple[float, float]:
        """The part of ``begin_s..end_s`` that the record's own span leaves."""
        if record.span_s is None:
            return begin_s, end_s
        first_s, last_s = record.span_s
        begin_s, end_s = max(begin_s, first_s), min(end_s, last_s)
        least_s = self.shape.shortest(self.frame_step) / self.shape.fps
        if end_s - begin_s < least_s - _HEADER_SLACK_S and not self.pad_audio:
            end = f"{last_s:.3f} s" if last_s < float("inf") else "its end"
            raise InputError(
                f"{record.path} has {max(0.0, end_s - begin_s):.3f} s to offer for {record.id} between {first_s:.3f} s"
                f" and {end}, less than a clip's {least_s:.3f} s; widen start and end, remove the row or"
                " lower clip.num_frames",
                "shorter than a clip",
            )
        return begin_s, end_s

    def _clip_length(self, begin_s: float, end_s: float) -> int:
        """Frames of the clips cut from ``begin_s..end_s``."""
        return self.shape.longest(int((end_s - begin_s + _HEADER_SLACK_S) * self.shape.fps), self.frame_step)

    def _is_nearly_whole(self, info: MediaInfo) -> bool:
        """True if the reader makes a whole clip of a recording that lacks a moment of picture or sound."""
        shape = self.shape
        sound_begin_s, sound_end_s = info.audio_span_s or (0.0, shape.duration_s)
        missing_s = max(0.0, sound_begin_s) + max(0.0, shape.duration_s - sound_end_s)
        last_shown_s = info.duration_s + _HELD_FRAMES / shape.fps
        return (shape.num_frames - 1) / shape.fps < last_shown_s - 1e-4 and missing_s < self.max_missing_s

    def _place(self, begin_s: float, end_s: float, place: float, length: int, whole: bool) -> tuple[float, int]:
        """Start and frames of a clip of ``length`` frames, or of all that ``begin_s..end_s`` holds."""
        if whole:
            return begin_s, max(length, int((end_s - begin_s + _HEADER_SLACK_S) * self.shape.fps))
        return begin_s + place * max(0.0, end_s - begin_s - length / self.shape.fps), length


@contextmanager
def _called_short(is_short: bool) -> Iterator[None]:
    """Where a recording is too short by its header, what it lacks at its end is not called a hole."""
    try:
        yield
    except InputError as error:
        if is_short and error.fault == "with holes in the sound":
            error.fault = "shorter than a clip"
        raise
