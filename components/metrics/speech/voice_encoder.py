"""Resemblyzer's voice encoder: whose voice it is, as a vector of length 1.

Wan et al., Generalized End-to-End Loss (arXiv 1710.10467); weights ``pretrained.pt`` in the package Resemblyzer
(Apache-2.0), whose state-dict keys these are.

Legend for shapes: S samples, T frames at 100 Hz, N windows, D width of the embedding.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.metrics.sound.clip_sound import level_dbfs
from components.metrics.speech.slaney_mel import slaney_mel_filters

SAMPLE_RATE = 16000
FFT = 400
HOP = 160
NUM_MELS = 40
WINDOW_FRAMES = 160
STEP_FRAMES = 77
"""Windows of 1.6 s begin 1.3 times a second."""
MIN_COVERAGE = 0.75
"""The last window counts if at least so much of it is sound."""
LEVEL_DBFS = -30.0
"""Quieter sounds are made as loud as this."""


class VoiceEncoder(nn.Module):
    """Three layers of LSTM over mel power, and a linear layer.

    Args:
        hidden: width of the LSTM.
        dim: width of the embedding.
        num_layers: layers of the LSTM.
    """

    filters: Tensor
    hann: Tensor

    def __init__(self, hidden: int = 256, dim: int = 256, num_layers: int = 3) -> None:
        super().__init__()
        self.lstm = nn.LSTM(NUM_MELS, hidden, num_layers, batch_first=True)
        self.linear = nn.Linear(hidden, dim)
        self.register_buffer("filters", slaney_mel_filters(SAMPLE_RATE, FFT, NUM_MELS), persistent=False)
        self.register_buffer("hann", torch.hann_window(FFT), persistent=False)

    def forward(self, sound: Tensor) -> Tensor:
        """A sound ``[S]`` at 16 kHz that is not silent to its embedding ``[D]``."""
        gain_db = max(0.0, LEVEL_DBFS - level_dbfs(sound))
        embeddings = self.windows(self.mel_windows(sound * 10 ** (gain_db / 20)))
        return F.normalize(embeddings.mean(0), dim=0)

    def windows(self, mels: Tensor) -> Tensor:
        """Mel power ``[N, 160, 40]`` to embeddings ``[N, D]``."""
        _, (hidden, _) = self.lstm(mels)
        return F.normalize(F.relu(self.linear(hidden[-1])), dim=1)

    def mel_windows(self, sound: Tensor) -> Tensor:
        """``[S]`` to mel power ``[N, 160, 40]`` of windows that overlap by half."""
        starts = window_starts(len(sound))
        padded = F.pad(sound, (0, max(0, (starts[-1] + WINDOW_FRAMES) * HOP - len(sound))))
        spectrum = torch.stft(padded, FFT, HOP, window=self.hann, pad_mode="constant", return_complex=True)
        mel = spectrum.abs().square().T @ self.filters  # [T, 40]
        return torch.stack([mel[start : start + WINDOW_FRAMES] for start in starts])


def window_starts(num_samples: int) -> list[int]:
    """First frames of the windows over a sound, the last of which may reach beyond its end; always at least one."""
    num_frames = math.ceil((num_samples + 1) / HOP)
    starts = list(range(0, max(1, num_frames - WINDOW_FRAMES + STEP_FRAMES + 1), STEP_FRAMES))
    covered = (num_samples / HOP - starts[-1]) / WINDOW_FRAMES
    return starts[:-1] if covered < MIN_COVERAGE and len(starts) > 1 else starts
