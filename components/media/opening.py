"""Open media files and say what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from components.errors import InputError
from components.media.audio_decoding import RateChangeError
from components.media.video_decoding import DamagedFrameError

# A wav's header says everything; by default FFmpeg also searches its first 5 MB for coded sound, ten times as slowly.
_WAV_OPTIONS = {"probesize": "65536"}


def open_media(path: Path) -> InputContainer:
    """The open file.

    Raises:
        InputError: the file is missing or no media file.
    """
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {state}; give the path of a media file")
    try:
        return av.open(path, options=_WAV_OPTIONS if path.suffix.lower() == ".wav" else None)
    except av.error.FFmpegError as error:
        raise InputError(
            f"{path} is corrupt, truncated or no media file ({error.strerror}); replace it or remove it from the list"
        ) from error


def check_decoder(path: Path, stream: AudioStream | VideoStream) -> None:
    """Raises an ``InputError`` if FFmpeg does not know the stream's codec."""
    # the type stubs deny that there may be none
    if not any([stream.codec_context]):
        raise InputError(f"{path} is corrupt, truncated or no media file (unknown codec); replace it")


@contextmanager
def decoding(path: Path, part: str) -> Iterator[None]:
    """Turns the decoder's complaints into sentences that name the file."""
    try:
        yield
    except av.error.FFmpegError as error:
        raise InputError(
            f"the {part} of {path} is corrupt ({error.strerror}); replace it or remove it from the list"
        ) from error
    except (DamagedFrameError, RateChangeError) as error:
        raise InputError(
            f"the {part} of {path} cannot be used: {error}; replace it or remove it from the list"
        ) from None
