"""IQ: how free frames are of blur, noise and wrong exposure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from components.metrics.scorers import ClipScores
from components.metrics.video.frames import frames_at, resized
from components.metrics.video.judge import VideoScorer, positive_or_none
from components.metrics.video.musiq import Musiq, MusiqShape
from components.metrics.video.weight_file import needed_file
from components.weights.digests import Sha256
from components.weights.identity import identity_of
from components.weights.named_files import names_files, published
from components.weights.pretrained import load_safetensors

RELEASE = "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/"
BEST_RATING = 100
"""Ratings of SPAQ and KonIQ go from 0 to 100; tables show a hundredth."""


@published(f"download musiq_spaq_ckpt-358bb6af.pth of {RELEASE}")
@names_files("weights")
class ImagingQuality(VideoScorer):
    """VBench's imaging quality: mean MUSIQ rating of a clip's frames, a hundredth of it; 0 to 1, higher is better.

    Args:
        weights: ``musiq_spaq_ckpt-358bb6af.pth`` (VBench's) or ``musiq_koniq_ckpt-e95806b9.pth`` of `RELEASE`
            (converted from Google's, under pyiqa's non-commercial terms); scores of the two do not compare.
        longest_side: larger pictures are first shrunk to it (bilinear, without low-pass): 512 in VBench. None leaves
            them as they are, as Verse-Bench does.
        rate_hz: frames per second that are rated; None rates every frame, as VBench does.
        shape: of the network; None is the published one.
        sha256: digest that ``weights`` must have.

    Raises:
        InputError: if the file is missing, damaged or another network's, or a number is out of range.
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {"imaging_quality": True}

    def __init__(
        self,
        weights: str,
        longest_side: int | None = 512,
        rate_hz: float | None = None,
        shape: MusiqShape | None = None,
        sha256: Sha256 = None,
    ) -> None:
        super().__init__()
        positive_or_none(self, longest_side=longest_side, rate_hz=rate_hz)
        file = needed_file(
            weights, sha256, "ImagingQuality.weights", f"download musiq_spaq_ckpt-358bb6af.pth of {RELEASE}"
        )
        self.longest_side, self.rate_hz = longest_side, rate_hz
        self.net = Musiq(shape).requires_grad_(False)
        load_safetensors(self.net, file, weights)
        self.eval()

    def judge(self, frames: Tensor, fps: float) -> ClipScores:
        """Scores one clip."""
        seen = self._shrunk(frames[frames_at(len(frames), fps, self.rate_hz)])
        ratings = torch.stack([self.net(picture) for picture in seen])
        return ClipScores({"imaging_quality": ratings.mean().item() / BEST_RATING})

    def _shrunk(self, frames: Tensor) -> Tensor:
        height, width = frames.shape[-2:]
        if self.longest_side is None or max(height, width) <= self.longest_side:
            return frames
        scale = self.longest_side / max(height, width)
        size = max(1, int(scale * height)), max(1, int(scale * width))
        # VBench resizes 8-bit pictures, which rounds once more
        return (255 * resized(frames, *size, "bilinear", antialias=False)).round() / 255

    def identity(self) -> dict[str, object]:
        """Weights, and what is rated."""
        return {
            "longest_side": self.longest_side,
            "rate_hz": self.rate_hz,
            "sha256": identity_of(self.net).sha256,
        }
