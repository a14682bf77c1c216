"""From SyncNet embeddings to offset, confidence (Sync-C) and distance (Sync-D).

Metrics specification, section 3:

    d[i, s] = ||video[i] - audio[i + s - V] + 1e-6||    audio is zero outside its windows
    m[s]    = mean over i of d[i, s],                   s = 0 .. 2 V
    Sync-D  = min m,   Sync-C = median m - min m,   offset = V - argmin m

Legend for shapes: N windows (25 per second), D embedding width, V the largest shift searched.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from components.errors import InputError

MAX_SHIFT = 15
_EPSILON = 1e-6  # inside the norm, as PyTorch's pairwise_distance has it


@dataclass(frozen=True)
class SyncOffset:
    """How picture and sound of one clip lie to each other.

    Attributes:
        offset: frames at 25 fps; positive where the sound comes first.
        confidence: Sync-C, how much closer they are at that offset than at the median one.
        min_distance: Sync-D, the mean distance at that offset.
        mean_distances: ``[2 V + 1]`` mean distance at every shift.
        distances: ``[N, 2 V + 1]`` distance of every window at every shift.
    """

    offset: int
    confidence: float
    min_distance: float
    mean_distances: Tensor
    distances: Tensor

    def framewise_confidence(self, window: int = 9) -> Tensor:
        """``[N]`` confidence of each window at the clip's offset, median-filtered over ``window`` (zeros outside)."""
        half = len(self.mean_distances) // 2
        rises = self.mean_distances.median() - self.distances[:, half - self.offset]
        return median_filter(rises, window)


def sync_offset(video: Tensor, audio: Tensor, max_shift: int = MAX_SHIFT) -> SyncOffset:
    """Searches the shift at which the embeddings of both tracks are closest.

    Args:
        video: ``[N, D]`` embeddings of the windows that begin at frame 0, 1, 2 ...
        audio: ``[N', D]`` embeddings of the sound during the same windows; the longer track is cut.
        max_shift: V, frames searched either way.

    Raises:
        InputError: if a track has no window.
    """
    distances = shifted_distances(video, audio, max_shift)
    mean = distances.mean(dim=0)
    least, index = mean.min(dim=0)
    return SyncOffset(
        offset=max_shift - int(index),
        confidence=(mean.median() - least).item(),
        min_distance=least.item(),
        mean_distances=mean,
        distances=distances,
    )


def shifted_distances(video: Tensor, audio: Tensor, max_shift: int) -> Tensor:
    """Distances ``[N, 2 V + 1]`` of every video window to the sound of the windows V before to V after it.

    Raises:
        InputError: if a track has no window.
    """
    num_windows = min(len(video), len(audio))
    if not num_windows:
        raise InputError(f"{len(video)} windows of video and {len(audio)} of audio have no offset; use longer clips")
    # zeros beyond the ends, as the public pipeline pads: short clips are judged by them too
    padded = F.pad(audio[:num_windows], (0, 0, max_shift, max_shift))
    shifted = padded.unfold(0, 2 * max_shift + 1, 1)  # [N, D, 2 V + 1], a view
    result: Tensor = torch.linalg.vector_norm(video[:num_windows, :, None] - shifted + _EPSILON, dim=1)
    return result


def median_filter(values: Tensor, window: int) -> Tensor:
    """``[N]`` medians over ``window`` values (odd) centred on each, with zeros outside."""
    return F.pad(values, (window // 2, window // 2)).unfold(0, window, 1).median(dim=-1).values
