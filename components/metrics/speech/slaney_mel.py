"""Mel filters on Slaney's scale with Slaney's norm, as librosa has them, for any length of transform.

torchaudio's take the last bin of a transform for half the sample rate, which it is not where the length is odd.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LINEAR_BELOW_HZ = 1000.0
_HZ_PER_MEL = 200 / 3
_STEP = math.log(6.4) / 27
"""Above 1 kHz a mel is this much in the logarithm of the frequency."""


def slaney_mel_filters(sample_rate: int, n_fft: int, num_mels: int) -> Tensor:
    """Filters from 0 Hz to half the sample rate, each of unit area: float32 ``[n_fft // 2 + 1, num_mels]``."""
    bins_hz = torch.arange(n_fft // 2 + 1, dtype=torch.float64, device="cpu") * sample_rate / n_fft
    knee = _LINEAR_BELOW_HZ / _HZ_PER_MEL
    top_hz = sample_rate / 2
    top = knee + math.log(top_hz / _LINEAR_BELOW_HZ) / _STEP if top_hz > _LINEAR_BELOW_HZ else top_hz / _HZ_PER_MEL
    mels = torch.linspace(0, top, num_mels + 2, dtype=torch.float64, device="cpu")
    edges_hz = torch.where(mels < knee, mels * _HZ_PER_MEL, _LINEAR_BELOW_HZ * ((mels - knee) * _STEP).exp())
    low, middle, high = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    rising = (bins_hz[:, None] - low) / (middle - low)
    falling = (high - bins_hz[:, None]) / (high - middle)
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (high - low)).float()
