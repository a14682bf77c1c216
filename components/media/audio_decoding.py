"""Decode the sound of a span of time, placed by its time stamps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from components.media.resample import filter_reach, resample

# Decoding starts this much early: after a seek the first blocks of AAC, MP3 and Opus lack their predecessors.
_PREROLL_S = 0.4
# A jump of the time stamps beyond this is a true gap or overlap, below it is rounding.
_MAX_JITTER_S = 0.003


class RateChangeError(Exception):
    """The sound changes its sample rate half way."""


@dataclass(frozen=True)
class Sound:
    """Mono samples and how many seconds of the span asked for the file does not hold (those are zero)."""

    samples: np.ndarray
    missing_s: float


def decode_span(
    container: InputContainer, stream: AudioStream, begin_s: float, num_samples: int, sample_rate: int
) -> Sound:
    """Sound of a span: sample k is what is heard at ``begin_s + k / sample_rate`` on the container's clock.

    Args:
        container: the open file.
        stream: its audio stream.
        begin_s: time stamp in seconds of sample 0.
        num_samples: length of the result.
        sample_rate: samples per second of the result.

    Raises:
        RateChangeError: the stream's sample rate is not constant.
        av.error.FFmpegError: the data cannot be decoded.
    """
    end_s = begin_s + num_samples / sample_rate
    # the resampling filter reads beyond both ends of the span
    margin_s = filter_reach(stream.rate, sample_rate) / stream.rate + 0.01
    target = int((begin_s - margin_s - _PREROLL_S) / float(stream.time_base or 1))
    # A target before the first packet is right: the one at 0 needs its predecessor, the encoder's priming.
    container.seek(target, stream=stream, backward=True)
    blocks: list[_Block] = []
    for block in _blocks(container, stream):
        if block.end_s >= begin_s - margin_s:
            blocks.append(block)
        if block.end_s > end_s + margin_s:
            break
    if not blocks:
        return Sound(np.zeros(num_samples, np.float32), num_samples / sample_rate)
    rate = blocks[0].rate
    line, first, covered = _place(blocks, begin_s, num_samples / sample_rate)
    samples = resample(line, rate, sample_rate, -first, num_samples)
    return Sound(samples, max(0.0, num_samples / sample_rate - covered))


def decode_all(container: InputContainer, stream: AudioStream, sample_rate: int) -> np.ndarray:
    """The whole sound as float32 ``[S]``, beginning with its first sample.

    Raises:
        RateChangeError: the stream's sample rate is not constant.
        av.error.FFmpegError: the data cannot be decoded.
    """
    blocks = list(_blocks(container, stream))
    if not blocks:
        return np.zeros(0, np.float32)
    line = np.concatenate([block.samples for block in blocks])
    return resample(line, blocks[0].rate, sample_rate, 0.0, len(line) * sample_rate // blocks[0].rate)


@dataclass(frozen=True)
class _Block:
    samples: np.ndarray
    start_s: float
    rate: int

    @property
    def end_s(self) -> float:
        return self.start_s + len(self.samples) / self.rate


def _blocks(container: InputContainer, stream: AudioStream) -> Iterator[_Block]:
    rate, clock_s = 0, 0.0
    base = float(stream.time_base or 0)
    for frame in container.decode(stream):
        if rate and frame.sample_rate != rate:
            raise RateChangeError(f"its sound changes from {rate} to {frame.sample_rate} Hz")
        rate = frame.sample_rate
        # a frame without a time stamp follows the one before
        if frame.pts is not None:
            clock_s = frame.pts * base
        block = _Block(_mono(frame), clock_s, rate)
        clock_s = block.end_s
        yield block


def _mono(frame: AudioFrame) -> np.ndarray:
    """Mean over the channels, float32 in [-1, 1]: ``[S]``."""
    array = frame.to_ndarray()
    channels = frame.layout.nb_channels
    # interleaved samples, as PCM has them
    if not frame.format.is_planar and channels > 1:
        array = array.reshape(-1, channels).T
    if array.dtype == np.uint8:  # unsigned 8-bit: silence is 128
        array = (array.astype(np.float32) - 128) / 128
    elif np.issubdtype(array.dtype, np.integer):
        array = array.astype(np.float32) / (1 << (8 * array.dtype.itemsize - 1))
    mono = array[0] if len(array) == 1 else array.mean(axis=0, dtype=np.float32)
    return np.ascontiguousarray(mono, np.float32)


def _place(blocks: list[_Block], begin_s: float, span_s: float) -> tuple[np.ndarray, float, float]:
    """Lays the blocks out on one line of samples by their time stamps.

    Blocks that follow each other without a jump are one run; a run's place is the mean over its blocks' time
    stamps, which removes the rounding of coarse ones.

    Returns:
        samples ``[S]``, the position of the first of them in samples after ``begin_s``, and how many seconds of the
        span have sound.
    """
    rate = blocks[0].rate
    runs: list[list[_Block]] = [[blocks[0]]]
    for before, block in pairwise(blocks):
        if abs(block.start_s - before.end_s) > _MAX_JITTER_S:
            runs.append([])
        runs[-1].append(block)
    starts = [_run_start(run, begin_s) for run in runs]
    if len(runs) == 1:
        line = np.concatenate([block.samples for block in blocks])
        return line, starts[0], _overlap_s(starts[0], len(line), rate, span_s)
    # gaps become zeros, overlaps are taken from the later run
    first = min(starts)
    offsets = [round(start - first) for start in starts]
    lengths = [sum(len(block.samples) for block in run) for run in runs]
    line = np.zeros(max(o + n for o, n in zip(offsets, lengths, strict=True)), np.float32)
    for offset, run, length in zip(offsets, runs, lengths, strict=True):
        line[offset : offset + length] = np.concatenate([block.samples for block in run])
    covered = sum(_overlap_s(s, n, rate, span_s) for s, n in zip(starts, lengths, strict=True))
    return line, first, covered


def _run_start(run: list[_Block], begin_s: float) -> float:
    """Position of a run's first sample in samples after ``begin_s``."""
    lengths = np.array([len(block.samples) for block in run])
    before = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    stamps = np.array([block.start_s for block in run]) - begin_s
    return float(np.mean(stamps * run[0].rate - before))


def _overlap_s(start: float, length: int, rate: int, span_s: float) -> float:
    return max(0.0, min((start + length) / rate, span_s) - max(start / rate, 0.0))
