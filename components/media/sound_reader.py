"""Read spans of a sound track, of files with and without a picture."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import av
import torch
from av.container import InputContainer
from torch import Tensor

from components.errors import InputError
from components.media.audio_decoding import decode_span
from components.media.opening import check_decoder, decoding, open_media

# Encoders end a track up to two AAC blocks away from the picture's end; more than this is a hole in the sound.
MAX_MISSING_AUDIO_S = 0.1


class SoundReader:
    """The sound track of an open file; use it as a context manager.

    Second 0 is the time stamp of the first video frame or, in a file without picture, of the first sample.

    Args:
        path: any file FFmpeg can read that has an audio track.
        container: the same file if it is open already; it is then left open.

    Raises:
        InputError: the file is missing, is no media file, or has no audio track.
    """

    def __init__(self, path: str | Path, container: InputContainer | None = None) -> None:
        self.path = Path(path)
        self._owned = container is None
        self._container = open_media(self.path) if container is None else container
        if not self._container.streams.audio:
            self.close()
            raise InputError(f"{self.path} has no audio track; give a recording with sound")
        self._stream = self._container.streams.audio[0]
        try:
            check_decoder(self.path, self._stream)
        except InputError:
            self.close()
            raise
        # Parallelism comes from loader workers; a decoder's own threads only add latency.
        self._stream.codec_context.thread_count = 1
        clock = self._container.streams.video[0] if self._container.streams.video else self._stream
        self._origin_s = (clock.start_time or 0) * float(clock.time_base or 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file unless it was given open."""
        if self._owned:
            self._container.close()

    @property
    def sample_rate(self) -> int:
        """Samples per second of the track."""
        return self._stream.rate

    @property
    def span_s(self) -> tuple[float, float]:
        """Begin and end of the sound in seconds as the header has them."""
        stream, base = self._stream, float(self._stream.time_base or 0)
        start_s = (stream.start_time or 0) * base
        if stream.duration is not None:
            end_s = start_s + stream.duration * base
        else:
            end_s = ((self._container.start_time or 0) + (self._container.duration or 0)) / av.time_base
        return start_s - self._origin_s, end_s - self._origin_s

    def read(
        self, start_s: float, num_samples: int, sample_rate: int, max_missing_s: float = MAX_MISSING_AUDIO_S
    ) -> Tensor:
        """Sound from ``start_s`` on: float32 ``[num_samples]`` mono in [-1, 1].

        Up to ``max_missing_s`` seconds that the track lacks are zeros.

        Raises:
            InputError: corrupt data, or more of the sound is missing.
        """
        if sample_rate < 1:
            raise InputError(f"sample_rate is {sample_rate} for {self.path}; it must be positive")
        with decoding(self.path, "sound"):
            sound = decode_span(self._container, self._stream, start_s + self._origin_s, num_samples, sample_rate)
        if sound.missing_s > max_missing_s:
            end_s = start_s + num_samples / sample_rate
            raise InputError(
                f"{self.path} lacks {sound.missing_s:.3f} s of sound between {start_s:.3f} and {end_s:.3f} s;"
                " ask for a shorter clip or remove it from the list"
            )
        return torch.from_numpy(sound.samples)
