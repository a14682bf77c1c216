"""ImageBind's picture of a sound: two seconds as 128 log-mel bins by 204 frames (metrics specification, section 7).

ASVA's classifier hears the same picture, so it needs no weights of ImageBind's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.compliance import kaldi
from torchaudio.functional import resample

SAMPLE_RATE = 16_000
CLIP_S = 2.0
NUM_BINS = 128
NUM_FRAMES = 204
MIN_SAMPLES = 400
"""One window of 25 ms: less sound has no spectrum."""

_MEAN, _STD = -4.268, 9.138
"""Of AudioSet's log-mels; the public front end divides by the whole deviation, where AST's divides by twice it."""


def imagebind_mel(waveform: Tensor) -> Tensor:
    """Normalised log-mels ``[N, 128, 204]`` of sounds ``[N, S]`` in [-1, 1] at 16 kHz.

    Of more than two seconds the middle ones are heard. Frames beyond the end of the sound are zeros of the logarithm,
    not silence, as the public models have seen them.
    """
    wanted = round(CLIP_S * SAMPLE_RATE)
    first = max(0, (waveform.shape[1] - wanted) // 2)
    pictures = [_log_mel(sound) for sound in waveform[:, first : first + wanted].float()]
    return (torch.stack(pictures) - _MEAN) / _STD


def _log_mel(sound: Tensor) -> Tensor:
    """``[S]`` to ``[128, 204]``."""
    frames = kaldi.fbank(
        (sound - sound.mean())[None],
        sample_frequency=SAMPLE_RATE,
        window_type="hanning",
        num_mel_bins=NUM_BINS,
        frame_length=25,
        frame_shift=10,
        htk_compat=True,
        use_energy=False,
        dither=0.0,
    )
    # a negative pad cuts
    return F.pad(frames.T, (0, NUM_FRAMES - len(frames)))


def at_imagebind_rate(audio: Tensor, sample_rate: int) -> Tensor:
    """``[..., S]`` at ``sample_rate`` to 16 kHz; sample 0 stays where it is."""
    return audio if sample_rate == SAMPLE_RATE else resample(audio, sample_rate, SAMPLE_RATE)
