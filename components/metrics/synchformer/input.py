"""What Synchformer is fed: overlapping segments of 0.64 s, as pictures at 25 fps and as log mels of 16 kHz sound.

Metrics specification, section 4. Pictures are scaled as av-benchmark and JavisBench do (short side 224; Synchformer's
own code scales to 256 before it crops).

Legend for shapes: T frames, S segments, H x W pixels.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
import torchaudio.functional as AF
from torch import Tensor

from components.metrics.synchformer.audio_tower import MEL_BANDS, SEGMENT_MELS
from components.metrics.synchformer.video_tower import IMAGE_SIZE, SEGMENT_FRAMES
from components.metrics.syncnet.input import at_syncnet_fps, at_syncnet_rate

FPS = 25
SAMPLE_RATE = 16_000
SEGMENT_SAMPLES = SEGMENT_FRAMES * SAMPLE_RATE // FPS
"""10 240: the sound of 16 frames."""

_STEP_FRAMES = SEGMENT_FRAMES // 2
_STEP_SAMPLES = SEGMENT_SAMPLES // 2
_N_FFT, _WINDOW, _HOP = 1024, 400, 160
_LOG_FLOOR = 1e-6
_MEL_MEAN, _MEL_STD = -4.2677393, 4.5689974
"""Of AudioSet, as AST was trained."""


def num_segments(num_frames: int, num_samples: int) -> int:
    """Segments that both 25 fps pictures and 16 kHz sound fill."""
    of_pictures = (num_frames - SEGMENT_FRAMES) // _STEP_FRAMES + 1
    of_sound = (num_samples - SEGMENT_SAMPLES) // _STEP_SAMPLES + 1
    return max(0, min(of_pictures, of_sound))


def at_synchformer_rates(video: Tensor, fps: float, audio: Tensor, sample_rate: int) -> tuple[Tensor, Tensor]:
    """A clip ``[T, 3, H, W]`` and ``[samples]`` at 25 fps and 16 kHz, where SyncNet's clips are too; sample 0 stays."""
    return at_syncnet_fps(video[None], fps)[0], at_syncnet_rate(audio[None], sample_rate)[0]


def picture_segments(frames: Tensor, count: int) -> Tensor:
    """The first ``count`` segments of 25 fps frames ``[T, 3, 224, 224]``: ``[S, 16, 3, 224, 224]``, a view."""
    segments = frames.unfold(0, SEGMENT_FRAMES, _STEP_FRAMES)[:count]  # [S, 3, 224, 224, 16]
    return segments.movedim(-1, 1)


def network_pictures(frames: Tensor) -> Tensor:
    """``[T, 3, H, W]`` in [0, 1] to ``[T, 3, 224, 224]`` in [-1, 1]: short side 224, centre crop."""
    height, width = frames.shape[-2:]
    short = min(height, width)
    if short != IMAGE_SIZE:
        # the long side is rounded down, as torchvision's Resize does
        size = [IMAGE_SIZE * side // short for side in (height, width)]
        frames = F.interpolate(frames, size, mode="bicubic", antialias=True, align_corners=False)
        # 8-bit pictures cannot overshoot, and such were trained on
        frames = frames.clamp(0, 1)
    top, left = (round((side - IMAGE_SIZE) / 2) for side in frames.shape[-2:])
    return 2 * frames[..., top : top + IMAGE_SIZE, left : left + IMAGE_SIZE] - 1


def mel_segments(audio: Tensor, count: int) -> Tensor:
    """The first ``count`` segments of 16 kHz sound ``[samples]`` in [-1, 1] as normalised log mels ``[S, 128, 66]``."""
    segments = audio.unfold(0, SEGMENT_SAMPLES, _STEP_SAMPLES)[:count]
    window = torch.hann_window(_WINDOW, device=audio.device)
    power = torch.stft(segments, _N_FFT, _HOP, _WINDOW, window, return_complex=True).abs().square()  # [S, 513, 65]
    log_mels = torch.log(_mel_filters(audio.device) @ power + _LOG_FLOOR)
    # the 66th frame is 0 before it is normalised, not silence: so it was trained
    padded = F.pad(log_mels, (0, SEGMENT_MELS - log_mels.shape[-1]))
    return (padded - _MEL_MEAN) / (2 * _MEL_STD)


@lru_cache(maxsize=8)
def _mel_filters(device: torch.device) -> Tensor:
    """HTK mel filter bank ``[128, 513]``, not normalised."""
    bank = AF.melscale_fbanks(_N_FFT // 2 + 1, 0.0, SAMPLE_RATE / 2, MEL_BANDS, SAMPLE_RATE, norm=None, mel_scale="htk")
    result: Tensor = bank.T.contiguous().to(device)
    return result
