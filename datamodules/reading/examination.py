"""Looks at a recording before anything trains on it: what is in it, and what a run would say of it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from components.errors import Fault, InputError
from components.media.clock import ClipShape
from components.media.opening import described_tracks
from components.media.reader import MediaReader
from components.media.sound_reader import SoundReader
from components.metrics.recordings.measures import (
    Window,
    clipped_share,
    loudness_lufs,
    silent_share,
    sound_offset,
    still_share,
)
from datamodules.reading.clip_dataset import ClipDataset
from datamodules.reading.record_reader import RecordReader
from datamodules.reading.records import ClipRecord

_WINDOW_S = 3.0
"""So much is looked at of the start, the middle and the end; shorter recordings are looked at whole."""
_MAX_FPS, _USUAL_FPS = 30.0, 25.0
_THUMBNAIL = 112
_SHOWN = 3


@dataclass(frozen=True)
class Examination:
    """What a recording is like; None where that cannot be said.

    Attributes:
        duration_s: length in seconds, of the record's own part.
        fps: frames per second.
        width: columns of the picture as it is seen, upright and with square pixels.
        height: its rows.
        sample_rate: samples per second of the sound.
        tracks: all that the files hold.
        silent_share: share of the sound looked at below -60 dBFS.
        loudness_lufs: its loudness (ITU-R BS.1770-4, of the mix-down to one channel that models hear).
        clipped_share: share of its samples in runs at full scale.
        still_share: share of the frames looked at that are as the one before.
        offset_s: by how much the sound is later than the picture, as far as they tell.
        offset_confidence: how sure that is, 0 to 1.
        trouble: what went wrong in decoding, the first sentence.
        thumbnails: a JPEG of its start, middle and end side by side, as clips are cropped; empty without picture.
    """

    duration_s: float | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    sample_rate: int | None = None
    tracks: tuple[str, ...] = ()
    silent_share: float | None = None
    loudness_lufs: float | None = None
    clipped_share: float | None = None
    still_share: float | None = None
    offset_s: float | None = None
    offset_confidence: float | None = None
    trouble: str | None = None
    thumbnails: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Verdict:
    """What a run would do with a recording.

    Attributes:
        fault: why it would not use it; None where it would.
        reason: the sentence it would say.
        usable_s: seconds that clips may be cut from.
        is_mute: it is used without a sound track.
        has_sound: some clip of it is not silent.
        has_motion: some clip of it is not still.
    """

    fault: Fault | None = None
    reason: str | None = None
    usable_s: float = 0.0
    is_mute: bool = False
    has_sound: bool = False
    has_motion: bool = False


class ExaminedRecords(Dataset[tuple[Examination, Verdict]]):
    """Looks at the recordings of a set, one an item; nothing is kept.

    Args:
        clips: the set, as a run has it.
    """

    def __init__(self, clips: ClipDataset) -> None:
        self._clips = clips

    def __len__(self) -> int:
        return len(self._clips.records)

    def __getitem__(self, index: int) -> tuple[Examination, Verdict]:
        return examine(self._clips.records[index], self._clips.reader), verdict_on(self._clips, index)


def verdict_on(clips: ClipDataset, index: int) -> Verdict:
    """Has the set make clips of a recording as it would in a run."""
    try:
        made = clips.trial(index)
    except InputError as error:
        return Verdict(error.fault, str(error))
    try:
        usable_s = clips.reader.promise(clips.records[index]).usable_s
    except InputError:  # the header says less than there is
        usable_s = len(made[0].audio) / clips.shape.sample_rate
    return Verdict(
        usable_s=usable_s,
        is_mute=made[0].mute,
        has_sound=not all(clip.is_silent for clip in made),
        has_motion=any((still_share(clip.video) or 0.0) < 1.0 for clip in made if len(clip.video) > 1),
    )


def examine(record: ClipRecord, reader: RecordReader) -> Examination:
    """Measures start, middle and end of a recording; what is wrong with it is told, not raised.

    Args:
        record: the recording.
        reader: says what is read of it, and how clips are cropped.
    """
    facts: dict[str, object] = {}
    found = _Found()
    with found.noting():
        files = [record.sound or record.path] if reader.audio_only else [record.path, record.sound or record.path]
        facts["tracks"] = tuple(track for file in dict.fromkeys(files) for track in described_tracks(file))
        with found.noting():
            _look(record, reader, found, facts)
    windows = found.windows
    if sounds := [window.audio for window in windows if len(window.audio)]:
        heard, rate = torch.cat(sounds), windows[0].sample_rate
        facts |= {
            "silent_share": silent_share(heard, rate),
            "loudness_lufs": loudness_lufs(heard, rate),
            "clipped_share": clipped_share(heard),
        }
    seen = [window.video for window in windows if len(window.video) > 1]
    if seen:
        # pairs across the gaps between windows are no pairs
        pairs = [(still_share(video) or 0.0, len(video) - 1) for video in seen]
        facts["still_share"] = sum(share * count for share, count in pairs) / sum(count for _, count in pairs)
        facts["thumbnails"] = _strip(seen)
        if (offset := sound_offset(windows)) is not None:
            facts["offset_s"], facts["offset_confidence"] = offset
    return Examination(**facts, trouble=found.trouble)  # type: ignore[arg-type]  # filled above, by name


class _Found:
    """What was read so far, and the first thing that went wrong."""

    def __init__(self) -> None:
        self.windows: list[Window] = []
        self.trouble: str | None = None

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Goes on behind the block, whatever a file is found to lack."""
        try:
            yield
        except InputError as error:
            self.trouble = self.trouble or str(error)


def _look(record: ClipRecord, reader: RecordReader, found: _Found, facts: dict[str, object]) -> None:
    none = torch.empty(0)
    if reader.audio_only:
        with SoundReader(record.sound or record.path, reader.audio_track) as sound:
            rate = sound.sample_rate
            begin_s, end_s = _part(record, max(0.0, sound.span_s[0]), sound.span_s[1])
            facts |= {"duration_s": end_s - begin_s, "sample_rate": rate}
            for start_s, length_s in _windows(begin_s, end_s):
                with found.noting():
                    found.windows.append(Window(none, 0.0, sound.read(start_s, int(length_s * rate), rate, inf), rate))
        return
    height, width = _thumbnail_size(reader.shape)
    with MediaReader(record.path, record.sound, reader.video_track, reader.audio_track) as media:
        info = media.info
        begin_s, end_s = _part(record, 0.0, info.duration_s)
        facts |= {"duration_s": end_s - begin_s, "fps": info.fps or None, "sample_rate": info.sample_rate}
        with found.noting():
            seen_height, seen_width = media.shown_size()
            facts |= {"width": round(seen_width), "height": round(seen_height)}
        fps, rate = min(info.fps or _USUAL_FPS, _MAX_FPS), info.sample_rate or 0
        for start_s, length_s in _windows(begin_s, end_s):
            video, audio = none, none
            with found.noting():
                video = media.video(start_s, max(1, int(length_s * fps)), fps, height, width)
            if rate:
                with found.noting():
                    audio = media.audio(start_s, int(length_s * rate), rate, inf)
            found.windows.append(Window(video, fps, audio, rate))


def _part(record: ClipRecord, begin_s: float, end_s: float) -> tuple[float, float]:
    first_s, last_s = record.span_s or (begin_s, end_s)
    begin_s = max(begin_s, first_s)
    return begin_s, max(begin_s, min(end_s, last_s))


def _windows(begin_s: float, end_s: float) -> Iterator[tuple[float, float]]:
    """Start and length in seconds of what is looked at."""
    if end_s - begin_s <= _SHOWN * _WINDOW_S:
        yield begin_s, end_s - begin_s
        return
    for part in range(_SHOWN):
        yield begin_s + part / (_SHOWN - 1) * (end_s - begin_s - _WINDOW_S), _WINDOW_S


def _thumbnail_size(shape: ClipShape) -> tuple[int, int]:
    scale = _THUMBNAIL / max(shape.height, shape.width)
    return max(16, round(shape.height * scale)), max(16, round(shape.width * scale))


def _strip(videos: list[Tensor]) -> bytes:
    """Start, middle and end side by side."""
    if len(videos) == 1:
        frames = [videos[0][round(part * (len(videos[0]) - 1))] for part in (0.0, 0.5, 1.0)]
    else:
        frames = [video[index] for video, index in zip(videos, (0, len(videos[1]) // 2, -1), strict=False)]
    stream = io.BytesIO()
    Image.fromarray(torch.cat(frames, dim=2).permute(1, 2, 0).contiguous().numpy()).save(stream, "JPEG", quality=80)
    return stream.getvalue()
