"""The cepstral coefficients SyncNet hears, number for number as ``python_speech_features`` 0.6 makes them.

Reference: metrics specification, section 3. The window is rectangular, the filters stand on whole FFT bins and
coefficient 0 is the logarithm of the frame's energy: none of the usual mel front ends has all three.

Legend for shapes: B clips, S samples at 16 kHz, F frames at 100 Hz.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLE_RATE = 16_000
NUM_CEPSTRA = 13

_FRAME, _HOP, _FFT = 400, 160, 512  # 25 ms and 10 ms at 16 kHz
_NUM_FILTERS = 26
_PRE_EMPHASIS = 0.97
_LIFTER = 22
_FULL_SCALE = 32_768


def to_int16_scale(audio: Tensor) -> Tensor:
    """Sound in [-1, 1] as the whole numbers a 16-bit file would hold, float64: what :func:`mfcc` is fed."""
    # +1 has no 16-bit number: the largest is 32767
    return (audio.double() * _FULL_SCALE).round().clamp(-_FULL_SCALE, _FULL_SCALE - 1)


def mfcc(samples: Tensor) -> Tensor:
    """Cepstra of each track: float64 ``[B, F, 13]`` with ``F = 1 + ceil((S - 400) / 160)``, at least 1.

    Args:
        samples: ``[B, S]`` at 16 kHz on the scale of 16-bit numbers (the scale moves coefficient 0 only).
    """
    samples = samples.double()
    tiny = torch.finfo(torch.float64).eps
    # the first sample has no predecessor and is kept
    emphasised = torch.cat((samples[:, :1], samples[:, 1:] - _PRE_EMPHASIS * samples[:, :-1]), dim=1)
    num_frames = 1 + max(0, math.ceil((samples.shape[1] - _FRAME) / _HOP))
    padding = (num_frames - 1) * _HOP + _FRAME - samples.shape[1]
    frames = F.pad(emphasised, (0, padding)).unfold(1, _FRAME, _HOP)
    # a rectangular window: ``unfold`` alone
    power = torch.fft.rfft(frames, _FFT).abs().square() / _FFT
    energy = power.sum(dim=-1)
    filters, cosines = (torch.from_numpy(table).to(samples.device) for table in (_mel_filters(), _liftered_cosines()))
    bands = power @ filters
    cepstra = torch.where(bands == 0, tiny, bands).log() @ cosines
    # the frame's energy takes the place of coefficient 0, after the lifter
    cepstra[..., 0] = torch.where(energy == 0, tiny, energy).log()
    return cepstra


@lru_cache(maxsize=1)
def _mel_filters() -> np.ndarray:
    """Triangles between whole FFT bins ``[257, 26]``, equally spaced in mel from 0 to 8000 Hz."""
    highest = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    edges_hz = 700 * (10 ** (np.linspace(0, highest, _NUM_FILTERS + 2) / 2595) - 1)
    edges = np.floor((_FFT + 1) * edges_hz / SAMPLE_RATE)
    left, middle, right = edges[:-2], edges[1:-1], edges[2:]
    bins = np.arange(_FFT // 2 + 1)[:, None]
    rising = (bins - left) / np.maximum(middle - left, 1)
    falling = (right - bins) / np.maximum(right - middle, 1)
    triangles: np.ndarray = np.where(bins < middle, rising, falling) * ((bins >= left) & (bins < right))
    return triangles


@lru_cache(maxsize=1)
def _liftered_cosines() -> np.ndarray:
    """Orthonormal DCT-II of 26 bands, its first 13 rows weighted by ``1 + 11 sin(pi n / 22)``: ``[26, 13]``."""
    n, band = np.arange(NUM_CEPSTRA), np.arange(_NUM_FILTERS)[:, None]
    cosines = np.sqrt(2 / _NUM_FILTERS) * np.cos(np.pi * n * (band + 0.5) / _NUM_FILTERS)
    cosines[:, 0] /= np.sqrt(2)
    liftered: np.ndarray = cosines * (1 + _LIFTER / 2 * np.sin(np.pi * n / _LIFTER))
    return liftered
