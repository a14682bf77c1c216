"""Band-limited resampling of a waveform at an exact, possibly fractional, start."""

from __future__ import annotations

from functools import lru_cache
from math import ceil, floor, gcd

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

_ZERO_CROSSINGS = 16
_ROLLOFF = 0.95
_START_STEPS = 32  # fractional starts are rounded to 1/32 source sample so that filters can be kept


def filter_reach(from_rate: int, to_rate: int) -> int:
    """Source samples the filter looks at on either side of an output sample."""
    return 0 if from_rate == to_rate else ceil(_ZERO_CROSSINGS / _cutoff(from_rate, to_rate)) + 1


def resample(samples: np.ndarray, from_rate: int, to_rate: int, start: float, num_samples: int) -> np.ndarray:
    """Windowed-sinc interpolation: ``y[k] = x(start + k * from_rate / to_rate)``, with x zero outside its samples.

    Equal rates are a slice at the nearest sample: nothing is filtered.

    Args:
        samples: float32 ``[S]``.
        from_rate: samples per second of ``samples``.
        to_rate: samples per second of the result.
        start: position of output sample 0 in source samples.
        num_samples: length of the result.

    Returns:
        float32 ``[num_samples]``.
    """
    if from_rate == to_rate:
        return _padded(samples, round(start), num_samples)
    # the rates' ratio in lowest terms: the filter has ``phases`` different fractions, then repeats
    divisor = gcd(from_rate, to_rate)
    step, phases = from_rate // divisor, to_rate // divisor
    whole, fraction = divmod(round(start * _START_STEPS), _START_STEPS)
    table, offsets = _filters(step, phases, fraction)
    reach = table.shape[1] // 2
    # one row of output per ``phases`` samples: every phase is one strided product
    rows = ceil(num_samples / phases)
    source = _padded(samples, whole - reach, (rows + 1) * step + table.shape[1])
    windows = sliding_window_view(source, table.shape[1])
    out = np.empty((rows, phases), np.float32)
    for phase, offset in enumerate(offsets):
        out[:, phase] = windows[offset : offset + (rows - 1) * step + 1 : step] @ table[phase]
    return out.reshape(-1)[:num_samples]


def _cutoff(from_rate: int, to_rate: int) -> float:
    """Pass band of the filter as a fraction of the source's Nyquist frequency."""
    return _ROLLOFF * min(1.0, to_rate / from_rate)


@lru_cache(maxsize=64)
def _filters(step: int, phases: int, fraction: int) -> tuple[np.ndarray, list[int]]:
    """Hann-windowed sinc per output phase ``[phases, taps]`` and the source index its window is shifted by."""
    cutoff = _cutoff(step, phases)
    reach = filter_reach(step, phases)
    position = fraction / _START_STEPS + np.arange(phases) * step / phases
    offsets = [floor(p) for p in position]
    taps = np.arange(-reach, reach + 1)
    distance = (taps[None, :] - (position - np.array(offsets))[:, None]) * cutoff
    # Hann over the sinc's 16 zero crossings
    window = np.where(np.abs(distance) < _ZERO_CROSSINGS, np.cos(np.pi * distance / (2 * _ZERO_CROSSINGS)) ** 2, 0.0)
    kernel = np.sinc(distance) * window
    # Unit gain at 0 Hz for every phase: a constant stays exactly constant.
    return (kernel / kernel.sum(axis=1, keepdims=True)).astype(np.float32), offsets


def _padded(samples: np.ndarray, begin: int, length: int) -> np.ndarray:
    """``samples[begin : begin + length]`` with zeros where that reaches outside."""
    low, high = max(begin, 0), min(begin + length, len(samples))
    if low == begin and high == begin + length:
        return samples[low:high]
    out = np.zeros(length, samples.dtype)
    if high > low:
        out[low - begin : high - begin] = samples[low:high]
    return out
