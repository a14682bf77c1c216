"""Decode the sound of a span of time, placed by its time stamps."""

from __future__ import annotations

from collections.abc import Iterator

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream

from components.media.mono import to_mono
from components.media.opening import UnusableMediaError
from components.media.placing import LASTING_S, Block, place
from components.media.resample import filter_reach, resample
from components.media.track import LandedLateError, Track

# Decoding starts this much early: after a seek the first blocks of AAC, MP3 and Opus lack their predecessors.
_PREROLL_S = 0.4
# Less is enough where a seek lands later than asked for, and behind a block that could not be decoded.
_LEAST_PREROLL_S = 0.2
_MAX_ROUNDING_S = 0.002


class MissingSoundError(Exception):
    """More of the sound asked for is missing than is tolerated: ``missing_s`` seconds."""

    def __init__(self, missing_s: float) -> None:
        super().__init__(f"{missing_s:.3f} s of sound are missing")
        self.missing_s = missing_s


def decode_span(
    track: Track[AudioStream], begin_s: float, num_samples: int, sample_rate: int, max_missing_s: float
) -> np.ndarray:
    """Sound of a span: sample k is what is heard at ``begin_s + k / sample_rate`` on the container's clock.

    Args:
        track: the sound.
        begin_s: time stamp in seconds of sample 0.
        num_samples: length of the result.
        sample_rate: samples per second of the result.
        max_missing_s: so many seconds may be missing; they are zeros.

    Returns:
        float32 ``[num_samples]``.

    Raises:
        MissingSoundError: the file lacks more of the span.
        UnusableMediaError: the stream's sample rate is not constant, or samples are NaN or infinite.
        av.error.FFmpegError: also from the file's beginning, the data cannot be decoded.
    """
    span_s = num_samples / sample_rate
    # the resampling filter reads beyond both ends of the span
    margin_s = filter_reach(track.stream.rate, sample_rate) / track.stream.rate + 0.01
    blocks = _decoded(track, begin_s - margin_s, begin_s + span_s + margin_s)
    if not blocks:
        if span_s > max_missing_s:
            raise MissingSoundError(span_s)
        return np.zeros(num_samples, np.float32)
    line, rate = place(blocks, begin_s), blocks[0].rate
    missing_s = line.missing(0.0, span_s * rate) / rate
    if missing_s > max_missing_s:
        raise MissingSoundError(missing_s)
    samples = line.samples()
    _check_values(samples, rate, begin_s - track.begin_s + line.first / rate)
    return resample(samples, rate, sample_rate, -line.first, num_samples)


def decode_all(track: Track[AudioStream], sample_rate: int, max_missing_s: float) -> np.ndarray:
    """The whole sound as float32 ``[S]`` from the track's begin on; for the rest see ``decode_span``."""
    track.file.restart()
    blocks = _collect(track, -np.inf, np.inf, from_begin=True)
    if not blocks:
        return np.zeros(0, np.float32)
    line, rate = place(blocks, track.begin_s), blocks[0].rate
    # a decoder's delay makes a track begin with silence, and samples before its begin are heard, too
    first = min(0.0, line.first)
    missing_s = line.missing(line.first, line.last) / rate
    if missing_s > max_missing_s:
        raise MissingSoundError(missing_s)
    samples = line.samples()
    _check_values(samples, rate, line.first / rate)
    return resample(
        samples, rate, sample_rate, first - line.first, int((line.last - first) * sample_rate / rate + 1e-6)
    )


def _decoded(track: Track[AudioStream], begin_s: float, end_s: float) -> list[Block]:
    for from_begin in track.approaches(begin_s - _PREROLL_S):
        try:
            return _collect(track, begin_s, end_s, from_begin)
        except (LandedLateError, av.error.FFmpegError):
            # after a seek a decoder may lack what it needs: that alone is no damage
            if from_begin:
                raise
    raise AssertionError("the last approach returns or raises")


def _collect(track: Track[AudioStream], begin_s: float, end_s: float, from_begin: bool) -> list[Block]:
    """The blocks that are heard in a span, and those around that tell holes from jitter.

    Raises:
        LandedLateError: too little was decoded before the span.
    """
    blocks: list[Block] = []
    latest_s = max(begin_s - _LEAST_PREROLL_S, track.begin_s + _MAX_ROUNDING_S)
    landed = from_begin
    for frame, start_s in _frames(track, from_begin, begin_s - _LEAST_PREROLL_S):
        if not landed and start_s > latest_s:
            raise LandedLateError
        landed = True
        if start_s > end_s + LASTING_S:
            break
        if start_s + frame.samples / frame.sample_rate >= begin_s - LASTING_S:
            blocks.append(Block(to_mono(frame), start_s, frame.sample_rate))
    if not landed:
        raise LandedLateError
    return blocks


def _frames(track: Track[AudioStream], from_begin: bool, harmless_s: float) -> Iterator[tuple[AudioFrame, float]]:
    """Decoded frames and their time stamps; what cannot be decoded before ``harmless_s`` is left out."""
    rate, base_s = 0, track.base_s
    # after a seek, frames without a time stamp are of an unknown time until the first that has one
    clock_s: float | None = track.begin_s if from_begin else None
    error: av.error.FFmpegError | None = None
    for packet in track.packets():
        at_s = packet.pts * base_s if packet.pts is not None else clock_s
        try:
            frames = packet.decode()
        except av.error.FFmpegError as found:
            # the first packet after a seek, and of a recording that was cut out, may be the rest of one
            if rate and (at_s is None or at_s >= harmless_s):
                raise
            error = found
            continue
        for frame in frames:
            if rate and frame.sample_rate != rate:
                raise UnusableMediaError(f"its sound changes from {rate} to {frame.sample_rate} Hz")
            rate = frame.sample_rate
            # a frame without a time stamp follows the one before
            start_s = frame.pts * base_s if frame.pts is not None else clock_s
            if start_s is not None:
                yield frame, start_s
                clock_s = start_s + frame.samples / rate
    if error is not None and not rate:
        raise error


def _check_values(samples: np.ndarray, rate: int, begin_s: float) -> None:
    """Raises an ``UnusableMediaError`` if samples are no numbers; the first of them is heard at ``begin_s``."""
    wrong = np.flatnonzero(~np.isfinite(samples))
    if len(wrong):
        at_s = begin_s + wrong[0] / rate
        raise UnusableMediaError(f"{len(wrong)} samples are NaN or infinite, the first at {at_s:.3f} s")
