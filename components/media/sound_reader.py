"""Read spans of a sound track, of files with and without a picture."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from av.audio.stream import AudioStream
from av.video.stream import VideoStream
from torch import Tensor

from components.errors import InputError
from components.media.audio_decoding import MissingSoundError, decode_all, decode_span
from components.media.opening import MediaFile, choose_stream, decoding
from components.media.track import Track

# Encoders end a track up to two AAC blocks away from the picture's end; more than this is a hole in the sound.
MAX_MISSING_AUDIO_S = 0.1


class SoundReader:
    """The sound track of an open file; use it as a context manager.

    Second 0 is the time stamp of the first video frame or, in a file without picture, of the first sample.

    Args:
        path: any file FFmpeg can read that has an audio track.
        audio_track: number of the track among the file's audio tracks, from 0; None for the default one.
        picture: the picture of the same file if it is open already; the file is then left open.

    Raises:
        InputError: the file is missing, is no media file, or has no (such) audio track.
    """

    def __init__(
        self, path: str | Path, audio_track: int | None = None, picture: Track[VideoStream] | None = None
    ) -> None:
        self.path = Path(path)
        self._owned = picture is None
        file = MediaFile(self.path) if picture is None else picture.file
        try:
            picture = picture or _picture(file)
            guide = None if picture is None else picture.index
            self._track: Track[AudioStream] = Track(file, choose_stream(file, "audio", audio_track), guide)
        except InputError:
            if self._owned:
                file.close()
            raise
        self._origin_s = (picture or self._track).begin_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file unless it was given open."""
        if self._owned:
            self._track.file.close()

    @property
    def sample_rate(self) -> int:
        """Samples per second of the track."""
        return self._track.stream.rate

    @property
    def span_s(self) -> tuple[float, float]:
        """Begin and end of the sound in seconds."""
        return self._track.begin_s - self._origin_s, self._track.end_s - self._origin_s

    def read(
        self, start_s: float, num_samples: int, sample_rate: int, max_missing_s: float = MAX_MISSING_AUDIO_S
    ) -> Tensor:
        """Sound from ``start_s`` on, mono: float32 ``[num_samples]``, full scale 1.

        Up to ``max_missing_s`` seconds that the track lacks are zeros.

        Raises:
            InputError: corrupt data, samples that are NaN or infinite, or more of the sound is missing.
        """
        if sample_rate < 1:
            raise InputError(f"sample_rate is {sample_rate} for {self.path}; it must be positive")
        if not isfinite(start_s) or num_samples < 0:
            raise InputError(f"{self.path}: cannot read {num_samples} samples from {start_s} s on")
        try:
            with decoding(self.path, "sound"):
                begin_s = start_s + self._origin_s
                samples = decode_span(self._track, begin_s, num_samples, sample_rate, max_missing_s)
        except MissingSoundError as error:
            end_s = start_s + num_samples / sample_rate
            raise InputError(
                f"{self.path} lacks {error.missing_s:.3f} s of sound between {start_s:.3f} and {end_s:.3f} s;"
                " ask for a shorter clip or remove it from the list",
                "with holes in the sound",
            ) from None
        return torch.from_numpy(samples)

    def read_all(self, sample_rate: int, max_missing_s: float = MAX_MISSING_AUDIO_S) -> Tensor:
        """The whole sound, mono: float32 ``[S]``, full scale 1.

        Up to ``max_missing_s`` seconds of holes in it are zeros.

        Raises:
            InputError: corrupt data, samples that are NaN or infinite, no sample at all, or larger holes.
        """
        if sample_rate < 1:
            raise InputError(f"sample_rate is {sample_rate} for {self.path}; it must be positive")
        try:
            with decoding(self.path, "sound"):
                samples = decode_all(self._track, sample_rate, max_missing_s)
        except MissingSoundError as error:
            raise InputError(
                f"{self.path} has holes of {error.missing_s:.3f} s in its sound, more than the {max_missing_s:g} s"
                " allowed; allow more or remove it from the list",
                "with holes in the sound",
            ) from None
        if not len(samples):
            raise InputError(f"{self.path} holds no sound at all; give a file with sound")
        return torch.from_numpy(samples)


def _picture(file: MediaFile) -> Track[VideoStream] | None:
    """The file's picture, None if it has none but (perhaps) a cover."""
    try:
        return Track(file, choose_stream(file, "video"))
    except InputError:
        return None
