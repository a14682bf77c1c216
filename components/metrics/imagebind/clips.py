"""Which pictures and sounds stand for a whole clip where one vector is wanted (metrics specification, section 7).

Legend for shapes: T frames, S samples, H x W pixels, K pairs of frames.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from components.metrics.imagebind.mel import CLIP_S, SAMPLE_RATE
from components.metrics.imagebind.pictures import three_crops

VideoSampling = Literal["imagebind", "av_benchmark"]

NUM_SOUNDS = 3
NUM_VIDEO_CLIPS = 5
AV_BENCHMARK_FPS = 0.5
AV_BENCHMARK_MIN_S = 4.0
"""Two frames of 0.5 fps: below that there is no pair."""


def loader_starts(duration_s: float, num_clips: int) -> list[float]:
    """Where the 2 s clips begin that ImageBind's loaders take, in seconds: the last one ends with the recording.

    So does the sampler of the pytorchvideo commit that ImageBind asks for (28fe037); that of the release 0.1.5 divides
    by the number of clips, and its last clip ends before the end.
    """
    return [max(0.0, duration_s - CLIP_S) * index / max(num_clips - 1, 1) for index in range(num_clips)]


def loader_sounds(sound: Tensor) -> list[Tensor]:
    """The clips of a sound ``[S]`` at 16 kHz whose mean vector stands for it; one where it is no longer than 2 s."""
    starts = loader_starts(len(sound) / SAMPLE_RATE, NUM_SOUNDS)
    # three times the same would have the same mean
    return [sound[int(start * SAMPLE_RATE) : int((start + CLIP_S) * SAMPLE_RATE)] for start in dict.fromkeys(starts)]


def video_pairs(video: Tensor, fps: float, size: int, sampling: VideoSampling) -> Tensor:
    """The pairs of pictures ``[K, 2, 3, size, size]`` whose mean vector stands for a video ``[T, 3, H, W]`` in [0, 1].

    Args:
        video: the clip.
        fps: its frames per second.
        size: rows and columns of the result.
        sampling: ``imagebind``: the first and the last frame of five clips of 2 s, as ImageBind's own loader and
            JavisBench have it; ``av_benchmark``: neighbouring frames of 0.5 fps. Three crops of each.
    """
    if sampling == "imagebind":
        pairs = _ends_of_clips(len(video), fps)
    else:
        frames = _frames_at_half_fps(len(video), fps)
        pairs = list(pairwise(frames))
    index = torch.tensor(pairs, device=video.device)
    # [crops, K * 2, ...]: every picture is cropped like its partner
    crops = three_crops(video[index.flatten()], size, smooth=sampling == "av_benchmark")
    result: Tensor = crops.unflatten(1, index.shape).flatten(0, 1)
    return result


def _ends_of_clips(num_frames: int, fps: float) -> list[tuple[int, int]]:
    pairs = []
    for start in loader_starts(num_frames / fps, NUM_VIDEO_CLIPS):
        first = min(math.ceil(start * fps - 1e-6), num_frames - 1)
        last = min(math.ceil((start + CLIP_S) * fps - 1e-6), num_frames) - 1
        pairs.append((first, max(first, last)))
    return list(dict.fromkeys(pairs)) if num_frames / fps <= CLIP_S else pairs


def _frames_at_half_fps(num_frames: int, fps: float) -> list[int]:
    """Frames that ffmpeg's ``fps`` filter keeps: the last one before the middle of every two seconds."""
    count = int(num_frames / fps * AV_BENCHMARK_FPS + 1e-6)
    middles = [(2 * number + 1) / (2 * AV_BENCHMARK_FPS) for number in range(count)]
    return [max(0, min(math.ceil(middle * fps - 1e-6), num_frames) - 1) for middle in middles]
