"""What SyncNet is fed: 25 pictures a second in the public weights' format, and 16 kHz sound.

Metrics specification, section 3. The public pipeline lets ffmpeg convert every file to 25 fps and 16 kHz; clips are
tensors here and are brought there by time, so that picture and sound keep their common clock.

Legend for shapes: B clips, T frames, H x W pixels, S samples.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.functional import resample

from components.errors import InputError
from components.metrics.syncnet.mfcc import SAMPLE_RATE
from components.metrics.syncnet.model import FPS


def at_syncnet_fps(video: Tensor, fps: float) -> Tensor:
    """``[B, T, 3, H, W]`` at ``fps`` to what is on screen half way through each frame of 25 fps.

    A clip of 24 fps repeats about one frame a second; nothing is blended, and no frame moves by more than half a frame.

    Raises:
        InputError: if there is no frame or ``fps`` is not positive.
    """
    if video.ndim != 5 or video.shape[2] != 3 or not video.shape[1]:
        raise InputError(f"video is {list(video.shape)}; [clips, frames, 3, height, width] with frames is needed")
    if not fps > 0:
        raise InputError(f"fps is {fps}; it must be positive")
    return video if fps == FPS else video[:, shown_frames(video.shape[1], fps).to(video.device)]


def shown_frames(num_frames: int, fps: float) -> Tensor:
    """Which of ``num_frames`` at ``fps`` is on screen half way through each frame of 25 fps: int64 ``[T]``."""
    wanted = max(1, round(num_frames / fps * FPS))
    # float64 seconds, middle of each output frame: at a border a rounding error would show the wrong frame
    middle_s = (torch.arange(wanted, dtype=torch.float64) + 0.5) / FPS
    return (middle_s * fps).floor().long().clamp(max=num_frames - 1)


def at_syncnet_rate(audio: Tensor, sample_rate: int) -> Tensor:
    """``[B, S]`` at ``sample_rate`` to 16 kHz; sample 0 stays where it is."""
    return audio if sample_rate == SAMPLE_RATE else resample(audio, sample_rate, SAMPLE_RATE)


def resized(frames: Tensor, size: int) -> Tensor:
    """``[T, 3, H, W]`` to ``[T, 3, size, size]``: bilinear without low-pass, as the public weights were trained."""
    if frames.shape[-2:] == (size, size):
        return frames
    return F.interpolate(frames, (size, size), mode="bilinear", align_corners=False)


def network_pictures(frames: Tensor, size: int) -> Tensor:
    """``[T, 3, H, W]`` RGB in [0, 1] to ``[3, T, size, size]`` BGR in 0..255: the lip tower's input."""
    # red, green, blue to blue, green, red; time before the sides, as the tower's convolutions want it
    return 255 * resized(frames.float(), size).flip(1).transpose(0, 1)
