"""Turns generated clips into pictures a person can watch: large enough, labelled, side by side.

Legend for shapes: T frames, H x W pixels.
"""

from __future__ import annotations

import hashlib
import math
import re
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import adaptive_max_pool1d, pad

from callbacks.report.plots import Waveform
from components.weights.whole_file import whole_file

_GAP = 4
_TEXT = (235, 235, 235)
_BACKGROUND = 24
_MAX_STEM_BYTES = 120


def file_stem(clip_id: str) -> str:
    """A file name for a clip: its id where that is one already, else made so and kept unique by a checksum.

    It leaves room for what is put behind it: a file system takes names of 255 bytes.
    """
    stem = re.sub(r"[^\w.-]+", "_", clip_id).strip(".")
    if len(stem.encode()) > _MAX_STEM_BYTES:
        # whole characters; sets of long names have many, so the checksum is longer as well
        kept = stem.encode()[:_MAX_STEM_BYTES].decode(errors="ignore")
        return f"{kept}-{hashlib.sha256(clip_id.encode()).hexdigest()[:16]}"
    # two ids that differ in a character no file may have must not share a file
    return stem if stem == clip_id else f"{stem}-{zlib.crc32(clip_id.encode()):08x}"


def to_uint8(video: Tensor) -> Tensor:
    """Float video in [0, 1] (or uint8) ``[T, 3, H, W]`` to uint8 on the CPU."""
    if video.dtype != torch.uint8:
        video = video.float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return video.cpu()


def watchable(video: Tensor, min_side: int) -> Tensor:
    """Repeats pixels until the shorter side has ``min_side``, and makes both sides even, as H.264 needs them.

    Args:
        video: uint8 ``[T, 3, H, W]``.
        min_side: least height and width; larger videos keep their size.
    """
    frames, channels, height, width = video.shape
    factor = max(1, math.ceil(min_side / min(height, width)))
    repeated = video[:, :, :, None, :, None].expand(-1, -1, -1, factor, -1, factor)
    height, width = height * factor, width * factor
    video = repeated.reshape(frames, channels, height, width)
    # an odd side gets its last row or column once more
    return pad(video, (0, width % 2, 0, height % 2), mode="replicate") if height % 2 or width % 2 else video


def side_by_side(videos: Mapping[str, Tensor]) -> Tensor:
    """One video of several, each under its name.

    Args:
        videos: label -> uint8 ``[T, 3, H, W]``; shorter ones stay on their last frame, smaller ones are centred.

    Returns:
        uint8 ``[T, 3, H', W']`` with even sides.
    """
    length = max(len(video) for video in videos.values())
    height = max(video.shape[-2] for video in videos.values())
    panels = []
    for label, video in videos.items():
        width = video.shape[-1]
        strip = _label(label, width).expand(length, -1, -1, -1)
        held = video[torch.arange(length).clamp(max=len(video) - 1)]
        above = (height - video.shape[-2]) // 2
        held = pad(held, (0, 0, above, height - video.shape[-2] - above), value=_BACKGROUND)
        panels += [torch.cat((strip, held), dim=-2), held.new_full((length, 3, strip.shape[-2] + height, _GAP), 0)]
    joined = torch.cat(panels[:-1], dim=-1)
    return pad(joined, (0, joined.shape[-1] % 2, 0, joined.shape[-2] % 2))


def waveform(audio: Tensor, sample_rate: int, duration_s: float, pieces: int = 200) -> Waveform:
    """The first ``duration_s`` seconds of mono sound ``[S]`` as the peaks of equally long pieces."""
    samples = audio[: round(duration_s * sample_rate)].abs()
    peaks = adaptive_max_pool1d(samples[None], min(pieces, len(samples)))[0] if len(samples) else samples
    return Waveform([round(peak, 3) for peak in peaks.tolist()], len(samples) / sample_rate)


def write_picture(path: Path, frame: Tensor) -> None:
    """Writes uint8 ``[3, H, W]`` as JPEG; the file appears whole or not at all."""
    with whole_file(path) as stream:
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=85)


@lru_cache(maxsize=64)
def _label(text: str, width: int) -> Tensor:
    """A strip with centred text: uint8 ``[3, H, width]``."""
    size = max(10, min(20, width // 11))
    strip = Image.new("RGB", (width, 2 * size), (_BACKGROUND,) * 3)
    font = ImageFont.load_default(size)
    ImageDraw.Draw(strip).text((width / 2, size), text, fill=_TEXT, font=font, anchor="mm")
    return torch.from_numpy(np.array(strip)).permute(2, 0, 1)
