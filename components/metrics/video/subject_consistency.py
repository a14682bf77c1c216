"""Whether what a clip shows stays itself from frame to frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from components.metrics.scorers import ClipScores
from components.metrics.video.embedder import ImageEmbedder, embedded
from components.metrics.video.frames import resized
from components.metrics.video.judge import VideoScorer, at_least_one
from components.weights.digests import Sha256
from components.weights.identity import identity_of, inherit_identity
from components.weights.named_files import names_files, of_no_consequence

SHORT_SIDE = 224
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@of_no_consequence("frames_at_once")
@names_files(checkpoint=None)
class SubjectConsistency(VideoScorer):
    """VBench's subject consistency, 0 to 1; higher is better.

    Mean over frames 1, 2 ... of the mean of two cosines of DINO's class token, to the first frame and to the one
    before, each at least 0. Frames are brought to a short side of 224 without cropping. A still picture scores 1, so
    read it beside the dynamic degree. Positions are stretched to other sizes by transformers, which differs from the
    original code in the third decimal of a token at most.

    Args:
        checkpoint: folder or hub repository of DINO ViT-B/16 (VBench's), or of another vision transformer.
        frames_at_once: frames embedded together; bounds the memory.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if an argument is out of range, or the checkpoint is absent, damaged or another model.
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {"subject_consistency": True}

    mean: Tensor
    std: Tensor

    def __init__(
        self, checkpoint: str = "hf://facebook/dino-vitb16", frames_at_once: int = 16, sha256: Sha256 = None
    ) -> None:
        super().__init__()
        at_least_one(self, frames_at_once=frames_at_once)
        self.frames_at_once = frames_at_once
        self.net = ImageEmbedder(checkpoint, sha256=sha256)
        inherit_identity(self, self.net)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        self.eval()

    def judge(self, frames: Tensor, fps: float) -> ClipScores:
        """Scores one clip of at least two frames."""
        if len(frames) < 2:
            return ClipScores(problem="too_short")
        height, width = frames.shape[-2:]
        short = min(height, width)
        size = int(SHORT_SIDE * height / short), int(SHORT_SIDE * width / short)
        # VBench resizes 8-bit pictures, which rounds once more
        small = (255 * resized(frames, *size, "bilinear", antialias=False)).round() / 255
        found = embedded(self.net, (small - self.mean) / self.std, self.frames_at_once)
        to_first = (found[1:] @ found[0]).clamp(min=0)
        to_previous = (found[1:] * found[:-1]).sum(dim=1).clamp(min=0)
        return ClipScores({"subject_consistency": ((to_first + to_previous) / 2).mean().item()})

    def identity(self) -> dict[str, object]:
        """The model."""
        return {"sha256": identity_of(self).sha256}
