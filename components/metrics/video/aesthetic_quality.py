"""AQ: how pleasing frames are to a predictor of people's ratings."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.encoders.transformers_model import load_audio_model
from components.metrics.scorers import ClipScores
from components.metrics.video.frames import frames_at
from components.metrics.video.front_end import FrontEnd
from components.metrics.video.judge import VideoScorer, at_least_one, needs_torchvision, positive_or_none
from components.metrics.video.weight_file import needed_file
from components.weights.digests import Sha256
from components.weights.identity import identity_of
from components.weights.named_files import names_files, of_no_consequence
from components.weights.pretrained import load_safetensors

HEAD = "https://github.com/discus0434/aesthetic-predictor-v2-5/raw/main/models/aesthetic_predictor_v2_5.pth"
RATINGS = 10
"""Ratings go from 1 to 10; tables show a tenth of them."""


class ScoringHead(nn.Module):
    """Five linear layers without nonlinearities, as aesthetic-predictor-v2-5 publishes them.

    Args:
        width: of the embedding.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (width, 1024, 128, 64, 16, 1)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            # the dropouts between them only take a number in the names of the public file
            layers += [nn.Linear(before, after), nn.Dropout(0.0)]
        self.scoring_head = nn.Sequential(*layers[:-1])

    def forward(self, embeddings: Tensor) -> Tensor:
        """``[N, width]`` to ratings ``[N]``."""
        ratings: Tensor = self.scoring_head(embeddings)
        return ratings[:, 0]


@of_no_consequence("frames_at_once")
@names_files("head", checkpoint=None)
class AestheticPredictorV25(VideoScorer):
    """Mean rating of a clip's frames by aesthetic-predictor-v2-5, a tenth of it: about 0.1 to 1; higher is better.

    Harmony's and Verse-Bench's AQ: SigLIP's pooled embedding at unit length and a small head. It is not the LAION
    predictor of the same name in older tables. Metrics specification, sections 10 and 16.

    Args:
        head: the head's file, ``aesthetic_predictor_v2_5.pth`` (see `HEAD`; AGPL-3.0).
        checkpoint: folder or hub repository of SigLIP so400m-patch14-384, with its front end.
        rate_hz: frames per second that are rated; None rates every frame, as Verse-Bench does.
        frames_at_once: frames embedded together; bounds the memory.
        head_sha256: digest that ``head`` must have.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if an argument is out of range, or a file is absent, damaged or another model's.
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {"aesthetic_quality": True}

    def __init__(
        self,
        head: str,
        checkpoint: str = "hf://google/siglip-so400m-patch14-384",
        rate_hz: float | None = None,
        frames_at_once: int = 8,
        head_sha256: str | None = None,
        sha256: Sha256 = None,
    ) -> None:
        super().__init__()
        needs_torchvision("AestheticPredictorV25")
        at_least_one(self, frames_at_once=frames_at_once)
        positive_or_none(self, rate_hz=rate_hz)
        file = needed_file(head, head_sha256, "AestheticPredictorV25.head", f"download {HEAD}")
        self.rate_hz, self.frames_at_once = rate_hz, frames_at_once
        self.net = load_audio_model("SiglipVisionModel", checkpoint, "float32", {}, sha256=sha256)
        self.head = ScoringHead(self.net.config.hidden_size).requires_grad_(False)
        load_safetensors(self.head, file, head)
        self.front_end = FrontEnd(checkpoint)
        self.eval()

    def judge(self, frames: Tensor, fps: float) -> ClipScores:
        """Scores one clip."""
        seen = frames[frames_at(len(frames), fps, self.rate_hz)]
        ratings = torch.cat([self._rate(part) for part in seen.split(self.frames_at_once)])
        return ClipScores({"aesthetic_quality": ratings.mean().item() / RATINGS})

    def _rate(self, frames: Tensor) -> Tensor:
        pooled = self.net(self.front_end(frames)).pooler_output
        ratings: Tensor = self.head(F.normalize(pooled, dim=-1))
        return ratings

    def identity(self) -> dict[str, object]:
        """Models and the frames that are rated."""
        return {
            "rate_hz": self.rate_hz,
            "sha256": identity_of(self.net).sha256,
            "head_sha256": identity_of(self.head).sha256,
        }
