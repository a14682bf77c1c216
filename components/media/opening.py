"""Open media files, choose their tracks and say what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from components.errors import Fault, InputError

# A wav's header says everything; by default FFmpeg also searches its first 5 MB for coded sound, ten times as slowly.
_WAV_OPTIONS = {"probesize": "65536"}
_COVER = Disposition.attached_pic | Disposition.timed_thumbnails
# made for few: taken only where nothing else is marked
_SPECIAL = Disposition.comment | Disposition.hearing_impaired | Disposition.visual_impaired | Disposition.karaoke
_STILL_CODECS = ("mjpeg", "png", "bmp", "gif", "webp", "tiff")
_WORDS = {"video": "a picture", "audio": "sound"}


class UnusableMediaError(Exception):
    """What was decoded cannot be used; says why, without the file's name."""


class MediaFile:
    """An open media file that can be begun anew.

    Args:
        path: the file.

    Raises:
        InputError: the file is missing or no media file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.container = _open(path)
        self.is_fresh = True
        """True as long as nothing was read."""
        self.ends_s: dict[int, float] = {}
        """Index of a stream -> where it ends, as far as that was looked up (`track.Track.end_s`)."""

    def restart(self) -> None:
        """Goes to the very beginning: opened anew, as some formats cannot seek there."""
        if not self.is_fresh:
            self.container.close()
            self.container = _open(self.path)
            self.is_fresh = True

    def close(self) -> None:
        """Closes the file."""
        self.container.close()


def _open(path: Path) -> InputContainer:
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {state}; give the path of a media file")
    try:
        # titles may be in any encoding, and nobody reads them here
        container = av.open(
            path, options=_WAV_OPTIONS if path.suffix.lower() == ".wav" else None, metadata_errors="replace"
        )
    except av.error.FFmpegError as error:
        raise InputError(
            f"{path} is corrupt, truncated or no media file ({error.strerror}); replace it or remove it from the list"
        ) from error
    for stream in (*container.streams.video, *container.streams.audio):
        # Parallelism comes from loader workers; a decoder's own threads only add latency.
        if _has_decoder(stream):
            stream.codec_context.thread_count = 1
    return container


def choose_stream(file: MediaFile, kind: Literal["video", "audio"], wanted: int | None = None) -> int:
    """Index of the stream to read: the one asked for, else the default one, never a cover picture.

    Args:
        file: the open file.
        kind: "video" or "audio".
        wanted: number of the track among those of its kind, from 0.

    Raises:
        InputError: there is no such track, or FFmpeg does not know its codec.
    """
    streams = list(file.container.streams.video if kind == "video" else file.container.streams.audio)
    if wanted is not None and not 0 <= wanted < len(streams):
        raise InputError(
            f"{file.path} has {len(streams)} {kind} tracks but {kind}_track is {wanted}; give a number from 0 to"
            f" {len(streams) - 1} or leave it out"
        )
    found = [streams[wanted]] if wanted is not None else [s for s in streams if not s.disposition & _COVER]
    if not found:
        fault: Fault = "without sound" if kind == "audio" else "unreadable"
        raise InputError(f"{file.path} has no {kind} track; give a file with {_WORDS[kind]}", fault)
    # the first of the best: `min` keeps the order of the file
    stream = min(found, key=_rank)
    if not _has_decoder(stream):
        raise InputError(f"{file.path} is corrupt, truncated or no media file (unknown codec); replace it")
    return stream.index


def _rank(stream: Stream) -> tuple[bool, bool, bool]:
    """The lowest is what a player takes."""
    still = _has_decoder(stream) and stream.codec_context.name in _STILL_CODECS
    return not stream.disposition & Disposition.default, bool(stream.disposition & _SPECIAL), still


def _has_decoder(stream: Stream | VideoStream | AudioStream) -> bool:
    # the type stubs deny that there may be none
    return any([stream.codec_context])


@contextmanager
def decoding(path: Path, part: str) -> Iterator[None]:
    """Turns the decoder's complaints into sentences that name the file."""
    try:
        yield
    except av.error.FFmpegError as error:
        raise InputError(
            f"the {part} of {path} is corrupt ({error.strerror}); replace it or remove it from the list"
        ) from error
    except UnusableMediaError as error:
        raise InputError(
            f"the {part} of {path} cannot be used: {error}; replace it or remove it from the list"
        ) from None


def described_tracks(path: Path) -> tuple[str, ...]:
    """What a file holds, by its header: ``video h264``, ``audio aac 48000 Hz stereo`` ..., covers too.

    Raises:
        InputError: the file is missing or no media file.
    """
    file = MediaFile(path)
    try:
        pictures, sounds = file.container.streams.video, file.container.streams.audio
        found = [f"video {_codec(stream)}{' (cover)' if stream.disposition & _COVER else ''}" for stream in pictures]
        for stream in sounds:
            layout = f" {stream.rate} Hz {stream.layout.name}" if _has_decoder(stream) else ""
            found.append(f"audio {_codec(stream)}{layout}")
        return tuple(found)
    finally:
        file.close()


def _codec(stream: VideoStream | AudioStream) -> str:
    return stream.codec_context.name if _has_decoder(stream) else "of an unknown codec"
